"""A worker of a fleet, as a program: it serves a queue, and writes down what it did and what was acknowledged to it.

Its arguments are a store, a directory for what it writes down, and the plant: `unfenced` makes of it one that goes on with
runs that others have taken.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventflow import Engine, Queue, Workflow
from eventflow.event import EffectFinished, Recorded
from eventflow.log.postgres import planning
from eventflow.state import State

if TYPE_CHECKING:
    import psycopg

STEPS = int(os.environ.get("FLEET_STEPS", "8"))
REST = float(os.environ.get("FLEET_REST", "0.01"))  # seconds a step takes


def _note(what: str, line: str) -> None:
    place = Path(os.environ["FLEET_NOTES"]) / f"{what}-{os.getpid()}"
    with place.open("a") as file:
        file.write(line + "\n")


def call(run: str, n: int, fencing_token: int) -> int:
    """A call to the outside, written down as it begins."""
    _note("called", f"{run} {n} {fencing_token} {time.monotonic_ns()}")
    return n


def count(connection: psycopg.Connection, run: str, n: int) -> int:
    """A write of the node's own."""
    connection.execute("insert into counted values (%s, %s)", (run, n))
    return n


async def step(state: dict[str, Any], run: Any) -> dict[str, Any]:
    """A call, a rest, and each second time a transaction where the store has such."""
    n = state["n"]
    await run.effect("call", call, run.id, n, key=str(n), mutating=False)
    await asyncio.sleep(REST)
    if n % 2 and sys.argv[1].startswith("postgresql"):
        await run.transaction("count", count, run.id, n, key=str(n))
    return {"n": n + 1}


flow = Workflow("fleet").add_node("step", step).add_node("end", lambda _: {})
flow.add_edge("step", "step", when=lambda s: s["n"] < STEPS).add_edge("step", "end").set_start("step")


def acknowledged(state: State, notice: Any) -> None:
    """Write down an event that is durable, as far as this process was told."""
    if isinstance(notice, Recorded):
        one = notice.event
        finished = one.key if isinstance(one, EffectFinished) and one.name == "call" else "-"
        words = (state.run.run_id, notice.version, notice.digest.hex(), notice.epoch, finished, time.monotonic_ns())
        _note("told", " ".join(map(str, words)))


def plant() -> None:
    """Let this process append to runs that are no longer its own, as if there were no epochs and no versions."""
    admit = planning.admit

    def admitted(append: Any, head: Any, gone: Any) -> Any:
        if head is not None and not append.claim and head.version:
            append = replace(append, expected=head.version, epoch=head.epoch)
        return admit(append, head, gone)

    planning.admit = admitted


async def main(store: str) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Engine(
        store, workflows=[flow], queues=[Queue("q", here=6)], listeners=[acknowledged], crashes=None, grace=1
    ):
        await stop.wait()


if __name__ == "__main__":
    if "unfenced" in sys.argv:
        plant()
    os.environ["FLEET_NOTES"] = sys.argv[2]
    asyncio.run(main(sys.argv[1]))
