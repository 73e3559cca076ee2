"""What a copy of another store keeps beside events, in an LMDB file: messages under their numbers, vouches, that it follows."""

from __future__ import annotations

from typing import Any

from eventflow.log.lmdb import removing
from eventflow.log.lmdb.rows import Rows, keys_under
from eventflow.log.lmdb.tables import KEY_FOLLOWS, KEY_GUARD, KEY_MESSAGES, U64, number, versioned
from eventflow.log.mirror import Mirror


def keep_mirrored(rows: Rows, mirror: Mirror) -> None:
    """Put what is neither an event nor a head."""
    t = rows.tables
    for compaction in mirror.compacted:
        removing.compact(rows, compaction)
    for key, version, by in mirror.vouches:
        rows.put(t.snapshots, versioned(key, version) + b"v", number(by))
    if mirror.guards is not None:
        _clear(rows, t.store, KEY_GUARD)
        for guard in mirror.guards:
            removing.set_guard(rows, guard)
    if mirror.inbox is not None:
        _clear(rows, t.inbox, b"")
        for key, message, data in mirror.inbox:
            rows.put(t.inbox, versioned(key, message), data)
    given = rows.get(t.store, KEY_MESSAGES)
    if mirror.messages > (U64.unpack(given)[0] if given else 0):
        rows.put(t.store, KEY_MESSAGES, number(mirror.messages))
    if mirror.follows is not None:
        rows.put(t.store, KEY_FOLLOWS, bytes([mirror.follows]))


def _clear(rows: Rows, table: Any, prefix: bytes) -> None:
    for row in list(keys_under(rows.txn, table, prefix)):
        rows.delete(table, row)
