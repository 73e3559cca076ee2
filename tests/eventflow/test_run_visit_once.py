"""Calls that are made at most once, and runs that are spoken to through their handles."""

from __future__ import annotations

import asyncio

import pytest
from stories import story

from eventflow import Engine, MemoryLog, RetryPolicy, RunFailed, Wait, Workflow
from eventflow.errors import Conflict, EffectSpent


def single(body, **options):
    """A workflow of one node."""
    return Workflow("one").add_node("a", body, **options).set_start("a")


def test_a_call_that_failed_is_not_made_again_by_a_later_attempt():
    """Whatever retries the node has: a failure may have happened after the change outside."""
    calls = []

    def pay():
        calls.append(1)
        raise OSError("the line went dead")

    async def body(state, run):
        await run.effect("pay", pay, at_most_once=True)

    with pytest.raises(RunFailed, match="made at most once"):
        single(body, retry=RetryPolicy(attempts=3, delay=0)).run_sync({})
    assert calls == [1]


def test_a_call_that_was_cut_off_is_neither_made_again_nor_asked_about():
    """The node hears that it is spent, and decides."""
    calls = []

    async def pay():
        calls.append(1)
        await asyncio.sleep(30)

    async def body(state, run):
        try:
            await run.effect("pay", pay, at_most_once=True)
        except EffectSpent as error:
            return {"paid": error.status}
        return {"paid": "yes"}

    async def tell():
        log, flow = MemoryLog(), single(body)
        async with Engine(log, workflows=[flow], grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
            while not calls:
                await asyncio.sleep(0.001)
        async with Engine(log, workflows=[flow]) as engine:
            assert await (await engine.resume("r")).result() == {"paid": "started"}

    story(tell())
    assert calls == [1]


def test_a_call_that_was_rejected_may_be_made_again():
    """Somebody looked at its result and refused it."""
    calls = []

    async def body(state, run):
        first = await run.effect("roll", lambda: calls.append(1) or len(calls), key="k", at_most_once=True)
        if first == 1:
            await run.reject("roll", key="k", why="too low")
            first = await run.effect("roll", lambda: calls.append(1) or len(calls), key="k", at_most_once=True)
        return {"n": first}

    assert single(body).run_sync({}) == {"n": 2}


def chat() -> Workflow:
    """A run that says back what it is told, until it is told to end."""
    flow = Workflow("chat").add_node("listen", Wait.for_message(writes="said", answers="reply"))
    flow.add_node("think", lambda s: {"reply": s["said"][::-1]}).add_node("end", lambda s: None)
    flow.add_edge("listen", "think").add_edge("think", "end", when=lambda s: s["said"] == "bye")
    return flow.add_edge("think", "listen").set_start("listen")


def test_a_run_is_asked_and_told_through_its_handle():
    """A handle needs no engine for that, be it that of the process that drives the run or another one's."""

    async def tell():
        log, flow = MemoryLog(), chat()
        async with Engine(log, workflows=[flow]) as engine, Engine(log) as other:
            run = await engine.start(flow, {}, run_id="r")
            assert await run.ask(payload="hello") == "olleh"
            assert await other.get("r").ask(payload="tides") == "sedit"
            await run.send("bye")
            assert (await run.result())["reply"] == "eyb"
            with pytest.raises(Conflict, match="has ended"):
                await run.send("anybody there?")

    story(tell())
