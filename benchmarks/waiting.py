"""What a run costs that waits: memory, processor time, the time to wake it, and what it costs others."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.figures import Figure, Size, Target, once, ratio, spread
from benchmarks.progress import Progress, Silent
from benchmarks.workloads import counting
from eventflow import Engine, Wait, Workflow
from eventflow.event import Transitioned
from eventflow.run import Notice
from eventflow.state import State

ABOUT = """
Runs on LMDB that stand still, half of them for a signal, half for a day to pass. After half a second each leaves memory
(docs/waits.md). *memory* is what the process grew by, divided by the runs: its anonymous memory as Linux counts it
(`RssAnon`: the pages of the store's file are not in it), and, in a pass of its own, what Python allocated
(`tracemalloc`). A tenth as many runs come first, so that what an engine needs once is not counted.

*processor* is the share of one processor that the process uses while nothing happens to any of them; beside it, that of an
engine with ten. *to wake one* is the time from `engine.signal` to the step that the signal leads to being durable, among
ten, a thousand and ten thousand, in turn; it is beside the time among ten, and must not grow with their number. *a step
of another run* is what a run pays that takes steps in the same engine.
"""
LIMIT = 2_048  # bytes of a waiting run
DAY = 86_400.0
_WAVE = 500  # runs started together: what a run needs while it starts is not what it needs while it waits
_STEPS = 20  # of the other run in a turn


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: waiting runs, seconds of waiting, turns of waking."""

    among: tuple[int, ...]
    seconds: float
    turns: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan((2, 6, 20), 0.1, 2),
    "default": Plan((10, 1_000, 10_000), 5.0, 30),
    "full": Plan((10, 10_000, 100_000), 60.0, 600),
}


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Memory first, in engines of their own; then the rest, in engines that take turns."""
    plan = PLANS[size]
    many = plan.among[-1]
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn")
    ) as fresh:  # here, what was freed before would be used anew
        resident = fresh.submit(_resident_of_one, place / "resident", many).result()
    tracemalloc.start()
    try:
        traced = asyncio.run(_grown(place / "traced", many, lambda: tracemalloc.get_traced_memory()[0], progress))
    finally:
        tracemalloc.stop()
    name = f"memory: one of {many:,}"
    return [
        Figure("waiting", f"{name}, resident", "B", once(resident), target=Target(LIMIT, "most")),
        Figure("waiting", f"{name}, allocated", "B", once(traced), target=Target(LIMIT, "most")),
        *asyncio.run(_in_turn(place, plan, progress)),
    ]


def _resident_of_one(place: Path, many: int) -> float:
    """Bytes of memory of its own that one waiting run takes from a fresh process."""
    return asyncio.run(_grown(place, many, _resident, Silent()))


def _resident() -> int:
    """Bytes of memory that the process has of its own, where the system tells; else 0."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


# --- standing still ------------------------------------------------------------------------------------------------


def _flow() -> Workflow:
    """A run that waits, for a signal or for a day, and then waits again."""

    async def nothing(_: dict[str, bool]) -> None:
        return None

    def sleeps(state: dict[str, bool]) -> bool:
        return state["sleeps"]

    flow = Workflow("waiting").add_node("begin", nothing).add_node("signal", Wait(signal="go"))
    flow.add_node("day", Wait(signal="go", timeout=DAY)).add_edge("begin", "day", when=sleeps)
    return flow.add_edge("begin", "signal").add_edge("signal", "begin").add_edge("day", "begin").set_start("begin")


async def _started(engine: Engine, flow: Workflow, first: int, count: int) -> None:
    """Start so many runs, in waves, and return when all of them stand still and have left memory."""
    for number in range(first, first + count, _WAVE):
        last = min(number + _WAVE, first + count)
        await engine.start_many(flow, {f"run-{one}": {"sleeps": one % 2 == 0} for one in range(number, last)})
        await _parked()


async def _parked() -> None:
    """Return when no task drives a run any more."""
    while driving := [task for task in asyncio.all_tasks() if task.get_name().startswith("run ")]:
        await asyncio.wait(driving)


async def _grown(store: Path, count: int, size: Callable[[], int], progress: Progress) -> float:
    """By how many bytes the process grows for each of so many runs."""
    flow = _flow()
    async with Engine(store, workflows=[flow]) as engine:
        await _started(engine, flow, 0, max(count // 10, 1))
        gc.collect()
        before = size()
        waves = range(count, 2 * count, _WAVE)
        for number in progress.each(waves, "waiting: memory", len(waves)):
            await _started(engine, flow, number, min(_WAVE, 2 * count - number))
        gc.collect()
        return (size() - before) / count


# --- in turn -------------------------------------------------------------------------------------------------------


class Steps:
    """A listener that tells when a run has taken its next step."""

    def __init__(self) -> None:
        self._awaited = ""
        self._taken = asyncio.Event()

    def __call__(self, state: State, notice: Notice) -> None:
        """Hear of a fact."""
        if state.run.run_id == self._awaited and isinstance(getattr(notice, "event", None), Transitioned):
            self._taken.set()

    async def after_signal(self, engine: Engine, run: str) -> float:
        """Seconds from a signal to the step it leads to."""
        self._awaited = run
        self._taken.clear()
        began = time.perf_counter()
        await engine.signal(run, "go")
        await self._taken.wait()
        return time.perf_counter() - began


async def _in_turn(place: Path, plan: Plan, progress: Progress) -> list[Figure]:
    """What depends on how many wait, measured in engines with few and with many by turns."""
    flow, steps = _flow(), [Steps() for _ in plan.among]
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(
                Engine(place / f"among-{count}", workflows=[flow], listeners=[listener])
            )
            for count, listener in zip(plan.among, steps, strict=True)
        ]  # fmt: skip
        for engine, count in zip(engines, plan.among, strict=True):
            await _started(engine, flow, 0, count)
        waking: list[list[float]] = [[] for _ in engines]
        others: list[list[float]] = [[] for _ in engines]
        for turn in progress.each(range(plan.turns), "waiting: waking", plan.turns):
            for which, (engine, listener, count) in enumerate(zip(engines, steps, plan.among, strict=True)):
                others[which].append(await _another(engine) * 1e6)
                waking[which].append(await listener.after_signal(engine, f"run-{turn % count}") * 1e3)
            await _parked()
    figures = [await _processor(place, plan)]
    for count, seen in zip(plan.among, waking, strict=True):
        target = Target(1.5, "most") if count == plan.among[-1] else None
        figures.append(
            Figure(
                "waiting", f"to wake one among {count:,}", "ms", spread(seen), spread(waking[0]), ratio(seen, waking[0]), target
            )
        )  # fmt: skip
    name = f"a step of another run among {plan.among[-1]:,}"
    last, first = others[-1], others[0]
    figures.append(Figure("waiting", name, "us", spread(last), spread(first), ratio(last, first), Target(1.25, "most")))
    return figures


async def _another(engine: Engine) -> float:
    """Seconds a step takes of a run that does nothing but steps."""
    began = time.perf_counter()
    await (await engine.start(counting(_STEPS), {"n": 0, "note": ""})).wait()
    return (time.perf_counter() - began) / _STEPS


async def _processor(place: Path, plan: Plan) -> Figure:
    """The share of a processor, in percent, that an engine uses whose runs all wait: of many, beside few."""
    shares = [await _share(place / f"idle-{count}", count, plan.seconds) for count in (plan.among[-1], plan.among[0])]
    name = f"processor while {plan.among[-1]:,} wait"
    return Figure("waiting", name, "%", once(shares[0]), once(shares[1]), target=Target(1.0, "most"))


async def _share(store: Path, count: int, seconds: float) -> float:
    flow = _flow()
    async with Engine(store, workflows=[flow]) as engine:
        await _started(engine, flow, 0, count)
        gc.collect()
        used, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        return 100 * (time.process_time() - used) / (time.perf_counter() - began)
