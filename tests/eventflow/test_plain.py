"""Plain data: what is refused and where, what can't be changed, and lists that several versions share."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import enum
import json
import math
import pickle
import types
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.errors import NotPlainData, StateIsReadOnly
from eventflow.plain import (
    EMPTY,
    MAX_DEPTH,
    MAX_INT,
    MAX_TEXT,
    MIN_INT,
    NOTHING,
    ROPE_FROM,
    FrozenDict,
    FrozenList,
    Rope,
    clean_text,
    fits,
    freeze,
    grown,
    ordered,
    raw,
    raw_items,
    reordered,
    same,
    thaw,
)


class Colour(enum.Enum):
    RED = "red"


class Loud(enum.StrEnum):
    ON = "on"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int = 0


class Opaque:
    pass


NAN = float("nan")
Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - a plain one, as users write them


class SafeText(str):
    """Text that says of itself that it is the same again, as web frameworks' safe strings do."""

    __slots__ = ()

    def __str__(self) -> str:
        return self


class Metres(float):
    """A number that prints with its unit."""

    def __repr__(self) -> str:
        return f"{float(self)} m"


class Count(int):
    """A number with a class."""

    def __int__(self) -> int:
        return -1


class Raw(bytes):
    """Bytes with a class."""


def nested(levels: int, kind: type = dict) -> Any:
    """A value of so many levels of containers."""
    value: Any = 1
    for _ in range(levels):
        value = {"k": value} if kind is dict else [value]
    return value


def with_rope(count: int = ROPE_FROM) -> FrozenDict:
    """A frozen dict that holds a rope, and a dict that holds one."""
    return FrozenDict({"inner": FrozenDict({"log": Rope.of(["a"] * count)}), "log": Rope.of(range(count)), "n": 1})


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        Colour.RED, Loud.ON, Level.LOW, Point(), Opaque(), {1, 2}, frozenset({1}), 1j, decimal.Decimal(1), object, len,
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.date(2026, 1, 1), dt.timedelta(1), Path("a"),
        ValueError("x"), Pair(1, 2), range(3), iter([1]), types.MappingProxyType({}), {}.keys(), Ellipsis,
    ],
    ids=lambda odd: type(odd).__name__,
)  # fmt: skip
def test_a_value_that_is_not_plain_is_refused_with_its_path(odd: Any) -> None:
    """Wherever it stands, the error says where that is and what it is."""
    for value, path in ((odd, "it"), ({"a": [0, {"b": odd}]}, "it.a[1].b"), ([odd], "it[0]"), ((1, odd), "it[1]")):
        with pytest.raises(NotPlainData) as caught:
            freeze(value, "it")
        assert caught.value.path == path
        assert type(odd).__qualname__ in str(caught.value)


@pytest.mark.parametrize("key", [1, None, True, b"k", 1.5, ("a",), Colour.RED, SafeText("k")])
def test_a_key_that_is_not_text_is_refused(key: Any) -> None:
    """CBOR could hold such keys; states can't, or two readers would disagree."""
    with pytest.raises(NotPlainData, match="not text") as caught:
        freeze({"a": {key: 1}})
    assert caught.value.path == "a"


@pytest.mark.parametrize("number", [MAX_INT, MIN_INT, 0, -1, 2**63])
def test_integers_of_64_bits_are_plain(number: int) -> None:
    """Signed and unsigned 64-bit numbers are held as they are."""
    assert freeze(number) == number


@pytest.mark.parametrize("number", [MAX_INT + 1, MIN_INT - 1, 10**30, -(10**30)])
def test_longer_integers_are_refused(number: int) -> None:
    """A number that would need a tag is not plain."""
    with pytest.raises(NotPlainData, match="64 bits"):
        freeze({"n": number})


@pytest.mark.parametrize("kind", [dict, list])
def test_64_levels_are_held_and_65_are_not(kind: type) -> None:
    """The bound on depth is exact, and counts from where the value will stand."""
    assert thaw(freeze(nested(MAX_DEPTH, kind))) == nested(MAX_DEPTH, kind)
    freeze(nested(MAX_DEPTH - 5, kind), depth=5)
    for value, depth in ((nested(MAX_DEPTH + 1, kind), 0), (nested(MAX_DEPTH - 4, kind), 5), ({}, MAX_DEPTH)):
        with pytest.raises(NotPlainData, match="deeper than 64"):
            freeze(value, depth=depth)


def test_what_was_frozen_before_counts_with_all_its_levels() -> None:
    """A state put into itself again and again can't get past the bound one level at a time."""
    value: Any = freeze({"k": 1})
    for _ in range(MAX_DEPTH - 1):
        value = freeze([value])
    with pytest.raises(NotPlainData, match="deeper than 64"):
        freeze([value])
    deep = FrozenDict({"log": Rope.of([value])})
    with pytest.raises(NotPlainData, match="deeper than 64"):
        freeze(deep)


def test_a_list_nested_past_pythons_own_recursion_is_an_error_of_ours() -> None:
    """No depth of input reaches RecursionError or the encoder."""
    with pytest.raises(NotPlainData, match="deeper than 64"):
        freeze(nested(100_000, list))


def test_a_dict_that_holds_itself_is_refused() -> None:
    """A cycle is too deep, not endless."""
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(NotPlainData, match="deeper than 64") as caught:
        freeze(loop)
    assert len(caught.value.path) < 200


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d alone"])
def test_a_lone_surrogate_is_refused_as_value_and_as_key(text: str) -> None:
    """What no UTF-8 can hold is refused before anything is written, with a way out."""
    with pytest.raises(NotPlainData, match="clean_text") as caught:
        freeze({"said": [text]})
    assert caught.value.path == "said[0]"
    with pytest.raises(NotPlainData, match="clean_text"):
        freeze({"said": {text: 1}})


def test_text_and_bytes_beyond_the_limit_are_refused() -> None:
    """One value has to fit into memory several times over."""
    with pytest.raises(NotPlainData, match="limit"):
        freeze({"t": "x" * (MAX_TEXT + 1)})
    with pytest.raises(NotPlainData, match="limit"):
        freeze({"t": bytes(MAX_TEXT + 1)})


# --- what is accepted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, False, True, 0, "", b"", 0.0, [], {}, math.inf, -math.inf, "é€😀\x00"])
def test_plain_values_stay_what_they_are(value: Any) -> None:
    """Falsy and odd values keep their type and their worth."""
    frozen = freeze({"v": value})
    assert same(frozen["v"], value)


def test_tuples_become_lists_and_containers_lose_their_class() -> None:
    """What comes back is what a log can give back."""
    frozen = freeze({
        "t": (1, (2,)), "o": OrderedDict(a=1), "d": defaultdict(list, b=[2]), "c": Counter("aa"), "m": memoryview(b"x"),
        "b": bytearray(b"y"),
    })  # fmt: skip
    assert frozen == {"t": [1, [2]], "o": {"a": 1}, "d": {"b": [2]}, "c": {"a": 2}, "m": b"x", "b": b"y"}
    assert [type(frozen[key]) for key in "todcmb"] == [FrozenList, FrozenDict, FrozenDict, FrozenDict, bytes, bytes]


@pytest.mark.parametrize(
    ("value", "exact"), [(SafeText("s"), "s"), (Metres(2.5), 2.5), (Count(3), 3), (Raw(b"r"), b"r")]
)
def test_subclasses_of_plain_types_lose_their_class_and_keep_their_value(value: Any, exact: Any) -> None:
    """Their own conversions are not asked: they may answer with the subclass, or with something else."""
    frozen = freeze([value])[0]
    assert type(frozen) is type(exact)
    assert frozen == exact


def test_what_is_frozen_already_is_shared() -> None:
    """Freezing again copies nothing."""
    frozen = freeze({"a": {"b": [1]}})
    assert freeze(frozen) is frozen
    assert freeze({"x": frozen["a"]})["x"] is frozen["a"]


def test_freezing_leaves_the_original_alone() -> None:
    """The frozen value is a copy."""
    original = {"a": [1, {"b": 2}]}
    frozen = freeze(original)
    original["a"].append(3)  # type: ignore[attr-defined]
    original["a"][1]["b"] = 9  # type: ignore[index]
    assert frozen == {"a": [1, {"b": 2}]}


# --- the order of keys ---------------------------------------------------------------------------------------------


def canonical(keys: Any) -> list[str]:
    """Keys in the order of canonical CBOR, straight from its rule."""
    return sorted(keys, key=lambda key: (len(key.encode()), key.encode()))


@given(st.dictionaries(st.text(max_size=4), st.dictionaries(st.text(max_size=3), st.none(), max_size=4), max_size=6))
@settings(max_examples=100)
def test_keys_stand_in_the_order_they_are_stored_in(value: dict[str, Any]) -> None:
    """Freezing puts keys, at every level, where canonical CBOR has them."""
    frozen = freeze(value)
    assert list(frozen) == canonical(value)
    assert all(list(frozen[key]) == canonical(value[key]) for key in value)
    assert frozen == value


def test_length_in_bytes_decides_before_the_alphabet() -> None:
    """Two bytes of one letter come after one byte, and before three."""
    assert list(freeze(dict.fromkeys(["zzz", "é", "aa", "z", "€", "ab"]))) == ["z", "aa", "ab", "é", "zzz", "€"]


def test_ordering_keeps_a_rope_a_rope() -> None:
    """Putting keys in order does not copy a long list out of its rope."""
    rope = Rope.of(range(ROPE_FROM))
    assert raw(ordered({"bb": rope, "a": 1}), "bb") is rope
    assert list(ordered({"bb": rope, "a": 1})) == ["a", "bb"]
    old = ordered({"bb": rope, "a": 1})
    assert list(reordered(dict(raw_items(old)) | {"c": 1}, old)) == ["a", "c", "bb"]


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


# --- leaves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"), ("", ""), ("é😀", "é😀"), ("a\ud800b", "a\ufffdb"), ("\udc00", "\ufffd"),
        ("end\ud83d", "end\ufffd"), ("\ud83d\ude00", "😀"), ("\ud83d\ud83d\ude00", "\ufffd😀"), ("\udc00\ud800", "\ufffd\ufffd"),
        ("\x00\ud800é", "\x00\ufffdé"),
    ],
)  # fmt: skip
def test_cleaning_text_replaces_lone_surrogates_and_nothing_else(text: str, clean: str) -> None:
    """Pairs become the character they stand for, halves U+FFFD; the result is plain."""
    assert clean_text(text) == clean
    freeze(clean_text(text))


def test_clean_text_is_the_same_object_when_there_is_nothing_to_do() -> None:
    """Cleaning clean text costs no copy."""
    for text in ("plain ascii", "été"):
        assert clean_text(text) is text


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1, True), (1, True, False), (1, 1.0, False), (0.0, -0.0, False), (NAN, float("nan"), True), (0, False, False),
        (NAN, 1.0, False), ("a", b"a", False), (None, False, False), ([], (), True), ([1], (1,), True), ([1], [True], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"a": True}, False), ({"a": 1}, {"b": 1}, False), ({}, [], False),
        ({"a": None}, {"b": None}, False), ([1], [1, 2], False), ({"a": [0.0]}, {"a": [-0.0]}, False), ("", None, False),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True), ([NAN], [float("nan")], True), (0.1 + 0.2, 0.3, False),
    ],
)  # fmt: skip
def test_sameness_is_by_type_and_sign(one: Any, other: Any, equal: bool) -> None:  # noqa: FBT001
    """What would be written as other bytes is not the same, however equal Python finds it."""
    assert same(one, other) is equal
    assert same(other, one) is equal
    assert same(freeze({"v": one}), {"v": other}) is equal


def test_height_is_measured_through_ropes_and_dicts() -> None:
    """A frozen value fits into as many levels as it has, and not into one less."""
    for value, height in ((1, 0), (EMPTY, 1), (freeze([[1], 2]), 2), (FrozenDict({"r": Rope.of([freeze([1])])}), 3)):
        assert fits(value, height)
        assert height == 0 or not fits(value, height - 1)
