"""A target for recoveries, kept by a real run: measured as it goes, on clocks that run and on those that stand still."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from freezegun import freeze_time
from structlog.testing import capture_logs

from eventflow import CheckpointPolicy, Engine, ManualClock, RecoveryOutOfReach, Workflow, extend
from eventflow.clock import SystemClock
from eventflow.costs import BELIEVED, FOLD, LOAD
from eventflow.engine import stats_of
from eventflow.log import LmdbLog
from eventflow.telemetry import log_lines, spans

TARGET = CheckpointPolicy(recovery="5 ms")


class Data(TypedDict):
    """A state that grows."""

    n: int
    items: Annotated[list[str], extend]


def loop(steps: int, size: int = 50) -> Workflow:
    """A node that adds a text to a list in each step."""

    async def step(state: Data) -> dict[str, Any]:
        return {"n": state["n"] + 1, "items": [random.Random(state["n"]).randbytes(size // 2).hex()]}  # noqa: S311

    flow = Workflow("loop", state=Data).add_node("step", step).add_node("end", lambda _: None)
    return flow.add_edge("step", "step", when=lambda s: s["n"] < steps).add_edge("step", "end").set_start("step")


def drive(store: Any, flow: Workflow, **options: Any) -> list[Any]:
    """Drive a run `r` to its end; its stats, the bytes of its events, its snapshots' versions."""

    async def tell() -> list[Any]:
        async with Engine(store, workflows=[flow], **options) as engine:
            run = await engine.start(flow, {"n": 0, "items": []}, run_id="r")
            await run.result()
            data = [one.data for one in engine.log.feed(0, 10**6)]
            return [run.stats, data, [mark.version for mark in engine.checkpoints("r") if mark.size]]

    return asyncio.run(tell())


def test_snapshots_are_as_far_apart_as_the_target_lets_them():
    """A looser target makes fewer, the default proportion the most, for a state that stays small."""
    flow = loop(1_500, 2)
    loose, middle, default = (
        len(drive("memory", flow, clock=ManualClock(), checkpoints=policy)[2])
        for policy in (CheckpointPolicy(recovery="1 s"), TARGET, CheckpointPolicy())
    )
    assert loose == 0 < middle < default


def test_a_clock_that_stands_still_makes_the_same_history_byte_for_byte():
    """What is not measured is taken for what it always was, so snapshots fall on the same events."""
    first, second = (drive("memory", loop(600), clock=ManualClock(), checkpoints=TARGET) for _ in range(2))
    assert first[1] == second[1]
    assert first[2] == second[2] != []
    assert first[0].measured == second[0].measured
    assert first[0].measured.checkpoint_seconds == 0.0


def test_nothing_is_measured_while_time_is_frozen():
    """Under freezegun the processor's own time does not count either: the constants stay."""
    seen = []

    async def tell() -> None:
        flow = loop(400)
        async with Engine(workflows=[flow], checkpoints=CheckpointPolicy(recovery="2 s")) as engine:
            run = await engine.start(flow, {"n": 0, "items": []}, run_id="r")
            journal = engine._desk.seat(engine.log.head("r").run_key).driver.journal
            await run.result()
            seen.append(journal.gauge.costs)

    with freeze_time("2026-11-24 10:00", real_asyncio=True):
        asyncio.run(tell())
    assert (seen[0].fold, seen[0].load, seen[0].folded) == (FOLD, LOAD, BELIEVED)


def test_what_events_cost_is_measured_as_they_come():
    """On a clock that runs the constants give way; the processor's time is what is counted."""
    seen = []

    async def tell() -> None:
        flow = loop(400)
        async with Engine(workflows=[flow], checkpoints=CheckpointPolicy(recovery="2 s")) as engine:
            run = await engine.start(flow, {"n": 0, "items": []}, run_id="r")
            journal = engine._desk.seat(engine.log.head("r").run_key).driver.journal
            await run.result()
            seen.append(journal.gauge.costs)

    asyncio.run(tell())
    assert seen[0].fold != FOLD
    assert 1e-6 < seen[0].fold < 1e-2
    assert 64 < seen[0].folded <= 400


def test_what_a_snapshot_costs_is_measured_once_it_has_grown():
    """A snapshot that is large enough to be timed is read again, and what a byte takes is known."""
    seen = []

    async def tell() -> None:
        flow = loop(200, 1_500)
        async with Engine(workflows=[flow], checkpoints=CheckpointPolicy(recovery="2 s", every=50)) as engine:
            run = await engine.start(flow, {"n": 0, "items": []}, run_id="r")
            journal = engine._desk.seat(engine.log.head("r").run_key).driver.journal
            await run.result()
            seen.append(journal.gauge.costs)

    asyncio.run(tell())
    assert seen[0].load != LOAD
    assert seen[0].loaded > 16 << 10


def test_a_run_that_is_taken_up_begins_with_what_its_recovery_took(tmp_path):
    """The first estimate after a crash or a stop comes from that recovery itself."""
    flow = loop(300)

    async def tell() -> tuple[int, float]:
        policy = CheckpointPolicy(recovery="2 s", at_shutdown=False)
        async with Engine(tmp_path / "s", workflows=[flow], checkpoints=policy) as engine:
            run = await engine.start(flow, {"n": 0, "items": []}, run_id="r")
            while run.version < 100:
                await asyncio.sleep(0)
        async with Engine(tmp_path / "s", workflows=[flow], checkpoints=policy) as engine:
            stood = engine.log.head("r").version
            run = await engine.resume("r")
            costs = engine._desk.seat(engine.log.head("r").run_key).driver.journal.gauge.costs
            known = costs.folded - BELIEVED, costs.fold
            assert run.version < stood + 64, "or it has measured events of its own"
            await run.result()
            return stood, *known

    stood, folded, fold = asyncio.run(tell())
    assert folded >= stood >= 100
    assert fold != FOLD


def test_a_state_that_can_t_be_read_in_time_is_said_once_and_snapshotted_in_proportion():
    """Listeners hear of it with both times, however long the run goes on, and snapshots stay few."""
    heard = []
    flow = loop(600, 4_000)
    stats, _, marks = drive(
        "memory", flow, checkpoints=CheckpointPolicy(recovery="300 us"),
        listeners=[lambda state, notice: heard.append(notice) if isinstance(notice, RecoveryOutOfReach) else None],
    )  # fmt: skip
    assert len(heard) == 1
    assert (heard[0].run_id, heard[0].target) == ("r", 0.0003)
    assert heard[0].estimate > heard[0].target
    assert not stats.measured.in_reach
    assert 1 < len(marks) < 60


def test_a_target_out_of_reach_is_a_line_of_the_log():
    """One warning with both times, and nothing else of it is counted or drawn."""
    with capture_logs() as lines:
        drive(
            "memory", loop(300, 4_000), checkpoints=CheckpointPolicy(recovery="300 us"), listeners=[log_lines(), spans()]
        )  # fmt: skip
    [line] = [line for line in lines if line["event"] == "recovery.out_of_reach"]
    assert line["log_level"] == "warning"
    assert line["target"] == 0.0003 < line["seconds"]


@pytest.mark.parametrize("options", [{"every": 20}, {"after_node": True}, {"interval": 0.001}])
def test_other_options_go_on_beside_it(options):
    """A policy with a target makes every mark that it makes without one."""
    kind = next(iter(options))

    async def tell() -> list[int]:
        flow = loop(150)
        policy = CheckpointPolicy(recovery="1 s", **options)
        async with Engine(workflows=[flow], checkpoints=policy) as engine:
            await (await engine.start(flow, {"n": 0, "items": []}, run_id="r")).result()
            return [mark.version for mark in engine.checkpoints("r") if kind in mark.kinds]

    made = asyncio.run(tell())
    assert len(made) >= {"every": 7, "after_node": 150, "interval": 1}[kind]


# --- in numbers ----------------------------------------------------------------------------------------------------


def test_stats_count_what_the_history_has(tmp_path: Path):
    """Events, bytes, times and checkpoints are those of the log, whoever asks."""
    stats, _, versions = drive(tmp_path / "s", loop(200), checkpoints=CheckpointPolicy(every=50))
    log = LmdbLog(tmp_path / "s", readonly=True)
    try:
        head = log.head("r")
        assert head is not None
        read = stats_of(log, head, None)
        assert read.bytes == sum(len(one.data) for one in log.read(head.run_key, 1, head.version))
        assert (read.events, read.updated) == (head.version, head.updated)
        marks = log.checkpoints(head.run_key)
        assert (read.checkpoints, read.snapshots) == (len(marks), len(versions))
        assert read.snapshot_bytes == sum(mark.size for mark in marks)
        assert read.measured is None
        assert (stats.events, stats.bytes, stats.began) == (read.events, read.bytes, read.began)
    finally:
        log.close()


def test_stats_of_a_driven_run_tell_what_checkpoints_cost():
    """As many as were made, their seconds, and their share of the time the run was driven."""
    stats, _, versions = drive("memory", loop(200), clock=SystemClock(), checkpoints=CheckpointPolicy(every=50))
    measured = stats.measured
    assert measured.snapshots == len(versions) == measured.checkpoints
    assert 0 < measured.checkpoint_seconds < measured.driven
    assert measured.overhead == pytest.approx(100 * measured.checkpoint_seconds / measured.driven)
    assert (measured.target, measured.recovery, measured.in_reach) == (None, 0.0, True)
    assert measured.snapshot_bytes >= stats.snapshot_bytes


def test_a_history_shorter_than_a_second_has_no_wild_rate():
    """An hour's events are not reckoned from a millisecond."""
    stats, *_ = drive("memory", loop(3), clock=ManualClock())
    assert stats.events_per_hour == stats.events * 3_600
    assert stats.bytes_per_day == stats.bytes * 86_400


def test_a_fork_counts_its_own_events():
    """What it continues is its parent's."""

    async def tell() -> tuple[int, int]:
        flow = loop(10)
        async with Engine(workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0, "items": []}, run_id="r")).result()
            fork = await engine.fork("r@8", run_id="f")
            await fork.result()
            return fork.stats.events, fork.version - 8

    counted, own = asyncio.run(tell())
    assert counted == own
