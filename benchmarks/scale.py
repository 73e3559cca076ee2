"""A store of millions of events: how fast it opens, what verifying it takes in memory, how fast it still appends."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from benchmarks.apart import MB, alone, status
from benchmarks.figures import Figure, Size, Target, once, ratio, spread
from benchmarks.progress import Progress
from benchmarks.workloads import NOTE, Laps, counting
from eventflow import Engine
from eventflow.change import Op
from eventflow.clock import SystemClock
from eventflow.codec import encode, pack
from eventflow.event import RunStarted, Transitioned
from eventflow.log import Append, Entry, First, LmdbLog
from eventflow.proof import digest, genesis
from eventflow.verification import Report, verify_store

ABOUT = """
A store is filled with runs of a thousand events each, written straight into the log, many in one transaction. *opens* is
what opening it takes in a process that has loaded eventflow, its file read before. *verifies* reads every byte of it again,
folds every run and compares all indexes, in a fresh process; what counts is the memory of its own (`RssAnon`) at its
highest, after each run looked at, beside that of a store a tenth as large: the file's pages are the system's, which takes
them back. *appends* has one run take steps in the large store and one in an empty one, by turns.
"""
RUN = 1_000  # events of a run
BATCH = 20  # appends in one transaction
LIST = 100  # events of one append
_TURN = 20  # steps in one turn
FLOW = counting(_TURN)  # whose history is written


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: events of the store, openings, steps appended."""

    events: int
    openings: int
    steps: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(10_000, 3, 40),
    "default": Plan(1_000_000, 30, 2_000),
    "full": Plan(10_000_000, 100, 10_000),
}


class Verified(NamedTuple):
    """What a verification has seen: events, its seconds, bytes of memory of its own before it and at most."""

    events: int
    seconds: float
    before: int
    peak: int


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """One store after the other is filled; the large one is opened, verified, and appended to."""
    plan = PLANS[size]
    large, small, empty = place / "large", place / "small", place / "empty"
    seconds = fill(large, plan.events, progress)
    fill(small, plan.events // 10, progress)
    name = f"{plan.events:,} events"
    written = f"{_size(large) / MB:,.0f} MB, written at {plan.events / seconds:,.0f} events/s"
    opened = [_opened(large) for _ in range(plan.openings)]
    return [
        Figure("scale", f"{name}: opens", "ms", spread(opened), target=Target(100.0, "most"), note=written),
        *_verified(name, large, small),
        _appends(name, large, empty, plan, progress),
    ]


# --- filling -------------------------------------------------------------------------------------------------------


def fill(store: Path, events: int, progress: Progress) -> float:
    """Make a store of so many events; the seconds that took."""
    clock = SystemClock()
    log = LmdbLog(store, clock=clock)
    runs = max(events // RUN, 1)
    began = time.perf_counter()
    try:
        for number in progress.each(range(runs), f"scale: writing {events:,} events", runs):
            appends = _run(log, clock, f"run-{number:07d}", min(RUN, events))
            while several := list(islice(appends, BATCH)):
                for answer in log.write(several):
                    assert not isinstance(answer, Exception), answer
    finally:
        log.close()
    return time.perf_counter() - began


def _run(log: LmdbLog, clock: SystemClock, name: str, events: int) -> Iterator[Append]:
    """A run as appends: it starts, and changes two small fields in each event."""
    key, now = clock.uuid7(), clock.now()
    data = FLOW.schema.initial({"n": 0, "note": ""})
    started = RunStarted(
        name, log.store_id, FLOW.name, FLOW.digest, FLOW.shape, FLOW.start, data, digest(encode(data))
    )  # fmt: skip
    first = First(genesis(log.store_id, name, 1, FLOW.digest), Entry(FLOW.name, (), None, now))
    yield Append(name, key, 1, 0, 0, (pack(started),), now, "running", first=first)
    for version in range(1, events, LIST):
        moves = range(version, min(version + LIST, events))
        yield Append(name, key, 1, version, 0, tuple(pack(_move(number)) for number in moves), now, "running")


def _move(number: int) -> Transitioned:
    return Transitioned("step", "step", change=(Op("set", ("n",), number), Op("set", ("note",), NOTE)))


def _size(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


# --- measuring -----------------------------------------------------------------------------------------------------


def _opened(store: Path) -> float:
    """Milliseconds of opening a store to write to it."""
    gc.collect()
    began = time.perf_counter()
    log = LmdbLog(store)
    seconds = time.perf_counter() - began
    log.close()
    return seconds * 1e3


def verified(store: Path) -> Verified:
    """Verify a store, and look at the memory after each run."""
    log = LmdbLog(store, readonly=True)
    try:
        before = peak = status("RssAnon")
        began, report = time.perf_counter(), Report()
        for report in verify_store(log):  # noqa: B007 - the last is the whole one
            peak = max(peak, status("RssAnon"))
        assert report.sound, report.findings[:3]
        return Verified(report.events, time.perf_counter() - began, before, peak)
    finally:
        log.close()


def _verified(name: str, large: Path, small: Path) -> Iterator[Figure]:
    ours, theirs = alone(verified, large), alone(verified, small)
    note = (
        f"{(ours.peak - ours.before) / MB:.1f} MB more than before it, beside {(theirs.peak - theirs.before) / MB:.1f}"
    )
    share = ours.peak / max(theirs.peak, 1)
    yield Figure(
        "scale", f"{name}: memory to verify", "MB", once(ours.peak / MB), once(theirs.peak / MB), share,
        Target(1.5, "most"), note,
    )  # fmt: skip
    rates = [one.events / one.seconds for one in (ours, theirs)]
    note = f"{ours.seconds:.1f} s in all"
    yield Figure(
        "scale", f"{name}: verified", "events/s", once(rates[0]), once(rates[1]), rates[0] / rates[1], note=note
    )


def _appends(name: str, large: Path, empty: Path, plan: Plan, progress: Progress) -> Figure:
    """Steps in the large store beside steps in an empty one, in turns of a few."""
    ours, theirs = asyncio.run(_by_turns(large, empty, plan, progress))
    target = Target(1.15, "most")
    return Figure(
        "scale",
        f"{name}: a step",
        "us",
        spread(ours),
        spread(theirs),
        ratio(ours, theirs),
        target,
        "beside an empty store",
    )


async def _by_turns(large: Path, empty: Path, plan: Plan, progress: Progress) -> tuple[list[float], list[float]]:
    found: tuple[list[float], list[float]] = ([], [])
    flow = counting(_TURN)
    async with Engine(large, workflows=[flow]) as one, Engine(empty, workflows=[flow]) as other:
        turns = plan.steps // _TURN
        for turn in progress.each(range(turns), "scale: appending", turns):
            order = (0, 1) if turn % 2 else (1, 0)
            for which in order:
                laps = Laps()
                timed = counting(_TURN, laps=laps)
                await (await (one, other)[which].start(timed, {"n": 0, "note": ""})).wait()
                found[which].append(spread(laps.seconds).median * 1e6)
    return found
