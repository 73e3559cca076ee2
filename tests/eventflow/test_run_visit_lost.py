"""Effects whose outcome nobody knows, and bodies that have lost their run."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from stories import names, single, story

from eventflow import Engine, ManualClock, RetryPolicy, Workflow
from eventflow.errors import EffectMisused, RunLost, RunOwned
from eventflow.event import EffectStarted
from eventflow.recovery import recover


async def ended(flow, data=None, **options):
    """A run of a workflow in memory, driven to its end: its handle's state and events."""
    async with Engine(workflows=[flow], **options) as engine:
        run = await engine.start(flow, data or {}, run_id="r")
        state = await run.wait()
        return state, run.events()


# --- unknown outcomes ----------------------------------------------------------------------------------------------


def crash_in_effect(path, flow):
    """What a child does: start the run, whose effect ends the process."""

    def work():
        async def tell():
            async with Engine(path, workflows=[flow]) as engine:
                await (await engine.start(flow, {}, run_id="r")).result()

        asyncio.run(tell())

    return work


def paying(ledger_path, *, die: bool, **options) -> Workflow:
    """A node that pays, writing to a ledger outside; the first process dies in the middle of the call."""

    async def body(state, run):
        def call(idempotency_key):
            with ledger_path.open("a") as ledger:
                ledger.write(idempotency_key + "\n")
            if die:
                os._exit(9)
            return "paid"

        return {"got": await run.effect("pay", call, **options)}

    flow = Workflow("w").add_node("a", body).add_node("b", lambda s: {"error": "edge"})
    return flow.add_edge("a", "b", on="failed").set_start("a")


@pytest.fixture
def crashed(tmp_path, child):
    """A store in which a run was killed between an effect's start and its finish; its path and that of the ledger."""

    def make(**options):
        store, ledger = tmp_path / "s", tmp_path / "ledger"
        one = child(crash_in_effect(store, paying(ledger, die=True, **options)))
        one.answer()
        return store, ledger

    return make


def resumed(store, flow, before=None):
    """The state that a resumed run ends in, and its events; `before` is awaited with the engine first."""

    async def tell():
        async with Engine(store, workflows=[flow]) as engine:
            if before is not None:
                await before(engine)
            run = await engine.resume("r")
            return await run.wait(), [one.event for one in run.events()]

    return story(tell())


def test_a_call_that_does_no_harm_is_made_again_with_the_same_key(crashed):
    """`mutating=False` says that calling twice is fine."""
    store, ledger = crashed(mutating=False)
    state, events = resumed(store, paying(ledger, die=False, mutating=False))
    assert state.data == {"got": "paid"}
    keys = ledger.read_text().split()
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert [e.attempt for e in events if isinstance(e, EffectStarted)] == [1, 2]


def test_a_changing_call_with_an_unknown_outcome_makes_the_run_wait(crashed):
    """Nobody guesses: not even an error edge is taken, and nothing is called; a person must say what became of it."""
    store, ledger = crashed()
    flow = paying(ledger, die=False)

    async def look(engine):
        run = await engine.resume("r")
        while run.status != "waiting":
            await asyncio.sleep(0.001)
        state = run.state
        assert (state.waiting_for, state.node, state.wait["name"]) == ("unknown", "a", "pay")
        await asyncio.sleep(0.05)
        assert len(ledger.read_text().split()) == 1
        await engine.settle("r", "pay", output="found", happened=True)

    state, _ = resumed(store, flow, look)
    assert state.data == {"got": "found"}
    assert len(ledger.read_text().split()) == 1


@pytest.mark.parametrize(("happened", "calls", "got"), [(True, 1, "found"), (False, 2, "paid")])
def test_an_unknown_outcome_is_settled_by_hand(crashed, happened, calls, got):
    """Its result is recorded, or that it never happened; then the run goes on, with the same key."""
    store, ledger = crashed()
    flow = paying(ledger, die=False)

    async def settle(engine):
        run = await engine.resume("r")
        while run.status != "waiting":
            await asyncio.sleep(0.001)
        with pytest.raises(EffectMisused, match="unknown are: pay#1"):
            await engine.settle("r", "pya", happened=True)
        await engine.settle("r", "pay", output="found", happened=happened, why="asked the bank")
        await run.result()
        with pytest.raises(EffectMisused, match="unknown are: none"):
            await engine.settle("r", "pay", happened=True)

    state, _ = resumed(store, flow, settle)
    keys = ledger.read_text().split()
    assert (state.data, len(keys), len(set(keys))) == ({"got": got}, calls, 1)


def test_nothing_is_settled_under_a_run_that_is_driven():
    """It would pull the history away from under its driver."""

    async def body(state, run):
        await run.effect("wait", asyncio.sleep, 30)

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.version < 2:
                await asyncio.sleep(0.001)
            with pytest.raises(RunOwned):
                await engine.settle("r", "wait", happened=True)
            assert run.version == 2

    story(tell())


def _asked_bank(key):
    return f"found {key[:3]}"


async def _asked_bank_async(key):
    return f"found {key[:3]}"


def _never(key):
    raise LookupError(key)


def _slip(key):
    return {}["missing"]


@pytest.mark.parametrize(
    ("reconcile", "calls", "got"),
    [(_asked_bank, 1, "found ef-"), (_asked_bank_async, 1, "found ef-"), (_never, 2, "paid")],
)
def test_reconcile_settles_an_unknown_outcome(crashed, reconcile, calls, got):
    """It is asked with the idempotency key: a result counts as the finish, LookupError as never happened."""
    store, ledger = crashed(reconcile=reconcile)
    state, _ = resumed(store, paying(ledger, die=False, reconcile=reconcile))
    keys = ledger.read_text().split()
    assert (state.data, len(keys), len(set(keys))) == ({"got": got}, calls, 1)


def test_a_slip_in_reconcile_does_not_count_as_never_happened(crashed):
    """A KeyError of Python's own must not pay a second time."""
    store, ledger = crashed(reconcile=_slip)
    state, _ = resumed(store, paying(ledger, die=False, reconcile=_slip))
    assert (state.node, state.data) == ("b", {"error": "edge"})
    assert len(ledger.read_text().split()) == 1


def test_a_blocking_reconcile_does_not_stall_other_runs(crashed):
    """It runs beside the event loop."""
    threads = []

    def reconcile(key):
        threads.append(threading.current_thread() is threading.main_thread())
        return "found"

    store, ledger = crashed(reconcile=reconcile)
    resumed(store, paying(ledger, die=False, reconcile=reconcile))
    assert threads == [False]


# --- losing the run ------------------------------------------------------------------------------------------------


def test_a_body_that_timed_out_has_lost_its_run():
    """Later calls on it raise, its result is dropped, and the next attempt stands on its own."""
    lost, gate, began = [], threading.Event(), threading.Event()

    def body(state, run):
        if run.attempt == 1:
            began.set()
            gate.wait(10)
            try:
                run.effect_sync("late", print)
            except RunLost as error:
                lost.append(str(error))
            return {"from": "the late one"}
        return {"from": "the second"}

    async def tell():
        clock = ManualClock()
        flow = single(body, timeout=5, retry=RetryPolicy(attempts=2, delay=0))
        async with Engine(workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await asyncio.to_thread(began.wait)
            while clock.next_wake() is None:
                await asyncio.sleep(0.001)
            clock.advance(5)
            assert await run.result() == {"from": "the second"}
            gate.set()
            while not lost:
                await asyncio.sleep(0.001)
            assert names(run) == ["RunStarted", "AttemptFailed", "RunCompleted"]

    story(tell())
    assert "timeout of 5 s" in lost[0]


def test_a_cancelled_run_is_taken_from_its_body():
    """The body is cut off, and what it calls on its way out raises."""
    lost = []

    async def body(state, run):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            try:
                await run.effect("refund", print)
            except RunLost as error:
                lost.append(str(error))
            raise

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await asyncio.sleep(0.01)
            await engine.cancel("r", why="enough")
            assert (await run.wait()).status == "cancelled"
            assert names(run) == ["RunStarted", "RunCancelled"]

    story(tell())
    assert "was cancelled" in lost[0]


@pytest.mark.parametrize("turns", range(8))
def test_what_a_body_left_running_records_nothing_in_the_next_visit(turns):
    """A task that outlives its body, however late it comes, leaves a history that can be folded."""

    async def tell():
        left = []

        async def body(state, run):
            async def quick():
                return 1

            left.append(asyncio.create_task(run.effect("e", quick)))
            for _ in range(turns):
                await asyncio.sleep(0)

        async def after(state, run):
            await asyncio.sleep(0.005)
            return {"got": await run.effect("e", lambda x: x, "other input")}

        flow = Workflow("w").add_node("a", body).add_node("b", after).add_edge("a", "b").set_start("a")
        async with Engine(workflows=[flow]) as engine:
            runs = await engine.start_many(flow, {"r": {}, "s": {}})  # two at once: commits go through the thread
            for run in runs:
                assert await run.result() == {"got": "other input"}
                found = recover(engine.log, engine.log.head(run.id), snapshots=False)
                assert found.state.data == {"got": "other input"}
        await asyncio.gather(*left, return_exceptions=True)

    story(tell())


def test_an_attempt_that_failed_has_lost_its_run():
    """What it left behind can't speak for the next attempt."""
    kept = []

    async def body(state, run):
        kept.append(run)
        if run.attempt == 1:
            raise OSError
        with pytest.raises(RunLost):
            await kept[0].effect("e", print)

    assert story(ended(single(body, retry=RetryPolicy(attempts=2, delay=0))))[0].status == "completed"
