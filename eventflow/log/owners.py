"""Owners on one host: a file under an exclusive lock for as long as the process lives.

A run's lease names its owner; the lease is free when the owner's lock can be taken. The kernel decides, no clock and no
process id (flock(2): a lock goes with its open file description, so it ends with the process, however that ends). A
child made by fork closes the descriptor at once; the lock stays with the parent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from eventflow.errors import StoreBusy, StoreFull, StoreUnusable
from eventflow.log.heads import NOBODY

_NAME = 32  # characters of an owner's file: 16 bytes in hex
_TRIES, _REST = 1_000, 0.001  # times, and seconds between them; who looks at a lock holds it for some microseconds
_held: set[Owner] = set()


class Owner:
    """A living owner: its file, locked."""

    def __init__(self, directory: Path, owner: bytes) -> None:
        self.path = directory / owner.hex()
        self._fd: int | None = _locked(self.path)
        with contextlib.suppress(OSError):  # for people; the lock is what counts
            os.write(self._fd, str(os.getpid()).encode())
        _held.add(self)

    def close(self) -> None:
        """Let go; leases that name this owner are free from now on."""
        if self._fd is not None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            self.drop()

    def drop(self) -> None:
        """Close the descriptor and nothing else: what a forked child does."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None:
            os.close(fd)


def _locked(path: Path) -> int:
    """A new file under an exclusive lock. A sweep may take it between its making and its locking; then make another."""
    for _ in range(_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(fd, 0o600)  # whatever the umask is
        for _ in range(_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_REST)
            else:
                break
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)
    raise StoreBusy(f"{path} can't be kept locked; look whether another process that opens this store is stopped")


def _after_fork() -> None:
    for owner in list(_held):
        owner.drop()


os.register_at_fork(after_in_child=_after_fork)


def owner_gone(directory: Path, owner: bytes) -> bool:
    """Whether nobody holds an owner's lock. A file that is not there belongs to an owner that ended in order."""
    if owner == NOBODY:
        return True
    try:
        fd = os.open(directory / owner.hex(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask at once must not take each other for it
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def new_owner(directory: Path, owner: bytes) -> Callable[[], None]:
    """Register a living owner; returns what ends it. Raises StoreFull, StoreUnusable; FileExistsError for a name in use."""
    try:
        return Owner(directory, owner).close
    except FileExistsError:
        raise  # names are never used twice: no trouble of the disk
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{directory} has no room for one more file; make room, then go on") from error
        raise StoreUnusable(
            f"{directory} can't be written ({error.strerror}); check its owner and file system"
        ) from error


def sweep(directory: Path) -> None:
    """Remove the files of owners that are gone; names are never used twice, so a missing file means the same."""
    for path in directory.iterdir():
        if len(path.name) == _NAME:
            _remove_if_gone(path)


def _remove_if_gone(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or not a file of ours
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        if os.fstat(fd).st_nlink:  # under the lock, so that nobody comes to hold it in between
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def owner_pid(directory: Path, owner: bytes) -> str:
    """The process id an owner wrote into its file, for a message to people; empty if unknown."""
    try:
        return (directory / owner.hex()).read_text()
    except OSError:
        return ""
