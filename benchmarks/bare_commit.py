"""A bare LMDB commit: the rows that eventflow wrote for one step, put into the same tables by a loop of ten lines.

This is what a durable step costs without eventflow: begin, three puts, commit, with LMDB's default sync flags. The rows
are read from a store that eventflow recorded, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
import lmdb

from eventflow.proof import digest

TABLES = (b"log", b"runs", b"names")
MAP_SIZE = 16 << 30  # bytes of address space
# The head row (docs/format.md): its version, digest and time change with each step; they begin here.
_VERSION, _DIGEST, _UPDATED = slice(20, 28), slice(28, 60), slice(86, 94)


class Row(NamedTuple):
    """One put of one step."""

    table: int
    key: bytes
    value: bytes


def opened(directory: Path, *, readonly: bool = False) -> tuple[Any, list[Any]]:
    """An LMDB environment with the tables that a step touches, and those tables."""
    env: Any = lmdb.open(
        str(directory), map_size=MAP_SIZE, max_dbs=16, readonly=readonly, readahead=False, create=not readonly
    )
    return env, [env.open_db(name, create=not readonly) for name in TABLES]


def recorded(store: Path, run_id: str) -> list[list[Row]]:
    """What each event of a run put into a store's tables, in order: its event, its index, the run's head."""
    env, tables = opened(store / "data.1", readonly=True)
    with env, env.begin() as txn:
        head = bytes(txn.get(run_id.encode(), db=tables[2]))
        log = dict(txn.cursor(db=tables[0]))
        index = [(key, place) for key, place in txn.cursor(db=tables[1]) if key.startswith(head[:16])]
    return [_rows(run_id.encode(), head, key, place, log[place]) for key, place in index]


def _rows(name: bytes, head: bytes, key: bytes, place: bytes, event: bytes) -> list[Row]:
    then = bytearray(head)
    then[_VERSION], then[_DIGEST] = key[16:24], digest(event)
    then[_UPDATED] = cbor2.loads(event)[6].to_bytes(8, "big", signed=True)
    return [Row(0, place, event), Row(1, key, place), Row(2, name, bytes(then))]


class BareCommits:
    """Commits recorded steps one after the other, as often as it is asked."""

    def __init__(self, directory: Path, steps: Sequence[list[Row]]) -> None:
        directory.mkdir()
        self._env, self._tables = opened(directory)
        self._left: Iterator[list[Row]] = iter(steps)
        self.seconds: list[float] = []

    def commit(self, count: int) -> None:
        """Commit the next `count` steps, each durable, and note how long each took."""
        env, tables = self._env, self._tables
        for rows in [next(self._left) for _ in range(count)]:
            began = time.perf_counter()
            with env.begin(write=True) as txn:
                for table, key, value in rows:
                    assert txn.put(key, value, db=tables[table], append=table == 0)
            self.seconds.append(time.perf_counter() - began)

    def close(self) -> None:
        """Close the file."""
        self._env.close()
