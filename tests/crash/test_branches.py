"""Splits and children die at every boundary: what was over stays over, the join comes once, no recorded call is made again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, TypedDict

import pytest

from eventflow import CheckpointPolicy, Child, Human, Map, Parallel, RetryPolicy, Sleep, Wait, Workflow, extend
from eventflow.testing import crash_sweep

pytestmark = pytest.mark.slow


class State(TypedDict, total=False):
    """What the branches bring."""

    items: list[int]
    notes: Annotated[list[str], extend]
    out: list[int | None]
    said: str
    got: int


def holds(report, least):
    """The sentence that a sweep is to be able to say."""
    report.check()
    assert report.boundaries == report.crashed == report.recovered
    assert (report.lost, report.repeated) == (0, 0)
    assert report.possible >= least


def flow_of(split, **options):
    """A split with something before and something after."""
    flow = Workflow("flow", state=State)
    flow.add_node("before", lambda state: {"notes": ["before"]})
    flow.add_node("split", split, **options)
    flow.add_node("after", lambda state: {"notes": ["after"]})
    return flow.add_edge("before", "split").add_edge("split", "after").set_start("before")


def noting(name, calls=2):
    """A branch that makes calls that count, and notes what they gave."""

    async def body(state, run):
        notes = [
            await run.effect("call", lambda n=number: f"{name}{n}", reconcile=lost, mutating=True)
            for number in range(calls)
        ]
        return {"notes": notes}

    return body


def lost(key):
    """What became of a call whose outcome is unknown: it never happened."""
    raise LookupError(key)


def test_a_parallel_survives_at_every_boundary(full):
    """Three branches with calls, joined in declared order; snapshots between."""
    split = Parallel({name: noting(name) for name in "abc"})
    report = crash_sweep(
        flow_of(split), {"notes": []}, every=1 if full else 3, checkpoints=CheckpointPolicy(every=4),
        invariants=[lambda state: state.data["notes"] == ["before", "a0", "a1", "b0", "b1", "c0", "c1", "after"]],
    )  # fmt: skip
    holds(report, 20)


def test_a_map_with_a_limit_survives_and_repeats_no_item_that_was_over(full):
    """One item at a time, so that the crash says exactly which were over."""

    async def body(item, run):
        return await run.effect("double", lambda: 2 * item, mutating=False)

    split = Map(body, over="items", writes="out", limit=1)
    report = crash_sweep(flow_of(split), {"items": [1, 2, 3, 4], "notes": []}, every=1 if full else 3)
    holds(report, 16)


def test_failures_and_attempts_of_branches_survive(full):
    """One branch needs two attempts, one fails for good and is tolerated."""

    def make():
        async def body(item, run):
            if item == 0:
                raise ValueError("never")
            if item == 1 and run.attempt == 1:
                raise ConnectionError("once")
            return item

        split = Map(body, over="items", writes="out", tolerate=1)
        return flow_of(split, retry=RetryPolicy(attempts=2, delay=5, jitter=0, on=(ConnectionError,)))

    report = crash_sweep(
        make, {"items": [0, 1, 2], "notes": []}, every=1 if full else 3,
        invariants=[lambda state: state.data["out"] == [None, 1, 2]],
    )  # fmt: skip
    holds(report, 12)


def test_waits_side_by_side_survive(full):
    """A question, a signal and a sleep; each gets what is meant for it, once."""
    split = Parallel({
        "ask": Human(prompt="?", writes="said"), "wait": Wait(signal="go", writes="got"), "nap": Sleep(30),
        "work": noting("w", 1),
    })  # fmt: skip
    report = crash_sweep(
        flow_of(split), {"notes": []}, answers={"split": "yes", "ask": "yes"}, signals={"go": 7}, every=1 if full else 4,
        invariants=[lambda state: (state.data["said"], state.data["got"]) == ("yes", 7)],
    )  # fmt: skip
    holds(report, 16)


def test_children_survive_with_their_callers(full):
    """Two children in branches and one alone, each with a call; every run's boundaries are swept."""
    child = Workflow("child", state=State).add_node("work", noting("c", 1)).add_node("nap", Sleep(3))
    child.add_edge("work", "nap").set_start("work")
    taken = Child(child, reads=lambda state: {"notes": []}, writes={"notes": "notes"})
    flow = Workflow("flow", state=State).add_node("two", Parallel({"a": taken, "b": taken})).add_node("one", taken)
    flow.add_edge("two", "one").set_start("two")
    report = crash_sweep(
        flow, {"notes": []}, every=1 if full else 5,
        invariants=[lambda state: state.status != "completed" or state.data["notes"] == ["c0", "c0", "c0"]],
    )  # fmt: skip
    holds(report, 40)


def test_bodies_of_finished_branches_do_not_run_again(full):
    """Counted outside, over every crash: with one at a time, at most the item at work runs twice."""
    runs: list[Counter[int]] = []

    def make():
        count: Counter[int] = Counter()
        runs.append(count)

        async def body(item):
            count[item] += 1
            await asyncio.sleep(0)
            return item

        return flow_of(Map(body, over="items", writes="out", limit=1))

    holds(crash_sweep(make, {"items": [0, 1, 2, 3], "notes": []}, every=1 if full else 2), 10)
    assert all(sum(count.values()) <= 5 for count in runs)
    assert any(sum(count.values()) == 5 for count in runs)
