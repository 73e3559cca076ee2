"""A sender of signals and their receiver, as programs: each id has a key, and nobody who is in doubt hesitates to send it again.

The arguments are a store, and `drive` or a number, by which its luck is seeded; then how many ids there are, and the plant:
`unkeyed` sends without a key, `looks` asks first whether the run has taken the id and sends it without one if not.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress
from typing import Any

from eventflow import Engine, Wait, Workflow
from eventflow.errors import EventflowError
from eventflow.event import SignalReceived

RUNS = 4  # that the ids are dealt to
NONE = "-"  # no plant
LAST = -1  # the id after which a run ends
GAP = 0.02  # seconds between a look and what is sent upon it
AGAIN = 0.3  # the share of sendings that are repeated though they went well


def take(state: dict[str, Any]) -> dict[str, Any]:
    """Count an id."""
    return {"count": state["count"] + 1, "total": state["total"] + state["id"]}


flow = (
    Workflow("hear")
    .add_node("wait", Wait(signal="go", writes="id"))
    .add_node("take", take)
    .add_node("end", lambda _: {})
)
flow.add_edge("wait", "end", when=lambda s: s["id"] == LAST).add_edge("wait", "take").add_edge(
    "take", "wait"
).set_start("wait")


def run_of(number: int) -> str:
    """The run that an id is for."""
    return f"run-{number % RUNS}"


async def drive(store: str) -> None:
    """Drive every run that nobody drives, until killed."""
    async with Engine(store, workflows=[flow], crashes=None) as engine:
        while True:
            with suppress(EventflowError):
                await engine.pick_up()
            await asyncio.sleep(0.1)


async def deliver(store: str, luck: random.Random, ids: list[int], plant: str) -> None:
    """Send every id, in an order of one's own, until each was acknowledged; with a plant in the same one, side by side."""
    if plant == NONE:
        luck.shuffle(ids)
    async with Engine(store) as engine:
        for number in ids:
            for _ in range(2 if luck.random() < AGAIN else 1):
                while not await _sent(engine, number, plant):
                    await asyncio.sleep(0.05)


async def _sent(engine: Engine, number: int, plant: str) -> bool:
    try:
        if plant == "looks" and _has_taken(engine, number):
            return True
        await asyncio.sleep(0 if plant == NONE else GAP)
        await engine.signal(run_of(number), "go", number, key="" if plant != NONE else f"id-{number}")
    except EventflowError:
        return False
    return True


def _has_taken(engine: Engine, number: int) -> bool:
    events = (recorded.event for recorded in engine.get(run_of(number)).events())
    return any(isinstance(event, SignalReceived) and event.payload == number for event in events)


if __name__ == "__main__":
    if sys.argv[2] == "drive":
        asyncio.run(drive(sys.argv[1]))
    else:
        asyncio.run(deliver(sys.argv[1], random.Random(sys.argv[2]), list(range(int(sys.argv[3]))), sys.argv[4]))  # noqa: S311 - no secret
