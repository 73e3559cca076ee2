"""Two points of history compared: what differs between their states, and where two runs went different ways.

The states are compared as plain data. Runs are compared visit by visit, from where their lines part: which node, which
calls with what input and output, which change. Of each, only what is new at that visit is told, not what follows from
before. Needs none of the user's code; each line is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from eventflow.address import Address
from eventflow.event import (
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Forked,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SignalReceived,
    Transitioned,
)
from eventflow.log import Log
from eventflow.recovery import Segment, line, recover, walk
from eventflow.state import State, effect_id
from replay.patch import Edit, differences
from replay.path import MISSING, look, path_text, settled

Kind = Literal["start", "signal", "effect", "state", "route", "end"]
ENDS = (RunStarted, Transitioned, RunCompleted, RunFailed, RunCancelled)  # each ends a visit


@dataclass(frozen=True, slots=True)
class Divergence:
    """One thing in which two runs differ: what, at which version and node of each, and its two values.

    A version is 0 and a value MISSING where one of them has nothing of the kind.
    """

    kind: Kind
    what: str
    node: str
    versions: tuple[int, int]
    one: Any
    other: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two addresses.

    `patch` turns the first state's data into the second's; `standing` has what differs in where they stand, as field →
    (one, other); `divergences` are in order, the first first; `shared` is the last version both lines have in common, 0
    if there is none.
    """

    one: Address
    other: Address
    shared: int
    standing: dict[str, tuple[Any, Any]]
    patch: tuple[Edit, ...]
    divergences: tuple[Divergence, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.standing or self.patch or self.divergences)


def diff(log: Log, one: Address, other: Address) -> Difference:
    """What differs between two addresses: of one run its states alone, of two runs their histories too.

    Raises Corrupt, WrittenByNewer.
    """
    states = [recover(log, place.head, place.version).state for place in (one, other)]
    patch = tuple(differences(states[0].data, states[1].data))
    shared = _shared(line(log, one.head.run_key, one.version), line(log, other.head.run_key, other.version))
    apart: Iterator[Divergence] = iter(())
    if one.head.run_key != other.head.run_key:
        apart = compared(_visits(log, one, shared), _visits(log, other, shared))
    return Difference(one, other, shared, _standing(*states), patch, tuple(apart))


def _standing(one: State, other: State) -> dict[str, tuple[Any, Any]]:
    """Where two states stand differently."""
    told = [
        {
            "workflow": state.run.workflow, "node": state.node, "status": state.status, "waiting_for": state.waiting_for,
            "attempt": state.attempt, "error": None if state.error is None else f"{state.error.type}: {state.error.message}",
        }
        for state in (one, other)
    ]  # fmt: skip
    return {name: (told[0][name], told[1][name]) for name in told[0] if told[0][name] != told[1][name]}


def _shared(one: list[Segment], other: list[Segment]) -> int:
    """The last version that two lines have in common."""
    shared = 0
    for mine, theirs in zip(one, other, strict=False):
        if (mine.run_key, mine.first) != (theirs.run_key, theirs.first):
            break
        shared = min(mine.last, theirs.last)
        if mine.last != theirs.last:
            break
    return shared


# --- a line as visits ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Call:
    """One call to the outside as a visit saw it last."""

    version: int
    input: Any = MISSING
    output: Any = MISSING


@dataclass(slots=True)
class Visit:
    """What one stay in a node came to: what came in, calls, what changed, where it led, and at which version it ended.

    `ended` says how: the trigger and the node it led to, or the run's end. `changed` has the new values by path.
    """

    node: str
    version: int = 0
    start: RunStarted | None = None
    signals: list[tuple[int, Any]] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)
    ended: str = ""


def _visits(log: Log, place: Address, after: int) -> Iterator[Visit]:
    """The visits of a line after a version; the last may not have ended."""
    if after >= place.version:
        return
    visit = Visit(recover(log, place.head, after).state.node if after else "")
    for recorded, state in walk(log, place.head, place.version, after=after):
        visit.version = recorded.version
        visit.node = visit.node or state.node
        _take(visit, recorded, state)
        changing_fork = isinstance(recorded.event, Forked) and bool(recorded.event.change)
        if changing_fork or isinstance(recorded.event, ENDS):
            yield visit
            visit = Visit(state.node)
    if visit.signals or visit.calls:
        yield visit


def _take(visit: Visit, recorded: Recorded, state: State) -> None:
    """Note what an event says of the visit it belongs to; resuming, pausing and going back are no part of what it did."""
    event, version = recorded.event, recorded.version
    match event:
        case RunStarted():
            visit.start = event
        case SignalReceived():
            visit.signals.append((version, {"name": event.name, "payload": event.payload}))
        case EffectStarted():
            visit.calls[effect_id(event.name, event.key)] = Call(version, event.input)
        case EffectFinished() | EffectFailed():
            call = visit.calls.setdefault(effect_id(event.name, event.key), Call(version))
            call.output = _outcome(event)
        case Transitioned() | RunCompleted() | Forked():
            for op in event.change:
                visit.changed[path_text(op.path)] = (
                    op.value if op.op == "extend" else settled(look(state.data, op.path))
                )
            visit.ended = _end(event)
        case RunFailed() | RunCancelled():
            visit.ended = _end(event)


def _outcome(event: EffectFinished | EffectFailed) -> Any:
    return event.output if isinstance(event, EffectFinished) else f"{event.error.type}: {event.error.message}"


def _end(event: Transitioned | RunCompleted | Forked | RunFailed | RunCancelled) -> str:
    match event:
        case Transitioned():
            return event.to if event.trigger == "done" else f"{event.to} on {event.trigger}"
        case RunCompleted():
            return "completed"
        case RunFailed():
            return f"failed: {event.error.type}: {event.error.message}"
        case RunCancelled():
            return "cancelled"
        case Forked():
            return ""


# --- visits compared -----------------------------------------------------------------------------------------------


def compared(one: Iterator[Visit], other: Iterator[Visit]) -> Iterator[Divergence]:
    """What differs between two lines of visits, in order; where one ends before the other, that is the last."""
    ones, others = _edited(one), _edited(other)
    edits = [next(ones), next(others)]
    if edits[0] or edits[1]:
        yield from _of_changes(edits[0] or Visit(""), edits[1] or Visit(""))
    for mine, theirs in zip_longest(ones, others):
        if mine is None or theirs is None:
            yield _end_of(mine, theirs)
            return
        yield from _of_visits(mine, theirs)


def _edited(visits: Iterator[Visit]) -> Iterator[Visit | None]:
    """The visits behind what a fork changed at once, which comes first (None if it changed nothing)."""
    first = next(visits, None)
    forked = first is not None and first.start is None and not first.ended and bool(first.changed)
    yield first if forked else None
    if first is not None and not forked:
        yield first
    yield from visits


def _end_of(mine: Visit | None, theirs: Visit | None) -> Divergence:
    there = mine or theirs
    assert there is not None  # noqa: S101 - zip_longest ends with the longer
    versions = (mine.version if mine else 0, theirs.version if theirs else 0)
    at = f"node {there.node}"
    return Divergence("end", "goes on", there.node, versions, at if mine else MISSING, at if theirs else MISSING)


def _of_visits(mine: Visit, theirs: Visit) -> Iterator[Divergence]:
    versions = (mine.version, theirs.version)
    if mine.start and theirs.start:
        yield from _of_starts(mine.start, theirs.start)
        return
    if mine.node != theirs.node:  # another node's calls and changes say nothing about this one's
        yield Divergence("route", "node", mine.node, versions, mine.node, theirs.node)
        return
    for one, other in zip_longest(mine.signals, theirs.signals, fillvalue=(0, MISSING)):
        if _differ(one[1], other[1]):
            yield Divergence("signal", "signal", mine.node, (one[0], other[0]), one[1], other[1])
    yield from _of_calls(mine, theirs)
    yield from _of_changes(mine, theirs)
    if mine.ended != theirs.ended:
        yield Divergence("route", "leads to", mine.node, versions, mine.ended or MISSING, theirs.ended or MISSING)


def _differ(one: Any, other: Any) -> bool:
    return next(differences(one, other), None) is not None


def _of_starts(one: RunStarted, other: RunStarted) -> Iterator[Divergence]:
    if one.workflow != other.workflow:
        yield Divergence("start", "workflow", one.node, (1, 1), one.workflow, other.workflow)
    if one.definition_digest != other.definition_digest:
        digests = one.definition_digest.hex(), other.definition_digest.hex()
        yield Divergence("start", "definition", one.node, (1, 1), *digests)
    if one.node != other.node:
        yield Divergence("route", "node", one.node, (1, 1), one.node, other.node)
    for edit in differences(one.data, other.data):
        yield Divergence("state", path_text(edit.path), one.node, (1, 1), edit.was, edit.now)


def _of_calls(mine: Visit, theirs: Visit) -> Iterator[Divergence]:
    for name in dict.fromkeys((*mine.calls, *theirs.calls)):
        one, other = mine.calls.get(name, Call(0)), theirs.calls.get(name, Call(0))
        versions = (one.version, other.version)
        if _differ(one.input, other.input):
            yield Divergence("effect", f"{name} input", mine.node, versions, one.input, other.input)
        if _differ(one.output, other.output):
            yield Divergence("effect", f"{name} output", mine.node, versions, one.output, other.output)


def _of_changes(mine: Visit, theirs: Visit) -> Iterator[Divergence]:
    versions = (mine.version, theirs.version)
    for path in dict.fromkeys((*mine.changed, *theirs.changed)):
        one, other = mine.changed.get(path, MISSING), theirs.changed.get(path, MISSING)
        if _differ(one, other):
            yield Divergence("state", path, mine.node or theirs.node, versions, one, other)
