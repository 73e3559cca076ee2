"""An event loop on which time is a number: whoever waits is woken at once, in the order of the moments waited for.

A program that only computes and waits runs on it in a fraction of the time, and in the same way each time. Nothing here
knows what runs on it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

TURN = (
    1e-5  # seconds that a turn of the loop takes: who asks again and again must not keep what it waits for from coming
)


class Stuck(Exception):
    """Everything waits for something that never comes."""


class _NoWait(selectors.BaseSelector):
    """A selector that never waits: where it would, time moves on."""

    def __init__(self) -> None:
        self._inner = selectors.DefaultSelector()
        self.time = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.time += TURN
        if found := self._inner.select(0):
            return found
        if timeout is None:
            raise Stuck("everything waits, and nothing will come")
        self.time += max(timeout, 0.0)
        return []

    def close(self) -> None:
        self._inner.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop of its own time, in seconds from 0."""

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        """Seconds since the loop was made, as it counts them."""
        return self._no_wait.time
