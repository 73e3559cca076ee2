"""Children: runs that nodes start and wait for. How they begin, how they end, and what reaches whom."""

from __future__ import annotations

from typing import Annotated, TypedDict

import pytest
from child_flows import calling, single, there
from stories import reached, sound, story

from eventflow import Child, Engine, Map, Parallel, RunFailed, Wait, Workflow, extend
from eventflow.errors import (
    DefinitionError,
    WorkflowUnknown,
)
from eventflow.event import SignalReceived, WaitOpened
from eventflow.log import LmdbLog
from eventflow.state import open_waits

# --- input and result ----------------------------------------------------------------------------------------------


class Book(TypedDict, total=False):
    """A caller's state."""

    topic: str
    chapter: str
    whole: dict
    texts: Annotated[list[str], extend]


def writing(state):
    """A child's only node."""
    return {"text": f"On {state['topic']}.", "words": 2}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reads": ["topic"], "writes": {"text": "chapter"}}, {"chapter": "On tides."}),
        ({"reads": lambda state: {"topic": state["topic"].upper()}, "writes": {"text": "chapter"}}, {"chapter": "On TIDES."}),
        ({"writes": {"text": "chapter"}}, {"chapter": "On tides."}),
        ({"reads": ["topic"], "writes": "whole"}, {"whole": {"topic": "tides", "text": "On tides.", "words": 2}}),
        ({"reads": ["topic"]}, {}),
    ],
)  # fmt: skip
def test_a_child_gets_what_it_reads_and_brings_what_is_written(options, expected):
    """Fields, a function, the whole state; a mapping, the whole, nothing."""
    assert calling(Child(single(writing), **options)).run_sync({"topic": "tides"}) == {
        "topic": "tides", "ended": True, **expected,
    }  # fmt: skip


def test_a_field_may_hold_the_childs_whole_input():
    """Then it is named by a text."""
    flow = calling(Child(single(writing), reads="order", writes={"text": "chapter"}))
    assert flow.run_sync({"order": {"topic": "moons"}})["chapter"] == "On moons."


def test_an_input_that_does_not_fit_fails_before_anything_waits_for_it():
    """The child's declared type says what is wrong; no wait is open, no run is started."""

    class Strict(TypedDict):
        topic: int

    async def tell():
        flow = calling(Child(single(lambda state: None, state=Strict), reads=["topic"]))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"topic": "no number"}, run_id="r")
            with pytest.raises(RunFailed, match="topic"):
                await run.result()
            assert not [one for one in run.events() if isinstance(one.event, WaitOpened)]
            run = await engine.start(flow, {}, run_id="without")
            with pytest.raises(RunFailed, match="a child reads it"):
                await run.result()

    story(tell())


# --- a run of its own ----------------------------------------------------------------------------------------------


def test_a_child_is_a_run_of_its_own_and_both_know_each_other():
    """The caller's wait names the child; the child's first event names the caller; tags and subject are passed on."""

    async def tell():
        child = single(Wait(signal="go", writes="got"))
        flow = calling(Child(child, writes={"got": "got"}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r", tags=["t"], subject="ana")
            await reached(run, "waiting")
            ((_, wait),) = open_waits(run.state)
            assert (run.state.waiting_for, wait["kind"], wait["name"]) == ("child", "child", "r.call-1")
            mine = await there(engine, "r.call-1", "waiting")
            assert (mine.state.run.caller.run_id, mine.state.run.caller.run_key) == ("r", run.state.run.run_key)
            assert (list(mine.state.run.tags), mine.state.run.subject) == (["t"], "ana")
            await engine.signal("r.call-1", "go", 1)
            assert await run.result() == {"got": 1, "ended": True}
            sound(engine.log)

    story(tell())


def test_a_childs_end_reaches_its_caller_in_the_same_transaction(tmp_path):
    """Nothing is written between the child's last event and the message: the caller is down and finds it when it comes."""

    async def tell():
        child = single(Wait(signal="go", writes="got"))
        flow = calling(Child(child, writes={"got": "got"}))
        log = LmdbLog(tmp_path / "s")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1", "waiting")
        async with Engine(log, workflows=[child]) as alone:  # knows the child's workflow only
            mine = await alone.resume("r.call-1")
            await alone.signal("r.call-1", "go", 5)
            await mine.result()
            ((_, words),) = log.inbox(run.state.run.run_key)
            assert b"completed" in words
            with pytest.raises(WorkflowUnknown):
                await alone.resume("r")
        async with Engine(log, workflows=[flow], pick_up=True) as engine:
            run = engine.get("r")
            assert await run.result() == {"got": 5, "ended": True}
            assert sum(isinstance(one.event, SignalReceived) for one in run.events()) == 1
        sound(log)
        log.close()

    story(tell())


def test_the_childs_workflow_is_known_from_the_callers(tmp_path):
    """An engine that was given the caller's workflow alone takes up its children and grandchildren."""

    async def tell():
        inner = single(Wait(signal="go", writes="got"), "inner")
        middle = calling(Parallel({"a": Child(inner, writes={"got": "got"})}), "middle")
        flow = calling(Child(middle, writes={"got": "got"}))
        async with Engine(tmp_path / "s") as engine:
            await engine.start(flow, {}, run_id="r")
            await there(engine, "r.call-1.call-1.a", "waiting")
        async with Engine(tmp_path / "s", workflows=[flow], pick_up=True) as engine:
            await engine.signal("r.call-1.call-1.a", "go", 3)
            assert await engine.get("r").result() == {"got": 3, "ended": True}
            sound(engine.log)

    story(tell())


def test_children_of_branches_and_of_items_have_ids_of_their_own():
    """Two in a Parallel, three in a Map; a Map's values are whole states, in the items' order."""
    child = single(lambda state: {"double": 2 * state["n"]})
    flow = (
        Workflow("caller")
        .add_node("two", Parallel({
            "a": Child(child, reads=lambda state: {"n": 1}, writes={"double": "a"}),
            "b": Child(child, reads=lambda state: {"n": 2}, writes={"double": "b"}),
        }))
        .add_node("three", Map(Child(child, reads=lambda item: {"n": item}), over="items", writes="out"))
        .add_edge("two", "three")
        .set_start("two")
    )  # fmt: skip

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": [5, 6, 7]}, run_id="r")
            result = await run.result()
            assert (result["a"], result["b"]) == (2, 4)
            assert [one["double"] for one in result["out"]] == [10, 12, 14]
            visit = next(one.version for one in run.events() if type(one.event).__name__ == "Transitioned")
            for name in ("r.two-1.a", "r.two-1.b", f"r.three-{visit}.0", f"r.three-{visit}.2"):
                assert engine.get(name).status == "completed"
            sound(engine.log)

    story(tell())


def test_a_hundred_children_at_once_all_come_back():
    """Their ends come in any order, and many at a time."""
    child = single(lambda state: {"n": state["n"] + 1})
    flow = calling(Map(Child(child, reads=lambda item: {"n": item}), over="items", writes="out"))
    out = flow.run_sync({"items": list(range(100))})["out"]
    assert [one["n"] for one in out] == list(range(1, 101))


def test_each_turn_of_a_loop_starts_another_child():
    """A node that is visited again waits for a new run."""

    async def tell():
        child = single(lambda state: {"n": state["n"] + 1})
        flow = (
            Workflow("caller")
            .add_node("call", Child(child, reads=["n"], writes={"n": "n"}))
            .add_node("end", lambda state: None)
            .add_edge("call", "call", when=lambda state: state["n"] < 3)
            .add_edge("call", "end")
            .set_start("call")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            assert await run.result() == {"n": 3}
            names = [one.event.name for one in run.events() if isinstance(one.event, WaitOpened)]
            assert len({*names}) == 3

    story(tell())


def test_a_workflow_may_start_itself():
    """A child is asked for its definition when it is needed, so that a workflow that is still being built may name itself."""
    flow = Workflow("sum")
    flow.add_node("look", lambda state: None)
    flow.add_node("less", Child(flow, reads=lambda state: {"n": state["n"] - 1}, writes={"sum": "rest"}))
    flow.add_node("add", lambda state: {"sum": state["n"] + state.get("rest", 0)})
    flow.add_edge("look", "less", when=lambda state: state["n"] > 1).add_edge("look", "add").add_edge("less", "add")
    assert flow.set_start("look").run_sync({"n": 4})["sum"] == 10


def test_a_child_takes_a_workflow_and_nothing_else():
    """A function is a node of its own."""
    with pytest.raises(DefinitionError, match="Workflow"):
        Child(writing)
