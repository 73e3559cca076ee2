"""What a step costs beside the user's own code: without log, in memory, durable, with each checkpoint policy."""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.apart import written
from benchmarks.figures import Figure, Size, Target, once, ratio, spread
from benchmarks.progress import Progress
from benchmarks.workloads import NOTE, Laps, writing
from eventflow import NO_CHECKPOINTS, CheckpointPolicy, Engine
from eventflow.log import LmdbLog

ABOUT = """
One run takes steps one after the other; in each it puts 1,024 characters of base64 text into its state, which holds
ballast of a given size beside it. A step is all from the return of one node's function to the call of the next, so the
node's own time is not in it. *without log* is a plain loop that calls the same functions and puts what they return into a
dict; *in memory* has eventflow's log in memory; *durable* has it on LMDB, with each checkpoint policy. All take turns of
one run each, and the ratio is the median over the turns. A step's time is the mean over a turn, so that those which make a
checkpoint count in full.

*checkpoints* compares the default policy with none, for states of several sizes, in runs that are long enough for
several snapshots. *kept* is what a step adds to the store, in bytes of the tables' pages, and *written* the bytes that
went to the disk for each byte of text, as Linux counts them (`write_bytes`). *syncs* are counted by `strace` in a process
of its own, where there is one: calls of fsync, fdatasync and msync a step, beside those of a run half as long. *node time* is
the same durable step of a node that sleeps; the share is that of the step in both together.
"""
PAYLOAD = 1_024  # characters a step writes
SLOT = 100  # characters of a slot of ballast: many small values, the dearest way for a state to be large
_SYNCS = "fsync,fdatasync,msync,sync_file_range"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: steps of a turn, turns, bytes of states, ms of nodes, turns of states, steps under strace."""

    steps: int
    rounds: int
    states: tuple[int, ...]
    nodes: tuple[int, ...]
    pairs: int
    traced: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(30, 1, (1_000, 100_000), (0, 1), 1, 10),
    "default": Plan(200, 11, (1_000, 10_000, 100_000, 1_000_000, 10_000_000), (0, 1, 10, 100), 15, 100),
    "full": Plan(400, 51, (1_000, 10_000, 100_000, 1_000_000, 10_000_000), (0, 1, 10, 100), 51, 400),
}
POLICIES: dict[str, CheckpointPolicy] = {
    "no checkpoints": NO_CHECKPOINTS,
    "default": CheckpointPolicy(),
    "every=100": CheckpointPolicy(auto=False, every=100),
    "every=10": CheckpointPolicy(auto=False, every=10),
    "after_node": CheckpointPolicy(auto=False, after_node=True),
    'recovery="50 ms"': CheckpointPolicy(recovery="50 ms"),
    "default, uncompressed": CheckpointPolicy(compress=False),
}


@dataclass(slots=True)
class Seen:
    """What the turns of one way to run have shown: seconds a step, bytes kept and written for all steps."""

    seconds: list[float] = field(default_factory=list)
    steps: int = 0
    kept: int = 0
    written: int = 0

    @property
    def micros(self) -> list[float]:
        """Microseconds a step, a turn each."""
        return [one * 1e6 for one in self.seconds]


Way = Callable[[Path, int], tuple[float, int]]  # a place and steps -> seconds of all of them, bytes kept


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """All ways to run by turns; then states, nodes, and what reaches the disk."""
    plan = PLANS[size]
    ways: dict[str, Way] = {"without log": _plain, "in memory": _way("memory", POLICIES["default"])}
    ways |= {f"durable, {name}": _way("lmdb", policy) for name, policy in POLICIES.items()}
    if (options := encryption(place)) is not None:
        ways["durable, default, encrypted"] = _way("lmdb", POLICIES["default"], **options)
    seen = in_turn(ways, plan.steps, rounds=plan.rounds, place=place, progress=progress, what="overhead")
    return [
        *_ways(seen),
        *_states(plan, place, progress),
        *_nodes(plan, place, progress),
        *_syncs(plan, place, progress),
    ]


def encryption(place: Path) -> Mapping[str, Any] | None:
    """Options of an engine that encrypts, None where this eventflow can't."""
    try:
        from eventflow.cipher import Keyring, new_master  # noqa: PLC0415 - without the library the rest is measured
    except ImportError:
        return None
    new_master(place / "master.key")
    return {"keys": Keyring.from_file(place / "master.key")}


# --- ways to run ---------------------------------------------------------------------------------------------------


def _plain(_: Path, steps: int) -> tuple[float, int]:
    """A loop that calls the node and the guard of the same workflow, and keeps what they say."""
    laps = Laps()
    flow = writing(steps, PAYLOAD, laps=laps)
    step, again = flow.nodes["step"].call, flow.edges[0].when
    assert again is not None

    async def run() -> None:
        state: dict[str, Any] = {"n": 0, "text": "", "ballast": {}}
        while True:
            state = {**state, **await step(state)}
            if not again(state):
                return

    asyncio.run(run())
    return sum(laps.seconds) / len(laps.seconds) * steps, 0


def _way(log: str, policy: CheckpointPolicy, *, ballast: int = 0, node: float = 0.0, **options: Any) -> Way:
    """One run through an engine with a policy."""

    def run(place: Path, steps: int) -> tuple[float, int]:
        laps = Laps()
        where = "memory" if log == "memory" else place / "store"
        asyncio.run(_driven(where, steps, laps, policy, ballast=ballast, node=node, **options))
        kept = 0 if log == "memory" else _kept(place / "store")
        shutil.rmtree(place / "store", ignore_errors=True)
        return sum(laps.seconds) / len(laps.seconds) * steps, kept

    return run


async def _driven(
    store: Path | str, steps: int, laps: Laps, policy: CheckpointPolicy, *, ballast: int = 0, node: float = 0.0,
    **options: Any,
) -> None:  # fmt: skip
    flow = writing(steps, PAYLOAD, laps=laps, node=node)
    filling = {f"{number:06d}": f"{NOTE} {number}"[-SLOT:] for number in range(ballast // SLOT)}
    async with Engine(store, workflows=[flow], checkpoints=policy, **options) as engine:
        run = await engine.start(flow, {"n": 0, "text": "", "ballast": filling}, run_id="run")
        await run.wait()


def _kept(store: Path) -> int:
    log = LmdbLog(store, readonly=True)
    try:
        return sum(log.usage().bytes.values())
    finally:
        log.close()


def in_turn(
    ways: Mapping[str, Way], steps: int, *, rounds: int, place: Path, progress: Progress, what: str
) -> dict[str, Seen]:  # fmt: skip
    """Each way once a round, forwards and backwards by turns, so that none has always the same one before it."""
    seen = {name: Seen() for name in ways}
    order = [list(ways), list(ways)[::-1]]
    turns = [name for number in range(rounds) for name in order[number % 2]]
    for name in progress.each(turns, what, len(turns)):
        own = place / "turn"
        own.mkdir(exist_ok=True)
        gc.collect()
        before = written()
        seconds, kept = ways[name](own, steps)
        one = seen[name]
        one.seconds.append(seconds / steps)
        one.steps += steps
        one.kept += kept
        one.written += written() - before
    return seen


# --- figures -------------------------------------------------------------------------------------------------------


def _ways(seen: Mapping[str, Seen]) -> Iterator[Figure]:
    plain, off = seen["without log"], seen["durable, no checkpoints"]
    yield Figure("overhead", "without log: a step", "us", spread(plain.micros))
    for name, one in seen.items():
        if one is plain:
            continue
        beside = off if name.startswith("durable") and one is not off else plain
        note = f"beside {'no checkpoints' if beside is off else 'without log'}"
        yield Figure(
            "overhead", f"{name}: a step", "us", spread(one.micros), spread(beside.micros), ratio(one.micros, beside.micros),
            note=note,
        )  # fmt: skip
    for name, one in seen.items():
        if one.kept:
            yield Figure("overhead", f"{name}: kept", "B a step", once(one.kept / one.steps), note=_disk(one))


def _disk(one: Seen) -> str:
    if not one.written:
        return "bytes written: unknown, or the store is in memory"
    return (
        f"{one.written / one.steps:,.0f} B a step written, {one.written / one.steps / PAYLOAD:.1f} for a byte of text"
    )


def _states(plan: Plan, place: Path, progress: Progress) -> Iterator[Figure]:
    """The default policy beside none, for states of several sizes."""
    for size in plan.states:
        ways = {name: _way("lmdb", POLICIES[name], ballast=size) for name in ("no checkpoints", "default")}
        steps = max(plan.steps, min(size // 3_500, 3_000)) if plan.rounds > 1 else plan.steps
        rounds = plan.pairs if size <= 100_000 else max(plan.pairs // 3, 1)
        seen = in_turn(
            ways, steps, rounds=rounds, place=place, progress=progress, what=f"overhead: a state of {bytes_of(size)}"
        )
        ours, theirs = seen["default"].micros, seen["no checkpoints"].micros
        yield Figure(
            "overhead", f"checkpoints: a step with {bytes_of(size)} of state", "us", spread(ours), spread(theirs),
            ratio(ours, theirs), Target(1.05, "most"), f"{steps:,} steps, default beside none",
        )  # fmt: skip


def bytes_of(size: int) -> str:
    """A size as people say it."""
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} KB"


def _nodes(plan: Plan, place: Path, progress: Progress) -> Iterator[Figure]:
    """A durable step of nodes that take their time."""
    for ms in plan.nodes:
        way = _way("lmdb", POLICIES["default"], node=ms / 1e3)
        steps = plan.steps if ms < 10 else max(plan.steps // ms, 5)
        seen = in_turn(
            {"node": way},
            steps,
            rounds=max(plan.rounds // 3, 1),
            place=place,
            progress=progress,
            what=f"overhead: nodes of {ms} ms",
        )
        median = statistics.median(seen["node"].micros)
        note = f"{100 * median / (median + ms * 1e3):.2f} % of the time" if ms else ""
        yield Figure("overhead", f"node time {ms} ms: a step", "us", spread(seen["node"].micros), note=note)


# --- syncs ---------------------------------------------------------------------------------------------------------


def _syncs(plan: Plan, place: Path, progress: Progress) -> Iterator[Figure]:
    """Calls that wait for the disk, a step, under policies that write differently."""
    names = ("no checkpoints", "default", "every=10") if plan.rounds > 1 else ("default",)
    for name in progress.each(names, "overhead: syncs", len(names)):
        counts = [synced(place / "traced", name, steps) for steps in (plan.traced, 2 * plan.traced)]
        if None in counts:
            yield Figure("overhead", f"durable, {name}: syncs", "a step", once(0.0), note="unknown: no strace here")
            continue
        each = (int(counts[1] or 0) - int(counts[0] or 0)) / plan.traced
        yield Figure("overhead", f"durable, {name}: syncs", "a step", once(each))


def synced(place: Path, policy: str, steps: int) -> int | None:
    """How many calls a run of so many steps makes that wait for the disk; None where nothing can count them."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    place.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "benchmarks.overhead", str(place / "store"), policy, str(steps)]
    traced = [strace, "-f", "-qq", "-o", str(place / "calls"), "-e", f"trace={_SYNCS}", *program]
    done = subprocess.run(traced, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:  # tracing may be forbidden
        return None
    calls = re.findall(
        r"^\d+ +(?:fsync|fdatasync|msync|sync_file_range)\(", (place / "calls").read_text(), re.MULTILINE
    )
    shutil.rmtree(place)
    return len(calls)


if __name__ == "__main__":  # what is traced
    asyncio.run(_driven(Path(sys.argv[1]), int(sys.argv[3]), Laps(), POLICIES[sys.argv[2]]))
