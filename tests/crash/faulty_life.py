"""A store's life on a disk that fails on demand: `LD_PRELOAD=iofault.so python faulty_life.py PLACE`, cases on stdin.

A case is a line `first last how error`, or `memory first many`; each is lived in a forked child, and what is left is judged
here, with a disk that works. What came of it is a JSON line on stdout.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from powercut.disk import Known
from powercut.judge import MOVE, faults
from powercut.load import LONG, Witnessed, vacuum

from eventflow.backup import backup
from eventflow.change import Op
from eventflow.checkpoint import Checkpoint
from eventflow.clock import ManualClock, SystemClock
from eventflow.errors import EventflowError, StoreUnusable
from eventflow.event import Failure, RunFailed, Transitioned
from eventflow.log import LmdbLog, Upkeep
from eventflow.retention import RetentionPolicy, prune, sweep
from eventflow.testing.author import Author, written

TRIES = 3  # of a step: as it was, with the store opened again, and once more
ANYTHING = (1, 1 << 40)


def text(value: str) -> Transitioned:
    """A fact with a text that is kept once."""
    return Transitioned("a", "a", change=(Op("set", ("x",), value),))


class Life:
    """A store, opened again after what it can't go on from, and what each step met."""

    def __init__(self, place: Path, witness: Path, mend: Callable[[], None]) -> None:
        self.place, self.witness, self._mend = place, witness, mend
        self.met: list[str] = []  # errors by name
        self.wrong: list[str] = []  # what should not have been
        self.log: Witnessed | None = None
        self.step = 0
        self.clock = ManualClock(time.time_ns(), seed=os.getpid())
        self.steps = [
            self._open, lambda: self._run("r"), lambda: self._run("failed", fails=True), self._snapshot, self._fork,
            self._prune, lambda: vacuum(self.log), self._backup, lambda: self._run("late"), self._close,
        ]  # fmt: skip

    def live(self) -> None:
        """Every step, tried again after an error; a disk that fails for good is mended after the first."""
        for number, step in enumerate(self.steps):
            self.step = number
            for left in reversed(range(TRIES)):
                try:
                    step()
                    break
                except StoreUnusable as error:
                    self._met(error)
                except EventflowError as error:  # a conflict with what was done after all is an answer
                    self.met.append(type(error).__name__)
                    break
                if not left:
                    self.wrong.append(f"step {number} never worked: {self.met[-1]}")
                elif left == 1:
                    self._reopen()

    def _met(self, error: StoreUnusable) -> None:
        self.met.append(type(error).__name__)
        self._mend()
        if self.log is None:
            return
        try:
            self.log.feed(0, 99)
        except StoreUnusable as unread:
            self.wrong.append(f"reads do not go on: {unread}")

    def _reopen(self) -> None:
        if self.log is not None:
            self.met.append("opened again")
            with contextlib.suppress(OSError):
                self.log.close()
            self.log = None
            self._open()

    # --- steps; each may be done again

    def _open(self) -> None:
        if self.log is None:
            self.log = Witnessed(LmdbLog(self.place / "store"), self.witness)

    def _author(self) -> Author:
        return Author(self.log, clock=self.clock)

    def _run(self, name: str, *, fails: bool = False) -> None:
        author = self._author()
        head = self.log.head(name) or author.start(name)
        while head.version < 6:
            head = author.add(head, text(f"{LONG} {head.version}"))
        if fails and head.status != "failed":
            author.add(head, RunFailed("a", Failure("E", "it broke")), status="failed")

    def _snapshot(self) -> None:
        author, head = self._author(), self.log.head("r")
        vouch = author.snapshot(head)
        head = author.add(head, MOVE, vouch=vouch)
        written(self.log, Upkeep(head.run_key, marks=(Checkpoint(head.version, ("auto",), self.clock.now()),)))

    def _fork(self) -> None:
        if self.log.head("fork") is None:
            self._author().fork(self.log.head("r"), 3, "fork")

    def _prune(self) -> None:
        prune(self.log, RetentionPolicy(keep=0, statuses=("failed",)), clock=SystemClock())
        sweep(self.log)

    def _backup(self) -> None:
        backup(self.place / "store", self.place / "backup")

    def _close(self) -> None:
        if self.log is not None:
            self.log.close()


class Shim:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)

    def arm(self, place: Path, words: list[str]) -> None:
        if words[0] == "memory":
            self._library.iofault_arm_memory(ctypes.c_long(int(words[1])), ctypes.c_long(int(words[2])))
            return
        first, last, how, error = words
        number = int(error) if error.isdecimal() else getattr(errno, error)
        self._library.iofault_arm(
            str(place).encode(), ctypes.c_long(int(first)), ctypes.c_long(int(last)), int(how), int(number)
        )

    def disarm(self) -> None:
        self._library.iofault_arm(b"", ctypes.c_long(0), ctypes.c_long(0), 0, 0)
        self._library.iofault_arm_memory(ctypes.c_long(0), ctypes.c_long(0))

    def seen(self) -> list[int]:
        """Calls and allocations since it was armed."""
        return [self._library.iofault_seen(), self._library.iofault_allocations()]


def lived(shim: Shim, place: Path, words: list[str]) -> dict:
    """One case: a life in a child, then a look at what it left."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "disk").mkdir(parents=True)
    witness, said = place / "witness", place / "said"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            mend = shim.disarm if "memory" not in words and int(words[1]) > int(words[0]) else lambda: None
            life = Life(place / "disk", witness, mend)
            shim.arm(place / "disk", words)
            try:
                life.live()
            except BaseException as error:  # noqa: BLE001 - what it is, is told
                life.wrong.append(f"step {life.step}: {type(error).__name__}: {error}")
            seen = shim.seen()
            shim.disarm()
            said.write_text(json.dumps({"met": life.met, "wrong": life.wrong, "seen": seen}))
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    found = json.loads(said.read_text()) if said.exists() else {"met": [], "wrong": [], "seen": [0, 0]}
    known, digests = Known(), {}
    for line in witness.read_text().splitlines() if witness.exists() else []:
        known.hear(json.loads(line))
        digests |= {(run, version): digest for run, version, digest in json.loads(line).get("told", ())}
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {**found, "killed": killed, "left": faults(place / "disk" / "store", known, digests, {})}


def main(place: Path) -> None:
    """Live each case that stdin names."""
    shim = Shim()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(lived(shim, place, line.split())) + "\n")
        sys.stdout.flush()
    shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
