"""Exports written: events with all they refer to, so that they can be folded and verified where there is no store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import IO, Any

from eventflow.change import Op
from eventflow.clock import id_text
from eventflow.codec import TOMBSTONE, Stored, blob_names, encode, read_events
from eventflow.codec.events import SHAPES
from eventflow.errors import Corrupt
from eventflow.event import Failure
from eventflow.log import Head, Log
from eventflow.plain import thaw
from replay.export.redaction import Redaction
from replay.export.sequence import FORMAT, KIND
from replay.skim import stored_events

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


def _stored(log: Log, heads: Sequence[Head] | None) -> Iterator[Stored]:
    """The events to export: those of some runs, or all of a store as it is now."""
    if heads is not None:
        for one in stretches(log, heads):
            yield from stored_events(log, one.run_key, one.first, one.last)
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
    hashed = hashlib.sha256()
    written: set[bytes] = set()
    events = 0

    def put(data: bytes) -> None:
        hashed.update(data)
        file.write(data)

    only = heads[0].run_id if heads is not None and len(heads) == 1 else ""
    put(encode({"eventflow": KIND, "format": FORMAT, "store": log.store_id, "whole": heads is None, "run": only}))
    for stored in _stored(log, heads):
        events += 1
        if stored.data[:1] == TOMBSTONE:
            put(encode({"gone": stored.data[1:]}))
            continue
        names = sorted(blob_names([stored]) - written)
        for data in log.blobs(names).values():
            put(encode(data))
        written.update(names)
        put(stored.data)
    file.write(encode({"blobs": len(written), "events": events, "sha256": hashed.digest()}))
    return events


# --- as JSON -------------------------------------------------------------------------------------------------------


def write_lines(log: Log, heads: Sequence[Head], redaction: Redaction) -> Iterator[dict[str, Any]]:
    """Some runs' events as documents, in order, after one that says what they are; their bodies are redacted."""
    proves = "nothing but its digests" if redaction.paths else "nothing by itself; the digests are those of the store"
    yield {
        "kind": "header", "store": id_text(log.store_id), "runs": [head.run_id for head in heads],
        "redacted": list(redaction.paths), "proves": proves,
    }  # fmt: skip
    names = {head.run_key: head.run_id for head in heads}
    for one in stretches(log, heads):
        parent = log.head_of(one.run_key)
        name = names.get(one.run_key) or (parent.run_id if parent else one.run_key.hex())
        for stored in stored_events(log, one.run_key, one.first, one.last):
            yield _line(log, stored, name, redaction)
    yield {"kind": "footer", "redactions": redaction.count}


def _line(log: Log, stored: Stored, run: str, redaction: Redaction) -> dict[str, Any]:
    recorded = read_events([stored], log.blobs)[0]
    event = recorded.event
    body = set(SHAPES[type(event)].body)
    told = {one.name: _told(getattr(event, one.name)) for one in fields(event)}
    kept = {name: _redacted(name, value, redaction) if name in body else value for name, value in told.items()}
    return {
        "kind": "event", "run": run, "version": recorded.version, "position": recorded.position, "time_ns": recorded.time,
        "type": type(event).__name__, "epoch": recorded.epoch, "fields": kept, "digest": recorded.digest.hex(),
        "before": recorded.before.hex(),
    }  # fmt: skip


def _redacted(name: str, value: Any, redaction: Redaction) -> Any:
    if name != "change":
        return redaction.of(value)
    return [{**op, "value": redaction.of(op["value"], tuple(op["path"]))} for op in value]


def _told(value: Any) -> Any:
    """A field as JSON has it."""
    if isinstance(value, bytes):
        return value.hex() if len(value) in (16, 32) else value
    if isinstance(value, Failure):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, tuple) and value and isinstance(value[0], Op):
        return [{"op": op.op, "path": list(op.path), "value": thaw(op.value)} for op in value]
    return thaw(value)
