"""Compensations: what a run did is taken back, newest first, before it ends otherwise than well."""

from __future__ import annotations

import asyncio

import pytest
from stories import hangs, names, story, until

from eventflow import Engine, ManualClock, Parallel, Wait, Workflow
from eventflow.errors import (
    Conflict,
    DefinitionError,
    NeedsConfirmation,
    NotResumable,
    RunCancelledError,
    RunFailed,
    RunTimedOutError,
)
from eventflow.event import EffectFinished, EffectStarted, RunCancelled, UndoBegan
from eventflow.log import MemoryLog
from eventflow.verification import verify_run


class World:
    """The outside: what was done and taken back there, in order; `broken` fails that many times before it works."""

    def __init__(self, broken: int = 0) -> None:
        self.did: list[str] = []
        self.keys: list[str] = []
        self.broken = broken

    def buy(self, what):
        self.did.append(f"buy {what}")
        return {"ticket": what}

    def give_back(self, bought):
        if self.broken:
            self.broken -= 1
            raise ConnectionError("the shop is closed")
        self.did.append(f"give back {bought['ticket']}")
        return "refunded"

    def cancel_hotel(self, bought, idempotency_key):
        self.keys.append(idempotency_key)
        self.did.append(f"cancel hotel {bought['ticket']}")


def trip(world, last, **options) -> Workflow:
    """Buy a flight, then a hotel, then whatever comes last."""

    async def flight(state, run):
        await run.effect("flight", world.buy, "flight")

    async def hotel(state, run):
        await run.effect("hotel", world.buy, "hotel")
        await run.effect("look", world.buy, "nothing", mutating=False)

    return (
        Workflow("trip")
        .add_node("flight", flight)
        .add_node("hotel", hotel)
        .add_node("last", last, **options)
        .add_edge("flight", "hotel")
        .add_edge("hotel", "last")
        .add_compensation("flight", world.give_back)
        .add_compensation("hotel", world.cancel_hotel)
        .set_start("flight")
    )


def fails(state):
    """Fail for good."""
    raise ValueError("no visa")


BACK = ["cancel hotel hotel", "give back flight"]


def test_a_run_that_fails_takes_back_what_it_did_newest_first():
    """Both purchases are undone in reverse, as calls of kind undo, and the run fails with its own cause."""

    async def tell():
        world = World()
        flow = trip(world, fails)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed, match="no visa"):
                await run.result()
            assert world.did == ["buy flight", "buy hotel", "buy nothing", *BACK]
            events = [one.event for one in run.events()]
            began = next(at for at, one in enumerate(events) if isinstance(one, UndoBegan))
            assert events[began].ending == "failed"
            assert names(run)[began:] == [
                "UndoBegan", "EffectStarted", "EffectFinished", "EffectStarted", "EffectFinished", "RunFailed"
            ]  # fmt: skip
            started = [one for one in events[began:] if isinstance(one, EffectStarted)]
            assert [(one.name, one.kind, one.mutating) for one in started] == [
                ("undo hotel", "undo", False), ("undo flight", "undo", True)
            ]  # fmt: skip
            assert not run.state.undo
            assert run.state.error.message == "no visa"
            assert verify_run(engine.log, engine.log.head("r")).sound

    story(tell())


@pytest.mark.parametrize("how", ["memory", "disk"])
def test_a_cancelled_run_undoes_and_then_is_cancelled(how, tmp_path):
    """The body is cut off first; actor and reason of the cancel stay those of the end."""

    async def tell():
        world = World()
        flow = trip(world, hangs)
        async with Engine(tmp_path / "s" if how == "disk" else "memory", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.node == "last")
            await engine.cancel("r", actor="ana", why="ill")
            with pytest.raises(RunCancelledError, match="ill"):
                await run.result()
            assert world.did[-2:] == BACK
            last = run.events()[-1].event
            assert (type(last), last.actor, last.why) == (RunCancelled, "ana", "ill")

    story(tell())


def test_a_run_past_its_deadline_undoes_and_then_is_timed_out():
    """The end is RunTimedOut, after the compensations."""

    async def tell():
        world, clock = World(), ManualClock()
        flow = trip(world, hangs)
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=60)
            await until(lambda: run.state.node == "last")
            clock.advance(60)
            with pytest.raises(RunTimedOutError):
                await run.result()
            assert world.did[-2:] == BACK

    story(tell())


def test_a_completed_run_takes_nothing_back():
    """What went well stays."""

    async def tell():
        world = World()
        flow = trip(world, lambda state: {})
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            assert world.did == ["buy flight", "buy hotel", "buy nothing"]

    story(tell())


def test_an_error_edge_takes_nothing_back():
    """An error that leads somewhere is no end; what comes after it may fail for good and then undoes."""

    async def tell():
        world = World()
        flow = trip(world, fails).add_node("after", hangs).add_edge("last", "after", on="failed")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.node == "after")
            assert world.did == ["buy flight", "buy hotel", "buy nothing"]
            await engine.cancel("r")
            await run.wait()
            assert world.did[-2:] == BACK

    story(tell())


def test_a_rejected_call_is_not_undone_but_the_same_call_of_an_earlier_visit_is():
    """Rejecting one result says nothing of another visit's."""

    async def tell():
        world = World()

        async def buy(state, run):
            n = state.get("n", 0) + 1
            await run.effect("flight", world.buy, f"flight {n}")
            if n == 2:
                await run.reject("flight", why="wrong seat")
                raise ValueError("no seat")
            return {"n": n}

        flow = (
            Workflow("w").add_node("buy", buy).add_node("end", lambda state: {})
            .add_edge("buy", "buy", when=lambda state: state["n"] < 5).add_edge("buy", "end")
            .add_compensation("flight", world.give_back).set_start("buy")
        )  # fmt: skip
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            assert world.did == ["buy flight 1", "buy flight 2", "give back flight 1"]

    story(tell())


def test_calls_of_branches_are_undone_too_in_the_order_they_finished():
    """A branch's call is known by its branch, and taken back like any other."""

    async def tell():
        world = World()

        async def one(state, run):
            await run.effect("flight", world.buy, "a")

        async def two(state, run):
            await asyncio.sleep(0.05)
            await run.effect("flight", world.buy, "b")

        flow = (
            Workflow("w").add_node("split", Parallel({"one": one, "two": two})).add_node("bad", fails).add_edge("split", "bad")
            .add_compensation("flight", world.give_back).set_start("split")
        )  # fmt: skip
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            assert world.did == ["buy a", "buy b", "give back b", "give back a"]

    story(tell())


# --- compensations that fail ---------------------------------------------------------------------------------------


def test_a_compensation_that_fails_is_tried_again():
    """Three attempts each, with a rest between them; each of them begins to count anew."""

    async def tell():
        world, clock = World(broken=2), ManualClock()
        tries = []

        def cancel_hotel(bought):
            tries.append(clock.now())
            if len(tries) < 3:
                raise ConnectionError("closed")

        async def flight(state, run):
            await run.effect("flight", world.buy, "flight")
            await run.effect("hotel", world.buy, "hotel")
            raise ValueError("no visa")

        flow = (
            Workflow("w").add_node("a", flight).add_compensation("flight", world.give_back)
            .add_compensation("hotel", cancel_hotel).set_start("a")
        )  # fmt: skip
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            while run.status != "failed":
                clock.advance(1)
                await asyncio.sleep(0.005)
            assert run.state.error.message == "no visa"
            assert world.did[-1] == "give back flight"
            assert len(tries) == 3

    story(tell())


def test_a_compensation_that_fails_for_good_leaves_the_rest_to_resuming():
    """The run is failed with what is left to undo; resume goes on with that and ends as it was to end."""

    async def tell():
        world, clock = World(broken=3), ManualClock()
        flow = trip(world, hangs)
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.node == "last")
            await engine.cancel("r", why="ill")
            while run.status != "failed":
                clock.advance(1)
                await asyncio.sleep(0.005)
            assert (run.state.error.type, [one["name"] for one in run.state.undo]) == ("ConnectionError", ["flight"])
            run = await engine.resume("r")
            with pytest.raises(RunCancelledError, match="ill"):
                await run.result()
            assert world.did[-2:] == BACK
            with pytest.raises(NotResumable):
                await engine.resume("r")

    story(tell())


def test_a_compensation_that_is_gone_from_the_code_fails_the_run_until_it_is_back():
    """Nothing is skipped silently: the run fails and says which name has no compensation any more."""

    async def tell():
        world, log = World(), MemoryLog()
        flow = trip(world, hangs)
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.node == "last")
        bare = trip(world, hangs)
        bare.compensations.clear()
        async with Engine(log, workflows=[bare]) as engine:
            run = await engine.resume("r")
            await engine.cancel("r")
            with pytest.raises(RunFailed, match="add_compensation"):
                await run.result()
        async with Engine(log, workflows=[trip(world, hangs)]) as engine:
            run = await engine.resume("r")
            with pytest.raises(RunCancelledError):
                await run.result()
        assert world.did[-2:] == BACK

    story(tell())


@pytest.mark.parametrize(("effect", "function"), [("", print), ("a", None), ("flight", print)])
def test_a_compensation_needs_a_name_once_and_a_function(effect, function):
    """What can't mean anything is refused when it is said."""
    with pytest.raises(DefinitionError, match="compensation"):
        trip(World(), fails).add_compensation(effect, function)


def test_a_cancel_while_the_undoing_rests_between_two_attempts_is_put_aside_and_a_stop_is_obeyed():
    """The rest is a moment in the log; another engine goes on from there."""

    async def tell():
        world, clock = World(broken=1), ManualClock()
        flow, log = trip(world, fails), MemoryLog(clock=clock)
        async with Engine(log, workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.waiting_for == "retry")
            await engine.cancel("r")
            assert run.state.undoing["ending"] == "failed"
        clock.advance(60)
        async with Engine(log, workflows=[flow], clock=clock, pick_up=True) as engine:
            with pytest.raises(RunFailed, match="no visa"):
                await engine.get("r").result()
        assert world.did[-2:] == BACK

    story(tell())


def test_a_compensation_that_is_cancelled_by_itself_failed_and_is_not_taken_for_a_stop():
    """Its run does not vanish: it fails with that, and what is left stays to be undone."""

    async def tell():
        async def cancels(bought):
            raise asyncio.CancelledError

        async def body(state, run):
            await run.effect("flight", lambda: 1)
            raise ValueError("no")

        flow = Workflow("w").add_node("a", body).add_compensation("flight", cancels).set_start("a")
        clock = ManualClock()
        async with Engine(MemoryLog(clock=clock), workflows=[flow], clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.waiting_for == "retry" or run.state.ended)
            clock.advance(60)
            await until(lambda: run.state.waiting_for == "unknown" or run.state.ended)
            assert run.state.wait["name"] == "undo flight"
            await engine.settle("r", "undo flight", happened=True)
            with pytest.raises(RunFailed, match="no"):
                await run.result()

    story(tell())


# --- cancelled where it stands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parked", [False, True])
def test_a_run_that_stands_still_is_undone_when_it_is_cancelled(parked, monkeypatch):
    """In memory or parked: the wait is given up and what was done is taken back."""
    monkeypatch.setattr("eventflow.engine.drive.PARK_AFTER", 0.02 if parked else 60)

    async def tell():
        world = World()
        flow = trip(world, Wait(signal="go"))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.status == "waiting")
            await asyncio.sleep(0.1)
            await engine.cancel("r", why="ill")
            with pytest.raises(RunCancelledError):
                await run.result()
            assert world.did[-2:] == BACK
            assert run.state.wait is None

    story(tell())


def test_a_run_in_a_branch_is_undone_when_it_is_cancelled():
    """The branches are cut off, what they had finished is taken back."""

    async def tell():
        world = World()

        async def one(state, run):
            await run.effect("flight", world.buy, "a")
            await asyncio.Event().wait()

        flow = (
            Workflow("w").add_node("split", Parallel({"one": one, "two": Wait(signal="go")}))
            .add_compensation("flight", world.give_back).set_start("split")
        )  # fmt: skip
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.undo)
            await engine.cancel("r")
            with pytest.raises(RunCancelledError):
                await run.result()
            assert world.did == ["buy a", "give back a"]
            assert run.state.branches is None

    story(tell())


def test_a_run_that_nobody_drives_is_undone_by_whoever_takes_it_up():
    """The cancel is recorded at once, as the beginning of the undoing, which the next engine does."""

    async def tell():
        world, log = World(), MemoryLog()
        flow = trip(world, hangs, after_crash="ask")
        async with Engine(log, workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.node == "last")
        async with Engine(log) as engine:
            await engine.cancel("r", why="ill")
            assert names(engine.get("r"))[-1] == "UndoBegan"
            assert world.did == ["buy flight", "buy hotel", "buy nothing"]
            await engine.cancel("r", why="again")
        async with Engine(log, workflows=[flow], pick_up=True) as engine:
            with pytest.raises(RunCancelledError, match="ill"):
                await engine.get("r").result()
        assert world.did[-2:] == BACK

    story(tell())


def test_a_second_cancel_changes_nothing_while_it_is_undone():
    """The run is ending already; the message is put aside."""

    async def tell():
        world, gate = World(), asyncio.Event()

        async def give_back(bought):
            await gate.wait()
            world.did.append("give back")

        async def body(state, run):
            await run.effect("flight", world.buy, "flight")
            await asyncio.Event().wait()

        flow = Workflow("w").add_node("a", body).add_compensation("flight", give_back).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r", timeout=3600)
            await until(lambda: run.state.undo)
            await engine.cancel("r", why="first")
            await until(lambda: run.state.undoing)
            await engine.cancel("r", why="second")
            gate.set()
            with pytest.raises(RunCancelledError, match="first"):
                await run.result()
            assert world.did == ["buy flight", "give back"]
            assert names(run).count("SignalRefused") == 1

    story(tell())


def test_a_run_that_is_being_undone_can_be_paused_stopped_and_goes_on_with_the_rest():
    """Stopping lets the compensation finish; the next engine takes back what is left."""

    async def tell():
        world, log = World(), MemoryLog()
        began = asyncio.Event()

        async def slow(bought):
            began.set()
            await asyncio.sleep(0.05)
            world.did.append("slowly")

        def make():
            flow = trip(world, fails)
            flow.compensations["hotel"] = slow
            return flow

        async with Engine(log, workflows=[flow := make()]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await began.wait()
        assert world.did[-1] == "slowly"
        assert log.head("r").status == "pending"
        async with Engine(log, workflows=[flow := make()]) as engine:
            run = await engine.resume("r")
            with pytest.raises(RunFailed, match="no visa"):
                await run.result()
        assert world.did[-2:] == ["slowly", "give back flight"]

    story(tell())


# --- after the end -------------------------------------------------------------------------------------------------


def test_a_run_that_was_taken_back_is_not_resumed_but_may_go_back():
    """Its data speaks of what is not so any more: a rewind says from where on it is done anew, and asks first."""

    async def tell():
        world = World()
        broken = [True]
        flow = trip(world, lambda state: fails(state) if broken else {"done": True})
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            with pytest.raises(NotResumable, match="taken back"):
                await engine.resume("r")
            broken.clear()
            with pytest.raises(NeedsConfirmation):
                await engine.resume("r", at=1)
            run = await engine.resume("r", at=1, yes=True)
            assert await run.result() == {"done": True}
            assert world.did[5:] == ["buy flight", "buy hotel", "buy nothing"]

    story(tell())


def test_going_back_to_before_the_undoing_asks_though_its_calls_take_keys():
    """The calls the state there speaks of were taken back: whoever goes there must know."""

    async def tell():
        world = World()

        async def body(state, run):
            await run.effect("hotel", world.buy, "hotel", mutating=False)

        flow = (
            Workflow("w").add_node("a", body).add_node("b", fails).add_edge("a", "b")
            .add_compensation("hotel", world.cancel_hotel).set_start("a")
        )  # fmt: skip
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            with pytest.raises(NeedsConfirmation, match="undo hotel"):
                await engine.resume("r", at=4)

    story(tell())


def test_a_fork_leaves_the_parents_calls_to_the_parent():
    """What the parent did is the parent's to take back."""

    async def tell():
        world = World()
        flow = trip(world, hangs)
        async with Engine(workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.state.node == "last")
            child = await engine.fork("r", run_id="f")
            await engine.cancel("f")
            with pytest.raises(RunCancelledError):
                await child.result()
            assert world.did == ["buy flight", "buy hotel", "buy nothing"]
            with pytest.raises(Conflict):
                await engine.cancel("f")

    story(tell())


def test_the_function_gets_the_recorded_result():
    """The compensation of a call is given what the call gave, from the log."""

    async def tell():
        given = []

        async def body(state, run):
            await run.effect("buy", lambda: {"id": 7, "parts": [1, None, ""]})
            raise ValueError("no")

        flow = Workflow("w").add_node("a", body).add_compensation("buy", given.append).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            assert given == [{"id": 7, "parts": [1, None, ""]}]
            finished = [one.event for one in run.events() if isinstance(one.event, EffectFinished)]
            assert [one.name for one in finished] == ["buy", "undo buy"]

    story(tell())
