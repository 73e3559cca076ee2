"""A copy of a store that nobody else has open, made into a store of its own: cut back to a position, its runs let go.

Only ever done to a copy that has no name yet. What the store's own stream recorded after the position and what can't be
taken back (a compaction, a guard) is handed back as it was stored, so that it can be recorded anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from eventflow.codec import TOMBSTONE, decode
from eventflow.errors import Corrupt
from eventflow.log.heads import NOBODY, Head, remains
from eventflow.log.lmdb.environment import Environment
from eventflow.log.lmdb.rows import Rows, keys_under
from eventflow.log.lmdb.tables import (
    KEY_CHANGE,
    KEY_CLEAR,
    KEY_GUARD,
    KEY_VACUUM,
    U64,
    VERSIONED,
    entry_from,
    facets,
    head_from,
    head_row,
    number,
    versioned,
)
from eventflow.log.lmdb.writing import last_number
from eventflow.log.mirror import of_generation
from eventflow.log.protocol import STORE_NAME, STORE_RUN, STORE_VOUCH
from eventflow.log.removal import name_of, tombstone
from eventflow.state import Status, WaitingFor


@dataclass(slots=True)
class Cut:
    """What was cut off: events, oldest first, the store's own as `acts`; and what became of the runs they belonged to.

    `touched` end earlier now, `unborn` had not begun, `lost` (their heads) had begun but were compacted beyond that since.
    `gone` are the digests of deleted events among those cut off.
    """

    touched: set[bytes] = field(default_factory=set)
    unborn: set[bytes] = field(default_factory=set)
    lost: list[Head] = field(default_factory=list)
    acts: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    gone: set[bytes] = field(default_factory=set)


class Copied:
    """The LMDB file of a copy, opened to be changed before it gets its name."""

    def __init__(self, directory: Path, map_size: int) -> None:
        self._env = Environment(directory, readonly=False, create=False, map_size=map_size)

    def close(self) -> None:
        """Close the file."""
        self._env.close()

    def end(self) -> tuple[int, bytes]:
        """The position and the digest of the last event."""
        with self._env.reading() as txn:
            last = last_number(txn, self._env.tables.log)
            data = txn.get(number(last), db=self._env.tables.log) or b""
            return last, name_of(data)

    def not_after(self, time: int) -> int:
        """The position of the last event that was not later than a time (ns, UTC); looked for from the end."""
        with self._env.reading() as txn, txn.cursor(db=self._env.tables.log) as cursor:
            inside = cursor.last()
            while inside:
                data = cursor.value()
                if data[:1] != TOMBSTONE and decode(data, "an event")[6] <= time:
                    return int(U64.unpack(cursor.key())[0])
                inside = cursor.prev()
        return 0

    def cut(self, upto: int) -> Cut:
        """Take out every event after a position, and what speaks of it; heads stand where they stood, but for their status."""
        with self._env.writing() as txn:
            work = _Cutting(Rows(txn, self._env.tables))
            work.cut(upto)
        return work.found

    def let_go(self, generation: int) -> int:
        """Nobody drives any run, and all that is recorded from now on is of a newer epoch; how many runs there are."""
        with self._env.writing() as txn:
            rows, count = Rows(txn, self._env.tables), 0
            for name in [bytes(key) for key in txn.cursor(db=rows.tables.names).iternext(keys=True, values=False)]:
                head = head_from(name, rows.get(rows.tables.names, name) or b"")
                if head.run_key not in (STORE_RUN, NOBODY):
                    count += 1
                    _restate(rows, head, of_generation(head, generation))
            rows.delete(rows.tables.store, KEY_VACUUM)
            for key in list(keys_under(txn, rows.tables.store, KEY_CHANGE)):
                rows.delete(rows.tables.store, key)
        return count

    def vouch(self, vouched: Mapping[tuple[bytes, int], int]) -> None:
        """Say which versions of the store's own stream vouch for snapshots (by run key and version) that nobody else does."""
        with self._env.writing() as txn:
            rows = Rows(txn, self._env.tables)
            for (key, version), by in vouched.items():
                name = versioned(key, version)
                held = rows.get(rows.tables.snapshots, name + b"v")
                if rows.get(rows.tables.snapshots, name) is not None and held is None:
                    rows.put(rows.tables.snapshots, name + b"v", number(STORE_VOUCH | by))

    def set_standing(self, standing: Mapping[bytes, tuple[Status, WaitingFor]]) -> None:
        """Say where runs stand that were cut back."""
        with self._env.writing() as txn:
            rows = Rows(txn, self._env.tables)
            for key, (status, waiting_for) in standing.items():
                head = _head_of(rows, key)
                if head is not None:
                    _restate(rows, head, replace(head, status=status, waiting_for=waiting_for))


def _head_of(rows: Rows, run_key: bytes) -> Head | None:
    name = STORE_NAME.encode()
    if run_key != STORE_RUN:
        row = rows.get(rows.tables.info, run_key)
        if row is None:
            return None
        name = entry_from(row)[0].encode()
    held = rows.get(rows.tables.names, name)
    return None if held is None else head_from(name, held)


def _restate(rows: Rows, old: Head, new: Head) -> None:
    """Another head for a run, and the lists it is found by."""
    t = rows.tables
    row = rows.get(t.info, new.run_key)
    if row is not None:
        entry = entry_from(row)[1]
        for key in facets(entry, old):
            rows.delete(t.index, key + old.run_key)
        for key in facets(entry, new):
            rows.put(t.index, key + new.run_key, b"")
    rows.put(t.names, new.run_id.encode(), head_row(new))


class _Cutting:
    """One cut: the rows of events after a position, and all that knows of them."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self._t = rows, rows.tables
        self.found = Cut()
        self._first: dict[bytes, list[object]] = {}  # of each run the first event that goes

    def cut(self, upto: int) -> None:
        """Do it."""
        self._remove_events(upto)
        for key, event in self._first.items():
            self._shorten(key, event)
        self._remove_messages()

    def _remove_events(self, upto: int) -> None:
        t, rows = self._t, self._rows
        for position in range(upto + 1, last_number(rows.txn, t.log) + 1):
            place = number(position)
            data = rows.get(t.log, place)
            if data is None:
                raise Corrupt("the copy", f"lacks the event at position {position}")
            rows.delete(t.log, place)
            if data[:1] == TOMBSTONE:
                self.found.gone.add(data[1:])
                continue
            event = decode(data, f"the event at position {position}")
            key = event[2]
            self._first.setdefault(key, event)
            rows.delete(t.runs, versioned(key, event[4]))
            (self.found.acts if key == STORE_RUN else self.found.events).append(data)

    def _shorten(self, key: bytes, event: list[object]) -> None:
        """A run ends before its first event that went, or is gone if that was its first one."""
        t, rows = self._t, self._rows
        version, before = event[4], event[10]
        assert isinstance(version, int)  # noqa: S101 - an event's fields have their types
        assert isinstance(before, bytes)  # noqa: S101
        head = _head_of(rows, key)
        if head is None:
            return  # deleted since; it stays so
        row = rows.get(t.info, key)
        entry = None if row is None else entry_from(row)[1]
        place = rows.get(t.runs, versioned(key, version - 1))
        if place is None or (entry is not None and version <= entry.origin):
            begun = entry is not None and version > entry.parent_at + 1
            self._forget(replace(head, version=version - 1, digest=before), head, begun=begun)
            return
        last = decode(rows.get(t.log, place) or b"", "an event")
        moved = replace(head, version=version - 1, digest=before, updated=last[6], epoch=max(last[5], 0), owner=NOBODY)
        _restate(rows, head, moved)
        self._drop_after(key, version - 1)
        if key != STORE_RUN:
            self.found.touched.add(key)

    def _drop_after(self, key: bytes, version: int) -> None:
        """Take out what belongs to later versions of a run, and the word of later events for snapshots."""
        t, rows = self._t, self._rows
        for table in (t.bends, t.marks, t.snapshots):
            for name in list(keys_under(rows.txn, table, key)):
                later = U64.unpack(name[16:VERSIONED])[0] > version
                by = U64.unpack(rows.get(table, name) or b"")[0] if len(name) > VERSIONED else 0
                if later or version < by < STORE_VOUCH:
                    rows.delete(table, name)
        if key == STORE_RUN:
            self._drop_own_vouchers(version)

    def _drop_own_vouchers(self, version: int) -> None:
        t, rows = self._t, self._rows
        keys = rows.txn.cursor(db=t.snapshots).iternext(keys=True, values=False)
        for name in [bytes(key) for key in keys if len(key) > VERSIONED]:
            if U64.unpack(rows.get(t.snapshots, name) or b"")[0] > STORE_VOUCH | version:
                rows.delete(t.snapshots, name)

    def _forget(self, cut: Head, head: Head, *, begun: bool) -> None:
        """A run that began later was never there; of one whose beginning was compacted away nothing can be kept."""
        t, rows, key = self._t, self._rows, head.run_key
        row = rows.get(t.info, key)
        if row is not None:
            for name in facets(entry_from(row)[1], head):
                rows.delete(t.index, name + key)
            rows.delete(t.info, key)
        if begun:
            self.found.lost.append(cut)
        else:
            self.found.unborn.add(key)
        for name in list(keys_under(rows.txn, t.runs, key)):
            place = rows.get(t.runs, name) or b""
            rows.replace(t.log, place, tombstone(rows.get(t.log, place) or b""))
            rows.delete(t.runs, name)
        for table in (t.bends, t.marks, t.snapshots, t.inbox):
            for name in list(keys_under(rows.txn, table, key)):
                rows.delete(table, name)
        for prefix in (KEY_CLEAR, KEY_GUARD):
            for name in list(keys_under(rows.txn, t.store, prefix + key)):
                rows.delete(t.store, name)
        if begun or head.incarnation > 1:
            gone = remains(head.run_id, head.incarnation - (not begun), head.updated)
            rows.put(t.names, head.run_id.encode(), head_row(gone))
        else:
            rows.delete(t.names, head.run_id.encode())

    def _remove_messages(self) -> None:
        """What runs tell one another is said again when it is missing; what was said later would be said twice."""
        t, rows = self._t, self._rows
        for key in [bytes(name) for name in rows.txn.cursor(db=t.inbox).iternext(keys=True, values=False)]:
            message = decode(rows.get(t.inbox, key) or b"", "a message")
            if isinstance(message, dict) and str(message.get("name", "")).startswith("child:"):
                rows.delete(t.inbox, key)
