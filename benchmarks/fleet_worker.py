"""A process of the fleet: says that it is ready, waits to be told to begin, does its share, says that it is done."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from eventflow import Engine, Queue, Workflow

QUEUE = "fleet"


async def step(state: dict[str, Any]) -> dict[str, Any]:
    """The step that counts."""
    if state["rest"]:
        await asyncio.sleep(state["rest"])
    return {"n": state["n"] + 1}


flow = Workflow("fleet").add_node("step", step).add_node("end", lambda _: {}).set_start("step")
flow.add_edge("step", "step", when=lambda s: s["n"] < s["steps"]).add_edge("step", "end")


async def _told() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)


async def drive(engine: Engine, number: int, runs: int, steps: int) -> None:
    """Start runs and see them to their end."""
    started = [
        engine.start(flow, {"n": 0, "steps": steps, "rest": 0}, run_id=f"w{number}-{run}") for run in range(runs)
    ]
    for run in await asyncio.gather(*started):
        await run.wait()


async def fill(engine: Engine, runs: int, steps: int, rest: float) -> None:
    """Put runs into the queue."""
    data = {"n": 0, "steps": steps, "rest": rest}
    await asyncio.gather(*(engine.start(flow, data, run_id=f"q-{run}", queue=QUEUE) for run in range(runs)))


async def main(url: str, what: str, *numbers: str) -> None:
    """Do what is asked."""
    if what == "serve":
        await _told()
        async with Engine(url, workflows=[flow], queues=[Queue(QUEUE, here=int(numbers[0]))]):
            await asyncio.sleep(3_600)  # until it is killed
    async with Engine(url, workflows=[flow]) as engine:
        await _told()
        if what == "drive":
            await drive(engine, *map(int, numbers))
        elif what == "fill":
            await fill(engine, int(numbers[0]), int(numbers[1]), float(numbers[2]))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
