"""eventflow as a measured system, asked by the same program as the others: defaults, a store on LMDB."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypedDict

from benchmarks.peers.wire import NOTE, Job, Laps, main
from eventflow import Engine, Run, Workflow, extend, recover
from eventflow.recovery import history


class Counter(TypedDict):
    """Two small fields."""

    n: int
    note: str


class Growing(TypedDict):
    """A list that grows."""

    n: int
    items: Annotated[list[str], extend]


def counting(laps: Laps | None) -> Workflow:
    """The workflow that counts until it is told to stop by its input."""

    async def step(state: Counter) -> dict[str, Any]:
        if laps is not None:
            laps.enter()
        update = {"n": state["n"] + 1, "note": NOTE}
        if laps is not None:
            laps.leave()
        return update

    return Workflow("counting", state=Counter).add_node("step", step)


def looped(flow: Workflow, steps: int) -> Workflow:
    """The node comes back to itself, so many times."""

    async def end(_: Any) -> None:
        return None

    flow.add_node("end", end).add_edge("step", "step", when=lambda state: state["n"] < steps)
    return flow.add_edge("step", "end").set_start("step")


class Eventflow:
    """Runs of one engine."""

    def __init__(self, job: Job) -> None:
        self._loop = asyncio.Runner()
        self._engine = self._loop.run(self._open(job.place))
        self._asked: dict[str, Run] = {}

    @staticmethod
    async def _open(place: str) -> Engine:
        return await Engine(f"{place}/store").__aenter__()

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """One run, step by step."""
        flow = looped(counting(laps), steps)
        self._loop.run(self._driven(flow, {"n": 0, "note": ""}, [run]))

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """One run whose list grows."""

        async def step(state: Growing) -> dict[str, Any]:
            laps.enter()
            update = {"n": state["n"] + 1, "items": [texts[state["n"]]]}
            laps.leave()
            return update

        flow = looped(Workflow("growing", state=Growing).add_node("step", step), len(texts))
        self._loop.run(self._driven(flow, {"n": 0, "items": []}, [run]))

    def many(self, runs: list[str], steps: int, way: str) -> None:  # noqa: ARG002 - there is one way
        """All in one event loop."""
        self._loop.run(self._driven(looped(counting(None), steps), {"n": 0, "note": ""}, runs))

    async def _driven(self, flow: Workflow, start: dict[str, Any], runs: list[str]) -> None:
        started = await self._engine.start_many(flow, dict.fromkeys(runs, start))
        await asyncio.gather(*(run.wait() for run in started))

    def latest(self, run: str) -> dict[str, Any]:
        """Recovered from the store, as after a crash: the newest snapshot, its proof, the events since."""
        log = self._engine.log
        head = log.head(run)
        assert head is not None
        return dict(recover(log, head).state.data)

    def again(self, run: str) -> dict[str, Any]:
        """What a handle says that was asked before: it looks whether the run has moved, and reads what came since."""
        handle = self._asked.get(run)
        if handle is None:
            handle = self._asked[run] = self._loop.run(self._found(run))
        return dict(handle.state.data)

    async def _found(self, run: str) -> Run:
        return self._engine.get(run)

    def at(self, run: str, step: int) -> dict[str, Any]:
        """The same at an earlier version; the first event is the run's beginning."""
        log = self._engine.log
        head = log.head(run)
        assert head is not None
        return dict(recover(log, head, step + 1).state.data)

    def history(self, run: str) -> int:
        """All events."""
        log = self._engine.log
        head = log.head(run)
        assert head is not None
        return sum(1 for _ in history(log, head.run_key, 1, head.version))

    def close(self) -> None:
        """Close the store."""
        self._loop.run(self._engine.close())
        self._loop.close()


if __name__ == "__main__":
    main(Eventflow)
