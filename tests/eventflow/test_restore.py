"""Stores made from a backup: as of every position, of a time; what they know of it; what they may go on with."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Engine, Workflow
from eventflow.backup import backup, read_backup, restore
from eventflow.clock import ManualClock, SystemClock
from eventflow.codec import pack, read_events
from eventflow.engine import operations
from eventflow.errors import Conflict, Corrupt, NotFound, SettingsError
from eventflow.event import CheckpointCreated, RunDeleted, RunPinned, StoreRestored
from eventflow.forking import write_one
from eventflow.log import NOBODY, STORE_RUN, Act, Guard, LmdbLog, Post, Query
from eventflow.log.mirror import EPOCH_BITS
from eventflow.recovery import recover
from eventflow.retention import compact_run
from eventflow.run.mail import message


@pytest.fixture
def place(tmp_path: Path, fill) -> Path:
    """A directory with a store `s` and a backup `b` of it in two parts."""
    fill(tmp_path / "s", "a", "b")
    backup(tmp_path / "s", tmp_path / "b")
    fill(tmp_path / "s", "c")
    backup(tmp_path / "s", tmp_path / "b", incremental=True)
    return tmp_path


def acts(path: Path) -> list[object]:
    """What a store's own stream says."""
    with closing(LmdbLog(path, readonly=True)) as log:
        head = log.head_of(STORE_RUN)
        return [one.event for one in read_events(log.read(STORE_RUN, 1, head.version), log.blobs)]


def test_every_position_of_a_backup_can_be_restored(place, sound):
    """Up to it the events are the same, byte for byte; runs stand where their events leave them; everything holds."""
    with closing(LmdbLog(place / "s", readonly=True)) as log:
        every = log.feed(0, 999)
        states = {
            (head.run_id, version): recover(log, head, version).state
            for head in (one.head for one in log.runs(Query()))
            for version in range(1, head.version + 1)
        }
    for position in range(1, read_backup(place / "b").last.position + 1):
        goal = place / "r"
        made = restore(place / "b", goal, position=position)
        sound(goal)
        with closing(LmdbLog(goal)) as log:
            assert log.feed(0, position) == every[:position]
            assert log.position() == position + 1
            assert made.runs == len(log.runs(Query()))
            for head in (one.head for one in log.runs(Query())):
                state = states[head.run_id, head.version]
                assert (head.status, head.waiting_for, head.digest) == (state.status, state.waiting_for, state.digest)
        shutil.rmtree(goal)


def test_a_restored_store_knows_that_it_is_one(place):
    """Its own stream says so; nobody owns its runs; their epochs are of a generation of their own, and rise with each restore."""
    made = restore(place / "b", place / "r", actor="ann", why="fire")
    said = acts(place / "r")[-1]
    assert said == StoreRestored(1, made.position, 2, "ann", "fire")
    with closing(LmdbLog(place / "r")) as log, closing(LmdbLog(place / "s", readonly=True)) as original:
        assert log.store_id == original.store_id
        for one in log.runs(Query()):
            assert one.head.owner == NOBODY
            assert one.head.epoch == (1 << EPOCH_BITS) + original.head(one.head.run_id).epoch + 1
    backup(place / "r", place / "b2")
    assert restore(place / "b2", place / "r2").generation == 2


def test_a_restored_store_goes_on(place, fill, sound):
    """New runs, new backups into the same chain where it goes on from its end, and none where it does not."""
    restore(place / "b", place / "r")
    fill(place / "r", "d")
    backup(place / "r", place / "b", incremental=True)
    sound(place / "r")
    with pytest.raises(Conflict, match="restored since"):
        backup(place / "s", place / "b", incremental=True)
    restore(place / "b", place / "r3")
    assert sound(place / "r3").runs == 4


def test_a_run_that_was_under_way_is_taken_up_again_where_it_was(tmp_path, fill):
    """The run waits in the restored store, its signal ends it there, and the original knows nothing of that."""
    fill(tmp_path / "s", "h", hold=True)
    backup(tmp_path / "s", tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "r")
    fill(tmp_path / "r", "other")
    with closing(LmdbLog(tmp_path / "r")) as log:
        assert log.head("h").status in ("waiting", "pending")
    with closing(LmdbLog(tmp_path / "s")) as log:
        assert log.head("h").epoch < 1 << EPOCH_BITS


def test_an_effect_whose_end_is_cut_off_is_unknown(tmp_path, sound):
    """The restored store knows that the call began and not what became of it, so a person is asked; it is not made again."""
    calls = []

    def pay(state, run):
        return {"paid": run.effect_sync("pay", lambda: calls.append(1) or 5)}

    flow = Workflow("w").add_node("pay", pay).set_start("pay")

    async def drive(path, run_id):
        async with Engine(path, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id=run_id)
            await run.result()

    asyncio.run(drive(tmp_path / "s", "r"))
    backup(tmp_path / "s", tmp_path / "b")
    with closing(LmdbLog(tmp_path / "s", readonly=True)) as log:
        position = next(
            one.position
            for one in read_events(log.feed(0, 99), log.blobs)
            if type(one.event).__name__ == "EffectStarted"
        )
    restore(tmp_path / "b", tmp_path / "r", position=position)

    async def again():
        async with Engine(tmp_path / "r", workflows=[flow]) as engine:
            run = await engine.resume("r")
            while run.state.status != "waiting":
                await asyncio.sleep(0.005)
            return run.state.waiting_for

    assert asyncio.run(again()) == "unknown"
    assert calls == [1]
    sound(tmp_path / "r")


# --- where to ------------------------------------------------------------------------------------------------------


def test_a_time_means_the_last_event_that_was_not_later(place, sound):
    """To the ns; a time after the backup means its end."""
    with closing(LmdbLog(place / "s", readonly=True)) as log:
        every = read_events(log.feed(0, 99), log.blobs)
    for one in every[2::5]:
        last = max(other.position for other in every if other.time <= one.time)
        made = restore(place / "b", place / "r", time=one.time)
        assert made.position == min(last, read_backup(place / "b").last.position)
        sound(place / "r")
        shutil.rmtree(place / "r")
    assert (
        restore(place / "b", place / "r", time=SystemClock().now()).position == read_backup(place / "b").last.position
    )


@pytest.mark.parametrize("where", [{"position": 0}, {"position": 10**6}, {"time": 1}])
def test_a_point_that_the_backup_does_not_reach_is_told(place, where):
    """Nothing is made of it."""
    with pytest.raises(SettingsError):
        restore(place / "b", place / "r", **where)
    assert sorted(path.name for path in place.iterdir()) == ["b", "s"]


def test_nothing_is_written_over(place):
    """Neither a store nor a file."""
    (place / "file").write_text("x")
    for goal in ("s", "b", "file"):
        with pytest.raises(Conflict, match="is there already"):
            restore(place / "b", place / goal)
    assert (place / "file").read_text() == "x"


def test_where_no_backup_is_there_is_nothing_to_restore(place):
    """A store is none, nor is an empty place."""
    for source in ("s", "nowhere"):
        with pytest.raises(NotFound, match="no backup at"):
            restore(place / source, place / "r")


def test_a_store_that_does_not_pass_the_check_gets_no_name(place):
    """What `check` raises ends it, and nothing is left."""

    def check(path: Path) -> None:
        raise Corrupt(str(path), "does not please")

    with pytest.raises(Corrupt, match="does not please"):
        restore(place / "b", place / "r", check=check)
    assert sorted(path.name for path in place.iterdir()) == ["b", "s"]


def test_the_mark_of_a_restored_store_is_its_own(place):
    """It says where the restored store ends: what is put in its place later is noticed."""
    restore(place / "b", place / "r", position=5)
    with closing(LmdbLog(place / "r")) as log:
        end = log.position()
    mark = (place / "r" / "data.1" / "mark").read_bytes()
    assert max(int.from_bytes(mark[at + 8 : at + 16], "big") for at in (0, 64)) == end
    restore(place / "b", place / "older", position=3)
    shutil.copy(place / "older" / "data.1" / "data.mdb", place / "r" / "data.1" / "data.mdb")
    with pytest.raises(Corrupt, match="rolled back"):
        LmdbLog(place / "r")


def test_seals_of_what_was_cut_off_stay_behind(place):
    """A seal of more events than there are would say that a tail was cut off, which is what was asked for."""
    (place / "b" / "seals").mkdir(exist_ok=True)
    for size in (2, 9):
        (place / "b" / "seals" / f"{size}.note").write_text("a seal")
    restore(place / "b", place / "r", position=5)
    assert [path.name for path in (place / "r" / "seals").iterdir()] == ["2.note"]


# --- what was done by hand -----------------------------------------------------------------------------------------


def by_hand(path: Path, fill) -> dict[str, int]:
    """A store in which things are done by hand; the position after each."""
    clock, after = SystemClock(), {}
    fill(path, "a", "b", "gone")
    with closing(LmdbLog(path)) as log:

        def done(name: str) -> None:
            after[name] = log.position()

        done("runs")
        operations.create_checkpoint(log, clock, "a", version=2, label="early", snapshot=True, actor="ann")
        done("checkpoint")
        write_one(log, Post(log.head("b").run_key, message("signal", name="x", actor="ann")))
        pinned = log.head("b")
        said = RunPinned("b", pinned.run_key, "ann", "case 7")
        now = clock.now()
        write_one(log, Act(pack(said), now, guard=Guard(pinned.run_key, "pin", now, "ann", "case 7")))
        done("pin")
        operations.delete_run(log, clock, "gone", actor="ann")
        done("deletion")
    return after


def test_what_was_done_by_hand_since_and_holds_is_said_again(tmp_path, fill, sound):
    """A deletion and a pin can't be taken back by going back; a checkpoint that was not there yet is not there."""
    after = by_hand(tmp_path / "s", fill)
    backup(tmp_path / "s", tmp_path / "b")
    for position in range(2, max(after.values()) + 1):
        goal = tmp_path / "r"
        restore(tmp_path / "b", goal, position=position)
        sound(goal)
        kinds = [type(one) for one in acts(goal)]
        assert RunDeleted in kinds
        with closing(LmdbLog(goal)) as log:
            assert log.head("gone") is None
            assert log.next_incarnation("gone") == 2
            assert len(log.guards()) == (log.head("b") is not None)
            head = log.head("a")
            labels = [] if head is None else [mark.label for mark in log.checkpoints(head.run_key)]
            assert ("early" in labels) == (CheckpointCreated in kinds)
            assert ("early" in labels) == (head is not None and head.version >= 2)
        shutil.rmtree(goal)


def test_a_run_that_was_compacted_beyond_the_point_is_named(tmp_path, fill, sound):
    """Nothing of it can be brought back; everything else can, at every position."""
    fill(tmp_path / "s", "a", "b")
    with closing(LmdbLog(tmp_path / "s")) as log:
        ends = {run: log.read(log.head(run).run_key, 4, 4)[0].position for run in "ab"}
        compact_run(log, SystemClock(), "a", 4)
    backup(tmp_path / "s", tmp_path / "b")
    for position in range(1, read_backup(tmp_path / "b").last.position + 1):
        made = restore(tmp_path / "b", tmp_path / "r", position=position)
        sound(tmp_path / "r")
        with closing(LmdbLog(tmp_path / "r")) as log:
            assert (log.head("a") is not None) == (position >= ends["a"])
            assert ("a" in made.lost) == (position < ends["a"])
        shutil.rmtree(tmp_path / "r")


async def _finished(path: Path, run_id: str, flow: Workflow) -> None:
    async with Engine(path, workflows=[flow]) as engine:
        await (await engine.resume(run_id)).result()


def test_signals_taken_since_wait_again(tmp_path, fill, sound, counting):
    """Nobody sends them a second time; what was waiting at the backup waits too."""
    fill(tmp_path / "s", "h", hold=True)
    with closing(LmdbLog(tmp_path / "s")) as log:
        before, head = log.position(), log.head("h")
        write_one(log, Post(head.run_key, message("signal", name="go", payload={"x": 1}, actor="ann")))
    asyncio.run(_finished(tmp_path / "s", "h", counting()))
    with closing(LmdbLog(tmp_path / "s")) as log:
        assert log.head("h").status == "completed"
        assert log.inbox(head.run_key) == []
    backup(tmp_path / "s", tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "r", position=before)
    sound(tmp_path / "r")
    with closing(LmdbLog(tmp_path / "r")) as log:
        assert log.head("h").status == "waiting"
        ((_, data),) = log.inbox(head.run_key)
        assert data == message("signal", name="go", payload={"x": 1}, actor="ann")


def test_the_clock_is_the_callers(place):
    """What is recorded has the time it is given."""
    clock = ManualClock()
    restore(place / "b", place / "r", clock=clock)
    with closing(LmdbLog(place / "r", readonly=True)) as log:
        assert read_events(log.feed(log.position() - 1, 1), log.blobs)[0].time == clock.now()
