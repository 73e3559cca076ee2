"""A store's directory made under another name, and given its own only when it is whole and durable.

Whoever makes it holds a lock for as long as it lives. What one that was killed has left is cleared away by the next, so a
command that makes a directory can be ended at any moment and repeated. Nothing that is there already is written over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from eventflow.durable import sync_directory, sync_file
from eventflow.errors import Conflict, StoreBusy, StoreFull, StoreUnusable
from eventflow.log.lmdb.files import DIRECTORY_MODE, FILE_MODE

SUFFIX = ".partial"  # of the name a directory has until it is whole
LOCK = "making"  # the file in it that its maker holds locked
_FULL = (28, 122)  # ENOSPC, EDQUOT


class Staging:
    """A block in which `path` is an empty directory of mode 0700; `publish` gives it its name. Left behind, it is removed.

    Raises Conflict if something has that name already, StoreBusy if another process is making it, StoreUnusable.
    """

    def __init__(self, goal: Path) -> None:
        self.goal = goal.absolute()
        self.path = self.goal.with_name(self.goal.name + SUFFIX)
        self._fd = -1
        self._published = False

    def __enter__(self) -> Self:
        check_free(self.goal)
        try:
            self.goal.parent.mkdir(parents=True, exist_ok=True)
            self._fd = locked(self.path)
            clear(self.path)
        except OSError as error:
            raise unusable(self.path, error) from error
        return self

    def publish(self) -> None:
        """Make everything durable, then give the directory its name, in one step that survives a power cut."""
        try:
            for path in sorted(self.path.rglob("*"), reverse=True):
                if path.is_dir():
                    path.chmod(DIRECTORY_MODE)
                    sync_directory(path)
                elif path.name != LOCK:
                    path.chmod(FILE_MODE)
                    sync_file(path)
            self.path.chmod(DIRECTORY_MODE)
            sync_directory(self.path)
            check_free(self.goal)
            self.path.rename(self.goal)
            self._published = True
            sync_directory(self.goal.parent)
            (self.goal / LOCK).unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            if not self._published:
                shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
        if isinstance(error, OSError):
            raise unusable(self.path, error) from error


def check_free(goal: Path) -> None:
    """Refuse a place where something is already. Raises Conflict."""
    if os.path.lexists(goal):
        raise Conflict(f"{goal} is there already, and nothing is written over; give another place, or move it away")


def locked(directory: Path) -> int:
    """The descriptor of a lock on a private directory, made if it is not there. Raises StoreBusy, StoreUnusable."""
    directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise StoreUnusable(f"{directory} is not a directory of yours; move it away")
    directory.chmod(DIRECTORY_MODE)  # at once: under some umasks nothing could be made in it else
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = (directory / LOCK).lstat()  # it may have been given its name, or removed, between the two calls
        if (held.st_dev, held.st_ino) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    raise StoreBusy(f"{directory} is being written by another process; wait for it, or give another place")


def unlock(directory: Path, fd: int) -> None:
    """Let go of a lock."""
    (directory / LOCK).unlink(missing_ok=True)
    os.close(fd)


def clear(directory: Path) -> None:
    """Remove all that is in a directory but its lock."""
    for path in directory.iterdir():
        if path.name != LOCK:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def clear_partial(directory: Path) -> None:
    """Remove the files in a directory that somebody began and did not finish."""
    for path in directory.glob("*" + SUFFIX):
        path.unlink()


def new_file(path: Path) -> int:
    """The descriptor of a new file that only its owner reads, whatever the umask is."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    os.fchmod(fd, FILE_MODE)
    return fd


def unusable(path: Path, error: OSError) -> StoreUnusable:
    """What a system's error means to who wants to write there."""
    if error.errno in _FULL:
        return StoreFull(f"{path}: the disk is full ({error.strerror}); make room, then repeat it")
    return StoreUnusable(f"{path} can't be written ({error.strerror}); check its owner, mode and file system")
