"""Exports written: events with all they refer to, so that they can be folded and verified where there is no store.

Encrypted events go out as they are stored, so that they prove themselves; what they refer to only their key can tell, so
all values under that key go with them. What an encrypted run was compacted to goes the same way. No key ever does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO

from eventflow.codec import (
    FLAG_ENCRYPTED,
    KEY,
    LOCKED_BLOB,
    LOCKED_ROOT,
    TOMBSTONE,
    Fetch,
    LockedBlob,
    Stored,
    blob_names,
    decode,
    encode,
    key_id_of,
    piece_names,
)
from eventflow.errors import Corrupt
from eventflow.exchange.beside import Origin, Told
from eventflow.exchange.sequence import FORMAT, KIND, SEALED_FORMAT, SEALED_ORIGIN_FORMAT
from eventflow.log import STORE_RUN, STORE_VOUCH, Head, LockedLog, Log, Query

_PAGE = 500  # events whose values are fetched at a time
NONE = b"", b""
NO_ORIGINS: Mapping[bytes, Origin] = MappingProxyType({})


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
            forked = entry is not None and entry.folds_through
            first = 1 if entry is None else entry.origin or entry.parent_at + 1
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
    bare = log.inner if isinstance(log, LockedLog) else log
    runs = [one.head for one in bare.runs(Query())] if heads is None else heads
    return write_items(
        file, bare.store_id, _stored(bare, heads), bare.blobs, whole=heads is None, run=only, sealing=_sealing(bare, runs),
        origins=_origins(bare, runs),
    )  # fmt: skip


def _place_of(stored: Stored) -> tuple[bytes, int]:
    """The run key and the version that an event says."""
    array = decode(stored.data, f"the event at position {stored.position}")
    return array[2], array[4]


def _origins(log: Log, heads: Sequence[Head]) -> dict[bytes, Origin]:
    """What the compacted runs among some, and those that they continue, begin with. Raises Corrupt."""
    found: dict[bytes, Origin] = {}
    for one in stretches(log, heads):
        entry, head = log.entry(one.run_key), log.head_of(one.run_key)
        if entry is not None and head is not None and entry.origin:
            found[one.run_key] = origin_of(log, head, entry.origin)
    return found


def origin_of(log: Log, head: Head, at: int) -> Origin:
    """What a run was compacted to, in a log that is not opened with keys: as it is stored, encrypted or not. Raises Corrupt."""
    root, by = log.snapshot(head.run_key, at), dict(log.snapshots(head.run_key, at, limit=1)).get(at, 0)
    act = log.read(STORE_RUN, by ^ STORE_VOUCH, by ^ STORE_VOUCH) if by & STORE_VOUCH else []
    if root is None or not by or (by & STORE_VOUCH and not act):
        raise Corrupt(f"run {head.run_id}", f"was compacted to version {at}, and nothing vouches for its snapshot")
    told = (head.run_id, log.entry(head.run_key)) if root[:1] == LOCKED_ROOT else ("", None)
    return Origin(at, root, by, act[0].data if act else b"", *told)


@dataclass(frozen=True, slots=True)
class Sealing:
    """What goes with encrypted events: values by the id of their key, with names and rows; and what is told of runs."""

    blobs: Mapping[bytes, Mapping[bytes, bytes]]
    runs: Mapping[bytes, Told]


def _sealing(log: Log, heads: Sequence[Head]) -> Sealing | None:
    """What goes with the encrypted runs among some, and those that they continue; None if there is none."""
    told: dict[bytes, Told] = {}
    keys: set[bytes] = set()
    ends = {head.run_key: head for head in heads}
    for one in stretches(log, heads):
        head, entry = log.head_of(one.run_key), log.entry(one.run_key)
        if head is None or entry is None or not (key_id := key_of(log, head)):
            continue
        keys.add(key_id)
        whole = one.run_key in ends
        told[one.run_key] = Told(
            tuple(entry.tags), entry.subject, head.status if whole else "running", head.waiting_for if whole else ""
        )
    return Sealing(sealed_blobs(log, keys), told) if keys else None


def key_of(log: Log, head: Head) -> bytes:
    """The id of the key that a run is encrypted with, empty for one in the open."""
    entry = log.entry(head.run_key)
    first = 1 if entry is None else max(entry.parent_at + 1, entry.origin)
    return next((key_id_in(one)[0] for one in log.read(head.run_key, first, first)), b"")


def key_id_in(stored: Stored) -> tuple[bytes, bytes]:
    """The id of the key that an event says it is encrypted with, and its run's key; empty for one in the open."""
    if stored.data[:1] == TOMBSTONE:
        return NONE
    array = decode(stored.data, f"the event at position {stored.position}")
    try:
        found, run_key = (array[8].get(KEY, b""), array[2]) if array[1] & FLAG_ENCRYPTED else NONE
    except (TypeError, LookupError, AttributeError):
        return NONE
    return (found, run_key) if isinstance(found, bytes) and isinstance(run_key, bytes) else NONE


def sealed_blobs(log: Log, keys: set[bytes]) -> dict[bytes, dict[bytes, bytes]]:
    """The encrypted values of a log that is not opened with keys, by the ids of some keys."""
    found: dict[bytes, dict[bytes, bytes]] = {key_id: {} for key_id in keys}
    after = b""
    while keys and (names := log.blob_names(after, _PAGE)):
        for name, row in log.blobs(names).items():
            if isinstance(row, LockedBlob) and key_id_of(row) in found:
                found[key_id_of(row)][name] = bytes(row)
        after = names[-1]
    return found


def write_items(
    file: IO[bytes], store_id: bytes, events: Iterable[Stored], fetch: Fetch, *, whole: bool = False, run: str = "",
    sealing: Sealing | None = None, origins: Mapping[bytes, Origin] = NO_ORIGINS,
) -> int:  # fmt: skip
    """Write stored events as a CBOR sequence, each after the values it is the first to refer to; returns how many.

    Before the first event of an encrypted run comes what is told of it, before the first under a key all values under it,
    before the first event of a compacted run its origin with the values of that.
    """
    hashed = hashlib.sha256()
    written: set[bytes] = set()
    blobs, told = ({}, {}) if sealing is None else (dict(sealing.blobs), dict(sealing.runs))
    left = {(run_key, one.at): one for run_key, one in origins.items()}
    count = 0

    def put(data: bytes) -> None:
        hashed.update(data)
        file.write(data)

    version = FORMAT if sealing is None and not origins else SEALED_FORMAT
    if any(one.sealed for one in origins.values()):
        version = SEALED_ORIGIN_FORMAT
    put(encode({"eventflow": KIND, "format": version, "store": store_id, "whole": whole, "run": run}))
    for stored in events:
        count += 1
        if stored.data[:1] == TOMBSTONE:
            put(encode({"gone": stored.data[1:]}))
            continue
        if left and (begun := left.pop(_place_of(stored), None)) is not None:
            needed = [] if begun.sealed else sorted(piece_names(begun.root, fetch) - written)
            for data in fetch(needed).values():
                put(encode(data))
            written.update(needed)
            put(encode(begun.word(_place_of(stored)[0])))
        key_id, run_key = key_id_in(stored) if blobs or told else NONE
        if key_id and (one := told.pop(run_key, None)) is not None:
            put(encode(one.word(run_key)))
        for name, row in sorted(blobs.pop(key_id, {}).items()):
            put(encode({"blob": name, "sealed": LOCKED_BLOB + row}))
            written.add(name)
        names = sorted(blob_names([stored], hidden=True) - written)
        for data in fetch(names).values():
            put(encode(data))
        written.update(names)
        put(stored.data)
    file.write(encode({"blobs": len(written), "events": count, "sha256": hashed.digest()}))
    return count
