"""Does a history hold? Every byte of it is read again, strictly, and compared with everything that speaks of it.

Chain, density, decoding, legality of each event, snapshots against folds, blobs against their digests, heads, positions.
Reading only; needs none of the user's code. What is not seen here: a tail cut off together with its head, or a store
rewritten whole by somebody who can write to it; that takes a digest kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from eventflow.codec import TOMBSTONE, decode, read_events, root_digest, state_digest, unpack_state
from eventflow.errors import Corrupt, EventflowError
from eventflow.event import Forked, Recorded, Rewound, RunStarted, StoreCreated
from eventflow.log import STORE_RUN, Head, Log, Query, store_genesis
from eventflow.proof import genesis
from eventflow.recovery import history, recover
from eventflow.state import State, evolve

_PAGE = 1_000  # events a look at the whole log takes at a time


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold, and where."""

    run: str
    version: int
    problem: str

    def __str__(self) -> str:
        return f"{self.run}@{self.version}: {self.problem}"


@dataclass(slots=True)
class Report:
    """What was looked at and what was found."""

    runs: int = 0
    events: int = 0
    snapshots: int = 0
    deleted: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything holds."""
        return not self.findings


def verify_run(log: Log, head: Head, report: Report | None = None) -> Report:
    """Verify one run; what it finds is added to the report."""
    report = Report() if report is None else report
    report.runs += 1
    version = 0
    try:
        for recorded, state in _folded(log, head):
            version = recorded.version
            report.events += 1
            _compare_snapshot(log, head, state, report)
        _compare_head(log, head, version)
    except EventflowError as error:
        report.findings.append(Finding(head.run_id, version + 1, str(error)))
    return report


def verify_store(log: Log) -> Iterator[Report]:
    """Verify the whole store; yields the growing report after each run, so that progress can be shown."""
    report = Report()
    _verify_stream(log, report)
    yield report
    for listed in log.runs(Query()):
        verify_run(log, listed.head, report)
        yield report
    _verify_positions(log, report)
    yield report


# --- one run -------------------------------------------------------------------------------------------------------


def _folded(log: Log, head: Head) -> Iterator[tuple[Recorded, State]]:
    """Each event of a run's own history with the state after it, checked to follow the one before."""
    entry = log.entry(head.run_key)
    first = entry.parent_at + 1 if entry and entry.parent_id is not None else 1
    state: State | None = None
    before: bytes | None = None
    expected = first
    for recorded in history(log, head.run_key, first, head.version, strict=True):
        event = recorded.event
        if recorded.version != expected or recorded.run_key != head.run_key or recorded.incarnation != head.incarnation:
            raise Corrupt(f"version {expected}", "is missing, or another event stands at its place")
        if isinstance(event, Forked):
            state = _parent_state(log, event)
            before = state.digest
        elif isinstance(event, Rewound):
            state = recover(log, head, event.to, snapshots=False).state
        elif isinstance(event, RunStarted):
            before = genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
        if recorded.before != before:
            raise Corrupt(f"version {expected}", "does not follow the event before it: the chain is broken")
        state = evolve(state, recorded)
        if state.run.run_id != head.run_id:
            raise Corrupt(f"version {expected}", f"belongs to run {state.run.run_id}")
        before = recorded.digest
        expected += 1
        yield recorded, state


def _parent_state(log: Log, event: Forked) -> State:
    parent = log.head_of(event.parent_key)
    if parent is None:
        raise Corrupt("the fork", f"continues run {event.parent_id}, which is not in this store")
    return recover(log, parent, event.at, snapshots=False).state


def _compare_snapshot(log: Log, head: Head, state: State, report: Report) -> None:
    root = log.snapshot(head.run_key, state.version)
    if root is None:
        return
    report.snapshots += 1
    where = f"the snapshot at version {state.version}"
    if root_digest(root, where) != state_digest(state):
        raise Corrupt(where, "is not what the events before it fold to")
    unpack_state(root, log.blobs, where)
    vouched = dict(log.snapshots(head.run_key, state.version)).get(state.version, 0)
    if not vouched:
        return
    stored = log.read(head.run_key, vouched, vouched)
    vouch = read_events(stored, log.blobs)[0].vouch if stored else None
    if vouch is None or vouch.version != state.version or vouch.digest != state_digest(state):
        raise Corrupt(where, "is not the one that the chain speaks of")


def _compare_head(log: Log, head: Head, version: int) -> None:
    if version != head.version:
        raise Corrupt("the head", f"speaks of version {head.version}, the history ends at {version}")
    state = recover(log, head).state
    if (state.status, state.waiting_for) != (head.status, head.waiting_for) or state.epoch > head.epoch:
        raise Corrupt("the head", f"says {head.status}, the history folds to {state.status}")


# --- the whole store -----------------------------------------------------------------------------------------------


def _verify_stream(log: Log, report: Report) -> None:
    """The store's own stream: operations by hand."""
    before = store_genesis(log.store_id)
    version = 0
    try:
        while stored := log.read(STORE_RUN, version + 1, version + _PAGE):
            for recorded in read_events(stored, log.blobs, strict=True):
                if recorded.version != version + 1 or recorded.before != before:
                    raise Corrupt(f"version {version + 1}", "does not follow the event before it: the chain is broken")
                if isinstance(recorded.event, StoreCreated) and recorded.event.store_id != log.store_id:
                    raise Corrupt("version 1", "creates another store than this one")
                before, version = recorded.digest, recorded.version
                report.events += 1
        if version == 0:
            raise Corrupt("version 1", "is missing")
    except EventflowError as error:
        report.findings.append(Finding("the store's own stream", version + 1, str(error)))


def _verify_positions(log: Log, report: Report) -> None:
    """Positions are dense, and every event is the one its run has at that version."""
    position = 0
    while page := log.feed(position, _PAGE):
        for stored in page:
            position += 1
            if stored.position != position:
                report.findings.append(Finding("position", position, "is missing"))
                return
            if stored.data[:1] == TOMBSTONE:
                report.deleted += 1
                continue
            try:
                event = decode(stored.data, f"the event at position {position}")
                found = log.read(event[2], event[4], event[4])
            except (EventflowError, TypeError, LookupError) as error:
                report.findings.append(Finding("position", position, str(error)))
                continue
            if not found or found[0].position != position:
                report.findings.append(Finding("position", position, "holds an event that its run does not know"))
