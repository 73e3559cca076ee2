"""Law: whatever goes wrong, by whatever seed, nothing acknowledged is lost and no recorded call is made again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from eventflow.testing.simulation import simulate

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
# A seed takes a tenth of a second. EVENTFLOW_SEEDS asks for another number, a hundred thousand for a long night.
SEEDS = int(os.environ.get("EVENTFLOW_SEEDS", "2000" if FULL else "24"))
PROCESSES = 2
FEW = 12  # seeds in which a planted bug must show


@pytest.mark.slow
def test_whatever_goes_wrong_everything_holds(record_property):
    """Real engines, crashes, full disks, late and lost messages, clocks that err; a failing seed is printed."""
    share = SEEDS // PROCESSES
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "eventflow.testing.simulation", str(number * share), str(share)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for one in started:
        told, _ = one.communicate()
        assert one.returncode == 0, told
    record_property("figures", f"{SEEDS:,} histories: 0 wrong")


def test_a_seed_says_everything():
    """The same seed gives the same events, byte for byte, whatever ran before."""
    first = [simulate(seed) for seed in range(4)]
    again = [simulate(seed) for seed in reversed(range(4))]
    assert first == again[::-1]
    assert len({one.digest for one in first}) == 4
    assert sum(one.processes for one in first) > 8  # processes came and went


@pytest.mark.parametrize("seed", [2_188, 3_485, 53_932])
def test_what_was_found_once_holds(seed):
    """A process that was taken for gone, and has its last answer late, begins no call that its successor has made."""
    assert simulate(seed).problems == ()


@pytest.mark.parametrize(
    ("plant", "said"), [("unsynced", "was acknowledged and is not there"), ("unguarded", "about node")]
)
def test_a_planted_bug_is_found(plant, said):
    """A simulation that finds nothing must be one that would have."""
    found = [problem for seed in range(FEW) for problem in simulate(seed, plant=plant).problems]
    assert any(said in problem for problem in found), found
