"""Standing still: bodies that return to wait, and calls whose outcome somebody has to say."""

from __future__ import annotations

import asyncio

import pytest
from stories import single, story

from eventflow import Engine, Human, ManualClock, Parallel, Wait, Workflow
from eventflow.errors import RunCancelledError, RunFailed
from eventflow.event import EffectFinished, WaitOpened
from eventflow.log import MemoryLog
from eventflow.verification import verify_run
from eventflow.workflow import Standing


@pytest.fixture(autouse=True, params=[0.02, 60], ids=["parked", "in memory"])
def park(request, monkeypatch):
    """All of this holds whether the run stays in memory or leaves it."""
    monkeypatch.setattr("eventflow.engine.drive.PARK_AFTER", request.param)


async def standing(run, times=1):
    """Return once a run waits for that many times; it has had the time to park by then."""
    while run.status != "waiting" or sum(isinstance(one.event, WaitOpened) for one in run.events()) < times:
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.06)


class Asker:
    """A body that asks, twice, and then says what it was told."""

    kind = "asker"

    def __init__(self, calls=None, pause=None) -> None:
        self.calls = [] if calls is None else calls
        self.pause = pause

    async def __call__(self, state, run):
        self.calls.append(run.attempt)
        for key in ("1", "2"):
            if not run.recorded("ask", key=key)[0]:
                return Standing(self.pause or Human(prompt=f"question {key}?", writes="x"), "ask", key)
        return {"told": [run.recorded("ask", key=key)[1] for key in ("1", "2")]}

    def fields(self):
        return (), ("told",)


def test_a_body_that_returns_to_wait_is_called_again_with_what_came():
    """The answer is the recorded result of a call; the node is the same all along."""

    async def tell():
        calls = []
        flow = single(Asker(calls))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await standing(run)
            assert run.state.wait["spec"]["prompt"] == "question 1?"
            await engine.answer("r", "yes")
            await standing(run, 2)
            assert run.state.wait["spec"]["prompt"] == "question 2?"
            await engine.answer("r", None)
            assert await run.result() == {"told": ["yes", None]}
            finished = [one.event.output for one in run.events() if isinstance(one.event, EffectFinished)]
            assert finished == ["yes", None]
            assert len(calls) >= 3
            assert verify_run(engine.log, engine.log.head("r")).sound

    story(tell())


def test_a_body_that_waits_is_taken_up_by_another_engine():
    """What it was told before is not asked again."""

    async def tell():
        log, flow = MemoryLog(), single(Asker(), after_crash="ask")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await standing(run)
            await engine.answer("r", 1)
            await standing(run, 2)
        async with Engine(log, workflows=[flow], pick_up=True) as engine:
            await engine.answer("r", 2)
            assert await engine.get("r").result() == {"told": [1, 2]}

    story(tell())


def test_a_body_that_waits_in_a_branch_gets_its_own_answers():
    """Two branches ask at once; each answer says which it is for."""

    async def tell():
        flow = Workflow("w").add_node("split", Parallel({"a": Asker(), "b": Wait(signal="go", writes="said")}))
        flow.set_start("split")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await standing(run, 2)
            await engine.answer("r", 1)
            await standing(run, 3)
            await engine.signal("r", "go", "now")
            await asyncio.sleep(0.06)
            await engine.answer("r", 2)
            assert await run.result() == {"told": [1, 2], "said": "now"}

    story(tell())


def test_a_body_whose_wait_is_over_in_vain_fails():
    """A limit without a default is the end of the node; with one, what the wait makes of that is what came."""

    async def tell():
        clock = ManualClock()
        hour = {"timeout": 3600}
        given = single(Asker(pause=Wait(signal="go", writes="x", default=0, **hour)))
        vain = single(Asker(pause=Wait(signal="go", **hour)))
        vain.name = "vain"
        async with Engine(MemoryLog(clock=clock), workflows=[given, vain], clock=clock) as engine:
            run = await engine.start(given, {}, run_id="given")
            other = await engine.start(vain, {}, run_id="vain")
            await standing(run)
            clock.advance(3600)
            await standing(run, 2)
            clock.advance(3600)
            assert await run.result() == {"told": [{"x": 0}, {"x": 0}]}
            with pytest.raises(RunFailed, match="in vain"):
                await other.result()

    story(tell())


@pytest.mark.parametrize("undo", [False, True])
def test_a_body_that_waits_can_be_cancelled(undo):
    """It is not called again; what the run did before is taken back."""

    async def tell():
        back = []

        async def buy(state, run):
            await run.effect("buy", lambda: 1)

        flow = Workflow("w").add_node("buy", buy).add_node("ask", Asker()).add_edge("buy", "ask").set_start("buy")
        if undo:
            flow.add_compensation("buy", back.append)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await standing(run)
            await engine.cancel("r", why="enough")
            with pytest.raises(RunCancelledError, match="enough"):
                await run.result()
            assert back == ([1] if undo else [])

    story(tell())


def test_a_body_that_waits_for_nothing_any_more_goes_on():
    """Its code has changed: the wait is closed and its result counts."""

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow := single(Asker())]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await standing(run)

        class Sure(Asker):
            async def __call__(self, state, run):
                return {"told": "nothing"}

        async with Engine(log, workflows=[single(Sure())], pick_up=True) as engine:
            run = engine.get("r")
            assert await run.result() == {"told": "nothing"}
            assert verify_run(log, log.head("r")).sound

    story(tell())


def unknown(log_of_calls):
    """A call that is cut off by the end of its engine, so that nobody knows what became of it."""

    async def call():
        log_of_calls.append("called")
        await asyncio.Event().wait()

    async def body(state, run):
        return {"paid": await run.effect("pay", call)}

    return single(body)


@pytest.mark.parametrize("happened", [True, False])
def test_a_word_on_an_unknown_call_lets_the_run_go_on(happened):
    """The run waits, for days if need be; what is said is recorded, and the node begins again."""

    async def tell():
        log, calls = MemoryLog(), []
        async with Engine(log, workflows=[flow := unknown(calls)], grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
            while not calls:
                await asyncio.sleep(0.002)
        async with Engine(log, workflows=[flow], grace=0, pick_up=True) as engine:
            run = engine.get("r")
            await standing(run)
            assert (run.state.waiting_for, run.state.wait["name"]) == ("unknown", "pay")
            await engine.settle("r", "pay", output=7, happened=happened, why="looked")
            if happened:
                assert await run.result() == {"paid": 7}
            else:
                while len(calls) < 2:
                    await asyncio.sleep(0.002)
            assert len(calls) == (1 if happened else 2)

    story(tell())


def test_a_run_with_an_unknown_call_can_be_cancelled_and_stopped():
    """A stop leaves it waiting under the same wait; a cancel ends it."""

    async def tell():
        log, calls = MemoryLog(), []
        async with Engine(log, workflows=[flow := unknown(calls)], grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
            while not calls:
                await asyncio.sleep(0.002)
        for _ in range(2):
            async with Engine(log, workflows=[flow], grace=0, pick_up=True) as engine:
                await standing(run := engine.get("r"))
                wait = run.state.wait["id"]
            assert log.head("r").waiting_for == "unknown"
        async with Engine(log, workflows=[flow], pick_up=True) as engine:
            assert engine.get("r").state.wait["id"] == wait
            await engine.cancel("r")
            with pytest.raises(RunCancelledError):
                await engine.get("r").result()

    story(tell())
