"""PostgreSQL's errors as ours: one sentence that says what to do, without the password that libpq may repeat.

What is lost is only the connection (`lost`) is told apart: it can be made anew, and what was under way looked up.
"""

from __future__ import annotations

import psycopg

from eventflow.errors import Corrupt, StoreBusy, StoreFull, StoreUnreachable, StoreUnusable
from eventflow.log.postgres.address import Address

STALE = ("EF002", "23505")  # raised by write_batch; and a row that is there already (appendix A of PostgreSQL's manual)
AGAIN = ("40001", "40P01")  # serialization_failure and deadlock_detected: usual where data is spread over servers
# Classes 08 and 57P0x: the server, or the way to it, went away; 25P03: it took too long between two statements.
_GONE = ("08", "57P01", "57P02", "57P03", "57P05", "25P03")
# sqlstate, or its beginning -> our error and sentence, the longest first
_SAID: tuple[tuple[str, type[StoreUnusable], str], ...] = (
    ("55P03", StoreBusy, "{at} is held by another writer for too long; look for a stuck session (eventflow doctor)"),
    ("53100", StoreFull, "{at}: the server's disk is full; nothing of this write was kept, make room and go on"),
    ("53300", StoreUnreachable, "{at} takes no more connections; raise its max_connections, or end some clients"),
    ("53", StoreUnusable, "{at} has too little of something ({said}); give the server more, then try again"),
    ("42501", StoreUnusable, "{at}: this role may not do that ({said}); grant what docs/postgresql.md lists"),
    ("25006", StoreUnreachable, "{at} only reads (a standby?); give the address of the primary"),
    ("28", StoreUnusable, "{at} does not let this role in ({said}); look at its name, password and pg_hba.conf"),
    ("3D000", StoreUnusable, "{at}: there is no such database; create it, or give another name"),
    ("23514", StoreUnusable, "{at} has no place for the next events ({said}); nothing of this was kept: attach the table that is gone"),
    ("42P01", StoreUnusable, "{at} lacks a table ({said}); run `eventflow store migrate` with a role that may"),
    ("42883", StoreUnusable, "{at} lacks a function ({said}); run `eventflow store migrate` with a role that may"),
    ("3F000", StoreUnusable, "{at} lacks its schema; run `eventflow store migrate` with a role that may"),
)  # fmt: skip

# Of a server that is about to be there, or was just now: what it says to who connects, and what libpq says when it goes.
_PASSING = (
    "starting up", "shutting down", "recovery mode", "not accepting connections", "not yet accepting connections",
    "terminating connection", "closed the connection unexpectedly", "connection is lost", "the connection is closed",
)  # fmt: skip


def lost(connection: psycopg.Connection, error: psycopg.Error) -> bool:
    """Whether an error is of the connection, not of what was asked."""
    state = error.sqlstate or ""
    return connection.broken or connection.closed or state.startswith(_GONE) or _is_unreachable(error)


def _is_unreachable(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None


def translated(address: Address, error: psycopg.Error) -> StoreUnusable:
    """One of our errors for one of theirs."""
    state, at = error.sqlstate or "", address.text
    said = address.scrubbed(error)
    if state.startswith(("XX001", "XX002")):
        return Corrupt(at, f"is damaged, says the server ({said})")
    for code, kind, text in _SAID:
        if state.startswith(code):
            return kind(text.format(at=at, said=said))
    if not state or state.startswith(_GONE):
        state_text = _startup(said)
        if state_text:
            return StoreUnusable(state_text.format(at=at, said=said))
        return StoreUnreachable(f"{at} can't be reached ({said}); look whether the server runs, then try again")
    return StoreUnusable(f"{at}: the server answered with an error ({state}: {said}); nothing of this was kept")


def passes(error: StoreUnreachable) -> bool:
    """Whether a server that could not be used was there: it starts, stops, or was lost on the way."""
    return any(word in str(error) for word in _PASSING)


def _startup(said: str) -> str:
    """Errors on connecting come as text only (libpq keeps no code of them)."""
    if "password" in said or "authentication" in said or "pg_hba.conf" in said or ("role" in said and "exist" in said):
        return "{at} does not let this role in ({said}); look at its name, password and pg_hba.conf"
    if "database" in said and "does not exist" in said:
        return "{at}: there is no such database; create it, or give another name"
    if "too many" in said or "remaining connection slots" in said:
        return "{at} takes no more connections; raise its max_connections, or end some clients"
    return ""
