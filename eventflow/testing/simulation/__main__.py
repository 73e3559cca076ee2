"""Many simulations: `python -m eventflow.testing.simulation [FIRST] [COUNT] [--plant NAME]`; exit code 1 if one fails."""

from __future__ import annotations

import argparse
import sys
import warnings

from eventflow.testing.simulation import PLANTS, Simulated, simulate


def main() -> int:
    """Run seeds FIRST to FIRST+COUNT-1, print those that fail and what does not hold."""
    parser = argparse.ArgumentParser(prog="python -m eventflow.testing.simulation", description=__doc__)
    parser.add_argument("first", nargs="?", type=int, default=0, help="the first seed")
    parser.add_argument("count", nargs="?", type=int, default=100, help="how many seeds")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="a bug to plant, which must be found")
    given = parser.parse_args()
    failed = events = processes = 0
    with warnings.catch_warnings():  # coroutines of processes that died are never awaited
        warnings.simplefilter("ignore", RuntimeWarning)
        for seed in range(given.first, given.first + given.count):
            ended = simulate(seed, plant=given.plant)
            failed += bool(ended.problems)
            events, processes = events + ended.events, processes + ended.processes
            _tell(ended)
    sys.stdout.write(f"{given.count} seeds, {processes} processes, {events} events: {failed} failed\n")
    return 1 if failed else 0


def _tell(ended: Simulated) -> None:
    for problem in ended.problems:
        sys.stderr.write(f"seed {ended.seed}: {problem}\n")


if __name__ == "__main__":
    sys.exit(main())
