"""By hand: a node whose end somebody says, and one that is tried again."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TypedDict

import pytest
from stories import is_whole, names, story, until

from eventflow import Child, Engine, Go, Human, MemoryLog, Parallel, RetryPolicy, Sleep, Wait, Workflow
from eventflow.errors import (
    InvalidState,
    NoEdgeHolds,
    NotResumable,
    RunFailed,
    RunNotFound,
    RunOwned,
    UndeclaredTarget,
    WorkflowUnknown,
)
from eventflow.event import NodeSkipped, RunResumed, Transitioned
from eventflow.recovery import recover
from eventflow.testing import SkippingClock


class Data(TypedDict, total=False):
    n: int
    who: str


async def never(state):
    """A body that does not end."""
    await asyncio.Event().wait()


def fails(state):
    """A body that breaks."""
    raise ValueError("it broke")


def split() -> Parallel:
    """Two branches, one of which does not end."""
    return Parallel({"quick": lambda s: {"who": "quick"}, "never": never})


STANDING = {
    "running": (never, "running"),
    "in a thread": (lambda state: time.sleep(0.3), "running"),
    "failed": (fails, "failed"),
    "resting": ((fails, {"retry": RetryPolicy(attempts=2, delay=3600)}), "waiting"),
    "waiting": (Wait(signal="go"), "waiting"),
    "asking": (Human(prompt="?", writes="who"), "waiting"),
    "sleeping": (Sleep(3600), "waiting"),
    "split": (split(), "running"),
    "all branches waiting": (Parallel({"a": Wait(signal="a"), "b": Wait(signal="b")}), "waiting"),
}


def flow_of(body, *, terminal=False) -> Workflow:
    """Node `stuck` and, unless it is terminal, one behind it."""
    body, options = body if isinstance(body, tuple) else (body, {})
    flow = Workflow("w", state=Data).add_node("stuck", body, **options).set_start("stuck")
    if not terminal:
        flow.add_node("after", lambda state: {"who": f"{state.get('who', '')}+after"}).add_edge("stuck", "after")
    return flow


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("standing", STANDING)
def test_a_node_is_skipped_wherever_the_run_stands(standing, terminal):
    """Its result is what was given, the run goes on from there, and the log says who did it and why."""
    body, status = STANDING[standing]

    async def tell():
        flow = flow_of(body, terminal=terminal)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.status == status and (standing != "split" or run.version == 3))
            run = await engine.skip("r", {"n": 7, "who": "ada"}, actor="ada", why="it hangs")
            assert await run.result() == {"n": 7, "who": "ada" if terminal else "ada+after"}
            skipped = next(one for one in run.events() if isinstance(one.event, NodeSkipped))
            assert skipped.event == NodeSkipped("stuck", "ada", "it hangs")
            assert run.status == "completed"
            assert recover(engine.log, engine.log.head("r")).state == run.state
            assert is_whole(engine.log)

    story(tell())


@pytest.mark.parametrize("how", ["parked", "paused", "let go"])
def test_a_run_that_stands_aside_is_skipped_and_goes_on(how, tmp_path):
    """One that left memory, one that was paused, one that nobody drives."""

    async def tell():
        flow = flow_of(Wait(signal="go"))
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.status == "waiting")
            if how == "parked":
                await until(lambda: engine._desk.driver(engine.log.head("r").run_key) is None)
            if how == "paused":
                await engine.pause("r")
                await until(lambda: run.status == "paused")
            if how != "let go":
                await (await engine.skip("r", {"n": 1})).result()
        if how == "let go":
            async with Engine(tmp_path / "s", workflows=[flow]) as engine:
                assert (await (await engine.skip("r", {"n": 1})).result())["n"] == 1

    story(tell())


def test_a_result_that_will_not_do_leaves_the_run_as_it_is():
    """It is looked at before the run is stopped: it goes on undisturbed."""

    async def tell():
        flow = (
            Workflow("w", state=Data)
            .add_node("stuck", never)
            .add_node("one", lambda s: None)
            .add_node("two", lambda s: None)
        )
        flow.add_edge("stuck", "one", when=lambda s: s["n"] == 1, label="one").set_start("stuck")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.status == "running")
            for result, error in (
                ({"n": "many"}, InvalidState),
                ({"what": 1}, InvalidState),
                ("text", InvalidState),
                ({"n": 2}, NoEdgeHolds),
                (Go("two"), UndeclaredTarget),
            ):
                with pytest.raises(error):
                    await engine.skip("r", result)
            assert names(run) == ["RunStarted"]
            assert engine._desk.driver(engine.log.head("r").run_key) is not None
            await (await engine.skip("r", {"n": 1})).result()

    story(tell())


def test_a_result_may_choose_the_successor_as_a_node_may():
    """What a node may return may be given in its place."""

    async def tell():
        flow = (
            Workflow("w", state=Data).add_node("stuck", never, targets=["one", "two"]).add_node("one", lambda s: None)
        )
        flow.add_node("two", lambda s: None).set_start("stuck")
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {"n": 0}, run_id="r")
            run = await engine.skip("r", Go("two", {"n": 5}))
            assert await run.result() == {"n": 5}
            assert run.state.node == "two"

    story(tell())


def test_what_is_over_can_not_be_skipped():
    """Completed, cancelled, or never there."""

    async def tell():
        flow = flow_of(never)
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {"n": 0}, run_id="done")
            await (await engine.skip("done", {})).result()
            await engine.start(flow, {"n": 0}, run_id="gone")
            await engine.cancel("gone")
            for name in ("done", "gone"):
                with pytest.raises(NotResumable, match="it is over"):
                    await engine.skip(name, {})
            with pytest.raises(RunNotFound):
                await engine.skip("nobody", {})
        async with Engine() as engine:
            await engine.start(flow, {"n": 0}, run_id="r")
            engine._flows.clear()
            with pytest.raises(WorkflowUnknown):
                await engine.skip("r", {})

    story(tell())


@pytest.mark.parametrize("left", ["in the middle", "with something left"])
def test_a_run_that_takes_back_what_it_did_goes_on_with_that(left):
    """No node can be skipped any more: part of what the data tell of is undone."""

    async def tell():
        gate = asyncio.Event()

        async def pay(state, run):
            await run.effect("pay", lambda: "paid")

        async def back(receipt):
            if left == "with something left":
                raise ValueError("it can't be")
            await gate.wait()

        flow = (
            Workflow("w", state=Data)
            .add_node("pay", pay)
            .add_node("stuck", fails)
            .add_edge("pay", "stuck")
            .set_start("pay")
        )
        flow.add_compensation("pay", back)
        async with Engine(workflows=[flow], clock=SkippingClock()) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.state.undoing is not None)
            if left == "with something left":
                await until(lambda: run.status == "failed")
            with pytest.raises(NotResumable, match="taking back"):
                await engine.skip("r", {})
            gate.set()

    story(tell())


def test_a_skipped_node_s_calls_and_branches_are_gone():
    """What they recorded answers nobody any more, and a late result is dropped."""

    async def tell():
        gate = asyncio.Event()

        async def body(state, run):
            await run.effect("look", lambda: 1, mutating=False)
            await gate.wait()
            return {"who": "late"}

        flow = flow_of(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.state.effects and run.version == 3)
            run = await engine.skip("r", {"who": "given"})
            gate.set()
            assert (await run.result())["who"] == "given+after"
            assert not run.state.effects

    story(tell())


def test_where_a_run_was_to_stop_holds_past_a_skip():
    """It was said for the run, not for the node."""

    async def tell():
        flow = (
            Workflow("w", state=Data).add_node("a", never).add_node("b", lambda s: None).add_node("c", lambda s: None)
        )
        flow.add_edge("a", "b").add_edge("b", "c").set_start("a")
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            await engine.start(flow, {"n": 0}, run_id="r")
            await engine.drain(0)
        async with Engine(log, workflows=[flow]) as engine:
            await engine.resume("r", stop_before=["c"])
            run = await engine.skip("r", {})
            assert (await run.wait()).node == "c"
            assert run.status == "pending"

    story(tell())


def test_a_skip_is_told_to_those_who_listen():
    """Each of its events, once, with the state it led to."""

    async def tell():
        heard = []
        for terminal in (False, True):
            heard.clear()
            flow = flow_of(never, terminal=terminal)
            async with Engine(
                workflows=[flow], listeners=[lambda state, one: heard.append((state.version, one))]
            ) as engine:
                run = await engine.start(flow, {"n": 0}, run_id="r")
                await (await engine.skip("r", {"n": 1})).result()
                told = [(version, one.version) for version, one in heard if hasattr(one, "version")]
                assert told == [(version, version) for version in range(1, run.version + 1)]

    story(tell())


# --- callers and children ------------------------------------------------------------------------------------------


def family(kid_body) -> tuple[Workflow, Workflow]:
    """A workflow whose node is a child, and the child's."""
    kid = Workflow("kid", state=Data).add_node("stuck", kid_body).set_start("stuck")
    flow = Workflow("family", state=Data).add_node("kid", Child(kid, reads=lambda s: {"n": 0}, writes={"n": "n"}))
    return flow.add_node("after", lambda s: {"who": "after"}).add_edge("kid", "after").set_start("kid"), kid


def test_a_caller_hears_of_the_end_of_a_child_whose_last_node_was_skipped():
    """As if the node had ended by itself."""

    async def tell():
        flow, _ = family(never)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            kid = await until(lambda: run.state.wait and engine.log.head(run.state.wait["name"]))
            await engine.skip(kid.run_id, {"n": 9})
            assert await run.result() == {"n": 9, "who": "after"}
            assert is_whole(engine.log)

    story(tell())


def test_a_caller_that_failed_with_its_child_goes_on_once_the_child_was_skipped():
    """The child's end is told to it when it is resumed."""

    async def tell():
        flow, _ = family(fails)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            with pytest.raises(RunFailed):
                await run.result()
            kid = next(name for name in engine.log.ids("r.", 9))
            await (await engine.skip(kid, {"n": 4})).result()
            run = await engine.retry("r")
            assert await run.result() == {"n": 4, "who": "after"}

    story(tell())


def test_a_node_that_waits_for_a_child_is_skipped_and_the_child_called_off():
    """Nobody waits for it any more."""

    async def tell():
        flow, _ = family(never)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            kid = await until(lambda: run.state.wait and engine.log.head(run.state.wait["name"]))
            run = await engine.skip("r", {"n": 2})
            assert await run.result() == {"n": 2, "who": "after"}
            await until(lambda: engine.get(kid.run_id).status == "cancelled")
            assert is_whole(engine.log)

    story(tell())


def test_a_run_of_another_process_is_not_skipped(tmp_path, child):
    """It is said who has it; the run goes on undisturbed."""

    def driving(say):
        async def tell():
            flow = flow_of(Wait(signal="go"))
            async with Engine(tmp_path / "s", workflows=[flow]) as engine:
                run = await engine.start(flow, {"n": 0}, run_id="r")
                await until(lambda: run.status == "waiting")
                say("there")
                return await run.result()

        return story(tell())

    async def tell():
        other = child(driving)
        assert other.line() == "there"
        async with Engine(tmp_path / "s", workflows=[flow_of(Wait(signal="go"))]) as engine:
            with pytest.raises(RunOwned):
                await engine.skip("r", {})
            await engine.signal("r", "go")
            assert "after" in await asyncio.to_thread(other.answer)

    story(tell())


def test_two_skips_at_once_skip_one_node_each():
    """They take their turns; the second finds the run where the first has left it."""

    async def tell():
        flow = Workflow("w", state=Data).add_node("a", never).add_node("b", never).add_node("c", lambda s: None)
        flow.add_edge("a", "b").add_edge("b", "c").set_start("a")
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {"n": 0}, run_id="r")
            await asyncio.gather(engine.skip("r", {"n": 1}), engine.skip("r", {"n": 2}))
            run = engine.get("r")
            assert (await run.result())["n"] == 2
            assert [one.event.node for one in run.events() if isinstance(one.event, NodeSkipped)] == ["a", "b"]

    story(tell())


def test_a_crash_within_a_skip_leaves_all_of_it_or_nothing(tmp_path, child):
    """The skip and what follows are one append."""

    def dying():
        async def tell():
            flow = flow_of(Wait(signal="go"))
            async with Engine(tmp_path / "s", workflows=[flow]) as engine:
                run = await engine.start(flow, {"n": 0}, run_id="r")
                await until(lambda: run.status == "waiting")
                write = engine._open.log.write

                def dies(batch):
                    write(batch)
                    if any(isinstance(one.event, NodeSkipped) for one in run.events()):
                        os._exit(9)

                engine._open.log.write = dies
                await engine.skip("r", {"n": 3})

        story(tell())

    async def after():
        flow = flow_of(Wait(signal="go"))
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = engine.get("r")
            assert names(run)[-2:] == ["NodeSkipped", "Transitioned"]
            assert (await (await engine.resume("r")).result())["n"] == 3

    assert child(dying).answer() == "signal 0"
    story(after())


# --- retry ---------------------------------------------------------------------------------------------------------


def test_a_node_that_failed_is_tried_again_with_all_its_attempts():
    """As often as at first, from the first attempt on."""

    async def tell():
        attempts = []

        async def body(state, run):
            attempts.append(run.attempt)
            if len(attempts) < 4:
                raise ValueError("not yet")

        flow = flow_of((body, {"retry": RetryPolicy(attempts=2, delay=0.001)}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            with pytest.raises(RunFailed):
                await run.result()
            run = await engine.retry("r", actor="ada")
            await run.result()
            assert attempts == [1, 2, 1, 2]
            assert [one.event.why for one in run.events() if isinstance(one.event, RunResumed)] == ["retried"]

    story(tell())


@pytest.mark.parametrize("standing", ["running", "waiting", "resting", "split"])
def test_only_what_has_failed_is_retried(standing):
    """Whatever else a run does, it says so and changes nothing."""

    async def tell():
        body, status = STANDING[standing]
        flow = flow_of(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.status == status)
            version = run.version
            with pytest.raises(NotResumable, match="has not failed"):
                await engine.retry("r")
            assert run.version >= version
            assert Transitioned not in {type(one.event) for one in run.events()}
            with pytest.raises(RunNotFound):
                await engine.retry("nobody")

    story(tell())
