"""The benchmarks run, print what they found, and what does not depend on time is within bounds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import cbor2
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.__main__ import QUESTIONS, main
from benchmarks.bare_commit import recorded
from benchmarks.bare_snapshot import BareStore
from benchmarks.bare_writer import body_bytes, event_bytes
from benchmarks.figures import Figure, Target, once, ratio, spread
from benchmarks.histories import build
from benchmarks.recover import stands
from benchmarks.workloads import NOTE, counting
from eventflow import Engine
from eventflow.change import Op
from eventflow.codec import Stored, read_events
from eventflow.log import LmdbLog
from eventflow.plain import FrozenList
from eventflow.recovery import recover


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, str]:
    """What one run of everything at smoke size prints and writes."""
    place = tmp_path_factory.mktemp("benchmarks")
    memory = Path("/dev/shm")  # where there is one, the disk need not be waited for: nothing here is timed
    table, page, out = place / "table", place / "page.md", place / "out.json"
    with table.open("w") as text, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", text)
        asked = [
            "--smoke",
            "--json",
            str(out),
            "--markdown",
            str(page),
            "--dir",
            str(memory if os.access(memory, os.W_OK) else place),
        ]
        assert main(asked) == 0
    return table.read_text(), json.loads(out.read_text()), page.read_text()


def test_every_question_is_answered_in_the_table(report) -> None:
    """Each has lines, and each line with a target says met or missed."""
    table, written, _ = report
    for name in QUESTIONS:
        lines = [line for line in table.splitlines() if line.startswith(f"{name} ")]
        assert len(lines) == sum(one["question"] == name for one in written["figures"]) > 0
    judged = [one for one in written["figures"] if one["target"]]
    assert len(re.findall(r" (?:met|missed)\b", table)) == len(judged) > 0


def test_a_store_is_little_larger_than_what_was_put_in(report) -> None:
    """The bounds on storage hold at any speed of the machine."""
    figures = [one for one in report[1]["figures"] if one["question"] == "storage"]
    assert len(figures) == 6
    assert [one["name"] for one in figures if not one["met"]] == []


def test_the_json_says_where_it_was_measured(report) -> None:
    """Schema, command, date and all that figures depend on."""
    _, written, _ = report
    assert written["schema"] == "eventflow.benchmarks/1"
    assert written["command"] == "python -m benchmarks --smoke"
    assert set(written["environment"]) >= {"python", "lmdb", "system", "processors", "file system"}


def test_the_page_explains_each_question_and_holds_the_table(report) -> None:
    """The page is what docs/benchmarks.md is made of."""
    _, written, page = report
    assert all(f"## {name}" in page for name in QUESTIONS)
    assert page.count("\n| ") == len(written["figures"]) + 2


def test_an_unknown_question_is_refused_in_one_sentence(capsys) -> None:
    """It names the questions there are."""
    assert main(["speed"]) == 2
    assert "append" in capsys.readouterr().err


def test_the_bare_writer_writes_the_events_that_eventflow_stores(tmp_path) -> None:
    """Same fields, same bytes: the baseline does not do less than it says."""

    async def run() -> None:
        flow = counting(2)
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0, "note": ""}, run_id="r")).result()

    asyncio.run(run())
    [_, [stored, *_], *_] = recorded(tmp_path / "s", "r")
    array = cbor2.loads(stored.value)
    assert event_bytes(array[2], 2, array[6], body_bytes(1, NOTE), array[10]) == stored.value


def test_the_bare_commit_puts_the_rows_that_eventflow_put(tmp_path) -> None:
    """Keys and values of each step are those of the store, its last head among them."""

    async def run() -> None:
        flow = counting(3)
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            await (await engine.start(flow, {"n": 0, "note": ""}, run_id="r")).result()

    asyncio.run(run())
    steps = recorded(tmp_path / "s", "r")
    log = LmdbLog(tmp_path / "s", readonly=True)
    try:
        head = log.head("r")
        assert head is not None
        own = log.read(head.run_key, 1, head.version)
        assert [rows[0].value for rows in steps] == [one.data for one in own]
        last = steps[-1][2].value
        assert last[20:28] == head.version.to_bytes(8, "big")
        assert last[28:60] == head.digest
        assert int.from_bytes(last[86:94], "big") == head.updated
        assert read_events([Stored(1, steps[1][0].value)], log.blobs)[0].version == 2
    finally:
        log.close()


def test_the_bare_reading_of_a_snapshot_gives_the_same_data(tmp_path) -> None:
    """Pieces, long texts and the tail of a list are all where recovery finds them."""
    texts = (f"{number:04d} " * 300 for number in range(300))
    build(tmp_path / "s", {"texts": []}, (Op("extend", ("texts",), FrozenList([text, "short"])) for text in texts))
    _, best = stands(tmp_path / "s")
    bare = BareStore(tmp_path / "s")
    try:
        data, size = bare.snapshot(best.head.run_key, best.snapshot, best.digest)
    finally:
        bare.close()
    log = LmdbLog(tmp_path / "s", readonly=True)
    try:
        found = recover(log, best.head, best.snapshot)
    finally:
        log.close()
    assert found.folded == 0
    assert found.state.data == data
    assert size == found.progress.state_size


def test_a_ratio_is_the_median_over_pairs() -> None:
    """One bad turn of the disk does not count."""
    assert ratio([2.0, 3.0, 90.0], [1.0, 1.0, 1.0]) == 3.0
    assert spread([4.0, 1.0, 2.0]).median == 2.0


@pytest.mark.parametrize(("at", "met"), [("most", True), ("least", False)])
def test_a_target_judges_the_ratio_where_there_is_one(at, met) -> None:
    """Else the value."""
    figure = Figure("q", "n", "us", once(9.0), once(9.0), 1.0, Target(2.0, at))
    assert figure.met is met
    assert Figure("q", "n", "us", once(1.0), target=Target(2.0, at)).met is met
