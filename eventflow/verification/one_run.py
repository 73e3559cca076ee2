"""One run verified: chain, density, decoding, legality, snapshots and checkpoints against folds, head, entry of the list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eventflow.checkpoint import Checkpoint
from eventflow.clock import NS
from eventflow.codec import root_digest, state_digest, unpack_state
from eventflow.errors import Corrupt, EventflowError, NoKey
from eventflow.event import Forked, Recorded, Rewound, RunStarted
from eventflow.log import NOBODY, Entry, Head, Log
from eventflow.proof import genesis
from eventflow.recovery import as_own, history, recover, vouch_by
from eventflow.state import State, evolve
from eventflow.verification.legality import Legality
from eventflow.verification.outside import check_origin, outside
from eventflow.verification.report import STUMBLES, Report, said

LAST_VERSION = 2**63 - 1  # the highest version there can be
_LATE = 3600 * NS  # between a run's being asked for and its first event: far more than a write may have to wait


def verify_run(log: Log, head: Head, report: Report | None = None) -> Report:
    """Verify one run; what it finds is added to the report. A run that is deleted meanwhile is left out."""
    report = Report() if report is None else report
    report.runs += 1
    work = _Run(log, head, report)
    try:
        work.verify()
    except NoKey:
        work.verify_outside()
    except (EventflowError, *STUMBLES) as error:
        work.found(work.version + 1, said(error))
    return report


class _Run:
    """One run being verified; `version` is the last that holds."""

    def __init__(self, log: Log, head: Head, report: Report) -> None:
        self._log, self._head, self._report = log, head, report
        self._entry: Entry | None = None
        self._origin = 0  # what the run was compacted to: what came before is not there to be looked at
        self._snapshots: Mapping[int, int] = {}
        self._marks: Mapping[int, Checkpoint] = {}
        self._counted = report.events, report.snapshots, report.compacted
        self.version = 0

    def found(self, version: int, problem: str) -> None:
        """Report what does not hold, unless it is because the run was deleted or compacted meanwhile."""
        now, entry = self._log.head(self._head.run_id), self._log.entry(self._head.run_key)
        same = entry is None or self._entry is None or entry.origin == self._entry.origin
        if now is not None and now.run_key == self._head.run_key and same:
            self._report.add(self._head.run_id, version, problem)

    def verify(self) -> None:
        """Look at everything of the run. Raises Corrupt where it can't go on."""
        log, head = self._log, self._head
        self._entry = log.entry(head.run_key)
        first = self._entry.parent_at + 1 if self._entry and self._entry.parent_id is not None else 1
        self._origin = self._entry.origin if self._entry else 0
        first = self._origin or first
        self.version = first - 1
        self._snapshots = dict(log.snapshots(head.run_key, head.version))
        self._marks = {mark.version: mark for mark in log.checkpoints(head.run_key)}
        state = None
        bends: list[int] = []
        for recorded, after in self._folded(first):
            self.version, state = recorded.version, after
            self._report.events += 1
            self._compare_snapshot(after)
            self._compare_mark(after)
            bent = isinstance(recorded.event, Forked | Rewound) and recorded.version != self._origin
            bends += [recorded.version] if bent else []
        if bends != [version for version in log.bends(head.run_key) if version <= head.version]:
            raise Corrupt("the index of rewinds and forks", "is not what the history says")
        self._compare_head(state)
        self._compare_entry(state)
        self._look_past_the_end(first)

    def verify_outside(self) -> None:
        """Look at what can be looked at without the values; what was counted of the run so far is counted again."""
        self._report.events, self._report.snapshots, self._report.compacted = self._counted
        try:
            if self._origin and self._entry is not None:
                check_origin(self._log, self._head, self._entry)
                self._report.compacted += 1
                self._report.unopened += 1
            for recorded in outside(self._log, self._head, self._entry):
                self.version = recorded.version
                self._report.events += 1
                self._report.hidden += bool(recorded.hidden)
        except (EventflowError, *STUMBLES) as error:
            self.found(self.version + 1, said(error))

    def _folded(self, first: int) -> Iterator[tuple[Recorded, State]]:
        """Each event of the run's own history with the state after it, checked to follow the one before."""
        log, head = self._log, self._head
        state: State | None = None
        before: bytes | None = None
        legal = Legality()
        for expected, recorded in enumerate(history(log, head.run_key, first, head.version, strict=True), first):
            event = recorded.event
            if expected == self._origin:
                state = self._begun(recorded)
                before = recorded.digest
                yield recorded, state
                continue
            if (recorded.version, recorded.run_key, recorded.incarnation) != (expected, head.run_key, head.incarnation):
                raise Corrupt(f"version {expected}", "is missing, or another event stands at its place")
            if isinstance(event, Forked):
                state = _parent_state(log, event)
                before = state.digest
            elif isinstance(event, Rewound):
                state = _gone_back(log, head, event.to)
            elif isinstance(event, RunStarted):
                before = genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
            if recorded.before != before:
                raise Corrupt(f"version {expected}", "does not follow the event before it: the chain is broken")
            for problem in legal.problems(state, recorded):
                self.found(expected, problem)
            state = evolve(state, recorded)
            if state.run.run_id != head.run_id:
                raise Corrupt(f"version {expected}", f"belongs to run {state.run.run_id}")
            before = recorded.digest
            yield recorded, state

    def _begun(self, recorded: Recorded) -> State:
        """The state a run was compacted to, which only its snapshot tells: it must be that of the event there."""
        state = recover(self._log, self._head, recorded.version, snapshots=False).state
        if (state.digest, state.version) != (recorded.digest, self._origin):
            raise Corrupt(
                f"version {self._origin}", "is what the run was compacted to, and not the one of its snapshot"
            )
        self._report.compacted += 1
        return state

    def _compare_snapshot(self, state: State) -> None:
        vouched = self._snapshots.get(state.version)
        root = None if vouched is None else self._log.snapshot(self._head.run_key, state.version)
        if root is None:
            return
        self._report.snapshots += 1
        where = f"the snapshot at version {state.version}"
        try:
            if root_digest(root, where) != state_digest(state):
                raise Corrupt(where, "is not what the events before it fold to")
            unpack_state(root, self._log.blobs, where)
            if vouched and not self._is_vouched(state, vouched):
                raise Corrupt(where, "is not the one that the chain speaks of")
        except NoKey:
            raise
        except (EventflowError, *STUMBLES) as error:
            self.found(state.version, said(error))

    def _is_vouched(self, state: State, by: int) -> bool:
        vouch = vouch_by(self._log, self._head.run_key, by)
        return vouch is not None and (vouch.version, vouch.digest) == (state.version, state_digest(state))

    def _compare_mark(self, state: State) -> None:
        mark = self._marks.get(state.version)
        if mark is not None and mark.digest and mark.digest != state_digest(state):
            self.found(state.version, f"checkpoint {mark.id} is not of the state that the events before it fold to")

    def _compare_head(self, state: State | None) -> None:
        head = self._head
        if state is None or state.version != head.version:
            raise Corrupt("the head", f"speaks of version {head.version}, the history ends at {self.version}")
        recovered = recover(self._log, head).state
        if state_digest(recovered) != state_digest(state):
            raise Corrupt("recovery", "does not give the state that all events fold to")
        if (state.status, state.waiting_for) != (head.status, head.waiting_for):
            raise Corrupt("the head", f"says {head.status}, the history folds to {state.status}")
        if state.epoch > head.epoch:
            raise Corrupt("the head", f"is at epoch {head.epoch}, the history at {state.epoch}")

    def _compare_entry(self, state: State | None) -> None:
        """What `list` shows of the run is what its first event says."""
        entry = self._entry
        if entry is None or state is None:
            raise Corrupt("the run list", "does not have this run")
        run = state.run
        parent = (None, NOBODY, 0) if run.parent is None else (run.parent.run_id, run.parent.run_key, run.parent.at)
        listed = (entry.parent_id, entry.parent_key, entry.parent_at)
        told = (entry.workflow, tuple(entry.tags), entry.subject, listed)
        if told != (run.workflow, tuple(run.tags), run.subject, parent):
            raise Corrupt("the run list", "says another workflow, tag, subject or parent than the run's first event")
        if abs(entry.started - run.started) > _LATE:
            raise Corrupt("the run list", "says another start than the run's first event")

    def _look_past_the_end(self, first: int) -> None:
        """Nothing stands beyond the head, where no reader would look for it, nor among the parent's versions."""
        log, key = self._log, self._head.run_key
        head = log.head_of(key) or self._head  # it may have moved on
        beyond = log.read(key, head.version + 1, LAST_VERSION)
        if beyond and (log.head_of(key) or head).version == head.version:
            raise Corrupt(f"version {head.version + 1}", "stands after the head, which does not know it")
        if self._origin and (log.entry(key) or self._entry) != self._entry:
            return  # compacted once more meanwhile
        for version, _ in log.snapshots(key, LAST_VERSION):
            if version < self._origin:  # still being tidied up
                continue
            if not first <= version <= (log.head_of(key) or head).version:
                raise Corrupt(f"the snapshot at version {version}", "is of a version that the run does not have")
        for mark in self._marks.values():
            if not 1 <= mark.version <= head.version:
                raise Corrupt(f"checkpoint {mark.id}", "is of a version that the run does not have")


def _parent_state(log: Log, event: Forked) -> State:
    parent = log.head_of(event.parent_key)
    if parent is None:
        raise Corrupt("the fork", f"continues run {event.parent_id}, which is not in this store")
    return recover(log, parent, event.at, snapshots=False).state


def _gone_back(log: Log, head: Head, to: int) -> State:
    """The state that a run goes on from after a rewind; one to before it was a fork goes on under the fork's name."""
    state = recover(log, head, to, snapshots=False).state
    return state if state.run.run_key == head.run_key else as_own(log, state, head.run_key)
