"""Where a durable step's microseconds go: each stage of a lone run's step, timed in place."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eventflow.log.lmdb.environment as lmdb_environment
import eventflow.log.lmdb.files as lmdb_files
import eventflow.log.lmdb.writing as lmdb_writing
import eventflow.run.journal as run_journal
from benchmarks.figures import Figure, Size, Spread, spread
from benchmarks.progress import Progress
from benchmarks.report import Report, day, number
from benchmarks.workloads import Laps, counting
from eventflow import Engine, Workflow
from eventflow.workflow.schema import Schema

ABOUT = """
One run takes async steps one after the other, as in *append: alone*, once as it is and once with a clock around each stage,
which counts what a stage takes without the stages inside it. *all of it* is the step without clocks; the clocks add what
the stages' sum is above it. Beside LMDB the same run on the log in memory, where nothing is written and the same code finds
its caches warm: what a stage takes longer in the first column than in the second is what waking up after each sync costs.
The rest is the driver, the journal, the event loop, and what has no clock.
"""
UNITS = "us"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many steps are timed."""

    steps: int


PLANS: dict[Size, Plan] = {"smoke": Plan(60), "default": Plan(4_000), "full": Plan(40_000)}

# stage -> where its function is looked up, and by which name
STAGES: dict[str, tuple[Any, str]] = {
    "change: validate, dump, resolve": (Schema, "change"),
    "decide: guards and machine": (Workflow, "decide"),
    "pack: CBOR, zstd": (run_journal, "pack"),
    "admit: check, seal, digest": (lmdb_writing, "admit"),
    "rows: log, index, head": (lmdb_writing.Batch, "apply"),
    "transaction: begin": (lmdb_environment.Writing, "__enter__"),
    "commit: LMDB and the disk": (lmdb_environment.Writing, "__exit__"),
    "gate: take": (lmdb_files.Gate, "__enter__"),
    "gate: let go": (lmdb_files.Gate, "__exit__"),
    "mark": (lmdb_files.HighWater, "write"),
    "evolve": (run_journal, "evolve"),
}


class Clocks:
    """Clocks around functions; each counts its own time, without that of those that are called inside."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in STAGES}
        self._inside: list[float] = []

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock."""
        kept, inside, clock = self.seconds[name], self._inside, time.perf_counter

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            inside.append(0.0)
            began = clock()
            try:
                return function(*args, **kwargs)
            finally:
                took = clock() - began
                kept.append(took - inside.pop())
                if inside:
                    inside[-1] += took

        return timed


@contextlib.contextmanager
def clocked(clocks: Clocks) -> Iterator[None]:
    """Put the clocks in place for as long as the block lasts."""
    held = {name: vars(owner)[attribute] for name, (owner, attribute) in STAGES.items()}
    for name, (owner, attribute) in STAGES.items():
        setattr(owner, attribute, clocks.around(name, held[name]))
    try:
        yield
    finally:
        for name, (owner, attribute) in STAGES.items():
            setattr(owner, attribute, held[name])


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """A line a stage, the slowest first; LMDB as the value, memory as the baseline."""
    steps = PLANS[size].steps
    stores: list[Path | str] = [place / "plain", place / "clocked", "memory"]
    found: dict[str, tuple[Spread, dict[str, list[float]]]] = {}
    for store in progress.each(stores, "stages", len(stores)):
        clocks, laps = Clocks(), Laps()
        with contextlib.nullcontext() if store == stores[0] else clocked(clocks):
            asyncio.run(_run(store, steps, laps))
        found[str(store)] = spread([second * 1e6 for second in laps.seconds]), clocks.seconds
    whole, (disk, on_disk), (memory, in_memory) = (found[str(store)] for store in stores)
    figures = [_stage(name, on_disk[name], in_memory[name], steps) for name in STAGES]
    figures.sort(key=lambda figure: -figure.value.mean)
    sums = [sum(sum(one) for one in side.values()) / steps * 1e6 for side in (on_disk, in_memory)]
    rest = Figure(
        "stages", "the rest", UNITS, _level(max(disk.mean - sums[0], 0.0)), _level(max(memory.mean - sums[1], 0.0)),
        note=f"{disk.mean:.0f} us a step with clocks",
    )  # fmt: skip
    return [Figure("stages", "all of it", UNITS, whole[0], note="without clocks"), *figures, rest]


def section(report: Report) -> str:
    """Markdown of what one run has found about stages: docs/performance.md has it."""
    figures = [figure for figure in report.figures if figure.question == "stages"]
    rows = [
        f"| {figure.name} | {number(figure.value.mean)} | {number(figure.baseline.mean) if figure.baseline else ''} |"
        for figure in figures
    ]
    return "\n".join([
        f"By `{report.command}`, {day(report.began)}, on:", "",
        *(f"- {name}: {value}" for name, value in report.environment.items()), "",
        "| stage | us a step, on LMDB | us a step, in memory |", "|---|---|---|", *rows,
    ])  # fmt: skip


def _stage(name: str, disk: list[float], memory: list[float], steps: int) -> Figure:
    values = [second * 1e6 for second in disk[:steps]] or [0.0]
    beside = spread([second * 1e6 for second in memory[:steps]]) if memory else None
    often = len(disk) / steps
    return Figure(
        "stages", name, UNITS, spread(values), beside, note="" if often < 1.5 else f"{often:.1f} times a step"
    )


def _level(value: float) -> Spread:
    return Spread(value, value, value, 1)


async def _run(store: Path | str, steps: int, laps: Laps) -> None:
    flow = counting(steps, laps=laps)
    async with Engine(store, workflows=[flow]) as engine:
        run = await engine.start(flow, {"n": 0, "note": ""}, run_id="stages")
        await run.result()
