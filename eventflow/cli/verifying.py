"""The command that verifies a store, in a process of its own unless told otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from eventflow.address import find_run
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    FormatArg,
    StoreArg,
    argument,
    counted,
    lasting_path,
    open_store,
    print_json,
    progress,
    visible,
)
from eventflow.log import ADDRESSES
from eventflow.untrusted import Examiner
from eventflow.verification import Report, verify_run, verify_store

InProcessArg = Annotated[
    bool,
    argument(
        name="--in-process", negative=(), help="In this process: faster to begin, for a store nobody else has touched."
    ),
]


def verify(
    what: str | None = None, /, *, in_process: InProcessArg = False, store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Read every byte again and compare it with everything that speaks of it; exit code 4 if something does not hold.

    Parameters
    ----------
    what
        Only this run; or the directory of a store from anybody, of which a private copy is read. The whole store if left
        out.
    """
    say, done = progress()

    def tell(runs: int, events: int) -> None:
        say(f"verifying: {runs} runs, {events} events")

    try:
        if what is not None and Path(what).is_dir():
            with Examiner() as examiner:
                report = examiner.verify(what, progress=tell)
        elif what is None and not in_process and not lasting_path(store).startswith(ADDRESSES):
            with Examiner() as examiner:
                report = examiner.verify(lasting_path(store), own=True, progress=tell)
        else:
            report = _here(what, store, tell)
    finally:
        done()
    return tell_report(report, output)


def _here(run: str | None, store: str | None, tell: object) -> Report:
    log = open_store(store)
    try:
        if run is not None:
            return verify_run(log, find_run(log, run))
        report = Report()
        for report in verify_store(log):
            if callable(tell):
                tell(report.runs, report.events)
        return report
    finally:
        log.close()


def tell_report(report: Report, output: str) -> int:
    """Print what a verification found; the exit code that it means."""
    if output != "table":
        findings = [{"run": one.run, "version": one.version, "problem": one.problem} for one in report.findings]
        print_json(
            {"schema": "eventflow.verification/1", "sound": report.sound, "runs": report.runs, "events": report.events,
             "snapshots": report.snapshots, "deleted": report.deleted, "compacted": report.compacted,
             "hidden": report.hidden, "unopened": report.unopened, "findings": findings},
            lines=output == "jsonl",
        )  # fmt: skip
    else:
        deleted = f", {report.deleted} deleted" if report.deleted else ""
        deleted += f", {report.compacted} of the runs begin late" if report.compacted else ""
        read = f"{counted(report.runs, 'run')}, {counted(report.events, 'event')}{deleted}"
        print(f"{read}, {counted(report.snapshots, 'snapshot')} read and compared")
        if report.hidden:
            print(f"{report.hidden} events are encrypted and their key is not here: their values were not compared")
        if report.unopened:
            print(f"nor was what {counted(report.unopened, 'compacted run')} began with")
        print("everything holds" if report.sound else f"{len(report.findings)} of what was compared does not hold")
    if not report.sound:
        for one in report.findings:
            print(visible(f"eventflow: {one}"), file=sys.stderr)
        print(
            "eventflow: write nothing more to this store; go on from a backup, or save what holds: `eventflow store repair`",
            file=sys.stderr,
        )
    return OK if report.sound else DIFFERENCE
