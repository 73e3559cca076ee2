"""From a log to a state at any version: the newest snapshot on the line, and a fold of the events after it.

One function stands behind crash recovery, resume, time travel and forks, so that what replay shows is what a crash would
restore. Every event is checked against the chain on the way; a snapshot is taken only if the chain vouches for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from eventflow.checkpoint import Progress
from eventflow.codec import Stored, decode, read_events, root_digest, unpack_state
from eventflow.costs import UNTIMED, Timed
from eventflow.errors import Corrupt, VersionCompacted, VersionNotFound
from eventflow.event import CheckpointCreated, Event, Forked, Recorded, Rewound, RunCompacted, RunStarted, Vouch
from eventflow.log import STORE_RUN, STORE_VOUCH, Appended, Head, LockedLog, Log
from eventflow.proof import digest, genesis
from eventflow.state import Parent, State, evolve

LOOK = 4  # snapshots asked for in one go: the newest may not be vouched for yet
CHUNK = 1_000  # events read in one go: a few ms under a read transaction, a few MB in memory
NEAR = 64  # events: to fold so many costs no more than to find a snapshot and fold what came after it


@dataclass(frozen=True, slots=True)
class Segment:
    """Versions `first` to `last` of one run: a stretch of a line."""

    run_key: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """A state, the version of the snapshot it was folded from (0: from the start), what came since, what that took."""

    state: State
    snapshot: int
    folded: int
    progress: Progress
    timed: Timed = UNTIMED


def recover(
    log: Log, head: Head, upto: int | None = None, *, snapshots: bool = True, monotonic: Callable[[], float] | None = None
) -> Recovered:  # fmt: skip
    """The state of a run at version `upto`, its newest if None; `snapshots=False` folds from the start.

    The start of a run that was compacted is its origin, a snapshot. `monotonic` is a clock's, to say what it took.
    Raises VersionNotFound (VersionCompacted for what lies before the origin), Corrupt, WrittenByNewer.
    """
    segments: list[Segment] = []
    try:
        return _recovered(log, head, upto, segments, snapshots=snapshots, monotonic=monotonic)
    except Corrupt:
        if segments == line(log, head.run_key, head.version if upto is None else upto):
            raise
    return _recovered(log, head, upto, [], snapshots=snapshots, monotonic=monotonic)  # it was compacted in between


def _recovered(
    log: Log, head: Head, upto: int | None, found: list[Segment], *, snapshots: bool, monotonic: Callable[[], float] | None
) -> Recovered:  # fmt: skip
    """What `recover` returns; the line it goes along is added to `found`."""
    began = monotonic() if monotonic else 0.0
    last = head.version if upto is None else upto
    if not 1 <= last <= head.version:
        raise VersionNotFound(head.run_id, last, head.version)
    segments = line(log, head.run_key, last)
    found.extend(segments)
    end = segments[-1]
    state, size, segments = _from_snapshot(log, segments) if snapshots else _from_start(log, segments)
    loaded = monotonic() if monotonic else 0.0
    start = state.version if state else 0
    progress = Progress(state_size=size, last=state.time if state else 0)
    folded = 0
    for recorded in _events(log, segments, state):
        state = _after(log, state, recorded)
        progress.add(recorded.size)
        folded += 1
    if state is None:
        raise VersionNotFound(head.run_id, last, head.version)
    _check_end(log, head, end, state)
    if not progress.last:
        progress.last = state.run.started
    done = monotonic() if monotonic else 0.0
    timed = Timed(loaded - began, size, done - loaded, folded, progress.state_size - size)
    return Recovered(state, start, folded, progress, timed)


def followed(found: Recovered | None, events: Sequence[Event], answer: Appended, before: bytes) -> Recovered:
    """What a recovery would find after events that were appended just now to what it found before; None for a run's first.

    `before` is the digest that the first of them follows. Nothing is read: what the log has answered is what it holds.
    """
    head, count = answer.head, len(events)
    state = None if found is None else found.state
    progress = Progress(last=head.updated) if found is None else replace(found.progress)
    for number, event in enumerate(events, 1 - count):
        digest = answer.digests[number - 1 + count]
        recorded = Recorded(
            event, head.run_key, head.incarnation, head.version + number, answer.position + number, head.epoch, head.updated,
            digest, before, size=answer.size // count,
        )  # fmt: skip
        state, before = evolve(state, recorded), digest
        progress.add(recorded.size)
    assert state is not None  # noqa: S101 - a run's first event makes one
    if found is None:
        return Recovered(state, 0, count, progress)
    return replace(found, state=state, folded=found.folded + count, progress=progress)


def fold_on(log: Log, state: State, upto: int) -> State:
    """A state after more events of its own run, read and checked as a recovery does; no rewind may lie between.

    Raises VersionNotFound, Corrupt, WrittenByNewer.
    """
    for recorded in _events(log, [Segment(state.run.run_key, state.version + 1, upto)], state):
        state = evolve(state, recorded)
    return state


def caught_up(log: Log, head: Head, seen: State | None) -> State:
    """The newest state of a run from one that was recovered before: only the events since are read, if any came.

    The same as `recover` would find, and raises what it raises; it does the work where too much has happened since, and
    where values are encrypted: the key may have been destroyed since.
    """
    if isinstance(log, LockedLog):
        seen = None
    if seen is not None and (seen.run.run_key, seen.run.incarnation) == (head.run_key, head.incarnation):
        if seen.digest == head.digest:
            return seen
        if 0 < head.version - seen.version <= NEAR:
            with suppress(
                Corrupt
            ):  # what comes after a rewind does not follow; it may have been compacted or deleted, too
                state = fold_on(log, seen, head.version)
                if state.digest == head.digest:
                    return state
    return recover(log, head).state


def load_again(log: Log, run_key: bytes, version: int) -> int:
    """Read and check a snapshot, as a recovery does; its size, 0 where there is none. Raises Corrupt, WrittenByNewer."""
    root = log.snapshot(run_key, version)
    if root is None:
        return 0
    where = f"the snapshot at version {version}"
    root_digest(root, where)
    return unpack_state(root, log.blobs, where)[1]


def walk(log: Log, head: Head, upto: int | None = None, *, after: int = 0) -> Iterator[tuple[Recorded, State]]:
    """Each event on the line of a version with the state it led to, oldest first, folded and checked as it goes.

    `upto` is the newest version if None; `after` skips the line up to that version, which must lie on it. One state is
    held at a time. Raises VersionNotFound, Corrupt, WrittenByNewer.
    """
    last = head.version if upto is None else upto
    if not 1 <= last <= head.version:
        raise VersionNotFound(head.run_id, last, head.version)
    segments = line(log, head.run_key, last)
    end = segments[-1]
    if after < segments[0].first and segments[0].first > 1:  # compacted: its origin is the first that can be told of
        state: State | None
        state, _, segments = _from_start(log, segments)
        assert state is not None  # noqa: S101 - such a line begins with a snapshot
        after = state.version
        yield _one(log, state.run.run_key, after), state
    else:
        state = recover(log, head, after).state if after else None
    for recorded in _events(log, _following(segments, after), state):
        state = _after(log, state, recorded)
        yield recorded, state
    if state is not None:
        _check_end(log, head, end, state)


def _following(segments: list[Segment], after: int) -> list[Segment]:
    """The part of a line after a version; versions rise along a line, whatever bends it has."""
    return [replace(one, first=max(one.first, after + 1)) for one in segments if one.last > after]


def _after(log: Log, state: State | None, recorded: Recorded) -> State:
    if state is not None and isinstance(recorded.event, Rewound) and recorded.run_key != state.run.run_key:
        state = as_own(log, state, recorded.run_key)
    return evolve(state, recorded)


def as_own(log: Log, state: State, run_key: bytes) -> State:
    """A state from before a fork as the fork's own: a rewind to there goes on under the fork's name."""
    entry = log.entry(run_key)
    forked = _one(log, run_key, entry.parent_at + 1 if entry else 1)
    event = forked.event
    if not isinstance(event, Forked):
        raise Corrupt(f"version {forked.version}", "is taken for a fork and is none")
    parent = Parent(event.parent_id, event.parent_key, event.parent_incarnation, event.at)
    identity = replace(
        state.run, run_id=event.run_id, run_key=run_key, incarnation=forked.incarnation, store_id=event.store_id,
        parent=parent, started=forked.time, caller=None, deadline=0,
        policy=state.run.policy if event.effects is None else event.effects,
    )  # fmt: skip
    return replace(state, run=identity)


def history(
    log: Log, run_key: bytes, first: int, last: int, *, strict: bool = False, hidden: bool = False
) -> Iterator[Recorded]:
    """Recorded events of one run, as they were written, in chunks; the chain is not checked here.

    With `hidden`, values that can't be read for want of a key are placeholders; else NoKey or Shredded is raised.
    """
    for start in range(first, last + 1, CHUNK):
        stored = log.read(run_key, start, min(start + CHUNK - 1, last))
        yield from read_events(stored, log.blobs, strict=strict, hidden=hidden)


# --- the line ------------------------------------------------------------------------------------------------------


def line(log: Log, run_key: bytes, last: int) -> list[Segment]:
    """The stretches whose events fold to the state at version `last` of a run, oldest first.

    The line of a run that was compacted begins with its origin. Raises VersionCompacted for what lies before it.
    """
    found: list[Segment] = []
    while True:
        bend = max((version for version in log.bends(run_key) if version <= last), default=0)
        if not bend:
            parent, origin = _home(log, run_key, last)
            if parent == run_key:
                found.append(Segment(run_key, origin or 1, last))
                return found[::-1]
            run_key = parent
            continue
        found.append(Segment(run_key, bend, last))
        event = _one(log, run_key, bend, hidden=True).event  # where it bends to stands in the header
        if isinstance(event, Rewound) and 1 <= event.to < bend:
            last = event.to
        elif isinstance(event, Forked) and event.at == bend - 1 >= 1:
            run_key, last = event.parent_key, event.at
        else:
            raise Corrupt(f"version {bend}", "is taken for a rewind or a fork and is neither")


def _home(log: Log, run_key: bytes, version: int) -> tuple[bytes, int]:
    """The key and the origin of the run a version lies in: a fork's versions up to the one it continues from are its parent's.

    Raises VersionCompacted.
    """
    seen: set[bytes] = set()
    while (entry := log.entry(run_key)) is not None:
        if version < entry.origin:
            head = log.head_of(run_key)
            if head is not None:
                raise VersionCompacted(head.run_id, version, entry.origin, head.version)
        if entry.parent_id is None or version > entry.parent_at:
            return run_key, entry.origin
        seen.add(run_key)
        run_key = entry.parent_key
        if run_key in seen:
            raise Corrupt(f"run {run_key.hex()}", "is among its own parents")
    return run_key, 0


def _one(log: Log, run_key: bytes, version: int, *, hidden: bool = False) -> Recorded:
    return read_events([_stored(log, run_key, version)], log.blobs, hidden=hidden)[0]


def _stored(log: Log, run_key: bytes, version: int) -> Stored:
    found = log.read(run_key, version, version)
    if not found:
        raise Corrupt(f"version {version}", "is missing")
    return found[0]


# --- the snapshot --------------------------------------------------------------------------------------------------


def _from_snapshot(log: Log, segments: list[Segment]) -> tuple[State | None, int, list[Segment]]:
    """The newest vouched state on the line, its size, and the stretches left to fold after it."""
    for index in range(len(segments) - 1, -1, -1):
        segment = segments[index]
        for version, vouched_by in _newest_first(log, segment):
            if version < segment.first:
                break
            if not vouched_by:  # nothing in the chain answers for it yet: the one before will do
                continue
            loaded = _load(log, segment.run_key, version, vouched_by)
            if loaded is None:
                continue
            state, size = loaded
            rest = [Segment(segment.run_key, version + 1, segment.last)] if version < segment.last else []
            return state, size, rest + segments[index + 1 :]
    return _from_start(log, segments)


def _from_start(log: Log, segments: list[Segment]) -> tuple[State | None, int, list[Segment]]:
    """What a line begins with: nothing, or the origin of a run that was compacted. Raises Corrupt if that is not there."""
    start = segments[0]
    if start.first == 1:
        return None, 0, segments
    vouched = dict(log.snapshots(start.run_key, start.first, limit=1)).get(start.first, 0)
    loaded = _load(log, start.run_key, start.first, vouched) if vouched else None
    if loaded is None:
        raise Corrupt(f"version {start.first}", "is what its run was compacted to, and its snapshot is missing")
    return loaded[0], loaded[1], _following(segments, start.first)


def _newest_first(log: Log, segment: Segment) -> Iterator[tuple[int, int]]:
    """The snapshots of a run up to a segment's end, a few at a time: one of the newest will nearly always do."""
    upto = segment.last
    while found := log.snapshots(segment.run_key, upto, limit=LOOK):
        yield from found
        upto = found[-1][0] - 1


def _load(log: Log, run_key: bytes, version: int, vouched_by: int) -> tuple[State, int] | None:
    """A state and its size from a snapshot; None if it was dropped since it was listed."""
    where = f"the snapshot at version {version}"
    root = log.snapshot(run_key, version)
    vouch = vouch_by(log, run_key, vouched_by)
    if root is None:
        return None
    if vouch is None or vouch.version != version:
        raise Corrupt(where, "is not the one that the chain speaks of")
    if root_digest(root, where) != vouch.digest:
        raise Corrupt(where, "is not what the chain vouches for")
    state, size = unpack_state(root, log.blobs, where)
    if state.version != version or state.run.run_key != run_key:
        raise Corrupt(where, "is of another version or run")
    return state, size


def vouch_by(log: Log, run_key: bytes, by: int) -> Vouch | None:
    """What the event at a version says of a snapshot of a run: one of the run's own, or of the store's by hand."""
    if not by & STORE_VOUCH:
        return _one(log, run_key, by).vouch
    recorded = _one(log, STORE_RUN, by ^ STORE_VOUCH)
    event = recorded.event
    return recorded.vouch if isinstance(event, CheckpointCreated | RunCompacted) and event.run_key == run_key else None


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
                if recorded.before != before or type(recorded.event) in _RECKONED:
                    _check_before(log, recorded, before)
                before = recorded.digest
                expected += 1
                yield recorded
        if expected != segment.last + 1:
            raise Corrupt(f"version {expected}", "is missing")


_RECKONED = frozenset({RunStarted, Rewound})  # what these follow is not simply the event before them on the line


def _check_before(log: Log, recorded: Recorded, before: bytes | None) -> None:
    event = recorded.event
    wanted = before
    if isinstance(event, RunStarted):
        wanted = genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
    elif isinstance(event, Rewound) and event.to != recorded.version - 1:
        # The chain goes on from the version before, which is not on this line; what the line goes on from has a
        # follower of its own.
        if _before_of(log, _home(log, recorded.run_key, event.to + 1)[0], event.to + 1) != before:
            raise Corrupt(f"version {event.to}", "is not what the event after it says it is: the chain is broken")
        wanted = digest(_stored(log, recorded.run_key, recorded.version - 1).data)
    if recorded.before != wanted:
        raise Corrupt(f"version {recorded.version}", "does not follow the event before it: the chain is broken")


def _check_end(log: Log, head: Head, end: Segment, state: State) -> None:
    """The last event must be what the one after it, or the head of its run, says it is."""
    if state.run.run_key == head.run_key and state.run.run_id != head.run_id:
        raise Corrupt(f"run {head.run_id}", f"holds the history of run {state.run.run_id}")
    if (end.run_key, end.last) == (head.run_key, head.version):
        if state.digest != head.digest:
            raise Corrupt(f"run {head.run_id}", "does not fold to the head that the store names")
    elif _before_of(log, end.run_key, end.last + 1) != state.digest:
        raise Corrupt(f"version {end.last}", "is not what the event after it says it is: the chain is broken")


def _before_of(log: Log, run_key: bytes, version: int) -> bytes | None:
    """The digest before a version: what its event carries, or the run's head if the run ends before it."""
    for _ in range(2):  # an event may come between the two looks
        found = log.read(run_key, version, version)
        if found:
            array = decode(found[0].data, f"version {version}")
            return bytes(array[-1]) if isinstance(array, list) and array and isinstance(array[-1], bytes) else None
        head = log.head_of(run_key)
        if head is not None and head.version == version - 1:
            return head.digest
    return None
