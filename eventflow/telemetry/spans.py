"""Recorded events as OpenTelemetry spans, through its API alone: a run, the visits of its nodes, their calls.

A span begins and ends at recorded times, so it says what the log says, also of a run that another process began. What
was asked, answered or kept is in none of them. How spans are sampled and where they go is the program's choice.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eventflow.errors import MissingExtra
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectStarted,
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
from eventflow.quota import LimitNear
from eventflow.run import CheckpointTaken, Listener, Notice, RecoveryOutOfReach
from eventflow.state import State
from eventflow.telemetry import names
from eventflow.telemetry.lines import EVENT_NAMES
from eventflow.telemetry.measures import amount

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, Tracer

MAX_NAME = 200  # characters of a model's name: longer ones are something else
MAX_KEPT = 10_000  # runs whose last span is remembered, to link to it: 2 MB
_LET_GO = frozenset({"pending", "parked"})  # statuses of a run that is not driven any more, and has not ended


def spans(tracer: Tracer | None = None, *, kept: MutableMapping[str, str] | None = None) -> Listener:
    """A listener that makes spans through an OpenTelemetry tracer, the global provider's if None is given.

    A run that is taken up again gets a new span, linked to the one before. `kept` is where that one is remembered, as a
    `traceparent` by the run's key; a mapping of one's own that outlives the process links across processes too. Raises
    MissingExtra where opentelemetry is not installed.
    """
    try:
        from opentelemetry.trace import get_tracer  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("opentelemetry", "otel") from None
    return _Spans(
        get_tracer(names.SCOPE) if tracer is None else tracer, _Kept({}) if kept is None else _Kept(kept)
    ).hear


@dataclass(slots=True)
class _Stretch:
    """A run from where it was begun or taken up to where it was let go: its open spans, and when it was last heard of."""

    run: Span
    heard: int
    node: Span | None = None
    attempt: int = 1
    calls: dict[tuple[str, str, str], Span] = field(default_factory=dict)


class _Spans:
    """The open spans of the runs that are driven here."""

    def __init__(self, tracer: Tracer, kept: _Kept) -> None:
        self._tracer, self._kept = tracer, kept
        self._open: dict[bytes, _Stretch] = {}

    def hear(self, state: State, notice: Notice) -> None:
        """Open and end what a notice opens and ends."""
        if isinstance(notice, CheckpointTaken):
            self._checkpoint(state, notice)
            return
        if isinstance(notice, RecoveryOutOfReach | LimitNear):
            return
        if isinstance(notice.event, RunStarted | RunResumed | Rewound | Forked):
            self._begin(state, notice)
        stretch = self._open.get(notice.run_key)
        if stretch is None:
            return
        stretch.heard = notice.time
        over = _is_over(state, notice)
        self._node_or_call(state, notice, stretch, over=over)
        if over:
            self._end(state, notice, stretch)

    # --- the run

    def _begin(self, state: State, notice: Recorded) -> None:
        left = self._open.pop(notice.run_key, None)
        if left is not None:  # it was let go without a word: paused, or taken over by another process
            _leave(left, left.heard)
            left.run.end(left.heard)
        link, why = self._link(notice)
        run = self._tracer.start_span(
            f"run {state.run.workflow}",
            attributes={**_of_run(state), names.VERSION: notice.version},
            links=None if link is None else [link],
            start_time=notice.time,
        )
        if why:
            run.set_attribute(names.LINK, why)
        stretch = self._open[notice.run_key] = _Stretch(run, notice.time, attempt=state.attempt)
        self._enter(state, notice, stretch, state.node)
        self._kept.put(notice.run_key, run)

    def _link(self, notice: Recorded) -> tuple[Link | None, str]:
        """The span that this one goes on from, if it is known, and in what sense."""
        match notice.event:
            case RunResumed():
                key, why = notice.run_key, "resumed"
            case Rewound():
                key, why = notice.run_key, "rewound"
            case Forked():
                key, why = notice.event.parent_key, "forked"
            case _:
                return None, ""
        return self._kept.link(key, why), why

    def _end(self, state: State, notice: Recorded, stretch: _Stretch) -> None:
        del self._open[notice.run_key]
        _leave(stretch, notice.time)
        stretch.run.set_attributes({names.STATUS: state.status, names.LAST_VERSION: notice.version})
        if isinstance(notice.event, RunFailed):
            _failed(stretch.run, notice.event.error, notice.time)
        stretch.run.end(notice.time)

    def _checkpoint(self, state: State, notice: CheckpointTaken) -> None:
        stretch = self._open.get(state.run.run_key)
        if stretch is not None:
            mark = notice.checkpoint
            told = {names.VERSION: mark.version, names.BYTES: mark.size, names.SECONDS: notice.seconds}
            stretch.run.add_event(EVENT_NAMES[CheckpointTaken], told, mark.time)

    # --- its nodes and their calls

    def _node_or_call(self, state: State, notice: Recorded, stretch: _Stretch, *, over: bool) -> None:
        event = notice.event
        match event:
            case EffectStarted():
                self._call(state, notice, stretch, event)
            case EffectFinished():
                _finished(stretch, notice, event)
            case EffectFailed():
                if (span := stretch.calls.pop((event.branch, event.name, event.key), None)) is not None:
                    _end_call(span, "failed", notice, event.error)
            case Transitioned():
                _leave(stretch, notice.time, event.error)
                if not over:
                    self._enter(state, notice, stretch, event.to)
            case RunCompleted():
                _leave(stretch, notice.time)
            case RunFailed():
                _leave(stretch, notice.time, event.error)
            case RunStarted() | RunResumed() | Rewound() | Forked():
                pass  # the span of the run says so
            case _:
                _note(stretch, notice)

    def _enter(self, state: State, notice: Recorded, stretch: _Stretch, node: str) -> None:
        stretch.attempt = state.attempt
        stretch.node = self._tracer.start_span(
            f"node {node}",
            _inside(stretch.run),
            attributes={**_of_run(state), names.NODE: node, names.VERSION: notice.version},
            start_time=notice.time,
        )

    def _call(self, state: State, notice: Recorded, stretch: _Stretch, event: EffectStarted) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 - an extra

        name, more = _call_names(state, event)
        stretch.calls[event.branch, event.name, event.key] = self._tracer.start_span(
            name,
            _inside(stretch.node or stretch.run),
            kind=SpanKind.INTERNAL if event.kind == "tool" else SpanKind.CLIENT,
            attributes={
                **_of_run(state), names.NODE: state.node, names.VERSION: notice.version, names.EFFECT: event.name,
                names.KIND: event.kind, names.ATTEMPT: event.attempt, names.MUTATING: event.mutating, **more,
            },
            start_time=notice.time,
        )  # fmt: skip


def _is_over(state: State, notice: Recorded) -> bool:
    """Whether the run is let go with this event. A pause lets it go after its node, or at once where it stands still."""
    if state.ended or state.status in _LET_GO:
        return True
    if state.status != "paused":
        return False
    still = state.wait is not None or state.retry_at > notice.time
    return isinstance(notice.event, Transitioned | AttemptFailed) or (isinstance(notice.event, RunPaused) and still)


def _inside(span: Span) -> Context:
    from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - an extra

    return set_span_in_context(span)


def _of_run(state: State) -> dict[str, Any]:
    return {names.RUN_ID: state.run.run_id, names.WORKFLOW: state.run.workflow}


def _leave(stretch: _Stretch, time: int, error: Failure | None = None) -> None:
    """End the span of the node the run stands in, and those of calls whose end nobody has recorded."""
    for span in stretch.calls.values():
        span.set_attribute(names.OUTCOME, "unknown")
        span.end(time)
    stretch.calls.clear()
    node, stretch.node = stretch.node, None
    if node is not None:
        node.set_attribute(names.ATTEMPT, stretch.attempt)
        if error is not None:
            _failed(node, error, time)
        node.end(time)


def _failed(span: Span, error: Failure, time: int) -> None:
    """Say that it failed and with what type of error; what the error says is the user's."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an extra

    span.set_attribute(names.ERROR_TYPE, error.type)
    span.add_event(names.EXCEPTION, {names.EXCEPTION_TYPE: error.type}, time)
    span.set_status(Status(StatusCode.ERROR, error.type))


def _note(stretch: _Stretch, notice: Recorded) -> None:
    """An event that neither opens nor ends a span, as one of the node's span."""
    event = notice.event
    told: dict[str, Any] = {names.VERSION: notice.version}
    if isinstance(event, AttemptFailed):
        stretch.attempt = event.attempt + 1
        told |= {names.ATTEMPT: event.attempt, names.ERROR_TYPE: event.error.type}
    name = EVENT_NAMES.get(type(event), type(event).__name__)
    (stretch.node or stretch.run).add_event(name, told, notice.time)


def _call_names(state: State, event: EffectStarted) -> tuple[str, dict[str, Any]]:
    """The name of a call's span, and the attributes that the conventions have for its kind."""
    if event.kind == "tool":
        tool = event.name.removeprefix("tool:")  # as agents name their calls
        return f"{names.EXECUTE_TOOL} {tool}", {
            names.OPERATION: names.EXECUTE_TOOL, names.TOOL_NAME: tool,
        }  # fmt: skip
    if event.kind != "model":
        return event.name, {}
    more = {names.OPERATION: names.CHAT, names.CONVERSATION: state.run.run_id}
    asked = event.input.get("model") if isinstance(event.input, dict) else None
    if not isinstance(asked, str) or not 0 < len(asked) <= MAX_NAME:
        return names.CHAT, more
    return f"{names.CHAT} {asked}", {**more, names.REQUEST_MODEL: asked}


def _finished(stretch: _Stretch, notice: Recorded, event: EffectFinished) -> None:
    span = stretch.calls.pop((event.branch, event.name, event.key), None)
    if span is None:
        return
    for name, attribute in (("input_tokens", names.INPUT_TOKENS), ("output_tokens", names.OUTPUT_TOKENS)):
        if count := amount(event.usage.get(name)):
            span.set_attribute(attribute, count)
    _end_call(span, "finished", notice, None)


def _end_call(span: Span, outcome: str, notice: Recorded, error: Failure | None) -> None:
    span.set_attributes({names.OUTCOME: outcome, names.LAST_VERSION: notice.version})
    if error is not None:
        _failed(span, error, notice.time)
    span.end(notice.time)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The last span of each run, as the `traceparent` of W3C's Trace Context; the newest `limit` of them, if there is one."""

    texts: MutableMapping[str, str]
    limit: int | None = None

    def put(self, run_key: bytes, span: Span) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - an extra
            TraceContextTextMapPropagator,
        )

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, _inside(span))
        if text := carrier.get("traceparent"):
            self.texts.pop(run_key.hex(), None)
            self.texts[run_key.hex()] = text
            while self.limit is not None and len(self.texts) > self.limit:
                del self.texts[next(iter(self.texts))]

    def link(self, run_key: bytes, why: str) -> Link | None:
        from opentelemetry.trace import Link, get_current_span  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - an extra
            TraceContextTextMapPropagator,
        )

        text = self.texts.get(run_key.hex())
        if text is None:
            return None
        place = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text})).get_span_context()
        return Link(place, {names.LINK: why}) if place.is_valid else None
