"""Which call of a visit a value came from, as far as the log can tell: by what the calls gave, compared with the value.

A log records what a call gave and what a node made of everything, not how; so each answer says what it rests on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from eventflow.event import EffectFailed, EffectFinished, EffectRejected, EffectStarted, Recorded
from eventflow.state import State, effect_id
from replay.path import alike

MODEL = "model"  # the kind of an effect that asks a language model
SHORTEST = 4  # characters: a shorter text stands in many others by chance
SMALL = 10  # a whole number below stands in many values by chance
LOOKED_AT = 100_000  # parts of a value, or of a result, that are compared: a second's work
Sign = Literal["same", "quoted", "part", "last"]
_SIGNS: tuple[Sign, ...] = ("same", "quoted", "part")


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call: where its last attempt was started and finished, what it was given, what came back.

    `sign` is what tells that a value came from it: its result is the value (`same`), stands in it (`quoted`), the value is
    a part of its result (`part`), or only that it was the last model call of that visit (`last`). `source` is what
    answered where no call was made, `actor` who said what came back, `reused` the version whose result answered once more.
    """

    name: str
    key: str
    started: int
    finished: int
    input: Any
    output: Any
    kind: str = MODEL
    attempt: int = 1
    branch: str = ""
    sign: Sign = "last"
    source: str = ""
    actor: str = ""
    reused: int = 0

    @property
    def quoted(self) -> bool:
        """Whether its result, or a part of it, stands in the value."""
        return self.sign != "last"


class Calls:
    """The finished calls of the visit that a line is in, and those that are under way."""

    def __init__(self) -> None:
        self._visit = 0
        self._started: dict[str, tuple[int, EffectStarted]] = {}
        self._finished: dict[str, Call] = {}

    def take(self, recorded: Recorded, state: State) -> None:
        """Note a call's start or end; forget all of them with the visit's end."""
        event, version = recorded.event, recorded.version
        if state.visit != self._visit:
            self._visit = state.visit
            self._started.clear()
            self._finished.clear()
        if not isinstance(event, EffectStarted | EffectFinished | EffectFailed | EffectRejected):
            return
        name = effect_id(event.name, event.key, event.branch)
        if isinstance(event, EffectStarted):
            self._started[name] = version, event
        elif isinstance(event, EffectFailed | EffectRejected):
            self._finished.pop(name, None)
        elif begun := self._started.get(name):
            started, asked = begun
            self._finished[name] = Call(
                event.name, event.key, started, version, asked.input, event.output, asked.kind, asked.attempt, event.branch,
                source=event.source, actor=event.actor, reused=event.reused,
            )  # fmt: skip

    def all(self) -> tuple[Call, ...]:
        """The finished calls, in the order of their ends."""
        return tuple(sorted(self._finished.values(), key=lambda one: one.finished))

    def behind(self, value: Any) -> Call | None:
        """The call a value came from: the one with the best sign, of several the last; None if nothing speaks for any."""
        newest = self.all()[::-1]
        signs = [(one, _sign(one, value)) for one in newest]
        for sign in _SIGNS:
            for one, found in signs:
                if found == sign:
                    return replace(one, sign=sign)
        return next((one for one in newest if one.kind == MODEL), None)


def _sign(call: Call, value: Any) -> Sign:
    """What speaks for a value having come from a call; `last` if nothing does."""
    output = call.output
    text = answer_text(output)
    if _is_telling(value) and (alike(output, value) or (text and text == value)):
        return "same"
    if text and (call.kind == MODEL or len(text) >= SHORTEST) and quotes(value, text):
        return "quoted"
    if _is_telling(output) and _is_in(output, value):
        return "quoted"
    if _is_telling(value) and _is_in(value, output):
        return "part"
    return "last"


def _is_telling(value: Any) -> bool:
    """Whether it says anything that a value is equal to another: what is true, empty or a digit is so by chance."""
    if isinstance(value, str | bytes | list | dict):
        return len(value) > 0
    if value is None or isinstance(value, bool):
        return False
    return not -SMALL < value < SMALL or value % 1 != 0


def _is_in(part: Any, whole: Any) -> bool:
    """Whether a value stands in another: as an item or a field at any depth, as items of a list that follow each other, in a text."""
    for held in islice(_parts(whole), LOOKED_AT):
        if alike(part, held):
            return True
        if isinstance(part, list) and isinstance(held, list):
            if _is_stretch(part, held):
                return True
        elif isinstance(part, str) and isinstance(held, str) and len(part) >= SHORTEST and part in held:
            return True
    return False


def _is_stretch(part: list[Any], whole: list[Any]) -> bool:
    """Whether items stand in a list, one after the other."""
    starts = range(min(len(whole) - len(part) + 1, LOOKED_AT)) if part else ()
    return any(alike(whole[at], part[0]) and alike(whole[at : at + len(part)], part) for at in starts)


def _parts(whole: Any) -> Iterator[Any]:
    """What stands in a value, at any depth, and the value itself unless it is a scalar."""
    waiting = [iter([whole])]
    while waiting:
        for held in waiting[-1]:
            yield held
            if isinstance(held, list | dict):
                waiting.append(iter(held.values() if isinstance(held, dict) else held))
                break
        else:
            waiting.pop()


def answer_text(output: Any) -> str:
    """The text of a model's answer, as the OpenAI protocol has it, or a result that is a text; empty if there is none."""
    choices = output.get("choices") if isinstance(output, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    text = message.get("content") if isinstance(message, dict) else output
    return text if isinstance(text, str) else ""


def quotes(value: Any, text: str) -> bool:
    """Whether a text stands in a value, at any depth."""
    if isinstance(value, str):
        return text in value
    if isinstance(value, list):
        return any(quotes(item, text) for item in value)
    return isinstance(value, dict) and any(quotes(item, text) for item in value.values())
