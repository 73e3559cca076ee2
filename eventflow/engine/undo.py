"""Taking back what a run did, before it ends otherwise than well: its compensations, the newest first.

Each is a call like any other: started and finished durably, made once, tried again when it fails. If one fails for good
the run ends as failed and keeps what is left to undo; resuming it goes on with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from eventflow.clock import NS
from eventflow.errors import (
    DefinitionError,
    EffectUnknown,
    EventflowError,
    NodeCancelled,
    RunLost,
    StoreUnusable,
)
from eventflow.event import (
    AttemptFailed,
    EffectFinished,
    Event,
    Failure,
    RunCancelled,
    RunFailed,
    RunTimedOut,
    UndoBegan,
)
from eventflow.plain import thaw
from eventflow.retry import RetryPolicy
from eventflow.run import Fetch, Journal, Visit, failure_of, is_failure, takes
from eventflow.state import UNDO, State, effect_id
from eventflow.workflow import Workflow

UNDO_RETRY = RetryPolicy(attempts=3)


def ending_of(
    state: State, ending: str, *, error: Failure | None = None, actor: str = "", why: str = ""
) -> tuple[Event, bool]:
    """The event with which a run ends as failed, cancelled or timed_out, and whether that is its last one.

    It is not where something must be undone first.
    """
    if state.undo and state.undoing is None:
        return UndoBegan(state.node, ending, error, actor, why), False
    if ending == "cancelled":
        return RunCancelled(actor, why), True
    if ending == "timed_out":
        return RunTimedOut(state.node), True
    return RunFailed(state.node, error or Failure("EventflowError", "no cause was recorded")), True


async def end(journal: Journal, ending: str, *, error: Failure | None = None) -> bool:
    """Record that a run ends, or that what it did is undone first; True if this was its last event.

    A call that finishes at this moment counts: it is undone too. Raises RunLost if the run has ended already.
    """
    while True:
        event, ends = ending_of(journal.state, ending, error=error)
        left = len(journal.state.undo)
        try:
            await journal.record(event, release=ends)
        except RunLost:
            if len(journal.state.undo) == left or journal.state.undoing is not None:
                raise
        else:
            return ends


async def undo_one(flow: Workflow, journal: Journal, visit: Visit, event_at: Fetch) -> None:
    """Take back the newest call that is left, or end the run if none is."""
    state = journal.state
    undoing = state.undoing
    assert undoing is not None  # noqa: S101 - the caller looked
    if not state.undo:
        error = None if undoing["error"] is None else Failure(*undoing["error"])
        event, _ = ending_of(state, undoing["ending"], error=error, actor=undoing["actor"], why=undoing["why"])
        await journal.record(event, release=True)
        return
    one = state.undo[-1]
    try:
        function = _function(flow, one["by"])
        finished = event_at(one["at"]).event
        output = thaw(finished.output) if isinstance(finished, EffectFinished) else None
        await visit.effect(
            f"undo {one['name']}", function, output, key=str(len(state.undo)), kind=UNDO,
            mutating=not takes(function, "idempotency_key"),
        )  # fmt: skip
    except (EffectUnknown, StoreUnusable):
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        await _failed(journal, state, NodeCancelled(f"what takes {one['name']!r} back was cancelled by itself"))
    except BaseException as error:
        if (
            not is_failure(error)
            or journal.cut_off is not None
            or (isinstance(error, EventflowError) and journal.state.ended)
        ):
            raise
        await _failed(journal, state, error)


def _function(flow: Workflow, name: str) -> Callable[..., Any]:
    function = flow.compensations.get(name)
    if function is None:
        raise DefinitionError(
            f"workflow {flow.name!r} says no more how to take back {name!r}: add_compensation({name!r}, ...), then resume"
        )
    return function


async def _failed(journal: Journal, state: State, error: BaseException) -> None:
    failure = failure_of(error)
    attempt = _attempt(state, journal.state)
    if attempt < UNDO_RETRY.attempts and failure.retryable:
        rest = UNDO_RETRY.rest(attempt, seed=state.run.run_key)
        retry_at = journal.shop.clock.now() + round(rest * NS)
        await journal.record(AttemptFailed(state.node, attempt, failure, retry_at))
    else:
        await journal.record(RunFailed(state.node, failure), release=True)


def _attempt(before: State, now: State) -> int:
    """Which attempt of a compensation this was: the run counts them all, each call its own, resuming begins anew."""
    one = before.undo[-1]
    entry = now.effects.get(effect_id(f"undo {one['name']}", str(len(before.undo))))
    return before.attempt if entry is None else min(before.attempt, entry["attempt"])
