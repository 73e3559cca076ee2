"""Rows read from the bytes of a damaged LMDB file, without the library and without its trees.

Every leaf page says which rows it holds, whether or not a path from the root still leads to it; a large value lies in pages
of its own that follow one another. So rows are found wherever a page is whole, those of pages that are free again among
them: what is found was written once, and whether it counts is for others to prove. Where a page's own words are damaged,
events are looked for by how they begin. The layout is that of LMDB 0.9 on 64-bit machines (mdb.c: MDB_page, MDB_node).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PAGE = 4096  # bytes; LMDB takes the machine's, which is this on all that eventflow is tested on
MAX_VALUE = 1 << 30  # bytes of a value: no store has a longer one
_HEADER = struct.Struct("<QHHHH")  # number, padding, flags, where free space begins, where it ends
_PAGES = struct.Struct("<I")  # of a large value, in the place of the last two
_NODE = struct.Struct("<HHHH")  # low and high half of the value's size, flags, size of the key
_LEAF, _OVERFLOW, _BIG = 0x02, 0x04, 0x01
_EVENT = re.compile(rb"\x8b\x01[\x00-\x07]\x50", re.DOTALL)  # an array of eleven: format 1, flags, 16 bytes of run key


def rows(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Every row, key and value, that a page still holds, of whatever table; with an empty key, bytes that begin as events do."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for number in range(-(-size // PAGE)):
            page = _read(file, number * PAGE, PAGE)
            if len(page) >= _HEADER.size:
                yield from _leaf(file, page, size)
                yield from _begun(file, page, number, size)


def _read(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _leaf(file: IO[bytes], page: bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The rows of a page, if it is a leaf; none of what reaches beyond its end."""
    _, _, flags, lower, upper = _HEADER.unpack_from(page)
    if not flags & _LEAF or not _HEADER.size <= lower <= upper <= len(page):
        return
    for place in struct.unpack_from(f"<{(lower - _HEADER.size) // 2}H", page, _HEADER.size):
        if not upper <= place <= len(page) - _NODE.size:
            continue
        low, high, kind, keys = _NODE.unpack_from(page, place)
        at, length = place + _NODE.size + keys, low | high << 16
        key = page[place + _NODE.size : at]
        if kind == _BIG and at + 8 <= len(page):
            yield key, _large(file, int.from_bytes(page[at : at + 8], "little"), length, size)
        elif not kind and at + length <= len(page):
            yield key, page[at : at + length]


def _large(file: IO[bytes], number: int, length: int, size: int) -> bytes:
    """A value in pages of its own; empty if they are not there."""
    start = number * PAGE + _HEADER.size
    return b"" if length > MAX_VALUE or start + length > size else _read(file, start, length)


def _begun(file: IO[bytes], page: bytes, number: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """What begins as an event does: anywhere in a page, or where a large value begins, with the pages that it goes on in."""
    flags, pages = _HEADER.unpack_from(page)[2], _PAGES.unpack_from(page, 12)[0]
    if not flags & _OVERFLOW:
        for found in _EVENT.finditer(page):
            yield b"", page[found.start() :]
    elif _EVENT.match(page, _HEADER.size) and pages * PAGE <= min(MAX_VALUE, size - number * PAGE):
        yield b"", _read(file, number * PAGE + _HEADER.size, pages * PAGE - _HEADER.size)
