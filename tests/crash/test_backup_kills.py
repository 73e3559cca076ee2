"""SIGKILL at each step on the file system of a backup, a restore, an import and a repair: repeated, each is whole.

Each operation runs in a child that kills itself at the n-th call that opens, makes, names or removes something; Python's
own audit hooks count them. At random moments it is killed from outside. Whatever lies at the goal then is whole; what does
not is no obstacle to the next try.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Engine, Workflow
from eventflow.backup import backup, read_backup, restore
from eventflow.backup.staging import SUFFIX
from eventflow.cli import build
from eventflow.cli.shell import run_app
from eventflow.errors import Conflict
from eventflow.exchange import write_sequence
from eventflow.log import LmdbLog, open_log
from eventflow.repair import repair
from eventflow.verification import verify_store

COUNTED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree")
EVERY, EVERY_FULL = 13, 1  # steps from one kill to the next
MOMENTS, MOMENTS_FULL = 2, 20  # kills at random moments
MOST = 400  # steps, more than any of these takes
FLOW = Workflow("w").add_node("a", lambda state: {"load": os.urandom(3_000)}).set_start("a")


def fill(path: Path, *ids: str) -> None:
    """Run some runs in a store."""

    async def work() -> None:
        async with Engine(path, workflows=[FLOW]) as engine:
            for one in ids:
                await (await engine.start(FLOW, {}, run_id=one)).result()

    asyncio.run(work())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store `s`, a backup `b` of it in two parts, an export `x.cborseq`."""
    fill(tmp_path / "s", "one", "two")
    backup(tmp_path / "s", tmp_path / "b")
    fill(tmp_path / "s", "three")
    backup(tmp_path / "s", tmp_path / "b", incremental=True)
    with closing(LmdbLog(tmp_path / "s", readonly=True)) as log, (tmp_path / "x.cborseq").open("wb") as file:
        write_sequence(log, file, None)
    return tmp_path


def holds(path: Path) -> int:
    """How many runs a store has; everything in it must hold."""
    with closing(LmdbLog(path, readonly=True)) as log:
        *_, report = verify_store(log)
    assert report.findings == []
    return report.runs


def whole_backup(place: Path) -> None:
    """A whole backup."""
    backup(place / "s", place / "goal")


def increment(place: Path) -> None:
    """What has changed since the backup before."""
    backup(place / "s", place / "b", incremental=True)


def restored(place: Path) -> None:
    """A restore of everything."""
    restore(place / "b", place / "goal")


def cut_back(place: Path) -> None:
    """A restore of the first two runs alone."""
    restore(place / "b", place / "goal", position=6)


def imported(place: Path) -> None:
    """An import into a new store."""
    assert (
        run_app(build(), ["store", "import", str(place / "x.cborseq"), "--into", str(place / "goal"), "-o", "jsonl"])
        == 0
    )


def imported_into(place: Path) -> None:
    """An import into a store that has runs of its own."""
    assert (
        run_app(build(), ["store", "import", str(place / "x.cborseq"), "--into", str(place / "own"), "-o", "jsonl"])
        == 0
    )


def repaired(place: Path) -> None:
    """A repair."""
    assert repair(place / "s", place / "goal").lost == ()


WORKS = [whole_backup, increment, restored, cut_back, imported, imported_into, repaired]


def die_at(step: int, work: Callable[[Path], None], place: Path) -> None:
    """Do the work, and be killed before its n-th step."""
    left = [step]

    def count(event: str, _: object) -> None:
        if event in COUNTED:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(count)  # for this child's life
    work(place)


def look(place: Path, work: Callable[[Path], None]) -> None:
    """What lies at the goal is whole, and the work can be done."""
    goal = place / "goal"
    if goal.exists():
        holds(goal)
    assert len(read_backup(place / "b").points) >= 2
    try:
        work(place)
    except Conflict:
        assert work is not increment  # it was whole already
        assert goal.exists()
    assert not list(place.glob(f"*{SUFFIX}"))
    if work is increment:
        points = read_backup(place / "b").points
        restore(place / "b", place / "r")
        assert [one.number for one in points] == list(range(1, len(points) + 1))
        assert holds(place / "r") == 3
    elif work is imported_into:
        assert holds(place / "own") == 4
    else:
        assert holds(goal) == (2 if work is cut_back else 3)


def fresh(place: Path) -> None:
    """Take away what the work before has made."""
    for name in ("goal", "own", "r", "b"):
        shutil.rmtree(place / name, ignore_errors=True)
    backup(place / "s", place / "b")
    backup(place / "s", place / "b", incremental=True)
    with closing(open_log(place / "own")):
        pass
    fill(place / "own", "mine")


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_killed_before_any_step_it_can_be_repeated(place, fork, full, work):
    """Nothing half-written is taken for whole, and nothing has to be cleared away by hand."""
    killed, step = 0, 1
    while step < MOST:
        fresh(place)
        child = fork(lambda step=step: die_at(step, work, place))
        said = child.end()
        assert said == "", said
        if not os.WIFSIGNALED(child.status):
            break
        killed += 1
        look(place, work)
        step += EVERY_FULL if full else EVERY
    assert killed >= (10 if full else 1)
    assert step < MOST


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_killed_at_any_moment_it_can_be_repeated(place, fork, full, work):
    """The same, from outside, and with everything Python does in between."""
    fresh(place)
    began = time.monotonic()
    assert fork(lambda: die_at(0, work, place)).end() == ""
    usual = time.monotonic() - began
    chance = random.Random(1)  # noqa: S311 - a seed that can be repeated
    for _ in range(MOMENTS_FULL if full else MOMENTS):
        fresh(place)
        child = fork(lambda: die_at(0, work, place))
        time.sleep(chance.random() * usual)
        child.kill()
        child.end()
        look(place, work)
