"""Files that hold secrets: private under any umask, never followed through a link, gone when they are destroyed.

Nothing here knows what is in them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from eventflow.durable import sync_directory
from eventflow.errors import SettingsError, StoreUnusable

PRIVATE = 0o600
PRIVATE_DIRECTORY = 0o700
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def read_private(path: Path, limit: int) -> bytes:
    """The bytes of a file that only its owner may read. Raises SettingsError if others may, or if it is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); give the file of a key") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SettingsError(f"{path} is no file; give the file of a key")
        if status.st_uid not in (os.geteuid(), 0):
            raise SettingsError(f"{path} belongs to another user (uid {status.st_uid}); use a key of your own")
        if status.st_mode & 0o077:
            raise SettingsError(f"{path} can be read by others; run chmod 600 on it, or make a new key")
        return os.read(fd, limit)
    finally:
        os.close(fd)


def write_new(path: Path, data: bytes) -> None:
    """Write a private file that was not there, durably. Raises SettingsError if it was, or can't be written."""
    try:
        _written_new(path, data)
        sync_directory(path.parent)
    except FileExistsError:
        raise SettingsError(f"{path} is there already; give another name, a key is never written over") from None
    except OSError as error:
        raise SettingsError(f"{path} can't be written ({error.strerror}); give another place") from None


def _written_new(path: Path, data: bytes) -> None:
    """A new file with all of the data, synced; none at all where that fails. Raises OSError."""
    fd = os.open(path, _NEW, PRIVATE)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, PRIVATE)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(fd)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class KeyFolder:
    """The folder of a store's wrapped keys: small files, each named by the tag of who it is for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> int:
        """A number that changes whenever a file came or went."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def token(self, name: str) -> object:
        """What tells a key's file from any other that may stand there under its name; None if there is none."""
        try:
            status = (self.path / f"{name}.key").lstat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def names(self) -> list[str]:
        """The tags of all keys, in order."""
        try:
            return sorted(one.stem for one in self.path.iterdir() if one.suffix == ".key")
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes | None:
        """A key's file, None if there is none. Raises StoreUnusable if it is a link, or can't be read."""
        return _read(self.path / f"{name}.key")

    def create(self, name: str, data: bytes) -> bool:
        """Write a key's file, durably and whole, unless there is one; whether there was none."""
        fresh = self._written(name, data)
        try:
            os.link(fresh, self.path / f"{name}.key")
        except FileExistsError:
            return False
        finally:
            fresh.unlink()
        sync_directory(self.path)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Put another file in a key's place, in one step that survives a power cut."""
        self._written(name, data).replace(self.path / f"{name}.key")
        sync_directory(self.path)

    def _written(self, name: str, data: bytes) -> Path:
        try:
            if not self.path.is_dir():
                self.path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
                self.path.chmod(PRIVATE_DIRECTORY)  # whatever the umask is
            fresh = self.path / f"{name}.{os.getpid()}-{os.urandom(4).hex()}.new"
            _written_new(fresh, data)
        except OSError as error:
            raise StoreUnusable(f"{self.path} can't be written ({error.strerror}); nothing was encrypted") from None
        return fresh

    def discard(self, name: str) -> None:
        """Take away a key that nothing was encrypted with."""
        (self.path / f"{name}.key").unlink(missing_ok=True)

    def destroy(self, name: str) -> None:
        """Make a key unreadable for good: taken out of use in one step, then overwritten. `forget` ends it."""
        gone = self.path / f"{name}.shredding"
        if not gone.exists():
            (self.path / f"{name}.key").replace(gone)
            sync_directory(self.path)
        fd = os.open(gone, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "wb", buffering=0) as file:
            size = os.fstat(fd).st_size
            file.write(os.urandom(size))
            os.fsync(fd)

    def forget(self, name: str) -> None:
        """Remove what is left of a key that was destroyed."""
        (self.path / f"{name}.shredding").unlink(missing_ok=True)
        sync_directory(self.path)

    def half_destroyed(self) -> list[str]:
        """The tags of keys whose destruction was begun and has not ended."""
        try:
            return sorted(one.stem for one in self.path.iterdir() if one.suffix == ".shredding")
        except FileNotFoundError:
            return []


class KeyShelf:
    """The same in memory, for a store in memory."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._gone: set[str] = set()
        self._changes = 1

    def stamp(self) -> int:
        """A number that changes whenever a key came or went."""
        return self._changes

    def token(self, name: str) -> object:
        """What tells a key from any other under its name; None if there is none."""
        return self._held.get(name)

    def names(self) -> list[str]:
        """The tags of all keys, in order."""
        return sorted(self._held)

    def read(self, name: str) -> bytes | None:
        """A key's bytes, None if there are none."""
        return self._held.get(name)

    def create(self, name: str, data: bytes) -> bool:
        """Keep a key unless there is one; whether there was none."""
        self._changes += 1
        return self._held.setdefault(name, data) is data

    def replace(self, name: str, data: bytes) -> None:
        """Keep another one in its place."""
        self._changes += 1
        self._held[name] = data

    def discard(self, name: str) -> None:
        """Take away a key that nothing was encrypted with."""
        self._held.pop(name, None)

    def destroy(self, name: str) -> None:
        """Let go of a key for good."""
        self._changes += 1
        self._held.pop(name, None)
        self._gone.add(name)

    def forget(self, name: str) -> None:
        """Remove what is left of it."""
        self._gone.discard(name)

    def half_destroyed(self) -> list[str]:
        """The tags of keys whose destruction has not ended."""
        return sorted(self._gone)


Shelf = KeyFolder | KeyShelf


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnusable(f"{path} can't be read ({error.strerror}); a link is never followed") from None
    with os.fdopen(fd, "rb") as file:
        return file.read()
