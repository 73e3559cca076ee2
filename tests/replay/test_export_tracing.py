"""A history as OpenTelemetry spans in OTLP's JSON form."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any, get_args

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from eventflow import Agent, CheckpointPolicy, Engine, MemoryLog, Parallel, RetryPolicy, Wait, Workflow
from eventflow.event import EffectStarted, RunEvent, RunFailed, Transitioned
from eventflow.log import Log, Query
from eventflow.plain import EMPTY, freeze
from eventflow.telemetry import EVENT_NAMES, names, spans
from eventflow.testing import ModelServer
from eventflow.testing.author import Author
from replay.export import Redaction, attributes, write_spans
from replay.export.tracing import event_name

QUIET = CheckpointPolicy(auto=False, on_error=False, at_shutdown=False)
INSIDE = "a word that must stay inside"


def exported(log: Log, *redact: str) -> dict[str, Any]:
    """All runs of a log as one document, oldest first."""
    file = io.BytesIO()
    heads = [one.head for one in reversed(log.runs(Query()))]
    events = write_spans(log, file, heads, Redaction(redact))
    assert events == log.position() - len(log.read(bytes(16), 1, 1_000))
    document: dict[str, Any] = json.loads(file.getvalue(), parse_constant=pytest.fail)
    return document


def spans_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans of a document."""
    ((resource,),) = (document["resourceSpans"],)
    (scope,) = resource["scopeSpans"]
    assert scope["scope"] == {"name": "eventflow"}
    found: list[dict[str, Any]] = scope["spans"]
    return found


def told(listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Attributes as a dict."""
    found: dict[str, Any] = {}
    for one in listed:
        ((kind, value),) = one["value"].items()
        found[one["key"]] = int(value) if kind == "intValue" else value
    return found


def driven(flow: Workflow, given: dict[str, Any], *, listeners: Any = (), signal: bool = False) -> MemoryLog:
    """A store with one run of a workflow, driven until it ends or fails, and resumed once where it waits."""
    log = MemoryLog()

    async def run() -> None:
        async with Engine(log, workflows=[flow], checkpoints=QUIET, listeners=listeners, grace=0) as engine:
            handle = await engine.start(flow, given, run_id="r", tags=[INSIDE])
            if signal:
                while handle.state.status != "waiting":
                    await asyncio.sleep(0.005)
                await engine.signal("r", "go", INSIDE)
            await handle.result()

    asyncio.run(run())
    return log


def story() -> tuple[Workflow, dict[str, Any]]:
    """A workflow with a call, a tool, a second attempt, a wait, a way out of an error, and an end."""
    tries: list[int] = []

    async def work(state: Any, run: Any) -> dict[str, Any]:
        await run.effect("lookup", lambda: INSIDE, mutating=False)
        await run.effect(
            "tool:search", lambda: INSIDE, kind="tool", usage=lambda _: {"input_tokens": 3, "output_tokens": 4}
        )
        tries.append(1)
        if len(tries) == 1:
            raise OSError(INSIDE)
        return {"n": INSIDE}

    def breaks(state: Any) -> Any:
        raise ValueError(INSIDE)

    flow = (
        Workflow("story")
        .add_node("work", work, retry=RetryPolicy(attempts=2, delay=0.001))
        .add_node("wait", Wait(signal="go", writes="heard"))
        .add_node("breaks", breaks)
        .add_node("end", lambda state: {"over": True})
        .add_edge("work", "wait").add_edge("wait", "breaks").add_edge("breaks", "end", on="failed")
        .set_start("work")
    )  # fmt: skip
    return flow, {"q": INSIDE}


def as_told_live(span: ReadableSpan) -> dict[str, Any]:
    """A span of the SDK as the comparison has it, without ids."""
    return {
        "name": span.name, "kind": span.kind.value + 1, "start": span.start_time, "end": span.end_time,
        "attributes": dict(span.attributes or {}), "error": not span.status.is_ok and not span.status.is_unset,
        "events": [(one.name, one.timestamp, dict(one.attributes or {})) for one in span.events],
        "links": [dict(one.attributes or {}) for one in span.links],
    }  # fmt: skip


def as_exported(span: dict[str, Any]) -> dict[str, Any]:
    """An exported span as the comparison has it."""
    return {
        "name": span["name"], "kind": span["kind"], "start": int(span["startTimeUnixNano"]),
        "end": int(span["endTimeUnixNano"]), "attributes": told(span["attributes"]), "error": span["status"].get("code") == 2,
        "events": [(one["name"], int(one["timeUnixNano"]), told(one["attributes"])) for one in span["events"]],
        "links": [told(one["attributes"]) for one in span["links"]],
    }  # fmt: skip


def test_exported_spans_are_those_of_the_run_when_it_was_driven():
    """The same names, times, kinds, attributes, events and errors that the listener made."""
    live = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(live))
    flow, given = story()
    log = driven(flow, given, listeners=[spans(provider.get_tracer("test"))], signal=True)
    found = spans_of(exported(log))
    assert [as_exported(one) for one in found] == [as_told_live(one) for one in live.get_finished_spans()]
    assert len(found) == 7
    names_of = {one["spanId"]: one["name"] for one in found}
    assert {one["name"]: names_of.get(one.get("parentSpanId", "")) for one in found} == {
        "lookup": "node work", "execute_tool search": "node work", "node work": "run story", "node wait": "run story",
        "node breaks": "run story", "node end": "run story", "run story": None,
    }  # fmt: skip
    assert INSIDE not in json.dumps(found)


def test_the_same_history_gives_the_same_spans_and_another_gives_others():
    """Byte for byte; no two spans have one id."""
    flow, given = story()
    log = driven(flow, given, signal=True)
    one, again = exported(log), exported(log)
    assert one == again
    other = exported(driven(*story(), signal=True))
    ids = {span["spanId"] for span in spans_of(one)}
    assert len(ids) == len(spans_of(one))
    assert not ids & {span["spanId"] for span in spans_of(other)}
    assert len({span["traceId"] for span in spans_of(one)}) == 1
    assert all(len(span["traceId"]) == 32 and len(span["spanId"]) == 16 for span in spans_of(one))


def asked(model: str = "m-1") -> MemoryLog:
    """A store with a run of an agent."""
    with ModelServer(["It is."]) as server:
        flow = Workflow("ask").add_node("ask", Agent(model=model, reads="q", writes="a", base_url=server.base_url))
        return driven(flow.set_start("ask"), {"q": INSIDE})


def test_a_model_s_call_has_the_attributes_of_the_conventions():
    """Its name is left out where it is redacted; what was asked and answered is in none."""
    log = asked()
    (call,) = [one for one in spans_of(exported(log)) if one["kind"] == 3]
    assert call["name"] == "chat m-1"
    attributes_ = told(call["attributes"])
    wanted = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m-1", "gen_ai.conversation.id": "r"}
    assert wanted.items() <= attributes_.items()
    assert attributes_["gen_ai.usage.input_tokens"] > 0
    assert INSIDE not in json.dumps(exported(log))
    (call,) = [one for one in spans_of(exported(log, "model")) if one["kind"] == 3]
    assert call["name"] == "chat"
    assert "m-1" not in json.dumps(call)


def test_calls_of_branches_are_told_apart():
    """Two of one name and key, at the same time."""

    async def body(state: Any, run: Any) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {run.branch: await run.effect("ask", lambda: run.branch, mutating=False)}

    log = driven(Workflow("w").add_node("split", Parallel({"l": body, "r": body})).set_start("split"), {})
    calls = [told(one["attributes"]) for one in spans_of(exported(log)) if one["name"] == "ask"]
    assert {one["eventflow.branch"] for one in calls} == {"l", "r"}
    assert {one["eventflow.outcome"] for one in calls} == {"finished"}


def test_a_run_that_was_taken_back_or_forked_is_linked():
    """To its own span before, and to its parent's."""
    author = Author(MemoryLog())
    head = author.start("one", {"n": 1})
    head = author.add(head, Transitioned("a", "a", "done"))
    head = author.rewind(head, 1)
    author.fork(author.fork(head, 2, "two"), 2, "three")
    runs = {
        (told(one["attributes"])["eventflow.run.id"], int(told(one["attributes"])["eventflow.version"])): one
        for one in spans_of(exported(author.log)) if one["name"].startswith("run ")
    }  # fmt: skip
    assert set(runs) == {("one", 1), ("one", 3), ("two", 3), ("three", 3)}
    for run, to, why in (
        (("one", 3), ("one", 1), "rewound"),
        (("two", 3), ("one", 1), "forked"),
        (("three", 3), ("one", 1), "forked"),
    ):
        (link,) = runs[run]["links"]
        assert (link["traceId"], link["spanId"]) == (runs[to]["traceId"], runs[to]["spanId"])
        assert told(link["attributes"]) == {"eventflow.link": why}


def test_a_run_that_goes_on_ends_where_it_was_last_heard_of():
    """Its open call has an unknown outcome."""
    author = Author(MemoryLog())
    author.add(author.start("r"), EffectStarted("pay", "1", "call", True, EMPTY, bytes(32), "k"))
    call, node, run = spans_of(exported(author.log))
    assert told(call["attributes"])["eventflow.outcome"] == "unknown"
    assert call["endTimeUnixNano"] == node["endTimeUnixNano"] == run["endTimeUnixNano"]
    assert "eventflow.status" not in told(run["attributes"])


def test_any_document_is_one_that_protobuf_reads():
    """Ids are hex in OTLP's JSON, where protobuf's has base64; everything else is its mapping, whatever names a run has."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    from google.protobuf.json_format import ParseDict  # noqa: PLC0415 - comes with it

    author = Author(MemoryLog())
    odd = "\x00 \u202e \u2028 é"
    head = author.start("r", {odd: odd}, node=odd, workflow=odd)
    head = author.add(head, EffectStarted(odd, "1", "model", True, freeze({"model": odd}), bytes(32), "k"))
    author.fork(author.rewind(head, 1), 2, "f")
    for log in (author.log, asked(), MemoryLog()):
        document = exported(log)
        in_base64 = json.loads(json.dumps(document), object_hook=_with_base64_ids)
        request = ParseDict(in_base64, service.ExportTraceServiceRequest())
        (scope,) = request.resource_spans[0].scope_spans
        assert len(scope.spans) == len(spans_of(document))
        for parsed, one in zip(scope.spans, spans_of(document), strict=True):
            assert (parsed.trace_id.hex(), parsed.span_id.hex()) == (one["traceId"], one["spanId"])
            assert parsed.start_time_unix_nano == int(one["startTimeUnixNano"])


def _with_base64_ids(value: dict[str, Any]) -> dict[str, Any]:
    ids = ("traceId", "spanId", "parentSpanId")
    return {key: base64.b64encode(bytes.fromhex(item)).decode() if key in ids else item for key, item in value.items()}


def test_names_are_those_of_telemetry():
    """Of attributes, and of events within spans."""
    for name in (one for one in dir(attributes) if one.isupper() and one not in ("STORE", "BRANCH")):
        assert getattr(attributes, name) == getattr(names, name), name
    told_as_spans = {"RunStarted", "Transitioned", "RunCompleted", "RunFailed", "RunResumed", "Rewound", "Forked"}
    for kind in get_args(RunEvent):
        if kind in EVENT_NAMES and kind.__name__ not in told_as_spans:
            assert event_name(kind) == EVENT_NAMES[kind]
    assert event_name(RunFailed) == "run.failed"


def test_the_command_writes_a_document(run_replay, run_eventflow, flows, desk):
    """Of a run, or of all; and says how much is in it."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    done = run_replay("export", "one", "one.json", "--format", "otel", "-o", "json").json
    assert (done["format"], done["events"]) == ("otel", 3)
    names_ = [one["name"].split()[0] for one in spans_of(json.loads((desk / "one.json").read_text()))]
    assert names_.count("run") == 1
    assert run_replay("export", "--all", "all.json", "--format", "otel").code == 0
    assert (desk / "all.json").read_bytes() == (desk / "one.json").read_bytes()
