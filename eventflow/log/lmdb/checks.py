"""What is checked when an own store opens, at a cost that does not depend on its size.

The high-water mark, which lies outside the pages, says how far the log had come: a store that is behind it has lost
acknowledged events. The last events are compared with what names their digests: the next event, or the run's head.
"""

from __future__ import annotations

from typing import Any

from eventflow.codec import TOMBSTONE, decode
from eventflow.errors import Corrupt
from eventflow.log.lmdb.tables import KEY_CLEAR, Tables, entry_from, head_from, number, versioned
from eventflow.log.lmdb.writing import last_number
from eventflow.log.protocol import STORE_NAME, STORE_RUN
from eventflow.proof import digest

TAIL = 64  # events; what a torn write could reach is far less, and reading them takes 2 ms


def check_tail(txn: Any, tables: Tables, mark: tuple[int, bytes] | None, where: str) -> None:
    """Compare a store's end with its mark and its own digests. Raises Corrupt."""
    last = last_number(txn, tables.log)
    if mark is not None:
        _check_mark(txn, tables, mark, last, where)
    for position in range(max(1, last - TAIL + 1), last + 1):
        _check_event(txn, tables, position, where)


def _check_mark(txn: Any, tables: Tables, mark: tuple[int, bytes], last: int, where: str) -> None:
    position, name = mark
    if last < position:
        raise Corrupt(where, f"ends at position {last}, but had come to {position}: it was rolled back")
    data = txn.get(number(position), db=tables.log)
    if data is None or (data[:1] != TOMBSTONE and digest(data) != name) or (data[:1] == TOMBSTONE and data[1:] != name):
        raise Corrupt(where, f"holds another event at position {position} than the one acknowledged there")


def _check_event(txn: Any, tables: Tables, position: int, where: str) -> None:
    data = txn.get(number(position), db=tables.log)
    if data is None:
        raise Corrupt(where, f"lacks the event at position {position}")
    if data[:1] == TOMBSTONE:
        return
    event = decode(data, f"the event at position {position}")
    if not isinstance(event, list) or len(event) < 11:
        raise Corrupt(where, f"does not hold an event at position {position}")
    run_key, version = event[2], event[4]
    if txn.get(versioned(run_key, version), db=tables.runs) != number(position):
        raise Corrupt(where, f"does not find the event at position {position} by its run and version")
    if _named_digest(txn, tables, event, data, where) != digest(data):
        raise Corrupt(where, f"holds an event at position {position} that is not what its run says it is")


def _named_digest(txn: Any, tables: Tables, event: list[Any], data: bytes, where: str) -> bytes:
    """The digest that the rest of the store has for a version: that of the head, or what the next event carries."""
    run_key, version = event[2], event[4]
    after = txn.get(versioned(run_key, version + 1), db=tables.runs)
    if after is not None:
        following = decode(txn.get(after, db=tables.log), where)
        return bytes(following[10])
    name = STORE_NAME
    if run_key != STORE_RUN:
        row = txn.get(run_key, db=tables.info)
        if row is None and txn.get(KEY_CLEAR + run_key, db=tables.store) is not None:
            return digest(data)  # its run was deleted, and what it leaves is still being tidied up
        if row is None:
            raise Corrupt(where, "holds an event of a run that is not in the run list")
        name = entry_from(row)[0]
    head = txn.get(name.encode(), db=tables.names)
    if head is None:
        raise Corrupt(where, f"has no head for run {name}")
    found = head_from(name.encode(), head)
    return found.digest if found.version == version else b""
