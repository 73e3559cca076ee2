"""Children that do not end well, callers that do not wait for them any more, and going back to where one was."""

from __future__ import annotations

import asyncio

import pytest
from child_flows import calling, single, there
from stories import reached, sound, story

from eventflow import Child, Engine, Human, ManualClock, Parallel, RunFailed, Sleep, Wait, Workflow
from eventflow.errors import (
    ChildFailed,
    RunCancelledError,
    RunExists,
    RunTimedOutError,
    Stopped,
)
from eventflow.event import RunStarted, WaitClosed
from eventflow.log import LmdbLog, MemoryLog
from eventflow.state import open_waits

# --- failing -------------------------------------------------------------------------------------------------------


class Switch:
    """A node that fails until it is mended."""

    def __init__(self):
        self.broken, self.calls = True, 0

    def __call__(self, state):
        self.calls += 1
        if self.broken:
            raise ValueError("not yet")
        return {"done": True}


def test_a_child_that_fails_fails_its_caller_and_is_resumed_with_it():
    """The caller's error names the child; once the cause is mended, resuming the caller is enough."""

    async def tell():
        switch = Switch()
        flow = calling(Child(single(switch), writes={"done": "done"}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed) as caught:
                await run.result()
            assert caught.value.error.type == ChildFailed.__name__
            assert "r.call-1 failed: ValueError: not yet" in caught.value.error.message
            switch.broken = False
            run = await engine.resume("r")
            assert await run.result() == {"done": True, "ended": True}
            assert engine.get("r.call-1").status == "completed"
            assert switch.calls == 2
            sound(engine.log)

    story(tell())


@pytest.mark.parametrize(("ending", "trigger"), [("failed", "failed"), ("cancelled", "cancelled")])
def test_a_child_that_does_not_end_well_takes_the_edge_for_it(ending, trigger):
    """`failed` or `cancelled`; the node there finds why."""

    async def tell():
        def body(state):
            raise ValueError("no")

        child = single(body if ending == "failed" else Wait(signal="never"))

        async def mend(state, run):
            return {"why": run.error.message}

        flow = calling(Child(child)).add_node("mend", mend).add_edge("call", "mend", on=trigger)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            mine = await there(engine, "r.call-1")
            if ending == "cancelled":
                await reached(mine, "waiting")
                await engine.cancel("r.call-1", why="not needed")
            assert f"child run r.call-1 {ending}" in (await run.result())["why"]
            sound(engine.log)

    story(tell())


def test_a_child_that_failed_while_its_caller_was_away_has_failed_once(tmp_path):
    """The caller that is picked up finds the failure; it does not begin the child again behind its own back."""

    async def tell():
        switch = Switch()
        child = Workflow("child").add_node("wait", Wait(signal="go")).add_node("only", switch)
        child.add_edge("wait", "only").set_start("wait")
        flow = (
            calling(Child(child)).add_node("mend", lambda state: {"mended": True}).add_edge("call", "mend", on="failed")
        )
        log = LmdbLog(tmp_path / "s")
        async with Engine(log, workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
        async with Engine(log, workflows=[child]) as alone:
            mine = await alone.resume("r.call-1")
            await alone.signal("r.call-1", "go")
            await reached(mine, "failed")
        switch.broken = False
        async with Engine(log, workflows=[flow], pick_up=True) as engine:
            assert await engine.get("r").result() == {"mended": True}
            await asyncio.sleep(0.05)
            assert engine.get("r.call-1").status == "failed"
            assert switch.calls == 1
        log.close()

    story(tell())


def test_a_failed_branch_has_the_others_children_stand_still_until_the_caller_goes_on():
    """They are paused by their caller, not ended; what they did is kept, and resuming the caller is enough."""

    async def tell():
        switch, steps = Switch(), []
        child = (
            Workflow("child")
            .add_node("first", lambda state: steps.append("first"))
            .add_node("wait", Wait(signal="go", writes="got"))
            .add_edge("first", "wait")
            .set_start("first")
        )

        async def breaks(state):
            while not steps:
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.02)
            return switch(state)

        flow = calling(Parallel({"long": Child(child, writes={"got": "got"}), "breaks": breaks}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed, match="breaks"):
                await run.result()
            mine = await there(engine, "r.call-1.long", "paused")
            switch.broken = False
            run = await engine.resume("r")
            await reached(mine, "waiting")
            await engine.signal("r.call-1.long", "go", 9)
            assert await run.result() == {"got": 9, "done": True, "ended": True}
            assert steps == ["first"]
            sound(engine.log)

    story(tell())


def test_a_child_that_somebody_paused_is_not_resumed_by_its_caller():
    """The caller goes on waiting; who paused the child resumes it."""

    async def tell():
        child = Workflow("child").add_node("a", Wait(signal="go")).add_node("b", Wait(signal="on", writes="got"))
        flow = calling(Child(child.add_edge("a", "b").set_start("a"), writes={"got": "got"}))
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
            await engine.pause("r.call-1", why="a look")
            await there(engine, "r.call-1", "paused")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            await reached(run, "waiting")
            await asyncio.sleep(0.05)
            assert engine.get("r.call-1").status == "paused"
            await engine.resume("r.call-1")
            await engine.signal("r.call-1", "go")
            await engine.signal("r.call-1", "on", 2)
            assert (await run.result())["got"] == 2

    story(tell())


# --- calling off ---------------------------------------------------------------------------------------------------


def nested(leaf):
    """A caller, its children in two branches, and theirs."""
    inner = single(leaf, "inner")
    middle = calling(Child(inner), "middle")
    return calling(Parallel({"a": Child(middle), "b": Child(middle)}))


def test_a_cancel_reaches_children_and_grandchildren():
    """All of them end as cancelled, by their caller."""

    async def tell():
        flow = nested(Wait(signal="never"))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            names = [f"r.call-1.{branch}{more}" for branch in "ab" for more in ("", ".call-1")]
            for name in names:
                await there(engine, name, "waiting")
            await engine.cancel("r", why="enough")
            with pytest.raises(RunCancelledError):
                await run.result()
            for name in names:
                await there(engine, name, "cancelled")
            assert engine.get("r.call-1.a.call-1").events()[-1].event.actor == "r.call-1.a"
            sound(engine.log)

    story(tell())


def test_a_cancel_reaches_children_that_nobody_drives(tmp_path):
    """A paused child hears of it too, and so does the child of a run that had failed."""

    async def tell():
        child = Workflow("child").add_node("a", Wait(signal="go")).add_node("b", Wait(signal="go"))
        flow = calling(Child(child.add_edge("a", "b").set_start("a")))
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
            await engine.pause("r.call-1")
            await there(engine, "r.call-1", "paused")
            await engine.cancel("r")
            await there(engine, "r.call-1", "cancelled")
            await engine.start(flow, {}, run_id="q")
            await there(engine, "q.call-1", "waiting")
            await engine.pause("q.call-1")
            await there(engine, "q.call-1", "paused")
        async with Engine(tmp_path / "s") as other:
            await other.cancel("q")
            await there(other, "q.call-1", "cancelled")

    story(tell())


def test_enough_branches_call_off_the_children_of_the_others():
    """What is not waited for any more does not go on behind the caller's back."""

    async def tell():
        flow = calling(
            Parallel({"quick": lambda state: {"quick": True}, "slow": Child(single(Wait(signal="never")))}, at_least=1)
        )
        async with Engine(workflows=[flow]) as engine:
            gate = asyncio.Event()

            async def quick(state):
                await gate.wait()
                return {"quick": True}

            flow = calling(Parallel({"quick": quick, "slow": Child(single(Wait(signal="never")))}, at_least=1), "gated")
            run = await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1.slow", "waiting")
            gate.set()
            assert await run.result() == {"quick": True, "ended": True}
            await there(engine, "r.call-1.slow", "cancelled")

    story(tell())


def test_an_error_edge_calls_off_the_children_of_the_other_branches():
    """The caller goes on elsewhere; they do not."""

    async def tell():
        gate = asyncio.Event()

        async def breaks(state):
            await gate.wait()
            raise ValueError("no")

        split = Parallel({"breaks": breaks, "slow": Child(single(Wait(signal="never")))})
        flow = calling(split).add_node("mend", Sleep(0.01)).add_edge("call", "mend", on="failed")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1.slow", "waiting")
            gate.set()
            await run.result()
            await there(engine, "r.call-1.slow", "cancelled")

    story(tell())


def test_a_deadline_is_passed_on():
    """Caller and child end at the same moment, neither later."""
    clock = ManualClock()

    async def tell():
        flow = calling(Child(single(Wait(signal="never"))))
        async with Engine(clock=clock, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=3_600)
            mine = await there(engine, "r.call-1", "waiting")
            assert mine.state.run.deadline == run.state.run.deadline
            clock.advance(3_601)
            with pytest.raises(RunTimedOutError):
                await run.result()
            await reached(mine, "timed_out", "cancelled")

    story(tell())


# --- going back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["", "a"])
def test_a_rewind_into_the_wait_for_a_child_does_not_begin_the_child_again(branch):
    """One that has ended says so once more; one that was called off goes on where it was."""

    async def tell():
        steps = []
        child = (
            Workflow("child")
            .add_node("first", lambda state: steps.append("first"))
            .add_node("wait", Wait(signal="go", writes="got"))
            .add_edge("first", "wait")
            .set_start("first")
        )
        node = Child(child, writes={"got": "got"})
        flow, name = calling(Parallel({branch: node}) if branch else node), f"r.call-1{'.' * bool(branch)}{branch}"
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await there(engine, name, "waiting")
            await reached(run, "waiting")
            at = run.state.version
            await engine.cancel("r")
            await there(engine, name, "cancelled")
            run = await engine.resume("r", at=at)
            await there(engine, name, "waiting")
            assert engine.get("r").state.waiting_for == "child"
            await engine.signal(name, "go", 4)
            assert (await run.result())["got"] == 4
            run = await engine.resume("r", at=at)
            assert (await run.result())["got"] == 4
            assert steps == ["first"]
            sound(engine.log)

    story(tell())


def test_a_rewind_to_before_a_child_starts_another_and_calls_the_first_off():
    """The old line's child does not answer on the new one."""

    async def tell():
        flow = calling(Child(single(Wait(signal="go", writes="got")), writes={"got": "got"}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
            run = await engine.resume("r", at=1)
            await there(engine, "r.call-1", "cancelled")
            await reached(run, "waiting")
            ((_, wait),) = open_waits(run.state)
            assert wait["name"] != "r.call-1"
            await there(engine, wait["name"], "waiting")
            await engine.signal(wait["name"], "go", 8)
            assert (await run.result())["got"] == 8

    story(tell())


def test_a_fork_has_children_of_its_own():
    """The parent's child is the parent's."""

    async def tell():
        flow = calling(Child(single(Wait(signal="go", writes="got")), writes={"got": "got"}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
            fork = await engine.fork(f"r@{run.state.version}", run_id="f")
            await reached(fork, "waiting")
            ((_, wait),) = open_waits(fork.state)
            assert wait["name"].startswith("f.call-")
            await there(engine, wait["name"], "waiting")
            await engine.signal(wait["name"], "go", 1)
            await engine.signal("r.call-1", "go", 2)
            assert ((await fork.result())["got"], (await run.result())["got"]) == (1, 2)

    story(tell())


def test_a_caller_may_be_paused_while_its_child_goes_on():
    """The child's end waits for it."""

    async def tell():
        flow = calling(Child(single(Wait(signal="go", writes="got")), writes={"got": "got"}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            mine = await there(engine, "r.call-1", "waiting")
            await engine.pause("r")
            await reached(run, "paused")
            await engine.signal("r.call-1", "go", 6)
            await mine.result()
            with pytest.raises(Stopped):
                await run.result()
            run = await engine.resume("r")
            assert (await run.result())["got"] == 6
            assert len([one for one in run.events() if isinstance(one.event, WaitClosed)]) == 1

    story(tell())


def test_a_run_of_somebody_elses_is_not_taken_for_a_child():
    """Its id is that of the child, its caller is not: the caller fails and says so."""

    async def tell():
        child = single(Human(prompt="?", writes="x"))
        flow = calling(Child(child))
        async with Engine(workflows=[flow]) as engine:
            await engine.start(single(lambda state: None, "stranger"), {}, run_id="r.call-1")
            await there(engine, "r.call-1", "completed")
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed) as caught:
                await run.result()
            assert caught.value.error.type == RunExists.__name__
            await engine.start(child, {}, run_id="q.call-1")
            await there(engine, "q.call-1", "waiting")
            run = await engine.start(flow, {}, run_id="q")
            with pytest.raises(RunFailed) as caught:
                await run.result()
            assert caught.value.error.type == RunExists.__name__
            assert isinstance(engine.get("q.call-1").events()[0].event, RunStarted)

    story(tell())


def test_a_failure_that_is_on_its_way_is_heard_before_anything_is_begun_again():
    """The child has failed, its caller has not read it yet: asked to go on with the child, nobody resumes it."""

    async def tell():
        switch = Switch()
        child = Workflow("child").add_node("wait", Wait(signal="go")).add_node("only", switch)
        child.add_edge("wait", "only").set_start("wait")
        node = Child(child)
        flow = calling(node)
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
        async with Engine(log, workflows=[child]) as engine:
            mine = await engine.resume("r.call-1")
            await engine.signal("r.call-1", "go")
            await reached(mine, "failed")
            switch.broken = False
            await engine._leases.spawn(node, "r.call-1", {}, engine.get("r").state)
            await asyncio.sleep(0.05)
            assert (mine.status, switch.calls) == ("failed", 1)

    story(tell())
