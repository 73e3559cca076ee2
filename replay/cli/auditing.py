"""The command that audits a history: verify."""

from __future__ import annotations

import sys
from typing import Annotated

from eventflow.address import find_run
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    FormatArg,
    StoreArg,
    argument,
    open_store,
    print_json,
    progress,
    visible,
)
from eventflow.errors import SettingsError
from eventflow.log import Log
from eventflow.verification import Report, verify_run, verify_store

SCHEMA = "eventflow.verification/1"
AllArg = Annotated[bool, argument(name="--all", negative=(), help="The whole store.")]


def verify_(
    *runs: str, everything: AllArg = False, store: StoreArg = None, output: FormatArg = "table"
) -> int:  # fmt: skip
    """Audit runs, or a store: chain, density, decoding, legality, snapshots against folds, blobs. Exit code 4 if broken.

    Parameters
    ----------
    runs
        The runs; or --all.
    """
    if bool(runs) is everything:
        raise SettingsError("say what to verify: name runs, or --all")
    opened = open_store(store)
    try:
        report = _verified_store(opened) if everything else _verified(opened, runs)
    finally:
        opened.close()
    _tell(report, output)
    return OK if report.sound else DIFFERENCE


def _verified(opened: Log, runs: tuple[str, ...]) -> Report:
    report = Report()
    for head in [find_run(opened, run) for run in runs]:
        verify_run(opened, head, report)
    return report


def _verified_store(opened: Log) -> Report:
    report = Report()
    say, done = progress()
    try:
        for report in verify_store(opened):
            say(f"verifying: {report.runs} runs, {report.events} events")
    finally:
        done()
    return report


def _tell(report: Report, output: str) -> None:
    findings = [{"run": one.run, "version": one.version, "problem": one.problem} for one in report.findings]
    if output != "table":
        counts = {
            "runs": report.runs,
            "events": report.events,
            "snapshots": report.snapshots,
            "deleted": report.deleted,
        }
        document = {"schema": SCHEMA, "sound": report.sound, **counts, "first": findings[0] if findings else None}
        print_json({**document, "findings": findings}, lines=output == "jsonl")
    else:
        deleted = f", {report.deleted} deleted" if report.deleted else ""
        print(f"{report.runs} runs, {report.events} events{deleted}, {report.snapshots} snapshots read and compared")
        if report.sound:
            print("everything holds; that no tail was cut off takes a digest kept elsewhere")
        else:
            print(visible(f"{len(findings)} of what was compared does not hold; the first: {report.findings[0]}"))
    for one in report.findings:
        print(visible(f"replay: {one}"), file=sys.stderr)
