"""The rows of one write transaction: puts whose answers are looked at, and which keys were changed while a copy is made.

LMDB's `put` answers False where others would raise. While the file is being copied elsewhere (see `vacuum`), each changed
key is written down in the table `store`, so that the copy can be brought up to date. Nothing here knows what a row means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventflow.errors import Corrupt
from eventflow.log.lmdb.tables import KEY_CHANGE, Tables, number

Txn = Any  # an LMDB transaction: the library ships no usable type for it


class Rows:
    """Rows of a write transaction; `tracking` writes down what changes."""

    __slots__ = ("_changed", "_numbers", "tables", "txn")

    def __init__(self, txn: Txn, tables: Tables, *, tracking: bool = False) -> None:
        self.txn, self.tables = txn, tables
        self._changed: dict[bytes, None] | None = {} if tracking else None
        self._numbers = {id(table): index for index, table in enumerate(tables)} if tracking else {}

    def get(self, table: Any, key: bytes) -> bytes | None:
        """The value of a row, None if it is not there."""
        value: bytes | None = self.txn.get(key, db=table)
        return value

    def put(self, table: Any, key: bytes, value: bytes) -> None:
        """Put a row. Raises Corrupt if LMDB does not take it."""
        if self._changed is not None:
            self._note(table, key)
        if not self.txn.put(key, value, db=table):
            raise Corrupt("the store", "refused a row")

    def replace(self, table: Any, key: bytes, value: bytes) -> None:
        """Put a value of another size: written over, a long one would keep its pages (LMDB reuses them as they are)."""
        self.txn.delete(key, db=table)
        self.put(table, key, value)

    def append(self, table: Any, key: bytes, value: bytes) -> None:
        """Put a row after all others of its table. Raises Corrupt if there are later ones."""
        if self._changed is not None:
            self._note(table, key)
        if not self.txn.put(key, value, db=table, append=True):
            raise Corrupt("the store", "has rows after its last one")

    def delete(self, table: Any, key: bytes) -> bool:
        """Take a row out; whether it was there."""
        if self._changed is not None:
            self._note(table, key)
        return bool(self.txn.delete(key, db=table))

    def _note(self, table: Any, key: bytes) -> None:
        if self._changed is not None:
            self._changed[bytes([self._numbers[id(table)]]) + key] = None

    def close(self) -> None:
        """Write down what was changed, if that is wanted; the last thing before the commit."""
        if not self._changed:
            return
        last = last_change(self.txn, self.tables)
        for index, change in enumerate(self._changed, last + 1):
            if not self.txn.put(KEY_CHANGE + number(index), change, db=self.tables.store):
                raise Corrupt("the store", "refused a row")


def last_change(txn: Txn, tables: Tables) -> int:
    """The number of the last change written down, 0 if there is none."""
    with txn.cursor(db=tables.store) as cursor:
        inside = cursor.prev() if cursor.set_range(KEY_CHANGE + b"\xff" * 9) else cursor.last()
        key = cursor.key() if inside else b""
        return int.from_bytes(key[len(KEY_CHANGE) :], "big") if key.startswith(KEY_CHANGE) else 0


def many(txn: Txn, table: Any, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """The rows with these keys, looked up in one call; those that are not there are left out."""
    with txn.cursor(db=table) as cursor:
        return dict(cursor.getmulti(keys))


def keys_under(txn: Txn, table: Any, prefix: bytes) -> Iterable[bytes]:
    """All keys of a table that begin with a prefix, rising."""
    with txn.cursor(db=table) as cursor:
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            yield bytes(cursor.key())
            found = cursor.next()
