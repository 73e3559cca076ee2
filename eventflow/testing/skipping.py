"""A clock for tests that skips time: when everybody waits for it, it jumps to the next moment somebody waits for.

A run that rests for hours between attempts, sleeps, or waits until a limit takes as long as its work does. What the clock
can't see is whether somebody works without asking it; so it waits a little before it jumps, and longer before it lets a
node's timeout pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from eventflow.clock import NS, ManualClock

PATIENCE = 0.005  # real seconds without a question before a jump: a step between two questions takes less than 1 ms
TIMEOUT_PATIENCE = (
    1.0  # the same before a jump to the end of a `sleep`, which is how nodes' timeouts wait: a body works
)


class SkippingClock:
    """A manual clock that moves itself: it jumps to the next moment that is waited for once nothing else goes on.

    `patience` is how many real seconds nobody may have asked the time before it jumps to the end of a rest or a wait,
    `timeout_patience` the same for a node's timeout, which passes only if a body really does nothing for so long. Ids
    come from `seed`. Within `held()` it stands still.
    """

    def __init__(
        self, *, patience: float = PATIENCE, timeout_patience: float = TIMEOUT_PATIENCE, seed: int = 0,
        start: int | None = None,
    ) -> None:  # fmt: skip
        self._clock = ManualClock(seed=seed) if start is None else ManualClock(start, seed=seed)
        self._began = self._clock.now()
        self._patience, self._timeout_patience = patience, timeout_patience
        self._asked = 0  # how often anybody wanted something of the clock
        self._holds = 0

    @property
    def elapsed(self) -> float:
        """Seconds that have passed on this clock since it was made."""
        return (self._clock.now() - self._began) / NS

    def now(self) -> int:
        """Wall time in ns since the epoch, UTC."""
        self._asked += 1
        return self._clock.now()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        self._asked += 1
        return self._clock.monotonic()

    def uuid7(self) -> bytes:
        """16 bytes that sort by time of creation, the same for the same seed."""
        self._asked += 1
        return self._clock.uuid7()

    def advance(self, seconds: float) -> None:
        """Move time on by hand, as a ManualClock does."""
        self._asked += 1
        self._clock.advance(seconds)

    def next_wake(self) -> int | None:
        """The earliest moment somebody waits for, or None."""
        return self._clock.next_wake()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within this block time stands still: something is about to come that the clock can't know of."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._asked += 1

    async def wait_until(self, moment: int) -> None:
        """Return once the clock has reached `moment`; it goes there by itself."""
        await self._reached(moment, self._patience)

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of this clock; the end of a node's timeout."""
        await self._reached(self._clock.now() + round(seconds * NS), self._timeout_patience)

    async def _reached(self, moment: int, patience: float) -> None:
        self._asked += 1
        waiting = asyncio.ensure_future(self._clock.wait_until(moment))
        try:
            while not waiting.done():
                asked = self._asked
                await asyncio.wait({waiting}, timeout=patience)
                quiet = self._asked == asked and not self._holds
                if quiet and not waiting.done() and self._clock.next_wake() == moment:
                    self.advance((moment - self._clock.now()) / NS)
        finally:
            waiting.cancel()
