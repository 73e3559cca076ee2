"""Who may read what: modes under any umask, links, other users, and descriptors that programs inherit."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import sys

import pytest

from eventflow import Engine, Keyring, Workflow
from eventflow.backup import backup, restore
from eventflow.cipher import new_master
from eventflow.errors import StoreUnusable
from eventflow.log import open_log
from eventflow.repair import repair

FLOW = Workflow("f").add_node("a", lambda state: {"x": 1}).set_start("a")


@pytest.fixture
def umask(request):
    """The process's umask, put back afterwards."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def _run(place):
    if not (place / "m").exists():
        new_master(place / "m")
    async with Engine(place / "s", workflows=[FLOW], keys=Keyring.from_file(place / "m")) as engine:
        await (await engine.start(FLOW, {"x": 0}, subject="s")).result()
        return {path: stat.S_IMODE(path.lstat().st_mode) for path in [*place.rglob("*")]}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], indirect=True, ids=oct)
def test_a_store_and_its_keys_are_private_under_any_umask(tmp_path, umask):
    """Directories 0700, files 0600, those of owners and keys included; opened again they are so still."""
    for modes in (asyncio.run(_run(tmp_path)), asyncio.run(_run(tmp_path))):
        assert len(modes) > 10
        for path, mode in modes.items():
            assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


async def _run_plainly(path):
    async with Engine(path, workflows=[FLOW]) as engine:
        await (await engine.start(FLOW, {"x": 0})).result()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], indirect=True, ids=oct)
def test_everything_that_commands_write_is_private(tmp_path, umask, run_eventflow, monkeypatch):
    """Backups and increments, restored, imported and repaired stores, exports, keys, seals, and the file of a vacuum."""
    asyncio.run(_run(tmp_path))
    asyncio.run(_run_plainly(tmp_path / "p"))
    for words in (
        ["backup", tmp_path / "b"],
        ["backup", tmp_path / "b", "--incremental", "--with-keys"],
        ["restore", tmp_path / "b", tmp_path / "r"],
        ["export", tmp_path / "e.cborseq"],
        ["import", tmp_path / "e.cborseq", "--into", tmp_path / "i"],
        ["repair", tmp_path / "p", tmp_path / "f"],
        ["keygen", tmp_path / "key", "--name", "k"],
        ["seal", "--key", tmp_path / "key"],
        ["vacuum"],
    ):
        monkeypatch.setenv("EVENTFLOW_STORE", str(tmp_path / ("p" if words[0] == "export" else "s")))  # s is encrypted
        ended = run_eventflow("store", *words)
        assert ended.code == 0, (words, ended.err)
    found = {path: stat.S_IMODE(path.lstat().st_mode) for path in tmp_path.rglob("*")}
    assert {path.name for path in found} >= {"data.2", "e.cborseq", "key", "seals", "b", "r", "i", "f", "BACKUP"}
    for path, mode in found.items():
        assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))


def test_another_user_makes_a_store_under_a_umask_that_forbids_everything(tmp_path, child):
    """Root may read what it may not; so a child without its rights makes one, and opens it again."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    asyncio.run(_run(tmp_path))  # what is loaded now needs no reading later
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65_534, 65_534)

    def make():
        os.setgid(65_534)
        os.setuid(65_534)
        os.umask(0o777)
        for _ in range(2):
            log = open_log(tmp_path / "theirs" / "s")
            log.close()
        return "made"

    assert child(make).answer() == "made"


def test_another_user_makes_backups_under_a_umask_that_forbids_everything(tmp_path, child):
    """A whole one, an increment, what is put together of them, and a store without its free pages."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    asyncio.run(_run(tmp_path))
    backup(tmp_path / "s", tmp_path / "b", keys=True)  # what is loaded now needs no reading later
    restore(tmp_path / "b", tmp_path / "r")
    repair(tmp_path / "r", tmp_path / "f")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65_534, 65_534)

    def make():
        os.setgid(65_534)
        os.setuid(65_534)
        os.umask(0o777)
        log = open_log(theirs / "s")
        for incremental in (False, True):
            backup(log, theirs / "b", incremental=incremental, keys=True)
        end = log.new_owner(owner := os.urandom(16))
        log.vacuum(owner)
        end()
        log.close()
        restore(theirs / "b", theirs / "r")
        repair(theirs / "r", theirs / "f")
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in theirs.rglob("*")}
        return [(path, oct(mode)) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)]

    assert child(make).answer() == "[]"


@pytest.mark.parametrize("name", ["CURRENT", "data.1", "data.1/data.mdb", "data.1/mark", "keys"])
def test_no_link_in_a_store_is_followed(tmp_path, name):
    """Neither to read nor to write: whoever can place one could have us read or fill another file."""
    asyncio.run(_run(tmp_path))
    place = tmp_path / "s" / name
    shutil.move(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    for readonly in (True, False):
        with pytest.raises(StoreUnusable, match="link"):
            open_log(tmp_path / "s", readonly=readonly)


def test_a_store_of_another_user_is_refused(tmp_path, child):
    """A child without root's rights meets one that is not its own."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    asyncio.run(_run(tmp_path))
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    for path in ((tmp_path / "s"), *(tmp_path / "s").rglob("*")):
        path.chmod(0o755)
    os.chown(tmp_path / "s", 12_345, 12_345)

    def look():
        os.setgid(65_534)
        os.setuid(65_534)
        with pytest.raises(StoreUnusable) as told:
            open_log(tmp_path / "s", readonly=True)
        return str(told.value)

    assert "another user" in child(look).answer()


def test_a_program_that_is_started_inherits_no_file_of_a_store(tmp_path):
    """Not even one that is told to keep all descriptors open."""

    async def ask():
        async with Engine(tmp_path / "s", workflows=[FLOW]) as engine:
            await (await engine.start(FLOW, {"x": 0})).result()
            seen = "import os; print([os.readlink(f'/proc/self/fd/{one}') for one in os.listdir('/proc/self/fd')])"
            seen = seen.replace("os.readlink", "(lambda p: os.readlink(p) if os.path.lexists(p) else '')")
            return subprocess.run(  # noqa: ASYNC221 - nothing else runs
                [sys.executable, "-c", seen], capture_output=True, text=True, check=True, close_fds=False
            ).stdout

    assert str(tmp_path) not in asyncio.run(ask())
