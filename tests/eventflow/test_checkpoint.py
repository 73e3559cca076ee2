"""Checkpoint policies: when a snapshot is worth it, what a mark is called, what stays."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.checkpoint import (
    EVENT_WEIGHT,
    KINDS,
    MIN_BYTES,
    MIN_EVENTS,
    NO_CHECKPOINTS,
    NOTHING_DUE,
    Checkpoint,
    CheckpointPolicy,
    Due,
    Passage,
    Progress,
    due,
    expired,
    merged,
    select,
)
from eventflow.clock import NS
from eventflow.errors import DefinitionError

MOVED = Passage(left="a", entered="b")
QUIET = {"auto": False, "on_error": False, "at_shutdown": False}


def only(**options: Any) -> CheckpointPolicy:
    """A policy of nothing but these options."""
    return CheckpointPolicy(**{**QUIET, **options})


def after(events: int, *, size: int = 100, state: int = 0, last: int = 0) -> Progress:
    """Progress over so many events since a snapshot of a state of that size."""
    progress = Progress(state_size=state, last=last)
    for _ in range(events):
        progress.add(size)
    return progress


# --- each option alone ---------------------------------------------------------------------------------------------


def test_without_options_nothing_is_ever_due() -> None:
    """A policy of nothing keeps nothing, whatever happens."""
    for passage in (MOVED, Passage(left="a", failed=True), Passage()):
        assert due(NO_CHECKPOINTS, after(10**4, size=10**4), passage, 10**18) is NOTHING_DUE


def test_auto_waits_for_enough_events_enough_bytes_and_the_states_own_weight() -> None:
    """All three bounds must be passed: few events, little weight or a large state are folded instead."""
    policy = only(auto=True)
    small = -(-MIN_BYTES // EVENT_WEIGHT)
    assert small < MIN_EVENTS, "the case below needs the bound on events to be the later one"
    assert due(policy, after(MIN_EVENTS - 1, size=10**6), MOVED, 0) is NOTHING_DUE
    assert due(policy, after(MIN_EVENTS, size=0), MOVED, 0) == Due(("auto",), snapshot=True)
    weight = MIN_EVENTS * EVENT_WEIGHT
    assert due(policy, after(MIN_EVENTS, size=0, state=weight), MOVED, 0) == Due(("auto",), snapshot=True)
    assert due(policy, after(MIN_EVENTS, size=0, state=weight + 1), MOVED, 0) is NOTHING_DUE


def test_auto_waits_for_as_many_bytes_as_are_worth_it() -> None:
    """Many events of almost no weight are still recovered in no time."""
    progress = Progress(events=10**6, weight=MIN_BYTES - 1)
    assert due(only(auto=True), progress, MOVED, 0) is NOTHING_DUE
    progress.weight += 1
    assert due(only(auto=True), progress, MOVED, 0).snapshot


def test_every_counts_events() -> None:
    """A snapshot each that many, counted from the last one."""
    policy = only(every=3)
    assert due(policy, after(2), MOVED, 0) is NOTHING_DUE
    assert due(policy, after(3), MOVED, 0) == Due(("every",), snapshot=True)
    progress = after(3)
    progress.snapshot_taken(10, 5)
    assert due(policy, progress, MOVED, 0) is NOTHING_DUE
    assert due(only(every=1), after(1), Passage(), 0).kinds == ("every",)


def test_interval_counts_seconds_since_the_last_snapshot() -> None:
    """At the first event after it, not before."""
    policy = only(interval=1.5)
    assert due(policy, after(1, last=10 * NS), MOVED, 10 * NS + 1_499_999_999) is NOTHING_DUE
    assert due(policy, after(1, last=10 * NS), MOVED, 10 * NS + 1_500_000_000) == Due(("interval",), snapshot=True)


@pytest.mark.parametrize(
    ("options", "passage", "kinds"),
    [
        ({"before_node": True}, MOVED, ("before_node",)), ({"after_node": True}, MOVED, ("after_node",)),
        ({"before_node": ("b",)}, MOVED, ("before_node",)), ({"before_node": ("a",)}, MOVED, ()),
        ({"after_node": ("a",)}, MOVED, ("after_node",)), ({"after_node": ("b",)}, MOVED, ()),
        ({"before_node": (), "after_node": ()}, MOVED, ()), ({"before_node": True, "after_node": True}, Passage(), ()),
        ({"before_node": ("abc",)}, Passage(entered="b"), ()), ({"after_node": True}, Passage(left="a"), ("after_node",)),
    ],
)  # fmt: skip
def test_marks_around_nodes_are_marks_alone(options: dict[str, Any], passage: Passage, kinds: tuple[str, ...]) -> None:
    """They name a version that is reached by folding: their bytes are not worth writing by themselves."""
    assert due(only(**options), after(1), passage, 0) == Due(kinds, snapshot=False)


def test_after_one_node_and_before_the_next_is_one_mark_of_two_kinds() -> None:
    """Both speak of the same version."""
    assert due(only(before_node=True, after_node=True), after(1), MOVED, 0).kinds == ("before_node", "after_node")


def test_an_error_is_worth_its_bytes() -> None:
    """What failed is looked at first, and soon."""
    failed = Passage(left=None, failed=True)
    assert due(only(on_error=True), after(1), failed, 0) == Due(("error",), snapshot=True)
    assert due(only(on_error=False), after(1), failed, 0) is NOTHING_DUE
    assert due(only(on_error=True), after(1), MOVED, 0) is NOTHING_DUE


# --- combined ------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[Any, str, bool]] = {
    "auto": (True, "auto", True), "every": (64, "every", True), "interval": (1.0, "interval", True),
    "before_node": (True, "before_node", False), "after_node": (True, "after_node", False), "on_error": (True, "error", True),
}  # fmt: skip


@pytest.mark.parametrize(
    "names", [names for count in range(7) for names in itertools.combinations(OPTIONS, count)], ids="+".join
)
def test_options_add_up(names: tuple[str, ...]) -> None:
    """Each option asks for its own kind, whatever the others ask; bytes are written if any of them wants bytes."""
    policy = only(**{name: OPTIONS[name][0] for name in names})
    happened = Passage(left="a", entered="b", failed=True)
    wanted = due(policy, after(MIN_EVENTS, size=10_000), happened, 2 * NS)
    assert {*wanted.kinds} == {OPTIONS[name][1] for name in names}
    assert list(wanted.kinds) == sorted(wanted.kinds, key=KINDS.index)
    assert wanted.snapshot is any(OPTIONS[name][2] for name in names)


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0}, {"every": -1}, {"keep": 0}, {"keep": -5}, {"interval": 0}, {"interval": -1.0}, {"interval": math.nan},
        {"max_age": 0}, {"max_age": -1}, {"max_age": math.nan}, {"before_node": "writer"}, {"after_node": "writer"},
        {"keep": "many"}, {"every": "x"}, {"every": 1.5}, {"every": True}, {"interval": "soon"}, {"interval": "60"}, {"interval": "0 s"},
        {"max_age": []}, {"max_age": 10**400}, {"auto": "no"}, {"compress": 1}, {"after_node": 3}, {"before_node": (1,)},
    ],
)  # fmt: skip
def test_a_policy_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    """A number out of bounds, or a name where names are asked for, is found where the policy is made."""
    with pytest.raises(DefinitionError, match=next(iter(wrong))):
        CheckpointPolicy(**wrong)


def test_spans_are_texts_or_seconds() -> None:
    """Both ways of saying it are one policy, which asks for the same checkpoints."""
    policy = CheckpointPolicy(interval="1h", max_age="30d")
    assert policy == CheckpointPolicy(interval=3_600, max_age=30 * 86_400.0)
    assert CheckpointPolicy(interval="50 ms").interval == 0.05
    assert due(policy, after(1), Passage(), 3_600 * NS).kinds == ("interval",)
    assert due(policy, after(1), Passage(), 3_600 * NS - 1).kinds == ()


# --- what the default costs ----------------------------------------------------------------------------------------


def spent(sizes: Any, grows: Any) -> tuple[int, int, int]:
    """Bytes of snapshots, weight of events, and the most events between two snapshots, under the default policy.

    `grows` says by how many bytes an event of some size really makes the state larger.
    """
    policy, progress = CheckpointPolicy(), Progress()
    state = written = weight = longest = 0
    for size in sizes:
        progress.add(size)
        state, weight = max(0, state + grows(size)), weight + size + EVENT_WEIGHT
        longest = max(longest, progress.events)
        if due(policy, progress, MOVED, 0).snapshot:
            written += state
            progress.snapshot_taken(state, 0)
    return written, weight, longest


@pytest.mark.parametrize(
    ("size", "grows"),
    [
        (500, lambda size: size), (500, lambda _: 1), (20, lambda size: size), (50_000, lambda size: size),
        (500, lambda size: size // 2), (2_000, lambda size: size),
    ],
    ids=["grows", "constant", "tiny", "large", "half", "kilobytes"],
)  # fmt: skip
def test_snapshots_stay_linear_in_the_log(size: int, grows: Any) -> None:
    """Over 100,000 events all snapshots together weigh no more than the events, however the state grows."""
    written, weight, _ = spent(itertools.repeat(size, 100_000), grows)
    assert written <= weight


def test_a_state_that_stays_small_is_snapshotted_at_least_every_so_often() -> None:
    """Recovery of a small state never folds more than a few dozen events."""
    _, _, longest = spent(itertools.repeat(300, 100_000), lambda _: 0)
    assert longest <= MIN_EVENTS


def test_a_growing_state_is_folded_from_no_more_than_its_own_weight() -> None:
    """Recovery stays proportional to the state: the events after a snapshot weigh about as much."""
    policy, progress, state = CheckpointPolicy(), Progress(), 0
    for _ in range(50_000):
        progress.add(400)
        state += 400
        if due(policy, progress, MOVED, 0).snapshot:
            progress.snapshot_taken(state, 0)
        assert progress.weight <= max(state, MIN_BYTES, MIN_EVENTS * (400 + EVENT_WEIGHT)) + EVENT_WEIGHT + 400


@given(st.lists(st.integers(0, 10**6), max_size=300), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=30)
def test_no_mix_of_event_sizes_makes_snapshots_cost_more_than_the_log(sizes: list[int], share: float) -> None:
    """The bound holds for any history."""
    written, weight, _ = spent(sizes, lambda size: int(size * share))
    assert written <= weight


# --- marks ---------------------------------------------------------------------------------------------------------


def mark(version: int, *kinds: Any, time: int | None = None, size: int = 0) -> Checkpoint:
    """A mark whose time in seconds is its version."""
    return Checkpoint(version, kinds or ("auto",), version * NS if time is None else time, size=size)


def test_a_checkpoint_is_named_by_its_version() -> None:
    """One version has one checkpoint."""
    assert mark(17).id == "c-17"


def test_two_marks_of_a_version_are_one() -> None:
    """Kinds add up in a fixed order; the first time, the newer label and whichever bytes exist stay."""
    old = Checkpoint(3, ("error", "auto"), 10, "before lunch", 500, b"d" * 32)
    new = Checkpoint(3, ("manual", "before_node"), 20)
    one = merged(old, new)
    assert one == Checkpoint(3, ("auto", "before_node", "error", "manual"), 10, "before lunch", 500, b"d" * 32)
    assert merged(None, new) is new
    newer = Checkpoint(3, ("manual",), 30, "after lunch", 700, b"e" * 32)
    assert merged(one, newer) == Checkpoint(3, one.kinds, 10, "after lunch", 700, b"e" * 32)


MARKS = [mark(1), mark(2, "manual"), mark(3), mark(4, "manual", "auto"), mark(5), mark(6)]


@pytest.mark.parametrize("marks", [MARKS, MARKS[::-1]])
@pytest.mark.parametrize(
    ("options", "now", "gone"),
    [
        ({}, 100, []), ({"keep": 1}, 100, [1, 3, 5]), ({"keep": 3}, 100, [1]), ({"keep": 4}, 100, []), ({"keep": 99}, 100, []),
        ({"max_age": 3}, 6, [1]), ({"max_age": 2.5}, 6, [1, 3]), ({"max_age": 1}, 1_000, [1, 3, 5]), ({"max_age": math.inf}, 10**9, []),
        ({"keep": 2, "max_age": 1}, 7, [1, 3, 5]), ({"keep": 3, "max_age": 100}, 7, [1]), ({"keep": 99, "max_age": 3}, 7, [1, 3]),
    ],
)  # fmt: skip
def test_what_expires(marks: list[Checkpoint], options: dict[str, Any], now: int, gone: list[int]) -> None:
    """Either option takes the oldest; the newest and what was asked for by hand stay, in whatever order they are given."""
    assert sorted(expired(CheckpointPolicy(**options), marks, now * NS)) == gone


def test_nothing_expires_of_nothing() -> None:
    """A run without checkpoints, or with manual ones only, has none to lose."""
    assert expired(CheckpointPolicy(keep=1, max_age=1), [], 10**18) == []
    assert expired(CheckpointPolicy(keep=1, max_age=1), [mark(1, "manual"), mark(2, "manual")], 10**18) == []


@pytest.mark.parametrize(
    ("older_than", "keep", "taken"),
    [
        (None, None, [1, 2, 3, 4, 5, 6]), (None, 2, [1, 2, 3, 4]), (None, 0, [1, 2, 3, 4, 5, 6]), (None, 99, []), (3, None, [1, 2]),
        (3, 5, [1]), (99, 4, [1, 2]), (0, None, []),
    ],
)  # fmt: skip
def test_a_prune_by_hand_takes_what_it_is_told(older_than: int | None, keep: int | None, taken: list[int]) -> None:
    """Manual ones too: whoever prunes by hand has the last word. Both limits must agree."""
    moment = None if older_than is None else older_than * NS
    for marks in (MARKS, MARKS[::-1]):
        assert select(marks, older_than=moment, keep=keep) == taken
