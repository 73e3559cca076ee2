"""What a log in memory removes: runs as a whole, what came before a version, blobs that nobody refers to; and its guards.

The same rules and the same steps as on disk, so that what is tested on one holds on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from eventflow.checkpoint import Checkpoint
from eventflow.errors import Conflict, HasForks, RunNotFound
from eventflow.log.checking import check_origin
from eventflow.log.heads import Entry, Head
from eventflow.log.protocol import STORE_RUN, Act
from eventflow.log.removal import (
    Cleared,
    Compaction,
    Guard,
    GuardKind,
    Standing,
    Sweep,
    Swept,
    check_compaction,
    check_unguarded,
    stored_target,
    tombstone,
)

EVERYTHING = 2**64 - 1  # up to which version a deleted run is tidied up


@dataclass(slots=True)
class HeldRun:
    """What is kept of one run."""

    head: Head
    entry: Entry
    base: int  # versions at or below this one are the parent's, or gone
    positions: list[int] = field(default_factory=list)
    bends: list[int] = field(default_factory=list)
    vouched: dict[int, int] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    marks: dict[int, Checkpoint] = field(default_factory=dict)
    inbox: dict[int, bytes] = field(default_factory=dict)


class Tidying:
    """Guards, what is still to be tidied up, and the sweep that goes on, of one log."""

    def __init__(self, runs: dict[bytes, HeldRun], events: list[bytes], blobs: dict[bytes, bytes]) -> None:
        self._runs, self._events, self._blobs = runs, events, blobs
        self._guards: dict[tuple[bytes, GuardKind], Guard] = {}
        self._pending: dict[bytes, tuple[HeldRun, int]] = {}
        self._mark, self._sweeping = 0, False
        self._anew: set[bytes] = set()  # blobs that were kept since the sweep began

    # --- guards

    def guards(self) -> list[Guard]:
        """All guards."""
        return list(self._guards.values())

    def set_guards(self, guards: Iterable[Guard]) -> None:
        """Let these be all guards."""
        self._guards = {(guard.run_key, guard.kind): guard for guard in guards}

    def check(self, act: Act) -> None:
        """Refuse what an operation would remove that somebody needs. Raises RunNotFound and Conflicts."""
        for guard in (act.guard, act.unguard):
            if guard is not None and (guard.run_key == STORE_RUN or guard.run_key not in self._runs):
                raise RunNotFound(guard.run_key.hex())
        if act.delete_run is not None:
            check_unguarded(act.delete_run.run_id, self._of(act.delete_run.run_key))
            if self._children(act.delete_run.run_key):
                raise HasForks(act.delete_run.run_id)
        if act.compact is not None:
            self._check_compacting(act.compact)
            check_origin(act)

    def _of(self, run_key: bytes) -> list[Guard]:
        return [guard for (key, _), guard in self._guards.items() if key == run_key]

    def _children(self, run_key: bytes) -> list[Entry]:
        entries = [run.entry for run in self._runs.values()]
        return [entry for entry in entries if entry.folds_through and entry.parent_key == run_key]

    def guard(self, act: Act) -> None:
        """Set and lift the guards that an operation says."""
        if act.guard is not None:
            self._guards.setdefault((act.guard.run_key, act.guard.kind), act.guard)
        if act.unguard is not None:
            self._guards.pop((act.unguard.run_key, act.unguard.kind), None)

    # --- runs

    def delete(self, run: HeldRun) -> None:
        """Note down a run that is in no list any more; its last event goes first."""
        last = run.positions.pop() - 1
        self._events[last] = tombstone(self._events[last])
        self._pending[run.head.run_key] = run, EVERYTHING

    def _check_compacting(self, compaction: Compaction) -> None:
        key = compaction.run_key
        run = self._runs.get(key)
        if run is None or key == STORE_RUN:
            raise RunNotFound(key.hex())
        if key in self._pending:
            raise Conflict(
                f"run {run.head.run_id} is still being tidied up after it was compacted; repeat this in a moment"
            )
        check_unguarded(run.head.run_id, self._of(key))
        targets = [(bend, stored_target(self._events[run.positions[bend - run.base - 1] - 1])) for bend in run.bends]
        first = run.entry.parent_at + 1 if run.entry.parent_id is not None else 1
        standing = Standing(
            run.head.run_id, first, run.entry.origin, run.head.version,
            tuple((bend, to) for bend, to in targets if to is not None),
            tuple(child.parent_at for child in self._children(key)),
        )  # fmt: skip
        check_compaction(compaction.at, standing)

    def compact(self, compaction: Compaction) -> None:
        """Set a run's origin, and note down what goes."""
        run = self._runs[compaction.run_key]
        run.entry = replace(run.entry, origin=compaction.at)
        run.bends[:] = [bend for bend in run.bends if bend > compaction.at]
        self._pending[compaction.run_key] = run, compaction.at

    def clear(self, limit: int) -> Cleared:
        """Tidy up, at most so many rows."""
        events, left = 0, max(limit, 1)
        for key, (run, upto) in list(self._pending.items()):
            count = min(left, len(run.positions), max(upto - run.base - 1, 0))
            for position in run.positions[:count]:
                self._events[position - 1] = tombstone(self._events[position - 1])
            del run.positions[:count]
            run.base += count
            events, left = events + count, left - count
            if not left:
                return Cleared(events, left=True)
            rows: tuple[dict[int, Checkpoint] | dict[int, bytes] | dict[int, int], ...]
            rows = run.marks, run.snapshots, run.vouched
            for table in rows:
                for version in [version for version in table if version < upto][:left]:
                    del table[version]
                    left -= 1
            if not left:
                return Cleared(events, left=True)
            del self._pending[key]
        return Cleared(events, left=False)

    # --- blobs

    def keep(self, held: Mapping[bytes, bytes]) -> None:
        """Keep blobs, anew if a sweep goes on."""
        for name, stored in held.items():
            self._blobs.setdefault(name, stored)
            if self._sweeping:
                self._anew.add(name)

    def lacks(self, names: Iterable[bytes]) -> bool:
        """Whether one of these can't be taken for written."""
        return not all(name in self._blobs and (not self._sweeping or name in self._anew) for name in names)

    def sweep(self, step: Sweep) -> Swept:
        """One step of a sweep. Raises Conflict."""
        if not step.mark:
            self._mark += 1
            self._sweeping = True
            self._anew.clear()
            return Swept(self._mark)
        if step.mark != self._mark or not self._sweeping:
            raise Conflict("another sweep has begun since, or this one has ended; begin anew")
        gone = [self._blobs.pop(name) for name in step.forget if name in self._blobs and name not in self._anew]
        if step.end:
            self._sweeping = False
            self._anew.clear()
        return Swept(self._mark, len(gone), sum(map(len, gone)))
