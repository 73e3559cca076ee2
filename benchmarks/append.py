"""What a durable step costs: alone, among a thousand runs, and in memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare_commit import BareCommits, recorded
from benchmarks.bare_writer import run_all
from benchmarks.figures import Figure, Size, Target, blocks, ratio, spread
from benchmarks.progress import Progress
from benchmarks.workloads import NOTE, Laps, counting
from eventflow import Engine

ABOUT = """
*alone*: one run takes async steps one after the other on LMDB, each durable before the next begins; a step is all from
the return of one node's function to the call of the next: validation, change, guards, event, digest, commit, fold,
default checkpoints. Beside it, a bare LMDB commit of the same keys and bytes, read from a store recorded before. Both
take turns of a few steps on the same disk; the ratio is the median over the turns. The mean counts the steps that make
a checkpoint in full.

*concurrent*: many runs in one engine take ten async steps each, from the moment all have started. Beside it, a bare
group-commit writer (`benchmarks/bare_writer.py`) that encodes, chains and commits the same events and
does nothing else: no machine, no guards, no validation, no state, no leases, no recovery. The second row has the same
writer tuned as eventflow's own is, so that it answers all callers of a commit at once: what is left between the two is
what eventflow does beyond writing.

*memory*: one run on the log in memory: what eventflow costs without a disk.
"""
UNITS = "us"
_TURN = 20  # steps in one turn: short, so that both meet the same moods of the disk
_FIRST_STEP = 1  # recorded rows before the first step: those of the run's start


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    alone: int
    runs: int
    rounds: int
    memory: int
    steps: int = 10


PLANS: dict[Size, Plan] = {
    "smoke": Plan(alone=60, runs=20, rounds=1, memory=100, steps=3),
    "default": Plan(alone=4_000, runs=1_000, rounds=7, memory=20_000),
    "full": Plan(alone=40_000, runs=1_000, rounds=31, memory=200_000),
}


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """The figures of all three."""
    plan = PLANS[size]
    return [*alone(plan, place, progress), *concurrent(plan, place, progress), memory(plan)]


def alone(plan: Plan, place: Path, progress: Progress) -> list[Figure]:
    """One run on LMDB beside bare commits of its rows."""
    recording = place / "recording"
    asyncio.run(_one_run(recording, plan.alone, None))
    bare = BareCommits(place / "bare", recorded(recording, "alone")[_FIRST_STEP:])
    bar = progress.each(range(plan.alone // _TURN), "append: alone", plan.alone // _TURN)

    def rest(taken: int) -> None:
        if taken % _TURN == 0 and len(bare.seconds) < taken:
            bare.commit(_TURN)
            next(bar, None)

    laps = Laps(rest)
    asyncio.run(_one_run(place / "alone", plan.alone, laps))
    for _ in bar:  # what is left, so that the bar goes
        pass
    bare.close()
    ours, theirs = ([second * 1e6 for second in one] for one in (laps.seconds[: len(bare.seconds)], bare.seconds))
    turns = [[spread(turn) for turn in blocks(one, _TURN)] for one in (ours, theirs)]
    medians, means = ([[getattr(one, kind) for one in side] for side in turns] for kind in ("median", "mean"))
    value, baseline = spread(ours), spread(theirs)
    return [
        Figure("append", "alone: a step", UNITS, value, baseline, ratio(*medians), Target(1.25, "most")),
        Figure(
            "append", "alone: mean of a turn", UNITS, spread(means[0]), spread(means[1]), ratio(*means),
            note="checkpoints included",
        ),
    ]  # fmt: skip


async def _one_run(store: Path | str, steps: int, laps: Laps | None) -> None:
    flow = counting(steps + _TURN, laps=laps)
    async with Engine(store, workflows=[flow]) as engine:
        run = await engine.start(flow, {"n": 0, "note": ""}, run_id="alone")
        await run.result()


def concurrent(plan: Plan, place: Path, progress: Progress) -> list[Figure]:
    """Many runs at once beside the bare group-commit writer, as it stands and tuned."""
    events = plan.runs * plan.steps
    ours: list[float] = []
    plain: list[float] = []
    tuned: list[float] = []
    for turn in progress.each(range(plan.rounds), "append: concurrent", plan.rounds):
        ours.append(events / asyncio.run(_many_runs(place / f"many-{turn}", plan)))
        for at_once, side in ((False, plain), (True, tuned)):
            bare = place / f"bare-{turn}-{at_once}"
            side.append(events / asyncio.run(run_all(bare, plan.runs, plan.steps, NOTE, at_once=at_once)))
    name = f"concurrent: {plan.runs:,} runs x {plan.steps} steps"
    return [
        Figure("append", name, "steps/s", spread(ours), spread(plain), ratio(ours, plain), Target(0.45, "least")),
        Figure(
            "append", f"{name}, tuned", "steps/s", spread(ours), spread(tuned), ratio(ours, tuned),
            note="the bare writer tuned",
        ),
    ]  # fmt: skip


async def _many_runs(store: Path, plan: Plan) -> float:
    gate = asyncio.Event()
    flow = counting(
        plan.steps - 1, gate=gate
    )  # the terminal node is a step too: as many events as the bare writer appends
    async with Engine(store, workflows=[flow]) as engine:
        runs = await engine.start_many(flow, [{"n": 0, "note": ""}] * plan.runs)
        began = time.perf_counter()
        gate.set()
        await asyncio.gather(*(run.wait() for run in runs))
        return time.perf_counter() - began


def memory(plan: Plan) -> Figure:
    """One run in memory."""
    laps = Laps()
    asyncio.run(_one_run("memory", plan.memory, laps))
    means = [spread(turn).mean * 1e6 for turn in blocks(laps.seconds, _TURN)]
    note = f"mean {spread(laps.seconds).mean * 1e6:.0f} us, checkpoints included"
    return Figure("append", "memory: a step", UNITS, spread(means), target=Target(40, "most"), note=note)
