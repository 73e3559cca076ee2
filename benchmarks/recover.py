"""How long it takes to bring a run back, beside reading its snapshot bare."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bare_snapshot import BareStore
from benchmarks.figures import Figure, Size, Target, once, ratio, spread
from benchmarks.histories import RUN, build
from benchmarks.progress import Progress
from eventflow.change import Op
from eventflow.checkpoint import EVENT_WEIGHT
from eventflow.log import Head, LmdbLog
from eventflow.plain import FrozenList
from eventflow.recovery import recover

ABOUT = """
Recovery takes the newest snapshot that the chain vouches for, checks it, and folds the events after it. Two histories
come to the same size of state: *items* appends a text of 100 bytes to a list in each event; *texts* adds a text of 1 KB
in each tenth event and changes a counter in the others. Checkpoints are the default ones. *just after* is the version
whose event vouches for the last snapshot: the best case. *just before* is the last version before the next snapshot:
the worst case, with the most events to fold. The baseline reads, checks and decodes the same snapshot with its blobs
and nothing else: LMDB gets, SHA-256, zstd, cbor2, plain dicts and lists (`benchmarks/bare_snapshot.py`). The file has
been read before; each reading opens it anew.

*history* compares two runs whose states are of one size, at their worst, one with ten times the events of the other.

*weight of an event* is the number of snapshot bytes whose bare reading takes as long as folding one event, beside its
own bytes: what `EVENT_WEIGHT` in `eventflow/checkpoint.py` must not be far below if recovery is to stay within three
times the baseline.
"""
UNIT = "ms"
_ITEM, _TEXT = 100, 1_000  # characters of an item and of a text
_WORDS = (
    "moon",
    "tide",
    "harbour",
    "salt",
    "ebb",
    "flood",
    "spring",
    "neap",
    "rope",
    "anchor",
    "keel",
    "drift",
    "chart",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: events of the two histories, slots and events of the short one of two, turns."""

    events: int
    slots: int
    short: int
    rounds: int


PLANS: dict[Size, Plan] = {
    "smoke": Plan(2_000, 20, 300, 2),
    "default": Plan(100_000, 1_000, 10_000, 15),
    "full": Plan(1_000_000, 1_000, 100_000, 31),
}


class Stand(NamedTuple):
    """A version to recover, and the snapshot it is recovered from."""

    head: Head
    version: int
    snapshot: int
    digest: bytes


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:
    """Both histories at their best and their worst, the weight of an event, and whether length matters."""
    plan = PLANS[size]
    found: list[Figure] = []
    for name, data, changes in (("items", {"items": []}, _items), ("texts", {"n": 0, "texts": []}, _texts)):
        store = place / name
        build(store, data, progress.each(changes(plan.events), f"recover: writing {name}", plan.events))
        found += _shape(store, name, plan, progress)
    found.append(_history(place, plan, progress))
    return found


# --- the histories -------------------------------------------------------------------------------------------------


def _items(events: int) -> Iterator[Op]:
    chance = random.Random(1)
    for _ in range(events):
        yield Op("extend", ("items",), FrozenList([_words(chance, _ITEM)]))


def _texts(events: int) -> Iterator[Op]:
    chance = random.Random(2)
    for number in range(events):
        if number % 10:
            yield Op("set", ("n",), number)
        else:
            yield Op("extend", ("texts",), FrozenList([_words(chance, _TEXT)]))


def _slots(events: int, slots: int) -> Iterator[Op]:
    chance = random.Random(3)
    for _ in range(events):
        yield Op("set", ("slots", f"slot {chance.randrange(slots):06d}"), _words(chance, _ITEM))


def _words(chance: random.Random, size: int) -> str:
    return " ".join(chance.choices(_WORDS, k=size // 4))[:size].ljust(size, ".")


# --- measuring -----------------------------------------------------------------------------------------------------


def stands(store: Path) -> tuple[Stand, Stand]:
    """The worst version between the last two snapshots, and the best one, at the last."""
    log = LmdbLog(store, readonly=True)
    try:
        head = log.head(RUN)
        assert head is not None
        digests = {mark.version: mark.digest for mark in log.checkpoints(head.run_key)}
        vouched = [pair for pair in log.snapshots(head.run_key, head.version) if pair[1]]
        (last, by), (before, _) = vouched[:2]
        return Stand(head, last - 1, before, digests[before]), Stand(head, by, last, digests[last])
    finally:
        log.close()


def _shape(store: Path, name: str, plan: Plan, progress: Progress) -> list[Figure]:
    found: list[Figure] = []
    worst, best = stands(store)
    folding = loading = size = 0.0
    for stand, when, limit in ((best, "just after", 1.5), (worst, "just before", 3.0)):
        ours: list[float] = []
        theirs: list[float] = []
        for _ in progress.each(range(plan.rounds), f"recover: {name} {when}", plan.rounds):
            seconds, size = _read(store, stand)
            theirs.append(seconds * 1e3)
            ours.append(_recovered(store, stand) * 1e3)
        folded = stand.version - stand.snapshot
        note = f"{folded:,} events folded on {size / 1e6:.1f} MB"
        target = Target(limit, "most")
        found.append(
            Figure("recover", f"{name}: {when}", UNIT, spread(ours), spread(theirs), ratio(ours, theirs), target, note)
        )
        folding, loading = spread(ours).median - folding, spread(theirs).median
    found.append(_weight(store, worst, name, folding / 1e3, loading / 1e3 / size))
    return found


def _read(store: Path, stand: Stand) -> tuple[float, int]:
    """Seconds of the bare reading of a snapshot, and its size."""
    bare = BareStore(store)
    try:
        seconds, (_, size) = _timed(lambda: bare.snapshot(stand.head.run_key, stand.snapshot, stand.digest))
    finally:
        bare.close()
    return seconds, size


def _recovered(store: Path, stand: Stand) -> float:
    """Seconds of a recovery."""
    log = LmdbLog(store, readonly=True)
    try:
        seconds, found = _timed(lambda: recover(log, stand.head, stand.version))
    finally:
        log.close()
    assert found.snapshot == stand.snapshot
    assert found.state.version == stand.version
    return seconds


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    began = time.perf_counter()
    value = work()
    return time.perf_counter() - began, value


def _weight(store: Path, worst: Stand, name: str, folding: float, second_a_byte: float) -> Figure:
    """How many bytes of a snapshot are read in the time of folding one event, less the event's own."""
    events = worst.version - worst.snapshot
    log = LmdbLog(store, readonly=True)
    try:
        own = sum(len(one.data) for one in log.read(worst.head.run_key, worst.snapshot + 1, worst.version)) / events
    finally:
        log.close()
    note = f"{folding / events * 1e6:.1f} us an event of {own:.0f} B; EVENT_WEIGHT is {EVENT_WEIGHT:,}"
    return Figure(
        "recover", f"{name}: weight of an event", "B", once(folding / events / second_a_byte - own), note=note
    )


def _history(place: Path, plan: Plan, progress: Progress) -> Figure:
    """Two states of one size, one with ten times the events: both at their worst."""
    places: list[Stand] = []
    for events in (plan.short, plan.short * 10):
        store = place / f"history-{events}"
        changes = progress.each(_slots(events, plan.slots), f"recover: writing {events:,} events", events)
        build(store, {"slots": {}}, changes)
        places.append(stands(store)[0])
    short, long = places
    ours: list[float] = []
    theirs: list[float] = []
    for _ in progress.each(range(plan.rounds), "recover: history", plan.rounds):
        theirs.append(_recovered(place / f"history-{plan.short}", short) * 1e3)
        ours.append(_recovered(place / f"history-{plan.short * 10}", long) * 1e3)
    note = f"{long.head.version:,} events beside {short.head.version:,}"
    target = Target(1.25, "most")
    return Figure(
        "recover", "history: ten times as long", UNIT, spread(ours), spread(theirs), ratio(ours, theirs), target, note
    )
