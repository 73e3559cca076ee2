"""Commands about what is kept: store prune and vacuum, compact, pin, unpin, hold, release."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Annotated, Any

from cyclopts import Parameter

from eventflow.address import checkpoint_at, find_run, moment
from eventflow.cli.batch import status_of
from eventflow.cli.shell import (
    OK,
    ActorArg,
    Format,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    bytes_text,
    confirm,
    counted,
    open_store,
    print_json,
    progress,
    store_path,
    visible,
)
from eventflow.cli.spans import VACUUM_SCHEMA, vacuum_spans
from eventflow.clock import NS, SystemClock
from eventflow.errors import SettingsError
from eventflow.log import Head, LmdbLog, LockedLog, Log, held_bytes
from eventflow.log.lmdb.vacuum import Vacuumed
from eventflow.retention import (
    OVER,
    Plan,
    Pruned,
    RetentionPolicy,
    compact_run,
    hold,
    pin,
    planned,
    prune,
    release,
    unpin,
)

PRUNE_SCHEMA = "eventflow.prune/1"
COMPACT_SCHEMA, GUARD_SCHEMA = "eventflow.compaction/1", "eventflow.guard/1"
SHOWN = 20  # runs named for people: more are counted
DryRunArg = Annotated[bool, Parameter(name="--dry-run", negative=(), help="Only say what would go, and what stays.")]


# --- prune ---------------------------------------------------------------------------------------------------------


def prune_(
    *, older_than: str | None = None, keep: int | None = None, max_bytes: int | None = None,
    status: Annotated[tuple[str, ...], Parameter(negative=())] = (), workflow: str | None = None, tag: str | None = None,
    last: int | None = None, hourly: int | None = None, daily: int | None = None, dry_run: DryRunArg = False,
    yes: YesArg = False, actor: ActorArg = "", why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Remove runs that are over, and checkpoints, by rules, and give back what nobody refers to; digests of events stay.

    Parameters
    ----------
    older_than
        Runs whose last event came before a time (2026-11-24T10:00Z), or longer ago than a span (2h, 30d).
    keep
        All but the newest that many runs of each workflow.
    max_bytes
        The oldest runs, until the events of those that are over have no more bytes.
    status
        Only runs of this status; may be given several times.
    workflow
        Only runs of this workflow.
    tag
        Only runs with this tag.
    last
        Of each run's checkpoints all but the newest that many, and but those that the next two keep.
    hourly
        Keep the newest checkpoint of each of so many hours.
    daily
        Keep the newest checkpoint of each of so many days.
    """
    clock = SystemClock()
    age = None if older_than is None else max(clock.now() - moment(older_than, now=clock.now()), 0) / NS
    statuses = tuple(one for name in status if (one := status_of(name)) is not None) or OVER
    policy = RetentionPolicy(age, keep, max_bytes, statuses, workflow, tag, last, hourly, daily)
    if not policy.takes_runs and not policy.takes_checkpoints:
        raise SettingsError(
            "say what goes: --older-than, --keep, --max-bytes for runs; --last, --hourly, --daily for checkpoints"
        )
    log = open_store(store, write=not dry_run)
    say, ended = progress(wanted=output == "table")
    try:
        plan = planned(log, policy, clock.now())
        if dry_run:
            return _told(prune(log, policy, clock=clock, dry_run=True, plan=plan), plan, output, would=True)
        if (plan.runs or plan.checkpoints) and not confirm(_question(plan), yes=yes):
            print("everything stays")
            return OK
        return _told(prune(log, policy, clock=clock, plan=plan, actor=actor, why=why, say=say), plan, output)
    finally:
        ended()
        log.close()


def _question(plan: Plan) -> str:
    marks = sum(len(versions) for _, versions in plan.checkpoints)
    return (
        f"Remove {counted(len(plan.runs), 'run')} with their histories, and {counted(marks, 'checkpoint')}, for good?"
    )


def _told(done: Pruned, plan: Plan, output: Format, *, would: bool = False) -> int:
    marks = [{"run": one.head.run_id, "versions": list(versions)} for one, versions in plan.checkpoints]
    if output != "table":
        document = {
            "schema": PRUNE_SCHEMA, "dry_run": would, "runs": done.runs, "events": done.events,
            "checkpoints": done.checkpoints, "of_runs": marks, "blobs": done.freed.blobs, "bytes": done.freed.bytes,
            "stays": [{"run": one.run_id, "why": one.why} for one in done.stays], "unswept": done.unswept,
        }  # fmt: skip
        print_json(document, lines=output == "jsonl")
        return OK
    word = "would go" if would else "gone"
    print(
        f"{word}: {counted(len(done.runs), 'run')} with {counted(done.events, 'event')}, {counted(done.checkpoints, 'checkpoint')}"
    )
    if done.runs:
        print(visible(f"  {', '.join(done.runs[:SHOWN])}{', …' if len(done.runs) > SHOWN else ''}"))
    for one in done.stays[:SHOWN]:
        print(visible(f"stays: {one.run_id}: {one.why}"))
    if would:
        print("reconstructable afterwards: every version of every run that stays; of the others, their events' digests")
    else:
        print(
            f"given back: {counted(done.freed.blobs, 'value')} of {bytes_text(done.freed.bytes)}; `store vacuum` makes the file smaller"
        )
    if done.unswept:
        print(visible(f"no values were given back: {done.unswept}"))
    return OK


# --- vacuum --------------------------------------------------------------------------------------------------------


def vacuum(
    *,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative=(), help="Only say what would be given back.")] = False,
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Make the store's file as small as what it holds, or the tables of a database, while runs go on; needs room for the copy."""
    log = open_store(store, write=not dry_run)
    say, ended = progress(wanted=output == "table")
    owner = SystemClock().uuid7()
    try:
        inner = log.inner if isinstance(log, LockedLog) else log
        if not isinstance(inner, LmdbLog):
            if not hasattr(inner, "rewritable"):
                raise SettingsError(
                    f"{store_path(store)} is neither a directory nor a database; only such stores are vacuumed"
                )
            return vacuum_spans(inner, dry_run=dry_run, output=output, say=say)
        if dry_run:
            before = inner.usage().file_bytes
            done = Vacuumed(before, min(before, held_bytes(inner)))
        else:
            let_go = log.new_owner(owner)
            try:
                done = inner.vacuum(owner, say=lambda what: say(f"vacuum: {what}"))
            finally:
                let_go()
    finally:
        ended()
        log.close()
    if output != "table":
        document = {"schema": VACUUM_SCHEMA, "before": done.before, "after": done.after, "dry_run": dry_run}
        print_json(document, lines=output == "jsonl")
    elif dry_run:
        print(f"the file has {bytes_text(done.before)}, and would have about {bytes_text(done.after)}")
    else:
        print(f"the file had {bytes_text(done.before)} and has {bytes_text(done.after)}")
    return OK


# --- compact -------------------------------------------------------------------------------------------------------


def compact(
    run: str, /, *, before: str, dry_run: DryRunArg = False, yes: YesArg = False, actor: ActorArg = "", why: WhyArg = "",
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Let a run's history begin at a later version, with the state it had there; what came before can't be told any more.

    Parameters
    ----------
    run
        The run's whole id.
    before
        The version it begins with from then on: a number, or a checkpoint (c-17).
    """
    log = open_store(store, write=not dry_run)
    try:
        head = find_run(log, run, whole=True)
        at = _version(log, head, before)
        would = compact_run(log, SystemClock(), run, at, dry_run=True)
        question = f"Remove versions {would.since} to {at - 1} of run {run} for good? Its state at version {at} stays."
        done = would
        gone = not dry_run and confirm(question, yes=yes)
        if gone:
            done = compact_run(log, SystemClock(), run, at, actor=actor, why=why)
    finally:
        log.close()
    if output != "table":
        document: dict[str, Any] = {
            "schema": COMPACT_SCHEMA, "run": run, "since": done.since, "at": at, "compacted": gone,
            "blobs": done.freed.blobs, "bytes": done.freed.bytes,
        }  # fmt: skip
        print_json(document, lines=output == "jsonl")
    elif gone:
        print(
            f"run {run} begins at version {at}; versions {done.since} to {at - 1} are gone, their events' digests stay"
        )
    else:
        print(f"run {run} {'would begin' if dry_run else 'does not begin'} at version {at}")
        print(f"no longer reconstructable {'then' if dry_run else 'if it did'}: versions {done.since} to {at - 1}")
    return OK


def _version(log: Log, head: Head, text: str) -> int:
    if text.startswith("c-"):
        return checkpoint_at(log, head, text)
    if not text.isdecimal():
        raise SettingsError(f"--before {text!r} is no version; give a number, or a checkpoint such as c-17")
    return int(text)


# --- guards --------------------------------------------------------------------------------------------------------


def pin_(
    run: str, /, *, actor: ActorArg = "", why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Keep a run, whatever the rules of cleaning up say.

    Parameters
    ----------
    run
        The run's whole id.
    """
    return _guarded(pin, "pinned", run, store, output, actor=actor, why=why)


def unpin_(
    run: str, /, *, actor: ActorArg = "", why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Take a run's pin off.

    Parameters
    ----------
    run
        The run's whole id.
    """
    return _guarded(unpin, "unpinned", run, store, output, actor=actor, why=why)


def hold_(
    run: str, /, *, why: WhyArg, actor: ActorArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Put a legal hold on a run: nobody removes anything of it until it is released.

    Parameters
    ----------
    run
        The run's whole id.
    """
    return _guarded(hold, "on hold", run, store, output, actor=actor, why=why)


def release_(
    run: str, /, *, why: WhyArg, actor: ActorArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Lift a legal hold.

    Parameters
    ----------
    run
        The run's whole id.
    """
    return _guarded(release, "released", run, store, output, actor=actor, why=why)


def _guarded(
    act: Callable[..., object], what: str, run: str, store: str | None, output: Format, *, actor: str, why: str
) -> int:  # fmt: skip
    """Do something to what guards a run, and say so."""
    with closing(open_store(store, write=True)) as log:
        act(log, SystemClock(), run, actor=actor, why=why)
    if output != "table":
        print_json({"schema": GUARD_SCHEMA, "run": run, "is": what}, lines=output == "jsonl")
    else:
        print(f"run {run} is {what}")
    return OK
