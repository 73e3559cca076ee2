"""What models say while they say it, for whoever wants to listen from outside the run: a page, a terminal, a test.

Nothing here is durable or part of a run: what a model has said is in the log once, as a whole, when it has ended.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from typing import NamedTuple, Self

LIMIT = 10_000  # pieces that may lie before a listener who does not come for them, some MB; then the oldest are dropped


class Delta(NamedTuple):
    """A piece of a model's text, and where it is spoken."""

    run_id: str
    node: str
    text: str


class Deltas:
    """Pieces of streamed text for any number of listeners: `deltas = Deltas(); Agent(..., stream=True, on_delta=deltas)`.

    `async for run_id, node, text in deltas.follow()` gives what is said from the call of `follow` on, of all runs whose
    agents have it as their `on_delta`, or of one. It may be called from any thread, and listened to in any loop.
    """

    def __init__(self) -> None:
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()  # who has gone away is not told any more
        self._closed = False
        self._lock = threading.Lock()  # a set can't be walked while another thread adds to it

    def __call__(self, run_id: str, node: str, text: str) -> None:
        """Tell a piece to whoever listens."""
        for one in self._listening():
            one.hear(Delta(run_id, node, text))

    def follow(self, run_id: str | None = None) -> Listener:
        """What is said from now on, as an async iterator; of one run, if it is named. Needs a running event loop."""
        listener = Listener(run_id)
        with self._lock:
            self._listeners.add(listener)
        if self._closed:
            listener.end()
        return listener

    def close(self) -> None:
        """Let all listeners end once they have had what was said."""
        self._closed = True
        for one in self._listening():
            one.end()

    def _listening(self) -> list[Listener]:
        with self._lock:
            return list(self._listeners)


class Listener:
    """An async iterator over pieces of text, which ends when its `Deltas` is closed; `lost` counts those it came late for."""

    def __init__(self, run_id: str | None = None) -> None:
        self.lost = 0
        self._run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[Delta] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False

    def hear(self, piece: Delta) -> None:
        """Take a piece in; from any thread."""
        if self._run_id in (None, piece.run_id):
            self._on_loop(piece)

    def end(self) -> None:
        """Nothing more will be said; from any thread."""
        self._on_loop(None)

    def _on_loop(self, piece: Delta | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, piece)

    def _take(self, piece: Delta | None) -> None:
        if piece is None:
            self._ended = True
        elif len(self._pieces) >= LIMIT:
            self._pieces.popleft()
            self.lost += 1
        if piece is not None:
            self._pieces.append(piece)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._pieces:
            if self._ended:
                raise StopAsyncIteration
            self._waiting = self._loop.create_future()
            await self._waiting
        return self._pieces.popleft()
