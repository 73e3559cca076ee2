"""Commands that start runs, take them up again and look at them: run, resume, list, show."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from eventflow.address import moment, resolve
from eventflow.cli.acting import Job, drive_many
from eventflow.cli.batch import Batch, DryRunArg, WhereArg, check_many, check_one, status_of
from eventflow.cli.driving import VerboseArg, asked_for, drive
from eventflow.cli.flows import fitting, load_flow, load_flows
from eventflow.cli.forecast import progress_document, progress_text
from eventflow.cli.limits import BudgetArg, TimeoutArg, budget_of, seconds_of
from eventflow.cli.policy import NO_OPTIONS, PolicyArgs, policy_of
from eventflow.cli.shell import (
    AN_OBJECT,
    OK,
    FlowArg,
    FormatArg,
    FullArg,
    StoreArg,
    WhyArg,
    YesArg,
    json_argument,
    open_store,
    print_failure,
    print_json,
    short_time,
    show,
    state_document,
    store_path,
    time_text,
    visible,
)
from eventflow.cli.standing import driven_text, left_alone, print_around, print_standing, standing_document
from eventflow.cli.stepping import StepArg, drive_by_step, nodes_of
from eventflow.cli.talking import GOING
from eventflow.cli.tallying import stats_document, stats_text
from eventflow.cli.what_if import AS_IT_IS, WiderArgs, wider
from eventflow.clock import SystemClock
from eventflow.engine import Engine, Run, stats_of, who
from eventflow.errors import NeedsConfirmation, SettingsError
from eventflow.log import Query
from eventflow.progress import progress_at
from eventflow.recovery import recover


def run(
    flow: str, /, *, input: Annotated[str, Parameter(name="--input")] = "{}", id: Annotated[str | None, Parameter(name="--id")] = None,  # noqa: A002
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (), subject: str | None = None, timeout: TimeoutArg = None,
    budget: BudgetArg = (), step: StepArg = False, checkpoints: PolicyArgs = NO_OPTIONS, store: StoreArg = None, output: FormatArg = "table", verbose: VerboseArg = False,
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
    data = fitting(loaded, json_argument(input, "--input", hint=AN_OBJECT))
    policy, limit, most = policy_of(checkpoints), seconds_of(timeout), budget_of(budget)
    asked = asked_for(output, verbose, [flow], store)

    async def begin(engine: Engine) -> Run:
        try:
            begun = await engine.start(
                loaded, data, run_id=id, tags=tag, subject=subject, timeout=limit, budget=most, actor=who()
            )
        except NeedsConfirmation as error:  # the run is there already, and going on with it is for resume
            what = str(error).partition("; confirm")[0]
            raise SettingsError(f"{what}; go on with `eventflow resume {id}{asked.again} --yes`") from None
        if step:
            await engine.drain()  # before its first node
        return begun

    if step:
        return drive_by_step(store_path(store), [loaded], begin, asked, checkpoints=policy, fresh=True)
    return drive(store_path(store), [loaded], begin, asked, checkpoints=policy)


def resume(
    run: str | None = None, /, *, at: str | None = None, effects: Literal["again", "reuse"] = "again",
    keep_signals: Annotated[bool, Parameter(negative=())] = False, flow: FlowArg = None,
    strict: Annotated[bool, Parameter(negative=())] = False, budget: BudgetArg = (), step: StepArg = False, where: WhereArg = None,
    dry_run: DryRunArg = False, yes: YesArg = False, why: WhyArg = "", calls: WiderArgs = AS_IT_IS,
    checkpoints: PolicyArgs = NO_OPTIONS, store: StoreArg = None, output: FormatArg = "table", verbose: VerboseArg = False,
) -> int:  # fmt: skip
    """Take a run up again after a crash, a failure, a stop or a pause.

    Parameters
    ----------
    run
        The run's whole id.
    at
        Go back to a checkpoint (c-17), a version or a time first; nothing is erased.
    effects
        Whether calls made since --at are made again, or answer once more where they are the same.
    keep_signals
        Give back the messages that came since --at.
    strict
        Refuse if the workflow's definition changed since the run was started.
    """
    if at is None and (effects != "again" or keep_signals):
        raise SettingsError("--effects and --keep-signals are about what came after --at POINT; give that too")
    job, most = Job(store, load_flows(flow), policy_of(checkpoints), verbose), budget_of(budget)
    if where is not None:
        meant = check_many(
            where, ("RUN", run), ("--at", at), ("--step", step), ("--live, --mock and --deny", calls != AS_IT_IS)
        )
        batch = Batch(meant, "resumed", output, dry_run, yes, (*GOING, "paused", "failed"), free=True)
        return drive_many(
            job, batch, lambda engine, one: engine.resume(one, strict=strict, yes=yes, budget=most, why=why)
        )
    one, with_store = check_one(run, dry_run=dry_run), store_path(store)
    open_store(store).close()  # a store that is not there must not be created by resuming
    if calls != AS_IT_IS and effects != "again":
        raise SettingsError(
            "--effects is about a run that goes back; --live, --mock and --deny are about a what-if run"
        )
    policy = wider(store, one, calls, yes=yes)

    async def begin(engine: Engine) -> Run:
        return await engine.resume(
            one, at=at, strict=strict, yes=yes, effects=policy or effects, keep_signals=keep_signals, budget=most, why=why,
            stop_before=nodes_of(job.flows) if step else (),
        )  # fmt: skip

    how = drive_by_step if step else drive
    return how(with_store, job.flows, begin, asked_for(output, verbose, flow or (), store), checkpoints=job.policy)


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
    query = Query(status_of(status), workflow, tag, after, limit)
    when = short_time if output == "table" else time_text
    log, described = open_store(store), output != "table"
    try:
        listed = log.runs(query)
        gone = [log.owner_gone(one.head.owner) for one in listed]
        rows = [
            {
                "run": one.head.run_id, "workflow": one.entry.workflow, "status": one.head.status,
                "waiting_for": one.head.waiting_for or None, "driven": not alone if described else driven_text(one, gone=alone),
                "version": one.head.version, "tags": list(one.entry.tags), "started": when(one.entry.started),
                "updated": when(one.head.updated),
                "parent": None if one.entry.parent_id is None else f"{one.entry.parent_id}@{one.entry.parent_at}",
            }
            for one, alone in zip(listed, gone, strict=True)
        ]  # fmt: skip
    finally:
        log.close()
    columns = ("run", "workflow", "status", "driven", "version", "tags", "started", "updated")
    show(rows, output, "eventflow.runs/1", columns)
    return OK


def show_run(
    address: str, /, *, stats: Annotated[bool, Parameter(negative=())] = False, full: FullArg = False,
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Show where a run stands, its state, what it waits for, its branches and its children.

    Parameters
    ----------
    address
        RUN, RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z; an id may be given by its unique beginning.
    stats
        Also in numbers: its history, how that grew, its checkpoints.
    """
    log = open_store(store)
    try:
        place = resolve(log, address)
        state = recover(log, place.head, place.version).state
        present = state.version == place.head.version
        gone = log.owner_gone(place.head.owner)
        now = SystemClock().now() if present and not gone else None
        alone = left_alone(log, place.head, store) if present and gone else ""
        known = progress_at(log, place.head, state, now=now)
        around = standing_document(
            log, place.head, state, SystemClock().now() if present and not state.ended else state.time
        )
        numbers = stats_of(log, place.head, None) if stats else None
    finally:
        log.close()
    if output == "table":
        print_standing(place.head.run_id, state, all_waits=True, full=full, store=store)
        print_failure(state)
        if alone:
            print(visible(alone))
        if present and not state.ended:
            print(visible(f"progress: {progress_text(known, driven=not alone)}"))
        print_around(place.head.run_id, state, around, store=store)
        if numbers is not None:
            print(stats_text(numbers))
    else:
        document = {**state_document(place.head.run_id, state), **around, "progress": progress_document(known)}
        if numbers is not None:
            document["stats"] = stats_document(numbers)
        print_json(document, lines=output == "jsonl")
    return OK
