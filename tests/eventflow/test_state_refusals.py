"""State: which events can't follow which, and that a status is told as it is folded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from lives import BEGUN, FAILURE, after, lived, recorded, refused, start

from eventflow.change import Op
from eventflow.errors import Corrupt
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
    EncryptionBegan,
    Event,
    Forked,
    KeysRotated,
    NodeSkipped,
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
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import NOTHING, FrozenDict, FrozenList, freeze
from eventflow.state import (
    ENDED,
    FINAL,
    STATUSES,
    WAITS,
    Status,
    WaitingFor,
    evolve,
    fold,
    status_after,
)

STORE, KEY, DEFINITION = b"s" * 16, b"k" * 16, b"d" * 32
FORKED = Forked("run-2", b"t" * 16, "run-1", KEY, 1, 3, (Op("set", ("n",), 0),))


# --- what can't follow ---------------------------------------------------------------------------------------------

EVENTS: dict[type, Event] = {
    type(event): event
    for event in (
        start(), Transitioned("first", "second"), RunCompleted("first"), AttemptFailed("first", 1, FAILURE, 9),
        RunFailed("first", FAILURE), RunResumed("first", DEFINITION), RunSuspended("first"), RunPaused(), RunCancelled(),
        RunParked("first", 3),
        SignalReceived("s", 1, 1), SignalRefused(1), WaitOpened("first", "signal", "s"), WaitClosed("first", "signal", 1),
        BEGUN, EffectFinished("charge", "1", 1), EffectFailed("charge", "1", FAILURE),
        EffectRejected("charge", "1"), RunTimedOut("first"), NodeSkipped("first"), UndoBegan("first", "failed", FAILURE),
        BranchesOpened("first", FrozenList(["x"])), BranchFinished("first", "x", 1), BranchFailed("first", "x", FAILURE),
        Rewound(2, "first"), replace(FORKED, at=2, change=()),
        StoreCreated(STORE), CheckpointCreated("run-1", KEY, 1), CheckpointsDeleted("run-1", KEY, FrozenList([1])),
        RunDeleted("run-1", KEY, 1, 2, bytes(32)), RunPinned("run-1", KEY), RunUnpinned("run-1", KEY), RunHeld("run-1", KEY),
        RunReleased("run-1", KEY), RunCompacted("run-1", KEY, 1, 1, 2), BackupMade(1, 2, bytes(32)), StoreRestored(1, 2, 1),
        RunsImported(STORE, FrozenList(["run-1"]), 2), StoreRepaired(STORE, 2, FrozenList()),
        KeysRotated("m", 1), SubjectShredded(KEY, "run", "run-1", FrozenList(["run-1"])), EncryptionBegan("m"), SubjectReadmitted("eve"),
    )
}  # fmt: skip
RUN_EVENTS = [EVENTS[kind] for kind in get_args(RunEvent)]
STORE_EVENTS = [event for kind, event in EVENTS.items() if kind not in get_args(RunEvent)]


@pytest.mark.parametrize(
    "event", [event for event in EVENTS.values() if type(event) is not RunStarted], ids=lambda e: type(e).__name__
)
def test_nothing_comes_before_the_start(event: Event) -> None:
    """A history begins with RunStarted."""
    assert "before the run's start" in refused(None, event)


@pytest.mark.parametrize("version", [2, 7])
def test_only_version_1_starts_a_run(version: int) -> None:
    """A history that lost its beginning is not taken for a whole one."""
    assert "only version 1" in refused(None, start(), version)


def test_a_run_starts_once() -> None:
    """A second start is not another run."""
    assert "a second time" in refused(lived(), start())


@pytest.mark.parametrize("event", STORE_EVENTS, ids=lambda event: type(event).__name__)
def test_events_of_the_store_are_not_a_runs(event: Event) -> None:
    """They have a stream of their own."""
    assert "store's own stream" in refused(lived(), event)


@pytest.mark.parametrize(
    "event", [event for event in RUN_EVENTS if type(event) not in (RunStarted, Rewound)], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("version", [1, 2, 4, 9])
def test_versions_are_dense(event: Event, version: int) -> None:
    """Neither a gap nor a repetition is folded."""
    refused(lived(BEGUN), event, version)


@pytest.mark.parametrize(
    "event",
    [
        Transitioned("other", "second"), RunCompleted("other"), AttemptFailed("other", 1, FAILURE, 9), RunFailed("other", FAILURE),
        RunResumed("other", DEFINITION), RunSuspended("other"), RunParked("other", 3), RunTimedOut("other"), NodeSkipped("other"),
        UndoBegan("other", "failed"), BranchesOpened("other", FrozenList(["x"])), WaitOpened("other", "timer"),
        WaitClosed("other", "timeout"),
    ],
    ids=lambda event: type(event).__name__,
)  # fmt: skip
def test_an_event_about_another_node_is_refused(event: Event) -> None:
    """Where the run stands and where the event says it stands must agree."""
    assert "stands on 'first'" in refused(lived(), event)


@pytest.mark.parametrize(
    "end", [RunCompleted("first"), RunCancelled(), RunTimedOut("first")], ids=["completed", "cancelled", "timed_out"]
)
@pytest.mark.parametrize("event", RUN_EVENTS, ids=lambda event: type(event).__name__)
def test_after_the_end_only_a_rewind_or_a_fork_goes_on(end: Event, event: Event) -> None:
    """A run that is over stays as it ended."""
    state = after(lived(), end)
    if isinstance(event, Rewound | Forked):
        evolve(state, recorded(event, 3))
    else:
        assert "follows the run's end" in refused(state, event)


@pytest.mark.parametrize(
    "event",
    [Transitioned("first", "second"), RunCompleted("first"), AttemptFailed("first", 1, FAILURE, 9), RunFailed("first", FAILURE),
     RunSuspended("first"), RunTimedOut("first"), UndoBegan("first", "cancelled"), WaitOpened("first", "timer"),
     WaitClosed("first", "timeout"), BranchesOpened("first", FrozenList(["x"]))],
    ids=lambda event: type(event).__name__,
)  # fmt: skip
def test_a_failed_run_does_not_move_before_it_is_resumed(event: Event) -> None:
    """A failure is an end too, from which a resume goes on."""
    assert "follows the run's end" in refused(lived(RunFailed("first", FAILURE)), event)


@pytest.mark.parametrize(
    "event", [EffectFinished("x", "1", 1), EffectFailed("x", "1", FAILURE), EffectRejected("x", "1")]
)
def test_an_effect_that_was_not_started_can_not_end(event: Event) -> None:
    """A result without a call is a damaged history."""
    assert "never started" in refused(lived(BEGUN), event)


@pytest.mark.parametrize(
    "change", [(Op("extend", ("n",), NOTHING),), (Op("set", ("n", "x"), 1),), (Op("add", ("missing",), 1),), (Op("set", (), 1),)]
)  # fmt: skip
def test_a_change_that_does_not_fit_is_a_damaged_history(change: Any) -> None:
    """Whichever event carries it."""
    state = lived(data={"n": 1})
    for event in (
        Transitioned("first", "x", change=change),
        RunCompleted("first", change),
        replace(FORKED, at=1, change=change),
    ):
        assert "does not fit" in refused(state, event)


@pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)
def test_a_refused_event_leaves_the_state_alone(event: Event) -> None:
    """States are values: neither what is folded nor what is refused changes one."""
    state = lived(BEGUN, data={"n": [1]})
    before = repr(state)
    for version in (3, 9):
        try:
            evolve(state, recorded(event, version))
        except Corrupt:
            assert repr(state) == before
    assert repr(state) == before


# --- numbering -----------------------------------------------------------------------------------------------------


def test_the_numbers_of_statuses_and_waits_are_the_formats() -> None:
    """Snapshots write a status as its place in this list: it may only grow at its end."""
    assert get_args(Status) == STATUSES
    assert get_args(WaitingFor) == WAITS
    assert STATUSES[:9] == (
        "pending", "running", "waiting", "paused", "completed", "failed", "cancelled", "timed_out", "parked",
    )  # fmt: skip
    assert WAITS[:7] == ("", "timer", "signal", "human", "child", "retry", "unknown")
    assert {*ENDED} - {"failed"} == {*FINAL}


@pytest.mark.parametrize("event", RUN_EVENTS, ids=lambda event: type(event).__name__)
def test_the_status_told_to_the_log_is_the_folded_one(event: Event) -> None:
    """What a list of runs shows before folding is what folding gives."""
    states = [
        lived(BEGUN), lived(BEGUN, RunPaused()), lived(BEGUN, AttemptFailed("first", 1, FAILURE, 9)),
        lived(BEGUN, RunFailed("first", FAILURE)), lived(BEGUN, RunSuspended("first")),
    ]  # fmt: skip
    for state in states:
        if isinstance(event, Rewound | Forked):
            event = replace(event, **{"to" if isinstance(event, Rewound) else "at": state.version})
        try:
            folded = evolve(state, recorded(event, state.version + 1))
        except Corrupt:
            continue
        assert status_after(state, event) == (folded.status, folded.waiting_for)


def test_the_status_of_a_start_is_told_too() -> None:
    """A start needs no state before it."""
    assert status_after(None, start()) == ("running", "")
    assert status_after(None, FORKED) == ("running", "")


def test_folding_nothing_is_nothing() -> None:
    """A run without events has no state; no more events leave the state as it is."""
    assert fold(None, []) is None
    state = lived()
    assert fold(state, []) is state


def test_a_state_is_made_of_frozen_parts() -> None:
    """Whatever the events were, nobody can change what came of them."""
    state = lived(
        BEGUN,
        EffectFinished("charge", "1", freeze({"a": [1]}), freeze({"n": 1})),
        SignalReceived("s", 1, 1),
        data={"d": {}},
    )
    for part in (state.data, state.data["d"], state.effects, state.effects["charge#1"], state.usage, state.signals[0]):
        assert type(part) is FrozenDict
    assert type(state.signals) is FrozenList
