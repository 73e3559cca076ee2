"""Rotation and shredding killed in the middle: at every moment all keys open, and doing it again finishes it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventflow import Engine, Keyring, Workflow
from eventflow.cipher import master_from_file, new_master
from eventflow.clock import SystemClock
from eventflow.errors import EventflowError
from eventflow.log import open_log
from eventflow.recovery import recover
from eventflow.shredding import finish, locked_log
from eventflow.verification import verify_store

ROOT = Path(__file__).parents[2]
SUBJECTS = 6
# Files are written, linked, renamed, synced and removed in these calls; a child dies right before its n-th.
DIES = """
import os, signal, sys
left = int(sys.argv.pop(1))
def counted(call):
    def called(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return called
for name in ("fsync", "link", "rename", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
from eventflow.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def store(tmp_path):
    """A store with a run for each of some subjects."""
    new_master(tmp_path / "old"), new_master(tmp_path / "new")
    flow = Workflow("f").add_node("a", lambda state: {"n": state["n"] + 1}).set_start("a")

    async def fill():
        async with Engine(tmp_path / "s", workflows=[flow], keys=Keyring.from_file(tmp_path / "old")) as engine:
            for number in range(SUBJECTS):
                await (await engine.start(flow, {"n": number}, run_id=f"r{number}", subject=f"s{number}")).result()

    asyncio.run(fill())
    return tmp_path / "s"


def killed_at(store, moment, *argv):
    """The command line, killed right before its n-th change to a file; whether it came so far."""
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(moment), *argv, "--store", str(store)], capture_output=True, text=True, check=False,
        cwd=store.parent, env={**os.environ, "PYTHONPATH": str(ROOT), "EVENTFLOW_KEY_FILE": f"{store.parent / 'old'}"},
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == -signal.SIGKILL


def values(store, *keys):
    """What each run came to, None where it can't be read."""
    log = open_log(store, readonly=True, keys=Keyring(*map(master_from_file, keys)))
    found = []
    for number in range(SUBJECTS):
        try:
            found.append(recover(log, log.head(f"r{number}")).state.data["n"])
        except EventflowError:
            found.append(None)
    assert list(verify_store(log))[-1].sound
    log.close()
    return found


def moments():
    """Where to kill: every one in the full size, a few else."""
    return range(40) if os.environ.get("EVENTFLOW_FULL") else (1, 9, 18)


def test_a_rotation_can_be_killed_anywhere_and_repeated(store):
    """With both master keys everything opens at each moment; the last repetition leaves the new one alone in use."""
    old, new = store.parent / "old", store.parent / "new"
    for moment in moments():
        killed = killed_at(store, moment, "store", "keys", "rotate", str(new))
        assert values(store, old, new) == list(range(1, SUBJECTS + 1))
        if not killed:
            break
    assert not killed_at(store, 10_000, "store", "keys", "rotate", str(new))
    assert values(store, new) == list(range(1, SUBJECTS + 1))


def test_a_shredding_can_be_killed_anywhere_and_repeated(store):
    """The key is whole or gone, never half; whatever was begun is finished by the next, and told."""
    old = store.parent / "old"
    for number, moment in enumerate((0, 1, 2, 3, 5, 8) if os.environ.get("EVENTFLOW_FULL") else (0, 2, 5)):
        killed_at(store, moment, "store", "keys", "shred", f"s{number}", "--yes")
        log = locked_log(open_log(store, keys=Keyring.from_file(old)))
        finish(log, SystemClock())
        gone = not any(one.key.name == f"s{number}" for one in log.keys.listed())
        assert log.keys.shelf.half_destroyed() == []
        assert all(log.is_shredded(log.key_id(log.inner.head(f"r{number}").run_key)) for _ in range(gone))
        log.close()
        expected = values(store, old)[number]
        assert (expected is None) == gone
