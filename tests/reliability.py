"""What is known about crashes, as a table: `python tests/reliability.py` runs the tests and writes their figures into the page.

Each row names a failure, the tests that provoke it, and the control: the same examination of something broken on purpose,
which must find it. With `--only` nothing is run, and the figures come from a file that EVENTFLOW_REPORT has left.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: written by tests/reliability.py -->", "<!-- end of the figures -->"


@dataclass(frozen=True)
class Row:
    """A failure, the tests that provoke it, and their controls; a test by its file and the beginning of its name."""

    failure: str
    tests: tuple[str, ...]
    controls: tuple[str, ...]


ROWS = (
    Row(
        "Power cut, any state of the disk that follows from the calls",
        ("crash/test_power_cuts.py::test_after_a_power_cut",),
        ("crash/test_power_cuts.py::test_a_store_that_does_not_sync",),
    ),
    Row(
        "Power cut of a real file system: ext4, xfs",
        ("crash/test_file_systems.py::test_a_file_system_that_is_shut_down",),
        ("crash/test_file_systems.py::test_a_store_that_does_not_sync",),
    ),
    Row(
        "Any one call that writes or syncs fails: EIO, ENOSPC, EDQUOT, a part, late",
        ("crash/test_io_errors.py::test_any_one_call", "crash/test_io_errors.py::test_a_disk_may_stay_full"),
        ("crash/test_io_errors.py::test_a_disk_that_drops",),
    ),
    Row(
        "Death before and after any call",
        ("crash/test_io_errors.py::test_a_process_may_end",),
        ("crash/test_io_errors.py::test_a_disk_that_drops",),
    ),
    Row(
        "The disk is full: tmpfs, limit of a file, map",
        (
            "crash/test_file_systems.py::test_a_full_disk", "crash/test_file_systems.py::test_a_store_can_t_be_made",
            "eventflow/test_log_lmdb_damage.py::test_a_limit", "eventflow/test_log_lmdb_damage.py::test_a_full_map",
        ),
        ("crash/test_io_errors.py::test_a_disk_that_drops",),
    ),
    Row("An allocation fails", ("crash/test_io_errors.py::test_memory",), ("crash/test_io_errors.py::test_a_disk_that_drops",)),
    Row(
        "SIGKILL of 1, 2 and 8 writers, of prune, sweep and vacuum",
        ("crash/test_kill9_writers.py::test_w",),
        ("crash/test_kill9_writers.py::test_an_acknowledgement",),
    ),
    Row(
        "SIGKILL of an engine; calls that were recorded are not made again",
        ("crash/test_kill9.py::test_runs_survive",),
        ("crash/test_kill9.py::test_the_examination",),
    ),
    Row(
        "SIGKILL at each step of backup, restore, import, repair, prune, vacuum, key rotation",
        ("crash/test_backup_kills.py::", "crash/test_retention_kills.py::", "crash/test_key_rotation.py::"),
        (),
    ),
    Row(
        "Death at every durable boundary of a workflow",
        ("crash/test_boundaries.py::", "crash/test_rewind_boundaries.py::"),
        ("eventflow/test_testing_sweep.py::",),
    ),
    Row(
        "Backups under load",
        ("crash/test_backup_under_load.py::test_every",),
        ("crash/test_backup_under_load.py::test_a_plain_copy",),
    ),
    Row(
        "A slow disk; a stopped process",
        ("crash/test_slow_disks.py::test_reads", "crash/test_slow_disks.py::test_who_waits"),
        ("crash/test_slow_disks.py::test_without",),
    ),
    Row("A bit turned over anywhere", ("crash/test_bit_flips.py::test_a",), ("crash/test_bit_flips.py::test_without",)),
    Row(
        "Mutated stores, from anybody",
        ("eventflow/test_untrusted.py::test_no_mutant",),
        ("eventflow/test_untrusted.py::test_read_without",),
    ),
    Row(
        "Simulated histories, by seed: crashes, full disks, late and lost messages, clocks that err",
        ("laws/test_simulation.py::test_whatever",),
        ("laws/test_simulation.py::test_a_planted",),
    ),
    Row(
        "A fleet on a synchronous pair: workers killed and stopped beyond their leases, connections cut, standbys away, fail-overs",
        ("postgres/test_nemesis.py::test_a_fleet", "postgres/test_nemesis.py::test_workers"),
        ("postgres/test_nemesis.py::test_without_fencing",),
    ),
    Row(
        "Signals with a key, from many deliverers, with retries: commits cut, answers lost, deliverers and drivers killed",
        ("postgres/test_signals_once.py::test_each",),
        ("postgres/test_signals_once.py::test_without_a_key",),
    ),
    Row(
        "The primary of a PostgreSQL dies; an old primary comes first, or goes on; Patroni",
        ("postgres/test_failover.py::", "postgres/test_many_hosts.py::", "postgres/test_patroni.py::"),
        ("postgres/test_nemesis.py::test_without_a_synchronous",),
    ),
    Row(
        "A PostgreSQL that is down now and then",
        ("postgres/test_nemesis.py::test_a_server",),
        ("postgres/test_signals_once.py::test_without_its_number",),
    ),
    Row("Files that others may read, under umask 000", ("eventflow/test_private_files.py::test_a", "eventflow/test_private_files.py::test_e"), ()),
)  # fmt: skip


def run(report: Path) -> int:
    """Run every test that a row names."""
    files = sorted({f"tests/{one.partition('::')[0]}" for row in ROWS for one in (*row.tests, *row.controls)})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "EVENTFLOW_REPORT": str(report)}, check=False
    ).returncode


def table(found: list[dict], before: str) -> str:
    """The rows with the figures of their tests; one that nothing was found out about stays as it was."""
    lines = ["| what fails | tests | what came of it | control |", "|---|---|---|---|"]
    old = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines() if line.startswith("| ")}
    for row in ROWS:
        if row.failure in old and not _of(row.tests, found):
            lines.append(old[row.failure])
            continue
        files = ", ".join(sorted({f"`tests/{one.partition('::')[0]}`" for one in row.tests}))
        control = _told(row.controls, found) if row.controls else "none"
        lines.append(f"| {row.failure} | {files} | {_told(row.tests, found)} | {control} |")
    return "\n".join(lines)


def _of(tests: tuple[str, ...], found: list[dict]) -> list[dict]:
    """What was found out by some tests."""
    return [one for one in found if any(one["test"].startswith(f"tests/{test}") for test in tests)]


def _told(tests: tuple[str, ...], found: list[dict]) -> str:
    """What the tests of a row have found out, in a few words."""
    mine = _of(tests, found)
    said = [text for one in mine for text in one["figures"]]
    outcomes = [one["outcome"] for one in mine]
    counted = ", ".join(
        f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped") if outcomes.count(kind)
    )
    return "; ".join([*said, f"{counted or 'not run'} in {sum(one['seconds'] for one in mine):.0f} s"])


def main() -> int:
    """Write the table into the page; the code that pytest returned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        type=Path,
        metavar="REPORT",
        help="write what this report says, rows that it is silent about stay; run nothing",
    )
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as place:
        report = only or Path(place) / "report"
        code = 0 if only else run(report)
        found = [json.loads(line) for line in report.read_text().splitlines()]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(found, old)}\n\n{END}{after}")
    return code


if __name__ == "__main__":
    sys.exit(main())
