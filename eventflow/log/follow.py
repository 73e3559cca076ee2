"""The feed: every event of a store in order of position, and then the new ones as they come.

Each look is one short read; nothing is held open while waiting, so that a follower never keeps old pages alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from eventflow.codec import TOMBSTONE, Stored
from eventflow.log.protocol import Log

POLL = 0.05  # seconds between looks at the last transaction: a look takes 2 us
PAGE = 1_000  # events a look takes at most


async def follow(log: Log, after: int = 0, *, poll: float = POLL) -> AsyncIterator[Stored]:
    """Events from position `after` + 1 on, for ever; deleted ones are left out."""
    seen = -1
    while True:
        mark = log.change_mark()
        if mark == seen:
            await asyncio.sleep(poll)
            continue
        seen = mark
        while page := log.feed(after, PAGE):
            after = page[-1].position
            for stored in page:
                if stored.data[:1] != TOMBSTONE:
                    yield stored
