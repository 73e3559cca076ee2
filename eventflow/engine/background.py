"""What an open engine does beside its runs is a task that goes on until it is stopped; here it is stopped.

What the tasks do, and how often, stands in the files of those that have one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def stopped(task: asyncio.Task[None] | None) -> None:
    """Return when a task is over, cancelled if it was not; None is over. Raises what ended it before that, if anything did."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
