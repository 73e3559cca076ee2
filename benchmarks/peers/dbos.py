"""DBOS as a measured system: workflows of steps in one process, its system database an SQLite file in WAL.

Runs in DBOS's own environment: no eventflow here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.peers.wire import NOTE, Job, Laps, in_threads, main

_now: dict[str, Any] = {"laps": Laps(), "texts": []}  # what the registered functions below work on


@DBOS.step()
def add_one(n: int) -> dict[str, Any]:
    """The step that counts."""
    _now["laps"].enter()
    result = {"n": n + 1, "note": NOTE}
    _now["laps"].leave()
    return result


@DBOS.workflow()
def counted(steps: int) -> dict[str, Any]:
    """One step after the other."""
    state: dict[str, Any] = {"n": 0, "note": ""}
    while state["n"] < steps:
        state = add_one(state["n"])
    return state


@DBOS.step()
async def add_one_async(n: int) -> dict[str, Any]:
    """The step that counts, for an event loop."""
    return {"n": n + 1, "note": NOTE}


@DBOS.workflow()
async def counted_async(steps: int) -> dict[str, Any]:
    """One step after the other, for an event loop."""
    state: dict[str, Any] = {"n": 0, "note": ""}
    while state["n"] < steps:
        state = await add_one_async(state["n"])
    return state


@DBOS.step()
def add_text(n: int) -> str:
    """The step that adds to the list: its result is what was added."""
    _now["laps"].enter()
    result: str = _now["texts"][n]
    _now["laps"].leave()
    return result


@DBOS.workflow()
def grown(steps: int) -> dict[str, Any]:
    """The list is the workflow's own; what its steps return is what is kept of it."""
    items: list[str] = []
    for number in range(steps):
        items.append(add_text(number))  # noqa: PERF401 - a workflow's steps, not a comprehension
    return {"n": steps, "items": items}


class Dbos:
    """Workflows of one process on one SQLite file."""

    def __init__(self, job: Job) -> None:
        file = Path(job.place) / "dbos.sqlite"
        made = sqlite3.connect(file)
        made.execute("pragma journal_mode=wal")  # kept in the file; DBOS itself leaves SQLite's rollback journal
        made.close()
        self._list = job.question == "growing"
        config: DBOSConfig = {
            "name": "peers",
            "system_database_url": f"sqlite:///{file}",
            "console_log_level": "ERROR",
            "log_level": "ERROR",
        }
        DBOS(config=config)
        DBOS.launch()

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """One workflow."""
        _now["laps"] = laps
        with SetWorkflowID(run):
            counted(steps)

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """One workflow whose list grows."""
        _now.update(laps=laps, texts=texts)
        with SetWorkflowID(run):
            grown(len(texts))

    def many(self, runs: list[str], steps: int, way: str) -> None:
        """All in one event loop, or some at a time in threads."""
        _now["laps"] = Laps()
        if way == "async":
            asyncio.run(self._gathered(runs, steps))
            return

        def one(run: str) -> None:
            with SetWorkflowID(run):
                counted(steps)

        in_threads(way, one, runs)

    @staticmethod
    async def _gathered(runs: list[str], steps: int) -> None:
        async def one(run: str) -> None:
            with SetWorkflowID(run):
                await counted_async(steps)

        await asyncio.gather(*(one(run) for run in runs))

    def latest(self, run: str) -> dict[str, Any]:
        """What the workflow has returned: of one that is over, that is its state. Its handle takes longer to say so."""
        status = DBOS.get_workflow_status(run)
        assert status is not None
        result: dict[str, Any] = status.output
        return result

    def at(self, run: str, step: int) -> dict[str, Any]:
        """What the step has returned; of the list, what all steps up to it have."""
        if self._list:
            return {"items": [one["output"] for one in DBOS.list_workflow_steps(run, limit=step)]}
        [one] = DBOS.list_workflow_steps(run, limit=1, offset=step - 1)
        result: dict[str, Any] = one["output"]
        return result

    def history(self, run: str) -> int:
        """All steps."""
        return len(DBOS.list_workflow_steps(run))

    def close(self) -> None:
        """Stop."""
        DBOS.destroy()


if __name__ == "__main__":
    main(Dbos)
