"""Bodies within their limits: a timeout for all of it, and one for silence."""

from __future__ import annotations

import asyncio
import threading

import pytest
from stories import single, story, until

from eventflow import Engine, ManualClock, Parallel, RetryPolicy, Workflow
from eventflow.errors import DefinitionError, RunFailed, RunLost
from eventflow.log import MemoryLog


async def driven(flow, clock, seconds, *, step=1.0):
    """The state of a run after the clock went on for some seconds, a step at a time."""
    async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock, grace=0) as engine:
        run = await engine.start(flow, {}, run_id="r")
        await asyncio.sleep(0.02)
        for _ in range(round(seconds / step)):
            clock.advance(step)
            for _ in range(5):
                await asyncio.sleep(0.001)
        return run.state


def test_a_body_that_gives_signs_of_life_goes_on():
    """An idle timeout is about silence: with a heartbeat in time the body may take as long as it likes."""

    async def tell():
        clock = ManualClock()

        async def body(state, run):
            for _ in range(10):
                run.heartbeat()
                await clock.sleep(8)
            return {"done": True}

        state = await driven(single(body, idle_timeout=10), clock, 90)
        assert (state.status, state.data) == ("completed", {"done": True})

    story(tell())


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_body_that_falls_silent_is_cut_off(kind):
    """A little after its idle timeout, as a timeout of the node; it has lost its run by then."""

    async def tell():
        clock, gate, lost = ManualClock(), threading.Event(), []

        async def body(state, run):
            try:
                await asyncio.Event().wait()
            finally:
                try:
                    run.heartbeat()
                except RunLost as error:
                    lost.append(str(error))

        def plain(state, run):
            gate.wait()
            try:
                run.heartbeat()
            except RunLost as error:
                lost.append(str(error))

        flow = single(body if kind == "async" else plain, idle_timeout=10)
        state = await driven(flow, clock, 9)
        assert state.status == "running"
        clock = ManualClock()
        state = await driven(flow, clock, 13)
        assert (state.status, state.error.type) == ("failed", "NodeTimedOut")
        assert "no sign of life" in state.error.message
        gate.set()
        await until(lambda: lost)
        assert "no sign of life" in lost[-1] or "driven" in lost[-1] or "stopping" in lost[-1]

    story(tell())


def test_a_heartbeat_comes_from_any_thread():
    """A plain function beats as an async one does."""

    async def tell():
        clock, beats, gate = ManualClock(), threading.Semaphore(0), threading.Semaphore(0)

        def body(state, run):
            for _ in range(4):
                gate.acquire()
                run.heartbeat()
                beats.release()
            return {"done": True}

        async with Engine(
            MemoryLog(clock=clock), workflows=[flow := single(body, idle_timeout=10)], clock=clock
        ) as engine:
            run = await engine.start(flow, {}, run_id="r")
            for _ in range(4):
                for _ in range(3):
                    clock.advance(3)
                    await asyncio.sleep(0.01)
                gate.release()
                await asyncio.to_thread(beats.acquire)
                await asyncio.sleep(0.01)
            assert (await run.result()) == {"done": True}

    story(tell())


def test_a_silent_attempt_is_followed_by_the_next_and_by_the_edge_on_timed_out():
    """It counts as an attempt that timed out: retries, then the edge."""

    async def tell():
        clock, tries = ManualClock(), []

        async def body(state, run):
            tries.append(run.attempt)
            await asyncio.Event().wait()

        flow = (
            Workflow("w").add_node("a", body, idle_timeout=4, retry=RetryPolicy(attempts=2, delay=1, jitter=0))
            .add_node("b", lambda state: {"late": True}).add_edge("a", "b", on="timed_out").add_edge("a", "b").set_start("a")
        )  # fmt: skip
        state = await driven(flow, clock, 20)
        assert (tries, state.status, state.data) == ([1, 2], "completed", {"late": True})

    story(tell())


def test_each_branch_has_its_own_silence():
    """One that beats goes on while the other is cut off."""

    async def tell():
        clock = ManualClock()

        async def beats(state, run):
            for _ in range(6):
                run.heartbeat()
                await clock.sleep(3)
            return {"a": 1}

        async def silent(state, run):
            await asyncio.Event().wait()

        flow = single(Parallel({"a": beats, "b": silent}, tolerate=1), idle_timeout=8)
        state = await driven(flow, clock, 30)
        assert (state.status, state.data) == ("completed", {"a": 1})

    story(tell())


def test_the_timeout_holds_however_lively_the_body_is():
    """Both limits may be given; the first that is met counts."""

    async def tell():
        clock = ManualClock()

        async def body(state, run):
            while True:
                run.heartbeat()
                await clock.sleep(1)

        state = await driven(single(body, timeout=20, idle_timeout=5), clock, 22)
        assert "longer than its timeout of 20 s" in state.error.message

    story(tell())


def test_a_wall_clock_that_is_set_back_makes_nobody_silent():
    """Silence is measured in monotonic time."""

    async def tell():
        clock = ManualClock()

        async def body(state, run):
            await asyncio.Event().wait()

        async with Engine(
            MemoryLog(clock=clock), workflows=[flow := single(body, idle_timeout=10)], clock=clock
        ) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await asyncio.sleep(0.01)
            clock.advance(-100)
            await asyncio.sleep(0.01)
            assert run.status == "running"
            for _ in range(40):
                clock.advance(5)
                await asyncio.sleep(0.002)
            with pytest.raises(RunFailed, match="no sign of life"):
                await run.result()

    story(tell())


@pytest.mark.parametrize("seconds", [0, -1])
def test_an_idle_timeout_needs_a_body_that_can_beat_and_a_time(seconds):
    """A function without a run could never say that it lives."""
    with pytest.raises(DefinitionError, match="heartbeat"):
        single(lambda state: {}, idle_timeout=5)
    with pytest.raises(DefinitionError, match="more than 0"):
        single(lambda state, run: {}, idle_timeout=seconds)
