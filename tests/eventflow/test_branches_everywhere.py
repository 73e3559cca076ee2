"""One flow with every kind of branch, taken back to, forked at and read at each of its versions."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import sound

from eventflow import Child, Engine, Human, Map, Parallel, RetryPolicy, Sleep, Wait, Workflow, extend
from eventflow.log import LmdbLog, MemoryLog
from eventflow.recovery import recover
from eventflow.state import ENDED, open_waits


class State(TypedDict, total=False):
    """What the branches bring."""

    items: list[int]
    notes: Annotated[list[str], extend]
    out: list[int | None]
    said: str
    got: int


def story(work):
    """Run an async story to its end."""
    return asyncio.run(asyncio.wait_for(work, 60))


def made():
    """A flow with a function that fails once, a call, a wait, a question, a sleep, children; then a map of all that."""
    tries = []

    async def shaky(state, run):
        await run.effect("look", lambda: 1, mutating=False)
        if run.attempt == 1:
            tries.append(1)
            raise ConnectionError("once")
        return {"notes": ["shaky"]}

    async def item(number):
        if number == 2:
            raise ValueError("two")
        return number * 10

    child = Workflow("child").add_node("a", Sleep(0.01)).add_node("b", lambda state: {"said": "child"})
    child.add_edge("a", "b").set_start("a")
    split = Parallel({
        "shaky": shaky, "plain": lambda state: {"notes": ["plain"]}, "wait": Wait(signal="go", writes="got"),
        "ask": Human(prompt="?", writes="said"), "nap": Sleep(0.01), "child": Child(child, reads=lambda state: {}),
    })  # fmt: skip
    return (
        Workflow("everything", state=State)
        .add_node("split", split, retry=RetryPolicy(attempts=2, delay=0.005))
        .add_node("map", Map(item, over="items", writes="out", tolerate=1, limit=2))
        .add_edge("split", "map")
        .set_start("split")
    )


EXPECTED = {
    "items": [1, 2, 3], "notes": ["shaky", "plain"], "out": [10, None, 30], "said": "yes", "got": 7,
}  # fmt: skip


async def to_its_end(engine, run):
    """Say to a run what it waits for, until it is over; its data."""
    told = set()
    while run.status not in ENDED:
        for _, wait in open_waits(run.state):
            if wait["id"] not in told and wait["kind"] in ("human", "signal"):
                told.add(wait["id"])
                if wait["kind"] == "human":
                    await engine.answer(run.id, "yes", wait=wait["id"])
                else:
                    await engine.signal(run.id, wait["name"], 7)
        await asyncio.sleep(0.002)
    return await run.result()


@pytest.mark.parametrize("how", ["rewind", "fork"])
def test_from_each_version_it_comes_to_the_same_end(how):
    """Back to it, or off from it: whatever was over stays, whatever was not is done, and nothing stands still for ever."""

    async def tell():
        flow = made()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": [1, 2, 3], "notes": []}, run_id="r")
            assert await to_its_end(engine, run) == EXPECTED
            last = run.state.version - 1
            for version in range(1, last + 1):
                if how == "fork":
                    other = await engine.fork(f"r@{version}", run_id=f"f{version}")
                else:
                    other = await engine.resume("r", at=version, yes=True)
                assert await to_its_end(engine, other) == EXPECTED, version
            sound(engine.log)

    story(tell())


@settings(max_examples=12, deadline=None)
@given(stops=st.lists(st.integers(0, 25), max_size=6), durable=st.booleans())
def test_stopped_again_and_again_it_comes_to_the_same_end(stops, durable, tmp_path_factory):
    """Each stop comes after so many thousandths of a second, and cuts off what is at work."""

    async def tell():
        flow = made()
        log = LmdbLog(tmp_path_factory.mktemp("s") / "s") if durable else MemoryLog()
        for number, stop in enumerate([*stops, None]):
            async with Engine(log, workflows=[flow], grace=0, pick_up=True) as engine:
                if number == 0:
                    run = await engine.start(flow, {"items": [1, 2, 3], "notes": []}, run_id="r")
                run = engine.get("r")
                work = asyncio.ensure_future(to_its_end(engine, run))
                await asyncio.wait({work}, timeout=None if stop is None else stop / 1_000)
                if stop is None:
                    assert work.result() == EXPECTED
                work.cancel()
                await asyncio.wait({work})
        sound(log)
        head = log.head("r")
        for version in range(1, head.version + 1):
            assert recover(log, head, version).state == recover(log, head, version, snapshots=False).state
        log.close()

    story(tell())
