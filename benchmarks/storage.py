"""What a history costs on disk, and whether each version of it can still be reached."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Size, Target, once
from benchmarks.progress import Progress
from benchmarks.workloads import growing
from eventflow import NO_QUOTA, Engine
from eventflow.log import LmdbLog
from eventflow.recovery import recover

ABOUT = """
A run adds one item to a list in each step, on LMDB, with the default checkpoints: 1,024 characters of base64 text over
fresh random bytes, or 1,024 random bytes as they are, so that nothing can be gained by compressing twice. The figure is
the size of the store's directory, all tables, indexes and snapshots included, over the size of the items: what is kept
is not the last state but every state the run was in. A sample of versions is recovered and compared with what was put
in; a version that can't be reached ends the benchmark with an error. *growth* is the cost of a step in the long history
over that in the short one.
"""
_ITEM = 1_024  # characters or bytes of an item
_LOCK = "lock.mdb"  # LMDB's table of readers: of fixed size, empty at rest, made anew whenever it is gone


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: steps of the short and of the long history, versions compared in each."""

    short: int
    long: int
    versions: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(1_000, 2_000, 5),
    "default": Plan(1_000, 10_000, 25),
    "full": Plan(1_000, 100_000, 100),
}


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Both kinds of items, in a short and a long history."""
    plan = PLANS[size]
    found: list[Figure] = []
    for name, item, limit in (("base64 text", _text, 1.35), ("random bytes", _bytes, 1.8)):
        ratios: list[float] = []
        for steps in progress.each((plan.short, plan.long), f"storage: {name}", 2):
            ratios.append(_ratio(place / f"{name}-{steps}", steps, item, plan.versions))
            note, target = f"{plan.versions} versions compared", Target(limit, "most")
            value = once(ratios[-1])
            found.append(Figure("storage", f"{name}: {steps:,} steps", "x payload", value, target=target, note=note))
        growth = once(ratios[1] / ratios[0])
        found.append(Figure("storage", f"{name}: growth", "x", growth, target=Target(1.1, "most")))
    return found


def _text(number: int) -> str:
    return base64.b64encode(random.Random(number).randbytes(_ITEM * 3 // 4)).decode()


def _bytes(number: int) -> bytes:
    return random.Random(number).randbytes(_ITEM)


def _ratio(store: Path, steps: int, item: Callable[[int], Any], versions: int) -> float:
    """Bytes of the store over bytes of the items, once the versions have been compared."""
    asyncio.run(_run(store, steps, item))
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file() and path.name != _LOCK)
    _compare(store, steps, item, versions)
    return size / (steps * _ITEM)


async def _run(store: Path, steps: int, item: Callable[[int], Any]) -> None:
    flow = growing(steps, item)
    async with Engine(store, workflows=[flow], quota=NO_QUOTA) as engine:
        run = await engine.start(flow, {"n": 0, "items": []}, run_id="growing")
        await run.result()


def _compare(store: Path, steps: int, item: Callable[[int], Any], versions: int) -> None:
    """Recover a sample of versions, first and last among them, and compare each with what was put in."""
    log = LmdbLog(store, readonly=True)
    try:
        head = log.head("growing")
        assert head is not None
        assert head.version >= steps
        sample = {1, head.version, *random.Random(0).sample(range(1, head.version + 1), versions - 2)}
        expected = [item(number) for number in range(steps)]
        for version in sorted(sample):
            data = recover(log, head, version).state.data
            assert data["items"] == expected[: version - 1], f"version {version} is not what it was"
    finally:
        log.close()
