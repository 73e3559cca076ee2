"""The strict CBOR profile: one form for each value, and nothing but plain data comes out."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.codec import decode, encode
from eventflow.codec.cbor import MAX_DECODE_DEPTH
from eventflow.errors import Corrupt, EventflowError
from eventflow.plain import MAX_INT, MIN_INT, FrozenDict, Rope, freeze, same

# Heads of the tags that a decoder might give a meaning: dates, bignums, decimals, shared references, regular expressions,
# MIME, UUIDs, rationals, sets, string references, addresses, ordered maps, self-description, and numbers nobody uses.
TAGS = [
    *range(38), 52, 54, 64, 79, 100, 103, 255, 256, 257, 258, 259, 260, 261, 262, 263, 1004, 1040, 25441, 43000, 55799, 55800,
    2**16, 2**32, 2**64 - 1,
]  # fmt: skip


def head(major: int, number: int) -> bytes:
    """The shortest head of a major type and a number (RFC 8949, section 3)."""
    if number < 24:
        return bytes([major << 5 | number])
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise AssertionError(number)


def refused(data: bytes, *, strict: bool = True) -> str:
    """Why bytes are refused."""
    with pytest.raises(Corrupt) as caught:
        decode(data, "here", strict=strict)
    assert caught.value.where == "here"
    return caught.value.problem


# --- one form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hexed"),
    [
        (0, "00"), (23, "17"), (24, "1818"), (255, "18ff"), (256, "190100"), (65_536, "1a00010000"), (-1, "20"), (-25, "3818"),
        (MAX_INT, "1bffffffffffffffff"), (MIN_INT, "3b7fffffffffffffff"), (None, "f6"), (True, "f5"), (False, "f4"),
        (0.0, "f90000"), (-0.0, "f98000"), (1.5, "f93e00"), (100_000.0, "fa47c35000"), (1.1, "fb3ff199999999999a"),
        (math.inf, "f97c00"), (-math.inf, "f9fc00"), (math.nan, "f97e00"), (-math.nan, "f97e00"), ("", "60"), ("é", "62c3a9"),
        (b"", "40"), (b"\x00", "4100"), ([], "80"), ({}, "a0"), ([1, [2]], "82018102"), ({"b": 1, "aa": 2, "a": 3}, "a36161036162016261 6102"),
        ({"é": 1, "zz": 2, "z": 3}, "a3617a03627a7a0262c3a901"),
    ],
)  # fmt: skip
def test_each_value_has_its_one_form(value: Any, hexed: str) -> None:
    """The bytes are those of RFC 8949's deterministic encoding, and give the value back, type and sign included."""
    data = bytes.fromhex(hexed)
    assert encode(value) == data
    back = decode(data, "here", strict=True)
    assert same(back, value)
    assert not isinstance(value, dict) or list(back) == sorted(value, key=lambda key: (len(key.encode()), key))


def test_frozen_values_are_written_as_what_they_are() -> None:
    """Frozen dicts and lists, with a rope inside, give the bytes of ordinary ones."""
    value = {"a": [1, {"b": []}], "log": [1, 2]}
    assert encode(freeze(value)) == encode(value)
    assert encode(FrozenDict({**freeze({"a": [1, {"b": []}]}), "log": Rope.of([1, 2])})) == encode(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(MIN_INT, MAX_INT) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(PLAIN)
@settings(max_examples=150)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    """Every plain value survives, and encoding it again gives the same bytes."""
    data = encode(value)
    back = decode(data, "here", strict=True)
    assert same(back, value)
    assert encode(back) == data


# --- tags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("strict", [True, False])
def test_every_tag_is_refused(tag: int, strict: bool) -> None:  # noqa: FBT001
    """Whatever it means and whatever it stands on, at the top, in a list, as a value and as a key."""
    contents = ["00", "41ff", "6161", "80", "820102", "a0", "fb3ff0000000000000", "f6", "c100", "63612d62"]
    for content in map(bytes.fromhex, contents):
        tagged = head(6, tag) + content
        for data in (tagged, b"\x81" + tagged, b"\xa1\x61k" + tagged, b"\xa1" + tagged + b"\x00"):
            refused(data, strict=strict)


def test_shared_references_do_not_grow() -> None:
    """Three hundred bytes that stand for gigabytes are refused before anything is built."""
    bomb = b"\xd8\x1c\x80"
    for _ in range(30):
        bomb = b"\xd8\x1c\x84" + bomb + b"\xd8\x1d\x00" * 3
    tracemalloc.start()
    refused(bomb, strict=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


# --- forms nobody writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hexed", ["9fff", "9f01ff", "bfff", "bf616101ff", "5fff", "5f4101ff", "7f6161ff", "819fff", "ff", "9f", "df00"]
)
def test_indefinite_lengths_are_refused(hexed: str) -> None:
    """Without strict reading too: nobody knows how much is to come."""
    for strict in (True, False):
        refused(bytes.fromhex(hexed), strict=strict)


@pytest.mark.parametrize(
    "hexed",
    [
        "1800", "1817", "190000", "1900ff", "1a0000ffff", "1b00000000ffffffff", "3800", "3900ff", "5800", "580161", "7800", "780161",
        "59000161", "9800", "980100", "b800", "b801616100",
    ],
)  # fmt: skip
def test_long_forms_of_short_numbers_and_lengths_are_refused(hexed: str) -> None:
    """A value has one form, so that its digest says what it is."""
    assert "canonical" in refused(bytes.fromhex(hexed))


@pytest.mark.parametrize("hexed", ["a2616201616100", "a262616100616200", "a2627a7a00617a00", "a262c3a900617a00"])
def test_keys_out_of_order_are_refused(hexed: str) -> None:
    """The order of keys is part of the one form."""
    assert "canonical" in refused(bytes.fromhex(hexed))


@pytest.mark.parametrize("hexed", ["a2616101616102", "a2616101616101", "a3616100616200616100", "81a2616100616100"])
def test_keys_that_come_twice_are_refused(hexed: str) -> None:
    """Two readers might each believe another one of them."""
    for strict in (True, False):
        refused(bytes.fromhex(hexed), strict=strict)


@pytest.mark.parametrize("key", ["00", "20", "4161", "f6", "f5", "f93c00", "80", "a0", "8100", "c000"])
def test_keys_that_are_not_text_are_refused(key: str) -> None:
    """Numbers, bytes, lists and the rest are no keys of ours."""
    refused(b"\xa1" + bytes.fromhex(key) + b"\x00")


@pytest.mark.parametrize("value", [0, "a", [], {}, [1, {"a": 2}], None, 1.5])
@pytest.mark.parametrize("rest", [b"\x00", b"\xf6", b"junk", b"\xff", b"\x80" * 40])
def test_what_follows_the_value_is_refused(value: Any, rest: bytes) -> None:
    """The whole buffer is the value."""
    refused(encode(value) + rest)


@pytest.mark.parametrize("hexed", ["62c328", "61ff", "63eda080", "62c080", "64f7bfbfbf", "61c3", "a161ff00"])
def test_text_that_is_not_utf_8_is_refused(hexed: str) -> None:
    """Surrogates, overlong forms and stray bytes are no text."""
    for strict in (True, False):
        refused(bytes.fromhex(hexed), strict=strict)


NANS = [struct.pack(">e", math.nan)] + [bytes.fromhex(one) for one in ("7e01", "7d00", "fe00", "7fff", "7c01")]


@pytest.mark.parametrize(
    "data",
    [b"\xf9" + nan for nan in NANS[1:]]
    + [bytes.fromhex(one) for one in ("fa7fc00000", "fa7f800001", "fb7ff8000000000000", "fb7ff8000000000001", "fbfff8000000000000")],
    ids=bytes.hex,
)  # fmt: skip
def test_nan_has_one_form(data: bytes) -> None:
    """Payloads and signs could carry what no reader sees."""
    assert "canonical" in refused(data)


@pytest.mark.parametrize(
    "hexed",
    [
        "fa3f800000",
        "fb3ff0000000000000",
        "fb3ff8000000000000",
        "fa00000000",
        "fb8000000000000000",
        "fb7ff0000000000000",
    ],
)
def test_long_forms_of_short_floats_are_refused(hexed: str) -> None:
    """A float is as short as it can be."""
    assert "canonical" in refused(bytes.fromhex(hexed))


@pytest.mark.parametrize(
    "hexed", ["f7", "e0", "f0", "f3", "f820", "f8ff", "f800", "f818", "f81f", "fc", "fd", "fe", "81f7", "a16161f0"]
)
def test_undefined_and_simple_values_are_refused(hexed: str) -> None:
    """Null, true and false are the only ones that are plain data."""
    refused(bytes.fromhex(hexed))


@pytest.mark.parametrize("hexed", ["3b8000000000000000", "3bffffffffffffffff", "813b8000000000000000"])
def test_integers_below_64_bits_are_refused(hexed: str) -> None:
    """CBOR could hold them without a tag; a writer of ours never wrote one."""
    assert "64 bits" in refused(bytes.fromhex(hexed))


# --- bombs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opening", "most"), [(b"\x81", 128), (b"\xa1\x61k", 128), (b"\x81\xa1\x61k", 64)])
def test_depth_is_bounded(opening: bytes, most: int) -> None:
    """Bombs of depth end at the bound, however many levels they promise."""
    assert most * (2 if len(opening) == 4 else 1) == MAX_DECODE_DEPTH
    decode(opening * most + b"\x00", "here", strict=True)
    for count in (most + 1, 10_000, 1_000_000):
        for strict in (True, False):
            refused(opening * count + b"\x00", strict=strict)


@pytest.mark.parametrize("major", [2, 3, 4, 5])
@pytest.mark.parametrize("length", [10**4, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
def test_a_declared_length_takes_no_memory(major: int, length: int) -> None:
    """Nine bytes that promise exabytes are refused for what they are, at the top and inside."""
    tracemalloc.start()
    for data in (head(major, length), b"\x82\x00" + head(major, length), head(major, length) + b"\x61a" * 9):
        refused(data, strict=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_many_levels_that_each_promise_much_take_no_memory() -> None:
    """Promises do not add up either."""
    tracemalloc.start()
    refused(head(4, 2**32 - 1) * MAX_DECODE_DEPTH, strict=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


# --- whatever it is ------------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=80)
    | PLAIN.map(encode).flatmap(lambda data: st.binary(max_size=3).map(lambda more: data[:-1] + more))
)
@settings(max_examples=400)
def test_any_bytes_give_plain_data_or_an_error_of_ours(data: bytes) -> None:
    """Strict reading accepts exactly the one form of a plain value, and raises nothing of its library's."""
    try:
        value = decode(data, "here", strict=True)
    except EventflowError:
        return
    assert encode(value) == data


@given(
    st.recursive(
        st.binary(max_size=3) | st.integers(0, 60).map(lambda tag: cbor2.CBORTag(tag, 0)), st.lists, max_leaves=6
    )
)
@settings(max_examples=100)
def test_a_tag_hidden_anywhere_is_found(value: Any) -> None:
    """No depth hides a tag."""
    data = cbor2.dumps(value)
    if "CBORTag" in repr(value):
        refused(data, strict=False)
    else:
        decode(data, "here", strict=True)
