"""Agents against a server that others have written: npm's @copilotkit/aimock, which speaks the OpenAI protocol.

`.ci/run` starts one with the fixtures in `aimock.json` and sets EVENTFLOW_AIMOCK_URL. Each test has a name of its own at
the server (the header X-Test-Id), so that what it counts and what its journal tells is this test's alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
import uuid
from collections import Counter
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import openai
import pytest

from eventflow import Agent, Engine, RetryPolicy, Tool, Workflow, extend
from eventflow.event import AttemptFailed, EffectStarted, Transitioned, WaitOpened

URL = os.environ.get("EVENTFLOW_AIMOCK_URL", "").rstrip("/")
pytestmark = pytest.mark.skipif(
    not URL, reason="EVENTFLOW_AIMOCK_URL is not set: start @copilotkit/aimock as .ci/run does, and give its address"
)
BOTH = pytest.mark.parametrize("api", ["chat", "responses"])
QUICK = RetryPolicy(attempts=4, delay=0.01)


class Server:
    """The server as one test sees it."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self._clients: list[openai.AsyncOpenAI] = []

    def client(self) -> openai.AsyncOpenAI:
        """A client under the test's name, for one event loop."""
        self._clients.append(
            openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="mock", default_headers={"X-Test-Id": self.name})
        )
        return self._clients[-1]

    def story(self, work: Awaitable[Any]) -> Any:
        """Run an async story to its end, and hang up."""

        async def whole() -> Any:
            try:
                return await asyncio.wait_for(work, 60)
            finally:
                for one in self._clients:
                    await one.close()

        return asyncio.run(whole())

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Something about the server itself; what it answers."""
        request = urllib.request.Request(  # noqa: S310 - the address is that of the server we were told of
            f"{URL}/__aimock/{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"X-Test-Id": self.name, "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - see above
            text = answer.read()
        return json.loads(text) if text else None

    def journal(self) -> list[dict[str, Any]]:
        """The test's calls as the server wrote them down, oldest first."""
        entries: list[dict[str, Any]] = self.ask(f"journal?testId={self.name}")
        return entries

    def statuses(self) -> list[int]:
        """How each call was answered."""
        return [one["response"]["status"] for one in self.journal()]

    def finished(self) -> Counter[str]:
        """How often each call, by its idempotency key, was answered to its end."""
        whole = (one for one in self.journal() if one["response"]["status"] == 200)
        spoilt = {"interrupted", "chaosAction"}
        return Counter(one["headers"]["idempotency-key"] for one in whole if not spoilt & one["response"].keys())


@pytest.fixture
def server() -> Iterator[Server]:
    """The server, without chaos."""
    one = Server()
    yield one
    one.ask("chaos", "DELETE")


def asking(server: Server, *tools: Any, api: str = "chat", **options: Any) -> Workflow:
    """One agent that reads `q` and writes `a`."""
    agent = Agent(
        model="m", reads="q", writes={"text": "a", "usage": "usage"}, tools=tools, client=server.client(), api=api,
        **options,
    )  # fmt: skip
    return Workflow("w").add_node("ask", agent, retry=QUICK).set_start("ask")


def ended(server: Server, flow: Workflow, question: str) -> tuple[Any, list[Any]]:
    """A run driven to its end: its state and its events."""

    async def story() -> tuple[Any, list[Any]]:
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": question}, run_id="r")
            return await run.wait(), [one.event for one in run.events()]

    return server.story(story())


def get_weather(city: str) -> str:
    """How the weather is in a city."""
    return f"mild in {city}"


@BOTH
def test_a_question_is_answered(server, api):
    """One call, one answer, its tokens counted."""
    state, _ = ended(server, asking(server, api=api), "What is the capital of France?")
    assert (state.data["a"], server.statuses()) == ("Paris.", [200])
    assert state.data["usage"] == {"calls": 1, "input_tokens": 12, "output_tokens": 7}
    assert dict(state.usage) == state.data["usage"]


@BOTH
def test_an_answer_comes_as_a_stream(server, api):
    """The pieces are the answer; the server was asked for a stream, once."""
    heard: list[str] = []
    flow = asking(server, api=api, stream=True, on_delta=lambda run_id, node, text: heard.append(text))
    state, _ = ended(server, flow, "What is the capital of France?")
    assert "".join(heard) == state.data["a"] == "Paris."
    assert [one["body"].get("stream") for one in server.journal()] == [True]


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_told(server, api, stream):
    """Two turns and one call between them."""
    called: list[str] = []

    def weather(city: str) -> str:
        """How the weather is in a city."""
        called.append(city)
        return get_weather(city)

    state, events = ended(
        server, asking(server, Tool(weather, name="get_weather"), api=api, stream=stream), "How is the weather?"
    )
    assert (state.data["a"], called, server.statuses()) == ("It is mild in Paris.", ["Paris"], [200, 200])
    assert [one.name for one in events if isinstance(one, EffectStarted)] == ["model", "tool:get_weather", "model"]
    assert "mild in Paris" in json.dumps(server.journal()[1]["body"])


@BOTH
def test_a_call_that_a_person_must_approve_waits(server, api):
    """The server hears of the refusal as of any result."""

    async def story() -> Any:
        flow = asking(server, Tool(get_weather, needs_approval=True), api=api)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "How is the weather?"}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.01)
            assert len(server.journal()) == 1
            await engine.answer("r", {"approve": False, "why": "look outside"})
            await run.result()
            return [one.event for one in run.events()]

    events = server.story(story())
    assert len([one for one in events if isinstance(one, WaitOpened)]) == 1
    assert "not approved: look outside" in json.dumps(server.journal()[1]["body"])
    assert set(server.finished().values()) == {1}


class Talk(TypedDict, total=False):
    """A conversation."""

    q: str
    a: str
    messages: Annotated[list[dict[str, Any]], extend]


@BOTH
def test_a_conversation_is_handed_over(server, api):
    """The next agent's request, with the call and its result in it, is one that the server takes."""
    same: dict[str, Any] = {"model": "m", "memory": "messages", "writes": "a", "client": server.client(), "api": api}
    flow = (
        Workflow("w", state=Talk)
        .add_node("triage", Agent(reads="q", handover={"billing": "Refunds."}, **same))
        .add_node("billing", Agent(reads=(), **same))
        .add_node("end", lambda state: None)
        .add_edge("triage", "end")
        .add_edge("billing", "end")
        .set_start("triage")
    )
    state, events = ended(server, flow, "Please hand me over.")
    assert (state.data["a"], server.statuses()) == ("Billing speaks.", [200, 200])
    assert [one.to for one in events if isinstance(one, Transitioned)] == ["billing", "end"]


@BOTH
def test_a_busy_and_then_a_broken_server_is_asked_again(server, api):
    """429, then 500, then an answer: each attempt is an event, all carry one key, and the client adds none of its own."""
    state, events = ended(server, asking(server, api=api), "Are you busy?")
    assert (state.data["a"], server.statuses()) == ("At last.", [429, 500, 200])
    assert [one.error.type for one in events if isinstance(one, AttemptFailed)] == ["ModelUnavailable"] * 2
    assert len({one["headers"]["idempotency-key"] for one in server.journal()}) == 1


@BOTH
def test_what_no_other_attempt_mends_is_not_asked_again(server, api):
    """A 404 ends the run with the server's own words."""
    state, _ = ended(server, asking(server, api=api), "What is wrong?")
    assert (state.error.type, server.statuses()) == ("ModelRefused", [404])
    assert "no such model" in state.error.message


@BOTH
def test_a_stream_that_breaks_off_is_begun_anew(server, api):
    """Half an answer is none: the next attempt has the whole, and the answer holds no part twice."""
    state, events = ended(server, asking(server, api=api, stream=True), "Will it be cut?")
    assert state.data["a"] == "This sentence is longer than what comes of it before the connection breaks off."
    assert [one.error.type for one in events if isinstance(one, AttemptFailed)] == ["ModelUnavailable"]
    assert len(server.journal()) == 2
    assert set(server.finished().values()) == {1}


@BOTH
@pytest.mark.parametrize("trouble", ["disconnectRate", "dropRate", "malformedRate"])
def test_a_run_that_a_bad_hour_ended_goes_on_afterwards(server, api, trouble):
    """While every call goes wrong it fails; once the server is well again, a resume is all it takes."""
    flow = asking(server, api=api, stream=trouble == "disconnectRate")

    async def story() -> Any:
        async with Engine(workflows=[flow]) as engine:
            server.ask("chaos", "POST", {trouble: 1.0})
            run = await engine.start(flow, {"q": "What is the capital of France?"}, run_id="r")
            failed = await run.wait()
            server.ask("chaos", "DELETE")
            return failed, await (await engine.resume("r")).result()

    failed, data = server.story(story())
    assert (failed.status, failed.error.type) == ("failed", "ModelUnavailable")
    assert data["a"] == "Paris."


# --- crashes -------------------------------------------------------------------------------------------------------

FLOWS = """
import os
import time
from pathlib import Path

import openai
from eventflow import Agent, Tool, Workflow

client = openai.AsyncOpenAI(
    base_url=os.environ["SERVER"], api_key="mock", default_headers={"X-Test-Id": os.environ["NAME"]}
)


def get_weather(city: str) -> str:
    with open("called", "a") as file:
        file.write(city + "\\n")
    while Path("hold").exists():
        time.sleep(0.01)
    return f"mild in {city}"


agent = Agent(
    model="m", reads="q", writes="a", tools=[Tool(get_weather, mutating=False)], client=client, api=os.environ["API"],
    stream=True, on_delta=lambda run_id, node, text: Path("heard").touch(),
)
flow = Workflow("w").add_node("ask", agent).set_start("ask")
"""


def killed_and_resumed(server: Server, process: Any, until: Any, *, api: str, question: str, sign: str) -> Any:
    """What a run says that was killed with SIGKILL once a file was there, and taken up again by another process."""
    Path("flows.py").write_text(FLOWS)
    environment = {"SERVER": f"{URL}/v1", "NAME": server.name, "API": api}
    asked = json.dumps({"q": question})
    first = process("eventflow", "run", "flows.py:flow", "--id", "r", "--input", asked, env=environment)
    until(Path(sign).exists, first)
    first.signal(signal.SIGKILL)
    first.ended()
    Path("hold").unlink()
    second = process("eventflow", "resume", "r", "--flow", "flows.py:flow", "-o", "json", env=environment).ended()
    assert second.code == 0, second.err
    return second.json


@BOTH
def test_a_crash_in_a_tool_asks_the_server_nothing_twice(server, process, until, desk, api):
    """Killed between two turns, the run has both once in the server's own journal."""
    Path("hold").touch()
    said = killed_and_resumed(server, process, until, api=api, question="How is the weather?", sign="called")
    assert "It is mild in Paris." in json.dumps(said)
    assert Path("called").read_text().split() == ["Paris", "Paris"]
    assert server.statuses() == [200, 200]
    assert sorted(server.finished().values()) == [1, 1]


@BOTH
def test_a_crash_in_a_stream_asks_once_more_under_the_same_key(server, process, until, desk, api):
    """What was cut off by the kill is asked again under the same key, and that call alone was heard to its end."""
    Path("hold").touch()
    said = killed_and_resumed(server, process, until, api=api, question="Speak slowly.", sign="heard")
    assert "All at once." in json.dumps(said)
    asked = [one["response"]["fixture"]["response"]["content"] for one in server.journal()]
    assert (asked[0][:9], asked[1:]) == ("One piece", ["All at once."])
    assert len({one["headers"]["idempotency-key"] for one in server.journal()}) == 1
