"""What an agent makes of answers: both APIs, typed output, streams, and what it all cost."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest

from eventflow import Agent, Engine, RetryPolicy, Workflow, extend
from eventflow.agents.form import Form, strict
from eventflow.event import EffectFailed, EffectFinished, EffectStarted
from eventflow.testing import ModelServer, Reply

BOTH = pytest.mark.parametrize("api", ["chat", "responses"])
EVERY_WAY = pytest.mark.parametrize(
    ("api", "stream"), [("chat", False), ("chat", True), ("responses", False), ("responses", True)]
)
ONCE = RetryPolicy(attempts=1)


def asking(server: ModelServer, *, retry: RetryPolicy = ONCE, writes: Any = "a", **options: Any) -> Workflow:
    """One agent that reads `q` and writes `a`."""
    agent = Agent(model="m", reads="q", writes=writes, base_url=server.base_url, **options)
    return Workflow("w").add_node("ask", agent, retry=retry).set_start("ask")


def ended(flow: Workflow) -> tuple[Any, list[Any]]:
    """A run driven to its end: its state and its events."""

    async def story() -> tuple[Any, list[Any]]:
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "Why?"}, run_id="r")
            return await run.wait(), [one.event for one in run.events()]

    return asyncio.run(asyncio.wait_for(story(), 30))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# --- the two APIs --------------------------------------------------------------------------------------------------


def test_the_responses_api_is_asked_in_its_own_words():
    """Instructions are a parameter, messages are input items, and the recorded request says which API it was."""
    with ModelServer(["Because."]) as server:
        state, events = ended(asking(server, api="responses", instructions="Be brief.", temperature=0.5))
        (call,) = server.calls
    assert state.data["a"] == "Because."
    body = {
        "model": "m", "temperature": 0.5, "instructions": "Be brief.", "input": [{"role": "user", "content": "Why?"}]
    }  # fmt: skip
    assert (call.path, call.body) == ("/v1/responses", body)
    started, finished = events[1:3]
    assert started.input == {**body, "api": "responses"}
    assert started.idempotency_key == call.idempotency_key
    assert finished.output["output"][0]["content"][0]["text"] == "Because."
    assert not {"instructions", "tools", "text"} & finished.output.keys()
    assert finished.usage == {"calls": 1, "input_tokens": 3, "output_tokens": 1}


@EVERY_WAY
def test_the_fields_of_an_answer_are_the_same_in_every_way(api, stream):
    """Text, reason, model, id and usage can be written, whichever way they came."""
    fields = {name: name for name in ("text", "finish_reason", "model", "id", "usage")}
    with ModelServer([Reply("so far", finish_reason="length")]) as server:
        state, _ = ended(asking(server, api=api, stream=stream, writes=fields))
    assert state.data == {
        "q": "Why?", "text": "so far", "finish_reason": "length", "model": "m",
        "id": "chatcmpl-1" if api == "chat" else "resp_1", "usage": {"calls": 1, "input_tokens": 1, "output_tokens": 2},
    }  # fmt: skip


@EVERY_WAY
def test_a_model_that_thinks_aloud_is_sent_what_it_said(api, stream):
    """Text beside tool calls, and all that came with it, is part of the next turn."""
    turn = Reply("Let me see.", tool_calls=(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4})))
    with ModelServer([turn, "3 and 7"]) as server:
        state, _ = ended(asking(server, api=api, stream=stream, tools=[add]))
        body = server.calls[1].body
    assert state.data["a"] == "3 and 7"
    if api == "chat":
        said, *results = body["messages"][1:]
        assert said["content"] == "Let me see."
        assert [json.loads(one["function"]["arguments"]) for one in said["tool_calls"]] == [
            {"a": 1, "b": 2}, {"a": 3, "b": 4}
        ]  # fmt: skip
        assert [(one["tool_call_id"], one["content"]) for one in results] == [("call_1_0", "3"), ("call_1_1", "7")]
    else:
        kinds = [one.get("type", "asked") for one in body["input"]]
        assert kinds == ["asked", "message", "function_call", "function_call", *["function_call_output"] * 2]
        assert [(one["call_id"], one["output"]) for one in body["input"][4:]] == [("call_1_0", "3"), ("call_1_1", "7")]


# --- typed output --------------------------------------------------------------------------------------------------


class Fact(pydantic.BaseModel):
    """A part of an answer."""

    text: str
    weight: float = 1.0


class Verdict(pydantic.BaseModel):
    """A typed answer."""

    score: int = pydantic.Field(ge=0, le=10)
    kind: Literal["good", "bad"]
    facts: list[Fact]


GOOD = {"score": 7, "kind": "good", "facts": [{"text": "t", "weight": 2.0}]}
BAD = {"score": 70, "kind": "good", "facts": []}


@EVERY_WAY
def test_an_answer_is_held_to_its_type(api, stream):
    """The schema goes with the request, the parsed answer into the state, as plain data."""
    with ModelServer([json.dumps(GOOD)]) as server:
        state, _ = ended(asking(server, api=api, stream=stream, output=Verdict))
        body = server.calls[0].body
    assert state.data["a"] == GOOD
    form = body["response_format"]["json_schema"] if api == "chat" else body["text"]["format"]
    assert (form["name"], form["strict"]) == ("Verdict", True)
    assert form["schema"]["required"] == ["score", "kind", "facts"]
    assert form["schema"]["$defs"]["Fact"]["required"] == ["text", "weight"]


class Typed(TypedDict):
    """A state that keeps verdicts."""

    q: str
    a: Annotated[list[Verdict], extend]
    raw: str


def test_an_output_s_parts_go_where_they_belong():
    """`output` is a field of the answer beside its text; a declared state has it as its own type again."""
    with ModelServer([json.dumps(GOOD)]) as server:
        agent = Agent(
            model="m", reads="q", writes={"output": "a", "text": "raw"}, output=Verdict, base_url=server.base_url
        )
        flow = Workflow("w", state=Typed).add_node("n", agent).set_start("n")
        result = flow.run_sync({"q": "?"})
    assert result["a"] == [Verdict.model_validate(GOOD)]
    assert result["raw"] == json.dumps(GOOD)


@BOTH
def test_an_answer_that_does_not_fit_is_sent_back_with_the_problem(api):
    """The model sees its own answer and what is wrong with it, and may answer again."""
    with ModelServer([json.dumps(BAD), json.dumps(GOOD)]) as server:
        state, events = ended(asking(server, api=api, output=Verdict))
        said, asked = server.calls[1].body["messages" if api == "chat" else "input"][1:]
    assert state.data["a"] == GOOD
    assert (said["role"], asked["role"]) == ("assistant", "user")
    assert "score: Input should be less than or equal to 10" in asked["content"]
    assert [one.name for one in events if isinstance(one, EffectStarted)] == ["model", "model"]
    assert state.usage["calls"] == 2


@pytest.mark.parametrize("retries", [0, 2])
def test_answers_that_never_fit_fail_the_run(retries):
    """It was told as often as was asked for; then there is a sentence that says how to go on."""
    with ModelServer(lambda _: "no JSON") as server:
        state, _ = ended(asking(server, output=Verdict, output_retries=retries, retry=RetryPolicy(3, delay=0)))
        assert len(server.calls) == retries + 1
    assert (state.error.type, state.error.retryable) == ("OutputInvalid", False)
    assert state.error.message.startswith(f"the model's answer does not fit Verdict, after {retries + 1} answers (it: ")
    assert "raise output_retries=" in state.error.message


@dataclass
class Plain:
    """A dataclass as a form."""

    n: int


class Node(pydantic.BaseModel):
    """A form that holds itself."""

    name: str
    inner: list[Node] = []


class Open(pydantic.BaseModel):
    """A form with a place for anything."""

    names: dict[str, int]


class Cat(pydantic.BaseModel):
    """One of two."""

    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    """The other."""

    kind: Literal["dog"]


class Pet(pydantic.BaseModel):
    """One of two, told apart by a field."""

    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind", description="which")]
    first: Cat = pydantic.Field(description="beside a reference")
    maybe: int | None = None


@pytest.mark.parametrize(
    ("declared", "closed"),
    [(Verdict, True), (Plain, True), (Node, True), (Pet, True), (Open, False)],
)
def test_a_form_is_strict_where_it_can_be(declared, closed):
    """A closed type is told in the strict subset, an open one as it is, and both are checked."""
    name, schema, is_strict = Form(declared).asked
    assert (name, is_strict, schema["type"]) == (declared.__name__, closed, "object")

    def walk(one: Any) -> None:
        if isinstance(one, list):
            for part in one:
                walk(part)
        elif isinstance(one, dict):
            assert not {"oneOf", "discriminator", "default"} & one.keys()
            if one.get("type") == "object":
                assert one["additionalProperties"] is False
                assert one["required"] == list(one["properties"])
            for part in one.values():
                walk(part)

    if closed:
        walk(schema)


@pytest.mark.parametrize(
    "schema", [{}, {"type": "object"}, {"type": "array"}, {"allOf": [{"type": "string"}]}, {"anyOf": [{}]}]
)
def test_what_the_strict_subset_can_not_say_is_not_said_in_it(schema):
    """An open place anywhere makes the whole of it open."""
    assert strict({"type": "object", "properties": {"x": schema}}) is None
    assert strict({"type": "array", "items": schema}) is None


def test_tools_and_output_go_together():
    """Tool turns come first, and only the last answer is held to the type."""
    with ModelServer([Reply(tool_calls=(("add", {"a": 1, "b": 2}),)), '{"n": 3}']) as server:
        state, _ = ended(asking(server, tools=[add], output=Plain, max_turns=2))
    assert state.data["a"] == {"n": 3}


# --- streams -------------------------------------------------------------------------------------------------------


@BOTH
def test_pieces_are_told_while_the_model_speaks_and_one_event_is_recorded(api):
    """A subscriber hears every word before the answer is there; the log has the same answer as without a stream."""
    heard: list[tuple[str, str, str]] = []
    with ModelServer(["one two three"] * 2) as server:
        whole, plain_events = ended(asking(server, api=api))
        agent_events = ended(asking(server, api=api, stream=True, on_delta=lambda *told: heard.append(told)))
        state, events = agent_events
    assert heard == [("r", "ask", "one "), ("r", "ask", "two "), ("r", "ask", "three")]
    assert state.data == whole.data
    assert [type(one) for one in events] == [type(one) for one in plain_events]
    assert events[1].input == plain_events[1].input
    assert events[2].usage == plain_events[2].usage
    agent = asking(server, api=api).nodes["ask"].body
    assert agent.terms.api.said(events[2].output).text == "one two three"


@BOTH
def test_a_cut_stream_is_a_failed_attempt(api):
    """What was heard of it is not taken for an answer; the next attempt begins anew."""
    heard: list[str] = []
    with ModelServer([Reply("one two three four", cut=True), "whole"]) as server:
        flow = asking(
            server, api=api, stream=True, on_delta=lambda *told: heard.append(told[2]), retry=RetryPolicy(2, delay=0)
        )
        state, events = ended(flow)
    assert state.data["a"] == "whole"
    assert "one " in heard
    (failed,) = [event.error for event in events if isinstance(event, EffectFailed)]
    assert (failed.type, failed.retryable) == ("ModelUnavailable", True)


@pytest.mark.parametrize(
    ("api", "raw"),
    [
        ("chat", 'data: {"choices": [{"delta": {"content": "half"}}]}\n\ndata: [DONE]\n\n'),
        ("responses", 'event: response.created\ndata: {"type": "response.created", "response": {}}\n\n'),
        ("chat", ""),
    ],
)
def test_a_stream_without_an_end_is_no_answer(api, raw):
    """The connection ends in good order, and yet too early."""
    with ModelServer([Reply(raw=raw)]) as server:
        state, _ = ended(asking(server, api=api, stream=True))
    assert (state.error.type, state.error.message) == (
        "ModelUnavailable", "the model server's stream broke off before its end"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("api", "raw", "error"),
    [
        ("chat", 'data: {"error": {"message": "overloaded", "code": "server_error"}}\n\n', "ModelUnavailable"),
        (
            "chat",
            'data: {"error": {"message": "too long", "code": "context_length_exceeded"}}\n\n',
            "ConversationTooLong",
        ),
        (
            "responses",
            'data: {"type": "error", "code": "server_error", "message": "overloaded"}\n\n',
            "ModelUnavailable",
        ),
        ("responses", 'data: {"type": "error", "code": "invalid_prompt", "message": "no"}\n\n', "ModelRefused"),
        ("chat", "data: {broken\n\n", "ModelUnavailable"),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_one(api, raw, error):
    """Servers tell it as an event, for their status is sent already."""
    with ModelServer([Reply(raw=raw)]) as server:
        state, _ = ended(asking(server, api=api, stream=True))
    assert state.error.type == error


def test_a_subscriber_that_fails_loses_only_its_own():
    """The answer was paid for, and is kept."""

    def broken(run_id: str, node: str, text: str) -> None:
        raise ValueError(text)

    with ModelServer(["kept"]) as server:
        state, _ = ended(asking(server, stream=True, on_delta=broken))
    assert state.data["a"] == "kept"


# --- what it cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "cost"),
    [((2_000_000.0, 5_000_000.0), 3 * 2.0 + 2 * 5.0), ((2_000_000, 5_000_000, 500_000), 1 * 2.0 + 2 * 0.5 + 2 * 5.0)],
)
@EVERY_WAY
def test_a_price_makes_money_of_tokens(api, stream, price, cost):
    """Cost is summed with the tokens; cached ones have a price of their own where one is given."""
    with ModelServer([Reply("the answer", cached_tokens=2)]) as server:
        flow = asking(server, api=api, stream=stream, instructions="Be brief.", price=price)
        state, events = ended(flow)
    counts = {"calls": 1, "input_tokens": 3, "output_tokens": 2, "cached_tokens": 2}
    assert state.usage == {**counts, "cost": cost}
    assert [one.usage for one in events if isinstance(one, EffectFinished)] == [state.usage]
