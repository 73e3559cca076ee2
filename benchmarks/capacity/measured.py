"""What one event costs on a small store of this machine: bytes, seconds of the writer, of verifying, pruning, listing.

Everything else in this folder is computed from these numbers, or simulated with them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.workloads import counting
from eventflow import NO_QUOTA, Engine, RetentionPolicy, SystemClock
from eventflow.change import Op
from eventflow.codec import Packed, pack
from eventflow.event import Transitioned
from eventflow.log import Append, Appended, Head, Query, held_bytes, open_log
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
        author = Author(other)
        lone, many = _commits(author, 1, turns), _commits(author, BATCH, turns)
    finally:
        other.close()
    each = max((many - lone) / (BATCH - 1), 1e-9)
    return Backend(name, size / events, row / events, more, steps, max(lone - each, 0.0), each, verify, pruned, listed)


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


def _commits(author: Author, batch: int, turns: int) -> float:
    """The median seconds of a commit of so many events, each of another run."""
    heads = [author.start(f"of-{batch}-{number}") for number in range(batch)]
    event = pack(Transitioned("draft", "draft", change=(Op("set", ("note",), "a note of some words, as they are"),)))
    taken: list[float] = []
    for _ in range(turns):
        appends = [_then(head, event, author.clock.now()) for head in heads]
        start = time.perf_counter()
        answers = author.log.write(appends)
        taken.append(time.perf_counter() - start)
        heads = [answer.head for answer in answers if isinstance(answer, Appended)]
    return median(taken)


def _then(head: Head, event: Packed, now: int) -> Append:
    return Append(
        head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (event,), now, "running",
    )  # fmt: skip
