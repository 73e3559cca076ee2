"""What a store from anybody must look like before anything of it is opened: plain files, no links, whole, not too large.

Only names, kinds and sizes are looked at, and a copy is made of what is then examined: a file that somebody else may write
to, or that is in use, is never looked at twice.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from eventflow.errors import Corrupt, SettingsError, StoreBusy, StoreNotFound
from eventflow.log.lmdb.files import make_directory

MAX_FILE = 1 << 40  # bytes of an LMDB file: 1 TiB, far more than is examined in a day
MAX_BESIDE = 1 << 16  # bytes of CURRENT and the mark, which have some dozens
CHUNK = 1 << 20  # bytes copied at a time
_META = 2 * 4096  # bytes of the two meta pages, by which one sees that a file was written to
_TRIES = 20  # copies of a file that is written to meanwhile; each commit that falls into one spoils it
_NAME = re.compile(r"data\.[0-9]{1,18}", re.ASCII)


def plain_file(path: Path, most: int) -> int:
    """The size of a regular file that is no link. Raises Corrupt."""
    try:
        status = path.lstat()
    except OSError as error:
        raise Corrupt(str(path), f"can't be looked at ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise Corrupt(str(path), "is not a plain file: links, pipes and devices are not followed")
    if status.st_size > most:
        raise Corrupt(str(path), f"has {status.st_size:,} bytes, more than is read of such a file")
    return status.st_size


def plain_directory(path: Path) -> None:
    """Refuse what is no directory, or a link to one. Raises Corrupt, StoreNotFound."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise StoreNotFound(str(path)) from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); check its owner and mode") from None
    if not stat.S_ISDIR(status.st_mode):
        raise Corrupt(str(path), "is not a directory: links are not followed")


def data_file(root: Path) -> Path:
    """The LMDB file that a store's CURRENT names, if everything on the way to it is plain. Raises Corrupt, StoreNotFound."""
    plain_directory(root)
    current = root / "CURRENT"
    if not os.path.lexists(current):
        raise StoreNotFound(str(root))
    plain_file(current, MAX_BESIDE)
    name = _read(current).decode("ascii", "replace").strip()
    if not _NAME.fullmatch(name):
        raise Corrupt(str(current), "does not name a data directory")
    if not os.path.lexists(root / name):
        raise Corrupt(str(root), f"has no {name}, which its CURRENT names")
    plain_directory(root / name)
    file = root / name / "data.mdb"
    size = plain_file(file, MAX_FILE)
    if not size or size % 4096:
        raise Corrupt(str(file), f"has {size:,} bytes, which is no number of whole pages")
    return file


def other_owner(root: Path) -> bool:
    """Whether a store, or a file in it, belongs to another user."""
    paths = [root, root / "CURRENT", *root.glob("data.*"), *root.glob("data.*/*")]
    return any(path.lstat().st_uid not in (os.getuid(), 0) for path in paths if os.path.lexists(path))


def copy_store(root: Path, goal: Path) -> Path:
    """Copy what is examined of a store to a private directory: CURRENT, the LMDB file, the mark. Raises Corrupt, StoreBusy."""
    file = data_file(root)
    directory = goal / file.parent.name  # as it is called there, so that what is said of it can be told of that
    for path in (goal, directory, goal / "owners"):
        make_directory(path)
    mark = file.parent / "mark"
    if os.path.lexists(mark):  # before the file: whoever writes meanwhile moves it past what the file holds
        plain_file(mark, MAX_BESIDE)
        _write(directory / "mark", iter([_read(mark)]))
    for _ in range(_TRIES):
        before = _read(file, _META)
        _write(directory / "data.mdb", _chunks(file))
        if before == _read(file, _META) == _read(directory / "data.mdb", _META):
            break
    else:
        raise StoreBusy(f"{root} is written to without rest; verify a backup of it, or where it lies if it is yours")
    _write(goal / "CURRENT", iter([f"{directory.name}\n".encode()]))
    return directory / "data.mdb"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read(path: Path, most: int = MAX_BESIDE) -> bytes:
    with os.fdopen(_open(path), "rb") as file:
        return file.read(most)


def _chunks(path: Path) -> Iterator[bytes]:
    with os.fdopen(_open(path), "rb") as file:
        while data := file.read(CHUNK):
            yield data


def _write(path: Path, data: Iterator[bytes]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)  # whatever the umask is
    with os.fdopen(fd, "wb") as file:
        for chunk in data:
            file.write(chunk)
