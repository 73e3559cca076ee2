"""State: what each event does to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lives import BEGUN, DEFINITION, FAILURE, KEY, OTHER, STORE, after, lived, recorded, refused

from eventflow.change import Op
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    Forked,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSuspended,
    SignalReceived,
    Transitioned,
)
from eventflow.plain import EMPTY, MAX_INT, NOTHING, freeze
from eventflow.state import (
    Parent,
    effect_id,
    evolve,
)

# --- what each event does ------------------------------------------------------------------------------------------


def test_a_start_is_version_1_and_holds_what_a_run_is() -> None:
    """Identity, input and place come from the first event."""
    state = lived(data={"topic": "tides"})
    run = state.run
    assert (run.run_id, run.run_key, run.incarnation, run.store_id, run.workflow) == ("run-1", KEY, 1, STORE, "flow")
    assert (run.definition_digest, run.tags, run.subject, run.started) == (DEFINITION, ["tag"], "person-7", 1_000)
    assert run.definition == {"nodes": ["first"]}
    assert run.parent is None
    assert (state.version, state.digest, state.time, state.epoch) == (1, b"\x01" * 32, 1_000, 1)
    assert (state.status, state.waiting_for, state.node, state.visit, state.line) == ("running", "", "first", 1, 0)
    assert (state.attempt, state.retry_at, state.error) == (1, 0, None)
    assert (state.data, state.effects, state.signals, state.usage) == ({"topic": "tides"}, {}, [], {})
    assert not state.ended


def test_a_transition_moves_the_run_and_changes_its_data() -> None:
    """A new visit begins: attempts, effects and the error of the last one are gone."""
    state = lived(BEGUN, AttemptFailed("first", 1, FAILURE, 99), data={"n": 1, "same": {"x": 1}})
    moved = after(state, Transitioned("first", "second", change=(Op("add", ("n",), 2),)))
    assert (moved.node, moved.visit, moved.status, moved.waiting_for) == ("second", 4, "running", "")
    assert (moved.attempt, moved.retry_at, moved.error, moved.effects) == (1, 0, None, {})
    assert moved.data == {"n": 3, "same": {"x": 1}}
    assert moved.data["same"] is state.data["same"]
    assert (moved.version, moved.digest, moved.time) == (4, b"\x04" * 32, 4_000)
    assert state.data == {"n": 1, "same": {"x": 1}}


def test_a_transition_on_failure_says_why() -> None:
    """An error edge leaves the failure where the next node can see it."""
    assert lived(Transitioned("first", "rescue", "failed", error=FAILURE)).error == FAILURE


def test_data_worked_out_before_is_taken_as_it_is() -> None:
    """The caller that has applied the change already need not have it applied again."""
    data = freeze({"n": 2})
    event = Transitioned("first", "second", change=(Op("set", ("n",), 2),))
    assert evolve(lived(data={"n": 1}), recorded(event, 2), after=data).data is data


def test_a_completion_ends_the_run_with_its_last_change() -> None:
    """The body of a terminal node counts."""
    state = lived(BEGUN, RunCompleted("first", (Op("set", ("out",), 1),)), data={"in": 0})
    assert (state.status, state.data, state.ended, state.error, state.effects) == (
        "completed", {"in": 0, "out": 1}, True, None, {},
    )  # fmt: skip


def test_a_failed_attempt_waits_for_the_next_one() -> None:
    """Its finished effects stay: the next attempt does not call them again."""
    state = lived(BEGUN, EffectFinished("charge", "1", "ok"), AttemptFailed("first", 1, FAILURE, 99))
    assert (state.status, state.waiting_for, state.attempt, state.retry_at) == ("waiting", "retry", 2, 99)
    assert state.error == FAILURE
    assert state.effects["charge#1"]["status"] == "finished"
    assert not state.ended


def test_a_failure_ends_the_run_until_it_is_resumed() -> None:
    """A resumed failure begins with its first attempt, and keeps what its effects gave."""
    failed = lived(
        BEGUN, EffectFinished("charge", "1", "ok"), AttemptFailed("first", 1, FAILURE, 99), RunFailed("first", FAILURE)
    )
    assert (failed.status, failed.waiting_for, failed.error, failed.ended) == ("failed", "", FAILURE, True)
    resumed = after(failed, RunResumed("first", DEFINITION))
    assert (resumed.status, resumed.attempt, resumed.retry_at, resumed.ended) == ("running", 1, 0, False)
    assert resumed.effects["charge#1"]["output"] == "ok"


def test_resuming_what_had_not_failed_goes_on_counting() -> None:
    """A crash between two attempts does not give the node its attempts anew."""
    state = lived(AttemptFailed("first", 1, FAILURE, 99), RunSuspended("first"), RunResumed("first", DEFINITION))
    assert (state.status, state.attempt, state.retry_at) == ("running", 2, 99)


def test_a_resume_under_another_definition_records_it() -> None:
    """What the run is driven by from here on is part of what it is."""
    new = freeze({"nodes": ["first", "more"]})
    state = lived(RunResumed("first", b"n" * 32, new))
    assert (state.run.definition_digest, state.run.definition) == (b"n" * 32, new)
    assert lived(RunResumed("first", DEFINITION)).run == lived().run


def test_a_pause_outlasts_the_node_and_ends_with_a_resume() -> None:
    """A paused run may still finish what it was in the middle of, and stays paused."""
    paused = lived(RunPaused("me", "lunch"))
    assert (paused.status, paused.waiting_for) == ("paused", "")
    for event in (Transitioned("first", "second"), AttemptFailed("first", 1, FAILURE, 9), RunSuspended("first"), BEGUN):
        assert after(paused, event).status == "paused"
    assert after(paused, RunResumed("first", DEFINITION)).status == "running"
    assert after(paused, RunFailed("first", FAILURE)).status == "failed"
    assert after(paused, RunCompleted("first")).status == "completed"


def test_a_suspended_run_is_pending() -> None:
    """Nobody drives it, and anybody may."""
    state = lived(RunSuspended("first"))
    assert (state.status, state.node, state.ended) == ("pending", "first", False)


def test_a_cancelled_run_is_over() -> None:
    """Its data stay as they were."""
    state = lived(RunCancelled("me", "enough"), data={"n": 0})
    assert (state.status, state.data, state.ended) == ("cancelled", {"n": 0}, True)


def test_signals_wait_in_the_order_they_came() -> None:
    """Falsy payloads are payloads."""
    state = lived(
        *[SignalReceived("s", payload, number) for number, payload in enumerate([0, None, "", NOTHING, EMPTY])]
    )
    assert [one["payload"] for one in state.signals] == [0, None, "", [], {}]
    assert [one["message"] for one in state.signals] == [0, 1, 2, 3, 4]
    assert after(state, Transitioned("first", "second")).signals == state.signals


def test_an_effect_is_started_then_finished() -> None:
    """The entry says what a later call is compared with, and where the start stands."""
    started = lived(BEGUN)
    assert started.effects == {
        "charge#1": {
            "kind": "call", "status": "started", "attempt": 1, "version": 2, "mutating": True, "input_digest": b"i" * 32,
            "idempotency_key": "ef-1",
        },
    }  # fmt: skip
    finished = after(started, EffectFinished("charge", "1", None))
    assert finished.effects["charge#1"] == {**started.effects["charge#1"], "status": "finished", "output": None}


def test_an_effect_that_failed_or_was_rejected_has_no_output() -> None:
    """A refused result does not answer the next call."""
    finished = lived(BEGUN, EffectFinished("charge", "1", "ok"))
    rejected = after(finished, EffectRejected("charge", "1", why="wrong amount"))
    failed = after(lived(BEGUN), EffectFailed("charge", "1", FAILURE))
    assert "output" not in rejected.effects["charge#1"]
    assert [one.effects["charge#1"]["status"] for one in (rejected, failed)] == ["rejected", "failed"]
    again = after(rejected, replace(BEGUN, attempt=2))
    assert (again.effects["charge#1"]["status"], again.effects["charge#1"]["attempt"]) == ("started", 2)


def test_usage_adds_up_over_the_whole_run() -> None:
    """Counts of one name are summed, across nodes; what is no number stays with its event."""
    state = lived(
        BEGUN, EffectFinished("charge", "1", 1, freeze({"tokens": 5, "cost": 0.5, "details": {"cached": 1}})),
        Transitioned("first", "second"), BEGUN, EffectFinished("charge", "1", 1, freeze({"tokens": 7, "calls": 1})),
    )  # fmt: skip
    assert state.usage == {"tokens": 12, "cost": 0.5, "calls": 1}


def test_usage_can_not_grow_out_of_64_bits() -> None:
    """A count that could not be written any more stays at the limit."""
    most = EffectFinished("charge", "1", 1, freeze({"tokens": MAX_INT}))
    assert lived(BEGUN, most, BEGUN, most).usage == {"tokens": MAX_INT}


@pytest.mark.parametrize("falsy", [0, 0.0, "", b"", None, False, NOTHING, EMPTY])
def test_falsy_values_survive_in_every_place(falsy: Any) -> None:
    """Input, change, effect and signal hold nothing as something."""
    state = lived(
        SignalReceived("s", falsy, 1), Transitioned("first", "second", change=(Op("set", ("b",), falsy),)), BEGUN,
        EffectFinished("charge", "1", falsy), data={"a": falsy},
    )  # fmt: skip
    for value in (state.data["a"], state.data["b"], state.signals[0]["payload"], state.effects["charge#1"]["output"]):
        assert type(value) is type(falsy)
        assert value == falsy


def test_keys_of_a_lived_state_stand_in_stored_order() -> None:
    """Effects, their entries, signals and usage look as they will after recovery."""
    state = lived(
        replace(BEGUN, name="longer"), BEGUN, replace(BEGUN, name="a"), EffectFinished("a", "1", 1, freeze({"tokens": 1, "n": 1})),
        EffectRejected("a", "1"), EffectFinished("charge", "1", 1, freeze({"tokens": 1, "cached": 1})), SignalReceived("s", 1, 1),
    )  # fmt: skip
    dicts = [state.effects, *state.effects.values(), state.usage, *state.signals]
    assert all(list(one) == sorted(one, key=lambda key: (len(key), key)) for one in dicts)
    assert len(dicts) == 6


@pytest.mark.parametrize(
    ("one", "other"), [(("a#b", "c"), ("a", "b#c")), (("a%23b", "c"), ("a#b", "c")), (("a%", "1"), ("a%25", "1")), (("", "#"), ("#", ""))]
)  # fmt: skip
def test_no_two_effects_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    """A name or key with the sign between them in it is not taken for another call."""
    assert effect_id(*one) != effect_id(*other)
    assert effect_id("charge", "order-7") == "charge#order-7"


# --- rewinds and forks ---------------------------------------------------------------------------------------------


def test_a_rewind_goes_on_from_the_state_it_returns_to() -> None:
    """Data, node and visit are those of then; version, epoch and line are new; finished effects stay, others go."""
    then = lived(
        BEGUN, EffectFinished("charge", "1", "ok"), replace(BEGUN, name="mail"), AttemptFailed("first", 1, FAILURE, 99),
        SignalReceived("s", 1, 1), data={"n": 1},
    )  # fmt: skip
    back = evolve(then, recorded(Rewound(6, "first"), 10, epoch=2))
    assert (back.version, back.epoch, back.line, back.digest) == (10, 2, 10, b"\x0a" * 32)
    assert (back.status, back.node, back.visit, back.attempt, back.retry_at, back.error) == (
        "running",
        "first",
        1,
        1,
        0,
        None,
    )
    assert back.waiting_for == ""
    assert back.data == {"n": 1}
    assert list(back.effects) == ["charge#1"]
    assert back.signals == then.signals
    assert after(back, Transitioned("first", "second")).version == 11


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_a_run_that_is_over_can_be_rewound_to_its_end(status: str) -> None:
    """Going back to the last version opens the run again."""
    ended = lived(RunCompleted("first") if status == "completed" else RunCancelled())
    back = after(ended, Rewound(2, "first"))
    assert (back.status, back.ended) == ("running", False)


def test_a_rewind_to_another_version_or_node_than_the_line_gives_is_refused() -> None:
    """The event and the line it continues must speak of the same place."""
    state = lived(Transitioned("first", "second"))
    assert "not to 2" in refused(state, Rewound(1, "second"), 5)
    assert "not to 2" in refused(state, Rewound(3, "second"), 5)
    assert "is not on" in refused(state, Rewound(2, "first"), 5)
    assert refused(state, Rewound(2, "second"), 2)


FORKED = Forked("run-2", b"t" * 16, "run-1", KEY, 1, 3, (Op("set", ("n",), 0),))


def test_a_fork_is_a_run_of_its_own_with_its_parents_past() -> None:
    """It has its own id, store and time; workflow, definition, tags, data and usage are the parent's."""
    parent = lived(BEGUN, EffectFinished("charge", "1", 1, freeze({"tokens": 5})), data={"n": 1})
    child = evolve(parent, recorded(replace(FORKED, change=()), 4, key=OTHER))
    assert child.run == replace(
        parent.run, run_id="run-2", run_key=OTHER, store_id=b"t" * 16, started=4_000, parent=Parent("run-1", KEY, 1, 3)
    )
    assert (child.version, child.line, child.status, child.node, child.visit) == (4, 4, "running", "first", 1)
    assert child.data is parent.data
    assert child.effects == parent.effects
    assert child.usage == {"tokens": 5}


def test_a_fork_shares_neither_open_calls_nor_waits_nor_messages() -> None:
    """What had not finished begins again under the fork's own id."""
    parent = lived(
        SignalReceived("s", 1, 1), BEGUN, AttemptFailed("first", 1, FAILURE, 99), RunFailed("first", FAILURE)
    )
    child = evolve(parent, recorded(replace(FORKED, at=5, change=()), 6, key=OTHER))
    assert (child.effects, child.signals, child.attempt, child.retry_at, child.error) == ({}, [], 1, 0, None)
    assert (child.status, child.waiting_for) == ("running", "")


def test_a_fork_with_a_change_asks_its_calls_anew() -> None:
    """Answers that were given to the old data are not answers to the new."""
    parent = lived(BEGUN, EffectFinished("charge", "1", "ok"), data={"n": 1})
    child = evolve(parent, recorded(FORKED, 4, key=OTHER))
    assert child.effects == {}
    assert child.data == {"n": 0}
    assert parent.data == {"n": 1}


@pytest.mark.parametrize(("at", "version"), [(2, 4), (2, 3), (4, 5), (3, 5), (3, 3)])
def test_a_fork_from_another_version_than_the_parents_state_is_refused(at: int, version: int) -> None:
    """A fork's first version is the one after its parent's."""
    parent = lived(BEGUN, EffectFinished("charge", "1", "ok"))
    assert "forks at version" in refused(parent, replace(FORKED, at=at), version)
