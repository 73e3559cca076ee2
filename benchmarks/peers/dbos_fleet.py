"""DBOS as a process of the fleet: the same share, the same words. Runs in an environment of DBOS's own: no eventflow here."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, SetWorkflowID


@DBOS.step()
def add_one(n: int) -> int:
    """The step that counts."""
    return n + 1


@DBOS.workflow()
def counted(steps: int) -> int:
    """One step after the other."""
    n = 0
    while n < steps:
        n = add_one(n)
    return n


@DBOS.step()
async def add_one_async(n: int) -> int:
    """The step that counts, for an event loop."""
    return n + 1


@DBOS.workflow()
async def counted_async(steps: int) -> int:
    """One step after the other, for an event loop."""
    n = 0
    while n < steps:
        n = await add_one_async(n)
    return n


async def _gathered(names: list[str], steps: int) -> None:
    async def one(name: str) -> None:
        with SetWorkflowID(name):
            await counted_async(steps)

    await asyncio.gather(*map(one, names))


def _threaded(names: list[str], steps: int) -> None:
    def one(name: str) -> None:
        with SetWorkflowID(name):
            counted(steps)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, names))


def main(url: str, way: str, what: str, *numbers: str) -> None:
    """Do what is asked."""
    DBOS(
        config={
            "name": "fleet",
            "system_database_url": url,
            "console_log_level": "ERROR",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    DBOS.launch()
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "drive":
        number, runs, steps = map(int, numbers)
        names = [f"w{number}-{run}" for run in range(runs)]
        if way == "async":
            asyncio.run(_gathered(names, steps))
        else:
            _threaded(names, steps)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
