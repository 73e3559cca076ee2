"""The few colours of what is listed, taken from the theme in use, and the words they stand for."""

from __future__ import annotations

from collections.abc import Mapping

from eventflow.state import Status

_STATUS: dict[str, str] = {
    "completed": "text-success", "failed": "text-error", "timed_out": "text-error", "cancelled": "text-error", "running": "text-accent",
    "waiting": "text-warning", "paused": "text-warning", "pending": "text-warning",
}  # fmt: skip
_EVENTS: dict[str, str] = {
    "RunStarted": "text-accent", "RunCompleted": "text-success", "RunFailed": "text-error", "RunTimedOut": "text-error", "RunCancelled": "text-error",
    "AttemptFailed": "text-error", "EffectFailed": "text-error", "BranchFailed": "text-error", "UndoBegan": "text-error", "Rewound": "text-warning",
    "Forked": "text-warning", "RunPaused": "text-warning", "RunSuspended": "text-warning", "WaitOpened": "text-warning", "RunResumed": "text-accent",
    "Transitioned": "text-primary",
}  # fmt: skip


def of_status(theme: Mapping[str, str], status: Status) -> str:
    """The style of a status."""
    return theme.get(_STATUS.get(status, ""), "")


def of_event(theme: Mapping[str, str], kind: str) -> str:
    """The style of a type of event."""
    return theme.get(_EVENTS.get(kind, ""), "")
