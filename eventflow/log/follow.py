"""The feed: every event of a store in order of position, and then the new ones as they come.

Each look is one short read; nothing is held open while waiting, so that a follower never keeps old pages alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from eventflow.codec import TOMBSTONE, Stored
from eventflow.log.protocol import Log

POLL = 0.05  # seconds between looks at the last transaction: a look takes 2 us
PAGE = 1_000  # events a look takes at most


async def follow(log: Log, after: int = 0, *, poll: float = POLL) -> AsyncIterator[Stored]:
    """Events from position `after` + 1 on, for ever; deleted ones are left out."""
    async for page in pages(log, lambda last: log.feed(last, PAGE), after, poll=poll):
        for stored in page:
            yield stored


async def pages(
    log: Log, read: Callable[[int], list[Stored]], after: int, *, poll: float = POLL
) -> AsyncIterator[list[Stored]]:
    """Pages of what `read` gives after a position, and new ones as something is written, for ever; without deleted events."""
    seen = -1
    while True:
        mark = log.change_mark()
        if mark == seen:
            await asyncio.sleep(poll)
            continue
        seen = mark
        while page := read(after):
            after = page[-1].position
            yield [stored for stored in page if stored.data[:1] != TOMBSTONE]
