"""Backups: whole, of what has changed, private, chained, never written over, never driven."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import closing
from pathlib import Path

import pytest

from eventflow.backup import backup, read_backup, restore
from eventflow.backup.layout import increments
from eventflow.backup.staging import LOCK, SUFFIX, locked
from eventflow.codec import pack_blob, read_events
from eventflow.errors import (
    Conflict,
    Corrupt,
    NotFound,
    SettingsError,
    StoreBusy,
    StoreNotFound,
    StoreUnusable,
    WrittenByNewer,
)
from eventflow.event import BackupMade
from eventflow.log import STORE_RUN, LmdbLog, MemoryLog


@pytest.fixture
def place(tmp_path: Path, fill) -> Path:
    """A directory with a store `s` that holds two runs."""
    fill(tmp_path / "s", "a", "b")
    return tmp_path


def acts(path: Path) -> list[object]:
    """What a store's own stream says."""
    with closing(LmdbLog(path, readonly=True)) as log:
        head = log.head_of(STORE_RUN)
        return [one.event for one in read_events(log.read(STORE_RUN, 1, head.version), log.blobs)]


def events(path: Path, upto: int = 10**9) -> list[bytes]:
    """The stored bytes of a store's events."""
    with closing(LmdbLog(path, readonly=True)) as log:
        return [one.data for one in log.feed(0, upto)]


# --- whole ---------------------------------------------------------------------------------------------------------


def test_a_backup_is_a_whole_store_that_reads_as_the_one_it_is_of(place, sound):
    """Same events byte for byte, same id, and everything in it holds."""
    before = events(place / "s")
    made = backup(place / "s", place / "b", why="nightly")
    assert (made.point.number, made.point.position, made.path) == (1, len(before), place / "b")
    assert events(place / "b") == before
    assert sound(place / "b").runs == 2
    assert acts(place / "s")[-1] == BackupMade(
        1, len(before), made.point.digest, False, acts(place / "s")[-1].actor, "nightly"
    )


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_a_backup_is_private_under_any_umask(place, mask):
    """Directories have mode 0700, files 0600."""
    old = os.umask(mask)
    try:
        backup(place / "s", place / "b")
        backup(place / "s", place / "b", incremental=True)
    finally:
        os.umask(old)
    for path in (place / "b", *(place / "b").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_nothing_is_written_over(place):
    """A second backup at the same place is a conflict, and leaves the first one as it is."""
    backup(place / "s", place / "b")
    before = {path: path.read_bytes() for path in (place / "b").rglob("*") if path.is_file()}
    for goal in (place / "b", place / "s"):
        with pytest.raises(Conflict, match="is there already"):
            backup(place / "s", goal)
    (place / "link").symlink_to(place / "nowhere")
    with pytest.raises(Conflict):
        backup(place / "s", place / "link")
    assert {path: path.read_bytes() for path in (place / "b").rglob("*") if path.is_file()} == before


def test_nobody_drives_a_backup(place):
    """It opens to be read; opened to be written to, it says how a store is made of it."""
    backup(place / "s", place / "b")
    with pytest.raises(StoreUnusable, match="eventflow store restore"):
        LmdbLog(place / "b")
    LmdbLog(place / "b", readonly=True).close()


def test_keys_stay_behind_unless_they_are_asked_for(place):
    """Who finds the copy of an encrypted store must not find its keys beside it."""
    (place / "s" / "keys" / "one").write_bytes(b"key")
    backup(place / "s", place / "without")
    backup(place / "s", place / "with", keys=True)
    assert list((place / "without" / "keys").iterdir()) == []
    assert (place / "with" / "keys" / "one").read_bytes() == b"key"
    assert [acts(place / "s")[-2].keys, acts(place / "s")[-1].keys] == [False, True]


def test_seals_come_along(place):
    """What lies beside the log to prove it lies beside its copy."""
    (place / "s" / "seals").mkdir()
    (place / "s" / "seals" / "3.note").write_text("a seal")
    (place / "s" / "seals" / "link").symlink_to("/etc/passwd")
    backup(place / "s", place / "b")
    assert [path.name for path in (place / "b" / "seals").iterdir()] == ["3.note"]


def test_only_a_store_in_a_directory_is_backed_up(tmp_path):
    """A store in memory is gone with its process, and there is none where there is none."""
    with pytest.raises(SettingsError):
        backup(MemoryLog(), tmp_path / "b")
    with pytest.raises(StoreNotFound):
        backup(tmp_path / "s", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_log_opened_to_be_read_makes_no_backup(place):
    """It could not record it."""
    with closing(LmdbLog(place / "s", readonly=True)) as log, pytest.raises(StoreUnusable, match="read-only"):
        backup(log, place / "b")
    assert sorted(path.name for path in place.iterdir()) == ["s"]


def test_two_who_write_one_backup_do_not_meet(place):
    """The second is told that another process is at it."""
    fd = locked(place / ("b" + SUFFIX))
    with pytest.raises(StoreBusy, match="another process"):
        backup(place / "s", place / "b")
    os.close(fd)
    backup(place / "s", place / "b")
    assert not (place / ("b" + SUFFIX)).exists()
    assert not (place / "b" / LOCK).exists()


# --- what has changed ----------------------------------------------------------------------------------------------


def test_increments_hold_what_has_changed_and_give_back_every_point(place, fill, sound):
    """Each point gives the very file that was copied then; an increment is far shorter than a whole copy."""
    fill(place / "s", *(f"more-{n}" for n in range(30)))
    backup(place / "s", place / "b")
    wanted = [events(place / "s")[:-1]]
    for name in "cd":
        fill(place / "s", name)
        wanted.append(events(place / "s"))
        made = backup(place / "s", place / "b", incremental=True)
        assert made.path == place / "b" / "increments" / f"00000{made.point.number}.efinc"
        assert made.bytes < made.point.size / 3
    found = read_backup(place / "b")
    assert [one.number for one in found.points] == [1, 2, 3]
    assert [one.position for one in found.points] == list(map(len, wanted))
    for point, stored in zip(found.points, wanted, strict=True):
        goal = place / f"r{point.number}"
        restore(place / "b", goal, position=point.position)
        assert events(goal, point.position) == stored
        sound(goal)


def test_an_increment_without_changes_is_small(place):
    """Only the record of the backup before it is new."""
    backup(place / "s", place / "b")
    assert backup(place / "s", place / "b", incremental=True).bytes < 20_000


def test_an_increment_needs_a_backup_of_this_stores_past(place, fill):
    """No backup, another store's, or one of a history that went another way: told so, and nothing is added."""
    with pytest.raises(NotFound, match="eventflow store backup"):
        backup(place / "s", place / "b", incremental=True)
    with pytest.raises(NotFound):
        backup(place / "s", place / "s", incremental=True)
    fill(place / "other", "x")
    backup(place / "s", place / "b")
    shutil.copytree(place / "s", place / "twin")
    fill(place / "twin", "on-its-own")
    backup(place / "twin", place / "b", incremental=True)
    for store in ("other", "s"):
        with pytest.raises(Conflict, match="another event"):
            backup(place / store, place / "b", incremental=True)
    assert len(read_backup(place / "b").points) == 2


def test_keys_that_come_later_come_with_the_increment(place):
    """`keys=True` copies those that are not there yet."""
    backup(place / "s", place / "b")
    (place / "s" / "keys" / "one").write_bytes(b"key")
    backup(place / "s", place / "b", incremental=True)
    assert list((place / "b" / "keys").iterdir()) == []
    backup(place / "s", place / "b", incremental=True, keys=True)
    assert (place / "b" / "keys" / "one").read_bytes() == b"key"


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def chain(place, fill) -> Path:
    """A backup with two increments."""
    backup(place / "s", place / "b")
    for name in "cd":
        fill(place / "s", name, heavy=10)
        backup(place / "s", place / "b", incremental=True)
    return place / "b"


def refused(chain: Path) -> None:
    """Neither restored nor added to, and nothing is left where the store would be."""
    with pytest.raises(Corrupt):
        restore(chain, chain.parent / "r")
    with pytest.raises((Corrupt, Conflict)):
        backup(chain.parent / "s", chain, incremental=True)
    assert not (chain.parent / "r").exists()
    assert not (chain.parent / ("r" + SUFFIX)).exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("number", [2, 3])
def test_a_changed_or_cut_increment_is_found_out(chain, number, share):
    """Any byte of it, and its last one."""
    file = dict(increments(chain))[number]
    whole = file.read_bytes()
    at = int(len(whole) * share)
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    refused(chain)
    file.write_bytes(whole[:at])
    refused(chain)
    file.write_bytes(whole + b"\0")
    refused(chain)


def test_a_missing_or_exchanged_increment_is_found_out(chain):
    """A chain with a hole in it, or in another order, is no backup."""
    second, third = (file for _, file in increments(chain))
    shutil.move(second, chain / "kept")
    refused(chain)
    shutil.copy(third, second)
    refused(chain)


def test_a_changed_byte_in_the_whole_copy_is_found_out(chain):
    """Wherever it is: the digest of the file is compared."""
    file = chain / "data.1" / "data.mdb"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match="was changed"):
        restore(chain, chain.parent / "r", position=3)
    assert not (chain.parent / "r").exists()


@pytest.mark.parametrize("content", [b"", b"\xa0", b"hello", b"\xff" * 100_000])
def test_a_broken_word_about_the_backup_is_found_out(chain, content):
    """BACKUP is read as strictly as an event."""
    (chain / "BACKUP").write_bytes(content)
    with pytest.raises(Corrupt):
        read_backup(chain)


def test_a_backup_of_a_newer_format_is_not_guessed(chain):
    """It is said that a newer eventflow wrote it."""
    data = (chain / "BACKUP").read_bytes()
    (chain / "BACKUP").write_bytes(data.replace(b"fformat\x01", b"fformat\x02"))
    with pytest.raises(WrittenByNewer, match="backup format 2"):
        read_backup(chain)


def test_a_block_that_expands_to_more_than_a_block_is_refused(chain):
    """A short increment must not take up the memory of a long one."""
    file = dict(increments(chain))[2]
    assert len(pack_blob(bytes(4096))) < 100
    data = file.read_bytes()
    at = data.index(b"fblocks")
    file.write_bytes(data[: at - 5] + b"\0" * 8 + (1 << 20).to_bytes(4, "big") + data[at:])
    refused(chain)
