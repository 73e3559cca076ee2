"""One execution of one node: its effects, their threads, their keys."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from stories import single, story

from eventflow import Engine, RetryPolicy, Workflow
from eventflow.errors import NeedsConfirmation, RunFailed
from eventflow.event import AttemptFailed, EffectFailed, EffectFinished, EffectRejected, EffectStarted
from eventflow.recovery import recover


async def ended(flow, data=None, **options):
    """A run of a workflow in memory, driven to its end: its handle's state and events."""
    async with Engine(workflows=[flow], **options) as engine:
        run = await engine.start(flow, data or {}, run_id="r")
        state = await run.wait()
        return state, run.events()


class Ledger:
    """What was called, in order, by whom."""

    def __init__(self):
        self.calls = []

    def __call__(self, what="x", *, idempotency_key=""):
        self.calls.append((what, idempotency_key))
        return f"receipt {what}"


# --- once ----------------------------------------------------------------------------------------------------------


def test_an_effect_is_started_before_its_call_and_finished_after_it():
    """The call is made between two durable events, with input and idempotency key in the first."""
    seen = []

    def body(state, run):
        def call(amount, *, idempotency_key):
            seen.append((idempotency_key, [type(e.event).__name__ for e in engine.get("r").events()]))
            return {"paid": amount}

        return {"got": run.effect_sync("pay", call, 5)}

    async def tell():
        nonlocal engine
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            assert await run.result() == {"got": {"paid": 5}}
            _, started, finished, _ = run.events()
            assert seen == [(started.event.idempotency_key, ["RunStarted", "EffectStarted"])]
            assert started.event.input == {"args": [5]}
            assert (started.event.mutating, started.event.kind, started.event.attempt) == (True, "call", 1)
            assert finished.event == EffectFinished("pay", "1", {"paid": 5})

    engine = None
    story(tell())


def test_a_finished_effect_is_not_called_again_by_the_next_attempt():
    """It answers from the log, with a copy that may be changed."""
    ledger, got = Ledger(), []

    async def body(state, run):
        receipt = await run.effect("pay", ledger, "a")
        other = await run.effect("list", lambda: [1])
        other.append(2)
        got.append((run.attempt, receipt, other))
        if run.attempt < 3:
            raise OSError("later")
        return {"receipt": receipt}

    state, events = story(ended(single(body, retry=RetryPolicy(attempts=3, delay=0))))
    assert state.data == {"receipt": "receipt a"}
    assert len(ledger.calls) == 1
    assert got == [(n, "receipt a", [1, 2]) for n in (1, 2, 3)]
    assert sum(isinstance(one.event, AttemptFailed) for one in events) == 2


@pytest.mark.parametrize("value", [0, "", [], {}, None, False, b""])
def test_a_falsy_result_is_a_result(value):
    """Nothing, zero and the empty text are remembered like anything else."""
    calls = []

    async def body(state, run):
        def call():
            calls.append(1)
            return value

        got = await run.effect("e", call)
        if run.attempt == 1:
            raise OSError
        return {"got": got}

    state, _ = story(ended(single(body, retry=RetryPolicy(attempts=2, delay=0))))
    assert (state.data["got"], calls) == (value, [1])


def test_calls_of_one_name_are_counted_in_their_order():
    """Without a key the first, second and third call are three effects."""
    ledger = Ledger()

    async def body(state, run):
        got = [await run.effect("pay", ledger, what) for what in ("a", "b", "b")]
        if run.attempt == 1:
            raise OSError
        return {"got": got}

    state, events = story(ended(single(body, retry=RetryPolicy(attempts=2, delay=0))))
    assert [what for what, _ in ledger.calls] == ["a", "b", "b"]
    assert len({key for _, key in ledger.calls}) == 3
    assert [e.event.key for e in events if isinstance(e.event, EffectStarted)] == ["1", "2", "3"]
    assert state.data["got"] == ["receipt a", "receipt b", "receipt b"]


def test_another_input_under_the_same_identity_stops_with_the_difference():
    """A call that is not the recorded one is not answered by it."""

    async def body(state, run):
        await run.effect("pay", lambda amount: amount, 10 * run.attempt)
        raise OSError

    state, _ = story(ended(single(body, retry=RetryPolicy(attempts=5, delay=0))))
    assert state.status == "failed"
    assert state.error.type == "EffectMisused"
    for part in ("'pay'", "version 2", "[10]", "[20]", "different keys"):
        assert part in state.error.message


def test_two_calls_of_one_name_at_once_need_keys():
    """It is an error at once, not only when they are to be told apart after a crash."""

    async def without(state, run):
        first = run.effect("ask", asyncio.sleep, 0)
        try:
            run.effect("ask", asyncio.sleep, 0)
        finally:
            first.close()

    async def with_keys(state, run):
        calls = (run.effect("ask", asyncio.sleep, 0, n, key=f"k{n}") for n in range(3))
        return {"got": await asyncio.gather(*calls)}

    async def after(state, run):
        return {"got": [await run.effect("ask", asyncio.sleep, 0, n) for n in range(2)]}

    state, _ = story(ended(single(without)))
    assert (state.status, state.error.type) == ("failed", "EffectMisused")
    assert "give each a key=" in state.error.message
    assert story(ended(single(with_keys)))[0].data == {"got": [0, 1, 2]}
    assert story(ended(single(after)))[0].data == {"got": [0, 1]}


def test_one_key_twice_at_once_is_an_error():
    """A key names one call."""

    async def body(state, run):
        first = run.effect("ask", asyncio.sleep, 0, key="k")
        try:
            run.effect("ask", asyncio.sleep, 0, key="k")
        finally:
            first.close()

    assert story(ended(single(body)))[0].error.type == "EffectMisused"


def test_a_failed_effect_is_recorded_and_may_be_caught():
    """The failure is an event; the body decides what it means."""

    async def body(state, run):
        def call():
            raise ConnectionError("down")

        try:
            await run.effect("ask", call)
        except ConnectionError as error:
            return {"error": str(error)}

    state, events = story(ended(single(body)))
    assert state.data == {"error": "down"}
    (failed,) = [one.event for one in events if isinstance(one.event, EffectFailed)]
    assert (failed.error.type, failed.error.message) == ("ConnectionError", "down")
    assert "call" in failed.error.where


def test_the_next_attempt_of_a_failed_effect_carries_the_same_key():
    """The other side can tell that it is the same call."""
    keys = []

    async def body(state, run):
        def call(idempotency_key):
            keys.append(idempotency_key)
            if len(keys) < 3:
                raise ConnectionError
            return 1

        await run.effect("pay", call)

    _, events = story(ended(single(body, retry=RetryPolicy(attempts=3, delay=0))))
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert [e.event.attempt for e in events if isinstance(e.event, EffectStarted)] == [1, 2, 3]


def test_a_result_that_is_not_plain_fails_a_reading_call_and_leaves_a_changing_one_unknown():
    """What has happened outside is never called a failure."""

    def body(mutating):
        async def work(state, run):
            await run.effect("e", object, mutating=mutating)

        return work

    state, events = story(ended(single(body(mutating=False))))
    assert state.error.type == "NotPlainData"
    assert "result of effect 'e'" in state.error.message
    assert isinstance(events[2].event, EffectFailed)
    state, events = story(ended(single(body(mutating=True))))
    assert state.error.type == "NotPlainData"
    assert state.effects["e#1"]["status"] == "started"


def test_an_input_that_is_not_plain_is_refused_before_anything_is_recorded():
    """Its path is named."""

    async def body(state, run):
        await run.effect("e", print, {"x": object()})

    state, events = story(ended(single(body)))
    assert "input of effect 'e'.args[0].x" in state.error.message
    assert not any(isinstance(one.event, EffectStarted) for one in events)


def test_usage_is_summed_over_the_run():
    """What an effect reports is added up, across nodes and attempts."""

    async def body(state, run):
        await run.effect("ask", lambda: {"tokens": 3}, usage=lambda value: {"tokens": value["tokens"], "calls": 1})

    flow = Workflow("w").add_node("a", body).add_node("b", body).add_edge("a", "b").set_start("a")
    assert story(ended(flow))[0].usage == {"tokens": 6, "calls": 2}


def test_what_is_asked_may_be_recorded_instead_of_the_arguments():
    """`asked` stands in the log, and is what a later call is compared with."""

    async def body(state, run):
        await run.effect("ask", lambda secret: 1, "s3cret", asked={"question": "?"})

    _, events = story(ended(single(body)))
    assert events[1].event.input == {"question": "?"}


def test_a_visit_says_where_it_is():
    """Id, node, attempt, tags, subject and the error before are there for the body."""
    seen = []

    def body(state, run):
        seen.append((run.id, run.node, run.attempt, run.tags, run.subject, run.error and run.error.message))
        if run.attempt == 1:
            raise OSError("first")

    async def tell():
        flow = single(body, retry=RetryPolicy(attempts=2, delay=0))
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r", tags=["t"], subject="ada")).result()

    story(tell())
    assert seen == [("r", "a", 1, ("t",), "ada", None), ("r", "a", 2, ("t",), "ada", "first")]


def test_context_variables_reach_the_thread_of_a_plain_function():
    """A trace id set around the start is seen by node and call."""
    trace = contextvars.ContextVar("trace", default="none")

    def body(state, run):
        return {"node": trace.get(), "call": run.effect_sync("e", trace.get)}

    async def tell():
        trace.set("t-1")
        return (await ended(single(body)))[0].data

    assert story(tell()) == {"node": "t-1", "call": "t-1"}


# --- threads -------------------------------------------------------------------------------------------------------


def test_more_plain_nodes_than_threads_still_get_their_calls_made():
    """Bodies that wait for a call can't keep the call from being made."""

    def body(state, run):
        return {"n": run.effect_sync("e", lambda: threading.current_thread().name)}

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow], threads=2) as engine:
            runs = await engine.start_many(flow, [{} for _ in range(12)])
            return [(await run.result())["n"] for run in runs]

    assert all(name.startswith("eventflow-call") for name in story(tell()))


def test_a_call_from_the_wrong_thread_is_an_error_and_not_a_standstill():
    """`effect` belongs to async nodes, `effect_sync` to plain ones."""

    def plain(state, run):
        run.effect("e", print)

    async def waits(state, run):
        run.effect_sync("e", print)

    assert "effect_sync" in story(ended(single(plain)))[0].error.message
    assert "awaits run.effect" in story(ended(single(waits)))[0].error.message


def test_a_node_that_raises_stop_iteration_fails():
    """Futures can't hold it; the run must not wait for ever."""

    def plain(state):
        return {"x": next(iter(()))}

    async def calls(state, run):
        await run.effect("e", next, iter(()), asked=1)

    for body in (plain, calls):
        state, _ = story(ended(single(body)))
        assert (state.status, state.error.type) == ("failed", "RuntimeError")


def test_a_plain_function_that_returns_an_awaitable_is_awaited():
    """A wrapper around an async function is one too."""

    async def inner(state):
        return {"x": 1}

    def wrapped(state):
        return inner(state)

    assert story(ended(single(wrapped)))[0].data == {"x": 1}


# --- rejecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False])
def test_a_rejected_result_is_asked_for_again(plain):
    """The same call in the next attempt is made anew; a rejection is an event with its reason."""
    ledger = Ledger()

    async def waits(state, run):
        got = await run.effect("ask", ledger)
        if run.attempt == 1:
            await run.reject("ask", why="nonsense")
            raise ValueError(got)

    def blocks(state, run):
        got = run.effect_sync("ask", ledger)
        if run.attempt == 1:
            run.reject_sync("ask", why="nonsense")
            raise ValueError(got)

    _, events = story(ended(single(blocks if plain else waits, retry=RetryPolicy(attempts=2, delay=0))))
    assert len(ledger.calls) == 2
    assert [e.event.why for e in events if isinstance(e.event, EffectRejected)] == ["nonsense"]


def test_only_a_result_that_is_there_can_be_rejected():
    """Anything else would leave a history that can't be folded."""

    async def body(state, run):
        await run.reject("never")

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed, match=r"EffectMisused.*no result here"):
                await run.result()
            assert recover(engine.log, engine.log.head("r")).state.status == "failed"

    story(tell())


# --- keys, lines, forks --------------------------------------------------------------------------------------------


def test_keys_are_the_same_on_a_line_and_differ_between_lines_runs_and_visits():
    """A rewind and a fork make their calls under keys of their own; a resume under the same."""
    ledger, failing = Ledger(), [OSError()]

    async def body(state, run):
        await run.effect("pay", ledger, run.id)
        if failing:
            raise failing.pop()

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).wait()
            await (await engine.resume("r")).result()
            assert len(ledger.calls) == 1
            with pytest.raises(NeedsConfirmation, match="pay"):
                await engine.resume("r", at=1)
            await (await engine.resume("r", at=1, yes=True)).result()
            await (await engine.fork("r@1", run_id="f")).result()
            await (await engine.start(flow, {}, run_id="other")).result()

    story(tell())
    assert len(ledger.calls) == 4
    assert len({key for _, key in ledger.calls}) == 4


def test_a_finished_effect_before_the_fork_answers_in_the_fork():
    """A fork in the middle of a visit goes on with what was there; one that changes the state asks anew."""
    ledger = Ledger()

    async def body(state, run):
        await run.effect("one", ledger)
        await run.effect("two", ledger)
        return {}

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
            assert len(ledger.calls) == 2
            await (await engine.fork("r@3", run_id="f")).result()
            assert len(ledger.calls) == 3
            await (await engine.fork("r@3", run_id="g", change={"x": 1})).result()
            assert len(ledger.calls) == 5

    story(tell())


def test_a_mismatch_in_a_fork_names_the_parents_input():
    """The event it is compared with is the parent's."""

    async def body(state, run):
        await run.effect("ask", lambda who: who, run.id)
        await run.effect("more", lambda: 1)

    async def tell():
        flow = single(body)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {}, run_id="parent")).result()
            fork = await engine.fork("parent@3", run_id="fork")
            with pytest.raises(RunFailed, match=r"'parent'.*now.*'fork'"):
                await fork.result()

    story(tell())


def test_resources_are_kept_for_the_engines_life_and_closed_with_it():
    """Two nodes get the same client."""
    made = []

    class Client:
        closed = False

        async def close(self):
            self.closed = True

    def body(state, run):
        client = run.resource("bank", Client)
        if client not in made:
            made.append(client)

    flow = Workflow("w").add_node("a", body).add_node("b", body).add_edge("a", "b").set_start("a")
    story(ended(flow))
    assert len(made) == 1
    assert made[0].closed


def test_an_error_of_another_store_is_the_nodes_own_failure():
    """A conflict that a node meets elsewhere fails the run, and does not leave it hanging."""

    async def body(state, run):
        async with Engine() as other:
            flow = single(lambda s: None)
            await other.start(flow, {"x": 1}, run_id="r")
            await other.start(flow, {"x": 2}, run_id="r")

    state, _ = story(ended(single(body)))
    assert (state.status, state.error.type) == ("failed", "RunExists")
