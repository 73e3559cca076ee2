"""Whether a log is encrypted, and with which keys it is opened: the way from a log to a `LockedLog`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from eventflow.cipher import Keyring, Keys, ring_from_settings
from eventflow.cipher.files import KeyFolder, Shelf
from eventflow.clock import Clock
from eventflow.codec import pack
from eventflow.errors import EventflowError
from eventflow.event import EncryptionBegan
from eventflow.log.locked import LockedLog
from eventflow.log.protocol import Act, Log


def locked(log: Log, ring: Keyring | None, clock: Clock, *, owns: bool) -> Log:
    """The log with its values encrypted, if it is given keys or was encrypted before; else the log as it is.

    A log on disk may take its keys from the settings. One that gets keys for the first time is encrypted from then on.
    Raises WrongKey, SettingsError.
    """
    if isinstance(log, LockedLog):
        return log
    path: Path | None = getattr(log, "path", None)
    if ring is None and path is not None:
        ring = ring_from_settings()
    if path is not None:
        shelf: Shelf = KeyFolder(path / "keys")
    elif ring is not None:
        shelf = ring.shelf(log.store_id)
    else:
        return log
    keys = Keys(shelf, log.store_id, ring, clock.now)
    if not keys.begun:
        if ring is None or log.readonly:
            return log
        if keys.begin():
            _told(log, EncryptionBegan(ring.master.id), clock)
    keys.check()
    return cast("Log", LockedLog(log, keys, owns=owns))


def _told(log: Log, event: EncryptionBegan, clock: Clock) -> None:
    answer = log.write([Act(pack(event), clock.now())])[0]
    if isinstance(answer, EventflowError):
        raise answer
