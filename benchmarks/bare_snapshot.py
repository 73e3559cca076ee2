"""A snapshot read bare: LMDB gets, SHA-256, zstd, cbor2, into plain dicts and lists. No eventflow.

What bringing a state back costs at least, when its bytes are checked: the root, the pieces its long lists are cut into,
and the texts they refer to, as docs/format.md lays them out.
"""

from __future__ import annotations

import binascii
import hashlib
from pathlib import Path
from typing import Any

import cbor2
import lmdb
import zstandard

TABLES = (b"snapshots", b"blobs", b"places")
_ZSTD = zstandard.ZstdDecompressor()  # one for all: making one takes ten times what using it on a small value does


class BareStore:
    """An LMDB file opened for reading, and the tables that a snapshot lies in."""

    def __init__(self, store: Path) -> None:
        self._env: Any = lmdb.open(
            str(store / "data.1"), map_size=64 << 30, max_dbs=16, readonly=True, readahead=False, create=False
        )
        self._tables = [self._env.open_db(name, create=False) for name in TABLES]

    def close(self) -> None:
        """Close the file."""
        self._env.close()

    def snapshot(self, run_key: bytes, version: int, digest: bytes) -> tuple[dict[str, Any], int]:
        """The data of a snapshot, and how many bytes were read, unpacked and checked."""
        with self._env.begin() as txn:
            root = _expanded(txn.get(run_key + version.to_bytes(8, "big"), db=self._tables[0]))
            assert hashlib.sha256(root).digest() == digest
            _, fields, refs, cuts = cbor2.loads(root)
            size = len(root) + self._fill(txn, fields, refs)
            for path, names in cuts:
                items: list[Any] = []
                for name in names:
                    data = self._blob(txn, name)
                    part, more = cbor2.loads(data)
                    size += len(data) + self._fill(txn, part, more)
                    items += part
                holder = fields[0]
                for step in path[:-1]:
                    holder = holder[step]
                holder[path[-1]] = items + holder[path[-1]]
        return fields[0], size

    def _fill(self, txn: Any, value: Any, refs: list[Any]) -> int:
        """Put what is referred to into its place; returns its size."""
        size = 0
        for path, name, kind in refs:
            data = self._blob(txn, name)
            holder = value
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = data.decode() if kind == 0 else data
            size += len(data)
        return size

    def _blob(self, txn: Any, name: bytes) -> bytes:
        stored = txn.get(txn.get(name, db=self._tables[2]), db=self._tables[1])
        data = binascii.b2a_base64(stored[1:], newline=False) if stored[:1] == b"\x02" else _expanded(stored)
        assert hashlib.sha256(data).digest() == name
        return data


def _expanded(stored: bytes) -> bytes:
    """What a root or a blob is, from its row: a byte that says how it is stored, and the rest."""
    return _ZSTD.decompress(stored[1:]) if stored[:1] == b"\x01" else stored[1:]
