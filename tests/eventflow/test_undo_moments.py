"""Undoing at the worst moments: a process that dies in it, and facts that come in while it is decided."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from stories import hangs, names, story, until

from eventflow import Engine, ManualClock, Workflow
from eventflow.errors import RunCancelledError
from eventflow.log import Append, MemoryLog
from eventflow.testing import crash_sweep
from eventflow.verification import verify_run


class World:
    """The outside: what was done and taken back there, in order."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def buy(self, what):
        self.did.append(f"buy {what}")
        return {"ticket": what}

    def give_back(self, bought):
        self.did.append(f"give back {bought['ticket']}")
        return "refunded"


# --- crashes -------------------------------------------------------------------------------------------------------


def dies(path, make):
    """What a child does: run until something ends the process."""

    def work():
        async def tell():
            async with Engine(path, workflows=[flow := make()]) as engine:
                await (await engine.start(flow, {}, run_id="r")).wait()

        asyncio.run(tell())

    return work


def writing(ledger, *, die: bool, keyed: bool) -> Workflow:
    """Pay and fail; the compensation writes to a ledger outside, and the first process dies in the middle of it."""

    def pay():
        with ledger.open("a") as file:
            file.write("pay\n")
        return 42

    def undo(amount):
        with ledger.open("a") as file:
            file.write(f"refund {amount}\n")
        if die:
            os.kill(os.getpid(), 9)
        return "done"

    def undo_keyed(amount, idempotency_key):
        with ledger.open("a") as file:
            file.write(f"key {idempotency_key}\n")
        return undo(amount)

    async def body(state, run):
        await run.effect("pay", pay)
        raise ValueError("later")

    flow = Workflow("w").add_node("a", body, after_crash="ask")
    return flow.add_compensation("pay", undo_keyed if keyed else undo).set_start("a")


def test_a_compensation_cut_off_by_a_crash_is_made_again_with_the_same_key_if_it_takes_one(tmp_path, child):
    """A function of an idempotency key may be called twice: whom it calls knows it by its key."""
    ledger = tmp_path / "ledger"
    crashed = child(dies(tmp_path / "s", lambda: writing(ledger, die=True, keyed=True)))
    assert crashed.answer() == "signal 9"

    async def tell():
        async with Engine(tmp_path / "s", workflows=[writing(ledger, die=False, keyed=True)], pick_up=True) as engine:
            run = engine.get("r")
            assert (await run.wait()).status == "failed"

    story(tell())
    lines = ledger.read_text().splitlines()
    assert lines == ["pay", lines[1], "refund 42", lines[1], "refund 42"]


def test_a_compensation_cut_off_by_a_crash_waits_for_a_word_if_it_takes_no_key(tmp_path, child):
    """It may have happened: nobody makes it again before somebody says so, and then the run ends as it was to end."""
    ledger = tmp_path / "ledger"
    crashed = child(dies(tmp_path / "s", lambda: writing(ledger, die=True, keyed=False)))
    assert crashed.answer() == "signal 9"

    async def tell():
        async with Engine(tmp_path / "s", workflows=[writing(ledger, die=False, keyed=False)], pick_up=True) as engine:
            run = engine.get("r")
            await until(lambda: run.state.waiting_for == "unknown")
            await asyncio.sleep(0.02)
            assert run.state.wait["name"] == "undo pay"
            assert names(run).count("WaitOpened") == 1
            await engine.settle("r", "undo pay", run.state.wait["spec"]["key"], output="done", happened=True)
            assert (await run.wait()).status == "failed"
            assert run.state.error.message == "later"
            assert verify_run(engine.log, engine.log.head("r")).sound

    story(tell())
    assert ledger.read_text().splitlines() == ["pay", "refund 42"]


def test_an_unknown_compensation_that_never_happened_is_made(tmp_path, child):
    """Saying so lets it be called."""
    ledger = tmp_path / "ledger"
    crashed = child(dies(tmp_path / "s", lambda: writing(ledger, die=True, keyed=False)))
    assert crashed.answer() == "signal 9"

    async def tell():
        async with Engine(tmp_path / "s", workflows=[writing(ledger, die=False, keyed=False)], pick_up=True) as engine:
            run = engine.get("r")
            await until(lambda: run.state.waiting_for == "unknown")
            await engine.settle("r", "undo pay", run.state.wait["spec"]["key"], happened=False)
            assert (await run.wait()).status == "failed"

    story(tell())
    assert ledger.read_text().splitlines() == ["pay", "refund 42", "refund 42"]


def swept() -> Workflow:
    """Two payments and a failure, both taken back under their keys."""

    async def body(state, run):
        await run.effect("pay", lambda: 1, mutating=False, key="a")
        await run.effect("pay", lambda: 2, mutating=False, key="b")
        raise ValueError("no")

    def back(amount, idempotency_key):
        return amount

    return Workflow("w").add_node("a", body).add_compensation("pay", back).set_start("a")


def test_undoing_survives_a_crash_at_every_boundary():
    """Wherever the process dies, the run ends in the same state with the same calls, and none is lost or repeated."""
    report = crash_sweep(swept, {})
    report.check()
    assert report.boundaries == report.crashed == report.recovered
    assert (report.lost, report.repeated) == (0, 0)


# --- decided and overtaken -----------------------------------------------------------------------------------------


FINISHED, UNDO_BEGAN = 11, 24  # the codes of events (docs/format.md)


class SlowLog(MemoryLog):
    """A log on a slow disk; `seen` is told what is being written, by its codes, and may keep it waiting."""

    def __init__(self, seen=lambda kinds: None) -> None:
        self.seen = seen
        super().__init__()

    def write(self, batch):
        self.seen({packed.code for one in batch if isinstance(one, Append) for packed in one.events})
        time.sleep(0.01)
        return super().write(batch)


def busy(log, flow):
    """An engine on a slow log, and a second run in it, so that nobody commits alone."""
    resting = Workflow("resting").add_node("a", hangs).set_start("a")
    return Engine(log, workflows=[flow, resting], grace=0), resting


@pytest.mark.parametrize("what", ["finish", "step", "end"])
def test_what_the_body_says_after_the_undoing_began_is_not_recorded(what):
    """While the beginning of the undoing is on its way to the disk a call, a step or the end may come in: too late."""

    async def tell():
        world, gate = World(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def seen(kinds):
            if UNDO_BEGAN in kinds:
                loop.call_soon_threadsafe(gate.set)

        async def buy():
            await gate.wait()

        async def body(state, run):
            await run.effect("flight", world.buy, "flight")
            if what == "finish":
                await run.effect("other", buy)
            await gate.wait()

        flow = Workflow("w").add_node("a", body).add_compensation("flight", world.give_back).set_start("a")
        if what == "step":
            flow.add_node("b", hangs).add_edge("a", "b")
        engine, resting = busy(log := SlowLog(seen), flow)
        async with engine:
            await engine.start(resting, {})
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.undo)
            await engine.cancel("r", why="ill")
            with pytest.raises(RunCancelledError, match="ill"):
                await run.result()
            began = names(run).index("UndoBegan")
            assert names(run)[began:] == ["UndoBegan", "EffectStarted", "EffectFinished", "RunCancelled"]
            assert world.did == ["buy flight", "give back flight"]
            assert verify_run(log, log.head("r")).sound

    story(tell())


@pytest.mark.parametrize("ending", ["cancel", "deadline", "failure"])
def test_a_call_that_finishes_while_the_end_is_decided_is_undone_too(ending):
    """The end waits behind the call's finish; by the time it could be written there is something to take back."""

    async def tell():
        world, clock = World(), ManualClock()
        loop = asyncio.get_running_loop()
        asked = []

        def seen(kinds):
            if FINISHED in kinds and not asked:
                asked.append(asyncio.run_coroutine_threadsafe(ends(), loop))
                time.sleep(0.05)

        async def ends():
            if ending == "cancel":
                await engine.cancel("r")
            elif ending == "deadline":
                clock.advance(60)
            else:
                failing.set()

        failing = asyncio.Event()

        async def body(state, run):
            bought = asyncio.ensure_future(run.effect("flight", world.buy, "flight"))
            await failing.wait()
            bought.cancel()
            raise ValueError("no")

        flow = Workflow("w").add_node("a", body).add_compensation("flight", world.give_back).set_start("a")
        log = SlowLog(seen)
        resting = Workflow("resting").add_node("a", hangs).set_start("a")
        async with Engine(log, workflows=[flow, resting], clock=clock, grace=0) as engine:
            await engine.start(resting, {})
            run = await engine.start(flow, {}, run_id="r", timeout=60)
            state = await run.wait()
            assert state.status == {"cancel": "cancelled", "deadline": "timed_out", "failure": "failed"}[ending]
            assert world.did == ["buy flight", "give back flight"]
            assert verify_run(log, log.head("r")).sound

    story(tell())
