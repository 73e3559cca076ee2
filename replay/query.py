"""Questions to one history: when did a value change, when did something hold, who wrote this.

Each follows the fields it asks about along the line of a version, forks and rewinds included. Nothing of the user's code
is needed or run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eventflow.address import Address
from eventflow.errors import NotFound, VersionNotFound
from eventflow.log import Log
from eventflow.recovery import line, recover, walk
from replay.behind import Call, Calls
from replay.behind import answer_text as answer_text  # noqa: PLC0414 - who asks for a call wants its text
from replay.expression import Condition, parse_condition
from replay.path import MISSING, Path, alike, look, parse_path, settled
from replay.skim import Moment, moments


@dataclass(frozen=True, slots=True)
class Sight:
    """A value from a version on: the event that made it so, the node it happened in; MISSING if it went away."""

    version: int
    time: int
    node: str
    event: str
    value: Any


@dataclass(frozen=True, slots=True)
class Stretch:
    """Versions `first` to `last`, without a gap, at which a condition holds; time, node and event are the first's."""

    first: int
    last: int
    time: int
    node: str
    event: str


@dataclass(frozen=True, slots=True)
class Blame:
    """Who wrote a value: the event that did, and the call of that visit it most likely came from, if any.

    `calls` are all finished calls of that visit.
    """

    run_id: str
    written: Sight
    call: Call | None
    calls: tuple[Call, ...] = ()


def watch(log: Log, place: Address, path: str) -> Iterator[Sight]:
    """Every change of the value at a path, from its first on. Raises SettingsError, Corrupt."""
    return _sights(log, place, parse_path(path))


def _sights(log: Log, place: Address, path: Path) -> Iterator[Sight]:
    value: Any = MISSING
    for one in moments(log, place, frozenset({str(path[0])})):
        old, value = value, look(one.data, path)
        if not alike(old, value):
            yield Sight(one.version, one.time, one.node, one.event, settled(value))


def when(log: Log, place: Address, condition: str) -> Iterator[Stretch]:
    """The versions of a line at which a condition on the state's data holds, as stretches without a gap.

    See `replay.expression` for what a condition may be. Raises SettingsError, Corrupt.
    """
    return _stretches(log, place, parse_condition(condition))


def _stretches(log: Log, place: Address, condition: Condition) -> Iterator[Stretch]:
    since: Moment | None = None
    for one in moments(log, place, condition.fields):
        held = condition.holds(one.data)
        if since is not None and not (held and one.version == one.previous + 1):
            yield _stretch(since, one.previous)
            since = None
        if held and since is None:
            since = one
    if since is not None:
        yield _stretch(since, place.version)


def _stretch(since: Moment, last: int) -> Stretch:
    return Stretch(since.version, last, since.time, since.node, since.event)


# --- blame ---------------------------------------------------------------------------------------------------------


def blame(log: Log, place: Address, path: str) -> Blame:
    """Which event wrote the value that stands at a path, and which call of that visit it came from, as far as results tell.

    Of several calls it is the last whose result is the value, else stands in it, else has it as a part, else the last
    model call. Raises NotFound where nothing stands there, SettingsError, Corrupt.
    """
    written: Sight | None = None
    for sight in _sights(log, place, parse_path(path)):
        written = sight
    if written is None or written.value is MISSING:
        raise NotFound(f"run {place} has no value at {path!r}; `replay show {place}` shows what it has")
    run_id, calls = _visit(log, place, written.version)
    return Blame(run_id, written, calls.behind(written.value), calls.all())


def _visit(log: Log, place: Address, version: int) -> tuple[str, Calls]:
    """The run in which a version of a line was recorded, and the calls of the visit that ended there."""
    calls = Calls()
    if version == line(log, place.head.run_key, version)[0].first:  # its start, or what it was compacted to
        return recover(log, place.head, version).state.run.run_id, calls
    before = recover(log, place.head, version - 1).state
    for recorded, state in walk(log, place.head, version, after=before.visit - 1):
        if recorded.version == version:
            return state.run.run_id, calls
        calls.take(recorded, state)
    raise VersionNotFound(place.head.run_id, version, place.head.version)
