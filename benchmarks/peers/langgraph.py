"""LangGraph as a measured system: a graph of one node, SqliteSaver in WAL, durability="sync".

Runs in LangGraph's own environment: no eventflow here.
"""

from __future__ import annotations

import asyncio
import operator
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from benchmarks.peers.wire import NOTE, Job, Laps, in_threads, main


class Counter(TypedDict):
    """Two small fields."""

    n: int
    note: str


class Growing(TypedDict):
    """A list that each checkpoint holds whole."""

    n: int
    items: Annotated[list[str], operator.add]


def added(items: list[str], writes: Sequence[list[str]]) -> list[str]:
    """A reducer over several writes, as DeltaChannel asks for."""
    return [*items, *(item for write in writes for item in write)]


class GrowingByDelta(TypedDict):
    """A list whose checkpoints hold what was added, with a snapshot at each hundredth, which is the default."""

    n: int
    items: Annotated[list[str], DeltaChannel(added)]


def looped(schema: type[Any], body: Callable[[Any], Any], steps: int) -> StateGraph[Any]:
    """A graph whose one node comes back to itself until `n` is `steps`."""
    graph = StateGraph(schema)
    graph.add_node("step", body)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["n"] < steps else END, ["step", END])
    return graph


def counting(steps: int, laps: Laps | None = None) -> StateGraph[Any]:
    """The graph that counts."""

    def step(state: Counter) -> dict[str, Any]:
        if laps is not None:
            laps.enter()
        update = {"n": state["n"] + 1, "note": NOTE}
        if laps is not None:
            laps.leave()
        return update

    return looped(Counter, step, steps)


class LangGraph:
    """Threads of a checkpointer on one SQLite file."""

    def __init__(self, job: Job) -> None:
        self._file = Path(job.place) / "langgraph.sqlite"
        self._delta = job.way == "DeltaChannel"
        self._connection = sqlite3.connect(self._file, check_same_thread=False)
        self._connection.execute("pragma synchronous=full")
        self._saver = SqliteSaver(self._connection)
        self._saver.setup()  # sets journal_mode=wal
        self._read = counting(0).compile(checkpointer=self._saver)
        self._ids: dict[int, str] = {}

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """One thread, step by step."""
        graph = counting(steps, laps).compile(checkpointer=self._saver)
        graph.invoke({"n": 0, "note": ""}, self._config(run, steps), durability="sync")

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """One thread whose list grows."""

        def step(state: Any) -> dict[str, Any]:  # a type here would name a second schema, with other channels
            laps.enter()
            update = {"n": state["n"] + 1, "items": [texts[state["n"]]]}
            laps.leave()
            return update

        flow = looped(GrowingByDelta if self._delta else Growing, step, len(texts))
        self._read = flow.compile(checkpointer=self._saver)
        self._read.invoke({"n": 0, "items": []}, self._config(run, len(texts)), durability="sync")

    def many(self, runs: list[str], steps: int, way: str) -> None:
        """All in one event loop with the asynchronous saver, or some at a time in threads."""
        if way == "async":
            asyncio.run(self._gathered(runs, steps))
            return
        graph = counting(steps).compile(checkpointer=self._saver)
        start = {"n": 0, "note": ""}
        in_threads(way, lambda run: graph.invoke(start, self._config(run, steps), durability="sync"), runs)

    async def _gathered(self, runs: list[str], steps: int) -> None:
        async with AsyncSqliteSaver.from_conn_string(str(self._file)) as saver:
            graph = counting(steps).compile(checkpointer=saver)
            start = {"n": 0, "note": ""}
            await asyncio.gather(*(graph.ainvoke(start, self._config(run, steps), durability="sync") for run in runs))

    def latest(self, run: str) -> dict[str, Any]:
        """The newest checkpoint's values."""
        return dict(self._read.get_state({"configurable": {"thread_id": run}}).values)

    def at(self, run: str, step: int) -> dict[str, Any]:
        """The values of the checkpoint of that step, whose id is known from before."""
        if not self._ids:
            config = {"configurable": {"thread_id": run}}
            for one in self._saver.list(config):
                self._ids[one.metadata["step"]] = one.config["configurable"]["checkpoint_id"]
        config = {"configurable": {"thread_id": run, "checkpoint_id": self._ids[step]}}
        return dict(self._read.get_state(config).values)

    def history(self, run: str) -> int:
        """All checkpoints, as the saver lists them."""
        return sum(1 for _ in self._saver.list({"configurable": {"thread_id": run}}))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @staticmethod
    def _config(run: str, steps: int) -> Any:
        return {"configurable": {"thread_id": run}, "recursion_limit": steps + 10}


if __name__ == "__main__":
    main(LangGraph)
