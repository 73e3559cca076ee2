"""Waits, sleeps and people: a run stands still as a state of its machine, and goes on with what came."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

import pytest
from stories import names, reached, story

from eventflow import Engine, Human, ManualClock, Sleep, Wait, Workflow, extend
from eventflow.errors import DefinitionError, InvalidState, NotWaiting
from eventflow.event import Transitioned, WaitClosed, WaitOpened
from eventflow.log import MemoryLog


def asking(calls=None, **options) -> Workflow:
    """Work, wait in the middle, work again."""
    calls = [] if calls is None else calls
    return (
        Workflow("asking")
        .add_node("before", lambda state: calls.append("before"))
        .add_node("wait", options.get("wait") or Wait(signal="go", writes="said"))
        .add_node("after", lambda state: calls.append("after"))
        .add_edge("before", "wait")
        .add_edge("wait", "after")
        .set_start("before")
    )


def test_a_signal_ends_a_wait_and_its_payload_is_in_the_state():
    """The wait is opened and closed by facts; what closes it and the step that follows are one append."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            assert engine.get("r").state.waiting_for == "signal"
            await engine.signal("r", "other", 1)
            await engine.signal("r", "go", {"by": "ana"})
            assert await run.result() == {"said": {"by": "ana"}}
            assert names(run) == [
                "RunStarted", "Transitioned", "WaitOpened", "SignalReceived", "SignalReceived", "WaitClosed",
                "Transitioned", "RunCompleted",
            ]  # fmt: skip
            closed, moved = run.events()[5], run.events()[6]
            assert isinstance(closed.event, WaitClosed)
            assert isinstance(moved.event, Transitioned)
            assert closed.time == moved.time
            assert [one["name"] for one in run.state.signals] == ["other"]

    story(tell())


def test_a_signal_that_comes_early_is_kept_and_delivered_once():
    """Two waits for one name take two signals, in their order."""

    async def tell():
        flow = (
            Workflow("two")
            .add_node("slow", slow := asyncio_sleep(0.05))
            .add_node("one", Wait(signal="go", writes="first"))
            .add_node("two", Wait(signal="go", writes="second"))
            .add_edge("slow", "one")
            .add_edge("one", "two")
            .set_start("slow")
        )
        assert slow
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await engine.signal("r", "go", 1)
            await engine.signal("r", "go", 2)
            assert await run.result() == {"first": 1, "second": 2}
            assert not run.state.signals

    story(tell())


def asyncio_sleep(seconds):
    """A node that takes a while."""

    async def body(state):
        await asyncio.sleep(seconds)

    return body


def test_nothing_before_a_wait_is_run_again_when_the_run_is_taken_up(tmp_path):
    """A wait survives its process; another one goes on from it with the signal that came meanwhile."""

    async def tell():
        calls = []
        flow = asking(calls)
        async with Engine(tmp_path / "s", workflows=[flow], grace=1) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
        async with Engine(tmp_path / "s") as other:
            await other.signal("r", "go", "now")
        flow = asking(calls)
        async with Engine(tmp_path / "s", workflows=[flow], pick_up=True) as engine:
            assert await engine.get("r").result() == {"said": "now"}
        assert calls == ["before", "after"]

    story(tell())


def test_a_resumed_wait_says_that_it_waits():
    """After a stop the run is waiting again, for the same thing, under the same id."""

    async def tell():
        log, flow = MemoryLog(), asking()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            wait = run.state.wait
        assert log.head("r").status == "waiting"
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            assert (run.status, log.head("r").waiting_for, run.state.wait) == ("waiting", "signal", wait)
            await engine.signal("r", "go")
            await run.result()

    story(tell())


def test_a_sleep_ends_by_the_clock_and_outlives_its_process():
    """The moment is a fact; whoever drives the run then wakes it."""

    async def tell():
        clock, flow = ManualClock(), asking(wait=Sleep(3 * 3600))
        log = MemoryLog(clock=clock)
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            clock.advance(3600)
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.resume("r")
            await asyncio.sleep(0.02)
            assert run.status == "waiting"
            clock.advance(2 * 3600)
            await run.result()
            assert run.state.time == clock.now()

    story(tell())


@pytest.mark.parametrize(("restore", "left"), [("deadline", 40), ("remaining", 90), ("restart", 100)])
def test_a_limit_means_what_its_restore_says_when_the_run_is_taken_up(restore, left):
    """100 s of waiting, stopped after 10, taken up 50 later."""

    async def tell():
        clock, flow = (
            ManualClock(),
            asking(wait=Wait(signal="go", timeout=100, default=None, writes="x", restore=restore)),
        )
        log = MemoryLog(clock=clock)
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            clock.advance(10)
        clock.advance(50)
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.resume("r")
            assert run.state.wait["until"] - clock.now() == left * 10**9
            clock.advance(left)
            assert await run.result() == {"x": None}

    story(tell())


def test_time_over_gives_the_default_or_takes_its_edge_or_fails():
    """A wait without default goes over its edge on timed_out; without one the run fails and says so."""

    async def tell(flow):
        clock = ManualClock()
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            clock.advance(5)
            state = await run.wait()
            return state, names(run)

    state, _ = story(tell(asking(wait=Wait(signal="go", writes="said", timeout=5, default="nothing"))))
    assert (state.status, state.data["said"]) == ("completed", "nothing")
    flow = asking(wait=Wait(signal="go", timeout=5)).add_node("late", lambda state: {"late": True})
    state, _ = story(tell(flow.add_edge("wait", "late", on="timed_out")))
    assert (state.status, dict(state.data)) == ("completed", {"late": True})
    state, events = story(tell(asking(wait=Wait(signal="go", timeout=5))))
    assert (state.status, state.error.type) == ("failed", "WaitTimedOut")
    assert events[-1] == "RunFailed"


def test_a_person_is_asked_and_answers():
    """The prompt is in the log, the answer is checked, and goes into the state."""

    async def tell():
        wait = Human(
            prompt=lambda state: f"Refund {state['sum']}?", writes="agreed", type=bool,
            check=lambda answer: None if answer else "only yes will do",
        )  # fmt: skip
        flow = asking(wait=wait)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"sum": 5}, run_id="r")
            await reached(run, "waiting")
            assert run.state.waiting_for == "human"
            assert run.state.wait["spec"]["prompt"] == "Refund 5?"
            assert run.state.wait["spec"]["schema"] == {"type": "boolean"}
            with pytest.raises(InvalidState, match="boolean"):
                await engine.answer("r", "perhaps")
            with pytest.raises(InvalidState, match="only yes"):
                await engine.answer("r", answer=False)
            await engine.answer("r", answer=True)
            assert (await run.result())["agreed"] is True
            with pytest.raises(NotWaiting):
                await engine.answer("r", answer=True)

    story(tell())


def test_an_answer_that_does_not_fit_is_put_aside_and_the_run_waits_on():
    """Who sends it may not know the workflow; then the run refuses it, as a fact."""

    async def tell():
        flow = asking(wait=Wait(signal="go", writes="n", type=int))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            await engine.signal("r", "go", "many")
            await engine.signal("r", "go", 4)
            assert await run.result() == {"n": 4}
            assert "SignalRefused" in names(run)

    story(tell())


def test_an_answer_to_another_wait_is_not_delivered_to_this_one():
    """Each wait has its own id: the second question is not answered by a second answer to the first."""

    async def tell():
        flow = (
            Workflow("two")
            .add_node("one", Human(prompt="1?", writes="first"))
            .add_node("two", Human(prompt="2?", writes="second"))
            .add_edge("one", "two")
            .set_start("one")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            name = f"answer:{run.state.wait['id']}"
            await engine.answer("r", "a")
            await engine.signal("r", name, "again")
            while run.state.node != "two" or run.status != "waiting":
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.02)
            assert run.state.node == "two"
            await engine.answer("r", "b")
            assert await run.result() == {"first": "a", "second": "b"}

    story(tell())


def test_a_waiting_run_can_be_cancelled_and_paused():
    """Both reach it while it stands still; after a pause it waits again."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="a")
            await reached(run, "waiting")
            await engine.cancel("a", why="enough")
            assert (await run.wait()).status == "cancelled"
            run = await engine.start(flow, {}, run_id="b")
            await reached(run, "waiting")
            await engine.pause("b")
            assert (await run.wait()).status == "paused"
            run = await engine.resume("b")
            assert run.status == "waiting"
            await engine.signal("b", "go", 1)
            assert await run.result() == {"said": 1}

    story(tell())


def test_a_rewind_and_a_fork_wait_anew():
    """A wait belongs to its line: going back opens another one."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            first = run.state.wait["id"]
            run = await engine.resume("r", at=3)
            while run.state.wait is None:
                await asyncio.sleep(0.002)
            assert run.state.wait["id"] > first
            fork = await engine.fork("r@3", run_id="f")
            while fork.state.wait is None:
                await asyncio.sleep(0.002)
            await engine.signal("f", "go", "fork")
            assert await fork.result() == {"said": "fork"}
            await engine.signal("r", "go", "root")
            assert await run.result() == {"said": "root"}

    story(tell())


def test_waits_are_checked_when_they_are_defined():
    """A limit must be one, a default needs a limit, and a written field must be declared."""
    for wrong in (
        lambda: Wait(signal=""), lambda: Wait(signal="x", timeout=0), lambda: Wait(signal="x", default=1),
        lambda: Sleep(-1), lambda: Workflow("w").add_node("a", Wait(signal="x"), timeout=5),
    ):  # fmt: skip
        with pytest.raises(DefinitionError):
            wrong()

    class Known(TypedDict):
        notes: Annotated[list[str], extend]

    flow = Workflow("w", state=Known).add_node("a", Wait(signal="x", writes="other")).set_start("a")
    assert [one.kind for one in flow.check()] == ["undeclared field"]


def test_a_wait_is_opened_once_however_often_it_is_looked_at():
    """Signals for others ring the bell; the wait stays the one it is."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            for number in range(5):
                await engine.signal("r", "other", number)
            await engine.signal("r", "go")
            await run.result()
            assert sum(isinstance(one.event, WaitOpened) for one in run.events()) == 1

    story(tell())
