"""Counts and durations: what is counted, as OpenTelemetry metrics and as Prometheus reads them."""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from eventflow import CheckpointPolicy, Engine, ManualClock, MemoryLog, RetryPolicy, Workflow
from eventflow.errors import MissingExtra, SettingsError
from eventflow.telemetry import Metrics, meters
from eventflow.telemetry.measures import INSTRUMENTS

QUIET = CheckpointPolicy(auto=False, on_error=False, at_shutdown=False)


def drive(flow: Workflow, *listeners: Any, story: Callable[[Engine], Any] | None = None, **options: Any) -> MemoryLog:
    """Run a workflow with listeners, to its end."""
    log = MemoryLog()

    async def work() -> None:
        given = {"checkpoints": QUIET, **options}
        async with Engine(log, workflows=[flow], listeners=listeners, **given) as engine:
            if story is not None:
                await story(engine)
            else:
                await (await engine.start(flow, {}, run_id="r")).wait()

    asyncio.run(work())
    return log


class Otel:
    """A real meter, and what it has counted: by instrument and attributes' values."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.listener = meters(provider.get_meter("test"))

    def read(self) -> dict[tuple[str, ...], float]:
        """The value of each counter, and the sum of each histogram."""
        found: dict[tuple[str, ...], float] = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = point.value if hasattr(point, "value") else point.sum
                        labels = [str(value) for value in dict(point.attributes).values()]
                        found[metric.name.removeprefix("eventflow."), *labels] = value
        return found


class Prometheus:
    """A page of metrics, read by the client's own parser."""

    def __init__(self) -> None:
        self.listener = Metrics()

    def read(self) -> dict[tuple[str, ...], float]:
        """The same, under OpenTelemetry's names."""
        found: dict[tuple[str, ...], float] = {}
        units = {"s": "_seconds", "By": "_bytes"}
        known = {one.name.replace(".", "_") + units.get(one.unit, ""): one for one in INSTRUMENTS}
        for family in text_string_to_metric_families(self.listener.text()):
            for sample in family.samples:
                if sample.name.endswith(("_total", "_sum")):
                    one = known[sample.name.removesuffix("_total").removesuffix("_sum")]
                    labels = [sample.labels[name.rpartition(".")[2]] for name in one.labels]
                    found[one.name.removeprefix("eventflow."), *labels] = sample.value
        return found


@pytest.fixture(params=[Otel, Prometheus])
def counted(request: pytest.FixtureRequest) -> Any:
    """Both ways of counting."""
    return request.param()


def lasting(clock: ManualClock, seconds: float, change: Any = None) -> Callable[[Any], Any]:
    """A body that takes its time."""

    async def body(state: Any) -> dict[str, Any]:
        clock.advance(seconds)
        return change or {}

    return body


def test_a_run_is_counted_with_its_transitions_and_times(counted):
    """Each counter by the workflow and, where that says more, by node and trigger; durations by the engine's clock."""
    clock = ManualClock()
    flow = Workflow("two").add_node("a", lasting(clock, 3)).add_node("b", lasting(clock, 1)).add_edge("a", "b")
    drive(flow.set_start("a"), counted.listener, clock=clock)
    assert counted.read() == {
        ("runs.started", "two"): 1, ("runs.completed", "two"): 1, ("transitions", "two", "a", "done"): 1,
        ("node.duration", "two", "a"): 3.0, ("node.duration", "two", "b"): 1.0,
    }  # fmt: skip


def test_calls_are_counted_by_kind_and_outcome_with_what_they_used(counted):
    """Finished and failed ones, tokens by direction, cost; and how long each took."""
    clock = ManualClock()

    async def asks(state: Any, run: Any) -> dict[str, Any]:
        used = {"calls": 1, "input_tokens": 12, "output_tokens": 3, "cost": 0.25}
        await run.effect("ask", lasting(clock, 2), {}, kind="model", mutating=False, usage=lambda _: used)
        await run.effect("pay", lasting(clock, 1), {})
        await run.effect("fail", lambda: 1 / 0, kind="tool")

    drive(Workflow("w").add_node("a", asks).set_start("a"), counted.listener, clock=clock)
    assert counted.read() == {
        ("runs.started", "w"): 1, ("runs.failed", "w"): 1, ("effects", "w", "model", "finished"): 1,
        ("effects", "w", "call", "finished"): 1, ("effects", "w", "tool", "failed"): 1, ("tokens", "w", "input"): 12,
        ("tokens", "w", "output"): 3, ("cost", "w"): 0.25, ("effect.duration", "w", "model"): 2.0,
        ("effect.duration", "w", "call"): 1.0, ("effect.duration", "w", "tool"): 0.0, ("node.duration", "w", "a"): 3.0,
    }  # fmt: skip


def test_what_calls_report_can_not_break_the_count(counted):
    """Negative, infinite and absurd numbers and texts are left out; the rest is counted."""

    async def asks(state: Any, run: Any) -> dict[str, Any]:
        for used in (
            {"input_tokens": -1, "cost": 0.5},
            {"cost": float("nan")},
            {"cost": "much"},
            {"input_tokens": True},
        ):
            await run.effect("ask", lambda: 1, kind="model", usage=lambda _, used=used: used)
        await run.effect("ask", lambda: 1, kind="model", usage=lambda _: {"input_tokens": 5})
        return {}

    drive(Workflow("w").add_node("a", asks).set_start("a"), counted.listener, clock=ManualClock())
    found = counted.read()
    assert found["effects", "w", "model", "finished"] == 5
    assert {key: value for key, value in found.items() if key[0] in ("tokens", "cost")} == {
        ("tokens", "w", "input"): 5, ("cost", "w"): 0.5,
    }  # fmt: skip


def test_failed_attempts_are_counted_by_node(counted):
    """Those that another attempt follows; the last one is the run's failure, or an edge's."""
    flow = Workflow("w").add_node("a", lambda s: 1 / 0, retry=RetryPolicy(attempts=3, delay=0)).set_start("a")
    drive(flow, counted.listener)
    found = counted.read()
    assert found["attempts.failed", "w", "a"] == 2
    assert found["runs.failed", "w"] == 1


def test_checkpoints_are_counted_with_their_bytes(counted):
    """A mark alone counts as one and has no bytes."""

    async def story(engine: Engine) -> None:
        run = await engine.start(flow, {}, run_id="r")
        await run.wait()

    flow = Workflow("w").add_node("a", lambda s: {"x": "y" * 900}).add_node("b", lambda s: {}).add_edge("a", "b")
    flow.set_start("a")
    policy = CheckpointPolicy(auto=False, every=2, after_node=("b",), on_error=False, at_shutdown=False)
    drive(flow, counted.listener, story=story, checkpoints=policy)
    found = counted.read()
    assert found["checkpoints", "w"] == 2
    assert found["checkpoint.size", "w"] > 100
    assert found["checkpoint.duration", "w"] > 0


def test_resumed_cancelled_and_forked_runs_are_counted(counted):
    """A rewind is a run that was taken up again, a fork one that was started."""
    flow = Workflow("w").add_node("a", lambda s: {}).add_node("b", lambda s: {}).add_edge("a", "b").set_start("a")
    slow = Workflow("slow").add_node("a", lambda s: asyncio.sleep(30)).set_start("a")

    async def story(engine: Engine) -> None:
        await (await engine.start(flow, {}, run_id="r")).wait()
        await (await engine.resume("r", at=1)).wait()
        await (await engine.fork("r@2", run_id="f")).wait()
        run = await engine.start(slow, {}, run_id="s")
        await engine.cancel("s")
        await run.wait()

    drive(flow, counted.listener, story=story)
    found = counted.read()
    assert (found["runs.started", "w"], found["runs.resumed", "w"], found["runs.completed", "w"]) == (2, 1, 3)
    assert found["runs.cancelled", "slow"] == 1


def test_no_run_and_no_word_of_the_user_s_is_a_label(counted):
    """Neither id nor input, state, tag, subject, key, answer or error's text."""

    async def calls(state: Any, run: Any) -> dict[str, Any]:
        await run.effect("pay", lambda card: "hunter2", "hunter2", key="hunter2")
        raise ValueError("hunter2")

    flow = Workflow("w").add_node("a", calls).set_start("a")

    async def story(engine: Engine) -> None:
        run = await engine.start(flow, {"x": "hunter2"}, run_id="hunter2", tags=["hunter2"], subject="hunter2")
        await run.wait()

    drive(flow, counted.listener, story=story)
    assert counted.read()["runs.failed", "w"] == 1
    assert "hunter2" not in str(counted.read())
    assert not isinstance(counted, Prometheus) or "hunter2" not in counted.listener.text()


def test_what_a_run_leaves_behind_is_forgotten(counted):
    """Nothing of a run that has ended is kept, so that a process may count for years."""
    flow = Workflow("w").add_node("a", lambda s: {}).set_start("a")
    metrics = Metrics()
    drive(flow, metrics, counted.listener)
    assert metrics._measuring._runs == {}


def test_each_instrument_has_one_name_and_says_what_it_counts():
    """No name twice, none empty, each with the workflow among its labels."""
    assert len({one.name for one in INSTRUMENTS}) == len(INSTRUMENTS)
    assert all(one.name.startswith("eventflow.") and one.text.endswith(".") for one in INSTRUMENTS)
    assert all(one.labels[0] == "eventflow.workflow" for one in INSTRUMENTS)


# --- as Prometheus reads it ----------------------------------------------------------------------------------------


def test_the_page_is_what_prometheus_reads():
    """Types, help, suffixes, buckets; names that would break the format are escaped."""
    metrics = Metrics()
    name = 'a"b\nc\\d'
    drive(Workflow(name).add_node("a", lambda s: {}).set_start("a"), metrics)
    text = metrics.text()
    assert "# TYPE eventflow_runs_started_total counter" in text
    assert "# TYPE eventflow_node_duration_seconds histogram" in text
    assert 'eventflow_runs_completed_total{workflow="a\\"b\\nc\\\\d"} 1.0' in text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert {one.labels.get("workflow") for one in samples} == {name}


def test_two_of_them_do_not_share_anything():
    """Each has a registry of its own, and the client's global one stays untouched."""
    from prometheus_client import REGISTRY  # noqa: PLC0415

    one, other = Metrics(), Metrics()
    drive(Workflow("w").add_node("a", lambda s: {}).set_start("a"), one)
    assert "eventflow_runs_started_total{" in one.text()
    assert "eventflow_runs_started_total{" not in other.text()
    assert not [family for family in REGISTRY.collect() if family.name.startswith("eventflow")]


def test_it_is_served_on_this_machine_alone_unless_said_otherwise():
    """Over HTTP, at a free port where 0 is given, until it is closed."""
    metrics = Metrics()
    served = metrics.serve(0)
    try:
        assert served.host == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=10) as page:
            assert page.headers["Content-Type"].startswith("text/plain")
            assert page.read().decode() == metrics.text()
        with pytest.raises(SettingsError, match=f"metrics can't be served at 127.0.0.1:{served.port}"):
            metrics.serve(served.port)
    finally:
        served.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=10)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000)])
def test_an_address_that_can_not_be_had_is_one_sentence(host, port):
    """Whatever is wrong with it."""
    with pytest.raises(SettingsError, match="choose another address"):
        Metrics().serve(port, host)


def test_without_the_package_the_sentence_names_the_extra(monkeypatch):
    """One sentence, which says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(MissingExtra, match=r"pip install 'eventflow\[otel\]'"):
        meters()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"prometheus_client is not installed.*'eventflow\[metrics\]'"):
        Metrics()
