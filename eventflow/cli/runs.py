"""Commands about runs: run, list, show, resume, signal, answer, pause, cancel, settle, delete."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import find_run, moment, resolve
from eventflow.cli.driving import Asked, drive
from eventflow.cli.flows import load_flow, load_flows
from eventflow.cli.forecast import progress_document, progress_text
from eventflow.cli.policy import NO_OPTIONS, PolicyArgs, policy_of
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
    print_failure,
    print_json,
    print_standing,
    show,
    state_document,
    store_path,
    time_text,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.engine import Engine, Run, delete_run
from eventflow.errors import Conflict, InvalidState, NeedsConfirmation, SettingsError
from eventflow.log import Head, Query
from eventflow.progress import progress_at
from eventflow.recovery import recover
from eventflow.state import STATUSES, Status
from eventflow.workflow import Workflow

VerboseArg = Annotated[
    bool, Parameter(name=["--verbose", "-v"], negative=(), help="A log line for each event, on stderr.")
]


def run(
    flow: str, /, *, input: Annotated[str, Parameter(name="--input")] = "{}", id: Annotated[str | None, Parameter(name="--id")] = None,  # noqa: A002
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (), subject: str | None = None,
    checkpoints: PolicyArgs = NO_OPTIONS, store: StoreArg = None, output: FormatArg = "table", verbose: VerboseArg = False,
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
    """
    loaded = load_flow(flow)
    data = _fitting(loaded, json_argument(input))
    policy = policy_of(checkpoints)

    asked = _asked(output, verbose, [flow], store)

    async def begin(engine: Engine) -> Run:
        try:
            return await engine.start(loaded, data, run_id=id, tags=tag, subject=subject)
        except NeedsConfirmation as error:  # the run is there already, and going on with it is for resume
            what = str(error).partition("; confirm")[0]
            raise SettingsError(f"{what}; go on with `eventflow resume {id}{asked.again} --yes`") from None

    return drive(store_path(store), [loaded], begin, asked, checkpoints=policy)


def _fitting(flow: Workflow, data: Any) -> Any:
    try:
        flow.schema.initial(data)
    except InvalidState as error:
        raise SettingsError(f"--input does not fit workflow {flow.name!r}: {error}") from None
    return data


def _asked(output: Format, verbose: bool, flows: Iterable[str], store: str | None) -> Asked:  # noqa: FBT001 - as typed
    """How to tell of a run, and the options that resuming it from here would need again."""
    again = [part for name in flows for part in ("--flow", name)] + ([] if store is None else ["--store", store])
    return Asked(output, verbose, "".join(f" {shlex.quote(part)}" for part in again))


def resume(
    run: str, /, *, at: str | None = None, flow: FlowArg = None, strict: Annotated[bool, Parameter(negative=())] = False,
    yes: YesArg = False, why: WhyArg = "", checkpoints: PolicyArgs = NO_OPTIONS, store: StoreArg = None,
    output: FormatArg = "table", verbose: VerboseArg = False,
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
    policy = policy_of(checkpoints)
    with_store = store_path(store)
    open_store(store).close()  # a store that is not there must not be created by resuming

    async def begin(engine: Engine) -> Run:
        return await engine.resume(run, at=at, strict=strict, yes=yes, why=why)

    return drive(with_store, flows, begin, _asked(output, verbose, flow or (), store), checkpoints=policy)


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
    if limit is not None and limit < 1:
        raise SettingsError(f"--limit is {limit}; give 1 or more")
    after = None if since is None else moment(since, now=SystemClock().now())
    query = Query(_status(status), workflow, tag, after, limit)
    log = open_store(store)
    try:
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
    if output == "table":  # a run that nobody drives looks the same as one that somebody does, but for this
        rows = [{**row, "driven": "yes" if row["driven"] else ""} for row in rows]
    columns = ("run", "workflow", "status", "driven", "version", "tags", "started", "updated")
    show(rows, output, "eventflow.runs/1", columns)
    return OK


def _status(text: str | None) -> Status | None:
    if text is None:
        return None
    for status in STATUSES:
        if status == text:
            return status
    raise SettingsError(f"{text!r} is not a status; a run is one of {', '.join(STATUSES)}")


def show_run(address: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
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
        present = state.version == place.head.version
        now = SystemClock().now() if present and not log.owner_gone(place.head.owner) else None
        known = progress_at(log, place.head, state, now=now)
    finally:
        log.close()
    if output == "table":
        print_standing(place.head.run_id, state)
        print_failure(state)
        if present and not state.ended:
            print(visible(f"progress: {progress_text(known)}"))
    else:
        document = {**state_document(place.head.run_id, state), "progress": progress_document(known)}
        print_json(document, lines=output == "jsonl")
    return OK


def _send(
    store: str | None, run: str, act: Callable[[Engine], Awaitable[int]], *, ended: str = "", flows: Iterable[Workflow] = (),
) -> int:  # fmt: skip
    """Send a run a message; returns its number. Raises Conflict if the run is `ended`, for what means nothing then."""
    log = open_store(store)
    try:
        head = find_run(log, run, whole=True)
    finally:
        log.close()
    if head.status == "failed" and ended:
        raise Conflict(f"run {run} has failed already and {ended}; `eventflow resume {run}` would take it up again")

    async def work() -> int:
        async with Engine(store_path(store), workflows=flows) as engine:
            return await act(engine)

    return asyncio.run(work())


def _told(run: str, what: str, number: int, output: Format) -> int:
    if output == "table":
        print(f"run {run}: {what}, message {number}")
    else:
        print_json({"schema": "eventflow.message/1", "run": run, "message": number}, lines=output == "jsonl")
    return OK


def signal(
    run: str, name: str, payload: str = "null", /, *, store: StoreArg = None, output: FormatArg = "table"
) -> int:
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
    number = _send(store, run, lambda engine: engine.signal(run, name, data))
    return _told(run, f"signal {visible(name)} sent", number, output)


def answer(
    run: str, answer: str, /, *, store: StoreArg = None, flow: FlowArg = None, output: FormatArg = "table"
) -> int:
    """Answer what a run asks a person; `eventflow show RUN` tells the question.

    Parameters
    ----------
    run
        The run's whole id.
    answer
        JSON, @FILE or @-.
    flow
        The run's workflow, so that the answer can be checked before it is sent: MODULE:NAME or path/to/file.py:NAME.
    """
    data, flows = json_argument(answer), load_flows(flow)
    number = _send(store, run, lambda engine: engine.answer(run, data), flows=flows)
    return _told(run, "answered", number, output)


def pause(run: str, /, *, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table") -> int:
    """Ask that a run stand still after the node it is in; `resume` takes it up again."""
    number = _send(store, run, lambda engine: engine.pause(run, why=why), ended="stands still")
    return _told(run, "asked to pause", number, output)


def cancel(run: str, /, *, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table") -> int:
    """End a run before its end."""
    number = _send(store, run, lambda engine: engine.cancel(run, why=why), ended="is over")
    return _told(run, "asked to end", number, output)


def settle(
    run: str, effect: str, /, *, key: str = "1", result: str | None = None,
    never_happened: Annotated[bool, Parameter(negative=())] = False, why: WhyArg = "", store: StoreArg = None,
) -> int:  # fmt: skip
    """Record what became of a call whose outcome is unknown, so that the run can be resumed.

    Parameters
    ----------
    run
        The run's whole id.
    effect
        The effect's name.
    key
        The effect's key.
    result
        It happened, and this is its result: JSON, @FILE or @-.
    never_happened
        It did not happen, and may be made.
    """
    if (result is None) != never_happened:
        raise SettingsError("say what became of it: --result JSON, or --never-happened")
    output = None if result is None else json_argument(result)
    open_store(store).close()  # a store that is not there must not be created by this

    async def work() -> None:
        async with Engine(store_path(store)) as engine:
            await engine.settle(run, effect, key, output=output, happened=not never_happened, why=why)

    asyncio.run(work())
    print(f"run {run}: effect {effect} (key {key}) {'never happened' if never_happened else 'happened'}; now resume it")
    return OK


def delete(
    run: str, /, *, dry_run: Annotated[bool, Parameter(negative=())] = False, yes: YesArg = False, why: WhyArg = "",
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Delete a run for good; the digests of its events stay, and its id may be used anew.

    Parameters
    ----------
    run
        The run's whole id.
    dry_run
        Only say what would go.
    """
    log = open_store(store, write=not dry_run)
    try:
        head = find_run(log, run, whole=True)
        question = f"Delete run {run} with its history up to version {head.version} for good?"
        gone = not dry_run and confirm(question, yes=yes)
        if gone:
            delete_run(log, SystemClock(), run, why=why)
    finally:
        log.close()
    return _deleted(head, gone=gone, would=dry_run, output=output)


def _deleted(head: Head, *, gone: bool, would: bool, output: Format) -> int:
    if output != "table":
        document = {"schema": "eventflow.deletion/1", "run": head.run_id, "version": head.version, "deleted": gone}
        print_json(document, lines=output == "jsonl")
    elif gone:
        print(f"run {head.run_id} deleted")
    else:
        print(f"run {head.run_id} {'would go' if would else 'stays'}, with its history up to version {head.version}")
    return OK
