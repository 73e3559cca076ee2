"""Opening a store in PostgreSQL: addresses, tables, privileges, and which servers are refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest

from eventflow import Engine
from eventflow.clock import ManualClock, SystemClock
from eventflow.codec import pack
from eventflow.errors import (
    Corrupt,
    SettingsError,
    StoreClosed,
    StoreNotFound,
    StoreUnreachable,
    StoreUnusable,
    WrittenByNewer,
)
from eventflow.event import Transitioned
from eventflow.log import open_log
from eventflow.log.postgres import PostgresLog, migrate, newest
from eventflow.log.postgres.address import parse
from eventflow.log.postgres.connecting import connect
from eventflow.log.postgres.session import _check_position
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer

MOVE = Transitioned("a", "a")
APP_GRANTS = """
    grant usage on schema {schema} to {role};
    grant select, insert, update on {schema}.log, {schema}.heads to {role};
    grant select, update on {schema}.store, {schema}.tip to {role};
    grant select on {schema}.migrations, {schema}.standing, {schema}.spans to {role};
    grant select, insert, update, delete on {schema}.info, {schema}.tags, {schema}.bends, {schema}.marks, {schema}.snapshots,
        {schema}.vouches, {schema}.blobs, {schema}.inbox, {schema}.guards, {schema}.clearing, {schema}.buckets,
        {schema}.owners, {schema}.writers to {role}"""  # as docs/postgresql.md has them


def tables_of(address: str) -> psycopg.Connection:
    """A plain connection to a store's tables."""
    where = parse(address)
    connection = psycopg.connect(where.conninfo, autocommit=True)
    connection.execute(f"set search_path to {where.schema}".encode())
    return connection


# --- addresses


def test_an_address_hides_its_password() -> None:
    """What is shown has user, host and database, and neither the password nor other secrets."""
    where = parse(
        "postgresql://ann:s%40cret@db.example:5433/runs?sslpassword=other&schema=jobs&lease=7&sslmode=require"
    )
    assert where.text == "postgresql://ann@db.example:5433/runs?schema=jobs"
    assert (where.schema, where.lease, where.portable) == ("jobs", 7.0, False)
    assert where.conninfo == "postgresql://ann:s%40cret@db.example:5433/runs?sslpassword=other&sslmode=require"
    assert where.scrubbed("bad s@cret, s%40cret,\n other") == "bad ***, ***, ***"
    assert "s@cret" not in repr(where)
    assert "s%40cret" not in repr(where)


@pytest.mark.parametrize(
    "url", ["mysql://x", "postgresql://h/d?schema=A-b", "postgresql://h/d?schema=pg_x", "postgresql://h/d?lease=0",
            "postgresql://h/d?lease=soon", "postgresql://h/d?lease=nan", "postgresql://h/d?dialect=oracle"],
)  # fmt: skip
def test_an_address_that_says_nothing_usable_is_refused(url: str) -> None:
    """Each word of ours is checked before anything is connected to."""
    with pytest.raises(SettingsError):
        parse(url)


def test_what_can_not_be_reached_is_said_without_the_password() -> None:
    """A server that is not there, and a word that libpq does not know, end in one sentence that tells no secret."""
    with pytest.raises(StoreUnreachable, match="can't be reached") as unreachable:
        open_log("postgresql://ann:hush-hush@127.0.0.1:9/runs")
    with pytest.raises(SettingsError, match="can't be read") as unknown:
        open_log("postgresql://ann:hush-hush@127.0.0.1:9/runs?nonsense=1")
    for error in (unreachable, unknown):
        assert "hush-hush" not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_role_or_a_database_that_is_not_there_is_named(server: PostgresServer) -> None:
    """The sentence says what to look at."""
    with pytest.raises(StoreUnusable, match="does not let this role in"):
        open_log(server.url(user="stranger"))
    with pytest.raises(StoreUnusable, match="no such database"):
        open_log(server.url("nowhere"))


# --- making a store


def test_a_store_is_made_only_for_who_writes(address: str) -> None:
    """Reading makes nothing; writing makes the tables, the id and the first event; opening again finds them."""
    for options in ({"readonly": True}, {"create": False}):
        with pytest.raises(StoreNotFound):
            open_log(address, **options)
    with closing(open_log(address)) as log:
        assert log.position() == 1
    with closing(open_log(address, readonly=True)) as again:
        assert (again.store_id, again.position()) == (log.store_id, 1)
        with pytest.raises(StoreUnusable, match="read-only"):
            again.write([])


def test_a_schema_of_somebody_else_is_left_alone(server: PostgresServer, address: str) -> None:
    """Tables that are not ours are neither used nor added to."""
    server.psql(f"create schema {parse(address).schema} create table t (x int)")
    with pytest.raises(StoreUnusable, match="something else"):
        open_log(address)


def test_making_a_store_twice_at_once_makes_it_once(address: str) -> None:
    """Eight who open a store that is not there all get the same one."""
    found: list[object] = []

    def look() -> None:
        try:
            with closing(open_log(address)) as log:
                found.append(log.store_id)
        except BaseException as error:  # noqa: BLE001 - compared below
            found.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert isinstance(found[0], bytes)


def test_migrations_are_safe_to_run_again(address: str) -> None:
    """The second time there is nothing to do, and nothing is changed."""
    where = parse(address)
    connection, _ = connect(where)
    with closing(connection):
        assert migrate(connection, where, SystemClock()) == list(range(1, newest(where) + 1))
        assert migrate(connection, where, SystemClock()) == []
        row = connection.execute("select count(*), max(version) from migrations").fetchone()
    assert row == (newest(where), newest(where))


def test_tables_of_another_version_are_refused(address: str) -> None:
    """Older ones ask for a migration, newer ones for a newer eventflow; a newer format does too."""
    open_log(address).close()
    with closing(tables_of(address)) as tables:
        tables.execute("delete from migrations where version = 4")
        with pytest.raises(StoreUnusable, match="eventflow store migrate"):
            open_log(address)
        tables.execute("insert into migrations values (4), (99)")
        with pytest.raises(WrittenByNewer):
            open_log(address)
        tables.execute("delete from migrations where version = 99; update store set format = 2")
        with pytest.raises(WrittenByNewer):
            open_log(address)


def test_two_stores_live_in_one_database(new_address: Callable[..., str]) -> None:
    """A schema each; runs of one are not seen in the other."""
    with closing(open_log(new_address())) as one, closing(open_log(new_address())) as other:
        Author(one).start("r")
        assert one.store_id != other.store_id
        assert other.head("r") is None


# --- privileges


def test_an_application_needs_no_right_to_change_tables(server: PostgresServer, address: str) -> None:
    """With the grants of the manual a role can start, append, read, delete and take leases, and not make a store."""
    role, schema = f"app_{parse(address).schema}", parse(address).schema
    server.psql(f"create role {role} login")
    theirs = address.replace("postgres@", f"{role}@")
    with pytest.raises(StoreUnusable, match="grant what"):
        open_log(theirs)
    open_log(address).close()
    with pytest.raises(StoreUnusable, match="may not do that"):
        open_log(theirs)
    server.psql(APP_GRANTS.format(schema=schema, role=role))
    with closing(open_log(theirs)) as log:
        author = Author(log)
        end = log.new_owner(b"o" * 16)
        head = author.add(author.start("r", tags=("t",), claim=b"o" * 16), MOVE)
        assert log.head("r") == head
        end()
        from eventflow.testing.contract.maker import deletion  # noqa: PLC0415 - one word of the contract's

        assert not isinstance(log.write([deletion(head, 1)])[0], Exception)
    with pytest.raises(RuntimeError, match=r"permission denied|must be owner"):
        server.program("psql", "-h", server.directory, "-U", role, "-d", "postgres", "-c", f"drop table {schema}.log")


def test_a_role_that_only_reads_can_audit(server: PostgresServer, address: str) -> None:
    """Select on the tables is enough to read everything."""
    with closing(open_log(address)) as log:
        Author(log).start("r")
    role, schema = f"auditor_{parse(address).schema}", parse(address).schema
    server.psql(
        f"create role {role} login; grant usage on schema {schema} to {role};"
        f"grant select on all tables in schema {schema} to {role}"
    )
    with closing(open_log(address.replace("postgres@", f"{role}@"), readonly=True)) as log:
        assert log.head("r") is not None
        assert len(log.feed(0, 9)) == 2


# --- servers that are refused


def test_a_server_that_does_not_sync_is_refused() -> None:
    """With fsync off an acknowledged event may be lost, whatever else is set."""
    with PostgresServer(settings={"fsync": "off"}) as careless, pytest.raises(StoreUnusable, match="fsync"):
        open_log(careless.url())


def test_sessions_commit_durably_whatever_the_role_says(server: PostgresServer, address: str) -> None:
    """`synchronous_commit = off` of a role or database does not hold for a store's sessions; stronger settings do."""
    role = f"hasty_{parse(address).schema}"
    theirs = parse(address.replace("postgres@", f"{role}@"))
    server.psql(f"create role {role} login superuser; alter role {role} set synchronous_commit = off")
    for wanted, found in (("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")):
        server.psql(f"alter role {role} set synchronous_commit = {wanted}")
        with closing(connect(theirs)[0]) as connection:
            assert connection.execute("show synchronous_commit").fetchone() == (found,)


def test_what_is_written_while_a_connection_is_made_is_not_taken_for_lost(address):
    """The server is asked where it ends, and before its answer is looked at another thread writes."""
    with closing(PostgresLog(address)) as log:
        author = Author(log)
        head = author.start("r")

        class Overtaken(psycopg.Connection):
            def execute(self, query, *more, **options):
                found = super().execute(query, *more, **options)
                if "from tip" in str(query):
                    author.add(head, MOVE)
                return found

        before = log.position()
        with Overtaken.connect(parse(address).conninfo, autocommit=True) as connection:
            connection.execute(f"set search_path to {parse(address).schema}")
            _check_position(connection, parse(address), log._seen)
        assert log.position() == before + 1


def test_a_primary_of_the_past_is_refused(address: str) -> None:
    """Once a newer timeline was seen, a server on an older one is neither read nor written, nor one that lacks positions."""
    with closing(PostgresLog(address, patience=0)) as log:
        log._seen.timeline += 1
        log._writing._drop()
        with pytest.raises(StoreUnreachable, match="primary of the past"):
            Author(log).start("r")
        log._seen.timeline -= 1
        log._seen.position = 99
        log._readers.close()
        with pytest.raises(StoreUnusable, match="events are lost"):
            log.position()
        log._seen.position = 1
        assert log.position() == 1


def test_the_store_keeps_which_server_it_was_on(address: str) -> None:
    """Its system identifier and timeline, as the server itself says."""
    with closing(open_log(address)), closing(tables_of(address)) as tables:
        row = tables.execute(
            "select system_id = (select system_identifier::text from pg_control_system()), timeline from store"
        ).fetchone()
    assert row == (True, 1)


# --- damage, forks of the process


def test_a_changed_event_is_found_when_the_store_opens(address: str) -> None:
    """The last events are compared with what names their digests."""
    with closing(open_log(address)) as log:
        author = Author(log)
        author.add(author.start("r"), MOVE, MOVE)
    with closing(tables_of(address)) as tables:
        tables.execute("update log set data = set_byte(data, 60, 255 - get_byte(data, 60)) where version = 2")
        with pytest.raises(Corrupt):
            open_log(address)


def test_a_forked_child_must_open_its_own(address: str) -> None:
    """The parent's connections are not used in a child, and live on after its end."""
    with closing(open_log(address)) as log:
        Author(log).start("r")
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                log.position()
            except StoreClosed as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        with os.fdopen(reading) as pipe:
            assert "before a fork" in pipe.read()
        assert log.position() == 2
        Author(log, clock=ManualClock(seed=7)).start("s")


async def _started(address: str) -> int:
    async with Engine(address) as engine:
        return engine.log.position()


def test_an_engine_takes_an_address(address: str) -> None:
    """Wherever a path may stand, an address may."""
    import asyncio  # noqa: PLC0415 - for one call

    assert asyncio.run(_started(address)) == 1
    assert pack(MOVE).code
