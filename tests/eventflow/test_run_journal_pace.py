"""How a run that has an engine to itself gets on with others, and with its own checkpoints."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TypedDict

import pytest

from eventflow import Engine, Workflow


class Counter(TypedDict):
    """A state of one size, however long the run."""

    n: int
    text: str
    ballast: dict[str, str]


def state(ballast: int = 0) -> Counter:
    """A state to begin with, of about fifty bytes for each piece of ballast."""
    return {"n": 0, "text": "", "ballast": {f"{number:06d}": "." * 40 for number in range(ballast)}}


def loop(steps: int, seen: Callable[[], object] = object) -> Workflow:
    """A node that comes back to itself and never waits for anything; `seen` is called in each step."""

    async def step(state: Counter) -> dict:
        seen()
        text = random.Random(state["n"]).randbytes(450).hex()  # noqa: S311 - not a secret
        return {"n": state["n"] + 1, "text": text}

    flow = Workflow("loop", state=Counter).add_node("step", step).add_node("end", lambda _: None)
    return (
        flow.add_edge("step", "step", when=lambda state: state["n"] < steps).add_edge("step", "end").set_start("step")
    )


@pytest.mark.parametrize("durable", [False, True])
def test_a_lone_run_lets_the_loops_other_tasks_run(tmp_path, durable) -> None:
    """Its commits are made on the loop's thread, and others get their turn between them."""
    turns = 0
    seen: set[int] = set()

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def tell() -> None:
        flow = loop(200, lambda: seen.add(turns))
        async with Engine(tmp_path / "s" if durable else "memory", workflows=[flow]) as engine:
            task = asyncio.get_running_loop().create_task(other())
            await (await engine.start(flow, state(), run_id="r")).result()
            task.cancel()

    asyncio.run(tell())
    assert len(seen) > 40


def test_snapshots_do_not_get_rarer_the_longer_a_run_is(tmp_path) -> None:
    """Their distance depends on the size of the state, which stays, and not on what was written meanwhile."""

    async def tell() -> list[int]:
        flow = loop(2_000)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, state(), run_id="r")).result()
            return [mark.version for mark in engine.checkpoints("r") if mark.size]

    versions = asyncio.run(tell())
    late = [after - before for before, after in zip(versions[-6:], versions[-5:], strict=False)]
    assert max(late) < 130


def test_one_snapshot_in_flight_makes_one_mark(tmp_path) -> None:
    """What happens while its bytes are written is not marked for asking for another."""

    async def tell() -> tuple[int, int]:
        flow = loop(1_000)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, state(5_000), run_id="r")).result()
            marks = [mark for mark in engine.checkpoints("r") if "auto" in mark.kinds]
            return len(marks), sum(mark.size > 0 for mark in marks)

    marks, written = asyncio.run(tell())
    assert 1 < written <= marks <= written + 1
