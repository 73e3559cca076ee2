"""What one event costs on a small store of this machine: bytes, seconds of the writer, of verifying, pruning, listing.

Everything else in this folder is computed from these numbers, or simulated with them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import counting
from eventflow import NO_QUOTA, Engine, RetentionPolicy, SystemClock
from eventflow.change import Op
from eventflow.codec import pack
from eventflow.event import Transitioned
from eventflow.log import Append, Appended, Head, Log, Query, held_bytes, open_log
from eventflow.retention import prune
from eventflow.testing.author import Author
from eventflow.verification import verify_store

STEPS = 10  # of a run that is measured
BATCH = 256  # appends in the large one of the two commits that are timed
_WAIT = 0.5  # seconds in which the last snapshots are written


@dataclass(frozen=True, slots=True)
class Backend:
    """One kind of store, as measured; seconds, bytes.

    `event` is what an event adds to the store with all that speaks of it, `row` its own row, `more` the events of a run beyond
    one for each step.
    `steps` is events a second of one process that drives many runs at once. A commit of n events takes
    `commit + n * each` seconds. `verify`, `prune` and `listing` are events, events and runs a second.
    """

    name: str
    event: float
    row: float
    more: float
    steps: float
    commit: float
    each: float
    verify: float
    prune: float
    listing: float

    def events_per_second(self, batch: int) -> float:
        """What its one writer gets done with so many events in a commit."""
        return batch / (self.commit + batch * self.each)


def backend(name: str, where: str | Path, aside: str | Path, *, runs: int, turns: int) -> Backend:
    """Measure a kind of store in two empty places."""
    log = open_log(where)  # what an empty one takes is nothing to multiply
    try:
        size, row = held_bytes(log), log.usage().bytes["events"]
    finally:
        log.close()
    steps = asyncio.run(_driven(where, runs))
    log = open_log(where)
    try:
        usage = log.usage()
        events = usage.positions
        size, row, more = held_bytes(log) - size, usage.bytes["events"] - row, events / runs - STEPS
        verify = events / _seconds(lambda: list(verify_store(log)))
        listed = runs / _seconds(lambda: log.runs(Query()))
        pruned = events / _seconds(lambda: prune(log, RetentionPolicy(keep=0), clock=SystemClock()))
    finally:
        log.close()
    other = open_log(aside)
    try:
        commit, each = _commits(other, turns)
    finally:
        other.close()
    return Backend(name, size / events, row / events, more, steps, commit, each, verify, pruned, listed)


async def _driven(where: str | Path, runs: int) -> float:
    """Events a second, with all runs at once."""
    gate = asyncio.Event()
    flow = counting(STEPS, gate=gate)
    async with Engine(where, workflows=[flow], quota=NO_QUOTA) as engine:
        begun = await engine.start_many(flow, [{"n": 0, "note": ""}] * runs)
        before = engine.log.position()
        start = time.perf_counter()
        gate.set()
        await asyncio.gather(*(one.wait() for one in begun))
        seconds = time.perf_counter() - start
        await asyncio.sleep(_WAIT)
        return (engine.log.position() - before) / seconds


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-9)


def _commits(log: Log, turns: int) -> tuple[float, float]:
    """The seconds of a commit, and of each event in it: from commits of one event and of many, in turn.

    The lower quartile of each, so that what else the disk does weighs little; an event takes at least the processor's
    time, whatever the disk did.
    """
    author = Author(log)
    lone, many = _Batch(author, 1), _Batch(author, BATCH)
    pairs = [(lone.write(), many.write()) for _ in range(turns)]
    one, several = (sorted(times)[turns // 4] for times in zip(*pairs, strict=True))
    each = max((several - one) / (BATCH - 1), many.processor / turns / BATCH)
    return max(one - each, 0.0), each


class _Batch:
    """An event of each of as many runs, in one commit; `processor` is what that took of it so far, in seconds."""

    def __init__(self, author: Author, count: int) -> None:
        self._log, self._clock = author.log, author.clock
        self._heads = [author.start(f"of-{count}-{number}") for number in range(count)]
        change = (Op("set", ("note",), "a note of some words, as they are"),)
        self._event = pack(Transitioned("draft", "draft", change=change))
        self.processor = 0.0

    def write(self) -> float:
        """The seconds of one commit."""
        appends = [self._then(head) for head in self._heads]
        start, used = time.perf_counter(), time.process_time()
        answers = self._log.write(appends)
        seconds = time.perf_counter() - start
        self.processor += time.process_time() - used
        self._heads = [answer.head for answer in answers if isinstance(answer, Appended)]
        return seconds

    def _then(self, head: Head) -> Append:
        return Append(
            head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (self._event,), self._clock.now(),
            "running",
        )  # fmt: skip
