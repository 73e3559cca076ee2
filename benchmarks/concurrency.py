"""Many runs at once: how fast and in how much memory, with a second process on the store, with a reader on it."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.apart import MB, alone, status
from benchmarks.figures import Figure, Size, Target, once, ratio, spread
from benchmarks.progress import Progress
from benchmarks.workloads import counting
from eventflow import Engine
from eventflow.log import LmdbLog

ABOUT = """
Runs of one async node that comes back to itself, on LMDB, each step durable before the next of its run: steps a second from
the moment that all have started to the last one's end, each turn in a fresh process. Ten times as many runs, of as many steps,
must not be slower. *memory* is all that the process of most runs had resident at its peak (`VmHWM`): interpreter, libraries, runs and
the pages of the store's file that it has looked at.

*two processes*: the same runs again in a second process, on the same store at the same time; steps a second of both
together beside those of one alone. LMDB has one writer at a time, so what is gained is all that is not writing.
*with a reader*: one process beside another that walks the whole history, event by event, again and again, holding nothing.
"""
COLLECTOR = (50_000, 20, 50)  # as the program itself sets it
READY = 60.0  # seconds that processes may take until all have started their runs
_PAGE = 1_000  # events a reader takes at a time


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: runs and steps of each, turns, and runs and steps of the processes that share a store."""

    runs: tuple[tuple[int, int], ...]
    rounds: int
    shared: tuple[int, int]


PLANS: dict[Size, Plan] = {
    "smoke": Plan(((10, 3), (40, 3)), 1, (20, 5)),
    "default": Plan(((200, 100), (1_000, 20), (10_000, 20)), 3, (500, 40)),
    "full": Plan(((200, 500), (1_000, 50), (10_000, 50)), 11, (500, 200)),
}


class Driven(NamedTuple):
    """What a process has seen: when its runs went on and when the last ended (monotonic), steps, bytes at its peak."""

    began: float
    ended: float
    steps: int
    peak: int

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self.steps / (self.ended - self.began)


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Counts of runs by turns, then processes that share a store."""
    plan = PLANS[size]
    return [*_counts(plan, place, progress), *_together(plan, place, progress), _reader(plan, place, progress)]


# --- one process ---------------------------------------------------------------------------------------------------


def drive(store: Path, runs: int, steps: int, gate: Any = None) -> Driven:
    """Drive so many runs of so many steps to their end; `gate` is where other processes are waited for."""
    gc.set_threshold(*COLLECTOR)
    return asyncio.run(_drive(store, runs, steps, gate))


async def _drive(store: Path, runs: int, steps: int, gate: Any) -> Driven:
    opened = asyncio.Event()
    flow = counting(steps, gate=opened)
    async with Engine(store, workflows=[flow]) as engine:
        started = await engine.start_many(flow, [{"n": 0, "note": ""}] * runs)
        if gate is not None:
            gate.wait(READY)
        began = time.monotonic()
        opened.set()
        await asyncio.gather(*(run.wait() for run in started))
        ended = time.monotonic()
    return Driven(began, ended, runs * (steps + 1), status("VmHWM"))


def _counts(plan: Plan, place: Path, progress: Progress) -> list[Figure]:
    rates: list[list[float]] = [[] for _ in plan.runs]
    peaks: list[list[float]] = [[] for _ in plan.runs]
    turns = [(turn, which) for turn in range(plan.rounds) for which in range(len(plan.runs))]
    for turn, which in progress.each(turns, "concurrency: runs", len(turns)):
        seen = alone(drive, place / f"runs-{turn}-{which}", *plan.runs[which])
        rates[which].append(seen.rate)
        peaks[which].append(seen.peak / MB)
    found = []
    for which, (runs, steps) in enumerate(plan.runs):
        last = which == len(plan.runs) - 1
        less = rates[which - 1] if last else None
        found.append(
            Figure(
                "concurrency", f"{runs:,} runs x {steps} steps", "steps/s", spread(rates[which]),
                spread(less) if less else None, ratio(rates[which], less) if less else None,
                Target(1.0, "least") if last else None, f"beside {plan.runs[which - 1][0]:,} runs" if last else "",
            )
        )  # fmt: skip
    runs = plan.runs[-1][0]
    limit = Target(250.0, "most")
    return [*found, Figure("concurrency", f"memory: {runs:,} runs", "MB", spread(peaks[-1]), target=limit)]


# --- several processes ---------------------------------------------------------------------------------------------


def _together(plan: Plan, place: Path, progress: Progress) -> list[Figure]:
    one: list[float] = []
    two: list[float] = []
    for turn in progress.each(range(plan.rounds), "concurrency: two processes", plan.rounds):
        one.append(_rate(side_by_side(place / f"one-{turn}", 1, *plan.shared)))
        two.append(_rate(side_by_side(place / f"two-{turn}", 2, *plan.shared)))
    name = f"two processes: {plan.shared[0]:,} runs each"
    target = Target(1.3, "least")
    note = "beside one"
    return [Figure("concurrency", name, "steps/s", spread(two), spread(one), ratio(two, one), target, note)]


def _rate(seen: list[Driven]) -> float:
    began, ended = min(one.began for one in seen), max(one.ended for one in seen)
    return sum(one.steps for one in seen) / (ended - began)


def side_by_side(store: Path, processes: int, runs: int, steps: int, *, reader: bool = False) -> list[Driven]:
    """What so many processes see that drive runs on one store, beginning together; one more may read it meanwhile."""
    spawn = get_context("spawn")
    gate, answers, over = spawn.Barrier(processes + reader), spawn.SimpleQueue(), spawn.Event()
    LmdbLog(store).close()  # made by nobody of them
    workers = [spawn.Process(target=_worker, args=(store, runs, steps, gate, answers)) for _ in range(processes)]
    if reader:
        workers.append(spawn.Process(target=_read, args=(store, gate, over)))
    for worker in workers:
        worker.start()
    seen = [answers.get() for _ in range(processes)]
    over.set()
    for worker in workers:
        worker.join()
    return seen


def _worker(store: Path, runs: int, steps: int, gate: Any, answers: Any) -> None:
    answers.put(drive(store, runs, steps, gate))


def _read(store: Path, gate: Any, over: Any) -> None:
    """Walk the whole history, again and again, until it is over."""
    log = LmdbLog(store, readonly=True)
    try:
        gate.wait(READY)
        position = 0
        while not over.is_set():
            page = log.feed(position, _PAGE)
            position = page[-1].position if page else 0
    finally:
        log.close()


def _reader(plan: Plan, place: Path, progress: Progress) -> Figure:
    without: list[float] = []
    beside: list[float] = []
    for turn in progress.each(range(plan.rounds), "concurrency: with a reader", plan.rounds):
        without.append(_rate(side_by_side(place / f"unread-{turn}", 1, *plan.shared)))
        beside.append(_rate(side_by_side(place / f"read-{turn}", 1, *plan.shared, reader=True)))
    cost = once(100 * (1 - ratio(beside, without)))
    note = f"{spread(beside).median:,.0f} steps/s beside {spread(without).median:,.0f}"
    return Figure("concurrency", "with a reader: cost to the writer", "%", cost, target=Target(10.0, "most"), note=note)
