"""Conversations that last: what is kept in the state, what of it is sent, and what is summed up."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Agent, Engine, Human, RetryPolicy, Window, Workflow, extend
from eventflow.agents.memory import begins, estimated
from eventflow.errors import DefinitionError
from eventflow.event import EffectFinished, EffectStarted, Transitioned
from eventflow.testing import Call, ModelServer, Reply

BOTH = pytest.mark.parametrize("api", ["chat", "responses"])


class Chat(TypedDict, total=False):
    """A conversation, and how many questions there were."""

    q: str
    a: str
    talk: Annotated[list[dict[str, Any]], extend]
    summary: dict[str, Any]
    n: int


def chatting(server: ModelServer, *, turns: int = 3, state: Any = Chat, **options: Any) -> Workflow:
    """An agent that is asked `turns` questions, one after the other."""
    settings = {"reads": "q", "writes": "a", "memory": "talk", **options}
    agent = Agent(model="m", base_url=server.base_url, **settings)

    def ask(state):
        return {"n": state.get("n", 0) + 1, "q": f"question {state.get('n', 0) + 1}"}

    return (
        Workflow("w", state=state)
        .add_node("ask", ask)
        .add_node("answer", agent, retry=RetryPolicy(attempts=1))
        .add_node("end", lambda state: None)
        .add_edge("ask", "answer")
        .add_edge("answer", "ask", when=lambda state: state["n"] < turns, label="more")
        .add_edge("answer", "end")
        .set_start("ask")
    )


def ended(flow: Workflow, data: dict[str, Any] | None = None) -> tuple[Any, list[Any]]:
    """A run driven to its end: its state and its events."""

    async def story() -> tuple[Any, list[Any]]:
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, data or {}, run_id="r")
            return await run.wait(), [one.event for one in run.events()]

    return asyncio.run(asyncio.wait_for(story(), 30))


def sent(call: Call) -> list[str]:
    """What a request holds, in short: who speaks and the last word of it."""
    found = [f"system {call.body['instructions'].split()[-1]}"] if "instructions" in call.body else []
    for one in call.body.get("messages") or call.body["input"]:
        content = one.get("content") or one.get("output") or one.get("arguments") or ""
        text = content if isinstance(content, str) else content[0]["text"]
        found.append(f"{one.get('role') or one['type']} {text.split()[-1] if text else '-'}")
    return found


def answer(call: Call) -> str:
    """An answer that tells its number."""
    return f"answer {call.number}"


def look(n: int) -> str:
    """Look something up."""
    return f"found {n}"


# --- what is kept --------------------------------------------------------------------------------------------------


@BOTH
def test_a_conversation_goes_on_where_it_was(api):
    """Each visit is sent what was said before, and adds its own messages and no others."""
    with ModelServer(answer) as server:
        state, events = ended(chatting(server, api=api, instructions="Be kind."))
        calls = server.calls
    talk = [word for n in (1, 2, 3) for word in (f"user {n}", f"assistant {n}")]
    assert [sent(call) for call in calls] == [["system kind.", *talk[: 2 * n + 1]] for n in range(3)]
    assert [one["role"] for one in state.data["talk"]] == ["user", "assistant"] * 3
    assert state.data["a"] == "answer 3"
    changes = [event.change for event in events if isinstance(event, Transitioned) and event.node == "answer"]
    grown = [op for change in changes for op in change if op.path == ("talk",)]
    assert [(op.op, len(op.value)) for op in grown] == [("set", 2), ("extend", 2), ("extend", 2)]


@dataclass
class Kept:
    """A declared class."""

    n: int = 0
    q: str = ""
    a: str = ""
    talk: list[dict[str, Any]] = field(default_factory=list)


@pytest.mark.parametrize("state", [None, Kept])
def test_a_field_without_a_reducer_grows_too(state):
    """The whole list is returned, and only what is new of it is recorded."""

    def ask(held):
        n = held.n if state else held.get("n", 0)
        return {"n": n + 1, "q": f"question {n + 1}"}

    with ModelServer(answer) as server:
        agent = Agent(model="m", reads="q", writes="a", memory="talk", base_url=server.base_url)
        flow = Workflow("w", state=state).add_node("ask", ask).add_node("answer", agent).add_edge("ask", "answer")
        more = (lambda held: held.n < 3) if state else (lambda held: held["n"] < 3)
        flow.add_edge("answer", "ask", when=more, label="more").add_node("end", lambda held: None)
        _, events = ended(flow.add_edge("answer", "end").set_start("ask"))
    changes = [event.change for event in events if isinstance(event, Transitioned) and event.node == "answer"]
    assert [len(op.value) for change in changes for op in change if op.path == ("talk",)] == [2, 2, 2]


@BOTH
def test_tool_turns_are_part_of_the_conversation(api):
    """What a tool told in one visit is known in the next."""
    script = [Reply(tool_calls=(("look", {"n": 1}),)), "answer 1", "answer 2"]
    with ModelServer(script) as server:
        state, _ = ended(chatting(server, api=api, turns=2, tools=[look]))
        last = server.calls[2]
    called, told = ("assistant -", "tool 1") if api == "chat" else ("function_call 1}", "function_call_output 1")
    assert sent(last) == ["user 1", called, told, "assistant 1", "user 2"]
    assert len(state.data["talk"]) == 6


def test_the_memory_may_be_all_that_is_read_and_written():
    """Another node, or a person, puts the question in; the agent answers into the conversation."""

    async def story(server: ModelServer) -> Any:
        agent = Agent(model="m", reads=(), memory="talk", base_url=server.base_url)
        flow = Workflow("w", state=Chat).add_node("person", Human(prompt="?", writes="q"))
        flow.add_node("put", lambda state: {"talk": [{"role": "user", "content": state["q"]}]})
        flow.add_node("agent", agent).add_edge("person", "put").add_edge("put", "agent").set_start("person")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.002)
            await engine.answer("r", "Who?")
            return await run.result()

    with ModelServer(["Me."]) as server:
        data = asyncio.run(asyncio.wait_for(story(server), 30))
        assert sent(server.calls[0]) == ["user Who?"]
    assert [one["content"] for one in data["talk"]] == ["Who?", "Me."]


@pytest.mark.parametrize(
    ("talk", "said"),
    [("words", "must be a list of messages"), ([7], "must be a list of messages"), ([], "holds no message")],
)
def test_a_memory_that_is_no_conversation_is_not_sent(talk, said):
    """The model is asked nothing that is not there."""
    with ModelServer(answer) as server:
        agent = Agent(model="m", reads=(), memory="talk", base_url=server.base_url)
        state, _ = ended(Workflow("w").add_node("n", agent).set_start("n"), {"talk": talk})
        assert server.calls == ()
    assert said in state.error.message


def test_undeclared_fields_of_a_memory_are_found():
    """`check` knows them as fields that are read and written."""
    agent = Agent(model="m", reads="q", memory="past", window=2, summary="short")
    assert agent.fields() == (("q", "past", "short"), ("past", "short"))
    problems = [one.text for one in Workflow("w", state=Chat).add_node("n", agent).set_start("n").check()]
    assert any("'past'" in text for text in problems)
    assert any("'short'" in text for text in problems)


# --- windows -------------------------------------------------------------------------------------------------------


@BOTH
def test_a_window_is_the_newest_that_fits(api):
    """Instructions and what is asked now count and are always sent; the state keeps everything."""
    with ModelServer(answer) as server:
        state, _ = ended(chatting(server, api=api, turns=4, instructions="Be kind.", window=4))
        calls = server.calls
    assert sent(calls[1]) == ["system kind.", "user 1", "assistant 1", "user 2"]
    assert sent(calls[2]) == ["system kind.", "user 2", "assistant 2", "user 3"]
    assert sent(calls[3]) == ["system kind.", "user 3", "assistant 3", "user 4"]
    assert len(state.data["talk"]) == 8


@BOTH
def test_a_window_never_parts_a_call_from_its_result(api):
    """Where only a part of a tool turn would fit, none of it is sent."""
    script = [Reply(tool_calls=(("look", {"n": 1}),)), "answer 1", "answer 2"]
    heads = {"assistant", "tool", "function_call", "function_call_output"}
    for window, lengths in ((5, 5), (4, 4), (3, 2), (2, 2), (1, 1)):
        with ModelServer(script) as server:
            ended(chatting(server, api=api, turns=2, tools=[look], window=Window(messages=window)))
            last = sent(server.calls[2])
        assert len(last) == lengths
        assert last[-1] == "user 2"
        assert {word.split()[0] for word in last[:-1]} <= heads | {"user"}
        assert sum(word.startswith(("tool", "function_call_output")) for word in last) == (window >= 4)


def test_a_window_of_tokens_asks_its_own_count():
    """Tokens are estimated from the JSON, or counted by a function of one's own."""
    with ModelServer(answer) as server:
        counted = Window(tokens=30, count=lambda message: 10)
        ended(chatting(server, turns=3, window=counted))
        assert [len(sent(call)) for call in server.calls] == [1, 3, 3]
    message = {"role": "user", "content": "x" * 100}
    assert estimated(message) == -(-len(json.dumps(message)) // 4)
    assert Window(tokens=100).weight([message, message]) == 2 * estimated(message)


@pytest.mark.parametrize("make", [Window, lambda: Window(1, 1), lambda: Window(messages=0), lambda: Window(tokens=-1)])
def test_a_window_is_of_one_size(make):
    """Messages or tokens, one of the two, and something must fit."""
    with pytest.raises(DefinitionError):
        make()


_ITEM = st.sampled_from([
    {"role": "user"}, {"role": "assistant"}, {"role": "tool"}, {"type": "function_call"}, {"type": "reasoning"},
    {"type": "function_call_output"}, {"type": "message", "role": "assistant"},
])  # fmt: skip


@given(st.lists(_ITEM, max_size=12), st.integers(1, 14), st.integers(0, 3))
def test_no_window_begins_with_a_result_or_in_the_middle_of_a_turn(history, size, asked):
    """Wherever it is cut, the rest begins with a question or with all of a model's turn, and is as long as fits."""
    start = Window(messages=size).start(history, [{}] * asked)
    assert 0 <= start <= len(history)
    assert len(history) - start + asked <= max(size, asked)
    places = begins(history)
    assert start == len(history) or start in places
    earlier = [place for place in places if place < start]
    assert not earlier or len(history) - earlier[-1] + asked > size
    for place in places[1:]:
        assert history[place].get("role") != "tool"
        assert history[place].get("type") != "function_call_output"


# --- summaries -----------------------------------------------------------------------------------------------------


def summing(call: Call) -> str:
    """Sums up where it is asked to, else answers."""
    last = (call.body.get("messages") or call.body["input"])[-1]["content"]
    return f"summary {call.number}" if last.startswith("Sum up") else f"answer {last.split()[-1]}"


@BOTH
def test_what_a_window_leaves_out_is_summed_up_once(api):
    """Each message is summed up once, by an effect of its own; its text is put in front of what follows."""
    with ModelServer(summing) as server:
        flow = chatting(server, api=api, turns=6, window=6, summary="summary", instructions="Be kind.")
        state, events = ended(flow)
        shown = [sent(call) for call in server.calls]
    key = "messages" if api == "chat" else "input"
    summaries = [call for call in server.calls if call.body[key][-1]["content"].startswith("Sum up")]
    asked = [[word for word in sent(call) if not word.startswith("system")][:-1] for call in summaries]
    talk = [word for n in range(1, 7) for word in (f"user {n}", f"assistant {n}")]
    summed = [word for words in asked for word in words]
    assert summed == talk[: len(summed)]
    held = state.data["summary"]
    assert held["messages"] == len(summed)
    last = shown[-1]
    assert last[:2] == ["system kind.", f"system {held['text'].split()[-1]}"]
    assert last[2:] == [*talk[len(summed) : -2], "user 6"]
    assert all(len(words) <= 6 for words in shown if words[-1] != "user else.")
    assert 1 <= len(summaries) < 4
    names = [one.name for one in events if isinstance(one, EffectStarted)]
    assert (names.count("model"), names.count("summary")) == (6, len(summaries))
    assert state.usage["calls"] == 6 + len(summaries)
    assert len(state.data["talk"]) == 12


def test_a_summary_of_messages_that_are_gone_is_not_used():
    """Where the conversation was begun anew, so is its summary."""
    with ModelServer(answer) as server:
        flow = chatting(server, turns=1, window=4, summary="summary")
        ended(flow, {"summary": {"text": "long ago", "messages": 9}, "talk": []})
        assert sent(server.calls[0]) == ["user 1"]


def test_a_recorded_summary_is_not_asked_for_again_after_a_crash(child, tmp_path):
    """The process dies between the summary and the answer; the next one takes it from the log."""
    path = tmp_path / "s"
    talk = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "older"}] * 3

    def flow_of(server: ModelServer) -> Workflow:
        return chatting(server, turns=1, window=4, summary="summary")

    with ModelServer(summing) as server:

        def drive() -> None:
            async def story() -> None:
                def dies(state: Any, notice: Any) -> None:
                    if isinstance(getattr(notice, "event", None), EffectFinished):
                        os._exit(9)

                async with Engine(path, listeners=[dies]) as engine:
                    await (await engine.start(flow_of(server), {"talk": talk}, run_id="r")).wait()

            asyncio.run(story())

        child(drive).answer()
        assert len(server.calls) == 1

        async def story() -> Any:
            async with Engine(path, workflows=[flow_of(server)]) as engine:
                return await (await engine.resume("r")).result()

        data = asyncio.run(asyncio.wait_for(story(), 30))
        assert [call.number for call in server.calls] == [1, 2]
    assert data["summary"] == {"text": "summary 1", "messages": 5}
