"""SIGKILL of one, two and eight writers of a store at once, and of those who tidy it up meanwhile, at random moments.

The witness is a file; a line in it is one system call. After each kill the store opens, and no run is behind what was
acknowledged of it, nor further than what was begun. The control acknowledges before it has written.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from powercut.disk import Known
from powercut.judge import MOVE, faults
from powercut.load import LONG, Witnessed, vacuum

from eventflow.change import Op
from eventflow.clock import ManualClock, SystemClock
from eventflow.errors import Conflict, StoreBusy
from eventflow.event import Failure, RunFailed, Transitioned
from eventflow.log import LmdbLog, Upkeep
from eventflow.log.lmdb import environment, files
from eventflow.retention import RetentionPolicy, prune, sweep
from eventflow.testing.author import Author, written

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
LONGEST = 0.03  # seconds that children live beside what they need to begin
CYCLES_OF_A_STORE = 20  # then a new one: what is verified shall not grow
WHOLE = 5  # one in so many kills is followed by a verification of everything
# Processes, threads of each, and how many kills.
SHAPES = {(1, 1): (15, 400), (2, 1): (10, 250), (8, 1): (5, 200), (2, 4): (5, 150)}
OTHER = (5, 250)  # kills of each shape with the other engine
TIDYING = (10, 250)
CONTROL = 60  # kills within which an early acknowledgement must be found out


class Early(Witnessed):
    """The control: tells that it has written before it does."""

    def write(self, batch):
        for one in batch:
            self.tell(told=[[one.run_id, one.expected + len(one.events), ""]], begun=[[one.run_id, 1 << 60]])
        time.sleep(0.002)
        return self._log.write(batch)


@dataclass
class Campaign:
    """A store under writers that are killed again and again."""

    path: Path
    known: Known = field(default_factory=Known)
    digests: dict[tuple[str, int], str] = field(default_factory=dict)
    heard: int = 0

    def kill(self, fork, works: list[Callable[[], object]], seconds: float) -> None:
        """Let children work until the first has had its say, and then for some time; kill them all."""
        children = [fork(work) for work in works]
        deadline = time.monotonic() + 20
        while not self._told():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(seconds)
        for child in children:
            child.kill()
        assert [child.end() for child in children] == [""] * len(children)
        assert {child.status for child in children} == {signal.SIGKILL}
        self._listen()

    def _told(self) -> bool:
        """Whether something has been acknowledged that was not heard yet."""
        witness = self.path / "witness"
        if not witness.exists():
            return False
        with witness.open("rb") as lines:
            lines.seek(self.heard)
            return b'"told": [[' in lines.read()

    def _listen(self) -> None:
        with (self.path / "witness").open("rb") as witness:
            witness.seek(self.heard)
            for heard in filter(None, map(_said, witness)):
                self.known.hear(heard)
                self.digests |= {(run, version): digest for run, version, digest in heard.get("told", ()) if digest}
            self.heard = witness.tell()

    def faults(self, *, whole: bool) -> str:
        return faults(self.path / "store", self.known, self.digests, {}, whole=whole)


def _said(line: bytes) -> dict[str, Any]:
    """What a line says. One that a kill has cut off says nothing, and the next writer's may stand behind it."""
    for found in re.finditer(rb'\{"[a-z]', line):
        with contextlib.suppress(json.JSONDecodeError):
            return dict(json.loads(line[found.start() :]))
    assert not line.endswith(b"}\n"), line
    return {}


def test_a_line_that_a_kill_has_cut_off_says_nothing():
    """What stands behind it is heard; a whole line that can't be read is none that a kill explains."""
    assert _said(b'{"told": [["r", 1, "ab') == {}
    assert _said(b'{"told": [["r{"begun": [["r", 2]], "marks": {}}\n') == {"begun": [["r", 2]], "marks": {}}
    with pytest.raises(AssertionError):
        _said(b'{"told" [["r", 1]]}\n')


def writing(path: Path, threads: int, log_of=Witnessed) -> Callable[[], None]:
    """What a child does: threads that each append to a run of their own."""

    def append(log: Witnessed, name: str) -> None:
        author = Author(log, clock=ManualClock(time.time_ns(), seed=hash(name)))
        head = author.start(name)
        while True:
            head = author.add(head, MOVE, *([_text(f"{LONG} {head.version}")] if head.version % 7 == 0 else []))

    def work() -> None:
        log = log_of(LmdbLog(path / "store"), path / "witness")
        names = [f"r{os.getpid()}-{number}" for number in range(threads)]
        started = [threading.Thread(target=append, args=(log, name)) for name in names[1:]]
        for one in started:
            one.start()
        append(log, names[0])

    return work


def _text(value: str) -> Transitioned:
    return Transitioned("a", "a", change=(Op("set", ("x",), value),))


def tidying(path: Path) -> Callable[[], None]:
    """What a child does that makes runs which fail, and snapshots, and removes them, and moves the store."""

    def work() -> None:
        log = Witnessed(LmdbLog(path / "store"), path / "witness")
        author = Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid()))
        for turn in range(1_000):
            head = author.start(f"gone{os.getpid()}-{turn}")
            head = author.add(head, _text(f"{LONG} {turn}"), vouch=author.snapshot(head))
            author.snapshot(head)
            written(log, Upkeep(head.run_key, drop=(1,)))
            author.add(head, RunFailed("a", Failure("E", "it broke")), status="failed")
            try:
                prune(log, RetentionPolicy(keep=0, statuses=("failed",)), clock=SystemClock())
                sweep(log)
                vacuum(log)
            except (Conflict, StoreBusy):  # another one does it at this moment
                continue

    return work


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]} processes of {shape[1]} threads")
def test_writers_that_are_killed_together_lose_nothing(tmp_path, fork, shape, record_property):
    """Acknowledged events are there; of what was not acknowledged there is at most what each writer was writing."""
    processes, threads = shape
    cycles = SHAPES[shape][FULL]
    told = _cycles(tmp_path, cycles, lambda path: [writing(path, threads)] * processes, fork)
    record_property(
        "figures", f"{cycles} kills of {processes} x {threads} writers, {told:,} events acknowledged: 0 lost"
    )


@pytest.fixture
def other_engine(monkeypatch) -> None:
    """Stores of LMDB 1.0, which py-lmdb brings too: its meta pages have 8 bytes more in front, and another version."""
    library = vars(environment)["lmdb"]
    opened, read = library.open, files._meta
    monkeypatch.setattr(library, "open", lambda path, **how: opened(path, **{**how, "lib_version": 1}))

    def as_older(page: bytes, path: Path) -> tuple[int, int, int]:
        assert page[24:28] == b"\xde\xc0\xef\xbe", "a store of the other engine was not made by it"
        return read(page[8:28] + (1).to_bytes(4, "little") + page[32:], path)

    monkeypatch.setattr(files, "_meta", as_older)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.usefixtures("other_engine")
def test_with_the_other_engine_they_lose_nothing_either(tmp_path, fork, processes, record_property):
    """What holds is not owed to one version of LMDB, though stores are only ever made with one."""
    cycles = OTHER[FULL]
    told = _cycles(tmp_path, cycles, lambda path: [writing(path, 1)] * processes, fork)
    record_property(
        "figures", f"LMDB 1.0: {cycles} kills of {processes} x 1 writers, {told:,} events acknowledged: 0 lost"
    )


@pytest.mark.slow
def test_who_tidies_up_may_be_killed_with_who_writes(tmp_path, fork, record_property):
    """Snapshots dropped, runs pruned, blobs swept and the store moved: killed anywhere in it, everything is there."""
    cycles = TIDYING[FULL]
    told = _cycles(tmp_path, cycles, lambda path: [writing(path, 1), tidying(path)], fork)
    record_property(
        "figures", f"{cycles} kills of a writer and of prune, sweep and vacuum, {told:,} events acknowledged: 0 lost"
    )


def _cycles(tmp_path: Path, cycles: int, works, fork) -> int:
    seed = random.randrange(2**32)  # noqa: S311
    chance, told = random.Random(seed), 0  # noqa: S311
    for number in range(cycles):
        if number % CYCLES_OF_A_STORE == 0:
            campaign = Campaign(tmp_path / str(number))
            campaign.path.mkdir()
        before = len(campaign.digests)
        campaign.kill(fork, works(campaign.path), chance.uniform(0, LONGEST))
        told += len(campaign.digests) - before
        assert campaign.faults(whole=number % WHOLE == WHOLE - 1) == "", f"seed {seed}, kill {number}"
    assert told > cycles
    return told


def test_an_acknowledgement_before_the_commit_is_found_out(tmp_path, fork, record_property):
    """The same kills of a writer that says yes too early."""
    chance = random.Random(1)  # noqa: S311
    for number in range(CONTROL):
        campaign = Campaign(tmp_path / str(number))
        campaign.path.mkdir()
        campaign.kill(fork, [writing(campaign.path, 1, Early)], chance.uniform(0, LONGEST))
        if campaign.faults(whole=False).startswith("lost: "):
            record_property("figures", f"acknowledge_before_commit: found out at kill {number + 1}")
            return
    pytest.fail("nobody noticed")
