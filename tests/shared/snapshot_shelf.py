"""States with everything that one can hold, and a shelf that keeps their snapshots as a store does."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from eventflow.codec import (
    PackedState,
    piece_names,
    root_digest,
    unpack_blob,
    unpack_state,
)
from eventflow.errors import Corrupt
from eventflow.plain import NOTHING, FrozenDict, freeze, same
from eventflow.state import State

LONG = "a long text, mostly repeated; " * 100
DEFINITION = freeze({"nodes": ["a", "b"], "edges": [["a", "b", "done"]]})
EFFECT = freeze({
    "status": "finished", "output": [LONG, None], "kind": "call", "mutating": False, "attempt": 1, "version": 11,
    "input_digest": b"i" * 32, "idempotency_key": "ef", "undo": "refund",
})  # fmt: skip
WAIT = FrozenDict(
    {
        "id": 1,
        "kind": "signal",
        "name": "go",
        "spec": freeze({"p": LONG}),
        "until": 0,
        "opened": 1,
        "restore": "restart",
    }
)
BRANCHES = FrozenDict({
    "of": freeze({"": {
        "1": {"status": "failed", "error": ["E", LONG, "x.py:1", True]}, "2": {"status": "open", "attempt": 2, "retry_at": 9},
        "3": {"status": "waiting", "attempt": 1, "wait": WAIT}, "0": {"status": "finished", "result": {"text": LONG}},
    }}),
    "left": 2, "items": freeze(["x", LONG, None, 0]), "names": NOTHING, "standing": 1,
})  # fmt: skip


class Shelf:
    """Blobs as a store keeps them; a snapshot whose known pieces are not there is refused."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def write(self, packed: PackedState) -> bytes:
        """The stored root, its blobs on the shelf."""
        assert {*packed.known} <= self.rows.keys(), "pieces are taken for written that are not there"
        self.rows |= {blob.digest: blob.stored for blob in packed.blobs}
        return packed.root

    def fetch(self, names: Any) -> dict[bytes, bytes]:
        """The blobs of these names."""
        if not {*names} <= self.rows.keys():
            raise Corrupt("a blob", "is missing")
        return {name: unpack_blob(self.rows[name], name) for name in names}

    def back(self, packed: PackedState) -> State:
        """The state that was packed, after the checks a reader makes."""
        root = self.write(packed)
        assert root_digest(root, "here") == packed.digest
        state, size = unpack_state(root, self.fetch, "here")
        assert size == packed.size
        assert state.version == packed.version
        assert {blob.digest for blob in packed.blobs} | {*packed.known} == piece_names(root, self.fetch)
        return state


def long_list(count: int, width: int = 100) -> list[Any]:
    """Items of about that many bytes, each with something inside."""
    return [{"n": number, "text": f"{number} ".ljust(width, "x"), "tags": [number % 7]} for number in range(count)]


def equal(one: State, other: State) -> bool:
    """Whether two states are the same in all, type for type and key for key in order."""
    return all(_alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(State))


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(_alike(one[key], other[key]) for key in one)
    return same(one, other)
