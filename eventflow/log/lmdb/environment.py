"""The LMDB environment: opening, transactions, and what its errors mean. The only file that imports the library.

Default sync flags, never a writable map. One environment per process and file. No transaction outlives a call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import lmdb.verify

from eventflow.errors import Corrupt, StoreBusy, StoreClosed, StoreFull, StoreUnusable
from eventflow.log.lmdb import files
from eventflow.log.lmdb.checks import check_tail
from eventflow.log.lmdb.tables import KEY_VACUUM, MOVED, TABLES, Tables

MAP_SIZE = 64 << 30  # 64 GiB of address space, not of disk: large enough that growing is rare
MAX_READERS = 1024  # fixed by the first who opens; LMDB's 126 are used up by a few hundred threads of a viewer
FILL_UP_EVERY = (
    8  # commits; a file that ends early meanwhile is sound, and only looked at more closely when it is opened
)
READER_CHECK_EVERY = 1_000  # commits between looks for dead readers, which would keep old pages alive for ever
_READERS_SIZE = 64 * (
    MAX_READERS + 2
)  # bytes of lock.mdb: a cache line for each reader, and LMDB's own words (lmdb's mdb.c)
FILE_MODE = 0o600
_SPARE_TRANSACTIONS = 0  # kept for the next reader they gain 0.1 us, but a forked child that ends frees their slots
_ENGINE = (
    0  # LMDB 0.9, whose file the format is; py-lmdb has 1.0 too, and a variable of the environment that would choose it
)
_SPARE_TABLES = 3  # beside ours: what a later version may add
_ROOM = 1 << 20  # bytes; with less than this left a failed write is taken for a full disk
_FORKED = "this store was opened before a fork; a child process must open its own, after the fork"


class Environment:
    """An open LMDB file and its tables."""

    def __init__(self, directory: Path, *, readonly: bool, create: bool, map_size: int) -> None:
        self.path, self.readonly = directory, readonly
        self._file = directory / "data.mdb"
        self._closed = self._inherited = self._ended = False
        self._inside: set[object] = set()  # read transactions that are open: the file is closed once there are none
        self._ending = threading.Lock()
        self.looked = -1  # the last transaction that is known not to have moved the store elsewhere
        self._commits = 0
        self._filled = 0  # bytes that the file is known to be long
        self._broken = (
            False  # a failed write to a meta page: LMDB answers nothing any more until the file is opened again
        )
        self._map_size = map_size
        with Translated(directory):
            if create and not readonly:  # LMDB opens them again while it makes them, which a umask may forbid
                os.close(files.made_private(self._file, os.O_RDWR))
            if not readonly:
                _reserve(directory / "lock.mdb")
            self._env: Any = self._opened(create=create)
            try:
                self.cleared = int(self._env.reader_check())  # readers that died without a word
                self.tables = self._open_tables(create=create)
                self._page = int(self._env.stat()["psize"])
            except BaseException:
                self._env.close()
                raise
        for name in ("data.mdb", "lock.mdb"):
            with contextlib.suppress(OSError):
                _keep_private(directory / name, readonly=readonly)

    def _opened(self, *, create: bool = False) -> Any:
        size = self._file.stat().st_size if self._file.exists() else 0
        return lmdb.open(
            str(self.path), map_size=max(self._map_size, size), max_dbs=len(TABLES) + _SPARE_TABLES,
            max_readers=MAX_READERS, readonly=self.readonly, create=create, mode=FILE_MODE, readahead=False, meminit=True,
            max_spare_txns=_SPARE_TRANSACTIONS, lib_version=_ENGINE,
        )  # fmt: skip

    def _open_tables(self, *, create: bool) -> Tables:
        """The tables; all in one transaction, so that a store has all of them or none."""
        try:
            if self.readonly:
                return Tables(*(self._env.open_db(name, create=False) for name in TABLES))
            with self._env.begin(write=True) as txn:
                return Tables(*(self._env.open_db(name, txn=txn, create=create) for name in TABLES))
        except lmdb.NotFoundError:
            raise Corrupt(str(self.path), "lacks a table that every store has") from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """A short read transaction, in this very file: whoever holds a log asks the log, which may have moved."""
        reader = object()
        with Translated(self.path):
            txn = self.enter(reader)
            try:
                yield txn
            finally:
                self.leave(reader, txn)

    def writing(self) -> Writing:
        """A block of a write transaction, durable when the block ends, undone if it raises."""
        self.check()
        if self.readonly:
            raise StoreUnusable(f"{self.path.parent} was opened read-only; open it for writing")
        return Writing(self)

    def committed(self) -> None:
        """Look after the file now and then."""
        self._commits += 1
        if self._commits % READER_CHECK_EVERY == 0:
            self._env.reader_check()
        if self._commits % FILL_UP_EVERY == 0:
            self.fill_up()

    def begin(self, *, write: bool) -> Any:
        """A transaction, whatever other processes have made of the map's size, and a failed write of this file."""
        env = self._env
        try:
            return env.begin(write=write)
        except lmdb.MapResizedError:  # another process has grown the map
            env.set_mapsize(0)
            return env.begin(write=write)
        except lmdb.Error as error:
            if not self._open_again(env, error, users=0 if write else 1):
                raise
            return self._env.begin(write=write)

    def _open_again(self, env: Any, error: lmdb.Error, *, users: int) -> bool:
        """Open the file again if a failed write has left LMDB unusable and nobody else reads in it at this moment.

        What is in it then is what a crash would have left; it must not be behind the mark. Raises Corrupt.
        """
        with self._ending:
            if self._env is not env:  # somebody else did it meanwhile
                return True
            self._broken |= isinstance(error, lmdb.PanicError)
            if not self._broken or self._closed or len(self._inside) > users:
                return False
            if users and files.gate_holder(self.path.parent):  # the tables are opened under the lock that it holds
                return False
            env.close()
            again = self._opened()
            try:
                with again.begin(write=not self.readonly) as txn:
                    tables = Tables(*(again.open_db(name, txn=txn, create=False) for name in TABLES))
                highest = files.HighWater(self.path, readonly=True)
                with contextlib.closing(highest), again.begin() as txn:
                    check_tail(txn, tables, highest.read(), str(self.path.parent))
            except BaseException:
                again.close()
                raise
            self.tables, self._env, self._broken, self.looked = tables, again, False, -1
            return True

    def fill_up(self) -> None:
        """Make the file as long as its meta page says.

        LMDB does not write pages that a transaction takes and gives back, so a sound file may end early; filled up, a
        short file is one that was cut.
        """
        whole = self._bytes()
        if whole > self._filled:
            with contextlib.suppress(OSError):  # the commit is durable; a short file is looked at more closely, no more
                if _length(self._file) < whole:
                    os.truncate(self._file, whole)
                self._filled = whole

    @property
    def number(self) -> int:
        """The N of data.N: the file's own number among those that the store has been in, from 1."""
        name = self.path.name.removeprefix("data.")
        return int(name) if name.isdecimal() else 1

    def moved(self, txn: Any) -> bool:
        """Whether the store has moved to another file, as far as a transaction sees: that is a file's last transaction."""
        number = int(txn.id())
        if number == self.looked:
            return False
        if (txn.get(KEY_VACUUM, db=self.tables.store) or b"")[:1] == MOVED:
            return True
        self.looked = number
        return False

    def pages(self) -> tuple[dict[str, tuple[int, int]], int, int]:
        """Rows and bytes by table, the bytes of the file, and those of its free pages."""
        with self.reading() as txn:
            stats = {name.decode(): txn.stat(table) for name, table in zip(TABLES, self.tables, strict=True)}
        by_table = {
            name: (stat["entries"], self._page * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]))
            for name, stat in stats.items()
        }
        whole = self._bytes()
        return by_table, whole, whole - sum(size for _, size in by_table.values())

    def enter(self, reader: object) -> Any:
        """A read transaction, which `leave` ends; the file stays open until then, even if somebody closes it meanwhile."""
        self._inside.add(reader)
        try:
            self.check()
            return self.begin(write=False)
        except BaseException:
            self._inside.discard(reader)
            self._end_if_idle()
            raise

    def leave(self, reader: object, txn: Any) -> None:
        """End a read transaction."""
        txn.abort()
        self._inside.discard(reader)
        if self._closed:
            self._end_if_idle()

    def copy(self, directory: Path) -> None:
        """Write what the last commit left into an empty directory, without free pages, while writers go on; synced."""
        with Translated(self.path):
            self._env.copy(str(directory), compact=True)
        file = directory / "data.mdb"
        file.chmod(FILE_MODE)  # LMDB's own mode is as the umask lets it be, which may be none
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def pour(self, fd: int) -> None:
        """Write the file as the last commit left it into a descriptor, page by page at its place, while writers go on."""
        with Translated(self.path):
            self._env.copyfd(fd, compact=False)

    def whole(self) -> int:
        """The file's length in bytes, as its meta page says."""
        self.check()
        return self._bytes()

    def _bytes(self) -> int:
        return int((self._env.info()["last_pgno"] + 1) * self._page)

    def readers(self) -> list[tuple[int, int, int]]:
        """Who reads: process id, thread, and the transaction whose pages it keeps from being used again; by any process.

        A reader between two reads keeps nothing and has -1.
        """
        self.check()
        rows = [line.split() for line in str(self._env.readers()).splitlines()[1:]]
        return [(int(row[0]), int(row[1], 16), -1 if row[2] == "-" else int(row[2])) for row in rows if len(row) == 3]

    def clear_readers(self) -> int:
        """Take the slots of readers whose process is gone out of the table; how many there were."""
        self.check()
        with Translated(self.path):
            return int(self._env.reader_check())

    def close(self) -> None:
        """Close the file, once nobody reads in it any more."""
        self._closed = True
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._closed or self._inside:
            return
        with self._ending:
            if self._ended:
                return
            self._ended = True
        if not self.readonly:
            with contextlib.suppress(lmdb.Error):
                self.fill_up()
        self._env.close()

    def forget(self) -> None:
        """Let go of an environment inherited through a fork, without closing it.

        LMDB's own close would empty the parent's slots in the shared reader table.
        """
        self._closed = self._inherited = self._ended = True
        self._inside, self._ending = set(), threading.Lock()
        self._env = None
        self.tables = Tables(*(None,) * len(TABLES))

    def check(self) -> None:
        """Raise StoreClosed if this environment can't be used any more.

        No look at the process id, which is a call of the kernel: a fork tells every environment that was open.
        """
        if self._closed:
            raise StoreClosed(_FORKED if self._inherited else "this store was closed; open it again")


class Writing:
    """One write transaction as a block; a class, not a generator, since each commit passes here."""

    __slots__ = ("_env", "_txn")

    def __init__(self, env: Environment) -> None:
        self._env = env

    def __enter__(self) -> Any:
        try:
            self._txn = self._env.begin(write=True)
        except lmdb.Error as error:
            raise _translation(self._env.path, error) from error
        return self._txn.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._txn.__exit__(kind, error, trace)
            if error is None:
                self._env.committed()
        except lmdb.Error as failed:
            raise _translation(self._env.path, failed) from failed
        if isinstance(error, lmdb.Error):
            raise _translation(self._env.path, error) from error


def _reserve(file: Path) -> None:
    """Have the disk keep room for the table of readers, which LMDB maps: without it a full disk kills who opens the store.

    Before LMDB opens the file in this process, whose locks on it would be lost when another descriptor is closed.
    """
    fd = files.made_private(file, os.O_RDWR)
    try:
        if hasattr(os, "posix_fallocate") and os.fstat(fd).st_blocks * 512 < _READERS_SIZE:
            os.posix_fallocate(fd, 0, _READERS_SIZE)
    finally:
        os.close(fd)


def _length(file: Path) -> int:
    """A file's size in bytes, not by stat: who asks for its times makes Linux journal the next write to it (40 us)."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def damage(file: Path) -> str:
    """What is wrong with the structure of an LMDB file at rest, empty if nothing is; reads the whole file."""
    try:
        problems = lmdb.verify.verify(str(file))  # type: ignore[no-untyped-call]
    except lmdb.verify.VerifyError as error:
        return str(error)
    return str(problems[0]) if problems else ""


def _keep_private(path: Path, *, readonly: bool) -> None:
    """Mode 0600, and not inherited by programs this process starts: LMDB 0.9 opens without O_CLOEXEC."""
    target = path.stat()
    if not readonly and target.st_mode & 0o077:
        path.chmod(FILE_MODE)
    for entry in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError, ValueError):
            fd = int(entry.name)
            held = os.fstat(fd)
            if (held.st_dev, held.st_ino) == (target.st_dev, target.st_ino):
                os.set_inheritable(fd, False)


# --- LMDB's errors as ours -----------------------------------------------------------------------------------------


class Translated:
    """A block in which LMDB's errors become ours: full, unusable or corrupt; each commit passes through it."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, lmdb.Error):
            raise _translation(self._path, error) from error


# What LMDB says -> what we say: {path} is the LMDB file's directory, {store} the store's, {error} LMDB's own sentence.
_DAMAGED: tuple[tuple[type[lmdb.Error], str], ...] = (
    (lmdb.CorruptedError, "has a damaged page ({error})"),
    (lmdb.PageNotFoundError, "has a damaged page ({error})"),
    (lmdb.InvalidError, "is not an LMDB file that eventflow writes ({error})"),
    (lmdb.VersionMismatchError, "is not an LMDB file that eventflow writes ({error})"),
)
_SAID: tuple[tuple[type[lmdb.Error], type[StoreUnusable], str], ...] = (
    (lmdb.MapFullError, StoreFull, "{store} has reached the size of its map; set EVENTFLOW_MAP_SIZE higher, then go on"),
    (
        lmdb.LockError, StoreUnusable,
        "{store} is locked by a process this one can't see ({error}); containers must share a process namespace to share it",
    ),
    (lmdb.PanicError, StoreUnusable, "{store}: an earlier write failed half-way ({error}); try again"),
    (lmdb.ReadonlyError, StoreUnusable, "{store} can't be used by this user ({error}); even readers write to lock.mdb"),
    (lmdb.ReadersFullError, StoreBusy, "{store} has too many readers already; end some of them, then try again"),
    (
        lmdb.MemoryError, StoreUnusable,
        "{store}: there is no address space for its map; set EVENTFLOW_MAP_SIZE lower, or raise the limit",
    ),
)  # fmt: skip


def _translation(path: Path, error: lmdb.Error) -> StoreUnusable:
    for kind, text in _DAMAGED:
        if isinstance(error, kind):
            return Corrupt(str(path), text.format(error=error))
    for kind, ours, text in _SAID:
        if isinstance(error, kind):
            return ours(text.format(store=path.parent, error=error))
    return _disk_error(path, error)


def _disk_error(path: Path, error: lmdb.Error) -> StoreUnusable:
    text = str(error)
    if "already open in this process" in text:
        return StoreClosed(_FORKED)
    if any(sign in text for sign in ("No space left", "File too large", "MDB_SHORT_WRITE", "quota exceeded")):
        return StoreFull(f"{path.parent}: there is no room for this write ({text}); nothing of it was kept, make room")
    if os.strerror(errno.EIO) in text and _no_room(path):  # what LMDB 0.9 makes of a short write
        return StoreFull(f"{path.parent}: there is no room for this write; nothing of it was kept, make room and go on")
    if os.strerror(errno.EACCES) in text or os.strerror(errno.EROFS) in text:
        return StoreUnusable(f"{path.parent} can't be used by this user; check its owner, mode and file system")
    return StoreUnusable(f"{path.parent}: the disk answered with an error ({text}); nothing of this write was kept")


def _no_room(path: Path) -> bool:
    """Whether the disk, or the size this process may make a file, is nearly used up."""
    try:
        space = os.statvfs(path)
        size = (path / "data.mdb").stat().st_size
    except OSError:
        return False
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limited = limit != resource.RLIM_INFINITY and size + _ROOM > limit
    return limited or space.f_bavail * space.f_frsize < _ROOM


# --- one environment per process and file --------------------------------------------------------------------------


class _Opened:
    """The environments this process has open, by device and inode, with the number of their users."""

    lock: threading.Lock
    held: dict[tuple[int, int], tuple[Environment, int]]

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self.lock = threading.Lock()  # a new one after a fork: a thread of the parent may hold the old one
        self.held = {}

    def forget(self) -> None:
        """In a forked child: let go of what the parent opened."""
        for env, _ in self.held.values():
            env.forget()
        self._empty()


_opened = _Opened()
os.register_at_fork(after_in_child=_opened.forget)


def acquire(directory: Path, *, readonly: bool, map_size: int, create: bool = False) -> Environment:
    """The process's environment for a file, opened on first use; each `acquire` needs a `release`."""
    with _opened.lock:
        status = directory.stat()
        key = (status.st_dev, status.st_ino)
        env, users = _opened.held.get(key) or (None, 0)
        if env is None:
            env = Environment(directory, readonly=readonly, create=create, map_size=map_size)
        elif env.readonly and not readonly:
            raise StoreUnusable(f"{directory.parent} is open read-only in this process; close that first")
        _opened.held[key] = env, users + 1
        return env


def release(env: Environment) -> None:
    """Let go of an environment; the last one closes it."""
    with _opened.lock:
        for key, (held, users) in list(_opened.held.items()):
            if held is env:
                if users > 1:
                    _opened.held[key] = held, users - 1
                else:
                    del _opened.held[key]
                    env.close()
