"""Owners: a lease is free when nobody holds its owner's lock."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventflow.errors import RunOwned
from eventflow.event import Transitioned
from eventflow.log import NOBODY, Appended, LmdbLog
from eventflow.log.owners import new_owner, owner_gone, owner_pid, sweep
from eventflow.testing.author import Author

MOVE = Transitioned("a", "a")
OWNER, OTHER = b"o" * 16, b"p" * 16
Start = Callable[[Callable[..., object]], Any]


def test_an_owner_lives_until_it_is_ended(tmp_path: Path) -> None:
    """Its file goes with it; ending it twice is no error."""
    end = new_owner(tmp_path, OWNER)
    assert not owner_gone(tmp_path, OWNER)
    assert owner_pid(tmp_path, OWNER) == str(os.getpid())
    end()
    end()
    assert owner_gone(tmp_path, OWNER)
    assert list(tmp_path.iterdir()) == []
    assert owner_pid(tmp_path, OWNER) == ""


def test_nobody_is_always_gone(tmp_path: Path) -> None:
    """The owner of a free run, and one that no file speaks of, hold nothing."""
    assert owner_gone(tmp_path, NOBODY)
    assert owner_gone(tmp_path, OTHER)
    assert owner_gone(tmp_path / "not there", OTHER)


def test_a_name_serves_one_owner(tmp_path: Path) -> None:
    """Registering a name that is in use is an error, and the first owner keeps it."""
    new_owner(tmp_path, OWNER)
    with pytest.raises(FileExistsError):
        new_owner(tmp_path, OWNER)
    assert not owner_gone(tmp_path, OWNER)


def test_an_owner_lives_though_its_end_is_forgotten(tmp_path: Path) -> None:
    """It holds for the life of the process, not of some object."""
    new_owner(tmp_path, OWNER)
    assert not owner_gone(tmp_path, OWNER)
    new_owner(tmp_path, OTHER)
    assert not owner_gone(tmp_path, OWNER)


def test_a_killed_process_frees_what_it_owned(tmp_path: Path, child: Start) -> None:
    """While it lives, or only stands still, its run is not taken; after kill -9 it is, with a new epoch."""
    path = tmp_path / "store"

    def work(say: Callable[[str], None]) -> None:
        log = LmdbLog(path)
        log.new_owner(OWNER)
        Author(log).start("r", claim=OWNER)
        say("owned")
        time.sleep(30)

    owner = child(work)
    assert owner.line() == "owned"
    log = LmdbLog(path)
    log.new_owner(OTHER)
    author, head = Author(log), log.head("r")
    assert head is not None
    owner.kill(signal.SIGSTOP)
    assert isinstance(log.write([author.then(head, MOVE, claim=OTHER)])[0], RunOwned)
    owner.kill(signal.SIGKILL)
    owner.end()
    [taken] = log.write([author.then(head, MOVE, claim=OTHER)])
    assert isinstance(taken, Appended)
    assert (taken.head.epoch, taken.head.owner) == (2, OTHER)
    log.close()


def test_a_forked_child_does_not_keep_its_parents_lease(tmp_path: Path, child: Start) -> None:
    """The parent is killed, its child lives on: the lease is free."""

    def work(say: Callable[[str], None]) -> None:
        new_owner(tmp_path, OWNER)
        if not os.fork():
            say(str(os.getpid()))
        time.sleep(30)

    parent = child(work)
    grandchild = int(parent.line())
    assert not owner_gone(tmp_path, OWNER)
    parent.kill()
    parent.end()
    try:
        assert owner_gone(tmp_path, OWNER)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_child_that_ends_does_not_end_its_parents_lease(tmp_path: Path, child: Start) -> None:
    """Forked or started as a program, with or without its descriptors closed."""
    new_owner(tmp_path, OWNER)
    assert child(lambda: "ended").answer() == "ended"
    subprocess.run([sys.executable, "-c", ""], check=True, close_fds=False)
    assert not owner_gone(tmp_path, OWNER)


def test_a_program_does_not_inherit_the_lease(tmp_path: Path, child: Start) -> None:
    """A program started with close_fds=False that outlives its starter does not keep the lease."""

    def work(say: Callable[[str], None]) -> None:
        new_owner(tmp_path, OWNER)
        program = subprocess.Popen(["/bin/sleep", "30"], close_fds=False)
        say(str(program.pid))
        time.sleep(30)

    starter = child(work)
    program = int(starter.line())
    starter.kill()
    starter.end()
    try:
        assert owner_gone(tmp_path, OWNER)
    finally:
        os.kill(program, signal.SIGKILL)


def test_a_sweep_removes_the_gone_and_spares_the_living(tmp_path: Path) -> None:
    """What is not an owner's file is left alone too."""
    new_owner(tmp_path, OWNER)
    (tmp_path / OTHER.hex()).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ("z" * 32)).mkdir()
    sweep(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([OWNER.hex(), "notes.txt", "z" * 32])


def test_opening_a_store_sweeps_its_owners(tmp_path: Path) -> None:
    """Whoever opens it to write removes the files of owners that are gone; who opens it to read does not."""
    LmdbLog(tmp_path / "store").close()
    left = tmp_path / "store" / "owners" / OTHER.hex()
    left.touch()
    LmdbLog(tmp_path / "store", readonly=True).close()
    assert left.exists()
    LmdbLog(tmp_path / "store").close()
    assert not left.exists()


def test_looking_at_an_owner_does_not_make_it_look_alive(tmp_path: Path) -> None:
    """Two who ask at the same time about one that is gone both hear so."""
    (tmp_path / OWNER.hex()).touch()
    looking = os.open(tmp_path / OWNER.hex(), os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert owner_gone(tmp_path, OWNER)
    os.close(looking)


def test_owners_that_come_while_others_sweep_stay_alive(tmp_path: Path) -> None:
    """A sweep never removes the file of an owner that has been registered."""
    done = threading.Event()

    def sweeping() -> None:
        while not done.is_set():
            sweep(tmp_path)

    threads = [threading.Thread(target=sweeping) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(300):
            name = number.to_bytes(16, "big")
            end = new_owner(tmp_path, name) if number else new_owner(tmp_path, OWNER)
            assert not owner_gone(tmp_path, name if number else OWNER)
            if number % 3:
                end()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(list(tmp_path.iterdir())) == 100
