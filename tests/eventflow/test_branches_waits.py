"""Waits as branches: several at once, each with an id of its own, and no message ever reaches the wrong one."""

from __future__ import annotations

import asyncio
from typing import TypedDict

import pytest
from stories import reached, story

from eventflow import Engine, Human, ManualClock, Map, Parallel, RunFailed, Sleep, Wait, Workflow
from eventflow.errors import InvalidState, NotWaiting, SettingsError
from eventflow.event import BranchFinished, SignalRefused, WaitClosed, WaitOpened
from eventflow.log import MemoryLog
from eventflow.state import open_waits


def flow_of(split, **options):
    """A split, and a node after it."""
    flow = Workflow("flow", **options).add_node("split", split).add_node("end", lambda state: None)
    return flow.add_edge("split", "end").set_start("split")


ASK = Parallel({"left": Human(prompt="Left?", writes="l", type=int), "right": Human(prompt="Right?", writes="r")})


def ids(run):
    """The ids of the open waits, by branch."""
    return {name: wait["id"] for name, wait in open_waits(run.state)}


def of(run, *kinds):
    """The events of some kinds."""
    return [one.event for one in run.events() if isinstance(one.event, kinds)]


# --- people --------------------------------------------------------------------------------------------------------


def test_two_questions_at_once_have_ids_of_their_own_and_get_their_own_answers():
    """An answer names its wait; one that names none is refused, and says which there are."""

    async def tell():
        flow = flow_of(ASK)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            left, right = ids(run)["left"], ids(run)["right"]
            assert left != right
            with pytest.raises(SettingsError, match=rf"{left} \(left\), {right} \(right\)"):
                await engine.answer("r", 1)
            with pytest.raises(InvalidState):
                await engine.answer("r", "no number", wait=left)
            with pytest.raises(NotWaiting):
                await engine.answer("r", 1, wait=right + 40)
            await engine.answer("r", "R", wait=right)
            while "right" in ids(run):
                await asyncio.sleep(0.002)
            await engine.answer("r", 7)  # only one is left
            assert await run.result() == {"l": 7, "r": "R"}
            assert [one.branch for one in of(run, BranchFinished)] == ["right", "left"]

    story(tell())


def test_an_answer_that_comes_twice_is_for_nobody_else():
    """The second is left unread; the other question still waits."""

    async def tell():
        flow = flow_of(ASK)
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            left = ids(run)["left"]
            async with Engine(log) as other:  # answers by another engine, both before the first is read
                await asyncio.gather(*(other.answer("r", 1, wait=left) for _ in range(2)), return_exceptions=True)
            while "left" in ids(run):
                await asyncio.sleep(0.002)
            assert list(ids(run)) == ["right"]
            await engine.answer("r", "x")
            assert await run.result() == {"l": 1, "r": "x"}

    story(tell())


def test_each_item_of_a_map_may_be_a_question():
    """The prompt is of the item, the answers stand in the items' order, and a wrong one is refused when it is given."""

    async def tell():
        ask = Human(prompt=lambda item: f"Is {item} good?", writes="answer", type=bool)
        flow = flow_of(Map(ask, over="items", writes="answers"))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": ["a", "b", "c"]}, run_id="r")
            await reached(run, "waiting")
            while len(ids(run)) < 3:  # the status is that of the log, which may be ahead of the state here
                await asyncio.sleep(0.002)
            asked = {wait["spec"]["prompt"]: wait["id"] for _, wait in open_waits(run.state)}
            with pytest.raises(InvalidState):
                await engine.answer("r", "perhaps", wait=asked["Is b good?"])
            for item, answer in (("c", False), ("a", True), ("b", True)):
                await engine.answer("r", answer, wait=asked[f"Is {item} good?"])
            assert (await run.result())["answers"] == [True, True, False]

    story(tell())


# --- signals -------------------------------------------------------------------------------------------------------


def test_one_message_is_for_one_branch_though_two_wait_for_its_name():
    """The first in declared order gets the first; the other waits for another."""

    async def tell():
        flow = flow_of(Parallel({"a": Wait(signal="go", writes="a"), "b": Wait(signal="go", writes="b")}))
        busy = (
            Workflow("busy").add_node("nap", Sleep(60)).set_start("nap")
        )  # beside another run appends take their time
        async with Engine(workflows=[flow, busy]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            await engine.start(busy, {})
            await engine.signal("r", "go", 1)
            while len(ids(run)) > 1:
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.03)
            assert run.status == "waiting"
            await engine.signal("r", "go", 2)
            result = await run.result()
            assert sorted(result.values()) == [1, 2]
            assert len({one.message for one in of(run, WaitClosed)}) == 2

    story(tell())


def test_messages_that_came_before_the_split_are_shared_out():
    """Three buffered ones for three branches; none twice, none lost."""

    async def tell():
        names = ["a", "b", "c"]
        flow = (
            Workflow("flow")
            .add_node("gate", Wait(signal="gate"))
            .add_node("split", Parallel({name: Wait(signal="go", writes=name) for name in names}))
            .add_edge("gate", "split")
            .set_start("gate")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            for number in range(3):
                await engine.signal("r", "go", number)
            await engine.signal("r", "gate")
            assert await run.result() == {"a": 0, "b": 1, "c": 2}
            assert not run.state.signals

    story(tell())


def test_a_message_that_does_not_fit_is_put_aside_and_the_branch_waits_on():
    """It says why, and is not given to the other branch."""

    async def tell():
        flow = flow_of(Parallel({"a": Wait(signal="go", writes="a", type=int), "b": Wait(signal="on", writes="b")}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            await engine.signal("r", "go", "no number")
            await engine.signal("r", "go", 3)
            await engine.signal("r", "on", 4)
            assert await run.result() == {"a": 3, "b": 4}
            assert len(of(run, SignalRefused)) == 1

    story(tell())


# --- time ----------------------------------------------------------------------------------------------------------


def test_sleeps_and_limits_of_branches_are_each_their_own():
    """Two sleeps side by side take as long as the longer; a limit gives its default, or fails its branch."""
    clock = ManualClock()

    async def tell():
        split = Parallel(
            {
                "hour": Sleep(3_600),
                "day": Sleep(86_400),
                "ask": Human(prompt="?", writes="said", timeout=7_200, default="nothing"),
                "vain": Wait(signal="never", timeout=60),
            },
            tolerate=1,
        )
        flow = flow_of(split)
        async with Engine(clock=clock, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            for _ in range(4):
                clock.advance(30_000)
                await asyncio.sleep(0.03)
            assert await run.result() == {"said": "nothing"}
            assert [one.branch for one in of(run, BranchFinished)] == ["hour", "ask", "day"]

    story(tell())


def test_a_wait_without_answer_fails_a_node_that_tolerates_nothing():
    """The error says which branch waited in vain."""
    flow = flow_of(Parallel({"vain": Wait(signal="never", timeout=0.02)}))
    with pytest.raises(RunFailed, match=r"branch 'vain'.*waited in vain"):
        flow.run_sync({})


# --- leaving memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [Sleep(1.2), Wait(signal="late", writes="late")], ids=["time", "signal"])
def test_a_section_in_which_all_stand_still_leaves_memory_and_comes_back(other):
    """Its time brings it back, or a message; what had ended stays ended."""
    calls = []

    async def tell():
        flow = flow_of(
            Parallel({"quick": lambda state: calls.append(1), "ask": Human(prompt="?", writes="x"), "other": other})
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            seat = engine._desk.seat(run.state.run.run_key)  # that it left is seen nowhere else
            while seat.driver is not None:
                await asyncio.sleep(0.02)
            await engine.answer("r", "x", wait=ids(run)["ask"])
            await engine.signal("r", "late", 1)
            assert (await run.result())["x"] == "x"

    story(tell())
    assert calls == [1]


def test_a_branch_at_work_keeps_the_section_in_memory():
    """A wait beside a body that takes longer than a run may stand still."""

    async def slow(state):
        await asyncio.sleep(0.9)
        return {"slow": True}

    async def tell():
        flow = flow_of(Parallel({"slow": slow, "ask": Human(prompt="?", writes="x")}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while len(ids(run)) < 1:
                await asyncio.sleep(0.002)
            assert run.status == "running"
            await reached(run, "waiting")
            await engine.answer("r", "x")
            assert await run.result() == {"slow": True, "x": "x"}

    story(tell())


class Declared(TypedDict, total=False):
    """A state that is checked."""

    l: int  # noqa: E741 - as above
    r: str


def test_what_is_waited_for_says_so_while_other_branches_work():
    """The run waits once all branches do that are not over; before that it is running, whoever waits."""

    async def tell():
        gate = asyncio.Event()

        async def work(state):
            await gate.wait()

        bodies = {"work": work, "left": Human(prompt="?", writes="l"), "right": Wait(signal="go", writes="r")}
        flow = flow_of(Parallel(bodies), state=Declared)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while len(of(run, WaitOpened)) < 2:
                await asyncio.sleep(0.002)
            assert (run.status, run.state.waiting_for) == ("running", "")
            gate.set()
            await reached(run, "waiting")
            assert run.state.waiting_for in ("human", "signal")
            await engine.signal("r", "go", "now")
            await engine.answer("r", 1)
            assert await run.result() == {"l": 1, "r": "now"}

    story(tell())
