"""Code that changes while visits of it are open: each goes on as it began."""

from __future__ import annotations

import asyncio
import os

import pytest
from stories import story, until

from eventflow import CheckpointPolicy, Engine, MemoryLog, Parallel, RetryPolicy, Workflow
from eventflow.errors import (
    EffectMisused,
    RunFailed,
)
from eventflow.event import EffectFinished


def visiting(calls, code) -> Workflow:
    """A node whose code is given, with the calls it makes noted."""

    async def body(state, run):
        async def call(name):
            return await run.effect(name, lambda: calls.append(name) or name, mutating=False)

        return await code(run, call)

    return Workflow("w").add_node("work", body, retry=RetryPolicy(attempts=9, delay=0.001)).set_start("work")


async def visited(log, calls, *codes):
    """A run whose node is driven by one code after the other, each in an engine of its own."""
    result = None
    for number, code in enumerate(codes):
        flow = visiting(calls, code)
        async with Engine(log, workflows=[flow]) as engine:
            run = await (engine.resume("r") if number else engine.start(flow, {}, run_id="r"))
            result = await run.wait()
    return result


def dies_at(code, place):
    """The same code, which comes no further than to a call."""

    async def dying(run, call):
        async def until_then(name):
            if name == place:
                await asyncio.Event().wait()  # the engine is closed meanwhile
            return await call(name)

        return await code(run, until_then)

    return dying


async def old_code(run, call):
    """Two calls, as it was."""
    return {"way": [await call("a"), await call("b"), await call("c")]}


async def new_code(run, call):
    """Something new before the second of them."""
    first = await call("a")
    middle = await call("new") if await run.patched("better") else await call("b")
    return {"way": [first, middle, await call("c")]}


async def top_code(run, call):
    """The change stands at the top."""
    if await run.patched("better"):
        return {"way": [await call("new"), await call("c")]}
    return await old_code(run, call)


async def cut_short(log, calls, code, at):
    """A run whose code is let go in the middle, when it has made these calls."""
    flow = visiting(calls, dies_at(code, at))
    async with Engine(log, workflows=[flow], grace=0) as engine:
        run = engine.log.head("r") and await engine.resume("r")
        run = run or await engine.start(flow, {}, run_id="r")
        await until(lambda: run.status == "running")
        seen = -1
        while seen != run.version:  # until it makes no call any more
            seen = run.version
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("new_way", "at", "way"),
    [
        (top_code, "a", ["new", "c"]),  # the old code had made no call
        (top_code, "b", ["a", "b", "c"]),
        (top_code, "c", ["a", "b", "c"]),
        (new_code, "a", ["a", "new", "c"]),
        (new_code, "b", ["a", "new", "c"]),  # it had not come to the change
        (new_code, "c", ["a", "b", "c"]),
    ],
)
def test_a_visit_stays_on_the_way_that_its_old_code_took(new_way, at, way):
    """It goes the new way if the old code had not come past the change; however often it is cut off after that."""

    async def tell():
        for cut in (None, *way[1:]):
            log, calls = MemoryLog(), []
            await cut_short(log, calls, old_code, at)
            if cut is not None:
                await cut_short(log, calls, new_way, cut)
            flow = visiting(calls, new_way)
            async with Engine(log, workflows=[flow]) as engine:
                assert await (await engine.resume("r")).result() == {"way": way}
            assert len(calls) == len({*calls})

    story(tell())


@pytest.mark.parametrize("code", [top_code, new_code])
def test_a_new_visit_goes_the_new_way_also_when_it_is_cut_off(code):
    """Wherever the change stands in its code, and wherever it is cut off."""

    async def tell():
        way = ["new", "c"] if code is top_code else ["a", "new", "c"]
        for cut in (None, *way):
            log, calls = MemoryLog(), []
            flow = visiting(calls, code)
            if cut is not None:
                await cut_short(log, calls, code, cut)
            async with Engine(log, workflows=[flow]) as engine:
                run = await (engine.start(flow, {}, run_id="r") if cut is None else engine.resume("r"))
                assert await run.result() == {"way": way}

    story(tell())


def test_the_way_is_recorded_and_outlives_a_kill(tmp_path, child):
    """A process that dies right after it has decided leaves the decision to the next."""

    def life(code, died_at=""):
        async def tell():
            async def dying(run, call):
                async def made(name):
                    if name == died_at:
                        os._exit(9)
                    return await call(name)

                return await code(run, made)

            flow = visiting([], dying)
            policy = CheckpointPolicy(every=1)
            async with Engine(tmp_path / "s", workflows=[flow], checkpoints=policy) as engine:
                run = await (engine.resume("r") if engine.log.head("r") else engine.start(flow, {}, run_id="r"))
                return await run.result()

        return story(tell())

    assert child(lambda: life(old_code, "c")).answer() == "signal 0"
    assert child(lambda: life(new_code, "c")).answer() == "signal 0"
    assert child(lambda: life(new_code, "c")).answer() == "signal 0"
    assert life(new_code) == {"way": ["a", "b", "c"]}


def test_several_changes_are_told_apart_by_their_names():
    """A visit that took the first new way has not thereby taken the second."""

    async def tell():
        async def first(run, call):
            if await run.patched("one"):
                return {"way": [await call("x"), await call("y")]}
            return await old_code(run, call)

        async def second(run, call):
            if await run.patched("one"):
                before = [await call("z")] if await run.patched("two") else []
                return {"way": [*before, await call("x"), await call("y")]}
            return await old_code(run, call)

        log, calls = MemoryLog(), []
        await cut_short(log, calls, first, "y")
        async with Engine(log, workflows=[visiting(calls, second)]) as engine:
            assert await (await engine.resume("r")).result() == {"way": ["x", "y"]}
        async with Engine(workflows=[flow := visiting(calls, second)]) as engine:
            assert await (await engine.start(flow, {})).result() == {"way": ["z", "x", "y"]}

    story(tell())


def test_branches_decide_each_for_itself():
    """One that had begun stays on the old way; another, which had not, does not."""

    async def tell():
        gate, is_new = asyncio.Event(), [False]

        async def body(state, run):
            if is_new[0] and await run.patched("better"):
                return {run.branch: "new"}
            if run.branch == "late" and not is_new[0]:
                await gate.wait()
            await run.effect("old", lambda: 1, mutating=False)
            if not is_new[0]:
                await gate.wait()
            return {run.branch: "old"}

        flow = Workflow("w").add_node("both", Parallel({"early": body, "late": body})).set_start("both")
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: any(isinstance(one.event, EffectFinished) for one in run.events()))
        is_new[0] = True
        async with Engine(log, workflows=[flow]) as engine:
            assert await (await engine.resume("r")).result() == {"early": "old", "late": "new"}

    story(tell())


def test_a_plain_function_asks_on_its_own_thread():
    """And each is told if it takes the other's call."""

    async def tell():
        def plain(state, run):
            if state.get("wrong"):
                coroutine = run.patched("x")
                try:
                    coroutine.send(None)
                finally:
                    coroutine.close()
            return {"new": run.patched_sync("x")}

        async def wrong(state, run):
            return {"new": run.patched_sync("x")}

        async with Engine() as engine:
            flow = Workflow("plain").add_node("a", plain).set_start("a")
            assert await (await engine.start(flow, {})).result() == {"new": True}
            for broken, data in ((flow, {"wrong": True}), (Workflow("other").add_node("a", wrong).set_start("a"), {})):
                with pytest.raises(RunFailed, match=EffectMisused.__name__):
                    await (await engine.start(broken, data)).result()

    story(tell())


def test_the_next_visit_of_the_same_node_decides_anew():
    """An old visit's way is not the next one's."""

    async def tell():
        log, is_new, gate = MemoryLog(), [False], asyncio.Event()

        async def body(state, run):
            new_way = is_new[0] and await run.patched("better")
            await run.effect("call", lambda: 1, mutating=False)
            if not is_new[0]:
                await gate.wait()
            return {"ways": [*state.get("ways", []), new_way]}

        flow = Workflow("w").add_node("loop", body).add_node("end", lambda s: None).set_start("loop")
        flow.add_edge("loop", "loop", when=lambda s: len(s["ways"]) < 3, label="more").add_edge("loop", "end")
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.version == 3)
        is_new[0] = True
        async with Engine(log, workflows=[flow]) as engine:
            assert (await (await engine.resume("r")).result())["ways"] == [False, True, True]

    story(tell())
