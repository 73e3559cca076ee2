"""Retention: rules and what they select, what stays all the same, pins and holds, compaction while a run goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eventflow import Engine, RetentionPolicy, Workflow
from eventflow.checkpoint import Checkpoint, CheckpointPolicy
from eventflow.clock import NS, ManualClock
from eventflow.codec import blob_names, read_events
from eventflow.errors import NotFound, RunGuarded, SettingsError, VersionCompacted
from eventflow.event import Failure, RunFailed, RunHeld
from eventflow.log import LmdbLog, MemoryLog, Query
from eventflow.recovery import recover, walk
from eventflow.retention import blobs_of, compact_run, hold, pin, planned, prune, release, sweep, unpin
from eventflow.retention.policy import Candidate, expired_marks, selected
from eventflow.testing.author import Author
from eventflow.testing.contract.maker import LONG, MOVE, moved
from eventflow.verification import verify_run, verify_store

DAY = 86_400 * NS


# --- rules ---------------------------------------------------------------------------------------------------------


def one(number: int, updated: int, size: int = 10, workflow: str = "a") -> Candidate:
    """A run that is over."""
    return Candidate(bytes([number]), workflow, updated, size)


@pytest.mark.parametrize(
    ("policy", "gone"),
    [
        (RetentionPolicy(max_age=5), [1, 2]),
        (RetentionPolicy(keep=1), [1, 2]),
        (RetentionPolicy(keep=0), [1, 2, 3, 4]),
        (RetentionPolicy(max_age=5, keep=2), [1]),
        (RetentionPolicy(max_bytes=25), [1, 2]),
        (RetentionPolicy(max_bytes=0, keep=1), [1, 2]),
        (RetentionPolicy(max_bytes=1000), []),
    ],
    ids=str,
)
def test_rules_take_the_oldest(policy: RetentionPolicy, gone: list[int]) -> None:
    """By age, count, and size; the newest of each workflow that are kept are never taken."""
    runs = [one(1, 1 * NS), one(2, 3 * NS), one(3, 8 * NS), one(4, 9 * NS, workflow="b")]
    assert selected(policy, runs, 10 * NS) == [bytes([number]) for number in gone]


def test_tiers_keep_the_newest_of_each_hour_and_day() -> None:
    """And so many of the newest; those made by hand are not counted, and the newest one stays."""
    marks = [Checkpoint(version, ("auto",), version * DAY // 4) for version in range(1, 41)]
    marks[0] = Checkpoint(1, ("manual",), DAY // 4)
    now = 40 * DAY // 4
    kept = {mark.version for mark in marks} - set(expired_marks(RetentionPolicy(last=2, daily=3), marks, now))
    assert kept == {1, 35, 39, 40}
    kept = {mark.version for mark in marks} - set(expired_marks(RetentionPolicy(hourly=8), marks, now))
    assert kept == {1, 39, 40}


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": -1},
        {"keep": "x"},
        {"last": True},
        {"max_age": float("nan")},
        {"max_age": "old"},
        {"max_age": "30"},
        {"workflow": 3},
        {"statuses": 1},
        {"statuses": ("running",)},
        {"statuses": ("x",)},
    ],
)
def test_rules_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    """With a sentence that says which."""
    with pytest.raises(SettingsError):
        RetentionPolicy(**wrong)


def test_an_age_is_a_span_or_seconds() -> None:
    """Both ways of saying it are one rule."""
    assert RetentionPolicy(max_age="30d") == RetentionPolicy(max_age=30 * 86_400)
    assert str(RetentionPolicy(max_age="1h")) == "retention: older than 3600 s"


# --- pruning -------------------------------------------------------------------------------------------------------


def ended(author: Author, name: str, **more: Any) -> None:
    """A run that failed."""
    author.add(author.start(name, **more), moved("x", LONG), RunFailed("a", Failure("E", "broke")), status="failed")


def test_a_plan_that_was_shown_is_what_is_done() -> None:
    """A run that is over since stays, though the rules would take it now."""
    log = MemoryLog()
    author = Author(log)
    ended(author, "shown")
    plan = planned(log, RetentionPolicy(keep=0), author.clock.now())
    ended(author, "later")
    assert prune(log, RetentionPolicy(keep=0), clock=author.clock, plan=plan).runs == ["shown"]
    assert [one.head.run_id for one in log.runs(Query())] == ["later"]


def test_what_somebody_needs_stays_and_says_why() -> None:
    """Pinned, held, with a fork that stays, with messages waiting; and what is not over is no question at all."""
    log = MemoryLog()
    author = Author(log)
    for name in ("pinned", "held", "parent", "goes"):
        ended(author, name)
    author.start("open")
    pin(log, author.clock, "pinned", why="nice")
    hold(log, author.clock, "held", why="court")
    parent = log.head("parent")
    assert parent is not None
    author.fork(parent, 2, "fork")
    before = log.position()
    plan = planned(log, RetentionPolicy(keep=0), author.clock.now())
    assert [one.head.run_id for one in plan.runs] == ["goes"]
    assert {one.run_id: one.why for one in plan.stays} == {
        "pinned": "pinned: nice", "held": "on hold: court", "parent": "run fork, which stays, continues its history",
    }  # fmt: skip
    assert log.position() == before
    done = prune(log, RetentionPolicy(keep=0), clock=author.clock)
    assert (done.runs, done.freed.blobs) == (["goes"], 0)
    unpin(log, author.clock, "pinned")
    release(log, author.clock, "held", why="over")
    fork = log.head("fork")
    assert fork is not None
    author.add(fork, RunFailed("a", Failure("E", "broke")), status="failed")
    done = prune(log, RetentionPolicy(keep=0), clock=author.clock)
    assert sorted(done.runs) == ["fork", "held", "parent", "pinned"]
    assert done.runs.index("fork") < done.runs.index("parent")
    assert done.freed.blobs == 1
    assert [one.head.run_id for one in log.runs(Query())] == ["open"]


def test_a_run_that_moves_on_meanwhile_stays() -> None:
    """What the plan speaks of is looked at again in the transaction that would remove it."""
    log = MemoryLog()
    author = Author(log)
    ended(author, "r")
    head = log.head("r")
    assert head is not None

    class Busy:
        """A log whose run is taken up just before it would be removed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def write(self, batch: Any) -> Any:
            """Another write comes first."""
            if getattr(batch[0], "delete_run", None) is not None:
                author.add(head, MOVE)
            return log.write(batch)

    done = prune(Busy(), RetentionPolicy(keep=0), clock=author.clock)  # type: ignore[arg-type]
    assert done.runs == []
    assert "expected version 3" in done.stays[0].why
    assert log.head("r") is not None


def test_checkpoints_go_by_tiers_and_every_version_stays_reachable() -> None:
    """Marks and snapshots of any run, also one that is not over; each removal is an event of the store."""
    log = MemoryLog()
    author = Author(log)
    head = author.start("r")
    for _ in range(4):
        head = author.add(head, moved("x", head.version))
        head = author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(head.version, ("auto",), 5),))
    states = [recover(log, head, version).state for version in range(1, head.version + 1)]
    done = prune(log, RetentionPolicy(last=1), clock=author.clock)
    assert done.checkpoints == 3
    assert len(log.checkpoints(head.run_key)) == 1
    assert [recover(log, head, version).state for version in range(1, head.version + 1)] == states


def test_nothing_is_swept_where_something_cant_be_read() -> None:
    """A blob that an event needs and that is gone already: the sweep says so, and removes nothing."""
    log = MemoryLog()
    author = Author(log)
    head = author.add(
        author.start("r"), moved("list", [f"{number:03}" * 300 for number in range(30)]), moved("x", LONG)
    )
    author.snapshot(head)
    pieces = blobs_of(log, head)
    lost = next(name for name in pieces if name not in _of_events(log, head))
    log._blobs.pop(lost)
    kept = dict(log._blobs)
    with pytest.raises(Exception, match="missing"):
        sweep(log)
    assert log._blobs == kept


def _of_events(log: MemoryLog, head: Any) -> set[bytes]:
    return blob_names(log.read(head.run_key, 1, head.version))


def test_a_hold_needs_a_reason() -> None:
    """So does its end; both are events that say who."""
    log = MemoryLog()
    author = Author(log)
    ended(author, "r")
    for act in (hold, release):
        with pytest.raises(SettingsError, match="why"):
            act(log, author.clock, "r", why=" ")
    hold(log, author.clock, "r", why="court", actor="ann")
    last = read_events(log.feed(log.position() - 1, 1), log.blobs)[0].event
    assert last == RunHeld("r", log.guards()[0].run_key, "ann", "court")
    assert [(guard.actor, guard.why) for guard in log.guards()] == [("ann", "court")]


# --- compaction ----------------------------------------------------------------------------------------------------


def test_a_compacted_run_is_verified_and_walked_from_its_origin(tmp_path: Path) -> None:
    """`verify` says how many begin late and finds nothing wrong; a walk begins with the origin."""
    log = LmdbLog(tmp_path / "store")
    author = Author(log)
    head = author.start("r", {"n": 0})
    for number in range(20):
        head = author.add(head, moved("n", number), vouch=author.snapshot(head) if number % 7 == 3 else None)
    states = {recorded.version: state for recorded, state in walk(log, head)}
    compact_run(log, author.clock, "r", 11)
    assert [(recorded.version, state) for recorded, state in walk(log, head)] == [
        (version, states[version]) for version in range(11, 22)
    ]
    assert [recorded.version for recorded, _ in walk(log, head, after=15)] == list(range(16, 22))
    *_, report = verify_store(log)
    assert [str(one) for one in report.findings if "definition" not in one.problem] == []
    assert report.compacted == 1
    assert verify_run(log, head).compacted == 1
    with pytest.raises(VersionCompacted):
        compact_run(log, author.clock, "r", 11)
    pin(log, author.clock, "r")
    with pytest.raises(RunGuarded):
        compact_run(log, author.clock, "r", 15)
    log.close()


def counting() -> Workflow:
    """A workflow that goes round until told to end."""
    return (
        Workflow("round")
        .add_node("count", lambda state: {"n": state["n"] + 1})
        .add_node("end", lambda _: {})
        .add_edge("count", "end", when=lambda state: state["n"] >= 200)
        .add_edge("count", "count")
        .set_start("count")
    )


def test_a_run_is_compacted_while_it_goes_on(tmp_path: Path) -> None:
    """It ends as if nothing had been, can be started again with its id and input, and resumed below its end."""

    async def story() -> None:
        flow = counting()
        async with Engine(tmp_path / "store", workflows=[flow], checkpoints=CheckpointPolicy(every=20)) as engine:
            run = await engine.start(flow, {"n": 0}, run_id="r")
            while (head := engine.log.head("r")) is None or head.version < 60:
                await asyncio.sleep(0)
            await asyncio.to_thread(compact_run, engine.log, engine.clock, "r", 50)
            assert (await run.result())["n"] == 200
            again = await engine.start(flow, {"n": 0}, run_id="r")
            assert (await again.result())["n"] == 200
            with pytest.raises(NotFound):
                await engine.resume("r", at=20)
            back = await engine.resume("r", at=100, yes=True)
            assert (await back.result())["n"] == 200
            *_, report = verify_store(engine.log)
            assert report.sound, report.findings

    asyncio.run(story())


# --- by itself -----------------------------------------------------------------------------------------------------


def test_an_engine_cleans_up_by_its_rules(tmp_path: Path) -> None:
    """Runs that are over go in the background; the one that is driven, and the newest, stay."""

    async def story() -> None:
        flow = Workflow("one").add_node("a", lambda _: {"text": LONG}).set_start("a")
        clock = ManualClock()
        async with Engine(tmp_path / "store", workflows=[flow], clock=clock) as engine:
            for number in range(4):
                await (await engine.start(flow, {}, run_id=f"r{number}")).result()
        async with Engine(
            tmp_path / "store", workflows=[flow], clock=clock, retention=RetentionPolicy(keep=1)
        ) as engine:
            for _ in range(500):
                if len(engine.log.runs(Query())) == 1:
                    break
                await asyncio.sleep(0.01)
            assert [one.head.run_id for one in engine.log.runs(Query())] == ["r3"]
            await (await engine.start(flow, {}, run_id="r4")).result()
            await engine.delete("r4")
            *_, report = verify_store(engine.log)
            assert report.sound, report.findings

    asyncio.run(story())


def test_a_deleted_run_gives_back_what_nobody_else_needs(tmp_path: Path) -> None:
    """Its own long values, not those that another run has too."""

    async def story() -> None:
        flow = Workflow("one").add_node("a", lambda state: {"text": state["mine"] * 500, "all": LONG}).set_start("a")
        async with Engine(tmp_path / "store", workflows=[flow]) as engine:
            for name in ("mine", "your"):
                await (await engine.start(flow, {"mine": name}, run_id=name)).result()
            assert len(engine.log.blob_names(b"", 9)) == 3
            await engine.delete("mine")
            assert len(engine.log.blob_names(b"", 9)) == 2
            assert (await engine.get("your").result())["all"] == LONG

    asyncio.run(story())
