"""Lists of facts on their way into an append: who asked for them, what they become together, whether they still hold.

What a journal decides about them and when they are appended is not here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from eventflow.codec import Packed
from eventflow.event import Event, RunCancelled, RunFailed, RunSuspended, RunTimedOut, Vouch
from eventflow.plain import FrozenDict
from eventflow.state import State

_ENDS = (RunFailed, RunCancelled, RunTimedOut)


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


def joined(lists: list[Asked]) -> Asked:
    """Several lists of facts as one, to go in one append."""
    return Asked(
        tuple(event for one in lists for event in one.events), tuple(packed for one in lists for packed in one.packed),
        tuple(message for one in lists for message in one.taken), None, any(one.release for one in lists),
    )  # fmt: skip
