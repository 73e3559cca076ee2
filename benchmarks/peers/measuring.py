"""The order of the turns, and figures from what they saw. Nothing here knows how any system works."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Figure, Size, Spread, Target, once, spread
from benchmarks.peers.environments import Installed, Skipped, cache, installed
from benchmarks.peers.systems import EVENTFLOW, PEERS, System
from benchmarks.peers.turns import Turn, TurnFailed, synced, turn
from benchmarks.peers.wire import ITEM, Job, Question
from benchmarks.progress import Progress

NAME = "peers"
SHARE = 0.04  # of eventflow's steps a second that a peer may make at most: a 25th


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: steps and their turns, steps that grow, turns of those and of runs at once, and so on.

    `long` is the number of steps of the one run that is only read.
    """

    steps: int
    turns: int
    growing: int
    long_turns: int
    runs: tuple[int, int]
    reads: int
    traced: int
    long: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(30, 1, 30, 1, (10, 3), 5, 10, 100),
    "default": Plan(1_000, 5, 1_000, 3, (200, 10), 100, 50, 10_000),
    "full": Plan(10_000, 7, 1_000, 5, (200, 10), 300, 200, 100_000),
}


@dataclass(slots=True)
class Seen:
    """What the turns of one system have shown."""

    steps: list[Turn] = field(default_factory=list)
    growing: list[Turn] = field(default_factory=list)
    concurrent: list[Turn] = field(default_factory=list)
    long: list[Turn] = field(default_factory=list)
    empty: int = 0  # bytes of a store with one step
    syncs: float | None = None


def measure(
    size: Size, place: Path, progress: Progress, *, peers: Sequence[System] = PEERS, home: Path | None = None
) -> list[Figure]:
    """Install what can be, take the turns, and say what was seen; what can't be measured has a line that says why."""
    plan = PLANS[size]
    systems, figures = _here(peers, home or cache(), progress)
    seen: dict[str, Seen] = {}
    for system, where in systems:
        seen[system.name] = Seen()
        _counted(system, where, seen[system.name], plan, place)
    turns = list(_turns(systems, plan, place))
    for system, where, job in progress.each(turns, "peers", len(turns)):
        try:
            getattr(seen[system.name], job.question).append(turn(system, where, job))
        except TurnFailed as failed:
            figures.append(_skipped(f"{system.name}, {job.question}", str(failed)))
    return [*_figures([system for system, _ in systems], seen, plan), *figures]


def _here(
    peers: Sequence[System], home: Path, progress: Progress
) -> tuple[list[tuple[System, Installed]], list[Figure]]:
    """Those that are or could be installed, eventflow first, and a line for each that could not."""
    systems: list[tuple[System, Installed]] = []
    figures: list[Figure] = []
    everybody = (EVENTFLOW, *peers)
    for system in progress.each(everybody, "peers: installing", len(everybody)):
        found = installed(system, home)
        if isinstance(found, Skipped):
            figures.append(_skipped(system.name, found.reason))
        else:
            systems.append((system, found))
    return systems, figures


def _skipped(name: str, reason: str) -> Figure:
    sys.stderr.write(f"peers: {name} is skipped: {reason}\n")
    return Figure(NAME, f"skipped: {name}", "", once(0.0), note=reason)


def _counted(system: System, where: Installed, seen: Seen, plan: Plan, place: Path) -> None:
    """What does not depend on time: bytes of a store with next to nothing in it, calls that wait for the disk."""
    try:
        if "growing" in system.asked:
            job = Job("growing", str(place / "one"), 1, way=system.way, server=where.server)
            seen.empty = turn(system, where, job).bytes
        if "syncs" in system.asked:
            few, more = (synced(system, where, place / "traced", plan.traced * times) for times in (1, 3))
            seen.syncs = None if few is None or more is None else (more - few) / (2 * plan.traced)
    except TurnFailed as failed:
        sys.stderr.write(f"peers: {system.name}: {failed}\n")


def _turns(
    systems: Sequence[tuple[System, Installed]], plan: Plan, place: Path
) -> Iterator[tuple[System, Installed, Job]]:
    """All jobs: each question in rounds, in each round every system, and in each round another first."""
    rounds: list[tuple[Question, int]] = [
        ("steps", plan.turns), ("growing", plan.long_turns), ("concurrent", plan.long_turns), ("long", 1),
    ]  # fmt: skip
    for question, times in rounds:
        asked = [(system, where) for system, where in systems if question in system.asked]
        for number in range(times):
            first = number % len(asked)
            for system, where in asked[first:] + asked[:first]:
                for way in system.ways if question == "concurrent" else (system.way,):
                    yield system, where, _job(question, place / "turn", plan, way, where)


def _job(question: Question, place: Path, plan: Plan, way: str, where: Installed) -> Job:
    runs, each = plan.runs
    if question == "concurrent":
        return Job(question, str(place), each, runs=runs, way=way, server=where.server)
    steps = {"steps": plan.steps, "growing": plan.growing, "long": plan.long}[question]
    return Job(question, str(place), steps, reads=plan.reads, way=way, server=where.server)


# --- figures -------------------------------------------------------------------------------------------------------


def _figures(systems: Sequence[System], seen: Mapping[str, Seen], plan: Plan) -> Iterator[Figure]:
    runs, each = plan.runs
    small, large, long = (
        f"of {plan.steps:,} steps", f"of {plan.growing * ITEM // 1_000:,} KB", f"of {plan.long:,} steps",
    )  # fmt: skip
    yield from _micros("a step", systems, seen, lambda one: [turn.micros for turn in one.steps], times=True)
    yield from _syncs(systems, seen)
    yield from _rates(f"{runs:,} runs x {each} steps", systems, seen, runs * each)
    yield from _micros("a step that adds 1 KB", systems, seen, lambda one: [turn.micros for turn in one.growing])
    yield from _kept(f"{plan.growing:,} steps that add 1 KB: on disk", systems, seen, plan)
    ahead = Target(1.0, "least")
    yield from _micros(f"latest {small}", systems, seen, lambda one: [turn.latest for turn in one.steps], ahead)
    yield from _again(f"latest {small}, asked again", systems, seen, lambda one: one.steps)
    yield from _micros(f"any state {small}", systems, seen, lambda one: [turn.at for turn in one.steps], ahead)
    yield from _micros(f"history {small}", systems, seen, lambda one: [turn.history for turn in one.steps])
    yield from _micros(f"latest {large}", systems, seen, lambda one: [turn.latest for turn in one.growing], ahead)
    yield from _again(f"latest {large}, asked again", systems, seen, lambda one: one.growing)
    yield from _micros(f"any state {large}", systems, seen, lambda one: [turn.at for turn in one.growing], ahead)
    yield from _micros(f"latest {long}", systems, seen, lambda one: [turn.latest for turn in one.long], ahead)
    yield from _again(f"latest {long}, asked again", systems, seen, lambda one: one.long)
    yield from _micros(f"any state {long}", systems, seen, lambda one: [turn.at for turn in one.long], ahead)


def _micros(
    name: str, systems: Sequence[System], seen: Mapping[str, Seen], of: Callable[[Seen], list[list[float]]],
    target: Target | None = None, *, times: bool = False,
) -> Iterator[Figure]:  # fmt: skip
    """A line for each system that has an answer: its best turn, a peer's beside eventflow's."""
    ours = _best(of(seen[EVENTFLOW.name]))
    for system in systems:
        best = _best(of(seen[system.name]))
        if best is None or ours is None:
            continue
        version = f"version {system.version}" if times and system.version else ""
        if system is EVENTFLOW:
            yield Figure(NAME, f"{name}: {system.name}", "us", ours)
            continue
        due = Target(system.times, "least") if times else target
        yield _beside(f"{name}: {system.name}", "us", best, ours, due, note=version, worse="least")


def _again(
    name: str, systems: Sequence[System], seen: Mapping[str, Seen], of: Callable[[Seen], list[Turn]]
) -> Iterator[Figure]:
    """The newest state for who has asked before; a system to which that makes no difference reads it as the first time."""
    return _micros(
        name, systems, seen, lambda one: [turn.again or turn.latest for turn in of(one)], Target(1.0, "least")
    )


def _rates(name: str, systems: Sequence[System], seen: Mapping[str, Seen], steps: int) -> Iterator[Figure]:
    """Steps a second, each system's best turn in its best way."""
    own = [steps / turn.seconds for turn in seen[EVENTFLOW.name].concurrent if turn.seconds]
    ours = once(max(own)) if own else None
    for system in systems:
        found = [(steps / turn.seconds, turn.way) for turn in seen[system.name].concurrent if turn.seconds]
        if not found or ours is None:
            continue
        if system is EVENTFLOW:
            yield Figure(NAME, f"{name}: {system.name}", "steps/s", ours)
            continue
        best, way = max(found)
        target = Target(SHARE, "most") if system.judged else None
        yield _beside(f"{name}: {system.name}", "steps/s", once(best), ours, target, note=way, worse="most")


def _kept(name: str, systems: Sequence[System], seen: Mapping[str, Seen], plan: Plan) -> Iterator[Figure]:
    """Bytes a step, without those of a store with one step."""
    each = {
        system.name: (min(turn.bytes for turn in one.growing) - one.empty) / (plan.growing - 1)
        for system in systems
        if (one := seen[system.name]).growing
    }
    ours = each.get(EVENTFLOW.name)
    for system_name, value in each.items():
        if ours is None or system_name == EVENTFLOW.name:
            yield Figure(NAME, f"{name}: {system_name}", "B a step", once(value))
        else:
            yield _beside(f"{name}: {system_name}", "B a step", once(value), once(ours), None, note="", worse="least")


def _syncs(systems: Sequence[System], seen: Mapping[str, Seen]) -> Iterator[Figure]:
    """What strace counted: whether a step waits for the disk at all, and how often."""
    for system in systems:
        if "syncs" not in system.asked:
            continue
        count = seen[system.name].syncs
        note = "unknown: no strace here" if count is None else ""
        if count is not None and count < 1:
            note = "does not wait for the disk in each step"
        yield Figure(NAME, f"syncs a step: {system.name}", "calls", once(count or 0.0), note=note)


def _best(turns: Sequence[Sequence[float]]) -> Spread | None:
    """The turn with the smallest median: what others did to the disk meanwhile can only make it larger."""
    return min((spread(one) for one in turns if one), key=lambda one: one.median, default=None)


def _beside(
    name: str, unit: str, theirs: Spread, ours: Spread, target: Target | None, *, note: str, worse: str
) -> Figure:  # fmt: skip
    """A peer's line: its figure, eventflow's as the baseline, and plain words where the peer is ahead."""
    ratio = theirs.median / ours.median
    ahead = ratio < 1 if worse == "least" else ratio > 1
    told = "; ".join(filter(None, (note, "ahead of eventflow" if ahead else "")))
    return Figure(NAME, name, unit, theirs, ours, ratio, target, told)
