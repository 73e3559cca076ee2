"""What a command reads: a store, or the file of an export, which may come from anybody.

Whatever reads an export does so in a process of its own, which may take only so much memory and time: a file that was
made to hurt ends that process, and nothing else. No answer of it is code.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from eventflow.cli.shell import OK, UNUSABLE, open_store, store_path
from eventflow.errors import SettingsError
from eventflow.log import Log

EXPORT = ".cborseq"  # what the name of an export ends with
CAPSULE = ".html"  # and that of one that is a page
MAX_MEMORY = 6 << 30  # bytes of address space: the largest export, several times over while it is checked
MAX_SECONDS = (
    3_600  # of processor time: a million events are verified in two minutes, and the largest export has some ten
)
_WRITES = frozenset(
    {"export", "fork", "open"}
)  # whose file is written, or that write to a store once a file is verified


def is_export(text: str) -> bool:
    """Whether a text names the file of an export, alone or with a point in it."""
    return text.partition("@")[0].endswith((EXPORT, CAPSULE))


def open_history(store: str | None, *, check: bool = True) -> Log:
    """The store, or the export, that a command names; an export is verified unless `check` is off."""
    path = store_path(store)
    if not is_export(path):
        return open_store(store)
    from replay.export import read_history  # noqa: PLC0415 - few commands read one

    return read_history(Path(path), check=check)


def opened_at(address: str, store: str | None) -> tuple[Log, str]:
    """The log and the address that are meant, where a file may stand for the one run that was exported to it."""
    if not is_export(address):
        return open_history(store), address
    from replay.export import read_history  # noqa: PLC0415

    file, at, point = address.partition("@")
    log = read_history(Path(file))
    if not log.run:
        raise SettingsError(f"{file} holds several runs; name one, and the file with --store {file}")
    return log, f"{log.run}{at}{point}"


def names_export(argv: Sequence[str]) -> bool:
    """Whether a command line reads an export."""
    if not argv or argv[0] in _WRITES:
        return False
    named = [one.partition("=")[2] if one.startswith("--") else one for one in argv]
    return any(map(is_export, [*named, os.environ.get("EVENTFLOW_STORE", "")]))


def run_confined(argv: Sequence[str], *, quiet: bool = False) -> int:
    """The exit code of a command line in a process that may take only so much; `quiet` lets only its errors be seen."""
    own = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-P", "-m", "replay.cli.confined", *argv], env={**os.environ, "PYTHONPATH": path}, check=False,
        stdout=subprocess.DEVNULL if quiet else None,
    )  # fmt: skip
    if done.returncode >= OK:
        return done.returncode
    print(
        f"replay: reading the export took more than it may (signal {-done.returncode}); nothing was believed",
        file=sys.stderr,
    )
    return UNUSABLE


def confine() -> None:
    """Bound what this process may take; where the system knows no such bound, there is none."""
    for what, limit in (("RLIMIT_AS", MAX_MEMORY), ("RLIMIT_CPU", MAX_SECONDS), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            number = getattr(resource, what)
            _, hard = resource.getrlimit(number)
            bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(number, (bound, bound))
