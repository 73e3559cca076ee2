"""Going back: messages that come back, children that are called off, and from where it can be done."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, TypedDict

import pytest
from stories import is_whole, story, until

from eventflow import (
    Child,
    Engine,
    Human,
    Wait,
    Workflow,
    extend,
)
from eventflow.errors import NotResumable, RunOwned
from eventflow.event import Rewound, RunSuspended, WaitOpened
from eventflow.recovery import recover


class Data(TypedDict, total=False):
    n: int
    got: Annotated[list[str], extend]
    said: str


# --- messages that come back ---------------------------------------------------------------------------------------


def listening(**options) -> Workflow:
    """Two waits for `go`, between which anything may come, and then one for `stop`."""
    flow = Workflow("listening", state=Data)
    for name, signal in (("one", "go"), ("two", "go"), ("three", "stop")):
        flow.add_node(name, Wait(signal=signal, writes="got" if signal == "go" else "said", **options))
    return flow.add_edge("one", "two").add_edge("two", "three").set_start("one")


async def heard(engine, *said):
    """A run that has heard these, each once it was taken."""
    run = await engine.start(listening(type=list[str] | str), {}, run_id="r")
    for name, payload in said:
        await engine.signal("r", name, payload)
    return run


@pytest.mark.parametrize("keep", [True, False])
def test_messages_that_came_since_come_back_if_asked(keep):
    """Once each, in their order, those that were read and those that still waited; otherwise none do."""

    async def tell():
        async with Engine() as engine:
            run = await heard(engine, ("go", ["a"]), ("later", "x"), ("go", ["b"]))
            await until(lambda: run.state.node == "three")
            run = await engine.resume("r", at=1, keep_signals=keep)
            rewound = next(one.event for one in run.events() if isinstance(one.event, Rewound))
            assert [one["name"] for one in rewound.signals] == (["go", "later", "go"] if keep else [])
            assert [one["message"] for one in rewound.signals] == ([1, 2, 3] if keep else [])
            if not keep:
                await engine.signal("r", "go", ["c"])
                await engine.signal("r", "go", ["d"])
            await engine.signal("r", "stop", "end")
            assert (await run.result())["got"] == (["a", "b"] if keep else ["c", "d"])
            assert is_whole(engine.log)

    story(tell())


def test_messages_come_back_a_second_time_and_once_each():
    """A rewind over a rewind that brought them back brings them back."""

    async def tell():
        async with Engine() as engine:
            run = await heard(engine, ("go", ["a"]), ("go", ["b"]))
            for _ in range(3):
                await until(lambda: engine.get("r").state.node == "three")
                run = await engine.resume("r", at=1, keep_signals=True)
            await engine.signal("r", "stop", "end")
            assert (await run.result())["got"] == ["a", "b"]

    story(tell())


def test_a_message_that_was_refused_does_not_come_back():
    """It would do no better."""

    async def tell():
        async with Engine() as engine:
            run = await heard(engine, ("go", 7), ("go", ["a"]), ("go", ["b"]))
            await until(lambda: run.state.node == "three")
            run = await engine.resume("r", at=1, keep_signals=True)
            await engine.signal("r", "stop", "end")
            assert (await run.result())["got"] == ["a", "b"]
            assert [
                one["message"] for e in run.events() if isinstance(e.event, Rewound) for one in e.event.signals
            ] == [2, 3]

    story(tell())


def test_what_waited_at_the_version_waits_again_and_does_not_come_twice():
    """It is in the state that is gone back to."""

    async def tell():
        async with Engine() as engine:
            flow = Workflow("w", state=Data).add_node("one", Wait(signal="go", writes="got"))
            flow.add_node("two", Wait(signal="early", writes="got")).add_node("three", Wait(signal="stop")).set_start(
                "one"
            )
            flow.add_edge("one", "two").add_edge("two", "three")
            run = await engine.start(flow, {}, run_id="r")
            await engine.signal("r", "early", ["e"])
            await until(lambda: run.state.signals)
            at = run.version
            await engine.signal("r", "go", ["g"])
            await until(lambda: run.state.node == "three")
            run = await engine.resume("r", at=at, keep_signals=True)
            await engine.signal("r", "stop")
            assert (await run.result())["got"] == ["g", "e"]

    story(tell())


def test_a_message_read_on_the_line_that_is_gone_back_to_is_not_read_there_again():
    """From a line that brought it back, to a version at which it had been read."""

    async def tell():
        async with Engine() as engine:
            run = await heard(engine, ("go", ["a"]))
            await until(lambda: run.state.node == "two")
            at = run.version
            run = await engine.resume("r", at=1, keep_signals=True)
            await until(lambda: run.state.node == "two" and run.state.wait is not None)
            await engine.signal("r", "go", ["b"])
            await until(lambda: run.state.node == "three")
            run = await engine.resume("r", at=at, keep_signals=True)
            await engine.signal("r", "stop", "end")
            assert (await run.result())["got"] == ["a", "b"]

    story(tell())


def test_an_answer_to_a_person_s_question_does_not_come_back():
    """The question is asked anew, and only what answers that one is its answer."""

    async def tell():
        async with Engine() as engine:
            flow = Workflow("w").add_node("ask", Human(prompt="?", writes="a")).add_node("wait", Wait(signal="stop"))
            flow.add_edge("ask", "wait").set_start("ask")
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "waiting")
            await engine.answer("r", "yes")
            await until(lambda: run.state.node == "wait")
            run = await engine.resume("r", at=1, keep_signals=True)
            await until(lambda: run.state.wait is not None)
            assert not run.state.signals
            assert run.state.node == "ask"
            await engine.answer("r", "no")
            await engine.signal("r", "stop")
            assert (await run.result())["a"] == "no"

    story(tell())


# --- children ------------------------------------------------------------------------------------------------------


def families(gate: asyncio.Event, born: list[str]) -> Workflow:
    """A run whose child has a child that waits for a gate."""

    async def slow(state, run):
        born.append(run.id)
        await gate.wait()
        return {"n": 1}

    grandchild = Workflow("grandchild", state=Data).add_node("slow", slow).set_start("slow")
    kid = (
        Workflow("kid", state=Data)
        .add_node("kid", Child(grandchild, reads=lambda s: {}, writes={"n": "n"}))
        .set_start("kid")
    )
    flow = Workflow("family", state=Data).add_node("start", lambda state: None)
    flow.add_node("kid", Child(kid, reads=lambda state: {}, writes={"n": "n"})).add_edge("start", "kid")
    return flow.set_start("start")


def test_children_started_since_are_called_off_with_theirs():
    """And others are started in their place; the caller waits for those."""

    async def tell():
        gate, born = asyncio.Event(), []
        flow = families(gate, born)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: born)
            kid = run.state.wait["name"]
            run = await engine.resume("r", at=1)
            await until(lambda: engine.get(kid).status == "cancelled" and engine.get(born[0]).status == "cancelled")
            await until(lambda: len(born) == 2)
            assert run.state.wait["name"] != kid
            gate.set()
            assert (await run.result())["n"] == 1
            assert is_whole(engine.log)

    story(tell())


def test_children_that_nobody_drives_are_called_off_too(tmp_path, child):
    """Their process died; whoever takes the caller back need not take them up first."""

    def dying():
        async def tell():
            born = []
            flow = families(asyncio.Event(), born)
            async with Engine(tmp_path / "s", workflows=[flow]) as engine:
                await engine.start(flow, {}, run_id="r")
                await until(lambda: born)
                os._exit(9)

        story(tell())

    async def after():
        gate, born = asyncio.Event(), []
        gate.set()
        flow = families(gate, born)
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            kid = recover(engine.log, engine.log.head("r")).state.wait["name"]
            grandchild = recover(engine.log, engine.log.head(kid)).state.wait["name"]
            run = await engine.resume("r", at=1)
            assert (await run.result())["n"] == 1
            assert engine.get(kid).status == "cancelled"
            await until(lambda: engine.get(grandchild).status == "cancelled")
            assert grandchild not in born

    assert child(dying).answer() == "signal 0"
    story(after())


def test_a_child_that_was_there_at_the_version_is_not_called_off():
    """The caller waits for it on."""

    async def tell():
        gate, born = asyncio.Event(), []
        flow = families(gate, born)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: born)
            opened = next(one.version for one in run.events() if isinstance(one.event, WaitOpened))
            await engine.signal("r", "noise")
            await until(lambda: run.version > opened)
            run = await engine.resume("r", at=opened, keep_signals=True)
            gate.set()
            assert (await run.result())["n"] == 1
            assert len(born) == 1
            assert {one.head.status for one in engine.log.runs(_all())} == {"completed"}

    story(tell())


def test_a_child_s_end_does_not_come_back_as_a_message():
    """A later child has an end of its own."""

    async def tell():
        gate, born = asyncio.Event(), []
        gate.set()
        flow = families(gate, born)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            run = await engine.resume("r", at=1, keep_signals=True)
            assert (await run.result())["n"] == 1
            assert [e.event.signals for e in run.events() if isinstance(e.event, Rewound)] == [[]]
            assert len(born) == 2

    story(tell())


# --- where it stands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["driven", "parked", "paused", "failed"])
def test_a_run_is_taken_back_from_wherever_it_stands(how):
    """What ran is cut off; what was parked or paused goes on."""

    async def tell():
        began, gate = [], asyncio.Event()

        async def body(state):
            began.append(1)
            if how == "failed":
                raise ValueError
            if len(began) == 1 and how == "driven":
                await gate.wait()

        flow = Workflow("w").add_node("a", lambda s: None).add_node("b", body).add_node("c", Wait(signal="go"))
        flow.add_edge("a", "b").add_edge("b", "c").set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: began)
            if how == "parked":
                await until(lambda: engine._desk.driver(engine.log.head("r").run_key) is None)
            elif how == "paused":
                await engine.pause("r")
                await until(lambda: run.status == "paused")
            elif how == "failed":
                await until(lambda: run.status == "failed")
            how_often = len(began)
            run = await engine.resume("r", at=1)
            await until(lambda: len(began) == how_often + 1)
            if how != "failed":
                await engine.signal("r", "go")
                await run.result()
            assert sum(isinstance(one.event, Rewound) for one in run.events()) == 1

    story(tell())


def test_a_run_of_another_process_is_not_taken_back(tmp_path, child):
    """It is said who has it, and nothing is changed."""

    def driving(say):
        async def tell():
            flow = (
                Workflow("w")
                .add_node("a", lambda s: None)
                .add_node("b", Wait(signal="go"))
                .add_edge("a", "b")
                .set_start("a")
            )
            async with Engine(tmp_path / "s", workflows=[flow]) as engine:
                run = await engine.start(flow, {}, run_id="r")
                await until(lambda: run.status == "waiting")
                say("there")
                return await run.result()

        return story(tell())

    async def tell():
        other = child(driving)
        assert other.line() == "there"
        flow = (
            Workflow("w")
            .add_node("a", lambda s: None)
            .add_node("b", Wait(signal="go"))
            .add_edge("a", "b")
            .set_start("a")
        )
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            version = engine.get("r").version
            with pytest.raises(RunOwned):
                await engine.resume("r", at=1, effects="reuse", keep_signals=True)
            assert engine.get("r").version == version
            await engine.signal("r", "go")
            assert await asyncio.to_thread(other.answer) == "{}"

    story(tell())


def test_going_back_refuses_before_anything_is_stopped():
    """What is wrong with the place is said while the run goes on."""

    async def tell():
        flow = Workflow("w").add_node("a", Wait(signal="go")).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "waiting")
            await engine.signal("r", "go")
            await run.result()
            with pytest.raises(NotResumable):
                await engine.resume("r", at=run.version, effects="reuse")
            assert not any(isinstance(one.event, RunSuspended | Rewound) for one in run.events())

    story(tell())


def _all():
    from eventflow.log import Query  # noqa: PLC0415 - one test asks

    return Query()
