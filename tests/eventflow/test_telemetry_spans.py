"""Runs, visits and calls as spans: what they say, when they begin and end, what is in none of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from eventflow import CheckpointPolicy, Engine, ManualClock, MemoryLog, RetryPolicy, Wait, Workflow
from eventflow.clock import NS
from eventflow.errors import MissingExtra
from eventflow.recovery import history
from eventflow.telemetry import names, spans
from eventflow.telemetry.spans import MAX_KEPT, _Kept

QUIET = CheckpointPolicy(auto=False, on_error=False, at_shutdown=False)


class Traced:
    """A real tracer, and the spans it has exported, by their names."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """Every span that has ended, in the order of their ends."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of a name, in the order of their ends."""
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        (span,) = self.named(name)
        return span

    def text(self) -> str:
        """All that was exported."""
        return "\n".join(span.to_json() for span in self.all)


@pytest.fixture
def traced() -> Traced:
    """A tracer with nothing exported yet."""
    return Traced()


Story = Callable[[Engine], Any]


def drive(log: MemoryLog, flow: Workflow, listener: Any, story: Story, **options: Any) -> None:
    """Tell a story with an engine of its own."""

    async def work() -> None:
        given = {"checkpoints": QUIET, "clock": ManualClock(), **options}
        async with Engine(log, workflows=[flow], listeners=[listener], **given) as engine:
            await story(engine)

    asyncio.run(work())


def whole(flow: Workflow, data: Any = None) -> Story:
    """Start a run `r` and wait for its end."""

    async def story(engine: Engine) -> None:
        await (await engine.start(flow, data or {}, run_id="r")).wait()

    return story


def two(clock: ManualClock | None = None) -> Workflow:
    """Two nodes of three seconds and of one."""

    def lasting(seconds: float) -> Callable[[Any], Any]:
        async def body(state: Any) -> dict[str, Any]:
            if clock is not None:
                clock.advance(seconds)
            return {"secret": "hunter2"}

        return body

    return Workflow("two").add_node("a", lasting(3)).add_node("b", lasting(1)).add_edge("a", "b").set_start("a")


def test_a_run_is_a_span_around_those_of_its_nodes(traced):
    """One for the run, one for each visit, in one trace, the run's own around the others."""
    drive(MemoryLog(), two(), spans(traced.tracer), whole(two()))
    assert [span.name for span in traced.all] == ["node a", "node b", "run two"]
    run = traced.one("run two")
    for name in ("node a", "node b"):
        node = traced.one(name)
        assert node.parent.span_id == run.context.span_id
        assert node.context.trace_id == run.context.trace_id
    assert run.attributes == {
        names.RUN_ID: "r", names.WORKFLOW: "two", names.VERSION: 1, names.LAST_VERSION: 3, names.STATUS: "completed",
    }  # fmt: skip
    assert traced.one("node b").attributes == {
        names.RUN_ID: "r", names.WORKFLOW: "two", names.NODE: "b", names.VERSION: 2, names.ATTEMPT: 1,
    }  # fmt: skip
    assert run.status.status_code is StatusCode.UNSET


def test_spans_begin_and_end_at_the_recorded_times(traced):
    """To the nanosecond, whatever the machine's clock says."""
    clock, log = ManualClock(), MemoryLog()
    drive(log, two(clock), spans(traced.tracer), whole(two(clock)), clock=clock)
    head = log.head("r")
    times = [one.time for one in history(log, head.run_key, 1, head.version)]
    assert [after - before for before, after in itertools.pairwise(times)] == [3 * NS, NS]
    ends = {span.name: (span.start_time, span.end_time) for span in traced.all}
    assert ends == {
        "node a": (times[0], times[1]), "node b": (times[1], times[2]), "run two": (times[0], times[2]),
    }  # fmt: skip


def test_a_run_goes_on_in_the_span_of_who_started_it(traced):
    """A span that is open where `start` is called is the run's parent."""

    async def story(engine: Engine) -> None:
        with traced.tracer.start_as_current_span("request"):
            await (await engine.start(two(), {}, run_id="r")).wait()

    drive(MemoryLog(), two(), spans(traced.tracer), story)
    assert traced.one("run two").parent.span_id == traced.one("request").context.span_id


def calling(kind: str, function: Callable[..., Any], **options: Any) -> Workflow:
    """One node that makes one call."""

    async def body(state: Any, run: Any) -> dict[str, Any]:
        return {"x": await run.effect("ask", function, kind=kind, **options)}

    return Workflow("calling").add_node("a", body).set_start("a")


def test_a_call_to_a_model_has_the_names_of_the_conventions(traced):
    """Operation, model, tokens, conversation; the span is the client's, within that of its node."""
    flow = calling(
        "model", lambda: "hunter2", mutating=False, asked={"model": "gpt-5-mini", "messages": ["hunter2"]},
        usage=lambda _: {"calls": 1, "input_tokens": 12, "output_tokens": 3},
    )  # fmt: skip
    drive(MemoryLog(), flow, spans(traced.tracer), whole(flow))
    span = traced.one("chat gpt-5-mini")
    assert span.kind is SpanKind.CLIENT
    assert span.parent.span_id == traced.one("node a").context.span_id
    assert span.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5-mini", "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3, "gen_ai.conversation.id": "r", names.RUN_ID: "r", names.WORKFLOW: "calling",
        names.NODE: "a", names.VERSION: 2, names.LAST_VERSION: 3, names.EFFECT: "ask", names.KIND: "model",
        names.ATTEMPT: 1, names.MUTATING: False, names.OUTCOME: "finished",
    }  # fmt: skip
    assert "hunter2" not in traced.text()


@pytest.mark.parametrize("asked", [{"model": ["a"]}, {"model": "x" * 201}, {"model": ""}, "text", None])
def test_a_model_that_is_not_named_is_not_guessed(traced, asked):
    """What is recorded under another shape is not taken for a model's name."""
    flow = calling("model", lambda: 1, asked=asked)
    drive(MemoryLog(), flow, spans(traced.tracer), whole(flow))
    assert "gen_ai.request.model" not in traced.one("chat").attributes


def test_tools_and_other_calls_have_names_too(traced):
    """A tool is executed, as the conventions say; anything else has its own name."""
    for kind in ("tool", "call"):
        flow = calling(kind, lambda: 1)
        drive(MemoryLog(), flow, spans(traced.tracer), whole(flow))
    tool = traced.one("execute_tool ask")
    assert (tool.kind, tool.attributes["gen_ai.tool.name"]) == (SpanKind.INTERNAL, "ask")
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    other = traced.one("ask")
    assert other.kind is SpanKind.CLIENT
    assert not [name for name in other.attributes if name.startswith("gen_ai")]


def test_what_fails_says_with_what_type_and_not_with_what_words(traced):
    """A call, its node and its run have the status and the type; the message is in none of them."""

    def fails() -> None:
        raise ValueError("hunter2")

    flow = calling("call", fails)
    drive(MemoryLog(), flow, spans(traced.tracer), whole(flow))
    for name in ("ask", "node a", "run calling"):
        span = traced.one(name)
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "ValueError"
        assert span.attributes["error.type"] == "ValueError"
        assert [(one.name, one.attributes["exception.type"]) for one in span.events] == [("exception", "ValueError")]
    assert traced.one("ask").attributes[names.OUTCOME] == "failed"
    assert traced.one("run calling").attributes[names.STATUS] == "failed"
    assert "hunter2" not in traced.text()


def test_an_error_that_an_edge_takes_is_its_node_s_alone(traced):
    """The run goes on, and its span says nothing of an error."""
    flow = Workflow("w").add_node("a", lambda s: 1 / 0).add_node("b", lambda s: {}).set_start("a")
    flow.add_edge("a", "b", on="failed")
    drive(MemoryLog(), flow, spans(traced.tracer), whole(flow))
    codes = {span.name: span.status.status_code for span in traced.all}
    assert codes == {"node a": StatusCode.ERROR, "node b": StatusCode.UNSET, "run w": StatusCode.UNSET}


def test_attempts_are_events_of_one_visit(traced):
    """A visit that succeeds the second time is one span that is no error."""
    tries: list[int] = []

    def flaky(state: Any) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("hunter2")
        return {}

    flow = Workflow("w").add_node("a", flaky, retry=RetryPolicy(attempts=2, delay=0)).set_start("a")
    drive(MemoryLog(), flow, spans(traced.tracer), whole(flow))
    node = traced.one("node a")
    assert node.attributes[names.ATTEMPT] == 2
    assert node.status.status_code is StatusCode.UNSET
    (event,) = node.events
    assert (event.name, dict(event.attributes)) == (
        "attempt.failed", {names.VERSION: 2, names.ATTEMPT: 1, names.ERROR_TYPE: "OSError"},
    )  # fmt: skip
    assert "hunter2" not in traced.text()


def test_waits_and_signals_are_events_by_name_alone(traced):
    """What is sent, and by whom, is not in them."""
    flow = Workflow("w").add_node("a", Wait(signal="go", writes="x")).set_start("a")

    async def story(engine: Engine) -> None:
        run = await engine.start(flow, {}, run_id="r")
        await engine.signal("r", "go", "hunter2", actor="hunter2")
        await run.wait()

    drive(MemoryLog(), flow, spans(traced.tracer), story)
    assert {one.name for one in traced.one("node a").events} >= {"signal.received", "wait.opened", "wait.closed"}
    assert "hunter2" not in traced.text()


def test_input_state_tags_subject_and_keys_are_in_no_span(traced):
    """Names, numbers and times only."""

    async def body(state: Any, run: Any) -> dict[str, Any]:
        await run.effect("pay", lambda card: "hunter2", "hunter2", key="hunter2")
        return {"card": "hunter2"}

    flow = Workflow("w").add_node("a", body).set_start("a")

    async def story(engine: Engine) -> None:
        given = {"tags": ["hunter2"], "subject": "hunter2", "actor": "hunter2", "why": "hunter2"}
        await (await engine.start(flow, {"card": "hunter2"}, run_id="r", **given)).wait()

    drive(MemoryLog(), flow, spans(traced.tracer), story)
    assert len(traced.all) == 3
    assert "hunter2" not in traced.text()


def test_checkpoints_are_events_of_the_run(traced):
    """With their size and what writing took."""
    drive(MemoryLog(), two(), spans(traced.tracer), whole(two()), checkpoints=CheckpointPolicy(after_node=("a",)))
    (event,) = traced.one("run two").events
    assert (event.name, event.attributes[names.VERSION], event.attributes[names.BYTES]) == ("checkpoint.taken", 2, 0)


# --- taken up again ------------------------------------------------------------------------------------------------


def gate() -> Workflow:
    """A node that a signal ends, and one after it; letting it go is an event, since its limit goes on from there."""
    wait = Wait(signal="go", writes="x", timeout=3_600, restore="remaining")
    flow = Workflow("w").add_node("a", wait).add_node("b", lambda s: {})
    return flow.add_edge("a", "b").set_start("a")


def stopped(flow: Workflow) -> Story:
    """Start a run `r` and leave it standing."""

    async def story(engine: Engine) -> None:
        await engine.start(flow, {}, run_id="r")
        while engine.get("r").status != "waiting":
            await asyncio.sleep(0)

    return story


def went_on(flow: Workflow) -> Story:
    """Take `r` up again, and let it go to its end."""

    async def story(engine: Engine) -> None:
        run = await engine.resume("r")
        await engine.signal("r", "go")
        await run.wait()

    return story


def test_a_run_that_is_taken_up_again_is_linked_to_the_span_before(traced):
    """Stopped and resumed with one listener: two spans of the run, the second with a link to the first."""
    clock, log = ManualClock(), MemoryLog()
    flow, listener = gate(), spans(traced.tracer)
    drive(log, flow, listener, stopped(flow), clock=clock)
    clock.advance(60)
    drive(log, flow, listener, went_on(flow), clock=clock)
    first, second = traced.named("run w")
    assert first.attributes[names.STATUS] == "pending"
    assert not first.links
    (link,) = second.links
    assert link.context.span_id == first.context.span_id
    assert link.context.trace_id == first.context.trace_id
    assert dict(link.attributes) == {names.LINK: "resumed"}
    assert second.start_time - first.end_time == 60 * NS
    assert [span.attributes[names.NODE] for span in traced.all if span.name.startswith("node")] == ["a", "a", "b"]


def test_the_link_reaches_across_processes_where_the_program_keeps_it(traced):
    """A mapping that outlives the process is all that another listener needs; without one there is no link."""
    flow = gate()
    kept: dict[str, str] = {}
    log, other = MemoryLog(), Traced()
    drive(log, flow, spans(traced.tracer, kept=kept), stopped(flow))
    drive(log, flow, spans(other.tracer, kept=dict(kept)), went_on(flow))
    (link,) = other.one("run w").links
    assert link.context.span_id == traced.one("run w").context.span_id
    alone, log = Traced(), MemoryLog()
    drive(log, flow, spans(traced.tracer), stopped(flow))
    drive(log, flow, spans(alone.tracer), went_on(flow))
    assert not alone.one("run w").links
    assert alone.one("run w").attributes[names.LINK] == "resumed"


def test_after_a_crash_the_spans_are_those_of_the_record(traced, tmp_path, child):
    """A run that a killed process began: the new spans begin where it was taken up, and each node's time is true."""
    clock, flow = ManualClock(), two()

    async def dies(state: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(10)
        return {}

    dying = Workflow("two").add_node("a", lambda s: {}).add_node("b", dies).add_edge("a", "b").set_start("a")

    def work() -> None:
        drive(tmp_path / "store", dying, lambda *_: None, whole(dying), clock=ManualClock())

    assert child(work).answer() == "signal 9"
    clock.advance(100)

    async def story(engine: Engine) -> None:
        await (await engine.resume("r")).wait()

    drive(tmp_path / "store", flow, spans(traced.tracer), story, clock=clock)
    run, node = traced.one("run two"), traced.one("node b")
    assert run.start_time == node.start_time == clock.now()
    assert run.attributes[names.VERSION] == 3
    assert not traced.named("node a")


def test_a_rewind_and_a_fork_are_linked_to_what_they_go_on_from(traced):
    """To the run's own span before, and to that of the parent."""
    flow = two()

    async def story(engine: Engine) -> None:
        await (await engine.start(flow, {}, run_id="r")).wait()
        await (await engine.resume("r", at=1)).wait()
        await (await engine.fork("r@2", run_id="f")).wait()

    drive(MemoryLog(), flow, spans(traced.tracer), story)
    first, again, fork = traced.named("run two")
    assert again.links[0].context.span_id == first.context.span_id
    assert again.attributes[names.LINK] == "rewound"
    assert fork.links[0].context.span_id == again.context.span_id
    assert (fork.attributes[names.LINK], fork.attributes[names.RUN_ID]) == ("forked", "f")


def test_a_run_that_pauses_ends_its_span_where_it_stands_still(traced):
    """After its node, and at once where it waits; resuming it begins another."""
    flow = gate()

    async def story(engine: Engine) -> None:
        await stopped(flow)(engine)
        await engine.pause("r")
        await engine.get("r").wait()
        assert traced.one("run w").attributes[names.STATUS] == "paused"
        await went_on(flow)(engine)

    drive(MemoryLog(), flow, spans(traced.tracer), story)
    first, second = traced.named("run w")
    assert second.links[0].context.span_id == first.context.span_id
    assert second.attributes[names.STATUS] == "completed"


def test_a_call_that_nobody_saw_end_ends_with_its_node(traced):
    """Its outcome is unknown, as the record says."""

    async def body(state: Any, run: Any) -> dict[str, Any]:
        await run.effect("ask", asyncio.sleep, 30)
        return {}

    flow = Workflow("w").add_node("a", body).set_start("a")

    async def story(engine: Engine) -> None:
        run = await engine.start(flow, {}, run_id="r")
        while run.version < 2:
            await asyncio.sleep(0)
        await engine.cancel("r")
        await run.wait()

    drive(MemoryLog(), flow, spans(traced.tracer), story)
    call, node = traced.one("ask"), traced.one("node a")
    assert call.attributes[names.OUTCOME] == "unknown"
    assert call.end_time == node.end_time
    assert traced.one("run w").attributes[names.STATUS] == "cancelled"


def test_the_memory_of_spans_is_bounded(traced):
    """The oldest is forgotten when there are too many."""
    kept = _Kept({}, MAX_KEPT)
    span = traced.tracer.start_span("s")
    for number in range(MAX_KEPT + 5):
        kept.put(number.to_bytes(16, "big"), span)
    assert len(kept.texts) == MAX_KEPT
    assert kept.link((3).to_bytes(16, "big"), "resumed") is None
    assert kept.link(MAX_KEPT.to_bytes(16, "big"), "resumed") is not None


def test_without_the_package_the_sentence_names_the_extra(monkeypatch):
    """One sentence, which says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(MissingExtra, match=r"opentelemetry is not installed.*pip install 'eventflow\[otel\]'"):
        spans()


def test_without_a_provider_nothing_is_kept_and_nothing_breaks():
    """The global tracer of a program that has set up nothing makes no spans; the run ends as ever."""
    log, kept = MemoryLog(), {}
    drive(log, two(), spans(kept=kept), whole(two()))
    assert log.head("r").status == "completed"
    assert kept == {}
