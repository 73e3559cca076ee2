"""What is removed from the tables: runs as a whole, what came before a version, blobs that nobody refers to; and guards.

A removal unlists at once and leaves a row that says what is still to be tidied up; `clear` does so in steps of a bounded
number of rows, and can be killed and repeated. A sweep is a row too: the number of the sweep and the last place in
`blobs` when it began, beyond which lie the blobs that were kept anew since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from eventflow.codec import decode as decoded
from eventflow.codec import encode
from eventflow.errors import Conflict, Corrupt, HasForks, RunNotFound
from eventflow.log.heads import Entry, Head
from eventflow.log.lmdb.rows import Rows, Txn, keys_under
from eventflow.log.lmdb.tables import (
    FACET_PARENT,
    KEY_CLEAR,
    KEY_GUARD,
    KEY_SWEEP,
    U64,
    Tables,
    entry_from,
    entry_row,
    facet,
    facets,
    number,
    versioned,
)
from eventflow.log.removal import (
    GUARDS,
    STEP,
    Cleared,
    Compaction,
    Guard,
    Standing,
    Sweep,
    Swept,
    check_compaction,
    check_unguarded,
    stored_target,
    tombstone,
)

EVERYTHING = 2**64 - 1  # up to which version a deleted run is tidied up


def entry_of(txn: Txn, tables: Tables, run_key: bytes) -> Entry | None:
    """What `list` shows of a run, None if it is not there."""
    row = txn.get(run_key, db=tables.info)
    return None if row is None else entry_from(row)[1]


def _children(txn: Txn, tables: Tables, run_key: bytes) -> list[Entry]:
    """The entries of the runs that still fold through a run."""
    keys = [key[17:] for key in keys_under(txn, tables.index, facet(FACET_PARENT, run_key))]
    found = [entry for key in keys if (entry := entry_of(txn, tables, key)) is not None]
    return [entry for entry in found if entry.folds_through]


# --- guards --------------------------------------------------------------------------------------------------------


def guards(txn: Txn, tables: Tables, run_key: bytes = b"") -> list[Guard]:
    """The guards of a run, or of all."""
    found = []
    for key in keys_under(txn, tables.store, KEY_GUARD + run_key):
        kind, time, actor, why = decoded(txn.get(key, db=tables.store), "a guard")
        found.append(Guard(key[len(KEY_GUARD) : -1], GUARDS[kind], time, actor, why))
    return found


def _guard_key(guard: Guard) -> bytes:
    return KEY_GUARD + guard.run_key + bytes([GUARDS.index(guard.kind)])


def set_guard(rows: Rows, guard: Guard) -> None:
    """Put a guard on a run; the first one of its kind stays."""
    key = _guard_key(guard)
    if rows.get(rows.tables.store, key) is None:
        value = encode([GUARDS.index(guard.kind), guard.time, guard.actor, guard.why])
        rows.put(rows.tables.store, key, value)


def lift_guard(rows: Rows, guard: Guard) -> None:
    """Take a guard off a run."""
    rows.delete(rows.tables.store, _guard_key(guard))


# --- runs ----------------------------------------------------------------------------------------------------------


def check_deletion(rows: Rows, head: Head) -> None:
    """Refuse to delete a run that others need, or that is guarded. Raises HasForks, RunGuarded."""
    check_unguarded(head.run_id, guards(rows.txn, rows.tables, head.run_key))
    if _children(rows.txn, rows.tables, head.run_key):
        raise HasForks(head.run_id)


def unlist(rows: Rows, head: Head) -> None:
    """Take a run out of every list, put the tombstone of its last event, and note down what is left to tidy up."""
    t, key = rows.tables, head.run_key
    row = rows.get(t.info, key)
    if row is None:
        raise Corrupt(f"run {head.run_id}", "has no entry in the run list")
    for name in facets(entry_from(row)[1], head):
        rows.delete(t.index, name + key)
    rows.delete(t.info, key)
    for message in list(keys_under(rows.txn, t.inbox, key)):
        rows.delete(t.inbox, message)
    _bury(rows, versioned(key, head.version))
    rows.put(t.store, KEY_CLEAR + key, number(EVERYTHING))


def _bury(rows: Rows, key: bytes) -> None:
    """Put the tombstone of an event, and forget its version."""
    place = rows.get(rows.tables.runs, key)
    data = None if place is None else rows.get(rows.tables.log, place)
    if place is None or data is None:
        raise Corrupt("the store", "lacks an event that its run has")
    rows.replace(rows.tables.log, place, tombstone(data))
    rows.delete(rows.tables.runs, key)


def check_compacting(rows: Rows, compaction: Compaction, head: Head | None) -> None:
    """Refuse a compaction that somebody's history rests on. Raises as `check_compaction`, RunNotFound, RunGuarded."""
    txn, t, key = rows.txn, rows.tables, compaction.run_key
    entry = entry_of(txn, t, key)
    if entry is None or head is None:
        raise RunNotFound(key.hex())
    if txn.get(KEY_CLEAR + key, db=t.store) is not None:
        raise Conflict(f"run {head.run_id} is still being tidied up after it was compacted; repeat this in a moment")
    check_unguarded(head.run_id, guards(txn, t, key))
    bends = []
    for bend in keys_under(txn, t.bends, key):
        to = stored_target(txn.get(txn.get(bend, db=t.runs), db=t.log))
        bends += [] if to is None else [(U64.unpack(bend[16:])[0], to)]
    first = entry.parent_at + 1 if entry.parent_id is not None else 1
    forks = tuple(child.parent_at for child in _children(txn, t, key))
    check_compaction(compaction.at, Standing(head.run_id, first, entry.origin, head.version, tuple(bends), forks))


def compact(rows: Rows, compaction: Compaction) -> None:
    """Set a run's origin, and note down what is left to tidy up."""
    t, key = rows.tables, compaction.run_key
    row = rows.get(t.info, key)
    if row is None:
        raise RunNotFound(key.hex())
    run_id, entry = entry_from(row)
    rows.replace(t.info, key, entry_row(run_id, replace(entry, origin=compaction.at)))
    for bend in list(keys_under(rows.txn, t.bends, key)):
        if U64.unpack(bend[16:])[0] <= compaction.at:
            rows.delete(t.bends, bend)
    rows.put(t.store, KEY_CLEAR + key, number(compaction.at))


def clear(rows: Rows, limit: int = STEP) -> Cleared:
    """Tidy up, at most `limit` rows."""
    t, events, left = rows.tables, 0, max(limit, 1)
    for pending in list(keys_under(rows.txn, t.store, KEY_CLEAR)):
        key, row = pending[len(KEY_CLEAR) :], rows.get(t.store, pending)
        end = versioned(key, U64.unpack(row or b"")[0])
        for name in _before(rows, t.runs, key, end, left):
            _bury(rows, name)
            events, left = events + 1, left - 1
        for table in (t.marks, t.snapshots, t.bends):
            for name in _before(rows, table, key, end, left):
                rows.delete(table, name)
                left -= 1
        if not left:
            return Cleared(events, left=True)
        rows.delete(t.store, pending)
    return Cleared(events, left=False)


def _before(rows: Rows, table: object, run_key: bytes, end: bytes, limit: int) -> list[bytes]:
    """At most so many keys of a run that come before a key."""
    found: list[bytes] = []
    if limit > 0:
        for key in keys_under(rows.txn, table, run_key):
            if key >= end or len(found) >= limit:
                break
            found.append(key)
    return found


# --- blobs ---------------------------------------------------------------------------------------------------------


def sweeping(txn: Txn, tables: Tables) -> tuple[int, int]:
    """The number of the newest sweep, and the last place in `blobs` when it began; 0 for that once it has ended."""
    row = txn.get(KEY_SWEEP, db=tables.store)
    if row is None:
        return 0, 0
    mark, ceiling = U64.unpack(row[:8])[0], U64.unpack(row[8:])[0]
    return mark, ceiling


def sweep(rows: Rows, step: Sweep, last_place: int) -> Swept:
    """One step of a sweep. Raises Conflict."""
    t = rows.tables
    mark, ceiling = sweeping(rows.txn, t)
    if not step.mark:
        rows.put(t.store, KEY_SWEEP, number(mark + 1) + number(max(last_place, 1)))
        return Swept(mark + 1)
    if step.mark != mark or not ceiling:
        raise Conflict("another sweep has begun since, or this one has ended; begin anew")
    blobs, size = _forget(rows, step.forget, ceiling)
    if step.end:
        rows.put(t.store, KEY_SWEEP, number(mark) + number(0))
    return Swept(mark, blobs, size)


def _forget(rows: Rows, names: Iterable[bytes], ceiling: int) -> tuple[int, int]:
    blobs = size = 0
    t = rows.tables
    for name in names:
        place = rows.get(t.places, name)
        if place is None or U64.unpack(place)[0] > ceiling:
            continue
        size += len(rows.get(t.blobs, place) or b"")
        blobs += 1
        rows.delete(t.blobs, place)
        rows.delete(t.places, name)
    return blobs, size
