"""The tables of a store, made and changed in numbered steps: each once, in order, under a lock, whoever comes first.

A step is a file of SQL and is never changed once it was released. Making a store is the same act: its tables, its id and
its first event are there together or not at all.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.types.numeric import Int8

from eventflow.clock import Clock
from eventflow.codec import pack
from eventflow.errors import StoreUnusable, WrittenByNewer
from eventflow.event import StoreCreated
from eventflow.log.heads import NOBODY
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.facts import Facts
from eventflow.log.postgres.failures import translated
from eventflow.log.postgres.planning import Plan
from eventflow.log.postgres.writing import sender_for
from eventflow.log.protocol import Act

FORMAT = 1  # of the events and snapshots in the tables, as in any store
_DIRECTORY = Path(__file__).parent / "migrations"
_PORTABLE = ("001", "003")  # the steps that other databases are given; the others are PostgreSQL's own
_LOCK = 0x6566_6D69  # an advisory lock of its own: migrations of all stores of a database take turns
_PARTITIONS = 4  # the step that makes the log's partitions
_LONG = 5_000_000  # events from which a log is looked through before that step, which would hold others up for seconds
_SPAN = 1_000_000  # positions; as the step has it
_VERSIONS = (
    "create table if not exists migrations (version bigint primary key, applied_at timestamptz not null default now())"
)


def _steps(address: Address) -> list[tuple[int, Path]]:
    files = sorted(_DIRECTORY.glob("*.sql"))
    return [(int(f.name[:3]), f) for f in files if not address.portable or f.name[:3] in _PORTABLE]


def newest(address: Address) -> int:
    """The version of the tables that this eventflow writes."""
    return _steps(address)[-1][0]


def version_of(connection: psycopg.Connection, address: Address, *, qualified: bool = False) -> int:
    """The version of the tables that are there; 0 where there are none. Raises StoreUnusable for foreign tables.

    `qualified` is for a connection whose search path is not the store's schema.
    """
    row = connection.execute(
        """select exists (select from information_schema.tables where table_schema = %s and table_name = 'migrations'),
            exists (select from information_schema.tables where table_schema = %s)""",
        (address.schema, address.schema),
    ).fetchone()
    ours, any_there = row or (False, False)
    if not ours:
        if any_there:
            raise StoreUnusable(
                f"{address.text}: schema {address.schema} holds tables of something else; give another with ?schema=NAME"
            )
        return 0
    table = sql.Identifier(*([address.schema] if qualified else []), "migrations")
    found = connection.execute(sql.SQL("select coalesce(max(version), 0) from {}").format(table)).fetchone()
    return int(found[0]) if found else 0


def migrate(connection: psycopg.Connection, address: Address, clock: Clock) -> list[int]:
    """Bring the tables to this version, making them where there are none; returns the steps that were taken.

    Raises StoreUnusable where the role may not, WrittenByNewer if the tables are of a newer eventflow.
    """
    try:
        _prepare(connection, address)
        with connection.transaction():
            if not address.portable:
                connection.execute("select pg_advisory_xact_lock(%s)", (Int8(_LOCK),))
            at = version_of(connection, address)
            check_version(at, address, exact=False)
            steps = [(number, file) for number, file in _steps(address) if number > at]
            if steps and not at:
                connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(address.schema)))
                connection.execute(_VERSIONS)
            for number, file in steps:
                connection.execute(file.read_bytes())
                connection.execute("insert into migrations (version) values (%s)", (number,))
            if not at:
                _create(connection, address, clock)
    except psycopg.Error as error:
        raise translated(address, error) from None
    return [number for number, _ in steps]


def _prepare(connection: psycopg.Connection, address: Address) -> None:
    """Let a long log be known to end before some position, while others write, so that it need not be read under a lock.

    The bound is far ahead of what is written until then. Who was stopped here does it again.
    """
    at = version_of(connection, address)
    if address.portable or not 0 < at < _PARTITIONS:
        return
    connection.execute("select pg_advisory_lock(%s)", (Int8(_LOCK),))
    try:
        if version_of(connection, address) >= _PARTITIONS:
            return
        end = (connection.execute("select position from tip").fetchone() or (0,))[0]
        if end < _LONG:
            return
        bound = (end // _SPAN + 1 + max(1, end // 8 // _SPAN)) * _SPAN
        connection.execute("alter table log drop constraint if exists log_upto")
        upto = sql.SQL("alter table log add constraint log_upto check (position >= 0 and position < {}) not valid")
        connection.execute(upto.format(sql.Literal(bound)))
        connection.execute("alter table log validate constraint log_upto")
    finally:
        connection.execute("select pg_advisory_unlock(%s)", (Int8(_LOCK),))


def check_version(at: int, address: Address, *, exact: bool = True) -> None:
    """Refuse tables of another version. Raises StoreUnusable, WrittenByNewer."""
    wanted = newest(address)
    if at > wanted:
        raise WrittenByNewer(address.text, f"version {at} of the tables")
    if exact and at < wanted:
        raise StoreUnusable(
            f"{address.text} has version {at} of the tables, {wanted} is needed; "
            f"run `eventflow store migrate` with a role that may change them"
        )


def _create(connection: psycopg.Connection, address: Address, clock: Clock) -> None:
    """The store's id, and its first event, as any log begins."""
    store_id = clock.uuid7()
    connection.execute("insert into store (format, store_id) values (%s, %s)", (FORMAT, store_id))
    plan = Plan([Act(pack(StoreCreated(store_id)), clock.now())], Facts(sure=True), store_id)
    sender_for(address, store_id, NOBODY).send(connection, plan, 0)
    connection.execute("delete from writers")
