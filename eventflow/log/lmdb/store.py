"""A log on one machine: `LmdbLog`, the `Log` over an LMDB file.

Opening checks what can be checked at once; reading takes a short transaction per call; writing goes through the gate,
one transaction a batch, and moves the high-water mark once the commit is durable.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from eventflow.checkpoint import Checkpoint
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored, pack, unpack_blob
from eventflow.errors import Corrupt, EventflowError, StoreNotFound, StoreUnusable, WrittenByNewer
from eventflow.event import StoreCreated
from eventflow.log.lmdb import files
from eventflow.log.lmdb.checks import check_tail
from eventflow.log.lmdb.environment import MAP_SIZE, Environment, acquire, release
from eventflow.log.lmdb.tables import (
    FACET_PARENT,
    FACET_STATUS,
    FACET_TAG,
    FACET_WORKFLOW,
    KEY_FORMAT,
    KEY_STORE_ID,
    U64,
    entry_from,
    facet,
    head_from,
    mark_from,
    number,
    versioned,
)
from eventflow.log.lmdb.writing import Batch, Txn, keys_under, last_number
from eventflow.log.owners import new_owner, owner_gone, sweep
from eventflow.log.protocol import (
    NOBODY,
    Act,
    Answer,
    Entry,
    Head,
    Listed,
    Query,
    Usage,
    Write,
    fits,
)

STORE_FORMAT = 1


class LmdbLog:
    """A log in a directory. Raises StoreNotFound, Corrupt or StoreUnusable when it can't be opened.

    `readonly` never writes, not even to create; `create` makes the store if it is not there. `map_size` is in bytes of
    address space; EVENTFLOW_MAP_SIZE sets another default.
    """

    durable = True

    def __init__(
        self, path: str | os.PathLike[str], *, readonly: bool = False, create: bool = True,
        clock: Clock | None = None, map_size: int | None = None, gate_timeout: float = files.GATE_TIMEOUT,
    ) -> None:  # fmt: skip
        self.path = Path(path).absolute()
        self.readonly = readonly
        self._lock = threading.Lock()
        clock = clock or SystemClock()
        directory = self._directory(create=create and not readonly)
        file = directory / "data.mdb"
        fresh = not file.exists()
        if not fresh:
            files.check_file(file)
        size = map_size or int(os.environ.get("EVENTFLOW_MAP_SIZE", MAP_SIZE))
        self._env: Environment = acquire(directory, readonly=readonly, map_size=size)
        self._gate: files.Gate | None = None
        self._mark: files.HighWater | None = None
        self._owners = self.path / "owners"
        try:
            self._open(directory, clock, gate_timeout, fresh=fresh)
        except BaseException:
            self.close()
            raise

    def _directory(self, *, create: bool) -> Path:
        try:
            directory = files.data_directory(self.path)
        except StoreNotFound:
            if not create:
                raise
            kind = files.network_file_system(self.path.parent)
            if kind:
                raise StoreUnusable(
                    f"{self.path} lies on a network file system ({kind}), where LMDB's locks do not hold; use a local disk"
                ) from None
            return files.create_directory(self.path)
        files.check_owner(self.path)
        return directory

    def _open(self, directory: Path, clock: Clock, gate_timeout: float, *, fresh: bool) -> None:
        self._mark = files.HighWater(directory, readonly=self.readonly)
        if not self.readonly:
            self._gate = files.Gate(self.path, timeout=gate_timeout)
            if fresh or not (self.path / "CURRENT").exists():
                self._create(directory, clock)
            sweep(self._owners)
        with self._env.reading() as txn:
            stored = txn.get(KEY_FORMAT, db=self._env.tables.store)
            store_id = txn.get(KEY_STORE_ID, db=self._env.tables.store)
            if stored is None or store_id is None:
                raise Corrupt(str(self.path), "has no format number")
            if stored != number(STORE_FORMAT):
                raise WrittenByNewer(str(self.path), f"store format {U64.unpack(stored)[0]}")
            self.store_id = bytes(store_id)
            check_tail(txn, self._env.tables, self._mark.read(), str(self.path))

    def _create(self, directory: Path, clock: Clock) -> None:
        """Write the first rows, then make the directory's entries durable, then name it in CURRENT."""
        assert self._gate is not None  # noqa: S101 - only a writer creates
        with self._gate.held():
            with self._env.writing() as txn:
                table = self._env.tables.store
                if txn.get(KEY_FORMAT, db=table) is None:
                    self.store_id = clock.uuid7()
                    txn.put(KEY_FORMAT, number(STORE_FORMAT), db=table)
                    txn.put(KEY_STORE_ID, self.store_id, db=table)
                    act = Act(pack(StoreCreated(self.store_id)), clock.now())
                    Batch(txn, self._env.tables, self.store_id, self.owner_gone).apply([act])
            files.sync_directory(directory)
            files.sync_directory(self.path)
            files.set_current(self.path, directory.name)
            files.sync_directory(self.path.parent)

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """One durable transaction; an answer or an error for each write. Raises StoreUnusable for all."""
        gate, mark = self._gate, self._mark
        if gate is None or mark is None:
            raise StoreUnusable(f"{self.path} was opened read-only; open it for writing")
        with self._lock, gate.held():
            with self._env.writing() as txn:
                work = Batch(txn, self._env.tables, self.store_id, self.owner_gone)
                answers = work.apply(batch)
            if work.events:
                mark.write(work.position, work.digest, events=work.events)
        return answers

    # --- runs

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        with self._env.reading() as txn:
            return self._head(txn, run_id.encode())

    def _head(self, txn: Txn, name: bytes) -> Head | None:
        row = txn.get(name, db=self._env.tables.names)
        if row is None:
            return None
        head = head_from(name, row)
        return head if head.version and head.run_key != NOBODY else None

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key."""
        with self._env.reading() as txn:
            row = txn.get(run_key, db=self._env.tables.info)
            return None if row is None else self._head(txn, entry_from(row)[0].encode())

    def next_incarnation(self, run_id: str) -> int:
        """1, or one more than the deleted run's."""
        with self._env.reading() as txn:
            row = txn.get(run_id.encode(), db=self._env.tables.names)
            return 1 if row is None else head_from(run_id.encode(), row).incarnation + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        with self._env.reading() as txn:
            row = txn.get(run_key, db=self._env.tables.info)
            return None if row is None else entry_from(row)[1]

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        found: list[str] = []
        with self._env.reading() as txn:
            for name in keys_under(txn, self._env.tables.names, prefix.encode()):
                if self._head(txn, name) is not None:
                    found.append(name.decode())
                    if len(found) >= limit:
                        break
        return found

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        found: list[Listed] = []
        with self._env.reading() as txn:
            for key in self._candidates(txn, query):
                row = txn.get(key, db=self._env.tables.info)
                if row is None:
                    continue
                run_id, entry = entry_from(row)
                head = self._head(txn, run_id.encode())
                if head is not None and fits(listed := Listed(entry, head), query):
                    found.append(listed)
                    if query.limit is not None and len(found) >= query.limit:
                        break
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
                for place, data in cursor:
                    found.append(Stored(U64.unpack(place)[0], data))
                    if len(found) >= limit:
                        break
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

    def snapshots(self, run_key: bytes, upto: int) -> list[tuple[int, int]]:
        """A run's snapshots up to a version, newest first, each with the version that vouches for it or 0."""
        vouched: dict[int, int] = {}
        versions: list[int] = []
        end = versioned(run_key, upto) + b"w"
        with self._env.reading() as txn, txn.cursor(db=self._env.tables.snapshots) as cursor:
            if cursor.set_range(run_key):
                for key in cursor.iternext(keys=True, values=False):
                    if key > end or key[:16] != run_key:
                        break
                    version = U64.unpack(key[16:24])[0]
                    if len(key) == 24:
                        versions.append(version)
                    else:
                        vouched[version] = U64.unpack(txn.get(key, db=self._env.tables.snapshots))[0]
        return [(version, vouched.get(version, 0)) for version in reversed(versions)]

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

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it."""
        return new_owner(self._owners, owner)

    def change_mark(self) -> int:
        """The number of the last transaction, by any process."""
        return self._env.last_transaction()

    def usage(self) -> Usage:
        """What the store holds."""
        pages, whole, free = self._env.pages()
        rows = {name: count for name, (count, _) in pages.items()}
        sizes = {name: size for name, (_, size) in pages.items()}
        return Usage(rows, sizes, whole, free, self.position())

    def close(self) -> None:
        """Sync the mark and let go of every file."""
        gate, self._gate = self._gate, None
        mark, self._mark = self._mark, None
        if gate is not None:
            gate.close()
        if mark is not None:
            mark.close()
        release(self._env)
