"""Frozen dicts and lists: nobody can change them, and ropes inside are seen as lists and share their items."""

from __future__ import annotations

import copy
import json
import pickle
import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.errors import StateIsReadOnly
from eventflow.plain import (
    EMPTY,
    NOTHING,
    ROPE_FROM,
    FrozenDict,
    FrozenList,
    Rope,
    freeze,
    grown,
    thaw,
)

NAN = float("nan")


def with_rope(count: int = ROPE_FROM) -> FrozenDict:
    """A frozen dict that holds a rope, and a dict that holds one."""
    return FrozenDict({"inner": FrozenDict({"log": Rope.of(["a"] * count)}), "log": Rope.of(range(count)), "n": 1})


# --- nobody can change it ------------------------------------------------------------------------------------------

# Calling it again on a made object is the one way no subclass can refuse without slowing every construction.
UNREFUSABLE = {"__init__"}
ATTEMPTS: list[tuple[Any, ...]] = [
    (), (0,), (1,), (0, 9), ("a",), ("a", 9), ("new", 9), ([9],), ({"a": 9},), ({"new": 9},), (slice(0, 1),),
    (slice(0, 1), [8]), (2,), ([("k", 1)],),
]  # fmt: skip


def mutators(kind: type, sample: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Methods of a built-in class that changed a sample, with the arguments that did."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name in dir(kind):
        if not callable(getattr(kind, name)) or name in UNREFUSABLE:
            continue
        for args in ATTEMPTS:
            trial = copy.deepcopy(sample)
            try:
                getattr(kind, name)(trial, *args)
            except Exception:  # noqa: BLE001, S112 - not every method takes every argument
                continue
            if trial != sample or list(trial) != list(sample):
                found.setdefault(name, []).append(args)
    return found


@pytest.mark.parametrize(
    ("kind", "frozen", "sample"), [(list, FrozenList, [3, 1, 2]), (dict, FrozenDict, {"a": 1, "b": 2})]
)
def test_every_method_that_would_change_it_raises(kind: type, frozen: type, sample: Any) -> None:
    """All that changes a list or a dict, found by trying, is refused with the advice to return the change."""
    found = mutators(kind, sample)
    assert len(found) >= (11 if kind is list else 8), found
    for name, calls in found.items():
        for args in calls:
            value = frozen(sample)
            with pytest.raises(StateIsReadOnly, match="return the change instead"):
                getattr(value, name)(*args)
            assert value == sample


def test_statements_that_would_change_it_raise() -> None:
    """Assignment, deletion and their augmented forms are refused like the methods."""
    statements = [
        "d['a'] = 1",
        "del d['a']",
        "d |= {'b': 1}",
        "l[0] = 1",
        "del l[0]",
        "l += [1]",
        "l *= 2",
        "l[:] = []",
    ]
    for statement in statements:
        names = {"d": freeze({"a": 0}), "l": freeze([0])}
        with pytest.raises(StateIsReadOnly):
            exec(statement, names)  # noqa: S102
        assert names["d"] == {"a": 0}
        assert names["l"] == [0]


def test_a_frozen_value_has_no_attributes_to_set() -> None:
    """Nothing can be hung on a state."""
    for value in (EMPTY, NOTHING):
        with pytest.raises(AttributeError):
            value.extra = 1


@pytest.mark.parametrize("copied", [dict, lambda d: {**d}, lambda d: d.copy(), lambda d: d | {}, lambda d: {} | d])
def test_a_shallow_copy_is_an_ordinary_dict(copied: Any) -> None:
    """The ways to copy a dict all give one that can be changed, and show ropes as lists."""
    frozen = with_rope()
    value = copied(frozen)
    assert type(value) is dict
    value["n"] = 2
    assert frozen["n"] == 1
    assert type(value["log"]) is FrozenList
    assert value["log"] == list(range(ROPE_FROM))


def test_list_operations_give_ordinary_lists() -> None:
    """Slices, sums, products and copies can be changed."""
    frozen = freeze([1, 2])
    for value in (frozen[:], frozen.__add__([3]), frozen * 2, frozen.copy(), list(frozen), [*frozen], sorted(frozen)):
        assert type(value) is list
        value.append(0)
    assert frozen == [1, 2]


def keywords(**given: Any) -> dict[str, Any]:
    """What a function gets as its keyword arguments."""
    return given


# --- a rope is seen as a list --------------------------------------------------------------------------------------


def test_a_dict_with_a_rope_gives_lists_whoever_asks() -> None:
    """JSON, copies, pickles, keyword arguments, patterns and loops all meet real lists."""
    frozen = with_rope()
    plain = {"inner": {"log": ["a"] * ROPE_FROM}, "log": list(range(ROPE_FROM)), "n": 1}
    assert json.loads(json.dumps(frozen)) == plain
    assert json.loads(json.dumps(frozen, indent=1)) == plain
    assert dict(frozen) == plain
    assert keywords(**frozen) == plain
    assert eval(repr(frozen)) == plain  # noqa: S307
    assert dict(zip(frozen.keys(), frozen.values(), strict=True)) == plain
    assert dict(frozen.items()) == dict(iter(frozen.items())) == plain
    match frozen:
        case {"log": [0, *rest], "inner": {"log": ["a", *_]}}:
            assert len(rest) == ROPE_FROM - 1
        case _:
            pytest.fail("the pattern did not see lists")
    for value in (frozen["log"], frozen.get("log"), frozen.get("nothing", frozen["log"])):
        assert type(value) is FrozenList
    assert frozen.get("nothing") is None
    assert "log" in frozen
    with pytest.raises(KeyError):
        frozen["nothing"]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), thaw])  # noqa: S301
def test_deep_copies_are_ordinary_all_the_way_down(way: Any) -> None:
    """A deep copy, a pickle and thaw hold no frozen part and no rope."""
    frozen = FrozenDict({**with_rope(), "list": freeze([[1], {"a": 1}])})
    value = way(frozen)
    assert type(value) is dict
    assert type(value["inner"]) is dict
    assert [type(value["log"]), type(value["inner"]["log"]), type(value["list"][0])] == [list, list, list]
    assert type(value["list"][1]) is dict
    value["inner"]["log"].append("b")
    value["list"][0].append(2)
    assert len(frozen["inner"]["log"]) == ROPE_FROM
    assert frozen["list"][0] == [1]


def test_a_shallow_copy_of_what_can_not_change_is_itself() -> None:
    """copy.copy of a frozen value costs nothing."""
    frozen = with_rope()
    assert copy.copy(frozen) is frozen
    assert copy.copy(NOTHING) is NOTHING


def test_a_pickled_list_comes_back_ordinary() -> None:
    """A list sent to a worker process can be changed there."""
    value = pickle.loads(pickle.dumps(freeze([{"a": [1]}])))  # noqa: S301
    assert value == [{"a": [1]}]
    assert [type(value), type(value[0]), type(value[0]["a"])] == [list, dict, list]


def test_frozen_values_equal_ordinary_ones() -> None:
    """Equality looks at the data, on either side, with or without ropes."""
    frozen, plain = with_rope(), thaw(with_rope())
    assert frozen == plain
    assert plain == frozen
    assert [plain] == [frozen]
    assert not frozen != plain  # noqa: SIM202
    assert frozen == FrozenDict(plain)
    assert frozen != {**plain, "n": 2}
    assert frozen != {key: plain[key] for key in ("log", "n")}
    assert {"x": 1, **plain} != frozen
    assert (frozen == 5) is False
    assert types.MappingProxyType(plain) == frozen
    assert freeze({"v": NAN}) == {"v": NAN}
    assert freeze([1, [2]]) == [1, [2]] == freeze([1, [2]])


def test_frozen_values_can_be_members_of_sets() -> None:
    """Equal frozen values hash alike, however their lists are held."""
    assert len({with_rope(), freeze(thaw(with_rope()))}) == 1
    assert len({freeze([1, [2]]), freeze([1, [2]]), freeze([2])}) == 2


# --- ropes ---------------------------------------------------------------------------------------------------------


def test_growing_the_newest_version_copies_nothing() -> None:
    """Versions of a list that only grows share one list underneath."""
    first = Rope.of(range(3))
    second = first.grown(["a"])
    third = second.grown(["b", "c"])
    assert first._backing is second._backing is third._backing
    assert [rope.items() for rope in (first, second, third)] == [
        [0, 1, 2], [0, 1, 2, "a"], [0, 1, 2, "a", "b", "c"],
    ]  # fmt: skip
    assert [len(first), len(second), len(third)] == [3, 4, 6]


def test_growing_an_older_version_copies_and_neither_sees_the_other() -> None:
    """A fork of a list leaves the original alone, and the other way round."""
    first = Rope.of([1])
    newest = first.grown([2])
    fork = first.grown([3])
    assert fork._backing is not newest._backing
    assert (first.items(), newest.items(), fork.items()) == ([1], [1, 2], [1, 3])
    assert newest.grown([4]).items() == [1, 2, 4]
    assert fork.grown([5]).items() == [1, 3, 5]
    assert first.items() == [1]


def test_working_the_same_change_out_twice_shares() -> None:
    """Guards see the state after a change that is then applied again: that must not copy the list."""
    first, items = Rope.of(["a"]), [{"new": 1}, "b"]
    once = first.grown(items)
    twice = first.grown(items)
    assert twice._backing is once._backing
    assert len(once._backing) == 3
    longer = once.grown(["c"])
    again = first.grown(items)
    assert again._backing is longer._backing
    assert again.items() == ["a", *items]
    equal_but_other = first.grown([{"new": 1}, "b"])
    assert equal_but_other._backing is not once._backing
    assert first.grown([*items, "d"]).items() == ["a", *items, "d"]
    assert longer.items() == ["a", *items, "c"]


def test_growing_by_nothing_is_the_same_list() -> None:
    """An empty extension changes nothing, for the newest version and for an older one."""
    first = Rope.of([1])
    newest = first.grown([2])
    assert first.grown([]).items() == [1]
    assert newest.grown([]).items() == [1, 2]


def test_a_rope_made_of_a_list_is_not_tied_to_it() -> None:
    """Changing the list that a rope was made of does not change the rope."""
    source = [1, 2]
    rope = Rope.of(source)
    source.append(3)
    assert rope.items() == [1, 2]
    assert rope.grown([4]).items() == [1, 2, 4]
    assert source == [1, 2, 3]


def test_a_slice_does_not_reach_past_its_version() -> None:
    """Items of later versions stay out of sight."""
    first = Rope.of([1, 2])
    first.grown([3, 4])
    assert first.slice(1, 10) == [2]
    assert first.slice(0, 2) == [1, 2]


def test_a_short_list_grows_as_a_list_and_a_long_one_as_a_rope() -> None:
    """The detour over a rope is taken from the length from which it pays."""
    short = grown(FrozenList([1]), [2])
    assert type(short) is FrozenList
    assert short == [1, 2]
    long = grown(FrozenList(range(ROPE_FROM - 1)), [0])
    assert type(long) is Rope
    assert grown(long, [1])._backing is long._backing


@given(st.lists(st.tuples(st.integers(0, 20), st.lists(st.integers(0, 3), max_size=3)), max_size=20))
@settings(max_examples=100)
def test_no_version_ever_sees_anothers_items(steps: list[tuple[int, list[int]]]) -> None:
    """Whichever version grows by whatever, each holds its own history and nothing else."""
    versions = [(Rope.of([0]), [0])]
    for which, items in steps:
        rope, expected = versions[which % len(versions)]
        versions.append((rope.grown(items), [*expected, *items]))
    assert all(rope.items() == expected and rope.slice(0, 99) == expected for rope, expected in versions)
