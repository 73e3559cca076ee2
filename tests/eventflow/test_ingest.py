"""Histories from elsewhere taken in: bytes unchanged, parents first, each verified, open runs paused, twice the same as once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Engine, SystemClock, Workflow
from eventflow.codec import pack, read_events
from eventflow.engine import operations
from eventflow.errors import Conflict, Corrupt, ProofFailed, RunExists, VersionConflict
from eventflow.event import RunPaused, RunsImported, StoreRepaired, Transitioned
from eventflow.exchange import ExportLog, write_sequence
from eventflow.ingest import bring, in_order, ingest
from eventflow.log import STORE_RUN, Append, LmdbLog, Log, MemoryLog, Query
from eventflow.plain import FrozenList
from eventflow.recovery import recover
from eventflow.verification import verify_store

FLOW = (
    Workflow("w")
    .add_node("a", lambda state: {"n": state["n"] + 1, "long": "text " * 500, "load": b"\0" * 2_000})
    .add_node("b", lambda state: {})
    .add_edge("a", "a", when=lambda state: state["n"] < 3, label="more")
    .add_edge("a", "b")
    .set_start("a")
)


@pytest.fixture
def source(tmp_path: Path, fill) -> ExportLog:
    """An export of a store with a finished run, a fork of it and a fork of that, and a run that waits."""

    async def work() -> None:
        async with Engine(tmp_path / "s", workflows=[FLOW]) as engine:
            await (await engine.start(FLOW, {"n": 0}, run_id="r")).result()
            fork = await engine.fork("r@2", run_id="r.f")
            await fork.result()
            await (await engine.fork("r.f@4", run_id="a.f.f", change={"n": 0})).result()

    asyncio.run(work())
    fill(tmp_path / "s", "h", hold=True)
    return exported(tmp_path / "s")


def exported(path: Path, *ids: str) -> ExportLog:
    """A store's runs, all or some, as a file has them."""
    file = io.BytesIO()
    with closing(LmdbLog(path, readonly=True)) as log:
        write_sequence(log, file, [log.head(one) for one in ids] if ids else None)
    return ExportLog(file.getvalue())


@pytest.fixture(params=["lmdb", "memory"])
def target(request, tmp_path: Path) -> Log:
    """A new store."""
    log = LmdbLog(tmp_path / "t") if request.param == "lmdb" else MemoryLog()
    yield log
    log.close()


def stored(log: Log, run_id: str, upto: int) -> list[bytes]:
    """A run's own events."""
    head = log.head(run_id)
    return [one.data for one in log.read(head.run_key, 1, upto)]


def sound(log: Log) -> int:
    """How many runs a store has, in which everything must hold."""
    *_, report = verify_store(log)
    assert report.findings == []
    return report.runs


def last_act(log: Log) -> object:
    """What the store's own stream said last."""
    head = log.head_of(STORE_RUN)
    return read_events(log.read(STORE_RUN, head.version, head.version), log.blobs)[0].event


def test_runs_come_in_byte_for_byte(source, target):
    """Digests, states, entries and forks are what they were; the store says what it took in."""
    done = ingest(source, target, actor="ann", why="moved")
    assert sorted(done.runs) == ["a.f.f", "h", "r", "r.f"]
    assert sound(target) == 4
    for listed in source.runs(Query()):
        head = listed.head
        assert stored(target, head.run_id, head.version) == stored(source, head.run_id, head.version)
        ours = target.head(head.run_id)
        assert recover(target, ours, head.version).state == recover(source, head).state
        assert target.entry(head.run_key).parent_key == listed.entry.parent_key
    assert last_act(target) == RunsImported(source.store_id, FrozenList(done.runs), done.events, "ann", "moved")


def test_a_run_that_is_not_over_stands_paused(source, target):
    """It may be driven where it came from; with `pause=False` it is as it was."""
    ingest(source, target)
    head = target.head("h")
    assert (head.status, target.head("r").status) == ("paused", "completed")
    (event,) = read_events(target.read(head.run_key, head.version, head.version), target.blobs)
    assert isinstance(event.event, RunPaused)
    other = MemoryLog()
    ingest(source, other, pause=False)
    assert other.head("h") == source.head("h")


def test_a_paused_run_goes_on_when_somebody_resumes_it(source, tmp_path, counting):
    """In the store that took it in, where nobody has driven it before."""
    with closing(LmdbLog(tmp_path / "t")) as log:
        ingest(source, log)

    async def work() -> str:
        async with Engine(tmp_path / "t", workflows=[counting()]) as engine:
            run = await engine.resume("h")
            await engine.signal("h", "go", None)
            await run.result()
            return run.status

    assert asyncio.run(work()) == "completed"
    with closing(LmdbLog(tmp_path / "t", readonly=True)) as log:
        sound(log)


def test_taken_in_twice_is_taken_in_once(source, target):
    """What is there already is left as it is, and nothing is recorded."""
    first = ingest(source, target)
    before = target.position()
    again = ingest(source, target)
    assert (again.runs, again.present, again.events) == ((), tuple(one for one in first.runs), 0)
    assert target.position() == before


def test_some_runs_bring_those_that_they_continue(source, target):
    """Parents come first, whole, and nothing else does."""
    head = source.head("a.f.f")
    assert [one.run_id for one in in_order(source, [head])] == ["r", "r.f", "a.f.f"]
    assert ingest(source, target, [head]).runs == ("r", "r.f", "a.f.f")
    assert sound(target) == 3


def test_what_is_said_of_it_can_be_another_event(source, target):
    """As a repair says."""
    ingest(source, target, record=lambda done: StoreRepaired(source.store_id, done.events, FrozenList()))
    assert isinstance(last_act(target), StoreRepaired)


def test_progress_is_told(source, target):
    """Runs done, and runs in all."""
    seen: list[tuple[int, int]] = []
    ingest(source, target, progress=lambda done, every: seen.append((done, every)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_large_sources_take_several_transactions_each_with_its_word(source, tmp_path, monkeypatch):
    """No transaction holds more than it must, and each run is whole in one."""
    monkeypatch.setattr("eventflow.ingest.BATCH_BYTES", 1)
    with closing(LmdbLog(tmp_path / "t")) as log:
        ingest(source, log)
        own = log.head_of(STORE_RUN)
        said = [one.event for one in read_events(log.read(STORE_RUN, 2, own.version), log.blobs)]
        assert [len(one.runs) for one in said] == [1, 1, 1, 1]
        assert sound(log) == 4


# --- refused -------------------------------------------------------------------------------------------------------


def test_another_run_of_the_same_id_is_in_the_way(source, tmp_path, fill):
    """It is named, and nothing is taken in."""
    fill(tmp_path / "t", "r")
    with closing(LmdbLog(tmp_path / "t")) as log:
        before = log.position()
        with pytest.raises(RunExists, match="another history"):
            ingest(source, log)
        assert log.position() == before


def test_a_run_that_went_another_way_is_in_the_way(source, tmp_path):
    """The same run with other events after the same beginning is a conflict."""
    part = exported(tmp_path / "s", "r.f")  # of `r` its beginning
    with closing(LmdbLog(tmp_path / "t")) as log:
        ingest(part, log)
        assert log.head("r").status == "paused"
        with pytest.raises(Conflict, match="another way"):
            ingest(source, log)


def changed(source: ExportLog, run_id: str, version: int, change: Callable[[bytes], bytes]) -> ExportLog:
    """A source in which one event is another."""
    head = source.head(run_id)
    place = source.read(head.run_key, version, version)[0].position - 1
    source._events[place] = change(source._events[place])
    return source


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_history_that_does_not_hold_is_not_taken_in(source, target, version):
    """Whatever event was changed: the run is named, and neither it nor what continues it comes in."""
    forged = changed(source, "r", version, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises((ProofFailed, Corrupt)):
        ingest(forged, target)
    assert target.head("r") is None
    assert sound(target) == 0


def test_a_run_that_is_said_to_begin_late_and_has_no_origin_is_not_taken_in(source, monkeypatch):
    """What it would begin with is not there, so nothing of it is proved."""
    head = source.head("r")
    entry = source.entry(head.run_key)
    monkeypatch.setattr(
        source, "entry", lambda _: type(entry)(*(getattr(entry, one) for one in entry.__slots__[:7]), origin=2)
    )
    with pytest.raises(ProofFailed, match="was compacted"):
        bring(source, head)


def test_events_that_do_not_follow_are_refused_by_the_log(source, target):
    """A log checks where they go, whoever brings them."""
    brought = bring(source, source.head("r"))
    (answer,) = target.write([brought])
    assert answer.head.version == source.head("r").version
    (answer,) = target.write([brought])
    assert isinstance(answer, VersionConflict)
    later = Append("r", b"other key, 16 by", 1, 4, 0, (pack(Transitioned("a", "a")),), 1, "running")
    assert isinstance(target.write([later])[0], VersionConflict)


def test_a_deleted_runs_id_is_taken_again_by_a_later_incarnation_only(source, tmp_path):
    """An import does not bring back what was deleted here."""
    with closing(LmdbLog(tmp_path / "t")) as log:
        ingest(source, log, [source.head("h")])
        operations.delete_run(log, SystemClock(), "h", why="unwanted")
        with pytest.raises(Conflict):
            ingest(source, log, [source.head("h")])
        assert log.head("h") is None
        sound(log)
