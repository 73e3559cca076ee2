"""The page about scale says what the code does, and its simulation agrees with what is known of queues."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import lmdb
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.capacity.__main__ import main
from benchmarks.capacity.measured import Backend
from benchmarks.capacity.simulation import Load, places_for, quantile, simulate
from benchmarks.capacity.sizing import bounds, depth, lmdb_pages
from eventflow.log import LmdbLog
from eventflow.testing.author import Author
from eventflow.testing.contract.maker import MOVE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "scale.md").read_text()
LIMITS = re.findall(r"^\| [^|]+ \| ([^|]+) \| `(eventflow[\w.]+)\.([A-Z_]+)` \|", PAGE, re.MULTILINE)
SCALES = {"MiB": 1 << 20, "GiB": 1 << 30, "KiB": 1 << 10, "MB": 10**6, "ms": 0.001}


@pytest.mark.parametrize(("shown", "module", "name"), LIMITS, ids=[name for _, _, name in LIMITS])
def test_each_limit_of_the_page_is_the_constant_it_names(shown: str, module: str, name: str) -> None:
    """The first number of the cell, in its unit, is the value in the code."""
    value = getattr(import_module(module), name)
    found = re.match(r"([\d,.]+)(?: ([A-Za-z]+))?", shown)
    assert found is not None
    assert float(found[1].replace(",", "")) * SCALES.get(found[2] or "", 1) == pytest.approx(value)


def test_the_page_has_its_limits() -> None:
    """A table that the test above reads nothing of would prove nothing."""
    assert len(LIMITS) >= 15


def test_the_figures_of_the_page_are_the_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program puts its tables between the page's marks, the same tables with the same columns and rows' names."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert main(["--smoke", "--no-postgres", "--runs", "1000", "--into", str(page), "--dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.strip()
    made = page.read_text()
    assert printed in made
    headings = re.compile(r"^(?:Measured|Simulated|Computed).*:?$", re.MULTILINE)
    assert headings.findall(made) == headings.findall(PAGE)
    before, after = PAGE.split("<!-- figures: capacity -->")[0], PAGE.split("<!-- end of figures: capacity -->")[1]
    assert made.startswith(before)
    assert made.endswith(after)
    for what in re.findall(r"^\| (LMDB: [a-z][^|]*|the processor[^|]*) \|", made, re.MULTILINE):
        assert what in PAGE


@pytest.mark.parametrize("wrong", [["--peak", "0.5"], ["--runs", "0"], ["--days", "-1"], ["--spread", "-1"]])
def test_what_can_not_be_simulated_is_refused(wrong: list[str]) -> None:
    """With exit code 2, before anything is measured."""
    assert main(wrong) == 2


# --- the simulation ------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_waits_and_another_one_others() -> None:
    """All chance comes from the seed."""
    load = Load(1_000_000, node=0.05, steps=3)
    one, same, other = (
        simulate(load, places=4, commit=0.001, each=0.0001, most=10, runs=500, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_waits_are_those_of_an_m_m_1_queue_where_it_is_one() -> None:
    """One place, one step whose time is nearly exponential, a writer that costs nothing: the mean is rho / (mu - lambda)."""
    rate, mean = 1.0, 0.5
    load = Load(rate * 86_400, peak=1.0, steps=1, node=mean, spread=0.83255)  # a squared coefficient of variation of 1
    waits = simulate(load, places=1, commit=0.0, each=0.0, most=100, runs=3_900, seed=3)
    expected = 0.5 / (1 / mean - rate)  # Pollaczek and Khinchine give the same for this coefficient
    assert sum(waits.places) / len(waits.places) == pytest.approx(expected, rel=0.25)


def test_the_writer_gathers_what_waits_and_is_busy_for_its_share() -> None:
    """Without gathering, this load would take three writers; with it, a commit takes a few times as long as alone."""
    load = Load(86_400 * 300.0, peak=1.0, steps=2, node=0.1)
    waits = simulate(load, places=10**6, commit=0.003, each=0.00001, most=4_096, runs=6_000, seed=1)
    assert 0.003 <= quantile(waits.commits, 0.5) <= 0.009
    assert 0.5 <= waits.busy <= 1.0


def test_more_places_than_the_offered_load_keep_waits_short_and_fewer_do_not() -> None:
    """As many as are offered, and their root, will do; four fifths of them let the queue grow."""
    load = Load(1_000_000, steps=5, node=0.5)
    enough, few = (
        simulate(load, places=places, commit=0.001, each=0.00005, most=4_096, runs=8_000, seed=1)
        for places in (places_for(load), round(load.offered * 0.8))
    )
    assert quantile(enough.places, 0.99) < 5 < quantile(few.places, 0.99)


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_pages_and_depth_are_those_that_lmdb_tells(tmp_path: Path) -> None:
    """Of a store of some thousand events, within a tenth, and the very depth."""
    log = LmdbLog(tmp_path / "s")
    author = Author(log)
    head = author.start("r")
    for _ in range(15):
        head = author.add(head, *[MOVE] * 400)
    usage = log.usage()
    row = sum(len(one.data) for one in log.feed(0, 10_000)) / usage.positions + 8 + 8  # the key, the node's header
    log.close()
    with lmdb.open(str(tmp_path / "s" / "data.1"), readonly=True, max_dbs=32) as env, env.begin() as txn:
        told = txn.stat(env.open_db(b"log", txn, create=False))
    pages, levels = lmdb_pages(told["entries"], row)
    assert pages == pytest.approx(told["leaf_pages"], rel=0.1)
    assert levels == told["depth"]


def test_a_tree_gets_deeper_by_its_fan_out() -> None:
    """One level more for each time that the leaves are so many times more."""
    assert [depth(rows, 10, 100) for rows in (1, 10, 11, 1_000, 1_001, 100_000)] == [1, 1, 2, 2, 3, 3]


def test_what_breaks_first_stands_first_and_moves_with_the_load() -> None:
    """Longer retention brings sizes nearer, longer runs all of it; and each limit says what to do."""
    made = Backend("LMDB", 300, 100, 1, 20_000, 0.0004, 0.00001, 10_000, 5_000, 100_000)
    month, year = (bounds(Load(1), made, None, days=days) for days in (30, 365))
    assert [one.runs for one in month] == sorted(one.runs for one in month)
    maps = [next(one.runs for one in found if "map" in one.what) for found in (month, year)]
    assert maps[0] == pytest.approx(maps[1] * 365 / 30)
    assert all(one.then for one in month)
    longer = {one.what: one.runs for one in bounds(Load(1, steps=100), made, None, days=30)}
    assert all(longer[one.what] <= one.runs for one in month)
