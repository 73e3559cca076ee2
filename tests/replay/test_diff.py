"""Two points of history compared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.address import resolve
from eventflow.change import Op
from eventflow.event import (
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Event,
    Failure,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    SignalReceived,
    Transitioned,
)
from eventflow.log import Head, MemoryLog
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.testing.author import Author
from replay.diff import Difference, diff
from replay.path import MISSING


@pytest.fixture
def author() -> Author:
    """A log written by hand."""
    return Author(MemoryLog())


def step(node: str, to: str, **values: Any) -> Transitioned:
    """A step that sets fields."""
    return Transitioned(node, to, change=tuple(Op("set", (key,), freeze(value)) for key, value in values.items()))


def call(output: Any, asked: Any = "?", name: str = "ask") -> list[Event]:
    """A call and its result."""
    started = EffectStarted(name, "1", "call", False, freeze(asked), bytes(32), "k")
    return [started, EffectFinished(name, "1", freeze(output))]


def between(author: Author, one: str, other: str) -> Difference:
    """What differs between two addresses."""
    return diff(author.log, resolve(author.log, one), resolve(author.log, other))


def told(found: Difference) -> list[tuple[Any, ...]]:
    """Divergences without their nodes."""
    return [(one.kind, one.what, one.versions, one.one, one.other) for one in found.divergences]


# --- one run -------------------------------------------------------------------------------------------------------


def test_two_points_of_a_run_differ_by_a_patch_and_by_where_they_stand(author):
    """A run is not compared with itself event by event."""
    head = author.add(author.start("r", {"x": 1, "list": [1]}), step("a", "b", x=2))
    author.add(head, RunCompleted("b", (Op("extend", ("list",), freeze([2])),)))
    found = between(author, "r@1", "r")
    assert [edit.document() for edit in found.patch] == [
        {"op": "replace", "path": "/x", "value": 2},
        {"op": "add", "path": "/list/1", "value": 2},
    ]
    assert found.standing == {"node": ("a", "b"), "status": ("running", "completed")}
    assert (found.divergences, found.same, found.shared) == ((), False, 1)


def test_a_point_is_the_same_as_itself(author):
    """And so are two versions between which nothing changed but the time."""
    head = author.add(author.start("r", {"x": 1}), *call(1))
    assert between(author, "r@1", "r@1").same
    assert between(author, "r@1", f"r@{head.version}").same


def test_an_error_is_a_difference_of_standing(author):
    """It is told by its type and its sentence."""
    author.add(author.start("r"), RunFailed("a", Failure("ValueError", "it broke")))
    assert between(author, "r@1", "r").standing == {
        "status": ("running", "failed"), "error": (None, "ValueError: it broke"),
    }  # fmt: skip


# --- a fork and its parent -----------------------------------------------------------------------------------------


def test_what_a_fork_changed_comes_first(author):
    """Beside what its parent had there; what follows from it is told where it first shows."""
    parent = author.add(author.start("r", {"x": 1, "n": 0}), step("a", "b"))
    fork = author.fork(parent, 2, "f", change=(Op("set", ("x",), 5),))
    author.add(parent, *call("one"), step("b", "c", y="one"), RunCompleted("c"))
    author.add(fork, *call("two"), step("b", "d", y="two"), RunCompleted("d"))
    found = between(author, "r", "f")
    assert found.shared == 2
    assert told(found) == [
        ("state", "x", (0, 3), 1, 5),
        ("effect", "ask#1 output", (3, 4), "one", "two"),
        ("state", "y", (5, 6), "one", "two"),
        ("route", "leads to", (5, 6), "c", "d"),
        ("route", "node", (6, 7), "c", "d"),
    ]
    assert told(between(author, "f", "r"))[0] == ("state", "x", (3, 0), 5, 1)


def test_a_fork_that_did_the_same_is_the_same(author):
    """The fork itself, pauses and resumes are no difference."""
    parent = author.add(author.start("r", {"x": 1}), step("a", "b"))
    fork = author.fork(parent, 2, "f")
    author.add(parent, *call(1), RunCompleted("b"))
    author.add(fork, RunPaused(), RunResumed("b", b""), *call(1), RunCompleted("b"))
    assert between(author, "r", "f").same


def test_the_same_change_to_other_states_is_told_once(author):
    """What was different before and was changed alike is no new difference."""
    parent = author.start("r", {"n": 0})
    fork = author.fork(parent, 1, "f", change=(Op("set", ("n",), 10),))
    plus = (Op("add", ("n",), 1),)
    author.add(parent, Transitioned("a", "a", change=plus), RunCompleted("a"))
    author.add(fork, Transitioned("a", "a", change=plus), RunCompleted("a"))
    found = between(author, "r", "f")
    assert told(found) == [("state", "n", (0, 2), 0, 10)]
    assert [edit.document() for edit in found.patch] == [{"op": "replace", "path": "/n", "value": 11}]


def test_a_line_that_has_not_come_so_far_goes_on_in_the_other(author):
    """What an unfinished visit lacks may still come, and is no difference by itself."""
    parent = author.add(author.start("r"), step("a", "b"))
    fork = author.fork(parent, 2, "f")
    author.add(parent, *call(1), step("b", "c", x=1), *call(2), RunCompleted("c"))
    assert told(between(author, "r", "f")) == [("end", "goes on", (5, 0), "node b", MISSING)]
    fork = author.add(fork, *call(7))
    assert told(between(author, "f", "r")) == [
        ("effect", "ask#1 output", (4, 3), 7, 1), ("end", "goes on", (0, 5), MISSING, "node b"),
    ]  # fmt: skip
    author.add(fork, step("b", "c", x=1))
    assert told(between(author, "f", "r"))[-1] == ("end", "goes on", (0, 8), MISSING, "node c")


def test_a_rewound_run_is_compared_along_its_line(author):
    """What the rewind left behind is not there."""
    parent = author.add(author.start("r"), step("a", "b", x=1), step("b", "c", x=2))
    fork = author.fork(parent, 2, "f")
    author.add(author.rewind(parent, 2), step("b", "d", x=3))
    author.add(fork, step("b", "d", x=3))
    found = between(author, "r", "f")
    assert (found.shared, found.same) == (2, True)


# --- runs of their own ---------------------------------------------------------------------------------------------


def test_unrelated_runs_are_compared_from_their_start(author):
    """Visit by visit, whatever their versions; their inputs first."""
    one = author.start("r", {"x": 1})
    other = author.start("s", {"x": 2}, workflow="other")
    author.add(one, *call(1), *call(1, name="pay"), step("a", "b", y=1))
    author.add(other, RunPaused(), RunResumed("a", b""), *call(1, asked="!"), step("a", "b", y=1))
    found = between(author, "r", "s")
    assert found.shared == 0
    assert told(found) == [
        ("start", "workflow", (1, 1), "flow", "other"),
        ("state", "x", (1, 1), 1, 2),
        ("effect", "ask#1 input", (2, 4), "?", "!"),
        ("effect", "pay#1 input", (4, 0), "?", MISSING),
        ("effect", "pay#1 output", (4, 0), 1, MISSING),
    ]


def test_runs_that_did_the_same_are_the_same(author):
    """Ids, times and digests are no difference."""
    for name in ("r", "s"):
        author.add(author.start(name, {"x": 1}), *call(1), step("a", "b", y=[1]), RunCompleted("b"))
    assert between(author, "r", "s").same


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([SignalReceived("go", 1, 1)], [SignalReceived("go", 2, 1)], ("signal", "signal")),
        ([SignalReceived("go", 1, 1)], [], ("signal", "signal")),
        ([*call(1)], [call(1)[0], EffectFailed("ask", "1", Failure("E", "no"))], ("effect", "ask#1 output")),
    ],
)
def test_what_came_in_is_compared(author, one, other, expected):
    """Messages by their payload, a failed call with a finished one."""
    author.add(author.start("r"), *one, step("a", "b"))
    author.add(author.start("s"), *other, step("a", "b"))
    (found,) = between(author, "r", "s").divergences
    assert (found.kind, found.what) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (RunCompleted("a"), RunCancelled()),
        (RunCompleted("a"), RunFailed("a", Failure("E", "no"))),
        (step("a", "b"), Transitioned("a", "b", "failed")),
    ],
)
def test_how_a_visit_ended_is_compared(author, one, other):
    """By where it led, on which trigger, or how the run ended."""
    author.add(author.start("r"), one)
    author.add(author.start("s"), other)
    (found,) = between(author, "r", "s").divergences
    assert (found.kind, found.what) == ("route", "leads to")


moves = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 1), st.integers(0, 2)), max_size=5
)


def lived(author: Author, head: Head, node: str, done: list[tuple[str, str, int, int]]) -> Head:
    """A run that made these moves."""
    for to, key, value, output in done:
        head = author.add(head, *call(output), step(node, to, **{key: value}))
        node = to
    return head


@settings(deadline=None)
@given(moves, moves, st.integers(0, 3))
def test_runs_are_the_same_exactly_if_they_did_the_same(one, other, common):
    """The first difference stands at the first move that differs, and a comparison the other way mirrors it."""
    author = Author(MemoryLog())
    one, other = one[:common] + one, one[:common] + other
    lived(author, author.start("r", {}), "a", one)
    lived(author, author.start("s", {}), "a", other)
    found, back = between(author, "r", "s"), between(author, "s", "r")
    assert found.same is (one == other)
    mirrored = sorted(repr((d.kind, d.what, d.versions[::-1], d.other, d.one)) for d in back.divergences)
    assert sorted(repr((d.kind, d.what, d.versions, d.one, d.other)) for d in found.divergences) == mirrored
    if one != other:
        first = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(one), len(other)) if first is None else first
        versions = [version for version in found.divergences[0].versions if version]
        assert all(1 + 3 * at < version <= 1 + 3 * (at + 1) for version in versions)


def test_the_states_compared_are_those_of_recovery(author):
    """A snapshot on the way changes nothing of what is found."""
    head = author.add(author.start("r", {"x": 1, "list": list(range(700))}), step("a", "a", x=2))
    vouch = author.snapshot(head)
    head = author.add(head, step("a", "a", x=3), vouch=vouch)
    author.add(author.fork(head, 3, "f"), step("a", "a", x=4))
    assert recover(author.log, resolve(author.log, "f").head).snapshot == 2
    assert [edit.document() for edit in between(author, "r", "f").patch] == [
        {"op": "replace", "path": "/x", "value": 4}
    ]
