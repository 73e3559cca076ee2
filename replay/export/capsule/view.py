"""What a capsule shows, gathered in one pass: each version of a run with its state, calls, decisions, drawing, digests.

States travel as a whole now and then and as JSON Patches (RFC 6902) in between. What does not fit a page is left out and
counted. The same history always gives the same view, so that a page can be compared with what its history says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from eventflow.clock import id_text
from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BranchFailed,
    EffectFailed,
    Failure,
    Forked,
    Recorded,
    Rewound,
    RunFailed,
    RunStarted,
    SignalRefused,
    Transitioned,
    UndoBegan,
)
from eventflow.log import Head, Log
from eventflow.plain import thaw
from eventflow.proof import genesis
from eventflow.recovery import history, line, recover
from eventflow.state import State, evolve
from eventflow.verification import verify_run
from replay.export.capsule.encoding import Texts
from replay.export.capsule.graph import Graph, graph_of
from replay.export.capsule.index import Index
from replay.export.redaction import Redaction
from replay.history import detail, tokens_of
from replay.patch import differences

SCHEMA = "eventflow.capsule/1"
MAX_VIEW = 24 << 20  # bytes of JSON: a browser reads that in a second
MAX_EVENTS = 20_000  # versions on a page: the first quarter and the newest of a longer history
_LAST = 0.8  # of the bytes: what is left is kept for the newest version's state
_FRAME_EVERY = 24  # patches a browser applies at most, where they are small; a jump then takes no time that is seen
_ELSEWHERE = frozenset({"data", "definition", "change"})  # fields that the states and the drawing show
_QUOTING = (AttemptFailed, BranchFailed, EffectFailed, RunFailed, SignalRefused, UndoBegan)  # a body's text, in a line
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _Draft:
    """The view while it grows; `left` counts what was left out."""

    texts: Texts
    redaction: Redaction
    limit: int
    size: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    index: Index = field(default_factory=Index)
    names: dict[bytes, str] = field(default_factory=dict)  # of runs, the shown one first
    left: dict[str, int] = field(default_factory=lambda: {"versions": 0, "states": 0, "fields": 0, "texts": 0})
    data: Any = None  # the state that the last patch leads to, None where the next must stand whole
    frame: int = 0  # bytes of the last whole state
    patched: int = 0  # bytes of patches since
    patches: int = 0

    def spent(self) -> int:
        """About how many bytes the view takes so far."""
        return self.size + self.texts.size


def capsule_view(
    log: Log, head: Head, *, redaction: Redaction | None = None, limit: int = MAX_VIEW, most: int = MAX_EVENTS
) -> dict[str, Any]:
    """All that a capsule of a run shows, as JSON. Raises Corrupt where the history does not hold."""
    draft = _Draft(Texts(), redaction or Redaction(()), limit)
    on_line = [range(one.first, one.last + 1) for one in line(log, head.run_key, head.version)]
    draft.names[head.run_key] = head.run_id
    before: Recorded | None = None
    state: State | None = None
    began = ""
    for recorded, state in _versions(log, head):
        began = began or state.node
        if not _is_shown(recorded.version, head.version, most):
            draft.left["versions"] += 1
            draft.data = None
        else:
            event = _event(log, recorded, before, state, draft)
            if not any(recorded.version in one for one in on_line):
                event["aside"] = True
            _add_fields(event, recorded, draft)
            _add_state(event, state, draft, last=recorded.version == head.version)
            draft.index.take(len(draft.events), recorded, str(event["node"]))
            draft.events.append(event)
        before = recorded
    if state is None or state.version != head.version:
        raise Corrupt(f"run {head.run_id}", "has a history that ends before its head")
    draft.left["texts"] = draft.texts.cut
    return _whole(log, head, state, draft, _drawing(state, draft, began))


def _is_shown(version: int, last: int, most: int) -> bool:
    return version <= most // 4 or version > last - (most - most // 4)


def _versions(log: Log, head: Head) -> Iterator[tuple[Recorded, State]]:
    """Each version up to the head with its state, those of parents and of stretches that were left too; the chain checked."""
    before: Recorded | None = None
    state: State | None = None
    for recorded in _recorded(log, head.run_key, head.version):
        event = recorded.event
        wanted = b"" if before is None else before.digest
        if isinstance(event, RunStarted):
            wanted = genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
        if recorded.before != wanted:
            raise Corrupt(f"version {recorded.version}", "does not follow the event before it: the chain is broken")
        if isinstance(event, Forked | Rewound):  # its state goes on from another than that of the version before
            state = recover(log, log.head_of(recorded.run_key) or head, recorded.version, snapshots=False).state
        else:
            state = evolve(state, recorded)
        yield recorded, state
        before = recorded


def _recorded(log: Log, run_key: bytes, last: int) -> Iterator[Recorded]:
    """The events at all versions of a run: up to where a fork begins they are its parent's."""
    stretches = []
    while (entry := log.entry(run_key)) is not None and entry.parent_id is not None:
        stretches.append((run_key, entry.parent_at + 1, last))
        run_key, last = entry.parent_key, entry.parent_at
    for key, first, end in [(run_key, 1, last), *reversed(stretches)]:
        yield from history(log, key, first, end)


# --- one version ---------------------------------------------------------------------------------------------------


def _event(log: Log, recorded: Recorded, before: Recorded | None, state: State, draft: _Draft) -> dict[str, Any]:
    """A version as the page lists it, without its fields and its state."""
    event = recorded.event
    hidden = bool(draft.redaction.paths) and isinstance(event, _QUOTING)
    node = str(getattr(event, "node", state.node))
    found: dict[str, Any] = {
        "v": recorded.version, "t": _time(recorded.time), "type": type(event).__name__, "node": node,
        "detail": draft.texts.of("" if hidden else detail(recorded)),
        "digest": recorded.digest.hex(), "before": recorded.before.hex(), "at": state.node, "status": state.status,
    }  # fmt: skip
    if before is not None:
        found["took"] = max(recorded.time - before.time, 0) // 1_000  # us: a browser holds those exactly
    if state.waiting_for:
        found["wait"] = state.waiting_for
    if state.attempt != 1:
        found["attempt"] = state.attempt
    if isinstance(event, Transitioned):
        found["edge"] = [event.node, event.to]
    if isinstance(event, Rewound):
        found["from"] = event.to
    if recorded.run_key not in draft.names:
        parent = log.head_of(recorded.run_key)
        draft.names[recorded.run_key] = parent.run_id if parent else recorded.run_key.hex()
    if recorded.run_key != next(iter(draft.names)):
        found["run"] = draft.names[recorded.run_key]
    draft.size += len(_json(found))
    return found


def _add_fields(event: dict[str, Any], recorded: Recorded, draft: _Draft) -> None:
    """What an event says of itself, but for what the states and the drawing show."""
    told = {
        one.name: value
        for one in fields(recorded.event)
        if one.name not in _ELSEWHERE and (value := getattr(recorded.event, one.name)) is not None and value != ""
    }
    size, cut = draft.spent(), draft.texts.cut
    found = draft.texts.of({name: draft.redaction.of(_field(value), (name,)) for name, value in told.items()})
    length = len(_json(found))
    if draft.spent() + length > draft.limit * _LAST and length + draft.spent() - size > 1_000:
        draft.left["fields"] += 1
        draft.texts.cut = cut
        return
    event["fields"] = found
    usage = getattr(recorded.event, "usage", None)
    if usage:
        event["tokens"] = tokens_of(usage)
    draft.size += length


def _field(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex() if len(value) in (16, 32) else value
    if isinstance(value, Failure):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    return thaw(value)


def _add_state(event: dict[str, Any], state: State, draft: _Draft, *, last: bool) -> None:
    """The state of a version: as patches to that of the version before, as a whole, or left out (`state` is null)."""
    data = draft.redaction.of(thaw(state.data)) if draft.redaction.paths else state.data
    room = draft.limit * (1 if last else _LAST) - draft.spent()
    if data is draft.data:
        return
    size, held = draft.size, draft.texts.size
    if draft.data is not None:
        found = [[one.op, one.pointer, *_now(one.op, one.now, draft)] for one in differences(draft.data, data)]
        if found:
            event["patch"] = found
            draft.size += len(_json(found))
    grown = draft.size - size
    if draft.data is None or (draft.patches >= _FRAME_EVERY and draft.patched + grown > draft.frame):
        event["state"] = draft.texts.of(data)
        draft.frame = len(_json(event["state"]))
        draft.size += draft.frame
        draft.patched = draft.patches = 0
    else:
        draft.patched, draft.patches = draft.patched + grown, draft.patches + 1
    draft.data = data
    if draft.size - size + draft.texts.size - held > room:
        event.pop("patch", None)
        event["state"], draft.data, draft.size = None, None, size
        draft.left["states"] += 1


def _now(op: str, value: Any, draft: _Draft) -> list[Any]:
    return [] if op == "remove" else [draft.texts.of(value)]


# --- the whole -----------------------------------------------------------------------------------------------------


def _drawing(state: State, draft: _Draft, began: str) -> Graph:
    seen = [tuple(event["edge"]) for event in draft.events if "edge" in event]
    nodes = [node for event in draft.events for node in (event["node"], event["at"]) if node]
    start = state.run.definition.get("start", began)
    return graph_of(thaw(state.run.definition), seen, nodes, start if isinstance(start, str) else began)


def _whole(log: Log, head: Head, state: State, draft: _Draft, graph: Graph) -> dict[str, Any]:
    parent = state.run.parent
    return {
        "schema": SCHEMA, "run": head.run_id, "workflow": state.run.workflow, "store": id_text(state.run.store_id),
        "definition": state.run.definition_digest.hex(), "status": head.status, "waiting_for": head.waiting_for,
        "version": head.version, "parent": None if parent is None else {"run": parent.run_id, "at": parent.at},
        "tags": list(state.run.tags), "subject": state.run.subject, "usage": draft.texts.of(thaw(state.usage)),
        "redacted": list(draft.redaction.paths), "left_out": draft.left,
        "problems": [str(one) for one in verify_run(log, head).findings][:50],
        "graph": _graph_document(graph), "calls": draft.index.calls, "decisions": draft.index.decisions,
        "events": draft.events, "texts": draft.texts.table,
    }  # fmt: skip


def _graph_document(graph: Graph) -> dict[str, Any]:
    return {
        "width": graph.width, "height": graph.height, "left_out": graph.left_out,
        "nodes": [list(one) for one in graph.nodes],
        "edges": [[source, target, list(labels), *rest] for source, target, labels, *rest in graph.edges],
    }  # fmt: skip


def _time(ns: int) -> str:
    """A time as ISO 8601, UTC, to the ms; beyond what a calendar holds as it is."""
    try:
        moment = _EPOCH + timedelta(microseconds=ns // 1_000)
    except OverflowError:
        return f"{ns} ns"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
