"""The log in memory: everything a durable log promises but durability. For tests, and for runs that may be lost.

It keeps the same stored bytes, so digests, chains and snapshots are the same as on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from eventflow.checkpoint import Checkpoint, merged
from eventflow.clock import Clock, SystemClock
from eventflow.codec import TOMBSTONE, Stored, pack, unpack_blob
from eventflow.errors import Conflict, Corrupt, EventflowError, HasForks, StoreClosed, VersionConflict
from eventflow.event import StoreCreated
from eventflow.log.protocol import (
    NOBODY,
    STORE_RUN,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Entry,
    Head,
    Kept,
    Listed,
    Post,
    Posted,
    Query,
    Upkeep,
    Usage,
    Write,
    admit,
    fits,
    store_append,
)
from eventflow.proof import digest


@dataclass(slots=True)
class _Run:
    """What is kept of one run."""

    head: Head
    entry: Entry
    base: int  # versions at or below this one are the parent's
    positions: list[int] = field(default_factory=list)
    bends: list[int] = field(default_factory=list)
    vouched: dict[int, int] = field(default_factory=dict)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    marks: dict[int, Checkpoint] = field(default_factory=dict)
    inbox: dict[int, bytes] = field(default_factory=dict)


class MemoryLog:
    """A log in memory."""

    durable = False
    readonly = False

    def __init__(self, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.store_id = clock.uuid7()
        self._lock = threading.RLock()
        self._events: list[bytes] = []
        self._runs: dict[bytes, _Run] = {}
        self._names: dict[str, bytes] = {}
        self._last_incarnation: dict[str, int] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._owners: set[bytes] = set()
        self._messages = 0
        self._changes = 0
        self._closed = False
        self.write([Act(pack(StoreCreated(self.store_id)), clock.now())])

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """Take a batch; an answer or an error for each write."""
        with self._lock:
            self._check_open()
            self._changes += 1
            return [self._write(one) for one in batch]

    def _write(self, one: Write) -> Answer | EventflowError:
        try:
            match one:
                case Append():
                    return self._append(one)
                case Upkeep():
                    return Kept(self._upkeep(one))
                case Act():
                    return self._act(one)
                case Post():
                    return self._post(one)
        except (Conflict, Corrupt) as error:
            return error

    def _append(self, append: Append) -> Appended:
        run = self._runs.get(append.run_key)
        held = self._names.get(append.run_id)
        if held is not None and held != append.run_key:
            raise VersionConflict(append.run_id, append.expected, self._runs[held].head.version)
        sealed = admit(append, run.head if run else None, self.owner_gone)
        if run is None:
            if append.first is None:
                raise Corrupt(append.run_id, "is appended to before it was started")
            run = self._runs[append.run_key] = _Run(sealed.head, append.first.entry, append.first.at)
            self._names[append.run_id] = append.run_key
        for packed, data in zip(append.events, sealed.data, strict=True):
            self._events.append(data)
            run.positions.append(len(self._events))
            self._keep(packed.blobs)
        run.head = sealed.head
        run.bends.extend(sealed.bends)
        run.vouched.update(sealed.vouched)
        for message in append.taken:
            run.inbox.pop(message, None)
        self._mark(run, append.marks)
        size = sum(map(len, sealed.data)) + sum(blob.size for packed in append.events for blob in packed.blobs)
        return Appended(sealed.head, len(self._events), sealed.digests, size)

    def _keep(self, blobs: Iterable[object]) -> None:
        for blob in blobs:
            self._blobs.setdefault(blob.digest, blob.stored)  # type: ignore[attr-defined]

    def _mark(self, run: _Run, marks: Iterable[Checkpoint]) -> None:
        for mark in marks:
            run.marks[mark.version] = merged(run.marks.get(mark.version), mark)

    def _upkeep(self, upkeep: Upkeep) -> bool:
        run = self._runs.get(upkeep.run_key)
        if run is None:
            raise Corrupt("upkeep", "is for a run that is not there")
        whole = True
        if upkeep.snapshot is not None:
            whole = all(name in self._blobs for name in upkeep.snapshot.known)
            if whole:
                self._keep(upkeep.snapshot.blobs)
                run.snapshots[upkeep.snapshot.version] = upkeep.snapshot.root
        if whole:
            self._mark(run, upkeep.marks)
        for version in upkeep.drop:
            run.marks.pop(version, None)
            run.snapshots.pop(version, None)
            run.vouched.pop(version, None)
        return whole

    def _act(self, act: Act) -> Acted:
        store = self._runs.get(STORE_RUN)
        if act.delete_run is not None:
            self._delete(act.delete_run)
        if act.upkeep is not None and not self._upkeep(act.upkeep):
            raise Corrupt("the snapshot", "takes pieces for written that are not there")
        appended = self._append(store_append(act, store.head if store else None, self.store_id))
        return Acted(appended.head.version)

    def _delete(self, head: Head) -> None:
        run = self._runs.get(head.run_key)
        if run is None or run.head != head:
            raise VersionConflict(head.run_id, head.version, run.head.version if run else 0)
        if self.children(head.run_key):
            raise HasForks(head.run_id)
        for position, name in zip(run.positions, self._digests(run), strict=True):
            self._events[position - 1] = TOMBSTONE + name
        del self._runs[head.run_key], self._names[head.run_id]
        self._last_incarnation[head.run_id] = head.incarnation

    def _digests(self, run: _Run) -> list[bytes]:
        return [digest(self._events[position - 1]) for position in run.positions]

    def _post(self, post: Post) -> Posted:
        run = self._runs.get(post.run_key)
        if run is None:
            raise Corrupt("the message", "is for a run that is not there")
        self._messages += 1
        run.inbox[self._messages] = post.data
        return Posted(self._messages)

    # --- reading

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        with self._lock:
            key = self._names.get(run_id)
            return self.head_of(key) if key is not None and key != STORE_RUN else None

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key."""
        with self._lock:
            self._check_open()
            run = self._runs.get(run_key)
            return run.head if run else None

    def next_incarnation(self, run_id: str) -> int:
        """1, or one more than the deleted run's."""
        return self._last_incarnation.get(run_id, 0) + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        run = self._runs.get(run_key)
        return run.entry if run else None

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        with self._lock:
            found = sorted(name for name, key in self._names.items() if name.startswith(prefix) and key != STORE_RUN)
        return found[:limit]

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        with self._lock:
            return [key for key, run in self._runs.items() if run.entry.parent_key == run_key != NOBODY]

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        with self._lock:
            every = [Listed(run.entry, run.head) for key, run in self._runs.items() if key != STORE_RUN]
        every.sort(key=lambda one: (one.entry.started, one.head.run_key), reverse=True)
        return [one for one in every if fits(one, query)][: query.limit]

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included."""
        with self._lock:
            self._check_open()
            run = self._runs.get(run_key)
            if run is None:
                return []
            positions = run.positions[max(first - run.base - 1, 0) : max(last - run.base, 0)]
            return [Stored(position, self._events[position - 1]) for position in positions]

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store in order of position."""
        with self._lock:
            self._check_open()
            found = self._events[after : after + limit]
        return [Stored(after + index, data) for index, data in enumerate(found, 1)]

    def position(self) -> int:
        """The position of the last event."""
        return len(self._events)

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends."""
        run = self._runs.get(run_key)
        return list(run.bends) if run else []

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by digest, checked."""
        try:
            return {name: unpack_blob(self._blobs[name], name) for name in names}
        except KeyError as missing:
            raise Corrupt(f"blob {missing.args[0].hex()[:12]}", "is missing") from None

    def snapshots(self, run_key: bytes, upto: int) -> list[tuple[int, int]]:
        """A run's snapshots up to a version, newest first, each with the version that vouches for it."""
        run = self._runs.get(run_key)
        if run is None:
            return []
        versions = sorted((version for version in run.snapshots if version <= upto), reverse=True)
        return [(version, run.vouched.get(version, 0)) for version in versions]

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root."""
        run = self._runs.get(run_key)
        return run.snapshots.get(version) if run else None

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        run = self._runs.get(run_key)
        return [run.marks[version] for version in sorted(run.marks)] if run else []

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages by number."""
        run = self._runs.get(run_key)
        return sorted(run.inbox.items()) if run else []

    def mail(self) -> list[bytes]:
        """The keys of runs that have messages waiting."""
        with self._lock:
            return [key for key, run in self._runs.items() if run.inbox]

    # --- owners, and the rest

    def owner_gone(self, owner: bytes) -> bool:
        """Whether an owner has ended."""
        return owner == NOBODY or owner not in self._owners

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it."""
        self._owners.add(owner)
        return lambda: self._owners.discard(owner)

    def change_mark(self) -> int:
        """A number that changes with every write."""
        return self._changes

    def usage(self) -> Usage:
        """What the log holds."""
        with self._lock:
            rows = {
                "events": len(self._events),
                "blobs": len(self._blobs),
                "snapshots": sum(len(run.snapshots) for run in self._runs.values()),
            }
            sizes = {
                "events": sum(map(len, self._events)),
                "blobs": sum(map(len, self._blobs.values())),
                "snapshots": sum(len(root) for run in self._runs.values() for root in run.snapshots.values()),
            }
        return Usage(rows, sizes, 0, 0, len(self._events))

    def close(self) -> None:
        """Let go; later calls raise StoreClosed."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("this store was closed; open it again")
