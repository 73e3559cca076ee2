"""What a recovery would cost, and when a target for it asks for a snapshot: laws over any costs and any history."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.checkpoint import EVENT_WEIGHT, CheckpointPolicy, Passage, Progress, due, quiet_until, worth_bytes
from eventflow.costs import AIM, FEWEST, FIXED, FOLD, LOAD, STEP, UNTIMED, Costs, Timed, seconds_of
from eventflow.errors import DefinitionError

MOVED = Passage(left="a", entered="b")
costs_of = st.builds(
    Costs, fold=st.floats(1e-6, 1e-3), spread=st.floats(0, 1e-4), load=st.floats(1e-10, 1e-7), late=st.floats(0, 50)
)  # fmt: skip


# --- spans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [("50 ms", 0.05), ("50ms", 0.05), ("2 s", 2.0), ("500 us", 0.0005), ("500 µs", 0.0005), ("1.5s", 1.5), (0.05, 0.05),
     (3, 3.0), ("1 min", 60.0), (" 50  ms ", 0.05), ("0.25 s", 0.25)],
)  # fmt: skip
def test_a_span_is_a_text_or_seconds(given_, seconds):
    """Both ways of saying it are one policy."""
    assert seconds_of(given_) == pytest.approx(seconds)
    policy = CheckpointPolicy(recovery=given_)
    assert policy == CheckpointPolicy(recovery=seconds_of(given_))
    assert policy.target == pytest.approx(seconds)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "ms",
        "50 parsecs",
        "-1 ms",
        "0 ms",
        "50msec",
        "50",
        "0.25",
        0,
        -1.0,
        math.nan,
        math.inf,
        "1e3 ms",
        True,
        [],
        "50 ms 2 s",
    ],
)
def test_what_is_no_span_is_refused_where_the_policy_is_made(wrong):
    """Nothing, less than nothing, and what has no such unit."""
    with pytest.raises(DefinitionError, match="recovery"):
        CheckpointPolicy(recovery=wrong)


def test_a_text_without_a_unit_is_asked_for_one():
    """It could be ms as well as seconds, so the sentence says how to write either."""
    with pytest.raises(DefinitionError, match='give a unit: "50 ms"'):
        CheckpointPolicy(recovery="50")


def test_without_a_target_there_is_none():
    """The default policy knows nothing of costs, and its decisions do not depend on any."""
    assert CheckpointPolicy().target is None
    progress = Progress(events=100, weight=100 * EVENT_WEIGHT)
    for dear in (None, Costs(fold=1.0), Costs(fold=1e-9, load=1e-12)):
        assert due(CheckpointPolicy(), progress, MOVED, 0, dear).snapshot


# --- averages ------------------------------------------------------------------------------------------------------


def test_a_clock_that_stands_still_measures_nothing():
    """No seconds are no measurement: the constants stay, so that a history repeats."""
    costs = Costs()
    costs.recovered(Timed(0.0, 10**6, 0.0, 1_000, 10**5))
    costs.recovered(UNTIMED)
    assert costs == Costs()
    assert (costs.fold, costs.load) == (FOLD, LOAD)


def test_a_recovery_says_what_the_next_one_costs():
    """One of many events and a large snapshot leaves little of what was taken for true before."""
    costs = Costs()
    costs.recovered(Timed(FIXED + 0.004, 10**6, 0.1, 10_000, 0))
    assert costs.load == pytest.approx(4e-9)
    assert costs.fold == pytest.approx(1e-5, rel=0.02)


def test_few_events_say_little():
    """A recovery of one event is mostly finding it."""
    costs = Costs()
    costs.folding(0.001, 1, 100)
    assert costs.fold < 3 * FOLD


def test_a_run_may_change_its_ways():
    """After 100,000 cheap events a few thousand dear ones are believed."""
    costs = Costs()
    for _ in range(1_000):
        costs.folding(0.001, 100, 0)
    for _ in range(40):
        costs.folding(0.0064, 64, 0)
    assert costs.fold == pytest.approx(1e-4, rel=0.05)


@given(costs_of, st.floats(1e-7, 1e-2), st.integers(1, 5_000), st.integers(0, 10**6))
def test_an_average_lies_between_what_was_and_what_came(costs, seconds, events, size):
    """No sample moves it beyond itself, and none makes anything free."""
    before = costs.fold
    costs.folding(seconds, events, size)
    assert costs.fold > 0
    assert min(before, seconds / 4 / events) * 0.999 <= costs.fold <= max(before, seconds / events) * 1.001
    assert costs.spread >= 0


# --- what is due ---------------------------------------------------------------------------------------------------


@given(costs_of, st.floats(1e-3, 10), st.integers(0, 10**8), st.lists(st.integers(0, 10**5), max_size=60))
def test_no_recovery_is_reckoned_above_its_aim_before_a_snapshot_is_due(costs, target, state, sizes):
    """Whenever nothing is due and the target is in reach, folding what came since takes less than is planned for."""
    policy, progress = CheckpointPolicy(recovery=target), Progress(state_size=state)
    for size in sizes:
        progress.add(size)
        if due(policy, progress, MOVED, 0, costs).snapshot:
            progress.snapshot_taken(state, 0)
        elif costs.in_reach(target, progress.snapshot_size):
            assert costs.estimate(progress.state_size, progress.events) < AIM * target


@given(costs_of, st.floats(1e-3, 10), st.integers(0, 10**8), st.integers(0, 300), st.integers(0, 10**4))
def test_out_of_reach_the_proportion_decides(costs, target, state, events, size):
    """Where no snapshot helps, a target makes none that the default would not."""
    progress = Progress(state_size=state)
    for _ in range(events):
        progress.add(size)
    if not costs.in_reach(target, state):
        wanted = due(CheckpointPolicy(recovery=target), progress, MOVED, 0, costs)
        assert wanted.snapshot is worth_bytes(progress)


@given(
    costs_of, st.floats(1e-3, 1), st.integers(0, 10**7), st.integers(0, 50), st.lists(st.integers(0, 10**5), max_size=80)
)  # fmt: skip
def test_nothing_is_due_while_it_is_quiet(costs, target, state, before, sizes):
    """Below the weight that is said to be quiet no event makes a snapshot due, but for the few that are not looked at."""
    policy, progress = CheckpointPolicy(recovery=target), Progress(state_size=state)
    for _ in range(before):
        progress.add(100)
    if due(policy, progress, MOVED, 0, costs).snapshot:
        return
    quiet, blind = quiet_until(target, costs, progress), progress.weight + STEP * EVENT_WEIGHT
    for size in sizes:
        progress.add(size)
        if blind <= progress.weight < quiet:
            assert not due(policy, progress, MOVED, 0, costs).snapshot


def test_a_target_combines_with_every_other_option():
    """Each asks for its own kind; bytes are written if any wants them."""
    policy = CheckpointPolicy(recovery="1 ms", every=2, after_node=True)
    progress = Progress(state_size=0)
    progress.add(100)
    assert due(policy, progress, MOVED, 0, Costs()).kinds == ("after_node",)
    progress.add(100)
    assert due(policy, progress, MOVED, 0, Costs()).kinds == ("after_node", "every")
    for _ in range(40):
        progress.add(100)
    assert due(policy, progress, MOVED, 0, Costs()).kinds == ("auto", "after_node", "every")


def test_a_tighter_target_asks_sooner():
    """The number of events between snapshots falls with the time a recovery may take."""

    def events(target: float) -> int:
        progress = Progress()
        while not due(CheckpointPolicy(recovery=target), progress, MOVED, 0, Costs()).snapshot:
            progress.add(100)
        return progress.events

    counts = [events(target) for target in (0.001, 0.005, 0.05, 0.5)]
    assert counts == sorted(counts)
    assert counts[0] >= FEWEST
    assert counts[2] == pytest.approx(AIM * 0.05 / (FOLD + 100 * LOAD), rel=0.05)
