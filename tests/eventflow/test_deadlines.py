"""Deadlines: a run has its time, and when that is over it ends, wherever it stands and whoever drives it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from stories import hangs, single, story, until

from eventflow import Child, Engine, ManualClock, Parallel, RetryPolicy, Sleep, Wait
from eventflow.errors import DefinitionError, NotResumable, RunTimedOutError
from eventflow.event import RunTimedOut
from eventflow.log import MemoryLog

HOUR = 3600


def fails(state):
    """Fail, in a way that trying again might mend."""
    raise ConnectionError("down")


STANDS = {
    "in a body": single(hangs),
    "in a wait": single(Wait(signal="go")),
    "asleep": single(Sleep(9 * HOUR)),
    "in a wait with a limit of its own": single(Wait(signal="go", timeout=9 * HOUR)),
    "in branches": single(Parallel({"a": hangs, "b": Wait(signal="go")})),
    "between attempts": single(fails, retry=RetryPolicy(attempts=5, delay=9 * HOUR, longest=9 * HOUR)),
    "for a child": single(Child(single(hangs).add_node("b", hangs).add_edge("a", "b"))),
}


@pytest.mark.parametrize("park", [0.02, 60])
@pytest.mark.parametrize("where", STANDS)
def test_a_run_past_its_deadline_ends_wherever_it_stands(where, park, monkeypatch):
    """In memory or parked: its last event is RunTimedOut, and its result says so."""
    monkeypatch.setattr("eventflow.engine.drive.PARK_AFTER", park)

    async def tell():
        clock, flow = ManualClock(), STANDS[where]
        if where == "for a child":
            inner = single(hangs)
            inner.name = "inner"
            flow = single(Child(inner))
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=HOUR)
            await asyncio.sleep(0.06)
            clock.advance(HOUR - 1)
            await asyncio.sleep(0.01)
            assert not run.state.ended
            clock.advance(1)
            with pytest.raises(RunTimedOutError):
                await run.result()
            assert isinstance(run.events()[-1].event, RunTimedOut)
            with pytest.raises(NotResumable):
                await engine.resume("r")
            if where == "for a child":
                child = next(one.event.name for one in run.events() if hasattr(one.event, "kind"))
                await until(lambda: engine.get(child).state.ended)

    story(tell())


def test_a_run_that_is_taken_up_after_its_deadline_runs_no_code():
    """Nobody drove it when its time was over; whoever takes it up ends it, before anything else."""

    async def tell():
        clock, began = ManualClock(), []

        async def body(state):
            began.append(clock.now())
            await asyncio.Event().wait()

        log = MemoryLog(clock=clock)
        async with Engine(log, workflows=[flow := single(body)], clock=clock, grace=0) as engine:
            await engine.start(flow, {}, run_id="r", timeout=HOUR)
            await until(lambda: began)
        clock.advance(2 * HOUR)
        assert log.head("r").status == "pending"
        async with Engine(log, workflows=[flow], clock=clock, pick_up=True) as engine:
            with pytest.raises(RunTimedOutError):
                await engine.get("r").result()
        assert len(began) == 1

    story(tell())


def test_the_result_of_a_thread_that_outlives_the_deadline_is_dropped():
    """A plain function can't be cut off; what it returns comes too late."""

    async def tell():
        clock, gate, began = ManualClock(), threading.Event(), threading.Event()

        def body(state):
            began.set()
            gate.wait()
            return {"late": True}

        async with Engine(MemoryLog(clock=clock), workflows=[flow := single(body)], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=HOUR)
            await until(began.is_set)
            clock.advance(HOUR)
            with pytest.raises(RunTimedOutError):
                await run.result()
            gate.set()
            await asyncio.sleep(0.02)
            assert run.data == {}

    story(tell())


def test_a_run_that_ends_in_time_is_not_timed_out():
    """Its deadline is nothing any more once it has ended."""

    async def tell():
        clock = ManualClock()
        async with Engine(MemoryLog(clock=clock), workflows=[flow := single(lambda state: {})], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=HOUR)
            await run.result()
            clock.advance(2 * HOUR)
            await asyncio.sleep(0.02)
            assert run.status == "completed"

    story(tell())


def test_a_fork_has_no_deadline_of_its_parents():
    """It is a run of its own, of another time."""

    async def tell():
        clock = ManualClock()
        async with Engine(MemoryLog(clock=clock), workflows=[flow := single(Wait(signal="go"))], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=HOUR)
            await until(lambda: run.status == "waiting")
            clock.advance(HOUR)
            await run.wait()
            fork = await engine.fork("r@1", run_id="f")
            await until(lambda: fork.status == "waiting")
            clock.advance(HOUR)
            await engine.signal("f", "go")
            assert await fork.result() == {}

    story(tell())


def test_a_run_that_goes_back_after_its_deadline_has_none_any_more():
    """Whoever rewinds it then wants it to go on; one that goes back in time keeps it."""

    async def tell():
        clock = ManualClock()
        async with Engine(MemoryLog(clock=clock), workflows=[flow := single(Wait(signal="go"))], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=HOUR)
            await until(lambda: run.status == "waiting")
            run = await engine.resume("r", at=1)
            await until(lambda: run.status == "waiting")
            clock.advance(HOUR)
            assert (await run.wait()).status == "timed_out"
            run = await engine.resume("r", at=1)
            await until(lambda: run.status == "waiting")
            clock.advance(HOUR)
            await engine.signal("r", "go")
            assert await run.result() == {}

    story(tell())


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_deadline_is_a_moment_in_the_future(timeout):
    """What is none is refused when it is said."""

    async def tell():
        async with Engine(workflows=[flow := single(hangs)]) as engine:
            with pytest.raises(DefinitionError, match="timeout"):
                await engine.start(flow, {}, timeout=timeout)

    story(tell())
