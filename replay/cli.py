"""The command line: `replay` and its commands, one function each. It reads."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from eventflow.address import find_run, moment, resolve
from eventflow.cli.shell import (
    OK,
    Format,
    FormatArg,
    StoreArg,
    argument,
    new_app,
    open_store,
    print_json,
    print_state,
    print_table,
    run_app,
    show,
    state_document,
    time_text,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.log import Head, Log
from eventflow.recovery import recover
from replay.history import Line, lines

FOLLOW_POLL = 0.2  # seconds between looks of --follow
COLUMNS = ("version", "time", "type", "node", "took", "tokens", "detail")


def log(
    run: str, *, type: Annotated[tuple[str, ...], argument(negative=())] = (), since: str | None = None,  # noqa: A002
    follow: Annotated[bool, argument(negative=())] = False, store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """List a run's events: version, time, type, node, how long since the one before, tokens, what it says.

    Parameters
    ----------
    run
        The run's id, or its unique beginning.
    type
        Only events of this type, such as Transitioned.
    since
        Only events since a time (2026-11-24T10:00Z) or within a span (2h, 3d).
    follow
        Go on with new events as they come, until the run ends or Ctrl-C.
    """
    opened = open_store(store)
    try:
        head = find_run(opened, run)
        after = 0 if since is None else moment(since, now=SystemClock().now())
        chosen = (one for one in _lines(opened, head) if one.time >= after and (not type or one.type in type))
        _print_lines(chosen, output, head.run_id)
        if follow:
            _follow(opened, head, type, "jsonl" if output == "json" else output)
    finally:
        opened.close()
    return OK


def _lines(opened: Log, head: Head) -> Iterator[Line]:
    entry = opened.entry(head.run_key)
    first = entry.parent_at + 1 if entry is not None and entry.parent_id is not None else 1
    return lines(opened, head, first=first)


def _row(line: Line) -> dict[str, Any]:
    return {
        "version": line.version, "position": line.position, "time": time_text(line.time), "type": line.type,
        "node": line.node, "took_ms": None if line.duration is None else line.duration / 1e6, "tokens": line.tokens,
        "detail": line.detail, "digest": line.digest.hex(),
    }  # fmt: skip


def _print_lines(chosen: Iterator[Line], output: Format, run_id: str) -> None:
    rows = map(_row, chosen)
    if output != "table":
        show(rows, output, "eventflow.history/1", ())
        return
    for_people = [{**row, "took": _took(row["took_ms"]), "tokens": row["tokens"] or ""} for row in rows]
    print_table(for_people, COLUMNS, f"run {run_id}")


def _took(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.1f} ms" if ms < 1_000 else f"{ms / 1e3:.1f} s"


def _follow(opened: Log, head: Head, kinds: tuple[str, ...], output: Format) -> None:
    while True:
        now = opened.head(head.run_id)
        if now is None:
            return
        for line in lines(opened, now, first=head.version + 1):
            if not kinds or line.type in kinds:
                if output == "table":
                    print(
                        visible(f"{line.version:7}  {time_text(line.time)}  {line.type}  {line.node}  {line.detail}"),
                        flush=True,
                    )
                else:
                    print_json({"schema": "eventflow.history/1", **_row(line)}, lines=True)
        head = now
        if head.status in ("completed", "failed", "cancelled", "timed_out"):
            return
        time.sleep(FOLLOW_POLL)


def show_(address: str, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show the state of a run at any point: what a crash there would have restored.

    Parameters
    ----------
    address
        RUN, RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z; an id may be given by its unique beginning.
    """
    opened = open_store(store)
    try:
        place = resolve(opened, address)
        state = recover(opened, place.head, place.version).state
    finally:
        opened.close()
    document = state_document(place.head.run_id, state)
    if output != "table":
        print_json(document, lines=output == "jsonl")
        return OK
    waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
    print(f"run {document['run']} at version {document['version']} of {place.head.version}: {state.status}{waits}")
    print(visible(f"workflow {state.run.workflow}, node {state.node}, attempt {state.attempt}, {document['time']}"))
    if state.error is not None:
        print(visible(f"error: {state.error.type}: {state.error.message} ({state.error.where})"))
    for name, entry in state.effects.items():
        print(visible(f"call {name}: {entry['status']}, attempt {entry['attempt']}"))
    print_state(state)
    return OK


def main(argv: Sequence[str] | None = None) -> None:
    """Run `replay` with the process's arguments, and exit with its code."""
    from eventflow import __version__  # noqa: PLC0415 - the version is the package's

    app = new_app("replay", "Read the log: the whole history of a run, and its state at any point.", __version__)
    app.command(log)
    app.command(show_, name="show")
    sys.exit(run_app(app, argv))
