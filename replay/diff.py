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
    RunResumed,
    RunStarted,
    SignalReceived,
    Transitioned,
)
from eventflow.log import Log
from eventflow.recovery import Segment, line, recover, walk
from eventflow.state import State, effect_id
from replay.notebook import difference_html
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

    def _repr_html_(self) -> str:
        """The same as tables, for a notebook."""
        return difference_html(self)


def diff(log: Log, one: Address, other: Address) -> Difference:
    """What differs between two addresses: of one run its states alone, of two runs their histories too.

    Raises Corrupt, WrittenByNewer.
    """
    states = [recover(log, place.head, place.version).state for place in (one, other)]
    patch = tuple(differences(states[0].data, states[1].data))
    shared = _shared(line(log, one.head.run_key, one.version), line(log, other.head.run_key, other.version))
    apart: Iterator[Divergence] = iter(())
    if one.head.run_key != other.head.run_key:
        apart = _compared(_visits(log, one, shared), _visits(log, other, shared))
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

    `edits` are what a fork changed, by path: version, value before, value after. `changed` is the node's own change by
    path: operation, its value, the value to show.
    """

    node: str
    version: int = 0
    start: RunStarted | None = None
    edits: dict[str, tuple[int, Any, Any]] = field(default_factory=dict)
    signals: list[tuple[int, Any]] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    changed: dict[str, tuple[str, Any, Any]] = field(default_factory=dict)
    ended: str = ""


def _visits(log: Log, place: Address, after: int) -> Iterator[Visit]:
    """The visits of a line after a version; the last may not have ended."""
    if after >= place.version:
        return
    before = recover(log, place.head, after).state if after else None
    visit = Visit(before.node if before else "")
    for recorded, state in walk(log, place.head, place.version, after=after):
        visit.version = recorded.version
        if not visit.node or isinstance(recorded.event, RunResumed):  # which may have moved the run, by a migration
            visit.node = state.node
        _take(visit, recorded, state, before)
        if isinstance(recorded.event, ENDS):
            yield visit
            visit = Visit(state.node)
        before = state
    if visit.signals or visit.calls or visit.edits:
        yield visit


def _take(visit: Visit, recorded: Recorded, state: State, before: State | None) -> None:
    """Note what an event says of the visit it belongs to; resuming, pausing and going back are no part of what it did."""
    event, version = recorded.event, recorded.version
    match event:
        case RunStarted():
            visit.start = event
        case SignalReceived():
            visit.signals.append((version, {"name": event.name, "payload": event.payload}))
        case EffectStarted():
            visit.calls[effect_id(event.name, event.key, event.branch)] = Call(version, event.input)
        case EffectFinished() | EffectFailed():
            call = visit.calls.setdefault(effect_id(event.name, event.key, event.branch), Call(version))
            call.output = _outcome(event)
        case Forked() | RunResumed():
            for op in event.change:
                was = look(before.data, op.path) if before else MISSING
                visit.edits[path_text(op.path)] = (version, settled(was), settled(look(state.data, op.path)))
        case Transitioned() | RunCompleted():
            for op in event.change:
                shown = op.value if op.op in ("extend", "merge") else settled(look(state.data, op.path))
                visit.changed[path_text(op.path)] = (op.op, op.value, shown)
            visit.ended = _end(event)
        case RunFailed() | RunCancelled():
            visit.ended = _end(event)


def _outcome(event: EffectFinished | EffectFailed) -> Any:
    return event.output if isinstance(event, EffectFinished) else f"{event.error.type}: {event.error.message}"


def _end(event: Transitioned | RunCompleted | RunFailed | RunCancelled) -> str:
    match event:
        case Transitioned():
            return event.to if event.trigger == "done" else f"{event.to} on {event.trigger}"
        case RunCompleted():
            return "completed"
        case RunFailed():
            return f"failed: {event.error.type}: {event.error.message}"
        case RunCancelled():
            return "cancelled"


# --- visits compared -----------------------------------------------------------------------------------------------


def _compared(one: Iterator[Visit], other: Iterator[Visit]) -> Iterator[Divergence]:
    """What differs between two lines of visits, in order; where one ends before the other, that is the last."""
    for mine, theirs in zip_longest(one, other):
        if mine is None or theirs is None:
            there = mine or theirs
            yield from _of_edits(mine or Visit(there.node), theirs or Visit(there.node))
            yield _goes_on(mine, theirs)
            return
        if mine.start and theirs.start:
            yield from _of_starts(mine.start, theirs.start)
            continue
        yield from _of_edits(mine, theirs)
        if mine.node != theirs.node:  # another node's calls and changes say nothing about this one's
            versions = (mine.version, theirs.version)
            yield Divergence("route", "node", mine.node, versions, mine.node, theirs.node)
            continue
        yield from _of_visits(mine, theirs)
        if bool(mine.ended) != bool(theirs.ended):
            yield _goes_on(mine if mine.ended else None, theirs if theirs.ended else None)
            return


def _goes_on(mine: Visit | None, theirs: Visit | None) -> Divergence:
    """One line goes on where the other ends."""
    there = mine or theirs
    assert there is not None  # noqa: S101 - one of them does
    versions = (mine.version if mine else 0, theirs.version if theirs else 0)
    at = f"node {there.node}"
    return Divergence("end", "goes on", there.node, versions, at if mine else MISSING, at if theirs else MISSING)


def _of_visits(mine: Visit, theirs: Visit) -> Iterator[Divergence]:
    """What differs between two visits of one node; what a visit that has not ended lacks may still come."""
    both = bool(mine.ended and theirs.ended)
    for one, other in zip_longest(mine.signals, theirs.signals, fillvalue=(0, MISSING)):
        if _tells(one[1], other[1], both=both):
            yield Divergence("signal", "signal", mine.node, (one[0], other[0]), one[1], other[1])
    yield from _of_calls(mine, theirs, both=both)
    if both:
        yield from _of_changes(mine, theirs)
        if mine.ended != theirs.ended:
            versions = (mine.version, theirs.version)
            yield Divergence("route", "leads to", mine.node, versions, mine.ended, theirs.ended)


def _tells(one: Any, other: Any, *, both: bool) -> bool:
    """Whether two values differ, and not only because one of them has not come yet."""
    return (both or (one is not MISSING and other is not MISSING)) and _differ(one, other)


def _of_edits(mine: Visit, theirs: Visit) -> Iterator[Divergence]:
    """What a fork changed, beside what the other had there."""
    for path in dict.fromkeys((*mine.edits, *theirs.edits)):
        there = mine.edits.get(path) or theirs.edits[path]
        one = mine.edits.get(path, (0, there[1], there[1]))
        other = theirs.edits.get(path, (0, there[1], there[1]))
        if _differ(one[2], other[2]):
            yield Divergence("state", path, mine.node, (one[0], other[0]), one[2], other[2])


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


def _of_calls(mine: Visit, theirs: Visit, *, both: bool) -> Iterator[Divergence]:
    for name in dict.fromkeys((*mine.calls, *theirs.calls)):
        one, other = mine.calls.get(name, Call(0)), theirs.calls.get(name, Call(0))
        versions = (one.version, other.version)
        if _tells(one.input, other.input, both=both):
            yield Divergence("effect", f"{name} input", mine.node, versions, one.input, other.input)
        if _tells(one.output, other.output, both=both):
            yield Divergence("effect", f"{name} output", mine.node, versions, one.output, other.output)


def _of_changes(mine: Visit, theirs: Visit) -> Iterator[Divergence]:
    """What the two nodes changed otherwise; the same change to states that differed before is nothing new."""
    nothing = ("", MISSING, MISSING)
    for path in dict.fromkeys((*mine.changed, *theirs.changed)):
        one, other = mine.changed.get(path, nothing), theirs.changed.get(path, nothing)
        if (one[0] != other[0] or _differ(one[1], other[1])) and _differ(one[2], other[2]):
            yield Divergence("state", path, mine.node, (mine.version, theirs.version), one[2], other[2])
