"""Questions to one history: when did a value change, when did something hold, who wrote this.

Each is one walk along the line of a version, forks and rewinds included, that holds one state at a time. Nothing of the
user's code is needed or run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eventflow.address import Address
from eventflow.errors import NotFound
from eventflow.event import EffectFailed, EffectFinished, EffectRejected, EffectStarted, Recorded
from eventflow.log import Log
from eventflow.recovery import walk
from eventflow.state import State, effect_id
from replay.expression import Condition, parse_condition
from replay.path import MISSING, Path, alike, look, parse_path, settled

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
    return (sight for sight, _ in _sights(log, place, parse_path(path), None))


def _sights(log: Log, place: Address, path: Path, calls: _Calls | None) -> Iterator[tuple[Sight, str]]:
    """Changes of a value, each with the run it was recorded in; `calls` is told of each event before its change."""
    value: Any = MISSING
    data, node = None, ""
    for recorded, state in walk(log, place.head, place.version):
        node = str(getattr(recorded.event, "node", node or state.node))
        if state.data is not data:
            data, old = state.data, value
            value = look(data, path)
            if not alike(old, value):
                sight = Sight(recorded.version, recorded.time, node, type(recorded.event).__name__, settled(value))
                yield sight, state.run.run_id
        if calls is not None:
            calls.take(recorded, state)
        node = state.node


def when(log: Log, place: Address, condition: str) -> Iterator[Stretch]:
    """The versions of a line at which a condition on the state's data holds, as stretches without a gap.

    See `replay.expression` for what a condition may be. Raises SettingsError, Corrupt.
    """
    return _stretches(log, place, parse_condition(condition))


def _stretches(log: Log, place: Address, holds: Condition) -> Iterator[Stretch]:
    open_since: Sight | None = None
    data, held, last, node = None, False, 0, ""
    for recorded, state in walk(log, place.head, place.version):
        node = str(getattr(recorded.event, "node", node or state.node))
        if state.data is not data:
            data, held = state.data, holds(state.data)
        if open_since is not None and not (held and recorded.version == last + 1):
            yield _stretch(open_since, last)
            open_since = None
        if held and open_since is None:
            open_since = Sight(recorded.version, recorded.time, node, type(recorded.event).__name__, None)
        last, node = recorded.version, state.node
    if open_since is not None:
        yield _stretch(open_since, last)


def _stretch(since: Sight, last: int) -> Stretch:
    return Stretch(since.version, last, since.time, since.node, since.event)


# --- blame ---------------------------------------------------------------------------------------------------------


def blame(log: Log, place: Address, path: str) -> Blame:
    """Which event wrote the value that stands at a path, and which model call of that visit it came from.

    Of several calls it is the last whose answer stands in the value, else the last. Raises NotFound where nothing
    stands there, SettingsError, Corrupt.
    """
    calls = _Calls()
    found: Blame | None = None
    for sight, run_id in _sights(log, place, parse_path(path), calls):
        found = Blame(run_id, sight, calls.behind(sight.value))
    if found is None or found.written.value is MISSING:
        raise NotFound(f"run {place} has no value at {path!r}; `replay show {place}` shows what it has")
    return found


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
            self._started[effect_id(event.name, event.key)] = (version, event.input)
        elif isinstance(event, EffectFailed | EffectRejected):
            self._finished.pop(effect_id(event.name, event.key), None)
        elif isinstance(event, EffectFinished) and (begun := self._started.get(effect_id(event.name, event.key))):
            started, asked = begun
            self._finished[effect_id(event.name, event.key)] = ModelCall(
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
