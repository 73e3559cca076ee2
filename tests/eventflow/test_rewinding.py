"""Going back with something in hand: what a rewind takes along, and what it calls off."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Annotated, TypedDict

import pytest
from stories import is_whole, story, until

from eventflow import (
    CheckpointPolicy,
    Child,
    Engine,
    Map,
    MemoryLog,
    Parallel,
    RetryPolicy,
    Wait,
    Workflow,
    extend,
)
from eventflow.errors import NeedsConfirmation, RunFailed
from eventflow.event import EffectFinished
from eventflow.recovery import recover


class Data(TypedDict, total=False):
    n: int
    got: Annotated[list[str], extend]
    said: str


class Till:
    """The other side: counts what is paid."""

    def __init__(self):
        self.paid: Counter[str] = Counter()

    def pay(self, what: str) -> str:
        """A receipt, which says how often this was paid."""
        self.paid[what] += 1
        return f"{what}-{self.paid[what]}"


def paying(till: Till, last: int = 3, *, what=lambda state: f"p{state['n']}", name="paying") -> Workflow:
    """Node `pay` pays once a visit until n is `last`; version v holds n = v's share of it."""

    async def pay(state, run):
        return {"got": [await run.effect("pay", till.pay, what(state))], "n": state["n"] + 1}

    flow = Workflow(name, state=Data).add_node("pay", pay).add_node("end", lambda state: {"said": "done"})
    flow.add_edge("pay", "pay", when=lambda s: s["n"] < last, label="more").add_edge("pay", "end")
    return flow.set_start("pay")


def reused(run) -> list[int]:
    """The versions that answered again, in the order in which they did."""
    return [one.event.reused for one in run.events() if isinstance(one.event, EffectFinished) and one.event.reused]


# --- calls that answer again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_calls_of_the_line_that_is_left_answer_again(where, tmp_path):
    """Each once, in the order in which they were made; nothing is paid twice, and nobody has to confirm."""

    async def tell():
        till = Till()
        async with Engine("memory" if where == "memory" else tmp_path / "s") as engine:
            flow = paying(till)
            run = await engine.start(flow, {"n": 0}, run_id="r")
            first = await run.result()
            with pytest.raises(NeedsConfirmation):
                await engine.resume("r", at=1)
            run = await engine.resume("r", at=1, effects="reuse")
            assert await run.result() == first == {"n": 3, "got": ["p0-1", "p1-1", "p2-1"], "said": "done"}
            assert set(till.paid.values()) == {1}
            assert reused(run) == [3, 6, 9]
            assert run.state.reuse == {}
            assert is_whole(engine.log)

    story(tell())


def test_a_call_with_the_same_input_answers_no_more_often_than_it_was_made():
    """Three visits that pay the same were three payments; a fourth is a new one."""

    async def tell():
        till, ends = Till(), [3]
        flow = Workflow("again", state=Data)

        async def pay(state, run):
            return {"got": [await run.effect("pay", till.pay, "same")], "n": state["n"] + 1}

        flow.add_node("pay", pay).add_node("end", lambda state: None).set_start("pay")
        flow.add_edge("pay", "pay", when=lambda s: s["n"] < ends[0], label="more").add_edge("pay", "end")
        async with Engine() as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            ends[0] = 4
            run = await engine.resume("r", at=1, effects="reuse")
            assert (await run.result())["got"] == ["same-1", "same-2", "same-3", "same-4"]
            assert till.paid["same"] == 4

    story(tell())


@pytest.mark.parametrize("other", ["input", "key", "name", "node", "branch"])
def test_another_call_is_no_answer(other):
    """Input, key, name, node and branch must all be the same."""

    async def tell():
        till, changed = Till(), [False]

        async def pay(state, run):
            is_new = changed[0]
            name = "pay2" if is_new and other == "name" else "pay"
            key = "k2" if is_new and other == "key" else "k"
            what = "other" if is_new and other == "input" else "it"
            return {"got": [await run.effect(name, till.pay, what, key=key)]}

        def flow(node, body):
            made = Workflow("w", state=Data).add_node("start", lambda state: None).add_node("pay", pay)
            made.add_node("else", pay).add_node("both", Parallel({"pay": pay}))
            return (
                made.add_edge("start", "pay", when=lambda s: not changed[0] or other not in ("node", "branch"))
                .add_edge("start", "else", when=lambda s: other == "node")
                .add_edge("start", "both")
                .set_start("start")
            )

        async with Engine() as engine:
            await (await engine.start(flow("pay", pay), {"n": 0}, run_id="r")).result()
            changed[0] = True
            run = await engine.resume("r", at=1, effects="reuse")
            await run.result()
            assert reused(run) == []
            assert sum(till.paid.values()) == 2

    story(tell())


def test_what_waits_to_answer_outlives_a_crash_and_a_snapshot(tmp_path, child):
    """The list is in the state: a process that dies in the middle of the new line leaves it to the next."""

    def flow(till, dies):
        async def pay(state, run):
            got = await run.effect("pay", till.pay, f"p{state['n']}")
            if dies() and state["n"] == 1:
                os._exit(9)
            return {"got": [got], "n": state["n"] + 1}

        made = Workflow("paying", state=Data).add_node("pay", pay).add_node("end", lambda state: None)
        made.add_edge("pay", "pay", when=lambda s: s["n"] < 4, label="more").add_edge("pay", "end")
        return made.set_start("pay")

    policy = CheckpointPolicy(every=1)

    async def dying():
        till, dead = Till(), []
        made = flow(till, lambda: bool(dead))
        async with Engine(tmp_path / "s", workflows=[made], checkpoints=policy) as engine:
            await (await engine.start(made, {"n": 0}, run_id="r")).result()
            dead.append(True)
            await (await engine.resume("r", at=1, effects="reuse")).result()

    async def after():
        till = Till()
        made = flow(till, lambda: False)
        async with Engine(tmp_path / "s", workflows=[made], checkpoints=policy) as engine:
            state = recover(engine.log, engine.log.head("r")).state
            assert sum(map(len, state.reuse.values())) == 2
            assert state == recover(engine.log, engine.log.head("r"), snapshots=False).state
            run = await engine.resume("r")
            assert (await run.result())["got"] == ["p0-1", "p1-1", "p2-1", "p3-1"]
            assert not till.paid
            assert recover(engine.log, engine.log.head("r")).state == run.state
            assert is_whole(engine.log)

    assert child(lambda: story(dying())).answer() == "signal 0"
    story(after())


def test_what_did_not_come_to_answer_may_after_another_rewind():
    """A second rewind takes along what the first had and what has answered since, each once."""

    async def tell():
        till = Till()
        flow = paying(till, last=4)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            run = await engine.resume("r", at=1, effects="reuse", stop_before=["pay"])
            await run.wait()
            assert run.state.data["n"] == 1
            run = await engine.resume("r", at=1, effects="reuse")
            assert (await run.result())["got"] == ["p0-1", "p1-1", "p2-1", "p3-1"]
            run = await engine.resume("r", at=1, effects="reuse")
            assert (await run.result())["got"] == ["p0-1", "p1-1", "p2-1", "p3-1"]
            assert set(till.paid.values()) == {1}

    story(tell())


def test_what_answered_on_the_line_that_is_gone_back_to_does_not_answer_there_again():
    """Going back to a version that was left, from a line on which its calls had answered."""

    async def tell():
        till = Till()
        flow = paying(till, what=lambda state: "same")
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            await (await engine.resume("r", at=1, effects="reuse")).result()
            run = await engine.resume("r", at=7, effects="reuse")  # on the first line, with two paid
            assert (await run.result())["got"] == ["same-1", "same-2", "same-3"]
            assert till.paid["same"] == 3
            assert reused(run)[-1] == 9
            assert recover(engine.log, engine.log.head("r")).state == recover(
                engine.log, engine.log.head("r"), snapshots=False
            ).state  # fmt: skip

    story(tell())


def test_again_means_again():
    """Without it, or confirmed, calls are made anew, with other keys."""

    async def tell():
        till = Till()
        flow = paying(till, last=1)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            await (await engine.resume("r", at=1, effects="reuse", stop_before=["end"])).wait()
            run = await engine.resume("r", at=1, yes=True)
            assert (await run.result())["got"] == ["p0-2"]

    story(tell())


def test_a_result_that_was_refused_does_not_come_back():
    """Only the one that was refused: what the same call gave in another visit does."""

    async def tell():
        till = Till()

        async def pay(state, run):
            got = await run.effect("pay", till.pay, "same")
            if state["n"] == 1 and got == "same-2":
                await run.reject("pay", why="a bad one")
                raise ValueError("once more")
            return {"got": [got], "n": state["n"] + 1}

        flow = Workflow("w", state=Data).add_node("pay", pay, retry=RetryPolicy(attempts=2, delay=0.001))
        flow.add_node("end", lambda state: None).set_start("pay")
        flow.add_edge("pay", "pay", when=lambda s: s["n"] < 2, label="more").add_edge("pay", "end")
        async with Engine(workflows=[flow]) as engine:
            first = await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            assert first["got"] == ["same-1", "same-3"]
            run = await engine.resume("r", at=1, effects="reuse")
            assert await run.result() == first
            assert till.paid["same"] == 3

    story(tell())


def test_a_call_whose_outcome_is_unknown_still_needs_a_yes():
    """It has no answer to give, and may have happened."""

    async def tell():
        till, hang = Till(), asyncio.Event()

        async def pay(state, run):
            async def call():
                till.pay("it")
                if till.paid["it"] == 1:
                    await hang.wait()

            await run.effect("pay", call)

        flow = (
            Workflow("w")
            .add_node("before", lambda s: None)
            .add_node("pay", pay)
            .add_edge("before", "pay")
            .set_start("before")
        )
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            await until(lambda: till.paid)
            with pytest.raises(NeedsConfirmation, match="pay"):
                await engine.resume("r", at=1, effects="reuse")
            assert engine.get("r").status == "running"
            run = await engine.resume("r", at=1, effects="reuse", yes=True)
            await run.result()
            assert till.paid["it"] == 2

    story(tell())


def test_a_call_that_was_under_way_at_the_version_answers_with_how_it_ended():
    """It finished later, so it is not made again."""

    async def tell():
        till = Till()
        flow = paying(till, last=1)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            assert recover(engine.log, engine.log.head("r"), 2).state.effects["pay#1"]["status"] == "started"
            with pytest.raises(NeedsConfirmation):
                await engine.resume("r", at=2)
            run = await engine.resume("r", at=2, effects="reuse")
            assert (await run.result())["got"] == ["p0-1"]
            assert till.paid["p0"] == 1

    story(tell())


def test_what_was_taken_back_does_not_answer():
    """A refunded payment is no payment: it needs a yes, and is then made anew."""

    async def tell():
        till, fails = Till(), [True]

        async def pay(state, run):
            return {"got": [await run.effect("pay", till.pay, "it")]}

        def end(state):
            if fails[0]:
                raise ValueError("it broke")

        flow = Workflow("w", state=Data).add_node("pay", pay).add_node("end", end).add_edge("pay", "end")
        flow.set_start("pay").add_compensation("pay", lambda receipt: till.pay(f"back {receipt}"))
        async with Engine(workflows=[flow]) as engine:
            with pytest.raises(RunFailed):
                await (await engine.start(flow, {}, run_id="r")).result()
            assert till.paid == {"it": 1, "back it-1": 1}
            fails[0] = False
            with pytest.raises(NeedsConfirmation, match="undo pay"):
                await engine.resume("r", at=1, effects="reuse")
            run = await engine.resume("r", at=1, effects="reuse", yes=True)
            assert (await run.result())["got"] == ["it-2"]

    story(tell())


def test_another_visit_that_failed_hides_no_call_that_was_made():
    """One visit's payment went through, the next one's did not: going back over both asks for a yes."""

    async def tell():
        till = Till()

        async def pay(state, run):
            def call():
                if state["n"]:
                    raise OSError("refused")
                return till.pay("it")

            try:
                await run.effect("pay", call)
            except OSError:
                return {"said": "no"}
            return {"n": 1}

        flow = Workflow("w", state=Data).add_node("pay", pay).add_node("end", lambda s: None).set_start("pay")
        flow.add_edge("pay", "end", when=lambda s: "said" in s, label="no").add_edge("pay", "pay")
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            with pytest.raises(NeedsConfirmation):
                await engine.resume("r", at=1)

    story(tell())


@pytest.mark.parametrize("shape", ["parallel", "map"])
def test_calls_in_branches_answer_in_their_own_branches(shape):
    """Branches that finished by then stay finished; the others find what they paid."""

    async def tell():
        till = Till()

        async def pay(item, run):
            return {"got": [await run.effect("pay", till.pay, "same")]}

        async def pay_item(item, run):
            return await run.effect("pay", till.pay, "same")

        body = (
            Parallel({"a": pay, "b": pay})
            if shape == "parallel"
            else Map(pay_item, over=lambda s: ["x", "y"], writes="got")
        )
        flow = Workflow("w", state=Data).add_node("split", body).add_node("end", lambda s: None)
        flow.add_edge("split", "end").set_start("split")
        async with Engine(workflows=[flow]) as engine:
            first = await (await engine.start(flow, {}, run_id="r")).result()
            for at in (1, 2, 3, 5):
                run = await engine.resume("r", at=at, effects="reuse", yes=True)
                assert await run.result() == first
            assert till.paid["same"] == 2

    story(tell())


def test_a_fork_that_goes_back_to_before_it_takes_its_parents_answers_and_nothing_else():
    """Its parent's messages and children are its parent's."""

    async def tell():
        till, gate = Till(), asyncio.Event()

        async def slow(state):
            await gate.wait()

        kid = Workflow("kid").add_node("slow", slow).set_start("slow")

        async def pay(state, run):
            return {"got": [await run.effect("pay", till.pay, "it")]}

        flow = Workflow("w", state=Data).add_node("pay", pay).add_node("hear", Wait(signal="go", writes="said"))
        flow.add_node("kid", Child(kid, reads=lambda state: {})).add_edge("pay", "hear").add_edge(
            "hear", "kid"
        ).set_start("pay")
        async with Engine(workflows=[flow]) as engine:
            parent = await engine.start(flow, {}, run_id="r")
            await engine.signal("r", "go", "now")
            await until(lambda: parent.state.wait is not None and parent.state.wait["kind"] == "child")
            name = parent.state.wait["name"]
            fork = await engine.fork(f"r@{parent.version}", run_id="f", drive=False)
            fork = await engine.resume("f", at=1, effects="reuse", keep_signals=True)
            await until(lambda: fork.state.node == "hear")
            assert not fork.state.signals
            assert till.paid["it"] == 1
            assert engine.get(name).status == "running"
            gate.set()
            await parent.result()

    story(tell())


def test_a_run_may_go_back_to_a_line_it_left_and_on_again():
    """Versions of every line are places to go back to, whatever lies between."""

    async def tell():
        till = Till()
        flow = paying(till, last=4)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            last = engine.get("r").version
            await (await engine.resume("r", at=4, effects="reuse")).result()
            for at in (7, last + 2, 10, 1, last - 1):
                run = await engine.resume("r", at=at, effects="reuse")
                assert (await run.result())["got"] == ["p0-1", "p1-1", "p2-1", "p3-1"]
            assert is_whole(engine.log)

    story(tell())


def test_a_rewind_in_memory_is_what_the_log_folds_to():
    """With answers and messages in hand, the state that is driven is the one that a crash would restore."""

    async def tell():
        till, log = Till(), MemoryLog()
        flow = paying(till)
        async with Engine(log, workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            run = await engine.resume("r", at=4, effects="reuse", keep_signals=True)
            await run.wait()
            for version in range(1, run.version + 1):
                assert (
                    recover(log, log.head("r"), version).state
                    == recover(log, log.head("r"), version, snapshots=False).state
                )

    story(tell())
