"""What users of durable workflows elsewhere were hurt by: each test is named after the failure, and shows it can't happen here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any, TypedDict

import pytest
from stories import reached, story

from eventflow import (
    Budget,
    CheckpointPolicy,
    Engine,
    Human,
    ManualClock,
    Map,
    MemoryLog,
    Parallel,
    RetryPolicy,
    RunFailed,
    Sleep,
    Wait,
    Workflow,
    extend,
)
from eventflow.errors import (
    Conflict,
    Corrupt,
    EffectMisused,
    NotPlainData,
    RunOwned,
    VersionConflict,
)
from eventflow.event import EffectStarted, RunStarted, Transitioned
from eventflow.log import LmdbLog
from eventflow.recovery import recover
from eventflow.state import open_waits
from eventflow.testing.author import Author


class Data(TypedDict, total=False):
    """A state with a field for each kind of story."""

    n: int
    notes: Annotated[list[str], extend]
    answer: str
    left: str
    right: str
    items: list[int]
    got: list[int]


def single(body, name="one", **options):
    """A workflow of one node."""
    return Workflow(name, state=Data).add_node("a", body, **options).set_start("a")


# --- what a run costs ----------------------------------------------------------------------------------------------


def test_a_runaway_loop_fills_the_disk():
    """A run that never ends of itself stops at its budget."""
    flow = single(lambda s: {"n": s.get("n", 0) + 1}).add_node("b", lambda s: None)
    flow.add_edge("a", "a", when=lambda s: True).add_edge("a", "b")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, budget=Budget(steps=50))
            with pytest.raises(RunFailed, match="50 of 50 steps"):
                await run.result()
            assert run.state.data["n"] == 50

    story(tell())


def test_a_value_that_is_too_large_is_tried_for_ever():
    """It is a final, typed error, with the path of the value, however many attempts there are."""
    tries = []

    def body(state):
        tries.append(1)
        return {"answer": "x" * (65 << 20)}

    flow = single(body, retry=RetryPolicy(attempts=5, delay=0))

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {})
            with pytest.raises(RunFailed, match="answer"):
                await run.result()

    story(tell())
    assert len(tries) == 1


def test_thousands_of_recorded_calls_make_each_next_one_slower():
    """A call costs the same after many: the log is not read again, nothing is replayed."""
    seen = []

    async def body(state, run):
        for number in range(300):
            await run.effect("call", lambda number: number, number, key=str(number), mutating=False)
        seen.append(run.attempt)
        return {"n": 300}

    async def tell():
        log = MemoryLog()
        reads = []
        real = log.read
        log.read = lambda *given: reads.append(given) or real(*given)  # what a call asks of the log
        async with Engine(log, workflows=[flow]) as engine:
            assert await (await engine.start(flow, {})).result() == {"n": 300}
        assert len(reads) < 20

    flow = single(body)
    story(tell())


# --- accepted, then lost -------------------------------------------------------------------------------------------


def test_a_crash_before_the_first_checkpoint_drops_an_accepted_run(tmp_path):
    """It is in the log before any code of the user runs, and is picked up."""
    begun = []

    async def body(state):
        begun.append(1)
        return {"n": 1}

    flow = single(body)

    async def tell():
        gate = asyncio.Event()

        async def stuck(state):
            await gate.wait()

        first = single(stuck)
        async with Engine(tmp_path / "store", workflows=[first], grace=0) as engine:
            run = await engine.start(first, {}, run_id="r")
            assert isinstance(run.events()[0].event, RunStarted)
        async with Engine(tmp_path / "store", workflows=[flow], pick_up=True) as engine:
            assert await engine.get("r").result() == {"n": 1}

    story(tell())
    assert begun == [1]


def test_falsy_states_count_as_no_state(tmp_path):
    """0, "", [] and None are values, before and after a crash."""

    class Falsy(TypedDict):
        a: int
        b: str
        c: list[int]
        d: None
        e: bool

    flow = Workflow("falsy", state=Falsy).add_node("a", lambda s: {"a": 0, "b": "", "c": [], "d": None, "e": False})
    flow.set_start("a")

    async def tell():
        async with Engine(tmp_path / "store", workflows=[flow]) as engine:
            run = await engine.start(flow, {"a": 1, "b": "x", "c": [1], "d": None, "e": True}, run_id="r")
            await run.result()
        log = LmdbLog(tmp_path / "store", readonly=True)
        state = recover(log, log.head("r"), snapshots=False).state
        log.close()
        assert state.data == {"a": 0, "b": "", "c": [], "d": None, "e": False}

    story(tell())


def test_state_read_back_is_silently_empty_and_then_committed(tmp_path):
    """A history that does not fold to what the chain says stops everything, and nothing is written."""
    log = LmdbLog(tmp_path / "store")
    author = Author(log)
    head = author.start("r", {"n": 1})
    author.add(head, Transitioned("a", "a"))
    stored = log.read(head.run_key, 2, 2)[0]
    log.close()
    file = tmp_path / "store" / "data.1" / "data.mdb"
    whole = file.read_bytes()
    spoiled = stored.data[:-1] + bytes([stored.data[-1] ^ 1])
    file.write_bytes(whole.replace(stored.data, spoiled))
    with pytest.raises(Corrupt):
        LmdbLog(tmp_path / "store")


# --- two writers ---------------------------------------------------------------------------------------------------


def test_two_concurrent_writers_are_both_accepted():
    """The second is refused by the version it expects, and the history stays one line."""
    log = MemoryLog()
    author = Author(log)
    head = author.start("r", {"n": 1})
    append = author.then(head, Transitioned("a", "a"))
    assert log.write([append])[0].head.version == 2
    assert isinstance(log.write([append])[0], VersionConflict)


def test_two_processes_drive_one_run_at_the_same_time(tmp_path):
    """A second engine is told who drives it."""

    async def tell():
        gate = asyncio.Event()

        async def body(state):
            await gate.wait()

        flow = single(body)
        log = LmdbLog(tmp_path / "store")
        async with Engine(log, workflows=[flow]) as one, Engine(log, workflows=[flow]) as other:
            run = await one.start(flow, {}, run_id="r")
            with pytest.raises(RunOwned):
                await other.resume("r")
            gate.set()
            await run.result()
        log.close()

    story(tell())


# --- done twice ----------------------------------------------------------------------------------------------------


def test_a_long_tool_call_is_silently_dispatched_again():
    """A mutating call that was cut off is not made again: the run asks what became of it."""
    calls = []

    async def body(state, run):
        await run.effect("pay", pay)
        return {"n": 1}

    async def pay():
        calls.append(1)
        await asyncio.sleep(30 if len(calls) == 1 else 0)

    flow = single(body)

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
            while not calls:
                await asyncio.sleep(0.002)
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            await reached(run, "waiting")
            assert run.state.waiting_for == "unknown"
            await engine.settle("r", "pay", happened=True, output=None)
            await run.result()

    story(tell())
    assert len(calls) == 1


def test_a_retry_runs_calls_again_that_had_succeeded():
    """What is recorded answers from the log in every later attempt."""
    calls = []

    async def body(state, run):
        await run.effect("first", lambda: calls.append("first"))
        if run.attempt == 1:
            raise ValueError("later")
        return {"n": 1}

    flow = single(body, retry=RetryPolicy(attempts=2, delay=0))
    assert flow.run_sync({}) == {"n": 1}
    assert calls == ["first"]


def test_code_before_an_interrupt_runs_again_on_each_resume():
    """A wait is a node of its own: what came before it is over."""
    begun = []
    flow = Workflow("ask", state=Data)
    flow.add_node("before", lambda s: begun.append(1) or {"n": 1}).add_node("ask", Human(prompt="?", writes="answer"))
    flow.add_node("after", lambda s: None).add_edge("before", "ask").add_edge("ask", "after").set_start("before")

    async def tell():
        log = MemoryLog()
        for _ in range(3):
            async with Engine(log, workflows=[flow], pick_up=True) as engine:
                run = await engine.start(flow, {}, run_id="r")
                await reached(run, "waiting")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            await engine.answer("r", "yes")
            assert (await run.result())["answer"] == "yes"

    story(tell())
    assert begun == [1]


def test_an_error_handler_runs_twice():
    """The error edge is taken once, by one event, whatever dies after it."""
    handled = []
    flow = Workflow("handled", state=Data).add_node("work", lambda s: 1 / 0)
    flow.add_node("handle", lambda s: handled.append(1) or {"n": 1}).add_node("end", Wait(signal="go"))
    flow.add_edge("work", "handle", on="failed").add_edge("work", "end").add_edge("handle", "end").set_start("work")

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            await engine.signal("r", "go")
            await run.result()

    story(tell())
    assert handled == [1]


def test_the_join_of_parallel_branches_runs_twice():
    """It is one transition, and what follows it runs once, over a crash in the middle of the branches."""
    made: dict[str, int] = {"left": 0, "right": 0, "join": 0}
    gate = asyncio.Event()

    def left(state):
        made["left"] += 1
        return {"left": "l"}

    async def right(state):
        made["right"] += 1
        if made["right"] == 1:
            await gate.wait()
        return {"right": "r"}

    def join(state):
        made["join"] += 1

    flow = Workflow("joined", state=Data).add_node("split", Parallel({"left": left, "right": right}))
    flow.add_node("join", join).add_edge("split", "join").set_start("split")

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while not any(type(one.event).__name__ == "BranchFinished" for one in run.events()):
                await asyncio.sleep(0.002)
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            assert await run.result() == {"left": "l", "right": "r"}
            joins = [one.event for one in run.events() if isinstance(one.event, Transitioned)]
            assert len(joins) == 1

    story(tell())
    assert made == {"left": 1, "right": 2, "join": 1}


def test_going_back_inside_a_parallel_section_runs_all_of_it_again():
    """Branches that were over at that version stay over."""
    made = []
    flow = Workflow("mapped", state=Data).add_node(
        "each", Map(lambda item: made.append(item) or item, over="items", writes="got")
    )
    flow.add_node("end", lambda s: None).add_edge("each", "end").set_start("each")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": [1, 2, 3]}, run_id="r")
            await run.result()
            ends = [one.version for one in run.events() if type(one.event).__name__ == "BranchFinished"]
            run = await engine.resume("r", at=ends[1])
            assert (await run.result())["got"] == [1, 2, 3]

    story(tell())
    assert len(made) == 4


# --- the wrong one -------------------------------------------------------------------------------------------------


def test_parallel_interrupts_share_one_id_and_an_answer_goes_to_the_wrong_one():
    """Each wait has its own id; an answer names it."""
    flow = Workflow("two", state=Data)
    flow.add_node(
        "ask", Parallel({"l": Human(prompt="left?", writes="left"), "r": Human(prompt="right?", writes="right")})
    )
    flow.set_start("ask")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            waits = {branch: wait["id"] for branch, wait in open_waits(run.state)}
            assert waits["l"] != waits["r"]
            await engine.answer("r", "R", wait=waits["r"])
            await engine.answer("r", "L", wait=waits["l"])
            assert await run.result() == {"left": "L", "right": "R"}

    story(tell())


def test_a_record_of_one_kind_satisfies_a_call_of_another():
    """A call is found by its name, key and input; another input is an error that names the difference."""
    given = iter(["one", "two"])

    async def body(state, run):
        await run.effect("call", lambda text: text, next(given))
        raise ValueError("again")

    flow = single(body, retry=RetryPolicy(attempts=2, delay=0))
    with pytest.raises(RunFailed, match="recorded with another input"):
        flow.run_sync({})


def test_two_calls_that_cant_be_told_apart_are_mixed_up_on_recovery():
    """They are refused at once, not only when something is recovered."""

    async def body(state, run):
        first = asyncio.ensure_future(run.effect("call", asyncio.sleep, 0, "a"))
        try:
            await run.effect("call", asyncio.sleep, 0, "b")
        finally:
            await first

    with pytest.raises(RunFailed, match="give each a key"):
        single(body).run_sync({})
    assert issubclass(EffectMisused, Exception)


def test_an_id_that_is_used_anew_gives_the_old_runs_results():
    """After a deletion the id names another incarnation, which makes its own calls."""
    calls = []

    async def body(state, run):
        return {"n": await run.effect("call", lambda: calls.append(1) or len(calls))}

    flow = single(body)

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            assert await (await engine.start(flow, {}, run_id="r")).result() == {"n": 1}
            await engine.delete("r")
            run = await engine.start(flow, {}, run_id="r")
            assert await run.result() == {"n": 2}
            assert run.state.run.incarnation == 2

    story(tell())


def test_a_fork_gets_what_the_line_it_left_wrote():
    """Neither sees what the other does after the fork."""
    flow = Workflow("forked", state=Data).add_node("a", lambda s: {"notes": [f"a{len(s.get('notes', []))}"]})
    flow.add_node("b", lambda s: {"notes": ["b"]}).add_edge("a", "b").set_start("a")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            fork = await engine.fork("r@1", change={"notes": ["changed"]}, run_id="f")
            assert (await fork.result())["notes"] == ["changed", "a1", "b"]
            assert engine.get("r").data["notes"] == ["a0", "b"]

    story(tell())


def test_signals_that_overlap_are_replayed_in_another_order():
    """They are numbered when they come and taken in that order, however often the run is recovered."""
    flow = Workflow("ordered", state=Data).add_node("wait", Wait(signal="s", writes="answer"))
    flow.add_node("note", lambda s: {"notes": [s["answer"]]}).add_node("end", lambda s: None)
    flow.add_edge("wait", "note").add_edge("note", "end", when=lambda s: len(s["notes"]) == 20)
    flow.add_edge("note", "wait").set_start("wait")

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow], grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
            for number in range(20):
                await engine.signal("r", "s", str(number))
                if number == 10:
                    break
        async with Engine(log, workflows=[flow]) as engine:
            for number in range(11, 20):
                await engine.signal("r", "s", str(number))
            run = await engine.resume("r")
            assert (await run.result())["notes"] == [str(number) for number in range(20)]

    story(tell())


# --- time ----------------------------------------------------------------------------------------------------------


def test_a_timer_is_lost_when_its_process_is():
    """Its moment is in the log; whoever takes the run up waits for what is left."""
    clock = ManualClock()
    flow = Workflow("slept", state=Data).add_node("sleep", Sleep(3_600)).add_node("end", lambda s: {"n": 1})
    flow.add_edge("sleep", "end").set_start("sleep")

    async def tell():
        log = MemoryLog(clock=clock)
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
        clock.advance(3_000)
        async with Engine(log, workflows=[flow], clock=clock, pick_up=True) as engine:
            run = engine.get("r")
            await reached(run, "waiting")
            clock.advance(601)
            assert await run.result() == {"n": 1}

    story(tell())


def test_a_timeout_is_swallowed_and_the_body_goes_on():
    """It is a typed error on an edge of its own, and nothing the body does later is recorded."""
    late = []

    async def body(state, run):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            late.append("cut off")
            raise

    flow = Workflow("timed", state=Data).add_node("work", body, timeout=0.02).add_node("late", lambda s: {"n": 2})
    flow.add_node("end", lambda s: None).add_edge("work", "late", on="timed_out").add_edge("work", "end").set_start(
        "work"
    )
    assert flow.run_sync({}) == {"n": 2}
    assert late == ["cut off"]


def test_a_run_can_not_be_paused_and_taken_up_again():
    """A pause is an event; the run stands still after its node, and resuming goes on with the next."""
    gate = asyncio.Event()

    async def first(state):
        await gate.wait()
        return {"n": 1}

    flow = Workflow("paused", state=Data).add_node("a", first).add_node("b", lambda s: {"n": s["n"] + 1})
    flow.add_edge("a", "b").set_start("a")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await engine.pause("r", why="to look")
            gate.set()
            assert (await run.wait()).status == "paused"
            run = await engine.resume("r")
            assert await run.result() == {"n": 2}

    story(tell())


# --- recovering ----------------------------------------------------------------------------------------------------


def test_recovery_runs_the_users_code_to_rebuild_the_state():
    """A history folds with none of the user's code: neither guards nor nodes are asked."""
    asked = []
    flow = Workflow("fold", state=Data).add_node("a", lambda s: asked.append("node") or {"n": s.get("n", 0) + 1})
    flow.add_node("end", lambda s: None)
    flow.add_edge("a", "a", when=lambda s: asked.append("guard") or s["n"] < 5).add_edge("a", "end").set_start("a")

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
        before = len(asked)
        assert recover(log, log.head("r"), snapshots=False).state.data == {"n": 5}
        assert len(asked) == before

    story(tell())


def test_resuming_starts_every_first_node_again():
    """The run goes on in the node it stands on."""
    begun = []
    flow = Workflow("chain", state=Data)
    for name in "abc":
        flow.add_node(name, lambda s, name=name: begun.append(name) or None)
    flow.add_node("wait", Wait(signal="go")).add_edge("a", "b").add_edge("b", "wait").add_edge("wait", "c").set_start(
        "a"
    )

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.resume("r")
            await engine.signal("r", "go")
            await run.result()

    story(tell())
    assert begun == ["a", "b", "c"]


def test_nothing_is_persisted_until_the_run_is_over():
    """Each call is in the log while the node that made it is still at work."""
    gate = asyncio.Event()

    async def body(state, run):
        await run.effect("call", lambda: 1)
        await gate.wait()

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.version < 3:
                await asyncio.sleep(0.002)
            assert isinstance(run.events()[1].event, EffectStarted)
            gate.set()
            await run.result()

    story(tell())


def test_one_transition_fires_many_times_when_signals_come_at_once():
    """A wait is closed by one message; the others stay for whoever waits next."""
    flow = Workflow("once", state=Data).add_node("wait", Wait(signal="go", writes="answer"))
    flow.add_node("end", lambda s: None).add_edge("wait", "end").set_start("wait")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            await asyncio.gather(*(_sent(engine, str(number)) for number in range(10)))
            await run.result()
            moves = [one for one in run.events() if isinstance(one.event, Transitioned)]
            assert len(moves) == 1

    async def _sent(engine: Any, text: str) -> None:
        with contextlib.suppress(Conflict):  # the run is over already
            await engine.signal("r", "go", text)

    story(tell())


def test_a_node_returns_what_no_store_can_hold():
    """It is said at once, with the path, before anything is written."""
    with pytest.raises(RunFailed, match="answer"):
        single(lambda s: {"answer": object()}).run_sync({})
    assert issubclass(NotPlainData, Exception)


# --- what is queued, paused, or very long --------------------------------------------------------------------------


def test_results_that_come_in_at_once_are_lost():
    """Each call's finish is a fact of its own, however many come in while one is being written."""

    async def body(state, run):
        made = [run.effect("call", asyncio.sleep, 0.001, number, key=str(number)) for number in range(50)]
        return {"n": sum(await asyncio.gather(*made))}

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            assert await run.result() == {"n": sum(range(50))}
            kinds = [type(one.event).__name__ for one in run.events()]
            assert kinds.count("EffectFinished") == 50

    story(tell())


def test_a_call_that_is_cancelled_wedges_what_is_queued_behind_it():
    """The run goes on: the next call is made, and the node ends."""

    async def body(state, run):
        slow = asyncio.ensure_future(run.effect("slow", asyncio.sleep, 30, mutating=False))
        await asyncio.sleep(0.01)
        slow.cancel()
        return {"n": await run.effect("quick", lambda: 7)}

    assert single(body).run_sync({}) == {"n": 7}


def test_a_limit_goes_on_unsaid_while_a_run_is_paused():
    """A deadline stands: what passed meanwhile is over at the resumption, and the history says when each was."""
    clock = ManualClock()
    flow = Workflow("limited", state=Data).add_node(
        "wait", Wait(signal="go", writes="answer", timeout=60, default="late")
    )
    flow.set_start("wait")

    async def tell():
        async with Engine(workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await reached(run, "waiting")
            await engine.pause("r")
            await run.wait()
            clock.advance(3_600)
            assert engine.get("r").status == "paused"
            run = await engine.resume("r")
            assert await run.result() == {"answer": "late"}

    story(tell())


def test_going_back_needs_another_id():
    """The same run goes back, under its own id, and what it left stays in its history."""
    flow = Workflow("again", state=Data).add_node("a", lambda s: {"n": s.get("n", 0) + 1})
    flow.add_node("b", lambda s: {"notes": ["b"]}).add_edge("a", "b").set_start("a")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            before = run.version
            run = await engine.resume("r", at=1)
            assert await run.result() == {"n": 1, "notes": ["b"]}
            assert run.id == "r"
            assert len(run.events()) == run.version > before

    story(tell())


def test_a_run_can_not_be_begun_again_from_a_chosen_node():
    """It goes back to the checkpoint before that node; the nodes before it are not run again."""
    begun = []
    flow = Workflow("chosen", state=Data)
    for name in "abc":
        flow.add_node(name, lambda s, name=name: begun.append(name) or None)
    flow.add_edge("a", "b").add_edge("b", "c").set_start("a")

    async def tell():
        policy = CheckpointPolicy(before_node=("b",))
        async with Engine(workflows=[flow], checkpoints=policy) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            (mark,) = engine.checkpoints("r")
            await (await engine.resume("r", at=mark.id)).result()

    story(tell())
    assert begun == ["a", "b", "c", "b", "c"]


def test_a_long_history_is_cut_off_at_a_limit_of_events():
    """A run of more events than others allow goes on, and is recovered from its newest snapshot."""
    last = 52_000
    flow = Workflow("long").add_node("step", _counted).add_node("end", lambda s: None)
    flow.add_edge("step", "step", when=lambda s: s["n"] < last).add_edge("step", "end").set_start("step")

    async def tell():
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            assert await run.result() == {"n": last}
        head = log.head("r")
        assert head.version > 51_200
        assert recover(log, head).folded < 1_000

    story(tell())


async def _counted(state):
    return {"n": state["n"] + 1}
