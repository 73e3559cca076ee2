"""A changed definition: data that are reshaped, nodes that are renamed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypedDict

import pytest
from stories import is_whole, story, until

from eventflow import Budget, Child, Engine, Go, MemoryLog, Parallel, RetryPolicy, Wait, Workflow
from eventflow.address import resolve
from eventflow.errors import (
    BudgetExceeded,
    DefinitionChanged,
    DefinitionError,
    InvalidState,
    NodeNotFound,
    NotPlainData,
    NotResumable,
    RunFailed,
)
from eventflow.event import RunResumed
from eventflow.recovery import recover
from eventflow.testing import SkippingClock
from replay.diff import diff
from replay.history import detail
from replay.search import stats


class Old(TypedDict, total=False):
    name: str
    n: int


class New(TypedDict, total=False):
    names: list[str]
    n: int


@dataclass
class Whole:
    names: list[str]
    n: int = 0


def old(wait="hear", **options) -> Workflow:
    """How it was: one name, and a wait."""
    flow = Workflow("w", state=Old, **options).add_node(wait, Wait(signal="go")).add_node("end", lambda state: {"n": 1})
    return flow.add_edge(wait, "end").set_start(wait)


def new(wait="hear", state=New, **options) -> Workflow:
    """How it is: a list of names, and perhaps another name for the wait."""
    flow = Workflow("w", state=state, **options).add_node(wait, Wait(signal="go"))
    flow.add_node("end", lambda state: {"n": len(state["names"]) if isinstance(state, dict) else len(state.names)})
    return flow.add_edge(wait, "end").set_start(wait)


async def left(log, flow=None, data=None):
    """A run of the old definition that an engine has let go while it waits."""
    flow = flow or old()
    async with Engine(log, workflows=[flow]) as engine:
        run = await engine.start(flow, data or {"name": "ada", "n": 0}, run_id="r")
        await until(lambda: run.status == "waiting")


def reshaped(data):
    """The new data, from the old."""
    return {"names": [data.pop("name")], "n": data["n"]}


# --- migrate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("state", [New, Whole, None])
def test_data_are_reshaped_once_and_the_run_goes_on_with_them(where, state, tmp_path):
    """The change, the new definition, who and why are one event."""

    async def tell():
        log = MemoryLog() if where == "memory" else tmp_path / "s"
        await left(log)
        async with Engine(log, workflows=[new(state=state)]) as engine:
            run = await engine.resume("r", migrate=reshaped, actor="ada", why="names")
            assert recover(engine.log, engine.log.head("r")).state.data == {"names": ["ada"], "n": 0}
            resumed = next(one.event for one in run.events() if isinstance(one.event, RunResumed))
            assert (resumed.actor, resumed.why, resumed.to) == ("ada", "names", "")
            assert resumed.definition is not None
            assert sorted((op.op, op.path) for op in resumed.change) == [("delete", ("name",)), ("set", ("names",))]
            await engine.signal("r", "go")
            result = await run.result()
            assert (result if isinstance(result, dict) else {"names": result.names, "n": result.n}) == {
                "names": ["ada"],
                "n": 1,
            }
            assert is_whole(engine.log)

    story(tell())


def test_a_migration_is_folded_without_its_code():
    """Whoever reads the log needs neither the function nor the workflow."""

    async def tell():
        log = MemoryLog()
        await left(log)
        asked = []
        async with Engine(log, workflows=[new()]) as engine:
            await engine.resume("r", migrate=lambda data: asked.append(1) or reshaped(data))
        async with Engine(log) as engine:
            for version in range(1, engine.get("r").version + 1):
                recover(log, log.head("r"), version, snapshots=False)
            assert engine.get("r").state.data == {"names": ["ada"], "n": 0}
            assert len(asked) == 1

    story(tell())


def test_a_node_that_has_another_name_is_named_with_go():
    """The run stands on it from then on; the wait is opened there anew, and what waited to be read is read."""

    async def tell():
        log = MemoryLog()
        await left(log)
        async with Engine(log, workflows=[new("listen")]) as engine:
            with pytest.raises(NodeNotFound):
                await engine.resume("r")
            run = await engine.resume("r", migrate=lambda data: Go("listen", reshaped(data)))
            await until(lambda: run.state.wait is not None)
            assert (run.state.node, run.state.error, run.state.attempt) == ("listen", None, 1)
            await engine.signal("r", "go")
            assert await run.result() == {"names": ["ada"], "n": 1}
            assert is_whole(engine.log)
            texts = [detail(one) for one in run.events() if isinstance(one.event, RunResumed)]
            assert any("moved to listen, migrated: set names, delete name" in text for text in texts)

    story(tell())


def test_go_without_data_moves_the_run_and_leaves_the_data():
    """Nothing is deleted that was not spoken of."""

    async def tell():
        log = MemoryLog()
        await left(log)
        async with Engine(log, workflows=[old("listen")]) as engine:
            run = await engine.resume("r", migrate=lambda data: Go("listen"))
            assert run.state.data == {"name": "ada", "n": 0}
            await engine.signal("r", "go")
            assert await run.result() == {"name": "ada", "n": 1}

    story(tell())


def fails(data):
    """A migration with a bug."""
    raise KeyError("surname")


@pytest.mark.parametrize("aside", ["let go", "standing here"])
@pytest.mark.parametrize(
    ("function", "error"),
    [
        (fails, KeyError),
        (lambda data: None, InvalidState),
        (lambda data: data.update(names=[]), InvalidState),  # changed in place, nothing returned
        (lambda data: data, InvalidState),  # `name` is not declared any more
        (lambda data: {"names": "ada"}, InvalidState),
        (lambda data: ["ada"], InvalidState),
        (lambda data: {"names": [object()]}, InvalidState),
        (lambda data: Go("nowhere", {"names": []}), NodeNotFound),
        (lambda data: Go("end", {"names": 7}), InvalidState),
    ],
)
def test_a_migration_that_fails_leaves_the_run_untouched(function, error, aside):
    """Not an event more, and it can still be resumed."""

    async def tell():
        log = MemoryLog()
        if aside == "let go":
            await left(log)
        async with Engine(log, workflows=[new()] if aside == "let go" else ()) as engine:
            if aside != "let go":
                flow = old()
                run = await engine.start(flow, {"name": "ada", "n": 0}, run_id="r")
                await until(lambda: run.status == "waiting")
                engine._flows["w"] = new()
            before = log.head("r")
            with pytest.raises(error):
                await engine.resume("r", migrate=function)
            assert log.head("r") == before
            run = await engine.resume("r", migrate=reshaped)
            await engine.signal("r", "go")
            assert (await run.result())["names"] == ["ada"]

    story(tell())


def test_a_whole_state_that_lacks_a_field_is_refused_at_once():
    """Not when the next node is called."""

    async def tell():
        log = MemoryLog()
        await left(log)
        async with Engine(log, workflows=[new(state=Whole)]) as engine:
            with pytest.raises(InvalidState):
                await engine.resume("r", migrate=lambda data: {"n": 1})
            run = await engine.resume("r", migrate=lambda data: Whole([data["name"]], 3))
            assert run.state.data == {"names": ["ada"], "n": 3}

    story(tell())


def test_data_that_are_not_plain_are_refused():
    """As everywhere."""

    async def tell():
        log = MemoryLog()
        flow = Workflow("plain").add_node("hear", Wait(signal="go")).set_start("hear")
        await left(log, flow)
        async with Engine(log, workflows=[flow]) as engine:
            with pytest.raises(NotPlainData):
                await engine.resume("r", migrate=lambda data: {"x": {1, 2}})

    story(tell())


@pytest.mark.parametrize("go", [False, True])
def test_strict_refuses_a_migration_to_another_definition(go):
    """And takes one that stays within the recorded one."""

    async def tell():
        log, asked = MemoryLog(), []
        await left(log)
        async with Engine(log, workflows=[new("listen" if go else "hear")]) as engine:
            with pytest.raises(DefinitionChanged):
                await engine.resume(
                    "r", strict=True, migrate=lambda data: asked.append(1) or Go("listen", reshaped(data))
                )
            assert not asked
        async with Engine(log, workflows=[old()]) as engine:
            run = await engine.resume("r", strict=True, migrate=lambda data: {**data, "n": 8})
            assert run.state.data["n"] == 8

    story(tell())


def test_a_run_that_is_at_work_here_is_not_migrated_under_its_feet():
    """It must be paused first: nothing is passed over in silence."""

    async def tell():
        gate = asyncio.Event()

        async def slow(state):
            await gate.wait()

        flow = (
            Workflow("w")
            .add_node("slow", slow)
            .add_node("end", lambda s: None)
            .add_edge("slow", "end")
            .set_start("slow")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            for options in ({"migrate": lambda data: data}, {"budget": Budget(steps=9)}):
                with pytest.raises(NotResumable, match="pause it first"):
                    await engine.resume("r", **options)
            await engine.pause("r")
            gate.set()
            run = await engine.resume("r", migrate=lambda data: {"n": 5})
            assert await run.result() == {"n": 5}

    story(tell())


@pytest.mark.parametrize("how", ["waiting", "parked", "resting", "branches"])
def test_a_run_that_stands_still_here_takes_a_migration_and_a_budget(how):
    """It is let go and taken up again for it, without a node being cut off."""

    async def tell():
        def fail(state):
            raise ValueError("not yet")

        body = {
            "resting": fail,
            "branches": Parallel({"a": Wait(signal="a"), "b": Wait(signal="b")}),
        }.get(how, Wait(signal="go"))
        options = {"retry": RetryPolicy(attempts=2, delay=3600), "after_crash": "ask"} if how == "resting" else {}
        flow = Workflow("w").add_node("stand", body, **options).set_start("stand")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            await until(lambda: run.status == "waiting")
            if how == "parked":
                await until(lambda: engine._desk.driver(engine.log.head("r").run_key) is None)
            run = await engine.resume("r", migrate=lambda data: {"n": 5}, budget=Budget(steps=7))
            assert run.state.data == {"n": 5}
            assert run.state.run.budget["steps"] == 7
            assert run.state.waiting_for == ("" if how == "resting" else "signal")
            assert bool(run.state.retry_at) is (how == "resting")
            assert is_whole(engine.log)

    story(tell())


def test_a_budget_alone_lets_a_run_go_on_that_had_spent_it():
    """It is recorded with the resumption."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda s: None).add_node("b", lambda s: None).add_node("c", lambda s: None)
        flow.add_edge("a", "b").add_edge("b", "c").set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r", budget=Budget(steps=1))
            with pytest.raises(RunFailed, match=BudgetExceeded.__name__):
                await run.result()
            await (await engine.resume("r", budget=Budget(steps=9))).result()
            assert run.state.run.budget["steps"] == 9

    story(tell())


def test_going_back_and_migrating_are_one_append():
    """The data at that version are what the function gets, and the run never stands there unmigrated."""

    async def tell():
        log = MemoryLog()
        await left(log)
        async with Engine(log, workflows=[new("listen")]) as engine:
            with pytest.raises(NodeNotFound):
                await engine.resume("r", at=1)
            run = await engine.resume(
                "r", at=1, migrate=lambda data: Go("listen", reshaped(data)), budget=Budget(steps=5), why="both"
            )
            await engine.signal("r", "go")
            assert await run.result() == {"names": ["ada"], "n": 1}
            names = [type(one.event).__name__ for one in run.events()]
            place = names.index("Rewound")
            assert names[place + 1] == "RunResumed"
            assert names.count("RunResumed") == 1
            assert run.state.run.budget["steps"] == 5
            assert is_whole(log)

    story(tell())


def test_a_migration_away_from_a_child_calls_it_off():
    """Nobody waits for it any more."""

    async def tell():
        log = MemoryLog()
        kid = Workflow("kid").add_node("hear", Wait(signal="never")).set_start("hear")
        flow = Workflow("w").add_node("kid", Child(kid, reads=lambda s: {})).add_node("end", lambda s: None)
        flow.add_edge("kid", "end").set_start("kid")
        await left(log, flow)
        async with Engine(log, workflows=[flow]) as engine:
            name = recover(log, log.head("r")).state.wait["name"]
            run = await engine.resume("r", migrate=lambda data: Go("end", data))
            await run.result()
            await until(lambda: engine.get(name).status == "cancelled")

    story(tell())


def test_calls_of_the_node_that_is_left_answer_nobody_and_those_of_one_that_stays_do():
    """A move is a new visit; a change of data is not."""

    async def tell():
        made = []

        async def body(state, run):
            made.append(await run.effect("look", lambda: len(made), mutating=False))
            if len(made) == 1:
                raise ValueError("once")

        flow = Workflow("w").add_node("one", body).add_node("two", body).set_start("one")
        async with Engine(workflows=[flow]) as engine:
            for name, to in (("stays", "one"), ("moves", "two")):
                made.clear()
                run = await engine.start(flow, {"n": 0}, run_id=name)
                with pytest.raises(RunFailed):
                    await run.result()
                run = await engine.resume(name, migrate=lambda data, to=to: Go(to, {"n": 1}))
                await run.result()
                assert made == ([0, 0] if to == "one" else [0, 1])

    story(tell())


def test_a_run_that_takes_back_what_it_did_is_not_moved_away():
    """It goes on with that, without a migration."""

    async def tell():
        async def pay(state, run):
            await run.effect("pay", lambda: "paid")

        async def back(receipt):
            raise TypeError("it can't be")

        flow = Workflow("w").add_node("pay", pay).add_node("fail", fails).add_edge("pay", "fail").set_start("pay")
        flow.add_compensation("pay", back)
        async with Engine(workflows=[flow], clock=SkippingClock()) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "failed" and run.state.undoing is not None)
            with pytest.raises(NotResumable, match="without migrate"):
                await engine.resume("r", migrate=lambda data: Go("pay", data))

    story(tell())


def test_replay_shows_what_a_migration_did():
    """What differs between before and after is what the function did, and the new node is one of those visited."""

    async def tell():
        log = MemoryLog()
        await left(log)
        async with Engine(log, workflows=[new("listen")]) as engine:
            version = engine.get("r").version
            run = await engine.resume("r", migrate=lambda data: Go("listen", reshaped(data)))
            await engine.signal("r", "go")
            await run.result()
            compared = diff(log, resolve(log, f"r@{version}"), resolve(log, f"r@{version + 1}"))
            assert {edit.path[0] for edit in compared.patch} == {"name", "names"}
            assert compared.standing["node"] == ("hear", "listen")
            costs = {cost.node: cost.visits for cost in stats(log, resolve(log, "r")).nodes}
            assert costs == {"hear": 1, "listen": 1, "end": 1}

    story(tell())


# --- a workflow's own way from older data --------------------------------------------------------------------------


def renamed(version: str, *, upcasts: bool = True) -> Workflow:
    """A greeting that waits; version 2 calls `name` by `who`."""
    field = "name" if version == "1" else "who"
    flow = Workflow("greet", version=version).add_node("wait", Wait(signal="go"))
    flow.add_node("say", lambda state: {"said": f"hello {state[field]}"}).add_edge("wait", "say").set_start("wait")
    if version == "2" and upcasts:
        flow.add_upcaster("1", lambda data: {"who": data.pop("name"), **data})
    return flow


def test_data_of_an_older_version_are_carried_over_when_a_run_is_taken_up():
    """Nobody has to say so: the workflow knows, the event records it, and it happens once."""

    async def tell():
        log = MemoryLog()
        flow = renamed("1")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {"name": "Ada"}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.001)
        for _ in range(2):
            async with Engine(log, workflows=[renamed("2")], pick_up=True) as engine:
                assert engine.get("r").state.data == {"who": "Ada"}
        async with Engine(log, workflows=[renamed("2")]) as engine:
            run = await engine.resume("r")
            await engine.signal("r", "go")
            assert (await run.result())["said"] == "hello Ada"
            changed = [one.event.change for one in run.events() if isinstance(one.event, RunResumed)]
            assert [bool(change) for change in changed] == [True, False, False]
            fork = await engine.fork("r@1", run_id="f")
            await engine.signal("f", "go")
            assert (await fork.result())["said"] == "hello Ada"

    asyncio.run(asyncio.wait_for(tell(), 30))


def test_an_upcaster_is_of_another_version_than_its_workflows():
    """And there is one for each."""
    flow = renamed("2")
    for version in ("1", "2"):
        with pytest.raises(DefinitionError, match="upcaster"):
            flow.add_upcaster(version, lambda data: data)
