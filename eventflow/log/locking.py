"""Whether a log is encrypted, and with which keys it is opened: the way from a log to a `LockedLog`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from eventflow.cipher import Keyring, Keys, ring_from_settings
from eventflow.cipher.files import KeyFolder, Shelf
from eventflow.clock import Clock
from eventflow.codec import decode, pack, read_events
from eventflow.errors import EventflowError, NoKey, SettingsError
from eventflow.event import EncryptionBegan, Event, RunsImported, StoreRepaired
from eventflow.log.heads import Query
from eventflow.log.locked import LockedLog
from eventflow.log.protocol import STORE_RUN, Act, Log

_PAGE = 500  # events of the store's own stream looked at in one go
FOLDER_VARIABLE = "EVENTFLOW_KEYS"  # names the folder for the wrapped keys of stores in databases


def locked(log: Log, ring: Keyring | None, clock: Clock, *, owns: bool) -> Log:
    """The log with its values encrypted, if it is given keys or was encrypted before; else the log as it is.

    A log on disk may take its keys from the settings. One that gets keys for the first time is encrypted from then on.
    Raises WrongKey, SettingsError.
    """
    if isinstance(log, LockedLog):
        return log
    if ring is None and log.durable:
        ring = ring_from_settings()
    shelf = _shelf(log, ring)
    if shelf is None:
        if log.durable and not log.readonly and _was_encrypted(log):
            raise NoKey(
                "this store", "where its wrapped keys lie is not said",
                todo=f"name their folder with {FOLDER_VARIABLE}, or with Keyring(..., folder=...)",
            )  # fmt: skip
        return log
    keys = Keys(shelf, log.store_id, ring, clock.now, came_from=lambda store_id: _came_from(log, store_id))
    if not keys.begun:
        if ring is None or (log.readonly and not shelf.names()):
            return log
        if not log.readonly and keys.begin():
            _told(log, EncryptionBegan(ring.master.id), clock)
    keys.check()
    return cast("Log", LockedLog(log, keys, owns=owns))


def _shelf(log: Log, ring: Keyring | None) -> Shelf | None:
    """Where a log's wrapped keys lie: in its directory, in the folder for those of databases, or with the ring."""
    path: Path | None = getattr(log, "path", None)
    if path is not None:
        return KeyFolder(path / "keys")
    if not log.durable:
        return None if ring is None else ring.shelf(log.store_id)
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named) if named else None if ring is None else ring.folder
    if folder is None and ring is not None:
        raise SettingsError(
            f"a store in a database needs a folder for its wrapped keys, which all its processes see: set "
            f"{FOLDER_VARIABLE}, or give Keyring(..., folder=...)"
        )
    return None if folder is None else KeyFolder(folder / log.store_id.hex())


def _was_encrypted(log: Log) -> bool:
    """Whether a store that has no place for keys says that its runs are encrypted."""
    return any(isinstance(event, EncryptionBegan) for event in _acts(log))


def _came_from(log: Log, store_id: bytes) -> bool:
    """Whether a store has taken in runs of another one, or runs that began there."""
    if any(isinstance(event, RunsImported | StoreRepaired) and event.store_id == store_id for event in _acts(log)):
        return True
    for one in log.runs(Query()):
        first = max(one.entry.parent_at + 1, one.entry.origin)
        stored = log.read(one.head.run_key, first, first)
        if stored and decode(stored[0].data, "an event")[8].get("store_id") == store_id:
            return True
    return False


def _acts(log: Log) -> Iterator[Event]:
    """The store's own stream."""
    after = 0
    while page := log.read(STORE_RUN, after + 1, after + _PAGE):
        yield from (one.event for one in read_events(page, log.blobs))
        after += len(page)


def _told(log: Log, event: EncryptionBegan, clock: Clock) -> None:
    answer = log.write([Act(pack(event), clock.now())])[0]
    if isinstance(answer, EventflowError):
        raise answer
