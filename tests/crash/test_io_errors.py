"""A disk that fails at any one call, and memory that runs out at any one allocation: nothing acknowledged is lost by it.

`iofault.c`, preloaded, makes the n-th call that writes or syncs fail, write a part, report an error for what it did, or
end the process; `faulty_life.py` lives a store's life on such a disk. The control drops a write and says that all is well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
EVERY = 1 if FULL else 16  # calls from one that fails to the next
ALLOCATIONS = 100 if FULL else 10
FAIL, SHORT, LATE, DROP, KILL_BEFORE, KILL_AFTER = range(1, 7)
HERE = Path(__file__).parent
WORKERS = 2
DOCUMENTED = {"StoreUnusable", "StoreFull", "StoreBusy", "Conflict", "opened again"}


@pytest.fixture
def live(shim) -> Iterator:
    """Live a life for each case; what came of each. No store lies on a real disk, where a sync takes its time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="eventflow-life-", dir=memory if memory.is_dir() else None) as place:

        def part(number: int, cases: Sequence[str]) -> list[dict]:
            done = subprocess.run(
                [sys.executable, str(HERE / "faulty_life.py"), f"{place}/{number}"], input="\n".join(cases), text=True,
                capture_output=True, env={**os.environ, "LD_PRELOAD": str(shim), "MALLOC_ARENA_MAX": "1"}, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2_000:]
            return [json.loads(line) for line in done.stdout.splitlines()]

        def work(cases: Sequence[str]) -> list[dict]:
            with ThreadPoolExecutor(WORKERS) as pool:
                parts = list(pool.map(part, range(WORKERS), (cases[number::WORKERS] for number in range(WORKERS))))
            found: list[dict] = [{}] * len(cases)
            for number, answers in enumerate(parts):
                found[number::WORKERS] = answers
            return found

        yield work


@pytest.fixture
def calls(live) -> int:
    """How many calls a life makes that write or sync."""
    [undisturbed] = live(["0 0 0 EIO"])
    assert undisturbed == {"met": [], "wrong": [], "seen": undisturbed["seen"], "killed": 0, "left": ""}
    return undisturbed["seen"][0]


def faults(cases: Sequence[str], found: Sequence[dict]) -> list[str]:
    """What should not have been: errors that are not documented, reads that stopped, stores that lost something."""
    return [
        f"case {case}: {wrong}"
        for case, one in zip(cases, found, strict=True)
        for wrong in (*one["wrong"], *(set(one["met"]) - DOCUMENTED), one["left"])
        if wrong
    ]


@pytest.mark.slow
def test_any_one_call_may_fail(live, calls, record_property):
    """The documented error is raised, reads go on, the step is done with the next try, and everything acknowledged is there."""
    kinds = [(FAIL, "EIO"), (FAIL, "ENOSPC"), (FAIL, "EDQUOT"), (SHORT, "ENOSPC"), (LATE, "EIO")]
    cases = [
        f"{number} {number} {how} {error}"
        for turn, (how, error) in enumerate(kinds)
        for number in range(1 + turn * EVERY // len(kinds), calls + 1, EVERY)
    ]
    found = live(cases)
    assert faults(cases, found) == []
    met = sum("StoreUnusable" in one["met"] or "StoreFull" in one["met"] for one in found)
    assert met > len(cases) / 2  # the others concern what is not needed, the mark say, or were written in two parts
    record_property(
        "figures", f"{len(cases):,} errors in {calls} calls, {met:,} of them met a caller: 0 lost, 0 reads stopped"
    )


@pytest.mark.slow
def test_a_process_may_end_before_and_after_any_call(live, calls, record_property):
    """Whatever lies there then opens, holds what was acknowledged, and goes on."""
    cases = [
        f"{number} {number} {how} EIO"
        for how, first in ((KILL_BEFORE, 1), (KILL_AFTER, 1 + EVERY // 2))
        for number in range(first, calls + 1, EVERY)
    ]
    found = live(cases)
    assert faults(cases, found) == []
    assert {one["killed"] for one in found} == {9}
    record_property("figures", f"{len(cases):,} deaths around {calls} calls: 0 lost")


@pytest.mark.slow
def test_a_disk_may_stay_full_until_there_is_room(live, calls, record_property):
    """From some call on nothing can be written; reads go on meanwhile, and with room again so do writes, in the same process."""
    cases = [
        f"{number} {1 << 40} {FAIL} {error}"
        for number, error in product(range(1, calls + 1, 2 * EVERY), ("ENOSPC", "EDQUOT", "EIO"))
    ]
    found = live(cases)
    assert faults(cases, found) == []
    assert sum(bool(one["met"]) for one in found) > 0.9 * len(cases)  # the last calls of a life are for the mark alone
    assert not any("opened again" in one["met"] for one in found)
    record_property("figures", f"{len(cases):,} times full for a while: 0 lost, all go on in the same process")


@pytest.mark.slow
def test_memory_may_run_out_at_any_allocation(live, record_property):
    """Whatever becomes of the process, the store is whole in the next one."""
    [undisturbed] = live(["memory 0 0"])
    [counted] = live([f"memory {1 << 40} 1"])
    assert undisturbed["left"] == counted["left"] == ""
    most = counted["seen"][1]
    steps = range(1, most, max(1, most // ALLOCATIONS))
    cases = [f"memory {number} {many}" for number in steps for many in (1, 50)]
    found = live(cases)
    assert [one["left"] for one in found if one["left"]] == []
    hurt = sum(bool(one["wrong"] or one["met"] or one["killed"]) for one in found)
    assert hurt > len(cases) / 4
    record_property(
        "figures", f"{len(cases):,} of {most:,} allocations fail, {hurt} of them hurt the process: 0 stores lost"
    )


def test_a_disk_that_drops_a_write_is_found_out(live, calls, record_property):
    """A write or a sync that says yes and does nothing is what the judgement can tell from one that is done."""
    cases = [f"{number} {number} {DROP} EIO" for number in range(1, calls + 1, max(1, EVERY // 2))]
    found = live(cases)
    noticed = sum(bool(one["left"] or one["wrong"] or one["met"] or one["killed"]) for one in found)
    lost = sum(bool(one["left"]) for one in found)
    assert lost > len(cases) / 8
    record_property(
        "figures", f"{len(cases):,} writes dropped: {noticed:,} noticed, {lost:,} stores not whole (the rest are syncs)"
    )
