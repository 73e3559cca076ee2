"""The log: the protocol, its backends (memory, LMDB), group commit, the feed.

`open_log` is the one way from a name to a log. A store of one's own implements `Log` and is passed as it is.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from eventflow.cipher import Keyring
from eventflow.clock import Clock, SystemClock
from eventflow.errors import MissingExtra, SettingsError, StoreUnusable
from eventflow.log.follow import follow
from eventflow.log.heads import NOBODY, QUEUED, Entry, Head, Listed, Query, fits
from eventflow.log.lmdb import LmdbLog
from eventflow.log.locked import LockedLog
from eventflow.log.locking import locked
from eventflow.log.memory import MemoryLog
from eventflow.log.mirror import Mirror
from eventflow.log.protocol import (
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Bring,
    First,
    Kept,
    Log,
    Post,
    Posted,
    Sealed,
    Transaction,
    Upkeep,
    Usage,
    Write,
    admit,
    store_append,
    store_genesis,
)
from eventflow.log.queueing import HIGHEST, LOWEST, Claim, Claimed, Limits, Queued
from eventflow.log.removal import STEP, Clear, Cleared, Compaction, Guard, GuardKind, Sweep, Swept
from eventflow.log.size import held_bytes
from eventflow.log.writer import Writer, writer_of

if TYPE_CHECKING:
    from eventflow.log.postgres.store import PostgresLog

MEMORY = "memory"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # of an address (RFC 3986), where a path may be meant by nobody
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
    log = open_copy(where, readonly=readonly, create=create, clock=clock)
    try:
        if not readonly:
            _check_leads(log, where)
        return locked(log, keys, clock or SystemClock(), owns=True)
    except BaseException:
        log.close()
        raise


def _check_leads(log: LmdbLog | PostgresLog, where: str | os.PathLike[str]) -> None:
    if log.follows:
        raise StoreUnusable(
            f"{store_text(where)} is a copy that follows another store, so nobody may drive it; "
            f"once that one is given up, run `eventflow store promote`"
        )


def open_copy(
    where: str | os.PathLike[str], *, readonly: bool = False, create: bool = True, clock: Clock | None = None
) -> LmdbLog | PostgresLog:
    """The log at a path or address as it is stored, even if it is a copy that nobody may drive. Raises as `open_log`."""
    if str(where).startswith(ADDRESSES):
        return _postgres(str(where), readonly=readonly, create=create, clock=clock)
    if scheme := _SCHEME.match(str(where)):  # alone: what follows may hold a password
        raise SettingsError(f"no store is named by {scheme[0]}…: give the path of a directory, or postgresql://…")
    return LmdbLog(where, readonly=readonly, create=create, clock=clock)


def store_text(where: str | os.PathLike[str]) -> str:
    """A store's path or address for people, without the password that an address may hold."""
    if not str(where).startswith(ADDRESSES):
        return str(where)
    from eventflow.log.postgres.address import parse  # noqa: PLC0415 - needs no psycopg

    return parse(str(where)).text


def _postgres(url: str, *, readonly: bool, create: bool, clock: Clock | None) -> PostgresLog:
    try:
        from eventflow.log.postgres.store import PostgresLog  # noqa: PLC0415 - most stores need no psycopg
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
    "Mirror",
    "Post",
    "Posted",
    "Query",
    "Queued",
    "Sealed",
    "Sweep",
    "Swept",
    "Transaction",
    "Upkeep",
    "Usage",
    "Write",
    "Writer",
    "admit",
    "fits",
    "follow",
    "held_bytes",
    "open_copy",
    "open_log",
    "store_append",
    "store_genesis",
    "store_text",
    "writer_of",
]
