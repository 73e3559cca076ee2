"""A section that is stopped in the middle: by a pause, a cancel, a crash, a rewind, a fork, another definition."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

import pytest
from stories import reached, sound, story

from eventflow import (
    CheckpointPolicy,
    Engine,
    Human,
    Map,
    Parallel,
    Sleep,
    Wait,
    Workflow,
    extend,
)
from eventflow.errors import NeedsConfirmation, NodeNotFound, RunCancelledError, Stopped
from eventflow.event import BranchesOpened, BranchFinished, EffectStarted, Transitioned
from eventflow.log import LmdbLog, MemoryLog
from eventflow.recovery import recover
from eventflow.state import branch, open_waits


class Notes(TypedDict, total=False):
    """What the branches bring."""

    items: list[int]
    notes: Annotated[list[str], extend]
    out: list[int]
    said: str


class Outside:
    """Three branches: one ends at once, one when the gate opens, one fails or waits as it is told."""

    def __init__(self):
        self.gate, self.calls = asyncio.Event(), []

    async def quick(self, state, run):
        """Ends at once, with a call to the outside."""
        return {"notes": [await run.effect("pay", lambda: self.calls.append("quick") or "quick")]}

    async def slow(self, state, run):
        """Ends when the gate opens."""
        self.calls.append("slow")
        await self.gate.wait()
        return {"notes": ["slow"]}

    def flow(self, **more):
        """The split, and the node after it."""

        def end(state):
            self.calls.append("end")

        split = Parallel({"quick": self.quick, "slow": self.slow, **more})
        flow = Workflow("flow", state=Notes).add_node("split", split).add_node("end", end)
        return flow.add_edge("split", "end").set_start("split")


async def ended(run, name):
    """Return once a branch of a run has ended."""
    while run.state.branches is None or branch(run.state.branches, name)["status"] != "finished":
        await asyncio.sleep(0.002)


# --- stops and crashes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
def test_a_stop_repeats_only_what_was_not_over(durable, tmp_path):
    """The engine is stopped while one branch is at work: the other is not run again, its call not made again."""

    async def tell():
        outside = Outside()
        log = LmdbLog(tmp_path / "s") if durable else MemoryLog()
        flow = outside.flow()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await ended(run, "quick")
        outside.gate.set()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            assert (await run.result())["notes"] == ["quick", "slow"]
            events = [one.event for one in run.events()]
            assert sum(isinstance(one, Transitioned) for one in events) == 1
            assert sum(isinstance(one, BranchesOpened) for one in events) == 1
        assert sorted(outside.calls) == ["end", "quick", "slow", "slow"]
        sound(log)
        log.close()

    story(tell())


def test_items_are_recorded_and_not_asked_for_again():
    """`over` is a function of the world; after a stop the items are those that were recorded."""

    async def tell():
        asked, gate = [], asyncio.Event()

        async def body(item):
            await gate.wait()
            return item

        def over(state):
            asked.append(len(asked))
            return [10 * len(asked), 20]

        flow = Workflow("flow").add_node("map", Map(body, over=over, writes="out")).set_start("map")
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while not asked:
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.02)
        gate.set()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            assert (await run.result())["out"] == [10, 20]
        assert len(asked) == 1

    story(tell())


def test_a_pause_lets_what_is_at_work_end_and_begins_nothing_more():
    """Of four items with one at a time, one more ends; the others wait for the resumption."""

    async def tell():
        begun, gate = [], asyncio.Event()

        async def body(item):
            begun.append(item)
            if item == 1:
                await gate.wait()
            return item

        split = Map(body, over="items", writes="out", limit=1)
        flow = Workflow("flow", state=Notes).add_node("map", split).set_start("map")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": [0, 1, 2, 3]}, run_id="r")
            while begun != [0, 1]:
                await asyncio.sleep(0.002)
            await engine.pause("r")
            gate.set()
            with pytest.raises(Stopped):
                await run.result()
            assert (run.status, begun) == ("paused", [0, 1])
            assert branch(run.state.branches, "1")["status"] == "finished"
            run = await engine.resume("r")
            assert (await run.result())["out"] == [0, 1, 2, 3]
            assert begun == [0, 1, 2, 3]

    story(tell())


def test_a_cancel_cuts_all_branches_off():
    """Nothing is recorded after it."""

    async def tell():
        outside = Outside()
        flow = outside.flow(ask=Human(prompt="?", writes="said"), nap=Sleep(60))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await ended(run, "quick")
            await engine.cancel("r", why="enough")
            with pytest.raises(RunCancelledError):
                await run.result()
            outside.gate.set()
            await asyncio.sleep(0.02)
            assert type(run.events()[-1].event).__name__ == "RunCancelled"
            sound(engine.log)

    story(tell())


def test_a_question_outlives_the_process_that_asked_it(tmp_path):
    """The wait keeps its id; the answer comes while nobody drives the run; what had ended is not run again."""

    async def tell():
        outside = Outside()
        outside.gate.set()
        flow = outside.flow(ask=Human(prompt="?", writes="said"))
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            ((_, wait),) = open_waits(run.state)
        async with Engine(tmp_path / "s") as other:
            await other.answer("r", "yes", wait=wait["id"])
        async with Engine(tmp_path / "s", workflows=[flow], pick_up=True) as engine:
            result = await engine.get("r").result()
            assert (result["said"], result["notes"]) == ("yes", ["quick", "slow"])
        assert sorted(outside.calls) == ["end", "quick", "slow"]

    story(tell())


# --- snapshots -----------------------------------------------------------------------------------------------------


def test_a_snapshot_in_the_middle_of_a_section_is_a_consistent_cut(tmp_path):
    """At each version, from a snapshot there and from the first event: one state."""

    async def body(item, run):
        await asyncio.sleep(0.001 * (item % 3))
        await run.effect("call", lambda: item)
        if item == 7:
            return await run.effect("never", lambda: None)
        return {"notes": [f"n{item}"]}

    async def tell():
        flow = Workflow("flow", state=Notes).add_node("map", Map(body, over="items")).set_start("map")
        log = LmdbLog(tmp_path / "s")
        async with Engine(log, workflows=[flow], checkpoints=CheckpointPolicy(every=7)) as engine:
            run = await engine.start(flow, {"items": list(range(30))}, run_id="r")
            assert (await run.result())["notes"] == [f"n{item}" for item in range(30) if item != 7]
            await engine.checkpoint("r", snapshot=True)
        head = log.head("r")
        for version in range(1, head.version + 1):
            assert recover(log, head, version).state == recover(log, head, version, snapshots=False).state
        assert len(log.snapshots(head.run_key, head.version)) >= 1
        sound(log)
        log.close()

    story(tell())


# --- going back and branching off ----------------------------------------------------------------------------------


def test_a_rewind_into_a_section_keeps_the_branches_that_were_over():
    """Those that ended after it begin again; who had made a call that counts must say yes."""

    async def tell():
        outside = Outside()
        outside.gate.set()
        flow = outside.flow()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            ends = {one.event.branch: one.version for one in run.events() if isinstance(one.event, BranchFinished)}
            began = next(one.version for one in run.events() if isinstance(one.event, BranchesOpened))
            outside.calls.clear()
            run = await engine.resume("r", at=max(ends.values()))
            assert (await run.result())["notes"] == ["quick", "slow"]
            assert outside.calls == ["end"]
            with pytest.raises(NeedsConfirmation, match="pay"):
                await engine.resume("r", at=began)
            outside.calls.clear()
            run = await engine.resume("r", at=began, yes=True)
            assert (await run.result())["notes"] == ["quick", "slow"]
            assert sorted(outside.calls) == ["end", "quick", "slow"]
            sound(engine.log)

    story(tell())


def test_a_fork_in_the_middle_of_a_section_has_what_was_over_and_waits_of_its_own():
    """The parent's answer does not reach it, nor its the parent."""

    async def tell():
        outside = Outside()
        outside.gate.set()
        flow = outside.flow(ask=Human(prompt="?", writes="said"))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            outside.calls.clear()
            fork = await engine.fork(f"r@{run.state.version}", run_id="f")
            await reached(fork, "waiting")
            ((_, mine),), ((_, its),) = open_waits(run.state), open_waits(fork.state)
            assert mine["id"] != its["id"]
            await engine.answer("f", "fork's")
            assert (await fork.result())["said"] == "fork's"
            assert run.status == "waiting"
            await engine.answer("r", "run's")
            assert (await run.result())["said"] == "run's"
            assert outside.calls == ["end", "end"]
            sound(engine.log)

    story(tell())


def test_a_rewind_asks_anew_and_an_old_answer_is_for_nobody():
    """A wait after a rewind is another wait: what answered the first does not answer it."""

    async def tell():
        flow = (
            Workflow("flow", state=Notes)
            .add_node("split", Parallel({"ask": Human(prompt="?", writes="said"), "go": Wait(signal="go")}))
            .set_start("split")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            first = dict(open_waits(run.state))["ask"]["id"]
            at = run.state.version
            await engine.answer("r", "old", wait=first)
            while "ask" in dict(open_waits(run.state)):
                await asyncio.sleep(0.002)
            run = await engine.resume("r", at=at)
            await reached(run, "waiting")
            second = dict(open_waits(run.state))["ask"]["id"]
            assert second != first
            await engine.answer("r", "new", wait=second)
            await engine.signal("r", "go")
            assert (await run.result())["said"] == "new"

    story(tell())


# --- another definition --------------------------------------------------------------------------------------------


def flow_with(**branches):
    """A split of these branches."""
    return Workflow("flow", state=Notes).add_node("split", Parallel(branches)).set_start("split")


def noted(text):
    """A body that brings a note."""
    return lambda state: {"notes": [text]}


def stopped_in_the_middle(log, **branches):
    """Leave a run in a section whose branch `ask` waits, and whose others are over."""

    async def tell():
        flow = flow_with(**branches)
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")

    story(tell())


def resumed(log, **branches):
    """The notes at the end of the run, under another definition, and an answer."""

    async def tell():
        async with Engine(log, workflows=[flow_with(**branches)]) as engine:
            run = await engine.resume("r")
            await reached(run, "waiting")
            await engine.answer("r", "yes")
            return await run.result()

    return story(tell())


ASK = Human(prompt="?", writes="said")


def test_a_branch_that_is_open_and_gone_refuses_the_resumption():
    """The error names the node and the branch; so it is with one of another kind."""
    log = MemoryLog()
    stopped_in_the_middle(log, a=noted("a"), ask=ASK)
    with pytest.raises(NodeNotFound, match=r"split/ask.*branches removed: split/ask \(human\)"):
        resumed(log, a=noted("a"))
    with pytest.raises(NodeNotFound, match="split/ask"):
        resumed(log, a=noted("a"), ask=noted("ask"))
    assert resumed(log, a=noted("a"), ask=ASK)["said"] == "yes"


def test_a_branch_that_is_over_may_be_gone():
    """What it brought is in the log, and is joined."""
    log = MemoryLog()
    stopped_in_the_middle(log, a=noted("a"), ask=ASK)
    assert resumed(log, ask=ASK) == {"notes": ["a"], "said": "yes"}


def test_a_branch_that_is_new_begins_with_the_next_visit():
    """The branches of a visit are those that were recorded at its split."""
    log = MemoryLog()
    stopped_in_the_middle(log, a=noted("a"), ask=ASK)
    assert resumed(log, a=noted("a"), ask=ASK, b=noted("b")) == {"notes": ["a"], "said": "yes"}


def test_calls_of_a_branch_are_answered_from_the_log_in_its_next_attempt():
    """A branch that is cut off after its first call makes the second alone."""

    async def tell():
        made, gate = [], asyncio.Event()

        async def body(item, run):
            first = await run.effect("first", lambda: made.append(("first", item)) or item)
            await gate.wait()
            return first + await run.effect("second", lambda: made.append(("second", item)) or item)

        flow = Workflow("flow", state=Notes).add_node("map", Map(body, over="items", writes="out")).set_start("map")
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {"items": [1, 2]}, run_id="r")
            while len(made) < 2:
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.02)
        gate.set()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            assert (await run.result())["out"] == [2, 4]
            starts = [one.event for one in run.events() if isinstance(one.event, EffectStarted)]
            assert len({one.idempotency_key for one in starts}) == 4
        assert sorted(made) == [("first", 1), ("first", 2), ("second", 1), ("second", 2)]

    story(tell())
