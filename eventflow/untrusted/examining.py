"""What a child process does with a store from anybody: structure first, then every byte of it, read only.

This runs in a process that may take only so much memory and time, and that may die of what it reads. Its answer is plain
data, one line of JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eventflow.errors import EventflowError
from eventflow.exchange import write_sequence
from eventflow.log import LmdbLog, Log, open_log
from eventflow.log.lmdb.environment import damage
from eventflow.log.lmdb.files import data_directory, missing_bytes
from eventflow.untrusted.shape import data_file
from eventflow.verification import Report, verify_store
from eventflow.verification.report import STUMBLES, said

MEMORY = (
    2 << 30
)  # bytes of address space beyond the file's own: Python and its libraries map half of that before they begin
SECONDS = 60  # of processor time, and one more for each MB of the file: a million events take two minutes
ROOM = 16 << 20  # bytes of map beyond the file
Say = Callable[[dict[str, Any]], None]


def confine(size: int) -> None:
    """Bound what this process may take for a file of so many bytes; where the system knows no bound, there is none."""
    limits = {
        "RLIMIT_AS": MEMORY + 2 * size, "RLIMIT_CPU": seconds_for(size), "RLIMIT_CORE": 0,
    }  # fmt: skip
    for what, limit in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            number = getattr(resource, what)
            _, hard = resource.getrlimit(number)
            bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(number, (bound, bound))


def seconds_for(size: int) -> int:
    """Seconds of processor time that a file of so many bytes may take."""
    return SECONDS + (size >> 20)


def examine(root: Path, job: str, goal: str, say: Say) -> dict[str, Any]:
    """Do a job on a store: `verify` it, `own` the same where it lies and may be in use, or `export` it whole to a file.

    Returns the report as `done`; or, of one's own store that can't be opened, the error as `refused`.
    """
    report = Report()
    try:
        if job == "own":
            return _own(root, say)
        file = data_file(root)
        size = file.stat().st_size
        confine(size)
        problem = _structure(file)
        if problem:
            report.add("the file", 0, problem)
        else:
            with closing(LmdbLog(root, readonly=True, map_size=size + ROOM)) as log:
                report = _read(log, goal if job == "export" else "", say)
    except MemoryError:
        report.add("the store", 0, "takes more memory than it may; nothing was believed")
    except (EventflowError, *STUMBLES) as error:
        report.add("the store", 0, said(error))
    return {"done": asdict(report)}


def _own(root: Path, say: Say) -> dict[str, Any]:
    """Verify one's own store where it lies, with the keys there are; its structure too, if nobody has it open."""
    try:
        file = data_directory(root) / "data.mdb"
        size = file.stat().st_size
        confine(size)
        problem = _structure(file) if _at_rest(file) else ""
        os.environ["EVENTFLOW_MAP_SIZE"] = str(size + ROOM)
        log = open_log(root, readonly=True, create=False)
    except EventflowError as error:
        return {"refused": str(error), "code": error.exit_code}
    with closing(log):
        report = _read(log, "", say)
    if problem:
        report.add("the file", 0, problem)
    return {"done": asdict(report)}


def _structure(file: Path) -> str:
    try:
        missing = missing_bytes(file)
    except EventflowError as error:
        return said(error)
    found = damage(file)
    if missing and found:
        return f"is {missing:,} bytes shorter than its meta pages say: it was cut ({found})"
    return found


def _at_rest(file: Path) -> bool:
    """Whether nobody has an LMDB file open: its structure can't be told while pages are written."""
    try:
        fd = os.open(file.with_name("lock.mdb"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.lockf(
            fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1
        )  # the byte that LMDB holds shared for as long as a file is open
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _read(log: Log, goal: str, say: Say) -> Report:
    """Verify all of a log; if everything holds and a place for it is given, write it there as an export."""
    report = Report()
    for report in verify_store(log):
        say({"runs": report.runs, "events": report.events})
    if goal and report.sound:
        fd = os.open(goal, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as out:
            write_sequence(log, out, None)
    return report
