"""Exports as JSON, for other programs: events as documents, with values taken out where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from eventflow.change import Op
from eventflow.clock import id_text
from eventflow.codec import Stored, read_events
from eventflow.codec.events import SHAPES
from eventflow.event import Failure
from eventflow.exchange import stored_events, stretches
from eventflow.log import Head, Log
from eventflow.plain import thaw
from replay.export.redaction import Redaction


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
        for stored in stored_events(log, one):
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
