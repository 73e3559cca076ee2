"""Taking runs up again: after a failure, a crash, a stop; by whom, with which definition, and when to ask first."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from stories import names, story

from eventflow import Agent, Engine, ManualClock, RetryPolicy, Workflow
from eventflow.errors import (
    DefinitionChanged,
    DefinitionError,
    NeedsConfirmation,
    NodeNotFound,
    NotResumable,
    RunFailed,
    RunNotFound,
    RunOwned,
    Stopped,
    StoreClosed,
    WorkflowUnknown,
)
from eventflow.event import RunResumed, RunSuspended
from eventflow.recovery import recover


def steps(*bodies, name="w", start="n0", **more) -> Workflow:
    """A workflow of nodes n0, n1, … in a row."""
    flow = Workflow(name, **more)
    for number, body in enumerate(bodies):
        flow.add_node(f"n{number}", body)
    for number in range(len(bodies) - 1):
        flow.add_edge(f"n{number}", f"n{number + 1}")
    return flow.set_start(start)


def note(calls, what, *, fail=None):
    """A body that notes its call, and fails as long as `fail` holds something."""

    def body(state):
        calls.append(what)
        if fail:
            raise OSError("down")
        return {what: len(calls)}

    return body


def crash_after(path, flow, run_id="r"):
    """What a child does: start a run of a flow whose last body ends the process."""

    def work():
        async def tell():
            async with Engine(path, workflows=[flow]) as engine:
                await (await engine.start(flow, {}, run_id=run_id)).result()

        asyncio.run(tell())

    return work


def dies(state):
    """A body in which the process ends."""
    os._exit(9)


# --- after a failure, a crash, a stop ------------------------------------------------------------------------------


def test_a_failed_run_goes_on_in_the_node_that_failed():
    """What was finished is not done again; the attempts are counted anew."""
    calls, fail = [], [1]

    async def tell():
        flow = steps(note(calls, "a"), note(calls, "b", fail=fail), note(calls, "c"))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed):
                await run.result()
            fail.clear()
            again = await engine.resume("r", actor="ada", why="mended")
            assert await again.result() == {"a": 1, "b": 3, "c": 4}
            resumed = again.events()[3].event
            assert isinstance(resumed, RunResumed)
            assert (resumed.actor, resumed.why, resumed.definition) == ("ada", "mended", None)

    story(tell())
    assert calls == ["a", "b", "b", "c"]


def test_a_crashed_run_goes_on_where_it_stood(tmp_path, child):
    """The process is gone, the lease with it; finished nodes stay finished."""
    calls = []
    child(crash_after(tmp_path / "s", steps(lambda s: {"a": 1}, dies, note(calls, "c")))).answer()

    async def tell():
        flow = steps(note(calls, "a"), note(calls, "b"), note(calls, "c"))
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            assert engine.get("r").status == "running"
            run = await engine.resume("r")
            assert await run.result() == {"a": 1, "b": 1, "c": 2}
            assert names(run) == ["RunStarted", "Transitioned", "RunResumed", "Transitioned", "RunCompleted"]
            assert engine.log.head("r").epoch == 2

    story(tell())
    assert calls == ["b", "c"]


def test_a_stopped_run_goes_on_in_the_node_it_was_let_go_in(tmp_path):
    """The next engine, in this process or another, takes it up."""
    calls = []

    async def waits(state):
        calls.append("waits")
        await asyncio.sleep(30)

    async def tell():
        async with Engine(tmp_path / "s", grace=0) as engine:
            run = await engine.start(steps(waits), {}, run_id="r")
            await asyncio.sleep(0.01)
        flow = steps(note(calls, "a"))
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            with pytest.raises(Stopped):
                await engine.get("r").result()
            run = await engine.resume("r")
            assert await run.result() == {"a": 2}
            assert names(run) == ["RunStarted", "RunSuspended", "RunResumed", "RunCompleted"]

    story(tell())


def test_a_finished_run_is_returned_as_it_is():
    """Resuming it writes nothing."""

    async def tell():
        flow = steps(lambda s: {"x": 1})
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            before = engine.log.position()
            assert await (await engine.resume("r")).result() == {"x": 1}
            assert engine.log.position() == before

    story(tell())


def test_a_run_that_is_driven_here_is_returned_with_its_driver():
    """Resuming what runs changes nothing."""

    async def tell():
        flow = steps(note([], "a"))
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            run = await engine.resume("r")
            assert await run.result() == {"a": 1}
            assert names(run) == ["RunStarted", "RunCompleted"]

    story(tell())


def test_two_resumes_at_once_take_a_run_up_once():
    """Both get the run that goes on."""
    calls, fail = [], [1]

    async def tell():
        flow = steps(note(calls, "a", fail=fail))
        async with Engine(workflows=[flow]) as engine:
            other = await engine.start(steps(lambda s: asyncio.sleep(0.05), name="other"), {})
            await (await engine.start(flow, {}, run_id="r")).wait()
            fail.clear()
            runs = await asyncio.gather(*(engine.resume("r") for _ in range(5)))
            assert [await run.result() for run in runs] == [{"a": 2}] * 5
            await other.wait()

    story(tell())
    assert calls == ["a", "a"]


def test_a_run_that_another_living_process_drives_is_not_taken(tmp_path, child):
    """It is a conflict, and the run goes on where it is."""
    flow = steps(note([], "a"))
    path = tmp_path / "s"

    def drive(say):
        async def tell():
            gate = asyncio.Event()

            async def waits(state):
                say("driving")
                await gate.wait()

            async with Engine(path, grace=0) as engine:
                await engine.start(steps(waits), {}, run_id="r")
                await asyncio.sleep(30)

        asyncio.run(tell())

    driver = child(drive)
    assert driver.line() == "driving"

    async def tell():
        async with Engine(path, workflows=[flow]) as engine:
            with pytest.raises(RunOwned, match="which is alive") as caught:
                await engine.resume("r")
            assert caught.value.exit_code == 5
            with pytest.raises(RunOwned):
                await engine.resume("r", at=1)
            with pytest.raises(RunOwned):
                await engine.delete("r")
            assert await engine.pick_up() == ([], [])
            driver.kill()
            driver.end()
            assert await (await engine.resume("r")).result() == {"a": 1}

    story(tell())


def test_what_is_not_there_is_not_found():
    """A run must be named whole; half a name takes up nothing."""

    async def tell():
        flow = steps(note([], "a"))
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="name")).result()
            for wrong in ("nam", "other", "a b"):
                with pytest.raises(RunNotFound):
                    await engine.resume(wrong)

    story(tell())


def test_stop_before_holds_for_the_run_it_was_said_for():
    """It lets that run go before a node, and no other."""

    async def tell():
        flow = steps(*(note([], name) for name in "abc"))
        async with Engine(workflows=[flow]) as engine:
            await left_in(engine, flow, "n2")
            other = await engine.start(flow, {}, run_id="other")
            assert (await other.wait()).status == "completed"
            assert (await (await engine.resume("r")).wait()).status == "completed"

    story(tell())


# --- with which definition -----------------------------------------------------------------------------------------


async def unbegun(engine, flow, run_id="r"):
    """A run that was let go before its first node."""
    async with Engine(engine.log) as other:
        await other.drain()
        run = await other.start(flow, {}, run_id=run_id)
        assert ((await run.wait()).status, run.state.node) == ("pending", "n0")


async def left_in(engine, flow, node, run_id="r"):
    """A run that was let go before a node."""
    await unbegun(engine, flow, run_id)
    run = await engine.resume(run_id, stop_before=[node])
    assert ((await run.wait()).status, run.state.node) == ("pending", node)


def test_two_workflows_of_one_name_are_refused():
    """A run could be driven by the wrong one."""
    one, other = steps(note([], "a")), steps(note([], "b"))
    Engine(workflows=[one, one])
    with pytest.raises(DefinitionError, match="two workflows are named 'w'"):
        Engine(workflows=[one, other])


def test_a_run_of_an_unknown_workflow_is_not_driven():
    """The sentence says which workflows the engine has."""

    async def tell():
        flow = steps(note([], "a"), note([], "b"))
        async with Engine(workflows=[flow]) as engine:
            await left_in(engine, flow, "n1")
            del engine._flows["w"]
            engine._flows["other"] = steps(note([], "a"), name="other")
            with pytest.raises(WorkflowUnknown, match=r"workflow 'w'.*it has: other"):
                await engine.resume("r")
            assert engine.get("r").status == "pending"

    story(tell())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: steps(note([], "a")), "nodes removed: n1; edges removed: n0 -> n1"),
        (
            lambda: (
                Workflow("w")
                .add_node("n0", len)
                .add_node("n1", Agent(model="m", reads="x", writes="y"))
                .add_edge("n0", "n1")
                .set_start("n0")
            ),
            "kinds changed: n1 from function to agent",
        ),
    ],
)
def test_a_node_that_is_gone_or_of_another_kind_is_refused_with_the_difference(changed, said):
    """Node not found during resume: the run stays as it is."""

    async def tell():
        flow = steps(note([], "a"), note([], "b"))
        async with Engine(workflows=[flow]) as engine:
            await left_in(engine, flow, "n1")
            new = changed()
            engine._flows["w"] = new
            before = engine.log.position()
            with pytest.raises(NodeNotFound, match="node not found during resume") as caught:
                await engine.resume("r")
            assert said in str(caught.value)
            assert caught.value.exit_code == 3
            with pytest.raises(NodeNotFound):
                await engine.fork("r")
            assert engine.log.position() == before
            assert await engine.pick_up() == ([], [])
            engine._flows["w"] = flow
            assert (await (await engine.resume("r")).wait()).status == "completed"

    story(tell())


def changed_flow() -> Workflow:
    """The three-step workflow, with one more node at the end."""
    return steps(*(note([], name) for name in "abcd"))


def test_another_definition_is_taken_and_what_changed_is_recorded():
    """The event holds the new definition once; later resumes don't repeat it."""

    async def tell():
        flow = steps(*(note([], name) for name in "abc"))
        async with Engine(workflows=[flow]) as engine:
            await left_in(engine, flow, "n1")
            new = changed_flow()
            engine._flows["w"] = new
            run = await engine.resume("r", stop_before=["n2"])
            await run.wait()
            run = await engine.resume("r")
            assert (await run.wait()).status == "completed"
            resumed = [one.event for one in run.events() if isinstance(one.event, RunResumed)]
            assert [event.definition for event in resumed[-2:]] == [new.shape, None]
            assert {event.definition_digest for event in resumed[-2:]} == {new.digest}
            assert run.state.run.definition == new.shape
            assert (await run.result()).keys() == {"a", "b", "c", "d"}

    story(tell())


def test_strict_refuses_another_definition_and_takes_the_same():
    """Other code under the same shape is the same definition."""

    async def tell():
        flow = steps(*(note([], name) for name in "abc"))
        async with Engine(workflows=[flow]) as engine:
            await left_in(engine, flow, "n1")
            engine._flows["w"] = changed_flow()
            with pytest.raises(DefinitionChanged, match="nodes added: n3") as caught:
                await engine.resume("r", strict=True)
            assert caught.value.exit_code == 5
            engine._flows["w"] = steps(*(note([], name) for name in "xyz"))
            run = await engine.resume("r", strict=True)
            assert await run.result() == {"a": 1, "y": 1, "z": 1}

    story(tell())


@pytest.mark.parametrize("how", ["rewind", "fork"])
def test_a_rewind_and_a_fork_record_another_definition_too(how):
    """Who reads the history later sees under which definition it went on."""

    async def tell():
        flow = steps(*(note([], name) for name in "abc"))
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            new = engine._flows["w"] = changed_flow()
            run = await (engine.resume("r", at=2) if how == "rewind" else engine.fork("r@2", run_id="f"))
            assert await run.result() == {"a": 1, "b": 1, "c": 1, "d": 1}
            assert run.state.run.definition == new.shape
            (resumed,) = [one.event for one in run.events() if isinstance(one.event, RunResumed)]
            assert resumed.definition == new.shape

    story(tell())


# --- picking up ----------------------------------------------------------------------------------------------------


def test_an_engine_picks_up_every_unfinished_run_whose_owner_is_gone(tmp_path, child):
    """Crashed and stopped runs go on; those of unknown workflows are listed, all others are left alone."""
    path = tmp_path / "s"
    child(crash_after(path, steps(note([], "a"), dies), "crashed")).answer()
    child(crash_after(path, steps(dies, name="strange"), "strange")).answer()

    async def tell():
        flow = steps(note([], "a"), note([], "b"))
        failing = steps(note([], "a", fail=[1]), name="failing")
        async with Engine(path, workflows=[flow]) as engine:
            await left_in(engine, flow, "n1", "stopped")
            await (await engine.start(failing, {}, run_id="failed")).wait()
            await (await engine.start(flow, {}, run_id="done")).result()
            await left_in(engine, flow, "n1", "paused")
            await engine.pause("paused")
        async with Engine(path, workflows=[flow, failing], pick_up=True) as engine:
            while {engine.get(name).status for name in ("crashed", "stopped")} != {"completed"}:
                await asyncio.sleep(0.001)
            assert {name: engine.get(name).status for name in ("failed", "paused", "strange")} == {
                "failed": "failed", "paused": "paused", "strange": "running",
            }  # fmt: skip
            assert await engine.pick_up() == ([], ["strange"])
            assert engine.get("crashed").events()[2].event.why == "picked up"

    story(tell())


# --- when to ask first ---------------------------------------------------------------------------------------------


def asking(body, **more) -> Workflow:
    """One node that must not begin again unasked."""
    return Workflow("w").add_node("n0", body, after_crash="ask", **more).set_start("n0")


def test_a_node_that_says_so_is_not_begun_again_unasked(tmp_path, child):
    """After a crash somebody must say yes; picking up leaves it, and starting it again asks too."""
    path = tmp_path / "s"
    child(crash_after(path, asking(dies))).answer()

    async def tell():
        flow = asking(note([], "a"))
        async with Engine(path, workflows=[flow], pick_up=True) as engine:
            assert engine.get("r").status == "running"
            with pytest.raises(NeedsConfirmation, match=r"cut off in the middle.*--yes"):
                await engine.resume("r")
            with pytest.raises(NeedsConfirmation):
                await engine.start(flow, {}, run_id="r")
            assert await (await engine.resume("r", yes=True)).result() == {"a": 1}

    story(tell())


def test_a_node_that_was_abandoned_asks_and_one_that_was_not_begun_does_not(tmp_path):
    """What counts is whether its body may have begun."""

    async def waits(state):
        await asyncio.sleep(30)

    async def tell():
        path = tmp_path / "s"
        flow = asking(waits)
        async with Engine(path, grace=0) as engine:
            run = await engine.start(flow, {}, run_id="cut")
            await asyncio.sleep(0.01)
        async with Engine(path) as engine:
            await engine.drain()  # from now on runs are let go before their first node
            run = await engine.start(flow, {}, run_id="fresh")
            assert (await run.wait()).status == "pending"
        async with Engine(path, workflows=[asking(note([], "a"))]) as engine:
            (suspended,) = [one.event for one in engine.get("cut").events() if isinstance(one.event, RunSuspended)]
            assert "cut off" in suspended.why
            with pytest.raises(NeedsConfirmation):
                await engine.resume("cut")
            assert await (await engine.resume("fresh")).result() == {"a": 1}
            assert await (await engine.resume("cut", yes=True)).result() == {"a": 2}

    story(tell())


def test_a_crash_in_a_later_attempt_asks_and_one_in_the_rest_before_it_does_not():
    """While a run rests nothing is under way; once the rest is over, the next attempt may be."""
    gate = threading.Event()

    def body(state, run):
        if run.attempt == 1:
            raise OSError
        gate.wait(10)
        return {"attempt": run.attempt}

    async def tell():
        clock = ManualClock()
        flow = asking(body, retry=RetryPolicy(attempts=2, delay=60, jitter=0))
        engine = Engine(workflows=[flow], clock=clock, grace=0)
        async with engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.001)
            resting = recover(engine.log, engine.log.head("r")).state
            assert resting.retry_at == clock.now() + 60 * 10**9
            clock.advance(60)
            await asyncio.sleep(0.01)
            crashed = engine._desk._seats.pop(resting.run.run_key).driver  # as if the process had ended: nobody lets go
            crashed.task.cancel()
            await asyncio.wait({crashed.task})
            with pytest.raises(NeedsConfirmation):
                await engine.resume("r")
            gate.set()
            assert await (await engine.resume("r", yes=True)).result() == {"attempt": 2}

    story(tell())


def test_a_run_that_was_cancelled_is_not_resumable():
    """The sentence says what can be done instead."""

    async def tell():
        flow = steps(note([], "a"), note([], "b"))
        async with Engine(workflows=[flow]) as engine:
            await left_in(engine, flow, "n1")
            await engine.cancel("r")
            with pytest.raises(NotResumable, match="rewind it with at=, or fork it"):
                await engine.resume("r")
            assert await (await engine.resume("r", at=1)).result() == {"a": 2, "b": 1}

    story(tell())


def test_an_engine_refuses_work_from_another_event_loop():
    """What it began there would end with that loop, and the engine could not let go of it any more."""

    async def tell():
        async with Engine(workflows=[flow := steps(lambda state: {"x": 1})]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()

            def elsewhere():
                told = []
                for ask in (
                    lambda: engine.start(flow, {}),
                    lambda: engine.resume("r"),
                    lambda: engine.signal("r", "s"),
                ):
                    with pytest.raises(StoreClosed, match="another event loop") as caught:
                        asyncio.run(ask())
                    told.append(caught.value)
                return len(told), engine.get("r").status

            return await asyncio.to_thread(elsewhere), len(engine.log.ids("", 9))

    assert story(tell()) == ((3, "completed"), 1)
