"""What is saved of a damaged store: everything that proves itself, nothing that does not, and a list of the rest."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Engine, SystemClock, Workflow
from eventflow.codec import read_events
from eventflow.engine import operations
from eventflow.errors import Conflict, StoreNotFound
from eventflow.event import StoreRepaired
from eventflow.log import STORE_RUN, LmdbLog, Query
from eventflow.log.lmdb.salvage import PAGE
from eventflow.repair import repair

RUNS = [f"run-{number}" for number in range(12)]


@pytest.fixture
def store(tmp_path: Path, fill) -> Path:
    """A store with a dozen runs, closed."""
    fill(tmp_path / "s", *RUNS)
    return tmp_path / "s"


def data(store: Path) -> Path:
    """Its LMDB file."""
    return store / "data.1" / "data.mdb"


def histories(store: Path) -> dict[str, list[bytes]]:
    """The stored events of each run, of their own."""
    with closing(LmdbLog(store, readonly=True)) as log:
        heads = [one.head for one in log.runs(Query())]
        return {head.run_id: [one.data for one in log.read(head.run_key, 1, head.version)] for head in heads}


def saved(store: Path, sound, before: dict[str, list[bytes]], *, name: str = "saved") -> tuple[int, tuple]:
    """Repair a store; what is saved holds, and is the beginning of what was there. Returns how many events, and the losses."""
    goal = store.parent / name
    original = data(store).read_bytes()
    made = repair(store, goal)
    assert data(store).read_bytes() == original
    assert sound(goal).runs == made.runs
    after = histories(goal)
    for run, events in after.items():
        assert events == before[run][: len(events)]
    lost = {one.run for one in made.lost}
    assert all(after[run] == events for run, events in before.items() if run in after and run not in lost)
    assert made.events == sum(map(len, after.values()))
    return made.events, made.lost


def test_of_a_sound_store_everything_is_saved(store, sound):
    """And the new store says where it comes from."""
    before = histories(store)
    assert saved(store, sound, before) == (sum(map(len, before.values())), ())
    with closing(LmdbLog(store.parent / "saved", readonly=True)) as log, closing(LmdbLog(store, readonly=True)) as old:
        assert log.store_id != old.store_id
        last = log.head_of(STORE_RUN).version
        (event,) = read_events(log.read(STORE_RUN, last, last), log.blobs)
        assert event.event == StoreRepaired(
            old.store_id, sum(map(len, before.values())), event.event.lost, event.event.actor
        )


@pytest.mark.parametrize("page", ["meta", "roots"])
def test_without_its_trees_everything_is_saved(store, sound, page):
    """The pages that say where the others are may be gone: rows are found by the pages they lie in."""
    before = histories(store)
    whole = bytearray(data(store).read_bytes())
    for number in range(len(whole) // PAGE):
        flags = int.from_bytes(whole[number * PAGE + 10 : number * PAGE + 12], "little")
        if (page == "meta" and number < 2) or (page == "roots" and flags & 0x01):  # branch pages
            whole[number * PAGE : (number + 1) * PAGE] = os.urandom(PAGE)
    data(store).write_bytes(whole)
    assert saved(store, sound, before)[1] == ()


def test_a_file_that_was_cut_gives_what_it_holds(store, sound):
    """Whatever its length is."""
    before = histories(store)
    whole = data(store).read_bytes()
    counts = []
    for number, share in enumerate((0.0, 0.3, 0.6, 0.9, 0.99)):
        data(store).write_bytes(whole[: int(len(whole) * share)])
        counts.append(saved(store, sound, before, name=f"saved-{number}")[0])
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] == 0


def test_every_loss_is_named(store, sound):
    """Of an event that was changed, nothing from there on; the run, the version and the reason are told."""
    before = histories(store)
    whole = data(store).read_bytes()
    changed = before["run-5"][2]
    assert whole.count(changed) >= 1
    other = changed[:-40] + bytes([changed[-40] ^ 1]) + changed[-39:]
    data(store).write_bytes(whole.replace(changed, other))
    events, lost = saved(store, sound, before)
    assert [(one.run, one.version) for one in lost] == [("run-5", 3)]
    assert "does not follow" in lost[0].problem or "do not follow" in lost[0].problem
    assert events == sum(map(len, before.values())) - len(before["run-5"]) + 2


def test_a_changed_last_event_is_not_believed(store, sound):
    """No event after it names its digest, and the head names another."""
    before = histories(store)
    last = before["run-7"][-1]
    other = last.replace(b"dnode", b"dnodf") if b"dnode" in last else last[:-1] + b"\0"
    assert other != last
    data(store).write_bytes(data(store).read_bytes().replace(last, other))
    _, lost = saved(store, sound, before)
    assert [one.run for one in lost] == ["run-7"]


@pytest.mark.parametrize("seed", range(8))
def test_of_random_damage_only_what_it_touched_is_lost(store, sound, seed):
    """Pages overwritten, bits flipped: what is saved is a part of what was there, and what is missing is named."""
    before = histories(store)
    chance = random.Random(seed)  # noqa: S311 - a seed that can be repeated
    whole = bytearray(data(store).read_bytes())
    for _ in range(4):
        at = chance.randrange(len(whole) // PAGE) * PAGE
        if chance.random() < 0.5:
            whole[at : at + PAGE] = chance.randbytes(PAGE)
        else:
            whole[at + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)
    data(store).write_bytes(whole)
    events, lost = saved(store, sound, before)
    assert events > sum(map(len, before.values())) / 3
    assert (events == sum(map(len, before.values()))) == (not lost)


def test_deleted_runs_stay_deleted(store, sound):
    """Their events may lie in free pages for long; nobody asked for them back."""
    before = histories(store)
    with closing(LmdbLog(store)) as log:
        operations.delete_run(log, SystemClock(), "run-3")
    events, lost = saved(store, sound, before)
    assert lost == ()
    assert events == sum(len(one) for run, one in before.items() if run != "run-3")


def test_forks_are_saved_with_what_they_continue(tmp_path, sound):
    """A fork whose parent is damaged is lost from the beginning, or saved where its parent is whole that far."""
    flow = (
        Workflow("w")
        .add_node("a", lambda state: {"n": state["n"] + 1, "load": os.urandom(300)})
        .add_node("b", lambda state: {})
        .add_edge("a", "a", when=lambda state: state["n"] < 5, label="more")
        .add_edge("a", "b")
        .set_start("a")
    )

    async def work() -> None:
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0}, run_id="r")).result()
            await (await engine.fork("r@2", run_id="early")).result()
            await (await engine.fork("r@5", run_id="late")).result()

    asyncio.run(work())
    before = histories(tmp_path / "s")
    changed = before["r"][3]
    other = changed[:-40] + bytes([changed[-40] ^ 1]) + changed[-39:]
    data(tmp_path / "s").write_bytes(data(tmp_path / "s").read_bytes().replace(changed, other))
    _, lost = saved(tmp_path / "s", sound, before)
    assert {one.run for one in lost} == {"r", "late"}
    with closing(LmdbLog(tmp_path / "saved", readonly=True)) as log:
        assert sorted(one.head.run_id for one in log.runs(Query())) == ["early", "r"]


def test_nothing_is_written_over_and_nothing_is_made_of_nothing(store, tmp_path):
    """A goal that is there is a conflict; a place without a store is none."""
    with pytest.raises(Conflict):
        repair(store, store)
    with pytest.raises(StoreNotFound):
        repair(tmp_path / "nowhere", tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_file_of_noise_gives_an_empty_store(store, sound):
    """And that in little time."""
    data(store).write_bytes(os.urandom(100 * PAGE) + (b"\x8b\x01\0\x50" * (PAGE // 4)) * 4)
    made = repair(store, store.parent / "saved")
    assert (made.runs, made.events) == (0, 0)
    sound(made.path)
