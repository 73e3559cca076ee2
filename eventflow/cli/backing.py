"""Commands that copy a store and bring it back: backup, restore."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from eventflow.address import moment
from eventflow.backup import Point, assembled, backup, read_backup, restore, write_mark
from eventflow.cli.shell import (
    OK,
    ActorArg,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    argument,
    bytes_text,
    confirm,
    counted,
    directory_path,
    print_json,
    progress,
    store_path,
    time_text,
    visible,
)
from eventflow.clock import id_text
from eventflow.errors import EventflowError, NeedsConfirmation, ProofFailed, SettingsError
from eventflow.log import ADDRESSES, LmdbLog, Query
from eventflow.log.lmdb.files import set_current
from eventflow.untrusted import verify_untrusted

BACKUP, RESTORE = "eventflow.backup/1", "eventflow.restore/1"
_BAR = 30  # characters of a progress bar
IncrementalArg = Annotated[
    bool, argument(name="--incremental", negative=(), help="Add to the backup that is there what has changed since.")
]
VerifyArg = Annotated[
    bool,
    argument(
        name="--verify",
        negative=(),
        help="Then verify it from the first byte to the last; exit code 4 if it does not hold.",
    ),
]
KeysArg = Annotated[
    bool,
    argument(
        name="--with-keys", negative=(), help="Copy the keys of an encrypted store too: who has the copy can read it."
    ),
]
AtArg = Annotated[
    str | None, argument(name="--at", help="A position, or a time as 2026-11-24T10:00Z. [default: the newest backup]")
]


def bar(what: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Shows how far something is, as a bar."""

    def show(done: int, whole: int) -> None:
        share = done / whole if whole else 1.0
        filled = "#" * round(share * _BAR)
        say(f"{what} [{filled:-<{_BAR}}] {share:4.0%}")

    return show


def backup_(
    dest: str, /, *, incremental: IncrementalArg = False, verify: VerifyArg = False, keys: KeysArg = False,
    actor: ActorArg = "", why: WhyArg = "", store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Copy a store to a new directory while runs go on; it can be killed at any moment and repeated.

    Parameters
    ----------
    dest
        The directory of the backup.
    """
    place, goal = store_path(store), directory_path(dest)
    if place.startswith(ADDRESSES):
        raise SettingsError(
            "a store in PostgreSQL is backed up by the server's own means, or copied to a directory with `eventflow store copy`"
        )
    say, done = progress()
    try:
        with closing(LmdbLog(place, create=False)) as log:
            store_id = log.store_id
            made = backup(
                log, goal, incremental=incremental, keys=keys, actor=actor, why=why, progress=bar("copying", say)
            )
        say("verifying")
        finding = _wrong_in(goal) if verify else ""
    finally:
        done()
    if output != "table":
        document = {"schema": BACKUP, "store": id_text(store_id), **_point(made.point), "path": str(made.path)}
        verified = None if not verify else not finding
        print_json(
            {**document, "bytes": made.bytes, "keys": keys, "recorded": made.recorded, "verified": verified},
            lines=output == "jsonl",
        )
    else:
        print(
            visible(
                f"backup {made.point.number}: up to position {made.point.position}, {bytes_text(made.bytes)} in {made.path}"
            )
        )
        if not made.recorded:
            print("the store has no room left to record it; the backup is whole")
        if verify and not finding:
            print("everything in it holds")
    if finding:
        raise ProofFailed(f"the backup {dest}", f"does not hold: {finding}")
    return OK


def _wrong_in(path: Path) -> str:
    """Put a backup together in a directory that is thrown away, and read all of that; the first thing that does not hold."""
    found = read_backup(path)
    with tempfile.TemporaryDirectory(prefix="eventflow-", dir=path.absolute().parent) as place:
        directory = assembled(found, found.last, Path(place))
        write_mark(directory, found.last.position, found.last.digest)
        set_current(Path(place), directory.name)
        report = verify_untrusted(place)
    return str(report.findings[0]) if report.findings else ""


def restore_(
    source: str, dest: str, /, *, at: AtArg = None, verify: VerifyArg = False, yes: YesArg = False, actor: ActorArg = "",
    why: WhyArg = "", output: FormatArg = "table",
) -> int:  # fmt: skip
    """Make a store from a backup, as it was at its end or at a point; nothing is written over.

    Parameters
    ----------
    source
        The directory of the backup.
    dest
        The directory of the new store.
    """
    place, goal = directory_path(source), directory_path(dest)
    found = read_backup(place)
    position = int(at) if at is not None and at.isdecimal() else None
    time = moment(at) if at is not None and position is None else None
    driven = _driven(Path(found.source), found.store_id)
    question = (
        f"The store this is a backup of is at {found.source} and {driven} of its runs are being driven; driven in both, they "
        f"would do twice what they have yet to do. Restore it all the same?"
    )
    if driven and not confirm(question, yes=yes):
        raise NeedsConfirmation("the store that this is a backup of is at work; stop it first")
    say, done = progress()
    try:
        made = restore(
            place, goal, position=position, time=time, actor=actor, why=why, progress=bar("restoring", say),
            check=_check if verify else None,
        )  # fmt: skip
    finally:
        done()
    document: dict[str, Any] = {
        "schema": RESTORE, "path": str(made.path), "store": id_text(found.store_id), **_point(made.point),
        "upto": made.position, "generation": made.generation, "runs": made.runs, "lost": list(made.lost),
        "verified": True if verify else None,
    }  # fmt: skip
    if output != "table":
        print_json(document, lines=output == "jsonl")
        return OK
    print(
        visible(
            f"{made.path}: {counted(made.runs, 'run')} as they were at position {made.position}, generation {made.generation}"
        )
    )
    if verify:
        print("everything in it holds")
    for one in made.lost:
        print(visible(f"run {one} is not in it: it was compacted since; an older backup may hold it"))
    return OK


def _check(path: Path) -> None:
    report = verify_untrusted(path)
    if report.findings:
        raise ProofFailed("the restored store", f"does not hold: {report.findings[0]}")


def _driven(path: Path, store_id: bytes) -> int:
    """How many runs of the store at a path are being driven, if it is that store and it can be looked at."""
    if not (path / "CURRENT").is_file():
        return 0
    try:
        with closing(LmdbLog(path, readonly=True)) as log:
            if log.store_id != store_id:
                return 0
            return sum(not log.owner_gone(one.head.owner) for one in log.runs(Query()))
    except EventflowError:
        return 0


def _point(point: Point) -> dict[str, Any]:
    return {
        "number": point.number,
        "position": point.position,
        "digest": point.digest.hex(),
        "time": time_text(point.time),
    }
