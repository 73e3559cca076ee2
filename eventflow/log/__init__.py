"""The log: the protocol, its backends (memory, LMDB), group commit, the feed.

`open_log` is the one way from a name to a log. A store of one's own implements `Log` and is passed as it is.
"""

from __future__ import annotations

import os

from eventflow.clock import Clock
from eventflow.errors import SettingsError
from eventflow.log.follow import follow
from eventflow.log.lmdb import LmdbLog
from eventflow.log.memory import MemoryLog
from eventflow.log.protocol import (
    NOBODY,
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Entry,
    First,
    Head,
    Kept,
    Listed,
    Log,
    Post,
    Posted,
    Query,
    Upkeep,
    Usage,
    Write,
    admit,
    fits,
    store_append,
    store_genesis,
)
from eventflow.log.writer import Writer

MEMORY = "memory"


def open_log(
    where: str | os.PathLike[str] | Log, *, readonly: bool = False, create: bool = True, clock: Clock | None = None
) -> Log:
    """The log at a path, `"memory"` for a new one in memory; a Log is returned as it is.

    Raises StoreNotFound if it must not be created, Corrupt or StoreUnusable if it can't be opened.
    """
    if not isinstance(where, str | os.PathLike):
        return where
    if where == MEMORY:
        return MemoryLog(clock=clock)
    if str(where).startswith(("postgresql://", "postgres://")):
        raise SettingsError("PostgreSQL stores are not part of this version; give a path")
    return LmdbLog(where, readonly=readonly, create=create, clock=clock)


__all__ = [
    "MEMORY",
    "NOBODY",
    "STORE_NAME",
    "STORE_RUN",
    "STORE_VOUCH",
    "Act",
    "Acted",
    "Answer",
    "Append",
    "Appended",
    "Entry",
    "First",
    "Head",
    "Kept",
    "Listed",
    "LmdbLog",
    "Log",
    "MemoryLog",
    "Post",
    "Posted",
    "Query",
    "Upkeep",
    "Usage",
    "Write",
    "Writer",
    "admit",
    "fits",
    "follow",
    "open_log",
    "store_append",
    "store_genesis",
]
