"""Cleaning up by rules, beside the runs: a bounded step at a time, on another thread, now and then.

What is done is what `eventflow store prune` does. Nothing here decides what goes; see `eventflow.retention`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from eventflow.clock import NS
from eventflow.engine.background import stopped
from eventflow.errors import EventflowError
from eventflow.log.size import shrink
from eventflow.retention.policy import RetentionPolicy
from eventflow.retention.pruning import Pruned, planned, steps
from eventflow.run import Shop

CLEAN_EVERY = 60.0  # seconds from one look at what the rules take to the next: a look lists all runs
REST = 0.01  # seconds between two steps, so that appends of runs go between them


class Cleaning:
    """The rules of one open engine, kept in the background."""

    def __init__(self, shop: Shop, policy: RetentionPolicy | None, *, every: float = CLEAN_EVERY) -> None:
        self._shop, self._policy, self._every = shop, policy, every
        self._task: asyncio.Task[None] | None = None
        self.done = Pruned()  # what was done since the engine was opened

    def start(self) -> None:
        """Begin, if there are rules; the first look is at once."""
        if self._policy is not None:
            self._task = asyncio.get_running_loop().create_task(self._work(self._policy))

    async def stop(self) -> None:
        """End after the step that is being made."""
        task, self._task = self._task, None
        await stopped(task)

    async def _work(self, policy: RetentionPolicy) -> None:
        clock = self._shop.clock
        while True:
            with suppress(EventflowError):  # a store that can't be used now is told of by whoever appends
                await self._clean(policy)
            await clock.wait_until(clock.now() + round(self._every * NS))

    async def _clean(self, policy: RetentionPolicy) -> None:
        shop = self._shop
        plan = await asyncio.to_thread(planned, shop.log, policy, shop.clock.now())
        if not plan.runs and not plan.checkpoints:
            return
        work = steps(shop.log, plan, self.done, policy, clock=shop.clock, write=shop.writer.write_now)
        while await asyncio.to_thread(next, work, None) is not None:  # noqa: ASYNC110 - nothing tells when others had a turn
            await asyncio.sleep(REST)
        while await asyncio.to_thread(shrink, shop.log) > 0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(REST)
