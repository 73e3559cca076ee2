"""A conversation within one visit of a node: model turns and tool calls, each an effect, until there is an answer.

Turns come one after the other; the calls of one turn are made at once, but for those that a person is asked about. All of
it can be lived through a second time, after a crash or once somebody has answered: what is recorded as finished answers
from the log, so the same turns come up in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventflow.agents.approval import Decision, asked_about, decision, refusal
from eventflow.agents.form import Form
from eventflow.agents.handover import Target
from eventflow.agents.outside import Reached
from eventflow.agents.tool import Tool, plain_of, sentence_of
from eventflow.agents.turn import Api, Heard, Message, Messages, Price, Question, Said, ToolCall, added, usage_of
from eventflow.codec import Shared
from eventflow.errors import OutputInvalid, TooManyTurns
from eventflow.run import Visit
from eventflow.workflow import Standing

LONGEST_ID = 64  # characters of a call's id in its effect's key, or of an unknown name; servers write what they like
CORRECTION = "Your answer does not fit the form that was asked for: {problem}. Answer again, in that form."
EDITED = "The person who approved this call changed its arguments; it was made with {arguments} and came to:"
NOT_ASKED: Decision = {"approve": True}

OnDelta = Callable[[str, str, str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an agent was made with, as far as its conversations need it."""

    api: Api
    model: str
    instructions: str
    options: Mapping[str, Any]
    tools: Mapping[str, Tool]
    targets: Mapping[str, Target]
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


@dataclass(frozen=True, slots=True)
class Handed:
    """How a conversation ended that goes on in another node: which, and all messages that were added."""

    node: str
    messages: Messages


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that the model asks for, looked at: its key, its arguments as data and as values, what is wrong with it."""

    call: ToolCall
    key: str
    tool: Tool | None = None
    given: Any = None
    values: Mapping[str, Any] | None = None
    problem: str = ""


class Talk:
    """One conversation, from what is asked to the answer. `usage` is what it has used so far."""

    def __init__(self, terms: Terms, run: Visit, reached: Callable[[], Reached]) -> None:
        self._terms, self._run, self._reached = terms, run, reached
        self.usage: dict[str, Any] = {}

    async def to_end(self, before: Messages, asked: Messages) -> Answer | Handed | Standing:
        """Ask and go on until the model answers or hands over, or a person has to be asked.

        Raises TooManyTurns, OutputInvalid, and what a call raises.
        """
        terms, said_so_far, turns, corrections = self._terms, list(asked), 0, 0
        while True:
            said = await self.turn([*before, *said_so_far])
            turns += 1
            said_so_far += said.messages
            if said.calls and (terms.tools or terms.targets):
                target = next((terms.targets[one.name] for one in said.calls if one.name in terms.targets), None)
                if target is None:
                    self._check_turns(turns - corrections, said)
                results = await self._called(turns, said.calls)
                if isinstance(results, Standing):
                    return results
                said_so_far += results
                if target is not None:
                    return Handed(target.node, said_so_far)
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

    def _check_turns(self, turns: int, said: Said) -> None:
        if turns >= self._terms.max_turns:
            wanted = ", ".join(one.name[:LONGEST_ID] for one in said.calls)
            raise TooManyTurns(
                f"the model has no answer after {self._terms.max_turns} turns and asks for more tools ({wanted}); "
                f"raise max_turns= or tell it when to stop, then resume the run"
            )

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
        if isinstance(answer, str):  # given by hand, in place of a model's
            return Said(answer, (), "stop", question.model, "", ({"role": "assistant", "content": answer},))
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

    async def _called(self, turn: int, calls: tuple[ToolCall, ...]) -> list[Message] | Standing:
        """The results of one turn's calls, in their order, or the wait for the first that a person must be asked about.

        All that need no more asking come to an end before that, and before the first error is raised.
        """
        wanted = [self._wanted(turn, at, call) for at, call in enumerate(calls, 1)]
        guarded = await self._guarded(wanted)
        said = {one.key: decision(self._run, one.call.name, one.key) for one in wanted if one.key in guarded}
        first = next((one for one in wanted if one.key in guarded and said[one.key] is None), None)
        ready = [one for one in wanted if said.get(one.key, NOT_ASKED) is not None]
        results = await asyncio.gather(
            *(self._made(one, said.get(one.key) or NOT_ASKED, calls) for one in ready), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if first is not None and first.tool is not None:
            return first.tool.approval(self._run.node, first.given, call=first.call.id[:LONGEST_ID]).standing(first.key)
        return [
            self._terms.api.result(call, str(result)) for call, result in zip(calls, results, strict=True)
        ]  # fmt: skip

    def _wanted(self, turn: int, at: int, call: ToolCall) -> Wanted:
        key = f"{turn}.{at}/{call.id[:LONGEST_ID]}"
        tool = self._terms.tools.get(call.name)
        if tool is None:
            return Wanted(call, key)
        given, problem = tool.parsed(call.arguments)
        values: Mapping[str, Any] = {}
        if not problem:
            values, problem = tool.checked(given)
            problem = problem and f"the arguments do not fit, {problem}"
        return Wanted(call, key, tool, given, values, problem)

    async def _guarded(self, wanted: list[Wanted]) -> frozenset[str]:
        """Keys of the calls that a person is asked about. Those of tools that are gone, or do not fit, are never made."""
        fine = {one.key: one.tool.asked(one.key, one.given) for one in wanted if one.tool and not one.problem}
        return await asked_about(self._run, wanted[0].key, list(fine.values()))

    async def _made(self, one: Wanted, said: Decision, calls: tuple[ToolCall, ...]) -> str:
        """One call as the model is told it."""
        if one.tool is None:
            return self._not_a_tool(one.call, calls)
        if not said["approve"]:
            return f"error: {refusal(said)}"
        if "arguments" not in said:
            return await self._outcome(one.tool, one)
        given = said["arguments"]
        values, problem = one.tool.checked(given)
        problem = problem and f"the arguments do not fit, {problem}"
        edited = Wanted(one.call, one.key, one.tool, given, values, problem)
        return f"{EDITED.format(arguments=told(given))}\n{await self._outcome(one.tool, edited)}"

    def _not_a_tool(self, call: ToolCall, calls: tuple[ToolCall, ...]) -> str:
        """What the model is told of a handover, of which one a turn counts, and of a tool there is not."""
        targets = self._terms.targets
        if call.name not in targets:
            names = ", ".join([*self._terms.tools, *targets])
            return f"error: there is no tool {call.name[:LONGEST_ID]!r}; the tools are {names}"
        first = next(one for one in calls if one.name in targets)
        node = targets[first.name].node
        return f"handed over to {node}" if call is first else f"error: it was handed over to {node} already"

    async def _outcome(self, tool: Tool, one: Wanted) -> str:
        """What came of a call.

        An error that is told is a result: recorded as finished, it is the same whenever the conversation is lived
        through again. So is a call that was never made because of its arguments, which changes nothing.
        """
        if one.problem:
            call = _refusing(one.problem)
        else:
            call = tool.ready(one.values or {}, then=_result, otherwise=_error if tool.on_error == "tell" else None)
        outcome = await self._run.effect(
            f"tool:{tool.name}", call, key=one.key, kind="tool", mutating=tool.mutating and not one.problem,
            reconcile=tool.settling(_result), asked={"arguments": one.given},
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
