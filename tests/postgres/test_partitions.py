"""The log in partitions: events over several, writers that are refused, room ahead, migration, and parts written anew."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from eventflow.clock import SystemClock
from eventflow.codec import TOMBSTONE, read_events
from eventflow.errors import Fenced, StoreBusy, StoreUnusable, VersionConflict
from eventflow.log import Head, open_log
from eventflow.log.postgres import PostgresLog
from eventflow.log.postgres.address import parse
from eventflow.log.postgres.connecting import connect
from eventflow.log.postgres.migrating import migrate
from eventflow.log.postgres.spans import Rewrite, Span, worthwhile
from eventflow.log.size import shrink
from eventflow.replica import Replica, birth_clock
from eventflow.testing.author import Author
from eventflow.testing.contract.maker import MOVE, OTHER, OWNER, versions
from eventflow.testing.postgres import PostgresServer
from tests.postgres.partitioned import (
    appended,
    bounds,
    delete,
    everything,
    heavy_run,
    narrow,
    older,
    run_of,
    tables_of,
)
from tests.postgres.test_postgres_opening import APP_GRANTS


def part(log: PostgresLog, low: int, many: int = 1) -> Rewrite:
    """So many spans of a log from a position on."""
    held = log.spans()
    first = next(index for index, span in enumerate(held) if span.low == low)
    return Rewrite(tuple(held[first : first + many]))


# --- events over several partitions


def test_a_batch_over_several_partitions_has_each_event_once(address: str) -> None:
    """Thirty-five events of seven runs in spans of ten positions: none is missing, all are read, heads are right."""
    with closing(PostgresLog(narrow(address, 10))) as log:
        author = Author(log)
        heads = appended(log.write([author.first(f"r{number}") for number in range(7)]))
        heads = appended(log.write([author.then(head, *[MOVE] * 5) for head in heads]))
        everything(log)
        assert bounds(address)[:5] == [(low, low + 10) for low in range(0, 50, 10)]
        for head in heads:
            assert versions(log, head) == [1, 2, 3, 4, 5, 6]
            assert log.head(head.run_id) == log.head_of(head.run_key) == head
    with closing(PostgresLog(address)) as log:
        assert [log.head(head.run_id) for head in heads] == heads


def test_a_run_in_many_partitions_is_read_as_one(address: str) -> None:
    """Between its events others fill whole spans; any stretch of it is read in order, and it goes on."""
    with closing(PostgresLog(narrow(address, 8))) as log:
        author = Author(log)
        head, other = author.start("long"), author.start("other")
        for _ in range(6):
            other = author.add(other, *[MOVE] * 9)
            head = author.add(head, MOVE)
        assert versions(log, head) == list(range(1, 8))
        assert [one.version for one in read_events(log.read(head.run_key, 3, 5), log.blobs)] == [3, 4, 5]
        assert log.head("long") == head
        assert log.head("other") == other


def test_a_run_that_was_over_is_told_with_what_came_after(address: str) -> None:
    """Of a completed run the head's row counts, until an event is appended that changes nothing else."""
    with closing(PostgresLog(narrow(address, 50))) as log:
        author = Author(log)
        head = author.add(author.start("r"), MOVE, status="completed")
        assert log.head("r") == head
        head = author.add(head, MOVE, status="completed")
        assert log.head("r") == head
        head = author.add(head, MOVE, status="completed")
        assert log.head("r") == head
        assert versions(log, head) == [1, 2, 3, 4]


# --- writers that are refused


@pytest.mark.parametrize("between", [0, 30], ids=["one span", "another span"])
def test_of_two_writers_of_one_epoch_the_second_is_refused(address: str, between: int) -> None:
    """Whether the first one's event lies in the same span or in an older one, and in the database as well as here."""
    with closing(PostgresLog(narrow(address, 10))) as one, closing(PostgresLog(address)) as other:
        author = Author(one)
        head = author.start("r")
        stale = author.then(head, MOVE)
        Author(other, clock=author.clock).start("t")  # it forgets when it connects
        assert other.head("r") == head  # which it remembers
        moved = author.add(head, MOVE)
        if between:
            author.add(author.start("s"), *[MOVE] * between)
            moved = author.add(moved, MOVE)
        assert isinstance(other.write([stale])[0], VersionConflict)
        assert log_of(one, head.run_key) == list(range(1, moved.version + 1))
        with closing(tables_of(address)) as tables:
            for version in range(1, moved.version + 1):
                with pytest.raises(psycopg.DatabaseError) as refused:
                    tables.execute(
                        "select append_batch(1, '\\x00', 1, array[%s::bytea], array[0::bigint], array[%s::bigint], "
                        "array['\\x00'::bytea], null, null)",
                        (head.run_key, version),
                    )
                assert refused.value.sqlstate in ("EF002", "23505")
        everything(one)


def log_of(log: PostgresLog, run_key: bytes) -> list[int]:
    """The versions that the log has of a run."""
    return [one.version for one in read_events(log.read(run_key, 1, 1 << 40), log.blobs)]


def test_a_head_change_of_a_stale_writer_is_refused_over_partitions(address: str) -> None:
    """Who takes a run for shorter than it is can't let go of it, though its newest event lies in an older span."""
    with closing(PostgresLog(narrow(address, 10))) as one, closing(PostgresLog(address)) as other:
        author = Author(one)
        end = one.new_owner(OWNER)
        head = author.start("r", claim=OWNER)
        stale = author.then(head, release=True)
        Author(other, clock=author.clock).start("t")  # it forgets when it connects
        assert other.head("r") == head
        head = author.add(head, MOVE)
        author.add(author.start("s"), *[MOVE] * 30)
        assert isinstance(other.write([stale])[0], VersionConflict)
        assert one.head("r") == head
        end()


def test_a_writer_of_an_older_epoch_is_refused_over_partitions(address: str) -> None:
    """After a take-over, and spans later, whoever held the run before is fenced off."""
    with closing(PostgresLog(narrow(address, 10))) as one, closing(PostgresLog(address)) as other:
        author = Author(one)
        end = one.new_owner(OWNER)
        head = author.start("r", claim=OWNER)
        late = author.then(head, MOVE)
        end()
        over = other.new_owner(OTHER)
        second = Author(other, clock=author.clock)
        taken = second.add(head, MOVE, claim=OTHER)
        second.add(second.start("s"), *[MOVE] * 30)
        taken = second.add(taken, MOVE)
        assert isinstance(one.write([late])[0], Fenced | VersionConflict)
        assert one.head("r") == taken
        over()


# --- room ahead


def test_a_role_without_tables_makes_room_and_can_take_nothing_away(server: PostgresServer, address: str) -> None:
    """With the grants of the manual a role fills spans and writes them anew; it reaches no partition but through the log."""
    role, schema = f"app_{parse(address).schema}", parse(address).schema
    narrow(address, 10)
    server.psql(f"create role {role} login;" + APP_GRANTS.format(schema=schema, role=role))
    theirs = address.replace("postgres@", f"{role}@")
    with closing(PostgresLog(theirs)) as log:
        author = Author(log)
        kept, gone = run_of(author, "kept", 12), run_of(author, "gone", 30)
        delete(log, gone)
        before = everything(log)
        log.rewrite(part(log, 10, 2))
        assert everything(log) == before
        assert log.head("kept") == kept
    assert bounds(address)[1] == (10, 30)
    with closing(tables_of(theirs, options="")) as tables:
        for asked in ("delete from log_0", "delete from log", "drop table log_0", "update spans set changed = 0"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tables.execute(asked.encode())


def test_a_role_that_only_reads_can_write_nothing_anew(server: PostgresServer, address: str) -> None:
    """An auditor who may call the function is refused by it."""
    role, schema = f"auditor_{parse(address).schema}", parse(address).schema
    with closing(PostgresLog(narrow(address, 5))) as log:
        run_of(Author(log), "r", 12)
    server.psql(
        f"create role {role} login; grant usage on schema {schema} to {role};"
        f"grant select on all tables in schema {schema} to {role}"
    )
    theirs = address.replace("postgres@", f"{role}@")
    with closing(PostgresLog(theirs, readonly=True)) as log:
        assert log.head("r") is not None
        with pytest.raises(StoreUnusable, match="may not do that"):
            log.rewrite(part(log, 0))


def test_partitions_that_can_not_be_made_stop_nobody_before_there_is_no_room(address: str) -> None:
    """Whoever appends goes on up to the last position there is room for, is told then, and goes on when it can be made."""
    with closing(PostgresLog(narrow(address, 6))) as log, closing(tables_of(address)) as tables:
        author = Author(log)
        head = author.start("r")
        tables.autocommit = False
        tables.execute("lock table only log in share update exclusive mode")  # as analyze does
        room = bounds(address)[-1][1]
        while log.position() < room - 1:
            head = author.add(head, MOVE)
        with pytest.raises(StoreBusy):
            author.add(head, MOVE)
        assert log.position() == room - 1
        assert log.head("r") == head
        tables.rollback()
        head = author.add(head, MOVE)
        assert versions(log, head) == list(range(1, head.version + 1))
        everything(log)
        assert bounds(address)[-1][1] > room


def test_spans_grow_with_the_log(address: str) -> None:
    """A log of a billion events has partitions of sixteen million positions, so that there are a few hundred."""
    PostgresLog(address).close()
    with closing(tables_of(address)) as tables:
        tables.execute(
            "update tip set position = 1024000000, low = 1000000, high = 1024000001, room = 1024000001, ask = 0"
        )
        tables.execute("select make_room()")
    with closing(tables_of(address)) as tables:
        assert tables.execute("select max(high - low) from spans").fetchone() == (16_000_000,)


# --- stores that were made before


@pytest.mark.parametrize("position", [0, 6_000_000], ids=["short", "long"])
def test_a_log_of_one_table_becomes_the_first_partition(
    server: PostgresServer, new_address: Callable[..., str], position: int
) -> None:
    """It is refused until it was migrated; then the same is read, roles may what they might, and it is appended to."""
    source, address = new_address(), new_address()
    with closing(PostgresLog(source)) as log:
        author = Author(log)
        heads = [run_of(author, "a", 5), author.add(run_of(author, "b", 3), MOVE, status="completed")]
        heads[1] = author.add(heads[1], MOVE, status="completed")
        before = everything(log)
    older(address, source, position=position)
    schema, role = parse(address).schema, f"old_{parse(address).schema}"
    server.psql(
        f"create role {role} login; grant usage on schema {schema} to {role}; grant select on all tables in schema {schema} to {role}"
    )
    with pytest.raises(StoreUnusable, match="eventflow store migrate"):
        open_log(address)
    where = parse(address)
    connection, _ = connect(where)
    with closing(connection):
        assert migrate(connection, where, SystemClock()) == [3, 4]
        assert migrate(connection, where, SystemClock()) == []
        assert connection.execute("select count(*) from pg_constraint where conname = 'log_upto'").fetchone() == (0,)
    assert bounds(address)[0] == (0, 8_000_000 if position else 1_000_000)
    with closing(PostgresLog(address)) as log:
        assert log.feed(0, 1 << 40) == before
        assert [log.head(head.run_id) for head in heads] == heads
        heads = [Author(log).add(head, MOVE, status=head.status) for head in heads]
        assert [log.head(head.run_id) for head in heads] == heads
        assert [versions(log, head) for head in heads] == [list(range(1, head.version + 1)) for head in heads]
    with closing(PostgresLog(address.replace("postgres@", f"{role}@"), readonly=True)) as log:
        assert log.head("a") == heads[0]


# --- parts written anew


def test_what_was_deleted_goes_back_and_its_tombstones_stay(address: str) -> None:
    """Spans that are mostly tombstones are found, and take a fraction afterwards; all else reads as before."""
    with closing(PostgresLog(narrow(address, 1500))) as log:
        author = Author(log)
        gone = [heavy_run(author, f"gone-{number}", 400) for number in range(3)]
        kept = heavy_run(author, "kept", 900)
        assert log.rewritable() == []
        for head in gone:
            delete(log, head)
        before, size = everything(log), log.usage().bytes["events"]
        found = log.rewritable()
        assert [(one.low, one.high) for one in found] == [(0, 1500)]
        promised = found[0].frees
        freed = shrink(log)
        assert freed > 1 << 20
        assert abs(promised - freed) < freed / 4
        assert log.usage().bytes["events"] == size - freed
        assert everything(log) == before
        assert sum(one.data[:1] == TOMBSTONE for one in before) == sum(head.version for head in gone)
        assert versions(log, kept) == list(range(1, kept.version + 1))
        assert log.rewritable() == []
        assert shrink(log) == 0


def test_only_whole_spans_that_are_over_are_written_anew(address: str) -> None:
    """The one in which the log ends, and half of one, are refused by the database."""
    with closing(PostgresLog(narrow(address, 10))) as log:
        run_of(Author(log), "r", 25)
        for low, high in ((20, 30), (0, 15), (5, 10), (0, 40)):
            with pytest.raises(StoreUnusable, match="no whole spans"):
                log.rewrite(Rewrite((Span(low, high, 0, 0, 0, open=False),)))
        assert log.rewrite(Rewrite((Span(0, 20, 0, 0, 0, open=False),)))[1] > 0
        everything(log)


def test_what_is_deleted_while_a_copy_is_made_stays_deleted(address: str) -> None:
    """A run that goes between the copy and the exchange is gone in the copy too."""
    with closing(PostgresLog(narrow(address, 40))) as log, closing(tables_of(address)) as reader:
        author = Author(log)
        gone, kept = run_of(author, "gone", 12), run_of(author, "kept", 12)
        run_of(author, "more", 30)
        reader.autocommit = False
        reader.execute("select 1 from log limit 1")  # so that the tables can't change places yet
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(log.rewrite(part(log, 0))))
        thread.start()
        with closing(tables_of(address)) as tables:
            copied = "select 1 from pg_locks l join pg_stat_activity a using (pid) where not granted and query like '%%rewrite_spans%%'"
            while not tables.execute(copied.encode()).fetchone():
                time.sleep(0.01)
        delete(log, gone)
        reader.rollback()
        thread.join()
        assert ended
        assert log.read(gone.run_key, 1, 99) == []
        assert sum(one.data[:1] == TOMBSTONE for one in everything(log)) == gone.version
        assert versions(log, kept) == list(range(1, 13))


def test_a_rewrite_that_is_killed_changes_nothing_and_is_repeated(server: PostgresServer, address: str) -> None:
    """Whenever its server process ends, the log reads as before, no table is left over, and the next one does it."""
    with closing(PostgresLog(narrow(address, 400))) as log:
        author = Author(log)
        gone = [heavy_run(author, f"gone-{number}", 200) for number in range(2)]
        heavy_run(author, "kept", 450)
        delete(log, gone[0])
        before = everything(log)
        began = time.perf_counter()
        log.rewrite(part(log, 0))
        took = time.perf_counter() - began
        for step in range(12):
            with closing(tables_of(address)) as victim:
                pid = victim.info.backend_pid
                killer = threading.Timer(
                    took * step / 10, lambda pid=pid: server.psql(f"select pg_terminate_backend({pid})")
                )
                killer.start()
                with contextlib.suppress(psycopg.OperationalError):
                    victim.execute("select rewrite_spans(0, 400)")
                killer.join()
            assert everything(log) == before
            assert bounds(address)[0] == (0, 400)
            with closing(tables_of(address)) as tables:
                assert tables.execute("select to_regclass('log_0_anew')").fetchone() == (None,)
        log.rewrite(part(log, 0))
        assert everything(log) == before


def test_runs_go_on_while_spans_are_written_anew(address: str) -> None:
    """Two writers append all the while: each of their events is there once, and nobody is refused."""
    with closing(PostgresLog(narrow(address, 60))) as log:
        author = Author(log)
        delete(log, run_of(author, "gone", 50))
        run_of(author, "filler", 80)
        over = threading.Event()
        ends: dict[str, Any] = {}

        def write(head: Head) -> None:
            with closing(PostgresLog(address)) as mine:
                own = Author(mine)
                while not over.is_set() or head.version < 30:
                    head = own.add(head, MOVE, status="waiting" if head.version % 3 else "running")
                ends[head.run_id] = head

        threads = [threading.Thread(target=write, args=(author.start(f"w{number}"),)) for number in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            log.rewrite(part(log, 0))
            log.rewrite(part(log, 60))
        over.set()
        for thread in threads:
            thread.join()
        everything(log)
        assert set(ends) == {"w0", "w1"}
        for head in ends.values():
            assert log.head(head.run_id) == head
            assert versions(log, head) == list(range(1, head.version + 1))


def test_neighbours_without_events_become_one(address: str) -> None:
    """Four spans of tombstones are one afterwards, and all else is read as before."""
    with closing(PostgresLog(narrow(address, 10))) as log:
        author = Author(log)
        first = run_of(author, "first", 8)
        delete(log, run_of(author, "gone", 42))
        first = author.add(first, MOVE)
        assert [span.events for span in log.spans()[1:5]] == [0, 0, 0, 0]
        before = everything(log)
        [one] = log.rewritable()
        log.rewrite(one)
        assert bounds(address)[:3] == [(0, 10), (10, 50), (50, 60)]
        assert everything(log) == before
        assert log.rewritable() == []
        assert versions(log, first) == list(range(1, 10))


def test_what_is_worth_it_is_told_by_bytes() -> None:
    """Much that would be freed, or four like spans without events; never the span in which the log ends."""
    full, mixed = (
        Span(0, 10_000, 0, 10_000, 4_000_000, open=False),
        Span(0, 10_000, 6_000, 4_000, 4_000_000, open=False),
    )
    assert full.frees == 0
    assert mixed.frees == (4_000_000 - 1_100_000) * 6 // 10
    assert [one.low for one in worthwhile([mixed])] == [0]
    assert worthwhile([full, Span(10_000, 20_000, 10_000, 0, 4_000_000, open=True)]) == []
    empty = [Span(low, low + 10, 0, 0, 1_000, open=False) for low in range(0, 50, 10)]
    assert [(one.low, one.high) for one in worthwhile(empty)] == [(0, 40)]
    assert worthwhile(empty[:3]) == []
    assert worthwhile([*empty[:3], Span(30, 90, 0, 0, 1_000, open=False)]) == []


# --- the rest of the house


def test_a_copy_of_a_pruned_store_fills_partitions_too(new_address: Callable[..., str]) -> None:
    """Tombstones are brought into as many spans as they need, and the copy has the same bytes at the same positions."""
    one, two = narrow(new_address(), 10), new_address()
    with closing(PostgresLog(one)) as source:
        author = Author(source)
        delete(source, run_of(author, "gone", 40))
        kept = run_of(author, "kept", 20)
        narrow(two, 7, clock=birth_clock(source))
        with closing(PostgresLog(two)) as target:
            Replica(source, target).catch_up()
            assert everything(target) == everything(source)
            assert target.head("kept") == kept
            assert versions(target, kept) == versions(source, kept)
    assert bounds(two)[:3] == [(0, 7), (7, 14), (14, 21)]


def test_commands_tell_and_write_anew(run_eventflow: Any, address: str) -> None:
    """`store info` and `vacuum --dry-run` say what would be freed, `vacuum` frees it, and then there is nothing."""
    with closing(PostgresLog(narrow(address, 1500))) as log:
        author = Author(log)
        delete(log, heavy_run(author, "gone", 1400))
        run_of(author, "kept", 150)
        before = everything(log)
    about = ("--store", address, "-o", "json")
    told = json.loads(run_eventflow("store", "vacuum", "--dry-run", *about).out)
    assert [(row["first"], row["last"], row["deleted"]) for row in told["spans"]] == [(0, 1499, 1401)]
    assert json.loads(run_eventflow("store", "info", *about).out)["partitions"]["frees"] > 1 << 20
    done = json.loads(run_eventflow("store", "vacuum", *about).out)
    assert (told["before"], told["dry_run"], done["dry_run"]) == (done["before"], True, False)
    assert done["after"] < done["before"] / 2
    assert "no part of them" in run_eventflow("store", "vacuum", "--store", address).out
    assert "partitions" in run_eventflow("store", "info", "--store", address).out
    found = {one["what"]: one for one in json.loads(run_eventflow("doctor", *about).out)["findings"]}
    assert found["partitions"]["state"] == "ok"
    with closing(PostgresLog(address)) as log:
        assert everything(log) == before
