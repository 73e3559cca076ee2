"""What tests of engines have in common: a story run to its end, a wait for what comes soon, a look at what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from eventflow import Run, Workflow
from eventflow.errors import StoreFull
from eventflow.log import Log, MemoryLog
from eventflow.verification import verify_store

LIMIT = 30.0  # seconds: no story takes a tenth of it, on the slowest machine
LOOK = 0.002  # seconds between looks


def story(work: Coroutine[Any, Any, Any]) -> Any:
    """Run an async story to its end."""
    return asyncio.run(asyncio.wait_for(work, LIMIT))


async def until(look: Callable[[], Any]) -> Any:
    """What a look gives, once it gives something."""
    while not (answer := look()):
        await asyncio.sleep(LOOK)
    return answer


async def reached(run: Run, *statuses: str) -> None:
    """Return once a run has one of some statuses."""
    while run.status not in statuses:
        await asyncio.sleep(LOOK)


async def hangs(state: Any) -> None:
    """Never return."""
    await asyncio.Event().wait()


def single(body: Any, **options: Any) -> Workflow:
    """A workflow of one node."""
    return Workflow("w").add_node("a", body, **options).set_start("a")


def names(run: Run) -> list[str]:
    """The names of a run's events."""
    return [type(one.event).__name__ for one in run.events()]


def is_whole(log: Log) -> bool:
    """Whether verification finds nothing wrong in a store."""
    return not list(verify_store(log))[-1].findings


def sound(log: Log) -> None:
    """The store holds nothing that does not fit."""
    *_, report = verify_store(log)
    assert not report.findings


class Full(MemoryLog):
    """A log whose disk is full for as long as it is said."""

    full = False

    def write(self, batch: Any) -> Any:
        """Refused while it is full."""
        if self.full:
            raise StoreFull("the disk is full")
        return super().write(batch)
