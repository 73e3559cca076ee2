"""Model servers' errors: which are tried again, after how long, and what the sentence says to do about the others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from eventflow import Agent, Engine, ManualClock, RetryPolicy, Workflow
from eventflow.agents.refusals import rest_asked
from eventflow.clock import NS
from eventflow.event import EffectFailed
from eventflow.testing import ModelServer, Reply

EVERY_WAY = pytest.mark.parametrize(
    ("api", "stream"), [("chat", False), ("chat", True), ("responses", False), ("responses", True)]
)


def asking(server: ModelServer, *, retry: RetryPolicy, **options: Any) -> Workflow:
    """One agent that reads `q` and writes `a`."""
    agent = Agent(model="m", reads="q", writes="a", base_url=server.base_url, **options)
    return Workflow("w").add_node("ask", agent, retry=retry).set_start("ask")


def ended(flow: Workflow, **options: Any) -> tuple[Any, list[Any]]:
    """A run driven to its end: its state and its events."""

    async def story() -> tuple[Any, list[Any]]:
        async with Engine(workflows=[flow], **options) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            return await run.wait(), [one.event for one in run.events()]

    return asyncio.run(asyncio.wait_for(story(), 30))


TRIED = RetryPolicy(attempts=2, delay=0)


@EVERY_WAY
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again_in_every_way(api, stream, status):
    """Overload and errors of the server fail one attempt."""
    with ModelServer([Reply(status=status), "ok"]) as server:
        state, events = ended(asking(server, api=api, stream=stream, retry=TRIED))
    assert state.data["a"] == "ok"
    assert [one.error.type for one in events if isinstance(one, EffectFailed)] == ["ModelUnavailable"]


@EVERY_WAY
@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (
            Reply("Your messages are too long", status=400, error_code="context_length_exceeded"),
            "ConversationTooLong",
            "give the agent less to read, or memory with a smaller window=, then resume the run at a version before this call",
        ),
        (Reply("the maximum context length is 8", status=400), "ConversationTooLong", "give the agent less to read"),
        (
            Reply("n > ctx", status=400, error_type="exceed_context_size_error"),
            "ConversationTooLong",
            "the model server answered 400: n > ctx; give",
        ),
        (
            Reply("The prompt was filtered", status=400, error_code="content_filter"),
            "ContentFiltered",
            "change what the agent is told, then resume the run at a version before this call",
        ),
        (
            Reply("half an answer", finish_reason="content_filter"),
            "ContentFiltered",
            "the model server's content filter stopped the answer after 'half an answer'; change what the agent is told",
        ),
        (
            Reply(refusal="I can't help with that."),
            "ModelRefused",
            'the model refuses to answer: "I can\'t help with that."; change what it is told',
        ),
        (
            Reply("You have no money", status=429, error_code="insufficient_quota"),
            "ModelRefused",
            "the account has no quota left, which waiting does not mend",
        ),
    ],
    ids=["code", "sentence", "type", "prompt filter", "answer filter", "refusal", "quota"],
)
def test_what_would_end_the_same_way_is_not_tried_again(api, stream, reply, error, said):
    """A refusal is final, has a kind, and says what to do."""
    with ModelServer([reply] * 2) as server:
        state, events = ended(asking(server, api=api, stream=stream, retry=TRIED))
        assert len(server.calls) == 1
    assert (state.status, state.error.type, state.error.retryable) == ("failed", error, False)
    assert said in state.error.message
    assert [one.error.type for one in events if isinstance(one, EffectFailed)] == [error]


def test_a_refused_call_can_be_made_anew_once_its_cause_is_mended(tmp_path):
    """With other instructions the same run goes on from before that call, as the sentence says."""

    async def story(server: ModelServer) -> Any:
        flow = asking(server, retry=TRIED)
        async with Engine(tmp_path / "s") as engine:
            await (await engine.start(flow, {"q": "?"}, run_id="r")).wait()
        mended = asking(server, retry=TRIED, instructions="Be kind.")
        async with Engine(tmp_path / "s", workflows=[mended]) as engine:
            return await (await engine.resume("r", at=1)).result()

    with ModelServer([Reply("half", finish_reason="content_filter"), "whole"]) as server:
        assert asyncio.run(asyncio.wait_for(story(server), 30))["a"] == "whole"


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"status": "failed", "error": {"code": "server_error", "message": "boom"}}, "ModelUnavailable", "boom"),
        ({"status": "failed", "error": {"code": "invalid_prompt", "message": "no"}}, "ModelRefused", "no"),
        ({"status": "failed"}, "ModelUnavailable", "it does not say why"),
        ({"status": "queued"}, "ModelRefused", "is not finished (its status is 'queued')"),
        ({"status": "completed", "output": []}, "ModelRefused", "a response without output"),
    ],
)
def test_a_response_that_is_no_answer_is_an_error(answer, error, said):
    """The responses API says so with a status of 200."""
    with ModelServer([Reply(raw=json.dumps({"id": "x", "object": "response", **answer}))]) as server:
        state, _ = ended(asking(server, api="responses", retry=RetryPolicy(attempts=1)))
    assert state.error.type == error
    assert said in state.error.message


@EVERY_WAY
def test_what_is_not_the_protocol_is_found_out(api, stream):
    """Garbage where JSON was announced is an answer that came to harm, and is worth another try."""
    with ModelServer([Reply(raw="data: {garbage\n\n" if stream else "{garbage")]) as server:
        flow = asking(server, api=api, stream=stream, retry=RetryPolicy(attempts=1))
        state, _ = ended(flow)
    assert state.error.type == "ModelUnavailable"


def test_a_slow_server_is_given_up_and_tried_again():
    """The client's own timeout ends one attempt."""

    async def story(server: ModelServer) -> Any:
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key="x", timeout=0.2)
        agent = Agent(model="m", reads="q", writes="a", client=client, stream=True)
        flow = Workflow("w").add_node("ask", agent, retry=TRIED).set_start("ask")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"})
            state = await run.wait()
            await client.close()
            return state, [one.event for one in run.events()]

    with ModelServer([Reply("slow words come", pace=3600.0), "ok"]) as server:
        state, events = asyncio.run(asyncio.wait_for(story(server), 30))
    assert state.data["a"] == "ok"
    (failed,) = [one.error for one in events if isinstance(one, EffectFailed)]
    assert "did not answer in time" in failed.message


# --- how long to wait ----------------------------------------------------------------------------------------------

DATE = "Tue, 24 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Tue, 24 Nov 2026 10:01:30 GMT", "date": DATE}, 90.0),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 23:00:00 GMT", "date": DATE}, 3600.0),
        ({"retry-after": "Tue, 24 Nov 2026 10:01:30 GMT"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 10:01:30 -0000", "date": DATE}, None),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "soon", "date": DATE}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_a_rest_is_read_in_each_of_its_forms(headers, rest):
    """Milliseconds, seconds, or a date that is held against the answer's own."""
    assert rest_asked(headers) == rest


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"retry-after": "Tue, 24 Nov 2026 10:01:30 GMT", "date": DATE}, 90),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"retry-after-ms": "5"}, 1),
    ],
)
@EVERY_WAY
def test_a_server_that_asks_for_a_rest_gets_it_in_every_form(api, stream, headers, rest):
    """The next attempt begins when the server said, or when the policy says, whichever is later."""

    async def story(server: ModelServer) -> None:
        clock = ManualClock()
        flow = asking(server, api=api, stream=stream, retry=RetryPolicy(attempts=2, delay=1, jitter=0))
        async with Engine(clock=clock, grace=0) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.002)
            assert run.events()[-1].event.retry_at == clock.now() + round(rest * NS)
            clock.advance(rest)
            assert (await run.result())["a"] == "ok"

    with ModelServer([Reply(status=429, headers=headers), "ok"]) as server:
        asyncio.run(asyncio.wait_for(story(server), 30))
