"""Stores in PostgreSQL whose log has narrow partitions, so that a few events fill several, and what tests ask of them."""

from __future__ import annotations

import random
from contextlib import closing
from importlib.resources import files

import psycopg
from psycopg.conninfo import make_conninfo

from eventflow.clock import Clock
from eventflow.codec import Stored
from eventflow.log import Appended, Head, Log
from eventflow.log.postgres import PostgresLog
from eventflow.log.postgres.address import parse
from eventflow.log.removal import Clear, Cleared
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import MOVE, deletion, moved

_NARROW = """
    alter table log detach partition log_0;
    alter table log attach partition log_0 for values from (0) to ({size});
    drop table log_1000000;
    delete from spans where low > 0;
    update spans set high = {size};
    update heads set last_upto = {size};
    update tip set high = {size}, room = {size}, ask = 0, span = {size};
    select make_room()"""


def tables_of(address: str, **words: str) -> psycopg.Connection:
    """A plain connection to a store's tables."""
    where = parse(address)
    connection = psycopg.connect(make_conninfo(where.conninfo, **words), autocommit=True)
    connection.execute(f"set search_path to {where.schema}".encode())
    return connection


def narrow(address: str, size: int, *, clock: Clock | None = None) -> str:
    """Make a store whose partitions have so many positions; its address."""
    PostgresLog(address, clock=clock).close()
    with closing(tables_of(address)) as tables:
        tables.execute(_NARROW.format(size=size).encode())
    return address


def bounds(address: str) -> list[tuple[int, int]]:
    """Where the spans of a store begin and end, as its own table says; raises unless the partitions are the same."""
    with closing(tables_of(address)) as tables:
        said = tables.execute("select low, high from spans order by low").fetchall()
        there = tables.execute(
            """select split_part(c.relname, '_', 2)::bigint, pg_get_expr(c.relpartbound, c.oid) from pg_class c
            join pg_inherits i on i.inhrelid = c.oid where i.inhparent = 'log'::regclass order by 1"""
        ).fetchall()
    assert [low for low, _ in said] == [low for low, _ in there]
    assert all(f"('{low}') TO ('{high}')" in text for (low, high), (_, text) in zip(said, there, strict=True))
    return said


def run_of(author: Author, run_id: str, events: int) -> Head:
    """A run of so many events, that is over in the end."""
    head = author.start(run_id)
    for _ in range(events - 1):
        head = author.add(head, MOVE)
    return head


def heavy_run(author: Author, run_id: str, events: int, size: int = 900) -> Head:
    """A run whose events weigh so many bytes each, which can't be made smaller."""
    chance = random.Random(run_id)  # noqa: S311 - the same bytes each time, and no secret
    head = author.start(run_id)
    for _ in range(0, events - 1, 50):
        more = [moved("text", chance.randbytes(size // 2).hex()) for _ in range(50)]
        head = author.add(head, *more)
    return head


def delete(log: Log, head: Head) -> None:
    """Delete a run, and tidy up after it."""
    written(log, deletion(head, 9))
    while True:
        done = written(log, Clear())
        assert isinstance(done, Cleared)
        if not done.left:
            return


def everything(log: Log) -> list[Stored]:
    """All events and tombstones; raises unless each position is there once."""
    found = log.feed(0, 1 << 40)
    assert [one.position for one in found] == list(range(1, log.position() + 1))
    return found


def appended(answers: list[object]) -> list[Head]:
    """The heads that appends came to; raises where one was refused."""
    assert all(isinstance(answer, Appended) for answer in answers), answers
    return [answer.head for answer in answers if isinstance(answer, Appended)]


def older(address: str, source: str, *, position: int = 0) -> None:
    """Make a store of version 2 of the tables with what another store holds; it ends at that position, if one is given."""
    where, other = parse(address), parse(source)
    with closing(psycopg.connect(where.conninfo, autocommit=True)) as tables:
        tables.execute(f"create schema {where.schema}; set search_path to {where.schema}".encode())
        for name in ("001_tables.sql", "002_write.sql"):
            tables.execute(files("eventflow.log.postgres").joinpath("migrations", name).read_bytes())
        tables.execute(
            "create table migrations (version bigint primary key, applied_at timestamptz not null default now());"
            "insert into migrations values (1), (2); delete from tip"
        )
        for name in ("store", "tip", "log", "heads", "info", "tags", "bends"):
            columns = ", ".join(
                row[0]
                for row in tables.execute(
                    "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0", (name,)
                )
            )
            tables.execute(f"insert into {name} ({columns}) select {columns} from {other.schema}.{name}".encode())  # noqa: S608 - names of ours
        if position:
            tables.execute("update tip set position = %s", (position,))
