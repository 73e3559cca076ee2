"""The log: the protocol, its backends (memory, LMDB), group commit, the feed.

`open_log` is the one way from a name to a log. A store of one's own implements `Log` and is passed as it is.
"""

from __future__ import annotations

import os

from eventflow.cipher import Keyring
from eventflow.clock import Clock, SystemClock
from eventflow.errors import MissingExtra
from eventflow.log.follow import follow
from eventflow.log.lmdb import LmdbLog
from eventflow.log.locked import LockedLog
from eventflow.log.locking import locked
from eventflow.log.memory import MemoryLog
from eventflow.log.protocol import (
    NOBODY,
    QUEUED,
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Bring,
    Entry,
    First,
    Head,
    Kept,
    Listed,
    Log,
    Post,
    Posted,
    Query,
    Sealed,
    Upkeep,
    Usage,
    Write,
    admit,
    fits,
    store_append,
    store_genesis,
)
from eventflow.log.queueing import HIGHEST, LOWEST, Claim, Claimed, Limits, Queued
from eventflow.log.removal import STEP, Clear, Cleared, Compaction, Guard, GuardKind, Sweep, Swept
from eventflow.log.writer import Writer, writer_of

MEMORY = "memory"
ADDRESSES = ("postgresql://", "postgres://")  # how the address of a store in a database begins


def open_log(
    where: str | os.PathLike[str] | Log, *, readonly: bool = False, create: bool = True, clock: Clock | None = None,
    keys: Keyring | None = None,
) -> Log:  # fmt: skip
    """The log at a path, `"memory"` for a new one in memory; a Log is returned as it is.

    With `keys` (or those that EVENTFLOW_KEY_FILE names) new runs are encrypted, and encrypted ones can be read.
    Raises StoreNotFound if it must not be created, Corrupt or StoreUnusable if it can't be opened, WrongKey.
    """
    if not isinstance(where, str | os.PathLike):
        return locked(where, keys, clock or SystemClock(), owns=False)
    if where == MEMORY:
        return locked(MemoryLog(clock=clock), keys, clock or SystemClock(), owns=True)
    if str(where).startswith(ADDRESSES):
        log = _postgres(str(where), readonly=readonly, create=create, clock=clock)
    else:
        log = LmdbLog(where, readonly=readonly, create=create, clock=clock)
    try:
        return locked(log, keys, clock or SystemClock(), owns=True)
    except BaseException:
        log.close()
        raise


def _postgres(url: str, *, readonly: bool, create: bool, clock: Clock | None) -> Log:
    try:
        from eventflow.log.postgres import PostgresLog  # noqa: PLC0415 - most stores need no psycopg
    except ImportError:
        raise MissingExtra("psycopg", "postgres") from None
    return PostgresLog(url, readonly=readonly, create=create, clock=clock)


__all__ = [
    "ADDRESSES",
    "HIGHEST",
    "LOWEST",
    "MEMORY",
    "NOBODY",
    "QUEUED",
    "STEP",
    "STORE_NAME",
    "STORE_RUN",
    "STORE_VOUCH",
    "Act",
    "Acted",
    "Answer",
    "Append",
    "Appended",
    "Bring",
    "Claim",
    "Claimed",
    "Clear",
    "Cleared",
    "Compaction",
    "Entry",
    "First",
    "Guard",
    "GuardKind",
    "Head",
    "Kept",
    "Limits",
    "Listed",
    "LmdbLog",
    "LockedLog",
    "Log",
    "MemoryLog",
    "Post",
    "Posted",
    "Query",
    "Queued",
    "Sealed",
    "Sweep",
    "Swept",
    "Upkeep",
    "Usage",
    "Write",
    "Writer",
    "admit",
    "fits",
    "follow",
    "open_log",
    "writer_of",
    "store_append",
    "store_genesis",
]
