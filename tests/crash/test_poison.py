"""A run whose node takes every process down with it does not take the whole fleet down."""

from __future__ import annotations

import asyncio
import os
import signal

from eventflow import Engine, Workflow
from eventflow.engine.orphans import crashes_of
from eventflow.event import RunParked
from eventflow.log import LmdbLog
from eventflow.recovery import history, recover
from eventflow.verification import verify_run


def deadly(mark) -> Workflow:
    """A workflow whose second node kills its process, as long as the mark is there."""

    def kill(_):
        if mark.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"lived": True}

    flow = Workflow("deadly").add_node("calm", lambda _: {}).add_node("deadly", kill)
    return flow.add_edge("calm", "deadly").set_start("calm")


def life(store, flow, **options):
    """One process: it starts the run or picks it up, and drives it until it is over."""

    def work():
        async def story():
            async with Engine(store, workflows=[flow], **options) as engine:
                if engine.log.head("r") is None:
                    await engine.start(flow, {}, run_id="r")
                else:
                    await engine.pick_up()
                await engine.get("r").wait()

        asyncio.run(story())

    return work


def test_a_run_that_kills_its_processes_is_parked_and_a_person_can_take_it_up(tmp_path, fork):
    """After three ends in one node nobody picks it up any more; once the cause is gone, resume goes on."""
    mark, store = tmp_path / "mark", tmp_path / "s"
    mark.touch()
    flow = deadly(mark)
    for expected in ("running", "running", "running", "parked", "parked"):
        process = fork(life(store, flow, crashes=3))
        if expected == "parked":
            assert process.end() == ""
            assert process.status == 0
        else:
            process.end()
            assert os.WTERMSIG(process.status) == signal.SIGKILL
        log = LmdbLog(store, readonly=True)
        assert log.head("r").status == expected
        log.close()

    mark.unlink()

    async def by_hand():
        async with Engine(store, workflows=[flow], crashes=3) as engine:
            run = await engine.resume("r", why="mended")
            return await run.result()

    assert asyncio.run(by_hand()) == {"lived": True}
    log = LmdbLog(store, readonly=True)
    head = log.head("r")
    parked = [one.event for one in history(log, head.run_key, 1, head.version) if isinstance(one.event, RunParked)]
    assert [(one.node, one.crashes) for one in parked] == [("deadly", 3)]
    assert recover(log, head).state.status == "completed"
    assert verify_run(log, head).sound
    log.close()


def test_ends_are_counted_within_one_visit(tmp_path, fork):
    """A node that was entered anew, or a stop on purpose, begins the count again."""
    mark, store = tmp_path / "mark", tmp_path / "s"
    mark.touch()
    flow = deadly(mark)
    for _ in range(3):
        fork(life(store, flow)).end()
    log = LmdbLog(store, readonly=True)
    assert crashes_of(log, log.head("r")) == 2  # the third was not taken up from
    log.close()


def test_without_a_limit_a_run_is_tried_for_ever(tmp_path, fork):
    """`crashes=None` parks nothing."""
    mark, store = tmp_path / "mark", tmp_path / "s"
    mark.touch()
    for _ in range(7):
        process = fork(life(store, deadly(mark), crashes=None))
        process.end()
        assert os.WTERMSIG(process.status) == signal.SIGKILL
