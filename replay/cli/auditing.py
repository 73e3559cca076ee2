"""The command that audits a history: verify."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from eventflow.address import find_run
from eventflow.cipher.signing import PublicKey, check_signed, public_key
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
    store_path,
    visible,
)
from eventflow.errors import ProofFailed, SettingsError
from eventflow.exchange import verified
from eventflow.log import ADDRESSES, Log
from eventflow.sealing import Seal, differences, kept_seals, read_seal, surveyed, unsealed
from eventflow.untrusted import Examiner
from eventflow.verification import Report, verify_run, verify_store
from replay.cli.opening import is_export, open_history
from replay.export import ExportLog

SCHEMA = "eventflow.verification/1"
_NAMED = 5  # runs that are named where more may be meant: what fits on a line
AllArg = Annotated[bool, argument(name="--all", negative=(), help="The whole store.")]
SealArg = Annotated[
    str | None, argument(name="--seal", help="A seal that was kept elsewhere: the store must be what it says.")
]
KeyArg = Annotated[
    str | None,
    argument(
        name="--key",
        help="The public key that must have signed the seal, or without one those that are kept; or its file.",
    ),
]


@dataclass(slots=True)
class Sealed:
    """What was compared with seals: how many, the largest held outside, and whether their signatures were looked at.

    `begun` are the runs that the one held outside can't vouch for: they were compacted after it.
    """

    compared: int = 0
    outside: int = 0
    signed: bool = False
    begun: list[str] = field(default_factory=list)


def verify_(
    *runs: str, everything: AllArg = False, seal: SealArg = None, key: KeyArg = None, store: StoreArg = None,
    output: FormatArg = "table",
) -> int:  # fmt: skip
    """Audit runs, or a store: chain, density, decoding, legality, snapshots against folds, blobs, seals. Exit code 4 if broken.

    Parameters
    ----------
    runs
        The runs, or the file of an export; or --all, or --seal, which verifies the whole store too.
    """
    if runs and everything:
        raise SettingsError("say what to verify: name runs, or --all")
    if not runs and not everything and seal is None:
        raise SettingsError("say what to verify: name runs, or --all, or --seal and a seal that was kept elsewhere")
    outside = None if seal is None else read_seal(Path(seal))
    trusted = None if key is None else public_key(key)
    if len(runs) == 1 and is_export(runs[0]):
        store, runs = runs[0], ()
    whole = None if runs or is_export(store_path(store)) else _apart(store)
    if whole is not None and whole.findings and not whole.events:  # reading it here could end this process too
        _tell(whole, Sealed(), output)
        return DIFFERENCE
    opened = open_history(store, check=False)
    try:
        if isinstance(opened, ExportLog) and outside is not None and not opened.whole:
            raise SettingsError(
                "a seal is of a whole store, and this export is not; export with --all, or use `replay prove`"
            )
        if runs:
            report = _verified(opened, runs)
        else:
            report = verified(opened) if isinstance(opened, ExportLog) else whole or Report()
        kept = [] if runs or isinstance(opened, ExportLog) else _kept(store, report)
        sealed = _compared(opened, kept, outside, trusted, report)
    finally:
        opened.close()
    _tell(report, sealed, output)
    return OK if report.sound else DIFFERENCE


def _verified(opened: Log, runs: tuple[str, ...]) -> Report:
    report = Report()
    for head in [find_run(opened, run) for run in runs]:
        verify_run(opened, head, report)
    return report


def _apart(store: str | None) -> Report:
    """What a verification of the whole store finds, in a process of its own: a damaged file may end who reads it."""
    say, done = progress()
    try:
        if lasting_path(store).startswith(ADDRESSES):  # no file: what it holds can't end this process
            return _read_here(store, say)
        with Examiner() as examiner:
            return examiner.verify(
                lasting_path(store),
                own=True,
                progress=lambda runs, events: say(f"verifying: {runs} runs, {events} events"),
            )
    finally:
        done()


def _read_here(store: str | None, say: Callable[[str], None]) -> Report:
    report = Report()
    with closing(open_store(store)) as log:
        for report in verify_store(log):
            say(f"verifying: {report.runs} runs, {report.events} events")
    return report


def _kept(store: str | None, report: Report) -> list[Seal]:
    try:
        return kept_seals(Path(store_path(store)))
    except ProofFailed as error:
        report.add("seals", 0, f"{error.what} {error.problem}")
        return []


def _compared(
    opened: Log, kept: list[Seal], outside: Seal | None, trusted: PublicKey | None, report: Report
) -> Sealed:  # fmt: skip
    """Compare the store with seals; what does not fit is added to the report."""
    seals = kept if outside is None else [*kept, outside]
    found = Sealed(len(seals), outside.head.size if outside else 0, signed=bool(seals) and trusted is not None)
    if not seals:
        return found
    sizes = [one.head.size for one in seals]
    try:
        tree = surveyed(opened, max(sizes), sizes=sizes)
    except ProofFailed as error:
        report.add("seals", 0, f"{error.what} {error.problem}")
        return found
    for one, problem in differences(opened.store_id, tree, seals):
        report.add("seal", one.head.size, problem)
    if outside is not None and report.sound:
        found.begun = unsealed(opened, outside.head.size)
    if trusted is not None:  # with a seal from outside only that one: those that are kept may be of older keys
        _check_signatures([outside] if outside is not None else kept, trusted, report)
    return found


def _check_signatures(seals: list[Seal], trusted: PublicKey, report: Report) -> None:
    for one in seals:
        try:
            check_signed(one.note, trusted)
        except ProofFailed as error:
            report.add("seal", one.head.size, f"{one.path.name} {error.problem}")


def _tell(report: Report, sealed: Sealed, output: str) -> None:
    findings = [{"run": one.run, "version": one.version, "problem": one.problem} for one in report.findings]
    if output != "table":
        counts = {
            "runs": report.runs, "events": report.events, "snapshots": report.snapshots, "deleted": report.deleted,
            "hidden": report.hidden, "unopened": report.unopened, "seals": sealed.compared, "sealed_outside": sealed.outside or None,
            "signatures_checked": sealed.signed, "compacted_since": sealed.begun,
        }  # fmt: skip
        document = {"schema": SCHEMA, "sound": report.sound, **counts, "first": findings[0] if findings else None}
        print_json({**document, "findings": findings}, lines=output == "jsonl")
    else:
        deleted = f", {report.deleted} deleted" if report.deleted else ""
        seals = f", {counted(sealed.compared, 'seal')}" if sealed.compared else ""
        read = f"{counted(report.runs, 'run')}, {counted(report.events, 'event')}{deleted}"
        print(f"{read}, {counted(report.snapshots, 'snapshot')}{seals} read and compared")
        if report.hidden:
            print(f"{report.hidden} events are encrypted and their key is not here: their values were not compared")
        if report.unopened:
            print(f"nor was what {counted(report.unopened, 'compacted run')} began with")
        if sealed.begun:
            print(visible(_begun(sealed.begun)))
        if report.sound:
            print(_sound(sealed))
        else:
            print(visible(f"{len(findings)} of what was compared does not hold; the first: {report.findings[0]}"))
    for one in report.findings:
        print(visible(f"replay: {one}"), file=sys.stderr)


def _begun(runs: list[str]) -> str:
    """What no seal can say of runs that were compacted after it."""
    named = ", ".join(runs[:_NAMED]) + (", ..." if len(runs) > _NAMED else "")
    return f"{counted(len(runs), 'run')} compacted after the seal ({named}): what that begins with is the word of who did it"


def _sound(sealed: Sealed) -> str:
    """What can be said where nothing was found, and what can't."""
    unsigned = "" if sealed.signed or not sealed.compared else "; whether the seals are signed takes --key"
    if sealed.outside:
        return f"everything holds, and the first {sealed.outside} events are those that were sealed{unsigned}"
    return f"everything holds; that no tail was cut off takes a digest kept elsewhere{unsigned}"
