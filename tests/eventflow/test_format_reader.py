"""Format 1 is what docs/format.md says: a reader written from the page alone, and the page's tables against the code."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
import zstandard

from eventflow import event as facts
from eventflow.change import Op
from eventflow.checkpoint import KINDS
from eventflow.codec import blobs, cbor, events, pack, pack_state, snapshots
from eventflow.event import EffectFinished, EffectStarted, Event, RunCompleted, RunDeleted, SignalReceived, Transitioned
from eventflow.log import Act, LmdbLog, MemoryLog, Post
from eventflow.log.lmdb import opening
from eventflow.log.lmdb.tables import TABLES, head_row
from eventflow.plain import MAX_DEPTH, FrozenDict, freeze, thaw
from eventflow.recovery import recover
from eventflow.run import CANCEL, PAUSE, SETTLE, SIGNAL, message
from eventflow.state import STATUSES, WAITS, State, reuse_key, status_after
from eventflow.testing.author import Author, written
from eventflow.what_if import EffectPolicy

ROOT = Path(__file__).parent.parent.parent
READER = Path(__file__).with_name("format_1_reader.py")
DICTIONARY = Path(blobs.__file__).with_name("dictionary.bin")
PAGE = (ROOT / "docs" / "format.md").read_text()
LONG = "long texts are kept once, wherever they are " * 40


def change(*ops: Op) -> Transitioned:
    """A fact that changes the data."""
    return Transitioned("a", "a", change=ops)


def read(store: Path) -> list[Any]:
    """What the reader makes of a store, in a process without eventflow in sight."""
    done = subprocess.run(
        [sys.executable, "-I", str(READER), str(store), str(DICTIONARY)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: list[Any] = cbor2.loads(done.stdout)
    return found


def write_everything(author: Author) -> None:
    """Runs with every operation, every way to keep a value, rewinds, forks, a deleted run and a used-up id."""
    picture = base64.b64encode(random.Random(7).randbytes(3_000)).decode()  # noqa: S311 - only has to look random
    head = author.start("plain", {"n": 0, "list": [], "dict": {"x": {}}, "text": LONG}, tags=("t",))
    head = author.add(
        head,
        change(
            Op("set", ("new",), freeze([None, True, -1, 2**64 - 1, 1.5, "ä", b"\0", {"k": []}])), Op("add", ("n",), 2)
        ),
        change(Op("extend", ("list",), freeze([1, LONG, b"\0" * 2_000])), Op("delete", ("text",))),
        change(Op("merge", ("dict",), FrozenDict({"y": picture, "x": FrozenDict({})}))),
        change(Op("set", ("dict", "x", "deep"), freeze({"z": [LONG, {"w": LONG}]}))),
    )
    head = author.add(head, change(Op("extend", ("list",), freeze(["item " * 50] * 300))), vouch=author.snapshot(head))
    head = author.add(
        head,
        EffectStarted("pay#%", "1", "tool", True, freeze({"to": LONG}), bytes(32), "key"),
        EffectFinished("pay#%", "1", freeze([LONG]), FrozenDict({"tokens": 3})),
        SignalReceived("go", freeze(LONG), 1),
    )
    head = author.rewind(head, 3)
    moved = facts.RunResumed("a", bytes(32), None, "me", "moved", None, (Op("set", ("moved",), LONG),), "a")
    branches = facts.BranchesOpened("a", freeze([]), freeze([LONG, 1])), facts.BranchFinished("a", "0", LONG)
    head = author.add(head, moved, *branches, facts.UndoBegan("a", "failed"), facts.NodeSkipped("a"))
    head = author.add(head, change(Op("set", ("after",), 1)), RunCompleted("a", change=(Op("add", ("n",), 1.5),)))
    what_if = EffectPolicy(live=["look"], mock={"mail": 7}).plain(None)
    fork = author.fork(head, 4, "fork", change=(Op("set", ("mine",), LONG),), effects=what_if)
    fork = author.add(fork, change(Op("extend", ("list",), freeze([2]))))
    author.add(author.rewind(author.rewind(fork, 2), 5), change(Op("set", ("end",), None)))
    gone = author.start("gone", {"secret": LONG})
    event = RunDeleted("gone", gone.run_key, 1, 1, gone.digest)
    written(author.log, Act(pack(event), 1, delete_run=gone))
    author.start("gone", {"again": True})
    gone = author.start("for ever")
    written(author.log, Act(pack(replace(event, run_id="for ever", run_key=gone.run_key)), 1, delete_run=gone))
    written(author.log, Post(head.run_key, b"waiting"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that holds everything."""
    log = LmdbLog(tmp_path / "store")
    write_everything(Author(log))
    log.close()
    return tmp_path / "store"


def recover_a_state() -> State:
    """A state of a running run that waits for a timer, which no table row speaks of."""
    author = Author(MemoryLog())
    return replace(author.state(author.start("r")), waiting_for="timer")


ERROR = facts.Failure("E", "no")
SAMPLES: dict[str, Event] = {
    type(event).__name__: event
    for event in (
        facts.RunStarted("r", bytes(16), "w", bytes(32), FrozenDict(), "a", FrozenDict(), bytes(32)),
        facts.RunResumed("a", bytes(32)), facts.Rewound(1, "a"), facts.Forked("c", bytes(16), "r", bytes(16), 1, 1),
        facts.RunCompleted("a"), facts.RunFailed("a", ERROR), facts.RunCancelled(), facts.RunPaused(),
        facts.Transitioned("a", "b"), facts.AttemptFailed("a", 1, ERROR, 5), facts.RunSuspended("a"), facts.RunParked("a", 3),
        facts.SignalReceived("go", None, 1), facts.WaitOpened("a", "timer"), facts.WaitClosed("a", "timeout"),
        facts.RunTimedOut("a"), facts.NodeSkipped("a"), facts.UndoBegan("a", "failed"), facts.BranchesOpened("a", freeze(["x"])),
    )
}  # fmt: skip


# --- the dictionary ------------------------------------------------------------------------------------------------


def test_the_dictionary_is_the_one_that_the_page_names() -> None:
    """It is part of the format: with another one, old events could not be read."""
    data = DICTIONARY.read_bytes()
    assert hashlib.sha256(data).hexdigest() in PAGE
    assert (len(data), zstandard.ZstdCompressionDict(data).dict_id()) == (16_384, 61_185)


def test_a_body_of_a_hundred_bytes_is_stored_shorter() -> None:
    """Most events are that small, and too small for a compressor without a dictionary."""
    text = "The customer has asked for the order to be sent to another address, and that has been approved."
    packed = pack(facts.SignalReceived("s", FrozenDict({"note": text, "status": "approved"}), 1))
    assert packed.flags == events.FLAG_ZSTD
    assert len(packed.body) < 0.8 * len(text)


# --- the reader ----------------------------------------------------------------------------------------------------


def test_the_reader_uses_nothing_of_eventflow() -> None:
    """Sixty lines, three libraries beside the standard one, none of them ours."""
    source = READER.read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    standard = {"base64", "functools", "hashlib", "operator", "pathlib", "struct", "sys"}
    assert imported == standard | {"cbor2", "lmdb", "zstandard"}
    assert len([line for line in source.splitlines() if line.strip()]) <= 60


def test_the_reader_finds_what_recovery_finds(store: Path) -> None:
    """Every version of every run, each run's chain checked from its genesis to its head."""
    found = {(name, version): data for name, version, data in read(store) if name != "~store"}
    log = LmdbLog(store, readonly=True)
    expected: dict[tuple[str, int], Any] = {}
    for name in log.ids("", 99):
        head = log.head(name)
        assert head is not None
        for version in range(1, head.version + 1):
            expected[name, version] = thaw(recover(log, head, version).state.data)
    log.close()
    assert found.keys() == expected.keys()
    assert len(found) == 27
    assert {name for name, _ in found} == {"plain", "fork", "gone"}
    assert [
        key for key in found if cbor2.dumps(found[key], canonical=True) != cbor2.dumps(expected[key], canonical=True)
    ] == []


def test_the_reader_refuses_a_broken_chain(store: Path) -> None:
    """One flipped bit in an event that nothing else notices ends it."""
    file = store / "data.1" / "data.mdb"
    log = LmdbLog(store, readonly=True)
    head = log.head("fork")
    assert head is not None
    data = log.read(head.run_key, 6, 6)[0].data
    log.close()
    changed = bytearray(data)
    changed[-1] ^= 1
    file.write_bytes(file.read_bytes().replace(data, changed))
    done = subprocess.run(
        [sys.executable, "-I", str(READER), str(store), str(DICTIONARY)], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"AssertionError" in done.stderr


# --- the page ------------------------------------------------------------------------------------------------------


def names(cell: str) -> tuple[str, ...]:
    """What stands between backticks."""
    return tuple(re.findall(r"`([^`]+)`", cell))


def table(*heading: str) -> list[list[str]]:
    """The cells of the page's table under a heading."""
    [rows] = re.findall(rf"^\| {re.escape(' | '.join(heading))} \|\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"\|", row)[1:-1]] for row in rows.splitlines()]


def numbered(sentence: str) -> list[str]:
    """The names of a sentence that numbers them from 0."""
    [text] = re.findall(rf"^{sentence}: (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    found = [(int(number), name.strip("`")) for number, name in re.findall(r"(\d) (`?\w+`?)", text)]
    assert [number for number, _ in found] == list(range(len(found)))
    return [name for _, name in found]


def test_the_page_has_every_fact_with_its_fields() -> None:
    """Number, header and body of each, in order, and no others."""
    told = {
        int(row[0]): (names(row[1])[0], names(row[2]), names(row[3])) for row in table("type", "fact", "header", "body")
    }
    assert told == {shape.code: (kind.__name__, shape.header, shape.body) for kind, shape in events.SHAPES.items()}


def test_the_page_says_what_type_each_field_has() -> None:
    """Each field of each fact stands in the table of types; each of them is a fact's."""
    told = {name for row in table("field", "type", "default") for name in names(row[0])} - {"Rewound"}
    assert told == {name for shape in events.SHAPES.values() for name in (*shape.header, *shape.body)}


def test_the_page_says_which_fields_have_a_default() -> None:
    """A field that may be left out is one with a default."""
    told = {name for row in table("field", "type", "default") for name in names(row[0]) if row[2]}
    real = {
        one.name for kind in events.SHAPES for one in dataclasses.fields(kind) if one.default is not dataclasses.MISSING
    }
    assert told == real


def test_the_page_says_what_each_fact_does_to_a_state() -> None:
    """Each fact of a run stands in the table of what it does."""
    told = {name for row in table("event", "what it does") for name in names(row[0])}
    assert told | {"RunStarted"} == {kind.__name__ for kind, shape in events.SHAPES.items() if shape.code < 128}


@pytest.mark.parametrize("row", table("event", "status", "waits for"), ids=lambda row: row[0][:20])
def test_the_page_says_where_a_run_stands_after_each_fact(row: list[str]) -> None:
    """The table of statuses is the function's."""
    before = recover_a_state()
    for name in names(row[0]):
        event = SAMPLES[name]
        waits = "" if row[2] == "nothing" else names(row[2])[0]
        assert status_after(before, event) == (names(row[1])[0], waits)
    if not names(row[0]):
        paused = replace(before, status="paused")
        expected = ("paused", "") if "paused" in row[0] else (before.status, before.waiting_for)
        assert status_after(paused if "paused" in row[0] else before, SAMPLES["SignalReceived"]) == expected


def test_the_page_has_every_table_and_row(store: Path) -> None:
    """The LMDB tables in their order, the rows of `store`, the parts of a head."""
    rows = table("table", "key", "value")
    assert list(dict.fromkeys(names(row[0])[0] for row in rows)) == [name.decode() for name in TABLES]
    assert {names(key)[0] for name, key, _ in rows if name == "`store`"} == {
        "format", "id", "messages", "bucket", "clear", "follows", "guard", "sweep", "vacuum", "change",
    }  # fmt: skip
    parts = table("offset", "bytes", "what")
    assert [int(row[0]) for row in parts] == [sum(int(one[1]) for one in parts[:index]) for index in range(len(parts))]
    log = LmdbLog(store, readonly=True)
    head = log.head("plain")
    assert head is not None
    assert len(head_row(head)) == sum(int(row[1]) for row in parts) == 94
    log.close()


def test_the_page_has_every_number() -> None:
    """Statuses, waits, kinds of checkpoints, operations."""
    assert numbered("Status") == list(STATUSES)
    assert numbered("Waits for") == ["nothing", *WAITS[1:]]
    [kinds] = re.findall(r"Kinds: (.*?)\.$", PAGE, re.MULTILINE)
    assert re.findall(r"\d `(\w+)`", kinds) == list(KINDS)
    operations = table("number", "operation", "what it does to what is at the path")
    assert [(int(row[0]), names(row[1])[0]) for row in operations] == list(enumerate(events.OPS))


def test_the_page_has_every_limit() -> None:
    """The numbers that decide what bytes come out, or what a reader must expect."""
    for number in (
        f"{blobs.BLOB_FROM:,} characters", f"{snapshots.SMALLEST_PIECE:,}", f"{snapshots.LARGEST_PIECE:,}", "plus 40 for each", "16 MiB", "1 GiB in all",
        "deeper than 128", "to a depth of 64", "format u64: 1",
    ):  # fmt: skip
        assert number in " ".join(PAGE.split())
    assert (snapshots._REF_SIZE, events.MAX_BODY, events.MAX_REFERRED) == (40, 16 << 20, 1 << 30)
    assert (cbor.MAX_DECODE_DEPTH, MAX_DEPTH, opening.STORE_FORMAT, events.FORMAT) == (128, 64, 1, 1)


def test_the_fields_of_a_root_stand_where_the_page_says(store: Path) -> None:
    """The data and 37 more, in the page's order; the last is there in what-if runs only."""
    cells = table("field", "what", "field", "what")
    told = {int(row[column]): row[column + 1] for row in cells for column in (0, 2) if row[column]}
    assert list(told) != sorted(told)  # two columns side by side
    log = LmdbLog(store, readonly=True)
    head = log.head("fork")
    assert head is not None
    state = recover(log, head).state
    assert state.run.policy
    root = cbor2.loads(zstandard.decompress(pack_state(state).root[1:]))
    real = replace(state, run=replace(state.run, policy=FrozenDict()))
    assert cbor2.loads(zstandard.decompress(pack_state(real).root[1:]))[1] == root[1][:-1]
    log.close()
    fields = root[1]
    assert sorted(told) == list(range(len(fields)))
    assert (told[37].split("]")[0], fields[37]) == ("[policy", thaw(state.run.policy))
    parent = state.run.parent
    assert parent is not None
    assert (told[1], fields[1]) == ("run id", "fork")
    assert (told[13], fields[13]) == ("version", state.version)
    assert (told[14], fields[14]) == ("digest of the last event", head.digest)
    assert (told[17], fields[17]) == ("status, by number", STATUSES.index(state.status))
    assert (told[12].split(":")[0], fields[12]) == ("parent or null", [parent.run_id, parent.run_key, 1, 4])
    assert (told[21].split(":")[0], fields[21]) == ("line", state.line)
    assert (told[27], fields[27]) == ("usage", dict(state.usage))
    assert (told[28], fields[28]) == ("wait or null", None)
    assert (told[32].split(":")[0], fields[32]) == ("steps", state.steps)
    assert [told[number].split(" or ")[0] for number in (29, 30, 31, 33, 34, 35, 36)] == [
        "caller", "deadline", "budget", "branches", "undo", "undoing", "reuse",
    ]  # fmt: skip
    assert [fields[number] for number in (29, 30, 31, 33, 34, 35, 36)] == [None, 0, {}, None, [], None, {}]


def fold(*happened: Event) -> State:
    """The state after a start on node a and these events."""
    author = Author(MemoryLog())
    return author.state(author.add(author.start("r"), *happened))


def test_the_page_says_what_branches_are_made_of() -> None:
    """The map, its buckets, and an entry for each way in which a branch may stand."""
    items = facts.BranchesOpened("a", freeze([]), freeze([*range(130)]))
    wait = facts.WaitOpened("a", "timer", until=9, branch="101")
    state = fold(
        items, facts.AttemptFailed("a", 2, ERROR, 5, "7"), wait, facts.BranchFinished("a", "99", 1),
        facts.BranchFailed("a", "100", ERROR), replace(wait, branch="129"), facts.WaitClosed("a", "timeout", branch="129"),
    )  # fmt: skip
    branches = state.branches
    assert branches is not None
    assert {*branches} == {names(row[0])[0] for row in table("key", "what")}
    assert {bucket: [*held] for bucket, held in branches["of"].items()} == {"": ["7", "99"], "1": ["100", "101", "129"]}
    assert (branches["left"], branches["standing"]) == (128, 1)
    entries = dict(pair for held in branches["of"].values() for pair in held.items())
    told = {row[0]: {*names(row[1])} for row in table("the branch", "its entry")}
    for name, words, status in (
        ("7", "has failed an attempt", "open"), ("99", "has finished", "finished"), ("100", "has failed", "failed"),
    ):  # fmt: skip
        assert {*entries[name]} == told[words] - {status}
        assert entries[name]["status"] == status in told[words]
    assert entries["7"]["attempt"] == 3
    assert {*entries["101"]} == {"status", "attempt", "wait"}
    assert entries["129"] == {"status": "open", "attempt": 1}
    [keys] = re.findall(r"A wait is a map: (.*?)\. The", PAGE, re.DOTALL)
    assert [*entries["101"]["wait"]] == [*names(keys)]


def test_the_page_says_what_a_call_and_undoing_are_made_of() -> None:
    """The entry of a call, what is to be undone, how the run ends, which calls may answer again."""
    pay = facts.EffectStarted("pay#", "1", "tool", True, None, bytes(32), "key", branch="x/y", undo="refund")
    split = facts.BranchesOpened("a", freeze(["x/y"]))
    state = fold(split, pay, EffectFinished("pay#", "1", 5, branch="x/y"))
    [row] = [row[1] for row in table("event", "what it does") if row[0] == "`EffectStarted`"]
    assert {*state.effects["x%2fy/pay%23#1"]} == ({*names(row)} - {"started"}) | {"output"}
    [keys] = re.findall(r"adds a map: (.*?)\. An", PAGE, re.DOTALL)
    assert {*state.undo[0]} == {name for name in names(keys) if name != "undo"} | {"by"}
    undoing = fold(split, facts.UndoBegan("a", "failed", ERROR, "me", "why")).undoing
    [row] = [row[1] for row in table("event", "what it does") if row[0] == "`UndoBegan`"]
    assert undoing is not None
    assert {*undoing} == {*names(row)}
    assert reuse_key("a/%b", "x%2fy/pay%23#1", bytes(range(32))) == (
        "a%2f%25b/x%2fy/pay%23#1/000102030405060708090a0b0c0d0e0f"
    )


def test_the_page_says_what_a_message_is_made_of() -> None:
    """Its fields, and its kinds."""
    [fields] = re.findall(r"A message\*\* is a CBOR map of (.*?), all text", PAGE)
    assert {*cbor2.loads(message(SIGNAL))} == {*names(fields)}
    assert {names(row[0])[0] for row in table("kind", "name", "payload", "the run it is for")} == {
        SIGNAL,
        PAUSE,
        CANCEL,
        SETTLE,
    }


def test_the_mark_is_laid_out_as_the_page_says(store: Path) -> None:
    """Two marks of fifty-two bytes, 64 bytes apart: a text, a position, a digest, a CRC-32; the higher one counts."""
    both = (store / "data.1" / "mark").read_bytes()
    data = max((both[:52], both[64:116]), key=lambda one: one[8:16])
    text, position, name = struct.unpack(">8sQ32s", data[:48])
    log = LmdbLog(store, readonly=True)
    stored = log.feed(position - 1, 1)[0].data
    assert (len(both), text, position) == (128, b"eflowhw1", log.position())
    log.close()
    assert hashlib.sha256(stored).digest() == name
    assert zlib.crc32(data[:48]) == int.from_bytes(data[48:], "big")
