"""Standing still: what a driver does in a place that waits for a signal, a person, a time, a child or a word on a call.

The wait is opened as a fact, so that it has an id and a limit whatever happens to this process; what closes it and what
follows are one append. Who waits may be the run or one branch of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eventflow.address import find_run
from eventflow.errors import ChildFailed, EventflowError, InvalidState, NotWaiting, SettingsError
from eventflow.event import SignalRefused, WaitOpened
from eventflow.log import Log
from eventflow.plain import EMPTY, FrozenDict, freeze
from eventflow.recovery import recover
from eventflow.run import Journal
from eventflow.state import State, branch, open_waits
from eventflow.workflow import Child, Pause, Split, Workflow, answer_name, child_id, end_name

PARK_AFTER = 0.5  # seconds a run stands still before it leaves memory: taking it up again costs a read of the log


class WaitTimedOut(EventflowError, TimeoutError):
    """What a run waited for did not come in time."""


class Bell:
    """Rings when a message has come in or the run is to be let go; any number may wait for it."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake who waits."""
        self.count += 1
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def wait(self, seen: int) -> None:
        """Return when it has rung since it had rung `seen` times."""
        if self.count == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter


class Came(NamedTuple):
    """How a wait ended: `outcome` is signal or timeout."""

    outcome: str
    message: int
    payload: Any


Spawn = Callable[
    [Child, str, Any, State], Awaitable[None]
]  # start a child's run: its node, its id, its input, its caller


@dataclass(frozen=True, slots=True)
class Place:
    """Where code runs and waits are open: a run's node, or one branch of it.

    `claimed` holds the numbers of messages that are being let in, which are no one else's among those who share it.
    """

    journal: Journal
    bell: Bell
    node: str
    spawn: Spawn
    branch: str = ""
    claimed: set[int] = field(default_factory=set)

    @property
    def wait(self) -> FrozenDict | None:
        """The wait that is open here."""
        state = self.journal.state
        if not self.branch:
            return state.wait
        return None if state.branches is None else branch(state.branches, self.branch).get("wait")

    async def opened(self, pause: Pause, view: Any) -> FrozenDict:
        """The wait of a pause; it is opened if it is not yet, and a child's run started."""
        if self.wait is None:
            state = self.journal.state
            opening = pause.opening(view, self.journal.shop.clock.now())
            spec: FrozenDict = EMPTY if opening.spec is None else freeze(opening.spec, "the wait")
            name = opening.name
            if isinstance(pause, Child):
                name = child_id(state.run.run_id, self.node, max(state.visit, state.line), self.branch)
            await self.journal.record(
                WaitOpened(self.node, opening.kind, name, opening.until, opening.restore, spec, self.branch),
                visit=state.visit,
            )
        wait = self.wait
        assert wait is not None  # noqa: S101 - a wait was opened just now
        if isinstance(pause, Child) and not self._heard(end_name(wait["name"])):
            await self.spawn(pause, wait["name"], wait["spec"]["input"], self.journal.state)
        return wait

    def _heard(self, name: str) -> bool:
        return any(one["name"] == name for one in self.journal.state.signals)

    async def come(self, accepted: Callable[[Any], Any]) -> Came | None:
        """What has come for the wait that is open here, or None. A message that will not do is put aside."""
        wait = self.wait
        if wait is None:
            return None
        name = _signal_name(wait)
        for signal in self.journal.state.signals:
            if signal["name"] == name and signal["message"] not in self.claimed:
                self.claimed.add(signal["message"])
                try:
                    return Came("signal", signal["message"], accepted(signal["payload"]))
                except ChildFailed as error:
                    error.message = signal["message"]
                    raise
                except InvalidState as error:
                    await self.journal.record(SignalRefused(signal["message"], str(error)))
                    return await self.come(accepted)
        if wait["until"] and self.journal.shop.clock.now() >= wait["until"]:
            return Came("timeout", 0, None)
        return None

    async def rest(self, until: int, seen: int) -> None:
        """Return at a moment (ns; 0: never) or when the bell has rung since it had rung `seen` times."""
        rung = asyncio.ensure_future(self.bell.wait(seen))
        limit = asyncio.ensure_future(self.journal.shop.clock.wait_until(until)) if until else None
        try:
            await asyncio.wait({rung, limit} if limit is not None else {rung}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            rung.cancel()
            if limit is not None:
                limit.cancel()


def _signal_name(wait: FrozenDict) -> str | None:
    """The name of the message that a wait is for; a timer is for none, nor is a call whose outcome is unknown."""
    kind = wait["kind"]
    if kind == "human":
        return answer_name(wait["id"])
    if kind == "child":
        return end_name(wait["name"])
    return str(wait["name"]) if kind == "signal" else None


def next_moment(state: State) -> int:
    """The earliest moment at which something happens to a run that stands still; 0 if only a message wakes it."""
    moments = [wait["until"] for _, wait in open_waits(state) if wait["until"]]
    if state.run.deadline:
        moments.append(state.run.deadline)
    return min(moments, default=0)


def suspends(state: State) -> bool:
    """Whether letting a standing run go must be recorded: a limit goes on from there, or begins anew."""
    return any(wait["until"] and wait["restore"] != "deadline" for _, wait in open_waits(state))


def question(log: Log, run: str, flows: Mapping[str, Workflow], answer: Any, *, wait: int | None = None) -> str:
    """The name of the signal that answers what a run asks; `wait` says which, where it asks more than one thing.

    Raises RunNotFound, NotWaiting, InvalidState, SettingsError.
    """
    state = recover(log, find_run(log, run, whole=True)).state
    asked = {one["id"]: (branch, one) for branch, one in open_waits(state) if one["kind"] == "human"}
    if state.ended or not asked or (wait is not None and wait not in asked):
        raise NotWaiting(run, state.status)
    if wait is None and len(asked) > 1:
        ids = ", ".join(f"{number} ({branch or state.node})" for number, (branch, _) in asked.items())
        raise SettingsError(f"run {run} asks more than one thing; say which you answer, by its wait: {ids}")
    number = wait if wait is not None else next(iter(asked))
    body = _asking(flows, state, asked[number][0])
    if body is not None:
        body.accepted(answer)
    return answer_name(number)


def _asking(flows: Mapping[str, Workflow], state: State, branch: str) -> Pause | None:
    """The node or branch that asks, if its workflow is known here and it is a node that does nothing else."""
    flow = flows.get(state.run.workflow)
    node = None if flow is None else flow.nodes.get(state.node)
    if node is not None and branch:
        split = node.body
        node = (node.branches or {}).get(split.body_name(branch)) if isinstance(split, Split) else None
    return None if node is None else node.pause
