"""The LMDB environment: opening, transactions, and what its errors mean. The only file that imports the library.

Default sync flags, never a writable map. One environment per process and file. No transaction outlives a call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb

from eventflow.errors import Corrupt, StoreClosed, StoreFull, StoreUnusable
from eventflow.log.lmdb.tables import TABLES, Tables

MAP_SIZE = 64 << 30  # 64 GiB of address space, not of disk: large enough that growing is rare
MAX_READERS = 1024  # fixed by the first who opens; LMDB's 126 are used up by a few hundred threads of a viewer
FILE_MODE = 0o600


class Environment:
    """An open LMDB file and its tables."""

    def __init__(self, directory: Path, *, readonly: bool, map_size: int = MAP_SIZE) -> None:
        self.path, self.readonly = directory, readonly
        self._pid = os.getpid()
        self._closed = False
        file = directory / "data.mdb"
        size = file.stat().st_size if file.exists() else 0
        with translated(directory):
            self._env = lmdb.open(
                str(directory), map_size=max(map_size, size), max_dbs=len(TABLES) + 3, max_readers=MAX_READERS,
                readonly=readonly, create=not readonly, mode=FILE_MODE, readahead=False, meminit=True, max_spare_txns=8,
            )  # fmt: skip
            try:
                self._env.reader_check()
                self.tables = Tables(*(self._env.open_db(name, create=not readonly) for name in TABLES))
            except lmdb.NotFoundError:
                self._env.close()
                raise Corrupt(str(directory), "lacks a table that every store has") from None
        for name in ("data.mdb", "lock.mdb"):
            with contextlib.suppress(OSError):
                _make_private(directory / name)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """A short read transaction."""
        self._check()
        with translated(self.path):
            with self._begin(write=False) as txn:
                yield txn

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """A write transaction, durable when the block ends, undone if it raises."""
        self._check()
        if self.readonly:
            raise StoreUnusable(f"{self.path.parent} was opened read-only; open it for writing")
        with translated(self.path):
            with self._begin(write=True) as txn:
                yield txn

    def _begin(self, *, write: bool) -> Any:
        try:
            return self._env.begin(write=write)
        except lmdb.MapResizedError:  # another process has grown the map
            self._env.set_mapsize(0)
            return self._env.begin(write=write)

    def last_transaction(self) -> int:
        """The number of the last committed transaction, by any process."""
        self._check()
        return int(self._env.info()["last_txnid"])

    def pages(self) -> tuple[dict[str, tuple[int, int]], int, int]:
        """Rows and bytes by table, the bytes of the file, and those of its free pages."""
        with self.reading() as txn:
            stats = {name.decode(): txn.stat(table) for name, table in zip(TABLES, self.tables, strict=True)}
        page = self._env.stat()["psize"]
        by_table = {
            name: (stat["entries"], page * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]))
            for name, stat in stats.items()
        }
        whole = (self._env.info()["last_pgno"] + 1) * page
        return by_table, whole, whole - sum(size for _, size in by_table.values())

    def close(self) -> None:
        """Close the file; in a forked child only forget it."""
        if not self._closed:
            self._closed = True
            if os.getpid() == self._pid:
                self._env.close()

    def _check(self) -> None:
        if self._closed:
            raise StoreClosed("this store was closed; open it again")
        if os.getpid() != self._pid:
            raise StoreClosed("this store was opened before a fork; open it again in the child process")


def _make_private(path: Path) -> None:
    """Mode 0600, and not inherited by programs this process starts: LMDB 0.9 opens without O_CLOEXEC."""
    path.chmod(FILE_MODE)
    target = path.stat()
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        return
    for entry in list(fds.iterdir()):
        with contextlib.suppress(OSError, ValueError):
            fd = int(entry.name)
            held = os.fstat(fd)
            if (held.st_dev, held.st_ino) == (target.st_dev, target.st_ino):
                os.set_inheritable(fd, False)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """LMDB's errors as ours: full, unusable or corrupt."""
    try:
        yield
    except lmdb.MapFullError:
        raise StoreFull(
            f"{path.parent} has reached the size of its map; set EVENTFLOW_MAP_SIZE higher, then go on"
        ) from None
    except lmdb.DiskError as error:
        raise _disk_error(path, error) from error
    except lmdb.CorruptedError as error:
        raise Corrupt(str(path), f"has a damaged page ({error})") from error
    except (lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise Corrupt(str(path), f"is not an LMDB file that eventflow writes ({error})") from error
    except lmdb.LockError as error:
        raise StoreUnusable(
            f"{path.parent} is locked by a process this one can't see ({error}); containers that share a store must share "
            f"their process namespace too"
        ) from error
    except lmdb.PanicError as error:
        raise StoreUnusable(
            f"{path.parent}: an earlier write failed half-way ({error}); open the store again"
        ) from error
    except lmdb.ReadonlyError as error:
        raise StoreUnusable(f"{path.parent} can't be written ({error}); check its mode and its file system") from error
    except lmdb.Error as error:
        raise _disk_error(path, error) from error


def _disk_error(path: Path, error: lmdb.Error) -> StoreUnusable:
    text = str(error)
    full = any(mark in text for mark in ("No space left", "Input/output error", "MDB_SHORT_WRITE", "File too large"))
    free = _free_bytes(path)
    if full and free is not None and free < (1 << 20):
        return StoreFull(f"{path.parent}: the disk is full; nothing of this write was kept, make room and go on")
    if "No space left" in text or "File too large" in text or "MDB_SHORT_WRITE" in text:
        return StoreFull(f"{path.parent}: there is no room for this write ({text}); nothing of it was kept")
    if os.strerror(errno.EACCES) in text or os.strerror(errno.EROFS) in text:
        return StoreUnusable(f"{path.parent} can't be written by this user; check its owner, mode and file system")
    return StoreUnusable(f"{path.parent}: the disk answered with an error ({text}); nothing of this write was kept")


def _free_bytes(path: Path) -> int | None:
    try:
        space = os.statvfs(path)
    except OSError:
        return None
    return space.f_bavail * space.f_frsize


_registry_lock = threading.Lock()
_registry: dict[tuple[int, int], tuple[Environment, int]] = {}  # by device and inode: LMDB allows one per process


def acquire(directory: Path, *, readonly: bool, map_size: int) -> Environment:
    """The process's environment for a file, opened on first use; each `acquire` needs a `release`."""
    with _registry_lock:
        status = directory.stat()
        key = (status.st_dev, status.st_ino)
        held = _registry.get(key)
        if held is not None and held[0]._pid != os.getpid():  # noqa: SLF001 - same file
            held = None
        if held is None:
            held = Environment(directory, readonly=readonly, map_size=map_size), 0
        env, users = held
        if env.readonly and not readonly:
            raise StoreUnusable(f"{directory.parent} is open read-only in this process; close that first")
        _registry[key] = env, users + 1
        return env


def release(env: Environment) -> None:
    """Let go of an environment; the last one closes it."""
    with _registry_lock:
        for key, (held, users) in list(_registry.items()):
            if held is env:
                if users > 1:
                    _registry[key] = held, users - 1
                else:
                    del _registry[key]
                    env.close()
                return
        env.close()
