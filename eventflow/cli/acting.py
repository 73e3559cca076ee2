"""Commands that end, halt, retry or remove runs, one by its id or many by --where: pause, cancel, retry, skip, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from eventflow.address import find_run
from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli.batch import (
    Batch,
    DryRunArg,
    Teller,
    WhereArg,
    check_many,
    check_one,
    each,
    many,
)
from eventflow.cli.driving import VerboseArg, asked_for, drive, lines_on_stderr, stopping
from eventflow.cli.flows import load_flows
from eventflow.cli.policy import NO_OPTIONS, PolicyArgs, policy_of, quota_of
from eventflow.cli.shell import (
    OK,
    STOPPED,
    FlowArg,
    Format,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    confirm,
    json_argument,
    open_store,
    pasteable,
    print_json,
    store_path,
)
from eventflow.cli.standing import exit_code, left_sentence
from eventflow.cli.talking import GOING, send_to, to_many, told
from eventflow.clock import SystemClock
from eventflow.engine import Engine, Run, delete_run, give_back, unlist_run
from eventflow.errors import InvalidState, SettingsError
from eventflow.log import Head
from eventflow.state import Status
from eventflow.workflow import Workflow

FAILED_ONES: tuple[Status, ...] = ("failed",)


def pause(
    run: str | None = None, /, *, where: WhereArg = None, dry_run: DryRunArg = False, why: WhyArg = "", store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Ask that a run stand still after the node it is in; `resume` takes it up again."""
    if where is not None:
        batch = Batch(check_many(where, ("RUN", run)), "asked to pause", output, dry_run, meant=GOING)
        return to_many(store, batch, lambda engine, one: engine.pause(one, why=why))
    one = check_one(run, dry_run=dry_run)
    number = send_to(store, one, lambda engine: engine.pause(one, why=why), ended="stands still")
    return told(one, "asked to pause", number, output)


def cancel(
    run: str | None = None, /, *, where: WhereArg = None, dry_run: DryRunArg = False, yes: YesArg = False, why: WhyArg = "",
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """End a run before its end; many are asked for first."""
    if where is not None:
        batch = Batch(
            check_many(where, ("RUN", run)), "asked to end", output, dry_run, yes, (*GOING, "paused"),
            question="End {} before their end?",
        )  # fmt: skip
        return to_many(store, batch, lambda engine, one: engine.cancel(one, why=why))
    one = check_one(run, dry_run=dry_run)
    number = send_to(store, one, lambda engine: engine.cancel(one, why=why), ended="is over")
    return told(one, "asked to end", number, output)


def retry(
    run: str | None = None, /, *, where: WhereArg = None, dry_run: DryRunArg = False, flow: FlowArg = None, yes: YesArg = False,
    why: WhyArg = "", checkpoints: PolicyArgs = NO_OPTIONS, store: StoreArg = None, output: FormatArg = "table",
    verbose: VerboseArg = False,
) -> int:  # fmt: skip
    """Try the node that a run failed in again, with all its attempts, and go on from there.

    Parameters
    ----------
    run
        The run's whole id.
    """
    job = Job(store, load_flows(flow), policy_of(checkpoints), verbose)
    if where is not None:
        batch = Batch(check_many(where, ("RUN", run)), "tried again", output, dry_run, yes, FAILED_ONES)
        return drive_many(job, batch, lambda engine, one: engine.retry(one, yes=yes, why=why))
    one = check_one(run, dry_run=dry_run)
    open_store(store).close()  # a store that is not there must not be created by this

    async def begin(engine: Engine) -> Run:
        return await engine.retry(one, yes=yes, why=why)

    return drive(
        store_path(store), job.flows, begin, asked_for(output, verbose, flow or (), store), checkpoints=job.policy
    )


def skip(
    run: str, /, *, result: str = "null", flow: FlowArg = None, why: WhyArg = "", checkpoints: PolicyArgs = NO_OPTIONS,
    store: StoreArg = None, output: FormatArg = "table", verbose: VerboseArg = False,
) -> int:  # fmt: skip
    """End the node a run stands on with a given result, in place of its code, and go on from there.

    Parameters
    ----------
    run
        The run's whole id.
    result
        What the node would return: JSON, @FILE or @-; nothing if left out.
    """
    flows, policy, given = load_flows(flow), policy_of(checkpoints), json_argument(result, "--result")
    open_store(store).close()  # a store that is not there must not be created by this

    async def begin(engine: Engine) -> Run:
        try:
            return await engine.skip(run, given, why=why)
        except InvalidState as error:
            raise SettingsError(f"--result does not fit: {error}") from None

    return drive(store_path(store), flows, begin, asked_for(output, verbose, flow or (), store), checkpoints=policy)


# --- driving many --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """What many runs are driven with."""

    store: str | None
    flows: list[Workflow]
    policy: CheckpointPolicy
    verbose: bool


def drive_many(job: Job, batch: Batch, begin: Callable[[Engine, str], Awaitable[Run]]) -> int:
    """Drive every run that is meant until it is over or let go; returns the worst exit code.

    All at once, since one that waits for a person would keep those behind it from their turn. SIGINT and SIGTERM let them
    go after the nodes they are in.
    """
    return many(job.store, batch, lambda ids, teller: asyncio.run(_drive_all(job, ids, teller, begin)))


async def _drive_all(job: Job, ids: list[str], teller: Teller, begin: Callable[[Engine, str], Awaitable[Run]]) -> int:
    listeners = [lines_on_stderr()] if job.verbose else []
    engine = Engine(
        store_path(job.store), workflows=job.flows, checkpoints=job.policy, listeners=listeners, quota=quota_of()
    )
    told_to_stop = asyncio.Event()

    async def one(run_id: str) -> tuple[str, int]:
        if told_to_stop.is_set():
            return "not taken up, since this was stopped before", STOPPED
        state = await (await begin(engine, run_id)).wait()
        return pasteable(left_sentence(state), job.store), exit_code(state)

    async with engine:
        with stopping(engine, told=told_to_stop):
            return await each(ids, teller, one, together=True)


# --- deleting ------------------------------------------------------------------------------------------------------


def delete(
    run: str | None = None, /, *, where: WhereArg = None, dry_run: Annotated[bool, Parameter(negative=())] = False,
    yes: YesArg = False, why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Delete a run for good; the digests of its events stay, and its id may be used anew.

    Parameters
    ----------
    run
        The run's whole id.
    dry_run
        Only say what would go.
    """
    if where is not None:
        question = "Delete {} with their histories for good?"
        batch = Batch(check_many(where, ("RUN", run)), "deleted", output, dry_run, yes, question=question)
        return many(store, batch, lambda ids, teller: _delete_all(store, ids, teller, why))
    one = check_one(run)
    log = open_store(store, write=not dry_run)
    try:
        head = find_run(log, one, whole=True)
        question = f"Delete run {one} with its history up to version {head.version} for good?"
        gone = not dry_run and confirm(question, yes=yes)
        if gone:
            delete_run(log, SystemClock(), one, why=why)
    finally:
        log.close()
    return _deleted(head, gone=gone, would=dry_run, output=output)


def _delete_all(store: str | None, ids: list[str], teller: Teller, why: str) -> int:
    log = open_store(store, write=True)

    blobs: set[bytes] = set()

    async def one(run_id: str) -> tuple[str, int]:
        blobs.update(unlist_run(log, SystemClock(), run_id, why=why)[1])
        return "deleted", OK

    try:
        return asyncio.run(each(ids, teller, one))
    finally:
        give_back(log, blobs)
        log.close()


def _deleted(head: Head, *, gone: bool, would: bool, output: Format) -> int:
    if output != "table":
        document = {"schema": "eventflow.deletion/1", "run": head.run_id, "version": head.version, "deleted": gone}
        print_json(document, lines=output == "jsonl")
    elif gone:
        print(f"run {head.run_id} deleted")
    else:
        print(f"run {head.run_id} {'would go' if would else 'stays'}, with its history up to version {head.version}")
    return OK
