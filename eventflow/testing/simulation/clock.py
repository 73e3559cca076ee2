"""The clock of a simulated process: its loop's time, an error of its own, ids from its seed."""

from __future__ import annotations

import asyncio
import random

from eventflow.clock import NS, IdSource

START = 1_767_225_600 * NS  # 2026-01-01, UTC: when simulated time begins


class SimulatedClock:
    """A clock by which `jump` seconds can be gained or lost, as when an operator sets it."""

    def __init__(self, seed: int) -> None:
        self._ids = IdSource(random.Random(seed).randbytes)  # noqa: S311 - repeatable on purpose
        self._loop = asyncio.get_running_loop()
        self.error = 0.0  # seconds that its wall time is ahead

    def now(self) -> int:
        """Wall time in ns since the epoch, UTC."""
        return START + round((self._loop.time() + self.error) * NS)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._loop.time()

    async def wait_until(self, moment: int) -> None:
        """Return once the wall time has reached `moment`."""
        while (left := moment - self.now()) > 0:  # noqa: ASYNC110 - no event tells of a clock that jumps
            await asyncio.sleep(min(left / NS, 1.0))

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await asyncio.sleep(seconds)

    def uuid7(self) -> bytes:
        """16 bytes that sort by time of creation."""
        return self._ids.uuid7(self.now())
