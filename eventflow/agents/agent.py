"""A node that asks a language model: one call, recorded as an effect, over the OpenAI protocol.

The request and the answer are in the log, the messages by reference, so that a turn adds only what is new. A call whose
finish is recorded is never made again; each failed attempt is an event. Keys are taken from the environment at the call
and are written nowhere. The only folder that imports openai, and only when a model is called.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eventflow.agents.outside import Reached, check_client, reach, without_surrogates
from eventflow.codec import Shared
from eventflow.errors import DefinitionError, InvalidState, MissingApiKey, ModelRefused
from eventflow.plain import thaw
from eventflow.retry import RetryPolicy
from eventflow.run import Visit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Messages = list[dict[str, Any]]
Reads = str | Sequence[str] | Callable[[Any], Any]
Writes = str | Mapping[str, str]

ANSWER_FIELDS = ("text", "finish_reason", "model", "id", "usage")
# What would set the client up anew at each call; secrets among them would be recorded with the request.
NOT_OPTIONS = frozenset({"api_key", "extra_body", "extra_headers", "extra_query", "max_retries", "messages", "stream"})
DEFAULT_RETRY = RetryPolicy(attempts=3, delay=1.0)


class Agent:
    """A model as a node: reads state, asks, writes the answer into the state.

    `reads` is a field, a list of fields, or a function of the state that gives the messages (or a text); `writes` is a
    field for the answer's text (put into a list where the field extends one), or a mapping from the answer's fields
    (text, finish_reason, model, id, usage) to the state's. `client` is an `openai.AsyncOpenAI` of one's own, `base_url`
    any server that speaks the protocol; other options go to the model as they are (temperature=0.2).
    """

    kind = "agent"
    default_retry = DEFAULT_RETRY

    def __init__(
        self, *, model: str, reads: Reads, writes: Writes, instructions: str = "", base_url: str | None = None,
        client: AsyncOpenAI | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if not isinstance(writes, str):
            unknown = sorted(set(writes) - set(ANSWER_FIELDS))
            if unknown:
                raise DefinitionError(f"Agent writes {', '.join(unknown)}: an answer has {', '.join(ANSWER_FIELDS)}")
        if refused := sorted(NOT_OPTIONS & options.keys()):
            raise DefinitionError(
                f"Agent takes no {', '.join(refused)}: retries are the node's, as retry=RetryPolicy(); what belongs to "
                f"the client is given to one of your own, as client=openai.AsyncOpenAI(...)"
            )
        if client is not None:
            check_client(client)
        self.model, self.reads, self.writes, self.instructions = model, reads, writes, instructions
        self.base_url, self.client, self.options = base_url, client, options

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The state fields it reads, as far as they are named, and those it writes."""
        if isinstance(self.reads, str):
            reads: tuple[str, ...] = (self.reads,)
        else:
            reads = () if callable(self.reads) else tuple(self.reads)
        return reads, (self.writes,) if isinstance(self.writes, str) else tuple(self.writes.values())

    async def __call__(self, state: Any, run: Visit) -> dict[str, Any]:
        """Ask once and return the change. Raises ModelUnavailable, ModelRefused, MissingApiKey."""
        messages = self._messages(state)
        request = {"model": self.model, **self.options}

        async def ask(idempotency_key: str) -> dict[str, Any]:
            client = self._reached(run)  # not before: a call that is in the log already needs neither key nor server
            return await client.complete({**request, "messages": messages}, idempotency_key)

        asked = {**request, "api": "chat.completions", "messages": [Shared(one) for one in messages]}
        answer = await run.effect("model", ask, kind="model", mutating=False, asked=asked, usage=usage_of)
        return self._change(answer, run)

    def _reached(self, run: Visit) -> Reached:
        if self.client is not None:
            return Reached(self.client)
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get("OPENAI_API_KEY")
        if key is None and base_url is None:
            raise MissingApiKey
        made: Reached = run.resource(("openai", base_url, key), lambda: reach(base_url, key))
        return made

    # --- in and out

    def _messages(self, state: Any) -> Messages:
        given = self.reads(state) if callable(self.reads) else self._told(state)
        messages: Messages = [{"role": "user", "content": given}] if isinstance(given, str) else _listed(given)
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        return [{key: without_surrogates(value) for key, value in one.items()} for one in messages]

    def _told(self, state: Any) -> str:
        if isinstance(self.reads, str):
            return _text(_field(state, self.reads))
        assert not callable(self.reads)  # noqa: S101 - the caller looked
        return "\n\n".join(f"{name}: {_text(_field(state, name))}" for name in self.reads)

    def _change(self, answer: dict[str, Any], run: Visit) -> dict[str, Any]:
        values = answer_values(answer)
        pairs = [("text", self.writes)] if isinstance(self.writes, str) else list(self.writes.items())
        return {key: [values[name]] if run.extends(key) else values[name] for name, key in pairs}


def answer_values(answer: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model's answer that a node may write. Raises ModelRefused if there is no answer in it."""
    choices = answer.get("choices") or []
    if not choices:
        raise ModelRefused("the model server sent an answer without choices")
    first = choices[0]
    return {
        "text": first.get("message", {}).get("content") or "",
        "finish_reason": first.get("finish_reason") or "",
        "model": answer.get("model") or "",
        "id": answer.get("id") or "",
        "usage": usage_of(answer),
    }


def usage_of(answer: dict[str, Any]) -> dict[str, int]:
    """Counts to add to a run's usage: calls, input and output tokens."""
    used = answer.get("usage")
    counts = used if isinstance(used, dict) else {}
    return {
        "calls": 1,
        "input_tokens": _count(counts.get("prompt_tokens")),
        "output_tokens": _count(counts.get("completion_tokens")),
    }


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _listed(given: Any) -> Messages:
    messages = thaw(list(given)) if isinstance(given, list | tuple) else given
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise InvalidState("messages", f"reads must give a text or a list of messages, got {type(given).__name__}")
    return messages


def _field(state: Any, name: str) -> Any:
    found = state.get(name, _MISSING) if isinstance(state, dict) else getattr(state, name, _MISSING)
    if found is _MISSING:
        raise InvalidState(
            name, "is not in the state, and the agent reads it; give it in the input, or write it before"
        )
    return found


_MISSING = object()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return json.dumps(thaw(value), ensure_ascii=False, default=str)
