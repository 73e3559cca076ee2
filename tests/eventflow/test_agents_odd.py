"""Servers that answer almost in the protocol: whatever they send, there is an answer, or a sentence and no slip."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from eventflow import Agent, Engine, RetryPolicy, Workflow
from eventflow.agents.chat import Chat
from eventflow.agents.responses import Responses
from eventflow.agents.turn import price_of, usage_of
from eventflow.errors import ModelRefused, ModelUnavailable
from eventflow.testing import Call, ModelServer, Reply

JUNK: list[Any] = [
    None, 0, -1, 1.5, True, "", "x", [], [1], ["x"], [[]], [{}], {}, {"a": 1}, "failed", "incomplete", "content_filter"
]  # fmt: skip
TOOL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT = {
    "id": "x", "model": "m",
    "choices": [
        {"message": {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": [TOOL]}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
}  # fmt: skip
RESPONSE = {
    "id": "r", "model": "m", "status": "completed", "error": None, "incomplete_details": None,
    "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "hi"}, {"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ],
    "usage": {"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
}  # fmt: skip
CHUNK = {
    "id": "x",
    "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "hi", "tool_calls": [{"index": 0, **TOOL}]}, "finish_reason": "stop"}
    ],
}  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value but its top."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def spoiled(value: Any) -> Iterator[Any]:
    """A value with something else at each of its places, one at a time."""
    for at in places(value):
        for junk in JUNK:
            made = copy.deepcopy(value)
            held = made
            for key in at[:-1]:
                held = held[key]
            held[at[-1]] = junk
            yield made


@pytest.mark.parametrize(("api", "answer"), [(Chat(), CHAT), (Responses(), RESPONSE)], ids=["chat", "responses"])
def test_an_answer_with_anything_anywhere_is_read_or_refused(api, answer):
    """Texts are texts, calls are calls, counts are counts; or there is no answer in it, and the error says so."""
    for one in spoiled(answer):
        assert usage_of(one, price_of((1.0, 2.0)))["cost"] >= 0
        try:
            said = api.said(one)
        except (ModelRefused, ModelUnavailable):
            continue
        texts = [said.text, said.finish_reason, said.model, said.id]
        texts += [text for call in said.calls for text in (call.id, call.name, call.arguments)]
        assert all(isinstance(text, str) for text in texts), one


RAW = [
    "data: [1,2]\n\n", 'data: "x"\n\n', "data: 5\n\n", "data: null\n\n", "data: {}\n\n", 'data: {"choices": 7}\n\n',
    'data: {"choices": [{"delta": 3}]}\n\n', 'data: {"type": 5}\n\n', 'data: {"type": ["x"]}\n\n', 'data: {"error": "x"}\n\n',
    'data: {"type": "response.completed"}\n\n', 'data: {"type": "response.completed", "response": 5}\n\n',
    'data: {"type": "response.output_text.delta", "delta": 5}\n\n',
    'data: {"type": "response.failed", "response": {"status": "failed", "error": {"code": "rate_limit_exceeded"}}}\n\n',
    "[1]", '"x"', "null", "5", "\xff", '{"choices": [5]}', '{"output": [5], "status": "completed"}', '{"error": "x"}',
]  # fmt: skip


def drive(script: Any, asked: int, **options: Any) -> list[Any]:
    """The states in which as many runs end, one for each number."""

    async def story(server: ModelServer) -> list[Any]:
        states = []
        async with Engine() as engine:
            for number in range(asked):
                agent = Agent(model="m", reads="q", writes="a", base_url=server.base_url, user=str(number), **options)
                flow = Workflow("w").add_node("n", agent, retry=RetryPolicy(attempts=1)).set_start("n")
                states.append(await (await engine.start(flow, {"q": "?"})).wait())
        return states

    with ModelServer(script) as server:
        return asyncio.run(asyncio.wait_for(story(server), 60))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_whatever_a_server_sends_the_run_fails_with_a_sentence(api, stream):
    """JSON of any kind, in a stream or out of one, is the server's fault and is said to be."""

    def script(call: Call) -> Reply:
        return Reply(raw=RAW[int(call.body["user"])])

    for raw, state in zip(RAW, drive(script, len(RAW), api=api, stream=stream), strict=True):
        assert state.error.type in ("ModelUnavailable", "ModelRefused"), raw
        assert "model server" in state.error.message


def test_a_stream_of_odd_chunks_is_put_together_or_refused():
    """Each chunk may have anything anywhere; the text that was in them is the answer's."""
    chunks = list(spoiled(CHUNK))

    def script(call: Call) -> Reply:
        part = chunks[int(call.body["user"]) * 40 :][:40]
        return Reply(raw="".join(f"data: {json.dumps(one)}\n\n" for one in [CHUNK, *part, CHUNK]))

    for state in drive(script, -(-len(chunks) // 40), stream=True):
        if state.error is None:
            assert state.data["a"].startswith("hi")
        else:
            assert state.error.type in ("ModelUnavailable", "ModelRefused", "ContentFiltered"), state.error
