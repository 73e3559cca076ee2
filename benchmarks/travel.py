"""How long it takes to stand at any version of a long history, and to ask it something."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bare_snapshot import BareStore
from benchmarks.figures import Figure, Size, Spread, Target, once, ratio, spread
from benchmarks.histories import RUN, build
from benchmarks.progress import Progress
from eventflow.address import Address
from eventflow.change import Op
from eventflow.log import Head, LmdbLog
from eventflow.plain import FrozenList
from eventflow.recovery import recover
from replay.diff import diff
from replay.query import blame, watch, when
from replay.search import search, stats

ABOUT = """
One long run with a state of about 3 KB (*small*) and one whose state grows by a text of 100 bytes an event (*growing*).
Random versions of them are recovered, as `replay show RUN@N` does, with the default checkpoints. The baselines, measured
in turn: *beside folding all* folds the whole run without snapshots, *beside the head* recovers its newest version, and
*beside its snapshot* reads, checks and decodes bare the snapshot that the version is recovered from
(`benchmarks/bare_snapshot.py`). The 99th percentile has a line of its own where it has a target. The file has been read
before; each reading opens it anew.

The questions are those of `replay`, asked of all versions of the small run, in seconds: a value that changes in each
tenth event is watched, a condition on it is asked, the event that wrote it is found, two random versions are compared, a
text that one event has is searched, and costs are added up.
"""
UNIT = "ms"
_SLOTS, _TEXT = 30, 100  # a state of 30 texts of 100 characters
_NEEDLE = "one of a kind"
_FOLDS = 3  # times that all is folded: seconds each


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: events of each history, random versions, turns of each question."""

    events: int
    versions: int
    turns: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(2_000, 10, 1),
    "default": Plan(100_000, 200, 3),
    "full": Plan(1_000_000, 500, 3),
}
LIMIT = Target(2.0, "most")  # seconds for an answer over 100,000 events


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Random versions of both histories, and the questions."""
    plan = PLANS[size]
    small, growing = place / "small", place / "growing"
    build(small, {"n": 0, "score": 0.0, "slots": {}}, progress.each(_small(plan.events), "travel: small", plan.events))
    build(growing, {"items": []}, progress.each(_growing(plan.events), "travel: growing", plan.events))
    return [
        *_beside_all(small, plan, progress),
        *(_beside_head(store, name, plan, progress) for store, name in ((small, "small"), (growing, "growing"))),
        *_beside_snapshot(growing, plan, progress),
        *_questions(small, plan, progress),
    ]


# --- the histories -------------------------------------------------------------------------------------------------


def _small(events: int) -> Iterator[Op]:
    chance = random.Random(1)
    for number in range(events):
        if number == events // 2:
            yield Op("set", ("slots", "slot 00"), _NEEDLE)
        elif number % 10 == 0:
            yield Op("set", ("slots", f"slot {chance.randrange(_SLOTS):02d}"), _words(chance))
        elif number % 10 == 5:
            yield Op("set", ("score",), chance.random())
        else:
            yield Op("set", ("n",), number)


def _growing(events: int) -> Iterator[Op]:
    chance = random.Random(2)
    for _ in range(events):
        yield Op("extend", ("items",), FrozenList([_words(chance)]))


def _words(chance: random.Random) -> str:
    return " ".join(chance.choices(("moon", "tide", "harbour", "salt", "spring", "anchor"), k=_TEXT // 4))[:_TEXT]


# --- random versions -----------------------------------------------------------------------------------------------


def _head(store: Path) -> Head:
    log = LmdbLog(store, readonly=True)
    try:
        head = log.head(RUN)
        assert head is not None
        return head
    finally:
        log.close()


def _seconds(store: Path, work: Callable[[LmdbLog], Any]) -> float:
    log = LmdbLog(store, readonly=True)
    try:
        gc.collect()
        began = time.perf_counter()
        work(log)
        return time.perf_counter() - began
    finally:
        log.close()


def _beside_all(store: Path, plan: Plan, progress: Progress) -> Iterator[Figure]:
    head, chance = _head(store), random.Random(3)
    all_of_it = [_seconds(store, lambda log: recover(log, head, snapshots=False)) * 1e3 for _ in range(_FOLDS)]
    versions = [chance.randint(1, head.version) for _ in range(plan.versions)]
    found = [
        _seconds(store, lambda log, version=version: recover(log, head, version)) * 1e3  # type: ignore[misc]
        for version in progress.each(versions, "travel: small beside folding all", plan.versions)
    ]
    yield from _median_and_p99(
        "small: any version, beside folding all", spread(found), spread(all_of_it), (1 / 200, 1 / 50)
    )


def _median_and_p99(name: str, value: Spread, baseline: Spread, limits: tuple[float, float]) -> Iterator[Figure]:
    """Two lines: the median, and the 99th percentile, of something beside the baseline's median."""
    for which, seen, limit in (("", value, limits[0]), (", p99", once(value.p99), limits[1])):
        share = seen.median / baseline.median
        note = f"1/{1 / share:,.0f}"
        yield Figure("travel", f"{name}{which}", UNIT, seen, baseline, share, Target(limit, "most"), note)


def _beside_head(store: Path, name: str, plan: Plan, progress: Progress) -> Figure:
    head, chance = _head(store), random.Random(4)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in progress.each(range(plan.versions), f"travel: {name} beside the head", plan.versions):
        version = chance.randint(1, head.version)
        theirs.append(_seconds(store, lambda log: recover(log, head)) * 1e3)
        ours.append(_seconds(store, lambda log, version=version: recover(log, head, version)) * 1e3)  # type: ignore[misc]
    return Figure(
        "travel", f"{name}: any version, beside the head", UNIT, spread(ours), spread(theirs), ratio(ours, theirs)
    )


def _beside_snapshot(store: Path, plan: Plan, progress: Progress) -> Iterator[Figure]:
    """Random versions, each beside the bare reading of the snapshot it is recovered from."""
    head, chance = _head(store), random.Random(5)
    log = LmdbLog(store, readonly=True)
    try:
        digests = {mark.version: mark.digest for mark in log.checkpoints(head.run_key)}
        vouched = [version for version, by in log.snapshots(head.run_key, head.version) if by]
    finally:
        log.close()
    ours: list[float] = []
    theirs: list[float] = []
    for _ in progress.each(range(plan.versions), "travel: growing beside its snapshot", plan.versions):
        version = chance.randint(min(vouched), head.version)
        start = max(one for one in vouched if one <= version)
        bare = BareStore(store)
        try:
            gc.collect()
            began = time.perf_counter()
            bare.snapshot(head.run_key, start, digests[start])
            theirs.append((time.perf_counter() - began) * 1e3)
        finally:
            bare.close()
        ours.append(_seconds(store, lambda log, version=version: recover(log, head, version)) * 1e3)  # type: ignore[misc]
    name = "growing: any version, beside its snapshot"
    shares = spread([one / other for one, other in zip(ours, theirs, strict=True)])
    yield Figure("travel", name, UNIT, spread(ours), spread(theirs), shares.median, Target(3.0, "most"))
    yield Figure(
        "travel", f"{name}, p99", UNIT, once(spread(ours).p99), spread(theirs), shares.p99, Target(5.0, "most")
    )


# --- questions -----------------------------------------------------------------------------------------------------


def _questions(store: Path, plan: Plan, progress: Progress) -> Iterator[Figure]:
    head, chance = _head(store), random.Random(6)
    place = Address(head, head.version)
    two = [Address(head, chance.randint(1, head.version)) for _ in range(2)]
    asked: dict[str, Callable[[LmdbLog], Any]] = {
        "watch": lambda log: list(watch(log, place, "score")),
        "when": lambda log: list(when(log, place, "score > 0.99 and n > 10")),
        "blame": lambda log: blame(log, place, "score"),
        "diff": lambda log: diff(log, *two),
        "search": lambda log: list(search(log, place, _NEEDLE)),
        "stats": lambda log: stats(log, place),
    }
    for name, ask in progress.each(asked.items(), "travel: questions", len(asked)):
        took = spread([_seconds(store, ask) for _ in range(plan.turns)])
        target = LIMIT if plan.events <= 100_000 else None
        yield Figure("travel", f"small: {name}", "s", took, target=target, note=f"{head.version:,} events")
