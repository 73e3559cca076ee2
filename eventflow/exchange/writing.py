"""Exports written: events with all they refer to, so that they can be folded and verified where there is no store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from eventflow.codec import TOMBSTONE, Fetch, Stored, blob_names, encode
from eventflow.errors import Corrupt
from eventflow.exchange.sequence import FORMAT, KIND
from eventflow.log import Head, Log, check_open

_PAGE = 500  # events whose values are fetched at a time


@dataclass(frozen=True, slots=True)
class Stretch:
    """Versions `first` to `last` of one run."""

    run_key: bytes
    first: int
    last: int


def stretches(log: Log, heads: Iterable[Head]) -> list[Stretch]:
    """What must be there to fold some runs: all of their own events, and their parents' as far as they go on from them."""
    wanted: dict[bytes, Stretch] = {}
    for head in heads:
        key, last, chain = head.run_key, head.version, list[Stretch]()
        while True:
            entry = log.entry(key)
            forked = entry is not None and entry.parent_id is not None
            first = entry.parent_at + 1 if entry is not None and forked else 1
            chain.append(Stretch(key, first, max(first, last)))  # its first event says whose child it is
            if entry is None or not forked:
                break
            key, last = entry.parent_key, entry.parent_at
        for one in reversed(chain):  # parents first
            before = wanted.get(one.run_key)
            if before is None or before.last < one.last:
                wanted[one.run_key] = one
    return list(wanted.values())


def stored_events(log: Log, stretch: Stretch) -> Iterator[Stored]:
    """The events of a stretch as they are stored, read a page at a time."""
    for start in range(stretch.first, stretch.last + 1, _PAGE):
        yield from log.read(stretch.run_key, start, min(start + _PAGE - 1, stretch.last))


def _stored(log: Log, heads: Sequence[Head] | None) -> Iterator[Stored]:
    """The events to export: those of some runs, or all of a store as it is now."""
    if heads is not None:
        for one in stretches(log, heads):
            yield from stored_events(log, one)
        return
    position, last = 0, log.position()
    while position < last:
        page = log.feed(position, min(_PAGE, last - position))
        if not page:
            raise Corrupt("the store", f"lacks the event at position {position + 1}")
        yield from page
        position = page[-1].position


def write_sequence(log: Log, file: IO[bytes], heads: Sequence[Head] | None) -> int:
    """Write some runs, or the whole store for None, as a CBOR sequence; returns how many events. Raises Corrupt."""
    only = heads[0].run_id if heads is not None and len(heads) == 1 else ""
    return write_items(file, log.store_id, _stored(log, heads), log.blobs, whole=heads is None, run=only)


def write_items(
    file: IO[bytes], store_id: bytes, events: Iterable[Stored], fetch: Fetch, *, whole: bool = False, run: str = ""
) -> int:
    """Write stored events as a CBOR sequence, each after the values it is the first to refer to; returns how many."""
    hashed = hashlib.sha256()
    written: set[bytes] = set()
    count = 0

    def put(data: bytes) -> None:
        hashed.update(data)
        file.write(data)

    put(encode({"eventflow": KIND, "format": FORMAT, "store": store_id, "whole": whole, "run": run}))
    for stored in events:
        count += 1
        if stored.data[:1] == TOMBSTONE:
            put(encode({"gone": stored.data[1:]}))
            continue
        check_open(stored)
        names = sorted(blob_names([stored]) - written)
        for data in fetch(names).values():
            put(encode(data))
        written.update(names)
        put(stored.data)
    file.write(encode({"blobs": len(written), "events": count, "sha256": hashed.digest()}))
    return count
