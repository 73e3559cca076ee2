"""A log on one machine: `LmdbLog`, the `Log` over an LMDB file.

Opening checks what can be checked at once; reading takes a short transaction per call; writing goes through the gate,
one transaction a batch, and moves the high-water mark once the commit is durable.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from eventflow.checkpoint import Checkpoint
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored, unpack_blob
from eventflow.errors import Corrupt, EventflowError, StoreClosed, StoreUnusable
from eventflow.log.heads import NOBODY, Entry, Head, Listed, Query, fits
from eventflow.log.lmdb import opening, queues
from eventflow.log.lmdb.copying import Copying, Readers
from eventflow.log.lmdb.environment import Environment, Translated, acquire, release
from eventflow.log.lmdb.files import GATE_TIMEOUT, gate_holder
from eventflow.log.lmdb.removing import guards
from eventflow.log.lmdb.rows import Txn, keys_under, many
from eventflow.log.lmdb.tables import (
    FACET_PARENT,
    FACET_STATUS,
    FACET_TAG,
    FACET_WORKFLOW,
    KEY_FOLLOWS,
    U64,
    USAGE,
    VERSIONED,
    Tables,
    entry_from,
    facet,
    head_from,
    mark_from,
    number,
    refuse_damage,
    versioned,
)
from eventflow.log.lmdb.vacuum import Vacuumed, vacuum
from eventflow.log.lmdb.writing import Batch, Known, Moved, last_number
from eventflow.log.owners import new_owner, owner_gone, owner_pid
from eventflow.log.protocol import STORE_NAME, STORE_RUN, Answer, Usage, Write
from eventflow.log.queueing import Queued
from eventflow.log.removal import Guard

_FILE_BITS = 48  # of a change mark are the transaction's: more than there can be
MAX_KEY = 511  # bytes; LMDB takes no longer keys, so no run has a longer id


class LmdbLog:
    """A log in a directory. Raises StoreNotFound, Corrupt or StoreUnusable when it can't be opened.

    `readonly` never writes, not even to create; `create` makes the store if it is not there. `map_size` is in bytes of
    address space; EVENTFLOW_MAP_SIZE sets another default. `gate_timeout` is how long, in seconds, a write waits for
    another process that is writing.
    """

    durable = True

    def __init__(
        self, path: str | os.PathLike[str], *, readonly: bool = False, create: bool = True,
        clock: Clock | None = None, map_size: int | None = None, gate_timeout: float = GATE_TIMEOUT,
    ) -> None:  # fmt: skip
        self.path = Path(path).absolute()
        self.readonly = readonly
        self._lock, self._moving = threading.Lock(), threading.Lock()
        self._known = Known()  # for the writing thread, under the lock
        self._owners = self.path / "owners"
        size = opening.map_size(map_size)
        self._wanted = opening.Wanted(readonly, create, clock or SystemClock(), size, gate_timeout)
        self._opened: opening.Opened | None = opening.open_store(self.path, self._wanted)
        self.store_id = self._opened.store_id
        _open_logs.add(self)

    @property
    def _env(self) -> Environment:
        return self._open.env

    @property
    def _open(self) -> opening.Opened:
        opened = self._opened
        if opened is None:
            raise StoreClosed("this store was closed; open it again")
        return opened

    def _reading(self) -> Reading:
        """A block of a short read transaction, in the file that the store is in; gives the transaction and its tables."""
        return Reading(lambda: self._open, self.follow)

    def follow(self, opened: opening.Opened) -> None:
        """Go on in the file that the store has moved to, unless that is done already."""
        with self._moving:
            if self._opened is opened:
                self._opened = opening.followed(self.path, opened, self._wanted)
                opened.leave()

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """One durable transaction; an answer or an error for each write. Raises StoreUnusable for all."""
        self._env.check()
        with self._lock:
            gate = self._open.gate
            if gate is None:
                raise StoreUnusable(f"{self.path} was opened read-only; open it for writing")
            with gate.held():
                while True:
                    opened = self._open
                    try:
                        return self._written(opened, batch)
                    except Moved:
                        self._known.forget()
                        self.follow(opened)

    def _written(self, opened: opening.Opened, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """One transaction in a file, under the gate. Raises Moved if the store is not in it any more."""
        with opened.env.writing() as txn:
            work = Batch(txn, opened.env.tables, self.store_id, self.owner_gone, self._known)
            if work.follows_others and opened.gate is not None:
                opened.gate.name_holder()
            answers = work.apply(batch)
        if work.events:
            work.durable()
            opened.mark.write(work.position, work.digest, events=work.events)
        return answers

    # --- moving

    @property
    def map_size(self) -> int:
        """Bytes of address space of the file."""
        return self._wanted.map_size

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[opening.Opened]:
        """A block in which nobody else writes, with what is open of the store. Raises StoreBusy, StoreUnusable."""
        with self._lock:
            gate = self._open.gate
            if gate is None:
                raise StoreUnusable(f"{self.path} was opened read-only; open it for writing")
            with gate.held():
                self._known.forget()
                with self._reading():  # which goes where the store is, if it has moved
                    pass
                yield self._open

    @contextlib.contextmanager
    def reading_env(self) -> Iterator[Environment]:
        """A block with the file that the store is in, which stays open meanwhile."""
        look = self._reading()
        with look:
            env = look.env
            acquired = acquire(env.path, readonly=env.readonly, map_size=self.map_size)
        try:
            yield acquired
        finally:
            release(acquired)

    def vacuum(self, owner: bytes, *, say: Callable[[str], None] = lambda _: None) -> Vacuumed:
        """Move into a file without free pages, while anybody reads and writes; see `eventflow.log.lmdb.vacuum`."""
        return vacuum(self, owner, say=say)

    # --- runs

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        with self._reading() as (txn, t):
            head = _row(txn, t, run_id)
        return head if head is not None and head.version and head.run_key != STORE_RUN else None

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key; STORE_RUN is that of the store's own stream."""
        with self._reading() as (txn, t):
            if run_key == STORE_RUN:
                return _row(txn, t, STORE_NAME)
            row = txn.get(run_key, db=t.info)
            return None if row is None else _row(txn, t, entry_from(row)[0])

    def next_incarnation(self, run_id: str) -> int:
        """1, or one more than the deleted run's."""
        with self._reading() as (txn, t):
            head = _row(txn, t, run_id)
        return 1 if head is None else head.incarnation + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        with self._reading() as (txn, t):
            row = txn.get(run_key, db=t.info)
            return None if row is None else entry_from(row)[1]

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        found: list[str] = []
        if len(prefix.encode()) > MAX_KEY:
            return found
        with self._reading() as (txn, t):
            for name in keys_under(txn, t.names, prefix.encode()):
                if len(found) >= limit:
                    break
                head = _row(txn, t, name.decode())
                if head is not None and head.run_key != NOBODY:  # neither deleted nor the store's own
                    found.append(head.run_id)
        return found

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        found: list[Listed] = []
        with self._reading() as (txn, t):
            for key in _candidates(txn, t, query):
                if query.limit is not None and len(found) >= query.limit:
                    break
                row = txn.get(key, db=t.info)
                if row is None:
                    raise Corrupt(f"run {key.hex()}", "is in an index and not in the run list")
                run_id, entry = entry_from(row)
                head = _row(txn, t, run_id)
                if head is not None and fits(listed := Listed(entry, head), query):
                    found.append(listed)
        return found

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        with self._reading() as (txn, t):
            return [key[17:] for key in keys_under(txn, t.index, facet(FACET_PARENT, run_key))]

    # --- events

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included."""
        end = versioned(run_key, last)
        places: list[bytes] = []
        with self._reading() as (txn, t):
            with txn.cursor(db=t.runs) as cursor:
                if cursor.set_range(versioned(run_key, first)):
                    for key, place in cursor:
                        if key > end:
                            break
                        places.append(place)
            with txn.cursor(db=t.log) as cursor:
                return [Stored(U64.unpack(place)[0], data) for place, data in cursor.getmulti(places)]

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store in order of position, from `after` + 1 on."""
        found: list[Stored] = []
        with self._reading() as (txn, t), txn.cursor(db=t.log) as cursor:
            if cursor.set_range(number(after + 1)):
                for place, data in itertools.islice(cursor, limit):
                    found.append(Stored(U64.unpack(place)[0], data))
        return found

    def position(self) -> int:
        """The position of the last event."""
        with self._reading() as (txn, t):
            return last_number(txn, t.log)

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends, rising."""
        with self._reading() as (txn, t):
            return [U64.unpack(key[16:])[0] for key in keys_under(txn, t.bends, run_key)]

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by digest, checked."""
        wanted = list(names)
        with self._reading() as (txn, t):
            places = many(txn, t.places, wanted)
            stored = many(txn, t.blobs, places.values())
        for name in wanted:
            if name not in places or places[name] not in stored:
                raise Corrupt(f"blob {name.hex()[:12]}", "is missing")
        return {name: unpack_blob(stored[places[name]], name) for name in wanted}

    def blob_names(self, after: bytes, limit: int) -> list[bytes]:
        """Digests of blobs that are there, rising."""
        with self._reading() as (txn, t), txn.cursor(db=t.places) as cursor:
            if not cursor.set_range(after + b"\0"):
                return []
            return [bytes(key) for key in itertools.islice(cursor.iternext(keys=True, values=False), limit)]

    def guards(self) -> list[Guard]:
        """All guards on runs."""
        with self._reading() as (txn, t):
            return guards(txn, t)

    # --- the cache

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
        """A run's snapshots up to a version, newest first, each with the version that vouches for it or 0."""
        found: list[tuple[int, int]] = []
        vouch = b""  # the row of who vouches stands after its snapshot's, so it is met first
        with self._reading() as (txn, t), txn.cursor(db=t.snapshots) as cursor:
            inside = cursor.prev() if cursor.set_range(versioned(run_key, upto) + b"w") else cursor.last()
            while inside and (limit is None or len(found) < limit) and (key := cursor.key())[:16] == run_key:
                if len(key) == VERSIONED:
                    by = U64.unpack(txn.get(vouch, db=t.snapshots))[0] if vouch[:VERSIONED] == key else 0
                    found.append((U64.unpack(key[16:])[0], by))
                else:
                    vouch = key
                inside = cursor.prev()
        return found

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root."""
        with self._reading() as (txn, t):
            root: bytes | None = txn.get(versioned(run_key, version), db=t.snapshots)
            return root

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        with self._reading() as (txn, t):
            return [mark_from(key, txn.get(key, db=t.marks)) for key in keys_under(txn, t.marks, run_key)]

    # --- the inbox

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages by number, oldest first."""
        with self._reading() as (txn, t):
            return [(U64.unpack(key[16:])[0], txn.get(key, db=t.inbox)) for key in keys_under(txn, t.inbox, run_key)]

    def queued(self, queue: str, limit: int | None = None) -> list[Queued]:
        """The runs of a queue, the taken ones first."""
        with self._reading() as (txn, t):
            taken, waiting = queues.listed(txn, t, queue, owner_gone=self.owner_gone)
            return [*taken, *itertools.islice(waiting, limit)]

    def mail(self) -> list[bytes]:
        """The keys of runs that have messages waiting."""
        found: list[bytes] = []
        with self._reading() as (txn, t), txn.cursor(db=t.inbox) as cursor:
            more = cursor.first()
            while more:
                found.append(bytes(cursor.key()[:16]))
                more = cursor.set_range(found[-1] + b"\xff" * 9)
        return found

    # --- owners, and the rest

    def owner_gone(self, owner: bytes) -> bool:
        """Whether an owner's process is gone."""
        return owner_gone(self._owners, owner)

    def owner_text(self, owner: bytes) -> str:
        """An owner for people: the process that wrote its file."""
        pid = owner_pid(self._owners, owner)
        return f"process {pid}" if pid else f"owner {owner.hex()}"

    def holds(self, owner: bytes) -> bool:  # noqa: ARG002
        """A process keeps its lock for as long as it lives, stopped or not."""
        return True

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it."""
        self._env.check()
        return new_owner(self._owners, owner)

    def copying(self) -> Copying:
        """The file as it is now, to be read while writers go on; one that was opened to be read can't tell its end.

        Raises StoreUnusable, StoreBusy.
        """
        with self._lock:
            gate = self._open.gate
            if gate is None:
                raise StoreUnusable(f"{self.path} was opened read-only; open it for writing")
            with gate.held():
                self.position()  # in the file the store is in now, which nobody moves while the gate is held
                return Copying(self._env)

    def readers(self) -> Readers:
        """Who reads in the file, and who may write to it next; what readers that died have left is cleared."""
        cleared = self._env.cleared + self._env.clear_readers()
        with self._env.reading() as txn:
            last = int(txn.id())
        return Readers(tuple(self._env.readers()), last, cleared, gate_holder(self.path))

    @property
    def follows(self) -> bool:
        """Whether this is a copy of another store, which nobody may drive until it is promoted."""
        with self._reading() as (txn, t):
            return bool(txn.get(KEY_FOLLOWS, db=t.store) == b"\x01")

    def change_mark(self) -> int:
        """The number of the last transaction that a reader sees, by any process, and above it that of the file.

        Not what LMDB calls the last one, which is ahead of readers by the time a commit takes to sync its meta page: whoever
        saw that number and then read would miss what it stands for, and never look again.
        """
        look = self._reading()
        with look as (txn, _):
            return look.env.number - 1 << _FILE_BITS | int(txn.id())

    def usage(self) -> Usage:
        """What the store holds."""
        pages, whole, free = self._env.pages()
        rows = {kind: sum(pages[table][0] for table in tables[:1]) for kind, tables in USAGE.items()}
        sizes = {kind: sum(pages[table][1] for table in tables) for kind, tables in USAGE.items()}
        with self._reading() as (txn, t), txn.cursor(db=t.snapshots) as cursor:
            rows["snapshots"] = sum(len(key) == VERSIONED for key in cursor.iternext(keys=True, values=False))
        return Usage(rows, sizes, whole, free, self.position())

    def held_bytes(self) -> int:
        """Bytes of its tables: what a vacuum would leave of the file."""
        return sum(size for _, size in self._env.pages()[0].values())

    def close(self) -> None:
        """Sync the mark and let go of every file."""
        with self._lock, self._moving:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()

    def forget(self) -> None:
        """In a forked child: close the inherited descriptors; what is called from now on raises StoreClosed."""
        self._lock, self._moving = threading.Lock(), threading.Lock()  # a thread of the parent may hold the old ones
        if self._opened is not None:
            self._opened.forget()


class Reading:
    """A short read transaction as a block, in the file that a store is in at its beginning, wherever that is.

    `current` says what is open, `follow` opens what the store has moved to.
    """

    __slots__ = ("_current", "_env", "_follow", "_txn")

    def __init__(self, current: Callable[[], opening.Opened], follow: Callable[[opening.Opened], None]) -> None:
        self._current, self._follow = current, follow

    def __enter__(self) -> tuple[Txn, Tables]:
        while True:
            opened = self._current()
            env = opened.env
            try:
                with Translated(env.path):
                    txn = env.enter(self)
            except StoreClosed:
                if self._current() is opened:
                    raise
                continue
            try:
                moved = env.moved(txn)
            except BaseException:
                env.leave(self, txn)
                raise
            if not moved:
                self._env, self._txn = env, txn
                return txn, env.tables
            env.leave(self, txn)
            self._follow(opened)

    @property
    def env(self) -> Environment:
        """The file that is read."""
        return self._env

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._env.leave(self, self._txn)
        Translated(self._env.path).__exit__(kind, error, trace)
        refuse_damage(self._env.path, error)


def _row(txn: Txn, t: Tables, run_id: str) -> Head | None:
    """The head of a run, of the store's own stream, or what is left of a deleted run's."""
    name = run_id.encode()
    row = txn.get(name, db=t.names) if 0 < len(name) <= MAX_KEY else None
    return None if row is None else head_from(name, row)


def _candidates(txn: Txn, t: Tables, query: Query) -> Iterable[bytes]:
    """Run keys by the narrowest index that the query allows, newest first (the keys sort by time)."""
    for value, kind in ((query.tag, FACET_TAG), (query.workflow, FACET_WORKFLOW), (query.status, FACET_STATUS)):
        if value is not None:
            keys = [key[17:] for key in keys_under(txn, t.index, facet(kind, value))]
            return reversed(keys)
    with txn.cursor(db=t.info) as cursor:
        return [bytes(key) for key in cursor.iterprev(keys=True, values=False)]


_open_logs: weakref.WeakSet[LmdbLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_open_logs):
        log.forget()


os.register_at_fork(after_in_child=_after_fork)
