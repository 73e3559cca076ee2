"""How a store is opened, and made where there is none yet.

What can be checked at once is checked before anything is believed. Making a store ends with naming it in CURRENT, so that
one left half-made by a crash is finished by the next who opens it. Whoever may write goes through the gate first, since
LMDB takes its write lock, which can't be waited for with a timeout, to open its tables.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eventflow.clock import Clock
from eventflow.codec import pack
from eventflow.durable import sync_directory
from eventflow.errors import (
    Corrupt,
    EventflowError,
    SettingsError,
    StoreFull,
    StoreNotFound,
    StoreUnusable,
    WrittenByNewer,
)
from eventflow.event import StoreCreated
from eventflow.log.lmdb import files
from eventflow.log.lmdb.checks import check_tail
from eventflow.log.lmdb.environment import MAP_SIZE, Environment, acquire, damage, release
from eventflow.log.lmdb.tables import KEY_FORMAT, KEY_STORE_ID, KEY_VACUUM, MOVED, U64
from eventflow.log.lmdb.writing import Batch, put
from eventflow.log.owners import owner_gone, sweep
from eventflow.log.protocol import Act

STORE_FORMAT = 1
_LOOKS = 10  # at a file that seems too short, before it is read as a whole: a writer may be just filling it up
_LOOK_AGAIN = 0.002  # seconds


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a store shall be opened. `map_size` in bytes, `gate_timeout` in seconds."""

    readonly: bool
    create: bool
    clock: Clock
    map_size: int
    gate_timeout: float


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store; `gate` is None if it was opened read-only."""

    env: Environment
    gate: files.Gate | None
    mark: files.HighWater
    store_id: bytes

    def close(self) -> None:
        """Sync the mark and let go of every file."""
        if self.gate is not None:
            self.gate.close()
        self.mark.close()
        release(self.env)

    def leave(self) -> None:
        """Let go of the file, which the store has moved away from; the gate goes on with the store."""
        self.mark.close(sync=False)
        release(self.env)

    def forget(self) -> None:
        """In a forked child: close the inherited descriptors, which would keep the gate held if the parent died."""
        if self.gate is not None:
            self.gate.close()
        self.mark.close(sync=False)


def map_size(wanted: int | None) -> int:
    """The size of the map in bytes: what is asked for, else EVENTFLOW_MAP_SIZE, else 64 GiB. Raises SettingsError."""
    if wanted is not None:
        return wanted
    text = os.environ.get("EVENTFLOW_MAP_SIZE", str(MAP_SIZE))
    if not text.isdecimal() or not int(text):
        raise SettingsError(f"EVENTFLOW_MAP_SIZE is {text!r}; give a number of bytes")
    return int(text)


def open_store(root: Path, wanted: Wanted) -> Opened:
    """Open a store, making it first if it is wanted. Raises StoreNotFound, Corrupt, WrittenByNewer, StoreUnusable."""
    try:
        if wanted.readonly:
            files.data_directory(root)
            files.check_owner(root)
            return _settled(root, None, wanted)
        return _opened_for_writing(root, wanted)
    except OSError as error:
        raise unusable(root, error) from error


def followed(root: Path, opened: Opened, wanted: Wanted) -> Opened:
    """What is open, in the file that its store has moved to, with the same gate. Raises as `open_store` does."""
    try:
        return _settled(root, opened.gate, wanted, shared=not opened.env.readonly)
    except OSError as error:
        raise unusable(root, error) from error


def _settled(root: Path, gate: files.Gate | None, wanted: Wanted, *, shared: bool = False) -> Opened:
    """The store opened in the file that it is in: one that it has moved away from says where to.

    A file that goes while it is being opened went because the store has moved: then CURRENT names another by now.
    """
    name, tries = files.data_directory(root).name, 0
    while True:
        try:
            opened = _opened(root, root / name, gate, wanted, shared=shared)
        except (OSError, StoreUnusable):
            now, tries = files.data_directory(root).name, tries + 1
            if now == name or tries > _LOOKS:
                raise
            name = now
            continue
        with opened.env.reading() as txn:
            said = bytes(txn.get(KEY_VACUUM, db=opened.env.tables.store) or b"")
        if said[:1] != MOVED:
            return opened
        opened.leave()
        name = files.checked_name(root, said[1:].decode(errors="replace"))


def unusable(root: Path, error: OSError) -> StoreUnusable:
    """What a system's error means to who wants to use a store."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(f"{root}: the disk is full ({error.strerror}); make room, then open it again")
    what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if error.errno == errno.EIO:
        return StoreUnusable(
            f"{root}: the disk answered with an error ({what}); look what is wrong with it, then try again"
        )
    return StoreUnusable(f"{root} can't be used by this user ({what}); check its owner, mode and file system")


def _opened_for_writing(root: Path, wanted: Wanted) -> Opened:
    kind = files.network_file_system(root)
    if kind:
        raise StoreUnusable(
            f"{root} lies on a network file system ({kind}), where LMDB's locks do not hold; use a local disk"
        )
    try:
        files.data_directory(root)
        files.check_owner(root)
    except StoreNotFound:
        if not wanted.create:
            raise
        files.create_directory(root)
    if (root / files.BACKUP).exists():
        raise StoreUnusable(
            f"{root} is a backup, which is only read; `eventflow store restore {root} DEST` makes a store of it"
        )
    gate = files.Gate(root, timeout=wanted.gate_timeout)
    try:
        with gate.held():
            gate.name_holder()
            if not (root / "CURRENT").exists():
                _create(root, wanted)
            opened = _settled(root, gate, wanted)
            files.settle(root, opened.env.path.name)
    except BaseException:
        gate.close()
        raise
    owners = root / "owners"
    files.make_directory(owners)
    sweep(owners)
    return opened


def _create(root: Path, wanted: Wanted) -> None:
    """Write the first rows, then make the directories' entries durable, then name the store in CURRENT."""
    directory = files.create_directory(root)
    file = directory / "data.mdb"
    files.clear_unborn(file)
    if file.exists():
        _check_whole(file)
    env = acquire(directory, readonly=False, create=True, map_size=wanted.map_size)
    try:
        with env.writing() as txn:
            table = env.tables.store
            if txn.get(KEY_FORMAT, db=table) is None:
                store_id = wanted.clock.uuid7()
                put(txn, table, KEY_FORMAT, U64.pack(STORE_FORMAT))
                put(txn, table, KEY_STORE_ID, store_id)
                act = Act(pack(StoreCreated(store_id)), wanted.clock.now())
                Batch(txn, env.tables, store_id, lambda owner: owner_gone(root / "owners", owner)).apply([act])
    finally:
        release(env)
    sync_directory(directory)
    sync_directory(root)
    files.set_current(root, directory.name)
    sync_directory(root.parent)


def _opened(root: Path, directory: Path, gate: files.Gate | None, wanted: Wanted, *, shared: bool = False) -> Opened:
    """What is in a file; `shared` opens it for writing, since others of this process write through the same environment."""
    _check_whole(directory / "data.mdb")
    env = acquire(directory, readonly=wanted.readonly and not shared, map_size=wanted.map_size)
    mark = None
    try:
        mark = files.HighWater(directory, readonly=wanted.readonly)
        return Opened(env, gate, mark, _checked(root, env, mark))
    except BaseException:
        if mark is not None:
            mark.close()
        release(env)
        raise


def _checked(root: Path, env: Environment, mark: files.HighWater) -> bytes:
    """The store's id, once its format and its end have been checked."""
    highest = mark.read()  # before the transaction: whoever writes meanwhile moves the mark past what it shows
    with env.reading() as txn:
        stored = txn.get(KEY_FORMAT, db=env.tables.store)
        store_id = txn.get(KEY_STORE_ID, db=env.tables.store)
        if stored is None or len(stored) != U64.size or store_id is None:
            raise Corrupt(str(root), "has no format number or no id")
        if stored != U64.pack(STORE_FORMAT):
            raise WrittenByNewer(str(root), f"store format {U64.unpack(stored)[0]}")
        with _as_corrupt(root):
            check_tail(txn, env.tables, highest, str(root))
        return bytes(store_id)


@contextlib.contextmanager
def _as_corrupt(root: Path) -> Iterator[None]:
    """Whatever damaged bytes make a check stumble over is damage."""
    try:
        yield
    except EventflowError:
        raise
    except (TypeError, ValueError, LookupError, OverflowError, AttributeError, struct.error) as error:
        raise Corrupt(str(root), f"ends in something that can't be read ({error})") from error


def _check_whole(file: Path) -> None:
    """Refuse a file that was cut. One that is short for another reason is read as a whole to tell."""
    for _ in range(_LOOKS):
        missing = files.missing_bytes(file)
        if not missing:
            return
        time.sleep(_LOOK_AGAIN)
    problem = damage(file)
    if problem:
        raise Corrupt(str(file), f"is {missing:,} bytes shorter than its meta pages say: it was cut ({problem})")
