"""Eight processes that deliver the same keyed signals, whose connections are dropped in the middle of a commit: each is taken once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from eventflow import Engine
from eventflow.codec import read_events
from eventflow.event import SignalReceived
from eventflow.log import Post, open_log
from eventflow.log.postgres import PostgresLog, writing
from eventflow.log.postgres.address import parse
from eventflow.testing.author import Author, written
from eventflow.testing.postgres import PostgresServer
from tests.postgres.conftest import LossyWay
from tests.postgres.deliverer import LAST, NONE, RUNS, flow

pytestmark = pytest.mark.slow
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
DELIVERERS = 8
IDS = 1_000 if FULL else 40
PLANTED = 30  # ids that are sent without their keys
KILLS = 6 if FULL else 1  # of a deliverer, and of the driver
REST = 0.2  # seconds between two cuts
LONGEST = 600  # seconds: only so that a test that hangs ends
PROGRAM = Path(__file__).with_name("deliverer.py")
# Whoever is in the middle of a commit comes first.
CUT = """select pg_terminate_backend(pid) from (select pid from pg_stat_activity where application_name = 'eventflow'
    and state = 'active' order by (wait_event ilike 'wal%sync') desc nulls last, random() limit 1) as one"""


@dataclass
class Crowd:
    """A driver and its deliverers; every second one of these reaches the store by a way that loses answers."""

    address: str
    lossy: str
    errors: Path
    ids: int
    plant: str = NONE
    driver: subprocess.Popen[bytes] | None = None
    deliverers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def drive(self) -> None:
        """Let a process drive the runs; one that does is killed first."""
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()
        self.driver = self._start(self.address, "drive")

    def deliver(self) -> None:
        """Start all deliverers."""
        self.deliverers = [self._deliverer(number) for number in range(DELIVERERS)]

    def begin_again(self, number: int) -> None:
        """Kill a deliverer, which knows nothing of what it has sent, and start it anew."""
        self.deliverers[number].kill()
        self.deliverers[number].wait()
        self.deliverers[number] = self._deliverer(number)

    def wait(self) -> None:
        """Wait until every deliverer has sent everything."""
        for one in self.deliverers:
            assert one.wait(LONGEST) == 0, self.errors.read_text()[-2_000:]

    def end(self) -> None:
        """Kill all."""
        for one in (*self.deliverers, *([] if self.driver is None else [self.driver])):
            one.kill()
            one.wait()

    def _deliverer(self, number: int) -> subprocess.Popen[bytes]:
        return self._start(self.lossy if number % 2 else self.address, str(number), str(self.ids), self.plant)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
        with self.errors.open("ab") as errors:
            return subprocess.Popen([sys.executable, str(PROGRAM), *arguments], stderr=errors, env=environment)


@contextmanager
def cutting(server: PostgresServer, lossy: LossyWay) -> Iterator[Counter[str]]:
    """Within this block connections are dropped in the middle of commits, and answers are lost; how many."""
    done, cuts = threading.Event(), Counter[str]()

    def cut() -> None:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            while not done.wait(REST):
                cuts["cut"] += len(connection.execute(CUT).fetchall())
                if not lossy.armed:
                    lossy.lose_answer(b"_pg3_")  # of the next prepared statement, which are those that write
                    cuts["lost"] += 1

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield cuts
    finally:
        done.set()
        thread.join()


def taken(address: str) -> Counter[int]:
    """How often the runs of a store have taken each id."""
    with closing(open_log(address, readonly=True)) as log:
        heads = [log.head(f"run-{number}") for number in range(RUNS)]
        events = [
            one.event for head in heads if head for one in read_events(log.read(head.run_key, 1, 1 << 40), log.blobs)
        ]
    return Counter(event.payload for event in events if isinstance(event, SignalReceived))


async def begun(address: str) -> None:
    """Start the runs, which nobody drives yet."""
    async with Engine(address, workflows=[flow]) as engine:
        for number in range(RUNS):
            await engine.start(flow, {"count": 0, "total": 0, "id": 0}, run_id=f"run-{number}")


async def ended(address: str) -> list[dict[str, int]]:
    """Send the last id to each run, wait until the driver has ended them; what they ended with."""
    async with Engine(address, workflows=[flow]) as engine:
        for number in range(RUNS):
            await engine.signal(f"run-{number}", "go", LAST, key="last")
        runs = [engine.get(f"run-{number}") for number in range(RUNS)]
        while not all(run.status == "completed" for run in runs):
            await asyncio.sleep(0.05)
        return [await run.result() for run in runs]


@pytest.fixture
def crowd(way: tuple[LossyWay, str], server: PostgresServer, tmp_path: Path) -> Iterator[Callable[..., Crowd]]:
    """Makes a crowd on a new store with runs that wait; it is killed in the end."""
    lossy = f"{way[1]}&lease=1"
    address = server.url(schema=parse(lossy).schema, lease="1")
    started: list[Crowd] = []

    def make(ids: int, plant: str = NONE) -> Crowd:
        asyncio.run(begun(address))
        started.append(Crowd(address, lossy, tmp_path / "errors", ids, plant))
        return started[-1]

    yield make
    for one in started:
        one.end()


def test_each_id_is_taken_once(crowd, server: PostgresServer, way, record_property) -> None:
    """Each of eight sends every id, some of them twice; commits are cut, answers lost, deliverers and drivers killed."""
    all_ = crowd(IDS)
    all_.deliver()
    with cutting(server, way[0]) as cuts:
        for number in range(KILLS):
            all_.drive()
            time.sleep(1.5)  # long enough that they are at it
            all_.begin_again(number % DELIVERERS)
        all_.drive()
        all_.wait()
    results = asyncio.run(asyncio.wait_for(ended(all_.address), LONGEST))
    assert taken(all_.address) == Counter({**dict.fromkeys(range(IDS), 1), LAST: RUNS})
    assert sum(one["count"] for one in results) == IDS
    assert sum(one["total"] for one in results) == IDS * (IDS - 1) // 2
    assert cuts["cut"]
    record_property(
        "figures",
        f"{DELIVERERS} deliverers of {IDS:,} ids, {cuts['cut']:,} connections cut, {cuts['lost']:,} answers lost: "
        f"{IDS:,} taken once, 0 twice",
    )


@pytest.mark.parametrize("plant", ["unkeyed", "looks"])
def test_without_a_key_ids_are_taken_twice(crowd, plant: str, record_property) -> None:
    """Whoever sends without a key, be it after a look whether the run has the id, is found out by the same count."""
    all_ = crowd(PLANTED, plant)
    all_.drive()
    all_.deliver()
    all_.wait()
    asyncio.run(asyncio.wait_for(ended(all_.address), LONGEST))
    twice = sum(count > 1 for number, count in taken(all_.address).items() if number != LAST)
    assert twice
    record_property("figures", f"{plant}: {twice} of {PLANTED} ids taken more than once")


def test_without_its_number_a_batch_is_written_twice(way: tuple[LossyWay, str], monkeypatch, record_property) -> None:
    """A writer that can't look up whether its lost commit happened sends its message again."""
    lossy, address = way
    monkeypatch.setattr(writing, "_FOUND", "select 0, 0 where %b is null and %b is null")
    with closing(PostgresLog(address)) as log:
        head = Author(log).start("r")
        written(log, Post(head.run_key, b"x"))  # as a prepared statement: the next is the write itself
        lossy.lose_answer(b"_pg3_")
        written(log, Post(head.run_key, b"y"))
        messages = [data for _, data in log.inbox(head.run_key)]
    assert messages == [b"x", b"y", b"y"]
    record_property("figures", "a message whose answer was lost is there twice")
