"""A log on one machine: `LmdbLog`, the `Log` over an LMDB file.

Opening checks what can be checked at once; reading takes a short transaction per call; writing goes through the gate,
one transaction a batch, and moves the high-water mark once the commit is durable.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from eventflow.checkpoint import Checkpoint
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored, unpack_blob
from eventflow.errors import Corrupt, EventflowError, StoreClosed, StoreUnusable
from eventflow.log.lmdb import opening
from eventflow.log.lmdb.environment import Environment
from eventflow.log.lmdb.files import GATE_TIMEOUT
from eventflow.log.lmdb.tables import (
    FACET_PARENT,
    FACET_STATUS,
    FACET_TAG,
    FACET_WORKFLOW,
    U64,
    VERSIONED,
    entry_from,
    facet,
    head_from,
    mark_from,
    number,
    versioned,
)
from eventflow.log.lmdb.writing import Batch, Known, Txn, keys_under, last_number
from eventflow.log.owners import new_owner, owner_gone, owner_pid
from eventflow.log.protocol import (
    NOBODY,
    STORE_NAME,
    STORE_RUN,
    Answer,
    Entry,
    Head,
    Listed,
    Query,
    Usage,
    Write,
    fits,
)

# Kinds of what a store holds -> the tables they lie in; the first one's rows are counted.
_USAGE = {
    "events": ("log", "runs", "bends"),
    "runs": ("info", "names", "index", "due", "store"),
    "blobs": ("blobs", "places"),
    "snapshots": ("snapshots",),
    "checkpoints": ("marks",),
    "messages": ("inbox",),
}
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
        self._lock = threading.Lock()
        self._known = Known()  # for the writing thread, under the lock
        self._owners = self.path / "owners"
        size = opening.map_size(map_size)
        wanted = opening.Wanted(readonly, create, clock or SystemClock(), size, gate_timeout)
        self._opened: opening.Opened | None = opening.open_store(self.path, wanted)
        self.store_id = self._opened.store_id
        _open_logs.add(self)

    @property
    def _env(self) -> Environment:
        opened = self._opened
        if opened is None:
            raise StoreClosed("this store was closed; open it again")
        return opened.env

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """One durable transaction; an answer or an error for each write. Raises StoreUnusable for all."""
        self._env.check()
        with self._lock:
            opened = self._opened
            if opened is None:
                raise StoreClosed("this store was closed; open it again")
            if opened.gate is None:
                raise StoreUnusable(f"{self.path} was opened read-only; open it for writing")
            with opened.gate.held():
                with opened.env.writing() as txn:
                    work = Batch(txn, opened.env.tables, self.store_id, self.owner_gone, self._known)
                    if work.follows_others:
                        opened.gate.name_holder()
                    answers = work.apply(batch)
                if work.events:
                    work.durable()
                    opened.mark.write(work.position, work.digest, events=work.events)
        return answers

    # --- runs

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        with self._env.reading() as txn:
            head = self._row(txn, run_id)
        return head if head is not None and head.version and head.run_key != STORE_RUN else None

    def _row(self, txn: Txn, run_id: str) -> Head | None:
        """The head of a run, of the store's own stream, or what is left of a deleted run's."""
        name = run_id.encode()
        row = txn.get(name, db=self._env.tables.names) if 0 < len(name) <= MAX_KEY else None
        return None if row is None else head_from(name, row)

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key; STORE_RUN is that of the store's own stream."""
        with self._env.reading() as txn:
            if run_key == STORE_RUN:
                return self._row(txn, STORE_NAME)
            row = txn.get(run_key, db=self._env.tables.info)
            return None if row is None else self._row(txn, entry_from(row)[0])

    def next_incarnation(self, run_id: str) -> int:
        """1, or one more than the deleted run's."""
        with self._env.reading() as txn:
            head = self._row(txn, run_id)
        return 1 if head is None else head.incarnation + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        with self._env.reading() as txn:
            row = txn.get(run_key, db=self._env.tables.info)
            return None if row is None else entry_from(row)[1]

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        found: list[str] = []
        if len(prefix.encode()) > MAX_KEY:
            return found
        with self._env.reading() as txn:
            for name in keys_under(txn, self._env.tables.names, prefix.encode()):
                if len(found) >= limit:
                    break
                head = self._row(txn, name.decode())
                if head is not None and head.run_key != NOBODY:  # neither deleted nor the store's own
                    found.append(head.run_id)
        return found

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        found: list[Listed] = []
        with self._env.reading() as txn:
            for key in self._candidates(txn, query):
                if query.limit is not None and len(found) >= query.limit:
                    break
                row = txn.get(key, db=self._env.tables.info)
                if row is None:
                    raise Corrupt(f"run {key.hex()}", "is in an index and not in the run list")
                run_id, entry = entry_from(row)
                head = self._row(txn, run_id)
                if head is not None and fits(listed := Listed(entry, head), query):
                    found.append(listed)
        return found

    def _candidates(self, txn: Txn, query: Query) -> Iterable[bytes]:
        """Run keys by the narrowest index that the query allows, newest first (the keys sort by time)."""
        for value, kind in ((query.tag, FACET_TAG), (query.workflow, FACET_WORKFLOW), (query.status, FACET_STATUS)):
            if value is not None:
                keys = [key[17:] for key in keys_under(txn, self._env.tables.index, facet(kind, value))]
                return reversed(keys)
        with txn.cursor(db=self._env.tables.info) as cursor:
            return [bytes(key) for key in cursor.iterprev(keys=True, values=False)]

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        with self._env.reading() as txn:
            return [key[17:] for key in keys_under(txn, self._env.tables.index, facet(FACET_PARENT, run_key))]

    # --- events

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included."""
        end = versioned(run_key, last)
        tables = self._env.tables
        places: list[bytes] = []
        with self._env.reading() as txn:
            with txn.cursor(db=tables.runs) as cursor:
                if cursor.set_range(versioned(run_key, first)):
                    for key, place in cursor:
                        if key > end:
                            break
                        places.append(place)
            with txn.cursor(db=tables.log) as cursor:
                return [Stored(U64.unpack(place)[0], data) for place, data in cursor.getmulti(places)]

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store in order of position, from `after` + 1 on."""
        found: list[Stored] = []
        with self._env.reading() as txn, txn.cursor(db=self._env.tables.log) as cursor:
            if cursor.set_range(number(after + 1)):
                for place, data in itertools.islice(cursor, limit):
                    found.append(Stored(U64.unpack(place)[0], data))
        return found

    def position(self) -> int:
        """The position of the last event."""
        with self._env.reading() as txn:
            return last_number(txn, self._env.tables.log)

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends, rising."""
        with self._env.reading() as txn:
            return [U64.unpack(key[16:])[0] for key in keys_under(txn, self._env.tables.bends, run_key)]

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by digest, checked."""
        tables = self._env.tables
        found: dict[bytes, bytes] = {}
        with self._env.reading() as txn:
            for name in names:
                place = txn.get(name, db=tables.places)
                stored = None if place is None else txn.get(place, db=tables.blobs)
                if stored is None:
                    raise Corrupt(f"blob {name.hex()[:12]}", "is missing")
                found[name] = unpack_blob(stored, name)
        return found

    # --- the cache

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
        """A run's snapshots up to a version, newest first, each with the version that vouches for it or 0."""
        found: list[tuple[int, int]] = []
        vouch = b""  # the row of who vouches stands after its snapshot's, so it is met first
        table = self._env.tables.snapshots
        with self._env.reading() as txn, txn.cursor(db=table) as cursor:
            inside = cursor.prev() if cursor.set_range(versioned(run_key, upto) + b"w") else cursor.last()
            while inside and (limit is None or len(found) < limit) and (key := cursor.key())[:16] == run_key:
                if len(key) == VERSIONED:
                    by = U64.unpack(txn.get(vouch, db=table))[0] if vouch[:VERSIONED] == key else 0
                    found.append((U64.unpack(key[16:])[0], by))
                else:
                    vouch = key
                inside = cursor.prev()
        return found

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root."""
        with self._env.reading() as txn:
            root: bytes | None = txn.get(versioned(run_key, version), db=self._env.tables.snapshots)
            return root

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        table = self._env.tables.marks
        with self._env.reading() as txn:
            return [mark_from(key, txn.get(key, db=table)) for key in keys_under(txn, table, run_key)]

    # --- the inbox

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages by number, oldest first."""
        table = self._env.tables.inbox
        with self._env.reading() as txn:
            return [(U64.unpack(key[16:])[0], txn.get(key, db=table)) for key in keys_under(txn, table, run_key)]

    def mail(self) -> list[bytes]:
        """The keys of runs that have messages waiting."""
        found: list[bytes] = []
        with self._env.reading() as txn, txn.cursor(db=self._env.tables.inbox) as cursor:
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

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it."""
        self._env.check()
        return new_owner(self._owners, owner)

    def change_mark(self) -> int:
        """The number of the last transaction, by any process."""
        return self._env.last_transaction()

    def usage(self) -> Usage:
        """What the store holds. What belongs to no kind of its own, as indexes do, is counted as "runs"."""
        pages, whole, free = self._env.pages()
        rows = {kind: sum(pages[table][0] for table in tables[:1]) for kind, tables in _USAGE.items()}
        sizes = {kind: sum(pages[table][1] for table in tables) for kind, tables in _USAGE.items()}
        with self._env.reading() as txn, txn.cursor(db=self._env.tables.snapshots) as cursor:
            rows["snapshots"] = sum(len(key) == VERSIONED for key in cursor.iternext(keys=True, values=False))
        return Usage(rows, sizes, whole, free, self.position())

    def close(self) -> None:
        """Sync the mark and let go of every file."""
        with self._lock:
            opened, self._opened = self._opened, None
            if opened is not None:
                opened.close()

    def forget(self) -> None:
        """In a forked child: close the inherited descriptors; what is called from now on raises StoreClosed."""
        self._lock = threading.Lock()  # a thread of the parent, which is not here, may hold the old one
        if self._opened is not None:
            self._opened.forget()


_open_logs: weakref.WeakSet[LmdbLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_open_logs):
        log.forget()


os.register_at_fork(after_in_child=_after_fork)
