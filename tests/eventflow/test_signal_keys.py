"""Signals with a key: sent as often as anybody likes, taken once by each run."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from eventflow import Engine, Run, Wait, Workflow
from eventflow.event import SignalReceived, SignalRefused

DELIVERERS, IDS = 8, 12


def flow() -> Workflow:
    """A run that waits for a last word and lets all others come."""
    return (
        Workflow("hear")
        .add_node("wait", Wait(signal="last"))
        .add_node("end", lambda s: {})
        .add_edge("wait", "end")
        .set_start("wait")
    )


def told(run: Run) -> tuple[Counter[str], int]:
    """How often each key was taken, and how many signals were refused."""
    events = [recorded.event for recorded in run.events()]
    keys = Counter(event.key for event in events if isinstance(event, SignalReceived))
    return keys, sum(isinstance(event, SignalRefused) for event in events)


def test_each_key_is_taken_once_however_many_deliver_it(tmp_path: Path) -> None:
    """Eight deliverers with retries, while another engine drives the run and again when nobody does."""

    async def deliver(number: int) -> None:
        async with Engine(tmp_path / "s") as engine:
            for at in range(2 * IDS):
                await engine.signal("r", "go", at, key=f"id-{(at + number) % IDS}")

    async def story() -> tuple[Counter[str], int, str]:
        async with Engine(tmp_path / "s", workflows=[flow()]) as engine:
            await engine.start(flow(), {}, run_id="r")
            await asyncio.gather(*map(deliver, range(DELIVERERS // 2)))
        await asyncio.gather(*map(deliver, range(DELIVERERS // 2, DELIVERERS)))
        async with Engine(tmp_path / "s", workflows=[flow()], pick_up=True) as engine:
            await engine.signal("r", "last", key="last")
            run = engine.get("r")
            await run.wait()
            return *told(run), run.status

    keys, refused, status = asyncio.run(story())
    assert keys == Counter({**{f"id-{number}": 1 for number in range(IDS)}, "last": 1})
    assert (refused, status) == (DELIVERERS * 2 * IDS - IDS, "completed")


def test_without_a_key_each_counts() -> None:
    """Two signals of one name and payload are two."""

    async def story() -> tuple[Counter[str], int]:
        async with Engine("memory", workflows=[flow()]) as engine:
            run = await engine.start(flow(), {}, run_id="r")
            for _ in range(2):
                await run.signal("go", 1)
            return told(run)

    assert asyncio.run(story()) == (Counter({"": 2}), 0)


def test_keys_are_of_one_run() -> None:
    """Another run takes the same key, and so does a fork of one that has taken it."""

    async def story() -> list[int]:
        async with Engine("memory", workflows=[flow()]) as engine:
            first, second = [await engine.start(flow(), {}, run_id=name) for name in ("a", "b")]
            for run in (first, first, second):
                await run.signal("go", 1, key="k")
            fork = await engine.fork("a", run_id="c", drive=False)
            await engine.signal("c", "go", 1, key="k")
            return [told(run)[0]["k"] for run in (first, second, fork)]

    assert asyncio.run(story()) == [1, 1, 1]
