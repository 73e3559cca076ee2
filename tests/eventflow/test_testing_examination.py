"""What a sweep looks at after a crash, one question at a time, on histories that no sound engine would write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventflow.change import Op
from eventflow.codec import pack_state
from eventflow.event import (
    EffectFinished,
    EffectRejected,
    EffectStarted,
    RunCompleted,
    SignalReceived,
    Transitioned,
    Vouch,
)
from eventflow.log import MemoryLog, Post, Upkeep
from eventflow.plain import freeze
from eventflow.run import SIGNAL, message
from eventflow.testing.author import Author, written
from eventflow.testing.crash.examination import end_of, lost, repeated, unsound
from eventflow.testing.crash.witness import Told


@pytest.fixture
def author() -> Author:
    """Writes histories by hand."""
    return Author(MemoryLog())


def started(call="ef-1", key="1"):
    """A call that is about to be made."""
    return EffectStarted("pay", key, "call", mutating=True, input=None, input_digest=bytes(32), idempotency_key=call)


def finished(key="1"):
    """Its result."""
    return EffectFinished("pay", key, "paid")


def test_an_event_that_is_gone_or_another_is_lost(author):
    """By its version and its digest; what is there as it was is not."""
    head = author.start("r")
    first = Told("r", "RunStarted", 1, head.digest.hex())
    assert lost(author.log, [first]) == []
    assert lost(author.log, [replace(first, digest="00")]) == [
        "RunStarted was acknowledged as version 1 and is not there"
    ]
    gone = Told("r", "EffectStarted", 2, "00", "ef-1")
    assert lost(author.log, [gone]) == [
        "EffectStarted was acknowledged as version 2 and is not there; its call was made although its start is not in the log"
    ]
    assert lost(author.log, [Told("none", "RunStarted", 1, "00")]) == [
        "RunStarted was acknowledged as version 1 and is not there"
    ]


def test_a_message_is_lost_unless_it_waits_or_was_taken(author):
    """Wherever it is, it is there once it was accepted."""
    head = author.start("r")
    number = written(author.log, Post(head.run_key, message(SIGNAL, name="go"))).message
    assert lost(author.log, [Told("r", "message", number)]) == []
    author.add(head, SignalReceived("go", None, number), taken=(number,))
    assert author.log.inbox(head.run_key) == []
    assert lost(author.log, [Told("r", "message", number)]) == []
    assert lost(author.log, [Told("r", "message", 99)]) == ["message 99 was accepted and is not there"]


def test_a_call_started_again_after_its_result_is_repeated(author):
    """Not if its outcome was unknown, and not if its result was refused."""
    head = author.start("r")
    head = author.add(head, started(), started(), finished())
    assert repeated(author.log, ["r"], [], []) == []
    head = author.add(head, EffectRejected("pay", "1"), started(), finished())
    assert repeated(author.log, ["r"], [], []) == []
    author.add(head, started())
    assert repeated(author.log, ["r"], [], []) == [
        "call pay#1 was started again at version 8 although its result was recorded"
    ]


def test_a_call_that_nothing_recorded_is_repeated(author):
    """What was acknowledged as started, and what the outside had, must not be more than the starts in the log."""
    author.add(author.start("r"), started(), finished())
    call = Told("r", "EffectStarted", 2, "", "ef-1")
    assert repeated(author.log, ["r"], [call], ["ef-1"]) == []
    assert repeated(author.log, ["r"], [call, call], []) == [
        "call pay#1 was made 2 times, 1 of them recorded as started"
    ]
    assert repeated(author.log, ["r"], [], ["ef-1", "ef-1", "ef-2"]) == [
        "the outside had call pay#1 2 times, 1 starts are recorded",
        "the outside had call ef-2 1 times, 0 starts are recorded",
    ]


def test_an_end_is_status_node_data_error_and_calls(author):
    """Calls are counted by node, name and key, once a visit, refused ones not."""
    one = author.add(author.start("one", {"n": 1}), started(), finished(), Transitioned("a", "a"))
    author.add(one, started("ef-2"), finished(), RunCompleted("a"), status="completed")
    two = author.add(author.start("two", {"n": 1}), started(), finished(), EffectRejected("pay", "1"))
    author.add(two, Transitioned("a", "b", change=(Op("set", ("n",), 2),)))
    ends = end_of(author.log, "one", None), end_of(author.log, "two", None)
    assert ends[0].calls == {("pay", "1", "a"): 2}
    assert list(ends[0].differences(ends[0])) == []
    assert list(ends[1].differences(ends[0])) == [
        "status is 'running', undisturbed 'completed'",
        "node is 'b', undisturbed 'a'",
        "data is {'n': 2}, undisturbed {'n': 1}",
        "call pay#1 of a finished 0 times, undisturbed 2 (2 off)",
    ]
    same = [end_of(author.log, name, sorted).data for name in ("one", "two")]
    assert same == [["n"], ["n"]]
    assert end_of(author.log, "none", None).status == "not there"


def test_a_snapshot_that_is_not_what_the_events_fold_to_is_unsound(author):
    """Verification says so, and so does recovery from it."""
    head = author.start("r", {"n": 1})
    by_hand = list(unsound(author.log, "r", []))  # what is written so has no definition, which is found too
    assert not any(text.startswith("refold") for text in by_hand)
    wrong = pack_state(replace(author.state(head), data=freeze({"n": 2})), anew=True)
    written(author.log, Upkeep(head.run_key, wrong))
    author.add(head, Transitioned("a", "b"), vouch=Vouch(1, wrong.digest))
    found = list(unsound(author.log, "r", []))
    assert any(text.startswith("verify: r@") and "snapshot" in text for text in found if text not in by_hand)
    assert "refold: the end is another from the start than from a snapshot" in found
    assert "refold: version 2 from its snapshot is another than from the start" not in found
