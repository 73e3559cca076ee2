"""A disk that takes its time, and a process that is stopped while it waits for it: who reads goes on, who writes is told.

The writer runs with `iofault.c` preloaded, so that it is slow or stopped in the middle of a real commit. The control waits
for LMDB's own lock, as a store without a gate would.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from eventflow.errors import StoreBusy
from eventflow.event import Transitioned
from eventflow.log import LmdbLog, Query
from eventflow.testing.author import Author

HERE = Path(__file__).parent
MOVE = Transitioned("a", "a")
STOP, SLOW = "7", "8"
MILLISECONDS = "700"  # each write or sync takes that long: a commit at least twice that
READS = 100  # in the time of one commit; a read takes some tens of microseconds


@pytest.fixture
def writer(tmp_path, shim) -> Iterator[Callable[[str, str], subprocess.Popen]]:
    """Start a writer; it has been so far that its next commit meets the disk."""
    started = []

    def start(how: str, error: str) -> subprocess.Popen:
        one = subprocess.Popen(
            [sys.executable, str(HERE / "slow_writer.py"), str(tmp_path / "s"), how, error],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "LD_PRELOAD": str(shim)},
        )  # fmt: skip
        started.append(one)
        assert one.stdout.readline() == "here\n"
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def stopped(process: subprocess.Popen) -> bool:
    """Whether a process is stopped by a signal."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_reads_do_not_wait_for_a_slow_disk(tmp_path, writer, record_property):
    """A hundred reads, in another process, take less than one commit on a disk that takes 0.7 s for each call."""
    one = writer(SLOW, MILLISECONDS)
    with closing(LmdbLog(tmp_path / "s", readonly=True)) as log:
        began, slowest = time.monotonic(), 0.0
        for _ in range(READS):
            before = time.monotonic()
            assert log.runs(Query())[0].head.version == 1  # the commit goes on
            slowest = max(slowest, time.monotonic() - before)
        took = time.monotonic() - began
        assert one.stdout.readline() == "done 1\n"
        assert log.runs(Query())[0].head.version == 2
    record_property(
        "figures", f"{READS} reads beside a commit of 1.4 s: {took * 1000:.0f} ms, the slowest {slowest * 1000:.1f} ms"
    )


def test_who_waits_for_a_stopped_writer_is_told_its_process(tmp_path, writer, until, record_property):
    """Within the timeout, in a write and in opening; reads go on meanwhile, and the writer goes on when it is continued."""
    LmdbLog(tmp_path / "s").close()
    with closing(LmdbLog(tmp_path / "s", gate_timeout=0.2)) as log:
        author = Author(log)
        mine = author.start("mine")
        one = writer(STOP, "0")
        until(lambda: stopped(one))
        with pytest.raises(StoreBusy, match=f"process {one.pid}"):
            author.add(mine, MOVE)
        assert log.head("mine") == mine
        assert len(log.feed(0, 99)) == 3
        told = subprocess.run(
            [sys.executable, "-c", f"""if True:
                from eventflow.log import LmdbLog
                print(len(LmdbLog({str(tmp_path / "s")!r}, readonly=True).feed(0, 99)))
                LmdbLog({str(tmp_path / "s")!r}, gate_timeout=0.1)"""],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.stdout == "3\n"
        assert f"process {one.pid}" in told.stderr
        os.kill(one.pid, signal.SIGCONT)
        assert one.stdout.readline() == "done 1\n"
        assert author.add(mine, MOVE).version == 2
    record_property(
        "figures", "the waiting writer ends with the process id of the stopped one; reads and readers that open go on"
    )


def test_without_the_gate_a_stopped_writer_holds_everybody(tmp_path, writer, until, fork, record_property):
    """LMDB's own lock can't be waited for with a timeout: who asks for it is still waiting when it is killed."""
    LmdbLog(tmp_path / "s").close()
    one = writer(STOP, "0")
    until(lambda: stopped(one))
    reached = tmp_path / "reached"

    def wait() -> None:
        env = lmdb.open(str(tmp_path / "s" / "data.1"), map_size=1 << 30, max_dbs=20, create=False)
        (tmp_path / "asked").touch()
        with env.begin(write=True):
            reached.touch()

    child = fork(wait)
    until((tmp_path / "asked").exists)
    time.sleep(0.5)
    assert not reached.exists()
    os.kill(one.pid, signal.SIGCONT)
    assert child.end() == ""
    assert reached.exists()
    record_property("figures", "a bare begin() waits until the stopped writer goes on")
