"""Messages for a run: the bytes that wait in its inbox, and the facts each becomes."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.codec import decode, encode
from eventflow.errors import Corrupt, EventflowError, NotPlainData
from eventflow.event import (
    BranchesOpened,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Failure,
    NodeSkipped,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunStarted,
    RunTimedOut,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import MemoryLog
from eventflow.plain import EMPTY, FrozenList, freeze
from eventflow.run import CANCEL, PAUSE, SETTLE, SIGNAL, called_off, facts, last_words, message
from eventflow.state import evolve
from eventflow.testing.author import Author

START = RunStarted("r", b"s" * 16, "flow", b"d" * 32, EMPTY, "a", freeze({"n": 1}), bytes(32))
CALLED = replace(START, caller_id="p", caller_key=b"p" * 16)
PAY = EffectStarted("pay", "1", "call", True, None, bytes(32), "ef", undo="refund")
UNKNOWN = WaitOpened("a", "unknown", "pay", spec=freeze({"key": "1", "effect": "pay"}))
BROKE = Failure("ValueError", "it broke")


def lived(*events, start=START):
    """The state of a run after a start and these events."""
    state = None
    for version, event in enumerate((start, *events), 1):
        state = evolve(state, Recorded(event, b"k" * 16, 1, version, version, 1, version, bytes(32), bytes(32)))
    return state


def became(data, *events, driven=False):
    """What message 7 becomes for a run after these events."""
    return facts(lived(*events), 7, data, driven=driven)


def settle(*, happened=True, key="1", branch="", output=5):
    """What somebody says who looked what became of a call."""
    told = {"key": key, "branch": branch, "happened": happened, "output": output}
    return message(SETTLE, name="pay", payload=told, actor="ann", why="looked")


def test_each_kind_of_message_becomes_its_fact():
    """A signal keeps its name, payload and number; pause and cancel keep who and why."""
    signal = message(SIGNAL, name="go", payload={"x": [1]}, actor="ada")
    assert became(signal) == (SignalReceived("go", {"x": [1]}, 7, "ada"),)
    assert became(message(PAUSE, actor="ada", why="lunch")) == (RunPaused("ada", "lunch"),)
    assert became(message(CANCEL, actor="ada", why="enough")) == (RunCancelled("ada", "enough"),)


def test_a_run_that_has_something_to_undo_is_cancelled_after_that():
    """And once: while it is ending nobody cancels it again."""
    cancel = message(CANCEL, actor="ada", why="enough")
    done = [PAY, EffectFinished("pay", "1", 5)]
    undo = UndoBegan("a", "cancelled", None, "ada", "enough")
    assert became(cancel, *done) == (undo,)
    assert became(cancel, *done, undo) == (SignalRefused(7, "the run is ending already"),)


def test_the_end_of_a_child_is_heard_by_who_waits_for_it():
    """By nobody else: a run that went on without it puts the message aside."""
    words = message(SIGNAL, name="child:c", payload={"run_id": "c", "status": "completed"}, actor="c")
    waits = WaitOpened("a", "child", "c")
    (heard,) = became(words, waits)
    assert isinstance(heard, SignalReceived)
    (heard,) = became(words, BranchesOpened("a", FrozenList(["x"])), replace(waits, branch="x"))
    assert isinstance(heard, SignalReceived)
    for events in (
        [],
        [WaitOpened("a", "signal", "c")],
        [replace(waits, name="d")],
        [waits, WaitClosed("a", "timeout")],
    ):
        assert became(words, *events) == (SignalRefused(7, "nobody waits for this run's end any more"),)


def test_what_became_of_a_call_closes_the_wait_for_it():
    """As its result, or as never made; in the branch that made it."""
    closed = WaitClosed("a", "settled")
    finished = EffectFinished("pay", "1", 5, actor="ann", why="looked")
    assert became(settle(), PAY, UNKNOWN, driven=True) == (finished, closed)
    rejected = EffectRejected("pay", "1", "ann", "looked")
    assert became(settle(happened=False), PAY, UNKNOWN) == (rejected, closed)
    split = [BranchesOpened("a", FrozenList(["x", "y"]))]
    split += [replace(one, branch=name) for name in "xy" for one in (PAY, UNKNOWN)]
    assert became(settle(branch="y"), *split) == (replace(finished, branch="y"), replace(closed, branch="y"))
    state = lived(PAY, UNKNOWN)
    for number, event in enumerate((finished, closed), 4):
        state = evolve(state, Recorded(event, b"k" * 16, 1, number, number, 1, number, bytes(32), bytes(32)))
    assert (state.status, state.effects["pay#1"]["output"]) == ("running", 5)


def test_a_call_that_nobody_asks_about_is_not_settled_while_it_may_be_under_way():
    """Where nobody drives the run it may; and only a call that was begun and has no end."""
    assert isinstance(became(settle(), PAY, driven=True)[0], SignalRefused)
    assert became(settle(), PAY) == (EffectFinished("pay", "1", 5, actor="ann", why="looked"),)
    for events in ([], [PAY, EffectFinished("pay", "1", 1)], [PAY, EffectRejected("pay", "1")]):
        (refused,) = became(settle(), *events)
        assert refused == SignalRefused(7, "the outcome of effect 'pay' (key 1) is not unknown")
    assert isinstance(became(settle(key="2"), PAY, UNKNOWN)[0], SignalRefused)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.none() | st.integers(-5, 5) | st.text(max_size=3))
def test_a_signal_comes_out_as_it_went_in(name, payload):
    """Falsy payloads and odd names too."""
    try:
        data = message(SIGNAL, name=name, payload=payload)
    except NotPlainData:
        return
    assert became(data) == (SignalReceived(name, payload, 7),)


def test_a_payload_that_is_not_plain_is_refused_by_its_sender():
    """Who sends it hears of it, with the path; nothing is put into the inbox."""
    with pytest.raises(NotPlainData, match=r"payload\.x"):
        message(SIGNAL, payload={"x": object()})
    with pytest.raises(NotPlainData, match="lone surrogate"):
        message(SIGNAL, payload="\ud800")


def spoiled(data, **changes):
    """A message with some of its fields changed."""
    return encode({**decode(data, "a test"), **changes})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", encode([1]), encode({"kind": "signal"}), message("dance"), message(SIGNAL)[:-1],
        spoiled(message(SIGNAL), name=5), spoiled(message(SIGNAL), actor=None), spoiled(message(CANCEL), why=[]),
        spoiled(message(PAUSE), kind=1), spoiled(settle(), payload=None), spoiled(settle(), payload={"key": "1"}),
        spoiled(settle(), payload={"key": 1, "happened": True, "output": 1}), spoiled(settle(), payload=[1]),
        spoiled(settle(), payload={"key": "1", "happened": "no", "output": 1}),
        spoiled(settle(), payload={"key": "1", "branch": 3, "happened": True, "output": 1}),
    ],
)  # fmt: skip
def test_what_is_no_message_is_corrupt(data):
    """Bytes that no sender wrote are said to be so, and become no event."""
    with pytest.raises(Corrupt, match="message 7"):
        became(data, PAY)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([SIGNAL, PAUSE, CANCEL, SETTLE, "", "x"]),
    st.dictionaries(
        st.sampled_from(["actor", "name", "payload", "why", "key", "happened", "output", "branch"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    ),
    st.booleans(),
)
def test_a_hostile_message_is_an_error_of_ours(kind, fields, nested):
    """Whatever is in it."""
    base = {"actor": "", "kind": kind, "name": "pay", "payload": fields if nested else None, "why": ""}
    with contextlib.suppress(EventflowError):
        became(encode(base if nested else {**base, **fields}), PAY, UNKNOWN)


# --- last words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (RunCompleted("a"), {"status": "completed", "data": {"n": 1}}),
        (RunFailed("a", BROKE), {"status": "failed", "error": "ValueError: it broke"}),
        (RunCancelled("ann", "enough"), {"status": "cancelled", "error": "enough"}),
        (RunTimedOut("a"), {"status": "timed_out"}),
    ],
)
def test_an_end_is_told_to_who_started_the_run(event, told):
    """With what came of it; a run that nobody started tells nobody, and what is no end is not told."""
    (post,) = last_words(lived(start=CALLED), event)
    assert post.run_key == b"p" * 16
    value = decode(post.data, "a test")
    assert (value["kind"], value["name"], value["payload"]) == (SIGNAL, "child:r", {"run_id": "r", **told})
    assert last_words(lived(), event) == ()
    assert last_words(lived(start=CALLED), Transitioned("a", "b")) == ()


def test_children_are_told_that_nobody_waits_for_them():
    """Those that are waited for, by the run or by a branch of it, when it ends or goes on without them."""
    author = Author(MemoryLog())
    heads = [author.start(name) for name in ("one", "two")]
    split = [BranchesOpened("a", FrozenList(["x", "y", "z"]))]
    split += [WaitOpened("a", "child", name, branch=where) for where, name in (("x", "one"), ("y", "two"))]
    state = lived(*split, WaitOpened("a", "signal", "one", branch="z"))
    for event in (RunCancelled(), RunTimedOut("a"), UndoBegan("a", "failed"), NodeSkipped("a")):
        posts = called_off(author.log, state, event)
        assert {post.run_key for post in posts} == {head.run_key for head in heads}
        assert {decode(post.data, "a test")["kind"] for post in posts} == {CANCEL}
    assert called_off(author.log, state, SignalReceived("s", 1, 1)) == ()
    assert called_off(author.log, lived(WaitOpened("a", "child", "gone")), RunCancelled()) == ()
