"""Going back: what a rewind takes away, what it may take along, and when somebody must say yes first.

A rewind is one event; nothing is erased. Calls that were made after the version it goes back to leave the line, unless it
says that they may answer again; so do messages that were consumed, and children that were started.
"""

from __future__ import annotations

from typing import Any

from eventflow.engine.terms import Terms
from eventflow.errors import NeedsConfirmation, NotResumable
from eventflow.event import (
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Rewound,
    SignalReceived,
    WaitOpened,
)
from eventflow.forking import who
from eventflow.log import Head, Log
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList, ordered
from eventflow.recovery import history, recover, walk
from eventflow.state import FINAL, UNDO, State, effect_id, reuse_key


def check_rewind(log: Log, head: Head, to: int, *, confirmed: bool) -> State:
    """The state that a rewind would go back to. Raises NotResumable, NeedsConfirmation, VersionNotFound."""
    state = recover(log, head, to).state
    if state.status in FINAL:
        raise NotResumable(head.run_id, f"version {to} is the run's end; go back to an earlier version")
    if not confirmed and (names := _made_after(log, head, state)):
        raise NeedsConfirmation(
            f"run {head.run_id} made calls after version {to} that can't be taken back ({', '.join(names)}) "
            f"and would make them again"
        )
    return state


def _made_after(log: Log, head: Head, to: State) -> list[str]:
    """Names of mutating effects that finished after a state, or may have happened: those would be made again."""
    entry = log.entry(head.run_key)
    first = max(to.version, entry.parent_at if entry else 0) + 1
    made = {name: "" for name, one in to.effects.items() if one["status"] == "started" and one["mutating"]}
    for recorded in history(log, head.run_key, first, head.version):
        event = recorded.event
        if isinstance(event, EffectStarted) and (event.mutating or event.kind == UNDO):
            made[effect_id(event.name, event.key, event.branch)] = event.name
        elif isinstance(event, EffectFailed | EffectRejected):
            made.pop(effect_id(event.name, event.key, event.branch), None)
    return sorted({name or key.partition("#")[0] for key, name in made.items()})


def after_rewind(log: Log, head: Head, to: State, terms: Terms) -> tuple[Rewound, list[Head]]:
    """The event of going back to a state, and the children that were started since and are called off."""
    left = _Left()
    if to.version < head.version:
        for recorded, state in walk(log, head, after=to.version):
            left.look(recorded.event, recorded.version, state)
    reuse: FrozenDict = EMPTY
    if terms.reuse:
        reuse = ordered({key: FrozenList(versions) for key, versions in left.finished.items()})
    event = Rewound(
        to.version, to.node, terms.actor or who(), terms.why, reuse,
        FrozenList(left.consumed()) if terms.keep_signals else NOTHING,
    )  # fmt: skip
    found = (log.head(name) for name in left.children)
    return event, [one for one in found if one is not None and one.status not in FINAL]


class _Left:
    """What a rewind leaves behind, gathered from the events after the state it goes back to."""

    def __init__(self) -> None:
        self.finished: dict[str, list[int]] = {}
        self.children: list[str] = []
        self._received: dict[int, FrozenDict] = {}
        self._open: dict[str, str] = {}

    def look(self, event: Any, version: int, state: State) -> None:
        """One more event on the line that is left, with the state it led to."""
        match event:
            case EffectStarted():
                name = effect_id(event.name, event.key, event.branch)
                self._open[name] = reuse_key(state.node, name, event.input_digest)
            case EffectFinished():
                key = self._open.get(effect_id(event.name, event.key, event.branch))
                if key is not None and not event.name.startswith("undo "):
                    self.finished.setdefault(key, []).append(event.reused or version)
            case EffectRejected():
                self.finished.pop(self._open.get(effect_id(event.name, event.key, event.branch), ""), None)
            case SignalReceived() if not event.name.startswith("child:"):
                self._received[event.message] = FrozenDict(
                    {"name": event.name, "message": event.message, "payload": event.payload}
                )
            case WaitOpened() if event.kind == "child":
                self.children.append(event.name)

    def consumed(self) -> list[FrozenDict]:
        """The messages that came since, in their order."""
        return [self._received[number] for number in sorted(self._received)]
