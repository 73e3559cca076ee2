"""Checkpoints: every option of the policy seen through a real run, and those made, listed and deleted by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from stories import story

from eventflow import NO_CHECKPOINTS, CheckpointPolicy, CheckpointTaken, Engine, ManualClock, RetryPolicy, Workflow
from eventflow.codec import read_events
from eventflow.engine import create_checkpoint
from eventflow.errors import CheckpointNotFound, Corrupt, NoCheckpointer, RunNotFound, SettingsError, VersionNotFound
from eventflow.event import CheckpointCreated, CheckpointsDeleted
from eventflow.log import STORE_RUN, STORE_VOUCH, LmdbLog
from eventflow.recovery import recover


async def settled(engine):
    """Wait until no snapshot is in flight: there is one at a time, and what is due meanwhile waits for it."""
    for driver in list(engine._desk.drivers()):
        await driver.journal.settle()


def flow_of(last=6, clock=None, step=0.0, engine=None) -> Workflow:
    """`count` adds one to n until it is `last`, `end` ends the run; each step may take time.

    With a list that holds the engine, each step waits for the snapshot of the one before.
    """

    async def count(state):
        if clock is not None:
            clock.advance(step)
        if engine:
            await settled(engine[0])
        return {"n": state["n"] + 1}

    flow = Workflow("w").add_node("count", count).add_node("end", lambda s: None)
    return (
        flow.add_edge("count", "count", when=lambda s: s["n"] < last, label="more")
        .add_edge("count", "end")
        .set_start("count")
    )


async def kept(policy, *, store="memory", **options):
    """The checkpoints and snapshots that a run leaves: (id, kinds, has bytes), versions with bytes."""
    clock, held = ManualClock(), []
    flow = flow_of(clock=clock, engine=held, **options)
    async with Engine(store, workflows=[flow], checkpoints=policy, clock=clock) as engine:
        held.append(engine)
        run = await engine.start(flow, {"n": 0}, run_id="r")
        await run.result()
        head = engine.log.head("r")
        assert recover(engine.log, head).state == recover(engine.log, head, snapshots=False).state
        marks = [(mark.id, mark.kinds, mark.size > 0) for mark in engine.checkpoints("r")]
        return marks, sorted(version for version, _ in engine.log.snapshots(head.run_key, 99))


OFF = NO_CHECKPOINTS
ALL = [f"c-{version}" for version in range(1, 8)]


# --- the policy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "ids", "kind", "with_bytes"),
    [
        (OFF, [], "", []),
        (CheckpointPolicy(), [], "", []),  # so small a run is not worth one
        (replace(OFF, before_node=True), ["c-1", "c-2", "c-3", "c-4", "c-5", "c-6", "c-7"], "before_node", []),
        (replace(OFF, before_node=("end",)), ["c-7"], "before_node", []),
        (replace(OFF, after_node=True), ["c-2", "c-3", "c-4", "c-5", "c-6", "c-7", "c-8"], "after_node", []),
        (replace(OFF, after_node=("end",)), ["c-8"], "after_node", []),
        (replace(OFF, every=3), ["c-3", "c-6"], "every", [3, 6]),
    ],
)
def test_each_option_marks_what_it_says(policy, ids, kind, with_bytes):
    """Before and after nodes, named or all; each so many events; nothing where nothing was asked for."""
    marks, snapshots = story(kept(policy))
    assert [name for name, _, _ in marks] == ids
    assert all(kinds == (kind,) for _, kinds, _ in marks)
    assert snapshots == with_bytes


def test_an_interval_makes_a_checkpoint_at_the_first_event_after_it():
    """It counts the engine's clock."""
    marks, snapshots = story(kept(replace(OFF, interval=2.0), step=1.0))
    assert [(name, kinds) for name, kinds, _ in marks] == [(f"c-{v}", ("interval",)) for v in (3, 5, 7)]
    assert snapshots == [3, 5, 7]


def test_one_version_has_one_checkpoint_with_all_its_kinds():
    """After A and before B is the same place."""
    marks, snapshots = story(kept(replace(OFF, before_node=True, after_node=True, every=4)))
    assert marks[3] == ("c-4", ("before_node", "after_node", "every"), True)
    assert marks[7] == ("c-8", ("after_node", "every"), True)
    assert snapshots == [4, 8]


@pytest.mark.parametrize("keep", [1, 3])
def test_keep_leaves_the_newest(keep):
    """And every version is still reachable."""
    marks, _ = story(kept(replace(OFF, after_node=True, keep=keep)))
    assert [name for name, _, _ in marks] == [f"c-{version}" for version in range(9 - keep, 9)]


def test_the_list_never_shows_more_than_keep_says():
    """The snapshot that recovery would start from stays in the store, but its checkpoint has expired."""

    async def tell():
        shown = []
        held = []
        flow = flow_of(6)

        def listener(state, notice):
            if held and isinstance(notice, CheckpointTaken):
                log = held[0].log
                shown.append((len(log.checkpoints(state.run.run_key)), len(log.snapshots(state.run.run_key, 99))))

        async with Engine(checkpoints=replace(OFF, every=1, keep=1), listeners=[listener]) as engine:
            held.append(engine)
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            assert len(engine.checkpoints("r")) == 1
            assert len(engine.log.snapshots(engine.log.head("r").run_key, 99)) == 2
        return shown

    shown = story(tell())
    assert max(marks for marks, _ in shown) <= 2  # the one just made, and the one before until its removal is durable
    assert max(snapshots for _, snapshots in shown) <= 3


def test_max_age_leaves_the_young():
    """Those older than so many seconds go when a new one comes."""
    marks, _ = story(kept(replace(OFF, after_node=True, max_age=2.5), step=1.0))
    assert [name for name, _, _ in marks] == ["c-5", "c-6", "c-7", "c-8"]


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_pruning_never_takes_what_recovery_needs(store, tmp_path):
    """With one checkpoint kept, the newest snapshot that the chain vouches for is still there, at every step."""
    clock = ManualClock()

    async def tell():
        where = "memory" if store == "memory" else tmp_path / "s"
        began = []

        def listener(state, notice):
            if isinstance(notice, CheckpointTaken):
                return
            found = recover(engine.log, engine.log.head("r"))
            assert found.state.digest == state.digest
            began.append(found.snapshot)

        held = []
        flow = flow_of(last=60, clock=clock, step=1.0, engine=held)
        policy = CheckpointPolicy(every=5, after_node=True, keep=1, max_age=0.5)
        async with Engine(where, checkpoints=policy, clock=clock, listeners=[listener]) as engine:
            held.append(engine)
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            assert len(engine.log.snapshots(engine.log.head("r").run_key, 99)) <= 3
        return began

    began = story(tell())
    assert len(began) == 62
    assert began == sorted(began)
    assert began[-1] > 0


def test_compression_is_an_option():
    """Without it the bytes are as they are."""

    async def tell(*, compress):
        flow = Workflow("w").add_node("a", lambda s: None).set_start("a")
        async with Engine(checkpoints=replace(OFF, every=1, compress=compress)) as engine:
            await (await engine.start(flow, {"text": "again and again " * 60}, run_id="r")).result()
            return engine.checkpoints("r")[-1].size

    assert story(tell(compress=True)) < story(tell(compress=False)) / 2


@pytest.mark.parametrize("on_error", [True, False])
def test_a_failure_makes_a_checkpoint(on_error):
    """Each failed attempt, a failure that an error edge takes, and the last one."""

    def fails(state):
        raise OSError

    async def tell():
        flow = Workflow("w").add_node("a", fails, retry=RetryPolicy(attempts=2, delay=0)).add_node("b", fails)
        flow.add_edge("a", "b", on="failed").set_start("a")
        async with Engine(checkpoints=replace(OFF, on_error=on_error)) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            assert [type(one.event).__name__ for one in run.events()] == [
                "RunStarted", "AttemptFailed", "Transitioned", "RunFailed",
            ]  # fmt: skip
            return [(mark.id, mark.kinds) for mark in engine.checkpoints("r")]

    assert story(tell()) == ([(f"c-{v}", ("error",)) for v in (2, 3, 4)] if on_error else [])


def test_the_checkpoint_of_a_failure_has_its_bytes_when_the_run_has_ended():
    """Who is told of the failure finds it written."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda s: 1 / 0).set_start("a")
        async with Engine() as engine:
            run = await engine.start(flow, {"x": "y"}, run_id="r")
            await run.wait()
            (mark,) = engine.checkpoints("r")
            assert mark.size > 0

    story(tell())


@pytest.mark.parametrize("at_shutdown", [True, False])
def test_a_stop_makes_a_checkpoint_that_the_chain_vouches_for(at_shutdown, tmp_path):
    """The next process starts from it."""

    async def tell():
        async def waits(state):
            await asyncio.sleep(30)

        flow = Workflow("w").add_node("a", waits).set_start("a")
        policy = replace(OFF, at_shutdown=at_shutdown)
        async with Engine(tmp_path / "s", checkpoints=policy, grace=0) as engine:
            await engine.start(flow, {}, run_id="r")
            await asyncio.sleep(0.01)
        async with Engine(tmp_path / "s") as engine:
            assert [mark.kinds for mark in engine.checkpoints("r")] == ([("shutdown",)] if at_shutdown else [])
            assert recover(engine.log, engine.log.head("r")).snapshot == (1 if at_shutdown else 0)

    story(tell())


def test_the_default_keeps_recovery_short_and_snapshots_few():
    """A thousand steps of a small state are not recovered from their start, nor is each of them kept."""

    async def tell():
        async with Engine() as engine:
            await (await engine.start(flow_of(last=1_000), {"n": 0, "pad": "x" * 5_000}, run_id="r")).result()
            head = engine.log.head("r")
            found = recover(engine.log, head)
            assert found.snapshot > 0
            assert 1 <= len(engine.log.snapshots(head.run_key, 9_999)) <= 40

    story(tell())


def test_listeners_are_told_of_each_checkpoint():
    """With its size and what it cost."""

    async def tell():
        told = []

        def listener(state, notice):
            if isinstance(notice, CheckpointTaken):
                told.append((notice.run_id, notice.checkpoint.id, notice.checkpoint.size > 0))

        held = []
        async with Engine(checkpoints=replace(OFF, every=3, after_node=("end",)), listeners=[listener]) as engine:
            held.append(engine)
            await (await engine.start(flow_of(engine=held), {"n": 0}, run_id="r")).result()
        return told

    told = story(tell())
    assert sorted(told) == [("r", "c-3", True), ("r", "c-6", True), ("r", "c-8", False)]


def test_a_snapshot_that_was_edited_is_found_out(tmp_path):
    """Recovery stops loudly; it never goes on from bytes that the chain does not vouch for."""

    async def tell():
        held = []
        async with Engine(tmp_path / "s", checkpoints=replace(OFF, every=2)) as engine:
            held.append(engine)
            await (await engine.start(flow_of(engine=held), {"n": 0}, run_id="r")).result()
            log, head = engine.log, engine.log.head("r")
            root, forged = log.snapshot(head.run_key, 4), log.snapshot(head.run_key, 2)
            assert forged != root
            with log._env.writing() as txn:
                txn.put(head.run_key + (4).to_bytes(8, "big"), forged, db=log._env.tables.snapshots)
            with pytest.raises(Corrupt, match="not what the chain vouches for"):
                recover(log, head, 5)

    story(tell())


# --- by hand -------------------------------------------------------------------------------------------------------


def store_events(log) -> list:
    """The events of the store's own stream, without its first."""
    return [one.event for one in read_events(log.read(STORE_RUN, 2, 99), log.blobs)]


async def finished(engine, **options):
    """A run that has counted to its end."""
    run = await engine.start(flow_of(**options), {"n": 0}, run_id="r")
    await run.result()
    return run


def test_a_checkpoint_by_hand_is_an_event_of_the_store():
    """It has a label and bytes, and says who asked for it and why."""

    async def tell():
        async with Engine(checkpoints=OFF) as engine:
            run = await finished(engine)
            mark = await engine.checkpoint("r", label="good", snapshot=True, why="before the meeting")
            assert (mark.id, mark.kinds, mark.label, mark.size > 0) == ("c-8", ("manual",), "good", True)
            assert engine.checkpoints("r") == [mark]
            (event,) = store_events(engine.log)
            assert isinstance(event, CheckpointCreated)
            assert (event.run_id, event.at, event.label, event.why) == ("r", 8, "good", "before the meeting")
            assert event.actor
            assert run.version == 8

    story(tell())


def test_a_checkpoint_can_be_made_of_a_version_and_of_a_run_that_is_driven(tmp_path):
    """By another process too; the run does not notice."""

    async def tell():
        hold = asyncio.Event()

        async def waits(state):
            await hold.wait()
            return {"x": 1}

        flow = Workflow("w").add_node("a", waits).set_start("a")
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            async with Engine(tmp_path / "s") as other:
                await other.checkpoint("r", snapshot=True)
            hold.set()
            assert await run.result() == {"x": 1}
            mark = create_checkpoint(engine.log, ManualClock(), "r", version=1, label="again")
            assert (mark.id, mark.label) == ("c-1", "again")
            with pytest.raises(VersionNotFound):
                create_checkpoint(engine.log, ManualClock(), "r", version=9)
            with pytest.raises(RunNotFound):
                await engine.checkpoint("x")
            assert [one.id for one in engine.checkpoints("r")] == ["c-1"]

    story(tell())


def test_checkpoints_are_deleted_by_id_or_all_at_once():
    """Each deletion is an event; the history and every state of it stay."""

    async def tell():
        async with Engine(checkpoints=replace(OFF, after_node=True, every=2)) as engine:
            run = await finished(engine)
            states = [recover(engine.log, engine.log.head("r"), v).state for v in range(1, 9)]
            with pytest.raises(CheckpointNotFound, match="c-99"):
                await engine.delete_checkpoints("r", ["c-3", "c-99"])
            gone = await engine.delete_checkpoints("r", ["c-3", "c-4"], why="room")
            assert [mark.id for mark in gone] == ["c-3", "c-4"]
            assert "c-3" not in [mark.id for mark in engine.checkpoints("r")]
            assert len(await engine.delete_checkpoints("r")) == 5
            assert engine.checkpoints("r") == []
            assert engine.log.snapshots(engine.log.head("r").run_key, 99) == []
            assert await engine.delete_checkpoints("r") == []
            events = store_events(engine.log)
            assert [type(event) for event in events] == [CheckpointsDeleted] * 2
            assert (list(events[0].versions), events[0].why) == ([3, 4], "room")
            assert [recover(engine.log, engine.log.head("r"), v).state for v in range(1, 9)] == states
            assert run.version == 8

    story(tell())


def test_checkpoints_are_pruned_by_number_and_by_age():
    """The newest so many stay, or those that are young enough."""

    async def tell():
        clock = ManualClock()
        async with Engine(checkpoints=replace(OFF, after_node=True), clock=clock) as engine:
            await finished(engine, clock=clock, step=10.0)
            assert [mark.id for mark in await engine.prune_checkpoints("r", max_age=45)] == ["c-2"]
            assert [mark.id for mark in await engine.prune_checkpoints("r", keep=2)] == ["c-3", "c-4", "c-5", "c-6"]
            assert [mark.id for mark in engine.checkpoints("r")] == ["c-7", "c-8"]
            assert await engine.prune_checkpoints("r", keep=2) == []

    story(tell())


def test_where_nothing_can_be_kept_the_error_says_so(tmp_path):
    """No checkpointer configured, as a sentence that says what to do."""

    async def tell():
        async with Engine(tmp_path / "s") as engine:
            await finished(engine)

    story(tell())
    log = LmdbLog(tmp_path / "s", readonly=True)
    with pytest.raises(NoCheckpointer, match="no checkpointer configured"):
        create_checkpoint(log, ManualClock(), "r")
    log.close()


def test_a_rewind_to_a_checkpoint_that_was_deleted_is_not_found():
    """Checkpoint not found, with the way to list what there is."""

    async def tell():
        async with Engine(checkpoints=replace(OFF, after_node=True)) as engine:
            await finished(engine)
            await engine.delete_checkpoints("r")
            with pytest.raises(CheckpointNotFound, match=r"checkpoint not found.*eventflow checkpoints list r"):
                await engine.resume("r", at="c-3")
            assert (await (await engine.resume("r", at=3)).wait()).status == "completed"

    story(tell())


def test_a_checkpoint_by_hand_is_vouched_for_by_the_store_s_own_stream():
    """Recovery starts from its bytes, since the event that made it names their digest."""

    async def tell():
        async with Engine(checkpoints=OFF) as engine:
            await finished(engine)
            mark = await engine.checkpoint("r", snapshot=True)
            head = engine.log.head("r")
            ((version, by),) = engine.log.snapshots(head.run_key, head.version)
            assert (version, by) == (mark.version, STORE_VOUCH | 2)
            recovered = recover(engine.log, head)
            assert (recovered.snapshot, recovered.folded) == (mark.version, 0)

    asyncio.run(tell())


def test_a_mark_by_hand_has_bytes_only_when_they_are_worth_it_or_asked_for():
    """A short history is folded faster than a snapshot is read."""

    async def tell():
        async with Engine(checkpoints=OFF) as engine:
            await finished(engine)
            assert (await engine.checkpoint("r")).size == 0
            assert (await engine.checkpoint("r", snapshot=True)).size > 0

    asyncio.run(tell())


def test_the_event_that_resumes_a_failed_run_vouches_for_its_error_checkpoint():
    """The last snapshot before a failure has no event after it until the run is taken up again."""

    def fails(state):
        raise ValueError("no")

    async def tell():
        flow = (
            Workflow("w").add_node("a", lambda state: {"n": 1}).add_node("b", fails).add_edge("a", "b").set_start("a")
        )
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            head = engine.log.head("r")
            ((version, by),) = engine.log.snapshots(head.run_key, head.version)
            assert (version, by) == (head.version, 0)
            await (await engine.resume("r")).wait()
            assert dict(engine.log.snapshots(head.run_key, 99))[version] == version + 1

    asyncio.run(tell())


def test_pruning_says_what_it_needs():
    """A prune that names neither a number nor an age deletes nothing."""

    async def tell():
        async with Engine(checkpoints=OFF) as engine:
            await finished(engine)
            await engine.checkpoint("r")
            with pytest.raises(SettingsError, match="keep"):
                await engine.prune_checkpoints("r")
            assert len(engine.checkpoints("r")) == 1

    asyncio.run(tell())
