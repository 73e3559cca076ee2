"""Real file systems that are shut down, and that are full: loop-mounted ext4 and xfs, and a small tmpfs.

Each needs root and a name space for mounts of its own; where that is not to be had, the tests say so and are skipped.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from powercut.judge import MOVE
from shutdown import system, text

from eventflow.errors import StoreFull
from eventflow.log import Head, LmdbLog
from eventflow.testing.author import Author
from eventflow.verification import verify_store

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
CUTS = {"ext4": 20 if FULL else 3, "xfs": 20 if FULL else 2}
CONTROL_CUTS = 4 if FULL else 2
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS, linux/sched.h
SIZE = 3 << 20  # bytes of the small disk
ROOM = 300_000  # bytes that it gets more, where something is to go on
HERE = Path(__file__).parent
UNSHARE = shutil.which("unshare") or "unshare"


def lacking(*programs: str) -> str:
    """What this needs and the machine lacks, empty if nothing."""
    if os.geteuid() != 0:
        return "only root may mount file systems"
    for program in ("unshare", "mount", *programs):
        if shutil.which(program, path=f"{os.environ['PATH']}:/sbin:/usr/sbin") is None:
            return f"there is no {program} here"
    tried = subprocess.run([UNSHARE, "-m", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "file systems can't be mounted here, not even by root"


def cut(kind: str, place: Path, cuts: int, fault: str = "") -> dict:
    """Shut a file system down again and again under a writer."""
    why = lacking(f"mkfs.{kind}")
    if why:
        pytest.skip(why)
    done = subprocess.run(
        [UNSHARE, "-m", sys.executable, str(HERE / "shutdown.py"), kind, str(place), str(cuts), fault],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if any(sign in done.stderr for sign in ("failed to setup loop", "Inappropriate ioctl", "unknown filesystem")):
        pytest.skip(f"{kind} can't be mounted from a file, or not be shut down, here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CUTS)
def test_a_file_system_that_is_shut_down_keeps_what_was_acknowledged(tmp_path, kind, record_property):
    """Its journal is lost as in a power cut; it recovers, the store opens, and everything acknowledged is there."""
    found = cut(kind, tmp_path, CUTS[kind])
    assert found["outcomes"] == {"": CUTS[kind]}
    assert found["acknowledged"] > CUTS[kind]
    record_property("figures", f"{kind}: {CUTS[kind]} cuts, {found['acknowledged']:,} events acknowledged: 0 lost")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CUTS)
def test_a_store_that_does_not_sync_loses_them(tmp_path, kind, record_property):
    """The same cuts of a store without syncs, so that it is known that they do cut."""
    found = cut(kind, tmp_path, CONTROL_CUTS, "skip_the_sync")
    failed = CONTROL_CUTS - found["outcomes"].get("", 0)
    assert failed >= CONTROL_CUTS / 2, found
    record_property("figures", f"{kind}, skip_the_sync: {failed} of {CONTROL_CUTS} cuts lose acknowledged events")


def filled(author: Author, head: Head) -> Head:
    """Append until there is no room."""
    while True:
        try:
            head = author.add(head, *[text(os.urandom(3_000).hex())] * 3, MOVE)
        except StoreFull:
            return head


@pytest.fixture
def on_a_small_disk(fork):
    """Run a function in a child for which a directory is a disk of 3 MB."""
    why = lacking()
    if why:
        pytest.skip(why)

    def run(place: Path, work) -> str:
        def apart() -> None:
            assert ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS) == 0
            system("mount", "--make-rprivate", "/")
            system("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "small", str(place))
            work()

        child = fork(apart)
        return child.end() or (f"it ended with {child.status}" if child.status else "")

    return run


def test_a_full_disk_loses_nothing_and_is_gone_on_from(tmp_path, on_a_small_disk):
    """StoreFull, again and again; reads and other processes' looks go on; with room the same log goes on by itself."""

    def work() -> None:
        log = LmdbLog(tmp_path / "s")
        author = Author(log)
        head = author.start("r")
        for turn in range(1, 5):
            head = filled(author, head)
            for _ in range(3):
                assert log.head("r") == head
                assert len(log.feed(0, 10_000)) == head.version + 1
                with pytest.raises(StoreFull):
                    author.add(head, *[text(os.urandom(60_000).hex()) for _ in range(9)])
            system("mount", "-o", f"remount,size={SIZE + turn * ROOM}", str(tmp_path))
            head = author.add(head, text(f"there is room {turn} " * 100))
        log.close()
        with closing(LmdbLog(tmp_path / "s")) as again:
            assert again.head("r") == head
            *_, report = verify_store(again)
            assert [one for one in report.findings if "definition" not in one.problem] == []

    assert on_a_small_disk(tmp_path, work) == ""


def test_a_store_can_t_be_made_on_a_full_disk_and_can_later(tmp_path, on_a_small_disk):
    """Making a store where there is no room is StoreFull; with room the next try finishes it."""

    def work() -> None:
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(8_000_000))
        with pytest.raises(StoreFull):
            LmdbLog(tmp_path / "s")
        filler.unlink()
        with closing(LmdbLog(tmp_path / "s")) as log:
            assert log.position() == 1

    assert on_a_small_disk(tmp_path, work) == ""
