"""The history of a run as lines, from nothing but the log."""

from __future__ import annotations

from typing import get_args

import pytest

from eventflow.change import Op
from eventflow.event import (
    AttemptFailed,
    BackupMade,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    CheckpointCreated,
    CheckpointsDeleted,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    EncryptionBegan,
    Event,
    Failure,
    Forked,
    KeysRotated,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompacted,
    RunCompleted,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunHeld,
    RunParked,
    RunPaused,
    RunPinned,
    RunReleased,
    RunResumed,
    RunsImported,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    RunUnpinned,
    SignalReceived,
    SignalRefused,
    StoreCreated,
    StoreRepaired,
    StoreRestored,
    SubjectReadmitted,
    SubjectShredded,
    Transitioned,
    UndoBegan,
    Vouch,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import MemoryLog
from eventflow.plain import EMPTY, FrozenList, freeze
from eventflow.testing.author import Author
from replay.history import TYPES, History, detail

KEY = bytes(16)
CHANGE = (Op("set", ("a", "b"), 1), Op("extend", ("notes",), freeze(["x"])))
BROKE = Failure("ValueError", "it broke", "f.py:1")
SAID = {
    RunStarted: (RunStarted("r", KEY, "flow", b"", EMPTY, "first", EMPTY, b""), "workflow flow, starts in first"),
    Transitioned: (Transitioned("a", "b", "done", CHANGE), "to b: set a.b, extend notes"),
    RunCompleted: (RunCompleted("a", CHANGE), "set a.b, extend notes"),
    AttemptFailed: (AttemptFailed("a", 2, BROKE, 5), "attempt 2: ValueError: it broke"),
    RunFailed: (RunFailed("a", BROKE), "ValueError: it broke"),
    RunResumed: (RunResumed("a", b"", EMPTY, "ann", "again"), "by ann: again, with another definition"),
    RunSuspended: (RunSuspended("a", "ann", "lunch"), "by ann: lunch"),
    RunPaused: (RunPaused("ann", "lunch"), "by ann: lunch"),
    RunParked: (RunParked("a", 3, "ann", "why"), "after 3 crashes by ann: why"),
    RunTimedOut: (RunTimedOut("a"), "its deadline passed"),
    NodeSkipped: (NodeSkipped("a", "ann", "by hand"), "by ann: by hand"),
    UndoBegan: (UndoBegan("a", "cancelled", None, "ann", "over"), "before it ends as cancelled by ann: over"),
    BranchesOpened: (BranchesOpened("a", FrozenList(["x", "y"])), "2 branches"),
    BranchFinished: (BranchFinished("a", "x", 5), "branch x"),
    BranchFailed: (BranchFailed("a", "x", BROKE), "branch x: ValueError: it broke"),
    RunCancelled: (RunCancelled("", "over"), "over"),
    SignalReceived: (SignalReceived("go", 1, 7, "ann"), "go (message 7) by ann"),
    SignalRefused: (SignalRefused(7, "no number"), "message 7: no number"),
    WaitOpened: (WaitOpened("a", "signal", "go"), "for go"),
    WaitClosed: (WaitClosed("a", "signal", 7), "signal (message 7)"),
    EffectStarted: (EffectStarted("pay", "1", "call", True, None, b"", "k", 2), "pay (key 1), attempt 2, mutating"),
    EffectFinished: (EffectFinished("pay", "1", 5), "pay (key 1)"),
    EffectFailed: (EffectFailed("pay", "1", BROKE), "pay (key 1): ValueError: it broke"),
    EffectRejected: (EffectRejected("pay", "1", "ann", "wrong"), "pay (key 1) by ann: wrong"),
    Rewound: (Rewound(3, "a", "ann", "mistake"), "back to version 3 by ann: mistake"),
    Forked: (Forked("f", KEY, "r", KEY, 1, 3, CHANGE, "ann"), "from r@3: set a.b, extend notes by ann"),
    StoreCreated: (StoreCreated(bytes(range(16))), "000102030405060708090a0b0c0d0e0f"),
    CheckpointCreated: (CheckpointCreated("r", KEY, 3, "label", "ann", "first"), "c-3 of r by ann: first"),
    CheckpointsDeleted: (CheckpointsDeleted("r", KEY, FrozenList([1, 2]), "ann"), "2 of r by ann"),
    RunDeleted: (RunDeleted("r", KEY, 1, 9, b"", "ann", "old"), "r, 9 versions by ann: old"),
    RunPinned: (RunPinned("r", KEY, "ann", "liked"), "r by ann: liked"),
    RunUnpinned: (RunUnpinned("r", KEY, "ann"), "r by ann"),
    RunHeld: (RunHeld("r", KEY, "ann", "court"), "r by ann: court"),
    RunReleased: (RunReleased("r", KEY, "bob", "over"), "r by bob: over"),
    RunCompacted: (RunCompacted("r", KEY, 1, 1, 9, "ann", "long"), "r, versions 1 to 8 by ann: long"),
    BackupMade: (BackupMade(2, 9, b"", keys=True, actor="ann"), "number 2, up to position 9, with keys by ann"),
    StoreRestored: (StoreRestored(1, 9, 2, "ann", "fire"), "as it was at position 9, generation 1 by ann: fire"),
    RunsImported: (RunsImported(KEY, FrozenList(["r"]), 9, "ann"), "1 runs, 9 events by ann"),
    StoreRepaired: (StoreRepaired(KEY, 9, FrozenList(["x"]), "ann"), "9 events, 1 losses by ann"),
    KeysRotated: (KeysRotated("ab12", 4, "ann", "left"), "4 keys, now wrapped by ab12 by ann: left"),
    SubjectShredded: (
        SubjectShredded(KEY, "subject", "eve", FrozenList(["x", "y"]), "ann"),
        "subject eve, 2 runs by ann",
    ),
    EncryptionBegan: (EncryptionBegan("ab12", "ann"), "with master key ab12 by ann"),
    SubjectReadmitted: (SubjectReadmitted("eve", "ann", "signed up"), "subject eve by ann: signed up"),
}


def recorded(event: Event, vouch: Vouch | None = None) -> Recorded:
    """An event somewhere."""
    return Recorded(event, KEY, 1, 1, 1, 1, 0, b"", b"", vouch)


def test_every_event_says_something_of_its_own():
    """The closed set of events is covered, each in a few words."""
    assert set(SAID) == set(get_args(Event))
    assert set(TYPES) == {kind.__name__ for kind in get_args(RunEvent)}


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_what_an_event_says(kind):
    """Names, numbers, who and why; what it changed by its path; no values."""
    event, said = SAID[kind]
    assert detail(recorded(event)) == said


def test_a_run_parked_at_a_limit_has_not_crashed():
    """It says so in other words than one whose processes ended."""
    assert detail(recorded(RunParked("a", 0, "ann", "50 events"))) == "at a limit by ann: 50 events"


def test_a_trigger_is_told_unless_it_is_the_usual_one():
    """`done` goes without saying."""
    assert detail(recorded(Transitioned("a", "b", "failed"))) == "to b on failed"
    assert detail(recorded(Transitioned("a", "b"))) == "to b"


def test_an_event_that_vouches_for_a_snapshot_says_so():
    """The version it vouches for stands behind what it says."""
    vouch = Vouch(4, bytes(32))
    assert detail(recorded(Transitioned("a", "b"), vouch)) == "to b [vouches for the snapshot at version 4]"
    assert detail(recorded(RunPaused(), vouch)) == "[vouches for the snapshot at version 4]"


# --- lines ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def author() -> Author:
    """A log written by hand, one second an append."""
    return Author(MemoryLog())


def call(author: Author, usage: object) -> list[Event]:
    """A call that reports a usage."""
    return [
        EffectStarted("model", "1", "model", False, None, bytes(32), "k"),
        EffectFinished("model", "1", "text", freeze(usage)),
    ]


def test_a_line_has_the_node_the_run_stood_on(author):
    """Also for events that name none: the node is that of the last step before."""
    head = author.start("r", {}, node="a")
    for event in (*call(author, {}), Transitioned("a", "b"), RunPaused(), RunResumed("b", b""), RunCompleted("b")):
        head = author.add(head, event)
    lines = list(History(author.log, head).upto(head))
    assert [line.version for line in lines] == list(range(1, 8))
    assert [line.node for line in lines] == ["a", "a", "a", "a", "b", "b", "b"]
    assert [line.type for line in lines][3:] == ["Transitioned", "RunPaused", "RunResumed", "RunCompleted"]


def test_a_line_has_the_time_since_the_one_before(author):
    """In ns; the first has none, events of one append have no time between them."""
    head = author.add(author.start("r"), Transitioned("a", "b"), Transitioned("b", "c"))
    lines = list(History(author.log, head).upto(head))
    assert [line.duration for line in lines] == [None, 1_000_000_000, 0]
    assert [line.position for line in lines] == [2, 3, 4]
    assert lines[-1].digest == head.digest


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"input_tokens": 3, "output_tokens": 4, "calls": 1}, 7),
        ({"input_tokens": 3}, 3),
        ({}, 0),
        ({"input_tokens": "many", "output_tokens": None}, 0),
        ({"input_tokens": True, "output_tokens": 2}, 2),
        ({"input_tokens": [1], "output_tokens": float("nan")}, 0),
    ],
)
def test_tokens_are_what_a_call_reports_in_numbers(author, usage, tokens):
    """What is not a whole number is not added up, and does not stop anybody from reading the history."""
    head = author.start("r")
    head = author.add(head, *call(author, usage))
    assert [line.tokens for line in History(author.log, head).upto(head)] == [0, 0, tokens]


def test_a_history_is_read_on_from_where_it_ended(author):
    """A later look gives the new lines only, and they know node and time of the last one seen."""
    head = author.add(author.start("r"), Transitioned("a", "b"))
    history = History(author.log, head)
    assert len(list(history.upto(head))) == 2
    assert list(history.upto(head)) == []
    head = author.add(head, RunPaused(), RunResumed("b", b""))
    lines = list(history.upto(head))
    assert [(line.version, line.node, line.duration) for line in lines] == [(3, "b", 1_000_000_000), (4, "b", 0)]


def test_a_fork_s_history_is_its_own(author):
    """It begins after its parent's version, on the node the parent stood on."""
    parent = author.add(author.start("r"), Transitioned("a", "b"))
    fork = author.fork(parent, 2, "f")
    fork = author.add(fork, RunPaused())
    lines = list(History(author.log, fork).upto(fork))
    assert [(line.version, line.type, line.node) for line in lines] == [(3, "Forked", "b"), (4, "RunPaused", "b")]
    assert lines[0].duration is None


def test_a_rewind_is_a_line_among_others(author):
    """Nothing is left out: the versions that left the line stand where they stood."""
    head = author.add(author.start("r"), Transitioned("a", "b"))
    head = author.rewind(head, 1)
    head = author.add(head, Transitioned("a", "c"))
    lines = list(History(author.log, head).upto(head))
    assert [line.type for line in lines] == ["RunStarted", "Transitioned", "Rewound", "Transitioned"]
    assert [line.node for line in lines] == ["a", "a", "a", "a"]


def test_nothing_of_the_user_s_code_is_needed(author):
    """The workflow of these runs exists nowhere but in the log."""
    head = author.start("r", {"x": 1}, workflow="nobody.has:this")
    (line,) = History(author.log, head).upto(head)
    assert line.detail == "workflow nobody.has:this, starts in a"


def test_the_end_of_a_wait_is_told_as_a_time():
    """In UTC, and as a number of ns where no calendar goes so far."""
    assert detail(recorded(WaitOpened("a", "timer", until=1_795_529_361_491_081_139))) == (
        "for timer, until 2026-11-24T14:09:21Z"
    )
    assert detail(recorded(WaitOpened("a", "timer", until=10**30))) == f"for timer, until {10**30} ns"


def test_what_happened_in_a_branch_says_in_which():
    """Attempts, calls and waits of several branches stand beside one another; a map's branches are its items."""
    assert detail(recorded(WaitOpened("a", "signal", "go", branch="left"))) == "branch left: for go"
    assert detail(recorded(EffectFinished("pay", "1", 5, branch="3"))) == "branch 3: pay (key 1)"
    assert detail(recorded(BranchesOpened("a", FrozenList(), FrozenList([7, 8, 9])))) == "3 branches"
