"""Asking a run: a message goes in, and what the run makes of it comes back when it stands still again.

Only the log is read, so the run may be driven by any process.
"""

from __future__ import annotations

import asyncio
from typing import Any

from eventflow.errors import InvalidState, RunCancelledError, RunFailed, Stopped
from eventflow.event import SignalRefused, WaitClosed, WaitOpened
from eventflow.log import Head, Log
from eventflow.plain import thaw
from eventflow.recovery import history, recover
from eventflow.state import State, open_waits

POLL = 0.01  # seconds between looks: somebody waits for the answer
_ENDED = ("completed", "failed", "cancelled", "timed_out")


async def answered(log: Log, head: Head, message: int) -> Any:
    """What a run answers to a message. Raises InvalidState, RunFailed, RunCancelledError, Stopped."""
    closed = await _closed(log, head, message)
    field = _field(recover(log, _now(log, head), closed.version - 1).state, closed.branch)
    state = await _standing(log, head, closed.version)
    if state.status == "failed":
        raise RunFailed(head.run_id, state.node, state.error)
    if state.status in ("cancelled", "timed_out"):
        raise RunCancelledError(head.run_id, "it ended before it answered")
    data = thaw(state.data)
    return data if field is None else data.get(field)


class _Closed:
    """The version at which the wait that a message was for was closed, and the branch it was of."""

    def __init__(self, version: int, branch: str) -> None:
        self.version, self.branch = version, branch


async def _closed(log: Log, head: Head, message: int) -> _Closed:
    seen = head.version
    while True:
        now = _now(log, head)
        for recorded in history(log, head.run_key, seen + 1, now.version):
            event = recorded.event
            if isinstance(event, WaitClosed) and event.message == message:
                return _Closed(recorded.version, event.branch)
            if isinstance(event, SignalRefused) and event.message == message:
                raise InvalidState("the message", event.why)
        seen = now.version
        if now.status in _ENDED or now.status == "paused":
            raise Stopped(head.run_id)
        await asyncio.sleep(POLL)


async def _standing(log: Log, head: Head, after: int) -> State:
    """The state in which the run stands still, or is over, after a version."""
    seen = after
    while True:
        now = _now(log, head)
        for recorded in history(log, head.run_key, seen + 1, now.version):
            if isinstance(recorded.event, WaitOpened):
                return recover(log, now, recorded.version).state
        seen = now.version
        if now.status in _ENDED or now.status == "paused":
            return recover(log, now).state
        await asyncio.sleep(POLL)


def _now(log: Log, head: Head) -> Head:
    return log.head_of(head.run_key) or head


def _field(state: State, branch: str) -> str | None:
    """The field that the open wait says holds its answer."""
    for where, wait in open_waits(state):
        if where == branch:
            field = wait["spec"].get("answers")
            return field if isinstance(field, str) else None
    return None
