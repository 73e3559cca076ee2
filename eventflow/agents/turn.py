"""What one turn of a model is, whichever API it was asked over: the facts that a conversation is made of.

Each API of the protocol has a file of its own that turns its wire form into these; nothing here knows a wire form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eventflow.errors import DefinitionError

Message = dict[str, Any]
Messages = list[Message]
Heard = Callable[[str], None]  # told each piece of a text while the model still speaks

MILLION = 1_000_000  # tokens that a price is for, as price lists have it


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for; `arguments` is what it wrote, JSON if all is well."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said in one turn; `messages` is that in the API's own form, to be sent along in the next turn."""

    text: str
    calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """All that a model is asked with in one turn. `form` is the shape of its answer, (name, schema, strict), if any."""

    model: str
    messages: Messages
    instructions: str = ""
    options: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    form: tuple[str, Mapping[str, Any], bool] | None = None


class Api(Protocol):
    """One of the protocol's APIs: how it is asked, and how its answers are read."""

    name: str
    messages_key: str

    def request(self, question: Question) -> dict[str, Any]:
        """The request's parameters, without how it is delivered."""
        ...

    def tool(self, name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A tool as it is offered to the model."""
        ...

    def result(self, call: ToolCall, text: str) -> Message:
        """What a tool call came to, as a message."""
        ...

    def kept(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What of an answer is recorded."""
        ...

    def said(self, answer: Mapping[str, Any]) -> Said:
        """A finished answer read. Raises ModelRefused or ModelUnavailable if there is none in it."""
        ...

    async def whole(self, client: Any, request: dict[str, Any]) -> Any:
        """Ask, and wait for the whole answer."""
        ...

    async def streamed(self, client: Any, request: dict[str, Any], heard: Heard) -> dict[str, Any]:
        """Ask, tell each piece of text, and give the whole answer at the end. Raises ModelUnavailable if it is cut."""
        ...


@dataclass(frozen=True, slots=True)
class Price:
    """Money for a million tokens that go in, come out, or were cached; in whatever currency."""

    into: float
    out: float
    cached: float

    def of(self, into: int, out: int, cached: int) -> float:
        """What a call cost; cached tokens are among those that went in."""
        cached = min(cached, into)
        return ((into - cached) * self.into + cached * self.cached + out * self.out) / MILLION


def price_of(given: tuple[float, ...] | None) -> Price | None:
    """A price as an agent is given it: (in, out) or (in, out, cached). Raises DefinitionError."""
    if given is None:
        return None
    fine = len(given) in (2, 3) and all(type(one) in (int, float) and 0 <= one < float("inf") for one in given)
    if not fine:
        raise DefinitionError(
            f"Agent(price=...) is what a million tokens cost: (in, out) or (in, out, cached), got {given!r}"
        )
    return Price(given[0], given[1], given[2] if len(given) == 3 else given[0])


def usage_of(answer: Mapping[str, Any], price: Price | None = None) -> dict[str, Any]:
    """Counts to add to a run's usage: calls, input and output tokens; cached tokens and cost where they are known."""
    counts = dict_of(answer.get("usage"))
    into = _count(counts.get("prompt_tokens", counts.get("input_tokens")))
    out = _count(counts.get("completion_tokens", counts.get("output_tokens")))
    details = dict_of(counts.get("prompt_tokens_details", counts.get("input_tokens_details")))
    cached = _count(details.get("cached_tokens"))
    usage: dict[str, Any] = {"calls": 1, "input_tokens": into, "output_tokens": out}
    if cached:
        usage["cached_tokens"] = cached
    if price is not None:
        usage["cost"] = price.of(into, out, cached)
    return usage


def text_of(value: Any) -> str:
    """A field that should hold a text; empty where a server put something else there."""
    return value if isinstance(value, str) else ""


def dict_of(value: Any) -> dict[str, Any]:
    """A field that should hold an object; an empty one where a server put something else there."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: Any) -> list[dict[str, Any]]:
    """A field that should hold a list of objects: those of its items that are."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list | tuple) else []


def added(total: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two usages as one."""
    return {**total, **{key: total.get(key, 0) + value for key, value in more.items()}}


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
