"""What a write does to the tables, inside one transaction.

Each write is checked before its first put, so that a refused one leaves nothing behind. What is removed stands in a file
of its own.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventflow.checkpoint import Checkpoint, merged
from eventflow.codec import REWOUND, TOMBSTONE, Blob
from eventflow.errors import Conflict, Corrupt, EventflowError, NotFound, RunNotFound, VersionConflict
from eventflow.log.checking import check_origin, check_rewinds
from eventflow.log.heads import NOBODY, Head, claimed, remains
from eventflow.log.lmdb import queues, removing
from eventflow.log.lmdb.mirroring import keep_mirrored
from eventflow.log.lmdb.rows import Rows, Txn, keys_under
from eventflow.log.lmdb.tables import (
    COPYING,
    FACET_STATUS,
    KEY_CHANGE,
    KEY_MESSAGES,
    KEY_VACUUM,
    MOVED,
    U64,
    Tables,
    entry_from,
    entry_row,
    facet,
    facets,
    head_from,
    head_row,
    mark_from,
    mark_row,
    number,
    versioned,
)
from eventflow.log.mirror import Mirror, of_generation
from eventflow.log.protocol import (
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Bring,
    First,
    Kept,
    Post,
    Posted,
    Upkeep,
    Write,
    admit,
    admit_brought,
    check_parent,
    fresh,
    store_append,
)
from eventflow.log.queueing import Claim, Claimed
from eventflow.log.removal import STEP, Clear, Sweep

KNOWN_HEADS = 10_000  # runs whose heads are remembered between batches: a few MB, and most that are driven at once


class Moved(Exception):
    """The store has moved to another file since this one was opened."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(slots=True)
class Known:
    """What the last batch left behind: true for as long as no other transaction has come after its own."""

    transaction: int = -1
    position: int = 0
    heads: dict[str, Head] = field(default_factory=dict)
    vacuum: bytes = b""  # what the store says of its being copied elsewhere

    def learn(self, transaction: int, position: int, heads: dict[str, Head]) -> None:
        """Take over what a batch knows, once it is durable."""
        self.transaction, self.position = transaction, position
        if len(self.heads) > KNOWN_HEADS:
            self.heads.clear()
        self.heads.update(heads)

    def forget(self) -> None:
        """Start anew: somebody else has written."""
        self.transaction = -1
        self.heads.clear()


class Batch:
    """One write transaction: what it has learned of the store's ends, and what it has added."""

    def __init__(
        self, txn: Txn, tables: Tables, store_id: bytes, owner_gone: Callable[[bytes], bool], known: Known | None = None
    ) -> None:
        self._txn, self._t, self._store_id, self._owner_gone = txn, tables, store_id, owner_gone
        self._known = Known() if known is None else known
        self._transaction = txn.id()
        self.follows_others = self._known.transaction + 1 != self._transaction
        if not self.follows_others:
            self.position = self._known.position
        else:
            self._known.forget()
            self._known.vacuum = bytes(txn.get(KEY_VACUUM, db=tables.store) or b"")
            self.position = last_number(txn, tables.log)
        self.digest = b""
        self.events = 0
        self._place = self._ceiling = -1  # not looked up yet: most batches hold no blob
        self._rows = Rows(txn, tables, tracking=self._copied())
        self._put, self._delete_row = self._rows.put, self._rows.delete
        self._heads: dict[str, Head] = {}

    def apply(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """Do the writes, in order; a refused one gets its error and leaves nothing behind."""
        answers = [self._write(one) for one in batch]
        for name, head in self._heads.items():
            self._put(self._t.names, name.encode(), head_row(head))
        self._rows.close()
        return answers

    def _copied(self) -> bool:
        """Whether the file is being copied elsewhere, so that changes are written down. Raises Moved if it has moved.

        What a copier that died has left is taken out, a little with each batch.
        """
        said = self._known.vacuum
        if said[:1] == MOVED:
            raise Moved(said[1:].decode())
        if said[:1] != COPYING:
            return False
        if not self._owner_gone(said[1:]):
            return True
        drop_changes(self._txn, self._t)
        self._known.vacuum = bytes(self._txn.get(KEY_VACUUM, db=self._t.store) or b"")
        return False

    def durable(self) -> None:
        """Remember, once the transaction is committed, where it left the store; for a batch that has added events.

        A transaction that changes nothing is never committed, and its number goes to the next, by whatever process.
        """
        self._known.learn(self._transaction, self.position, self._heads)

    def _write(self, one: Write) -> Answer | EventflowError:  # noqa: C901, PLR0911 - a case a kind of write
        try:
            match one:
                case Append():
                    return self._append(one)
                case Upkeep():
                    return Kept(self._upkeep(one))
                case Act():
                    return self._act(one)
                case Post():
                    return self._post(one)
                case Bring():
                    return self._append(one.append, one)
                case Clear():
                    return removing.clear(self._rows, one.limit)
                case Sweep():
                    return removing.sweep(self._rows, one, self._last_place())
                case Claim():
                    return self._claim(one)
                case Mirror():
                    return self._mirror(one)
        except (Conflict, NotFound) as error:
            return error

    # --- events

    def _append(self, append: Append, brought: Bring | None = None) -> Appended:
        old = self._head(append.run_id)
        sealed = admit(append, old, self._owner_gone) if brought is None else admit_brought(brought, old)
        first = append.first if fresh(append, old) else None
        if first is not None or append.taken or sealed.bends:
            self._check(append, first)
        key = append.run_key
        version = sealed.head.version - len(sealed.data)
        for data in sealed.data:
            self.position += 1
            version += 1
            place = number(self.position)
            self._rows.append(self._t.log, place, data)
            self._put(self._t.runs, versioned(key, version), place)
        size = sum(map(len, sealed.data))
        for packed in append.events:
            if packed.blobs:
                size += self._keep(packed.blobs)
        self.events += len(sealed.data)
        self.digest = sealed.digests[-1] if sealed.digests else self.digest
        self._index(first, old, sealed.head)
        for bend in sealed.bends:
            self._put(self._t.bends, versioned(key, bend), b"")
        for snapshot, by in sealed.vouched if key != STORE_RUN else ():
            self._put(self._t.snapshots, versioned(key, snapshot) + b"v", number(by))
        for message in append.taken:
            self._delete_row(self._t.inbox, versioned(key, message))
        if append.marks:
            self._set_marks(key, append.marks)
        for post in append.posts:
            with contextlib.suppress(RunNotFound):
                self._post(post)
        self._heads[append.run_id] = sealed.head
        return Appended(sealed.head, self.position, sealed.digests, size)

    def _head(self, run_id: str) -> Head | None:
        held = self._heads.get(run_id) or self._known.heads.get(run_id)
        if held is not None:
            return held
        name = run_id.encode()
        row = self._txn.get(name, db=self._t.names)
        return None if row is None else head_from(name, row)

    def _head_of(self, run_key: bytes) -> Head | None:
        row = self._txn.get(run_key, db=self._t.info)
        return None if row is None else self._head(entry_from(row)[0])

    def _check(self, append: Append, first: First | None) -> None:
        """What an append says about other rows must hold too."""
        if first is not None and self._txn.get(append.run_key, db=self._t.info) is not None:
            raise Conflict(f"run {append.run_id}: its run key belongs to another run; make a new one")
        if first is not None and first.entry.folds_through:
            parent_key = first.entry.parent_key
            check_parent(first, self._head_of(parent_key), self._origin(parent_key))
        if first is None and any(packed.code == REWOUND for packed in append.events):
            check_rewinds(append, self._origin(append.run_key))
        for message in append.taken:
            if self._txn.get(versioned(append.run_key, message), db=self._t.inbox) is None:
                raise Conflict(f"run {append.run_id}: message {message} was taken already; read the inbox again")

    def _origin(self, run_key: bytes) -> int:
        """The version that a run was compacted to, 0 if it was not."""
        entry = removing.entry_of(self._txn, self._t, run_key)
        return 0 if entry is None else entry.origin

    def _index(self, first: First | None, old: Head | None, head: Head) -> None:
        if first is not None and head.run_id != STORE_NAME:
            self._put(self._t.info, head.run_key, entry_row(head.run_id, first.entry))
            for key in facets(first.entry, head):
                self._put(self._t.index, key + head.run_key, b"")
        elif old is not None and head.run_id != STORE_NAME and old.status != head.status:
            self._delete_row(self._t.index, facet(FACET_STATUS, old.status) + head.run_key)
            self._put(self._t.index, facet(FACET_STATUS, head.status) + head.run_key, b"")
        if first is None and old is not None and (old.owner != head.owner or old.status != head.status):
            self._requeue(old, head)

    def _requeue(self, old: Head, head: Head) -> None:
        entry = removing.entry_of(self._txn, self._t, head.run_key)
        if entry is not None and entry.queue:
            queues.moved(self._rows, entry, old, head)

    def _claim(self, claim: Claim) -> Claimed:
        heads = []
        for one in queues.chosen(self._rows, claim, owner_gone=self._owner_gone, head_of=self._head):
            head = self._heads[one.head.run_id] = claimed(one.head, claim.owner)
            self._requeue(one.head, head)
            heads.append(head)
        return Claimed(tuple(heads))

    def _keep(self, blobs: Iterable[Blob]) -> int:
        size = 0
        for blob in blobs:
            size += blob.size
            held = self._txn.get(blob.digest, db=self._t.places)
            if held is not None and not self._is_old(held):
                continue
            if held is not None:  # kept anew, so that the sweep that goes on leaves it
                self._delete_row(self._t.blobs, held)
            self._place = self._last_place() + 1
            place = number(self._place)
            self._rows.append(self._t.blobs, place, blob.stored)
            self._put(self._t.places, blob.digest, place)
        return size

    def _last_place(self) -> int:
        """The last place of a blob, that has one or had one when a sweep began: the next is after it."""
        if self._place < 0:
            self._place = max(last_number(self._txn, self._t.blobs), removing.sweeping(self._txn, self._t)[1])
        return self._place

    def _is_old(self, place: bytes) -> bool:
        """Whether a blob was there when the sweep that goes on began, if one does."""
        if self._ceiling < 0:
            self._ceiling = removing.sweeping(self._txn, self._t)[1]
        return bool(U64.unpack(place)[0] <= self._ceiling)

    # --- the cache

    def _lacks(self, upkeep: Upkeep) -> bool:
        """Whether the store lacks a piece that a snapshot takes for written. Raises RunNotFound."""
        if self._txn.get(upkeep.run_key, db=self._t.info) is None:
            raise RunNotFound(upkeep.run_key.hex())
        known = () if upkeep.snapshot is None else upkeep.snapshot.known
        places = [self._txn.get(name, db=self._t.places) for name in known]
        return any(place is None or self._is_old(place) for place in places)

    def _upkeep(self, upkeep: Upkeep) -> bool:
        if self._lacks(upkeep):
            return False
        snapshot = upkeep.snapshot
        if snapshot is not None:
            self._keep(snapshot.blobs)
            self._rows.replace(self._t.snapshots, versioned(upkeep.run_key, snapshot.version), snapshot.root)
        self._set_marks(upkeep.run_key, upkeep.marks)
        for version in upkeep.unmark:
            self._delete_row(self._t.marks, versioned(upkeep.run_key, version))
        origin = self._origin(upkeep.run_key) if upkeep.drop else 0
        for version in upkeep.drop:
            key = versioned(upkeep.run_key, version)
            self._delete_row(self._t.marks, key)
            if version != origin:
                self._delete_row(self._t.snapshots, key)
                self._delete_row(self._t.snapshots, key + b"v")
        return True

    def _set_marks(self, run_key: bytes, marks: Iterable[Checkpoint]) -> None:
        for mark in marks:
            key = versioned(run_key, mark.version)
            row = self._txn.get(key, db=self._t.marks)
            old = None if row is None else mark_from(key, row)
            self._put(self._t.marks, key, mark_row(merged(old, mark)))

    # --- operations by hand, messages

    def _act(self, act: Act) -> Acted:
        self._check_act(act)
        if act.upkeep is not None:
            self._upkeep(act.upkeep)
        if act.delete_run is not None:
            self._delete(act.delete_run)
        if act.compact is not None:
            removing.compact(self._rows, act.compact)
        if act.guard is not None:
            removing.set_guard(self._rows, act.guard)
        if act.unguard is not None:
            removing.lift_guard(self._rows, act.unguard)
        version = self._append(store_append(act, self._head(STORE_NAME), self._store_id)).head.version
        if act.upkeep is not None and act.upkeep.snapshot is not None and "snapshot" in act.event.header:
            key = versioned(act.upkeep.run_key, act.upkeep.snapshot.version) + b"v"
            if self._txn.get(key, db=self._t.snapshots) is None:
                self._put(self._t.snapshots, key, number(STORE_VOUCH | version))
        if act.delete_run is not None or act.compact is not None:
            removing.clear(self._rows, STEP)
        return Acted(version)

    def _check_act(self, act: Act) -> None:
        if act.delete_run is not None:
            head = act.delete_run
            held = self._head(head.run_id)
            if held != head:
                raise VersionConflict(head.run_id, head.version, held.version if held else 0)
            removing.check_deletion(self._rows, head)
        for guard in (act.guard, act.unguard):
            if guard is not None and self._txn.get(guard.run_key, db=self._t.info) is None:
                raise RunNotFound(guard.run_key.hex())
        if act.upkeep is not None and self._lacks(act.upkeep):
            raise Conflict("the snapshot takes pieces for written that are not there; pack it anew")
        if act.compact is not None:
            removing.check_compacting(self._rows, act.compact, self._head_of(act.compact.run_key))
            check_origin(act)

    def _delete(self, head: Head) -> None:
        removing.unlist(self._rows, head)
        self._heads[head.run_id] = remains(head.run_id, head.incarnation, head.updated)

    def _post(self, post: Post) -> Posted:
        if self._txn.get(post.run_key, db=self._t.info) is None:
            raise RunNotFound(post.run_key.hex())
        row = self._txn.get(KEY_MESSAGES, db=self._t.store)
        message = (U64.unpack(row)[0] if row else 0) + 1
        self._put(self._t.store, KEY_MESSAGES, number(message))
        self._put(self._t.inbox, versioned(post.run_key, message), post.data)
        return Posted(message)

    def _mirror(self, mirror: Mirror) -> Kept:
        for head in mirror.deleted:
            held = self._head(head.run_id)
            if held != head:
                raise VersionConflict(head.run_id, head.version, held.version if held else 0)
        for name in mirror.tombstones:
            self.position += 1
            self.events, self.digest = self.events + 1, name
            self._rows.append(self._t.log, number(self.position), TOMBSTONE + name)
        for head in mirror.deleted:
            self._delete(head)
        for head in mirror.gone:
            if self._head(head.run_id) is None:
                self._heads[head.run_id] = head
        if mirror.generation:
            heads = [self._head(bytes(key).decode()) for key in keys_under(self._txn, self._t.names, b"")]
            for head in [one for one in heads if one is not None and one.run_key not in (STORE_RUN, NOBODY)]:
                freed = self._heads[head.run_id] = of_generation(head, mirror.generation)
                self._requeue(head, freed)
        keep_mirrored(self._rows, mirror)
        return Kept()


def put(txn: Txn, table: Any, key: bytes, value: bytes) -> None:
    """Put a row. Raises Corrupt if LMDB does not take it."""
    if not txn.put(key, value, db=table):
        raise Corrupt("the store", "refused a row")


def last_number(txn: Txn, table: Any) -> int:
    """The largest key of a table whose keys are numbers; 0 if it is empty."""
    with txn.cursor(db=table) as cursor:
        return int(U64.unpack(cursor.key())[0]) if cursor.last() else 0


def drop_changes(txn: Txn, tables: Tables) -> None:
    """Take out what a copier that died has left of changes written down, at most STEP of them; its own row goes last."""
    found = 0
    for key in list(itertools.islice(keys_under(txn, tables.store, KEY_CHANGE), STEP)):
        txn.delete(key, db=tables.store)
        found += 1
    if found < STEP:
        txn.delete(KEY_VACUUM, db=tables.store)
