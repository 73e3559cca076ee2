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
from eventflow.event import EffectFailed, EffectFinished, EffectRejected, EffectStarted, Recorded
from eventflow.log import Log
from eventflow.recovery import recover, walk
from eventflow.state import State, effect_id
from replay.expression import Condition, parse_condition
from replay.path import MISSING, Path, alike, look, parse_path, settled
from replay.skim import Moment, moments

MODEL = "model"  # the kind of an effect that asks a language model


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
class ModelCall:
    """A finished call of a model: where it was started and finished, what it was asked and answered.

    `quoted` tells whether its answer's text stands in the value that is asked about.
    """

    name: str
    key: str
    started: int
    finished: int
    input: Any
    output: Any
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Blame:
    """Who wrote a value: the event that did, and the model call of that visit it most likely came from, if any."""

    run_id: str
    written: Sight
    call: ModelCall | None


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
    """Which event wrote the value that stands at a path, and which model call of that visit it came from.

    Of several calls it is the last whose answer stands in the value, else the last. Raises NotFound where nothing
    stands there, SettingsError, Corrupt.
    """
    written: Sight | None = None
    for sight in _sights(log, place, parse_path(path)):
        written = sight
    if written is None or written.value is MISSING:
        raise NotFound(f"run {place} has no value at {path!r}; `replay show {place}` shows what it has")
    run_id, calls = _visit(log, place, written.version)
    return Blame(run_id, written, calls.behind(written.value))


def _visit(log: Log, place: Address, version: int) -> tuple[str, _Calls]:
    """The run in which a version of a line was recorded, and the calls of the visit that ended there."""
    calls = _Calls()
    if version == 1:
        return recover(log, place.head, 1).state.run.run_id, calls
    before = recover(log, place.head, version - 1).state
    for recorded, state in walk(log, place.head, version, after=before.visit - 1):
        if recorded.version == version:
            return state.run.run_id, calls
        calls.take(recorded, state)
    raise VersionNotFound(place.head.run_id, version, place.head.version)


class _Calls:
    """The finished model calls of the visit that a line is in, and the calls that are under way."""

    def __init__(self) -> None:
        self._visit = 0
        self._started: dict[str, tuple[int, Any]] = {}
        self._finished: dict[str, ModelCall] = {}

    def take(self, recorded: Recorded, state: State) -> None:
        """Note a call's start or end; forget all of them with the visit's end."""
        event, version = recorded.event, recorded.version
        if state.visit != self._visit:
            self._visit = state.visit
            self._started.clear()
            self._finished.clear()
        if isinstance(event, EffectStarted) and event.kind == MODEL:
            self._started[effect_id(event.name, event.key, event.branch)] = (version, event.input)
        elif isinstance(event, EffectFailed | EffectRejected):
            self._finished.pop(effect_id(event.name, event.key, event.branch), None)
        elif isinstance(event, EffectFinished) and (
            begun := self._started.get(effect_id(event.name, event.key, event.branch))
        ):
            started, asked = begun
            self._finished[effect_id(event.name, event.key, event.branch)] = ModelCall(
                event.name, event.key, started, version, asked, event.output
            )

    def behind(self, value: Any) -> ModelCall | None:
        """The call a value came from."""
        calls = sorted(self._finished.values(), key=lambda one: -one.finished)
        for call in calls:
            text = answer_text(call.output)
            if text and _quotes(value, text):
                return ModelCall(
                    call.name, call.key, call.started, call.finished, call.input, call.output, quoted=True
                )  # fmt: skip
        return calls[0] if calls else None


def answer_text(output: Any) -> str:
    """The text of a model's answer, as the OpenAI protocol has it; empty if it has none."""
    choices = output.get("choices") if isinstance(output, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    text = message.get("content") if isinstance(message, dict) else output
    return text if isinstance(text, str) else ""


def _quotes(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, list):
        return any(_quotes(item, text) for item in value)
    return isinstance(value, dict) and any(_quotes(item, text) for item in value.values())
