"""Rewinds in any order: nothing is paid twice that has an answer, and what is driven is what the log folds to."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import CheckpointPolicy, Engine, MemoryLog, Parallel, Workflow
from eventflow.errors import NotResumable
from eventflow.recovery import recover
from eventflow.verification import verify_store

LAST = 3  # rounds of the workflow: enough for a call to be of one, several or all of them


def rounds(paid: list[str], *, same: bool) -> Workflow:
    """Each round pays once, and once in each of two branches; `same` says that all pay the same."""

    async def pay(state, run):
        what = "it" if same else f"{run.branch}{state['n']}"

        def charge():
            paid.append(what)
            return f"{what}-{len(paid)}"

        receipt = await run.effect("pay", charge, asked={"what": what})
        return {run.branch or "main": receipt, **({} if run.branch else {"n": state["n"] + 1})}

    flow = (
        Workflow("rounds")
        .add_node("both", Parallel({"a": pay, "b": pay}))
        .add_node("pay", pay)
        .add_node("end", lambda s: None)
    )
    flow.add_edge("both", "pay").add_edge("pay", "both", when=lambda s: s["n"] < LAST, label="more").add_edge(
        "pay", "end"
    )
    return flow.set_start("both")


@settings(max_examples=25, deadline=None)
@given(st.booleans(), st.integers(1, 4), st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=6))
def test_no_order_of_rewinds_pays_twice_or_loses_an_answer(same, every, places):
    """Whatever is gone back to, from wherever, in a living engine or after another has let the run go."""

    async def tell():
        log, paid = MemoryLog(), list[str]()
        flow = rounds(paid, same=same)
        engine = await Engine(log, workflows=[flow], checkpoints=CheckpointPolicy(every=every)).__aenter__()
        first = await (await engine.start(flow, {"n": 0}, run_id="r")).result()
        for place, anew in places:
            if anew:
                await engine.close()
                engine = await Engine(log, workflows=[flow], checkpoints=CheckpointPolicy(every=every)).__aenter__()
            head = log.head("r")
            try:
                run = await engine.resume("r", at=min(place, head.version), effects="reuse")
            except NotResumable:  # an end is no place to go on from
                continue
            last = await run.result()
            assert last["n"] == LAST
            if not same:
                assert last == first
            assert len(paid) == 3 * LAST
            assert run.state.reuse == {}
            head = log.head("r")
            assert recover(log, head).state == recover(log, head, snapshots=False).state
        await engine.close()
        assert not list(verify_store(log))[-1].findings

    asyncio.run(tell())
