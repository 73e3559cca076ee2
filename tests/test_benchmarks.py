"""The benchmarks run, print what they found, and what does not depend on time is within bounds."""

from __future__ import annotations

import ast
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
from benchmarks.peers import environments, measuring, tables, turns
from benchmarks.peers.systems import EVENTFLOW, PEERS, System
from benchmarks.peers.wire import Job
from benchmarks.plots import frontier_points, panels
from benchmarks.progress import Silent
from benchmarks.recover import stands
from benchmarks.report import Report, between
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


PEERS_PACKAGE = Path(__file__).parent.parent / "benchmarks" / "peers"


def test_every_peer_is_pinned_and_its_settings_told() -> None:
    """Name and version of each package, a worker, a way; systems of one environment install the same."""
    for one in PEERS:
        pins = [*one.packages, *([one.server] if one.server else [])]
        assert one.packages
        assert all(re.fullmatch(r"@?[\w/-]+(==|@)\d+\.\d+\.\d+", pin) for pin in pins), pins
        assert one.settings
        assert one.ways
        assert (PEERS_PACKAGE / f"{one.worker}.py").is_file()
        assert all(one.packages == other.packages for other in PEERS if other.environment == one.environment)
    assert len({one.name for one in (EVENTFLOW, *PEERS)}) == len(PEERS) + 1


def test_a_peers_worker_knows_nothing_of_eventflow() -> None:
    """It imports its own system, what every Python has, and the program that asks all of them the same."""
    for worker in {one.worker for one in PEERS} | {"wire", "__init__"}:
        allowed = {*sys.stdlib_module_names, worker, *({"hypercorn"} if worker == "restate" else ())}
        for node in ast.parse((PEERS_PACKAGE / f"{worker}.py").read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                assert all(name.partition(".")[0] in allowed or name == "benchmarks.peers.wire" for name in names)


@pytest.fixture(scope="module")
def beside_nobody(tmp_path_factory: pytest.TempPathFactory) -> list[Figure]:
    """What the question finds where the one peer can't be installed."""
    place = tmp_path_factory.mktemp("peers")
    gone = System("gone", "langgraph", "gone", (str(place / "gone-1.0-py3-none-any.whl"),), "none")
    return measuring.measure("smoke", place / "stores", Silent(), peers=(gone,), home=place / "cache")


def test_a_peer_that_cannot_be_installed_has_a_line_with_the_reason(beside_nobody, capsys) -> None:
    """It is neither left out in silence nor given a figure."""
    [line] = [one for one in beside_nobody if "gone" in one.name]
    assert (line.name, line.ratio, line.target) == ("skipped: gone", None, None)
    assert "gone-1.0" in line.note
    nowhere = System("nowhere", "restate", "nowhere", ("a==1",), "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "PATIENCE", 0.001)
        assert isinstance(environments.installed(nowhere, Path(tempfile.mkdtemp())), environments.Skipped)


def test_eventflow_is_measured_by_the_program_that_measures_its_peers(beside_nobody) -> None:
    """Each question has its line, and a step waits for the disk once where calls can be counted."""
    names = [one.name for one in beside_nobody if one.name.endswith(": eventflow")]
    assert len(names) == 15
    [syncs] = [one for one in beside_nobody if one.name == "syncs a step: eventflow"]
    assert syncs.note or 1 <= syncs.value.median < 1.5
    page = tables.section(Report("python -m benchmarks peers", 0.0, 1.0, {"system": "any"}, beside_nobody))
    assert "- gone is not there: " in page
    assert "| a step, us | " in page


def test_a_worker_that_fails_says_why(tmp_path) -> None:
    """A system that is not where it is looked for ends its turn with its own words, and leaves nothing behind."""
    where, [burr] = environments.Installed(Path(sys.executable)), [one for one in PEERS if one.name == "Burr"]
    with pytest.raises(turns.TurnFailed, match="burr"):
        turns.turn(burr, where, Job("steps", str(tmp_path / "store"), 1))
    assert not (tmp_path / "store").exists()


def test_figures_are_put_between_their_lines() -> None:
    """The rest of the page stays, and a page without a place for them is refused."""
    page = "# A\n\n<!-- figures: peers -->\nold\n<!-- end of figures: peers -->\n\n## B\n"
    once_more = between(between(page, "peers", "new"), "peers", "newer")
    assert once_more == "# A\n\n<!-- figures: peers -->\n\nnewer\n\n<!-- end of figures: peers -->\n\n## B\n"
    with pytest.raises(ValueError, match="no place"):
        between("# A\n", "peers", "new")


def test_a_page_without_a_place_for_figures_is_refused_before_they_are_measured(tmp_path, capsys) -> None:
    """So is a question whose figures go nowhere."""
    (tmp_path / "page.md").write_text("# A\n")
    assert main(["peers", "--into", str(tmp_path / "page.md")]) == 2
    assert "no place for the figures of peers" in capsys.readouterr().err
    assert main(["append", "--into", str(tmp_path / "page.md")]) == 2


def test_the_page_about_peers_holds_the_versions_that_are_pinned() -> None:
    """Whoever raises a version measures anew."""
    page = (PEERS_PACKAGE.parent.parent / "docs" / "performance.md").read_text()
    assert all(f"| {one.name} | {one.version} | {one.settings} |" in page for one in PEERS)


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
