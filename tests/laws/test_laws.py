"""The laws of the design that a running engine can break, one test each; the others are about the source's shape."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import story

from eventflow import CheckpointPolicy, CheckpointTaken, Engine, ManualClock, MemoryLog, RetryPolicy, Workflow
from eventflow.codec import Stored, encode, pack_state, read_events, unpack_state
from eventflow.errors import Corrupt, EventflowError, Fenced, StoreFull, VersionConflict, WrittenByNewer
from eventflow.log import Append, Entry, First, LmdbLog, Upkeep
from eventflow.plain import EMPTY
from eventflow.proof import genesis
from eventflow.recovery import line, recover
from eventflow.verification import verify_store


def counter(asked=None, last=5) -> Workflow:
    """`count` makes a call, adds one to n until it is `last`; `end` ends the run. Every guard and body is noted."""
    asked = [] if asked is None else asked

    async def count(state, run):
        asked.append("count")
        n = await run.effect("next", lambda: state["n"] + 1, mutating=False)
        return {"n": n, "log": [*state["log"], n]}

    def more(state):
        asked.append("more")
        return state["n"] < last

    def end(state):
        asked.append("end")
        return {"done": True}

    flow = Workflow("w").add_node("count", count).add_node("end", end)
    return flow.add_edge("count", "count", when=more).add_edge("count", "end").set_start("count")


START = {"n": 0, "log": []}


class Failing:
    """A log whose write number `at` finds no room."""

    def __init__(self, log, at):
        self._log, self._at, self.writes = log, at, 0

    def __getattr__(self, name):
        return getattr(self._log, name)

    def write(self, batch):
        self.writes += 1
        if self.writes == self._at:
            raise StoreFull("no room")
        return self._log.write(batch)


@pytest.mark.parametrize("at", range(1, 16))
def test_law_1_nothing_is_true_until_appended(at):
    """Whatever write fails, no listener, handle, checkpoint or state speaks of more than the log holds."""

    async def tell():
        inner = MemoryLog()
        log = Failing(inner, at)
        told = []

        def listener(state, notice):
            head = inner.head("r")
            if isinstance(notice, CheckpointTaken):
                assert notice.checkpoint.version <= head.version
                assert notice.checkpoint.id in [mark.id for mark in inner.checkpoints(head.run_key)]
            else:
                assert (notice.version, notice.digest) == (head.version, head.digest)
                assert state.digest == head.digest
                told.append(notice.version)

        flow = counter()
        policy = CheckpointPolicy(every=3, after_node=True)
        async with Engine(log, workflows=[flow], checkpoints=policy, listeners=[listener]) as engine:
            try:
                run = await engine.start(flow, START, run_id="r")
            except StoreFull:
                assert inner.head("r") is None
                return
            try:
                await run.result()
            except StoreFull:
                assert run.state == recover(inner, inner.head("r"), snapshots=False).state
            assert told == list(range(1, inner.head("r").version + 1))
        assert list(verify_store(inner))[-1].findings == []

    story(tell())


def test_law_2_recovery_folds_and_never_runs():
    """No guard and no node is asked again, and none of the user's code is needed."""
    asked = []

    async def tell():
        log, flow = MemoryLog(), counter(asked)
        async with Engine(log, workflows=[flow], checkpoints=CheckpointPolicy(every=2)) as engine:
            result = await (await engine.start(flow, START, run_id="r")).result()
        before = list(asked)
        head = log.head("r")
        for version in range(1, head.version + 1):
            for snapshots in (True, False):
                assert recover(log, head, version, snapshots=snapshots).state.version == version
        async with Engine(log) as engine:
            assert engine.get("r").data == result
            fork = await engine.fork(f"r@{head.version - 1}", run_id="f", drive=False)
            assert fork.state.data["n"] == 5
        assert asked == before
        flow = counter(asked)
        async with Engine(log, workflows=[flow]) as engine:
            assert await (await engine.resume("f")).result() == result
        assert asked == [*before, "end"]

    story(tell())


def test_law_3_time_and_chance_enter_as_fields_of_events():
    """With the same clock the same workflow leaves the same bytes."""

    async def tell():
        clock = ManualClock(seed=7)
        log = MemoryLog(clock=clock)
        failing = [1]

        def body(state):
            clock.advance(0.5)
            if failing:
                failing.pop()
                raise OSError("once")
            return {"x": 1}

        flow = Workflow("w").add_node("a", body, retry=RetryPolicy(attempts=2, delay=3)).set_start("a")
        policy = CheckpointPolicy(after_node=True)  # with the snapshot of the error, which the next event vouches for
        async with Engine(log, workflows=[flow], clock=clock, checkpoints=policy) as engine:
            run = await engine.start(flow, {}, tags=["t"])
            while run.status != "waiting":
                await asyncio.sleep(0.001)
            clock.advance(4)
            await run.result()
            await engine.checkpoint(run.id, label="x")
            assert {one.time for one in run.events()} <= {clock.now() - d for d in (5 * 10**9, 45 * 10**8, 0)}
        return [stored.data for stored in log.feed(0, 99)]

    first, second = story(tell()), story(tell())
    assert first == second
    assert len(first) == 5


def test_law_4_a_snapshot_is_a_cache():
    """Without any, all states are the same; one that disagrees with its digest stops recovery, and nothing is written."""

    async def tell():
        log, flow = MemoryLog(), counter(last=60)
        async with Engine(log, workflows=[flow], checkpoints=CheckpointPolicy(every=4)) as engine:
            await (await engine.start(flow, START, run_id="r")).result()
            head = log.head("r")
            states = [recover(log, head, version).state for version in range(1, head.version + 1)]
            assert any(recover(log, head, version).snapshot for version in range(1, head.version + 1))
            await engine.delete_checkpoints("r")
            assert log.snapshots(head.run_key, 999) == []
            assert [recover(log, head, version).state for version in range(1, head.version + 1)] == states
        return log

    story(tell())

    async def edited():
        log, flow = MemoryLog(), counter(last=60)
        async with Engine(log, workflows=[flow], checkpoints=CheckpointPolicy(every=4)) as engine:
            await (await engine.start(flow, START, run_id="r")).result()
            head = log.head("r")
            version = next(version for version, by in log.snapshots(head.run_key, head.version - 2) if by)
            state, _ = unpack_state(log.snapshot(head.run_key, version), log.blobs, "x")
            forged = pack_state(replace(state, data=EMPTY), anew=True)
            log.write([Upkeep(head.run_key, forged)])
            position = log.position()
            with pytest.raises(Corrupt, match="not what the chain vouches for"):
                await engine.resume("r", at=version + 1)
            with pytest.raises(Corrupt):
                await engine.fork(f"r@{version + 1}")
            assert log.position() == position

    story(edited())


def test_law_5_versions_are_dense_and_continue_through_forks():
    """Each run and each line counts 1, 2, 3 …, whatever is rewound and forked; a stale writer is refused."""

    async def tell():
        log, flow = MemoryLog(), counter()
        async with Engine(log, workflows=[flow]) as engine:
            await (await engine.start(flow, START, run_id="r")).result()
            await (await engine.resume("r", at=4)).result()
            await (await engine.fork("r@18", run_id="f")).result()
            await (await engine.resume("f", at=20)).result()
        for name, first in (("r", 1), ("f", 19)):
            head = log.head(name)
            own = [one.version for one in read_events(log.read(head.run_key, 1, 999), log.blobs)]
            assert own == list(range(first, head.version + 1))
            segments = line(log, head.run_key, head.version)
            assert segments[0].first == 1
            assert segments[-1].last == head.version
        head = log.head("r")
        stale = Append("r", head.run_key, 1, head.version - 1, head.epoch, (), 0, "running")
        fenced = replace(stale, expected=head.version, epoch=head.epoch - 1)
        begun = replace(
            stale,
            run_key=bytes(16),
            expected=0,
            first=First(genesis(bytes(16), "r", 1, bytes(32)), Entry("w", (), None, 0)),
        )
        answers = log.write([stale, fenced, begun])
        assert [type(answer) for answer in answers] == [VersionConflict, Fenced, VersionConflict]
        assert log.head("r") == head
        assert list(verify_store(log))[-1].findings == []

    story(tell())


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.lists(st.integers() | st.text(max_size=3), max_size=12).map(encode))
def test_law_9_bytes_of_a_stranger_are_plain_data_or_refused(data):
    """Nothing but our own errors comes out of reading an event."""
    for strict in (False, True):
        with pytest.raises((Corrupt, WrittenByNewer)):
            read_events([Stored(1, data)], lambda names: {}, strict=strict)


def test_law_9_opening_a_strangers_store_runs_nothing(tmp_path):
    """Names in it are names: no module is imported for them, and no code of a workflow is found by them."""

    async def tell():
        flow = Workflow("this:s").add_node("antigravity", lambda s: {"x": 1}).set_start("antigravity")
        async with Engine(tmp_path / "s") as engine:
            await engine.drain()
            await engine.start(flow, {"__reduce__": ["os", "system"]}, run_id="r", tags=["os.system"])

    story(tell())
    before = set(sys.modules)
    log = LmdbLog(tmp_path / "s")

    async def read():
        async with Engine(log, pick_up=True) as engine:
            assert await engine.pick_up() == ([], ["r"])
            assert engine.get("r").data == {"__reduce__": ["os", "system"]}
            with pytest.raises(EventflowError, match="was not given"):
                await engine.resume("r")

    story(read())
    log.close()
    assert {"this", "antigravity"} & (set(sys.modules) - before) == set()
