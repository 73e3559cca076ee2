"""A CBOR sequence (RFC 8742) cut into its items, and the layout of an export as one.

An export is a map that says what it is; then, in order, events as they are stored (arrays), values that events refer to
(byte strings, before the first that does), and what is left of deleted events (maps); at the end a map with counts and
the digest of all bytes before it. Encrypted values (maps with their name, in format 2) come before the first event under
their key. Only where an item ends is found out here; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventflow.errors import Corrupt

FORMAT = 1
SEALED_FORMAT = (
    2  # of an export with encrypted events or origins, which a reader of format 1 would not know what to make of
)
SEALED_ORIGIN_FORMAT = 3  # of one with an origin that is encrypted, and says of its run what only its key could tell
KIND = "eventflow export"
BYTES, ARRAY, MAP = 2, 4, 5  # major types: a value, an event, a word about the export
_TEXT, _TAG = 3, 6
_IN_PLACE, _LARGEST = 24, 28  # what the low five bits of a first byte say: the number itself, or how many bytes it has
_DEEPEST = 128  # things in each other: no decoder here goes deeper, and to walk a million of them takes a while


def items(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each item begins and ends, with its major type. Raises Corrupt for what no export has."""
    at = 0
    while at < len(data):
        end = _end(data, at)
        yield at, end, data[at] >> 5
        at = end


def _end(data: bytes, at: int) -> int:
    """Where the item at a place ends. Every round takes a byte at least, so this ends, whatever the bytes are."""
    left, around = 1, list[int]()  # items to come in what is innermost, and in each thing around it
    while True:
        while not left:
            if not around:
                return at
            left = around.pop()
        left -= 1
        if at >= len(data):
            raise _cut(at)
        major, low = data[at] >> 5, data[at] & 31
        at += 1
        value = low
        if low >= _LARGEST or major == _TAG or len(around) > _DEEPEST:
            raise Corrupt("the export", f"has something at byte {at - 1} that eventflow does not write")
        if low >= _IN_PLACE:
            size = 1 << (low - _IN_PLACE)
            value, at = int.from_bytes(data[at : at + size], "big"), at + size
        if major in (BYTES, _TEXT):
            at += value
        elif major in (ARRAY, MAP):
            around.append(left)
            left = value * (major - 3)
        if at > len(data) or left > len(data) - at:  # more items are to come than there are bytes
            raise _cut(at)


def _cut(at: int) -> Corrupt:
    return Corrupt("the export", f"ends at byte {at} in the middle of something")
