"""Columns of a batch as PostgreSQL's binary arrays: packed here, a batch's worth at a time.

The layout is that of array_send in PostgreSQL's arrayfuncs.c: dimensions, whether there are nulls, the element's type,
length and lower bound, then each element with its length.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.abc import Buffer

_BYTEA, _BYTEA_ARRAY, _INT8, _INT8_ARRAY = 17, 1001, 20, 1016  # oids, in pg_type.dat
_HEAD = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)


class ByteColumn(tuple[bytes | None, ...]):
    """A bytea[]; an empty one is null, so that one prepared statement serves all batches."""

    __slots__ = ()


class NumberColumn(tuple[int, ...]):
    """A bigint[]; an empty one is null."""

    __slots__ = ()


class _ByteDumper(Dumper):
    oid, format = _BYTEA_ARRAY, Format.BINARY

    def dump(self, obj: Sequence[bytes | None]) -> Buffer | None:
        if not obj:
            return None
        pack = _LENGTH.pack
        parts = [_HEAD.pack(1, int(None in obj), _BYTEA, len(obj), 1)]
        for item in obj:
            if item is None:
                parts.append(_NULL)
            else:
                parts += (pack(len(item)), item)
        return b"".join(parts)


class _NumberDumper(Dumper):
    oid, format = _INT8_ARRAY, Format.BINARY

    def dump(self, obj: Sequence[int]) -> Buffer | None:
        if not obj:
            return None
        flat = [8] * (2 * len(obj))
        flat[1::2] = obj
        return _HEAD.pack(1, 0, _INT8, len(obj), 1) + struct.pack("!" + "iq" * len(obj), *flat)


def register(connection: Connection) -> None:
    """Let a connection take these columns as parameters."""
    connection.adapters.register_dumper(ByteColumn, _ByteDumper)
    connection.adapters.register_dumper(NumberColumn, _NumberDumper)
