"""The files around a store's LMDB file: directory, CURRENT, write gate, high-water mark, and the checks before opening.

A truncated LMDB file kills whoever reads past its end, and one flipped bit in a meta page rolls a commit back without a
trace inside the file. So the size is checked before the library sees the file, and a mark outside the pages remembers how
far the log had come.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import stat
import struct
import time
import zlib
from pathlib import Path
from typing import Self

from eventflow.durable import sync_directory
from eventflow.errors import Corrupt, StoreBusy, StoreNotFound, StoreUnusable

DIRECTORY_MODE = 0o700  # what is in a store is its owner's business
FILE_MODE = 0o600
BACKUP = "BACKUP"  # the file that says that a directory is a backup of a store, which nobody drives
GATE_TIMEOUT = 30.0  # seconds; a commit takes under a ms, so this is a stopped process or a dying disk
_GATE_POLLS = (0.0002, 0.0005, 0.001, 0.002, 0.005)  # seconds between tries, the last one repeated
MARK_SYNC_EVERY = 1_000  # events between syncs of the mark; it is a plain write after each commit otherwise
_MARK = struct.Struct(">8sQ32s")
_MARK_SIZE = _MARK.size + 4  # with its CRC-32
_MARK_SLOT = 64  # bytes from one of the two marks to the other
_MARK_MAGIC = b"eflowhw1"
# LMDB 0.9 meta page (lmdb's mdb.c: MDB_page header of 16 bytes, then MDB_meta), little-endian here.
_META = struct.Struct("<16xIIQQ48s48sQQ")
_META_MAGIC = 0xBEEFC0DE
_MAGIC = _META_MAGIC.to_bytes(4, "little")
# Of the tables of free pages and of tables. A check of the structure passes others, and the first writer is aborted.
_META_FLAGS = (b"\x08\0", b"\0\0")
# File systems on which shared maps or locks do not work between hosts (names as in /proc/mounts).
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"})


def data_directory(root: Path) -> Path:
    """The directory of the LMDB file in use, named by CURRENT. Raises StoreNotFound or StoreUnusable."""
    name = ""
    while (
        now := _current(root)
    ) != name:  # a vacuum may have moved the store on and removed the file since it was read
        name = now
        if (root / name / "data.mdb").is_file():
            return root / name
    raise Corrupt(str(root), f"has no {name}/data.mdb, which its CURRENT names")


def _current(root: Path) -> str:
    current = root / "CURRENT"
    try:
        name = current.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        if root.exists() and not _may_become(root):
            raise StoreUnusable(f"{root} is not an eventflow store; give another path to --store") from None
        raise StoreNotFound(str(root)) from None
    except UnicodeDecodeError:
        name = ""
    checked_name(current, name)
    return name


def _may_become(root: Path) -> bool:
    """Whether a path is a directory in which a store may be made: empty, or what a power cut left of one being made."""
    if not root.is_dir():
        return False
    inside = list(root.iterdir())
    if (root / "data.1").is_dir():
        return True
    return all(
        path.name in ("gate", "CURRENT.new") or (path.name in ("owners", "keys") and not any(path.iterdir()))
        for path in inside
    )


def checked_name(where: Path, name: str) -> str:
    """The name of a data directory, if it is one. Raises Corrupt."""
    if not name.startswith("data.") or not name[5:].isdecimal():
        raise Corrupt(str(where), "does not name a data directory")
    return name


def settle(root: Path, name: str) -> None:
    """Make CURRENT name the data directory in use, and remove older ones, which nobody needs. Under the gate.

    Whoever died between a store's move and this leaves it to the next who opens the store.
    """
    if data_directory(root).name != name:
        set_current(root, name)
    for number in sorted(numbers(root)):
        if number < int(name[5:]):
            remove_data(root / f"data.{number}")


def numbers(root: Path) -> list[int]:
    """The numbers of the data directories that are there."""
    return [
        int(path.name[5:]) for path in root.iterdir() if path.name.startswith("data.") and path.name[5:].isdecimal()
    ]


def remove_data(directory: Path) -> None:
    """Remove a data directory; who has its file open keeps the file until it lets go of it. What is not ours stays."""
    for name in ("data.mdb", "lock.mdb", "mark"):
        with contextlib.suppress(OSError):
            (directory / name).unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()


def create_directory(root: Path) -> Path:
    """Make a new store's directory, private; returns the LMDB directory. Makes what is missing of a half-made one."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for path in (root, root / "data.1", root / "owners", root / "keys"):
            make_directory(path)
    except OSError as error:
        raise StoreUnusable(f"{root} can't be created ({error.strerror}); give a path that can be written") from None
    return root / "data.1"


def make_directory(path: Path) -> None:
    """Make a directory of mode 0700, whatever the umask is, or make one that is there already so. Raises OSError."""
    path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    path.chmod(DIRECTORY_MODE)  # at once: under some umasks nothing could be made in it else


def made_private(path: Path, flags: int) -> int:
    """A descriptor of a file of mode 0600, made if it is not there, whatever the umask is; no link is followed."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) != FILE_MODE and status.st_uid == os.geteuid():
        os.fchmod(fd, FILE_MODE)
    return fd


def clear_unborn(file: Path) -> None:
    """Remove an LMDB file that a power cut left before its two first meta pages were durable.

    One of them is blank then, and the other is too or is of no transaction. Whatever was committed since has left a meta
    page of a transaction, so nothing of anybody's is in such a file.
    """
    if not file.exists():
        return
    with file.open("rb") as opened:
        pages = [opened.read(mmap.PAGESIZE) for _ in range(2)]  # the size of LMDB's pages in a file that it makes
    blank = [not page.strip(b"\0") for page in pages]
    born = any(not empty and _transaction(page) for empty, page in zip(blank, pages, strict=True))
    if any(blank) and not born:
        file.unlink()


def _transaction(page: bytes) -> int:
    """The number of the transaction that a meta page is of; of what is none, a number too."""
    return int(_META.unpack_from(page)[7]) if len(page) >= _META.size and page[16:20] == _MAGIC else 1


def set_current(root: Path, name: str) -> None:
    """Make CURRENT name a data directory, in one step that survives a power cut."""
    fresh = root / "CURRENT.new"
    fd = made_private(fresh, os.O_WRONLY | os.O_TRUNC)
    try:
        _write_all(fd, name.encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.replace(root / "CURRENT")
    sync_directory(root)


def _write_all(fd: int, data: bytes) -> None:
    """Write all of it: a disk that is nearly full may take a part, and say so only by a number. Raises OSError."""
    while data:
        written = os.write(fd, data)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]


def check_owner(root: Path) -> None:
    """Refuse a store that another user owns, that everybody may write, or in which a link leads elsewhere."""
    status = root.stat()
    if status.st_uid not in (os.getuid(), 0) and os.getuid() != 0:
        raise StoreUnusable(f"{root} belongs to another user (uid {status.st_uid}); use a store of your own")
    if status.st_mode & stat.S_IWOTH:
        raise StoreUnusable(f"{root} can be written by everybody; run chmod 700 on it")
    data = data_directory(root)
    for path in (root / "CURRENT", data, *(data / name for name in ("data.mdb", "lock.mdb", "mark")), root / "keys"):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(path.lstat().st_mode):
                raise StoreUnusable(f"{path} is a link, which is never followed; put what it leads to in its place")


def missing_bytes(path: Path) -> int:
    """How many bytes an LMDB file is shorter than its meta pages say, looked at before the library maps it.

    Raises Corrupt if it has no meta pages. The size is read after them: a writer makes the file longer first.
    """
    with path.open("rb") as file:
        metas = [_meta(file.read(4096), path)]
        page = metas[0][0]
        file.seek(page)
        metas.append(_meta(file.read(4096), path))
        size = os.fstat(file.fileno()).st_size
    _, last, _ = max(metas, key=lambda meta: meta[2])
    return max(0, (last + 1) * page - size)


def _meta(data: bytes, path: Path) -> tuple[int, int, int]:
    """Page size, last page, transaction id of one meta page."""
    if len(data) < _META.size:
        raise Corrupt(str(path), "ends before or inside a meta page")
    magic, version, _, _, free_db, main_db, last, transaction = _META.unpack_from(data)
    page = int.from_bytes(free_db[:4], "little")
    if magic != _META_MAGIC or version not in (1, 999) or page not in (4096, 8192, 16384, 32768, 65536):
        raise Corrupt(str(path), "is not an LMDB file that eventflow writes")
    if (free_db[4:6], main_db[4:6]) != _META_FLAGS:
        raise Corrupt(
            str(path), "has flags in a meta page that no file of eventflow has: it would end who writes to it"
        )
    return page, last, transaction


# --- the write gate ------------------------------------------------------------------------------------------------


class Gate:
    """A lock in front of LMDB's own, which can't be waited for with a timeout: one writing process at a time."""

    def __init__(self, root: Path, *, timeout: float = GATE_TIMEOUT) -> None:
        self._path = root / "gate"
        self._timeout = timeout  # seconds
        self._fd = made_private(self._path, os.O_RDWR)
        self._pid = str(os.getpid()).encode().ljust(12)

    def held(self) -> Self:
        """A block in which the gate is held. Raises StoreBusy, naming the holder's process, after the timeout."""
        return self

    def __enter__(self) -> None:
        self._acquire()

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _acquire(self) -> None:
        waited = 0.0
        for attempt in itertools.count():
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waited > self._timeout:
                    raise self._busy() from None
                rest = _GATE_POLLS[min(attempt, len(_GATE_POLLS) - 1)]
                time.sleep(rest)
                waited += rest
            else:
                return

    def name_holder(self) -> None:
        """Write down who holds the gate; only after somebody else has, for a file's change costs its share of a sync."""
        with contextlib.suppress(OSError):  # for people; the lock is what counts
            os.pwrite(self._fd, self._pid, 0)

    def _busy(self) -> StoreBusy:
        holder = os.pread(self._fd, 12, 0).decode(errors="replace").strip() or "unknown"
        return StoreBusy(
            f"the store's write gate has been held for {self._timeout:g} s by process {holder}; "
            f"look whether that process is stopped or its disk hangs, then try again"
        )

    def close(self) -> None:
        """Let go of the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def gate_holder(root: Path) -> str:
    """The process id of who holds a store's write gate now, empty if nobody does or it can't be told."""
    try:
        fd = os.open(root / "gate", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look at once must not take each other for it
    except BlockingIOError:
        return os.pread(fd, 12, 0).decode(errors="replace").strip() or "unknown"
    else:
        return ""
    finally:
        os.close(fd)


# --- the high-water mark -------------------------------------------------------------------------------------------


class HighWater:
    """Position and digest of the last event this store is known to have had, outside the pages."""

    def __init__(self, directory: Path, *, readonly: bool = False) -> None:
        self.path = directory / "mark"
        self._fd: int | None = None
        try:
            if readonly:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            else:
                self._fd = made_private(self.path, os.O_RDWR)
        except OSError as error:
            if not (readonly and error.errno in (errno.ENOENT, errno.EACCES)):
                raise
        self._unsynced = 0
        self._slot = 0
        self._map: mmap.mmap | None = None
        if self._fd is not None and not readonly:
            with contextlib.suppress(OSError, ValueError):  # a disk without room for it: what lags behind is harmless
                self._map = _mapped(self._fd)

    def read(self) -> tuple[int, bytes] | None:
        """The position and digest remembered, or None. A torn mark counts for nothing; there are two, written in turn."""
        if self._fd is None:
            return None
        data = os.pread(self._fd, 2 * _MARK_SLOT, 0)
        found = [mark for slot in (0, _MARK_SLOT) if (mark := _mark(data[slot : slot + _MARK_SLOT])) is not None]
        return max(found, default=None)

    def write(self, position: int, digest: bytes, *, events: int) -> None:
        """Remember an acknowledged position; synced now and then.

        Never raises: what it speaks of is durable already, and a mark that lags behind is harmless.
        """
        if self._map is None:
            return
        data = _MARK.pack(_MARK_MAGIC, position, digest)
        self._slot ^= _MARK_SLOT
        # A store into mapped memory, not a call: it outlives this process as a write would, and each commit passes here.
        self._map[self._slot : self._slot + _MARK_SIZE] = data + zlib.crc32(data).to_bytes(4, "big")
        self._unsynced += events
        if self._unsynced >= MARK_SYNC_EVERY:
            self._sync()

    def _sync(self) -> None:
        if self._map is not None and self._fd is not None and self._unsynced:
            with contextlib.suppress(OSError):
                self._map.flush()
                os.fsync(self._fd)
            self._unsynced = 0

    def close(self, *, sync: bool = True) -> None:
        """Let go of the file, synced unless somebody else, the parent of this process, goes on using it."""
        if sync:
            self._sync()
        held, self._map = self._map, None
        if held is not None:
            held.close()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _mapped(fd: int) -> mmap.mmap:
    """The two marks of a file as memory; the file is made long enough first, by writing, so that the disk has its block."""
    missing = 2 * _MARK_SLOT - os.fstat(fd).st_size
    if missing > 0:
        os.pwrite(fd, bytes(missing), 2 * _MARK_SLOT - missing)
    return mmap.mmap(fd, 2 * _MARK_SLOT)


def _mark(data: bytes) -> tuple[int, bytes] | None:
    """The position and digest of one mark, None if it was never written or is torn."""
    data = data[:_MARK_SIZE]
    if len(data) < _MARK_SIZE or zlib.crc32(data[:-4]).to_bytes(4, "big") != data[-4:]:
        return None
    magic, position, digest = _MARK.unpack(data[:-4])
    return (position, digest) if magic == _MARK_MAGIC else None


def network_file_system(path: Path) -> str:
    """The name of the network file system a path lies on, empty if it is local or can't be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = str(path.resolve())
    best, kind = "", ""
    for line in mounts:
        parts = line.split()
        if len(parts) > 2 and (real + "/").startswith(parts[1].rstrip("/") + "/") and len(parts[1]) > len(best):
            best, kind = parts[1], parts[2]
    return kind if kind in _NETWORK else ""
