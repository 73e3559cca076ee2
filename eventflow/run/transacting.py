"""A transaction of a node's own in the store's database: made, and committed together with the fact that it was made.

The function runs on a thread while the transaction is open; the fact is appended within it, in the turn of the run's other
facts, on another thread: those for calls may all be waiting for what this one is about to let go. What the database took back has not happened, and is made again. Nothing here knows a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from eventflow.errors import RolledBack
from eventflow.event import EffectFinished
from eventflow.log import Answer, Append, Log, Transaction
from eventflow.plain import freeze, thaw
from eventflow.run.journal import Journal
from eventflow.run.threads import Threads

TRIES = 5  # of what the database took back: more of them mean that it will not be had


def can_transact(log: Log) -> bool:
    """Whether a log is in a database that can be written to beside it."""
    return hasattr(getattr(log, "inner", log), "transaction")


async def transacted(
    journal: Journal, calls: Threads, function: Callable[..., Any], finished: Callable[[Any], EffectFinished], *,
    check: Callable[[], None], visit: int,
) -> Any:  # fmt: skip
    """What a function returns that is given a connection, once that is recorded and committed with what it wrote.

    Raises what it raises, NotPlainData, RolledBack if the database took it back again and again, what the log raises, and
    RunLost if `visit` is over; then nothing of it is kept.
    """
    for left in reversed(range(TRIES)):
        check()
        work: Transaction = journal.shop.log.transaction()  # type: ignore[attr-defined]
        try:
            return await _kept(journal, calls, work, function, finished, check, visit)
        except RolledBack:
            if not left:
                raise
        finally:
            asyncio.get_running_loop().run_in_executor(None, work.undo)  # nothing, if it is over
    raise AssertionError  # pragma: no cover - the loop returns or raises


async def _kept(  # noqa: PLR0917 - the caller's, one by one
    journal: Journal, calls: Threads, work: Transaction, function: Callable[..., Any],
    finished: Callable[[Any], EffectFinished], check: Callable[[], None], visit: int,
) -> Any:  # fmt: skip
    value = await asyncio.wrap_future(calls.submit(work.call, function))
    output = journal.shop.clean(freeze(value, "the result of a transaction"))
    check()

    async def commit(append: Append) -> Answer:
        return await asyncio.to_thread(work.finish, append)

    await journal.record(finished(output), visit=visit, door=commit)
    return thaw(output)
