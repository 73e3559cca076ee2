"""Backups made, whole or of what has changed, while runs go on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from eventflow.backup.layout import (
    BLOCK,
    INCREMENTS,
    Backup,
    IncrementWriter,
    Point,
    increment_name,
    read_backup,
    whole_word,
)
from eventflow.backup.staging import SUFFIX as PARTIAL
from eventflow.backup.staging import Staging, clear_partial, locked, new_file, unlock, unusable
from eventflow.clock import Clock, SystemClock
from eventflow.codec import pack
from eventflow.durable import sync_directory
from eventflow.errors import Conflict, SettingsError, StoreFull
from eventflow.event import BackupMade
from eventflow.forking import who, write_one
from eventflow.log import Act, LmdbLog, LockedLog, Log
from eventflow.log.lmdb.copying import Copying
from eventflow.log.lmdb.files import BACKUP, HighWater, make_directory, set_current
from eventflow.log.removal import name_of
from eventflow.plain import clean_text

SEALS, KEYS = "seals", "keys"
Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that is whole and durable: its point, the file or directory it is, and how many bytes it took.

    `recorded` is False if the store had no room left to say so.
    """

    point: Point
    path: Path
    bytes: int
    recorded: bool


def backup(
    store: Log | str | os.PathLike[str], dest: str | os.PathLike[str], *, incremental: bool = False, keys: bool = False,
    actor: str = "", why: str = "", clock: Clock | None = None, progress: Progress | None = None,
) -> Made:  # fmt: skip
    """Copy a store to a new directory, or with `incremental` add to a backup what has changed since; runs go on meanwhile.

    Keys of an encrypted store come along only with `keys`. It can be killed at any moment and repeated. Raises Conflict if
    the place is taken, or the backup is not of this store's past; StoreUnusable, StoreBusy.
    """
    if isinstance(store, str | os.PathLike):
        with closing(LmdbLog(store, create=False)) as log:
            return backup(
                log, dest, incremental=incremental, keys=keys, actor=actor, why=why, clock=clock, progress=progress
            )
    if isinstance(store, LockedLog):
        store = store.inner
    if not isinstance(store, LmdbLog):
        raise SettingsError("only a store in a directory is backed up here; a database has its own tools for that")
    work = _Work(store, Path(dest), keys, clock or SystemClock(), progress)
    point, path, size = _increment(work) if incremental else _whole(work)
    event = BackupMade(point.number, point.position, point.digest, keys, actor or who(), why)
    try:
        write_one(store, Act(pack(event), work.clock.now()))
    except StoreFull:
        return Made(point, path, size, recorded=False)
    return Made(point, path, size, recorded=True)


@dataclass(frozen=True, slots=True)
class _Work:
    """A backup to be made: of what, where to, with keys or without."""

    log: LmdbLog
    dest: Path
    keys: bool
    clock: Clock
    progress: Progress | None

    def beside(self, root: Path) -> None:
        """Copy what lies beside the log."""
        for name in (SEALS, KEYS) if self.keys else (SEALS,):
            copy_files(self.log.path / name, root / name)


def _watched(copy: Copying, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    for chunk in copy.chunks():
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(min(done, copy.size), copy.size)


# --- whole ---------------------------------------------------------------------------------------------------------


def _whole(work: _Work) -> tuple[Point, Path, int]:
    log = work.log
    with Staging(work.dest) as staging:
        root = staging.path
        for name in ("data.1", "owners", KEYS):
            make_directory(root / name)
        hashed, size = hashlib.sha256(), 0
        now = work.clock.now()
        with closing(log.copying()) as copy, os.fdopen(new_file(root / "data.1" / "data.mdb"), "wb") as file:
            for chunk in _watched(copy, work.progress):
                size += file.write(chunk)
                hashed.update(chunk)
        point = Point(1, copy.position, copy.digest, now, size, hashed.digest())
        write_mark(root / "data.1", point.position, point.digest)
        work.beside(root)
        put_file(root / BACKUP, whole_word(log.store_id, clean_text(str(log.path)), point, keys=work.keys))
        set_current(root, "data.1")
        staging.publish()
    return point, staging.goal, size


def write_mark(directory: Path, position: int, name: bytes) -> None:
    """The high-water mark of a copy."""
    with closing(HighWater(directory)) as mark:
        mark.write(position, name, events=1)


def put_file(path: Path, data: bytes) -> None:
    """A new private file, whole and durable."""
    with os.fdopen(new_file(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_files(source: Path, goal: Path) -> None:
    """Copy the plain files of a directory; links and directories in it are left out."""
    if not source.is_dir():
        return
    make_directory(goal)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.is_symlink() and not (goal / path.name).exists():
            with path.open("rb") as reading, os.fdopen(new_file(goal / path.name), "wb") as writing:
                shutil.copyfileobj(reading, writing)


# --- what has changed ----------------------------------------------------------------------------------------------


def _increment(work: _Work) -> tuple[Point, Path, int]:
    dest = work.dest
    read_backup(dest)  # before anything is made there
    lock = locked(dest)
    try:
        before = read_backup(dest)
        _check_past(work.log, before.store_id, before.last)
        directory = dest / INCREMENTS
        make_directory(directory)
        clear_partial(directory)
        name = increment_name(before.last.number + 1)
        with os.fdopen(new_file(directory / (name + PARTIAL)), "wb") as file:
            point = _write_increment(work, before, file)
            file.flush()
            os.fsync(file.fileno())
        work.beside(dest)
        (directory / (name + PARTIAL)).rename(directory / name)
        sync_directory(directory)
        sync_directory(dest)
        return point, directory / name, (directory / name).stat().st_size
    except OSError as error:
        raise unusable(dest, error) from error
    finally:
        unlock(dest, lock)


def _write_increment(work: _Work, before: Backup, file: IO[bytes]) -> Point:
    number, now = before.last.number + 1, work.clock.now()
    writer = IncrementWriter(file, work.log.store_id, number, before.last_file)
    with closing(work.log.copying()) as copy:
        size, image = _compared(_watched(copy, work.progress), before.image(before.last.number), writer)
    point = Point(number, copy.position, copy.digest, now, size, image)
    writer.finish(point)
    return point


def _compared(new: Iterable[bytes], old: Iterator[bytes], writer: IncrementWriter) -> tuple[int, bytes]:
    """Write the blocks that are others than before; returns the new file's size and digest."""
    hashed, size, index = hashlib.sha256(), 0, 0
    for chunk in new:
        hashed.update(chunk)
        size += len(chunk)
        for start in range(0, len(chunk), BLOCK):
            data = chunk[start : start + BLOCK]
            if next(old, None) != data:
                writer.put(index, data)
            index += 1
    for _ in old:  # to its end, so that the old file is known to be what it was
        pass
    return size, hashed.digest()


def _check_past(log: LmdbLog, store_id: bytes, last: Point) -> None:
    """Refuse a backup that is not of this store's past. Raises Conflict."""
    held = log.feed(last.position - 1, 1)
    name = name_of(held[0].data) if held else b""
    if log.store_id != store_id or name != last.digest:
        raise Conflict(
            f"the backup ends at position {last.position} with another event than this store has there: it is of another "
            f"store, or this one was rolled back or restored since; make a whole backup at another place"
        )
