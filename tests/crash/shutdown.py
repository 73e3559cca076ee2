"""Cuts of a real file system: `unshare -m python shutdown.py KIND PLACE CUTS [FAULT]`, as root; a JSON line with what came of it.

A file becomes a block device with a file system. A child writes a store there; at a random moment the file system is shut
down without writing its journal (as `xfs_io -c shutdown` does), unmounted, mounted again, so that it recovers by itself, and
what the store has left is judged. What was acknowledged stands in a file on another file system.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from powercut.disk import Known
from powercut.judge import MOVE, faults
from powercut.load import LONG, Witnessed

from eventflow.change import Op
from eventflow.clock import ManualClock
from eventflow.event import Transitioned
from eventflow.log import LmdbLog
from eventflow.testing.author import Author
from eventflow.testing.crash.faults import weakly_synced

GOING_DOWN = 0x8004587D  # _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number
WITHOUT_LOG = struct.pack("I", 2)  # the journal's last entries are lost, as a power cut loses them
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20}  # bytes of the image, which has holes; mkfs.xfs takes no smaller one
OPTIONS = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"]}
LONGEST = 0.08  # seconds that a writer lives
PATIENCE = 20.0  # seconds until a writer that says nothing is given up


def text(value: str) -> Transitioned:
    """A fact with a text that is kept once."""
    return Transitioned("a", "a", change=(Op("set", ("x",), value),))


def write(store: Path, witness: Path, fault: str) -> None:
    """Append without rest."""
    with weakly_synced(fault):
        log = Witnessed(LmdbLog(store), witness)
    author = Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid()))
    head = author.start(f"r{os.getpid()}")
    while True:
        head = author.add(head, MOVE if head.version % 3 else text(f"{LONG} {head.version}"))


def cut(mounted: Path, seconds: float, work: list, *, early: bool) -> None:
    """Let a writer live for some time after its first word, or its start, then shut the file system down under it."""
    pid = os.fork()
    if not pid:
        try:
            write(*work)
        finally:
            os._exit(0)
    witness: Path = work[1]
    deadline = time.monotonic() + PATIENCE
    while not early and not (witness.exists() and b'"told": [[' in witness.read_bytes()):
        assert time.monotonic() < deadline, "the writer says nothing"
        time.sleep(0.002)
    time.sleep(seconds)
    fd = os.open(mounted, os.O_RDONLY)
    fcntl.ioctl(fd, GOING_DOWN, WITHOUT_LOG)
    os.close(fd)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def system(*words: str) -> None:
    """Run a program of the system. Raises CalledProcessError."""
    program = shutil.which(words[0], path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    subprocess.run([program or words[0], *words[1:]], check=True)


def main(kind: str, place: Path, cuts: int, fault: str = "") -> None:
    """Cut so many times, and tell what was left."""
    image, mounted = place / "image", place / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZES[kind])
    system(f"mkfs.{kind}", *OPTIONS[kind], str(image))
    chance, outcomes, acknowledged = random.Random(1), Counter(), 0  # noqa: S311
    for number in range(cuts):
        witness = place / f"witness-{number}"
        system("mount", "-o", "loop", str(image), str(mounted))
        life = number if fault else number // 4  # several cuts in the life of one store, if it lives on
        store = mounted / f"store-{life}"
        cut(mounted, chance.uniform(0, LONGEST), [store, witness, fault], early=number % 5 == 4)
        system("umount", str(mounted))
        system("mount", "-o", "loop", str(image), str(mounted))
        known, digests = Known(), {}
        for line in witness.read_text().splitlines() if witness.exists() else []:
            heard = json.loads(line)
            known.hear(heard)
            digests |= {(run, version): digest for run, version, digest in heard.get("told", ())}
            acknowledged += len(heard.get("told", ()))
        outcomes[faults(store, known, digests, {})[:80]] += 1
        system("umount", str(mounted))
    sys.stdout.write(json.dumps({"outcomes": outcomes, "acknowledged": acknowledged}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
