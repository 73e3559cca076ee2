"""Lists of facts on their way into an append: who asked for them, what they become together, whether they still hold.

What a journal decides about them and when they are appended is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from eventflow.codec import Packed
from eventflow.event import (
    Event,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunSuspended,
    RunTimedOut,
    Transitioned,
    UndoBegan,
    Vouch,
)
from eventflow.log import Answer, Append
from eventflow.plain import FrozenDict
from eventflow.state import State

Door = Callable[[Append], Awaitable[Answer]]  # appends at another place; raises what was refused
_ENDS = (RunFailed, RunCancelled, RunTimedOut)
# Facts that move the run: what was true of the visit before may not be true any more.
_TURNS = (Transitioned, RunCompleted, RunFailed, RunCancelled, RunTimedOut, UndoBegan)


@dataclass(slots=True)
class Asked:
    """A list of facts, packed, and who waits for it (nobody, if its caller does the append itself)."""

    events: tuple[Event, ...]
    packed: tuple[Packed, ...]
    taken: tuple[int, ...]
    after: FrozenDict | None
    release: bool
    visit: int = 0
    undoing: bool = False  # what the run had done was being taken back already when this was asked
    door: Door | None = None  # where it is appended, if not by the store's writer; it then goes alone
    done: asyncio.Future[State] | None = None


def tell(asked: Asked, answer: State | Exception) -> None:
    """Answer who waits for a list of facts, if anybody does."""
    done = asked.done
    if done is None or done.done():
        return
    if isinstance(answer, Exception):
        done.set_exception(answer)
        done.exception()  # if nobody waits any more, that is no news
    else:
        done.set_result(answer)


def vouching(packed: tuple[Packed, ...], vouch: Vouch | None) -> tuple[Packed, ...]:
    """The facts with the newest snapshot's digest in the first one's header, if nothing vouches for it yet."""
    if vouch is None or not packed:
        return packed
    header = {**packed[0].header, "snapshot": [vouch.version, vouch.digest]}
    return (packed[0]._replace(header=header), *packed[1:])


def overtaken(state: State, one: Asked) -> bool:
    """Whether facts were decided on before it was known that what the run did is to be taken back: they hold no more.

    Either the taking back began since, or a call finished since that must be taken back before the run may end so.
    """
    last = one.events[-1] if one.events else None
    if state.undoing is None:
        return isinstance(last, _ENDS)
    return not one.undoing and last is not None and not isinstance(last, RunSuspended)


async def through(door: Door, append: Append) -> tuple[Answer, bool]:
    """What a door answers, waited for to the end; and whether the caller was cancelled meanwhile. Raises its error."""
    work, cancelled = asyncio.ensure_future(door(append)), False
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            cancelled = True
    return work.result(), cancelled


def next_lists(waiting: list[Asked]) -> int:
    """How many of the lists that wait go into the next append.

    Nothing follows a fact that moves the run, for it may be too late then; what goes through a door goes alone.
    """
    for count, one in enumerate(waiting, 1):
        if one.door is not None:
            return max(count - 1, 1)
        if one.release or any(isinstance(event, _TURNS) for event in one.events):
            return count
    return len(waiting)


def joined(lists: list[Asked]) -> Asked:
    """Several lists of facts as one, to go in one append."""
    return Asked(
        tuple(event for one in lists for event in one.events), tuple(packed for one in lists for packed in one.packed),
        tuple(message for one in lists for message in one.taken), None, any(one.release for one in lists),
    )  # fmt: skip
