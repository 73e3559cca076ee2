"""One simulation: processes come and go on a store, callers send messages, and in the end everything must hold.

The real engine runs in each process, on one thread and one event loop; all that is left to chance is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from eventflow.checkpoint import CheckpointPolicy
from eventflow.clock import ManualClock
from eventflow.engine import Engine
from eventflow.errors import EventflowError
from eventflow.log import MemoryLog
from eventflow.recovery import recover
from eventflow.state import ENDED, State, open_waits
from eventflow.testing.simulation.clock import SimulatedClock
from eventflow.testing.simulation.flows import ANSWER, SIGNAL, Data, World, drawn_flow
from eventflow.testing.simulation.judging import problems_of
from eventflow.testing.simulation.loop import SimulatedLoop, Stuck
from eventflow.testing.simulation.storage import NO_FAULTS, Died, Disk, Odds, Plant, ProcessLog, as_log
from eventflow.workflow import Workflow

TROUBLE = 8.0  # seconds of simulated time in which things go wrong; most runs are over by then, or need a few more
PATIENCE = 400.0  # seconds after which a run that has not ended is taken for one that never will
_RUNS = (1, 3)  # runs at once, from and to
_LIFE = 4.0  # seconds after which a process ends by itself, at the latest
_POLICY = CheckpointPolicy(every=4, keep=3)  # so many snapshots that recovery starts from them

_alive: ContextVar[Callable[[], bool]] = ContextVar("alive", default=lambda: True)
_life: ContextVar[dict[asyncio.Task[Any], None] | None] = ContextVar("life", default=None)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulation came to: `problems` is empty if everything held; `digest` names the whole log."""

    seed: int
    digest: str
    problems: tuple[str, ...]
    events: int
    processes: int
    seconds: float  # of simulated time


def simulate(seed: int, *, plant: Plant = "", odds: Odds | None = None) -> Simulated:
    """Run one simulation; the same seed gives the same events, byte for byte."""
    loop = SimulatedLoop()
    loop.set_exception_handler(lambda _loop, _context: None)  # what dies with a process is nobody's to hear of
    loop.set_task_factory(_tracked)  # type: ignore[arg-type] # its stub is of a later Python
    story = _Story(seed, plant, odds or Odds())
    try:
        loop.run_until_complete(story.tell())
    except Stuck as error:
        story.problems.append(str(error))
    finally:
        seconds = loop.time()
        loop.close()
    log = story.disk.log
    digest = hashlib.sha256(b"".join(one.data for one in log.feed(0, log.position()))).hexdigest()
    found = (*story.problems, *problems_of(log, story.disk, story.world))
    return Simulated(seed, digest, found, log.position(), story.processes, seconds)


def _tracked(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **options)
    held = _life.get()
    if held is not None:
        held[task] = None
    return task


@dataclass
class _Story:
    seed: int
    plant: Plant
    odds: Odds
    problems: list[str] = field(default_factory=list)
    processes: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable on purpose
        self.disk = Disk(lambda: MemoryLog(clock=ManualClock(seed=self.seed)), self.plant)
        self.world = World(lambda: self.disk.log.position(), _alive)  # noqa: PLW0108 - the disk may get another log
        count = self._random.randint(*_RUNS)
        self._flows: dict[str, Workflow] = {
            f"run-{number}": drawn_flow(self._random.randrange(2**32), self.world) for number in range(count)
        }
        self._sorry = {name: self._random.randint(0, 2) for name in self._flows}  # failures that somebody resumes from

    # --- the whole

    async def tell(self) -> None:
        loop = asyncio.get_running_loop()
        slots = [loop.create_task(self._slot()) for _ in range(2)]
        callers = loop.create_task(self._callers())
        while not self._over():
            if loop.time() > TROUBLE + PATIENCE:
                self.problems += [f"run {name} has not ended: {one}" for name, one in self._open().items()]
                break
            await asyncio.sleep(0.1)
        for task in (*slots, callers):
            task.cancel()
        await asyncio.wait({*slots, callers})
        for task in (*slots, callers):
            if not task.cancelled() and (error := task.exception()) is not None:
                self.problems.append(f"{type(error).__name__}: {error}")

    def _open(self) -> dict[str, str]:
        log = self.disk.log
        found: dict[str, str] = {}
        for name in self._flows:
            head = log.head(name)
            if head is None or (head.status not in ENDED and head.status != "parked"):
                found[name] = "not there" if head is None else f"{head.status} {head.waiting_for}".strip()
        return found

    def _over(self) -> bool:
        return not self._open()

    @property
    def _troubled(self) -> bool:
        return asyncio.get_running_loop().time() < TROUBLE

    # --- processes

    async def _slot(self) -> None:
        """One process after the other, until everything is over."""
        while not self._over():
            await self._one_process()
            await asyncio.sleep(self._random.uniform(0.01, 0.5))

    async def _one_process(self) -> None:
        self.processes += 1
        ended = asyncio.Event()
        log = ProcessLog(
            self.disk, self._random.randrange(2**32), self.odds if self._troubled else NO_FAULTS, ended.set
        )
        tasks: dict[asyncio.Task[Any], None] = {}
        loop = asyncio.get_running_loop()
        task = _born(self._live(log), tasks, log)
        ends = self._random.uniform(0.05, _LIFE) if self._troubled else None
        timer = loop.call_later(ends, log.end) if ends is not None and self._random.random() < 0.7 else None
        frozen = loop.call_later(self._random.uniform(0.1, 2), log.forsake) if self._troubled else None
        gone = loop.create_task(ended.wait())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (timer, frozen):
                if one is not None:
                    one.cancel()
            gone.cancel()
            log.end()
            await _cut(tasks)

    async def _live(self, log: ProcessLog) -> None:
        source = random.Random(self._random.randrange(2**32))  # noqa: S311 - repeatable on purpose
        clock = SimulatedClock(source.randrange(2**32))
        clock.error = source.choice([0.0, 0.0, -2.0, 2.0])
        engine = Engine(
            as_log(log), workflows=self._flows.values(), clock=clock, checkpoints=_POLICY, grace=0.1, crashes=None
        )
        with suppress(EventflowError, Died):
            async with engine:
                stops = asyncio.get_running_loop().time() + source.uniform(0.5, 2 * _LIFE)
                while not self._over() and asyncio.get_running_loop().time() < stops:
                    await self._look(engine, source)
                    await asyncio.sleep(source.uniform(0.05, 0.5))

    async def _look(self, engine: Engine, source: random.Random) -> None:
        """What a worker does: start what is not there, take up what nobody drives, resume what stands still."""
        for name, flow in self._flows.items():
            head = engine.log.head(name)
            with suppress(EventflowError):
                if head is None:
                    await engine.start(flow, Data(trail=[], number=0), run_id=name)
                elif head.status == "paused" and source.random() < 0.5:
                    await engine.resume(name, yes=True)
                elif head.status == "failed" and self._sorry[name] > 0:
                    self._sorry[name] -= 1
                    await engine.resume(name, yes=True)
        with suppress(EventflowError):
            await engine.pick_up()

    # --- callers

    async def _callers(self) -> None:
        """Messages from outside: in time, late, twice, or never, if the caller gives up."""
        source = random.Random(self._random.randrange(2**32))  # noqa: S311 - repeatable on purpose
        log = ProcessLog(self.disk, source.randrange(2**32), Odds(0.05, 0.05, 0, 0), lambda: None)
        async with Engine(as_log(log), clock=SimulatedClock(source.randrange(2**32))) as engine:
            while True:
                await asyncio.sleep(source.uniform(0.05, 1.0))
                for name in self._flows:
                    if self.disk.log.head(name) is not None:
                        with suppress(EventflowError):
                            await self._call(engine, name, source)

    async def _call(self, engine: Engine, name: str, source: random.Random) -> None:
        state = recover(engine.log, engine.log.head(name)).state  # type: ignore[arg-type] # it was there a moment ago
        for where, wait in open_waits(state):
            if wait["kind"] == "signal" and (not self._troubled or source.random() < 0.4):
                await engine.signal(name, SIGNAL, ANSWER)
            elif wait["kind"] == "unknown":
                await self._settle(engine, state, where, wait)
        if self._troubled and source.random() < 0.03:
            await (engine.cancel(name) if source.random() < 0.2 else engine.pause(name))

    async def _settle(self, engine: Engine, state: State, where: str, wait: Any) -> None:
        """Say what became of a call, as somebody does who has looked."""
        key = wait["spec"]["key"]
        entry = next(
            one for identity, one in state.effects.items()
            if one["status"] == "started" and identity.endswith(f"{wait['name']}#{key}") and identity.startswith(where)
        )  # fmt: skip
        done = self.world.done.get(entry["idempotency_key"])
        await engine.settle(state.run.run_id, wait["name"], key, output=done, happened=done is not None, branch=where)


def _born(work: Coroutine[Any, Any, None], tasks: dict[asyncio.Task[Any], None], log: ProcessLog) -> asyncio.Task[None]:
    """A task that belongs to a process, with all that come of it."""
    before, living = _life.set(tasks), _alive.set(lambda: not log.dead)
    try:
        return asyncio.get_running_loop().create_task(work)
    finally:
        _life.reset(before)
        _alive.reset(living)


async def _cut(tasks: dict[asyncio.Task[Any], None]) -> None:
    """End what a process left running; what does not obey waits for an answer that never comes."""
    for _ in range(5):
        left = [one for one in tasks if not one.done()]
        if not left:
            return
        for one in left:
            one.cancel()
        await asyncio.sleep(0)
