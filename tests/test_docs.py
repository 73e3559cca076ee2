"""The pages as a test: what they show is run, what they name exists, what exists is named.

`python tests/test_docs.py PAGE` runs one page's blocks in the working directory, in order: a python block in a namespace
that the page's blocks share (top-level await allowed, as in a notebook), a console block's commands in bash. What they
print must be what is shown; for a python block that is the output block after it. A block with a title is written to a
file of that name. A shown line of `...` stands for any number of lines, `...` within a line for any text.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import eventflow
import eventflow.cli
import eventflow.errors
import eventflow.testing
import replay.cli
from eventflow import CheckpointPolicy, Engine, RetryPolicy, Workflow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN, KEPT = {"python", "console", "bash", "output"}, {"toml", "json", "text", "mermaid", ""}
TWO_COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/eventflow demo",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest",
)
PAGE_LIMIT = 120  # seconds a page's blocks may take; the longest takes a tenth of it


# --- pages as blocks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the file it is meant to be (or none), its text, the line it begins on."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    begun: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if begun is None:
            begun = number, line[3:].strip()
            continue
        language, _, rest = begun[1].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        text = "\n".join(lines[begun[0] : number - 1]) + "\n"
        found.append(Block(language, title[1] if title else "", text, begun[0] + 1))
        begun = None
    assert begun is None, f"{page}: the block at line {begun} does not end"
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def shown_matches(shown: str, printed: str) -> bool:
    """Whether what was printed is what a page shows; `...` stands for anything, a whole line of it for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else r".*?".join(map(re.escape, line.rstrip().split("..."))) + r"[ ]*\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else f"{printed}\n") is not None


# --- running one page: this part runs in a process of its own -------------------------------------------------------


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a console block's command and the output shown for it; `> ` continues a command."""
    command, shown = "", ""
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line[2:], ""
        elif line.startswith("> ") and not shown:
            command += "\n" + line[2:]
        else:
            shown += line + "\n"
    if command:
        yield command, shown


def run_console(block: Block, where: str) -> None:
    """Run a console block's commands and compare what they print; an error must be shown to be allowed."""
    for command, shown in commands(block.text):
        done = subprocess.run(
            ["/bin/bash", "-c", f"{command}\nexit $?"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        told = any(line.startswith(("eventflow: ", "replay: ")) or "Killed" in line for line in shown.splitlines())
        fine = done.returncode == 0 or told
        if not fine or "Traceback" in done.stdout or not shown_matches(shown, done.stdout):
            sys.exit(f"{where}: $ {command}\nexit code {done.returncode}, printed:\n{done.stdout}\nshown:\n{shown}")


def run_python(block: Block, namespace: dict[str, object], page: Path) -> str:
    """Run a python block; returns what it printed."""
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))  # noqa: S307 - our own pages
        else:
            exec(code, namespace)  # noqa: S102 - our own pages
    return printed.getvalue()


def run_page(page: Path) -> None:
    """Run all blocks of a page in the working directory; ends the process with what is wrong."""
    module = types.ModuleType("page")
    sys.modules["page"] = module
    sys.path[0] = ""  # as for a reader who works in this folder
    printed: str | None = None
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            if printed:
                sys.exit(f"{where}: the python block before prints this, which the page does not show:\n{printed}")
            printed = run_python(block, module.__dict__, page)
        elif block.language == "output":
            if printed is None or not shown_matches(block.text, printed):
                sys.exit(f"{where}: printed:\n{printed}\nshown:\n{block.text}")
            printed = None
        elif block.language == "console":
            run_console(block, where)
        elif block.language == "bash" and "-m venv" not in block.text:
            subprocess.run(["/bin/bash", "-ec", block.text], check=True)
    if printed:
        sys.exit(f"{page.name}: the last python block prints this, which the page does not show:\n{printed}")


# --- what pages show is run ----------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The environment of a reader: our commands on PATH, nothing configured."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "EVENTFLOW_"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_is_what_happens(page, tmp_path):
    """Each python and console block of a page runs, in order, and prints what is shown."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), str(page)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PAGE_LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("", "a\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\nc\n", False),
        ("a ... d\n", "a b c d\n", True),
        ("a ... d\n", "a b\nc d\n", False),
        ("1.5\n", "125\n", False),
    ],
)
def test_three_dots_stand_for_what_varies_and_nothing_else_does(shown, printed, same):
    """A shown text matches exactly what it says, and anything where it has three dots."""
    assert shown_matches(shown, printed) is same


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_block_escapes(page):
    """Each block is of a language that is run, or of one that is only shown and holds no command."""
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert block.language in RUN | KEPT, f"{where}: {block.language!r}"
        escaped = re.search(r"^(\$|>>>|from|import|async) ", block.text, re.MULTILINE)
        assert block.language in RUN or not escaped, f"{where} shows a command or code that nobody runs"
        assert block.language != "console" or block.text.startswith("$ "), f"{where} begins without a command"


def test_the_readme_begins_with_the_two_commands():
    """The commands that install and show it, and that test it, are given as they are promised."""
    lines = [
        line for block in blocks(ROOT / "README.md") if block.language == "bash" for line in block.text.split("\n")
    ]
    assert [line for line in lines if "-m venv" in line] == list(TWO_COMMANDS)


@pytest.mark.slow
@pytest.mark.skipif(
    "EVENTFLOW_FULL" not in os.environ, reason="takes minutes and the network; EVENTFLOW_FULL=1 runs it"
)
@pytest.mark.parametrize("command", TWO_COMMANDS, ids=["demo", "tests"])
def test_the_two_commands_do_it_from_a_fresh_clone(command, tmp_path):
    """In a fresh clone, with nothing but Python and git, each of the two commands works."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    if "pytest" in command and os.environ.get("CI"):
        pytest.skip("these tests are being run by that very command")
    subprocess.run(["/usr/bin/env", "git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    kept = {key: value for key, value in environment().items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=tmp_path / "clone", env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


# --- what exists is named ------------------------------------------------------------------------------------------


def everything() -> str:
    """All pages as one text."""
    return "\n".join(page.read_text() for page in PAGES)


def page(name: str) -> str:
    """The text of a page under docs."""
    return (ROOT / "docs" / f"{name}.md").read_text()


def unnamed(names: Iterator[str] | list[str], text: str) -> list[str]:
    """Names that a text does not hold between backticks, alone or with what they are called with."""
    return [name for name in names if not re.search(rf"`[^`\n]*(?<![A-Za-z_]){re.escape(name)}(?![A-Za-z_])", text)]


def test_every_public_name_is_in_the_docs():
    """What `eventflow` and `eventflow.testing` export is named somewhere."""
    assert unnamed([*eventflow.__all__, *eventflow.testing.__all__], everything()) == []


@pytest.mark.parametrize(
    ("thing", "where"),
    [
        (CheckpointPolicy, "checkpoints"),
        (RetryPolicy, "workflows"),
        (Engine, "engine"),
        (Workflow.add_node, "workflows"),
        (Workflow.add_edge, "workflows"),
        (eventflow.Visit.effect, "effects"),
        (eventflow.testing.Reply, "testing"),
    ],
    ids=lambda one: getattr(one, "__qualname__", one),
)
def test_every_argument_is_in_the_docs(thing, where):
    """Each argument of the calls that users write has its row in a table of the page about them."""
    names = [name for name in inspect.signature(thing).parameters if name not in ("self", "args", "kwargs")]
    rows = "\n".join(re.findall(r"^\| ([^|]+) \|", page(where), re.MULTILINE))
    assert unnamed(names, rows) == []


def public_methods(kind: type) -> list[str]:
    """Names of a class's own public methods and properties."""
    return [name for name in vars(kind) if not name.startswith("_") and name != "take_away"]


@pytest.mark.parametrize(
    ("kind", "where"),
    [(Engine, "engine"), (eventflow.Run, "engine"), (eventflow.Visit, "effects"), (Workflow, "workflows")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_every_method_is_in_the_docs(kind, where):
    """Each public method of the classes that users call is named on the page about it."""
    assert unnamed(public_methods(kind), page(where)) == []


def test_every_error_is_in_the_docs():
    """Each error stands in the table of docs/errors.md with its own exit code."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", page("errors"), re.MULTILINE))
    kinds = {
        name: kind
        for name, kind in vars(eventflow.errors).items()
        if isinstance(kind, type) and issubclass(kind, eventflow.errors.EventflowError)
    }
    assert rows == {name: str(kind.exit_code) for name, kind in kinds.items()}


def test_the_floors_are_those_of_the_architecture_test():
    """The table in docs/architecture.md says of each module the floor that the architecture test enforces."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text())
    floors = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("FLOORS", "REPLAY_FLOORS", "DOORS")
    }
    shown: dict[str, dict[str, int]] = {"eventflow": {}, "replay": {}}
    for package, floor, names in re.findall(
        r"^\| (eventflow|replay) \| (\d) \| ([^|]*) \|", page("architecture"), re.MULTILINE
    ):
        shown[package].update(dict.fromkeys(re.findall(r"`(\w+)`", names), int(floor)))
    assert shown == {"eventflow": floors["FLOORS"], "replay": floors["REPLAY_FLOORS"]}
    doors = dict(re.findall(r"^\| `(\w+)` \| `([\w/]+)` \|", page("architecture"), re.MULTILINE))
    assert doors == floors["DOORS"]


# --- the command line ----------------------------------------------------------------------------------------------


def help_of(main: Callable[[list[str]], None], path: list[str]) -> str:
    """What `--help` prints for a command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*path, "--help"])
    return printed.getvalue()


def described(main: Callable[[list[str]], None], path: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Every command below a path with its arguments and options, as the help tells."""
    text = help_of(main, path)
    named = set(re.findall(r"^│ [* ]? *(?:[A-Z]+ )?(--[a-z][a-z-]*)", text, re.MULTILINE)) - {"--help", "--version"}
    placed = set(re.findall(r"^│ (?:[* ]  )?([A-Z]{2,}) ", text, re.MULTILINE))
    yield " ".join(path), (named - {f"--{name.lower()}" for name in placed}) | placed
    inner = re.search(r"─ Commands ─.*?\n(.*?)╰", text, re.DOTALL)
    for name in re.findall(r"^│ ([a-z][a-z-]*) ", inner[1] if inner else "", re.MULTILINE):
        yield from described(main, [*path, name])


def told(program: str) -> dict[str, set[str]]:
    """Every command of a program with its arguments and options, as docs/cli.md tells."""
    found: dict[str, set[str]] = {}
    for part in re.split(r"^#+ ", page("cli"), flags=re.MULTILINE)[1:]:
        heading = re.match(rf"`{program} ([a-z -]+)`", part)
        if heading:
            found[heading[1]] = set(re.findall(r"^\| `(--[a-z-]+|[A-Z]+)", part, re.MULTILINE))
    return found


SHARED = {"--store", "--output", "--why", "--yes"}  # told once, at the head of the page


@pytest.mark.parametrize(
    ("program", "main"),
    [("eventflow", eventflow.cli.main), ("replay", replay.cli.main)],
    ids=["eventflow", "replay"],
)
def test_the_page_tells_every_command_and_option(program, main, monkeypatch):
    """docs/cli.md has a section for each command with exactly the arguments and options that its help has."""
    monkeypatch.setenv("COLUMNS", "200")
    groups = {"", "checkpoints", "queue", "store", "store keys"}
    real = {name: options - SHARED for name, options in described(main, []) if name not in groups}
    assert told(program) == real
    head = page("cli").split("\n## ")[0]
    assert unnamed(sorted(SHARED), head) == []


# --- links ---------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Each relative link names a file that is there and, with an anchor, a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links to {target}"


# --- the guide -----------------------------------------------------------------------------------------------------

GUIDE = (
    "NewFileCheckpointer", "NewMemoryCheckpointer", "StateStore", "WithAutoSave", "WithSaveAfterNode", "WithSaveBeforeNode",
    "WithSaveInterval", "WithMaxCheckpoints", "WithCompression", "WithCheckpointer", "NewWorkflow", "AddNode", "NewAgentNode",
    "AddEdge", "SetStart", "ExecuteWithCheckpoint", "ExecuteWithCheckpointID", "ResumeFromCheckpoint",
    "ResumeFromCheckpointID", "List", "DeleteAll",
)  # fmt: skip


def test_every_call_of_the_guide_has_its_counterpart():
    """docs/from-the-guide.md has a row for each call and option of the guide."""
    rows = set(re.findall(r"^\| `(\w+)", page("from-the-guide"), re.MULTILINE))
    assert set(GUIDE) <= rows


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
