"""Models as nodes, over the real protocol: what is in the log, what is called again, and what never is."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import threading
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

import openai
import pytest
from stories import story

from eventflow import Agent, Engine, ManualClock, MemoryLog, RetryPolicy, Workflow, extend
from eventflow.clock import NS
from eventflow.errors import DefinitionError, ModelRefused, ModelUnavailable
from eventflow.event import AttemptFailed, EffectFailed, EffectFinished, EffectStarted
from eventflow.log import LmdbLog
from eventflow.testing.model_server import ModelServer, Reply

KEY = "sk-secret-0123456789-never-in-a-store"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    """No key and no server but those a test gives."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def serve(monkeypatch):
    """Start a scripted model server and make it the one to call."""
    servers = []

    def start(script) -> ModelServer:
        server = ModelServer(script).start()
        servers.append(server)
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        return server

    yield start
    for server in servers:
        server.close()


def asking(agent: Agent | None = None, **options) -> Workflow:
    """One agent that reads `q` and writes `a`."""
    agent = agent or Agent(model="m", reads="q", writes="a", instructions="Be brief.")
    return Workflow("w").add_node("ask", agent, **options).set_start("ask")


async def ended(flow, data, **options):
    """A run driven to its end in memory: its state and its events."""
    async with Engine(workflows=[flow], **options) as engine:
        run = await engine.start(flow, data, run_id="r")
        return await run.wait(), [one.event for one in run.events()]


# --- one call ------------------------------------------------------------------------------------------------------


def test_a_call_is_an_effect_with_request_answer_and_usage(serve):
    """The whole exchange is in the log, and what it cost in the run."""
    server = serve(["Six hours."])
    flow = asking(Agent(model="gpt-x", reads="q", writes="a", instructions="Be brief.", temperature=0.2))
    state, events = story(ended(flow, {"q": "How long is a tide?"}))
    assert state.data == {"q": "How long is a tide?", "a": "Six hours."}
    (call,) = server.calls
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How long is a tide?"}]
    assert call.body == {"model": "gpt-x", "temperature": 0.2, "messages": messages}
    started, finished = events[1:3]
    assert isinstance(started, EffectStarted)
    assert (started.name, started.kind, started.mutating) == ("model", "model", False)
    assert started.input == {"api": "chat.completions", "model": "gpt-x", "temperature": 0.2, "messages": messages}
    assert call.idempotency_key == started.idempotency_key
    assert isinstance(finished, EffectFinished)
    assert finished.output["choices"][0]["message"]["content"] == "Six hours."
    assert finished.usage == state.usage == {"calls": 1, "input_tokens": 7, "output_tokens": 2}


class Research(TypedDict):
    """A list that is extended, and plain fields."""

    topic: str
    notes: Annotated[list[str], extend]
    summary: str
    tokens: dict[str, int]
    why: str


@pytest.mark.parametrize(
    ("reads", "sent"),
    [
        ("topic", "tides"),
        ("notes", "one\ntwo"),
        (["topic", "notes"], "topic: tides\n\nnotes: one\ntwo"),
        (lambda s: f"About {s['topic']}?", "About tides?"),
        (lambda s: [{"role": "user", "content": s["topic"]}, {"role": "assistant", "content": "Go on."}], None),
    ],
)
def test_what_an_agent_reads(serve, reads, sent):
    """A field, several, or a function that gives a text or messages."""
    server = serve(["x"])
    agent = Agent(model="m", reads=reads, writes="summary")
    flow = Workflow("w", state=Research).add_node("a", agent).set_start("a")
    story(ended(flow, {"topic": "tides", "notes": ["one", "two"]}))
    messages = server.calls[0].body["messages"]
    if sent is None:
        assert [one["role"] for one in messages] == ["user", "assistant"]
    else:
        assert messages == [{"role": "user", "content": sent}]


def test_what_an_agent_writes(serve):
    """The text, put into a list where the field extends one, or named parts of the answer."""
    serve(["first", "second", "third"])
    both = {"text": "summary", "usage": "tokens", "finish_reason": "why"}
    flow = (
        Workflow("w", state=Research)
        .add_node("one", Agent(model="m", reads="topic", writes="notes"))
        .add_node("two", Agent(model="m", reads="topic", writes="notes"))
        .add_node("three", Agent(model="m", reads="notes", writes=both))
        .add_edge("one", "two")
        .add_edge("two", "three")
        .set_start("one")
    )
    state, _ = story(ended(flow, {"topic": "tides"}))
    assert state.data == {
        "topic": "tides",
        "notes": ["first", "second"],
        "summary": "third",
        "why": "stop",
        "tokens": {"calls": 1, "input_tokens": 2, "output_tokens": 1},
    }
    assert state.usage["calls"] == 3


@dataclass
class Typed:
    """A state of a declared class."""

    q: str
    a: Annotated[list[str], extend] = field(default_factory=list)


def test_an_agent_reads_and_writes_a_declared_class(serve):
    """Fields are attributes then."""
    serve(["yes"])
    flow = Workflow("w", state=Typed).add_node("a", Agent(model="m", reads="q", writes="a")).set_start("a")
    assert flow.run_sync(Typed("?")) == Typed("?", ["yes"])


@pytest.mark.parametrize(
    ("agent", "data", "said"),
    [
        (Agent(model="m", reads="q", writes="a"), {}, "state field q: is not in the state"),
        (Agent(model="m", reads=["q", "p"], writes="a"), {"q": "?"}, "state field p: is not in the state"),
        (Agent(model="m", reads=lambda s: 7, writes="a"), {}, "reads must give a text or a list of messages, got int"),
        (Agent(model="m", reads=lambda s: ["x"], writes="a"), {}, "got list"),
    ],
)
def test_what_can_not_be_asked_is_not_sent(serve, agent, data, said):
    """A prompt is never made of what is not there."""
    server = serve(["x"])
    state, events = story(ended(asking(agent), data))
    assert said in state.error.message
    assert [type(event).__name__ for event in events] == ["RunStarted", "RunFailed"]
    assert server.calls == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"writes": {"txt": "a"}}, "Agent writes txt"),
        ({"writes": "a", "max_retries": 3}, "takes no max_retries"),
        ({"writes": "a", "messages": []}, "takes no messages"),
        ({"writes": "a", "on_delta": print}, "give stream=True too"),
        ({"writes": "a", "api": "completions"}, "is one of chat, responses, not 'completions'"),
        ({}, "needs writes=, a field for its answer, or memory=, one for the conversation"),
        ({"writes": {"output": "a"}}, "which there is only with output="),
        ({"writes": "a", "output": dict[str, int], "text": {}}, "output= or text=, not both"),
        ({"writes": "a", "output": list[int]}, "an answer is an object"),
        ({"writes": "a", "output": object()}, "can't be told as JSON"),
        ({"writes": "a", "max_turns": 0}, "max_turns of at least 1"),
        ({"writes": "a", "price": (1.0,)}, "what a million tokens cost"),
        ({"writes": "a", "price": (1.0, -2.0)}, "what a million tokens cost"),
        ({"writes": "a", "window": 3}, "give memory=, its field"),
        ({"writes": "a", "memory": "m", "summary": "s"}, "give window= too"),
        ({"writes": "a", "tools": [7]}, "takes functions and Tools, got int"),
        ({"writes": "a", "tools": [{"type": "function"}]}, "takes functions as they are"),
        ({"writes": "a", "tools": [os.getpid, os.getpid]}, "two tools of the name getpid"),
        ({"writes": "a", "extra_headers": {"x-secret": "1"}}, "takes no extra_headers"),
        ({"writes": "a", "api_key": "sk-1"}, "takes no api_key"),
        ({"writes": "a", "client": object()}, "takes an openai.AsyncOpenAI, got builtins.object"),
        ({"writes": "a", "client": openai.OpenAI(api_key="x")}, "takes an openai.AsyncOpenAI, got openai.OpenAI"),
    ],
)
def test_an_agent_that_can_not_be_meant_is_refused_where_it_is_written(options, said):
    """Options that would be ignored, or put a secret into the log."""
    with pytest.raises(DefinitionError) as caught:
        Agent(model="m", reads="q", **options)
    assert said in str(caught.value)


# --- again, and never again ----------------------------------------------------------------------------------------


def test_each_failed_attempt_is_an_event_and_the_next_carries_the_same_key(serve):
    """The client tries once; whoever reads the log sees every attempt."""
    server = serve([Reply("busy", status=503), Reply(status=500), "at last"])
    state, events = story(ended(asking(retry=RetryPolicy(attempts=3, delay=0)), {"q": "?"}))
    assert state.data["a"] == "at last"
    failed = [event.error for event in events if isinstance(event, EffectFailed)]
    assert [(one.type, one.message) for one in failed] == [
        ("ModelUnavailable", "the model server answered 503: busy"),
        ("ModelUnavailable", "the model server answered 500: scripted status 500"),
    ]
    assert sum(isinstance(event, AttemptFailed) for event in events) == 2
    assert [event.attempt for event in events if isinstance(event, EffectStarted)] == [1, 2, 3]
    assert len(server.calls) == 3
    assert len({call.idempotency_key for call in server.calls}) == 1
    assert state.usage["calls"] == 1


def test_an_agent_is_tried_three_times_where_nothing_else_is_said():
    """Models fail often enough for that to be the default."""
    assert asking().nodes["ask"].retry.attempts == 3
    assert asking(retry=RetryPolicy(attempts=1)).nodes["ask"].retry.attempts == 1


@pytest.mark.parametrize(
    ("header", "rest"),
    [("7", 7), ("0.5", 1), ("99999", 3_600), ("nan", 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("-3", 1)],
)
def test_a_server_that_asks_for_a_rest_gets_it(serve, header, rest):
    """Retry-After in seconds is honoured where it is longer than the policy's own rest."""
    serve([Reply(status=429, headers={"retry-after": header}), "ok"])

    async def tell():
        clock = ManualClock()
        flow = asking(retry=RetryPolicy(attempts=2, delay=1, jitter=0))
        async with Engine(clock=clock, grace=0) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.002)
            assert run.events()[-1].event.retry_at == clock.now() + rest * NS
            clock.advance(rest)
            assert (await run.result())["a"] == "ok"

    story(tell())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_tried_again(serve, status):
    """The same request would be refused again."""
    server = serve([Reply("no such thing", status=status)] * 3)
    state, _ = story(ended(asking(retry=RetryPolicy(attempts=3, delay=0)), {"q": "?"}))
    assert (state.status, state.error.type, state.error.retryable) == ("failed", "ModelRefused", False)
    assert state.error.message == f"the model server answered {status}: no such thing"
    assert len(server.calls) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(serve, status):
    """Overload, timeouts and errors of the server."""
    server = serve([Reply(status=status), "ok"])
    state, _ = story(ended(asking(retry=RetryPolicy(attempts=2, delay=0)), {"q": "?"}))
    assert state.data["a"] == "ok"
    assert len(server.calls) == 2


def test_an_answer_that_breaks_off_is_tried_again(serve):
    """The connection ends in the middle of it."""
    server = serve([Reply("half of it", cut=True), "whole"])
    state, _ = story(ended(asking(retry=RetryPolicy(attempts=2, delay=0)), {"q": "?"}))
    assert state.data["a"] == "whole"
    assert len(server.calls) == 2


def test_a_finished_call_is_not_made_again_by_the_next_attempt(serve):
    """The node fails after it; the answer comes from the log."""
    server = serve(["one answer"])
    agent = Agent(model="m", reads="q", writes="a")
    failing = [1]

    class Checked:
        kind = "agent"
        fields = agent.fields

        async def __call__(self, state, run):
            change = await agent(state, run)
            if failing:
                failing.pop()
                raise OSError("after the answer")
            return change

    flow = Workflow("w").add_node("a", Checked(), retry=RetryPolicy(attempts=2, delay=0)).set_start("a")
    state, _ = story(ended(flow, {"q": "?"}))
    assert state.data["a"] == "one answer"
    assert len(server.calls) == 1


def test_a_finished_call_is_not_made_again_after_a_crash(serve, child, tmp_path):
    """The process dies between the recorded answer and the transition; the next needs neither key nor server."""
    server = serve(["one answer", "another"])
    path = tmp_path / "s"

    def crash():
        async def tell():
            def dies(state, notice):
                if isinstance(getattr(notice, "event", None), EffectFinished):
                    os._exit(9)

            async with Engine(path, listeners=[dies]) as engine:
                await (await engine.start(asking(), {"q": "?"}, run_id="r")).result()

        asyncio.run(tell())

    child(crash).answer()
    assert len(server.calls) == 1
    server.close()
    del os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]

    async def tell():
        async with Engine(path, workflows=[asking()]) as engine:
            run = await engine.resume("r")
            assert (await run.result())["a"] == "one answer"
            return [type(one.event).__name__ for one in run.events()]

    assert story(tell()) == ["RunStarted", "EffectStarted", "EffectFinished", "RunResumed", "RunCompleted"]
    assert len(server.calls) == 1


def test_a_call_cut_off_by_a_crash_is_made_again_with_the_same_key(serve, child, tmp_path):
    """A question does no harm when it is asked twice."""
    arrived = threading.Event()

    def script(call):
        arrived.set()
        return Reply("late", delay=0.3) if call.number == 1 else "again"

    server = serve(script)
    path = tmp_path / "s"

    def drive():
        async def tell():
            async with Engine(path) as engine:
                await (await engine.start(asking(), {"q": "?"}, run_id="r")).result()

        asyncio.run(tell())

    driver = child(drive)
    assert arrived.wait(10)
    driver.kill()
    driver.end()

    async def tell():
        async with Engine(path, workflows=[asking()]) as engine:
            return await (await engine.resume("r")).result()

    assert story(tell())["a"] == "again"
    assert len({call.idempotency_key for call in server.calls}) == 1


# --- servers that are not there, keys that are missing -------------------------------------------------------------


def test_without_a_key_and_a_server_the_sentence_says_what_to_set():
    """The run fails at once, and its log is whole."""
    state, events = story(ended(asking(retry=RetryPolicy(attempts=3, delay=0)), {"q": "?"}))
    assert (state.status, state.error.type) == ("failed", "MissingApiKey")
    assert "set OPENAI_API_KEY, or OPENAI_BASE_URL" in state.error.message
    assert not any(isinstance(event, AttemptFailed) for event in events)


def test_a_server_of_ones_own_needs_no_key(serve, monkeypatch):
    """An address is enough, from the environment or as an argument."""
    server = serve(["one", "two"])
    monkeypatch.delenv("OPENAI_API_KEY")
    assert story(ended(asking(), {"q": "?"}))[0].data["a"] == "one"
    monkeypatch.delenv("OPENAI_BASE_URL")
    agent = Agent(model="m", reads="q", writes="a", base_url=server.base_url)
    assert story(ended(asking(agent), {"q": "?"}))[0].data["a"] == "two"


def test_a_server_that_is_down_is_a_clear_sentence(monkeypatch):
    """It says what to look at, and another attempt may follow."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    state, events = story(ended(asking(retry=RetryPolicy(attempts=2, delay=0)), {"q": "?"}))
    assert (state.status, state.error.type, state.error.retryable) == ("failed", "ModelUnavailable", True)
    assert "the model server can't be reached" in state.error.message
    assert "look whether it is up and OPENAI_BASE_URL is right" in state.error.message
    assert sum(isinstance(event, AttemptFailed) for event in events) == 1


class _Fixed(http.server.BaseHTTPRequestHandler):
    """Answers every call with the same bytes."""

    kind, body = "text/html", b"<html>hello</html>"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", self.kind)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args):
        """Say nothing."""


@pytest.mark.parametrize(
    ("kind", "body", "error", "said"),
    [
        ("text/html", b"<html>hello</html>", "ModelRefused", "is not a chat completion; look whether OPENAI_BASE_URL"),
        ("application/json", b"{broken", "ModelUnavailable", "is not the JSON it says it is"),
        ("application/json", b"{}", "ModelRefused", "an answer without choices"),
        ("application/json", b'{"choices": []}', "ModelRefused", "an answer without choices"),
        ("application/json", b'{"odd\\ud800": 1}', "ModelRefused", "can't be read"),
    ],
)
def test_a_server_of_another_kind_is_found_out(monkeypatch, kind, body, error, said):
    """A page instead of an answer, or an answer without one."""
    handler = type("Fixed", (_Fixed,), {"kind": kind, "body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # looks for its end every 10 ms
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
        state, _ = story(ended(asking(retry=RetryPolicy(attempts=1)), {"q": "?"}))
        server.shutdown()
        thread.join()
    assert state.error.type == error
    assert said in state.error.message


@pytest.mark.parametrize(
    ("api", "kind", "said"),
    [
        ("chat", "text/html", "is not a chat completion; look whether OPENAI_BASE_URL"),
        ("responses", "text/html", "is not a response; look whether OPENAI_BASE_URL"),
        ("chat", "application/json", "is not a chat completion; look whether OPENAI_BASE_URL"),
    ],
)
def test_what_is_no_stream_is_found_out(api, kind, said):
    """A page, or an answer in one piece, where a stream was asked for."""
    handler = type("Fixed", (_Fixed,), {"kind": kind, "body": b'{"choices": []}'})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # looks for its end every 10 ms
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        agent = Agent(model="m", reads="q", writes="a", stream=True, api=api, base_url=url)
        state, _ = story(ended(asking(agent, retry=RetryPolicy(attempts=1)), {"q": "?"}))
        server.shutdown()
        thread.join()
    assert state.error.type == "ModelRefused"
    assert said in state.error.message


def test_odd_parts_of_an_answer_do_no_harm(monkeypatch):
    """Counts that are no numbers, fields that nobody knows, text that is none."""
    answer = {
        "id": "x", "model": "m", "usage": {"prompt_tokens": "many", "completion_tokens": None}, "odd": "\udfff",
        "choices": [{"message": {"content": None}, "finish_reason": None}],
    }  # fmt: skip
    handler = type("Fixed", (_Fixed,), {"kind": "application/json", "body": json.dumps(answer).encode()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # looks for its end every 10 ms
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
        state, events = story(ended(asking(retry=RetryPolicy(attempts=1)), {"q": "?"}))
        server.shutdown()
        thread.join()
    assert state.error is None, state.error
    assert state.data["a"] == ""
    assert state.usage == {"calls": 1, "input_tokens": 0, "output_tokens": 0}
    assert events[2].output["odd"] == "\ufffd"


def test_a_client_of_ones_own_is_used_and_left_open(serve):
    """It keeps its settings, but not its retries: every attempt is an event."""
    server = serve([Reply(status=500), "mine"])

    async def tell():
        client = openai.AsyncOpenAI(
            base_url=server.base_url, api_key="mine", max_retries=5, default_headers={"x-mine": "1"}
        )  # fmt: skip
        agent = Agent(model="m", reads="q", writes="a", client=client)
        state, events = await ended(asking(agent, retry=RetryPolicy(attempts=2, delay=0)), {"q": "?"})
        assert state.data["a"] == "mine"
        assert sum(isinstance(event, AttemptFailed) for event in events) == 1
        assert not client.is_closed()
        await client.close()

    story(tell())
    assert len(server.calls) == 2


# --- what is in the store ------------------------------------------------------------------------------------------


def test_the_key_is_nowhere_in_the_store(serve, tmp_path):
    """Not in requests, answers or errors, even where the server repeats it."""
    serve([Reply(f"Incorrect API key provided: {KEY}", status=503), Reply(f"bad key {KEY}", status=401)])

    async def tell():
        async with Engine(tmp_path / "s") as engine:
            flow = asking(retry=RetryPolicy(attempts=2, delay=0))
            run = await engine.start(flow, {"q": "?"}, run_id="r")
            return await run.wait()

    state = story(tell())
    assert state.error.type == "ModelRefused"
    for path in (tmp_path / "s").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_messages_are_stored_once_however_often_they_are_sent(serve, tmp_path):
    """A turn adds what is new; the long text before it is a reference."""
    serve(lambda call: f"answer {call.number}")
    long = "tide " * 4_000

    def messages(state):
        talk = [{"role": "user", "content": long}]
        for text in state["talk"]:
            talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on."}]
        return talk

    class Talk(TypedDict):
        talk: Annotated[list[str], extend]

    agent = Agent(model="m", reads=messages, writes="talk")
    flow = Workflow("w", state=Talk).add_node("a", agent).add_node("end", lambda s: None)
    flow.add_edge("a", "a", when=lambda s: len(s["talk"]) < 20, label="more").add_edge("a", "end").set_start("a")

    async def tell():
        log = LmdbLog(tmp_path / "s")
        async with Engine(log) as engine:
            run = await engine.start(flow, {"talk": []}, run_id="r")
            await run.result()
            started = [one for one in run.events() if isinstance(one.event, EffectStarted)]
            assert started[-1].event.input["messages"][0]["content"] == long
            assert len(started[-1].event.input["messages"]) == 39
            held = sum(len(stored.data) for stored in log.feed(0, 999)) + log.usage().bytes["blobs"]
        log.close()
        return held

    assert story(tell()) < 10 * len(long)


def test_a_lone_surrogate_of_a_model_is_replaced(serve):
    """Models send them; no text file can hold them."""
    server = serve(["half a \ud83d smile", "ok"])
    flow = Workflow("w").add_node("a", Agent(model="m", reads="q", writes="a"))
    flow.add_node("b", Agent(model="m", reads=lambda s: "asks \udfff", writes="b")).add_edge("a", "b").set_start("a")
    state, _ = story(ended(flow, {"q": "?"}))
    assert state.data["a"] == "half a \ufffd smile"
    assert server.calls[1].body["messages"][0]["content"] == "asks \ufffd"


def test_two_agents_share_one_client_which_is_closed_with_the_engine(serve):
    """Connections are kept between calls."""
    serve(["one", "two"])

    async def tell():
        flow = Workflow("w").add_node("a", Agent(model="m", reads="q", writes="a"))
        flow.add_node("b", Agent(model="m", reads="a", writes="b")).add_edge("a", "b").set_start("a")
        async with Engine(MemoryLog()) as engine:
            await (await engine.start(flow, {"q": "?"})).result()
            (made,) = engine._open.resources.values()
            assert not made._client.is_closed()
        assert made._client.is_closed()

    story(tell())


def test_model_errors_carry_what_they_know():
    """Status and rest are attributes."""
    assert (ModelUnavailable("x", status=503, retry_after=2.0).retry_after, ModelRefused("x", status=401).status) == (
        2.0,
        401,
    )
