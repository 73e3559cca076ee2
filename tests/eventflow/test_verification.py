"""Does a history hold? Whatever is changed in a store by hand is found, or the store is refused when it is opened."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import CheckpointPolicy, Engine, MemoryLog, Workflow
from eventflow.change import Op
from eventflow.checkpoint import Checkpoint
from eventflow.codec import TOMBSTONE, decode, encode, pack, pack_state
from eventflow.errors import EventflowError, StoreUnusable
from eventflow.event import (
    EffectFinished,
    Event,
    Failure,
    Recorded,
    RunCompleted,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    Transitioned,
    Vouch,
)
from eventflow.log import STORE_RUN, Act, Log, Post, Upkeep, open_log
from eventflow.log.lmdb.tables import TABLES, entry_from, entry_row, head_from, head_row, mark_from, mark_row
from eventflow.plain import EMPTY, freeze
from eventflow.proof import digest
from eventflow.recovery import recover
from eventflow.testing.author import Author, written
from eventflow.verification import Report, verify_run, verify_store
from eventflow.verification.legality import Legality

LONG = "a long text, which is kept once: " + "x" * 2_000
U64 = struct.Struct(">Q")


def steps() -> Workflow:
    """A workflow with a loop, a guard, a node that ends it, an error edge and a call."""

    async def call(state: Any, run: Any) -> dict[str, Any]:
        return {"called": await run.effect("call", lambda: {"ok": True}, mutating=False)}

    return (
        Workflow("steps")
        .add_node("loop", lambda s: {"n": s["n"] + 1, "text": LONG})
        .add_node("call", call)
        .add_node("end", lambda s: {"done": True})
        .add_node("mend", lambda s: {})
        .add_edge("loop", "loop", when=lambda s: s["n"] < 4, label="more")
        .add_edge("loop", "call")
        .add_edge("call", "end")
        .add_edge("call", "mend", on="failed")
        .set_start("loop")
    )


async def fill(log: Log) -> None:
    """A store with all that one can hold: runs, a fork, a rewind, a deleted run, snapshots, checkpoints, a message."""
    flow = steps()
    policy = CheckpointPolicy(every=2, after_node=True)
    async with Engine(log, workflows=[flow], checkpoints=policy) as engine:
        await (await engine.start(flow, {"n": 1}, run_id="r", tags=["tag"], subject="me")).wait()
        await engine.checkpoint("r", label="by hand", snapshot=True)
        await (await engine.fork("r@2", run_id="fork", change={"n": 3})).wait()
        await (await engine.resume("r", at=3)).wait()
        await (await engine.start(flow, {"n": 3}, run_id="gone")).wait()
        await engine.delete("gone", why="tidy")
        await (await engine.start(flow, {"n": "many"}, run_id="failed")).wait()
    head = log.head("failed")
    assert head is not None
    written(log, Post(head.run_key, encode({"actor": "", "kind": "signal", "name": "n", "payload": 1, "why": ""})))


def verified(log: Log) -> Report:
    """The whole report."""
    *_, report = verify_store(log)
    return report


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the tests copy."""
    path = tmp_path_factory.mktemp("template") / "store"
    log = open_log(path)
    asyncio.run(fill(log))
    log.close()
    return path


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(template, tmp_path / "store")
    return tmp_path / "store"


def looked_at(path: Path) -> list[str]:
    """What is wrong with a store: the findings, or why it is refused. Nothing else may be raised."""
    try:
        log = open_log(path, readonly=True)
    except StoreUnusable as error:
        return [f"refused: {error}"]
    try:
        return list(map(str, verified(log).findings))
    finally:
        log.close()


Tables = dict[str, Any]


def edit(path: Path, work: Callable[[Any, Tables], None]) -> None:
    """Change a store's tables by hand."""
    with lmdb.open(str(path / "data.1"), max_dbs=len(TABLES), map_size=1 << 30) as env:
        tables = {name.decode(): env.open_db(name, create=False) for name in TABLES}
        with env.begin(write=True) as txn:
            work(txn, tables)


def rows(path: Path, table: str) -> list[tuple[bytes, bytes]]:
    """All rows of a table."""
    found: list[tuple[bytes, bytes]] = []
    edit(path, lambda txn, tables: found.extend(txn.cursor(db=tables[table])))
    return found


def put(path: Path, table: str, key: bytes, value: bytes) -> None:
    """Write a row over another."""

    def work(txn: Any, tables: Tables) -> None:
        txn.delete(key, db=tables[table])
        txn.put(key, value, db=tables[table])

    edit(path, work)


def drop(path: Path, table: str, key: bytes) -> None:
    """Remove a row."""
    edit(path, lambda txn, tables: txn.delete(key, db=tables[table]))


def flipped(data: bytes, place: int) -> bytes:
    """The bytes with one bit of one of them turned."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


# --- what holds ----------------------------------------------------------------------------------------------------


def test_a_sound_store_holds(store):
    """Everything was looked at: runs, events, snapshots, what was deleted; nothing was found."""
    log = open_log(store, readonly=True)
    report = verified(log)
    log.close()
    assert report.findings == []
    assert report.sound
    assert report.runs == 3
    assert report.deleted == 6
    assert report.snapshots >= 5
    assert report.events + report.deleted == len(rows(store, "log"))


def test_a_log_in_memory_is_verified_as_one_on_disk():
    """Verification asks the protocol and nothing of a backend."""
    log = MemoryLog()
    asyncio.run(fill(log))
    report = verified(log)
    assert report.findings == []
    assert (report.runs, report.deleted) == (3, 6)


def test_one_run_can_be_verified(store):
    """Its own events, without those of others."""
    log = open_log(store, readonly=True)
    head = log.head("fork")
    report = verify_run(log, head)
    log.close()
    assert report.sound
    assert (report.runs, report.events) == (1, head.version - 2)


def test_progress_is_told_run_by_run(store):
    """The growing report comes once for the store's stream, once for each run, once at the end."""
    log = open_log(store, readonly=True)
    seen = [report.runs for report in verify_store(log)]
    log.close()
    assert seen == [0, 1, 2, 3, 3]


def test_a_store_that_others_write_to_holds(tmp_path, child):
    """Runs that start, move, lose snapshots, are deleted and get messages meanwhile are nothing that does not hold."""
    path = tmp_path / "store"
    open_log(path).close()

    def work() -> str:
        async def drive() -> None:
            flow = steps()
            policy = CheckpointPolicy(every=2, after_node=True, keep=1)
            async with Engine(path, workflows=[flow], checkpoints=policy) as engine:
                for number in range(25):
                    run = await engine.start(flow, {"n": 1}, run_id=f"r{number}", tags=["t"])
                    await engine.signal(run.id, "s")
                    await run.wait()
                    await engine.checkpoint(run.id, label="x")
                    if number % 2:
                        await engine.delete(run.id)

        asyncio.run(drive())
        return "done"

    driving = child(work)
    log = open_log(path, readonly=True)
    looks = 0
    while log.head("r24") is None or log.head("r24").status != "completed":
        assert list(map(str, verified(log).findings)) == []
        looks += 1
    assert driving.answer() == "done"
    assert verified(log).sound
    assert looks > 1
    log.close()


# --- bytes that are turned -----------------------------------------------------------------------------------------


def test_no_bit_of_an_event_can_be_turned_unseen(halfway):
    """Each byte of each event of a history, one by one: digest, number, name, body or flag, it is found."""
    log = halfway.log
    written(log, halfway.then(log.head("r"), Transitioned("loop", "loop", "done", (Op("set", ("text",), LONG),))))
    assert verified(log).sound
    for index, data in enumerate(list(log._events)):
        for place in range(len(data)):
            log._events[index] = flipped(data, place)
            assert not verified(log).sound, (index, place)
        log._events[index] = data
    assert verified(log).sound


def test_no_bit_of_a_stored_event_can_be_turned_unseen(store):
    """The same on disk, for some bytes of every event; of a deleted run the last one's digest is still vouched for."""
    events = [row for row in rows(store, "log") if row[1][:1] != TOMBSTONE]
    last = [row for row in rows(store, "log") if row[1][:1] == TOMBSTONE][-1:]
    for number, (key, data) in enumerate(events + last):
        for place in {number * 7 % len(data), len(data) - 1 - number % 5}:
            put(store, "log", key, flipped(data, place))
            assert looked_at(store), (key, place)
        put(store, "log", key, data)
    assert looked_at(store) == []


@pytest.mark.parametrize("table", ["blobs", "snapshots", "runs", "places", "info", "names", "store", "bends"])
def test_no_row_can_be_damaged_unseen(store, table):
    """Some bits of each row of each table, turned one at a time, are found."""
    unseen = []
    for key, data in rows(store, table):
        for place in range(len(data)) if len(data) <= 8 else {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            put(store, table, key, flipped(data, place))
            if not looked_at(store) and not _says_nothing(table, key, flipped(data, place), data):
                unseen.append((key, place))
        put(store, table, key, data)
    assert looked_at(store) == []
    assert unseen == []


def _says_nothing(table: str, key: bytes, data: bytes, old: bytes) -> bool:
    """Whether a row says the same, but for what nothing else in a store speaks of.

    That is: when a run was asked for and last written to, who drives it, an epoch ahead of the history, the number of the
    next message and sweep, and all but the incarnation of a deleted run.
    """
    if table == "info":
        return replace(entry_from(data)[1], started=0) == replace(entry_from(old)[1], started=0)
    if table == "names":
        one, other = head_from(key, data), head_from(key, old)
        loose = {"updated": 0, "owner": b"", "epoch": 0} | ({} if other.version else {"run_key": b"", "digest": b""})
        return replace(one, **loose) == replace(other, **loose)
    return table == "store" and key in (b"messages", b"sweep")


@pytest.mark.parametrize("table", ["log", "runs", "names", "info", "index", "bends", "blobs", "places", "store"])
def test_no_row_can_be_taken_away_unseen(store, table):
    """Each row of each table that is not a cache, one by one, is missed."""
    for key, data in rows(store, table):
        if key in (b"messages", b"sweep"):
            continue
        drop(store, table, key)
        assert looked_at(store), key
        put(store, table, key, data)
    assert looked_at(store) == []


def test_what_is_a_cache_can_be_taken_away(store):
    """Without snapshots and checkpoints the same history holds."""
    for table in ("snapshots", "marks"):
        for key, _ in rows(store, table):
            drop(store, table, key)
    assert looked_at(store) == []


# --- rows that are exchanged or forged -----------------------------------------------------------------------------


def exchanged(path: Path, table: str, one: int, other: int) -> None:
    """Exchange the values of two rows."""
    (key, value), (other_key, other_value) = (rows(path, table)[index] for index in (one, other))
    put(path, table, key, other_value)
    put(path, table, other_key, value)


@pytest.mark.parametrize("table", ["log", "runs", "names", "info", "blobs", "places", "snapshots"])
def test_two_rows_can_t_be_exchanged(store, table):
    """Two neighbours of a table trade places: their values are whole, and it is found."""
    found = rows(store, table)
    for index in range(len(found) - 1):
        one, other = found[index][1], found[index + 1][1]
        if one != other and not (one[:1] == other[:1] == TOMBSTONE):
            exchanged(store, table, index, index + 1)
            assert looked_at(store), index
            exchanged(store, table, index, index + 1)
    assert looked_at(store) == []


def head_edit(**changes: Any) -> Callable[[Path], None]:
    """A change of the fields of the head of run `r`."""

    def work(path: Path) -> None:
        row = dict(rows(path, "names"))[b"r"]
        put(path, "names", b"r", head_row(replace(head_from(b"r", row), **changes)))

    return work


def entry_edit(**changes: Any) -> Callable[[Path], None]:
    """A change of the fields of the entry of the fork."""

    def work(path: Path) -> None:
        for key, row in rows(path, "info"):
            name, entry = entry_from(row)
            if name == "fork":
                put(path, "info", key, entry_row(name, replace(entry, **changes)))

    return work


def mark_edit(**changes: Any) -> Callable[[Path], None]:
    """A change of the fields of the checkpoint that was made by hand."""

    def work(path: Path) -> None:
        for key, row in rows(path, "marks"):
            mark = mark_from(key, row)
            if "manual" in mark.kinds:
                put(path, "marks", key, mark_row(replace(mark, **changes)))

    return work


def a_new_mark(path: Path) -> None:
    """A checkpoint by hand that nobody made."""
    key = rows(path, "marks")[0][0]
    put(path, "marks", key[:16] + U64.pack(2), mark_row(Checkpoint(2, ("manual",), 1, "forged")))


def a_mark_beyond(path: Path) -> None:
    """A checkpoint of a version that the run does not have."""
    key = rows(path, "marks")[0][0]
    put(path, "marks", key[:16] + U64.pack(999), mark_row(Checkpoint(999, ("auto",), 1)))


def a_snapshot_beyond(path: Path) -> None:
    """A snapshot of a version that the run does not have."""
    key, value = rows(path, "snapshots")[0]
    put(path, "snapshots", key[:16] + U64.pack(999), value)


def a_snapshot_of_another_version(path: Path) -> None:
    """A sound snapshot, moved to the version after its own."""
    found = [(key, value) for key, value in rows(path, "snapshots") if len(key) == 24]
    key, value = found[0]
    put(path, "snapshots", key[:16] + U64.pack(U64.unpack(key[16:])[0] + 1), value)


def an_edited_snapshot(path: Path) -> None:
    """A snapshot of another state, well made, in the place of the one that the chain vouches for."""
    log = open_log(path)
    head = log.head("r")
    version, _ = next(one for one in log.snapshots(head.run_key, head.version) if one[1])
    state = recover(log, head, version).state
    other = pack_state(replace(state, data=freeze({"n": 1_000_000})), anew=True)
    written(log, Upkeep(head.run_key, other))
    log.close()


def a_wrong_voucher(path: Path) -> None:
    """A snapshot whose row says that another event vouches for it."""
    key, _ = next(row for row in rows(path, "snapshots") if len(row[0]) == 25)
    put(path, "snapshots", key, U64.pack(1))


def an_event_beyond_the_head(path: Path) -> None:
    """A version after the head that leads to some other event."""
    heads = {name: head_from(name, row) for name, row in rows(path, "names")}
    head = heads[b"r"]
    put(path, "runs", head.run_key + U64.pack(head.version + 1), U64.pack(2))


def a_false_tombstone(path: Path) -> None:
    """An event of a run that is there, put away as if the run had been deleted."""
    place, data = rows(path, "log")[1]
    put(path, "log", place, TOMBSTONE + digest(data))


def a_forged_tombstone(path: Path) -> None:
    """A deleted event's digest, replaced."""
    place = [place for place, data in rows(path, "log") if data[:1] == TOMBSTONE][-1]
    put(path, "log", place, TOMBSTONE + bytes(32))


def a_hidden_run(path: Path) -> None:
    """A run taken out of every list, its events left where they are."""
    head = {name: head_from(name, row) for name, row in rows(path, "names")}[b"failed"]
    drop(path, "names", b"failed")
    drop(path, "info", head.run_key)
    for table in ("index", "inbox", "marks", "snapshots", "runs"):
        for key, _ in rows(path, table):
            if head.run_key in key:
                drop(path, table, key)


def a_rolled_back_run(path: Path) -> None:
    """The last event of a run cut off together with its place, its head left as it was."""
    head = {name: head_from(name, row) for name, row in rows(path, "names")}[b"fork"]
    drop(path, "runs", head.run_key + U64.pack(head.version))


def a_message_for_nobody(path: Path) -> None:
    """A message for a run that is not there."""
    put(path, "inbox", bytes(range(16)) + U64.pack(1), encode({"kind": "signal"}))


def a_message_that_is_none(path: Path) -> None:
    """A message that can't be read."""
    key, _ = rows(path, "inbox")[0]
    put(path, "inbox", key, b"\xff\xff")


def another_store_s_id(path: Path) -> None:
    """The store says it is another."""
    put(path, "store", b"id", bytes(range(16)))


FORGERIES: dict[str, Callable[[Path], None]] = {
    "head says completed": head_edit(status="failed"), "head waits": head_edit(waiting_for="human"),
    "head is behind": head_edit(version=3), "head is ahead": head_edit(version=900), "head's digest": head_edit(digest=bytes(32)),
    "head's incarnation": head_edit(incarnation=2), "head's epoch": head_edit(epoch=0), "head's run": head_edit(run_key=bytes(range(16))),
    "entry's workflow": entry_edit(workflow="other"), "entry's tags": entry_edit(tags=("x",)), "entry's subject": entry_edit(subject="you"),
    "entry's parent": entry_edit(parent_id="failed"), "entry's point": entry_edit(parent_at=1), "entry has no parent": entry_edit(parent_id=None),
    "mark's label": mark_edit(label="forged"), "mark's digest": mark_edit(digest=bytes(32)),
} | {
    work.__name__.replace("_", " "): work
    for work in (
        a_new_mark, a_mark_beyond, a_snapshot_beyond, a_snapshot_of_another_version, an_edited_snapshot, a_wrong_voucher,
        an_event_beyond_the_head, a_false_tombstone, a_forged_tombstone, a_hidden_run, a_rolled_back_run,
        a_message_for_nobody, a_message_that_is_none, another_store_s_id,
    )
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_found(store, forgery):
    """Well-formed rows that say something else than the history does."""
    FORGERIES[forgery](store)
    assert looked_at(store)


def test_the_command_line_says_4_or_6(store, run_eventflow):
    """A finding is exit code 4, a store that is refused 6; either way the rest is left as it is."""
    place, data = rows(store, "log")[1]
    put(store, "log", place, flipped(data, 40))
    assert run_eventflow("store", "verify", "--store", store).code in (4, 6)
    put(store, "log", place, data)
    put(store, "names", b"fork", dict(rows(store, "names"))[b"fork"][:-9] + b"\x00" + b"\x00" * 8)
    FORGERIES["mark's label"](store)
    ended = run_eventflow("store", "verify", "--store", store, "-o", "json")
    assert ended.code == 4
    assert {"run", "version", "problem"} == set(ended.json["findings"][0])


@pytest.mark.parametrize("change", ["ahead", "another"])
def test_the_mark_outside_the_pages_refuses_a_store_that_was_rolled_back(store, change):
    """A store that is behind its high-water mark, or has another event there, is not opened."""
    file = store / "data.1" / "mark"
    data = file.read_bytes()
    magic, position, name = struct.unpack(">8sQ32s", data[:48])
    if change == "ahead":
        position += 1
    else:
        name = bytes(32)
    body = struct.pack(">8sQ32s", magic, position, name)
    file.write_bytes(body + zlib.crc32(body).to_bytes(4, "big"))
    (said,) = looked_at(store)
    assert said.startswith("refused: ")


# --- what a correct chain does not excuse --------------------------------------------------------------------------

BROKE = Failure("E", "it broke")


@pytest.fixture
def halfway() -> Author:
    """A log with a run `r` of `steps()` that was let go in its first node, at version 2."""
    log = MemoryLog()

    async def work() -> None:
        flow = steps()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {"n": 1}, run_id="r")
            await engine.drain(0.0)
            await run.wait()

    asyncio.run(work())
    author = Author(log)
    head = log.head("r")
    assert head is not None
    author.add(head, RunResumed("loop", steps().digest))
    return author


def problems(author: Author, *events: Event, **more: Any) -> str:
    """What verification says once these events have been appended to run `r` in due form."""
    head = author.log.head("r")
    assert head is not None
    written(author.log, author.then(head, *events, **more))
    return "; ".join(one.problem for one in verified(author.log).findings)


def test_legal_steps_are_legal(halfway):
    """By an edge, by choice, over an error edge, to the end."""
    done = RunCompleted("end", (Op("set", ("x",), 1),))
    said = problems(
        halfway, Transitioned("loop", "loop"), Transitioned("loop", "call"), Transitioned("call", "mend", "failed", error=BROKE),
        status="running",
    )  # fmt: skip
    assert said == ""
    assert problems(halfway, RunCompleted("mend"), status="completed") == ""
    assert done.node == "end"


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([Transitioned("loop", "nowhere")], "which is not a node of its definition"),
        ([Transitioned("loop", "call", "failed")], "for which its definition has no edge"),
        ([Transitioned("loop", "mend", "timed_out")], "for which its definition has no edge"),
        ([Transitioned("call", "end")], "is about node 'call', but the run stands on 'loop'"),
        ([RunCompleted("loop")], "completes the run in 'loop', where its definition goes on"),
        ([Transitioned("loop", "end"), Transitioned("end", "loop")], "for which its definition has no edge"),
        ([RunPaused(), RunSuspended("end")], "is about node 'end'"),
        ([EffectFinished("pay", "1", None)], "which was never started"),
        ([Transitioned("loop", "loop", "done", (Op("extend", ("n",), freeze([1])),))], "does not fit the state"),
        ([RunResumed("loop", bytes(32))], "names another definition than the run has, without giving it"),
        ([RunResumed("loop", bytes(32), freeze({"nodes": {"loop": "function"}}))], "is not the one its digest names"),
        ([RunResumed("end", steps().digest)], "is about node 'end'"),
    ],
)
def test_an_illegal_step_is_found_in_a_correct_chain(halfway, events, said):
    """An event that its run could not have had is found though digests, versions and head agree."""
    assert said in problems(halfway, *events)


def test_an_event_after_the_end_is_found(halfway):
    """Only a rewind goes on from a completed run."""
    assert problems(halfway, Transitioned("loop", "end"), RunCompleted("end"), status="completed") == ""
    assert "follows the run's end" in problems(halfway, RunPaused())


def test_a_head_that_says_something_else_is_found(halfway):
    """Its status is compared with the fold."""
    assert "says completed, the history folds to running" in problems(
        halfway, Transitioned("loop", "loop"), status="completed"
    )


def test_a_vouch_for_what_comes_after_is_found(halfway):
    """An event can only vouch for a snapshot of a version before it."""
    assert "which comes after it" in problems(halfway, Transitioned("loop", "loop"), vouch=Vouch(9, bytes(32)))


def test_a_first_event_must_fit_its_own_definition():
    """Its start is the definition's, its digest names the definition."""
    flow = steps()

    def started(**changes: Any) -> str:
        values: dict[str, Any] = {
            "run_id": "r", "store_id": bytes(16), "workflow": "steps", "definition_digest": flow.digest, "definition": flow.shape,
            "node": "loop", "data": EMPTY, "input_digest": bytes(32),
        }  # fmt: skip
        event = RunStarted(**{**values, **changes})
        return "; ".join(Legality().problems(None, Recorded(event, bytes(16), 1, 1, 1, 1, 0, b"", b"")))

    assert started() == ""
    assert "starts in 'end', its definition in 'loop'" in started(node="end")
    assert "which its definition does not have" in started(node="nowhere")
    assert "is not the one its digest names" in started(definition_digest=bytes(32))
    assert "is not the one its digest names" in started(definition=EMPTY)


def test_epochs_never_fall():
    """A writer that lost its lease can't have written on."""
    legality = Legality()
    found = [
        list(legality.problems(None, Recorded(RunPaused(), bytes(16), 1, version, 1, epoch, 0, b"", b"")))
        for version, epoch in enumerate((1, 3, 3, 2, 4), 1)
    ]
    assert [len(one) for one in found] == [0, 0, 0, 1, 0]
    assert found[3] == ["goes back to epoch 2; an earlier event has 3"]


def test_the_store_s_own_stream_holds_what_belongs_there():
    """An event of a run in it is found, and so is a second creation of the store."""
    for event in (RunPaused(), Transitioned("a", "b")):
        log = MemoryLog()
        written(log, Act(pack(event), 1))
        assert "is not what a store's own stream has there" in verified(log).findings[0].problem


def test_after_a_fork_or_a_rewind_with_another_definition_nothing_is_held_against_it(tmp_path):
    """The workflow may have grown since; what drives the run now is known again once it is resumed."""
    old = Workflow("w").add_node("a", lambda s: {}).add_node("b", lambda s: {}).add_edge("a", "b").set_start("a")
    new = Workflow("w").add_node("a", lambda s: {}).add_node("c", lambda s: {}).add_edge("a", "c").set_start("a")

    async def work(log: Log) -> None:
        async with Engine(log, workflows=[old]) as engine:
            await (await engine.start(old, {}, run_id="r")).wait()
        async with Engine(log, workflows=[new]) as engine:
            await (await engine.fork("r@1", run_id="f")).wait()
            await (await engine.resume("r", at=1)).wait()

    log = open_log(tmp_path / "store")
    asyncio.run(work(log))
    assert verified(log).findings == []
    assert log.head("f").status == log.head("r").status == "completed"
    log.close()


# --- whatever somebody may have written ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_memory() -> MemoryLog:
    """The same store in memory, where its bytes can be changed at no cost."""
    log = MemoryLog()
    asyncio.run(fill(log))
    return log


VALUES = st.sampled_from([
    None, 0, -1, 1, 2**63, True, 1.5, float("nan"), "", "a", b"", bytes(32), bytes(16), [], {}, {"a": 1}, [[]], ["a"],
    [0, ["n"], 1], [[0, ["n"], 1]], {"nodes": 3}, {"nodes": {}, "edges": [1]},
])  # fmt: skip


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values in a value."""
    yield path
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, item in pairs:
        yield from spots(item, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


def rewritten(events: list[bytes], index: int, data: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """The events with one replaced and every digest after it worked out anew; and old digests -> new."""
    found = [*events[:index], data, *events[index + 1 :]]
    moved = {digest(events[index]): digest(data)}
    for later in range(index + 1, len(events)):
        if events[later][:1] == TOMBSTONE:
            continue
        array = decode(events[later], "an event")
        if array[10] in moved:
            found[later] = encode([*array[:10], moved[array[10]]])
            moved[digest(events[later])] = digest(found[later])
    return found, moved


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_forged_history_makes_verification_stumble(in_memory, data):
    """Any value in any event, in a chain that was worked out anew: it is a finding or it holds, never a traceback."""
    events, runs = list(in_memory._events), dict(in_memory._runs)
    index = data.draw(st.sampled_from([i for i, one in enumerate(events) if one[:1] != TOMBSTONE]))
    array = decode(events[index], "an event")
    if not array[1] & 1:
        array[9] = decode(array[9], "a body")
    path = data.draw(st.sampled_from([one for one in spots(array) if one]))
    forged = with_value(array, path, data.draw(VALUES))
    if not array[1] & 1:
        forged[9] = encode(forged[9])
    found, moved = rewritten(events, index, encode(forged))
    try:
        in_memory._events[:] = found
        for key, run in runs.items():
            head = run.head
            in_memory._runs[key] = copy.copy(run)
            in_memory._runs[key].head = replace(head, digest=moved.get(head.digest, head.digest))
        report = verified(in_memory)
        assert report.runs <= len(runs)
        for key in runs:
            _recovered(in_memory, key)
    finally:
        in_memory._events[:] = events
        in_memory._runs.update(runs)


def _recovered(log: MemoryLog, key: bytes) -> None:
    """Recovery says the same: a state, or one of our errors."""
    head = log.head_of(key)
    if head is not None and key != STORE_RUN:
        with contextlib.suppress(EventflowError):
            recover(log, head)
