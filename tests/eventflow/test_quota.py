"""Limits on histories, events and stores: told early, met late, and nothing is lost that was recorded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from eventflow import NO_QUOTA, Engine, LimitNear, Map, Parallel, Quota, SystemClock, Wait, Workflow, open_log
from eventflow.errors import NotPlainData, RunFailed, SettingsError, Stopped, StoreOverQuota
from eventflow.event import RunParked
from eventflow.log import Log, MemoryLog, held_bytes
from eventflow.quota import EARLY, LARGE_EVENT, SMALLEST_EVENT, beyond
from eventflow.recovery import history
from eventflow.retention import compact_run
from eventflow.run import since
from eventflow.run.tally import Store, bytes_of
from eventflow.telemetry import log_lines
from eventflow.verification import verify_store

MANY = 1_000  # a step more than any test takes


def loop(steps: int = MANY, *, load: Callable[[int], Any] = lambda _: "") -> Workflow:
    """A node that counts, with something in each step."""

    async def step(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": state["n"] + 1, "load": load(state["n"])}

    flow = Workflow("loop").add_node("step", step).add_node("end", lambda _: {})
    return flow.add_edge("step", "step", when=lambda s: s["n"] < steps).add_edge("step", "end").set_start("step")


def noise(size: int) -> Callable[[int], str]:
    """Text of a size that does not compress."""
    return lambda number: random.Random(number).randbytes(size // 2).hex()  # noqa: S311


def drive(
    store: Any, flow: Workflow, name: str = "r", *, data: Any = None, **options: Any
) -> tuple[str, list[LimitNear]]:
    """Start a run, or take it up again, and drive it until it is over or parked; its status, and what was told."""
    heard: list[LimitNear] = []

    async def work() -> str:
        listeners = [lambda _, notice: heard.append(notice) if isinstance(notice, LimitNear) else None]
        async with Engine(store, workflows=[flow], listeners=listeners, **options) as engine:
            there = engine.log.head(name) is not None
            run = await (engine.resume(name) if there else engine.start(flow, data or {"n": 0}, run_id=name))
            return (await run.wait()).status

    return asyncio.run(work()), heard


def events(store: Path, name: str = "r") -> list[Any]:
    """The events of a run's own history."""
    log = open_log(store, readonly=True)
    try:
        head = log.head(name)
        assert head is not None
        return list(history(log, head.run_key, since(log, head.run_key) + 1, head.version))
    finally:
        log.close()


# --- a run's history -----------------------------------------------------------------------------------------------


def test_a_run_is_parked_at_its_limit_after_it_was_told_of(tmp_path: Path) -> None:
    """It is told of at a fifth, once; at the limit the node under way has ended, and the last event says what to do."""
    status, heard = drive(tmp_path / "s", loop(), quota=Quota(run_events=100, run_bytes=None))
    assert (status, [(one.what, one.used, one.limit) for one in heard]) == (
        "parked",
        [("run_events", 100 // EARLY, 100)],
    )
    *before, last = events(tmp_path / "s")
    assert len(before) == 100
    assert isinstance(last.event, RunParked)
    for words in ("100 of 100 events", "`eventflow compact r --before 100`", "run_events", "`eventflow resume r`"):
        assert words in last.event.why


def test_a_compacted_run_goes_on_and_is_counted_from_its_origin(tmp_path: Path) -> None:
    """Without it, taking the run up again parks it again; nothing of its state is lost on the way."""
    store, flow, quota = tmp_path / "s", loop(150), Quota(run_events=100, run_bytes=None)
    assert drive(store, flow, quota=quota)[0] == "parked"
    assert drive(store, flow, quota=quota)[0] == "parked"
    log = open_log(store)
    compact_run(log, SystemClock(), "r", 95)
    log.close()
    assert drive(store, flow, quota=quota)[0] == "completed"
    log = open_log(store, readonly=True)
    *_, report = verify_store(log)
    assert report.sound
    log.close()


def test_a_run_whose_limit_was_raised_goes_on(tmp_path: Path) -> None:
    """And one without a limit runs to its end, however long its history is."""
    store, flow = tmp_path / "s", loop(130)
    assert drive(store, flow, quota=Quota(run_events=50))[0] == "parked"
    assert drive(store, flow, quota=Quota(run_events=100))[0] == "parked"
    assert drive(store, flow, quota=NO_QUOTA) == ("completed", [])


def test_bytes_are_held_against_their_limit_over_many_take_ups(tmp_path: Path) -> None:
    """What other processes recorded is counted too, values outside the events included, within one node of the limit."""
    store, limit = tmp_path / "s", 300_000
    flow = loop(load=noise(8_000))
    stopping = loop(20, load=noise(8_000))
    assert drive(store, stopping, quota=Quota(run_bytes=10**9))[0] == "completed"  # some history, all in one life
    status, heard = drive(store, flow, "q", quota=Quota(run_events=None, run_bytes=limit))
    assert (status, [one.what for one in heard]) == ("parked", ["run_bytes"])
    log = open_log(store, readonly=True)
    head = log.head("q")
    assert head is not None
    counted = bytes_of(log, head.run_key, 1, head.version)
    log.close()
    assert limit <= counted <= limit + 10_000


def test_what_was_there_before_a_take_up_is_counted(tmp_path: Path) -> None:
    """A run of many large events that another process drove is at its limit soon after it is taken up."""
    store = tmp_path / "s"
    assert drive(store, loop(load=noise(4_000)), quota=Quota(run_events=130, run_bytes=None))[0] == "parked"
    assert drive(store, loop(load=noise(100)), quota=Quota(run_events=None, run_bytes=200_000))[0] == "parked"
    assert len(events(store)) < 400  # a count of the new ones alone would have let it go on


def test_a_history_in_memory_has_no_limit_unless_asked_for() -> None:
    """It ends with its process, and nothing there could be compacted."""
    assert drive("memory", loop(400), quota=Quota(run_events=100))[0] == "parked"
    assert drive("memory", loop(400)) == ("completed", [])


def test_a_result_says_why_a_run_was_parked(tmp_path: Path) -> None:
    """Whoever waits for it gets the same sentence, as Stopped."""

    async def work() -> None:
        async with Engine(tmp_path / "s", quota=Quota(run_events=20)) as engine:
            run = await engine.start(loop(), {"n": 0}, run_id="r")
            with pytest.raises(
                Stopped, match="was parked: its history has 20 of 20 events; `eventflow compact r"
            ) as caught:
                await run.result()
            assert caught.value.exit_code == 7

    asyncio.run(work())


def test_a_node_that_never_ends_is_stopped_by_its_calls(tmp_path: Path) -> None:
    """A tenth beyond the limit no further call is begun; the run is parked in that node, and every call has its end."""

    async def work(_: Any, run: Any) -> None:
        for number in range(MANY):
            await run.effect("call", lambda: 1, key=str(number), mutating=False)

    flow = Workflow("calls").add_node("work", work).set_start("work")
    assert drive(tmp_path / "s", flow, quota=Quota(run_events=200))[0] == "parked"
    recorded = events(tmp_path / "s")
    assert beyond(200) <= len(recorded) <= beyond(200) + 2
    kinds = [type(one.event).__name__ for one in recorded]
    assert kinds.count("EffectStarted") == kinds.count("EffectFinished")


def test_branches_that_have_begun_come_to_their_end(tmp_path: Path) -> None:
    """A node that splits is not cut off; its run is parked before the next one."""

    async def twice(item: int) -> int:
        return item * 2

    branched = (
        Workflow("split")
        .add_node("all", Map(twice, over="items", writes="done"))
        .add_node("end", lambda _: {})
        .add_edge("all", "end")
        .set_start("all")
    )
    status, _ = drive(tmp_path / "s", branched, data={"items": list(range(60))}, quota=Quota(run_events=30))
    assert status == "parked"
    *_, joined, parked = events(tmp_path / "s")
    assert (type(joined.event).__name__, parked.event.node) == ("Transitioned", "end")


def test_a_waiting_run_is_parked_when_it_goes_on(tmp_path: Path) -> None:
    """What it was sent is taken first: a message that was acknowledged is never lost to a limit."""

    async def work() -> None:
        flow = Workflow("asks").add_node("step", lambda s: {"n": s["n"] + 1}).add_node("wait", Wait(signal="go"))
        flow.add_node("end", lambda _: {}).add_edge("step", "step", when=lambda s: s["n"] < 20).add_edge("step", "wait")
        flow.add_edge("wait", "end").set_start("step")
        async with Engine(tmp_path / "s", quota=Quota(run_events=23)) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            while run.status != "waiting":
                await asyncio.sleep(0.01)
            await engine.signal("r", "go")
            assert (await run.wait()).status == "parked"
            assert run.state.node == "end"

    asyncio.run(work())


@pytest.mark.parametrize("split", [False, True], ids=["alone", "in branches"])
def test_what_stood_still_when_the_limit_came_is_let_come_to_its_end(tmp_path: Path, split: bool) -> None:  # noqa: FBT001
    """A run that waits, itself or in its branches, takes what it waits for, and is parked before the next node."""
    flow = Workflow("waits").add_node("end", lambda _: {})
    flow.add_node("wait", Parallel({"one": Wait(signal="go"), "two": lambda _: {}}) if split else Wait(signal="go"))
    flow.add_edge("wait", "end").set_start("wait")

    async def work(quota: Quota, *, send: bool) -> str:
        async with Engine(tmp_path / "s", workflows=[flow], quota=quota) as engine:
            run = await (engine.resume("r") if send else engine.start(flow, {}, run_id="r"))
            while run.status != "waiting":
                await asyncio.sleep(0.01)
            if send:
                await engine.signal("r", "go")
                return (await run.wait()).status
            return run.status

    assert asyncio.run(work(NO_QUOTA, send=False)) == "waiting"
    assert asyncio.run(work(Quota(run_events=1, run_bytes=None), send=True)) == "parked"
    assert events(tmp_path / "s")[-1].event.node == "end"


# --- events --------------------------------------------------------------------------------------------------------


def test_a_large_event_is_told_of_once_for_each_run(tmp_path: Path) -> None:
    """It is recorded all the same, unless a limit is set."""
    flow = loop(3, load=noise(LARGE_EVENT + 2))
    status, heard = drive(tmp_path / "s", flow)
    assert (status, [(one.what, one.limit) for one in heard]) == ("completed", [("event_bytes", None)])
    assert heard[0].used >= LARGE_EVENT
    assert len(drive(tmp_path / "s", flow, "other")[1]) == 1


def test_an_event_beyond_its_limit_fails_the_run_and_the_input_is_refused(tmp_path: Path) -> None:
    """As one beyond what the format allows does; nothing of it is recorded, a message is refused where it is sent."""
    quota, large = Quota(event_bytes=10_000), "x" * 20_000

    async def work() -> None:
        waits = Workflow("waits").add_node("wait", Wait(signal="go")).set_start("wait")
        async with Engine(tmp_path / "s", quota=quota) as engine:
            with pytest.raises(NotPlainData, match="event_bytes"):
                await engine.start(loop(), {"n": 0, "load": large}, run_id="no")
            assert engine.log.head("no") is None
            run = await engine.start(loop(load=lambda _: large), {"n": 0}, run_id="r")
            with pytest.raises(RunFailed, match="event_bytes is 10,000"):
                await run.result()
            await engine.start(waits, {}, run_id="w")
            with pytest.raises(NotPlainData, match="event_bytes"):
                await engine.signal("w", "go", large)

    asyncio.run(work())


# --- stores --------------------------------------------------------------------------------------------------------


class Clocked:
    """What `Store.look` asks of a log and a clock."""

    def __init__(self) -> None:
        self.held, self.seconds = 0, 0.0

    def held_bytes(self) -> int:
        """Its size."""
        return self.held

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds


@pytest.mark.parametrize(
    ("held", "asks", "full", "spent"),
    [(799, False, False, False), (800, True, False, False), (999, True, False, False), (1_000, True, True, False),
     (1_100, True, True, True)],
)  # fmt: skip
def test_a_store_is_told_of_then_closed_to_new_runs_then_to_all(held: int, asks: bool, full: bool, spent: bool) -> None:  # noqa: FBT001
    """At 80 per cent, at the limit, and when the reserve of a tenth is used up; the word is given once."""
    store, asked = Store(Quota(store_bytes=1_000)), Clocked()
    asked.held = held
    store.look(asked, asked)  # type: ignore[arg-type] # it asks no more of them
    assert (store.asks, store.full, store.spent) == (asks, full, spent)
    assert (store.news("r", 1) is not None, store.news("r", 1)) == (asks, None)
    assert store.asks is spent
    asked.held = 0
    store.look(asked, asked)  # type: ignore[arg-type]
    assert store.full is full  # it was looked at a moment ago
    asked.seconds = 2.0
    store.look(asked, asked)  # type: ignore[arg-type]
    assert (store.asks, store.full, store.spent) == (False, False, False)


def test_a_full_store_takes_no_new_run_and_lets_the_others_end(tmp_path: Path) -> None:
    """The refusal is one sentence with exit code 6; a run that is there is taken up and comes to its end."""
    store, flow = tmp_path / "s", loop(40)
    assert drive(store, flow, "old", quota=Quota(run_events=20))[0] == "parked"
    log = open_log(store, readonly=True)
    held = held_bytes(log)
    log.close()

    async def work() -> None:
        heard: list[Any] = []
        async with Engine(
            store, workflows=[flow], quota=Quota(store_bytes=held), listeners=[lambda _, n: heard.append(n)]
        ) as engine:
            with pytest.raises(StoreOverQuota, match="store prune") as caught:
                await engine.start(flow, {"n": 0}, run_id="new")
            assert caught.value.exit_code == 6
            with pytest.raises(StoreOverQuota):
                await engine.fork("old@3", run_id="fork")
            run = await engine.resume("old")
            assert (await run.wait()).status == "completed"
            assert (await engine.start(flow, {"n": 0}, run_id="old")).status == "completed"  # no new one
            assert [one.what for one in heard if isinstance(one, LimitNear)] == ["store_bytes"]

    asyncio.run(work())
    assert drive(store, flow, "new", quota=Quota(store_bytes=10 * held))[0] == "completed"


def test_runs_stand_still_when_the_reserve_is_used_up_too(tmp_path: Path) -> None:
    """They are parked between two nodes, and go on where there is room again."""
    store, flow = tmp_path / "s", loop(40)
    assert drive(store, flow, quota=Quota(run_events=20))[0] == "parked"
    assert drive(store, flow, quota=Quota(store_bytes=20_000))[0] == "parked"
    assert "store prune" in events(store)[-1].event.why
    assert drive(store, flow)[0] == "completed"


def test_a_log_without_a_size_of_its_own_is_asked_for_its_usage() -> None:
    """A backend of one's own needs no further method."""
    log: Log = MemoryLog()
    asyncio.run(_filled(log))
    assert held_bytes(log) == sum(log.usage().bytes.values()) > 0


async def _filled(log: Log) -> None:
    async with Engine(log) as engine:
        run = await engine.start(loop(5), {"n": 0})
        await run.result()


# --- the values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_events": 0},
        {"run_bytes": -1},
        {"store_bytes": 1.5},
        {"event_bytes": SMALLEST_EVENT - 1},
        {"run_events": True},
    ],
)
def test_what_can_be_no_limit_is_refused(wrong: dict[str, Any]) -> None:
    """With a sentence that names it."""
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Quota(**wrong)


def test_a_notice_is_a_warning_in_the_log(tmp_path: Path) -> None:
    """With its numbers, under a name of its own."""

    async def work() -> None:
        async with Engine(tmp_path / "s", quota=Quota(run_events=50), listeners=[log_lines()]) as engine:
            await (await engine.start(loop(15), {"n": 0}, run_id="r")).result()

    with capture_logs() as lines:
        asyncio.run(work())
    found = [line for line in lines if line["event"] == "limit.near"]
    assert [(one["log_level"], one["what"], one["used"], one["limit"]) for one in found] == [
        ("warning", "run_events", 10, 50)
    ]
