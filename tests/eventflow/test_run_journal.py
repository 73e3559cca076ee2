"""The one place a run's facts go through: append, evolve, tell; and the checkpoints made beside it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from stories import story

from eventflow.change import Op
from eventflow.checkpoint import NO_CHECKPOINTS, Checkpoint, CheckpointPolicy
from eventflow.clock import ManualClock
from eventflow.errors import Fenced, NotPlainData, RunLost, StoreFull
from eventflow.event import (
    AttemptFailed,
    EffectFinished,
    EffectStarted,
    Failure,
    RunCancelled,
    RunCompleted,
    RunPaused,
    RunStarted,
    RunSuspended,
    SignalReceived,
    Transitioned,
)
from eventflow.log import Append, Entry, First, LmdbLog, MemoryLog, Post, Writer
from eventflow.plain import EMPTY, freeze
from eventflow.proof import genesis
from eventflow.recovery import recover
from eventflow.run import CheckpointTaken, Journal, Shop, begin
from eventflow.run.mail import SIGNAL, message

MOVE = Transitioned("a", "a")
STARTED = EffectStarted("pay", "1", "call", True, EMPTY, bytes(32), "ef-1")
FINISHED = EffectFinished("pay", "1", 7)


@dataclass
class Turnstile:
    """A log whose writes wait at a gate, and fail when they are told to."""

    log: MemoryLog
    gate: threading.Event = field(default_factory=threading.Event)
    fail: Exception | None = None
    batches: list[list[object]] = field(default_factory=list)

    def __post_init__(self):
        self.gate.set()

    def __getattr__(self, name):
        return getattr(self.log, name)

    def write(self, batch):
        self.batches.append([one for one in batch if isinstance(one, Append)])
        assert self.gate.wait(10)
        if self.fail is not None:
            fail, self.fail = self.fail, None
            raise fail
        return self.log.write(batch)

    def appended(self):
        """The names of the events of each append, in order."""
        appends = [one for batch in self.batches for one in batch]
        return [[len(append.events), append.expected] for append in appends]


@asynccontextmanager
async def opened(log=None, *, policy=NO_CHECKPOINTS, active=2, data=None):
    """A journal of a run that has just started on node `a`; with two active runs, commits go through the thread."""
    log = MemoryLog() if log is None else log
    clock = ManualClock()
    owner = clock.uuid7()
    end = log.new_owner(owner)
    shop = Shop(log, Writer(log), clock, policy, owner, active=active)
    event = RunStarted("r", log.store_id, "w", bytes(32), EMPTY, "a", freeze(data or {}), bytes(32))
    first = First(genesis(log.store_id, "r", 1, bytes(32)), Entry("w", (), None, clock.now()))
    answer = await begin(shop, None, event, run_id="r", run_key=clock.uuid7(), incarnation=1, first=first)
    found = recover(log, answer.head)
    try:
        yield Journal(shop, found.state, answer.head.epoch, found.progress, log.checkpoints(answer.head.run_key))
    finally:
        shop.writer.close()
        end()


def set_(name, value):
    """A move from a to a that sets a field."""
    return Transitioned("a", "a", "done", (Op("set", (name,), freeze(value)),))


# --- facts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [1, 2])
def test_a_fact_is_true_once_it_is_durable(active):
    """State and listeners learn of it after the log has it, whoever does the commit."""

    async def tell():
        async with opened(active=active) as journal:
            told = []
            log = journal.shop.log
            journal.shop.listeners.append(lambda state, notice: told.append((notice.version, log.head("r").version)))
            state = await journal.record(set_("x", 1))
            assert (state.version, state.data) == (2, {"x": 1})
            assert journal.state is state
            assert told == [(2, 2)]
            assert recover(log, log.head("r")).state == state

    story(tell())


def test_a_listener_that_raises_loses_only_its_own_news():
    """What a listener raises stops neither the others nor the run."""

    async def tell():
        async with opened() as journal:
            told = []

            def broken(state, notice):
                raise ValueError("mine")

            journal.shop.listeners += [broken, lambda state, notice: told.append(notice.version)]
            await journal.record(MOVE)
            assert told == [2]

    story(tell())


def test_facts_that_arrive_meanwhile_go_as_one_next_list():
    """While one append is in flight the others wait, and then share one."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log) as journal:
            log.gate.clear()
            tasks = [asyncio.create_task(journal.record(STARTED))]
            await asyncio.sleep(0.01)
            started = [EffectStarted("pay", str(n), "call", True, EMPTY, bytes(32), "k") for n in (2, 3)]
            tasks += [asyncio.create_task(journal.record(event)) for event in (*started, FINISHED)]
            await asyncio.sleep(0.01)
            assert journal.state.version == 1
            log.gate.set()
            versions = [(await task).version for task in tasks]
            assert versions == [2, 5, 5, 5]
            assert log.appended() == [[1, 0], [1, 1], [3, 2]]
            assert set(journal.state.effects) == {"pay#1", "pay#2", "pay#3"}

    story(tell())


@pytest.mark.parametrize("turn", [MOVE, RunCompleted("a"), RunCancelled()])
def test_nothing_late_follows_a_fact_that_moves_the_run(turn):
    """An effect's finish that comes in behind a turn is refused, and the history stays foldable."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log) as journal:
            await journal.record(STARTED)
            visit = journal.state.visit
            log.gate.clear()
            first = asyncio.create_task(journal.record(SignalReceived("s", 1, 1)))
            await asyncio.sleep(0.01)
            moving = asyncio.create_task(journal.record(turn, release=turn is not MOVE))
            late = asyncio.create_task(journal.record(FINISHED, visit=visit))
            await asyncio.sleep(0.01)
            log.gate.set()
            await first
            state = await moving
            with pytest.raises(RunLost):
                await late
            assert recover(log, log.head("r"), snapshots=False).state == state

    story(tell())


def test_the_facts_of_a_new_visit_pass_beside_those_of_an_old_one():
    """Of two that wait together only the late one is refused."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log) as journal:
            await journal.record(STARTED)
            log.gate.clear()
            first = asyncio.create_task(journal.record(MOVE))
            await asyncio.sleep(0.01)
            late = asyncio.create_task(journal.record(FINISHED, visit=1))
            mail = asyncio.create_task(journal.record(SignalReceived("s", 1, 1)))
            await asyncio.sleep(0.01)
            log.gate.set()
            await first
            with pytest.raises(RunLost, match="has left the node"):
                await late
            assert (await mail).signals[0]["name"] == "s"

    story(tell())


def test_a_failed_append_changes_nothing():
    """Everybody who waited hears why; the state is the old one, and the next append goes through."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log) as journal:
            before = journal.state
            log.fail = StoreFull("no room")
            log.gate.clear()
            tasks = [asyncio.create_task(journal.record(MOVE))]
            await asyncio.sleep(0.01)
            log.gate.set()
            with pytest.raises(StoreFull):
                await tasks[0]
            assert journal.state is before
            assert log.head("r").version == 1
            assert (await journal.record(MOVE)).version == 2

    story(tell())


def test_a_list_of_facts_is_all_or_nothing():
    """A batch that fails leaves none of its lists behind."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log) as journal:
            log.gate.clear()
            first = asyncio.create_task(journal.record(STARTED))
            await asyncio.sleep(0.01)
            rest = [asyncio.create_task(journal.record(SignalReceived("s", n, n))) for n in (1, 2)]
            await asyncio.sleep(0.01)
            log.gate.set()
            await first
            log.fail = StoreFull("no room")
            for task in rest:
                with pytest.raises(StoreFull):
                    await task
            assert log.head("r").version == 2

    story(tell())


def test_a_stale_writer_is_refused_and_never_writes_again():
    """Once another has taken the run over, every later fact is refused without asking the log."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log) as journal:
            end = log.new_owner(b"2" * 16)
            head = log.head("r")
            log._owners.discard(head.owner)
            taken = Append("r", head.run_key, 1, 1, head.epoch, (), 0, "running", claim=b"2" * 16)
            assert log.write([taken])[0].head.epoch == head.epoch + 1
            with pytest.raises(Fenced):
                await journal.record(MOVE)
            asked = len(log.batches)
            with pytest.raises(Fenced):
                await journal.record(MOVE)
            assert len(log.batches) == asked
            end()

    story(tell())


@pytest.mark.parametrize("active", [1, 2])
def test_being_cancelled_meanwhile_does_not_undo_a_fact(active):
    """Who asked is gone, and what he asked for is true."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log, active=active) as journal:
            if active == 2:
                log.gate.clear()
            task = asyncio.create_task(journal.record(MOVE))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            log.gate.set()
            await asyncio.wait({task})
            assert task.cancelled() == (active == 2)
            assert journal.state.version == log.head("r").version == 2
            assert (await journal.record(MOVE)).version == 3

    story(tell())


def test_nothing_is_recorded_once_the_run_was_let_go():
    """Who has released the lease may not append any more, even if nobody else holds it."""

    async def tell():
        async with opened() as journal:
            await journal.record(RunSuspended("a"), release=True)
            with pytest.raises(RunLost, match="was let go"):
                await journal.record(MOVE)
            assert journal.shop.log.head("r").version == 2

    story(tell())


def test_a_fact_that_is_too_large_is_refused_before_anything_is_asked():
    """What can't be written leaves no trace."""

    async def tell():
        async with opened() as journal:
            with pytest.raises(NotPlainData):
                await journal.record(EffectFinished("pay", "1", freeze(["x" * 900] * 20_000)))
            assert (await journal.record(MOVE)).version == 2

    story(tell())


def test_a_message_is_taken_with_the_fact_it_becomes():
    """Inbox and event change in one transaction."""

    async def tell():
        async with opened() as journal:
            log = journal.shop.log
            key = journal.state.run.run_key
            answer = await journal.shop.writer.write(Post(key, message(SIGNAL, name="s")))
            await journal.record(SignalReceived("s", None, answer.message), taken=(answer.message,))
            assert log.inbox(key) == []

    story(tell())


def test_the_status_that_the_log_is_told_is_that_of_the_fold():
    """A list of facts that changes the status twice ends with the last one."""

    async def tell():
        async with opened() as journal:
            log = journal.shop.log
            failed = AttemptFailed("a", 1, Failure("E", "no"), 5)
            await journal.record(failed, RunPaused(), SignalReceived("s", 1, 1))
            head = log.head("r")
            assert (head.status, head.waiting_for) == ("paused", "")
            assert journal.state.status == "paused"

    story(tell())


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_the_next_event_vouches_for_a_snapshot():
    """Its header carries version and digest, and recovery starts there; before that it does not."""

    async def tell():
        async with opened(policy=CheckpointPolicy(auto=False, every=2)) as journal:
            log, key = journal.shop.log, journal.state.run.run_key
            await journal.record(set_("x", 1))
            await journal.settle()
            assert log.snapshots(key, 9) == [(2, 0)]
            assert recover(log, log.head("r")).snapshot == 0
            await journal.record(set_("x", 2))
            assert log.snapshots(key, 9) == [(2, 3)]
            found = recover(log, log.head("r"))
            assert (found.snapshot, found.folded) == (2, 1)
            assert found.state == journal.state == recover(log, log.head("r"), snapshots=False).state

    story(tell())


def test_a_vouch_is_not_lost_with_the_append_that_carried_it():
    """If that append fails, the next one carries it."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log, policy=CheckpointPolicy(auto=False, every=2)) as journal:
            await journal.record(MOVE)
            await journal.settle()
            log.fail = StoreFull("no room")
            with pytest.raises(StoreFull):
                await journal.record(MOVE)
            await journal.record(MOVE)
            assert log.snapshots(journal.state.run.run_key, 9) == [(2, 3)]

    story(tell())


def test_marks_without_bytes_cost_no_snapshot():
    """A mark before or after a node is reached by folding."""

    async def tell():
        policy = CheckpointPolicy(auto=False, before_node=("b",), after_node=("a",))
        async with opened(policy=policy) as journal:
            log, key = journal.shop.log, journal.state.run.run_key
            told = []
            journal.shop.listeners.append(lambda state, notice: told.append(notice))
            await journal.record(Transitioned("a", "b"))
            await journal.record(Transitioned("b", "a"))
            marks = log.checkpoints(key)
            assert [(mark.id, mark.kinds, mark.size) for mark in marks] == [("c-2", ("before_node", "after_node"), 0)]
            assert log.snapshots(key, 9) == []
            taken = [notice for notice in told if isinstance(notice, CheckpointTaken)]
            assert [(one.run_id, one.checkpoint.id, one.seconds) for one in taken] == [("r", "c-2", 0.0)]

    story(tell())


def test_a_forced_snapshot_fills_a_mark_that_was_there():
    """Kinds add up; one version has one checkpoint."""

    async def tell():
        async with opened(policy=CheckpointPolicy(auto=False, after_node=True)) as journal:
            await journal.record(MOVE)
            mark = await journal.checkpoint("shutdown", snapshot=True)
            (kept,) = journal.shop.log.checkpoints(journal.state.run.run_key)
            assert kept.kinds == ("after_node", "shutdown")
            assert kept.size == mark.size > 0
            assert (await journal.checkpoint("interval", snapshot=False)).size == 0
            (kept,) = journal.shop.log.checkpoints(journal.state.run.run_key)
            assert kept.size == mark.size

    story(tell())


def test_keep_and_max_age_never_take_the_snapshot_that_recovery_starts_from():
    """The newest vouched one stays until a newer one is vouched for."""

    async def tell():
        policy = CheckpointPolicy(auto=False, every=3, after_node=True, keep=1, max_age=0.5)
        async with opened(policy=policy) as journal:
            log, key = journal.shop.log, journal.state.run.run_key
            vouched = []
            for n in range(20):
                journal.shop.clock.advance(1.0)
                await journal.record(set_("x", n))
                await journal.settle()
                found = recover(log, log.head("r"))
                vouched.append(found.snapshot)
                assert found.state == journal.state
                assert len(log.snapshots(key, 99)) <= 2
            assert vouched == sorted(vouched)
            assert vouched[-1] == 18
            assert len(log.checkpoints(key)) <= 3

    story(tell())


def test_an_unvouched_snapshot_does_not_push_out_the_vouched_one_after_a_restart():
    """The journal of a resumed run knows which one recovery started from."""

    async def tell():
        policy = CheckpointPolicy(auto=False, every=2, keep=1)
        async with opened(policy=policy) as journal:
            log, key = journal.shop.log, journal.state.run.run_key
            for _ in range(2):
                await journal.record(MOVE)
                await journal.settle()
            await journal.checkpoint("error", snapshot=True)  # nothing vouches for it
            found = recover(log, log.head("r"))
            assert found.snapshot == 2
            again = Journal(
                journal.shop, found.state, journal.epoch, found.progress, log.checkpoints(key), needed=found.snapshot
            )
            for _ in range(3):
                await again.record(MOVE)
                assert recover(log, log.head("r")).snapshot >= 2
                await again.settle()

    story(tell())


def test_checkpoints_are_kept_in_order_of_version():
    """A snapshot that is written late does not count as the newest."""

    async def tell():
        async with opened(policy=CheckpointPolicy(auto=False, keep=2)) as journal:
            for version in (5, 3, 4):
                journal._remember(Checkpoint(version, ("auto",), version))
            assert [mark.version for mark in journal._marks] == [3, 4, 5]

    story(tell())


@pytest.mark.parametrize("active", [1, 2])
def test_snapshots_follow_the_size_of_the_state_and_not_of_the_history(active):
    """A small state that is written over for ever is recovered from a few events, however long it lives."""

    async def tell():
        async with opened(policy=CheckpointPolicy(), active=active) as journal:
            log = journal.shop.log
            folded = []
            for n in range(1_200):
                await journal.record(set_("x", "y" * 400 + str(n)))
                if n % 100 == 99:
                    await journal.settle()
                    folded.append(recover(log, log.head("r")).folded)
            assert max(folded) <= 300
            assert len(log.snapshots(journal.state.run.run_key, 9_999)) >= 4

    story(tell())


def test_what_a_snapshot_tells_of_the_states_size_is_not_lost_with_an_append_in_flight():
    """A state that was written over twenty times is as large as it is, and not as all that was written."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log, policy=CheckpointPolicy(auto=False, every=21)) as journal:
            for n in range(19):
                await journal.record(set_("x", str(n) * 9_000))
            await journal.record(set_("x", "y" * 9_000))  # too large, as far as is known, to be packed at once
            assert journal._progress.state_size > 150_000
            log.gate.clear()
            while journal._packing is not None and len(log.batches) < 22:  # until the snapshot waits to be written
                await asyncio.sleep(0.001)
            moving = asyncio.create_task(journal.record(MOVE))
            await asyncio.sleep(0.01)
            log.gate.set()
            await moving
            await journal.settle()
            assert journal._progress.state_size < 30_000

    story(tell())


def test_a_snapshot_that_can_not_be_written_does_not_stop_the_run():
    """The log says no, and the run goes on without."""

    async def tell():
        log = Turnstile(MemoryLog())
        async with opened(log, policy=CheckpointPolicy(auto=False, every=1)) as journal:
            await journal.record(set_("x", "y" * 200_000))  # too large to be packed at once
            log.fail = StoreFull("no room")
            await journal.settle()
            assert log.snapshots(journal.state.run.run_key, 9) == []
            await journal.record(MOVE)
            await journal.settle()
            assert len(log.snapshots(journal.state.run.run_key, 9)) == 1

    story(tell())


def test_a_small_snapshot_is_written_before_the_next_event_which_vouches_for_it():
    """Whatever the machine's load, the history of a small run is the same."""

    async def tell():
        async with opened(policy=CheckpointPolicy(auto=False, every=3)) as journal:
            for _ in range(8):
                await journal.record(MOVE)
            log, key = journal.shop.log, journal.state.run.run_key
            assert log.snapshots(key, 99) == [(9, 0), (6, 7), (3, 4)]

    story(tell())


def test_the_checkpoint_before_the_first_node_is_made_with_the_run():
    """`before_node` counts the node where a run begins."""

    async def tell():
        async with opened(policy=CheckpointPolicy(before_node=True)) as journal:
            marks = journal.shop.log.checkpoints(journal.state.run.run_key)
            assert [(mark.id, mark.kinds) for mark in marks] == [("c-1", ("before_node",))]

    story(tell())


def test_pieces_of_a_long_list_are_written_once(tmp_path):
    """Two snapshots of a list that grew share its closed pieces, on disk too."""

    async def tell():
        log = LmdbLog(tmp_path / "s")
        async with opened(log, policy=NO_CHECKPOINTS) as journal:
            items = [f"item {n} " + "x" * 90 for n in range(3_000)]
            await journal.record(set_("log", items))
            first = await journal.checkpoint("manual", snapshot=True)
            before = log.usage().bytes["blobs"]
            await journal.record(Transitioned("a", "a", "done", (Op("extend", ("log",), freeze(["one more"])),)))
            await journal.checkpoint("manual", snapshot=True)
            assert log.usage().bytes["blobs"] - before < before / 2
            assert first.size < 20_000
        log.close()

    story(tell())
