"""How full the store is, looked at now and then, and what that means for whoever begins a run.

What becomes of runs that have begun is decided between their nodes, see `eventflow.run.tally`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from eventflow.clock import NS
from eventflow.engine.background import stopped
from eventflow.errors import EventflowError, StoreOverQuota
from eventflow.log import Log
from eventflow.quota import NO_QUOTA, Quota
from eventflow.run import Shop

WATCH_EVERY = 5.0  # seconds: at 100 MB a second half a GB is written between two looks, and the reserve is for that


def quota_for(given: Quota | None, log: Log) -> Quota:
    """The quota of an engine: a history that ends with its process can't be compacted, and has no limit unless asked for."""
    if given is not None:
        return given
    return Quota() if log.durable else NO_QUOTA


async def check_room(shop: Shop) -> None:
    """Refuse to begin a run where the store has no room for it. Raises StoreOverQuota."""
    store, limit = shop.store, shop.store.quota.store_bytes
    if limit is None:
        return
    await asyncio.to_thread(store.look, shop.log, shop.clock)
    if store.full:
        raise StoreOverQuota(store.used, limit)


class Watching:
    """Looks at the size of one open engine's store, if that has a limit."""

    def __init__(self, shop: Shop, *, every: float = WATCH_EVERY) -> None:
        self._shop, self._every = shop, every
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at once, and from then on in the background."""
        if self._shop.store.quota.store_bytes is not None:
            await self._look()
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        await stopped(task)

    async def _work(self) -> None:
        clock = self._shop.clock
        while True:
            await clock.wait_until(clock.now() + round(self._every * NS))
            await self._look()

    async def _look(self) -> None:
        shop = self._shop
        with suppress(EventflowError):  # a store that can't be asked now is told of by whoever appends
            await asyncio.to_thread(shop.store.look, shop.log, shop.clock)
