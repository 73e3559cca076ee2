"""A history as OpenTelemetry spans in OTLP's JSON form (opentelemetry-proto 1.x, "OTLP/JSON"): what `/v1/traces` takes.

A run is a trace; its spans are those that `eventflow.telemetry` makes while a run is driven, with the same names: the run
from where it was begun or taken up, the visits of its nodes, their calls. Ids follow from the digests of events, so that
the same history gives the same spans, however often it is exported. Names, numbers and times only: what was asked,
answered or kept is in none of them. The form is written by hand, without the library.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from eventflow.clock import id_text
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Event,
    Failure,
    Forked,
    Recorded,
    Rewound,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    Transitioned,
)
from eventflow.log import Head, Log
from eventflow.recovery import history, recover
from eventflow.state import State, evolve
from replay.export import attributes as names
from replay.export.redaction import Redaction

INTERNAL, CLIENT = 1, 3  # SPAN_KIND_INTERNAL, SPAN_KIND_CLIENT
ERROR = 2  # STATUS_CODE_ERROR
MAX_NAME = 200  # characters of a model's name: longer ones are something else
_LET_GO = frozenset({"pending", "parked"})  # statuses of a run that is not driven any more, and has not ended
_WORDS = re.compile(r"[A-Z][a-z]+")
_BEGINS = RunStarted | RunResumed | Rewound | Forked


def write_spans(log: Log, file: IO[bytes], heads: Sequence[Head], redaction: Redaction) -> int:
    """Write some runs as one `ExportTraceServiceRequest`; returns how many events they are made from.

    Raises Corrupt, WrittenByNewer.
    """
    store = [_attribute("service.name", names.SCOPE), _attribute(names.STORE, id_text(log.store_id))]
    scope = json.dumps({"name": names.SCOPE})
    file.write(f'{{"resourceSpans":[{{"resource":{json.dumps({"attributes": store})},'.encode())
    file.write(f'"scopeSpans":[{{"scope":{scope},"spans":['.encode())
    events, between = 0, b"\n"
    for head in heads:
        story = _Story(log, head, redaction)
        for span in story.spans():
            file.write(between + json.dumps(span, allow_nan=False).encode())
            between = b",\n"
        events += story.events
    file.write(b"\n]}]}]}\n")
    return events


# --- one span ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Span:
    """A span that is open."""

    name: str
    id: str
    parent: str
    start: int
    kind: int = INTERNAL
    told: dict[str, Any] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)
    links: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def fail(self, error: Failure, time: int) -> None:
        """Say that it failed and with what type of error; what the error says is the user's."""
        self.error = error.type
        self.told[names.ERROR_TYPE] = error.type
        self.note(names.EXCEPTION, {names.EXCEPTION_TYPE: error.type}, time)

    def note(self, name: str, told: dict[str, Any], time: int) -> None:
        """Something that happened within it."""
        self.notes.append({"timeUnixNano": str(time), "name": name, "attributes": _attributes(told)})

    def ended(self, trace: str, time: int) -> dict[str, Any]:
        """The span as OTLP's JSON has it; ids are hex there, and numbers of 64 bits texts."""
        document = {
            "traceId": trace, "spanId": self.id, "name": self.name, "kind": self.kind,
            "startTimeUnixNano": str(self.start), "endTimeUnixNano": str(max(time, self.start)),
            "attributes": _attributes(self.told), "events": self.notes, "links": self.links,
            "status": {"code": ERROR, "message": self.error} if self.error else {},
        }  # fmt: skip
        return {**document, "parentSpanId": self.parent} if self.parent else document


def _attributes(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [_attribute(name, value) for name, value in told.items()]


def _attribute(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"key": name, "value": {"boolValue": value}}
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    if isinstance(value, float):
        return {"key": name, "value": {"doubleValue": value}}
    return {"key": name, "value": {"stringValue": str(value)}}


def _span_id(kind: str, digest: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + digest).hexdigest()[:16]


def _trace_id(digest: bytes) -> str:
    return hashlib.sha256(b"trace\0" + digest).hexdigest()[:32]


def event_name(kind: type[Event]) -> str:
    """What an event is called within a span: `wait.opened` for WaitOpened."""
    first, *rest = (word.lower() for word in _WORDS.findall(kind.__name__))
    return f"{first}.{'_'.join(rest)}"


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stretch:
    """A run from where it was begun or taken up to where it was let go: its open spans, and when it was last heard of."""

    run: _Span
    heard: int
    attempt: int = 1
    node: _Span | None = None
    calls: dict[tuple[str, str, str], _Span] = field(default_factory=dict)


class _Story:
    """The spans of one run, each told once it has ended, by what is recorded of it alone."""

    def __init__(self, log: Log, head: Head, redaction: Redaction) -> None:
        self._log, self._head, self._redaction = log, head, redaction
        self._open: _Stretch | None = None
        self._last = ""  # the span of the run's last stretch
        self._trace = ""
        self.events = 0

    def spans(self) -> Iterator[dict[str, Any]]:
        """Every span of the run. Raises Corrupt, WrittenByNewer."""
        for recorded, state in _played(self._log, self._head):
            self.events += 1
            self._trace = self._trace or _trace_id(recorded.digest)
            if isinstance(recorded.event, _BEGINS):
                yield from self._begin(state, recorded)
            if self._open is None:
                continue
            self._open.heard = recorded.time
            over = _is_over(state, recorded)
            yield from self._take(state, recorded, self._open, over=over)
            if over:
                yield from self._end(state, recorded, self._open)
        if self._open is not None:
            yield from self._let_go(self._open)

    def _begin(self, state: State, recorded: Recorded) -> Iterator[dict[str, Any]]:
        if self._open is not None:  # it was let go without a word: paused, or taken over by another process
            yield from self._let_go(self._open)
        run = _Span(f"run {state.run.workflow}", _span_id("run", recorded.digest), "", recorded.time)
        run.told = {**_of_run(state), names.VERSION: recorded.version}
        self._link(run, recorded.event)
        self._last = run.id
        self._open = _Stretch(run, recorded.time, state.attempt)
        self._enter(state, recorded, self._open, state.node)

    def _link(self, run: _Span, event: Event) -> None:
        """Name the span that this one goes on from."""
        why = {RunResumed: "resumed", Rewound: "rewound", Forked: "forked"}.get(type(event), "")
        trace, span = self._trace, self._last
        if isinstance(event, Forked):
            trace, span = _stretch_at(self._log, event)
        if why:
            run.told[names.LINK] = why
        if why and span:
            run.links.append({"traceId": trace, "spanId": span, "attributes": _attributes({names.LINK: why})})

    def _let_go(self, stretch: _Stretch) -> Iterator[dict[str, Any]]:
        """End what is open where it was last heard of."""
        yield from self._leave(stretch, stretch.heard)
        yield stretch.run.ended(self._trace, stretch.heard)
        self._open = None

    def _end(self, state: State, recorded: Recorded, stretch: _Stretch) -> Iterator[dict[str, Any]]:
        stretch.run.told |= {names.STATUS: state.status, names.LAST_VERSION: recorded.version}
        if isinstance(recorded.event, RunFailed):
            stretch.run.fail(recorded.event.error, recorded.time)
        yield from self._let_go(stretch)

    # --- its nodes and their calls

    def _take(self, state: State, recorded: Recorded, stretch: _Stretch, *, over: bool) -> Iterator[dict[str, Any]]:
        event, time = recorded.event, recorded.time
        match event:
            case EffectStarted():
                self._call(state, recorded, stretch, event)
            case EffectFinished() | EffectFailed():
                yield from self._called(recorded, stretch, event)
            case Transitioned():
                yield from self._leave(stretch, time, event.error)
                if not over:
                    self._enter(state, recorded, stretch, event.to)
            case RunCompleted():
                yield from self._leave(stretch, time)
            case RunFailed():
                yield from self._leave(stretch, time, event.error)
            case RunStarted() | RunResumed() | Rewound() | Forked():
                pass  # the span of the run says so
            case _:
                _note(stretch, recorded)

    def _enter(self, state: State, recorded: Recorded, stretch: _Stretch, node: str) -> None:
        stretch.attempt = state.attempt
        span = _Span(f"node {node}", _span_id("node", recorded.digest), stretch.run.id, recorded.time)
        span.told = {**_of_run(state), names.NODE: node, names.VERSION: recorded.version}
        stretch.node = span

    def _leave(self, stretch: _Stretch, time: int, error: Failure | None = None) -> Iterator[dict[str, Any]]:
        """End the span of the node the run stands in, and those of calls whose end nobody has recorded."""
        for call in stretch.calls.values():
            call.told[names.OUTCOME] = "unknown"
            yield call.ended(self._trace, time)
        stretch.calls.clear()
        node, stretch.node = stretch.node, None
        if node is not None:
            node.told[names.ATTEMPT] = stretch.attempt
            if error is not None:
                node.fail(error, time)
            yield node.ended(self._trace, time)

    def _call(self, state: State, recorded: Recorded, stretch: _Stretch, event: EffectStarted) -> None:
        name, more = self._call_names(state, event)
        kind = INTERNAL if event.kind == "tool" else CLIENT
        parent = (stretch.node or stretch.run).id
        span = _Span(name, _span_id("call", recorded.digest), parent, recorded.time, kind)
        span.told = {
            **_of_run(state), names.NODE: state.node, names.VERSION: recorded.version, names.EFFECT: event.name,
            names.KIND: event.kind, names.ATTEMPT: event.attempt, names.MUTATING: event.mutating, **more,
        }  # fmt: skip
        if event.branch:
            span.told[names.BRANCH] = event.branch
        stretch.calls[event.branch, event.name, event.key] = span

    def _call_names(self, state: State, event: EffectStarted) -> tuple[str, dict[str, Any]]:
        """The name of a call's span, and the attributes that the conventions for generative AI have for its kind."""
        if event.kind == "tool":
            tool = event.name.removeprefix("tool:")  # as agents name their calls
            return f"{names.EXECUTE_TOOL} {tool}", {names.OPERATION: names.EXECUTE_TOOL, names.TOOL_NAME: tool}
        if event.kind != "model":
            return event.name, {}
        more = {names.OPERATION: names.CHAT, names.CONVERSATION: state.run.run_id}
        asked = event.input.get("model") if isinstance(event.input, dict) else None
        kept = self._redaction.of(asked, ("input", "model"))
        if not isinstance(kept, str) or not 0 < len(kept) <= MAX_NAME:
            return names.CHAT, more
        return f"{names.CHAT} {kept}", {**more, names.REQUEST_MODEL: kept}

    def _called(
        self, recorded: Recorded, stretch: _Stretch, event: EffectFinished | EffectFailed
    ) -> Iterator[dict[str, Any]]:
        span = stretch.calls.pop((event.branch, event.name, event.key), None)
        if span is None:
            return
        if isinstance(event, EffectFinished):
            for name, attribute in (("input_tokens", names.INPUT_TOKENS), ("output_tokens", names.OUTPUT_TOKENS)):
                if count := _amount(event.usage.get(name)):
                    span.told[attribute] = count
        else:
            span.fail(event.error, recorded.time)
        outcome = "finished" if isinstance(event, EffectFinished) else "failed"
        span.told |= {names.OUTCOME: outcome, names.LAST_VERSION: recorded.version}
        yield span.ended(self._trace, recorded.time)


def _played(log: Log, head: Head) -> Iterator[tuple[Recorded, State]]:
    """Each of a run's own events in the order in which it was recorded, with the state it led to."""
    entry = log.entry(head.run_key)
    first = entry.parent_at + 1 if entry is not None and entry.parent_id is not None else 1
    state: State | None = None
    for recorded in history(log, head.run_key, first, head.version):
        if state is None or isinstance(recorded.event, Rewound):  # which goes on from another version
            state = recover(log, head, recorded.version).state
        else:
            state = evolve(state, recorded)
        yield recorded, state


def _stretch_at(log: Log, event: Forked) -> tuple[str, str]:
    """The trace of a fork's parent, and its span at the version that was forked; empty where it can't be read."""
    key, entry = event.parent_key, log.entry(event.parent_key)
    while entry is not None and entry.parent_id is not None and event.at <= entry.parent_at:  # what its parent forked
        key, entry = entry.parent_key, log.entry(entry.parent_key)
    first = entry.parent_at + 1 if entry is not None and entry.parent_id is not None else 1
    trace = span = ""
    for recorded in history(log, key, first, event.at):
        trace = trace or _trace_id(recorded.digest)
        if isinstance(recorded.event, _BEGINS):
            span = _span_id("run", recorded.digest)
    return trace, span


def _is_over(state: State, recorded: Recorded) -> bool:
    """Whether the run is let go with this event. A pause lets it go after its node, or at once where it stands still."""
    if state.ended or state.status in _LET_GO:
        return True
    if state.status != "paused":
        return False
    still = state.wait is not None or state.retry_at > recorded.time
    event = recorded.event
    return isinstance(event, Transitioned | AttemptFailed) or (isinstance(event, RunPaused) and still)


def _of_run(state: State) -> dict[str, Any]:
    return {names.RUN_ID: state.run.run_id, names.WORKFLOW: state.run.workflow}


def _note(stretch: _Stretch, recorded: Recorded) -> None:
    """An event that neither opens nor ends a span, as one of the node's span."""
    event = recorded.event
    told: dict[str, Any] = {names.VERSION: recorded.version}
    if isinstance(event, AttemptFailed):
        told |= {names.ATTEMPT: event.attempt, names.ERROR_TYPE: event.error.type}
        if not event.branch:
            stretch.attempt = event.attempt + 1
    if branch := getattr(event, "branch", ""):
        told[names.BRANCH] = branch
    (stretch.node or stretch.run).note(event_name(type(event)), told, recorded.time)


def _amount(value: Any) -> int | float:
    """A number that can be added to a count; 0 for what can't, since what calls report is theirs."""
    return value if type(value) in (int, float) and value > 0 and math.isfinite(value) else 0
