"""Conversations: what is said to a run, and what it answers."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

import pytest
from stories import story, until

from eventflow import Engine, Human, Parallel, RetryPolicy, Sleep, Wait, Workflow, extend
from eventflow.errors import (
    Conflict,
    InvalidState,
    NotPlainData,
    RunCancelledError,
    RunFailed,
    RunNotFound,
    RunTimedOutError,
    Stopped,
)
from eventflow.event import WaitClosed


class Talk(TypedDict, total=False):
    said: str
    reply: str
    log: Annotated[list[str], extend]


def echo(state):
    """The turn of a conversation."""
    if state["said"] == "boom":
        raise ValueError("it broke")
    return {"reply": f"you said {state['said']}", "log": [state["said"]]}


def chat(body=echo, *, name="chat", **options) -> Workflow:
    """A conversation that ends when somebody says bye."""
    options = {"writes": "said", "answers": "reply", "type": str, **options}
    flow = Workflow(name, state=Talk).add_node("hear", Wait.for_message(**options)).add_node("think", body)
    flow.add_node("end", lambda state: {"reply": "bye"})
    flow.add_edge("hear", "end", when=lambda s: s["said"] == "bye", label="bye").add_edge("hear", "think")
    return flow.add_edge("think", "hear").set_start("hear")


def test_each_message_has_the_answer_of_its_own_turn():
    """Also one that ends the run."""

    async def tell():
        async with Engine() as engine:
            run = await engine.start(chat(), {}, run_id="r")
            for said in ("one", "two", "two"):
                assert await engine.ask("r", payload=said) == f"you said {said}"
            assert await engine.ask("r", payload="bye") == "bye"
            assert (await run.result())["log"] == ["one", "two", "two"]

    story(tell())


def test_what_is_sent_is_read_in_its_turn_and_needs_no_answer():
    """A message that is sent is kept until the run reads it."""

    async def tell():
        async with Engine() as engine:
            run = await engine.start(chat(), {}, run_id="r")
            assert [await engine.send("r", said) for said in ("a", "b", "bye")] == [1, 2, 3]
            assert (await run.result())["log"] == ["a", "b"]

    story(tell())


def test_many_askers_at_once_each_get_their_own_answer():
    """However the messages mix, the answer is that of the turn that read this one."""

    async def tell():
        async with Engine() as engine:
            await engine.start(chat(), {}, run_id="r")
            said = [f"m{number}" for number in range(12)]
            answers = await asyncio.gather(*(engine.ask("r", payload=one) for one in said))
            assert answers == [f"you said {one}" for one in said]

    story(tell())


def test_without_a_field_for_it_the_answer_is_the_data():
    """As a dict, once the run stands still again."""

    async def tell():
        async with Engine() as engine:
            await engine.start(chat(answers=None), {}, run_id="r")
            told = await engine.ask("r", payload="hi")
            assert told == {"said": "hi", "reply": "you said hi", "log": ["hi"]}
            told["log"].append("mine")

    story(tell())


def test_a_signal_of_any_name_can_be_asked_with():
    """The wait for it says which field holds the answer."""

    async def tell():
        flow = Workflow("w").add_node("wait", Wait(signal="sum", writes="terms", answers="sum"))
        flow.add_node("add", lambda state: {"sum": sum(state["terms"])}).add_edge("wait", "add").set_start("wait")
        async with Engine() as engine:
            await engine.start(flow, {}, run_id="r")
            assert await engine.ask("r", "sum", [1, 2, 3]) == 6

    story(tell())


def test_an_answer_is_plain_data_of_the_asker_s_own():
    """What it does with it changes nothing of the run."""

    async def tell():
        flow = Workflow("w").add_node("hear", Wait.for_message(writes="said", answers="found"))
        flow.add_node("find", lambda state: {"found": {"all": [1]}}).add_node("next", Wait.for_message(writes="said"))
        flow.add_edge("hear", "find").add_edge("find", "next").set_start("hear")
        async with Engine() as engine:
            run = await engine.start(flow, {}, run_id="r")
            found = await engine.ask("r", payload="?")
            found["all"].append(2)
            assert run.state.data["found"] == {"all": [1]}

    story(tell())


def test_a_rest_or_a_question_on_the_way_is_not_the_answer():
    """A turn may sleep, be tried again, or ask a person; the answer of the turn before is not taken for its own."""

    async def tell():
        tries = []

        def think(state):
            tries.append(1)
            if len(tries) % 2:
                raise OSError("once more")
            return echo(state)

        flow = Workflow("w", state=Talk).add_node("hear", Wait.for_message(writes="said", answers="reply"))
        flow.add_node("sleep", Sleep(0.01)).add_node("ask", Human(prompt="May I?", writes="log"))
        flow.add_node("think", think, retry=RetryPolicy(attempts=2, delay=0.001))
        flow.add_edge("hear", "sleep").add_edge("sleep", "ask").add_edge("ask", "think").add_edge("think", "hear")
        async with Engine() as engine:
            run = await engine.start(flow.set_start("hear"), {}, run_id="r")
            for said in ("one", "two"):
                asking = asyncio.ensure_future(engine.ask("r", payload=said))
                await until(lambda: run.state.waiting_for == "human")
                await asyncio.sleep(0.05)
                assert not asking.done()
                await engine.answer("r", ["yes"])
                assert await asking == f"you said {said}"

    story(tell())


def test_an_answer_that_is_there_is_given_though_the_run_waits_for_something_else():
    """It need not come back to where it heard the message."""

    async def tell():
        flow = Workflow("w", state=Talk).add_node("hear", Wait.for_message(writes="said", answers="reply"))
        flow.add_node("think", echo).add_node("ask", Human(prompt="Well?", writes="log"))
        flow.add_edge("hear", "think").add_edge("think", "ask").set_start("hear")
        async with Engine() as engine:
            await engine.start(flow, {}, run_id="r")
            assert await engine.ask("r", payload="x") == "you said x"

    story(tell())


def test_a_message_that_will_not_do_is_refused_to_its_asker_only():
    """The run waits on; the next message is answered."""

    async def tell():
        async with Engine() as engine:
            await engine.start(chat(), {}, run_id="r")
            bad, good = await asyncio.gather(
                engine.ask("r", payload=7), engine.ask("r", payload="x"), return_exceptions=True
            )
            assert isinstance(bad, InvalidState)
            assert str(bad) == "state field payload: Input should be a valid string"
            assert good == "you said x"
            with pytest.raises(NotPlainData):
                await engine.ask("r", payload=object())

    story(tell())


@pytest.mark.parametrize("when", ["before", "in it", "already"])
def test_a_run_that_fails_before_it_answers_says_why(when):
    """To everybody who waits for an answer, whether their message was read or not."""

    async def tell():
        async with Engine() as engine:
            run = await engine.start(chat(), {}, run_id="r")
            if when == "already":
                await engine.send("r", "boom")
                await until(lambda: run.status == "failed")
            said = ["boom"] if when == "in it" else ["x"] if when == "already" else ["boom", "x"]
            answers = await asyncio.gather(*(engine.ask("r", payload=one) for one in said), return_exceptions=True)
            for one in answers:
                assert isinstance(one, RunFailed)
                assert "it broke" in str(one)

    story(tell())


def test_a_run_that_ends_otherwise_says_so(clock):
    """Cancelled, out of time, or ended without having read the message."""

    async def tell():
        gate = asyncio.Event()

        async def slow(state):
            await gate.wait()
            return echo(state)

        async with Engine(clock=clock) as engine:
            for name, error in (("cancelled", RunCancelledError), ("timed-out", RunTimedOutError)):
                run = await engine.start(chat(slow), {}, run_id=name, timeout=60)
                asking = asyncio.ensure_future(engine.ask(name, payload="x"))
                await until(lambda run=run: run.state.node == "think")
                if name == "cancelled":
                    await engine.cancel(name)
                else:
                    clock.advance(61)
                with pytest.raises(error):
                    await asking
            gate.set()
            await engine.start(chat(), {}, run_id="unread")
            bye, late = await asyncio.gather(
                engine.ask("unread", payload="bye"), engine.ask("unread", payload="x"), return_exceptions=True
            )
            assert bye == "bye"
            assert isinstance(late, Conflict)
            with pytest.raises(Conflict):
                await engine.ask("unread", payload="y")
            with pytest.raises(RunNotFound):
                await engine.ask("nobody", payload="y")

    story(tell())


def test_a_run_that_is_paused_gives_no_answer_and_loses_no_message():
    """It reads the message once it is resumed."""

    async def tell():
        async with Engine() as engine:
            flow = chat()
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "waiting")
            await engine.pause("r")
            with pytest.raises(Stopped):
                await engine.ask("r", payload="x")
            run = await engine.resume("r")
            await until(lambda: run.state.data.get("reply") == "you said x")

    story(tell())


def test_a_run_that_is_paused_in_the_middle_of_its_turn_has_not_answered():
    """The answer before is not given for this one."""

    async def tell():
        gate = asyncio.Event()

        async def slow(state):
            if state["said"] == "two":
                await gate.wait()
            return echo(state)

        async with Engine() as engine:
            run = await engine.start(chat(slow), {}, run_id="r")
            assert await engine.ask("r", payload="one") == "you said one"
            asking = asyncio.ensure_future(engine.ask("r", payload="two"))
            await until(lambda: run.state.node == "think")
            await engine.pause("r")
            gate.set()
            with pytest.raises(Stopped):
                await asking

    story(tell())


def test_a_run_that_nobody_drives_gives_no_answer(tmp_path):
    """It is said after a moment; the message is kept."""

    async def tell():
        flow = chat()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "waiting")
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            with pytest.raises(Stopped):
                await engine.ask("r", payload="x")
            run = await engine.resume("r")
            await until(lambda: run.state.data.get("reply") == "you said x")

    story(tell())


def test_a_run_that_is_deleted_meanwhile_is_not_waited_for(tmp_path):
    """There is nobody left to answer."""

    async def tell():
        flow = chat()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "waiting")
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            asking = asyncio.ensure_future(engine.ask("r", payload="x"))
            await until(lambda: engine.log.head("r").version > 2)
            await engine.delete("r")
            with pytest.raises(RunNotFound):
                await asking

    story(tell())


def test_a_run_that_has_left_memory_answers():
    """The message brings it back."""

    async def tell():
        async with Engine() as engine:
            run = await engine.start(chat(), {}, run_id="r")
            for said in ("x", "y"):
                await until(lambda: engine._desk.driver(engine.log.head("r").run_key) is None)
                assert await engine.ask("r", payload=said) == f"you said {said}"
            assert run.status == "waiting"

    story(tell())


def test_a_run_of_another_process_answers(tmp_path, child):
    """Only the log is between them."""

    def driving(say):
        async def tell():
            async with Engine(tmp_path / "s") as engine:
                run = await engine.start(chat(), {}, run_id="r")
                say("there")
                return (await run.result())["log"]

        return story(tell())

    async def tell():
        other = child(driving)
        assert other.line() == "there"
        async with Engine(tmp_path / "s") as engine:
            assert await asyncio.gather(*(engine.ask("r", payload=said) for said in ("a", "b", "c"))) == [
                "you said a", "you said b", "you said c",
            ]  # fmt: skip
            with pytest.raises(InvalidState):
                await engine.ask("r", payload=7)
            assert await engine.ask("r", payload="bye") == "bye"
            assert await asyncio.to_thread(other.answer) == "['a', 'b', 'c']"

    story(tell())


def test_what_a_branch_answers_is_there_when_all_are_joined():
    """Its field is in the state then, and not when another branch begins to wait."""

    async def tell():
        flow = Workflow("w").add_node(
            "both",
            Parallel({
                "left": Wait(signal="left", writes="a", answers="a"),
                "right": Wait(signal="right", writes="b", answers="b"),
            }),
        )  # fmt: skip
        flow.add_node("next", Wait(signal="stop")).add_edge("both", "next").set_start("both")
        async with Engine() as engine:
            await engine.start(flow, {}, run_id="r")
            left = asyncio.ensure_future(engine.ask("r", "left", 1))
            await until(lambda: any(isinstance(one.event, WaitClosed) for one in engine.get("r").events()))
            await asyncio.sleep(0.05)
            assert not left.done()
            assert await engine.ask("r", "right", 2) == 2
            assert await left == 1

    story(tell())


@pytest.mark.parametrize("keep", [True, False])
def test_a_run_that_goes_back_meanwhile_answers_on_its_new_line_or_not_at_all(keep):
    """If the message comes back it is read again; if it is lost, so is the question."""

    async def tell():
        gate, turns = asyncio.Event(), []

        async def slow(state):
            turns.append(state["said"])
            if len(turns) == 1:
                await gate.wait()
            return echo(state)

        async with Engine() as engine:
            run = await engine.start(chat(slow), {}, run_id="r")
            await until(lambda: run.status == "waiting")
            asking = asyncio.ensure_future(engine.ask("r", payload="x"))
            await until(lambda: turns)
            await engine.resume("r", at=1, keep_signals=keep)
            if keep:
                assert await asking == "you said x"
            else:
                with pytest.raises(Conflict, match="went back"):
                    await asking

    story(tell())
