"""Commands about runs: run, list, show, resume, signal, pause, cancel, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import find_run, moment, resolve
from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.driving import drive, report
from eventflow.cli.flows import load_flow, load_flows
from eventflow.cli.shell import (
    OK,
    FlowArg,
    Format,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    confirm,
    json_argument,
    open_store,
    print_json,
    show,
    state_document,
    store_path,
    time_text,
)
from eventflow.clock import SystemClock
from eventflow.engine import Engine, Run, delete_run
from eventflow.errors import SettingsError
from eventflow.log import Query
from eventflow.recovery import recover
from eventflow.state import STATUSES, Status

VerboseArg = Annotated[
    bool, Parameter(name=["--verbose", "-v"], negative=(), help="A log line for each event, on stderr.")
]


def run(
    flow: str, *, input: Annotated[str, Parameter(name="--input")] = "{}", id: Annotated[str | None, Parameter(name="--id")] = None,  # noqa: A002
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (), subject: str | None = None, every: int | None = None,
    interval: float | None = None, after_node: Annotated[bool, Parameter(negative=())] = False, keep: int | None = None,
    store: StoreArg = None, output: FormatArg = "table", verbose: VerboseArg = False,
) -> int:  # fmt: skip
    """Start a run of a workflow and drive it to its end; the same id again goes on, or gives the result.

    Parameters
    ----------
    flow
        The workflow: MODULE:NAME, or path/to/file.py:NAME.
    input
        The run's input as JSON, @FILE, or @- for stdin.
    id
        The run's id; a fresh one if left out.
    tag
        A tag to find the run by.
    subject
        Whom the run is about.
    every
        A checkpoint each that many events.
    interval
        A checkpoint at the first event after that many seconds.
    after_node
        A checkpoint after each node.
    keep
        Keep only the newest that many checkpoints.
    """
    loaded = load_flow(flow)
    data = json_argument(input)
    policy = CheckpointPolicy(every=every, interval=interval, after_node=after_node, keep=keep)

    async def begin(engine: Engine) -> Run:
        return await engine.start(loaded, data, run_id=id, tags=tag, subject=subject)

    return drive(store_path(store), [loaded], begin, output=output, verbose=verbose, checkpoints=policy)


def resume(
    run: str, *, at: str | None = None, flow: FlowArg = None, strict: Annotated[bool, Parameter(negative=())] = False,
    yes: YesArg = False, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
    verbose: VerboseArg = False,
) -> int:  # fmt: skip
    """Take a run up again after a crash, a failure, a stop or a pause.

    Parameters
    ----------
    run
        The run's whole id.
    at
        Go back to a checkpoint (c-17), a version or a time first; nothing is erased.
    strict
        Refuse if the workflow's definition changed since the run was started.
    """
    flows = load_flows(flow)
    with_store = store_path(store)
    open_store(store).close()  # a store that is not there must not be created by resuming

    async def begin(engine: Engine) -> Run:
        return await engine.resume(run, at=at, strict=strict, yes=yes, why=why)

    return drive(with_store, flows, begin, output=output, verbose=verbose)


def list_runs(
    *, status: str | None = None, workflow: str | None = None, tag: str | None = None, since: str | None = None,
    limit: int | None = None, store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """List runs, newest first.

    Parameters
    ----------
    status
        Only runs that stand so: pending, running, waiting, paused, completed, failed, cancelled.
    workflow
        Only runs of this workflow.
    tag
        Only runs with this tag.
    since
        Only runs started since a time (2026-11-24T10:00Z) or within a span (2h, 3d).
    limit
        At most that many.
    """
    log = open_store(store)
    try:
        after = None if since is None else moment(since, now=SystemClock().now())
        query = Query(_status(status), workflow, tag, after, limit)
        rows = [
            {
                "run": one.head.run_id, "workflow": one.entry.workflow, "status": one.head.status,
                "waiting_for": one.head.waiting_for or None, "driven": not log.owner_gone(one.head.owner),
                "version": one.head.version, "tags": list(one.entry.tags), "started": time_text(one.entry.started),
                "updated": time_text(one.head.updated),
                "parent": None if one.entry.parent_id is None else f"{one.entry.parent_id}@{one.entry.parent_at}",
            }
            for one in log.runs(query)
        ]  # fmt: skip
    finally:
        log.close()
    show(rows, output, "eventflow.runs/1", ("run", "workflow", "status", "version", "tags", "started", "updated"))
    return OK


def _status(text: str | None) -> Status | None:
    if text is None:
        return None
    for status in STATUSES:
        if status == text:
            return status
    raise SettingsError(f"{text!r} is not a status; a run is one of {', '.join(STATUSES)}")


def show_run(address: str, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Show where a run stands and its state.

    Parameters
    ----------
    address
        RUN, RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z; an id may be given by its unique beginning.
    """
    log = open_store(store)
    try:
        place = resolve(log, address)
        state = recover(log, place.head, place.version).state
    finally:
        log.close()
    if output == "table":
        report(place.head.run_id, state, "table")
    else:
        print_json(state_document(place.head.run_id, state), lines=output == "jsonl")
    return OK


def _with_engine(store: str | None, act: Callable[[Engine], Awaitable[Any]]) -> Any:
    open_store(store).close()

    async def work() -> Any:
        async with Engine(store_path(store)) as engine:
            return await act(engine)

    return asyncio.run(work())


def _told(run: str, what: str, number: int, output: Format) -> int:
    if output == "table":
        print(f"run {run}: {what}, message {number}")
    else:
        print_json({"schema": "eventflow.message/1", "run": run, "message": number}, lines=output == "jsonl")
    return OK


def signal(run: str, name: str, payload: str = "null", *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Send a run a message; whoever drives it takes it.

    Parameters
    ----------
    run
        The run's whole id.
    name
        The signal's name.
    payload
        JSON, @FILE or @-.
    """
    data = json_argument(payload)
    number = _with_engine(store, lambda engine: engine.signal(run, name, data))
    return _told(run, f"signal {name} sent", number, output)


def pause(run: str, *, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table") -> int:
    """Ask that a run stand still after the node it is in; `resume` takes it up again."""
    number = _with_engine(store, lambda engine: engine.pause(run, why=why))
    return _told(run, "asked to pause", number, output)


def cancel(run: str, *, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table") -> int:
    """End a run before its end."""
    number = _with_engine(store, lambda engine: engine.cancel(run, why=why))
    return _told(run, "asked to end", number, output)


def delete(run: str, *, yes: YesArg = False, why: WhyArg = "", store: StoreArg = None) -> int:
    """Delete a run for good; the digests of its events stay, and its id may be used anew."""
    log = open_store(store, write=True)
    try:
        head = find_run(log, run, whole=True)
        if not confirm(f"Delete run {head.run_id} with its {head.version} events for good?", yes=yes):
            return OK
        delete_run(log, SystemClock(), run, why=why)
    finally:
        log.close()
    print(f"run {run} deleted")
    return OK
