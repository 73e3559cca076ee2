"""What keeps a PostgreSQL server from being a safe place for a store, looked at from outside; for `doctor`. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import psycopg

from eventflow.clock import NS, SystemClock
from eventflow.errors import EventflowError
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.connecting import OLDEST, reach
from eventflow.log.postgres.failures import translated
from eventflow.log.postgres.migrating import newest, version_of

SKEW = 1.0  # seconds that clocks may differ before it is said: timers go by the client's, leases by the database's
_LOOKS = 20  # round trips that are timed
_NEEDED = {
    "log": "SELECT, INSERT, UPDATE", "heads": "SELECT, INSERT, UPDATE", "tip": "SELECT, UPDATE", "store": "SELECT, UPDATE",
    **dict.fromkeys(
        ("info", "tags", "bends", "marks", "snapshots", "vouches", "blobs", "inbox", "guards", "clearing", "buckets",
         "owners", "writers"),
        "SELECT, INSERT, UPDATE, DELETE",
    ),
    "migrations": "SELECT", "standing": "SELECT",
}  # fmt: skip
_SETTINGS = """select current_setting('server_version_num')::int, current_setting('fsync'),
    current_setting('full_page_writes'), current_setting('synchronous_commit'),
    current_setting('synchronous_standby_names'), current_setting('data_checksums'), pg_is_in_recovery(),
    (select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum'))"""


class Examined(NamedTuple):
    """One thing that was looked at: what, how it stands, and what that means."""

    what: str
    state: Literal["ok", "note", "bad"]
    detail: str


def examine(address: Address) -> list[Examined]:
    """Everything that can be asked of a server; what can't be reached is one finding."""
    try:
        connection = reach(address)
    except EventflowError as error:
        return [Examined("server", "bad", str(error))]
    try:
        return [*_server(connection), *_durability(connection), *_times(connection), *_store(connection, address)]
    except psycopg.Error as error:
        return [Examined("server", "bad", str(translated(address, error)))]
    except EventflowError as error:
        return [Examined("store", "bad", str(error))]
    finally:
        connection.close()


def _row(connection: psycopg.Connection, asked: str, *values: Any) -> tuple[Any, ...]:
    return connection.execute(asked.encode(), values).fetchone() or ()


def _if(good: bool, what: str, well: str, ill: str, *, otherwise: Literal["note", "bad"] = "bad") -> Examined:  # noqa: FBT001
    return Examined(what, "ok", well) if good else Examined(what, otherwise, ill)


def _server(connection: psycopg.Connection) -> Iterator[Examined]:
    number, *_, standby, _ = _row(connection, _SETTINGS)
    text = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    yield _if(number >= OLDEST, "server", text, f"{text}; version 15 or newer is needed")
    if standby:
        yield Examined("role of the server", "note", "a standby: it can be read; runs are driven on its primary")


def _durability(connection: psycopg.Connection) -> Iterator[Examined]:
    _, fsync, pages, commit, names, sums, _, syncing = _row(connection, _SETTINGS)
    yield _if(fsync == "on", "fsync", "on", f"{fsync}: what is acknowledged may be lost; turn it on")
    yield _if(
        pages == "on", "full_page_writes", "on", f"{pages}: a torn page after a power cut is not mended; turn it on"
    )
    yield _if(
        commit in ("on", "remote_apply"), "synchronous_commit", commit,
        f"{commit} for this role; sessions of a store set it to on", otherwise="note",
    )  # fmt: skip
    yield _if(
        sums == "on", "data_checksums", "on", f"{sums}: the server does not notice bytes that rot", otherwise="note"
    )
    if not names:
        detail = "none: what is acknowledged is on one server only; set synchronous_standby_names to survive its loss"
        yield Examined("synchronous standby", "note", detail)
    else:
        yield _if(
            bool(syncing), "synchronous standby", f"{syncing} of {names}",
            f"{names} is asked for and none is there: commits wait until one comes", otherwise="bad",
        )  # fmt: skip


def _times(connection: psycopg.Connection) -> Iterator[Examined]:
    clock = SystemClock()
    took: list[float] = []
    for _ in range(_LOOKS):
        began = clock.monotonic()
        connection.execute("select 1")
        took.append(clock.monotonic() - began)
    yield Examined("round trip", "ok", f"{sorted(took)[_LOOKS // 2] * 1e6:.0f} us (median of {_LOOKS})")
    before = clock.now()
    there = _row(connection, "select (extract(epoch from clock_timestamp()) * 1000000000)::bigint")[0]
    skew = (there - (before + clock.now()) / 2) / NS
    yield _if(
        abs(skew) <= SKEW, "clock", f"{abs(skew) * 1e3:.0f} ms from the server's",
        f"{abs(skew):.1f} s from the server's: timers go by this machine's; let both ask a time server", otherwise="note",
    )  # fmt: skip


def _store(connection: psycopg.Connection, address: Address) -> Iterator[Examined]:
    at, wanted = version_of(connection, address, qualified=True), newest(address)
    if not at:
        may = _row(connection, "select has_database_privilege(current_database(), 'CREATE')")[0]
        yield Examined("store", "note", f"none in schema {address.schema} yet; the first run creates it")
        yield _if(
            may, "privileges", "may create it", "this role may not create it; let another run `eventflow store migrate`"
        )
        return
    yield _if(
        at == wanted, "tables", f"version {at}",
        f"version {at}, and {wanted} is needed: "
        + ("run `eventflow store migrate`" if at < wanted else "upgrade eventflow, which is older than they are"),
    )  # fmt: skip
    if at != wanted:
        return
    if not address.portable:
        yield _partitions(connection, address)
    lacking = list(_lacking(connection, address))
    detail = f"this role lacks {'; '.join(lacking)}: grant what docs/postgresql.md lists"
    yield _if(not lacking, "privileges", "all that an application needs", detail)
    if not lacking:
        position, follows = _row(
            connection,
            f"select position, (select follows from {address.schema}.store) from {address.schema}.tip",  # noqa: S608 - checked
        )
        kind = "a copy that follows another store; nobody may drive it" if follows else "a store"
        yield Examined("store", "note" if follows else "ok", f"{kind}: {position} events at {address.text}")


def _partitions(connection: psycopg.Connection, address: Address) -> Examined:
    """How far ahead there is room for events, and whether that is looked after."""
    schema = address.schema
    many, room, least = _row(
        connection,
        f"""select (select count(*) from {schema}.spans), room - position,
            (select least(t.span, s.high - s.low) / 2 from {schema}.spans s order by s.low desc limit 1)
            from {schema}.tip t""",  # noqa: S608 - checked
    )
    return _if(
        room > least, "partitions", f"{many} of the log, room for {room} more events",
        f"room for {room} more events, and no further partition could be made; "
        f"look at the server's log, or run `eventflow store migrate` with the owner's role",
    )  # fmt: skip


def _lacking(connection: psycopg.Connection, address: Address) -> Iterator[str]:
    if not _row(connection, "select has_schema_privilege(%s, 'USAGE')", address.schema)[0]:
        yield f"USAGE on schema {address.schema}"
        return
    may: Callable[[str, str], bool] = lambda table, what: bool(  # noqa: E731 - asked a few dozen times
        _row(connection, "select has_table_privilege(%s, %s)", f"{address.schema}.{table}", what)[0]
    )
    for table, needed in _NEEDED.items():
        missing = [what for what in needed.split(", ") if not may(table, what)]
        if missing:
            yield f"{', '.join(missing)} on {table}"
