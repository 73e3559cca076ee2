"""What goes wrong in a run: retries, timeouts, error edges, choices that can't be made, states that can't be kept."""

from __future__ import annotations

import asyncio
import random
import threading
import traceback
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import freezegun
import pytest
from stories import names, single, story

from eventflow import Engine, Go, ManualClock, MemoryLog, RetryPolicy, SystemClock, Workflow
from eventflow.clock import NS
from eventflow.errors import EventflowError, NodeTimedOut, RunFailed, StoreFull
from eventflow.event import AttemptFailed, Transitioned
from eventflow.event import RunFailed as Failed
from eventflow.log import LmdbLog
from eventflow.recovery import recover
from eventflow.verification import verify_store


async def ended(flow, data=None, **options):
    """A run driven to its end in memory: its state and its events."""
    async with Engine(workflows=[flow], **options) as engine:
        run = await engine.start(flow, data or {}, run_id="r")
        return await run.wait(), [one.event for one in run.events()]


def fails(times, error=None):
    """A body that fails so many times before it succeeds."""
    left = [times]

    def body(state):
        if left[0]:
            left[0] -= 1
            raise error or OSError("down")
        return {"ok": True}

    return body


async def until(condition):
    """Wait until something holds."""
    while not condition():
        await asyncio.sleep(0.001)


# --- retries -------------------------------------------------------------------------------------------------------


def test_each_failed_attempt_is_an_event_with_the_moment_of_the_next():
    """Attempt, error and moment are facts; the run waits for a retry until then, and not longer."""

    async def tell():
        clock = ManualClock()
        flow = single(fails(2), retry=RetryPolicy(attempts=3, delay=10, factor=3, jitter=0))
        async with Engine(clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            began = clock.now()
            for attempt, rest in ((1, 10), (2, 30)):
                await until(lambda n=attempt: run.version > n)
                head = engine.log.head("r")
                assert (head.status, head.waiting_for) == ("waiting", "retry")
                failed = run.events()[-1].event
                assert isinstance(failed, AttemptFailed)
                assert (failed.node, failed.attempt, failed.error.type, failed.error.message) == (
                    "a",
                    attempt,
                    "OSError",
                    "down",
                )
                assert failed.retry_at == clock.now() + rest * NS
                clock.advance(rest - 0.001)
                await asyncio.sleep(0.005)
                assert run.version == attempt + 1
                clock.advance(0.001)
            assert await run.result() == {"ok": True}
            assert clock.now() - began == 40 * NS

    story(tell())


def test_when_the_attempts_are_used_up_the_run_fails():
    """The last error is the cause, with type, sentence and place."""
    state, events = story(ended(single(fails(9), retry=RetryPolicy(attempts=3, delay=0))))
    assert [type(event) for event in events[1:]] == [AttemptFailed, AttemptFailed, Failed]
    assert (state.status, state.error.type, state.error.message, state.error.retryable) == (
        "failed",
        "OSError",
        "down",
        True,
    )
    assert "test_engine_failures.py" in state.error.where


@pytest.mark.parametrize(
    ("policy", "error", "attempts"),
    [
        (RetryPolicy(attempts=3, delay=0, on=(OSError,)), ConnectionError("x"), 3),
        (RetryPolicy(attempts=3, delay=0, on=(OSError,)), ValueError("x"), 1),
        (RetryPolicy(attempts=3, delay=0), TypeError("x"), 3),
        (None, OSError("x"), 1),
    ],
)
def test_only_what_the_policy_names_is_tried_again(policy, error, attempts):
    """Without a policy a function is tried once."""
    _, events = story(ended(single(fails(9, error), retry=policy)))
    assert len(events) == attempts + 1


def test_an_error_that_says_it_is_final_is_not_tried_again():
    """`retryable = False` on the exception is heard."""

    class Final(Exception):
        retryable = False

    _, events = story(ended(single(fails(9, Final("no")), retry=RetryPolicy(attempts=3, delay=0))))
    assert len(events) == 2


@pytest.mark.parametrize(
    ("asked", "rest"),
    [
        (90, 90),
        (7.5, 10),
        (timedelta(minutes=2), 120),
        ("soon", 10),
        (float("nan"), 10),
        (-5, 10),
        (None, 10),
        (1e300, 604_800),
        (10**400, 604_800),
    ],
)
def test_an_error_may_ask_for_a_longer_rest(asked, rest):
    """`retry_after` in seconds or as a timedelta; what makes no sense is not heard."""

    class Busy(Exception):
        retry_after = asked

    async def tell():
        clock = ManualClock()
        flow = single(fails(1, Busy()), retry=RetryPolicy(attempts=2, delay=10, jitter=0))
        async with Engine(clock=clock, grace=0) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await until(lambda: run.version > 1)
            assert run.events()[-1].event.retry_at == clock.now() + rest * NS

    story(tell())


def test_a_rest_survives_the_process(tmp_path):
    """Who takes the run up again waits for the moment that was recorded, and counts on from that attempt."""

    async def tell():
        clock = ManualClock()
        policy = RetryPolicy(attempts=3, delay=600, longest=600, jitter=0)
        async with Engine(tmp_path / "s", clock=clock) as engine:
            run = await engine.start(single(fails(9), retry=policy), {}, run_id="r")
            await until(lambda: run.status == "waiting")
        clock.advance(100)
        flow = single(fails(1), retry=policy)
        async with Engine(tmp_path / "s", workflows=[flow], clock=clock) as engine:
            run = await engine.resume("r")
            await until(lambda: clock.next_wake() is not None)
            assert clock.next_wake() == clock.now() + 500 * NS
            clock.advance(499)
            await asyncio.sleep(0.005)
            assert names(run)[-1] == "RunResumed"
            clock.advance(1)
            await until(lambda: names(run)[-1] == "AttemptFailed")
            assert run.state.attempt == 3
            clock.advance(600)
            assert await run.result() == {"ok": True}

    story(tell())


def test_a_rest_follows_a_clock_that_is_frozen_and_moved():
    """Under freezegun a rest of an hour passes when the test says so."""

    async def tell():
        with freezegun.freeze_time("2026-11-24T10:00:00", real_asyncio=True) as frozen:
            flow = single(fails(1), retry=RetryPolicy(attempts=2, delay=3600, longest=3600, jitter=0))
            log = MemoryLog(clock=SystemClock(frozen=True))
            async with Engine(log, clock=SystemClock(frozen=True)) as engine:
                run = await engine.start(flow, {}, run_id="r")
                await until(lambda: run.status == "waiting")
                at = datetime(2026, 11, 24, 11, tzinfo=UTC)
                assert run.events()[-1].event.retry_at == int(at.timestamp()) * NS
                await engine.drain()
            frozen.tick(1800)
            async with Engine(log, workflows=[flow], clock=SystemClock(frozen=True)) as engine:
                run = await engine.resume("r")
                frozen.tick(1799)
                await asyncio.sleep(0.02)
                assert run.status == "running"
                frozen.tick(1)
                assert await run.result() == {"ok": True}

    story(tell())


# --- timeouts and cancellations from inside ------------------------------------------------------------------------


async def timed(flow, seconds):
    """The state of a run whose first node takes longer than that many seconds."""
    clock = ManualClock()
    async with Engine(clock=clock) as engine:
        run = await engine.start(flow, {}, run_id="r")
        await until(lambda: clock.next_wake() is not None)
        clock.advance(seconds)
        return await run.wait(), names(run)


async def sleeps(state):
    """Longer than anybody waits."""
    await asyncio.sleep(30)


@pytest.mark.parametrize("plain", [False, True])
def test_a_node_that_takes_too_long_fails(plain):
    """Async or plain; the error says how long it had."""
    gate = threading.Event()
    body = (lambda state: gate.wait(10)) if plain else sleeps
    state, _ = story(timed(single(body, timeout=5), 5))
    gate.set()
    assert (state.status, state.error.type) == ("failed", NodeTimedOut.__name__)
    assert "timeout of 5 s" in state.error.message


def test_a_node_that_is_done_in_time_is_done():
    """The timeout leaves nothing behind."""
    state, _ = story(ended(single(lambda s: {"x": 1}, timeout=5)))
    assert state.data == {"x": 1}


@pytest.mark.parametrize(("edge", "to"), [("timed_out", "late"), ("failed", "late"), (None, "a")])
def test_an_edge_may_wait_for_a_timeout(edge, to):
    """`timed_out` goes before `failed`; the error comes along."""
    flow = Workflow("w").add_node("a", sleeps, timeout=5).add_node("late", lambda s: {"late": True})
    if edge is not None:
        flow.add_edge("a", "late", on=edge)
    flow.set_start("a")
    state, _ = story(timed(flow, 5))
    assert (state.node, state.status) == (to, "completed" if edge else "failed")


def test_a_timeout_is_tried_again_before_its_edge_is_taken():
    """It is a failure like any other."""
    flow = Workflow("w").add_node("a", sleeps, timeout=5, retry=RetryPolicy(attempts=2, delay=0, on=(TimeoutError,)))
    flow.add_node("b", lambda s: None).add_edge("a", "b", on="timed_out").set_start("a")

    async def tell():
        clock = ManualClock()
        async with Engine(clock=clock) as engine:
            run = await engine.start(flow, {}, run_id="r")
            for version in (1, 2):
                await until(lambda v=version: run.version == v and clock.next_wake() is not None)
                await asyncio.sleep(0.005)
                clock.advance(5)
            await run.wait()
            return names(run)

    assert story(tell()) == ["RunStarted", "AttemptFailed", "Transitioned", "RunCompleted"]


@pytest.mark.parametrize("edge", ["cancelled", "failed", None])
def test_a_node_that_is_cancelled_from_inside_fails(edge):
    """A cancelled task that it waited for is its own affair; the run does not hang."""

    async def body(state):
        task = asyncio.create_task(asyncio.sleep(30))
        task.cancel()
        await task

    flow = Workflow("w").add_node("a", body).add_node("b", lambda s: {"b": 1})
    if edge is not None:
        flow.add_edge("a", "b", on=edge)
    state, events = story(ended(flow.set_start("a")))
    assert state.status == ("completed" if edge else "failed")
    if edge:
        assert events[1].trigger == edge
    else:
        assert state.error.type == "NodeCancelled"


# --- error edges ---------------------------------------------------------------------------------------------------


def test_an_error_edge_is_taken_once_the_attempts_are_used_up():
    """The node behind it sees the error, and the state as it was."""
    seen = []

    def mend(state, run):
        seen.append((run.error.type, run.error.message, dict(state)))
        return {"mended": True}

    flow = Workflow("w").add_node("a", fails(9), retry=RetryPolicy(attempts=2, delay=0)).add_node("mend", mend)
    flow.add_edge("a", "mend", on="failed").set_start("a")
    state, events = story(ended(flow, {"x": 1}))
    assert seen == [("OSError", "down", {"x": 1})]
    moved = events[2]
    assert isinstance(moved, Transitioned)
    assert (moved.trigger, moved.error.message) == ("failed", "down")
    assert (state.data, state.error) == ({"x": 1, "mended": True}, None)


def test_guards_on_error_edges_choose():
    """Where none holds, the run fails and says so."""
    flow = Workflow("w").add_node("a", fails(9)).add_node("b", lambda s: None).add_node("c", lambda s: None)
    flow.add_edge("a", "b", on="failed", when=lambda s: s["to"] == "b", label="to b")
    flow.add_edge("a", "c", on="failed", when=lambda s: s["to"] == "c", label="to c").set_start("a")
    assert story(ended(flow, {"to": "c"}))[0].node == "c"
    state, _ = story(ended(flow, {"to": "d"}))
    assert (state.status, state.error.type) == ("failed", "NoEdgeHolds")
    assert "tried: to b; to c" in state.error.message
    state, _ = story(ended(flow, {}))
    assert (state.status, state.error.type) == ("failed", "GuardFailed")


# --- deciding ------------------------------------------------------------------------------------------------------


def test_a_node_may_choose_its_successor():
    """With an update, among its declared targets."""
    flow = Workflow("w").add_node("a", lambda s: Go("c", {"from": "a"}), targets=["b", "c"])
    flow.add_node("b", lambda s: {"b": 1}).add_node("c", lambda s: {"c": 1}).set_start("a")
    assert story(ended(flow))[0].data == {"from": "a", "c": 1}


def test_an_undeclared_target_fails_the_run_for_good():
    """It is a mistake in the definition, so no attempt is wasted on it."""
    flow = Workflow("w").add_node("a", lambda s: Go("b"), retry=RetryPolicy(attempts=3, delay=0))
    flow.add_node("b", lambda s: None).set_start("a")
    state, events = story(ended(flow))
    assert len(events) == 2
    assert state.error.type == "UndeclaredTarget"
    assert "not among its declared targets (none)" in state.error.message


def test_a_guard_that_raises_fails_the_run_with_its_name():
    """No event of the node is lost: mended, the run goes on from there."""
    broken = [True]

    def guard(state):
        if broken:
            raise KeyError("score")
        return True

    flow = Workflow("w").add_node("a", lambda s: {"x": 1}).add_node("b", lambda s: None)
    flow.add_edge("a", "b", when=guard, label="good enough").add_edge("a", "b", on="failed").set_start("a")

    async def tell():
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed, match=r"GuardFailed: guard 'good enough'.*KeyError.*resume"):
                await run.result()
            assert run.state.data == {}
            broken.clear()
            assert await (await engine.resume("r")).result() == {"x": 1}

    story(tell())


def test_where_no_edge_holds_the_run_fails_with_what_was_tried():
    """An error edge is not for that: the node did not fail."""
    flow = Workflow("w").add_node("a", lambda s: None).add_node("b", lambda s: None)
    flow.add_edge("a", "b", when=lambda s: False, label="never").add_edge("a", "b", on="failed").set_start("a")
    state, _ = story(ended(flow))
    assert (state.node, state.error.type) == ("a", "NoEdgeHolds")
    assert "after 'done' (tried: never)" in state.error.message


# --- states that can't be kept -------------------------------------------------------------------------------------


def deep(levels):
    """A dict of so many levels."""
    value = 1
    for _ in range(levels):
        value = {"d": value}
    return value


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"a": {"b": [0, {1, 2}]}}, r"a.b[1] is a builtins.set"),
        ({"a": deep(70)}, "nested deeper than 64 levels"),
        ({"a": 2**70}, "a is an integer of more than 64 bits"),
        ({"a": "\ud800"}, "a holds a lone surrogate"),
        ({1: 2}, "has the key 1, which is not text"),
        ({"a": "x" * (65 << 20)}, "a is a text of 68,157,440 characters"),
        ({"a": ["x" * 900] * 20_000}, "a makes an event of"),
        ([1], "a node returns a dict of changes or None, got list"),
    ],
)
def test_an_update_that_can_not_be_kept_fails_the_run_with_its_path(update, said):
    """It is named, tried once, and leaves the state as it was; the log is whole."""

    async def tell():
        flow = single(lambda s: update, retry=RetryPolicy(attempts=3, delay=0))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"x": 1}, run_id="r")
            state = await run.wait()
            assert (state.status, state.data) == ("failed", {"x": 1})
            assert said in state.error.message
            assert not state.error.retryable
            assert names(run) == ["RunStarted", "RunFailed"]
            assert recover(engine.log, engine.log.head("r"), snapshots=False).state == state

    story(tell())


def test_a_node_that_changes_its_state_in_place_is_told_to_return_the_change():
    """The sentence is the remedy."""

    def body(state):
        state["list"].append(1)

    state, _ = story(ended(single(body), {"list": []}))
    assert state.error.type == "StateIsReadOnly"
    assert "return the change instead" in state.error.message


class _Odd(Exception):
    """An exception whose text can't be had."""

    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_Odd(), "_Odd"),
        (OSError("\ud800"), "\ufffd"),
        (OSError(""), "OSError"),
        (OSError("x" * 5_000), "x" * 2_000 + "…"),
    ],
)
def test_any_exception_can_be_recorded(error, message):
    """Without text, with text that is no text, with too much of it."""
    assert story(ended(single(fails(9, error))))[0].error.message == message


def test_a_secret_in_a_variable_does_not_reach_the_log(tmp_path):
    """A failure is its type, its sentence and its place; no values."""

    def body(state):
        password = "hunter2-secret"  # noqa: S105 - that is the point
        raise OSError(len(password))

    async def tell():
        async with Engine(tmp_path / "s") as engine:
            await (await engine.start(single(body), {}, run_id="r")).wait()

    story(tell())
    assert b"hunter2" not in (tmp_path / "s" / "data.1" / "data.mdb").read_bytes()


# --- a store without room ------------------------------------------------------------------------------------------


def test_a_full_store_stops_the_run_and_leaves_the_log_whole(tmp_path):
    """Nothing of the write is kept, what was acknowledged is safe, and with more room the run goes on."""

    async def grow(state):
        return {"n": state["n"] + 1, "text": random.Random(state["n"]).randbytes(10_000).hex()}  # noqa: S311

    flow = Workflow("w").add_node("a", grow).add_node("end", lambda s: None)
    flow.add_edge("a", "a", when=lambda s: s["n"] < 200, label="more").add_edge("a", "end").set_start("a")
    path = tmp_path / "s"

    async def tell():
        told = []
        log = LmdbLog(path, map_size=1 << 20)
        async with Engine(log, listeners=[lambda state, notice: told.append(state.version)]) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            other = await engine.start(single(sleeps), {}, run_id="other")
            with pytest.raises(StoreFull, match="map") as caught:
                await run.result()
            assert caught.value.exit_code == 6
            assert log.head("r").version == max(told)
            assert other.status == "running"
            await engine.drain(grace=0)
        log.close()
        log = LmdbLog(path)
        assert list(verify_store(log))[-1].findings == []
        stopped = recover(log, log.head("r")).state
        assert stopped.version == stopped.data["n"] + 1 >= 3
        async with Engine(log, workflows=[flow]) as engine:
            result = await (await engine.resume("r")).result()
            assert result["n"] == 200
            assert recover(log, log.head("r"), snapshots=False).state.data == result
        log.close()

    story(tell())


def test_a_run_that_stopped_for_want_of_room_can_be_resumed_in_the_same_engine():
    """Once there is room again, the engine that drove it takes it up."""

    class Full:
        def __init__(self, log):
            self._log, self.full = log, False

        def __getattr__(self, name):
            return getattr(self._log, name)

        def write(self, batch):
            if self.full:
                raise StoreFull("no room")
            return self._log.write(batch)

    async def tell():
        log = Full(MemoryLog())

        def body(state):
            log.full = log.full is not None
            return {"x": 1}

        flow = single(body)
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(StoreFull):
                await run.result()
            log.full = None
            assert await (await engine.resume("r")).result() == {"x": 1}
            assert [one.epoch for one in engine.get("r").events()] == [1, 1, 1]

    story(tell())


def test_every_error_of_a_run_is_a_sentence_with_an_exit_code():
    """1 for a run that failed, whatever the cause."""

    async def tell():
        async with Engine() as engine:
            run = await engine.start(single(fails(9)), {}, run_id="r")
            with pytest.raises(EventflowError) as caught:
                await run.result()
            return caught.value

    error = story(tell())
    assert error.exit_code == 1
    assert str(error) == "run r failed in node 'a': OSError: down; mend the cause, then resume the run"


class Partial(TypedDict):
    """A state of which a run's input gives what it likes."""

    topic: str
    count: int


def test_a_field_that_nothing_gave_is_named_where_a_node_looks_for_it(tmp_path):
    """A partial input is no mistake, for a node may write the rest; the failure says what is missing, its type, and how to go on."""
    flow = (
        Workflow("partial", state=Partial)
        .add_node("a", lambda state: {"topic": state["topic"] * 2})
        .add_node("b", lambda state: {"count": state["count"] + 1})
        .add_edge("a", "b")
        .set_start("a")
    )

    async def work() -> None:
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {"topic": "x"}, run_id="r")
            said = r"the state has no field 'count' \(int\): .*fork\('r', change=\{'count': ...\}\).*resume the run"
            with pytest.raises(RunFailed, match=said):
                await run.result()
            fork = await engine.fork("r", change={"count": 1})
            assert await fork.result() == {"topic": "xx", "count": 2}

    asyncio.run(work())


@pytest.mark.parametrize("looked", ["other", "topic"])
def test_what_is_no_missing_field_is_not_taken_for_one(tmp_path, looked):
    """A key that the state does not declare, or that it has, was looked for somewhere else."""
    flow = Workflow("partial", state=Partial).add_node("a", lambda _: {"topic": {}[looked]}).set_start("a")

    async def work() -> None:
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            with pytest.raises(RunFailed, match="mend the cause, then resume"):
                await (await engine.start(flow, {"topic": "x"})).result()

    asyncio.run(work())


def test_the_error_itself_is_the_cause_where_the_run_was_driven_here():
    """With its traceback, however late it is asked for; whoever did not drive the run has what is recorded."""

    def fails(state):
        raise ZeroDivisionError("on purpose")

    async def tell():
        flow = single(fails)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            for handle, cause in ((run, ZeroDivisionError), (engine.get("r"), type(None))):
                with pytest.raises(RunFailed, match="on purpose") as caught:
                    await handle.result()
                assert type(caught.value.__cause__) is cause
                assert not cause() or "fails" in traceback.format_tb(caught.value.__cause__.__traceback__)[-1]

    story(tell())
