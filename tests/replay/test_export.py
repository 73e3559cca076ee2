"""Exports: what is read back is what was written, and nothing else is read."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Engine, MemoryLog, Workflow
from eventflow.address import resolve
from eventflow.codec import decode, encode
from eventflow.errors import Corrupt, EventflowError, ProofFailed, SettingsError, StoreUnusable, WrittenByNewer
from eventflow.exchange import items
from eventflow.log import Log, Query
from eventflow.recovery import recover
from eventflow.sealing import leaves
from replay.export import ExportLog, Redaction, read_export, write_lines, write_sequence

LONG = "a long text, which is kept once: " + "x" * 2_000


def steps() -> Workflow:
    """A loop, a call, an end."""

    async def call(state: Any, run: Any) -> dict[str, Any]:
        return {"called": await run.effect("call", lambda: {"secret": "s3cret", "text": LONG}, mutating=False)}

    return (
        Workflow("steps")
        .add_node("loop", lambda s: {"n": s["n"] + 1, "text": LONG})
        .add_node("call", call)
        .add_node("end", lambda s: {"done": True})
        .add_edge("loop", "loop", when=lambda s: s["n"] < 4)
        .add_edge("loop", "call")
        .add_edge("call", "end")
        .set_start("loop")
    )


@pytest.fixture(scope="module")
def log() -> Log:
    """A store with a run, forks of it, rewinds, a deleted run."""
    log, flow = MemoryLog(), steps()

    async def fill() -> None:
        async with Engine(log, workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 1, "customer": {"email": "a@b.c"}}, run_id="r", tags=["t"])).wait()
            await (await engine.fork("r@2", run_id="f", change={"n": 3})).wait()
            await (await engine.fork("f@1", run_id="g")).wait()
            await (await engine.resume("r", at=3)).wait()
            await (await engine.start(flow, {"n": 3}, run_id="gone")).wait()
            await engine.delete("gone")
            await (await engine.start(flow, {"n": 3}, run_id="other")).wait()

    asyncio.run(fill())
    return log


def exported(log: Log, *runs: str) -> bytes:
    """The bytes of an export of some runs, or of all."""
    file = io.BytesIO()
    write_sequence(log, file, [resolve(log, run).head for run in runs] if runs else None)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    """What a file of some bytes is read as."""

    def read_bytes(data: bytes) -> ExportLog:
        (tmp_path / "x.cborseq").write_bytes(data)
        return read_export(tmp_path / "x.cborseq")

    return read_bytes


def assert_same(log: Log, other: Log, run: str) -> None:
    """Every version of a run folds to the same state in both."""
    head, theirs = log.head(run), other.head(run)
    assert (theirs.digest, theirs.status, theirs.waiting_for) == (head.digest, head.status, head.waiting_for)
    for version in range(1, head.version + 1):
        assert recover(other, theirs, version).state == recover(log, head, version, snapshots=False).state


def test_a_whole_store_is_read_back(log, read):
    """Every state, every digest in order of position, what was deleted, the list of runs."""
    other = read(exported(log))
    assert (other.whole, other.store_id) == (True, log.store_id)
    for run in ("r", "f", "g", "other"):
        assert_same(log, other, run)
    assert list(leaves(other)) == list(leaves(log))
    listed, theirs = log.runs(Query(tag="t")), other.runs(Query(tag="t"))
    assert [one.head.run_id for one in theirs] == [one.head.run_id for one in listed] == ["g", "f", "r"]
    for mine, its in zip(listed, theirs, strict=True):
        assert replace(its.entry, started=0) == replace(mine.entry, started=0)
    assert other.next_incarnation("gone") == log.next_incarnation("gone") == 2


@pytest.mark.parametrize("run", ["r", "f", "g"])
def test_one_run_is_read_back_with_its_parents_as_far_as_it_goes_on_from_them(log, read, run):
    """And no further."""
    other = read(exported(log, run))
    assert (other.whole, other.run) == (False, run)
    assert_same(log, other, run)
    assert {one.head.run_id for one in other.runs(Query())} == {"r": {"r"}, "f": {"r", "f"}, "g": {"r", "f", "g"}}[run]
    if run == "f":
        assert other.head("r").version == 2
    assert b"other" not in exported(log, run)


def test_several_runs_are_one_file(log, read):
    """What they share is there once."""
    other = read(exported(log, "g", "r", "other"))
    for run in ("g", "r", "other"):
        assert_same(log, other, run)
    assert other.position() < log.position()


def test_events_are_there_as_they_are_stored_and_values_once(log):
    """So that their digests are those of the store."""
    data = exported(log, "r")
    cut = [data[at:end] for at, end, _ in items(data)]
    head = log.head("r")
    assert [one for one in cut if one[0] >> 5 == 4] == [one.data for one in log.read(head.run_key, 1, head.version)]
    assert sum(one[0] >> 5 == 2 for one in cut) == 1
    assert b"".join(cut) == data
    assert decode(cut[-1], "the end")["sha256"] == hashlib.sha256(data[: -len(cut[-1])]).digest()


def test_every_flipped_bit_and_every_cut_is_refused(log, read):
    """With one of our errors, wherever it is."""
    data = exported(log, "other")
    for place in range(len(data)):
        with pytest.raises(EventflowError):
            ExportLog(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
    for end in range(0, len(data), 7):
        with pytest.raises(EventflowError):
            ExportLog(data[:end])
    assert ExportLog(data).head("other")
    with pytest.raises(Corrupt, match="goes on"):
        ExportLog(data + b"\x80")


def ended(cut: list[bytes]) -> bytes:
    """An export of some items, with an end that is right."""
    data = b"".join(cut)
    kinds = [one[0] >> 5 for one in cut]
    events = kinds.count(4) + sum(one.startswith(encode({"gone": bytes(32)})[:6]) for one in cut)
    return data + encode({"blobs": kinds.count(2), "events": events, "sha256": hashlib.sha256(data).digest()})


def test_a_forgery_with_a_right_end_is_refused(log, read):
    """An event left out, two in another order, one changed, a value left out, a header of something else."""
    data = exported(log, "other")
    cut = [data[at:end] for at, end, _ in items(data)][:-1]
    assert ended(cut) == data
    events = [number for number, one in enumerate(cut) if one[0] >> 5 == 4]
    for number in events:
        for forged in (
            [*cut[:number], *cut[number + 1 :]],
            [*cut[:number], cut[number], *cut[number:]],
            [
                *cut[:number],
                cut[number].replace(b"loop", b"loop"[::-1]).replace(b"\x01", b"\x02", 3),
                *cut[number + 1 :],
            ],
        ):
            if number == events[-1] and len(forged) < len(cut):
                continue  # the last event left out is a shorter history, which holds: that takes a seal
            with pytest.raises(EventflowError):
                read(ended(forged))
    with pytest.raises(Corrupt, match="missing"):
        read(ended([one for one in cut if one[0] >> 5 != 2]))
    header = decode(cut[0], "the header")
    for change in ({"eventflow": "x"}, {"store": b"x"}, {"run": 1}, {"whole": None}, {"more": 1}):
        with pytest.raises(Corrupt):
            read(ended([encode({**header, **change}), *cut[1:]]))
    with pytest.raises(WrittenByNewer):
        read(ended([encode({**header, "format": 4}), *cut[1:]]))


def test_a_fork_without_its_parent_and_a_lie_about_the_whole_are_refused(log, read):
    """What can't be folded or counted is not shown."""
    data = exported(log, "f")
    cut = [data[at:end] for at, end, _ in items(data)][:-1]
    fork = log.head("f").run_key
    with pytest.raises(Corrupt, match="not the beginning of one"):
        read(ended([one for one in cut if one[0] >> 5 != 4 or decode(one, "it")[2] == fork]))
    with pytest.raises((Corrupt, ProofFailed)):
        read(ended([encode({**decode(cut[0], "the header"), "whole": True}), *cut[1:]]))
    with pytest.raises(Corrupt, match="deleted"):
        read(ended([*cut, encode({"gone": bytes(32)})]))


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data):
    """At once, and with one of our errors."""
    with pytest.raises(EventflowError):
        ExportLog(data)


@pytest.mark.parametrize(
    "data",
    [b"\x9b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x5f", b"\x9f", b"\xc0\x00", b"\x1c", b"\x99", b"\x81" * 300_000,
     b"\xbb\x7f" + b"\xff" * 7],
)  # fmt: skip
def test_a_length_that_is_a_lie_costs_nothing(data):
    """Neither memory nor depth."""
    with pytest.raises(Corrupt):
        list(items(data))


def test_an_export_can_only_be_read(log, read, tmp_path):
    """And what is no file is said."""
    other = read(exported(log, "r"))
    assert other.readonly
    for act in (lambda: other.write([]), lambda: other.new_owner(bytes(16))):
        with pytest.raises(StoreUnusable):
            act()
    with pytest.raises(SettingsError):
        read_export(tmp_path / "absent.cborseq")


# --- as JSON lines -------------------------------------------------------------------------------------------------


def test_lines_hold_every_event(log):
    """Between a header and a footer."""
    lines = list(write_lines(log, [log.head("r")], Redaction(())))
    assert [one["kind"] for one in lines] == ["header", *["event"] * log.head("r").version, "footer"]
    assert lines[1]["fields"]["data"] == {"n": 1, "customer": {"email": "a@b.c"}}
    assert lines[-2]["digest"] == log.head("r").digest.hex()


def test_redacted_values_are_nowhere_in_bodies(log):
    """In states, changes and outputs, by the keys they stand under; the header says what was taken out."""
    redaction = Redaction(["customer.email", "secret", "text"])
    lines = list(write_lines(log, [log.head("r")], redaction))
    assert lines[0]["redacted"] == ["customer.email", "secret", "text"]
    assert lines[0]["proves"] == "nothing but its digests"
    assert not any(word in str(lines) for word in ("a@b.c", "s3cret", LONG))
    assert lines[1]["fields"]["data"] == {"n": 1, "customer": {"email": {"redacted": True}}}
    assert lines[-1]["redactions"] == redaction.count > 3
    assert lines[-2]["digest"] == log.head("r").digest.hex()


@pytest.mark.parametrize(
    ("path", "value", "under", "left"),
    [
        ("a", {"a": 1, "b": {"a": 2}}, (), {"a": {"redacted": True}, "b": {"a": {"redacted": True}}}),
        ("b.a", {"a": 1, "b": {"a": 2}}, (), {"a": 1, "b": {"a": {"redacted": True}}}),
        ("a.b", [{"b": 1}], ("a",), [{"b": {"redacted": True}}]),
        ("b", 5, ("a", "b"), {"redacted": True}),
        ("c", {"a": [1]}, ("b",), {"a": [1]}),
    ],
)
def test_a_path_fits_wherever_its_keys_stand_one_below_the_other(path, value, under, left):
    """Through lists, and through the path of a change."""
    assert Redaction([path]).of(value, under) == left


def test_a_path_with_a_number_is_refused():
    """A redaction goes through all items of a list."""
    with pytest.raises(SettingsError):
        Redaction(["a[0].b"])
