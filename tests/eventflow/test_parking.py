"""Parking: a run that stands still for long leaves memory, and nobody who deals with it can tell."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from stories import story, until

from eventflow import Engine, Human, ManualClock, Map, Parallel, RetryPolicy, Sleep, Wait, Workflow
from eventflow.errors import RunCancelledError, RunOwned, Stopped, StoreClosed
from eventflow.log import LmdbLog, MemoryLog, Post
from eventflow.run import SIGNAL, message
from eventflow.state import State

HOUR = 3600


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Runs park after a moment, not after half a second."""
    monkeypatch.setattr("eventflow.engine.drive.PARK_AFTER", 0.02)


def files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def driving() -> list[asyncio.Task]:
    """The tasks that drive runs: a parked one has none."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("run ")]


async def parked(run):
    """Return once a run waits and nothing drives any run here."""
    await until(lambda: run.status == "waiting" and not driving())
    await asyncio.sleep(0.01)


def asking(wait=None, **after) -> Workflow:
    """Wait, then say what came."""
    return (
        Workflow("asking")
        .add_node("wait", wait or Wait(signal="go", writes="said"))
        .add_node("after", lambda state: {"over": True})
        .add_edge("wait", "after")
        .set_start("wait")
    )


DONE = {"said": 1, "over": True}


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_parked_run_goes_on_with_the_signal_it_waits_for(where, tmp_path):
    """The result may be asked for before it parks, while it is parked and after it woke."""

    async def tell():
        flow = asking()
        async with Engine("memory" if where == "memory" else tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            before = asyncio.ensure_future(run.result())
            await parked(run)
            meanwhile = asyncio.ensure_future(engine.get("r").result())
            assert isinstance(engine.get("r").state, State)
            assert engine.get("r").state.wait["name"] == "go"
            assert run.data == {}
            await engine.signal("r", "go", 1)
            assert await before == await meanwhile == await run.result() == await engine.get("r").result() == DONE

    story(tell())


def test_a_parked_run_hears_what_it_does_not_wait_for_and_parks_again():
    """A signal of another name is kept; the run stands still as before."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await parked(run)
            for number in range(3):
                await engine.signal("r", "other", number)
                await parked(run)
            assert [one["payload"] for one in run.state.signals] == [0, 1, 2]
            await engine.signal("r", "go", 1)
            assert await run.result() == DONE

    story(tell())


def test_a_parked_run_can_be_answered_asked_checkpointed_forked_paused_and_resumed():
    """Whatever may be done to a waiting run may be done to a parked one."""

    async def tell():
        flow = asking(Human(prompt="?", writes="said"))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await parked(run)
            assert (await engine.checkpoint("r", label="here")).version == 2
            child = await engine.fork("r", run_id="f")
            await parked(child)
            await engine.answer("f", 1)
            assert await child.result() == DONE
            await engine.pause("r", why="later")
            assert (await run.wait()).status == "paused"
            run = await engine.resume("r")
            await parked(run)
            assert await engine.resume("r") is not None
            await engine.answer("r", 1)
            assert await run.result() == DONE

    story(tell())


def test_a_parked_run_can_be_cancelled_and_then_deleted():
    """As long as it is parked it belongs to this engine."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            awaited = asyncio.ensure_future(run.result())
            await parked(run)
            with pytest.raises(RunOwned):
                await engine.delete("r")
            await engine.cancel("r", why="enough")
            with pytest.raises(RunCancelledError, match="enough"):
                await awaited
            await engine.delete("r")

    story(tell())


def test_a_parked_run_can_go_back():
    """Its wait is opened anew, under a new id."""

    async def tell():
        flow = asking()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await parked(run)
            run = await engine.resume("r", at=1)
            await parked(run)
            assert run.state.wait["id"] == 4
            await engine.signal("r", "go", 1)
            assert await run.result() == DONE

    story(tell())


def test_a_parked_run_wakes_when_its_time_is_over():
    """By the clock, whether it moves a little or jumps; set back, the moment stays the same."""

    async def tell():
        clock, flow = ManualClock(), asking(Wait(signal="go", writes="said", timeout=HOUR, default=1))
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await parked(run)
            clock.advance(HOUR - 1)
            await asyncio.sleep(0.02)
            clock.advance(-10 * HOUR)
            await asyncio.sleep(0.02)
            assert run.status == "waiting"
            clock.advance(100 * HOUR)
            assert await run.result() == DONE

    story(tell())


def test_runs_that_are_due_at_one_moment_all_wake():
    """Many at once, in the order of their moments, though each was woken and parked again before."""

    async def tell():
        clock, flow = ManualClock(), asking(Wait(signal="go", writes="said", timeout=HOUR, default=1))
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            runs = await engine.start_many(flow, [{} for _ in range(200)])
            await until(lambda: all(run.status == "waiting" for run in runs) and not driving())
            for run in runs:
                await engine.signal(run.id, "other")
            await until(lambda: not driving())
            assert len(engine._desk._due) == 200
            clock.advance(HOUR)
            assert [await run.result() for run in runs] == [DONE] * 200

    story(tell())


def test_moments_of_runs_that_are_gone_are_forgotten():
    """A far deadline of a run that has ended long ago takes no place for ever."""

    async def tell():
        clock, flow = ManualClock(), asking(Wait(signal="go", writes="said", timeout=9_000 * HOUR))
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            for _ in range(8):
                runs = await engine.start_many(flow, [{} for _ in range(200)])
                await until(lambda runs=runs: all(run.status == "waiting" for run in runs) and not driving())
                for run in runs:
                    await engine.signal(run.id, "go", 1)
                for run in runs:
                    await run.result()
            assert len(engine._desk._due) <= 1_400

    story(tell())


def test_a_branch_that_rests_between_attempts_is_tried_again_at_its_time():
    """All others stand still; the next attempt comes at its time."""

    async def tell():
        clock, tries = ManualClock(), []

        def flaky(state):
            tries.append(clock.now())
            if len(tries) < 2:
                raise ConnectionError("down")
            return {"over": True}

        flow = (
            Workflow("w")
            .add_node(
                "split", Parallel({"a": flaky, "b": Wait(signal="go", writes="said")}),
                retry=RetryPolicy(attempts=2, delay=HOUR, jitter=0),
            )
            .set_start("split")
        )  # fmt: skip
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: len(tries) == 1)
            await asyncio.sleep(0.05)
            clock.advance(HOUR)
            await until(lambda: len(tries) == 2)
            await engine.signal("r", "go", 1)
            assert await run.result() == DONE

    story(tell())


def test_a_run_whose_branches_all_wait_parks_and_wakes_for_each():
    """What each branch waits for comes on its own; the run is in memory only to take it."""

    async def tell():
        flow = (
            Workflow("w")
            .add_node("split", Map(Wait(signal="go", writes="got"), over="names", writes="all"))
            .set_start("split")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"names": ["a", "b", "c"]}, run_id="r")
            for number in range(3):
                await parked(run)
                await engine.signal("r", "go", number)
            result = await run.result()
            assert sorted(result["all"]) == [0, 1, 2]

    story(tell())


@pytest.mark.parametrize(("restore", "over"), [("deadline", True), ("remaining", False), ("restart", False)])
def test_a_limit_means_after_a_stop_what_it_says_for_parked_runs_too(restore, over):
    """The stop is recorded where the limit depends on when that was."""

    async def tell():
        clock = ManualClock()
        log = MemoryLog(clock=clock)
        flow = asking(Wait(signal="go", writes="said", timeout=HOUR, default=1, restore=restore))
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await parked(run)
            clock.advance(HOUR / 2)
        assert log.owner_gone(log.head("r").owner)
        clock.advance(HOUR)
        async with Engine(log, workflows=[flow], clock=clock, pick_up=True) as engine:
            run = engine.get("r")
            await asyncio.sleep(0.05)
            assert (run.status == "completed") is over
            if not over:
                clock.advance(HOUR / 2 - 1)
                await asyncio.sleep(0.05)
                assert run.status == "waiting"
                clock.advance(1 if restore == "remaining" else HOUR / 2 + 1)
            assert await run.result() == DONE

    story(tell())


def test_an_engine_that_closes_tells_those_who_wait_for_parked_runs():
    """They hear that the run was let go; it is for whoever picks it up."""

    async def tell():
        log, flow = MemoryLog(), asking()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            other = await engine.start(flow, {}, run_id="s")
            awaited = asyncio.ensure_future(run.result())
            await parked(run)
            await engine.drain()
            with pytest.raises(Stopped):
                await awaited
            assert (await other.wait()).status == "waiting"
        async with Engine(log, workflows=[flow], pick_up=True) as engine:
            await engine.signal("r", "go", 1)
            assert await engine.get("r").result() == DONE

    story(tell())


def test_a_run_that_is_about_to_park_when_the_engine_closes_is_let_go():
    """Whatever moment it is: nothing is driven on, and the run can be picked up."""

    async def tell():
        flow = asking(Wait(signal="go", writes="said", timeout=HOUR, restore="restart"))
        for wait in range(12):
            log = MemoryLog()
            async with Engine(log, workflows=[flow]) as engine:
                run = await engine.start(flow, {}, run_id="r")
                await until(lambda run=run: run.status == "waiting")
                await asyncio.sleep(0.012 + wait * 0.0015)
            assert not driving()
            assert log.owner_gone(log.head("r").owner)
            assert log.head("r").status == "pending"
            with pytest.raises((Stopped, StoreClosed)):
                await run.result()

    story(tell())


def test_a_parked_run_is_taken_up_by_another_engine_when_its_process_dies(tmp_path, child):
    """Nothing of it was in memory only."""

    def work(say):
        async def tell():
            async with Engine(tmp_path / "s", workflows=[flow := asking()]) as engine:
                run = await engine.start(flow, {}, run_id="r")
                await parked(run)
                say("parked")
                await asyncio.Event().wait()

        asyncio.run(tell())

    other = child(work)
    assert other.line() == "parked"
    other.kill()
    other.end()

    async def tell():
        async with Engine(tmp_path / "s", workflows=[flow := asking()], pick_up=True) as engine:
            assert flow
            await engine.signal("r", "go", 1)
            assert await engine.get("r").result() == DONE

    story(tell())


def test_a_message_of_another_process_wakes_a_parked_run(tmp_path, child):
    """It is found by the look at the store's last transaction."""

    def work():
        log = LmdbLog(tmp_path / "s")
        log.write([Post(log.head("r").run_key, message(SIGNAL, name="go", payload=1))])
        log.close()

    async def tell():
        async with Engine(tmp_path / "s", workflows=[flow := asking()]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await parked(run)
            child(work).end()
            assert await run.result() == DONE

    story(tell())


def test_waiting_runs_keep_neither_tasks_nor_files(tmp_path):
    """A hundred of them are a few tasks and no descriptor more than one."""

    async def tell():
        flow = asking()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            await parked(await engine.start(flow, {}))
            tasks, before = len(asyncio.all_tasks()), files()
            runs = await engine.start_many(flow, [{} for _ in range(100)])
            await until(lambda: all(run.status == "waiting" for run in runs) and not driving())
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            assert files() == before

    story(tell())


def test_a_parked_sleep_and_a_working_run_do_not_wait_for_each_other():
    """A run steps on while others are parked, and they wake in between."""

    async def tell():
        clock = ManualClock()
        count = Workflow("count").add_node("n", lambda state: {"n": state["n"] + 1}).add_node("end", lambda state: {})
        count.add_edge("n", "n", when=lambda state: state["n"] < 50).add_edge("n", "end").set_start("n")
        sleeping = asking(Sleep(HOUR))
        async with Engine(MemoryLog(clock=clock), workflows=[count, sleeping], clock=clock) as engine:
            asleep = await engine.start(sleeping, {})
            await parked(asleep)
            working = await engine.start(count, {"n": 0})
            clock.advance(HOUR)
            assert (await working.result())["n"] == 50
            assert await asleep.result() == {"over": True}

    story(tell())
