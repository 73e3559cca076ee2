"""Two processes after the same runs: each run is driven by one of them, and both learn how it ended."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from eventflow import Engine, Workflow
from eventflow.errors import Conflict, RunOwned
from eventflow.event import RunResumed
from eventflow.log import LmdbLog, Query
from eventflow.recovery import history, recover
from eventflow.verification import verify_store

RUNS = 200
AT_ONCE = 10  # of them are started together, so that the two meet again and again


def flow_of(ledger: Path) -> Workflow:
    """Two nodes, each of which writes down who drives it."""

    def note(what):
        async def body(state, run):
            fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(fd, f"{run.id} {what} {os.getpid()}\n".encode())
            os.close(fd)
            await asyncio.sleep(0)
            return {what: state["n"] + 1}

        return body

    flow = Workflow("w").add_node("a", note("a")).add_node("b", note("b"))
    return flow.add_edge("a", "b").set_start("a")


def numbered() -> dict[str, dict[str, int]]:
    """The runs that both want."""
    return {f"run-{n:03}": {"n": n} for n in range(RUNS)}


def together(fork, *works) -> list[str]:
    """Let functions run in children that begin at the same moment; what each said at its end."""
    waiting, go = os.pipe()

    def after(work):
        def held():
            os.close(go)
            os.read(waiting, 1)  # returns when the parent lets go of the other end
            work()

        return held

    children = [fork(after(work)) for work in works]
    os.close(go)
    os.close(waiting)
    return [child.end() for child in children]


def examined(store: Path, ledger: Path) -> None:
    """Check that every run is completed, driven by one process, once, and whole."""
    log = LmdbLog(store)
    try:
        for name, data in numbered().items():
            head = log.head(name)
            n = data["n"]
            assert recover(log, head, snapshots=False).state.data == {"n": n, "a": n + 1, "b": n + 1}
            assert head.status == "completed"
        assert list(verify_store(log))[-1].findings == []
    finally:
        log.close()
    lines = [line.split() for line in ledger.read_text().splitlines()]
    assert Counter((run, node) for run, node, _ in lines) == Counter({(r, n): 1 for r in numbered() for n in "ab"})
    drivers = {run: {pid for name, _, pid in lines if name == run} for run in numbered()}
    assert all(len(pids) == 1 for pids in drivers.values())


def test_two_processes_that_start_the_same_runs_drive_each_once(tmp_path, fork):
    """The loser of each race follows the winner: both get all results, and no conflict comes up or goes under."""
    store, ledger = tmp_path / "s", tmp_path / "ledger"
    flow = flow_of(ledger)

    def racer(seed):
        def work():
            async def main():
                names = list(numbered().items())
                random.Random(seed).shuffle(names)  # noqa: S311
                async with Engine(store, workflows=[flow]) as engine:
                    (tmp_path / f"ready-{seed}").touch()
                    while len(list(tmp_path.glob("ready-*"))) < 2:
                        await asyncio.sleep(0.001)
                    runs = []
                    for first in range(0, RUNS, AT_ONCE):
                        runs += await engine.start_many(flow, dict(names[first : first + AT_ONCE]))
                    for run in runs:
                        result = await run.result()
                        assert result == {"n": result["n"], "a": result["n"] + 1, "b": result["n"] + 1}
                        assert run.id == f"run-{result['n']:03}"

            asyncio.run(main())

        return work

    LmdbLog(store).close()
    assert together(fork, racer(1), racer(2)) == ["", ""]
    examined(store, ledger)
    log = LmdbLog(store, readonly=True)
    for name in numbered():
        assert [one.epoch for one in history(log, log.head(name).run_key, 1, 9)] == [1, 1, 1]
    log.close()


def test_two_processes_that_pick_up_the_same_orphans_take_each_once(tmp_path, fork):
    """Whoever comes first has it; the other leaves it alone."""
    store, ledger = tmp_path / "s", tmp_path / "ledger"

    def orphans():
        async def main():
            async def waits(state):
                await asyncio.sleep(30)

            flow = Workflow("w").add_node("a", waits).add_node("b", waits).add_edge("a", "b").set_start("a")
            async with Engine(store) as engine:
                await engine.start_many(flow, numbered())
                os._exit(0)

        asyncio.run(main())

    fork(orphans).end()
    log = LmdbLog(store, readonly=True)
    assert len(log.runs(Query(status="running"))) == RUNS
    log.close()
    flow = flow_of(ledger)

    def picker():
        async def main():
            async with Engine(store, workflows=[flow]) as engine:
                taken, unknown = await engine.pick_up()
                assert unknown == []
                for run in taken:
                    await run.result()
                for name in numbered():
                    await engine.get(name).result()

        asyncio.run(main())

    assert together(fork, picker, picker) == ["", ""]
    examined(store, ledger)
    log = LmdbLog(store, readonly=True)
    for name in numbered():
        events = list(history(log, log.head(name).run_key, 1, 9))
        assert sum(isinstance(one.event, RunResumed) for one in events) == 1
        assert log.head(name).epoch == 2
    log.close()


@pytest.mark.parametrize("losers", [3])
def test_of_several_that_resume_one_run_one_has_it_and_the_others_are_told(tmp_path, fork, losers):
    """A conflict is raised to who lost, each time; nothing is written by him."""
    store, ledger, told = tmp_path / "s", tmp_path / "ledger", tmp_path / "told"

    async def stopped():
        async with Engine(store) as engine:
            await engine.drain()
            await engine.start(flow_of(ledger), {"n": 0}, run_id="r")

    asyncio.run(stopped())

    async def slow(state):
        await asyncio.sleep(0.2)
        return {"a": 1, "b": 1}

    flow = Workflow("w").add_node("a", slow).add_node("b", lambda s: None).add_edge("a", "b").set_start("a")

    def resumer():
        async def main():
            async with Engine(store, workflows=[flow]) as engine:
                try:
                    await (await engine.resume("r")).result()
                    word = "won"
                except Conflict as error:
                    word = type(error).__name__
            with told.open("a") as file:
                file.write(f"{word}\n")

        asyncio.run(main())

    assert together(fork, *[resumer] * (losers + 1)) == [""] * (losers + 1)
    words = Counter(told.read_text().split())
    assert words["won"] == 1
    assert words[RunOwned.__name__] + words["VersionConflict"] == losers
    log = LmdbLog(store, readonly=True)
    events = [type(one.event).__name__ for one in history(log, log.head("r").run_key, 1, 99)]
    log.close()
    assert events == ["RunStarted", "RunSuspended", "RunResumed", "Transitioned", "RunCompleted"]
