"""What follows from the measured numbers: how a store grows, how deep its indexes are, and which limit is met first.

Arithmetic only. A limit is told as the runs a day at which it is met, so that unlike ones can stand in one order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.capacity.measured import Backend
from benchmarks.capacity.simulation import DAY, Load
from eventflow.engine.cleaning import CLEAN_EVERY
from eventflow.log.lmdb.environment import MAP_SIZE
from eventflow.log.writer import MAX_BATCH

BUSY = 0.7  # the share of a writer, or of a process, beyond which waiting grows faster than the load
SPARE = 0.2  # the share of its time that a writer may spend on removing what is old
LMDB_PAGE, LMDB_ROW = 4096 - 16, 18  # bytes of a page without its header; of a branch row with a position as its key
PG_PAGE, PG_ROW = 8192 - 40, 20  # the same of a B-tree page of PostgreSQL with a bigint, its line pointer included
PG_FILL = 0.9  # PostgreSQL's default fill factor of an index whose keys rise


def depth(rows: float, leaf: float, branch: float) -> int:
    """Levels of a B-tree with so many rows, so many of them in a leaf and so many children in a branch."""
    return 1 if rows <= leaf else 1 + math.ceil(math.log(rows / leaf, branch) - 1e-9)


def lmdb_pages(rows: float, row: float) -> tuple[float, int]:
    """Pages and depth of the table of events; rows that rise fill their pages."""
    per_page = max(LMDB_PAGE / row, 1.0)
    return rows / per_page, depth(rows, per_page, LMDB_PAGE / LMDB_ROW)


def postgres_depth(rows: float) -> int:
    """Depth of the index by position."""
    per_page = PG_PAGE * PG_FILL / PG_ROW
    return depth(rows, per_page, per_page)


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit: what is met, at how many runs a day, and what to do then."""

    what: str
    runs: float
    then: str


def bounds(load: Load, lmdb: Backend, postgres: Backend | None, *, days: float) -> list[Bound]:
    """All limits for runs of this kind that are kept for so many days, the one that is met first at the head."""
    events = load.steps + lmdb.more
    found = [
        Bound(
            "the processor of one driving process", lmdb.steps * BUSY / events / load.peak * DAY,
            "start more `eventflow worker` processes",
        ),
        Bound(
            f"LMDB: the file's map of {MAP_SIZE >> 30} GiB", MAP_SIZE / (lmdb.event * events * days),
            "keep less (`RetentionPolicy`), set `EVENTFLOW_MAP_SIZE` higher if the disk is larger, or go to PostgreSQL",
        ),
    ]  # fmt: skip
    for one in (lmdb, postgres):
        found += [] if one is None else _of_store(one, load, days)
    return sorted(found, key=lambda bound: bound.runs)


def _of_store(one: Backend, load: Load, days: float) -> list[Bound]:
    """What the one writer of a store, and who reads all of it, can do."""
    events = load.steps + one.more
    return [
        Bound(
            f"{one.name}: the writer", one.events_per_second(MAX_BATCH) * BUSY / events / load.peak * DAY,
            "divide runs among several stores, by tenant or by workflow; each has its own writer",
        ),
        Bound(
            f"{one.name}: removing what is old, in {SPARE:.0%} of the time", one.prune * SPARE * DAY / events,
            "a store for each span of time, and drop a whole store when its span is over",
        ),
        Bound(
            f"{one.name}: an engine's `retention` lists all runs in {CLEAN_EVERY:.0f} s", one.listing * CLEAN_EVERY / days,
            "run `eventflow store prune` at night instead",
        ),
        Bound(
            f"{one.name}: verifying all of it in a day", one.verify * DAY / events / days,
            "verify the runs that matter, seal the store, export what is old",
        ),
    ]  # fmt: skip
