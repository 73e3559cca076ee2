"""Everything that is recorded in a store, or of one run, as it comes: for a program that follows along and may restart.

A subscriber remembers one number, the position of the last event it is done with, and goes on after it, in this process
or in the next. Nothing is held open while it waits, and nobody waits for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from eventflow.address import find_run
from eventflow.codec import Stored, read_events
from eventflow.event import Recorded
from eventflow.log import Log
from eventflow.log.follow import POLL, pages

PAGE = 500  # events read in one go: a few ms, during which the loop does nothing else


@runtime_checkable
class HasLog(Protocol):
    """What has an open log: an engine."""

    @property
    def log(self) -> Log:
        """The open log."""
        ...


async def subscribe(
    source: Log | HasLog, after: int = 0, *, run: str | None = None, poll: float = POLL
) -> AsyncIterator[Recorded]:
    """Every event of a store after a position, oldest first, and then each new one as it comes, whoever records it.

    `source` is a log or an engine. `run` asks for the events of one run alone, by its whole id; those that a fork shares
    with its parent are the parent's. The store's own stream is part of the store; events of deleted runs are left out.
    It never ends by itself. Raises RunNotFound, StoreClosed, Corrupt, WrittenByNewer.
    """
    log = source.log if isinstance(source, HasLog) else source
    key = None if run is None else find_run(log, run, whole=True).run_key
    async for page in pages(log, lambda last: _next(log, key, last), after, poll=poll):
        for recorded in read_events(page, log.blobs):
            yield recorded


def _next(log: Log, key: bytes | None, after: int) -> list[Stored]:
    return log.feed(after, PAGE) if key is None else _of_run(log, key, after)


def _of_run(log: Log, run_key: bytes, after: int) -> list[Stored]:
    """The next events of a run after a position: positions rise with versions, so the first one is found by halving."""
    head, entry = log.head_of(run_key), log.entry(run_key)
    if head is None or entry is None:  # deleted
        return []
    versions = range(entry.parent_at + 1, head.version + 1)

    def position(version: int) -> int:
        return next((one.position for one in log.read(run_key, version, version)), 0)

    first = entry.parent_at + 1 + bisect_right(versions, after, key=position)
    return log.read(run_key, first, min(first + PAGE - 1, head.version))
