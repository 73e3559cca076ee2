"""An account of a run: nothing that happened is missing, and everything stands where it belongs."""

from __future__ import annotations

import asyncio

import pytest

from eventflow import Engine, MemoryLog, RetryPolicy, SystemClock, Workflow
from eventflow.address import resolve
from eventflow.event import (
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Failure,
    RunCancelled,
    SignalReceived,
    Transitioned,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import FrozenDict
from eventflow.retention import compact_run
from eventflow.testing.author import Author
from eventflow.workflow import Human
from replay.report import account

BROKEN = Failure("ValueError", "it broke")


def started(name, **more):
    """A call that begins."""
    options = {"kind": "call", "mutating": True, **more}
    return EffectStarted(
        name, "1", input=options.pop("input", None), input_digest=bytes(32), idempotency_key="k", **options
    )


def told(author, run="r"):
    """The account of a run."""
    return account(author.log, resolve(author.log, run).head)


@pytest.fixture
def author():
    """A log with the run `r` at its start."""
    return Author(MemoryLog())


async def lived(log):
    """A run that fails once, asks a model and a person, is rewound, gets a checkpoint and a fork."""
    failures = [1]

    def pay(state, run):
        answer = run.effect_sync(
            "model", lambda: "yes", kind="model", mutating=False, asked={"model": "m-1"},
            usage=lambda _: {"input_tokens": 3, "output_tokens": 4, "cost": 0.25},
        )  # fmt: skip
        if failures:
            failures.pop()
            raise ValueError("not yet")
        return {"paid": answer}

    flow = (
        Workflow("order")
        .add_node("pay", pay, retry=RetryPolicy(attempts=2, delay=0.001))
        .add_node("ask", Human(prompt="Ship it?", writes="ok", type=bool))
        .add_node("ship", lambda state: {"shipped": state["ok"]})
        .add_edge("pay", "ask")
        .add_edge("ask", "ship")
        .set_start("pay")
    )
    async with Engine(log, workflows=[flow]) as engine:
        run = await engine.start(flow, {"a": 1}, run_id="r", actor="ada", why="a test", tags=["t"], subject="me")
        while engine.get("r").status != "waiting" or engine.get("r").state.waiting_for != "human":
            await asyncio.sleep(0.005)
        await engine.answer("r", answer=True, actor="bob")
        await run.wait()
        await engine.checkpoint("r", label="mine", why="audit")
        await (await engine.resume("r", at=run.version - 1, actor="eve", why="again")).wait()
        await engine.fork("r@2", run_id="f", actor="kim", why="what if", change={"a": 2}, drive=False)


def test_a_life_is_told():
    """Who, what, which model, which decision, which operations, how it ended."""
    log = MemoryLog()
    asyncio.run(lived(log))
    one = account(log, log.head("r"))
    assert one.problems == ()
    assert (one.origin.actor, one.origin.why, one.origin.input) == ("ada", "a test", {"a": 1})
    assert [(stay.node, stay.on_line) for stay in one.stays] == [
        ("pay", True),
        ("ask", True),
        ("ship", False),
        ("ship", True),
    ]
    assert one.stays[0].attempts == 2
    assert one.stays[0].failures == ["ValueError: not yet"]
    (call,) = one.model_calls
    assert (call.model, call.outcome, call.usage["cost"], call.unknown) == ("m-1", "finished", 0.25, False)
    (decision,) = one.decisions
    assert (decision.kind, decision.asked["prompt"], decision.answer, decision.actor) == (
        "human",
        "Ship it?",
        True,
        "bob",
    )
    assert [(act.what, act.actor, act.why) for act in one.acts] == [("Rewound", "eve", "again")]
    assert [(act.what, act.why) for act in one.checkpoints] == [("CheckpointCreated 'mine'", "audit")]
    assert [(kin.run_id, kin.how, kin.at) for kin in one.relatives] == [("f", "fork", 2)]
    assert (one.state.status, one.events) == ("completed", one.head.version)


def test_a_fork_tells_of_its_own_part():
    """Whose it continues, what was changed, by whom."""
    log = MemoryLog()
    asyncio.run(lived(log))
    one = account(log, log.head("f"))
    assert (one.origin.parent, one.origin.at, one.origin.actor, one.origin.changed) == ("r", 2, "kim", {"a": 2})
    assert (one.events, [stay.node for stay in one.stays]) == (1, ["pay"])


def test_a_call_whose_outcome_was_unknown_is_told_so(author):
    """Begun again, settled by somebody, or never heard of again."""
    head = author.start("r")
    head = author.add(head, started("again", mutating=False), started("again", mutating=False, attempt=2))
    head = author.add(head, EffectFinished("again", "1", 1), started("settled"))
    head = author.add(head, WaitOpened("a", "unknown", "settled", spec=FrozenDict({"key": "1", "effect": "settled"})))
    head = author.add(head, EffectFinished("settled", "1", 2, actor="ann", why="I looked"), WaitClosed("a", "settled"))
    head = author.add(head, started("failed"), EffectFailed("failed", "1", BROKEN), started("failed", attempt=2))
    author.add(head, EffectFinished("failed", "1", 3), started("open"))
    calls = {call.name: call for call in told(author).calls}
    assert {name: (one.outcome, one.unknown, one.attempts) for name, one in calls.items()} == {
        "again": ("finished", True, 2),
        "settled": ("finished", True, 1),
        "failed": ("finished", False, 2),
        "open": ("unknown", False, 1),
    }
    assert (calls["settled"].settled_by, calls["settled"].why) == ("ann", "I looked")
    (decision,) = told(author).decisions
    assert (decision.outcome, decision.actor) == ("settled", "ann")


def test_messages_that_nothing_asked_for_are_told(author):
    """With who sent them; those that answered a wait are not among them."""
    head = author.add(author.start("r"), SignalReceived("early", 1, 7, actor="ann"))
    head = author.add(head, WaitOpened("a", "signal", "go"), SignalReceived("go", {"x": 1}, 8, actor="bob"))
    author.add(head, WaitClosed("a", "signal", 8))
    one = told(author)
    assert [(act.what, act.actor) for act in one.messages] == [("early", "ann")]
    assert [(wait.answer, wait.actor, wait.outcome) for wait in one.decisions] == [({"x": 1}, "bob", "answered")]


def test_an_end_by_hand_is_told(author):
    """The node it was in did not end by itself."""
    author.add(author.start("r"), Transitioned("a", "b"), RunCancelled("ann", "no use"), status="cancelled")
    one = told(author)
    assert one.stays[-1].trigger == "RunCancelled"
    assert [(act.actor, act.why) for act in one.acts] == [("ann", "no use")]


def test_a_compacted_run_is_told_from_where_it_begins():
    """With the data it had there; it stays in the node it stood in, and what came before is not guessed at."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda state: {"n": 1}).add_node("b", lambda state: {"n": 2})
        log = MemoryLog()
        async with Engine(log, workflows=[flow.add_edge("a", "b").set_start("a")]) as engine:
            await (await engine.start(flow, {}, run_id="r")).result()
        compact_run(log, SystemClock(), "r", 2)
        return account(log, resolve(log, "r").head)

    found = asyncio.run(tell())
    assert (found.origin.compacted, found.origin.version, dict(found.origin.input)) == (True, 2, {"n": 1})
    assert [(one.node, one.entered, one.left) for one in found.stays] == [("b", 2, 3)]
    assert (found.events, found.problems) == (2, ())


def test_what_does_not_hold_is_told(author):
    """An account of a history that was changed says so."""
    author.start("r")
    assert any("digest" in problem for problem in told(author).problems)
