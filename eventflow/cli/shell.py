"""What all commands share: the app, its arguments, settings, output, exit codes. The only file that imports cyclopts.

Tables for people, JSON for programs, progress on stderr and only on a terminal. An expected error is one sentence and an
exit code; what comes from a log is shown with its control characters made visible.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError

from eventflow.cipher.master import FILE_VARIABLE, KEY_VARIABLE
from eventflow.cli.completing import completion_of
from eventflow.cli.pasting import pasteable as pasteable  # noqa: PLC0414 - replay's commands take it from here
from eventflow.cli.pasting import typed
from eventflow.cli.slips import elsewhere, known_settings
from eventflow.clock import SystemClock
from eventflow.errors import EventflowError, NotPlainData, SettingsError
from eventflow.log import ADDRESSES, MEMORY, Log, open_log, store_text
from eventflow.markup import PILE, is_shown
from eventflow.markup import visible as visible  # noqa: PLC0414 - commands take it from here
from eventflow.plain import FrozenDict, freeze, thaw
from eventflow.shapes import hide_secrets
from eventflow.state import State
from eventflow.what_if import document_of

DEFAULT_STORE = "runs.eventflow"
MAX_FIELDS = (
    1_000  # of a state, or of a difference, in a table: twenty screens; a table of a million is nothing to read
)
MAX_VALUE = 240  # characters of a value in a table: three lines of a terminal
_GAP = "  "  # between the columns of a table
OK, FAILED, USAGE, NOT_FOUND, DIFFERENCE, CONFLICT, UNUSABLE, STOPPED = range(8)

StoreArg = Annotated[
    str | None,
    Parameter(
        name="--store", help="The store: a directory, or postgresql://… [default: EVENTFLOW_STORE, or runs.eventflow]"
    ),
]
Format = Literal["table", "json", "jsonl"]
FormatArg = Annotated[Format, Parameter(name=["--output", "-o"], help="table for people, json or jsonl for programs.")]
FlowArg = Annotated[
    list[str] | None,
    Parameter(name="--flow", negative=(), help="A workflow it may drive: MODULE:NAME or path/to/file.py:NAME."),
]
FullArg = Annotated[bool, Parameter(name="--full", negative=(), help="Every value whole, however long.")]
YesArg = Annotated[bool, Parameter(name="--yes", negative=(), help="Do it without asking.")]
ActorArg = Annotated[str, Parameter(name="--actor", help="Who does it. [default: the operating system's user]")]
WhyArg = Annotated[str, Parameter(name="--why", help="Why, for the record.")]


argument = Parameter  # so that replay's commands need not import the library


def new_app(name: str, text: str, version: str) -> App:
    """An app with our habits: sorted help, no result printed, errors and Ctrl-C left to `run_app`."""
    app = App(
        name=name, help=text, version=version, result_action="return_value", group_commands=Group("Commands"),
        suppress_keyboard_interrupt=False, default_parameter=Parameter(show_default=_default_text),
    )  # fmt: skip
    app.command(completion_of(app), name="completion")
    return app


def _default_text(value: Any) -> str | None:
    """A default as help shows it; that nothing is given if nothing is given goes without saying."""
    return None if value in (None, "", ()) else str(value)


def sub_app(name: str, text: str) -> App:
    """A group of commands."""
    return App(name=name, help=text)


def run_app(app: App, argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code. Expected errors become one sentence on stderr."""
    try:
        code = _called(app, list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where what goes wrong can still be told
    except BrokenPipeError:
        into_nothing(1)  # whoever read us has gone
        return OK
    except OSError as error:
        into_nothing(1)
        what = "the output" if error.filename is None else str(error.filename)
        _complain(app, f"{what} can't be used ({error.strerror or error}); look at its place, then try again")
        return UNUSABLE
    except KeyboardInterrupt:
        return STOPPED
    return code


def _called(app: App, argv: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    try:
        if not all(map(_is_text, argv)):
            raise SettingsError("an argument is not UTF-8 text; write it in UTF-8")
        code = app(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _complain(app, _in_a_group(app, argv, error) or " ".join(str(error).split()))
        return USAGE
    except EventflowError as error:
        _complain(app, pasteable(str(error), *typed(argv)))
        return error.exit_code
    return code if isinstance(code, int) else OK


def _in_a_group(app: App, argv: Sequence[str], error: CycloptsError) -> str:
    """What to say of a command that a group, or the other program, has, or that is called otherwise; else nothing."""
    if not isinstance(error, UnknownCommandError) or not argv or argv[0] in app or argv[0].startswith("-"):
        return ""
    if other := elsewhere(argv[0]):
        return f'Unknown command "{argv[0]}". Did you mean "{other}"?'
    groups = [one for one in app if not one.startswith("-") and argv[0] in app[one]]
    meant = " or ".join(f'"{one} {argv[0]}"' for one in groups)
    return f'Unknown command "{argv[0]}". Did you mean {meant}?' if groups else ""


def _complain(app: App, sentence: str) -> None:
    print(f"{app.name[0]}: {visible(sentence)}", file=sys.stderr)


def _is_text(argument: str) -> bool:
    return argument.isascii() or not any("\ud800" <= one <= "\udfff" for one in argument)


def into_nothing(stream: int) -> None:
    """Let what is still written to a file descriptor vanish, so that the interpreter's own end does not fail on it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream)
    os.close(nothing)


# --- settings ------------------------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """`eventflow.toml`, or `[tool.eventflow]` in pyproject.toml, of the working directory. Raises SettingsError."""
    for name, path in (("eventflow.toml", ()), ("pyproject.toml", ("tool", "eventflow"))):
        file = Path(name)
        if not file.is_file():
            continue
        try:
            found: Any = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{name} can't be read ({error.strerror}); check its owner and mode") from None
        except ValueError as error:  # of TOML, and of UTF-8
            raise SettingsError(f"{name} is not TOML ({error}); mend it") from None
        for key in path:
            found = found.get(key, {}) if isinstance(found, dict) else {}
        if isinstance(found, dict) and found:
            return known_settings(found)
    return {}


def store_path(given: str | None) -> str:
    """The store: argument, then EVENTFLOW_STORE, then settings, then the default. Raises SettingsError."""
    _set_key_file()
    if given or (given := os.environ.get("EVENTFLOW_STORE")):
        return given
    found = settings().get("store", DEFAULT_STORE)
    if not isinstance(found, str) or not found or "\0" in found:
        raise SettingsError(f"the setting `store` is {found!r}; give the path of a directory, as text")
    return found


def _set_key_file() -> None:
    """Let the setting `key_file` count for all that opens a store from here on, in child processes too."""
    if os.environ.get(FILE_VARIABLE) or os.environ.get(KEY_VARIABLE):
        return
    found = settings().get("key_file", "")
    if not isinstance(found, str):
        raise SettingsError(f"the setting `key_file` is {found!r}; give the path of a file, as text")
    if found:
        os.environ[FILE_VARIABLE] = os.pathsep.join(str(Path(one).absolute()) for one in found.split(os.pathsep))


def lasting_path(given: str | None) -> str:
    """As `store_path`, for what only a store of before can answer. Raises SettingsError for one in memory too."""
    path = store_path(given)
    if path == MEMORY:
        raise SettingsError("no checkpointer configured: a store in memory ends with its process; give --store a path")
    return path


def directory_path(given: str) -> Path:
    """A directory by its path, where a store in a database can't be meant. Raises SettingsError for an address."""
    if given.startswith(ADDRESSES):
        raise SettingsError(f"{store_text(given)} is a database's address; give the path of a directory here")
    return Path(given)


def open_store(given: str | None, *, write: bool = False, create: bool = False) -> Log:
    """The store named on the command line, read-only unless `write`. Raises StoreNotFound, StoreUnusable."""
    return open_log(lasting_path(given), readonly=not write, create=create)


# --- output --------------------------------------------------------------------------------------------------------


def plain_json(value: Any) -> Any:
    """Plain data as JSON has it: bytes as {"base64": …}, NaN and infinities as {"float": …}, the rest as it is."""
    if isinstance(value, bytes):
        import base64  # noqa: PLC0415 - few values are bytes

        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def print_json(value: Any, *, lines: bool = False) -> None:
    """One JSON document, indented unless it is one of many lines; no control or direction character in it is raw."""
    narrow = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")  # which could not hold every character
    text = json.dumps(plain_json(value), ensure_ascii=narrow, allow_nan=False, indent=None if lines else 2)
    if text.isascii() and "\x7f" not in text:
        print(text)
        return
    text = PILE.sub(lambda found: json.dumps(found[0])[1:-1], text)
    print(_UNPRINTED.sub(_as_json_escape, text))


_UNPRINTED = re.compile(r"[^\x20-\x7e\n]")  # what may have to be escaped; in JSON it stands inside of texts only


def _as_json_escape(found: re.Match[str]) -> str:
    one = found[0]
    return one if is_shown(one) else json.dumps(one)[1:-1]


def print_exact(text: str) -> None:
    """A text whose bytes matter, such as one that is signed: as UTF-8, whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())


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
    """A table on stdout, a row a line; where a terminal is too narrow for that, its cells are folded."""
    listed = list(rows)
    table = [_column(name, [row.get(name) for row in listed]) for name in columns]
    widths = [max(map(_cells, column)) for column in table]
    title = visible(title)
    if sys.stdout.isatty() and sum(widths) + len(_GAP) * (len(widths) - 1) > shutil.get_terminal_size().columns:
        _print_folded(list(map(list, zip(*table, strict=True))), title)
        return
    padded = [_padded(column, width) for column, width in zip(table, widths, strict=True)]
    lines = [line.rstrip() for line in map(_GAP.join, zip(*padded, strict=True))]
    print("\n".join([title, *lines] if title else lines))


def _column(name: str, values: list[Any]) -> list[str]:
    """A column's heading and cells; of many that are plain text none is looked at alone."""
    cells = [value if type(value) is str else _cell(value) for value in values]
    if not _is_plain("".join(cells)):
        cells = list(map(visible, cells))
    return [name.replace("_", " "), *cells]


def _padded(column: list[str], width: int) -> list[str]:
    """Cells filled up to a width."""
    if _is_plain("".join(column)):
        return [cell.ljust(width) for cell in column]
    return [cell + " " * (width - _cells(cell)) for cell in column]


def _is_plain(text: str) -> bool:
    """Whether each character of a text takes one column of a terminal, and commands nothing."""
    return text.isascii() and text.isprintable()


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes: two for wide characters, none for what joins the one before."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(one) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def _print_folded(lines: list[list[str]], title: str) -> None:
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second, and 0.6 ms a row
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    heading = Text(title) if title else None
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in lines[0]:
        table.add_column(column, overflow="fold")
    for row in lines[1:]:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def print_failure(state: State) -> None:
    """Why a run, or the last attempt of its node, failed, as a line."""
    if state.error is not None:
        place = f" ({state.error.where})" if state.error.where else ""
        print(visible(f"error: {state.error.type}: {state.error.message}{place}"))


def print_state(state: State, *, full: bool | None = None) -> None:
    """A state's data as a table, by the fields' names; a long value is cut and says so, unless `full`.

    `full` is None where the command has no such option.
    """
    whole, names = "-o json" if full is None else "--full", sorted(state.data)
    shown = names if full else names[:MAX_FIELDS]
    rows = [{"field": name, "value": value_text(state.data[name], whole="" if full else whole)} for name in shown]
    if rows:
        print_table(rows, ("field", "value"))
    print_left_out(len(names) - len(rows), "fields", whole)


def print_left_out(count: int, what: str, whole: str = "-o json") -> None:
    """How many rows of a table were left out, and the option that shows them; nothing if none were."""
    if count > 0:
        print(f"… and {count:,} {what} more, all with {whole}")


def value_text(value: Any, *, whole: str = "-o json") -> str:
    """A value in a line; a long one is cut and says by how much, and which option shows it whole; `""` cuts nothing."""
    text = value if isinstance(value, str) else json.dumps(plain_json(value), ensure_ascii=False)
    return cut(hide_secrets(text), MAX_VALUE, value, whole) if whole else hide_secrets(text)


def cut(text: str, limit: int, value: Any, whole: str = "-o json") -> str:
    """A value's text up to a limit, then how much more there is of it; its secrets must be hidden before."""
    if len(text) <= limit:
        return text
    of = f"{len(value):,} items, " if isinstance(value, dict | list) else ""
    return f"{text[:limit]}… ({of}{len(text) - limit:,} characters more, whole with {whole})"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def time_text(ns: int) -> str:
    """A time in ns as ISO 8601, UTC, to the ms."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(maxsize=4_096)  # a table has many rows of one second
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def short_time(ns: int) -> str:
    """A time in ns, UTC, in few characters on a terminal, so that a row stays a line; in full elsewhere."""
    return _shortened(ns, SystemClock().now()) if sys.stdout.isatty() else time_text(ns)


def _shortened(ns: int, now: int) -> str:
    then, today = (datetime.fromtimestamp(one // 1_000_000_000, UTC) for one in (ns, now))
    if then.date() == today.date():
        return f"{then:%H:%M:%S}Z"
    return f"{then:%m-%d %H:%M}Z" if then.year == today.year else f"{then:%Y-%m-%d}"


def counted(count: int, what: str) -> str:
    """A number and what there are so many of, in the singular if that is one."""
    return f"{count} {what}{'s' * (count != 1)}"


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
        "error": failure_document(state),
        "usage": state.usage,
        "signals": state.signals,
        "wait": None if state.wait is None else wait_document(state.wait),
        "parent": None if state.run.parent is None else f"{state.run.parent.run_id}@{state.run.parent.at}",
        "what_if": document_of(state.run.policy),
        "digest": state.digest.hex(),
    }


def wait_document(wait: FrozenDict) -> dict[str, Any]:
    """A wait as JSON has it: its id, what it is for, until when, and what its kind says besides."""
    until = time_text(wait["until"]) if wait["until"] else None
    return {"id": wait["id"], "kind": wait["kind"], "name": wait["name"], "until": until, **wait["spec"]}


def failure_document(state: State) -> dict[str, str] | None:
    """The failure of a run as JSON has it."""
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
    try:
        return input(f"{visible(question)} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


QUOTES = """text needs its own quotes, as in '"yes"', and what is true or not is written true or false"""
AN_OBJECT = """give an object, as in '{"topic": "tides"}', or @FILE"""  # what the input of a run is


def json_argument(text: str, what: str = "the input", *, hint: str = QUOTES) -> Any:
    """Plain data as JSON from the command line, from a file as @FILE, or from stdin as @-; `what` names it in errors.

    `hint` says how to write what is typed.

    Raises SettingsError.
    """
    typed = not text.startswith("@")
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return thaw(freeze(json.loads(text), what))
    except OSError as error:
        raise SettingsError(f"{text} can't be read: {error.strerror}") from None
    except NotPlainData as error:
        raise SettingsError(f"{what} can't be used: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{what} is not JSON: {error}{f'; {hint}' if typed else ''}") from None


Progress = Callable[[str], None]


def progress(*, wanted: bool = True) -> tuple[Progress, Callable[[], None]]:
    """A line on stderr that changes, on a terminal; elsewhere nothing. Returns how to set it and how to end it."""
    if not wanted or not sys.stderr.isatty():
        return (lambda _text: None), (lambda: None)
    from rich.console import Console  # noqa: PLC0415 - for terminals only
    from rich.text import Text  # noqa: PLC0415

    status = Console(stderr=True).status("")
    status.start()
    return (lambda text: status.update(Text(visible(text)))), status.stop  # as text: a name may look like markup
