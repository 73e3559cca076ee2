"""The log in memory: everything a durable log promises but durability. For tests, and for runs that may be lost.

It keeps the same stored bytes, so digests, chains and snapshots are the same as on disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from eventflow.checkpoint import Checkpoint, merged
from eventflow.clock import Clock, SystemClock
from eventflow.codec import TOMBSTONE, Blob, Stored, pack, unpack_blob
from eventflow.errors import (
    Conflict,
    Corrupt,
    EventflowError,
    NotFound,
    RunNotFound,
    StoreClosed,
    VersionConflict,
)
from eventflow.event import StoreCreated
from eventflow.log.checking import check_rewinds
from eventflow.log.heads import NOBODY, QUEUED, Entry, Head, Listed, Query, claimed, fits
from eventflow.log.mirror import Mirror, of_generation
from eventflow.log.protocol import (
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Bring,
    First,
    Kept,
    Post,
    Posted,
    Upkeep,
    Usage,
    Write,
    admit,
    admit_brought,
    check_parent,
    fresh,
    store_append,
)
from eventflow.log.queueing import LOOKED_AT, Bucket, Claim, Claimed, Queued, choose
from eventflow.log.removal import STEP, Clear, Guard, Sweep
from eventflow.log.tidying import HeldRun, Tidying


class MemoryLog:
    """A log in memory."""

    durable = False
    readonly = False

    def __init__(self, *, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.store_id = clock.uuid7()
        self._lock = threading.RLock()
        self._events: list[bytes] = []
        self._runs: dict[bytes, HeldRun] = {}
        self._names: dict[str, bytes] = {}
        self._gone: dict[str, Head] = {}  # what is left of deleted runs
        self._blobs: dict[bytes, bytes] = {}
        self._tidying = Tidying(self._runs, self._events, self._blobs)
        self._owners: set[bytes] = set()
        self._buckets: dict[str, Bucket] = {}
        self._messages = 0
        self._changes = 0
        self._closed = False
        self.follows = False
        self.write([Act(pack(StoreCreated(self.store_id)), clock.now())])

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """Take a batch; an answer or an error for each write."""
        with self._lock:
            self._check_open()
            self._changes += 1
            return [self._write(one) for one in batch]

    def _write(self, one: Write) -> Answer | EventflowError:  # noqa: C901, PLR0911 - a case a kind of write
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
                case Clear():
                    return self._tidying.clear(one.limit)
                case Sweep():
                    return self._tidying.sweep(one)
                case Bring():
                    return self._append(one.append, one)
                case Claim():
                    return self._claim(one)
                case Mirror():
                    return self._mirror(one)
        except (Conflict, NotFound) as error:
            return error

    def _append(self, append: Append, brought: Bring | None = None) -> Appended:
        key = self._names.get(append.run_id)
        old = self._runs[key].head if key is not None else self._gone.get(append.run_id)
        sealed = admit(append, old, self.owner_gone) if brought is None else admit_brought(brought, old)
        first = append.first if fresh(append, old) else None
        self._check(append, first)
        if first is not None:
            self._runs[append.run_key] = HeldRun(sealed.head, first.entry, first.at)
            self._names[append.run_id] = append.run_key
        run = self._runs[append.run_key]
        for data in sealed.data:
            self._events.append(data)
            run.positions.append(len(self._events))
        for packed in append.events:
            self._keep(packed.blobs)
        run.head = sealed.head
        run.bends.extend(sealed.bends)
        if append.run_key != STORE_RUN:
            run.vouched.update(sealed.vouched)
        for message in append.taken:
            del run.inbox[message]
        self._mark(run, append.marks)
        for post in append.posts:
            with contextlib.suppress(RunNotFound):
                self._post(post)
        size = sum(map(len, sealed.data)) + sum(blob.size for packed in append.events for blob in packed.blobs)
        return Appended(sealed.head, len(self._events), sealed.digests, size)

    def _check(self, append: Append, first: First | None) -> None:
        """What an append says about other rows must hold too."""
        if first is not None and append.run_key in self._runs:
            raise Conflict(f"run {append.run_id}: its run key belongs to another run; make a new one")
        if first is not None and first.entry.folds_through:
            parent = self._runs.get(first.entry.parent_key)
            check_parent(first, parent.head if parent else None, parent.entry.origin if parent else 0)
        if first is None:
            check_rewinds(append, self._runs[append.run_key].entry.origin)
        waiting = self._runs[append.run_key].inbox if first is None else {}
        for message in append.taken:
            if message not in waiting:
                raise Conflict(f"run {append.run_id}: message {message} was taken already; read the inbox again")

    def _keep(self, blobs: Iterable[Blob]) -> None:
        self._tidying.keep({blob.digest: blob.stored for blob in blobs})

    def _mark(self, run: HeldRun, marks: Iterable[Checkpoint]) -> None:
        for mark in marks:
            run.marks[mark.version] = merged(run.marks.get(mark.version), mark)

    def _run(self, run_key: bytes) -> HeldRun:
        if run_key == STORE_RUN or run_key not in self._runs:
            raise RunNotFound(run_key.hex())
        return self._runs[run_key]

    def _lacks(self, upkeep: Upkeep) -> bool:
        """Whether the log lacks a piece that a snapshot takes for written. Raises RunNotFound."""
        self._run(upkeep.run_key)
        return upkeep.snapshot is not None and self._tidying.lacks(upkeep.snapshot.known)

    def _upkeep(self, upkeep: Upkeep) -> bool:
        if self._lacks(upkeep):
            return False
        run, snapshot = self._run(upkeep.run_key), upkeep.snapshot
        if snapshot is not None:
            self._keep(snapshot.blobs)
            run.snapshots[snapshot.version] = snapshot.root
        self._mark(run, upkeep.marks)
        for version in upkeep.unmark:
            run.marks.pop(version, None)
        for version in upkeep.drop:
            run.marks.pop(version, None)
            if version != run.entry.origin:
                run.snapshots.pop(version, None)
                run.vouched.pop(version, None)
        return True

    def _act(self, act: Act) -> Acted:
        store = self._runs.get(STORE_RUN)
        if act.delete_run is not None:
            self._check_delete(act.delete_run)
        self._tidying.check(act)
        if act.upkeep is not None and self._lacks(act.upkeep):
            raise Conflict("the snapshot takes pieces for written that are not there; pack it anew")
        if act.upkeep is not None:
            self._upkeep(act.upkeep)
        if act.delete_run is not None:
            self._delete(act.delete_run)
        if act.compact is not None:
            self._tidying.compact(act.compact)
        self._tidying.guard(act)
        version = self._append(store_append(act, store.head if store else None, self.store_id)).head.version
        if act.upkeep is not None and act.upkeep.snapshot is not None and "snapshot" in act.event.header:
            run = self._run(act.upkeep.run_key)
            run.vouched.setdefault(act.upkeep.snapshot.version, STORE_VOUCH | version)
        if act.delete_run is not None or act.compact is not None:
            self._tidying.clear(STEP)
        return Acted(version)

    def _check_delete(self, head: Head) -> None:
        run = self._runs.get(head.run_key)
        if run is None or run.head != head:
            raise VersionConflict(head.run_id, head.version, run.head.version if run else 0)

    def _delete(self, head: Head) -> None:
        run = self._runs[head.run_key]
        del self._runs[head.run_key], self._names[head.run_id]
        self._gone[head.run_id] = replace(head, run_key=NOBODY, version=0)
        self._tidying.delete(run)

    def _claim(self, claim: Claim) -> Claimed:
        taken, waiting = self._queue(claim.queue)
        rate, bucket = claim.limits.rate, None
        if rate is not None:
            bucket = self._buckets.get(claim.queue, Bucket(float(rate[0]), claim.now)).filled(rate, claim.now)
        heads = []
        for one in choose(claim, taken, waiting[:LOOKED_AT], bucket):
            run = self._runs[one.head.run_key]
            run.head = claimed(run.head, claim.owner)
            heads.append(run.head)
        if bucket is not None and heads:
            self._buckets[claim.queue] = Bucket(bucket.tokens - len(heads), bucket.at)
        return Claimed(tuple(heads))

    def _queue(self, queue: str) -> tuple[list[Queued], list[Queued]]:
        """The runs of a queue that are taken, and those that wait, in the order in which they will be taken."""
        found = [run for run in self._runs.values() if run.entry.queue == queue and run.head.status in QUEUED]
        every = [
            Queued(run.head, run.entry.workflow, run.entry.priority, run.entry.queue_key, not self.owner_gone(run.head.owner))
            for run in found
        ]  # fmt: skip
        waiting = [one for one in every if not one.taken]
        waiting.sort(key=lambda one: (one.head.owner == NOBODY, -one.priority, one.head.run_key))
        return [one for one in every if one.taken], waiting

    def _mirror(self, mirror: Mirror) -> Kept:
        self._events += [TOMBSTONE + name for name in mirror.tombstones]
        for head in mirror.deleted:
            self._check_delete(head)
        for head in mirror.deleted:
            self._delete(head)
        self._gone.update({head.run_id: head for head in mirror.gone if head.run_id not in self._names})
        for compaction in mirror.compacted:
            self._tidying.compact(compaction)
        for key, version, by in mirror.vouches:
            self._run(key).vouched[version] = by
        if mirror.guards is not None:
            self._tidying.set_guards(mirror.guards)
        if mirror.inbox is not None:
            for key, run in self._runs.items():
                run.inbox = {number: data for owner, number, data in mirror.inbox if owner == key}
        self._messages = max(self._messages, mirror.messages)
        if mirror.follows is not None:
            self.follows = mirror.follows
        for key, run in self._runs.items() if mirror.generation else ():
            run.head = run.head if key == STORE_RUN else of_generation(run.head, mirror.generation)
        return Kept()

    def _post(self, post: Post) -> Posted:
        run = self._run(post.run_key)
        self._messages += 1
        run.inbox[self._messages] = post.data
        return Posted(self._messages)

    # --- reading

    @contextlib.contextmanager
    def _reading(self) -> Iterator[dict[bytes, HeldRun]]:
        """The runs by key, while nobody writes."""
        with self._lock:
            self._check_open()
            yield self._runs

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        with self._reading() as runs:
            key = self._names.get(run_id)
            return None if key is None or key == STORE_RUN else runs[key].head

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key; STORE_RUN is that of the store's own stream."""
        with self._reading() as runs:
            return runs[run_key].head if run_key in runs else None

    def next_incarnation(self, run_id: str) -> int:
        """1, or one more than that of the last run of this id."""
        with self._reading() as runs:
            key = self._names.get(run_id)
            head = self._gone.get(run_id) if key is None else runs[key].head
            return 1 if head is None else head.incarnation + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        with self._reading() as runs:
            return runs[run_key].entry if run_key in runs and run_key != STORE_RUN else None

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        with self._reading():
            found = sorted(name for name, key in self._names.items() if name.startswith(prefix) and key != STORE_RUN)
        return found[:limit]

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        with self._reading() as runs:
            return [key for key, run in runs.items() if run.entry.parent_key == run_key != NOBODY]

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        with self._reading() as runs:
            every = [Listed(run.entry, run.head) for key, run in runs.items() if key != STORE_RUN]
        every.sort(key=lambda one: one.head.run_key, reverse=True)  # the keys sort by time
        return [one for one in every if fits(one, query)][: query.limit]

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included."""
        with self._reading() as runs:
            if run_key not in runs:
                return []
            run = runs[run_key]
            positions = run.positions[max(first - run.base - 1, 0) : max(last - run.base, 0)]
            return [Stored(position, self._events[position - 1]) for position in positions]

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store in order of position."""
        with self._reading():
            found = self._events[after : after + limit]
        return [Stored(after + index, data) for index, data in enumerate(found, 1)]

    def position(self) -> int:
        """The position of the last event."""
        with self._reading():
            return len(self._events)

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends."""
        with self._reading() as runs:
            return list(runs[run_key].bends) if run_key in runs else []

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by digest, checked."""
        with self._reading():
            held = {name: self._blobs.get(name) for name in names}
        found: dict[bytes, bytes] = {}
        for name, stored in held.items():
            if stored is None:
                raise Corrupt(f"blob {name.hex()[:12]}", "is missing")
            found[name] = unpack_blob(stored, name)
        return found

    def blob_names(self, after: bytes, limit: int) -> list[bytes]:
        """Digests of blobs that are there, rising."""
        with self._reading():
            return sorted(name for name in self._blobs if name > after)[:limit]

    def guards(self) -> list[Guard]:
        """All guards on runs."""
        with self._reading():
            return self._tidying.guards()

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
        """A run's snapshots up to a version, newest first, each with the version that vouches for it."""
        with self._reading() as runs:
            if run_key not in runs:
                return []
            run = runs[run_key]
            versions = sorted((version for version in run.snapshots if version <= upto), reverse=True)
            return [(version, run.vouched.get(version, 0)) for version in versions[:limit]]

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root."""
        with self._reading() as runs:
            return runs[run_key].snapshots.get(version) if run_key in runs else None

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        with self._reading() as runs:
            return [mark for _, mark in sorted(runs[run_key].marks.items())] if run_key in runs else []

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages by number."""
        with self._reading() as runs:
            return sorted(runs[run_key].inbox.items()) if run_key in runs else []

    def queued(self, queue: str, limit: int | None = None) -> list[Queued]:
        """The runs of a queue, the taken ones first."""
        with self._reading():
            taken, waiting = self._queue(queue)
            return [*taken, *waiting[:limit]]

    def mail(self) -> list[bytes]:
        """The keys of runs that have messages waiting."""
        with self._reading() as runs:
            return sorted(key for key, run in runs.items() if run.inbox)

    # --- owners, and the rest

    def owner_gone(self, owner: bytes) -> bool:
        """Whether an owner has ended."""
        return owner == NOBODY or owner not in self._owners

    def owner_text(self, owner: bytes) -> str:
        """An owner for people: all are of this process."""
        return f"owner {owner.hex()} of this process"

    def holds(self, owner: bytes) -> bool:
        """Whether an owner has not ended."""
        return owner in self._owners

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it."""
        self._check_open()
        self._owners.add(owner)
        return lambda: self._owners.discard(owner)

    def change_mark(self) -> int:
        """A number that changes with every write."""
        self._check_open()
        return self._changes

    def usage(self) -> Usage:
        """What the log holds."""
        with self._reading() as every:
            runs = [run for key, run in every.items() if key != STORE_RUN]
            held = {
                "events": self._events,
                "runs": [b""] * len(runs),
                "blobs": list(self._blobs.values()),
                "snapshots": [root for run in runs for root in run.snapshots.values()],
                "checkpoints": [b""] * sum(len(run.marks) for run in runs),
                "messages": [data for run in runs for data in run.inbox.values()],
            }
            rows = {kind: len(values) for kind, values in held.items()}
            sizes = {kind: sum(map(len, values)) for kind, values in held.items()}
        return Usage(rows, sizes, 0, 0, len(self._events))

    def close(self) -> None:
        """Let go; later calls raise StoreClosed."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("this store was closed; open it again")
