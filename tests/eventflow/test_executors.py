"""Bodies that run in another process or in an executor of the user's."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventflow import Engine, RetryPolicy, Workflow
from eventflow.engine.executors import Executors
from eventflow.errors import DefinitionError, RunFailed

BODIES = """
import os
import signal
import pathlib

def where(state):
    return {"pid": os.getpid(), "kind": type(state).__name__, "items": state["items"] + [1]}

def dies_once(state):
    mark = pathlib.Path(state["mark"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"pid": os.getpid()}

def raises(state):
    raise LookupError("not there")
"""


@pytest.fixture
def bodies(tmp_path, monkeypatch):
    """A module of functions that another process can import."""
    (tmp_path / "elsewhere_bodies.py").write_text(BODIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("elsewhere_bodies")
    sys.modules.pop("elsewhere_bodies", None)


def one_node(body, **options) -> Workflow:
    """A workflow of one node."""
    return Workflow("one").add_node("only", body, **options).set_start("only")


def end_of(flow, store, data, **options):
    """How a run ends."""

    async def story():
        async with Engine(store, workflows=[flow], processes=1, **options) as engine:
            run = await engine.start(flow, data, run_id="r")
            return await run.result()

    return asyncio.run(story())


def test_a_body_runs_in_another_process_and_its_result_is_recorded_here(bodies, tmp_path):
    """The state arrives as an ordinary dict; the change that comes back is in the log."""
    flow = one_node(bodies.where, executor="process")
    result = end_of(flow, tmp_path / "s", {"items": [0]})
    assert result["pid"] != os.getpid()
    assert (result["kind"], result["items"]) == ("dict", [0, 1])
    assert end_of(flow, tmp_path / "s", {"items": [0]}) == result  # the second time nothing runs


def test_a_process_that_dies_under_a_body_is_an_attempt_that_failed(bodies, tmp_path):
    """The next attempt gets a new process."""
    flow = one_node(bodies.dies_once, executor="process", retry=RetryPolicy(attempts=2, delay=0.0))
    assert end_of(flow, tmp_path / "s", {"mark": str(tmp_path / "mark")})["pid"] != os.getpid()


def test_a_process_that_dies_is_named_in_the_error(bodies, tmp_path):
    """Without attempts left the run fails with ExecutorLost."""
    flow = one_node(bodies.dies_once, executor="process")
    with pytest.raises(RunFailed, match=r"ExecutorLost.*'only'"):
        end_of(flow, tmp_path / "s", {"mark": str(tmp_path / "mark")})


def test_an_error_of_the_body_is_its_own(bodies, tmp_path):
    """What the function raises in the other process is why the node failed."""
    with pytest.raises(RunFailed, match="LookupError: not there"):
        end_of(one_node(bodies.raises, executor="process"), tmp_path / "s", {})


def test_an_executor_of_the_users_own_is_used_by_name_and_as_it_is():
    """Any concurrent.futures.Executor will do, and it is not closed."""

    def who(_):
        return {"thread": threading.current_thread().name}

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as mine:
        assert end_of(one_node(who, executor="pool"), "memory", {}, executors={"pool": mine})["thread"].startswith(
            "mine"
        )
        assert end_of(one_node(who, executor=mine), "memory", {})["thread"].startswith("mine")
        assert mine.submit(int, "3").result() == 3


def test_an_executor_that_nobody_has_given_is_refused_before_anything_runs():
    """Both at the engine's making and at a start."""
    flow = one_node(dict, executor="gpu")
    with pytest.raises(DefinitionError, match="no executor 'gpu'"):
        Engine(workflows=[flow])
    with pytest.raises(DefinitionError, match="no executor 'gpu'"):
        asyncio.run(_start(flow))


async def _start(flow):
    async with Engine() as engine:
        await engine.start(flow, {})


def test_a_function_that_cant_be_sent_is_told_of_in_one_sentence():
    """A lambda has no name that another process could import."""
    with pytest.raises(RunFailed, match=r"can't be sent to another process .* top level of a module"):
        end_of(one_node(lambda _: {}, executor="process"), "memory", {})


def test_only_a_plain_function_of_the_state_can_go_elsewhere():
    """A body that records facts, or is async, has to stay."""

    async def on_loop(_):
        return {}

    for body in (on_loop, lambda state, run: {}):
        with pytest.raises(DefinitionError, match="plain function of the state alone"):
            one_node(body, executor="process")


@pytest.mark.parametrize("name", ["", "process", "thread"])
def test_names_that_mean_something_else_are_refused(name):
    """An executor of one's own needs a name of its own."""
    with pytest.raises(DefinitionError, match="can't be named"), ThreadPoolExecutor(1) as pool:
        Executors({name: pool})
