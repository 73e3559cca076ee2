"""Asking a run: a message goes in, and what the run makes of it comes back when it stands still again.

Only the log is read, so the run may be driven by any process.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from eventflow.errors import (
    Conflict,
    InvalidState,
    RunCancelledError,
    RunFailed,
    RunNotFound,
    RunTimedOutError,
    Stopped,
)
from eventflow.event import Rewound, SignalReceived, SignalRefused, WaitClosed, WaitOpened
from eventflow.log import Head, Log
from eventflow.plain import thaw
from eventflow.recovery import history, recover
from eventflow.state import State, open_waits

POLL = 0.01  # seconds between looks: somebody waits for the answer
ALONE = 100  # looks at a run that nobody drives until it is given up: handing it from one driver to the next takes less
_SAYS = ("signal", "human")  # kinds of waits in which a run has said what it had to say; others are on its way to that


class _Read(NamedTuple):
    """Where the message was read: the version that closed its wait, with what the wait and the state said then."""

    version: int
    wait: str
    branch: str
    visit: int
    field: str | None
    held: Any


async def answered(log: Log, head: Head, message: int) -> Any:
    """What a run answers to a message that was sent after `head`.

    Raises InvalidState if it refuses the message, RunFailed, RunCancelledError, RunTimedOutError, Conflict if it ends or
    goes back without having read it, Stopped if nobody drives it, RunNotFound if it is deleted meanwhile.
    """
    asked, alone = _Asked(log, head, message), 0
    while True:
        now = asked.now()
        alone = alone + 1 if log.owner_gone(now.owner) else 0
        if (state := asked.look(now)) is not None:
            return asked.answer(state)
        if now.status == "completed" and asked.read is not None:
            return asked.answer(recover(log, now).state)
        if (error := _over(recover(log, now).state, now) if now.status in _HALTED else None) is not None:
            raise error
        if alone >= ALONE:
            raise Stopped(head.run_id)
        await asyncio.sleep(POLL)


_HALTED = ("completed", "failed", "cancelled", "timed_out", "paused")


def _over(state: State, head: Head) -> Exception:
    """Why no answer comes from a run that stands or has ended."""
    if state.status == "failed":
        return RunFailed(head.run_id, state.node, state.error)
    if state.status == "cancelled":
        return RunCancelledError(head.run_id, "it ended before it answered")
    if state.status == "timed_out":
        return RunTimedOutError(head.run_id)
    if state.status == "completed":
        return Conflict(f"run {head.run_id} ended without reading the message")
    return Stopped(head.run_id)


class _Asked:
    """A message on its way through a run, as the log tells."""

    def __init__(self, log: Log, head: Head, message: int) -> None:
        self._log, self._head, self._message = log, head, message
        self._seen = head.version
        self._received = 0  # the version at which the run took it from its inbox
        self.read: _Read | None = None

    def now(self) -> Head:
        """Where the run's history ends. Raises RunNotFound."""
        head = self._log.head_of(self._head.run_key)
        if head is None:
            raise RunNotFound(self._head.run_id)
        return head

    def look(self, now: Head) -> State | None:
        """The state that holds the answer, if the run has come to it. Raises InvalidState, Conflict."""
        first, self._seen = self._seen + 1, now.version
        for recorded in history(self._log, now.run_key, first, now.version):
            event = recorded.event
            if isinstance(event, WaitClosed) and event.message == self._message:
                self.read = self._opened(now, recorded.version, event.branch)
            elif isinstance(event, SignalRefused) and event.message == self._message:
                raise InvalidState("payload", event.why.removeprefix("state field payload: "))
            elif isinstance(event, SignalReceived) and event.message == self._message:
                self._received = recorded.version
            elif isinstance(event, Rewound):
                self._back(event)
            elif isinstance(event, WaitOpened) and self.read is not None and event.kind in _SAYS:
                state = recover(self._log, now, recorded.version).state
                if self._said(self.read, event, state):
                    return state
        return None

    def answer(self, state: State) -> Any:
        """What a state holds of the answer."""
        field = None if self.read is None else self.read.field
        return thaw(state.data) if field is None else thaw(state.data.get(field))

    def _back(self, event: Rewound) -> None:
        """The run went back: the message may have to be read again, or is lost."""
        if self.read is not None and event.to < self.read.version:
            self.read = None
        kept = any(one["message"] == self._message for one in event.signals)
        if self._received and event.to < self._received and not kept:
            raise Conflict(f"run {self._head.run_id} went back to before it had the message, without it")

    def _opened(self, now: Head, version: int, branch: str) -> _Read:
        state = recover(self._log, now, version - 1).state
        for where, wait in open_waits(state):
            if where == branch:
                field = wait["spec"].get("answers")
                held = state.data.get(field) if isinstance(field, str) else None
                return _Read(version, wait["name"], branch, state.visit, field, held)
        return _Read(version, "", branch, state.visit, None, None)

    def _said(self, read: _Read, opened: WaitOpened, state: State) -> bool:
        """Whether a run that stands still again has said what it had to say.

        It has when it waits for the next message, and when it waits for something else and the field has changed: a
        question to a person may come before the answer. What a branch says is in the state once all are joined.
        """
        if read.branch and state.visit == read.visit:
            return False
        if read.field is None or opened.name == read.wait:
            return True
        return bool(state.data.get(read.field) != read.held)
