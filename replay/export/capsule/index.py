"""Which versions belong together: a call's beginning and end, a question and its answer. By their place on the page."""

from __future__ import annotations

from typing import Any

from eventflow.event import (
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Recorded,
    Rewound,
    SignalReceived,
    WaitClosed,
    WaitOpened,
)
from eventflow.state import effect_id

_OUTCOMES: dict[type, str] = {EffectFinished: "finished", EffectFailed: "failed", EffectRejected: "rejected"}


class Index:
    """Calls and decisions so far, oldest first; places are numbers of the page's list of versions."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self._calls: dict[str, dict[str, Any]] = {}
        self._waits: dict[str, dict[str, Any]] = {}
        self._messages: dict[int, int] = {}

    def take(self, place: int, recorded: Recorded, node: str) -> None:
        """Note what an event begins or ends."""
        event = recorded.event
        match event:
            case EffectStarted():
                call = {
                    "began": place, "ended": None, "outcome": "unknown", "kind": event.kind, "name": event.name,
                    "key": event.key, "branch": event.branch, "node": node, "attempt": event.attempt,
                }  # fmt: skip
                self.calls.append(call)
                self._calls[effect_id(event.name, event.key, event.branch)] = call
            case EffectFinished() | EffectFailed() | EffectRejected():
                call = self._calls.get(effect_id(event.name, event.key, event.branch), {})
                call.update(ended=place, outcome=_OUTCOMES[type(event)])
            case SignalReceived():
                self._messages[event.message] = place
            case WaitOpened():
                decision = {
                    "opened": place, "closed": None, "message": None, "outcome": "open", "kind": event.kind,
                    "name": event.name, "node": event.node, "branch": event.branch,
                }  # fmt: skip
                self.decisions.append(decision)
                self._waits[event.branch] = decision
            case WaitClosed():
                found = self._waits.pop(event.branch, {})
                answered = "answered" if event.outcome == "signal" else event.outcome
                found.update(closed=place, outcome=answered, message=self._messages.get(event.message))
            case Rewound():  # what was under way then is begun anew
                self._calls.clear()
                self._waits.clear()
