"""Stopping: a node finishes or is given up, a checkpoint is made, and the run can go on later."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from stories import names, story

from eventflow import Engine, ManualClock, RetryPolicy, Workflow
from eventflow.errors import RunLost, Stopped, StoreFull
from eventflow.event import RunSuspended
from eventflow.log import Append, LmdbLog, MemoryLog, Upkeep
from eventflow.recovery import recover


def two(body, **options) -> Workflow:
    """Node `a` with a body, and `b` behind it."""
    flow = Workflow("w").add_node("a", body, **options).add_node("b", lambda s: {"b": 1})
    return flow.add_edge("a", "b").set_start("a")


def test_a_node_that_ends_in_time_is_finished_and_the_next_one_is_not_begun(tmp_path):
    """The run is let go between the two, with a checkpoint, and goes on in the next engine."""

    async def short(state):
        await asyncio.sleep(0.03)
        return {"a": 1}

    async def tell():
        flow = two(short)
        async with Engine(tmp_path / "s") as engine:
            run = await engine.start(flow, {}, run_id="r")
            await asyncio.sleep(0.005)
            assert await engine.drain(grace=10) == []
            with pytest.raises(Stopped) as caught:
                await run.result()
            assert caught.value.exit_code == 7
            assert (run.status, run.state.node, run.state.data) == ("pending", "b", {"a": 1})
            assert [mark.kinds for mark in engine.checkpoints("r")] == [("shutdown",)]
            assert run.events()[-1].event == RunSuspended("b")
        async with Engine(tmp_path / "s", workflows=[flow], pick_up=True) as engine:
            assert await engine.get("r").result() == {"a": 1, "b": 1}

    story(tell())


@pytest.mark.parametrize("plain", [False, True])
def test_a_node_that_takes_too_long_is_given_up_and_begins_again_later(plain):
    """Its result is dropped; a plain function that goes on in its thread is named."""
    gate, began, lost = threading.Event(), threading.Event(), []

    async def waits(state, run):
        began.set()
        await asyncio.sleep(30)

    def blocks(state, run):
        began.set()
        gate.wait(10)
        try:
            run.effect_sync("late", print)
        except RunLost as error:
            lost.append(str(error))
        return {"late": 1}

    async def tell():
        log = MemoryLog()
        async with Engine(log) as engine:
            run = await engine.start(two(blocks if plain else waits), {}, run_id="r")
            await asyncio.to_thread(began.wait)
            assert await engine.drain(grace=0) == (["r: a"] if plain else [])
            assert (await run.wait()).status == "pending"
            assert names(run) == ["RunStarted", "RunSuspended"]
            gate.set()
            while plain and not lost:
                await asyncio.sleep(0.001)
        async with Engine(log, workflows=[two(lambda s: {"a": 2})]) as engine:
            assert await (await engine.resume("r")).result() == {"a": 2, "b": 1}

    story(tell())
    assert all("engine is stopping" in text for text in lost)


def test_a_run_that_rests_before_its_next_attempt_is_let_go_at_once():
    """Its attempt and its moment are kept."""

    def fails(state):
        raise OSError

    async def tell():
        clock = ManualClock()
        log = MemoryLog()
        flow = two(fails, retry=RetryPolicy(attempts=3, delay=3600, longest=3600))
        async with Engine(log, clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.001)
            await engine.drain(grace=10)
            state = run.state
            assert (state.status, state.attempt, state.retry_at > clock.now()) == ("pending", 2, True)

    story(tell())


def test_what_is_started_while_the_engine_stops_is_accepted_and_let_go():
    """It is durable, and waits for the next engine."""

    async def tell():
        async with Engine() as engine:
            await engine.drain()
            run = await engine.start(two(lambda s: {"a": 1}), {}, run_id="r")
            assert (await run.wait()).status == "pending"
            assert names(run) == ["RunStarted", "RunSuspended"]

    story(tell())


def test_a_hundred_runs_are_let_go_together(tmp_path):
    """Each with its checkpoint; the store verifies, and all of them go on."""

    async def waits(state):
        await asyncio.sleep(30 if state["n"] >= 0 else 0)

    async def tell():
        flow = two(waits)
        async with Engine(tmp_path / "s", grace=0.01) as engine:
            await engine.start_many(flow, {f"r{n}": {"n": n} for n in range(100)})
            await asyncio.sleep(0.01)
        quick = two(lambda s: {"a": s["n"]})
        async with Engine(tmp_path / "s", workflows=[quick], pick_up=True) as engine:
            for n in range(100):
                assert await engine.get(f"r{n}").result() == {"n": n, "a": n, "b": 1}

    story(tell())


class _Fails:
    """A log that refuses snapshots, or appends, from some moment on."""

    def __init__(self, log, kind):
        self._log, self._kind, self.failing = log, kind, False

    def __getattr__(self, name):
        return getattr(self._log, name)

    def write(self, batch):
        if self.failing and any(isinstance(one, self._kind) for one in batch):
            raise StoreFull("no room")
        return self._log.write(batch)


def test_a_stop_without_room_for_a_checkpoint_still_lets_the_run_go(tmp_path):
    """The run is suspended; it is recovered from its events."""

    async def waits(state):
        await asyncio.sleep(30)

    async def tell():
        log = _Fails(LmdbLog(tmp_path / "s"), Upkeep)
        async with Engine(log, grace=0) as engine:
            run = await engine.start(two(waits), {}, run_id="r")
            await asyncio.sleep(0.01)
            log.failing = True
            await engine.drain()
            assert (await run.wait()).status == "pending"
            assert engine.checkpoints("r") == []
        log.close()

    story(tell())


def test_a_stop_without_room_for_anything_ends_all_the_same():
    """The engine closes; the run is found as after a crash."""

    async def waits(state):
        await asyncio.sleep(30)

    async def tell():
        log = _Fails(MemoryLog(), Append)
        async with Engine(log, grace=0) as engine:
            run = await engine.start(two(waits), {}, run_id="r")
            await asyncio.sleep(0.01)
            log.failing = True
        with pytest.raises(StoreFull):
            await run.result()
        log.failing = False
        async with Engine(log, workflows=[two(lambda s: {"a": 1})]) as engine:
            assert await (await engine.resume("r")).result() == {"a": 1, "b": 1}

    story(tell())


def test_a_cancelled_main_task_lets_its_runs_go():
    """Ctrl-C in an async program cancels its main task; leaving the engine's context drains."""
    log = MemoryLog()

    async def main():
        async with Engine(log, grace=0) as engine:
            run = await engine.start(two(lambda s: threading.Event().wait(0.05)), {}, run_id="r")
            await run.result()

    async def tell():
        task = asyncio.create_task(main())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log.head("r").status == "pending"
        assert recover(log, log.head("r")).state.node == "a"

    story(tell())


def test_a_process_ends_although_a_plain_function_sleeps(tmp_path):
    """A function that was given up does not keep the interpreter from ending."""
    code = f"""
        import asyncio, threading, time
        from eventflow import Engine, Workflow

        began = threading.Event()
        flow = Workflow("w").add_node("a", lambda s: began.set() or time.sleep(600)).set_start("a")

        async def main():
            async with Engine({str(tmp_path / "s")!r}, grace=0) as engine:
                await engine.start(flow, {{}}, run_id="r")
                await asyncio.to_thread(began.wait)
                print(await engine.drain())

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "['r: a']\n", "")
    log = LmdbLog(tmp_path / "s")
    assert log.head("r").status == "pending"
    log.close()
