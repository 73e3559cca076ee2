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


class Tally:
    """What one driven run's history has; `asks` says that it is time to `look`.

    `full` is why the run can't go on, empty if it can; `spent` that the reserve of a node under way is used up too.
    """

    __slots__ = ("_before", "_bytes", "_from", "_key", "_log", "_most", "_next", "_store", "asks", "full", "spent")

    def __init__(self, store: Store, log: Log, run_key: bytes, version: int) -> None:
        self._store, self._log, self._key = store, log, run_key
        self._from = version  # the version from which this process has counted bytes itself
        self._bytes = 0  # of events since then
        self._before: int | None = None  # bytes of those before, once they have been counted
        self.full, self.spent = "", False
        quota = store.quota
        early = NEVER if quota.run_events is None else quota.run_events // EARLY
        self._next = min(early, NEVER if quota.run_bytes is None else _count_after(version))
        self._most = NEVER if quota.run_bytes is None else quota.run_bytes // EARLY
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
        if quota.run_bytes is not None and (self._before is None or started >= self._from):
            await self._count(started, version)
        self.asks, self.full, self.spent, near = False, "", False, []
        self._next, self._most = NEVER, NEVER
        events, size = version - started, (self._before or 0) + self._bytes
        used: tuple[tuple[What, int, int | None], ...] = (
            ("run_events", events, quota.run_events), ("run_bytes", size, quota.run_bytes),
        )  # fmt: skip
        for what, have, limit in used:
            if limit is None:
                continue
            if have >= limit // EARLY and (self._key, what) not in self._store.told:
                self._store.told.add((self._key, what))
                near.append(LimitNear(run_id, version, what, have, limit))
            left = next((mark for mark in (limit // EARLY, limit, beyond(limit)) if mark > have), have + 1) - have
            if what == "run_events":
                self._next = version + left
            else:
                self._most = self._bytes + left
            if have >= limit:
                self.full = self.full or full_text(run_id, version, what, have, limit)
                self.spent = self.spent or have >= beyond(limit)
        return near

    async def _count(self, started: int, version: int) -> None:
        """Count the bytes of what this process did not see come; and anew where the run was compacted since."""
        if started >= self._from:
            self._from, self._bytes = version, 0
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
