"""A fleet of worker processes, somebody who gives them work, and how a store is judged after whatever was done to them.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from eventflow import Engine
from eventflow.codec import read_events
from eventflow.errors import EventflowError, StoreUnreachable
from eventflow.event import EffectFinished, Recorded
from eventflow.log import Log, Query
from tests.postgres.fleet_worker import flow

AT_ONCE = 24  # runs that are under way or wait
COUNTED = "create table counted (run text, n int, primary key (run, n))"  # that the workers' transactions write to
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

    @property
    def acknowledged(self) -> str:
        """How many events they were told are durable, for people."""
        return f"{sum(1 for _ in self.lines('told')):,} events acknowledged"

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


def table_amiss(psql: Callable[[str], str], log: Log) -> list[str]:
    """Transactions that are in their own table and not in the log, or the other way round."""
    rows = sorted(tuple(line.split("|")) for line in psql("select run, n from counted").split())
    recorded = sorted(
        (listed.head.run_id, one.event.key)
        for listed in log.runs(Query()) for one in read_events(log.read(listed.head.run_key, 1, 1 << 40), log.blobs)
        if isinstance(one.event, EffectFinished) and one.event.name == "count"
    )  # fmt: skip
    return [] if rows == recorded else [f"{len(rows)} rows, {len(recorded)} recorded"]


def until_over(log: Log, fleet: Fleet, seconds: float) -> None:
    """Wait until no run is left in the queue."""
    end = time.monotonic() + seconds
    while log.queued("q"):
        fleet.mend()
        if time.monotonic() > end:
            return  # what is left is told by the check
        time.sleep(0.2)
