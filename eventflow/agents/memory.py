"""How much of a conversation a model is sent: windows over the messages of the state.

A tool call is never parted from its results, nor a model's thoughts from what it said. Nothing is taken out of the
state; what a window leaves out is only not sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventflow.errors import DefinitionError

CHARACTERS = 4  # of a message's JSON, about, in a token of English; who needs it exactly gives a `count`
_ASKED = frozenset({"user", "system", "developer"})


def estimated(message: Mapping[str, Any]) -> int:
    """Tokens of a message, about: its JSON's length by four, rounded up."""
    return -(-len(json.dumps(message, ensure_ascii=False, default=str)) // CHARACTERS)


@dataclass(frozen=True, slots=True)
class Window:
    """At most so many messages, or so many tokens, of a conversation; the newest that fit.

    `count` tells a message's tokens; without it they are estimated. What is asked now, and the instructions, are always
    sent, and count. Raises DefinitionError.
    """

    messages: int | None = None
    tokens: int | None = None
    count: Callable[[dict[str, Any]], int] = estimated

    def __post_init__(self) -> None:
        given = [one for one in (self.messages, self.tokens) if one is not None]
        if len(given) != 1 or given[0] < 1:
            raise DefinitionError("a Window is messages=N or tokens=N, one of the two, and at least 1")

    def weight(self, messages: Sequence[dict[str, Any]]) -> int:
        """What messages weigh, in the window's own unit."""
        return len(messages) if self.tokens is None else sum(map(self.count, messages))

    def start(self, history: Sequence[dict[str, Any]], always: Sequence[dict[str, Any]], *, share: float = 1.0) -> int:
        """The index from which on the history is sent: as far back as fits beside what is always sent.

        `share` is the part of the window that may be filled.
        """
        limit = self.messages if self.tokens is None else self.tokens
        room = int((limit or 0) * share) - self.weight(always)
        start = len(history)
        for begin in reversed(begins(history)):
            room -= self.weight(history[begin:start])
            if room < 0:
                break
            start = begin
        return start


def begins(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where a conversation may be cut: before what somebody asks, and before what the model says to it."""
    found, before = [], ""
    for index, message in enumerate(messages):
        kind = _kind(message)
        if index == 0 or kind == "asked" or (kind == "model" and before != "model"):
            found.append(index)
        before = kind
    return found


def _kind(message: Mapping[str, Any]) -> str:
    """Who speaks: somebody who asks, the model (in several items, over the responses API), or a tool."""
    if message.get("role") in _ASKED:
        return "asked"
    if message.get("role") == "tool" or str(message.get("type", "")).endswith("_output"):
        return "tool"
    return "model"
