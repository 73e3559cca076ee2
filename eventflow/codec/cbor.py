"""CBOR under a strict profile (RFC 8949): the only file that knows the library.

Canonical bytes: shortest numbers, definite lengths, map keys of text, shorter keys first. Every tag is refused, whatever
it means: the decoder may yield only None, bool, int, float, text, bytes, lists and dicts. One codec, no fallback.
"""

from __future__ import annotations

from typing import Any

import cbor2

from eventflow.errors import Corrupt
from eventflow.plain import MIN_INT

MAX_DECODE_DEPTH = 128  # a state may be 64 deep, an event's own arrays and a change's path stand around it
MAX_DECODE_BYTES = 1 << 30  # far above any limit on writing; a length is checked before anything is read

# Tags for which the library has a decoder of its own; each could build an object, a loop or a huge number.
_KNOWN_TAGS = (
    0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip


def _refuse_tag(*_: object) -> Any:
    raise ValueError("tags are refused")


_REFUSED = dict.fromkeys(_KNOWN_TAGS, _refuse_tag)
_PLAIN = frozenset({str, float, bool, bytes, type(None)})


def encode(value: Any) -> bytes:
    """The canonical bytes of plain data; depth must have been checked before."""
    return cbor2.dumps(value, canonical=True)


def encode_ordered(value: Any) -> bytes:
    """The same bytes, in less time, for a value without floats whose maps have their keys in canonical order."""
    return cbor2.dumps(value)


def decode(data: bytes, where: str, *, strict: bool = False) -> Any:
    """Plain data from bytes. Raises Corrupt, naming `where`, for anything the profile refuses.

    `strict` also encodes the result again and compares, which refuses trailing bytes, long forms of short numbers and
    unsorted keys; a reader that has checked the bytes' digest already may leave it out.
    """
    if len(data) > MAX_DECODE_BYTES:
        raise Corrupt(where, f"is {len(data):,} bytes long, more than any writer makes")
    try:
        value = cbor2.loads(
            data, tag_hook=_refuse_tag, semantic_decoders=_REFUSED, max_depth=MAX_DECODE_DEPTH, allow_indefinite=False,
            allow_duplicate_keys=False, strict_hashable_types=True,
        )  # fmt: skip
    except (cbor2.CBORDecodeError, ValueError, OverflowError) as error:
        raise Corrupt(where, f"is not CBOR that eventflow writes ({error})") from None
    if strict:
        _check_plain(value, where)
        if encode(value) != data:
            raise Corrupt(where, "is not canonical CBOR")
    return value


def _check_plain(value: Any, where: str) -> None:
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is int:
        if value < MIN_INT:
            raise Corrupt(where, "holds an integer of more than 64 bits")
    elif kind is list:
        for item in value:
            _check_plain(item, where)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise Corrupt(where, "has a map key that is not text")
            _check_plain(item, where)
    else:
        raise Corrupt(where, f"holds a {kind.__name__}, which is not plain data")
