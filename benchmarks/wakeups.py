"""How late a run is woken: by a time that has come, by a signal, among few and among many that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Size, Target, spread
from benchmarks.progress import Progress
from eventflow import Engine, Sleep, Wait, Workflow
from eventflow.clock import NS
from eventflow.event import WaitClosed, WaitOpened
from eventflow.log import Post
from eventflow.run import SIGNAL, Notice, message
from eventflow.state import State

ABOUT = """
Runs on LMDB stand still, and have left memory. *timer*: a few of them sleep for a second; the delay is from the moment
their time was over to that of the event that says so, as recorded; the others sleep for a day. *signal*: the delay from a
signal by the engine that has the run to that event's being durable. *signal from elsewhere*: the same message, put into
the run's inbox as another process does it; the engine looks at the store's last transaction every 50 ms. Each among few
that wait and among many.
"""
DAY = 86_400.0
SLEEP = 1.0  # seconds; longer than a run stays in memory while it stands still
_WAVE = 500  # runs started together


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: how many wait, wakings of each kind."""

    among: tuple[int, int]
    wakings: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan((1, 20), 3),
    "default": Plan((1, 10_000), 200),
    "full": Plan((1, 100_000), 1_000),
}


class Woken:
    """A listener that keeps by how many ns each timer's event was late, and tells when a run's wait was closed."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._until: dict[bytes, int] = {}
        self._closed: dict[str, asyncio.Event] = {}

    def __call__(self, state: State, notice: Notice) -> None:
        """Hear of a fact."""
        event = getattr(notice, "event", None)
        if isinstance(event, WaitOpened) and event.kind == "timer":
            self._until[state.run.run_key] = event.until
        elif isinstance(event, WaitClosed):
            until = self._until.pop(state.run.run_key, 0)
            if until:
                self.late.append((state.time - until) / NS * 1e3)
            if state.run.run_id in self._closed:
                self._closed[state.run.run_id].set()

    def closing(self, run: str) -> asyncio.Event:
        """Set once that run's wait is closed."""
        self._closed[run] = asyncio.Event()
        return self._closed[run]


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Timers, signals and signals from elsewhere, among few and among many."""
    plan = PLANS[size]
    found: dict[str, list[Figure]] = {}
    for among in plan.among:
        seen = asyncio.run(_among(place / f"among-{among}", among, plan, progress))
        for what, delays in seen.items():
            first = found.get(what, [None])[0]
            limit = Target(LIMITS[what], "most") if what in LIMITS else None
            beside = first.value if first else None
            times = f"{spread(delays).median / beside.median:.2f}x that among {plan.among[0]}" if beside else ""
            found.setdefault(what, []).append(
                Figure("wakeups", f"{what}, among {among:,}", "ms", spread(delays), target=limit, note=times)
            )
    return [figure for figures in found.values() for figure in figures]


# Nobody asked for these: what a person would not call late. A signal from elsewhere waits for a look, of 50 ms at most.
LIMITS = {"timer": 50.0, "signal": 50.0, "signal from elsewhere": 100.0}


def _flows() -> Iterator[Workflow]:
    def nothing(_: dict[str, object]) -> None:
        return None

    for name, pause in (("asleep", Sleep(seconds=DAY)), ("timer", Sleep(seconds=SLEEP)), ("waits", Wait(signal="go"))):
        flow = Workflow(name).add_node("pause", pause).add_node("end", nothing)
        yield flow.add_edge("pause", "end").set_start("pause")


async def _among(store: Path, among: int, plan: Plan, progress: Progress) -> dict[str, list[float]]:
    """Delays in ms by what woke, in an engine where so many others stand still."""
    asleep, timer, waits = _flows()
    woken = Woken()
    async with Engine(store, workflows=[asleep, timer, waits], listeners=[woken]) as engine:
        for first in progress.each(range(0, among, _WAVE), f"wakeups: {among:,} runs", -(-among // _WAVE)):
            await engine.start_many(asleep, [{}] * min(_WAVE, among - first))
            await _parked()
        found = {name: await _signals(engine, waits, woken, plan, name) for name in ("signal", "signal from elsewhere")}
        for number in range(
            plan.wakings
        ):  # each by itself: what many at one moment do to one another is another question
            await engine.start(timer, {}, run_id=f"timer-{number}")
            await asyncio.sleep(0.01)
        while len(woken.late) < plan.wakings:  # noqa: ASYNC110 - the listener is called by the engine
            await asyncio.sleep(0.05)
        return {"timer": woken.late, **found}


async def _parked() -> None:
    """Return when no task drives a run any more."""
    while driving := [task for task in asyncio.all_tasks() if task.get_name().startswith("run ")]:
        await asyncio.wait(driving)


async def _signals(engine: Engine, flow: Workflow, woken: Woken, plan: Plan, how: str) -> list[float]:
    """Delays in ms of signals, one after the other."""
    prefix = how.replace(" ", "-")
    names = [f"{prefix}-{number}" for number in range(plan.wakings)]
    await engine.start_many(flow, {name: {} for name in names})
    await _parked()
    found: list[float] = []
    for name in names:
        closed = woken.closing(name)
        run = engine.get(name)
        began = time.perf_counter()
        if how == "signal":
            await engine.signal(name, "go")
        else:
            head = engine.log.head(run.id)
            assert head is not None
            engine.log.write([Post(head.run_key, message(SIGNAL, name="go", payload=None, actor="elsewhere"))])
        await closed.wait()
        found.append((time.perf_counter() - began) * 1e3)
    return found
