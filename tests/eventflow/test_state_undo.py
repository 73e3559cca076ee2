"""State: what is to be undone, how a run ends once it is, which answers of a line that was left still count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFinished,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    Failure,
    Forked,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    RunTimedOut,
    SignalReceived,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList, freeze
from eventflow.state import UNDO, State, evolve, reuse_key, status_after

KEY, STORE, DEFINITION = b"k" * 16, b"s" * 16, b"d" * 32
FAILURE = Failure("ValueError", "it broke", "flow.py:3 in write", retryable=True)
START = RunStarted("r", STORE, "flow", DEFINITION, EMPTY, "a", freeze({"n": 1}), bytes(32))


def recorded(event: Event, version: int) -> Recorded:
    """An event with a place."""
    return Recorded(event, KEY, 1, version, version, 1, version * 100, bytes([version]) * 32, bytes(32))


def after(state: State, *events: Event) -> State:
    """The state after more events."""
    for event in events:
        state = evolve(state, recorded(event, state.version + 1))
    return state


def lived(*events: Event, start: RunStarted = START) -> State:
    """The state after a start on node a and these events."""
    return after(evolve(None, recorded(start, 1)), *events)


def refused(state: State, event: Event) -> str:
    """Why an event can't follow a state."""
    with pytest.raises(Corrupt) as caught:
        after(state, event)
    return caught.value.problem


def begun(
    name: str = "pay", key: str = "1", *, undo: str = "refund", branch: str = "", kind: str = "call"
) -> EffectStarted:
    """A call that can be taken back."""
    return EffectStarted(name, key, kind, True, None, bytes(32), "ef", branch=branch, undo=undo)


def paid(name: str = "pay", key: str = "1", *, branch: str = "") -> tuple[Event, Event]:
    """A call that was made."""
    return begun(name, key, branch=branch), EffectFinished(name, key, 5, branch=branch)


def left(state: State) -> list[tuple[str, int]]:
    """What is to be undone: names, and the versions at which the calls finished."""
    return [(one["name"], one["at"]) for one in state.undo]


# --- what is to be undone ------------------------------------------------------------------------------------------


def test_a_call_is_to_be_undone_once_it_has_finished() -> None:
    """With what takes it back and where its result is; a call that failed, or has no undo, is not."""
    state = lived(begun())
    assert state.undo == []
    state = after(state, EffectFinished("pay", "1", 5))
    assert state.undo == [{"name": "pay", "key": "1", "branch": "", "by": "refund", "at": 3}]
    state = after(
        state, begun("mail", undo=""), EffectFinished("mail", "1", 1), begun("book"), EffectFailed("book", "1", FAILURE)
    )
    assert left(state) == [("pay", 3)]


def test_what_is_to_be_undone_outlives_its_visit() -> None:
    """In the order in which it was done, whatever node and branch did it; a run that ends well undoes nothing."""
    names = FrozenList(["x", "y"])
    state = lived(
        *paid(), Transitioned("a", "b"), BranchesOpened("b", names), *paid(branch="y"), *paid(branch="x"),
        BranchFinished("b", "x"), BranchFinished("b", "y"), Transitioned("b", "a"), *paid("mail"),
    )  # fmt: skip
    assert left(state) == [("pay", 3), ("pay", 7), ("pay", 9), ("mail", 14)]
    assert [one["branch"] for one in state.undo] == ["", "y", "x", ""]
    assert after(state, RunCompleted("a")).undo == []


def test_a_result_that_is_refused_is_not_to_be_undone() -> None:
    """It never happened, or somebody took it back; that of another visit, branch or key did happen."""
    names = FrozenList(["x", "y"])
    state = lived(
        *paid(), Transitioned("a", "a"), *paid(), *paid(key="2"), BranchesOpened("a", names), *paid(branch="x")
    )
    assert left(state) == [("pay", 3), ("pay", 6), ("pay", 8), ("pay", 11)]
    state = after(state, EffectRejected("pay", "1"))
    assert left(state) == [("pay", 3), ("pay", 8), ("pay", 11)]
    state = after(state, EffectRejected("pay", "1", branch="x"))
    assert left(state) == [("pay", 3), ("pay", 8)]
    state = after(state, *paid())
    assert left(state) == [("pay", 3), ("pay", 8), ("pay", 15)]


def test_a_rewind_undoes_what_was_to_be_undone_by_then() -> None:
    """What was done since has left the line; a fork has done nothing itself."""
    state = lived(*paid())
    back = evolve(lived(), recorded(Rewound(1, "a"), 4))
    assert back.undo == []
    assert left(evolve(state, recorded(Rewound(3, "a"), 9))) == [("pay", 3)]
    child = evolve(state, recorded(Forked("f", STORE, "r", KEY, 1, 3), 4))
    assert (child.undo, child.undoing, child.reuse) == ([], None, {})
    assert "pay#1" in child.effects


# --- undoing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["failed", "cancelled", "timed_out"])
def test_undoing_begins_with_how_the_run_will_end(ending: str) -> None:
    """What ran or stood still is over; the run is under way, whatever it was before."""
    event = UndoBegan("a", ending, FAILURE if ending == "failed" else None, "ann", "enough")
    error = ["ValueError", "it broke", "flow.py:3 in write", True] if ending == "failed" else None
    befores: list[list[Event]] = [
        [], [WaitOpened("a", "signal", "go")], [AttemptFailed("a", 1, FAILURE, 9)], [RunPaused()],
        [BranchesOpened("a", FrozenList(["x"])), WaitOpened("a", "human", branch="x")], [begun("other")],
    ]  # fmt: skip
    for before in befores:
        state = lived(*paid(), *before, event)
        assert state.undoing == {"ending": ending, "error": error, "actor": "ann", "why": "enough"}
        assert (state.status, state.waiting_for, state.wait, state.branches, state.effects) == (
            "running",
            "",
            None,
            None,
            {},
        )
        assert (state.attempt, state.retry_at, left(state)) == (1, 0, [("pay", 3)])


def test_a_call_that_takes_another_one_back_takes_it_off_the_list() -> None:
    """The newest first; while it is only begun, or failed, the call is still to be undone."""
    state = lived(*paid(), *paid("mail"), UndoBegan("a", "failed", FAILURE))
    undo = [begun("undo mail", "2", undo="", kind=UNDO), EffectFinished("undo mail", "2", None)]
    state = after(state, undo[0])
    assert left(state) == [("pay", 3), ("mail", 5)]
    assert left(after(state, EffectFailed("undo mail", "2", FAILURE))) == [("pay", 3), ("mail", 5)]
    state = after(state, undo[1])
    assert left(state) == [("pay", 3)]
    state = after(state, begun("undo pay", "1", undo="", kind=UNDO), EffectFinished("undo pay", "1", None))
    assert state.undo == []


def test_a_call_of_that_kind_takes_nothing_back_while_nothing_is_undone() -> None:
    """A kind is a name that any call may have."""
    state = lived(*paid(), begun("x", undo="", kind=UNDO), EffectFinished("x", "1", None))
    assert left(state) == [("pay", 3)]


def test_undoing_goes_on_where_it_stopped() -> None:
    """A run that failed to undo keeps what is left, and how it would have ended."""
    state = lived(*paid(), UndoBegan("a", "cancelled"), RunFailed("a", FAILURE), RunResumed("a", DEFINITION))
    assert state.undoing is not None
    assert (state.status, state.undoing["ending"], left(state)) == ("running", "cancelled", [("pay", 3)])


def test_somebody_may_skip_what_is_to_be_undone() -> None:
    """Going back does too: the run goes on and will undo what it did when it ends."""
    state = lived(*paid(), UndoBegan("a", "failed", FAILURE), RunFailed("a", FAILURE))
    skipped = after(state, NodeSkipped("a"))
    assert (skipped.undoing, skipped.status, skipped.error, left(skipped)) == (None, "running", None, [("pay", 3)])
    back = evolve(state, recorded(Rewound(state.version, "a"), 9))
    assert (back.undoing, back.status, left(back)) == (None, "running", [("pay", 3)])


@pytest.mark.parametrize("ending", ["", "completed", "paused", "running", "FAILED"])
def test_a_run_ends_as_runs_end(ending: str) -> None:
    """Undoing leads to a failure, a cancellation or the end of its time."""
    assert "which no run ends as" in refused(lived(*paid()), UndoBegan("a", ending))


@pytest.mark.parametrize(
    "event", [UndoBegan("b", "failed"), RunTimedOut("b"), NodeSkipped("b")], ids=lambda e: type(e).__name__
)
def test_what_is_said_of_another_node_is_refused(event: Event) -> None:
    """Where the run stands and where the event says it stands must agree."""
    assert "stands on 'a'" in refused(lived(), event)


def test_a_run_whose_time_is_over_is_over() -> None:
    """Only a rewind or a fork goes on; a failed run neither times out nor begins to undo, but may be skipped ahead."""
    state = lived(RunTimedOut("a"))
    assert (state.status, state.waiting_for, state.ended) == ("timed_out", "", True)
    for event in (SignalReceived("s", 1, 1), RunResumed("a", DEFINITION), RunCancelled(), NodeSkipped("a")):
        assert "follows the run's end" in refused(state, event)
    failed = lived(RunFailed("a", FAILURE))
    for event in (RunTimedOut("a"), UndoBegan("a", "cancelled")):
        assert "follows the run's end" in refused(failed, event)
    assert after(failed, NodeSkipped("a"), Transitioned("a", "b")).node == "b"


def test_a_node_that_is_skipped_begins_nothing_of_its_own() -> None:
    """Its calls, attempts and waits are gone; the transition that follows has its result."""
    state = lived(
        begun(), AttemptFailed("a", 2, FAILURE, 9), WaitOpened("a", "human"), NodeSkipped("a", "ann", "known")
    )
    assert (state.effects, state.attempt, state.retry_at, state.error, state.wait) == ({}, 1, 0, None, None)
    assert (state.status, state.node, state.visit) == ("running", "a", 1)
    assert status_after(lived(RunPaused()), NodeSkipped("a")) == ("running", "")


# --- answers of a line that was left -------------------------------------------------------------------------------


def test_an_answer_that_is_taken_again_is_taken_once() -> None:
    """The version it came from goes off the list; the rest may still answer."""
    key, other = reuse_key("a", "pay#1", bytes(32)), reuse_key("b", "pay#1", bytes(32))
    reuse = freeze({key: [7, 9], other: [8]})
    back = evolve(lived(), recorded(Rewound(1, "a", reuse=reuse), 11))
    assert back.reuse == reuse
    once = after(back, begun(), EffectFinished("pay", "1", 5, reused=7))
    assert once.reuse == {key: [9], other: [8]}
    assert left(once) == [("pay", 13)]
    twice = after(once, EffectRejected("pay", "1"), begun(), EffectFinished("pay", "1", 5, reused=9))
    assert twice.reuse == {other: [8]}
    assert after(twice, RunCompleted("a")).reuse == {}
    assert evolve(twice, recorded(Rewound(twice.version, "a"), 99)).reuse == {}


def test_a_call_is_the_same_by_node_name_branch_key_and_input() -> None:
    """Another of any of these is another call."""
    keys = {
        reuse_key(node, name, asked)
        for node in ("a", "b") for name in ("pay#1", "x/pay#1", "pay#2") for asked in (bytes(32), b"x" * 32)
    }  # fmt: skip
    assert len(keys) == 12


def test_messages_that_come_back_wait_behind_those_that_wait() -> None:
    """As they came in."""
    message = FrozenDict({"name": "go", "message": 5, "payload": None})
    state = lived(SignalReceived("go", 1, 4))
    back = evolve(state, recorded(Rewound(2, "a", signals=FrozenList([message])), 9))
    assert [one["message"] for one in back.signals] == [4, 5]
    assert after(back, WaitOpened("a", "signal", "go"), WaitClosed("a", "signal", 4)).signals == [message]


@pytest.mark.parametrize(
    ("reuse", "signals"),
    [
        ({"k": 7}, []), ({"k": [7, "8"]}, []), ({"k": [True]}, []), ({"k": None}, []), ({}, [7]), ({}, [{}]), ({}, [None]),
        ({}, [{"name": "go", "message": "5", "payload": 1}]), ({}, [{"name": "go", "message": 5}]),
        ({}, [{"name": "go", "message": 5, "payload": 1, "more": 1}]),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_rewind_takes_along_is_answers_and_messages(reuse: object, signals: object) -> None:
    """Anything else would break whoever reads them later."""
    event = Rewound(1, "a", reuse=freeze(reuse), signals=freeze(signals))
    with pytest.raises(Corrupt, match="neither a message nor an answer"):
        evolve(lived(), recorded(event, 5))


# --- who started the run, and its limits ---------------------------------------------------------------------------


def test_a_run_knows_who_started_it_and_its_limits() -> None:
    """From its first event on; a fork has nobody to tell and no deadline, but the same budget."""
    start = replace(START, caller_id="p", caller_key=b"p" * 16, deadline=900, budget=freeze({"tokens": 5, "cost": 0.5}))
    run = lived(start=start).run
    assert run.caller is not None
    assert (run.caller.run_id, run.caller.run_key) == ("p", b"p" * 16)
    assert (run.deadline, run.budget) == (900, {"tokens": 5, "cost": 0.5})
    assert lived().run.caller is None
    child = evolve(lived(start=start), recorded(Forked("f", STORE, "r", KEY, 1, 1), 2)).run
    assert (child.caller, child.deadline, child.budget) == (None, 0, run.budget)


def test_a_resume_may_set_another_budget_and_move_the_run() -> None:
    """A migration changes the data and begins a visit of the node it moves to."""
    state = lived(begun(), RunFailed("a", FAILURE))
    resumed = after(state, RunResumed("a", DEFINITION, budget=freeze({"steps": 9})))
    assert (resumed.run.budget, resumed.node, "pay#1" in resumed.effects) == ({"steps": 9}, "a", True)
    moved = after(state, RunResumed("a", DEFINITION, to="b"))
    assert (moved.node, moved.visit, moved.effects, moved.attempt, moved.status) == ("b", 4, {}, 1, "running")
    assert after(resumed, RunResumed("a", DEFINITION)).run.budget == {"steps": 9}
    assert (resumed.error, moved.error) == (FAILURE, None)


def test_a_deadline_that_has_passed_is_over_with_a_rewind() -> None:
    """Who goes back after it wants the run to go on; one that is still to come stands."""
    start = replace(START, deadline=900)
    for version, deadline in ((8, 900), (9, 0), (12, 0)):
        assert evolve(lived(start=start), recorded(Rewound(1, "a"), version)).run.deadline == deadline


@pytest.mark.parametrize("budget", [{"tokens": "5"}, {"tokens": None}, {"tokens": True}, {"cost": []}], ids=str)
def test_a_limit_is_a_number(budget: object) -> None:
    """Whoever compares it need not look."""
    assert "not a number" in refused(lived(), RunResumed("a", DEFINITION, budget=freeze(budget)))
    with pytest.raises(Corrupt, match="not a number"):
        lived(start=replace(START, budget=freeze(budget)))


def test_steps_are_the_nodes_that_were_left() -> None:
    """Across rewinds and forks; attempts and branches are none."""
    state = lived(AttemptFailed("a", 1, FAILURE, 9), Transitioned("a", "b"), Transitioned("b", "a"))
    assert state.steps == 2
    assert after(state, RunCompleted("a")).steps == 3
    assert evolve(state, recorded(Rewound(4, "a"), 9)).steps == 2
    assert evolve(state, recorded(Forked("f", STORE, "r", KEY, 1, 4), 5)).steps == 2
    assert after(state, RunCompleted("a")).undo == NOTHING
