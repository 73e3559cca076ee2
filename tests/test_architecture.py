"""The architecture as a test: floors, doors, sizes, names, exports; read from the source, nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("eventflow", "replay")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

FLOORS = {
    "errors": 0, "plain": 0, "change": 0, "event": 0, "clock": 0, "retry": 0, "costs": 0, "span": 0, "markup": 0, "shapes": 0, "quota": 0, "durable": 0, "swift": 0,
    "state": 1, "checkpoint": 1,
    "codec": 2, "proof": 2, "cipher": 2, "redaction": 2, "budget": 2, "workflow": 2,
    "log": 3,
    "recovery": 4, "address": 4, "verification": 4, "forking": 4, "progress": 4, "subscription": 4, "sealing": 4, "shredding": 4, "retention": 4, "growth": 4, "what_if": 4, "replica": 4,
    "exchange": 4, "ingest": 4, "backup": 4, "untrusted": 4, "repair": 4,
    "run": 5,
    "engine": 6,
    "agents": 7, "schedules": 7, "telemetry": 7, "testing": 7,
    "cli": 8, "face": 8, "__main__": 8, "__init__": 8,
}  # fmt: skip
REPLAY_FLOORS = {
    "behind": 0, "history": 0, "outline": 0, "path": 0, "patch": 0, "expression": 0, "skim": 0, "notebook": 0,
    "diff": 1, "query": 1, "search": 1, "fork": 1, "family": 1, "proving": 1, "export": 1,
    "report": 2,
    "rehearse": 2, "bisect": 3, "tui": 3, "plugin": 3,
    "cli": 4, "__main__": 4, "__init__": 4,
}  # fmt: skip
DOORS = {
    "transitions": "eventflow/workflow",
    "cbor2": "eventflow/codec",
    "lmdb": "eventflow/log/lmdb",
    "openai": "eventflow/agents",
    "structlog": "eventflow/telemetry",
    "opentelemetry": "eventflow/telemetry",
    "prometheus_client": "eventflow/telemetry",
    "cyclopts": "eventflow/cli",
    "psycopg": "eventflow/log/postgres",
    "cryptography": "eventflow/cipher",
    "keyring": "eventflow/cipher",
    "zstandard": "eventflow/codec",
    "cronsim": "eventflow/schedules",
    "textual": "replay/tui",
}
REPLAY_MAY_NOT = {"workflow", "run", "engine", "agents"}
REHEARSAL = ("replay/rehearse/", "replay/cli/rehearsing.py")  # re-decides on purpose; the one place in replay that does
FORBIDDEN = {"manager", "helper", "helpers", "util", "utils", "handler", "service", "base", "common", "misc", "context"}
MAX_FILE, MAX_FUNCTION = 500, 60
READS_TIME = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "monotonic"),
    ("time", "perf_counter"),
    ("datetime", "now"),
}


def tree_of(path: Path) -> ast.Module:
    """A source file's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports: at the top, lazily, or for typing only."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> tuple[str, str]:
    """The package and the floor's name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0], parts[1]


def floor_of(module: str) -> int | None:
    """The floor of an imported module of eventflow, None for others and for the root."""
    parts = module.split(".")
    if parts[0] != "eventflow" or len(parts) < 2:
        return None
    return FLOORS.get(parts[1])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lower_floors_never_import_higher_ones(path):
    """Each file imports its own floor and those below, lazy and typing-only imports included."""
    package, name = place(path)
    if package == "replay":
        own = REPLAY_FLOORS[name]
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "replay" and len(parts) > 1 and parts[1] in REPLAY_FLOORS:
                assert REPLAY_FLOORS[parts[1]] <= own, f"{path} imports {module}"
        return
    own = FLOORS[name]
    for module in imports(path):
        floor = floor_of(module)
        assert floor is None or floor <= own, f"floor {own} imports {module}, which is floor {floor}"


def test_replay_never_imports_what_decides():
    """Replay reads: workflow (but in a rehearsal), run, engine and agents are out of its reach, and all above but the shell."""
    for path in (ROOT / "replay").rglob("*.py"):
        rehearses = path.relative_to(ROOT).as_posix().startswith(REHEARSAL)
        may_not = REPLAY_MAY_NOT - ({"workflow"} if rehearses else set())
        shell = ("eventflow.cli.shell", "eventflow.cli.flows") if rehearses else ("eventflow.cli.shell",)
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "eventflow" and len(parts) > 1 and parts[1] in FLOORS:
                assert parts[1] not in may_not, f"{path} imports {module}"
                assert FLOORS[parts[1]] <= 4 or module.startswith(shell) or module == "eventflow.cli"


def test_every_library_has_one_door():
    """Each library is imported by one file or one folder."""
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        for module in imports(path):
            door = DOORS.get(module.split(".")[0])
            assert door is None or where.startswith((f"{door}/", f"{door}.py")), f"{where} imports {module}"


def test_there_are_no_import_cycles_between_files():
    """No file can be reached from itself by imports, lazy and typing-only ones included."""
    known = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}
    graph = {
        name: {module for module in imports(path) if module in known and module != name} for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for module in graph[name]:
                visit(module, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_the_clock_reads_time():
    """No other file asks what time it is."""
    for path in SOURCES:
        if path.name == "clock.py":
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in READS_TIME, f"{path}:{node.lineno} reads time"


def test_only_the_top_floor_prints():
    """Below the top floor code raises or returns."""
    for path in SOURCES:
        package, name = place(path)
        if (FLOORS if package == "eventflow" else REPLAY_FLOORS)[name] >= (8 if package == "eventflow" else 4):
            continue
        for node in ast.walk(tree_of(path)):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            assert called != "print", f"{path}:{getattr(node, 'lineno', 0)} prints"


def test_files_and_functions_keep_their_size():
    """A file has at most 500 lines, a function at most 60."""
    for path in SOURCES:
        lines = path.read_text().count("\n")
        assert lines <= MAX_FILE, f"{path} has {lines} lines"
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MAX_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_no_name_is_a_drawer():
    """No file, class or function is called manager, helper, util, handler, service, base, common, misc, context."""
    for path in SOURCES:
        named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        names = [path.stem, *(node.name for node in ast.walk(tree_of(path)) if isinstance(node, named))]
        for name in names:
            words = set(re.findall(r"[a-z0-9]+", re.sub(r"([A-Z])", r"_\1", name).lower()))
            assert not words & FORBIDDEN or name == "base_url", f"{path}: {name}"  # the OpenAI client's own word


def test_dangerous_doors_do_not_exist():
    """No pickle, no eval, no exec, no import by name but that of a workflow named on the command line."""
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        for module in imports(path):
            assert module.split(".")[0] not in {"pickle", "marshal", "shelve", "yaml", "dill"}, (
                f"{where} imports {module}"
            )
            if module.split(".")[0] == "importlib" and not module.startswith("importlib.metadata"):
                assert where == "eventflow/cli/flows.py", f"{where} imports {module}"
        for node in ast.walk(tree_of(path)):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            assert called not in {"eval", "exec", "compile", "__import__"}, f"{where} calls {called}"


# What may stand in a file although it is dangerous elsewhere: (file, what) -> why.
EXCUSED = {
    ("eventflow/cli/completing.py", "shell="): "a shell's name, for which a script is printed; nothing is run",
    ("eventflow/plain.py", "__reduce__"): "frozen data goes to a process pool as the plain dict or list it is",
    ("eventflow/errors/ground.py", "__reduce__"): "an error comes back from a process pool with what it was made of",
    ("replay/rehearse/fence.py", "ctypes"): "one call, unshare(2), takes a rehearsal's network away",
}
DANGEROUS_MODULES = {"ctypes", "code", "codeop", "pty", "telnetlib", "xmlrpc", "cloudpickle", "jsonpickle", "runpy"}
DANGEROUS_CALLS = {
    "os.system",
    "os.popen",
    "tempfile.mktemp",
    "yaml.load",
    "pickle.loads",
    "marshal.loads",
    "subprocess.getoutput",
    "time.localtime",
}
SERVERS = {"HTTPServer", "ThreadingHTTPServer", "TCPServer", "ThreadingTCPServer", "create_server", "start_server"}
LOCAL = {"127.0.0.1", "::1", "localhost"}


def dangers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each thing in a source that runs, binds or leaves open what a stranger may choose."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((line, name.split(".")[0]) for name in names if name.split(".")[0] in DANGEROUS_MODULES)
        elif isinstance(node, ast.FunctionDef) and node.name in (
            "__reduce__",
            "__reduce_ex__",
            "__getstate__",
            "__setstate__",
        ):
            yield line, node.name
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in DANGEROUS_CALLS:
                yield line, called
            if any(
                one.arg == "shell" and not (isinstance(one.value, ast.Constant) and one.value.value is False)
                for one in node.keywords
            ):
                yield line, "shell="
            if called.split(".")[-1] in SERVERS and not (set(re.findall(r"[^'\"]+", ast.unparse(node))) & LOCAL):
                yield line, "a server for other machines"
        elif isinstance(node, ast.Constant) and node.value == ".".join("0000"):
            yield line, "every address"


def test_what_is_dangerous_has_a_reason():
    """No shell, no guessable file, no code from data, no server for other machines: but for what is excused, each with why."""
    found = {
        (path.relative_to(ROOT).as_posix(), what): line for path in SOURCES for line, what in dangers(tree_of(path))
    }
    assert set(found) <= set(EXCUSED), {
        f"{where}:{found[where, what]} {what}" for where, what in set(found) - set(EXCUSED)
    }
    assert set(EXCUSED) <= set(found), "an excuse that nobody needs"


def test_that_look_sees_what_it_is_for():
    """The control: each kind of danger is found in a source that has it."""
    source = (
        "import ctypes\nimport os, subprocess, tempfile\nos.system('x')\ntempfile.mktemp()\nsubprocess.run('x', shell=True)\n"
        "class A:\n    def __reduce__(self): ...\nHTTPServer(('', 80), A)\nHTTPServer(('127.0.0.1', 0), A)\nhost = '"
        + ".".join("0000")
        + "'\n"
    )
    found = sorted(what for _, what in dangers(ast.parse(source)))
    assert found == [
        "__reduce__",
        "a server for other machines",
        "ctypes",
        "every address",
        "os.system",
        "shell=",
        "tempfile.mktemp",
    ]


def test_the_environment_is_read_where_it_is_named():
    """The whole of it is copied into child processes only; nothing takes it into an event, an error or a file."""
    for path in SOURCES:
        text = path.read_text()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and node.attr == "environ":
                around = text.splitlines()[node.lineno - 1]
                named = re.search(
                    r"environ(\.get\(|\[|\.pop\(|\.update\()|environment = |env=\{|answering\(os\.environ\)|return \{\*\*os\.environ|in os\.environ",
                    around,
                )
                assert named, f"{path}:{node.lineno} takes the environment: {around.strip()}"


def test_every_file_says_what_it_is_about():
    """Each file opens with a docstring, and so does each public class and function."""
    for path in SOURCES:
        tree = tree_of(path)
        assert ast.get_docstring(tree), f"{path} has no docstring"
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


def test_private_names_stay_in_their_file():
    """No file imports a name with a leading underscore from another."""
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                for alias in node.names:
                    assert not alias.name.startswith("_") or alias.name == "__version__", f"{path} imports {alias.name}"


def bound_names(tree: ast.Module) -> set[str]:
    """Every name a file binds at its top or imports."""
    named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = {one.name for one in tree.body if isinstance(one, named)}
    for one in ast.walk(tree):
        if isinstance(one, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in one.names}
    for one in tree.body:
        targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_all_lists_are_true():
    """Each name in an `__all__` exists in its file, once."""
    for path in SOURCES:
        tree = tree_of(path)
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                assert len(names) == len(set(names)), f"{path}: a name twice"
                assert set(names) <= bound_names(tree), f"{path}: {set(names) - bound_names(tree)}"


def test_every_test_states_its_claim():
    """Each test function has a docstring of one sentence."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


def test_the_top_level_is_as_given():
    """Beside the given folders there are only README, LICENSE, CHANGELOG, .ci and dotfiles."""
    given = {
        "pyproject.toml",
        "eventflow",
        "replay",
        "tests",
        "benchmarks",
        "docs",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
    }
    passing = {"dist", "build", "site"}
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and not path.name.endswith(".eventflow"):
            assert path.name in given | passing, path.name
