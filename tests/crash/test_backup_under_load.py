"""Backups made while runs are written: each restores to a store in which everything holds, and nothing acknowledged is missing.

The control is a plain copy of the file, made page by page at the same time: some of those are broken.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from eventflow.backup import backup, restore
from eventflow.change import Op
from eventflow.codec import read_events
from eventflow.event import Transitioned
from eventflow.log import LmdbLog, Query
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.testing.author import Author

BACKUPS, BACKUPS_FULL = 5, 50
PAGE = 4096
RUNS = 5


class Load:
    """A process that writes without rest; how many rounds of events it has had acknowledged."""

    def __init__(self, pid: int, told: Path) -> None:
        self._pid, self._told = pid, told

    def __call__(self) -> int:
        return int(self._told.read_text())

    @contextmanager
    def resting(self) -> Iterator[None]:
        """It writes nothing meanwhile, so that the store does not outgrow who looks at the copies."""
        os.kill(self._pid, signal.SIGSTOP)
        yield
        os.kill(self._pid, signal.SIGCONT)


@pytest.fixture
def load(tmp_path: Path, fork) -> Load:
    """A process that writes to the store `s`."""
    told = tmp_path / "told"
    told.write_text("0")
    LmdbLog(tmp_path / "s").close()

    def write() -> None:
        log = LmdbLog(tmp_path / "s")
        author = Author(log)
        heads = [author.start(f"r{number}") for number in range(RUNS)]
        for turn in range(1, 10**9):
            change = (Op("set", ("load",), freeze(os.urandom(1_500))), Op("set", ("n",), turn))
            heads = [author.add(head, Transitioned("a", "a", change=change)) for head in heads]
            (tmp_path / "told.new").write_text(str(turn))
            (tmp_path / "told.new").rename(told)

    found = Load(fork(write).pid, told)
    while not found():
        time.sleep(0.005)
    return found


def holds(path: Path, rounds: int) -> None:
    """Every event is read and folded; each run has come at least so far."""
    with closing(LmdbLog(path)) as log:
        position = 0
        while page := log.feed(position, 500):
            read_events(page, log.blobs, strict=True)
            position = page[-1].position
        assert position == log.position()
        for one in log.runs(Query()):
            assert recover(log, one.head, snapshots=False).state.data["n"] >= rounds


@pytest.mark.slow
def test_every_backup_under_load_restores(tmp_path, load, full, record_property):
    """Whole ones and increments; each holds what was acknowledged before it began."""
    for number in range(BACKUPS_FULL if full else BACKUPS):
        rounds = load()
        whole = number % 5 == 0
        goal = tmp_path / f"b{number // 5}"
        backup(tmp_path / "s", goal, incremental=not whole)
        with load.resting():
            restore(goal, tmp_path / f"r{number}")
            holds(tmp_path / f"r{number}", rounds)
    record_property("figures", f"{number + 1} of {number + 1} restore")


def copied_plainly(source: Path, goal: Path) -> None:
    """What `cp` does, with the rest between two pages that a slow disk has."""
    (goal / "data.1").mkdir(parents=True)
    (goal / "CURRENT").write_text("data.1\n")
    with (source / "data.1" / "data.mdb").open("rb") as reading, (goal / "data.1" / "data.mdb").open("wb") as writing:
        while page := reading.read(PAGE):
            writing.write(page)
            time.sleep(0.0005)


@pytest.mark.slow
def test_a_plain_copy_under_load_breaks(tmp_path, load, fork):
    """The control: of some plain copies at least one does not open, ends who reads it, or lacks what it should hold."""
    broken = 0
    for number in range(15):
        rounds = load()
        copied_plainly(tmp_path / "s", tmp_path / f"c{number}")
        child = fork(lambda number=number, rounds=rounds: holds(tmp_path / f"c{number}", rounds))
        broken += bool(child.end()) or os.WIFSIGNALED(child.status)
        if broken:
            break
    assert broken
