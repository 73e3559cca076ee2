"""Time and fresh ids: the only place that reads a clock or a random source.

`SystemClock` is the machine's; `ManualClock` stands still until it is advanced, and wakes who waits. Wall time is an
integer of ns since the epoch, UTC; monotonic time a float of seconds.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import random
import time
from collections.abc import Callable
from typing import Protocol

NS = 1_000_000_000
FROZEN_POLL = 0.005  # real seconds between looks at a clock that a test may move under us (freezegun)
LONGEST_SLEEP = 30.0  # real seconds; a wall clock that jumps is noticed at least this often


class Clock(Protocol):
    """Where time and ids come from."""

    def now(self) -> int:
        """Wall time in ns since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def wait_until(self, moment: int) -> None:
        """Return once the wall time has reached `moment` (ns since the epoch, UTC)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of monotonic time."""
        ...

    def uuid7(self) -> bytes:
        """16 fresh bytes that sort by time of creation (RFC 9562, version 7)."""
        ...


class SystemClock:
    """The machine's clock; under freezegun it follows the frozen time.

    `frozen=True` polls every 5 real ms, for tests that move time by freezegun while something waits.
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self._longest = FROZEN_POLL if frozen else LONGEST_SLEEP
        self._ids = IdSource(os.urandom)

    def now(self) -> int:
        """Wall time in ns since the epoch, UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def wait_until(self, moment: int) -> None:
        """Return once the wall time has reached `moment`, even if the clock jumps meanwhile."""
        while (left := moment - self.now()) > 0:  # noqa: ASYNC110 - no event tells of a clock that jumps
            await asyncio.sleep(min(left / NS, self._longest))

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of monotonic time, however the wall clock jumps."""
        await asyncio.sleep(seconds)

    def uuid7(self) -> bytes:
        """16 fresh bytes that sort by time of creation."""
        return self._ids.uuid7(self.now())


def processor() -> float:
    """Seconds of processor time that this thread has used: what work costs, whoever else wants the machine meanwhile."""
    return time.thread_time()


class ManualClock:
    """A clock that stands still until `advance` moves it; ids come from a seed, so a run repeats exactly."""

    def __init__(self, start: int = 1_767_225_600 * NS, *, seed: int = 0) -> None:
        self._now = start
        self._monotonic = 0.0
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._ids = IdSource(random.Random(seed).randbytes)  # noqa: S311 - repeatable on purpose

    def now(self) -> int:
        """Wall time in ns since the epoch, UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    async def wait_until(self, moment: int) -> None:
        """Return once the clock has been advanced to `moment`."""
        if moment <= self._now:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._waiting, (moment, next(self._order), loop, waiter))
        await waiter

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been advanced by that much."""
        await self.wait_until(self._now + round(seconds * NS))

    def advance(self, seconds: float) -> None:
        """Move time on and wake who waited for it; negative seconds set the wall clock back, as an operator may."""
        self._now += round(seconds * NS)
        self._monotonic += max(seconds, 0.0)
        while self._waiting and self._waiting[0][0] <= self._now:
            _, _, loop, waiter = heapq.heappop(self._waiting)
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, waiter)

    def next_wake(self) -> int | None:
        """The earliest moment somebody waits for, or None."""
        return next(
            (moment for moment, _, _, waiter in sorted(self._waiting, key=_by_moment) if not waiter.done()), None
        )

    def uuid7(self) -> bytes:
        """16 bytes that sort by time of creation, the same for the same seed."""
        return self._ids.uuid7(self._now)


def _by_moment(entry: tuple[int, int, object, object]) -> tuple[int, int]:
    return entry[0], entry[1]


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class IdSource:
    """uuid7 bytes (RFC 9562 section 5.7) from a given time and random source, rising within one source."""

    def __init__(self, randbytes: Callable[[int], bytes]) -> None:
        self._randbytes = randbytes
        self._last = 0

    def uuid7(self, now: int) -> bytes:
        """48 bits of ms, 12 bits of sub-ms order, 62 random bits."""
        stamp = now // 1_000_000 << 12 | (now % 1_000_000) * 4096 // 1_000_000
        self._last = stamp = max(stamp, self._last + 1)
        tail = int.from_bytes(self._randbytes(8), "big") & (1 << 62) - 1
        value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | tail
        return value.to_bytes(16, "big")


def id_text(key: bytes) -> str:
    """A 16-byte id in the usual uuid form."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
