"""What can be verified of a run whose values can't be read, for want of a key or because the key was destroyed.

Digests and the chain are over the bytes as they are stored, so density, places, chain, head and bends are checked as ever.
What the values are, whether they fold to the snapshots, and what a compacted run begins with, only a key can tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventflow.codec import KEY, LOCKED_ROOT, Stored, decode, key_id_of, read_events
from eventflow.errors import Corrupt
from eventflow.event import CheckpointCreated, Forked, Recorded, Rewound, RunCompacted, RunStarted
from eventflow.log import STORE_RUN, STORE_VOUCH, Entry, Head, LockedLog, Log
from eventflow.proof import digest, genesis
from eventflow.recovery import history, line


def outside(log: Log, head: Head, entry: Entry | None) -> Iterator[Recorded]:
    """Each event of a run's own history, checked as far as it can be without its values. Raises Corrupt."""
    if entry is None:
        raise Corrupt("the run list", "does not have this run")
    first = max(entry.parent_at + 1, entry.origin)
    before: bytes | None = None
    bends: list[int] = []
    version = first - 1
    for recorded in history(log, head.run_key, first, head.version, strict=True, hidden=True):
        version += 1
        if (recorded.version, recorded.run_key, recorded.incarnation) != (version, head.run_key, head.incarnation):
            raise Corrupt(f"version {version}", "is missing, or another event stands at its place")
        if version == first:
            before = recorded.before if version == entry.origin else _first_before(log, head, recorded)
        if recorded.before != before:
            raise Corrupt(f"version {version}", "does not follow the event before it: the chain is broken")
        bends += [version] if isinstance(recorded.event, Forked | Rewound) and version != entry.origin else []
        before = recorded.digest
        yield recorded
    if (version, before) != (head.version, head.digest):
        raise Corrupt(
            "the head", f"speaks of version {head.version}, the history ends at {version}, or at another event"
        )
    if bends != [one for one in log.bends(head.run_key) if first <= one <= head.version]:
        raise Corrupt("the index of rewinds and forks", "is not what the history says")


def check_origin(log: Log, head: Head, entry: Entry) -> None:
    """Look whether what a compacted run begins with is there, of this run, and under the run's own key. Raises Corrupt.

    That it holds what the event which vouches for it says, only the key can tell.
    """
    where, bare = f"the snapshot at version {entry.origin}", log.inner if isinstance(log, LockedLog) else log
    root = bare.snapshot(head.run_key, entry.origin)
    by = dict(bare.snapshots(head.run_key, entry.origin, limit=1)).get(entry.origin, 0)
    stream, version = (STORE_RUN, by ^ STORE_VOUCH) if by & STORE_VOUCH else (head.run_key, by)
    vouching, first = bare.read(stream, version, version), bare.read(head.run_key, entry.origin, entry.origin)
    if root is None or not vouching or not first:
        raise Corrupt(where, "is what the run was compacted to, and is missing, or nothing vouches for it")
    (recorded,) = read_events(vouching, bare.blobs, hidden=True)
    if recorded.vouch is None or recorded.vouch.version != entry.origin or not _speaks_of(recorded, head):
        raise Corrupt(where, "is not the one that the chain speaks of")
    key_id = _key_id(first[0])
    if root[:1] != LOCKED_ROOT or not key_id or not key_id == key_id_of(root[1:]) == _key_id(vouching[0]):
        raise Corrupt(where, "is not under the key of its run")


def _speaks_of(recorded: Recorded, head: Head) -> bool:
    """Whether an event is of a run, or one of the store's stream about it."""
    match recorded.event:
        case RunCompacted() as event:
            told = event.run_key, event.run_id, event.incarnation
            return told == (head.run_key, head.run_id, head.incarnation)
        case CheckpointCreated() as event:
            return (event.run_key, event.run_id) == (head.run_key, head.run_id)
    return recorded.run_key == head.run_key


def _key_id(stored: Stored) -> bytes:
    """The id of the key that an event's header names."""
    found = decode(stored.data, f"the event at position {stored.position}")[8].get(KEY, b"")
    return found if isinstance(found, bytes) else b""


def _first_before(log: Log, head: Head, recorded: Recorded) -> bytes:
    """What a run's first event must follow. Raises Corrupt."""
    event = recorded.event
    if isinstance(event, RunStarted) and event.run_id == head.run_id:
        return genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
    if isinstance(event, Forked) and event.run_id == head.run_id:
        run_key = line(log, event.parent_key, event.at)[-1].run_key
        stored = log.read(run_key, event.at, event.at)
        if stored:
            return digest(stored[0].data)
    raise Corrupt(f"version {recorded.version}", "is not how a run of this id begins")
