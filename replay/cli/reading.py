"""Commands that show one run as it was recorded: its events, and its state at any point."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

from eventflow.address import Address, find_run, moment, resolve
from eventflow.cli.shell import (
    OK,
    Format,
    FormatArg,
    FullArg,
    StoreArg,
    argument,
    print_failure,
    print_json,
    print_state,
    print_table,
    short_time,
    show,
    state_document,
    time_text,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.codec import why_hidden
from eventflow.errors import NoKey, SettingsError
from eventflow.log import Head, Log
from eventflow.recovery import recover
from eventflow.state import ENDED
from eventflow.what_if import told
from replay.cli.opening import opened_at
from replay.history import TYPES, History, Line, source_text
from replay.outline import outline

SCHEMA = "eventflow.history/1"
FOLLOW_POLL = 0.2  # seconds between looks of --follow
COLUMNS = ("version", "time", "type", "node", "took", "tokens", "detail")


def log(
    run: str, /, *, type: Annotated[tuple[str, ...], argument(negative=())] = (), since: str | None = None,  # noqa: A002
    follow: Annotated[bool, argument(negative=())] = False, store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """List a run's events: version, time, type, node, how long since the one before, tokens, what it says.

    Parameters
    ----------
    run
        The run's id, or its unique beginning; or the file of an export.
    type
        Only events of this type, such as Transitioned.
    since
        Only events since a time (2026-11-24T10:00Z) or within a span (2h, 3d).
    follow
        Go on with new events as they come, until the run ends or Ctrl-C.
    """
    unknown = next((name for name in type if name not in TYPES), None)
    if unknown is not None:
        raise SettingsError(f"{unknown!r} is no type of event; a run has {', '.join(TYPES)}")
    after = None if since is None else moment(since, now=SystemClock().now())
    opened, run = opened_at(run, store)
    try:
        head = find_run(opened, run)
        history = History(opened, head)
        chosen = (one for one in history.upto(head) if _is_asked(one, type, after))
        _print_lines(chosen, "jsonl" if follow and output == "json" else output, head.run_id)
        if follow:
            _follow(opened, head, history, type, output)
    except KeyboardInterrupt:
        if not follow:  # which is how following ends
            raise
    finally:
        opened.close()
    return OK


def _is_asked(line: Line, kinds: tuple[str, ...], after: int | None) -> bool:
    return (not kinds or line.type in kinds) and (after is None or line.time >= after)


def _row(line: Line) -> dict[str, Any]:
    return {
        "version": line.version, "position": line.position, "time": time_text(line.time), "type": line.type,
        "node": line.node, "took_ms": None if line.duration is None else line.duration / 1e6, "tokens": line.tokens,
        "detail": line.detail, "digest": line.digest.hex(),
    }  # fmt: skip


def _print_lines(chosen: Iterator[Line], output: Format, run_id: str) -> None:
    if output != "table":
        show(map(_row, chosen), output, SCHEMA, ())
        return
    rows = ((_row(line), short_time(line.time)) for line in chosen)
    for_people = [
        {**row, "time": when, "took": _took(row["took_ms"]), "tokens": row["tokens"] or ""} for row, when in rows
    ]
    print_table(for_people, COLUMNS, f"run {run_id}")


def _took(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.1f} ms" if ms < 1_000 else f"{ms / 1e3:.1f} s"


def _follow(opened: Log, head: Head, history: History, kinds: tuple[str, ...], output: Format) -> None:
    """Print new events as they come, until the run has ended or is gone."""
    now: Head | None = head
    while now is not None and now.run_key == head.run_key and now.status not in ENDED:
        sys.stdout.flush()
        time.sleep(FOLLOW_POLL)
        now = opened.head(head.run_id)
        for line in history.upto(now) if now is not None and now.run_key == head.run_key else ():
            if _is_asked(line, kinds, None):
                _print_line(line, output)


def _print_line(line: Line, output: Format) -> None:
    if output != "table":
        print_json({"schema": SCHEMA, **_row(line)}, lines=True)
        return
    said = (f"{line.version:<7}", short_time(line.time), line.type, line.node, line.detail)
    print(visible("  ".join(said)))


def _show_outline(opened: Log, place: Address, error: NoKey, output: Format) -> int:
    """What can be shown of a state that can't be read; exit code 6."""
    seen = outline(opened, place.head, place.version)
    word = why_hidden(error)
    if output != "table":
        document = {
            "schema": "eventflow.state/1", "run": place.head.run_id, "workflow": seen.workflow, "version": place.version,
            "node": seen.node, "time": time_text(seen.time), "state": None, "hidden": word, "digest": seen.digest.hex(),
        }  # fmt: skip
        print_json(document, lines=output == "jsonl")
    else:
        print(visible(f"run {place.head.run_id} at version {place.version} of {place.head.version}: {word}"))
        print(visible(f"workflow {seen.workflow}, node {seen.node}, {time_text(seen.time)}"))
    print(visible(f"replay: {error}"), file=sys.stderr)
    return error.exit_code


def show_(address: str, /, *, full: FullArg = False, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show the state of a run at any point: what a crash there would have restored.

    Parameters
    ----------
    address
        RUN, RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z; an id may be given by its unique beginning, or be an export's file.
    """
    opened, address = opened_at(address, store)
    try:
        place = resolve(opened, address)
        try:
            state = recover(opened, place.head, place.version).state
        except NoKey as error:
            return _show_outline(opened, place, error, output)
    finally:
        opened.close()
    document = state_document(place.head.run_id, state)
    if output != "table":
        print_json(document, lines=output == "jsonl")
        return OK
    waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
    of = f"at version {place.version} of {place.head.version}"
    print(visible(f"run {place.head.run_id} {of}: {state.status}{waits}"))
    print(visible(f"workflow {state.run.workflow}, node {state.node}, attempt {state.attempt}, {document['time']}"))
    if state.run.policy:
        print(visible(f"a what-if run: {told(state.run.policy)}"))
    print_failure(state)
    for name, entry in state.effects.items():
        source = f", {source_text(entry['source'])}" if "source" in entry else ""
        print(visible(f"call {name}: {entry['status']}, attempt {entry['attempt']}{source}"))
    print_state(state, full=full)
    return OK
