"""Standing still: what a driver does in a node that waits for a signal, a person or a time.

The wait is opened as a fact, so that it has an id and a limit whatever happens to this process; what closes it and the
transition that follows are one append.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from eventflow.address import find_run
from eventflow.errors import EventflowError, InvalidState, NotWaiting
from eventflow.event import SignalRefused, WaitOpened
from eventflow.log import Log
from eventflow.plain import EMPTY, FrozenDict, freeze
from eventflow.recovery import recover
from eventflow.run import Journal
from eventflow.workflow import Pause, Workflow, answer_name


class WaitTimedOut(EventflowError, TimeoutError):
    """What a run waited for did not come in time."""


class Bell:
    """Rings when a message has come in or the run is to be let go."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake who waits."""
        self._rung.set()

    async def wait(self) -> None:
        """Return when it has rung since the last time."""
        await self._rung.wait()
        self._rung.clear()


async def opened(journal: Journal, flow: Workflow, pause: Pause) -> FrozenDict:
    """The wait of the node a run stands on; it is opened if it is not yet."""
    state = journal.state
    if state.wait is None:
        opening = pause.opening(flow.schema.view(state.data), journal.shop.clock.now())
        spec: FrozenDict = EMPTY if opening.spec is None else freeze(opening.spec, "the wait")
        state = await journal.record(
            WaitOpened(state.node, opening.kind, opening.name, opening.until, opening.restore, spec)
        )
    assert state.wait is not None  # noqa: S101 - a wait was opened just now
    return state.wait


async def come(journal: Journal, pause: Pause, bell: Bell) -> tuple[str, int, Any] | None:
    """How a wait ends: (outcome, message, payload); None if the run is to be let go first."""
    wait = journal.state.wait
    assert wait is not None  # noqa: S101 - the caller opened it
    name = answer_name(wait["id"]) if wait["kind"] == "human" else wait["name"]
    for signal in journal.state.signals:
        if signal["name"] == name and wait["kind"] != "timer":
            try:
                return "signal", signal["message"], pause.accepted(signal["payload"])
            except InvalidState as error:
                await journal.record(SignalRefused(signal["message"], str(error)))
                return await come(journal, pause, bell)
    clock = journal.shop.clock
    if wait["until"] and clock.now() >= wait["until"]:
        return "timeout", 0, None
    rung = asyncio.ensure_future(bell.wait())
    limit = asyncio.ensure_future(clock.wait_until(wait["until"])) if wait["until"] else None
    try:
        await asyncio.wait({rung, limit} if limit is not None else {rung}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rung.cancel()
        if limit is not None:
            limit.cancel()
    return None


def question(log: Log, run: str, flows: Mapping[str, Workflow], answer: Any) -> str:
    """The name of the signal that answers what a run asks. Raises RunNotFound, NotWaiting, InvalidState."""
    state = recover(log, find_run(log, run, whole=True)).state
    wait = state.wait
    if wait is None or wait["kind"] != "human" or state.ended:
        raise NotWaiting(run, state.status)
    flow = flows.get(state.run.workflow)
    body = flow.nodes[state.node].body if flow is not None and state.node in flow.nodes else None
    if isinstance(body, Pause):
        body.accepted(answer)
    return answer_name(wait["id"])
