"""A conversation within one visit of a node: model turns and tool calls, each an effect, until there is an answer.

Turns come one after the other; the calls of one turn are made at once. All of it can be lived through a second time after
a crash: what is recorded as finished answers from the log, so the same turns come up in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventflow.agents.form import Form
from eventflow.agents.outside import Reached
from eventflow.agents.tool import Tool, plain_of, sentence_of
from eventflow.agents.turn import Api, Heard, Message, Messages, Price, Question, Said, ToolCall, added, usage_of
from eventflow.codec import Shared
from eventflow.errors import OutputInvalid, TooManyTurns
from eventflow.run import Visit

LONGEST_ID = 64  # characters of a call's id in its effect's key, or of an unknown name; servers write what they like
CORRECTION = "Your answer does not fit the form that was asked for: {problem}. Answer again, in that form."

OnDelta = Callable[[str, str, str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an agent was made with, as far as its conversations need it."""

    api: Api
    model: str
    instructions: str
    options: Mapping[str, Any]
    tools: Mapping[str, Tool]
    offered: tuple[Mapping[str, Any], ...]
    form: Form | None
    max_turns: int
    output_retries: int
    price: Price | None
    stream: bool
    on_delta: OnDelta | None


@dataclass(frozen=True, slots=True)
class Answer:
    """How a conversation ended: the last turn, its output if a form was asked for, and all messages that were added."""

    said: Said
    output: Any
    messages: Messages


class Talk:
    """One conversation, from what is asked to the answer. `usage` is what it has used so far."""

    def __init__(self, terms: Terms, run: Visit, reached: Callable[[], Reached]) -> None:
        self._terms, self._run, self._reached = terms, run, reached
        self.usage: dict[str, Any] = {}

    async def to_end(self, before: Messages, asked: Messages) -> Answer:
        """Ask and go on until the model answers. Raises TooManyTurns, OutputInvalid, and what a call raises."""
        terms, said_so_far, turns, corrections = self._terms, list(asked), 0, 0
        while True:
            said = await self.turn([*before, *said_so_far])
            turns += 1
            said_so_far += said.messages
            if said.calls and terms.tools:
                if turns - corrections >= terms.max_turns:
                    wanted = ", ".join(one.name[:LONGEST_ID] for one in said.calls)
                    raise TooManyTurns(
                        f"the model has no answer after {terms.max_turns} turns and asks for more tools ({wanted}); "
                        f"raise max_turns= or tell it when to stop, then resume the run"
                    )
                said_so_far += await self._called(turns, said.calls)
                continue
            if terms.form is None:
                return Answer(said, None, said_so_far)
            output, problem = terms.form.read(said.text)
            if not problem:
                return Answer(said, output, said_so_far)
            if corrections >= terms.output_retries:
                raise OutputInvalid(
                    f"the model's answer does not fit {terms.form.name}, after {corrections + 1} answers ({problem}); "
                    f"raise output_retries= or make the form simpler, then resume the run"
                )
            corrections += 1
            said_so_far.append({"role": "user", "content": CORRECTION.format(problem=problem)})

    # --- a model's turn

    async def turn(self, messages: Messages) -> Said:
        """One turn of the conversation. Raises ModelUnavailable, ModelRefused, MissingApiKey."""
        terms = self._terms
        question = Question(
            terms.model, messages, terms.instructions, terms.options, terms.offered,
            None if terms.form is None else terms.form.asked,
        )  # fmt: skip
        return await self.asked("model", question, self._heard() if terms.stream else None)

    async def asked(self, effect: str, question: Question, heard: Heard | None = None) -> Said:
        """A question put to the model, as an effect of this name."""
        api = self._terms.api
        request = api.request(question)

        async def ask(idempotency_key: str) -> dict[str, Any]:
            client = self._reached()  # not before: a call that is in the log already needs neither key nor server
            return await client.complete(api, request, idempotency_key=idempotency_key, heard=heard)

        answer = await self._run.effect(
            effect, ask, kind="model", mutating=False, asked=_recorded(api, request), usage=self._used
        )
        self.usage = added(self.usage, self._used(answer))
        return api.said(answer)

    def _used(self, answer: dict[str, Any]) -> dict[str, Any]:
        return usage_of(answer, self._terms.price)

    def _heard(self) -> Heard:
        """Who is told each piece of text; what a subscriber raises is theirs to lose, as with listeners."""
        tell, run = self._terms.on_delta, self._run

        def heard(text: str) -> None:
            if tell is not None and text:
                with contextlib.suppress(Exception):
                    tell(run.id, run.node, text)

        return heard

    # --- tool calls

    async def _called(self, turn: int, calls: tuple[ToolCall, ...]) -> list[Message]:
        """The results of one turn's calls, in their order. All of them come to an end before the first error is raised."""
        results = await asyncio.gather(
            *(self._call(turn, at, call) for at, call in enumerate(calls, 1)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [
            self._terms.api.result(call, str(result)) for call, result in zip(calls, results, strict=True)
        ]  # fmt: skip

    def _call(self, turn: int, at: int, call: ToolCall) -> Awaitable[str]:
        tool = self._terms.tools.get(call.name)
        if tool is None:
            return self._unknown(call.name)
        return self._made(tool, f"{turn}.{at}/{call.id[:LONGEST_ID]}", call.arguments)

    async def _unknown(self, name: str) -> str:
        return f"error: there is no tool {name[:LONGEST_ID]!r}; the tools are {', '.join(self._terms.tools)}"

    async def _made(self, tool: Tool, key: str, arguments: str) -> str:
        """One call of a tool as the model is told it.

        An error that is told is a result: recorded as finished, it is the same whenever the conversation is lived
        through again. So is a call that was never made because of its arguments, which changes nothing.
        """
        given, problem = tool.parsed(arguments)
        values: dict[str, Any] = {}
        if not problem:
            values, problem = tool.checked(given)
            problem = problem and f"the arguments do not fit, {problem}"
        if problem:
            call = _refusing(problem)
        else:
            call = tool.ready(values, then=_result, otherwise=_error if tool.on_error == "tell" else None)
        outcome = await self._run.effect(
            f"tool:{tool.name}", call, key=key, kind="tool", mutating=tool.mutating and not problem,
            reconcile=tool.settling(_result), asked={"arguments": given},
        )  # fmt: skip
        return _as_told(outcome)


def told(result: Any) -> str:
    """A tool's result as a model is told it: a text as it is, anything else as JSON."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def _refusing(problem: str) -> Callable[..., Any]:
    async def refused() -> dict[str, Any]:
        return {"error": problem}

    return refused


def _result(value: Any) -> dict[str, Any]:
    return {"result": plain_of(value)}


def _error(error: Exception) -> dict[str, Any]:
    return {"error": sentence_of(error)}


def _as_told(outcome: Any) -> str:
    """A tool's outcome as the model is told it; one that a person settled is whatever they said."""
    if isinstance(outcome, dict) and outcome.keys() == {"error"}:
        return f"error: {outcome['error']}"
    return told(outcome["result"] if isinstance(outcome, dict) and outcome.keys() == {"result"} else outcome)


def _recorded(api: Api, request: dict[str, Any]) -> dict[str, Any]:
    """A request as it is recorded: its messages and tools by reference, for the next turn sends them again."""
    shared = {
        key: [Shared(one) for one in request[key]] for key in (api.messages_key, "tools") if key in request
    }  # fmt: skip
    return {**request, "api": api.name, **shared}
