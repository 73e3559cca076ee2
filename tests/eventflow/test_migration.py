"""A changed definition: data that are reshaped, nodes that are renamed, code that goes another way."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TypedDict

import pytest

from eventflow import Budget, CheckpointPolicy, Child, Engine, Go, MemoryLog, Parallel, RetryPolicy, Wait, Workflow
from eventflow.address import resolve
from eventflow.errors import (
    BudgetExceeded,
    DefinitionChanged,
    EffectMisused,
    InvalidState,
    NodeNotFound,
    NotPlainData,
    NotResumable,
    RunFailed,
)
from eventflow.event import EffectFinished, RunResumed
from eventflow.recovery import recover
from eventflow.testing import SkippingClock
from eventflow.verification import verify_store
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


def story(work):
    """Run an async story to its end."""
    return asyncio.run(asyncio.wait_for(work, 20))


async def until(look):
    """Wait for something that comes soon."""
    while not (answer := look()):
        await asyncio.sleep(0.004)
    return answer


def is_whole(log) -> bool:
    """Whether verification finds nothing wrong in a store."""
    return not list(verify_store(log))[-1].findings


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


# --- patched -------------------------------------------------------------------------------------------------------


def visiting(calls, code) -> Workflow:
    """A node whose code is given, with the calls it makes noted."""

    async def body(state, run):
        async def call(name):
            return await run.effect(name, lambda: calls.append(name) or name, mutating=False)

        return await code(run, call)

    return Workflow("w").add_node("work", body, retry=RetryPolicy(attempts=9, delay=0.001)).set_start("work")


async def visited(log, calls, *codes):
    """A run whose node is driven by one code after the other, each in an engine of its own."""
    result = None
    for number, code in enumerate(codes):
        flow = visiting(calls, code)
        async with Engine(log, workflows=[flow]) as engine:
            run = await (engine.resume("r") if number else engine.start(flow, {}, run_id="r"))
            result = await run.wait()
    return result


def dies_at(code, place):
    """The same code, which comes no further than to a call."""

    async def dying(run, call):
        async def until_then(name):
            if name == place:
                await asyncio.Event().wait()  # the engine is closed meanwhile
            return await call(name)

        return await code(run, until_then)

    return dying


async def old_code(run, call):
    """Two calls, as it was."""
    return {"way": [await call("a"), await call("b"), await call("c")]}


async def new_code(run, call):
    """Something new before the second of them."""
    first = await call("a")
    middle = await call("new") if await run.patched("better") else await call("b")
    return {"way": [first, middle, await call("c")]}


async def top_code(run, call):
    """The change stands at the top."""
    if await run.patched("better"):
        return {"way": [await call("new"), await call("c")]}
    return await old_code(run, call)


async def cut_short(log, calls, code, at):
    """A run whose code is let go in the middle, when it has made these calls."""
    flow = visiting(calls, dies_at(code, at))
    async with Engine(log, workflows=[flow], grace=0) as engine:
        run = engine.log.head("r") and await engine.resume("r")
        run = run or await engine.start(flow, {}, run_id="r")
        await until(lambda: run.status == "running")
        seen = -1
        while seen != run.version:  # until it makes no call any more
            seen = run.version
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("new_way", "at", "way"),
    [
        (top_code, "a", ["new", "c"]),  # the old code had made no call
        (top_code, "b", ["a", "b", "c"]),
        (top_code, "c", ["a", "b", "c"]),
        (new_code, "a", ["a", "new", "c"]),
        (new_code, "b", ["a", "new", "c"]),  # it had not come to the change
        (new_code, "c", ["a", "b", "c"]),
    ],
)
def test_a_visit_stays_on_the_way_that_its_old_code_took(new_way, at, way):
    """It goes the new way if the old code had not come past the change; however often it is cut off after that."""

    async def tell():
        for cut in (None, *way[1:]):
            log, calls = MemoryLog(), []
            await cut_short(log, calls, old_code, at)
            if cut is not None:
                await cut_short(log, calls, new_way, cut)
            flow = visiting(calls, new_way)
            async with Engine(log, workflows=[flow]) as engine:
                assert await (await engine.resume("r")).result() == {"way": way}
            assert len(calls) == len({*calls})

    story(tell())


@pytest.mark.parametrize("code", [top_code, new_code])
def test_a_new_visit_goes_the_new_way_also_when_it_is_cut_off(code):
    """Wherever the change stands in its code, and wherever it is cut off."""

    async def tell():
        way = ["new", "c"] if code is top_code else ["a", "new", "c"]
        for cut in (None, *way):
            log, calls = MemoryLog(), []
            flow = visiting(calls, code)
            if cut is not None:
                await cut_short(log, calls, code, cut)
            async with Engine(log, workflows=[flow]) as engine:
                run = await (engine.start(flow, {}, run_id="r") if cut is None else engine.resume("r"))
                assert await run.result() == {"way": way}

    story(tell())


def test_the_way_is_recorded_and_outlives_a_kill(tmp_path, child):
    """A process that dies right after it has decided leaves the decision to the next."""

    def life(code, died_at=""):
        async def tell():
            async def dying(run, call):
                async def made(name):
                    if name == died_at:
                        os._exit(9)
                    return await call(name)

                return await code(run, made)

            flow = visiting([], dying)
            policy = CheckpointPolicy(every=1)
            async with Engine(tmp_path / "s", workflows=[flow], checkpoints=policy) as engine:
                run = await (engine.resume("r") if engine.log.head("r") else engine.start(flow, {}, run_id="r"))
                return await run.result()

        return story(tell())

    assert child(lambda: life(old_code, "c")).answer() == "signal 0"
    assert child(lambda: life(new_code, "c")).answer() == "signal 0"
    assert child(lambda: life(new_code, "c")).answer() == "signal 0"
    assert life(new_code) == {"way": ["a", "b", "c"]}


def test_several_changes_are_told_apart_by_their_names():
    """A visit that took the first new way has not thereby taken the second."""

    async def tell():
        async def first(run, call):
            if await run.patched("one"):
                return {"way": [await call("x"), await call("y")]}
            return await old_code(run, call)

        async def second(run, call):
            if await run.patched("one"):
                before = [await call("z")] if await run.patched("two") else []
                return {"way": [*before, await call("x"), await call("y")]}
            return await old_code(run, call)

        log, calls = MemoryLog(), []
        await cut_short(log, calls, first, "y")
        async with Engine(log, workflows=[visiting(calls, second)]) as engine:
            assert await (await engine.resume("r")).result() == {"way": ["x", "y"]}
        async with Engine(workflows=[flow := visiting(calls, second)]) as engine:
            assert await (await engine.start(flow, {})).result() == {"way": ["z", "x", "y"]}

    story(tell())


def test_branches_decide_each_for_itself():
    """One that had begun stays on the old way; another, which had not, does not."""

    async def tell():
        gate, is_new = asyncio.Event(), [False]

        async def body(state, run):
            if is_new[0] and await run.patched("better"):
                return {run.branch: "new"}
            if run.branch == "late" and not is_new[0]:
                await gate.wait()
            await run.effect("old", lambda: 1, mutating=False)
            if not is_new[0]:
                await gate.wait()
            return {run.branch: "old"}

        flow = Workflow("w").add_node("both", Parallel({"early": body, "late": body})).set_start("both")
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: any(isinstance(one.event, EffectFinished) for one in run.events()))
        is_new[0] = True
        async with Engine(log, workflows=[flow]) as engine:
            assert await (await engine.resume("r")).result() == {"early": "old", "late": "new"}

    story(tell())


def test_a_plain_function_asks_on_its_own_thread():
    """And each is told if it takes the other's call."""

    async def tell():
        def plain(state, run):
            if state.get("wrong"):
                coroutine = run.patched("x")
                try:
                    coroutine.send(None)
                finally:
                    coroutine.close()
            return {"new": run.patched_sync("x")}

        async def wrong(state, run):
            return {"new": run.patched_sync("x")}

        async with Engine() as engine:
            flow = Workflow("plain").add_node("a", plain).set_start("a")
            assert await (await engine.start(flow, {})).result() == {"new": True}
            for broken, data in ((flow, {"wrong": True}), (Workflow("other").add_node("a", wrong).set_start("a"), {})):
                with pytest.raises(RunFailed, match=EffectMisused.__name__):
                    await (await engine.start(broken, data)).result()

    story(tell())


def test_the_next_visit_of_the_same_node_decides_anew():
    """An old visit's way is not the next one's."""

    async def tell():
        log, is_new, gate = MemoryLog(), [False], asyncio.Event()

        async def body(state, run):
            new_way = is_new[0] and await run.patched("better")
            await run.effect("call", lambda: 1, mutating=False)
            if not is_new[0]:
                await gate.wait()
            return {"ways": [*state.get("ways", []), new_way]}

        flow = Workflow("w").add_node("loop", body).add_node("end", lambda s: None).set_start("loop")
        flow.add_edge("loop", "loop", when=lambda s: len(s["ways"]) < 3, label="more").add_edge("loop", "end")
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.version == 3)
        is_new[0] = True
        async with Engine(log, workflows=[flow]) as engine:
            assert (await (await engine.resume("r")).result())["ways"] == [False, True, True]

    story(tell())
