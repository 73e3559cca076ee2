"""Blobs: what leaves its place, how it is stored, and how it comes back."""

from __future__ import annotations

import base64
import os
import random
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.codec import Shared, encode, pack_blob, unpack_blob, unshared
from eventflow.codec.blobs import (
    BLOB_FROM,
    BYTES,
    MAX_EXPANDED,
    TEXT,
    VALUE,
    Blob,
    Ref,
    checked_refs,
    expand,
    fill,
    frozen,
    lift,
    squeeze,
)
from eventflow.errors import Corrupt
from eventflow.plain import MAX_DEPTH, FrozenDict, FrozenList, Rope, freeze, same
from eventflow.proof import digest

LONG = "naïve text " * 200
NOISE = random.Random(7).randbytes(3_000)  # noqa: S311 - nothing compresses it
IMAGE = base64.b64encode(NOISE).decode()


def lifted(value: Any) -> tuple[Any, list[Ref], dict[bytes, Blob]]:
    """A value without its long parts, the references to them, and their blobs by name."""
    refs: list[Ref] = []
    blobs: list[Blob] = []
    rest = lift(value, refs, blobs)
    return rest, refs, {blob.digest: blob for blob in blobs}


def brought_back(value: Any) -> Any:
    """A value, a list or a dict, that was lifted, stored, read and filled."""
    rest, refs, blobs = lifted(value)
    opened = {name: unpack_blob(blob.stored, name) for name, blob in blobs.items()}
    assert all(len(opened[name]) == blob.size for name, blob in blobs.items())
    fill(rest, checked_refs(refs, "here"), opened, "here")
    return frozen(rest, "here")


# --- leaving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long", ["x" * BLOB_FROM, b"x" * BLOB_FROM, "é" * BLOB_FROM])
def test_long_text_and_bytes_leave_their_place(long: Any) -> None:
    """From a thousand on, wherever they stand; one less stays."""
    value = {"a": [1, {"b": long}], "short": long[:-1]}
    rest, refs, blobs = lifted(value)
    data = long.encode() if isinstance(long, str) else long
    assert rest == {"a": [1, {"b": None}], "short": long[:-1]}
    assert refs == [[["a", 1, "b"], digest(data), TEXT if isinstance(long, str) else BYTES]]
    assert [blob.size for blob in blobs.values()] == [len(data)]


@pytest.mark.parametrize(
    "value",
    [{"t": LONG, "b": NOISE, "l": [LONG, [LONG, 1]], "d": {"é": {"x": LONG}}}, [None, LONG, None], {"same": LONG, "again": LONG}, [b""], {}],
)  # fmt: skip
def test_what_left_comes_back_to_its_place(value: Any) -> None:
    """Texts and bytes, also of one content, and the empty places beside them."""
    assert same(brought_back(value), value)
    assert same(brought_back(freeze(value)), value)


def test_text_and_bytes_of_one_content_share_a_blob_and_keep_their_types() -> None:
    """A blob is bytes; what it stands for is said by the reference."""
    text, raw = IMAGE, IMAGE.encode()
    assert same(brought_back({"text": text, "raw": raw}), {"text": text, "raw": raw})
    assert same(brought_back({"raw": raw, "text": text}), {"raw": raw, "text": text})
    _, refs, blobs = lifted({"text": text, "raw": raw})
    assert len(blobs) == 1
    assert [ref[2] for ref in refs] == [TEXT, BYTES]


def test_ropes_are_lifted_as_lists() -> None:
    """A long list deep inside is read as any other."""
    value = FrozenDict({"log": Rope.of([LONG, 1])})
    assert same(brought_back([value]), [{"log": [LONG, 1]}])


def test_a_value_that_comes_twice_is_there_once() -> None:
    """A reference that is repeated does not multiply what it stands for in memory."""
    back = brought_back({"a": LONG, "b": [LONG]})
    assert back["a"] is back["b"][0]
    shared = brought_back([Shared({"m": ["x" * 200]}), Shared({"m": ["x" * 200]})])
    assert shared[0] is shared[1]


def test_a_shared_value_is_stored_by_reference_whatever_it_is() -> None:
    """Messages of a conversation are stored once, however often they are sent."""
    message = freeze({"role": "user", "content": "tell me about tides and " * 6, "parts": [1, {"x": None}]})
    rest, refs, blobs = lifted({"messages": [Shared(message), Shared(message)]})
    assert rest == {"messages": [None, None]}
    assert {ref[2] for ref in refs} == {VALUE}
    assert list(blobs) == [digest(encode(message))]
    assert same(brought_back({"messages": [Shared(message), Shared(message)]}), {"messages": [message, message]})
    for value in ("x" * 5_000, NOISE, [LONG, {"deep": LONG}], {"a": Rope.of([1] * 600).items()}):
        assert same(brought_back([Shared(freeze(value))]), [value])


def test_a_small_shared_value_stays_in_its_place() -> None:
    """A reference to it would be as long as itself."""
    assert lifted([Shared(freeze({"a": 1})), Shared(None), Shared(0)]) == ([{"a": 1}, None, 0], [], {})


def test_a_shared_value_is_asked_for_by_unshared() -> None:
    """Anything else is itself."""
    assert unshared(Shared([1])) == [1]
    assert unshared([1]) == [1]


def test_the_bytes_of_a_shared_value_do_not_depend_on_the_order_of_its_keys() -> None:
    """Equal messages are one blob."""
    one, other = {"role": "user", "content": "x" * 200}, {"content": "x" * 200, "role": "user"}
    assert list(lifted([Shared(one)])[2]) == list(lifted([Shared(other)])[2])


# --- being stored --------------------------------------------------------------------------------------------------


def test_what_compresses_is_compressed() -> None:
    """Text of repetitions takes a fraction."""
    stored = pack_blob(LONG.encode(), text=LONG)
    assert stored[0] == 1
    assert len(stored) < len(LONG) / 10


def test_what_does_not_compress_is_stored_as_it_is() -> None:
    """Noise costs one byte more than itself."""
    assert pack_blob(NOISE) == b"\x00" + NOISE
    assert pack_blob(b"") == b"\x00"
    assert pack_blob(LONG.encode(), compress=False) == b"\x00" + LONG.encode()


def test_base64_text_is_stored_as_the_bytes_it_stands_for() -> None:
    """An image in a message takes its own size, not a third more."""
    stored = pack_blob(IMAGE.encode(), text=IMAGE)
    assert stored == b"\x02" + NOISE
    assert unpack_blob(stored, digest(IMAGE.encode())).decode() == IMAGE


@pytest.mark.parametrize(
    "text",
    [
        IMAGE[:-4] + "AB==", IMAGE + "\n", IMAGE.replace(IMAGE[10], "-"), IMAGE + "=", IMAGE[:-1], "data:image/png;base64," + IMAGE,
        IMAGE[:100] + "\n" + IMAGE[100:], IMAGE + "é" * 4, "A" * 4_000, "=" * 2_000, IMAGE[:-4] + "A===", IMAGE[:2_000] + "==" + IMAGE[2_002:],
        base64.b64encode(b"plain and repeated " * 100).decode(),
    ],
)  # fmt: skip
def test_text_that_only_looks_like_base64_comes_back_to_the_letter(text: str) -> None:
    """Stray bits, line ends and padding are not lost."""
    assert unpack_blob(pack_blob(text.encode(), text=text), digest(text.encode())).decode() == text


@given(st.binary(max_size=400), st.booleans(), st.integers(0, 3))
@settings(max_examples=100)
def test_any_blob_comes_back(data: bytes, compress: bool, repeat: int) -> None:  # noqa: FBT001
    """However it is stored, with base64 text among them."""
    data *= repeat
    assert unpack_blob(pack_blob(data, compress=compress), digest(data)) == data
    text = base64.b64encode(data).decode()
    assert unpack_blob(pack_blob(text.encode(), text=text, compress=compress), digest(text.encode())) == text.encode()


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stored",
    [b"", b"\x04abc", b"\xff", b"\x00other", b"\x01", b"\x01not a frame", b"\x02\x00", b"\x01" + squeeze(b"other")],
)
def test_a_blob_that_is_not_what_it_is_named_by_is_refused(stored: bytes) -> None:
    """Damaged, exchanged or of an unknown kind."""
    with pytest.raises(Corrupt):
        unpack_blob(stored, digest(b"abc"))


def frame(size: int, *, told: int | None) -> bytes:
    """A zstd frame of so many zeros that tells another size, or none."""
    whole = zstandard.ZstdCompressor(write_content_size=told is not None).compress(bytes(size))
    if told is None or told == size:
        return whole
    assert whole[4] >> 6 == 2, "the size's field has four bytes"
    place = 5 if whole[4] & 0x20 else 6
    return whole[:place] + told.to_bytes(4, "little") + whole[place + 4 :]


BIG = 1 << 20


@pytest.mark.parametrize(
    "data",
    [
        frame(BIG, told=None), frame(BIG, told=1 << 18), frame(BIG, told=BIG - 1), frame(BIG, told=BIG + 1),
        frame(BIG, told=MAX_EXPANDED + 1), frame(BIG, told=2**32 - 1), frame(BIG, told=BIG) + b"junk", frame(BIG, told=BIG)[:-3],
        frame(BIG, told=BIG) * 2, b"", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", os.urandom(50),
    ],
    ids=lambda data: data[:12].hex(),
)  # fmt: skip
def test_a_compressed_value_is_one_frame_that_tells_its_size(data: bytes) -> None:
    """Frames that lie about it, tell none, promise too much, end early or have something after them are refused."""
    with pytest.raises(Corrupt):
        expand(data, "here")


def test_a_frame_within_limits_is_expanded() -> None:
    """The limit is the caller's, and exact."""
    assert expand(frame(BIG, told=BIG), "here") == bytes(BIG)
    assert expand(squeeze(b""), "here") == b""
    assert expand(frame(BIG, told=BIG), "here", limit=BIG) == bytes(BIG)
    with pytest.raises(Corrupt, match="within limits"):
        expand(frame(BIG, told=BIG), "here", limit=BIG - 1)


NAME = digest(b"x")


@pytest.mark.parametrize(
    "refs",
    [
        None, 5, "refs", {}, [5], ["abc"], [[]], [[["a"], NAME]], [[["a"], NAME, 0, 0]], [[[], NAME, 0]], [["a", NAME, 0]],
        [[["a"], NAME[:-1], 0]], [[["a"], "x" * 32, 0]], [[["a"], NAME, "0"]], [[["a"], NAME, True]], [[[True], NAME, 0]],
        [[[-1], NAME, 0]], [[[1.0], NAME, 0]], [[[None], NAME, 0]], [[[b"a"], NAME, 0]], [[[["a"]], NAME, 0]],
    ],
    ids=repr,
)  # fmt: skip
def test_references_of_another_form_are_refused(refs: Any) -> None:
    """A hostile list of references is an error of ours."""
    with pytest.raises(Corrupt, match="can't be read"):
        checked_refs(refs, "here")


@pytest.mark.parametrize(
    "path", [["x"], [0], ["a"], ["a", 1], ["l", 2], ["l", 0], ["l", "0"], ["t", 0], ["d", "x"], ["n", 0], ["b", 0], ["none", "x"]]
)  # fmt: skip
def test_a_reference_to_a_place_that_is_not_empty_is_refused(path: list[Any]) -> None:
    """Nothing is overwritten, added or written into text."""
    value = {"a": 1, "l": [1, None], "t": "text", "d": {}, "b": b"ab", "none": None, "e": None}
    with pytest.raises(Corrupt, match="not there"):
        fill(value, [[path, NAME, BYTES]], {NAME: b"x"}, "here")
    assert value == {"a": 1, "l": [1, None], "t": "text", "d": {}, "b": b"ab", "none": None, "e": None}


def test_two_references_to_one_place_are_refused() -> None:
    """A place holds one value."""
    with pytest.raises(Corrupt, match="not there"):
        fill({"e": None}, [[["e"], NAME, BYTES], [["e"], NAME, BYTES]], {NAME: b"x"}, "here")
    with pytest.raises(Corrupt, match="not there"):
        fill([None], [[[0], NAME, VALUE], [[0, 0], NAME, BYTES]], {NAME: encode([None])}, "here")


@pytest.mark.parametrize(
    ("kind", "data"), [(TEXT, b"\xff"), (VALUE, b"\xff"), (VALUE, b"\xc1\x00"), (3, b"x"), (-1, b"x"), (99, b"x")]
)
def test_a_blob_that_is_not_of_its_kind_is_refused(kind: int, data: bytes) -> None:
    """Text that is no text, data that is no data, kinds that nobody knows."""
    with pytest.raises(Corrupt):
        fill([None], [[[0], NAME, kind]], {NAME: data}, "here")


@pytest.mark.parametrize("odd", [{1: 2}, {b"k": 1}, [{1}], ({"a": (1,)},), [object()], {"a": [1j]}], ids=repr)
def test_what_is_not_plain_is_not_frozen(odd: Any) -> None:
    """The last gate before a decoded value becomes state."""
    with pytest.raises(Corrupt):
        frozen(odd, "here")


def test_decoded_depth_is_bounded_like_written_depth() -> None:
    """A log can't hold a deeper state than a writer may make."""
    value: Any = 1
    for level in range(MAX_DEPTH):
        value = {"k": [value]} if level % 2 else [value]
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert same(frozen(deep, "here"), deep)
    for wrong, depth in (([deep], 0), (deep, 1), (value, 0)):
        with pytest.raises(Corrupt, match="deeper"):
            frozen(wrong, "here", depth=depth)


def test_frozen_values_are_frozen_all_the_way_down() -> None:
    """Lists of scalars, of lists and dicts alike."""
    value = frozen({"a": [1, 2], "b": [[1], {"c": []}]}, "here")
    assert [type(one) for one in (value, value["a"], value["b"], value["b"][0], value["b"][1], value["b"][1]["c"])] == [
        FrozenDict, FrozenList, FrozenList, FrozenList, FrozenDict, FrozenList,
    ]  # fmt: skip
