"""Whether a log is encrypted, and with which keys it is opened: the way from a log to a `LockedLog`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from eventflow.cipher import Keyring, Keys, ring_from_settings
from eventflow.cipher.files import KeyFolder, Shelf
from eventflow.clock import Clock
from eventflow.codec import pack, read_events
from eventflow.errors import EventflowError, NoKey, SettingsError
from eventflow.event import EncryptionBegan
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
            raise NoKey("this store", f"the folder of its wrapped keys is not named by {FOLDER_VARIABLE}")
        return log
    keys = Keys(shelf, log.store_id, ring, clock.now)
    if not keys.begun:
        if ring is None or log.readonly:
            return log
        if keys.begin():
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
    after = 0
    while page := log.read(STORE_RUN, after + 1, after + _PAGE):
        if any(isinstance(one.event, EncryptionBegan) for one in read_events(page, log.blobs)):
            return True
        after += len(page)
    return False


def _told(log: Log, event: EncryptionBegan, clock: Clock) -> None:
    answer = log.write([Act(pack(event), clock.now())])[0]
    if isinstance(answer, EventflowError):
        raise answer
