"""Going back: what a rewind takes away, what it may take along, and when somebody must say yes first.

A rewind is one event; nothing is erased. What happened on the line that is left, and not on the one that is gone back to,
leaves with it: calls, unless the rewind says that they may answer again; messages, unless they come back; children.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventflow.engine.terms import Terms
from eventflow.errors import NeedsConfirmation, NotResumable
from eventflow.event import (
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Recorded,
    Rewound,
    RunCompleted,
    SignalReceived,
    SignalRefused,
    WaitOpened,
)
from eventflow.forking import who
from eventflow.log import Head, Log
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList, ordered
from eventflow.recovery import history, line, recover, walk
from eventflow.state import FINAL, UNDO, State, effect_id, is_doubtful, reuse_key
from eventflow.workflow import ANSWER, end_name

_NO_ANSWER = (UNDO, "wait", "patch")  # kinds of calls that are made or asked anew on another line
_OF_ONE_WAIT = (end_name(""), f"{ANSWER}:")  # what these messages answered is asked anew, if at all


def check_rewind(log: Log, head: Head, to: int, *, confirmed: bool, reuse: bool = False) -> State:
    """The state that a rewind would go back to. Raises NotResumable, NeedsConfirmation, VersionNotFound.

    Where calls may answer again (`reuse`) only those matter that can't: whose outcome is unknown, or that took others
    back.
    """
    state = recover(log, head, to).state
    if state.status in FINAL:
        raise NotResumable(head.run_id, f"version {to} is the run's end; go back to an earlier version")
    if not confirmed and (names := _made_after(log, head, state, reuse=reuse)):
        raise NeedsConfirmation(
            f"run {head.run_id} made calls after version {to} that can't be taken back ({', '.join(names)}) "
            f"and would make them again"
        )
    return state


def _made_after(log: Log, head: Head, to: State, *, reuse: bool) -> list[str]:
    """Names of mutating effects that finished after a state, or may have happened: those would be made again."""
    entry = log.entry(head.run_key)
    first = max(to.version, entry.parent_at if entry else 0) + 1
    made: dict[str, list[tuple[str, str]]] = {}
    for key, one in to.effects.items():
        if one["mutating"] and is_doubtful(one):
            made[key] = [(key.partition("#")[0], one["kind"])]
    for recorded in history(log, head.run_key, first, head.version):
        event = recorded.event
        if isinstance(event, EffectStarted) and (event.mutating or event.kind == UNDO):
            made.setdefault(effect_id(event.name, event.key, event.branch), []).append((event.name, event.kind))
        elif isinstance(event, EffectFailed | EffectRejected | EffectFinished):
            begun = made.get(effect_id(event.name, event.key, event.branch))
            not_made = not isinstance(event, EffectFinished) or bool(event.source)
            if begun and (not_made or (reuse and begun[-1][1] != UNDO)):
                begun.pop()  # of that name in this visit: another visit's is told of apart
    return sorted({name for begun in made.values() for name, _ in begun})


def after_rewind(log: Log, head: Head, to: State, terms: Terms) -> tuple[Rewound, list[str]]:
    """The event of going back to a state, and the ids of the children that were started since and are called off."""
    parting = _parting(log, head, to.version)
    left = _Left(head, recover(log, head, parting).state)
    if parting < head.version:
        for recorded, state in walk(log, head, after=parting):
            left.look(recorded, state)
    kept = _Left(head, left.began)  # what is on the line that is gone back to has answered there, or been read
    if parting < to.version:
        for recorded, state in walk(log, head, to.version, after=parting):
            kept.look(recorded, state)
    event = Rewound(
        to.version, to.node, terms.actor or who(), terms.why,
        left.answers(kept.answered) if terms.reuse else EMPTY,
        FrozenList(left.came(kept.heard)) if terms.keep_signals else NOTHING,
    )  # fmt: skip
    return event, left.children


def _parting(log: Log, head: Head, to: int) -> int:
    """The last version that the line of a version and the run's newest line have in common."""
    shared = 0
    for one, other in zip(line(log, head.run_key, to), line(log, head.run_key, head.version), strict=False):
        if (one.run_key, one.first) != (other.run_key, other.first):
            break
        shared = min(one.last, other.last)
        if one.last != other.last:
            break
    return shared


class _Left:
    """What happened on a line after a state, as far as it matters to whoever leaves it."""

    def __init__(self, head: Head, began: State) -> None:
        self.began = began
        self.children: list[str] = []
        self.answered: set[int] = set()  # versions of calls that answered, be it there or again
        self.heard: set[int] = set()  # numbers of messages that came
        self._head, self._last = head, began
        self._waiting = began.reuse  # what might have answered yet and did not
        self._finished: dict[str, list[int]] = {}
        self._came: dict[int, FrozenDict] = {}
        self._newest: dict[str, int] = {}  # by call, where it has a result on this line
        self._results: dict[int, tuple[str, int]] = {}  # by where it is: what a result answers, and as which version
        self._open: dict[str, str] = {
            name: reuse_key(began.node, name, one["input_digest"])
            for name, one in began.effects.items()
            if one["status"] == "started" and one["kind"] not in _NO_ANSWER
        }

    def look(self, recorded: Recorded, state: State) -> None:
        """One more event on the line, with the state it led to."""
        event = recorded.event
        if isinstance(event, EffectStarted | EffectFinished | EffectRejected):
            self._call(event, recorded.version, state)
        elif recorded.run_key == self._head.run_key:  # a parent's messages and children are its own
            self._outside(event)
        if not isinstance(event, RunCompleted):
            self._waiting = state.reuse
        self._last = state

    def _call(self, event: EffectStarted | EffectFinished | EffectRejected, version: int, state: State) -> None:
        name = effect_id(event.name, event.key, event.branch)
        if isinstance(event, EffectStarted):
            self._open.pop(name, None)
            self._newest.pop(name, None)  # that of another visit, or it was refused
            if event.kind not in _NO_ANSWER:
                self._open[name] = reuse_key(state.node, name, event.input_digest)
        elif isinstance(event, EffectRejected):
            self._drop(self._newest.pop(name, 0))
        elif (key := self._open.get(name)) is not None:
            answer = event.reused or version
            self.answered.add(answer)
            self._newest[name] = version
            self._results[version] = key, answer
            self._finished.setdefault(key, []).append(answer)
        elif len(state.undo) < len(self._last.undo):  # what was taken back has no answer to give
            self._drop(self._last.undo[-1]["at"])

    def _drop(self, version: int) -> None:
        key, answer = self._results.pop(version, ("", 0))
        if key:
            self._finished[key].remove(answer)

    def _outside(self, event: Any) -> None:
        match event:
            case SignalReceived():
                self._receive(event.name, event.message, event.payload)
            case SignalRefused():
                self._came.pop(event.message, None)
            case Rewound():
                for one in event.signals:
                    self._receive(one["name"], one["message"], one["payload"])
            case WaitOpened() if event.kind == "child":
                self.children.append(event.name)

    def _receive(self, name: str, message: int, payload: Any) -> None:
        self.heard.add(message)
        if not name.startswith(_OF_ONE_WAIT):
            self._came[message] = FrozenDict({"name": name, "message": message, "payload": payload})

    def answers(self, but: Iterable[int]) -> FrozenDict:
        """The calls that may answer again: those of this line in their order, then those that waited to; none of `but`."""
        spent = set(but)
        found: dict[str, list[int]] = {}
        for held in (self._finished, self._waiting):
            for key, versions in held.items():
                listed = found.setdefault(key, [])
                listed += [one for one in versions if one not in spent and one not in listed]
        return ordered({key: FrozenList(versions) for key, versions in found.items() if versions})

    def came(self, but: Iterable[int]) -> list[FrozenDict]:
        """The messages that came, in their order; none of `but`."""
        spent = set(but)
        return [self._came[number] for number in sorted(self._came) if number not in spent]
