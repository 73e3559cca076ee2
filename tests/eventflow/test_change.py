"""Changes: the smallest one is found, applying it gives the update, and what did not change is shared."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from types import FrameType
from typing import Any

import pytest

from eventflow.change import COMPARED_BY_VALUE, NO_CHANGE, Change, Op, add, apply, extend, merge, resolve, value_at
from eventflow.errors import InvalidState, NotPlainData
from eventflow.plain import (
    MAX_DEPTH,
    MAX_INT,
    ROPE_FROM,
    FrozenDict,
    FrozenList,
    Rope,
    freeze,
    raw,
    same,
    thaw,
)

NAN = float("nan")


def changed(held: dict[str, Any], update: dict[str, Any], **reducers: Any) -> Change:
    """What an update changes, after a check that applying it gives what the update says."""
    data = freeze(held)
    change = resolve(data, update, reducers)
    after = apply(data, change)
    if not reducers:
        assert same(after, freeze({**held, **update}))
    assert same(data, held)
    return change


def grown_data(count: int = ROPE_FROM, **more: Any) -> FrozenDict:
    """Data whose key `log` is held as a rope."""
    data = apply(freeze({"log": list(range(count - 1)), **more}), (Op("extend", ("log",), freeze([count - 1])),))
    assert type(raw(data, "log")) is Rope
    return data


# --- the smallest change -------------------------------------------------------------------------------------------


def test_a_list_that_only_grew_is_an_extension() -> None:
    """A node that returns the whole list pays for what it added."""
    assert changed({"l": [1, [2], {"a": 3}]}, {"l": [1, [2], {"a": 3}, 4, 5]}) == (Op("extend", ("l",), [4, 5]),)
    assert changed({"l": []}, {"l": [1]}) == (Op("extend", ("l",), [1]),)
    assert changed({"d": {"l": [1]}}, {"d": {"l": [1, 2]}}) == (Op("extend", ("d", "l"), [2]),)
    assert changed({"l": [1]}, {"l": (1, 2)}) == (Op("extend", ("l",), [2]),)


def test_a_list_taken_from_the_state_and_added_to_is_an_extension() -> None:
    """Items are compared by identity first, whatever their number and however they are held."""
    data = grown_data(5_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(data, {"log": [*data["log"], "new"]}, {}) == (Op("extend", ("log",), ["new"]),)
        assert resolve(data, {"log": data["log"] + ["new"]}, {}) == (Op("extend", ("log",), ["new"]),)


@pytest.mark.parametrize(
    "update",
    [
        {"l": [1, {"a": [True]}]}, {"l": (1, {"a": (True,)})}, {"d": {"x": 1, "y": {"z": None}}}, {"n": 1.5}, {"z": 0},
        {"nan": float("nan")}, {}, {"e": ""}, {"f": False}, {"el": []}, {"ed": {}}, {"none": None}, {"minus": -0.0},
    ],
)  # fmt: skip
def test_what_did_not_change_leaves_no_operation(update: dict[str, Any]) -> None:
    """Returning what the state holds already is no change."""
    held = {
        "l": [1, {"a": [True]}], "d": {"x": 1, "y": {"z": None}}, "n": 1.5, "z": 0, "nan": NAN, "e": "", "f": False,
        "el": [], "ed": {}, "none": None, "minus": -0.0,
    }  # fmt: skip
    assert changed(held, update) == NO_CHANGE
    data = freeze(held)
    assert apply(data, NO_CHANGE) is data


def test_the_whole_state_returned_is_no_change() -> None:
    """A node that hands its state back changes nothing, ropes included."""
    data = grown_data(d={"x": [1]})
    assert resolve(data, data, {}) == NO_CHANGE
    assert resolve(data, {**data}, {}) == NO_CHANGE
    assert resolve(data, copy.deepcopy(data), {}) == NO_CHANGE


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, True), (True, 1), (1, 1.0), (0, False), (0.0, -0.0), (-0.0, 0.0), (None, 0), ("", None), ([], {}), ([1], [True]),
     ({"a": 1}, {"a": 1.0}), ("a", b"a"), (NAN, 1.0), (1.0, NAN), ([], None), (False, None), (0, ""), ([0.0], [-0.0])],
)  # fmt: skip
def test_a_change_of_type_or_sign_is_a_change(old: Any, new: Any) -> None:
    """Values that Python finds equal and bytes do not are told apart."""
    assert changed({"v": old}, {"v": new}) != NO_CHANGE


@pytest.mark.parametrize("falsy", [0, 0.0, "", b"", [], {}, None, False])
def test_falsy_values_survive(falsy: Any) -> None:
    """Nothing falsy is taken for nothing, as a new key and in place of a value."""
    assert changed({}, {"v": falsy}) == (Op("set", ("v",), falsy),)
    assert changed({"v": "text"}, {"v": falsy}) == (Op("set", ("v",), falsy),)
    assert changed({"d": {"v": 1}}, {"d": {"v": falsy}}) == (Op("set", ("d", "v"), falsy),)


def test_a_key_that_left_a_nested_dict_is_a_deletion() -> None:
    """A returned dict is the whole dict: what it does not name is gone."""
    assert changed({"d": {"a": 1, "b": 2, "c": 3}}, {"d": {"a": 1, "c": 3}}) == (Op("delete", ("d", "b")),)
    assert changed({"d": {"e": {"a": 1, "b": 2}}}, {"d": {"e": {"a": 1}}}) == (Op("delete", ("d", "e", "b")),)
    assert changed({"d": {"a": 1}}, {"d": {}}) == (Op("delete", ("d", "a")),)


def test_a_top_level_key_that_is_not_named_stays() -> None:
    """An update is partial at the top and whole below."""
    data = freeze({"a": 1, "b": 2})
    assert apply(data, resolve(data, {"a": 3}, {})) == {"a": 3, "b": 2}


def test_one_nested_key_is_set_alone_and_several_are_merged() -> None:
    """A change deep in a large dict names what changed, once."""
    big = {f"k{number}": {"x": number, "y": [number]} for number in range(100)}
    assert changed({"d": big}, {"d": {**big, "k7": {"x": 7, "y": "new"}}}) == (Op("set", ("d", "k7", "y"), "new"),)
    assert changed({"d": big}, {"d": {**big, "p": 1, "q": 2}}) == (Op("merge", ("d",), {"p": 1, "q": 2}),)


def test_changes_in_two_large_dicts_do_not_store_them_whole() -> None:
    """Few changes below few keys stay few, however many operations they are."""
    held = {"d": {name: {f"k{number}": number for number in range(500)} for name in ("left", "right")}}
    update = copy.deepcopy(held)
    for name in ("left", "right"):
        del update["d"][name]["k1"], update["d"][name]["k2"], update["d"][name]["k3"]
    change = changed(held, update)
    assert len(change) == 6
    assert {one.op for one in change} == {"delete"}


def test_a_dict_that_lost_most_of_its_keys_is_stored_whole() -> None:
    """Where naming what went is longer than what stayed, what stayed is said."""
    held = {"d": {f"k{number}": number for number in range(100)}}
    assert changed(held, {"d": {"k1": 1}}) == (Op("set", ("d",), {"k1": 1}),)
    long = {"k1": "x" * 5_000}
    assert len(changed({"d": {**held["d"], **long}}, {"d": long})) == 99


def test_a_list_that_changed_inside_or_shrank_is_stored_whole() -> None:
    """There is no smaller way to say it."""
    for new in ([1, 9, 3], [1, 2], [], [0, 1, 2, 3]):
        assert changed({"l": [1, 2, 3]}, {"l": new}) == (Op("set", ("l",), new),)


def test_a_long_list_of_new_objects_is_stored_whole_with_one_warning() -> None:
    """Comparing by value ends at a thousand items; the warning says how to do better, once."""
    held = [[number] for number in range(COMPARED_BY_VALUE + 1)]
    new = [*copy.deepcopy(held), "new"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert changed({"l": held}, {"l": new}) == (Op("set", ("l",), new),)
    assert len(caught) == 1
    assert "state field l" in str(caught[0].message)
    assert "Annotated[list, extend]" in str(caught[0].message)


def test_a_thousand_new_objects_are_still_compared() -> None:
    """Up to the bound a copied list that grew is an extension, without a warning."""
    held = [[number] for number in range(COMPARED_BY_VALUE)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert changed({"l": held}, {"l": [*copy.deepcopy(held), "new"]}) == (Op("extend", ("l",), ["new"]),)


def test_a_subclass_with_the_held_value_is_no_change() -> None:
    """What would be stored is compared, not what was returned."""

    class Text(str):
        __slots__ = ()

    assert changed({"t": "same"}, {"t": Text("same")}) == NO_CHANGE


# --- reducers ------------------------------------------------------------------------------------------------------


def test_extend_adds_the_returned_items() -> None:
    """Only the new items are in the change; a missing or empty list begins with them."""
    assert changed({"l": [1]}, {"l": [2, 3]}, l=extend) == (Op("extend", ("l",), [2, 3]),)
    assert changed({"l": [1]}, {"l": (2,)}, l=extend) == (Op("extend", ("l",), [2]),)
    assert changed({"l": [1]}, {"l": []}, l=extend) == NO_CHANGE
    assert changed({}, {"l": [2]}, l=extend) == (Op("set", ("l",), [2]),)
    assert changed({}, {"l": []}, l=extend) == (Op("set", ("l",), []),)
    assert changed({"l": None}, {"l": [2]}, l=extend) == (Op("set", ("l",), [2]),)
    data = grown_data()
    assert apply(data, resolve(data, {"log": ["x"]}, {"log": extend}))["log"] == [*range(ROPE_FROM), "x"]


@pytest.mark.parametrize(
    ("held", "value"), [([1], "text"), ([1], 5), ([1], {"a": 1}), ("text", [1]), (5, [1]), ({}, [1])]
)
def test_extend_refuses_what_is_not_a_list(held: Any, value: Any) -> None:
    """A bare text is not taken for its letters, nor is another field turned into a list."""
    with pytest.raises(InvalidState, match="l: extend needs a list"):
        resolve(freeze({"l": held}), {"l": value}, {"l": extend})


def test_add_adds_numbers() -> None:
    """The change is the difference; the sum is what the state holds."""
    assert changed({"n": 2}, {"n": 3}, n=add) == (Op("add", ("n",), 3),)
    assert apply(freeze({"n": 2}), (Op("add", ("n",), 0.5),)) == {"n": 2.5}
    assert changed({}, {"n": 3}, n=add) == (Op("set", ("n",), 3),)
    assert changed({"n": None}, {"n": 3}, n=add) == (Op("set", ("n",), 3),)
    data = freeze({"s": "ab"})
    assert apply(data, resolve(data, {"s": "c"}, {"s": add})) == {"s": "abc"}


@pytest.mark.parametrize(("held", "added"), [(5, 0), (1e300, 1), (NAN, 1), (-0.0, -0.0), (math.inf, 7)])
def test_adding_what_makes_no_difference_is_no_change(held: Any, added: Any) -> None:
    """A sum that is the same bytes leaves no operation."""
    assert changed({"n": held}, {"n": added}, n=add) == NO_CHANGE


def test_adding_zero_to_minus_zero_is_a_change() -> None:
    """The sign goes, so the bytes do."""
    data = freeze({"n": -0.0})
    assert same(apply(data, resolve(data, {"n": 0.0}, {"n": add}))["n"], 0.0)


@pytest.mark.parametrize(("held", "added"), [(MAX_INT, 1), (-(2**63), -1), (1.5, 10**400), (1, 10**30)])
def test_a_sum_beyond_64_bits_is_refused_with_its_field(held: Any, added: Any) -> None:
    """The state can't grow out of what the log can hold by adding."""
    with pytest.raises(NotPlainData, match=r"^n is an integer of more than 64 bits"):
        resolve(freeze({"n": held}), {"n": added}, {"n": add})


def test_merge_adds_keys_one_level_deep() -> None:
    """Named keys are replaced or added, the others stay."""
    assert changed({"d": {"a": 1, "b": 2}}, {"d": {"b": 3}}, d=merge) == (Op("set", ("d", "b"), 3),)
    assert changed({"d": {"a": 1}}, {"d": {"b": 3, "c": 4}}, d=merge) == (Op("merge", ("d",), {"b": 3, "c": 4}),)
    assert changed({"d": {"a": 1}}, {"d": {}}, d=merge) == NO_CHANGE
    assert changed({}, {"d": {"a": 1}}, d=merge) == (Op("set", ("d",), {"a": 1}),)


@pytest.mark.parametrize(
    ("reducer", "held", "value"), [(add, 1, "a"), (add, {}, 1), (merge, {"a": 1}, 5), (merge, 5, {})]
)
def test_our_reducers_say_which_field_they_could_not_combine(reducer: Any, held: Any, value: Any) -> None:
    """A wrong value is an error about the state, not a bare TypeError."""
    with pytest.raises(InvalidState, match=r"^state field v: "):
        resolve(freeze({"v": held}), {"v": value}, {"v": reducer})


def test_an_own_reducer_sees_the_held_value_and_its_result_is_compared() -> None:
    """What a reducer of the user's gives is stored as the smallest change; missing is None."""
    seen: list[Any] = []

    def newest(old: Any, new: Any) -> Any:
        seen.append(old)
        return [*(old or []), new][-3:]

    data = freeze({"l": [1]})
    assert resolve(data, {"l": 2}, {"l": newest}) == (Op("extend", ("l",), [2]),)
    assert resolve(data, {"m": 2}, {"m": newest}) == (Op("set", ("m",), [2]),)
    assert seen == [[1], None]
    rope = grown_data()
    resolve(rope, {"log": 2}, {"log": newest})
    assert isinstance(seen[-1], FrozenList)


def test_an_error_in_an_own_reducer_is_the_users() -> None:
    """It is not dressed up as ours."""

    def broken(old: Any, new: Any) -> Any:
        return old + new

    with pytest.raises(TypeError, match="unsupported operand"):
        resolve(freeze({"v": 1}), {"v": None}, {"v": broken})


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "path"),
    [
        ({"a": {"b": [object()]}}, "a.b[0]"), ({"new": {1, 2}}, "new"), ({"d": {"x": object()}}, "d.x"),
        ({"d": {1: 2}}, "d"), ({"l": [1, object()]}, "l[1]"), ({1: 2}, "the update"), ({"l": [1, 2, object()]}, "l[2]"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_where_it_stands(update: dict[str, Any], path: str) -> None:
    """The path in the error is the user's own."""
    with pytest.raises(NotPlainData) as caught:
        resolve(freeze({"d": {"y": 1}, "l": [1, 2]}), update, {})
    assert caught.value.path == path


@pytest.mark.parametrize("update", [{"\ud800": 1}, {"d": {"\ud800": 1}}, {"d": {"e": {"\ud800": 1}}}, {"v": "\ud800"}])
def test_a_lone_surrogate_is_refused_in_new_keys_and_values(update: dict[str, Any]) -> None:
    """What can't be encoded is found before the event is made."""
    with pytest.raises(NotPlainData, match="surrogate"):
        resolve(freeze({"d": {"a": 1, "e": {}}}), update, {})


def test_the_bound_on_depth_counts_from_the_top_of_the_state() -> None:
    """A value may be as deep as the state still has room below its path."""
    value: Any = {}
    for _ in range(MAX_DEPTH - 2):
        value = {"k": value}
    data = freeze({"d": {}})
    resolve(data, {"d": value}, {})
    for update in ({"d": {"k": value}}, {"d": [value]}, {"new": {"k": value}}):
        with pytest.raises(NotPlainData, match="deeper than 64"):
            resolve(data, update, {})


def test_a_state_wrapped_in_itself_again_and_again_meets_the_bound() -> None:
    """Held values count with all their levels when they are put one deeper."""
    data = freeze({"a": {}})
    for _ in range(MAX_DEPTH - 2):
        data = apply(data, resolve(data, {"a": {"again": data["a"]}}, {}))
    with pytest.raises(NotPlainData, match="deeper than 64"):
        resolve(data, {"a": {"again": data["a"]}}, {})


# --- applying ------------------------------------------------------------------------------------------------------


def test_what_did_not_change_is_shared_and_the_original_stays() -> None:
    """Only the path to the change is built anew."""
    data = freeze({"a": {"x": {"deep": [1]}, "y": {"z": 1}}, "b": {"c": [2]}})
    before = thaw(data)
    after = apply(data, (Op("set", ("a", "y", "z"), 2),))
    assert data == before
    assert after == {"a": {"x": {"deep": [1]}, "y": {"z": 2}}, "b": {"c": [2]}}
    assert after["b"] is data["b"]
    assert after["a"]["x"] is data["a"]["x"]
    assert type(after["a"]["y"]) is FrozenDict


def test_extending_a_long_list_shares_it() -> None:
    """Both states hold the same list underneath, each its own length."""
    data = grown_data()
    after = apply(data, (Op("extend", ("log",), freeze(["x"])),))
    assert raw(after, "log")._backing is raw(data, "log")._backing
    assert len(data["log"]) == ROPE_FROM
    assert after["log"] == [*range(ROPE_FROM), "x"]


def test_a_rope_beside_a_change_stays_a_rope() -> None:
    """Changing one key does not copy the long list of another."""
    data = grown_data(n=1, d={"a": 1})
    for op in (Op("set", ("n",), 2), Op("merge", ("d",), freeze({"b": 2})), Op("delete", ("n",)), Op("set", ("z",), 1)):
        assert raw(apply(data, (op,)), "log") is raw(data, "log")


def test_operations_apply_in_their_order() -> None:
    """Later operations see what earlier ones did, whatever their depth."""
    change = (
        Op("set", ("d",), freeze({"a": 1})), Op("set", ("d", "b"), 2), Op("add", ("d", "a"), 5), Op("set", ("n",), 1),
        Op("merge", ("d",), freeze({"c": {}})), Op("set", ("d", "c", "x"), 1), Op("delete", ("d", "b")),
        Op("set", ("d", "c", "y"), 2), Op("add", ("n",), 1),
    )  # fmt: skip
    assert apply(freeze({"d": {"old": 0}}), change) == {"d": {"a": 6, "c": {"x": 1, "y": 2}}, "n": 2}
    assert apply(freeze({"d": {"old": 0}}), (Op("set", ("d", "x"), 1), Op("set", ("d",), FrozenDict()))) == {"d": {}}


def test_a_change_keeps_keys_in_the_order_they_are_stored_in() -> None:
    """New keys do not go to the end: live states look like recovered ones."""
    data = freeze({"bb": {"y": 1}, "c": 1})
    change = (Op("set", ("a",), 1), Op("set", ("bb", "x"), 1), Op("merge", ("bb",), freeze({"é": 1, "zz": 1, "a": 1})))
    after = apply(data, change)
    assert list(after) == ["a", "c", "bb"]
    assert list(after["bb"]) == ["a", "x", "y", "zz", "é"]
    assert list(apply(after, (Op("delete", ("c",)), Op("set", ("b",), 1)))) == ["a", "b", "bb"]


@pytest.mark.parametrize(
    "op",
    [
        Op("extend", ("n",), freeze([1])), Op("extend", ("d",), freeze([1])), Op("extend", ("none",), freeze([1])),
        Op("extend", ("l",), 5), Op("extend", ("l",), "text"), Op("merge", ("l",), freeze({})), Op("merge", ("d",), 5),
        Op("merge", ("d",), freeze([])), Op("add", ("t",), "x"), Op("add", ("n",), "x"), Op("add", ("n",), None),
        Op("add", ("b",), 1), Op("add", ("n",), True), Op("add", ("missing",), 1), Op("add", ("n",), MAX_INT),
        Op("set", ("n", "x"), 1), Op("set", ("missing", "x"), 1), Op("set", ("l", "0"), 1), Op("delete", ("n", "x")),
        Op("set", (), 1), Op("delete", ()),
    ],
    ids=str,
)  # fmt: skip
def test_an_operation_that_does_not_fit_is_refused(op: Op) -> None:
    """A damaged or foreign log gives an error of ours, never another state or a bare exception."""
    data = freeze({"n": 1, "l": [1], "d": {"a": 1}, "t": "text", "b": True, "none": None})
    before = thaw(data)
    with pytest.raises(InvalidState):
        apply(data, (op,))
    assert data == before


def test_deleting_what_is_not_there_changes_nothing() -> None:
    """A deletion says what is not there afterwards."""
    assert apply(freeze({"a": 1}), (Op("delete", ("b",)),)) == {"a": 1}


def test_a_thousand_changed_entries_copy_their_dict_once() -> None:
    """A change below each of many keys costs the dict, not its square."""
    held = {"d": {f"k{number}": {"n": number, "rest": "same"} for number in range(1_000)}}
    update = {"d": {name: {**entry, "n": -1} for name, entry in held["d"].items()}}
    data = freeze(held)
    change = resolve(data, update, {})
    assert len(change) == 1_000
    wide: list[FrameType] = []  # calls that are given the dict of a thousand, to build it anew

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename == apply.__code__.co_filename:
            wide.extend(frame for value in frame.f_locals.values() if type(value) is FrozenDict and len(value) == 1_000)

    sys.setprofile(watch)
    try:
        after = apply(data, change)
    finally:
        sys.setprofile(None)
    assert after == update
    assert len(wide) == 1


def test_value_at_finds_what_is_held() -> None:
    """A path leads through dicts, to a rope as it is held."""
    data = grown_data(d={"e": [1]})
    assert value_at(data, ("d", "e")) == [1]
    assert value_at(data, ()) is data
    assert type(value_at(data, ("log",))) is Rope
    for path in (("x",), ("d", "x")):
        with pytest.raises(KeyError):
            value_at(data, path)
