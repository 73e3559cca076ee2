"""What a write does to the tables, inside one transaction.

Each write is checked before its first put, so that a refused one leaves nothing behind. LMDB's `put` answers False where
others would raise; every answer is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventflow.checkpoint import Checkpoint, merged
from eventflow.codec import TOMBSTONE, Blob
from eventflow.errors import Conflict, Corrupt, EventflowError, HasForks, NotFound, RunNotFound, VersionConflict
from eventflow.log.lmdb.tables import (
    FACET_PARENT,
    FACET_STATUS,
    KEY_MESSAGES,
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
from eventflow.log.protocol import (
    NOBODY,
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    First,
    Head,
    Kept,
    Post,
    Posted,
    Upkeep,
    Write,
    admit,
    check_parent,
    fresh,
    store_append,
)
from eventflow.proof import digest

KNOWN_HEADS = 10_000  # runs whose heads are remembered between batches: a few MB, and most that are driven at once
Txn = Any  # an LMDB transaction: the library ships no usable type for it


@dataclass(slots=True)
class Known:
    """What the last batch left behind: true for as long as no other transaction has come after its own."""

    transaction: int = -1
    position: int = 0
    heads: dict[str, Head] = field(default_factory=dict)

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
            self.position = last_number(txn, tables.log)
        self.digest = b""
        self.events = 0
        self._place = -1  # not looked up yet: most batches hold no blob
        self._heads: dict[str, Head] = {}

    def apply(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """Do the writes, in order; a refused one gets its error and leaves nothing behind."""
        answers = [self._write(one) for one in batch]
        for name, head in self._heads.items():
            self._put(self._t.names, name.encode(), head_row(head))
        return answers

    def durable(self) -> None:
        """Remember, once the transaction is committed, where it left the store; for a batch that has added events.

        A transaction that changes nothing is never committed, and its number goes to the next, by whatever process.
        """
        self._known.learn(self._transaction, self.position, self._heads)

    def _write(self, one: Write) -> Answer | EventflowError:
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
        except (Conflict, NotFound) as error:
            return error

    # --- events

    def _append(self, append: Append) -> Appended:
        old = self._head(append.run_id)
        sealed = admit(append, old, self._owner_gone)
        first = append.first if fresh(append, old) else None
        if first is not None or append.taken:
            self._check(append, first)
        key = append.run_key
        version = sealed.head.version - len(sealed.data)
        for data in sealed.data:
            self.position += 1
            version += 1
            place = number(self.position)
            self._append_row(self._t.log, place, data)
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
            self._txn.delete(versioned(key, message), db=self._t.inbox)
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
        if first is not None and first.entry.parent_id is not None:
            check_parent(first, self._head_of(first.entry.parent_key))
        for message in append.taken:
            if self._txn.get(versioned(append.run_key, message), db=self._t.inbox) is None:
                raise Conflict(f"run {append.run_id}: message {message} was taken already; read the inbox again")

    def _index(self, first: First | None, old: Head | None, head: Head) -> None:
        if first is not None and head.run_id != STORE_NAME:
            self._put(self._t.info, head.run_key, entry_row(head.run_id, first.entry))
            for key in facets(first.entry, head):
                self._put(self._t.index, key + head.run_key, b"")
        elif old is not None and head.run_id != STORE_NAME and old.status != head.status:
            self._txn.delete(facet(FACET_STATUS, old.status) + head.run_key, db=self._t.index)
            self._put(self._t.index, facet(FACET_STATUS, head.status) + head.run_key, b"")

    def _keep(self, blobs: Iterable[Blob]) -> int:
        size = 0
        for blob in blobs:
            size += blob.size
            if self._txn.get(blob.digest, db=self._t.places) is None:
                if self._place < 0:
                    self._place = last_number(self._txn, self._t.blobs)
                self._place += 1
                place = number(self._place)
                self._append_row(self._t.blobs, place, blob.stored)
                self._put(self._t.places, blob.digest, place)
        return size

    # --- the cache

    def _lacks(self, upkeep: Upkeep) -> bool:
        """Whether the store lacks a piece that a snapshot takes for written. Raises RunNotFound."""
        if self._txn.get(upkeep.run_key, db=self._t.info) is None:
            raise RunNotFound(upkeep.run_key.hex())
        known = () if upkeep.snapshot is None else upkeep.snapshot.known
        return any(self._txn.get(name, db=self._t.places) is None for name in known)

    def _upkeep(self, upkeep: Upkeep) -> bool:
        if self._lacks(upkeep):
            return False
        snapshot = upkeep.snapshot
        if snapshot is not None:
            self._keep(snapshot.blobs)
            self._replace(self._t.snapshots, versioned(upkeep.run_key, snapshot.version), snapshot.root)
        self._set_marks(upkeep.run_key, upkeep.marks)
        for version in upkeep.unmark:
            self._txn.delete(versioned(upkeep.run_key, version), db=self._t.marks)
        for version in upkeep.drop:
            key = versioned(upkeep.run_key, version)
            self._txn.delete(key, db=self._t.marks)
            self._txn.delete(key, db=self._t.snapshots)
            self._txn.delete(key + b"v", db=self._t.snapshots)
        return True

    def _set_marks(self, run_key: bytes, marks: Iterable[Checkpoint]) -> None:
        for mark in marks:
            key = versioned(run_key, mark.version)
            row = self._txn.get(key, db=self._t.marks)
            old = None if row is None else mark_from(key, row)
            self._put(self._t.marks, key, mark_row(merged(old, mark)))

    # --- operations by hand, messages

    def _act(self, act: Act) -> Acted:
        if act.delete_run is not None:
            self._check_delete(act.delete_run)
        if act.upkeep is not None and self._lacks(act.upkeep):
            raise Conflict("the snapshot takes pieces for written that are not there; pack it anew")
        if act.upkeep is not None:
            self._upkeep(act.upkeep)
        if act.delete_run is not None:
            self._delete(act.delete_run)
        version = self._append(store_append(act, self._head(STORE_NAME), self._store_id)).head.version
        if act.upkeep is not None and act.upkeep.snapshot is not None and "snapshot" in act.event.header:
            key = versioned(act.upkeep.run_key, act.upkeep.snapshot.version) + b"v"
            if self._txn.get(key, db=self._t.snapshots) is None:
                self._put(self._t.snapshots, key, number(STORE_VOUCH | version))
        return Acted(version)

    def _check_delete(self, head: Head) -> None:
        held = self._head(head.run_id)
        if held != head:
            raise VersionConflict(head.run_id, head.version, held.version if held else 0)
        if any(True for _ in keys_under(self._txn, self._t.index, facet(FACET_PARENT, head.run_key))):
            raise HasForks(head.run_id)

    def _delete(self, head: Head) -> None:
        row = self._txn.get(head.run_key, db=self._t.info)
        if row is None:
            raise Corrupt(f"run {head.run_id}", "has no entry in the run list")
        for key in facets(entry_from(row)[1], head):
            self._txn.delete(key + head.run_key, db=self._t.index)
        self._txn.delete(head.run_key, db=self._t.info)
        for key in list(keys_under(self._txn, self._t.runs, head.run_key)):
            place = self._txn.get(key, db=self._t.runs)
            self._replace(self._t.log, place, TOMBSTONE + digest(self._txn.get(place, db=self._t.log)))
        for table in (self._t.runs, self._t.bends, self._t.marks, self._t.snapshots, self._t.inbox):
            for key in list(keys_under(self._txn, table, head.run_key)):
                self._txn.delete(key, db=table)
        gone = Head(head.run_id, NOBODY, head.incarnation, 0, bytes(32), 0, NOBODY, "cancelled", "", head.updated)
        self._heads[head.run_id] = gone

    def _post(self, post: Post) -> Posted:
        if self._txn.get(post.run_key, db=self._t.info) is None:
            raise RunNotFound(post.run_key.hex())
        row = self._txn.get(KEY_MESSAGES, db=self._t.store)
        message = (U64.unpack(row)[0] if row else 0) + 1
        self._put(self._t.store, KEY_MESSAGES, number(message))
        self._put(self._t.inbox, versioned(post.run_key, message), post.data)
        return Posted(message)

    # --- puts that look at the answer

    def _put(self, table: Any, key: bytes, value: bytes) -> None:
        put(self._txn, table, key, value)

    def _replace(self, table: Any, key: bytes, value: bytes) -> None:
        """Put a value of another size: written over, a long one would keep its pages (LMDB reuses them as they are)."""
        self._txn.delete(key, db=table)
        put(self._txn, table, key, value)

    def _append_row(self, table: Any, key: bytes, value: bytes) -> None:
        if not self._txn.put(key, value, db=table, append=True):
            raise Corrupt("the store", "has rows after its last one")


def put(txn: Txn, table: Any, key: bytes, value: bytes) -> None:
    """Put a row. Raises Corrupt if LMDB does not take it."""
    if not txn.put(key, value, db=table):
        raise Corrupt("the store", "refused a row")


def last_number(txn: Txn, table: Any) -> int:
    """The largest key of a table whose keys are numbers; 0 if it is empty."""
    with txn.cursor(db=table) as cursor:
        return int(U64.unpack(cursor.key())[0]) if cursor.last() else 0


def keys_under(txn: Txn, table: Any, prefix: bytes) -> Iterable[bytes]:
    """All keys of a table that begin with a prefix, rising."""
    with txn.cursor(db=table) as cursor:
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            yield bytes(cursor.key())
            found = cursor.next()
