"""Pruning: what the rules take of a store, what stays all the same and why, and doing it in small steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from eventflow.clock import Clock
from eventflow.codec import pack, read_events
from eventflow.errors import Conflict, NoKey, NotFound
from eventflow.event import CheckpointsDeleted, RunDeleted, RunStarted
from eventflow.forking import who
from eventflow.log import Act, Listed, Log, Query, Upkeep
from eventflow.plain import FrozenList
from eventflow.retention.policy import Candidate, RetentionPolicy, expired_marks, selected
from eventflow.retention.sweeping import PAGE, Freed, Writes, sweep, tidy, writes_to
from eventflow.state import FINAL

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stays:
    """A run that the rules would take and that stays, and why."""

    run_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prune would do: runs that go, in an order in which no fork loses its parent; those that stay all the same.

    `checkpoints` are versions by run; every version of these runs stays reconstructable, by folding.
    """

    runs: tuple[Listed, ...]
    stays: tuple[Stays, ...]
    checkpoints: tuple[tuple[Listed, tuple[int, ...]], ...]


@dataclass(slots=True)
class Pruned:
    """What a prune did."""

    runs: list[str] = field(default_factory=list)
    events: int = 0
    checkpoints: int = 0
    stays: list[Stays] = field(default_factory=list)
    freed: Freed = field(default_factory=Freed)
    unswept: str = ""  # why blobs could not be given back, if they could not


def planned(log: Log, policy: RetentionPolicy, now: int) -> Plan:
    """What the rules take of a store at a time, ns since the epoch, UTC; reads and changes nothing."""
    every = log.runs(Query())
    by_key = {one.head.run_key: one for one in every}
    scope = [one for one in every if _in_scope(one, policy)]
    over = [one for one in scope if one.head.status in policy.statuses]
    wanted: list[bytes] = []
    if policy.takes_runs:
        sized = policy.max_bytes is not None
        wanted = selected(policy, [_candidate(log, one, sized=sized) for one in over], now)
    stays: dict[bytes, str] = {}
    guards = {guard.run_key: guard for guard in log.guards()}
    for key in wanted:
        if key in guards:
            stays[key] = (
                f"{'on hold' if guards[key].kind == 'hold' else 'pinned'}: {guards[key].why or 'no reason given'}"
            )
        elif why := _needed(log, by_key[key], by_key):
            stays[key] = why
    order = _leaves_first(wanted, by_key, stays)
    marks = []
    for one in scope if policy.takes_checkpoints else ():
        versions = expired_marks(policy, log.checkpoints(one.head.run_key), now)
        if versions and one.head.run_key not in order:
            marks.append((one, tuple(versions)))
    return Plan(
        tuple(by_key[key] for key in order), tuple(Stays(by_key[key].head.run_id, why) for key, why in stays.items()),
        tuple(marks),
    )  # fmt: skip


def _in_scope(one: Listed, policy: RetentionPolicy) -> bool:
    entry = one.entry
    return (policy.workflow is None or entry.workflow == policy.workflow) and (
        policy.tag is None or policy.tag in entry.tags
    )


def _candidate(log: Log, one: Listed, *, sized: bool) -> Candidate:
    head, size = one.head, 0
    for start in range(one.entry.parent_at + 1, head.version + 1, PAGE) if sized else ():
        size += sum(len(event.data) for event in log.read(head.run_key, start, min(start + PAGE - 1, head.version)))
    return Candidate(head.run_key, one.entry.workflow, head.updated, size)


def _needed(log: Log, one: Listed, by_key: Mapping[bytes, Listed]) -> str:
    """Why a run is needed by whoever lives, other than by its forks; empty if it is not."""
    if not log.owner_gone(one.head.owner):
        return f"{log.owner_text(one.head.owner)} drives it"
    if log.inbox(one.head.run_key):
        return "messages wait for it"
    if one.entry.parent_id is None and not one.entry.origin:
        first = log.read(one.head.run_key, 1, 1)
        event = read_events(first, log.blobs)[0].event if first else None
        caller = by_key.get(event.caller_key) if isinstance(event, RunStarted) and event.caller_key else None
        if caller is not None and caller.head.status not in FINAL:
            return f"it is a part of run {caller.head.run_id}, which is not over"
    return ""


def _leaves_first(wanted: Iterable[bytes], by_key: Mapping[bytes, Listed], stays: dict[bytes, str]) -> list[bytes]:
    """The runs that go, forks before their parents; a parent whose fork stays is added to those that stay."""
    children: dict[bytes, list[bytes]] = {}
    for key, one in by_key.items():
        if one.entry.folds_through:
            children.setdefault(one.entry.parent_key, []).append(key)
    order: dict[bytes, None] = {}
    going = {key for key in wanted if key not in stays}
    todo = [(key, False) for key in reversed(list(wanted)) if key in going]  # the oldest first
    while todo:
        key, seen = todo.pop()
        if key in order or key in stays:
            continue
        if not seen:
            todo.append((key, True))
            todo += [(child, False) for child in children.get(key, ()) if child in going]
        elif (kept := next((child for child in children.get(key, ()) if child not in order), None)) is not None:
            stays[key] = f"run {by_key[kept].head.run_id}, which stays, continues its history"
        else:
            order[key] = None
    return list(order)


def prune(
    log: Log, policy: RetentionPolicy, *, clock: Clock, dry_run: bool = False, actor: str = "", why: str = "",
    write: Writes | None = None, say: Say = lambda _: None, plan: Plan | None = None,
) -> Pruned:  # fmt: skip
    """Remove what the rules take, in small steps; whoever is killed in between leaves a sound store, and repeats it.

    What somebody took up, forked, pinned or held since it was looked at stays, and is told. With `dry_run` nothing is
    changed; with `plan`, what somebody was shown and said yes to is what is done. Raises StoreUnusable, Corrupt.
    """
    plan = plan or planned(log, policy, clock.now())
    done = Pruned(stays=list(plan.stays))
    if dry_run:
        done.runs = [one.head.run_id for one in plan.runs]
        done.events = sum(one.head.version - one.entry.parent_at for one in plan.runs)
        done.checkpoints = sum(len(versions) for _, versions in plan.checkpoints)
        return done
    for say_what in steps(log, plan, done, policy, clock=clock, actor=actor, why=why, write=write):
        say(say_what)
    return done


def steps(
    log: Log, plan: Plan, done: Pruned, policy: RetentionPolicy, *, clock: Clock, actor: str = "", why: str = "",
    write: Writes | None = None,
) -> Iterator[str]:  # fmt: skip
    """Do what a plan says, a step between two yields, each a few transactions; adds what is done to `done`."""
    write = write or writes_to(log)
    by, reason = actor or who(), why or str(policy)
    tidy(log, write)  # what somebody who was killed has left
    for one in plan.runs:
        head = one.head
        event = RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest, by, reason)
        try:
            write(Act(pack(event), clock.now(), delete_run=head))
        except (Conflict, NotFound) as error:
            done.stays.append(Stays(head.run_id, str(error)))
            continue
        done.events += head.version - one.entry.parent_at
        done.runs.append(head.run_id)
        tidy(log, write)
        yield f"pruning: {len(done.runs)} of {len(plan.runs)} runs"
    for one, versions in plan.checkpoints:
        head = one.head
        gone = CheckpointsDeleted(head.run_id, head.run_key, FrozenList(versions), by, reason)
        try:
            write(Act(pack(gone), clock.now(), Upkeep(head.run_key, drop=versions)))
        except (Conflict, NotFound):  # deleted meanwhile
            continue
        done.checkpoints += len(versions)
        yield f"pruning: {done.checkpoints} checkpoints"
    if done.runs or done.checkpoints or plan.stays:
        yield "giving back what nobody refers to"
    try:
        done.freed = sweep(log, write=write)
    except NoKey as error:
        done.unswept = str(error)
