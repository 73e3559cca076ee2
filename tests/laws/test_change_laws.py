"""Laws of changes: whatever the state and the update are, the change says exactly what the update says."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.change import NO_CHANGE, add, apply, extend, merge, resolve
from eventflow.plain import MAX_INT, MIN_INT, ROPE_FROM, FrozenDict, Rope, freeze, raw_items, same, thaw

KEYS = st.sampled_from(["a", "b", "c", "aa", "ab", "é", "ß", "€", "zz", "zzz", "", "long name"])
LEAVES = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([MAX_INT, MIN_INT]) | st.floats(allow_nan=True)
    | st.sampled_from([0.0, -0.0, 1.0]) | st.text(max_size=3) | st.binary(max_size=2)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
DATA = st.dictionaries(KEYS, VALUES, max_size=5)


def canonical(keys: Any) -> list[str]:
    """Keys in the order they are stored in."""
    return sorted(keys, key=lambda key: (len(key.encode()), key.encode()))


def check_order(value: Any) -> None:
    """Every dict in a value has its keys in stored order."""
    if isinstance(value, dict):
        assert list(value) == canonical(value)
        for item in value.values():
            check_order(item)
    elif isinstance(value, list):
        for item in value:
            check_order(item)


@st.composite
def edited(draw: Any, value: Any) -> Any:
    """A value with something in it changed, or not: what nodes return is mostly what they were given."""
    move = draw(st.integers(0, 9))
    if move == 0:
        return draw(VALUES)
    if isinstance(value, dict):
        kept = {
            key: draw(edited(item)) if move < 7 else item
            for key, item in value.items()
            if move < 3 or draw(st.booleans())
        }
        more = draw(st.dictionaries(KEYS, VALUES, max_size=2)) if move % 2 else {}
        return dict(draw(st.permutations(list({**kept, **more}.items()))))
    if isinstance(value, list):
        if move < 4:
            return [*value, *draw(st.lists(VALUES, max_size=3))]
        if move < 6:
            return [draw(edited(item)) for item in value]
        return tuple(value) if move == 6 else copy.deepcopy(value) if move == 7 else value
    return value


@st.composite
def updates(draw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state, and an update of it made from its own values."""
    held = draw(DATA)
    named = {key: draw(edited(thaw(item))) for key, item in held.items() if draw(st.booleans())}
    return held, {**named, **draw(st.dictionaries(KEYS, VALUES, max_size=2))}


@given(updates())
@settings(max_examples=250, deadline=None)
def test_applying_a_change_gives_the_updated_state(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Type for type and sign for sign, keys in stored order, and nothing else is touched."""
    held, update = case
    data, asked = freeze(held), copy.deepcopy(update)
    change = resolve(data, update, {})
    after = apply(data, change)
    assert same(after, freeze({**held, **update}))
    check_order(after)
    assert same(data, freeze(held))
    assert same(freeze(update), freeze(asked))
    touched = {op.path[0] for op in change}
    assert all(after[key] is data[key] for key in data if key not in touched)


@given(updates())
@settings(max_examples=150, deadline=None)
def test_nothing_is_left_to_say_after_a_change(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """An update that has been applied is no change, and neither is the state itself."""
    held, update = case
    data = freeze(held)
    after = apply(data, resolve(data, update, {}))
    assert resolve(after, update, {}) == NO_CHANGE
    assert resolve(after, after, {}) == NO_CHANGE
    assert resolve(after, thaw(after), {}) == NO_CHANGE
    assert touched_only_what_differs(held, update)


def touched_only_what_differs(held: dict[str, Any], update: dict[str, Any]) -> bool:
    """Whether a change names exactly the top-level keys whose values differ."""
    change = resolve(freeze(held), update, {})
    differing = {
        key
        for key, value in update.items()
        if key not in held or not same(freeze(held)[key], freeze({"v": value})["v"])
    }
    return {op.path[0] for op in change} == differing


@given(st.lists(updates(), max_size=6))
@settings(max_examples=60, deadline=None)
def test_every_state_of_a_history_stays_what_it_was(cases: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Sharing never lets a later change be seen in an earlier state."""
    data, seen = freeze({}), []
    for held, update in cases:
        for part in (held, update):
            data = apply(data, resolve(data, part, {}))
            seen.append((data, thaw(data)))
    assert all(same(state, expected) for state, expected in seen)


@given(st.lists(st.lists(st.integers(0, 3), max_size=40), max_size=8), st.integers(0, 7), st.booleans())
@settings(max_examples=60, deadline=None)
def test_long_lists_grow_alike_whoever_asks(steps: list[list[int]], fork: int, reduced: bool) -> None:  # noqa: FBT001
    """Returned whole or as new items, live or from an older version, a list is the sum of its steps."""
    start = list(range(ROPE_FROM))
    versions = [(freeze({"l": start}), start)]
    for number, items in enumerate(steps):
        data, expected = versions[fork % len(versions) if number == 4 else -1]
        update = {"l": items} if reduced else {"l": [*data["l"], *items]}
        change = resolve(data, update, {"l": extend} if reduced else {})
        assert {op.op for op in change} <= {"extend"}
        versions.append((apply(data, change), [*expected, *items]))
    assert all(data["l"] == expected for data, expected in versions)
    assert all(
        type(value) is Rope for data, _ in versions[1:] for _, value in raw_items(data) if len(data["l"]) > ROPE_FROM
    )


@given(st.lists(VALUES, max_size=5), st.lists(VALUES, max_size=3))
@settings(max_examples=100, deadline=None)
def test_extend_is_a_sum_of_lists(old: list[Any], new: list[Any]) -> None:
    """The reducer in the log and the reducer in Python agree."""
    data = freeze({"l": old})
    assert same(apply(data, resolve(data, {"l": new}, {"l": extend})), {"l": extend(old, new)})


@given(st.integers(-(2**60), 2**60) | st.floats(), st.integers(-(2**60), 2**60) | st.floats())
@settings(max_examples=150, deadline=None)
def test_add_is_a_sum(old: float, new: float) -> None:
    """To the bit: the sum is made once when it is decided and once when it is folded."""
    data = freeze({"n": old})
    assert same(apply(data, resolve(data, {"n": new}, {"n": add})), {"n": add(old, new)})


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.dictionaries(KEYS, VALUES, max_size=5))
@settings(max_examples=150, deadline=None)
def test_merge_is_a_union(old: dict[str, Any], new: dict[str, Any]) -> None:
    """One level deep, the new keys win."""
    data = freeze({"d": old})
    after = apply(data, resolve(data, {"d": new}, {"d": merge}))
    assert same(after, freeze({"d": merge(old, new)}))
    check_order(after)
    assert type(after["d"]) is FrozenDict
