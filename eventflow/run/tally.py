"""How far a run's history has come of what it may have, and how full its store is: counted, never guessed too high.

On the way of a fact nothing is done but comparing integers; reading the log to count, or asking a store for its size, is
done between two nodes, and only where a mark was passed. What becomes of a run at its limit is its driver's business.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from eventflow.clock import Clock
from eventflow.codec import read_events, refers
from eventflow.errors import EventflowError
from eventflow.log import Log, held_bytes
from eventflow.quota import EARLY, FILLING, LARGE_EVENT, NO_QUOTA, LimitNear, Quota, What, beyond, full_text

PAGE = 1_000  # events read in one go: a few ms
NEVER: Final = 1 << 62
FIRST_COUNT, LAST_COUNT = 64, 1_024  # events after which what came before a process took the run up is counted
FRESH = 1.0  # seconds for which a store's size is believed


def since(log: Log, run_key: bytes) -> int:
    """The version before the first one that a run's own history still has: its origin's, or where it was forked."""
    entry = log.entry(run_key)
    return 0 if entry is None else max(entry.origin - 1, entry.parent_at, 0)


def bytes_of(log: Log, run_key: bytes, first: int, last: int) -> int:
    """Bytes of a run's events from one version to another, both included, with the values they refer to.

    Those that a key is missing for count as they are stored.
    """
    size = 0
    for start in range(first, last + 1, PAGE):
        stored = log.read(run_key, start, min(start + PAGE - 1, last))
        size += sum(len(one.data) for one in stored)
        with suppress(EventflowError):
            referring = [one for one in stored if refers(one.data)]
            size += sum(one.size for one in read_events(referring, log.blobs)) - sum(len(one.data) for one in referring)
    return size


@dataclass(slots=True)
class Store:
    """How full a store is, as far as an engine has looked; shared by all its runs.

    `asks` says that a run has something to tell, or to stand still for. `told` are runs and limits that were told of.
    """

    quota: Quota = NO_QUOTA
    used: int = 0
    asks: bool = False
    told: set[tuple[bytes, What]] = field(default_factory=set)
    _looked: float | None = None

    def look(self, log: Log, clock: Clock) -> None:
        """Ask the store for its size, if that has not just been done."""
        limit, now = self.quota.store_bytes, clock.monotonic()
        if limit is None or (self._looked is not None and 0 <= now - self._looked < FRESH):
            return
        self.used, self._looked = held_bytes(log), now
        said = (b"", "store_bytes") in self.told
        self.asks = self.used >= beyond(limit) or (not said and self.used * 100 >= limit * FILLING)

    @property
    def full(self) -> bool:
        """Whether no new run may begin."""
        return self.quota.store_bytes is not None and self.used >= self.quota.store_bytes

    @property
    def spent(self) -> bool:
        """Whether the reserve is used up too."""
        return self.quota.store_bytes is not None and self.used >= beyond(self.quota.store_bytes)

    def news(self, run_id: str, version: int) -> LimitNear | None:
        """What is to be told, once, of a store that fills up."""
        if self.quota.store_bytes is None or not self.asks or (b"", "store_bytes") in self.told:
            return None
        self.told.add((b"", "store_bytes"))
        self.asks = self.spent
        return LimitNear(run_id, version, "store_bytes", self.used, self.quota.store_bytes)

    def why(self, run_id: str, version: int) -> str:
        """Why no run can go on, empty if they can."""
        limit = self.quota.store_bytes
        return full_text(run_id, version, "store_bytes", self.used, limit) if limit is not None and self.spent else ""


class Tally:
    """What one driven run's history has; `asks` says that it is time to `look`.

    `full` is why the run can't go on, empty if it can; `spent` that the reserve of a node under way is used up too.
    """

    __slots__ = (
        "_before", "_bytes", "_count_at", "_from", "_key", "_log", "_most", "_next", "_started", "_store", "asks", "full",
        "spent",
    )  # fmt: skip

    def __init__(self, store: Store, log: Log, run_key: bytes, version: int) -> None:
        self._store, self._log, self._key = store, log, run_key
        self._from, self._bytes = version, 0  # bytes of the events after a version, which this process saw come
        self._before: int | None = None  # bytes of those up to it, once they have been counted
        self._started = 0  # where the history began then
        self.full, self.spent = "", False
        quota = store.quota
        self._count_at = NEVER if quota.run_bytes is None else _count_after(version)
        self._next = min(self._next_mark("run_events", quota.run_events, 0), self._count_at)
        self._most = self._next_mark("run_bytes", quota.run_bytes, 0)
        self.asks = version >= self._next

    def add(self, version: int, size: int) -> bool:
        """One more event; whether it is so large that somebody should hear of it."""
        self._bytes += size
        if version >= self._next or self._bytes >= self._most:
            self.asks = True
        return size >= LARGE_EVENT and (self._key, "event_bytes") not in self._store.told

    def large(self, run_id: str, version: int, size: int) -> LimitNear:
        """What is told, once, of an event that is very large."""
        self._store.told.add((self._key, "event_bytes"))
        return LimitNear(run_id, version, "event_bytes", size, self._store.quota.event_bytes)

    async def look(self, run_id: str, version: int) -> list[LimitNear]:
        """Count, where a mark was passed, and say what is near; counting what is long goes on beside other runs."""
        quota, started = self._store.quota, since(self._log, self._key)
        if quota.run_bytes is not None:
            await self._counted(started, version)
        events, size = version - started, (self._before or 0) + self._bytes
        self.asks, self.full, self.spent = False, "", False
        near = self._judged(run_id, version, "run_events", events, quota.run_events)
        near += self._judged(run_id, version, "run_bytes", size, quota.run_bytes)
        self._next = min(version + self._next_mark("run_events", quota.run_events, events) - events, self._count_at)
        self._most = self._bytes + self._next_mark("run_bytes", quota.run_bytes, size) - size
        return near

    def _next_mark(self, what: What, limit: int | None, have: int) -> int:
        """The amount at which there is something to say or to do next."""
        if limit is None:
            return NEVER
        marks = (
            [limit, beyond(limit)] if (self._key, what) in self._store.told else [limit // EARLY, limit, beyond(limit)]
        )
        return next((mark for mark in marks if mark > have), have + 1)

    def _judged(self, run_id: str, version: int, what: What, have: int, limit: int | None) -> list[LimitNear]:
        """Hold what there is against one limit."""
        if limit is None:
            return []
        if have >= limit:
            self.full = self.full or full_text(run_id, version, what, have, limit)
            self.spent = self.spent or have >= beyond(limit)
        if have < limit // EARLY or (self._key, what) in self._store.told:
            return []
        self._store.told.add((self._key, what))
        return [LimitNear(run_id, version, what, have, limit)]

    async def _counted(self, started: int, version: int) -> None:
        """Count the bytes of what this process did not see come, once it is worth it; anew if the run was compacted."""
        wanted = version >= self._count_at or self._bytes >= self._most
        if not wanted if self._before is None else started == self._started:
            return
        if started >= self._from:  # all that it saw come is counted from the log again
            self._from, self._bytes = version, 0
        self._started, self._count_at = started, NEVER
        first, last = started + 1, self._from
        if last - first < PAGE:
            self._before = bytes_of(self._log, self._key, first, last)
        else:
            self._before = await asyncio.to_thread(bytes_of, self._log, self._key, first, last)


def _count_after(version: int) -> int:
    """The version at which the history before a take-up is counted: soon in a short one, which is cheap to read."""
    step = FIRST_COUNT
    while step < LAST_COUNT and step <= version:
        step *= 2
    return (version // step + 1) * step
