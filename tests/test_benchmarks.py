"""The benchmarks run, print what they found, and what does not depend on time is within bounds."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import cbor2
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.__main__ import BY_DEFAULT, QUESTIONS, main
from benchmarks.bare_commit import recorded
from benchmarks.bare_snapshot import BareStore
from benchmarks.bare_writer import body_bytes, event_bytes
from benchmarks.figures import Figure, Target, once, percentile, ratio, spread
from benchmarks.frontier import POLICIES
from benchmarks.histories import build
from benchmarks.overhead import PAYLOAD
from benchmarks.plots import frontier_points, panels
from benchmarks.progress import Silent
from benchmarks.recover import stands
from benchmarks.scale import fill
from benchmarks.workloads import NOTE, counting
from eventflow import Engine
from eventflow.change import Op
from eventflow.codec import Stored, read_events
from eventflow.log import LmdbLog
from eventflow.plain import FrozenList
from eventflow.recovery import recover
from eventflow.verification import verify_store


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, str, Path]:
    """What one run of everything at smoke size prints and writes: table, JSON, page, and where the drawings are."""
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
            "--plot",
            str(place / "out.svg"),
            "--html",
            str(place / "out.html"),
            "--dir",
            str(memory if os.access(memory, os.W_OK) else place),
        ]
        assert main(asked) == 0
    return table.read_text(), json.loads(out.read_text()), page.read_text(), place


def test_every_question_is_answered_in_the_table(report) -> None:
    """Each has lines, and each line with a target says met or missed."""
    table, written, *_ = report
    for name in BY_DEFAULT:
        lines = [line for line in table.splitlines() if line.startswith(f"{name} ")]
        assert len(lines) == sum(one["question"] == name for one in written["figures"]) > 0
    judged = [one for one in written["figures"] if one["target"]]
    assert len(re.findall(r" (?:met|missed)\b", table)) == len(judged) > 0


def test_a_store_is_little_larger_than_what_was_put_in(report) -> None:
    """Storage does not depend on the speed of the machine; what targets aim at is a little less than this."""
    figures = {one["name"]: one["value"]["median"] for one in report[1]["figures"] if one["question"] == "storage"}
    assert len(figures) == 6
    for kind, limit in (("base64 text", 1.5), ("random bytes", 2.0)):
        assert all(value <= limit for name, value in figures.items() if name.startswith(kind) and "steps" in name)
        assert figures[f"{kind}: growth"] <= 1.1


def test_the_json_says_where_it_was_measured(report) -> None:
    """Schema, command, date and all that figures depend on."""
    written = report[1]
    assert written["schema"] == "eventflow.benchmarks/1"
    assert written["command"] == "python -m benchmarks --smoke"
    assert set(written["environment"]) >= {"python", "lmdb", "system", "processors", "file system"}


def test_the_page_explains_each_question_and_holds_the_table(report) -> None:
    """The page is what docs/benchmarks.md is made of."""
    _, written, page, _ = report
    assert all(f"## {name}" in page for name in QUESTIONS)
    assert page.count("\n| ") == len(written["figures"]) + 2


def test_the_html_page_needs_nothing_else_and_holds_every_figure(report) -> None:
    """Tables and drawings are in it; nothing is loaded from anywhere, and nothing is a script."""
    _, written, _, place = report
    page = (place / "out.html").read_text()
    assert page.count("<tr>") == len(written["figures"]) + len(BY_DEFAULT)
    assert page.count("<svg") == page.count("<h3>") > 3
    assert not re.search(r"<script|<link|<img| src=|url\(['\"]?http", page)


def test_the_frontier_is_drawn_with_a_point_for_each_policy(report) -> None:
    """Each policy has a cost while running and a time of recovery, and its name stands in the drawing."""
    _, written, _, place = report
    names = [one["name"] for one in written["figures"] if one["question"] == "frontier"]
    assert all({f"{policy}: checkpoints", f"{policy}: recovery"} <= set(names) for policy in POLICIES)
    assert (place / "out.svg").read_text().startswith("<?xml")


def test_a_step_waits_for_the_disk_once(report) -> None:
    """Where calls can be counted, a durable step of a lone run makes one that waits."""
    [syncs] = [one for one in report[1]["figures"] if one["name"] == "durable, default: syncs"]
    assert syncs["note"] or 1 <= syncs["value"]["median"] < 1.5


def test_a_step_keeps_little_more_than_it_writes(report) -> None:
    """Each way to run durably keeps the text it was given, and not its state anew in each step."""
    kept = [one["value"]["median"] for one in report[1]["figures"] if one["name"].endswith(": kept")]
    assert len(kept) >= 7
    assert all(PAYLOAD < one < 4 * PAYLOAD for one in kept)


def test_other_software_is_measured_only_by_name() -> None:
    """Without a name no question is asked that installs anything."""
    assert "peers" not in BY_DEFAULT
    assert set(BY_DEFAULT) <= set(QUESTIONS)


def test_a_store_that_is_filled_for_scale_holds() -> None:
    """What is written straight into the log is a history like any other."""
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place) / "s", 2_000, Silent())
        log = LmdbLog(Path(place) / "s", readonly=True)
        try:
            *_, last = verify_store(log)
            assert (last.runs, last.sound) == (2, True)
            assert last.events >= 2_000
        finally:
            log.close()


def test_a_percentile_is_exact_to_three_digits() -> None:
    """Whether it is of microseconds or of millions, and the largest of fewer than a hundred."""
    for unit in (0.001, 1.0, 1_000_000.0):
        values = [unit * (number + 1) for number in range(1_000)]
        assert percentile(values, 99) == pytest.approx(990 * unit, rel=2e-3)
    assert percentile([3.0, 1.0, 2.0], 99) == pytest.approx(3.0, rel=2e-3)
    assert percentile([0.0], 99) == 0.0


def test_what_was_not_measured_is_not_drawn() -> None:
    """No frontier, no points; no figures, no drawing."""
    assert panels([]) == []
    half = Figure("frontier", "default: recovery", "ms", once(1.0))
    assert frontier_points([half]) == []


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
