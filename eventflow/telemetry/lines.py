"""Recorded events as log lines. The only file that imports structlog; a library that uses this never configures it.

`log_lines()` is a listener for an engine: it is called after the commit, so a log line can neither delay nor undo a fact.
Payloads are not logged: names, numbers and times only.
"""

from __future__ import annotations

from typing import Any

import structlog

from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Forked,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.markup import visible
from eventflow.quota import LimitNear
from eventflow.run import CheckpointTaken, Listener, Notice, RecoveryOutOfReach
from eventflow.state import State

EVENT_NAMES: dict[type, str] = {
    RunStarted: "run.started",
    Transitioned: "transition.committed",
    RunCompleted: "run.completed",
    AttemptFailed: "attempt.failed",
    RunFailed: "run.failed",
    RunResumed: "run.resumed",
    RunSuspended: "run.suspended",
    SignalRefused: "signal.refused",
    WaitOpened: "wait.opened",
    WaitClosed: "wait.closed",
    RunParked: "run.parked",
    RunPaused: "run.paused",
    RunCancelled: "run.cancelled",
    RunTimedOut: "run.timed_out",
    NodeSkipped: "node.skipped",
    UndoBegan: "undo.began",
    BranchesOpened: "branches.opened",
    BranchFinished: "branch.finished",
    BranchFailed: "branch.failed",
    SignalReceived: "signal.received",
    EffectStarted: "effect.started",
    EffectFinished: "effect.finished",
    EffectFailed: "effect.failed",
    EffectRejected: "effect.rejected",
    Rewound: "run.rewound",
    Forked: "run.forked",
    CheckpointTaken: "checkpoint.taken",
    RecoveryOutOfReach: "recovery.out_of_reach",
    LimitNear: "limit.near",
}
_WARNINGS = frozenset(
    {
        AttemptFailed,
        BranchFailed,
        EffectFailed,
        RunFailed,
        RunParked,
        RunTimedOut,
        UndoBegan,
        RecoveryOutOfReach,
        LimitNear,
    }
)


def log_lines(logger: Any = None) -> Listener:
    """A listener that logs each recorded event through structlog, or through a logger of one's own."""
    target = structlog.get_logger("eventflow") if logger is None else logger

    def listener(state: State, notice: Notice) -> None:
        kind = type(notice.event) if isinstance(notice, Recorded) else type(notice)
        name = EVENT_NAMES.get(kind, kind.__name__)
        say = target.warning if kind in _WARNINGS else target.info
        say(name, run_id=state.run.run_id, workflow=state.run.workflow, **_details(state, notice))

    return listener


def _details(state: State, notice: Notice) -> dict[str, Any]:
    if isinstance(notice, CheckpointTaken):
        mark = notice.checkpoint
        return {
            "checkpoint": mark.id,
            "kinds": list(mark.kinds),
            "bytes": mark.size,
            "seconds": round(notice.seconds, 6),
        }
    if isinstance(notice, RecoveryOutOfReach):
        return {"version": notice.version, "target": notice.target, "seconds": round(notice.estimate, 6)}
    if isinstance(notice, LimitNear):
        return {"version": notice.version, "what": notice.what, "used": notice.used, "limit": notice.limit}
    found: dict[str, Any] = {"version": notice.version, "position": notice.position}
    event = notice.event
    for field in ("node", "to", "trigger", "name", "key", "attempt"):
        if hasattr(event, field):
            found["from" if field == "node" and isinstance(event, Transitioned) else field] = getattr(event, field)
    error = getattr(event, "error", None)
    if error is not None:
        found["error"] = error.type
    found["status"] = state.status
    return found


def to_stderr(*, json_lines: bool = False) -> None:
    """Configure structlog for a command line: lines on stderr, as text or JSON. Programs only; a library must not."""
    import sys  # noqa: PLC0415 - only a program asks

    last: list[Any] = [structlog.processors.JSONRenderer()]  # which escapes what is not ASCII
    if not json_lines:
        last = [_visible, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def _visible(_logger: Any, _method: str, values: Any) -> Any:
    """Texts with their control characters as escapes: a name from a log must not command a terminal."""
    return {key: _escaped(value) if isinstance(value, str) else value for key, value in values.items()}


def _escaped(text: str) -> str:
    return visible(text)  # secrets hidden, no character obeyed
