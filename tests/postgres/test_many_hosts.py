"""An address of several hosts, of which the first is a primary of the past, or none takes writes just now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import SettingsError, StoreUnreachable
from eventflow.event import Transitioned
from eventflow.log import Head, Log, open_log
from eventflow.log.postgres import PostgresLog, lookout
from eventflow.log.postgres.address import parse
from eventflow.log.postgres.connecting import apart, connect
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer
from tests.postgres.conftest import LossyWay
from tests.postgres.pairs import Pair

MOVE = Transitioned("a", "a")


def both(pair: Pair, **words: str) -> str:
    """An address that names the first primary first."""
    hosts = ",".join(str(one.directory) for one in (pair.primary, pair.standby))
    return f"postgresql://postgres@/postgres?host={hosts}" + "".join(f"&{name}={word}" for name, word in words.items())


def comes_back(pair: Pair) -> None:
    """The primary dies, the standby takes its place, and the old one comes back as it was, alone and taking writes."""
    pair.fail()
    pair.primary.start()
    pair.primary.psql("alter system reset synchronous_standby_names")
    pair.primary.psql("select pg_reload_conf()")


def end_of(server: PostgresServer) -> int:
    """The last position that a server has."""
    return int(server.psql("select position from eventflow.tip"))


def opened(made: Callable[[], Log], until: Callable[..., None], meanwhile: Callable[[], None]) -> int:
    """Begin to open a store, do something meanwhile; the position of what was opened."""
    found: list[int | BaseException] = []

    def work() -> None:
        try:
            with closing(made()) as log:
                found.append(log.position())
        except BaseException as error:  # noqa: BLE001 - told to the test
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)  # long enough that it has tried; if it has not, the test shows less
    assert not found
    meanwhile()
    until(lambda: found)
    thread.join()
    assert isinstance(found[0], int), found
    return found[0]


# --- words


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ("postgresql://a/d", []),
        ("postgresql:///d?host=/run/a", []),
        ("postgresql://a,b/d", [("a", None), ("b", None)]),
        ("postgresql://a:1,b:2/d", [("a", "1"), ("b", "2")]),
        ("postgresql:///d?host=/run/a,/run/b&port=7", [("/run/a", "7"), ("/run/b", "7")]),
        ("postgresql:///d?host=a,b,c&hostaddr=10.0.0.1,10.0.0.2,10.0.0.3", [("a", None), ("b", None), ("c", None)]),
        ("postgresql:///d?host=a,b&port=1,2,3", []),
    ],
)
def test_hosts_are_told_apart(given: str, places: list[tuple[str, str | None]]) -> None:
    """Each of several hosts has an address with its own port and all other words; one host is not looked at twice."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - only here

    found = [conninfo_to_dict(one.conninfo) for one in apart(parse(f"{given}{'&' if '?' in given else '?'}user=u"))]
    assert [(one["host"], one.get("port") or None) for one in found] == places
    assert {one["user"] for one in found} <= {"u"}


def test_words_that_libpq_does_not_know_are_told_once() -> None:
    """An address that can't be read is refused before any host is looked at."""
    with pytest.raises(SettingsError, match="can't be read"):
        apart(parse("postgresql://a,b/d?nonsense=1"))


# --- primaries of the past


@pytest.mark.slow
def test_a_primary_of_the_past_that_comes_first_is_passed_over(pair: Pair) -> None:
    """Whoever opens the store, or has it open since before, writes to the new one and reads from it; never to the old one."""
    url = both(pair)
    with closing(PostgresLog(url, patience=5)) as before, closing(PostgresLog(url)) as reader:
        head = Author(before).start("r")
        assert reader.position() == 2
        comes_back(pair)
        head = Author(before).add(head, MOVE)  # it was idle meanwhile, and has only seen the old one
        assert reader.position() == 3  # and so has this one
        before._writing._drop()
        head = Author(before, clock=ManualClock(seed=2)).add(head, MOVE)
        for readonly in (False, True):
            with closing(open_log(url, readonly=readonly)) as fresh:
                assert fresh.head("r") == head
        assert (end_of(pair.primary), end_of(pair.standby)) == (2, 4)
        pair.standby.stop("immediate")
        with pytest.raises(StoreUnreachable, match="primary of the past"):  # alone it is refused by who knows
            Author(before).add(head, MOVE)
    assert end_of(pair.primary) == 2


@pytest.mark.slow
def test_a_commit_that_nobody_will_confirm_any_more_is_made_at_the_successor(pair: Pair, monkeypatch) -> None:
    """The old primary still runs and waits for a standby that took its place: who waits with it is let go, and writes once."""
    monkeypatch.setattr(lookout.Lookout.__init__, "__kwdefaults__", {"long": 0.2})
    with closing(PostgresLog(both(pair))) as log:
        head = Author(log).start("r")
        end = log.new_owner(b"o" * 16)
        pair.fail_over()
        head = Author(log, clock=ManualClock(seed=2)).add(head, MOVE)
        assert [one.version for one in read_events(log.read(head.run_key, 1, 9), log.blobs)] == [1, 2]
        assert end_of(pair.standby) == 3
        end()
    assert pair.standby.psql("select count(*) from eventflow.owners where lease_until > clock_timestamp()") == "0"


@pytest.mark.slow
def test_a_long_commit_without_a_successor_is_waited_for(pair: Pair, monkeypatch, until: Callable[..., None]) -> None:
    """A standby that is away for long is no reason to leave the primary."""
    monkeypatch.setattr(lookout.Lookout.__init__, "__kwdefaults__", {"long": 0.1})
    with closing(PostgresLog(both(pair))) as log:
        head = Author(log).start("r")
        pid = log._writing._connection.info.backend_pid
        pair.standby.stop("immediate")
        heads: list[Head] = []
        thread = threading.Thread(target=lambda: heads.append(Author(log).add(head, MOVE)))
        thread.start()
        until(lambda: pair.primary.psql("select pid from pg_stat_activity where wait_event = 'SyncRep'"))
        time.sleep(0.5)  # looks are made; if none is, the test shows less
        assert not heads
        pair.standby.start()
        thread.join()
        assert heads[0].version == 2
        assert log._writing._connection.info.backend_pid == pid


# --- opening


@pytest.mark.slow
def test_a_store_can_be_opened_in_the_middle_of_a_fail_over(pair: Pair, until: Callable[..., None]) -> None:
    """While the old primary is dead and the new one not yet one, whoever opens the store to write waits for it."""
    hosts = f"{pair.standby.directory},{pair.primary.directory}"
    url = f"postgresql://postgres@/postgres?host={hosts}"
    with closing(PostgresLog(url)) as log:  # the first host only reads
        Author(log).start("r")
    connection, server = connect(parse(url), readonly=True)
    with closing(connection):
        assert server.standby  # who only reads gets the first that answers
    pair.primary.kill()
    assert opened(lambda: PostgresLog(url), until, pair.fail_over) == 2
    pair.standby.stop("immediate")
    with pytest.raises(StoreUnreachable):
        PostgresLog(url, patience=0.2)


@pytest.mark.slow
def test_a_server_that_is_not_ready_yet_is_waited_for(pair: Pair, until: Callable[..., None]) -> None:
    """One host that answers that it takes no connections yet is another thing than one that is not there."""
    open_log(pair.primary.url()).close()
    pair.standby.stop()
    pair.standby.settings["hot_standby"] = "off"
    pair.standby.start()
    alone = pair.standby.url()
    with pytest.raises(StoreUnreachable, match="not accepting connections"):
        PostgresLog(alone, patience=0.2)
    assert opened(lambda: PostgresLog(alone), until, pair.fail) == 1


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("at", [b"pg_control_system", b"coalesce(max", b"select format", b"order by position"])
def test_a_connection_that_is_lost_while_a_store_is_opened_is_made_again(
    way: tuple[LossyWay, str], at: bytes, *, readonly: bool
) -> None:
    """Wherever it was cut."""
    lossy, address = way
    open_log(address).close()
    lossy.lose_answer(at)
    with closing(open_log(address, readonly=readonly)) as log:
        assert log.position() == 1
    assert not lossy.armed


@pytest.mark.parametrize("at", [b"create table", b"insert into store", b"COMMIT"])
def test_a_store_that_is_cut_off_while_it_is_made_is_made_once(way: tuple[LossyWay, str], at: bytes) -> None:
    """Its commit may have happened or not: there is one store with one first event."""
    lossy, address = way
    lossy.lose_answer(at)
    with closing(open_log(address)) as log:
        assert log.position() == 1
    assert not lossy.armed
