"""What a batch takes to be so: heads, runs, owners, messages, pieces; looked up in one round trip, or remembered.

A fact that is remembered may be old. The writing function compares what it stands on, and whoever was wrong looks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eventflow.log.heads import NOBODY, Head
from eventflow.log.mirror import Mirror
from eventflow.log.postgres.rows import HEAD, HEAD_FIELDS, head_from, text_bytes
from eventflow.log.postgres.wire import ByteColumn, NumberColumn
from eventflow.log.protocol import STORE_NAME, Act, Append, Bring, Post, Upkeep, Write

KNOWN_HEADS = 10_000  # runs whose heads are remembered between batches: a few MB, and most that are driven at once

_HEADS = f"""select {HEAD}, o.lease_until > clock_timestamp(), i.origin
    from standing h left join info i on i.run_key = h.run_key left join owners o on o.owner = h.owner
    where h.run_id = any (%b) or h.run_key = any (%b)"""  # noqa: S608 - made of constants
_MESSAGES = """select b.run_key, b.message from unnest(%b, %b) as k (key, message)
    join inbox b on b.run_key = k.key and b.message = k.message"""
_BLOBS = "select digest from blobs, tip where digest = any (%b) and (sweep = 0 or kept = sweep)"


class Unknown(Exception):
    """A fact that a plan needs is not known, or is remembered only."""


@dataclass(slots=True)
class Facts:
    """What is known of a store. `sure` says that what is not here is not there, and what refuses a write is true."""

    sure: bool = False
    heads: dict[str, Head] = field(default_factory=dict)
    names: dict[bytes, str] = field(default_factory=dict)
    living: set[bytes] = field(default_factory=set)
    messages: set[tuple[bytes, int]] = field(default_factory=set)
    blobs: set[bytes] = field(default_factory=set)
    origins: dict[bytes, int] = field(default_factory=dict)  # of compacted runs, by key; looked up, never remembered

    def learn(self, heads: Iterable[Head]) -> None:
        """Remember heads."""
        for head in heads:
            self.heads[head.run_id] = head
            if head.run_key != NOBODY:  # nor of the store's own stream, which is told nothing and has no list entry
                self.names[head.run_key] = head.run_id

    def hint(self, head: Head) -> None:
        """Remember a head that was read, unless a newer one may be known; for threads that do not write."""
        if len(self.heads) <= KNOWN_HEADS:
            self.heads.setdefault(head.run_id, head)
            if head.run_key != NOBODY:
                self.names.setdefault(head.run_key, head.run_id)

    def forget(self) -> None:
        """Start anew."""
        self.heads.clear()
        self.names.clear()


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a batch is about: run ids, run keys, messages, pieces."""

    names: set[str] = field(default_factory=set)
    keys: set[bytes] = field(default_factory=set)
    messages: set[tuple[bytes, int]] = field(default_factory=set)
    blobs: set[bytes] = field(default_factory=set)

    def add(self, one: Write) -> None:
        """What one write is about."""
        match one:
            case Append():
                self._append(one)
            case Bring():
                self._append(one.append)
            case Post():
                self.keys.add(one.run_key)
            case Mirror():
                self.names.update(head.run_id for head in one.deleted)
            case Upkeep():
                self._upkeep(one)
            case Act():
                self.names.add(STORE_NAME)
                if one.upkeep is not None:
                    self._upkeep(one.upkeep)
                if one.delete_run is not None:
                    self.names.add(one.delete_run.run_id)

    def _append(self, append: Append) -> None:
        self.names.add(append.run_id)
        self.keys.add(append.run_key)
        self.keys.update(post.run_key for post in append.posts)
        self.messages.update((append.run_key, message) for message in append.taken)
        if append.first is not None and append.first.entry.parent_id is not None:
            self.keys.add(append.first.entry.parent_key)

    def _upkeep(self, upkeep: Upkeep) -> None:
        self.keys.add(upkeep.run_key)
        if upkeep.snapshot is not None:
            self.blobs.update(upkeep.snapshot.known)


def look_up(connection: Any, batch: Sequence[Write]) -> Facts:
    """All facts a batch needs, as they are now, in one round trip."""
    facts, needs = Facts(sure=True), _Needs()
    for one in batch:
        needs.add(one)
    with connection.pipeline():
        about = ByteColumn(map(text_bytes, needs.names)), ByteColumn(needs.keys)
        heads = connection.execute(_HEADS, about, prepare=True)
        messages = blobs = None
        if needs.messages:
            columns = ByteColumn(key for key, _ in needs.messages), NumberColumn(number for _, number in needs.messages)
            messages = connection.execute(_MESSAGES, columns, prepare=True)
        if needs.blobs:
            blobs = connection.execute(_BLOBS, (ByteColumn(needs.blobs),), prepare=True)
        for row in heads.fetchall():
            head = head_from(row)
            facts.learn([head])
            if row[HEAD_FIELDS]:
                facts.living.add(head.owner)
            if row[HEAD_FIELDS + 1]:
                facts.origins[head.run_key] = row[HEAD_FIELDS + 1]
        if messages is not None:
            facts.messages.update((row[0], row[1]) for row in messages.fetchall())
        if blobs is not None:
            facts.blobs.update(row[0] for row in blobs.fetchall())
    return facts
