"""Signals, pauses and cancellations: from here and from elsewhere, for a run that is driven and for one that is not."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from stories import names, story

from eventflow import Engine, ManualClock, RetryPolicy, Workflow
from eventflow.errors import Conflict, NotPlainData, NotResumable, RunCancelledError, RunNotFound, Stopped
from eventflow.event import RunCancelled, RunPaused, SignalReceived
from eventflow.log import LmdbLog, Post
from eventflow.recovery import recover
from eventflow.run import CANCEL, PAUSE, SIGNAL, message


def waiting_flow(hold=None) -> Workflow:
    """Node `a` waits for a signal (or for `hold`), node `b` ends the run."""

    async def a(state, run):
        while not (hold.is_set() if hold else run.signals):
            await asyncio.sleep(0.002)
        return {"got": [one["payload"] for one in run.signals]}

    return Workflow("w").add_node("a", a).add_node("b", lambda s: {"b": 1}).add_edge("a", "b").set_start("a")


def elsewhere(path, tell):
    """What another process does with the store."""

    def work():
        async def told():
            async with Engine(path) as engine:
                return await tell(engine)

        return asyncio.run(told())

    return work


# --- while the run is driven ---------------------------------------------------------------------------------------


def test_a_signal_reaches_a_run_that_is_driven_here():
    """It is an event with its sender, and the node that waits for it sees it."""

    async def tell():
        flow = waiting_flow()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            number = await engine.signal("r", "go", {"n": 1}, actor="ada")
            assert await run.result() == {"got": [{"n": 1}], "b": 1}
            (signal,) = [one.event for one in run.events() if isinstance(one.event, SignalReceived)]
            assert signal == SignalReceived("go", {"n": 1}, number, "ada")
            assert engine.log.inbox(run.state.run.run_key) == []

    story(tell())


def test_a_signal_of_another_process_reaches_a_run_that_is_driven(tmp_path, child):
    """The driver looks into the inbox by itself."""

    async def tell():
        flow = waiting_flow()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            sender = child(elsewhere(tmp_path / "s", lambda other: other.signal("r", "go", 5)))
            assert await run.result() == {"got": [5], "b": 1}
            assert sender.answer() == "1"
            return names(run)

    assert story(tell()) == ["RunStarted", "SignalReceived", "Transitioned", "RunCompleted"]


def test_signals_are_taken_in_the_order_they_were_sent_and_once():
    """Many senders at once lose nothing and double nothing."""

    async def tell():
        hold = threading.Event()
        flow = waiting_flow(hold)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            numbers = await asyncio.gather(*(engine.signal("r", "n", n) for n in range(30)))
            while len(run.state.signals) < 30:
                await asyncio.sleep(0.001)
            hold.set()
            result = await run.result()
            assert sorted(numbers) == list(range(1, 31))
            assert result["got"] == sorted(result["got"])
            assert len(set(result["got"])) == 30

    story(tell())


@pytest.mark.parametrize("other", [False, True])
def test_a_pause_lets_the_node_finish_and_then_stands_still(tmp_path, child, other):
    """The run is paused after the node it is in, by whoever asks, until it is resumed."""

    async def tell():
        hold = threading.Event()
        flow = waiting_flow(hold)
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await asyncio.sleep(0.01)  # node `a` has begun
            if other:
                assert (
                    child(elsewhere(tmp_path / "s", lambda e: e.pause("r", actor="ada", why="lunch"))).answer() == "1"
                )
            else:
                await engine.pause("r", actor="ada", why="lunch")
            while run.status != "paused":
                await asyncio.sleep(0.001)
            hold.set()
            with pytest.raises(Stopped):
                await run.result()
            assert (run.status, run.state.node) == ("paused", "b")
            assert run.events()[1].event == RunPaused("ada", "lunch")
            assert await (await engine.resume("r")).result() == {"got": [], "b": 1}
            return names(run)

    assert story(tell()) == ["RunStarted", "RunPaused", "Transitioned", "RunResumed", "RunCompleted"]


def test_a_resume_that_comes_while_the_paused_node_still_runs_is_not_lost():
    """It waits until the run stands still, and takes it up again."""

    async def tell():
        hold = threading.Event()
        flow = waiting_flow(hold)
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {}, run_id="r")
            await engine.pause("r")
            resuming = asyncio.create_task(engine.resume("r"))
            await asyncio.sleep(0.01)
            hold.set()
            assert await (await resuming).result() == {"got": [], "b": 1}

    story(tell())


@pytest.mark.parametrize("other", [False, True])
def test_a_cancellation_cuts_the_node_off(tmp_path, child, other):
    """The run ends at once, by whoever asks, and says who and why."""

    async def tell():
        flow = waiting_flow()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            if other:
                told = child(elsewhere(tmp_path / "s", lambda e: e.cancel("r", actor="ada", why="enough")))
                assert told.answer() == "1"
            else:
                await engine.cancel("r", actor="ada", why="enough")
            with pytest.raises(RunCancelledError, match="enough"):
                await run.result()
            assert run.events()[-1].event == RunCancelled("ada", "enough")
            with pytest.raises(NotResumable, match="was cancelled"):
                await engine.resume("r")
            return names(run)

    assert story(tell()) == ["RunStarted", "RunCancelled"]


def test_a_cancellation_does_not_wait_for_a_plain_function():
    """The function goes on in its thread, unheard; drain names it."""
    gate, began = threading.Event(), threading.Event()

    def body(state):
        began.set()
        gate.wait(10)
        return {"late": 1}

    async def tell():
        flow = Workflow("w").add_node("a", body).set_start("a")
        async with Engine(workflows=[flow], grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await asyncio.to_thread(began.wait)
            other = await engine.start(waiting_flow(), {}, run_id="s")
            await engine.cancel("r")
            assert (await run.wait()).status == "cancelled"
            assert other.status == "running"
            assert "r: a" in await engine.drain()
            gate.set()
            await asyncio.sleep(0.01)
            assert run.state.data == {}

    story(tell())


def test_a_run_that_rests_before_its_next_attempt_can_be_cancelled_and_paused():
    """A rest of an hour is no reason to wait an hour, and no attempt follows."""
    attempts = []

    def body(state):
        attempts.append(1)
        raise OSError

    async def tell():
        clock = ManualClock()
        flow = Workflow("w").add_node("a", body, retry=RetryPolicy(attempts=9, delay=3600, longest=3600)).set_start("a")
        async with Engine(workflows=[flow], clock=clock) as engine:
            runs = await engine.start_many(flow, {"r": {}, "s": {}})
            while [run.status for run in runs] != ["waiting", "waiting"]:
                await asyncio.sleep(0.001)
            await engine.cancel("r")
            assert (await runs[0].wait()).status == "cancelled"
            await engine.pause("s")
            assert (await runs[1].wait()).status == "paused"
            clock.advance(7200)
            await asyncio.sleep(0.01)
            assert len(attempts) == 2
            again = await engine.resume("s")
            while len(attempts) < 3:
                await asyncio.sleep(0.001)
            await engine.cancel("s")
            assert (await again.wait()).status == "cancelled"

    story(tell())


def test_a_message_to_a_run_that_ends_at_that_moment_raises_nothing():
    """It is durable when acknowledged; a run that ended before reading it is no error of the sender."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda s: {"x": 1}).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            for n in range(30):
                run = await engine.start(flow, {}, run_id=f"r{n}")
                for _ in range(n % 6):
                    await asyncio.sleep(0)
                with contextlib.suppress(Conflict):  # it had ended before
                    await engine.signal(f"r{n}", "late")
                assert (await run.wait()).status == "completed"
                found = recover(engine.log, engine.log.head(f"r{n}"), snapshots=False)
                assert found.state.status == "completed"

    story(tell())


# --- while nobody drives it ----------------------------------------------------------------------------------------


async def stopped(engine, flow):
    """A run that was started and let go in node `a`."""
    run = await engine.start(flow, {}, run_id="r")
    await engine.drain(grace=0)
    assert (await run.wait()).status == "pending"


@pytest.mark.parametrize("other", [False, True])
def test_messages_for_a_run_that_nobody_drives_become_events_at_once(tmp_path, child, other):
    """The sender takes the lease, records them and lets go; the next driver sees them."""

    async def tell():
        flow = waiting_flow()
        path = tmp_path / "s"
        async with Engine(path, workflows=[flow]) as engine:
            await stopped(engine, flow)
        if other:
            assert child(elsewhere(path, lambda e: e.signal("r", "go", 7))).answer() == "1"
        else:
            async with Engine(path) as engine:  # the sender needs no workflow
                await engine.signal("r", "go", 7)
        async with Engine(path, workflows=[flow]) as engine:
            run = engine.get("r")
            assert names(run) == ["RunStarted", "RunSuspended", "SignalReceived"]
            assert run.status == "pending"
            assert await (await engine.resume("r")).result() == {"got": [7], "b": 1}

    story(tell())


def test_a_pause_for_a_run_that_nobody_drives_keeps_it_from_being_picked_up(tmp_path):
    """It stands still until somebody resumes it by name."""

    async def tell():
        flow = waiting_flow()
        path = tmp_path / "s"
        async with Engine(path, workflows=[flow]) as engine:
            await stopped(engine, flow)
            await engine.pause("r")
            assert engine.get("r").status == "paused"
        async with Engine(path, workflows=[flow], pick_up=True) as engine:
            assert engine.get("r").status == "paused"
            run = await engine.resume("r")
            await engine.signal("r", "go", 1)
            assert await run.result() == {"got": [1], "b": 1}

    story(tell())


def test_nothing_follows_the_end_of_a_run_that_is_cancelled_while_nobody_drives_it(tmp_path):
    """Of several messages that wait, those behind the cancellation become no events."""

    async def tell():
        flow = waiting_flow()
        path = tmp_path / "s"
        async with Engine(path, workflows=[flow]) as engine:
            await stopped(engine, flow)
        log = LmdbLog(path)
        key = log.head("r").run_key
        mail = [message(PAUSE), message(SIGNAL, name="go"), message(CANCEL), message(SIGNAL, name="late")]
        log.write([Post(key, data) for data in mail[:3]])
        log.close()
        async with Engine(path) as engine:
            await engine._open.writer.write(Post(key, mail[3]))
            await engine.signal("r", "later still")
            run = engine.get("r")
            assert names(run)[2:] == ["RunPaused", "SignalReceived", "RunCancelled"]
            assert run.status == "cancelled"
            assert recover(engine.log, engine.log.head("r"), snapshots=False).state.status == "cancelled"

    story(tell())


def test_the_status_in_the_list_is_that_of_the_history():
    """A pause and a signal in one delivery leave the run paused, in the head as in the fold."""

    async def tell():
        flow = waiting_flow()
        async with Engine(workflows=[flow]) as engine:
            await stopped(engine, flow)
            key = engine.log.head("r").run_key
            engine.log.write([Post(key, message(PAUSE))])
            await engine.signal("r", "go")
            head = engine.log.head("r")
            assert head.status == recover(engine.log, head).state.status == "paused"

    story(tell())


def test_a_failed_run_hears_that_it_is_cancelled_and_keeps_the_rest_for_its_resumption():
    """Signals and pauses wait in the inbox; a cancellation ends the run for good."""

    async def tell():
        fail = [True]

        def body(state, run):
            if fail:
                raise OSError
            return {"got": [one["payload"] for one in run.signals]}

        flow = Workflow("w").add_node("a", body).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            for name in ("r", "s"):
                await (await engine.start(flow, {}, run_id=name)).wait()
                await engine.signal(name, "go", 1)
                assert engine.get(name).status == "failed"
            await engine.cancel("s")
            assert engine.get("s").status == "cancelled"
            fail.clear()
            assert await (await engine.resume("r")).result() == {"got": [1]}

    story(tell())


def test_a_run_that_is_over_takes_no_messages():
    """The sender is told so, instead of writing into a box that nobody opens."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda s: None).set_start("a")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.result()
            for send in (lambda: engine.signal("r", "x"), lambda: engine.pause("r"), lambda: engine.cancel("r")):
                with pytest.raises(Conflict, match="has ended"):
                    await send()
            assert engine.log.inbox(run.state.run.run_key) == []
            assert names(run) == ["RunStarted", "RunCompleted"]

    story(tell())


def test_a_message_needs_a_whole_id_and_plain_data():
    """Nothing is sent to a run that was meant by half its name."""

    async def tell():
        flow = waiting_flow()
        async with Engine(workflows=[flow], grace=0) as engine:
            await engine.start(flow, {}, run_id="long-name")
            with pytest.raises(RunNotFound):
                await engine.signal("long", "x")
            with pytest.raises(NotPlainData):
                await engine.signal("long-name", "x", {1, 2})
            assert engine.get("long").id == "long-name"

    story(tell())
