"""The frontier: what checkpoints cost while a run goes on, against how long bringing it back takes."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Size, Target, once, spread
from benchmarks.histories import RUN, build
from benchmarks.progress import Progress
from eventflow import NO_CHECKPOINTS, CheckpointPolicy
from eventflow.change import Op
from eventflow.engine import Measured
from eventflow.log import LmdbLog
from eventflow.recovery import recover

ABOUT = """
One history, written under one policy after the other: a state of thirty texts of 100 characters and a counter, of which
an event changes one. *checkpoints* is the time in which snapshots were packed, written and, where a target is to be met,
measured for it, over all events: microseconds a step. *recovery* is how
long bringing back a random version takes, as after a crash there: median and 99th percentile, each reading with the store
opened anew. The two of a policy are one point of the frontier; `--plot` draws it.

*recovery="50 ms"* is then asked of histories of a hundred to a million events: their 99th percentiles must keep to it,
whatever their length. How many snapshots that took is beside them.
"""
SLOTS, TEXT = 30, 100
POLICIES: dict[str, CheckpointPolicy] = {
    "no checkpoints": NO_CHECKPOINTS,
    "every=20": CheckpointPolicy(auto=False, every=20),
    "every=100": CheckpointPolicy(auto=False, every=100),
    "every=1000": CheckpointPolicy(auto=False, every=1_000),
    "default": CheckpointPolicy(),
    'recovery="2 ms"': CheckpointPolicy(recovery="2 ms"),
    'recovery="10 ms"': CheckpointPolicy(recovery="10 ms"),
    'recovery="50 ms"': CheckpointPolicy(recovery="50 ms"),
    'recovery="250 ms"': CheckpointPolicy(recovery="250 ms"),
}
TARGET_MS = 50.0
TARGET = CheckpointPolicy(recovery=f"{TARGET_MS:g} ms")
ENOUGH, LONGEST = 20, 5.0  # recoveries, and seconds of them, after which no more are made: some policies make long ones
WARM = 3  # recoveries that are not counted: the first pays for what is loaded once a process


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: events of the frontier's history, recoveries of each, lengths of histories for the target."""

    events: int
    recoveries: int
    lengths: tuple[int, ...]


PLANS: dict[Size, Plan] = {
    "smoke": Plan(400, 5, (100, 1_000)),
    "default": Plan(30_000, 150, (100, 1_000, 10_000, 100_000)),
    "full": Plan(100_000, 500, (100, 1_000, 10_000, 100_000, 1_000_000)),
}


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Both halves of each policy's point, then the target over all lengths."""
    plan = PLANS[size]
    found: list[Figure] = []
    for name, policy in progress.each(POLICIES.items(), "frontier: policies", len(POLICIES)):
        store = place / f"policy-{len(found)}"
        found += _point(name, store, written(store, plan.events, policy), plan)
    for length in progress.each(plan.lengths, f"frontier: a target of {TARGET_MS:g} ms", len(plan.lengths)):
        store = place / f"target-{length}"
        measured = written(store, length, TARGET)
        seen = spread(recoveries(store, plan.recoveries))
        note = f"{measured.snapshots:,} snapshots; median {seen.median:.3g} ms, p99 of {seen.count}"
        found.append(
            Figure(
                "frontier", f'recovery="50 ms": p99 over {length:,} events', "ms", once(seen.p99),
                target=Target(TARGET_MS, "most"), note=note,
            )
        )  # fmt: skip
    return found


def _point(name: str, store: Path, measured: Measured, plan: Plan) -> Iterator[Figure]:
    each = measured.checkpoint_seconds / plan.events * 1e6
    note = f"{measured.snapshots:,} snapshots, {measured.snapshot_bytes / plan.events:,.0f} B a step"
    yield Figure("frontier", f"{name}: checkpoints", "us a step", once(each), note=note)
    yield Figure("frontier", f"{name}: recovery", "ms", spread(recoveries(store, plan.recoveries)))


def written(store: Path, events: int, policy: CheckpointPolicy) -> Measured:
    """A history of so many events under a policy."""
    return build(store, {"n": 0, "slots": {}}, changes(events), policy=policy)


def changes(events: int) -> Iterator[Op]:
    """One of thirty texts in each other event, else a counter."""
    chance = random.Random(1)
    for number in range(events):
        if number % 2:
            yield Op("set", ("n",), number)
        else:
            text = " ".join(chance.choices(("moon", "tide", "harbour", "salt", "spring", "anchor"), k=TEXT // 4))
            yield Op("set", ("slots", f"slot {chance.randrange(SLOTS):02d}"), text[:TEXT])


def recoveries(store: Path, count: int) -> list[float]:
    """Milliseconds of bringing back random versions."""
    chance = random.Random(2)
    found: list[float] = []
    for number in range(WARM + count):
        log = LmdbLog(store, readonly=True)
        try:
            head = log.head(RUN)
            assert head is not None
            version = chance.randint(1, head.version)
            gc.collect()
            began = time.perf_counter()
            recover(log, head, version)
            if number >= WARM:
                found.append((time.perf_counter() - began) * 1e3)
        finally:
            log.close()
        if number >= ENOUGH and sum(found) > LONGEST * 1e3:
            break
    return found
