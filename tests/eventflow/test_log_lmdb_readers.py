"""Who reads keeps pages from being used again: what that does to the file, and that it is told."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from eventflow.change import Op
from eventflow.event import Transitioned
from eventflow.log import LmdbLog, Query
from eventflow.log.lmdb.environment import READER_CHECK_EVERY
from eventflow.log.lmdb.files import Gate, gate_holder
from eventflow.testing.author import Author

APPENDS, APPENDS_FULL = 1_500, 100_000
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
MIB = 1 << 20


def grow(path: Path, count: int) -> tuple[int, int]:
    """Append so many events in batches of ten; returns the file's bytes and those of what lives in it."""
    with closing(LmdbLog(path)) as log:
        author = Author(log)
        head = author.start("r")
        for number in range(count // 10):
            head = author.add(head, *(Transitioned("a", "a", change=(Op("set", ("n",), number),)) for _ in range(10)))
        usage = log.usage()
    return usage.file_bytes, usage.file_bytes - usage.free_bytes


@pytest.mark.slow
def test_a_viewer_and_readers_that_died_do_not_make_the_file_grow(tmp_path, child):
    """The file stays within twice what lives in it and 1 MiB, while one reads all the time and others are killed reading."""
    LmdbLog(tmp_path / "s").close()

    def view(say) -> None:
        with closing(LmdbLog(tmp_path / "s", readonly=True)) as log:
            say("reading")
            while True:
                log.feed(0, 50)
                log.runs(Query())

    def read_on(say) -> None:
        log = LmdbLog(tmp_path / "s", readonly=True)
        with log._env.reading() as txn:
            say(str(txn.id()))
            time.sleep(60)

    viewer, *readers = [child(view), *(child(read_on) for _ in range(4))]
    for one in (viewer, *readers):
        one.line()
    for one in readers:
        one.kill(signal.SIGKILL)
        one.end()
    file, live = grow(tmp_path / "s", APPENDS_FULL if FULL else APPENDS)
    assert file <= 2 * live + MIB
    viewer.kill()


def test_a_reader_that_is_held_makes_the_file_grow_and_is_told(tmp_path, child):
    """The control: with one transaction open the file outgrows the bound, and everybody can see who it is and how far behind."""
    LmdbLog(tmp_path / "s").close()

    def read_on(say) -> None:
        log = LmdbLog(tmp_path / "s", readonly=True)
        with log._env.reading() as txn:
            say(str(txn.id()))
            time.sleep(60)

    reader = child(read_on)
    reader.line()
    file, live = grow(tmp_path / "s", APPENDS)
    assert file > 2 * live + MIB
    with closing(LmdbLog(tmp_path / "s", readonly=True)) as log:
        found = log.readers()
        assert [pid for pid, _, since in found.readers if since >= 0] == [reader.pid]
        assert found.lag >= APPENDS // 10
        reader.kill()
        reader.end()
        found = log.readers()
        assert (found.cleared, found.lag) == (1, 0)


def test_a_writer_that_goes_on_clears_readers_that_died_meanwhile(tmp_path, child):
    """Nobody opens the store anew and nobody asks: every thousandth commit looks."""

    def read_on(say) -> None:
        log = LmdbLog(tmp_path / "s", readonly=True)
        with log._env.reading() as txn:
            say(str(txn.id()))
            time.sleep(60)

    with closing(LmdbLog(tmp_path / "s")) as log:
        author = Author(log)
        head = author.start("r")
        reader = child(read_on)
        reader.line()
        reader.kill(signal.SIGKILL)
        reader.end()
        assert reader.pid in {pid for pid, _, _ in log._env.readers()}
        for _ in range(READER_CHECK_EVERY):
            head = author.add(head, Transitioned("a", "a"))
        assert reader.pid not in {pid for pid, _, _ in log._env.readers()}


def test_who_holds_the_gate_is_told_while_it_is_held(tmp_path):
    """And nobody before and after."""
    LmdbLog(tmp_path / "s").close()
    assert gate_holder(tmp_path / "s") == ""
    gate = Gate(tmp_path / "s")
    with gate.held():
        gate.name_holder()
        assert gate_holder(tmp_path / "s") == str(os.getpid())
    assert gate_holder(tmp_path / "s") == ""
    assert gate_holder(tmp_path / "nowhere") == ""
    gate.close()
