"""What is saved of a damaged store: everything that proves itself, nothing that does not, and a list of the rest."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Engine, Keyring, SystemClock, Workflow
from eventflow.change import Op
from eventflow.cipher import MasterKey
from eventflow.codec import read_events
from eventflow.engine import operations
from eventflow.errors import Conflict, NoKey, Shredded, StoreNotFound, VersionCompacted
from eventflow.event import StoreRepaired, Transitioned
from eventflow.forking import fork_run
from eventflow.log import STORE_RUN, LmdbLog, Query, open_log
from eventflow.log.lmdb.salvage import PAGE
from eventflow.log.lmdb.salvage import rows as salvaged
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.repair import repair
from eventflow.retention import compact_run
from eventflow.shredding import shred, to_shred
from eventflow.testing.author import Author
from eventflow.verification import verify_store

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


# --- encrypted runs ------------------------------------------------------------------------------------------------

RING = Keyring(MasterKey(b"m" * 32))
SECRET = "swordfish " * 300


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """An encrypted store: two runs of one subject, one of another that was shredded, one of its own with a fork."""

    async def work() -> None:
        flow = Workflow("f").add_node("a", lambda state: {"x": state["x"] + SECRET}).set_start("a")
        async with Engine(tmp_path / "e", workflows=[flow], keys=RING) as engine:
            for run_id, subject in (("a1", "Ada"), ("a2", "Ada"), ("e1", "Eve"), ("own", None)):
                await (await engine.start(flow, {"x": run_id}, run_id=run_id, subject=subject)).result()
            await (await engine.fork("own@1", run_id="forked")).result()

    asyncio.run(work())
    with closing(open_log(tmp_path / "e", keys=RING)) as log:
        shred(log, SystemClock(), to_shred(log, "Eve"))
    with (tmp_path / "e" / "data.1" / "data.mdb").open("r+b") as file:
        file.write(bytes(2 * PAGE))
    return tmp_path / "e"


@pytest.mark.parametrize("known", [True, False], ids=["with the key", "without"])
def test_encrypted_runs_are_saved_with_their_keys(sealed, tmp_path, monkeypatch, known):
    """Whoever has the master key reads them as before; what was shredded stays so, and is proved all the same."""
    if known:
        monkeypatch.setenv("EVENTFLOW_KEY", base64.b64encode(b"m" * 32).decode())
    made = repair(sealed, tmp_path / "saved")
    assert (made.runs, made.lost) == (5, ())
    with closing(open_log(tmp_path / "saved", readonly=True, keys=RING)) as log:
        *_, report = verify_store(log)
        assert (report.findings, report.hidden) == ([], 2)  # those of the run that was shredded
        for run_id in ("a1", "a2", "own"):
            head = log.head(run_id)
            assert recover(log, head).state.data["x"] == run_id + SECRET
            assert head.status == "completed"
        assert recover(log, log.head("forked")).state.data["x"] == "own" + SECRET
        with pytest.raises(Shredded):
            recover(log, log.head("e1"))
    assert not any(b"swordfish" in path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file())
    monkeypatch.delenv("EVENTFLOW_KEY", raising=False)
    with closing(open_log(tmp_path / "saved")) as log, pytest.raises(NoKey):
        Author(log).start("new")  # it is as encrypted as the other was
    with closing(open_log(tmp_path / "saved", keys=RING)) as log:
        shred(log, SystemClock(), to_shred(log, "Ada"))
        with pytest.raises(Shredded):
            recover(log, log.head("a2"))


def test_of_an_encrypted_run_what_lacks_a_value_is_lost_where_the_key_can_tell(sealed, tmp_path, monkeypatch):
    """A sealed value that was changed does not open; without the key nobody sees that, and it is seen once the key is there."""
    file = data(sealed)
    whole = file.read_bytes()
    rows = [row for key, row in salvaged(file) if row[:1] == b"\3" and len(key) == 8]
    assert len(rows) > 3
    row = rows[0]
    file.write_bytes(whole.replace(row[40:], row[40:-1] + bytes([row[-1] ^ 1])))
    without = repair(sealed, tmp_path / "without")
    monkeypatch.setenv("EVENTFLOW_KEY", base64.b64encode(b"m" * 32).decode())
    made = repair(sealed, tmp_path / "with")
    assert without.lost == ()
    assert len(made.lost) == 1
    assert "value it refers to was not found" in made.lost[0].problem or "none of its versions" in made.lost[0].problem
    with closing(open_log(tmp_path / "with", readonly=True)) as log:
        assert list(verify_store(log))[-1].findings == []
    with closing(open_log(tmp_path / "without", readonly=True)) as log:
        assert len(list(verify_store(log))[-1].findings) == 1


def test_a_key_that_is_not_there_is_told(sealed, tmp_path):
    """The run is saved, for its key may come back; the list says that its values can't be read."""
    for file in (sealed / "keys").glob("*.key"):
        if b"Ada" in file.read_bytes():
            file.unlink()
    made = repair(sealed, tmp_path / "saved")
    assert made.runs == 5
    assert [(one.run[:1], "its key is not in" in one.problem) for one in made.lost] == [("a", True)]


@pytest.fixture
def compacted(store: Path) -> Path:
    """The store, with a run whose beginning was taken away twice, and a fork that stands on it."""
    with closing(LmdbLog(store)) as log:
        author = Author(log)
        head = author.start("long")
        for turn in range(30):
            items = freeze([f"{turn} {number} {'x' * 50}" for number in range(200)])
            change = (Op("set", ("items",), items), Op("set", ("text",), "y" * 5_000 + str(turn)))
            head = author.add(head, Transitioned("a", "a", change=change))
        compact_run(log, SystemClock(), "long", 10)
        compact_run(log, SystemClock(), "long", 20)
        fork_run(log, SystemClock(), head, 25, run_id="fork")
    return store


def test_a_compacted_run_is_saved_from_its_origin_on(compacted, sound):
    """With the state it begins with, and what continues it; the new store vouches for that."""
    before = histories(compacted)
    assert saved(compacted, sound, before)[1] == ()
    with closing(LmdbLog(compacted.parent / "saved", readonly=True)) as new, closing(LmdbLog(compacted)) as old:
        for name in ("long", "fork"):
            here, there = new.head(name), old.head(name)
            assert recover(new, here).state.data == recover(old, there).state.data
        assert recover(new, new.head("long"), 20).state == recover(old, old.head("long"), 20).state
        with pytest.raises(VersionCompacted):
            recover(new, new.head("long"), 19)


def test_a_compacted_run_whose_origin_is_damaged_is_named(compacted, sound):
    """A changed byte of the snapshot that it begins with leaves nothing that could be proved."""
    with closing(LmdbLog(compacted)) as log:
        root = log.snapshot(log.head("long").run_key, 20)
    whole = data(compacted).read_bytes()
    changed = root[:40] + bytes([root[40] ^ 1]) + root[41:60]
    data(compacted).write_bytes(whole.replace(root[:60], changed))  # old pages may have it too
    made = repair(compacted, compacted.parent / "saved")
    assert sound(compacted.parent / "saved").runs == len(RUNS)
    assert {one.run: one.problem for one in made.lost}["long"].endswith("its origin does not prove itself")
