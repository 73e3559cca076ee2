"""Commits whose answer is lost, servers that go away, and writers that meet: what was acknowledged is there, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from eventflow.checkpoint import Checkpoint
from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import Fenced, StoreUnreachable, VersionConflict
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import Acted, Appended, Head, Log, Post, Posted, Upkeep
from eventflow.log.postgres import PostgresLog
from eventflow.log.postgres.address import parse
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import deletion
from eventflow.testing.postgres import PostgresServer

MOVE = Transitioned("a", "a")
OWNER, OTHER = b"o" * 16, b"p" * 16


def versions(log: Log, head: Head) -> list[int]:
    """The versions a log holds of a run."""
    return [one.version for one in read_events(log.read(head.run_key, 1, 99), log.blobs)]


def kill_writer(server: PostgresServer, log: PostgresLog) -> None:
    """End the server's process that serves a log's writer."""
    connection = log._writing._connection
    assert connection is not None
    server.psql(f"select pg_terminate_backend({connection.info.backend_pid})")


# --- answers that are lost


@pytest.mark.parametrize("what", ["append", "post", "upkeep", "mixed", "deletion"])
def test_a_commit_whose_answer_is_lost_is_found_and_done_once(way, what: str) -> None:
    """Whatever the batch held, it is answered as if nothing had happened, and was written once."""
    lossy, address = way
    with closing(PostgresLog(address)) as log:
        author = Author(log)
        head, other = author.start("r"), author.start("s")
        written(log, Post(other.run_key, b"before"))
        batches: dict[str, Callable[[], list[Any]]] = {
            "append": lambda: [author.then(head, MOVE, MOVE)],
            "post": lambda: [Post(head.run_key, b"x")],
            "upkeep": lambda: [Upkeep(head.run_key, marks=(Checkpoint(1, ("manual",), 5),))],
            "mixed": lambda: [
                author.then(head, MOVE),
                Post(other.run_key, b"x"),
                author.then(head, MOVE),
                author.first("t"),
            ],
            "deletion": lambda: [author.then(head, MOVE), deletion(other, 9)],
        }
        before, messages = log.position(), len(log.inbox(head.run_key)) + len(log.inbox(other.run_key))
        head = author.add(head, MOVE)  # as prepared statements: the next message is the write itself
        before += 1
        batch = batches[what]()
        lossy.lose_answer(b"COMMIT" if what == "deletion" else b"_pg3_")
        answers = log.write(batch)
        kinds = {
            "append": [Appended], "post": [Posted], "mixed": [Appended, Posted, VersionConflict, Appended],
            "deletion": [Appended, Acted],
        }  # fmt: skip
        assert [type(answer) for answer in answers] == kinds.get(what, [type(answers[0])])
        added = {"append": 2, "mixed": 2, "deletion": 2}.get(what, 0)
        assert log.position() == before + added
        assert len(log.inbox(head.run_key)) + len(log.inbox(other.run_key)) == messages + (
            {"post": 1, "mixed": 1, "deletion": -1}.get(what, 0)
        )
        for answer in answers:
            if isinstance(answer, Appended):
                stored = log.feed(answer.position - 1, 1)[0]
                assert read_events([stored], log.blobs)[0].digest == answer.digests[-1] == answer.head.digest
        head = log.head("r")
        assert head is not None
        author.add(head, MOVE)


def test_a_batch_that_never_arrived_is_sent_again(server: PostgresServer, address: str) -> None:
    """A connection that was cut before anything was written is made anew, and the batch is written once."""
    with closing(PostgresLog(address)) as log:
        author = Author(log)
        head = author.start("r")
        for _ in range(3):
            kill_writer(server, log)
            head = author.add(head, MOVE)
        assert versions(log, head) == [1, 2, 3, 4]


def test_a_session_that_is_killed_while_it_waits_for_its_turn_writes_nothing(
    server: PostgresServer, address: str, until
) -> None:
    """It is sent again on a new one; who held it up comes first."""
    with closing(PostgresLog(address)) as log, closing(PostgresLog(address)) as slow:
        author = Author(log)
        head, other = author.start("r"), author.start("s")
        connection = slow._writing._connected()
        answers: list[Any] = []
        with connection.transaction():
            slow._writing._sender.take_lock(connection)
            thread = threading.Thread(target=lambda: answers.extend(log.write([author.then(head, MOVE)])))
            thread.start()
            waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            until(lambda: server.psql(waits) != "0")
            kill_writer(server, log)
        thread.join()
        assert isinstance(answers[0], Appended)
        assert versions(log, head) == [1, 2]
        assert log.head("s") == other


def test_a_server_that_stays_away_is_told_with_what_is_not_known(address: str, server: PostgresServer) -> None:
    """After its patience the log says that the last write is in doubt; when the server is back, all is well."""
    with PostgresServer() as lonely, closing(PostgresLog(lonely.url(), patience=0.2)) as log:
        author = Author(log)
        head = author.start("r")
        lonely.stop("immediate")
        with pytest.raises(StoreUnreachable, match="not known yet"):
            log.write([author.then(head, MOVE)])
        with pytest.raises(StoreUnreachable, match="can't be reached"):
            log.position()
        lonely.start()
        assert versions(log, author.add(head, MOVE)) == [1, 2]


def test_a_wait_for_a_standby_that_is_cut_short_is_no_success(until) -> None:
    """The server says the commit is there; it counts only once a standby has it, or none is asked for any more."""
    with PostgresServer() as server, closing(PostgresLog(server.url())) as log:
        author = Author(log)
        head = author.start("r")
        server.psql("alter system set synchronous_standby_names = 'nobody'")
        server.psql("select pg_reload_conf()")
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.extend(log.write([author.then(head, MOVE)])))
        thread.start()
        waits = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query like '%append_batch%'"
        until(lambda: server.psql(waits))
        pid = server.psql(waits)
        server.psql(f"select pg_cancel_backend({pid})")
        until(lambda: server.psql("select pid from pg_stat_activity where wait_event = 'SyncRep'").replace(pid, ""))
        assert versions(log, head) == [1, 2]  # it is there, and nobody was told so
        assert not answers
        server.psql("alter system reset synchronous_standby_names")
        server.psql("select pg_reload_conf()")
        thread.join()
        assert isinstance(answers[0], Appended)
        assert versions(log, head) == [1, 2]


# --- writers that meet


def test_what_another_process_wrote_is_looked_up(new_address: Callable[..., str]) -> None:
    """A log that remembers an old head writes on from the new one, and refuses what does not fit it."""
    address = new_address()
    with closing(PostgresLog(address)) as one, closing(PostgresLog(address)) as two:
        first, second = Author(one), Author(two, clock=ManualClock(seed=2))
        head = first.start("r")
        newer = second.add(head, MOVE)
        [stale] = one.write([first.then(head, MOVE)])
        assert isinstance(stale, VersionConflict)
        assert (stale.expected, stale.actual) == (1, 2)
        assert first.add(newer, MOVE) == two.head("r")
        two.new_owner(OTHER)
        taken = second.add(first.log.head("r"), MOVE, claim=OTHER)
        [fenced] = one.write([first.then(taken, MOVE, epoch=0)])
        assert isinstance(fenced, Fenced)
        assert versions(one, head) == [1, 2, 3, 4]


def test_many_writers_leave_dense_positions_and_sound_chains(address: str) -> None:
    """Four logs write at once: no position is missing, and no feed ever skips one."""
    logs = [PostgresLog(address) for _ in range(4)]
    done = threading.Event()
    seen: list[int] = []

    def write(number: int) -> None:
        author = Author(logs[number], clock=ManualClock(seed=number))
        heads = [author.start(f"{number}-{run}") for run in range(3)]
        for _ in range(15):
            answers = logs[number].write([author.then(head, MOVE) for head in heads])
            heads = [answer.head for answer in answers if isinstance(answer, Appended)]
            assert len(heads) == 3

    def follow() -> None:
        last = 0
        while not done.is_set() or last < logs[0].position():
            for stored in logs[0].feed(last, 1_000):
                seen.append(stored.position)
                last = stored.position

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    follower = threading.Thread(target=follow)
    for thread in (*threads, follower):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    follower.join()
    everything = logs[0].feed(0, 10_000)
    assert [one.position for one in everything] == seen == list(range(1, 1 + 4 * 3 * 16 + 1))
    assert not any(isinstance(one.event, RunDeleted) for one in read_events(everything, logs[0].blobs))
    for log in logs:
        log.close()


def test_the_writers_row_goes_with_its_log(server: PostgresServer, address: str) -> None:
    """A log that was closed leaves nothing behind."""
    schema = parse(address).schema
    with closing(PostgresLog(address)) as log:
        Author(log).start("r")
        assert server.psql(f"select count(*) from {schema}.writers") == "1"  # noqa: S608 - our own schema
    assert server.psql(f"select count(*) from {schema}.writers") == "0"  # noqa: S608 - our own schema
