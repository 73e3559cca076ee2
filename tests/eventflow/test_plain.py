"""Plain data: what is refused and where, what is accepted, and in which order keys stand."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import types
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.errors import NotPlainData
from eventflow.plain import (
    EMPTY,
    MAX_DEPTH,
    MAX_INT,
    MAX_TEXT,
    MIN_INT,
    ROPE_FROM,
    FrozenDict,
    FrozenList,
    Rope,
    clean_text,
    fits,
    freeze,
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
