"""Budgets: what a run may use is part of its state, and held against it before each call and each step."""

from __future__ import annotations

import asyncio
import os

import pytest
from stories import story

from eventflow import Agent, Budget, Child, Engine, ManualClock, Parallel, RetryPolicy, Wait, Workflow
from eventflow.budget import over_budget, used
from eventflow.errors import BranchesFailed, DefinitionError, RunFailed
from eventflow.log import MemoryLog
from eventflow.testing import ModelServer


def counting(upto=10, body=None) -> Workflow:
    """Count in a loop."""
    return (
        Workflow("count")
        .add_node("n", body or (lambda state: {"n": state["n"] + 1}))
        .add_node("end", lambda state: {"over": True})
        .add_edge("n", "n", when=lambda state: state["n"] < upto)
        .add_edge("n", "end")
        .set_start("n")
    )


def calling(made, **use) -> Workflow:
    """One call in each step of a loop; each says what it used."""

    async def body(state, run):
        await run.effect("call", made.append, state["n"], usage=lambda result: use, mutating=False)
        return {"n": state["n"] + 1}

    return counting(body=body)


@pytest.mark.parametrize(
    "limit", [{"tokens": 0}, {"calls": -1}, {"cost": 0.0}, {"steps": 0}, {"seconds": float("nan")}]
)
def test_a_limit_is_more_than_nothing(limit):
    """What would let no run begin is refused."""
    with pytest.raises(DefinitionError, match="more than 0"):
        Budget(**limit)


def test_steps_are_counted_when_a_node_is_left():
    """A run of exactly as many steps completes; one step fewer and it fails before the next node."""

    async def tell():
        async with Engine(workflows=[flow := counting(3)]) as engine:
            enough = await engine.start(flow, {"n": 0}, budget=Budget(steps=4))
            assert (await enough.result())["over"]
            run = await engine.start(flow, {"n": 0}, budget=Budget(steps=3))
            with pytest.raises(RunFailed, match="3 of 3 steps"):
                await run.result()
            assert run.state.error.type == "BudgetExceeded"
            assert (run.state.node, run.data) == ("end", {"n": 3})

    story(tell())


@pytest.mark.parametrize(
    ("budget", "use", "said"),
    [
        (Budget(tokens=30), {"input_tokens": 8, "output_tokens": 2}, "30 of 30 tokens"),
        (Budget(calls=3), {"calls": 1}, "3 of 3 calls"),
        (Budget(cost=0.5), {"cost": 0.2}, "0.6 of 0.5 cost"),
    ],
)
def test_what_calls_use_is_summed_and_no_further_call_is_made(budget, use, said):
    """The limit is looked at before each call: the one that passes it is the last."""

    async def tell():
        calls = []
        async with Engine(workflows=[flow := calling(calls, **use)]) as engine:
            run = await engine.start(flow, {"n": 0}, budget=budget)
            with pytest.raises(RunFailed, match=said):
                await run.result()
            assert calls == [0, 1, 2]

    story(tell())


def test_seconds_are_wall_time_since_the_start_waits_included():
    """They are looked at when the run does something: a wait is not cut off by them."""

    async def tell():
        clock = ManualClock()
        flow = Workflow("w").add_node("wait", Wait(signal="go")).add_node("end", lambda state: {"over": True})
        flow.add_edge("wait", "end").set_start("wait")
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", budget=Budget(seconds=60))
            while run.status != "waiting":
                await asyncio.sleep(0.002)
            clock.advance(61)
            await asyncio.sleep(0.02)
            assert run.status == "waiting"
            await engine.signal("r", "go")
            with pytest.raises(RunFailed, match="61 of 60 seconds"):
                await run.result()

    story(tell())


def test_a_retry_does_not_help_and_no_error_edge_is_taken():
    """A run that is over its budget ends: whatever its nodes say about failures."""

    async def tell():
        tries = []

        async def body(state, run):
            tries.append(run.attempt)
            for number in range(5):
                await run.effect("call", lambda: 1, key=str(number), usage=lambda result: {"calls": 1})

        flow = (
            Workflow("w").add_node("a", body, retry=RetryPolicy(attempts=3)).add_node("b", lambda state: {})
            .add_edge("a", "b", on="failed").add_edge("a", "b").set_start("a")
        )  # fmt: skip
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, budget=Budget(calls=2))
            with pytest.raises(RunFailed, match="2 of 2 calls"):
                await run.result()
            assert (tries, run.state.node) == ([1], "a")

    story(tell())


def test_a_run_over_its_budget_is_taken_up_with_a_larger_one_only():
    """What it has used stays used; the new limits are part of the run from then on."""

    async def tell():
        calls = []
        async with Engine(workflows=[flow := calling(calls, calls=1)]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r", budget=Budget(calls=3))
            await run.wait()
            run = await engine.resume("r")
            with pytest.raises(RunFailed, match="3 of 3 calls"):
                await run.result()
            run = await engine.resume("r", budget=Budget(calls=5))
            with pytest.raises(RunFailed, match="5 of 5 calls"):
                await run.result()
            run = await engine.resume("r", budget=Budget())
            assert (await run.result())["over"]
            assert calls == list(range(10))

    story(tell())


def test_a_crash_forgets_nothing_of_what_was_used(tmp_path, child):
    """The next process counts on from what is in the log, under the same limits."""
    marks = tmp_path / "marks"

    def made(die: int) -> Workflow:
        def call(number):
            with marks.open("a") as file:
                file.write(f"{number}\n")
            if number == die:
                os.kill(os.getpid(), 9)
            return 1

        async def body(state, run):
            n = state["n"]
            await run.effect("call", call, n, usage=lambda result: {"calls": 1}, mutating=False)
            return {"n": n + 1}

        return counting(body=body)

    def work():
        async def tell():
            async with Engine(tmp_path / "s", workflows=[flow := made(2)]) as engine:
                await (await engine.start(flow, {"n": 0}, run_id="r", budget=Budget(calls=4))).result()

        asyncio.run(tell())

    assert child(work).answer() == "signal 9"

    async def tell():
        async with Engine(tmp_path / "s", workflows=[made(-1)], pick_up=True) as engine:
            with pytest.raises(RunFailed, match="4 of 4 calls"):
                await engine.get("r").result()

    story(tell())
    assert marks.read_text().split() == ["0", "1", "2", "2", "3"]


def test_branches_count_together():
    """They are the run's own: one that meets the limit ends the run, not only itself."""

    async def tell():
        made = []

        async def one(state, run):
            for number in range(5):
                await run.effect("call", made.append, number, key=str(number), usage=lambda result: {"calls": 1})

        flow = Workflow("w").add_node("split", Parallel({"a": one, "b": one}, tolerate=2)).set_start("split")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, budget=Budget(calls=4))
            with pytest.raises(RunFailed, match="calls"):
                await run.result()
            assert 4 <= len(made) <= 5
            assert run.state.error.type != BranchesFailed.__name__

    story(tell())


def test_a_child_has_no_part_in_its_callers_budget():
    """Each run has its own: what a child uses is counted in the child."""

    async def tell():
        calls = []
        inner = calling(calls, calls=1)
        flow = Workflow("outer").add_node("sub", Child(inner, writes="sub")).set_start("sub")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, budget=Budget(calls=2))
            await run.result()
            assert len(calls) == 10
            assert not run.state.usage

    story(tell())


def test_undoing_is_not_stopped_by_the_budget():
    """A run that failed over its budget takes back what it did, whatever that costs."""

    async def tell():
        undone = []

        async def body(state, run):
            for number in range(5):
                await run.effect("buy", lambda: 1, key=str(number), usage=lambda result: {"calls": 1})

        flow = Workflow("w").add_node("a", body).add_compensation("buy", undone.append).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, budget=Budget(calls=2))
            with pytest.raises(RunFailed, match="2 of 2 calls"):
                await run.result()
            assert undone == [1, 1]

    story(tell())


def test_an_agents_tokens_and_calls_count(monkeypatch):
    """What the model server reports is what the budget is held against."""

    async def tell():
        with ModelServer(lambda call: "yes") as server:
            monkeypatch.setenv("OPENAI_API_KEY", "k")
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            agent = Agent(model="m", instructions="Count.", reads="q", writes="a")
            flow = Workflow("w").add_node("ask", agent).add_node("end", lambda state: {}).set_start("ask")
            flow.add_edge("ask", "ask", when=lambda state: True).add_edge("ask", "end")
            async with Engine(workflows=[flow]) as engine:
                run = await engine.start(flow, {"q": "?"}, budget=Budget(calls=3))
                with pytest.raises(RunFailed, match="3 of 3 calls"):
                    await run.result()
                assert len(server.calls) == 3
                usage = run.state.usage
                tokens = usage["input_tokens"] + usage["output_tokens"]
                assert tokens > 0
                run = await engine.start(flow, {"q": "?"}, budget=Budget(tokens=tokens))
                with pytest.raises(RunFailed, match=f"{tokens} of {tokens} tokens"):
                    await run.result()
                assert len(server.calls) == 6

    story(tell())


def test_a_fork_counts_on_and_a_rewind_counts_from_where_it_goes_back_to():
    """What a line has used is in its state: that of the parent counts for a fork, what was left behind for nobody."""

    async def tell():
        calls = []
        async with Engine(workflows=[flow := calling(calls, calls=1)]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r", budget=Budget(calls=3))
            await run.wait()
            assert used(engine.get("r").state, 0)["calls"] == 3
            fork = await engine.fork("r@1", run_id="f")
            await fork.wait()
            assert used(fork.state, 0)["calls"] == 3
            run = await engine.resume("r", at=1)
            await run.wait()
            assert over_budget(run.state, 0) == "3 of 3 calls"
            assert len(calls) == 9

    story(tell())
