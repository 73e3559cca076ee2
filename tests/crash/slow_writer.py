"""A writer whose disk is slow, or that is stopped while it waits for it: `LD_PRELOAD=iofault.so python slow_writer.py STORE HOW ERROR`.

It says "here" when its next commit will meet the disk, "done N" after the N-th commit since, and ends when stdin does.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from faulty_life import MOVE, Shim

from eventflow.clock import ManualClock
from eventflow.log import LmdbLog
from eventflow.testing.author import Author


def say(text: str) -> None:
    """A line for who started this."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(store: Path, how: str, error: str) -> None:
    """Begin a run, then go on with it on the disk that was asked for."""
    log = LmdbLog(store)
    author = Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid()))
    head = author.start(f"r{os.getpid()}")
    Shim().arm(store, ["1", "1" if how == "7" else str(1 << 40), how, error])
    say("here")
    for number in range(1, 4):
        head = author.add(head, MOVE)
        say(f"done {number}")
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
