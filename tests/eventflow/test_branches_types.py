"""Types of items and of what branches bring, time by hand, and what one step among thousands costs."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, TypedDict

import pydantic
import pytest
from splits import ended, failed, flow_of
from stories import story

from eventflow import Engine, ManualClock, Map, Parallel, RetryPolicy, extend


async def after_item(item):
    """The next number."""
    return item + 1


# --- types ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Page:
    """An item with a type."""

    text: str


@dataclasses.dataclass
class Book:
    """A state with items of a type."""

    pages: list[Page]
    sizes: list[int] = dataclasses.field(default_factory=list)
    notes: Annotated[list[str], extend] = dataclasses.field(default_factory=list)


class Model(pydantic.BaseModel):
    """The same as a model."""

    pages: list[Page]
    sizes: list[int] = []
    notes: Annotated[list[str], extend] = []


class Typed(TypedDict, total=False):
    """The same as a typed dict."""

    pages: list[Page]
    sizes: list[int]


@pytest.mark.parametrize("kind", [Book, Model, Typed])
def test_items_come_in_the_type_that_the_state_declares(kind):
    """For the first attempt as for one after a crash, since what is recorded is plain."""
    calls = []

    def body(page):
        assert isinstance(page, Page)
        calls.append(page.text)
        if len(calls) == 1:
            raise ConnectionError("once")
        return len(page.text)

    flow = flow_of(Map(body, over="pages", writes="sizes"), state=kind, retry=RetryPolicy(attempts=2, delay=0))
    result = flow.run_sync({"pages": [{"text": "ab"}, {"text": "abc"}]})
    assert (result["sizes"] if kind is Typed else result.sizes) == [2, 3]


@pytest.mark.parametrize("kind", [Book, Model])
def test_branches_may_return_a_whole_state_or_changes(kind):
    """Of a whole state, what differs from the one at the split."""

    def whole(state):
        if kind is Book:
            return dataclasses.replace(state, sizes=[7])
        return state.model_copy(update={"sizes": [7]})

    flow = flow_of(
        Parallel({"a": whole, "b": lambda state: {"notes": ["b"]}, "c": lambda state: {"notes": ["c"]}}), state=kind
    )
    result = flow.run_sync({"pages": [], "notes": ["z"]})
    assert (result.sizes, result.notes) == ([7], ["z", "b", "c"])


def test_values_of_a_map_must_fit_the_field_they_go_to():
    """A text where the state has a number is an error, and the state stays sound."""
    error, _ = failed({"pages": [Page("x")]}, Map(lambda page: "wide", over="pages", writes="sizes"), state=Book)
    assert error.type == "InvalidState"
    assert "sizes" in error.message


def test_results_of_a_type_of_ones_own_are_kept_as_plain_data():
    """A dataclass, a model, and lists of them."""

    def body(item):
        return {"page": Page(str(item)), "model": Model(pages=[Page("y")])}

    result, _ = ended({"items": [1]}, Map(body, over="items", writes="out"))
    assert result["out"] == [{"page": {"text": "1"}, "model": {"pages": [{"text": "y"}], "sizes": [], "notes": []}}]


def test_a_function_may_give_items_of_a_type_of_its_own():
    """The body gets them as plain data, now and after every crash."""
    got = []
    ended({}, Map(lambda item: got.append(item), over=lambda state: [Page("a"), Page("b")]))  # noqa: PLW0108
    assert sorted(got, key=str) == [{"text": "a"}, {"text": "b"}]


# --- time and size -------------------------------------------------------------------------------------------------


def test_a_step_of_one_among_many_costs_no_more_than_among_few():
    """What a state shares with the next is counted, not timed: the entry of one branch, and those of its bucket."""

    async def tell():
        flow = flow_of(Map(after_item, over="items", writes="out"))
        largest = 0

        def look(state, notice):
            nonlocal largest
            if state.branches is not None:
                of = state.branches["of"]
                largest = max(largest, len(of), *map(len, of.values()))

        async with Engine(workflows=[flow], listeners=[look]) as engine:
            run = await engine.start(flow, {"items": list(range(2_000))}, run_id="r")
            assert (await run.result())["out"][-1] == 2_000
            assert 20 <= largest <= 101

    story(tell())


def test_a_manual_clock_wakes_each_branch_at_its_time():
    """Rests before attempts are by the clock."""
    clock = ManualClock()
    tries = []

    async def body(item):
        tries.append(item)
        if tries.count(item) == 1:
            raise ConnectionError(str(item))
        return item

    async def tell():
        flow = flow_of(Map(body, over="items", writes="out"), retry=RetryPolicy(attempts=2, delay=3_600, jitter=0))
        async with Engine(clock=clock, workflows=[flow]) as engine:
            run = await engine.start(flow, {"items": [1, 2]}, run_id="r")
            while len(tries) < 2:
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.05)
            assert len(tries) == 2
            clock.advance(3_700)
            assert (await run.result())["out"] == [1, 2]

    story(tell())
