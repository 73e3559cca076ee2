"""The clock that skips, and three hours of a workflow: on it, and under freezegun."""

from __future__ import annotations

import asyncio

import pytest
from freezegun import freeze_time
from stories import story

from eventflow import Engine, ManualClock, RetryPolicy, Sleep, SystemClock, Wait, Workflow
from eventflow.errors import RunFailed
from eventflow.testing import SkippingClock

HOUR = 3_600
NS = 1_000_000_000


def three_hours() -> Workflow:
    """A node that fails twice an hour apart, half an hour's sleep, a signal, and another that never comes."""

    def fails(state, run):
        if run.attempt < 3:
            raise OSError("not yet")
        return {"attempts": run.attempt}

    retry = RetryPolicy(attempts=3, delay=HOUR, factor=1, longest=HOUR, jitter=0)
    return (
        Workflow("three-hours")
        .add_node("fails", fails, retry=retry)
        .add_node("sleep", Sleep(HOUR / 2))
        .add_node("go", Wait(signal="go", writes="said"))
        .add_node("more", Wait(signal="more", writes="more", timeout=HOUR / 2, default="nothing"))
        .add_edge("fails", "sleep")
        .add_edge("sleep", "go")
        .add_edge("go", "more")
        .set_start("fails")
    )


WHOLE = {"attempts": 3, "said": "now", "more": "nothing"}


async def told(engine, run) -> dict:
    """Send the signal once it is waited for; the run's end."""
    while run.state.waiting_for != "signal":
        await asyncio.sleep(0.001)
    await engine.signal(run.id, "go", "now")
    return await run.result()


def test_three_hours_of_timers_signals_and_attempts_pass_by_themselves():
    """On the clock that skips, a test only sends what its workflow waits for."""

    async def tell():
        clock = SkippingClock()
        async with Engine(workflows=[flow := three_hours()], clock=clock) as engine:
            run = await engine.start(flow, {})
            assert await told(engine, run) == WHOLE
            assert run.events()[-1].time - run.events()[0].time == 3 * HOUR * NS
        assert clock.elapsed == 3 * HOUR

    story(tell())


def test_three_hours_pass_under_freezegun():
    """With the machine's clock frozen, the test moves the time, and the workflow follows."""

    async def tell():
        with freeze_time("2026-01-01", real_asyncio=True) as frozen:
            clock = SystemClock(frozen=True)
            began = clock.now()
            async with Engine(workflows=[flow := three_hours()], clock=clock) as engine:
                run = await engine.start(flow, {})
                ends = asyncio.ensure_future(told(engine, run))
                while not ends.done():
                    await asyncio.sleep(0.002)
                    if run.state.waiting_for != "signal" or run.state.wait["until"]:
                        frozen.tick(HOUR / 4)
                assert ends.result() == WHOLE
            assert clock.now() - began >= 3 * HOUR * NS

    story(tell())


def test_it_jumps_to_the_nearest_moment_and_no_further():
    """Who waits longer wakes later."""

    async def tell():
        clock = SkippingClock()
        start, woken = clock.now(), []

        async def wait(seconds):
            await clock.wait_until(start + seconds * NS)
            woken.append((seconds, clock.elapsed))

        await asyncio.gather(*map(wait, [50, 5, 500]))
        assert woken == [(5, 5.0), (50, 50.0), (500, 500.0)]
        await clock.wait_until(start)
        assert clock.next_wake() is None

    story(tell())


def test_it_waits_while_somebody_asks_the_time():
    """What goes on and uses the clock keeps it from jumping."""

    async def tell():
        clock = SkippingClock(patience=0.02)
        rest = asyncio.ensure_future(clock.wait_until(clock.now() + NS))
        for _ in range(30):
            await asyncio.sleep(0.002)
            clock.now()
            assert not rest.done()
        await rest

    story(tell())


def test_it_stands_still_while_it_is_held():
    """Something is about to come that it can't know of."""

    async def tell():
        clock = SkippingClock(patience=0.001)
        rest = asyncio.ensure_future(clock.wait_until(clock.now() + NS))
        with clock.held():
            await asyncio.sleep(0.02)
            assert not rest.done()
        await rest
        assert clock.elapsed == 1

    story(tell())


def test_a_body_that_works_is_not_timed_out_by_a_jump():
    """The end of a node's timeout comes after another patience, so real work has the time it takes."""

    async def works(state):
        await asyncio.sleep(0.05)
        return {"done": True}

    flow = Workflow("works").add_node("works", works, timeout=10).set_start("works")
    assert flow.run_sync({}, clock=SkippingClock(timeout_patience=5)) == {"done": True}


def test_a_body_that_hangs_is_timed_out():
    """Nobody waits ten real seconds for it."""

    async def hangs(state):
        await asyncio.Event().wait()

    flow = Workflow("hangs").add_node("hangs", hangs, timeout=10).set_start("hangs")
    with pytest.raises(RunFailed, match="took longer than its timeout of 10 s"):
        flow.run_sync({}, clock=SkippingClock(timeout_patience=0.01))


def test_it_is_a_clock_like_the_manual_one():
    """Time, ids and moving by hand are the manual clock's."""
    clock, manual = SkippingClock(seed=3, start=7), ManualClock(7, seed=3)
    assert (clock.now(), clock.monotonic(), clock.uuid7()) == (manual.now(), manual.monotonic(), manual.uuid7())
    clock.advance(2)
    assert (clock.now(), clock.monotonic(), clock.elapsed) == (7 + 2 * NS, 2.0, 2.0)


def test_who_is_cancelled_waits_no_longer():
    """A wait that is given up leaves no moment behind that the clock would jump to."""

    async def tell():
        clock = SkippingClock()
        rest = asyncio.ensure_future(clock.wait_until(clock.now() + NS))
        await asyncio.sleep(0)
        rest.cancel()
        await asyncio.wait({rest})
        assert clock.next_wake() is None
        assert clock.elapsed == 0

    story(tell())
