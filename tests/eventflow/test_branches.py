"""Nodes that split, driven by real engines: order, failures, limits, retries, types, and how large a split may be."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, TypedDict

import pytest
from splits import ended, failed, flow_of
from stories import story

from eventflow import Engine, Go, Map, Parallel, RetryPolicy, RunFailed, add, extend
from eventflow.budget import Budget
from eventflow.event import AttemptFailed, BranchesOpened, BranchFailed, BranchFinished, Transitioned


def of(events, *kinds):
    """The events of some kinds."""
    return [one for one in events if isinstance(one, kinds)]


def after(seconds, value):
    """A body that takes a while."""

    async def body(state):
        await asyncio.sleep(seconds)
        return value

    return body


# --- order and the join --------------------------------------------------------------------------------------------


class Lists(TypedDict, total=False):
    """Fields that join."""

    items: list[int]
    out: list[int]
    seen: Annotated[list[str], extend]
    sum: Annotated[int, add]


def test_branches_are_joined_in_declared_order_whatever_came_first():
    """The last to end may be the first in the list; each end is an event, the join is one."""
    slow_first = {"a": after(0.06, {"seen": ["a"], "sum": 1}), "b": after(0.03, {"seen": ["b"], "sum": 2}), "c": after(0, {"seen": ["c"]})}  # fmt: skip
    result, events = ended({"seen": ["z"]}, Parallel(slow_first), state=Lists)
    assert result == {"seen": ["z", "a", "b", "c"], "sum": 3}
    assert [one.branch for one in of(events, BranchFinished)] == ["c", "b", "a"]
    assert len(of(events, BranchesOpened)) == 1
    assert len(of(events, Transitioned)) == 1


def test_values_of_a_map_stand_in_the_items_order():
    """However long each took."""

    async def body(item):
        await asyncio.sleep(0.01 * (5 - item))
        return item * 10

    result, events = ended({"items": [0, 1, 2, 3, 4]}, Map(body, over="items", writes="out"), state=Lists)
    assert result["out"] == [0, 10, 20, 30, 40]
    assert [one.branch for one in of(events, BranchFinished)] == ["4", "3", "2", "1", "0"]


def test_a_branch_sees_the_state_as_it_was_at_the_split():
    """What another branch brought is not there before the join."""
    saw = []

    async def second(state):
        await asyncio.sleep(0.02)
        saw.append(dict(state))

    ended({"x": 1}, Parallel({"a": lambda state: {"x": 2}, "b": second}))
    assert saw == [{"x": 1}]


def test_one_field_of_two_branches_without_a_reducer_fails_the_run_and_names_both():
    """Nothing of either is in the state."""
    error, _ = failed({}, Parallel({"left": lambda state: {"x": 1}, "right": lambda state: {"x": 2}}))
    assert error.type == "BranchesDisagree"
    assert "'left'" in error.message
    assert "'right'" in error.message
    assert "'x'" in error.message


def test_plain_functions_run_side_by_side_in_threads():
    """Two that wait for each other both end."""
    both = threading.Barrier(2)

    def body(state):
        both.wait(5)
        return {threading.current_thread().name: True}

    result, _ = ended({}, Parallel({"a": body, "b": body}))
    assert len(result) == 2


def test_a_map_without_writes_brings_changes_as_a_node_does():
    """Here each item adds to one sum."""
    result, _ = ended(
        {"items": [1, 2, 3]}, Map(lambda item: {"sum": item, "seen": [str(item)]}, over="items"), state=Lists
    )
    assert result == {"items": [1, 2, 3], "sum": 6, "seen": ["1", "2", "3"]}


def test_a_map_over_what_a_function_gives_asks_it_once():
    """The list is in the log, so that it is the same for every attempt and after every crash."""
    asked = []

    def over(state):
        asked.append(1)
        return list(range(state["n"]))

    result, events = ended({"n": 4}, Map(lambda item, run: (run.branch, item), over=over, writes="out"))
    assert result["out"] == [["0", 0], ["1", 1], ["2", 2], ["3", 3]]
    assert of(events, BranchesOpened)[0].items == [0, 1, 2, 3]
    assert len(asked) == 1


@pytest.mark.parametrize("count", [0, 1, 1_000])
def test_a_map_may_have_no_item_one_or_a_thousand(count):
    """Without items the join comes at once."""
    result, events = ended({"items": list(range(count))}, Map(after_item, over="items", writes="out"))
    assert result["out"] == list(range(1, count + 1))
    assert len(of(events, BranchFinished)) == count


async def after_item(item):
    """The next number."""
    return item + 1


def test_odd_names_are_names():
    """A branch may be called as one likes; calls of branches whose names look alike stay apart."""
    names = ["a", "a/b", "a#1", "%", "é\n", "0", " ", "x" * 128]

    async def body(state, run):
        value = await run.effect("b/call#1", lambda: run.branch)
        again = await run.effect("call", lambda: run.branch)
        assert value == again
        return {"seen": [value]}

    result, _ = ended({}, Parallel(dict.fromkeys(names, body)), state=Lists)
    assert result["seen"] == names


# --- failing -------------------------------------------------------------------------------------------------------


async def odd_fails(item):
    """Fails for odd numbers."""
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item


def test_the_first_failure_fails_the_node_and_cuts_off_the_others():
    """What goes on in them ends, and nothing of it is recorded."""
    cut = []

    async def patient(state):
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cut.append(1)
            raise

    async def breaks(state):
        await asyncio.sleep(0.01)
        raise ValueError("no")

    error, events = failed({}, Parallel({"patient": patient, "breaks": breaks}))
    assert (error.type, cut) == ("BranchesFailed", [1])
    assert error.message == "1 of 2 branches of node 'split' failed (breaks); the first: ValueError: no"
    assert [one.branch for one in of(events, BranchFailed, BranchFinished)] == ["breaks"]


def test_a_branch_that_was_cut_off_has_lost_its_run():
    """A plain function goes on in its thread, but what it asks for is refused."""
    refused, go_on = [], threading.Event()

    def patient(state, run):
        go_on.wait(5)
        try:
            run.effect_sync("late", lambda: 1)
        except Exception as error:  # noqa: BLE001 - looked at below
            refused.append(type(error).__name__)

    def breaks(state):
        raise ValueError("no")

    async def tell():
        flow = flow_of(Parallel({"patient": patient, "breaks": breaks}))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            with pytest.raises(RunFailed):
                await run.result()
            go_on.set()
            while not refused:
                await asyncio.sleep(0.002)

    story(tell())
    assert refused == ["RunLost"]


def test_a_failed_split_may_have_an_edge_of_its_own():
    """The node there finds what failed."""

    async def mend(state, run):
        return {"why": run.error.type}

    flow = flow_of(Parallel({"a": lambda state: 1 / 0})).add_node("mend", mend).add_edge("split", "mend", on="failed")
    assert flow.run_sync({}) == {"why": "BranchesFailed"}


def test_so_many_may_fail_and_leave_a_gap():
    """A number, or a share of the items; in place of what failed there is None."""
    for tolerate in (2, "40%"):
        split = Map(odd_fails, over="items", writes="out", tolerate=tolerate)
        result, events = ended({"items": [0, 1, 2, 3, 4]}, split)
        assert result["out"] == [0, None, 2, None, 4]
        assert len(of(events, BranchFailed)) == 2
    error, _ = failed({"items": [0, 1, 2, 3, 4]}, Map(odd_fails, over="items", tolerate=1))
    assert error.type == "BranchesFailed"


def test_enough_successes_join_at_once_and_cut_off_the_rest():
    """The others are not waited for, and bring nothing."""
    quick = {"a": after(0, {"a": 1}), "b": after(20, {"b": 1}), "c": after(0.01, {"c": 1}), "d": after(20, {"d": 1})}
    result, events = ended({}, Parallel(quick, at_least=2))
    assert result == {"a": 1, "c": 1}
    assert {one.branch for one in of(events, BranchFinished)} == {"a", "c"}


def test_what_was_recorded_before_the_join_is_in_it():
    """With `at_least`, a branch that ends while the others are cut off is either in both, log and state, or in neither."""

    async def body(item):
        await asyncio.sleep(0)
        return item

    result, events = ended({"items": list(range(40))}, Map(body, over="items", writes="out", at_least=3))
    joined = {str(value) for value in result["out"] if value is not None}
    assert joined == {one.branch for one in of(events, BranchFinished)}
    assert len(joined) >= 3


def test_enough_can_no_longer_succeed_fails_at_once():
    """Two of three must, and two have failed."""
    slow = {"a": after(20, {}), "b": lambda state: 1 / 0, "c": lambda state: 1 / 0}
    error, _ = failed({}, Parallel(slow, at_least=2))
    assert "2 of 3" in error.message


def test_fewer_items_than_must_succeed_means_all():
    """Three must succeed, of two."""
    result, _ = ended({"items": [0, 2]}, Map(odd_fails, over="items", writes="out", at_least=3))
    assert result["out"] == [0, 2]
    failed({"items": [0, 1]}, Map(odd_fails, over="items", writes="out", at_least=3))


def test_a_failed_run_that_is_resumed_repeats_only_what_failed():
    """What finished stays finished."""
    calls = []

    async def tell():
        broken = [True]

        def body(item):
            calls.append(item)
            if item == 2 and broken:
                raise ValueError("not yet")
            return item

        flow = flow_of(Map(body, over="items", writes="out", limit=1))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": [0, 1, 2, 3]}, run_id="r")
            with pytest.raises(RunFailed):
                await run.result()
            broken.clear()
            run = await engine.resume("r")
            assert (await run.result())["out"] == [0, 1, 2, 3]

    story(tell())
    assert calls == [0, 1, 2, 2, 3]


def test_a_branch_can_not_choose_where_the_run_goes():
    """It is an error of its own, not a choice that is lost."""
    error, _ = failed({}, Parallel({"a": lambda state: Go("end")}))
    assert "DefinitionError" in error.message


def test_a_result_that_is_no_plain_data_fails_its_branch():
    """The error names what it is."""
    error, _ = failed({"items": [1]}, Map(lambda item: object(), over="items", writes="out"))
    assert "NotPlainData" in error.message


# --- attempts, times, limits ---------------------------------------------------------------------------------------


def test_each_branch_has_attempts_of_its_own():
    """One that fails twice does not make another begin again; its attempts are in the log."""
    tries = {"a": 0, "b": 0}

    def body(name, fails):
        def work(state, run):
            tries[name] += 1
            assert run.attempt == tries[name]
            if tries[name] <= fails:
                raise ConnectionError(name)
            return {name: run.attempt}

        return work

    split = Parallel({"a": body("a", 2), "b": body("b", 0)})
    result, events = ended({}, split, retry=RetryPolicy(attempts=3, delay=0.001))
    assert result == {"a": 3, "b": 1}
    assert [(one.branch, one.attempt) for one in of(events, AttemptFailed)] == [("a", 1), ("a", 2)]


def test_a_rest_before_the_next_attempt_may_be_long_and_still_ends(tmp_path):
    """A section in which all that is left rests is not forgotten; a second is longer than a run is kept in memory idle."""
    tries = []

    async def body(state):
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("once")
        return {"done": True}

    split = Parallel({"a": body})
    result, _ = ended({}, split, retry=RetryPolicy(attempts=2, delay=1.0, jitter=0))
    assert result == {"done": True}


def test_timeouts_are_of_each_attempt_of_each_branch():
    """A slow branch times out by itself, a silent one too."""
    result, events = ended(
        {}, Parallel({"slow": after(20, {}), "quick": after(0, {"quick": 1})}, tolerate=1), timeout=0.05
    )
    assert result == {"quick": 1}
    assert [one.error.type for one in of(events, BranchFailed)] == ["NodeTimedOut"]

    async def silent(item, run):
        while item:
            run.heartbeat()
            await asyncio.sleep(0.01)
            item -= 1
        await asyncio.sleep(20 if run.branch == "0" else 0)
        return run.branch

    split = Map(silent, over="items", writes="out", tolerate=1)
    result, _ = ended({"items": [1, 15]}, split, idle_timeout=0.08)
    assert result["out"] == [None, "1"]


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_branches_run_at_a_time_than_the_limit(limit):
    """And as many do."""
    at_once, most = 0, 0

    async def body(item):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1

    ended({"items": list(range(12))}, Map(body, over="items", limit=limit))
    assert most == limit


def test_a_budget_is_of_the_run_and_no_branch_may_fail_of_it():
    """However many failures are tolerated, the run fails of its budget."""

    async def body(item, run):
        await asyncio.sleep(item / 1000)
        return await run.effect("call", lambda: item, usage=lambda value: {"output_tokens": 10})

    async def tell():
        flow = flow_of(Map(body, over="items", writes="out", tolerate="100%", limit=1))
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": list(range(9))}, run_id="r", budget=Budget(tokens=25))
            with pytest.raises(RunFailed) as caught:
                await run.result()
            assert caught.value.error.type == "BudgetExceeded"
            assert not of([one.event for one in run.events()], BranchFailed)

    story(tell())
