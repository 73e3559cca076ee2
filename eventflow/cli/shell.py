"""What all commands share: the app, its arguments, settings, output, exit codes. The only file that imports cyclopts.

Tables for people, JSON for programs, progress on stderr and only on a terminal. An expected error is one sentence and an
exit code; what comes from a log is shown with its control characters made visible.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from eventflow.errors import EventflowError, SettingsError
from eventflow.log import Log, open_log
from eventflow.plain import thaw
from eventflow.state import State

DEFAULT_STORE = "runs.eventflow"
MAX_VALUE = 600  # characters of a value in a table: a few lines of a terminal
OK, FAILED, USAGE, NOT_FOUND, DIFFERENCE, CONFLICT, UNUSABLE, STOPPED = range(8)

StoreArg = Annotated[
    str | None, Parameter(name="--store", help="The store: a directory. [default: EVENTFLOW_STORE, or runs.eventflow]")
]
Format = Literal["table", "json", "jsonl"]
FormatArg = Annotated[Format, Parameter(name=["--output", "-o"], help="table for people, json or jsonl for programs.")]
FlowArg = Annotated[
    list[str] | None,
    Parameter(name="--flow", negative=(), help="A workflow it may drive: MODULE:NAME or path/to/file.py:NAME."),
]
YesArg = Annotated[bool, Parameter(name="--yes", negative=(), help="Do it without asking.")]
WhyArg = Annotated[str, Parameter(name="--why", help="Why, for the record.")]


argument = Parameter  # so that replay's commands need not import the library


def new_app(name: str, text: str, version: str) -> App:
    """An app with our habits: sorted help, no result printed, errors left to `run_app`."""
    return App(name=name, help=text, version=version, result_action="return_value", group_commands=Group("Commands"))


def sub_app(name: str, text: str) -> App:
    """A group of commands."""
    return App(name=name, help=text)


def run_app(app: App, argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code. Expected errors become one sentence on stderr."""
    try:
        code = app(list(sys.argv[1:] if argv is None else argv), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"{app.name[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE
    except EventflowError as error:
        print(f"{app.name[0]}: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has gone; the interpreter must not complain too
        return OK
    except KeyboardInterrupt:
        return STOPPED
    return code if isinstance(code, int) else OK


# --- settings ------------------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """`eventflow.toml`, or `[tool.eventflow]` in pyproject.toml, of the working directory. Raises SettingsError."""
    for name, path in (("eventflow.toml", ()), ("pyproject.toml", ("tool", "eventflow"))):
        file = Path(name)
        if not file.is_file():
            continue
        try:
            found: Any = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name} can't be read: {error}") from None
        for key in path:
            found = found.get(key, {})
        if isinstance(found, dict) and found:
            return found
    return {}


def store_path(given: str | None) -> str:
    """The store: argument, then EVENTFLOW_STORE, then settings, then the default."""
    return given or os.environ.get("EVENTFLOW_STORE") or str(settings().get("store", DEFAULT_STORE))


def open_store(given: str | None, *, write: bool = False, create: bool = False) -> Log:
    """The store named on the command line, read-only unless `write`. Raises StoreNotFound, StoreUnusable."""
    path = store_path(given)
    if path == "memory":
        raise SettingsError("a store in memory ends with its process; give --store a path")
    return open_log(path, readonly=not write, create=create)


# --- output --------------------------------------------------------------------------------------------------------

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")


def visible(text: str, *, lines: bool = False) -> str:
    """Text from a log for a terminal: control and direction characters shown as escapes, never obeyed."""
    kept = "\n\t" if lines else ""
    return "".join(
        one if (one.isprintable() and one not in _BIDI) or one in kept else one.encode("unicode_escape").decode()
        for one in text
    )


def plain_json(value: Any) -> Any:
    """Plain data as JSON has it: bytes as {"base64": …}, everything else as it is."""
    if isinstance(value, bytes):
        import base64  # noqa: PLC0415 - few values are bytes

        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in thaw(value).items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def print_json(value: Any, *, lines: bool = False) -> None:
    """One JSON document, indented unless it is one of many lines."""
    print(json.dumps(plain_json(value), ensure_ascii=False, indent=None if lines else 2))


def show(rows: Iterable[dict[str, Any]], how: Format, schema: str, columns: Sequence[str], title: str = "") -> None:
    """Rows as a table, as one JSON document that names its schema, or as JSON lines."""
    if how == "jsonl":
        for row in rows:
            print_json({"schema": schema, **row}, lines=True)
        return
    if how == "json":
        print_json({"schema": schema, "rows": list(rows)})
        return
    print_table(rows, columns, title)


def print_table(rows: Iterable[dict[str, Any]], columns: Sequence[str], title: str = "") -> None:
    """A table on stdout, as wide as the terminal."""
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second, for tables only
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(_cell(row.get(column)))) for column in columns))
    width = None if sys.stdout.isatty() else 200  # a file or pipe has no width; lines stay whole
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_state(state: State) -> None:
    """A state's data as a table; a long value is cut and says so."""
    rows = [{"field": name, "value": _value_text(state.data[name])} for name in state.data]
    if rows:
        print_table(rows, ("field", "value"))


def _value_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(plain_json(value), ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text):,} characters, all with -o json)"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def time_text(ns: int) -> str:
    """A time in ns as ISO 8601, UTC, to the ms."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def state_document(run_id: str, state: State) -> dict[str, Any]:
    """A state as the stable JSON that `show`, `run` and `replay show` print."""
    return {
        "schema": "eventflow.state/1",
        "run": run_id,
        "workflow": state.run.workflow,
        "version": state.version,
        "status": state.status,
        "waiting_for": state.waiting_for or None,
        "node": state.node,
        "attempt": state.attempt,
        "time": time_text(state.time),
        "state": state.data,
        "error": _failure(state),
        "usage": state.usage,
        "signals": state.signals,
        "parent": None if state.run.parent is None else f"{state.run.parent.run_id}@{state.run.parent.at}",
        "digest": state.digest.hex(),
    }


def _failure(state: State) -> dict[str, str] | None:
    error = state.error
    return None if error is None else {"type": error.type, "message": error.message, "where": error.where}


def bytes_text(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return ""


def confirm(question: str, *, yes: bool) -> bool:
    """Ask on the terminal before something is deleted. Raises SettingsError where nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise SettingsError(f"{question} Nobody can be asked here: confirm with --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def json_argument(text: str) -> Any:
    """JSON from the command line, or from a file as @FILE, or from stdin as @-. Raises SettingsError."""
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        return json.loads(text)
    except OSError as error:
        raise SettingsError(f"{text} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"the input is not JSON: {error}") from None


Progress = Callable[[str], None]


def progress(*, wanted: bool = True) -> tuple[Progress, Callable[[], None]]:
    """A line on stderr that changes, on a terminal; elsewhere nothing. Returns how to set it and how to end it."""
    if not wanted or not sys.stderr.isatty():
        return (lambda _text: None), (lambda: None)
    from rich.console import Console  # noqa: PLC0415 - for terminals only

    status = Console(stderr=True).status("")
    status.start()
    return (lambda text: status.update(visible(text))), status.stop
