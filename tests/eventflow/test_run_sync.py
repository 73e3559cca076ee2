"""One line: a workflow run to its end, without an event loop and inside one."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest

from eventflow import CheckpointPolicy, Engine, Workflow
from eventflow.engine import run_once
from eventflow.errors import RunExists, RunFailed


def double() -> Workflow:
    """Twice x."""
    return Workflow("w").add_node("a", lambda s: {"x": s["x"] * 2}).set_start("a")


def test_a_workflow_runs_in_one_line():
    """In memory, to its end; the result is an ordinary dict."""
    result = double().run_sync({"x": 21})
    assert result == {"x": 42}
    result["more"] = 1


def test_no_input_is_an_empty_one():
    """Like `start`."""
    assert Workflow("w").add_node("a", lambda s: {"n": len(s)}).set_start("a").run_sync() == {"n": 0}


def test_it_works_inside_a_running_loop():
    """As in a notebook's cell; the run has a thread and a loop of its own."""
    threads = []

    async def body(state):
        threads.append(threading.current_thread().name)
        return {"x": 1}

    async def cell():
        flow = Workflow("w").add_node("a", body).set_start("a")
        return flow.run_sync()

    assert asyncio.run(cell()) == {"x": 1}
    assert threads == ["eventflow-run-sync"]


@pytest.mark.parametrize("inside", [False, True])
def test_a_failure_is_raised_with_its_cause(inside):
    """In the caller's thread, whichever way it ran."""
    flow = Workflow("w").add_node("a", lambda s: 1 / 0).set_start("a")

    async def cell():
        return flow.run_sync()

    with pytest.raises(RunFailed, match="ZeroDivisionError") as caught:
        asyncio.run(cell()) if inside else flow.run_sync()
    assert caught.value.error.type == "ZeroDivisionError"


@dataclass
class Pair:
    """A typed state."""

    x: int
    y: int = 0


def test_a_typed_workflow_gives_its_type():
    """The result is of the declared type."""
    flow = Workflow("w", state=Pair).add_node("a", lambda s: {"y": s.x + 1}).set_start("a")
    assert flow.run_sync(Pair(1)) == Pair(1, 2)


def test_options_are_those_of_the_engine_and_of_the_run(tmp_path):
    """With a store the run is durable, and the same id answers from it."""
    calls = []
    flow = Workflow("w").add_node("a", lambda s: calls.append(1)).set_start("a")
    options = {"store": tmp_path / "s", "run_id": "r", "tags": ["t"], "checkpoints": CheckpointPolicy(after_node=True)}
    for _ in range(2):
        assert flow.run_sync({"x": 1}, **options) == {"x": 1}
    assert calls == [1]
    with pytest.raises(RunExists):
        flow.run_sync({"x": 2}, **options)

    async def tell():
        async with Engine(tmp_path / "s") as engine:
            assert [mark.id for mark in engine.checkpoints("r")] == ["c-2"]
            assert list(engine.get("r").state.run.tags) == ["t"]

    asyncio.run(tell())


def test_the_same_inside_an_async_program():
    """`run_once` is what it is made of."""
    assert asyncio.run(run_once(double(), {"x": 2})) == {"x": 4}


@pytest.mark.parametrize("inside", [False, True])
def test_an_error_says_where_it_was_raised_and_nothing_of_loops(inside):
    """As a note below its sentence; there is no other error that it would be the cause of."""
    flow = Workflow("w").add_node("a", lambda s: s["x"]).set_start("a")

    async def within():
        return flow.run_sync({})

    with pytest.raises(RunFailed) as caught:
        asyncio.run(within()) if inside else flow.run_sync({})
    assert caught.value.__context__ is None
    [note] = caught.value.__notes__
    assert note.startswith("KeyError was raised at test_run_sync.py:")


def test_an_error_of_ours_needs_no_place():
    """Its sentence says what to do, and the place would be one of this library."""
    flow = Workflow("w").add_node("a", lambda s: {"x": object()}).set_start("a")
    with pytest.raises(RunFailed) as caught:
        flow.run_sync({})
    assert not hasattr(caught.value, "__notes__")
