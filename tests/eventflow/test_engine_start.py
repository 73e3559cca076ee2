"""Starting runs: accepted before any code runs, once per id, many at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TypedDict
from uuid import UUID

import pytest
from stories import story

from eventflow import Engine, MemoryLog, Workflow
from eventflow.errors import (
    DefinitionError,
    InvalidState,
    NotPlainData,
    RunExists,
    RunFailed,
    RunNotFound,
    SettingsError,
    Stopped,
    StoreClosed,
    StoreUnusable,
)
from eventflow.event import RunStarted
from eventflow.log import LmdbLog, Query


def counting(calls=None, name="w", **options) -> Workflow:
    """One node that counts its calls."""

    async def body(state):
        if calls is not None:
            calls.append(1)
        await asyncio.sleep(0.005)
        return {"n": state.get("n", 0) + 1}

    return Workflow(name, **options).add_node("a", body).set_start("a")


# --- accepted ------------------------------------------------------------------------------------------------------


def test_a_run_is_durable_before_any_code_of_it_runs():
    """Version 1 holds input, workflow, definition, tags and subject."""
    seen = []

    async def tell():
        def body(state):
            seen.extend(engine.get("r").events())
            return {"x": 1}

        flow = Workflow("w").add_node("a", body).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"q": "?"}, run_id="r", tags=["t"], subject="ada", actor="me", why="because")
            assert await run.result() == {"q": "?", "x": 1}
            assert engine.log.store_id == seen[0].event.store_id
        return flow

    flow = story(tell())
    (first,) = seen
    event = first.event
    assert isinstance(event, RunStarted)
    assert (first.version, event.run_id, event.workflow, event.node, event.data) == (1, "r", "w", "a", {"q": "?"})
    assert (event.definition, event.definition_digest) == (flow.shape, flow.digest)
    assert (list(event.tags), event.subject, event.actor, event.why) == (["t"], "ada", "me", "because")


def test_an_id_is_made_where_none_is_given():
    """It is a uuid of version 7, and rises."""

    async def tell():
        flow = counting()
        async with Engine(workflows=[flow]) as engine:
            return [(await engine.start(flow)).id for _ in range(3)]

    ids = story(tell())
    assert [UUID(one).version for one in ids] == [7, 7, 7]
    assert ids == sorted(ids)


@pytest.mark.parametrize("wrong", ["", "a b", "-a", "a..b", "x" * 129, "é", "a/b", "a@1"])
def test_an_id_that_could_be_mistaken_is_refused(wrong):
    """Ids are plain text without spaces, slashes and dots in a row."""

    async def tell():
        flow = counting()
        async with Engine(workflows=[flow]) as engine:
            with pytest.raises(SettingsError, match="can't be a run id"):
                await engine.start(flow, {}, run_id=wrong)
            assert engine.log.runs(Query()) == []

    story(tell())


class Typed(TypedDict):
    """One number."""

    n: int


@pytest.mark.parametrize(
    ("flow", "data", "error"),
    [
        (counting(state=Typed), {"n": "many"}, InvalidState),
        (counting(state=Typed), {"m": 1}, InvalidState),
        (counting(), {"a": {"b": {1, 2}}}, NotPlainData),
        (counting(), {1: 2}, NotPlainData),
        (counting(), [1], InvalidState),
        (Workflow("w").add_node("a", len), {}, DefinitionError),
    ],
)
def test_an_input_or_definition_that_is_wrong_leaves_nothing_behind(flow, data, error):
    """It is refused before anything is written."""

    async def tell():
        async with Engine() as engine:
            before = engine.log.position()
            with pytest.raises(error):
                await engine.start(flow, data, run_id="r")
            assert engine.log.position() == before

    story(tell())


def test_an_input_too_deep_is_named_by_its_path():
    """Depth is bounded before anything is encoded."""
    deep = {}
    inner = deep
    for _ in range(80):
        inner["d"] = {}
        inner = inner["d"]
    with pytest.raises(NotPlainData, match=r"d\.d\.d.*deeper than 64"):
        counting().run_sync(deep)


# --- once per id ---------------------------------------------------------------------------------------------------


def test_the_same_id_again_follows_the_run_and_then_returns_its_result():
    """While it runs and after its end, the body runs once."""
    calls = []

    async def tell():
        flow = counting(calls)
        async with Engine(workflows=[flow]) as engine:
            first = await engine.start(flow, {"n": 4}, run_id="r")
            second = await engine.start(flow, {"n": 4}, run_id="r")
            assert await second.result() == await first.result() == {"n": 5}
            third = await engine.start(flow, {"n": 4}, run_id="r")
            assert await third.result() == {"n": 5}
            assert [type(one.event).__name__ for one in third.events()] == ["RunStarted", "RunCompleted"]

    story(tell())
    assert calls == [1]


def test_many_starts_of_one_id_at_once_are_one_run():
    """One wins, the others follow."""
    calls = []

    async def tell():
        flow = counting(calls)
        async with Engine(workflows=[flow]) as engine:
            runs = await asyncio.gather(*(engine.start(flow, {"n": 1}, run_id="r") for _ in range(20)))
            assert [await run.result() for run in runs] == [{"n": 2}] * 20

    story(tell())
    assert calls == [1]


def test_two_engines_on_one_store_share_one_run(tmp_path):
    """The one that does not drive it follows it."""
    calls = []

    async def tell():
        flow = counting(calls)
        async with Engine(tmp_path / "s") as one, Engine(tmp_path / "s") as other:
            runs = [await engine.start(flow, {}, run_id="r") for engine in (one, other)]
            assert [await run.result() for run in runs] == [{"n": 1}] * 2

    story(tell())
    assert calls == [1]


@pytest.mark.parametrize(
    ("flow", "data", "said"),
    [(counting(), {"n": 2}, "another input"), (counting(name="v"), {"n": 1}, "workflow 'w'")],
)
def test_an_id_that_belongs_to_something_else_is_a_conflict(flow, data, said):
    """Another input or another workflow under the same id is refused, before and after the end."""

    async def tell():
        first = counting()
        async with Engine() as engine:
            run = await engine.start(first, {"n": 1}, run_id="r")
            for _ in range(2):
                with pytest.raises(RunExists, match=said) as caught:
                    await engine.start(flow, data, run_id="r")
                assert caught.value.exit_code == 5
                await run.result()
            assert run.version == 2

    story(tell())


@dataclass
class Defaults:
    """All of it has defaults."""

    n: int = 3


def test_no_input_and_an_empty_one_are_the_same_input():
    """What counts is the state a run begins with."""

    async def tell():
        flow = Workflow("w", state=Defaults).add_node("a", lambda s: {"n": s.n + 1}).set_start("a")
        async with Engine() as engine:
            for data in (None, {}, {"n": 3}, Defaults()):
                assert await (await engine.start(flow, data, run_id="r")).result() == Defaults(4)

    story(tell())


def test_a_failed_run_is_returned_with_its_failure():
    """Starting it again is not resuming it."""
    calls = []

    def body(state):
        calls.append(1)
        raise OSError("down")

    async def tell():
        flow = Workflow("w").add_node("a", body).set_start("a")
        async with Engine() as engine:
            for _ in range(2):
                run = await engine.start(flow, {}, run_id="r")
                with pytest.raises(RunFailed, match="OSError: down"):
                    await run.result()

    story(tell())
    assert calls == [1]


def test_a_run_whose_process_is_gone_is_taken_up_by_the_next_start(tmp_path, child):
    """The same call, made again after a crash, goes on with the run."""
    calls = tmp_path / "calls"

    def flow_of(*, die: bool) -> Workflow:
        def one(state):
            with calls.open("a") as file:
                file.write("a")

        def two(state):
            if die:
                import os  # noqa: PLC0415 - only the child dies

                os._exit(9)

        return Workflow("w").add_node("a", one).add_node("b", two).add_edge("a", "b").set_start("a")

    def crash():
        story(started(flow_of(die=True)))

    async def started(flow):
        async with Engine(tmp_path / "s") as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            return [type(one.event).__name__ for one in run.events()]

    child(crash).answer()
    names = story(started(flow_of(die=False)))
    assert names == ["RunStarted", "Transitioned", "RunResumed", "RunCompleted"]
    assert calls.read_text() == "a"


def test_a_deleted_id_begins_a_new_incarnation():
    """The old run is gone, and another input is welcome."""

    async def tell():
        flow = counting()
        async with Engine() as engine:
            old = await engine.start(flow, {"n": 1}, run_id="r")
            await old.result()
            await engine.delete("r")
            with pytest.raises(RunNotFound):
                engine.get("r")
            assert repr(old) == "Run('r')"
            new = await engine.start(flow, {"n": 10}, run_id="r")
            assert await new.result() == {"n": 11}
            assert engine.log.head("r").incarnation == 2

    story(tell())


# --- many ----------------------------------------------------------------------------------------------------------


def test_start_many_starts_a_list_or_a_mapping():
    """A list gets fresh ids, a mapping names them; the handles come in order."""

    async def tell():
        flow = counting()
        async with Engine() as engine:
            runs = await engine.start_many(flow, [{"n": n} for n in range(50)], tags=["batch"])
            assert [(await run.result())["n"] for run in runs] == list(range(1, 51))
            named = await engine.start_many(flow, {f"r{n}": {"n": n} for n in range(3)})
            assert [run.id for run in named] == ["r0", "r1", "r2"]
            assert len(engine.log.runs(Query(tag="batch"))) == 50

    story(tell())


def test_a_plain_function_that_sleeps_does_not_stall_other_runs():
    """While one run blocks its thread, another goes through all its nodes."""
    gate = threading.Event()

    def blocks(state):
        gate.wait(10)

    async def tell():
        slow = Workflow("slow").add_node("a", blocks).set_start("a")
        quick = Workflow("quick").add_node("a", lambda s: time.sleep(0.001)).add_node("b", lambda s: {"b": 1})
        quick.add_edge("a", "b").set_start("a")
        async with Engine() as engine:
            blocked = await engine.start(slow)
            runs = await engine.start_many(quick, [{} for _ in range(10)])
            assert [await run.result() for run in runs] == [{"b": 1}] * 10
            assert blocked.status == "running"
            gate.set()
            await blocked.result()

    story(tell())


# --- the handle ----------------------------------------------------------------------------------------------------


def test_a_run_can_be_read_without_its_workflow(tmp_path):
    """Any engine on the store gets any run, by a unique prefix too, and its result."""

    async def tell():
        flow = counting()
        async with Engine(tmp_path / "s") as engine:
            await (await engine.start(flow, {}, run_id="my-run")).result()
        async with Engine(tmp_path / "s") as engine:
            run = engine.get("my-r")
            assert (run.id, run.status, run.version, run.data) == ("my-run", "completed", 2, {"n": 1})
            assert await run.result() == {"n": 1}
            assert repr(run) == "Run('my-run', completed, version 2)"
            assert "my-run" in run._repr_html_()
            with pytest.raises(RunNotFound):
                engine.get("other")

    story(tell())


def test_a_run_that_another_engine_drives_can_be_waited_for(tmp_path):
    """The handle looks at the log until the run has ended."""

    async def tell():
        flow = counting()
        async with Engine(tmp_path / "s") as driving, Engine(tmp_path / "s") as looking:
            await driving.start(flow, {}, run_id="r")
            run = looking.get("r")
            assert await run.result() == {"n": 1}

    story(tell())


def test_waiting_for_a_run_that_nobody_drives_ends_at_once(tmp_path, child):
    """A run whose process is gone is stopped, and resumable; nobody waits for it for ever."""

    def crash():
        async def tell():
            import os  # noqa: PLC0415 - only the child dies

            flow = Workflow("w").add_node("a", lambda s: os._exit(9)).set_start("a")
            async with Engine(tmp_path / "s") as engine:
                await (await engine.start(flow, {}, run_id="r")).result()

        asyncio.run(tell())

    child(crash).answer()

    async def tell():
        async with Engine(tmp_path / "s") as engine:
            with pytest.raises(Stopped, match="eventflow resume r"):
                await engine.get("r").result()

    story(tell())


def test_following_gives_the_events_as_they_come():
    """The old ones first, then each new one, until the run has ended."""

    async def tell():
        hold = asyncio.Event()

        async def body(state):
            await hold.wait()

        flow = Workflow("w").add_node("a", body).add_node("b", lambda s: None).add_edge("a", "b").set_start("a")
        async with Engine() as engine:
            run = await engine.start(flow, {}, run_id="r")
            seen = []
            async for recorded in run.follow():
                seen.append(type(recorded.event).__name__)
                hold.set()
            assert seen == ["RunStarted", "Transitioned", "RunCompleted"]
            assert [one.version async for one in run.follow(after=2)] == [3]

    story(tell())


def test_a_fork_is_followed_from_its_own_first_event():
    """However long the history is that it continues."""

    async def tell():
        async def body(state):
            return {"n": state["n"] + 1}

        flow = Workflow("w").add_node("a", body).add_node("b", lambda s: None)
        flow.add_edge("a", "a", when=lambda s: s["n"] < 600).add_edge("a", "b").set_start("a")
        async with Engine() as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            fork = await engine.fork("r@590", run_id="f")
            await fork.result()
            versions = [one.version async for one in fork.follow()]
            assert versions[0] == 591
            assert versions == [one.version for one in fork.events()]

    story(tell())


def test_listeners_hear_of_every_event_from_the_first_on():
    """They are told after the log has it."""

    async def tell():
        told = []
        log = MemoryLog()

        def listener(state, notice):
            told.append((state.version, notice.version, log.head("r").version))

        flow = (
            Workflow("w").add_node("a", lambda s: None).add_node("b", lambda s: None).add_edge("a", "b").set_start("a")
        )
        async with Engine(log, listeners=[listener]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
        assert told == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]

    story(tell())


# --- the engine's life ---------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_open_says_so():
    """Before and after its context every call is one clear error."""

    async def tell():
        flow = counting()
        engine = Engine(workflows=[flow])
        for _ in range(2):
            with pytest.raises(StoreClosed, match="async with"):
                await engine.start(flow)
            async with engine:
                run = await engine.start(flow, {}, run_id="r")
                assert await run.result() == {"n": 1}
        with pytest.raises(StoreClosed):
            _ = run.status

    story(tell())


def test_an_engine_can_be_entered_again(tmp_path):
    """The second life drives runs like the first."""

    async def tell():
        flow = counting()
        engine = Engine(tmp_path / "s", workflows=[flow])
        for n in range(3):
            async with engine:
                assert await (await engine.start(flow, {"n": n}, run_id=f"r{n}")).result() == {"n": n + 1}

    story(tell())


def test_a_log_of_ones_own_stays_open_when_the_engine_closes():
    """Who opened it closes it."""

    async def tell():
        log, flow = MemoryLog(), counting()
        async with Engine(log) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
        assert log.head("r").status == "completed"

    story(tell())


def test_an_engine_that_fails_to_enter_leaves_nothing_open(tmp_path):
    """Its lock is free again, so that the runs it had taken are not held by a ghost."""

    async def tell():
        flow = counting()
        async with Engine(tmp_path / "s", workflows=[flow], grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
        log = LmdbLog(tmp_path / "s")
        broken = _Unreadable(log)
        with pytest.raises(StoreUnusable):
            await Engine(broken, workflows=[flow], pick_up=True).__aenter__()
        assert [path.name for path in (tmp_path / "s" / "owners").iterdir()] == []
        log.close()

    story(tell())


class _Unreadable:
    """A log whose events can't be read."""

    def __init__(self, log):
        self._log = log

    def __getattr__(self, name):
        return getattr(self._log, name)

    def read(self, run_key, first, last):
        raise StoreUnusable("the disk answered with an error")


@pytest.mark.parametrize(
    ("flow", "options", "said"),
    [
        ("w", {}, "start takes the workflow itself"),
        (None, {"tags": "demo"}, r"write tags=\['demo'\]"),
        (None, {"timeout": "1h"}, "is in seconds"),
        (None, {"budget": 3}, "takes a Budget"),
    ],
)
def test_what_no_run_can_be_started_with_is_refused_in_a_sentence(flow, options, said):
    """Before anything is recorded."""

    async def tell():
        async with Engine() as engine:
            with pytest.raises(DefinitionError, match=said):
                await engine.start(flow or counting(), {}, run_id="r", **options)
            assert engine.log.head("r") is None

    story(tell())


def test_one_workflow_is_given_in_a_list():
    """A workflow is not one, and says so."""
    with pytest.raises(DefinitionError, match=r"write workflows=\[flow\]"):
        Engine(workflows=counting())


@pytest.mark.parametrize("turns", range(5))
def test_a_run_is_driven_though_whoever_started_it_was_cancelled_meanwhile(tmp_path, turns):
    """A run that is durable and belongs to a living process would else stand as running, and nobody would take it up."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda state: {"x": 1}).set_start("a")
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            busy = await engine.start(
                Workflow("b").add_node("a", lambda state: threading.Event().wait(0.2)).set_start("a")
            )
            starting = asyncio.create_task(engine.start(flow, {}, run_id="r"))
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            for _ in range(60):  # until it is over, or a while if it was never begun
                await asyncio.sleep(0.005)
                if (head := engine.log.head("r")) is not None and head.status == "completed":
                    break
            await busy.wait()
            return None if head is None else head.status

    assert story(tell()) == ("completed" if turns else None)
