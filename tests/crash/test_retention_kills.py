"""Removing, killed: a prune before and after each of its writes, a vacuum at each of its steps; both repeated."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventflow.change import Op
from eventflow.clock import ManualClock
from eventflow.codec import state_digest
from eventflow.event import Failure, RunFailed, Transitioned
from eventflow.log import LmdbLog, Log, Query, Write
from eventflow.log.lmdb import files
from eventflow.log.removal import STEP
from eventflow.recovery import recover
from eventflow.retention import RetentionPolicy, prune, sweep
from eventflow.sealing import leaves
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import MOVE
from eventflow.verification import verify_store

Fork = Callable[[Callable[[], object]], Any]
SHARED = "a text that two runs share " * 60
STEPS_OF_A_VACUUM = (
    "begun", "directory made", "copied", "brought over", "complete", "said so", "moved", "removed",
)  # fmt: skip


def text(value: str) -> Transitioned:
    """A fact with a text that is kept once."""
    return Transitioned("a", "a", change=(Op("set", ("x",), value),))


def filled(path: Path) -> dict[str, bytes]:
    """A store with a run that stays, its fork, and two that go, one of them long; the states of those that stay."""
    with closing(LmdbLog(path)) as log:
        author = Author(log)
        stays = author.add(author.start("stays"), text(SHARED), text("mine " * 400))
        author.add(stays, MOVE, vouch=author.snapshot(stays))
        author.fork(stays, 2, "fork")
        for name in ("goes", "long"):
            head = author.add(author.start(name), text(SHARED), text(f"{name} " * 400))
            head = author.add(head, MOVE, vouch=author.snapshot(head))
            while name == "long" and head.version < STEP + 50:
                head = author.add(head, *([MOVE] * 200))
            author.add(head, RunFailed("a", Failure("E", "it broke")), status="failed")
        return {name: state_digest(recover(log, log.head(name)).state) for name in ("stays", "fork")}  # type: ignore[arg-type]


def check(path: Path, states: dict[str, bytes], digests: Sequence[bytes]) -> None:
    """The store opens, what stays is what it was, every digest is there, and somebody may go on."""
    with closing(LmdbLog(path)) as log:
        for name, expected in states.items():
            head = log.head(name)
            assert head is not None
            for snapshots in (True, False):
                assert state_digest(recover(log, head, snapshots=snapshots).state) == expected
        *_, report = verify_store(log)
        assert [one for one in report.findings if "definition" not in one.problem] == []
        assert list(leaves(log))[: len(digests)] == list(digests)


class Mortal:
    """A log whose process ends before or after a certain write of it."""

    def __init__(self, log: Log, at: int) -> None:
        self._log, self._left = log, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def write(self, batch: Sequence[Write]) -> Any:
        """Write, or die; odd numbers before a write, even ones after it."""
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        answers = self._log.write(batch)
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        return answers


def pruned(log: Log) -> None:
    """What is killed: everything that failed goes."""
    prune(log, RetentionPolicy(keep=0, statuses=("failed",)), clock=ManualClock(time.time_ns(), seed=os.getpid()))


def test_a_prune_may_be_killed_at_each_of_its_writes(tmp_path: Path, fork: Fork) -> None:
    """The store is sound each time, and the prune that is repeated ends as one that was never killed."""
    at, killed = 1, True
    while killed:
        path = tmp_path / f"store-{at}"
        states = filled(path)
        with closing(LmdbLog(path, readonly=True)) as log:
            digests = list(leaves(log))

        def work(path: Path = path, at: int = at) -> None:
            pruned(Mortal(LmdbLog(path), at))  # type: ignore[arg-type]

        one = fork(work)
        assert one.end() == ""
        killed = os.WIFSIGNALED(one.status)
        check(path, states, digests)
        with closing(LmdbLog(path)) as log:
            pruned(log)
            sweep(log)
            assert sorted(one.head.run_id for one in log.runs(Query())) == ["fork", "stays"]
            assert len(log.blob_names(b"", 99)) == 2
        check(path, states, digests)
        at += 1
    assert at > 12


@pytest.mark.parametrize("step", STEPS_OF_A_VACUUM)
def test_a_vacuum_may_be_killed_at_each_of_its_steps(tmp_path: Path, fork: Fork, step: str) -> None:
    """Nothing is lost, whoever opens the store goes on in it, and a vacuum that is repeated leaves one file."""
    path = tmp_path / "store"
    states = filled(path)
    with closing(LmdbLog(path, readonly=True)) as log:
        digests = list(leaves(log))

    def work() -> None:
        log = LmdbLog(path)
        owner = os.urandom(16)
        log.new_owner(owner)
        author, head = Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid())), None

        def say(what: str) -> None:
            nonlocal head
            if what in ("begun", "copied"):
                head = author.add(head, MOVE) if head else author.start("beside")
            if what == step:
                os.kill(os.getpid(), signal.SIGKILL)

        log.vacuum(owner, say=say)

    one = fork(work)
    assert one.end() == ""
    assert os.WIFSIGNALED(one.status)
    with closing(LmdbLog(path, readonly=True)) as log:
        beside = log.head("beside")
        assert beside is not None
    check(path, states, digests)
    with closing(LmdbLog(path)) as log:
        author = Author(log, clock=ManualClock(time.time_ns(), seed=1))
        assert author.add(beside, MOVE).version == beside.version + 1
        owner = os.urandom(16)
        end = log.new_owner(owner)
        log.vacuum(owner)
        end()
        assert author.add(log.head("beside") or beside, MOVE).version == beside.version + 2
    assert len(files.numbers(path)) == 1
    check(path, states, digests)


def test_runs_that_go_on_throughout_vacuums_lose_nothing(tmp_path: Path, fork: Fork) -> None:
    """Two processes append, one reads, while the store moves again and again; every acknowledged version is there."""
    path = tmp_path / "store"
    states = filled(path)
    done = tmp_path / "done"

    def drive(name: str) -> Callable[[], None]:
        def work() -> None:
            with closing(LmdbLog(path)) as log:
                author = Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid()))
                head, count = author.start(name), 1
                while not done.exists():
                    head = author.add(head, text(f"{name} {count} " * 200))
                    count += 1
                    assert head.version == count
                    (tmp_path / name).write_text(str(count))

        return work

    def read() -> None:
        with closing(LmdbLog(path, readonly=True)) as log:
            seen = 0
            while not done.exists():
                now = log.position()
                assert now >= seen
                assert log.feed(now - 1, 1)[0].position == now
                seen = now

    working = [fork(drive("one")), fork(drive("two")), fork(read)]
    with closing(LmdbLog(path)) as log:
        while not ((tmp_path / "one").exists() and (tmp_path / "two").exists()):
            time.sleep(0.01)
        for _ in range(4):
            owner = os.urandom(16)
            end = log.new_owner(owner)
            log.vacuum(owner)
            end()
        done.touch()
        assert [one.end() for one in working] == ["", "", ""]
        assert path.joinpath("CURRENT").read_text() == "data.5\n"
        assert files.numbers(path) == [5]
        for name in ("one", "two"):
            head = log.head(name)
            assert head is not None
            assert head.version == int((tmp_path / name).read_text())
            assert recover(log, head).state.version == head.version
    check(path, states, [])


def test_a_vacuum_gives_the_space_back(tmp_path: Path) -> None:
    """What a prune has left free is no part of the file any more, though others have the store open."""
    path = tmp_path / "store"
    with closing(LmdbLog(path)) as log, closing(LmdbLog(path, readonly=True)) as beside:
        author = Author(log)
        head = author.start("r")
        for _ in range(40):
            head = author.add(head, Transitioned("a", "a", change=(Op("set", ("x",), os.urandom(50_000)),)))
        author.add(head, RunFailed("a", Failure("E", "it broke")), status="failed")
        before = (path / "data.1" / "data.mdb").stat().st_size
        pruned(log)
        owner = os.urandom(16)
        end = log.new_owner(owner)
        done = log.vacuum(owner)
        end()
        assert beside.head("r") is None
        assert done.after < before / 10
        assert (path / "data.2" / "data.mdb").stat().st_size < before / 10
        seen = beside.change_mark()
        written(log, author.first("s"))
        assert beside.change_mark() != seen
        assert beside.head("s") is not None
