"""From a log to a state at any version: the newest snapshot on the line, and a fold of the events after it.

One function stands behind crash recovery, resume, time travel and forks, so that what replay shows is what a crash would
restore. Every event is checked against the chain on the way; a snapshot is taken only if the chain vouches for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eventflow.checkpoint import Progress
from eventflow.codec import read_events, root_digest, unpack_state
from eventflow.errors import Corrupt, VersionNotFound
from eventflow.event import Forked, Recorded, Rewound, RunStarted
from eventflow.log import Head, Log
from eventflow.proof import genesis
from eventflow.state import State, evolve

CHUNK = 1_000  # events read in one go: a few ms under a read transaction, a few MB in memory


@dataclass(frozen=True, slots=True)
class Segment:
    """Versions `first` to `last` of one run: a stretch of a line."""

    run_key: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """A state, the version of the snapshot it was folded from (0: from the start), and what came since."""

    state: State
    snapshot: int
    folded: int
    progress: Progress


def recover(log: Log, head: Head, upto: int | None = None, *, snapshots: bool = True) -> Recovered:
    """The state of a run at version `upto`, its newest if None; `snapshots=False` folds from the start.

    Raises VersionNotFound, Corrupt, WrittenByNewer.
    """
    last = head.version if upto is None else upto
    if not 1 <= last <= head.version:
        raise VersionNotFound(head.run_id, last, head.version)
    segments = line(log, head.run_key, last)
    state, size, segments = _from_snapshot(log, segments) if snapshots else (None, 0, segments)
    start = state.version if state else 0
    progress = Progress(state_size=size, last=state.time if state else 0)
    folded = 0
    for recorded in _events(log, segments, state):
        state = evolve(state, recorded)
        progress.add(recorded.size)
        folded += 1
    if state is None:
        raise VersionNotFound(head.run_id, last, head.version)
    if last == head.version and state.digest != head.digest:
        raise Corrupt(f"run {head.run_id}", "does not fold to the head that the store names")
    if not progress.last:
        progress.last = state.run.started
    return Recovered(state, start, folded, progress)


def history(log: Log, run_key: bytes, first: int, last: int, *, strict: bool = False) -> Iterator[Recorded]:
    """Recorded events of one run, as they were written, in chunks; the chain is not checked here."""
    for start in range(first, last + 1, CHUNK):
        stored = log.read(run_key, start, min(start + CHUNK - 1, last))
        yield from read_events(stored, log.blobs, strict=strict)


# --- the line ------------------------------------------------------------------------------------------------------


def line(log: Log, run_key: bytes, last: int) -> list[Segment]:
    """The stretches whose events fold to the state at version `last` of a run, oldest first."""
    found: list[Segment] = []
    while True:
        bend = max((version for version in log.bends(run_key) if version <= last), default=0)
        if not bend:
            parent = _parent_before(log, run_key, last)
            if parent is None:
                found.append(Segment(run_key, 1, last))
                return found[::-1]
            run_key = parent
            continue
        found.append(Segment(run_key, bend, last))
        event = _one(log, run_key, bend).event
        if isinstance(event, Rewound):
            last = event.to
        elif isinstance(event, Forked):
            run_key, last = event.parent_key, event.at
        else:
            raise Corrupt(f"version {bend}", "is taken for a rewind or a fork and is neither")


def _parent_before(log: Log, run_key: bytes, version: int) -> bytes | None:
    """The parent's key if the version lies before a fork's first own one (a rewind to before the fork)."""
    entry = log.entry(run_key)
    if entry is None or entry.parent_id is None or version > entry.parent_at:
        return None
    return entry.parent_key


def _one(log: Log, run_key: bytes, version: int) -> Recorded:
    stored = log.read(run_key, version, version)
    if not stored:
        raise Corrupt(f"version {version}", "is missing")
    return read_events(stored, log.blobs)[0]


# --- the snapshot --------------------------------------------------------------------------------------------------


def _from_snapshot(log: Log, segments: list[Segment]) -> tuple[State | None, int, list[Segment]]:
    """The newest vouched state on the line, its size, and the stretches left to fold after it."""
    for index in range(len(segments) - 1, -1, -1):
        segment = segments[index]
        for version, vouched_by in log.snapshots(segment.run_key, segment.last):
            if version < segment.first:
                break
            if not vouched_by:  # nothing in the chain answers for it yet: the one before will do
                continue
            state, size = _load(log, segment.run_key, version, vouched_by)
            rest = [Segment(segment.run_key, version + 1, segment.last)] if version < segment.last else []
            return state, size, rest + segments[index + 1 :]
    return None, 0, segments


def _load(log: Log, run_key: bytes, version: int, vouched_by: int) -> tuple[State, int]:
    where = f"the snapshot at version {version}"
    root = log.snapshot(run_key, version)
    vouch = _one(log, run_key, vouched_by).vouch
    if root is None or vouch is None or vouch.version != version:
        raise Corrupt(where, "is not the one that the chain speaks of")
    if root_digest(root, where) != vouch.digest:
        raise Corrupt(where, "is not what the chain vouches for")
    state, size = unpack_state(root, log.blobs, where)
    if state.version != version or state.run.run_key != run_key:
        raise Corrupt(where, "is of another version or run")
    return state, size


# --- the events ----------------------------------------------------------------------------------------------------


def _events(log: Log, segments: list[Segment], state: State | None) -> Iterator[Recorded]:
    """The events of a line after a state, each checked to follow the one before."""
    before = state.digest if state else None
    for segment in segments:
        expected = segment.first
        for start in range(segment.first, segment.last + 1, CHUNK):
            stored = log.read(segment.run_key, start, min(start + CHUNK - 1, segment.last))
            for recorded in read_events(stored, log.blobs):
                if recorded.version != expected or recorded.run_key != segment.run_key:
                    raise Corrupt(f"version {expected}", "is missing, or stands at another event's place")
                _check_before(log, recorded, before)
                before = recorded.digest
                expected += 1
                yield recorded
        if expected != segment.last + 1:
            raise Corrupt(f"version {expected}", "is missing")


def _check_before(log: Log, recorded: Recorded, before: bytes | None) -> None:
    event = recorded.event
    wanted = before
    if isinstance(event, RunStarted):
        wanted = genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
    elif isinstance(event, Rewound):  # the chain goes on from the version before, which is not on this line
        wanted = _digest_at(log, recorded.run_key, recorded.version - 1, before, event)
    if recorded.before != wanted:
        raise Corrupt(f"version {recorded.version}", "does not follow the event before it: the chain is broken")


def _digest_at(log: Log, run_key: bytes, version: int, before: bytes | None, event: Rewound) -> bytes | None:
    if event.to == version:
        return before
    return _one(log, run_key, version).digest
