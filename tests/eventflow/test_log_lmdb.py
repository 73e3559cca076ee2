"""The log in an LMDB file: the contract of every log, and what files, processes and damage add to it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventflow.change import Op
from eventflow.clock import ManualClock
from eventflow.errors import (
    Corrupt,
    EventflowError,
    SettingsError,
    StoreBusy,
    StoreClosed,
    StoreFull,
    StoreNotFound,
    StoreUnusable,
    VersionConflict,
    WrittenByNewer,
)
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import NOBODY, Act, Appended, Head, LmdbLog, Log, Post, Query, Writer
from eventflow.log.lmdb.environment import READER_CHECK_EVERY, damage
from eventflow.log.lmdb.files import Gate, missing_bytes
from eventflow.log.lmdb.tables import TABLES
from eventflow.log.lmdb.writing import Batch
from eventflow.codec import pack, read_events
from eventflow.plain import freeze
from eventflow.testing.author import Author, written
from eventflow.testing.contract import LogContract

MOVE = Transitioned("a", "a")
Start = Callable[[Callable[..., object]], Any]


def blob_move(size: int) -> Transitioned:
    """A fact that brings bytes which do not compress."""
    return Transitioned("a", "a", change=(Op("set", ("x",), freeze(os.urandom(size))),))


def owned(path: Path) -> LmdbLog:
    """A log whose clock is this process's own, so that two processes never make the same key."""
    return LmdbLog(path)


def author_of(log: Log) -> Author:
    """An author whose keys differ from those of other processes."""
    return Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's store is."""
    return tmp_path / "store"


@pytest.fixture
def filled(path: Path) -> Path:
    """A store with one run of a hundred events, closed."""
    log = LmdbLog(path)
    author = Author(log)
    head = author.start("r", {"x": 1})
    for _ in range(33):
        head = author.add(head, MOVE, MOVE, MOVE)
    log.close()
    return path


def rows(path: Path, table: str, change: Callable[[Any, Any], object]) -> None:
    """Change a table of a store behind its back."""
    env = lmdb.open(str(path / "data.1"), max_dbs=len(TABLES))
    table_handle = env.open_db(table.encode())
    with env.begin(write=True) as txn:
        change(txn, table_handle)
    env.close()


class TestLmdbLog(LogContract):
    """The contract, for a log in an LMDB file."""

    def make_log(self, tmp_path: Path) -> Log:
        return LmdbLog(tmp_path / "store")

    def reopen(self, log: Log) -> Log:
        assert isinstance(log, LmdbLog)
        log.close()
        return LmdbLog(log.path)


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_store_is_its_owners_alone(path: Path, child: Start) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""

    def work() -> str:
        os.umask(0)
        log = LmdbLog(path)
        log.new_owner(b"o" * 16)
        Author(log).start("r")
        every = [path, *path.rglob("*")]
        wrong = [str(one) for one in every if stat.S_IMODE(one.stat().st_mode) != (0o700 if one.is_dir() else 0o600)]
        return f"{len(every)} {wrong}"

    assert child(work).answer() == "10 []"


def test_no_descriptor_of_a_store_is_inherited_by_a_program(path: Path) -> None:
    """Each descriptor that points into the store closes on exec."""
    log = LmdbLog(path)
    log.new_owner(b"o" * 16)
    mine = []
    for entry in Path("/dev/fd").iterdir():
        if entry.is_symlink() and str(path) in str(entry.readlink()):
            mine.append((entry.readlink().name, os.get_inheritable(int(entry.name))))
    names = {name for name, _ in mine}
    assert {"data.mdb", "lock.mdb", "gate", "mark", (b"o" * 16).hex()} <= names
    assert not any(inheritable for _, inheritable in mine)
    log.close()


def test_current_names_the_data_directory(filled: Path) -> None:
    """CURRENT is one line; the other parts of the layout are there from the first day."""
    assert (filled / "CURRENT").read_text() == "data.1\n"
    assert sorted(one.name for one in filled.iterdir()) == ["CURRENT", "data.1", "gate", "keys", "owners"]
    assert sorted(one.name for one in (filled / "data.1").iterdir()) == ["data.mdb", "lock.mdb", "mark"]


def test_a_store_that_is_not_there_is_only_made_when_asked(path: Path) -> None:
    """Opening to read, or with create=False, raises StoreNotFound and makes nothing."""
    for options in ({"readonly": True}, {"create": False}, {"readonly": True, "create": True}):
        with pytest.raises(StoreNotFound):
            LmdbLog(path, **options)
    assert not path.exists()


def test_a_directory_that_is_no_store_is_left_alone(path: Path) -> None:
    """Files of somebody else, or a file in the place of the directory: StoreUnusable, and nothing is touched."""
    path.mkdir()
    (path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreUnusable, match="not an eventflow store"):
        LmdbLog(path)
    assert [one.name for one in path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreUnusable, match="not an eventflow store"):
        LmdbLog(path / "thesis.txt")


def test_a_store_that_everybody_may_write_is_refused(filled: Path) -> None:
    """The error says what to run."""
    filled.chmod(0o777)
    for readonly in (False, True):
        with pytest.raises(StoreUnusable, match="chmod 700"):
            LmdbLog(filled, readonly=readonly)


def test_the_size_of_the_map_must_be_a_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EVENTFLOW_MAP_SIZE is named when it means nothing."""
    for text in ("64G", "0", "-1", ""):
        monkeypatch.setenv("EVENTFLOW_MAP_SIZE", text)
        with pytest.raises(SettingsError, match="EVENTFLOW_MAP_SIZE"):
            LmdbLog(path)
    monkeypatch.setenv("EVENTFLOW_MAP_SIZE", str(1 << 24))
    LmdbLog(path).close()


# --- half-made stores ----------------------------------------------------------------------------------------------


def _nothing(path: Path) -> None:
    path.mkdir()


def _directories(path: Path) -> None:
    for name in ("data.1", "owners", "keys"):
        (path / name).mkdir(parents=True)


def _one_directory(path: Path) -> None:
    (path / "data.1").mkdir(parents=True)


def _empty_file(path: Path) -> None:
    _directories(path)
    (path / "data.1" / "data.mdb").touch()


def _zeros(path: Path) -> None:
    _directories(path)
    (path / "data.1" / "data.mdb").write_bytes(bytes(8192))


def _no_tables(path: Path) -> None:
    _directories(path)
    lmdb.open(str(path / "data.1")).close()


def _no_rows(path: Path) -> None:
    _directories(path)
    env = lmdb.open(str(path / "data.1"), max_dbs=len(TABLES))
    for name in TABLES[:7]:
        env.open_db(name)
    env.close()


@pytest.mark.parametrize(
    "stage",
    [_nothing, _one_directory, _directories, _empty_file, _zeros, _no_tables, _no_rows],
    ids=lambda one: one.__name__,
)
def test_a_half_made_store_is_finished(path: Path, stage: Callable[[Path], None]) -> None:
    """Wherever a crash stopped its making, the next who opens it for writing ends with a whole store."""
    stage(path)
    with pytest.raises(StoreNotFound):
        LmdbLog(path, readonly=True)
    log = LmdbLog(path)
    assert log.position() == 1
    head = Author(log).start("r")
    log.close()
    again = LmdbLog(path, create=False)
    assert (again.store_id, again.head("r")) == (log.store_id, head)
    again.close()


def test_a_store_that_lacks_only_its_name_keeps_its_history(filled: Path) -> None:
    """Without CURRENT the rows are still there, so the store is named again and nothing is made anew."""
    with LmdbLogOpen(filled) as log:
        before = (log.store_id, log.feed(0, 999))
    (filled / "CURRENT").unlink()
    with LmdbLogOpen(filled) as log:
        assert (log.store_id, log.feed(0, 999)) == before
    assert (filled / "CURRENT").read_text() == "data.1\n"


class LmdbLogOpen:
    """A log for the length of a block."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.log = LmdbLog(path, **options)

    def __enter__(self) -> LmdbLog:
        return self.log

    def __exit__(self, *_: object) -> None:
        self.log.close()


def test_processes_that_make_one_store_at_once_make_one(path: Path, child: Start) -> None:
    """Each of them ends with the same store id, and nobody takes the other's half-made file for damage."""

    def work() -> str:
        with LmdbLogOpen(path) as log:
            return log.store_id.hex()

    children = [child(work) for _ in range(6)]
    answers = {one.answer() for one in children}
    with LmdbLogOpen(path) as log:
        assert answers == {log.store_id.hex()}
        assert log.position() == 1


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"data.2\n", b"../elsewhere\n", b"data.x\n", b"\xff\xfe\n", b"thesis\n"])
def test_a_current_that_names_no_data_directory_is_corruption(filled: Path, content: bytes) -> None:
    """Also when it names one that is not there: no new store is begun under its name."""
    (filled / "CURRENT").write_bytes(content)
    for readonly in (False, True):
        with pytest.raises(Corrupt):
            LmdbLog(filled, readonly=readonly)
    assert not (filled / "data.2").exists()


def test_a_store_whose_file_is_gone_is_not_begun_anew(filled: Path) -> None:
    """A missing data.mdb is Corrupt and stays missing."""
    (filled / "data.1" / "data.mdb").unlink()
    for readonly in (False, True):
        with pytest.raises(Corrupt):
            LmdbLog(filled, readonly=readonly)
    assert not (filled / "data.1" / "data.mdb").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_a_file_that_was_cut_is_refused_before_it_can_kill(filled: Path, child: Start, share: float) -> None:
    """Reading past its end would end the process by SIGBUS; opening says Corrupt instead."""
    file = filled / "data.1" / "data.mdb"
    whole = file.stat().st_size
    os.truncate(file, min(int(whole * share), whole - 1))

    def work() -> str:
        with LmdbLogOpen(filled) as log:
            return str(len(log.feed(0, 999)))

    assert child(work).answer().startswith("Corrupt")


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_a_file_without_its_meta_pages_is_corruption(filled: Path, child: Start, page: int, fill: bytes) -> None:
    """Either of the two, zeroed or overwritten."""
    with (filled / "data.1" / "data.mdb").open("r+b") as file:
        file.seek(4096 * page)
        file.write(fill * 4096)
    assert child(lambda: LmdbLog(filled)).answer().startswith("Corrupt")


def test_an_older_copy_put_back_is_noticed(filled: Path) -> None:
    """The mark outside the pages remembers how far the store had come; without it nobody could tell."""
    file = filled / "data.1" / "data.mdb"
    shutil.copy(file, filled.parent / "old.mdb")
    with LmdbLogOpen(filled) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
    shutil.copy(filled.parent / "old.mdb", file)
    for readonly in (False, True):
        with pytest.raises(Corrupt, match="rolled back"):
            LmdbLog(filled, readonly=readonly)
    (filled / "data.1" / "mark").unlink()
    with LmdbLogOpen(filled) as log:
        assert log.head("r") == head


def test_another_history_of_the_same_length_is_noticed(filled: Path) -> None:
    """The mark holds the digest of the event at its position too."""
    file = filled / "data.1" / "data.mdb"
    shutil.copy(file, filled.parent / "old.mdb")

    def go_on(data: int) -> None:
        with LmdbLogOpen(filled) as log:
            head = log.head("r")
            assert head is not None
            Author(log).add(head, Transitioned("a", "a", change=(Op("set", ("x",), data),)))

    go_on(1)
    mark = (filled / "data.1" / "mark").read_bytes()
    shutil.copy(filled.parent / "old.mdb", file)
    (filled / "data.1" / "mark").unlink()
    go_on(2)
    (filled / "data.1" / "mark").write_bytes(mark)
    with pytest.raises(Corrupt, match="another event"):
        LmdbLog(filled)


def test_a_changed_byte_in_the_last_event_is_noticed(path: Path) -> None:
    """Whichever byte it is, opening says Corrupt and nothing else."""
    with LmdbLogOpen(path) as log:
        head = Author(log).start("a-run-with-a-name", {"key": "value"})
        last = log.read(head.run_key, 1, 1)[0].data
    file = path / "data.1" / "data.mdb"
    whole = file.read_bytes()
    (path / "data.1" / "mark").unlink()
    assert whole.count(last) == 1
    place = whole.index(last)
    for offset in range(len(last)):
        for bit in (0x01, 0x20, 0x80):
            changed = bytearray(whole)
            changed[place + offset] ^= bit
            file.write_bytes(changed)
            with pytest.raises(Corrupt):
                LmdbLog(path, readonly=True)


def test_a_changed_byte_among_the_last_events_of_each_run_is_noticed(path: Path) -> None:
    """An event inside a run is held against the one after it, the last one against the head."""
    with LmdbLogOpen(path) as log:
        author = Author(log)
        heads = [author.start(name) for name in "abc"]
        heads = [author.add(head, MOVE, MOVE) for head in heads]
        stored = [one.data for head in heads for one in log.read(head.run_key, 1, 3)]
    file = path / "data.1" / "data.mdb"
    whole = file.read_bytes()
    for data in stored:
        other = bytearray(data)
        other[-40] ^= 1
        file.write_bytes(whole.replace(data, other))
        with pytest.raises(Corrupt):
            LmdbLog(path, readonly=True)
    file.write_bytes(whole)
    LmdbLog(path).close()


@pytest.mark.parametrize("content", [b"", b"torn", bytes(52), b"eflowhw1" + bytes(44)])
def test_a_torn_mark_counts_as_none(filled: Path, content: bytes) -> None:
    """It is a plain write, so a power cut may tear it; the next commit writes it anew."""
    mark = filled / "data.1" / "mark"
    whole = mark.read_bytes()
    mark.write_bytes(content)
    with LmdbLogOpen(filled) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
    assert len(mark.read_bytes()) == len(whole) == 52


def test_a_mark_that_cant_be_written_fails_nothing(filled: Path) -> None:
    """The event is durable when the mark is written, so its author hears of success."""
    log = LmdbLog(filled)
    assert log._opened is not None
    broken = os.open("/dev/null", os.O_RDONLY)
    fd = log._opened.mark._fd
    assert fd is not None
    os.dup2(broken, fd)
    os.close(broken)
    head = log.head("r")
    assert head is not None
    assert Author(log).add(head, MOVE).version == head.version + 1
    log.close()


def test_a_store_of_a_newer_format_is_not_read(filled: Path) -> None:
    """WrittenByNewer, for reading and for writing."""
    rows(filled, "store", lambda txn, table: txn.put(b"format", (2).to_bytes(8, "big"), db=table))
    for readonly in (False, True):
        with pytest.raises(WrittenByNewer, match="store format 2"):
            LmdbLog(filled, readonly=readonly)


@pytest.mark.parametrize("table", [name.decode() for name in TABLES])
def test_a_store_that_lacks_a_table_is_corruption(filled: Path, table: str) -> None:
    """No table is made anew, which would hide that what it held is lost."""
    rows(filled, table, lambda txn, handle: txn.drop(handle))
    for readonly in (False, True):
        with pytest.raises(Corrupt):
            LmdbLog(filled, readonly=readonly)


@pytest.mark.parametrize("key", [b"format", b"id"])
def test_a_store_without_its_first_rows_is_corruption(filled: Path, key: bytes) -> None:
    """The format number and the id belong to every store."""
    rows(filled, "store", lambda txn, table: txn.delete(key, db=table))
    with pytest.raises(Corrupt):
        LmdbLog(filled)


def test_a_row_that_lmdb_does_not_take_fails_the_batch(filled: Path) -> None:
    """A put that answers False raises Corrupt, and nothing of its transaction is kept."""
    log = LmdbLog(filled)
    append = Author(log, clock=ManualClock(seed=9)).first("s")

    def write(position: int) -> None:
        with log._env.writing() as txn:
            batch = Batch(txn, log._env.tables, log.store_id, log.owner_gone)
            batch.position = position
            batch.apply([append])

    with pytest.raises(Corrupt):
        write(5)
    assert log.head("s") is None
    assert log.position() == 101
    log.close()


def test_a_file_that_ends_in_pages_given_back_is_sound(filled: Path) -> None:
    """LMDB does not write pages that a transaction takes and gives back: such a short file opens, and is filled up."""
    file = filled / "data.1" / "data.mdb"

    def take_and_give_back(txn: Any, table: Any) -> None:
        for number in range(50):
            txn.put(b"%d" % number, bytes(3_000), db=table)
        for number in range(50):
            txn.delete(b"%d" % number, db=table)

    rows(filled, "store", take_and_give_back)
    assert missing_bytes(file) > 0
    LmdbLog(filled, readonly=True).close()
    with LmdbLogOpen(filled) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
        assert missing_bytes(file) == 0


def test_a_deleted_run_gives_its_pages_back(path: Path) -> None:
    """Large events become small rows, and the file's structure stays without fault."""
    with LmdbLogOpen(path) as log:
        author = Author(log)
        head = author.start("r")
        for _ in range(20):
            head = author.add(head, blob_move(900), blob_move(900), Transitioned("a" * 1, "a", change=_wide()))
        full = log.usage().bytes["events"]
        event = RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest)
        written(log, Act(pack(event), 1, delete_run=head))
        assert log.usage().bytes["events"] < full / 3
    assert damage(path / "data.1" / "data.mdb") == ""


def _wide() -> tuple[Op, ...]:
    return tuple(Op("set", (f"k{number}",), freeze(os.urandom(300))) for number in range(30))


# --- reading only --------------------------------------------------------------------------------------------------


def test_a_log_opened_to_read_refuses_writes_and_changes_no_file(filled: Path) -> None:
    """Listing, modes and contents stay what they were; only the reader's slot in lock.mdb may change."""

    def every() -> dict[str, tuple[int, bytes]]:
        files = [one for one in filled.rglob("*") if one.is_file() and one.name != "lock.mdb"]
        return {str(one): (one.stat().st_mode, one.read_bytes()) for one in files}

    (filled / "data.1" / "data.mdb").chmod(0o640)
    before = every()
    with LmdbLogOpen(filled, readonly=True) as log:
        assert log.readonly
        head = log.head("r")
        assert head is not None
        with pytest.raises(StoreUnusable, match="read-only"):
            log.write([Author(log).then(head, MOVE)])
        assert len(log.read(head.run_key, 1, 999)) == 100
    assert every() == before


def test_a_reader_sees_what_another_process_writes(filled: Path, child: Start) -> None:
    """The change mark moves, and the new head is there."""
    with LmdbLogOpen(filled, readonly=True) as log:
        mark, head = log.change_mark(), log.head("r")
        assert head is not None

        def work() -> int:
            with LmdbLogOpen(filled) as other:
                return Author(other).add(head, MOVE).version

        assert child(work).answer() == "101"
        assert log.change_mark() != mark
        assert (log.head("r") or head).version == 101


def test_opening_while_another_process_writes_is_no_rollback(filled: Path, child: Start) -> None:
    """The mark is read before the rows, so that a commit in between can't make them seem to lie behind it."""

    def work() -> str:
        with LmdbLogOpen(filled) as log:
            author, head = Author(log), log.head("r")
            for _ in range(400):
                assert head is not None
                head = author.add(head, MOVE)
        return "done"

    writer = child(work)
    for _ in range(60):
        LmdbLog(filled, readonly=True).close()
        LmdbLog(filled).close()
    assert writer.answer() == "done"


def test_a_store_in_a_directory_that_cant_be_written(tmp_path: Path, child: Start) -> None:
    """Making one there, or opening one there to write, says so in one sentence; reading one works."""
    store = tmp_path / "store"

    def work() -> str:
        _become_nobody(tmp_path)
        with LmdbLogOpen(store) as log:
            Author(log).start("r")
        for one in (store / "gate", store / "data.1" / "mark"):
            one.unlink()
        for one in (store / "data.1", store / "owners", store):
            one.chmod(0o500)
        said = []
        for where in (store, store / "new"):
            try:
                LmdbLog(where)
            except EventflowError as error:
                said.append(f"{type(error).__name__} {'traceback' not in str(error)}")
        with LmdbLogOpen(store, readonly=True) as log:
            said.append(str(log.position()))
        for one in (store, store / "data.1", store / "owners"):
            one.chmod(0o700)
        return str(said)

    assert child(work).answer() == "['StoreUnusable True', 'StoreUnusable True', '2']"


def _become_nobody(directory: Path) -> None:
    """Give up root, for whom no directory is read-only; every directory above must let nobody pass."""
    if os.getuid() == 0:
        for one in (directory, *directory.parents):
            one.chmod(one.stat().st_mode | 0o711)
        os.chown(directory, 65534, 65534)
        os.setgid(65534)
        os.setuid(65534)


# --- full ----------------------------------------------------------------------------------------------------------


def test_a_full_map_fails_the_batch_and_nothing_else(path: Path) -> None:
    """Nothing of the batch is kept; reads and small appends go on; a larger map takes what did not fit."""
    with LmdbLogOpen(path, map_size=1 << 20) as log:
        author = Author(log)
        head, small = author.start("big"), author.start("small")
        position = log.position()
        with pytest.raises(StoreFull, match="EVENTFLOW_MAP_SIZE"):
            log.write([author.then(small, MOVE), author.then(head, *(blob_move(60_000) for _ in range(30)))])
        assert (log.position(), log.head("big"), log.head("small")) == (position, head, small)
        assert len(log.feed(0, 99)) == position
        small = author.add(small, MOVE)
        assert small.version == 2
    with LmdbLogOpen(path, map_size=1 << 24) as log:
        assert Author(log).add(head, *(blob_move(60_000) for _ in range(30))).version == 31


def test_a_limit_on_the_files_size_fails_the_batch_and_nothing_else(path: Path, child: Start) -> None:
    """Whatever the file system says when there is no room is StoreFull; what was acknowledged is safe."""

    def work() -> str:
        with LmdbLogOpen(path) as log:
            author = Author(log)
            head = author.start("r")
            size = (path / "data.1" / "data.mdb").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
            try:
                author.add(head, *(blob_move(10_000) for _ in range(30)))
            except StoreFull:
                pass
            assert (log.head("r"), log.position()) == (head, 2)
            head = author.add(head, MOVE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            head = author.add(head, *(blob_move(10_000) for _ in range(30)))
        return f"{head.version} {damage(path / 'data.1' / 'data.mdb')}"

    assert child(work).answer() == "32 "
    with LmdbLogOpen(path) as log:
        assert len(log.feed(0, 999)) == 33


# --- several processes ---------------------------------------------------------------------------------------------


def test_two_processes_that_append_to_one_run_take_turns(filled: Path, child: Start) -> None:
    """Of two appends at one version exactly one wins; versions and positions stay dense."""

    def work() -> str:
        won = []
        with LmdbLogOpen(filled) as log:
            author = author_of(log)
            while len(won) < 40:
                head = log.head("r")
                assert head is not None
                [answer] = log.write([author.then(head, MOVE)])
                if isinstance(answer, Appended):
                    won.append(answer.head.version)
                else:
                    assert isinstance(answer, VersionConflict)
        return " ".join(map(str, won))

    children = [child(work) for _ in range(2)]
    won = [int(version) for one in children for version in one.answer().split()]
    assert sorted(won) == list(range(101, 181))
    with LmdbLogOpen(filled) as log:
        events = read_events(log.feed(0, 999), log.blobs)
        assert [one.position for one in events] == list(range(1, 182))
        assert [one.version for one in events[1:]] == list(range(1, 181))
        assert [one.before for one in events[2:]] == [one.digest for one in events[1:-1]]


def test_a_stopped_process_at_the_gate_is_named(filled: Path, child: Start) -> None:
    """Writing, and opening to write, raise StoreBusy with its process id; opening to read does not wait."""

    def work(say: Callable[[str], None]) -> None:
        gate = Gate(filled)
        with gate.held():
            say("held")
            os.kill(os.getpid(), signal.SIGSTOP)

    log = LmdbLog(filled, gate_timeout=0.05)
    holder = child(work)
    assert holder.line() == "held"
    head = log.head("r")
    assert head is not None
    with pytest.raises(StoreBusy, match=f"process {holder.pid};"):
        log.write([Author(log).then(head, MOVE)])
    with pytest.raises(StoreBusy, match=f"process {holder.pid};"):
        LmdbLog(filled, gate_timeout=0.05)
    LmdbLog(filled, readonly=True).close()
    holder.kill()
    holder.end()
    assert Author(log).add(head, MOVE).version == 101
    log.close()


def test_a_killed_process_at_the_gate_lets_go_though_its_child_lives(filled: Path, child: Start) -> None:
    """A forked child closes the gate's descriptor, so that the lock ends with the process that took it."""

    def work(say: Callable[[str], None]) -> None:
        log = LmdbLog(filled)
        assert log._opened is not None
        assert log._opened.gate is not None
        with log._opened.gate.held():
            grandchild = os.fork()
            if not grandchild:
                os.setpgid(0, 0)
                time.sleep(30)
                os._exit(0)
            say(str(grandchild))
            time.sleep(30)

    holder = child(work)
    grandchild = int(holder.line())
    holder.kill()
    holder.end()
    try:
        with LmdbLogOpen(filled, gate_timeout=0.5) as log:
            head = log.head("r")
            assert head is not None
            assert Author(log).add(head, MOVE).version == 101
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_log_does_not_live_on_in_a_forked_child(filled: Path, child: Start) -> None:
    """There every call raises StoreClosed; the child may open its own, and the parent's goes on undisturbed."""
    log = LmdbLog(filled)
    writer = Writer(log)
    head = log.head("r")
    assert head is not None
    append = Author(log).then(head, MOVE)
    readers = log._env._env.readers()

    def work() -> str:
        said = []
        for call in (
            lambda: log.head("r"), lambda: log.write([append]), lambda: writer.write_now(append), log.change_mark,
            lambda: log.feed(0, 1), lambda: log.new_owner(b"o" * 16),
        ):  # fmt: skip
            try:
                call()
            except StoreClosed as error:
                said.append("fork" in str(error))
        log.close()
        with LmdbLogOpen(filled) as own:
            said.append(isinstance(own.write([append])[0], Appended))
        return str(said)

    assert child(work).answer() == str([True] * 7)
    assert log._env._env.readers() == readers
    assert (log.head("r") or head).version == 101
    assert Author(log).add(log.head("r") or head, MOVE).version == 102
    log.close()


def test_a_fork_in_the_middle_of_a_write_leaves_the_child_free(filled: Path, child: Start) -> None:
    """Locks that another thread of the parent held at the fork do not stop the child."""
    log = LmdbLog(filled)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with log._lock:
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)

    def work() -> str:
        try:
            log.write([])
        except StoreClosed:
            log.close()
            return "closed"
        return "written"

    answer = child(work).answer()
    done.set()
    thread.join()
    assert answer == "closed"
    log.close()


def test_the_same_store_opened_twice_is_shared(filled: Path) -> None:
    """Both see each other's writes; closing one, even twice, leaves the other open; a link is the same store."""
    one, two = LmdbLog(filled), LmdbLog(filled)
    (filled.parent / "link").symlink_to(filled)
    three = LmdbLog(filled.parent / "link")
    head = one.head("r")
    assert head is not None
    head = Author(one).add(head, MOVE)
    assert two.head("r") == three.head("r") == head
    one.close()
    one.close()
    with pytest.raises(StoreClosed):
        one.head("r")
    head = Author(two).add(head, MOVE)
    two.close()
    assert three.head("r") == head
    three.close()
    LmdbLog(filled).close()


def test_a_store_open_to_read_cant_be_opened_to_write_beside(filled: Path) -> None:
    """LMDB allows one environment a process; the error says what to do, and leaves the reader open."""
    reader = LmdbLog(filled, readonly=True)
    with pytest.raises(StoreUnusable, match="close that first"):
        LmdbLog(filled)
    assert reader.head("r") is not None
    reader.close()
    LmdbLog(filled).close()


def test_a_killed_reader_does_not_keep_old_pages_for_ever(filled: Path, child: Start) -> None:
    """A writer that stays open looks for dead readers now and then."""

    def work(say: Callable[[str], None]) -> None:
        log = LmdbLog(filled, readonly=True)
        with log._env.reading() as txn:
            txn.get(b"x", db=log._env.tables.store)
            say("reading")
            time.sleep(30)

    log = LmdbLog(filled)
    reader = child(work)
    assert reader.line() == "reading"
    reader.kill()
    reader.end()
    env = log._env._env
    assert str(reader.pid) in env.readers()
    head = log.head("r")
    assert head is not None
    for _ in range(READER_CHECK_EVERY):
        written(log, Post(head.run_key, b"x"))
    assert str(reader.pid) not in env.readers()
    log.close()


def test_opening_clears_killed_readers(filled: Path, child: Start) -> None:
    """Whoever opens a store frees the slots of readers that are gone."""

    def work(say: Callable[[str], None]) -> None:
        log = LmdbLog(filled, readonly=True)
        with log._env.reading():
            say("reading")
            time.sleep(30)

    reader = child(work)
    assert reader.line() == "reading"
    reader.kill()
    reader.end()
    with LmdbLogOpen(filled) as log:
        assert str(reader.pid) not in log._env._env.readers()


def test_a_killed_writer_loses_nothing_that_it_said(path: Path, child: Start) -> None:
    """Each version that was acknowledged before the kill is there, and the store opens and goes on."""

    def work(say: Callable[[str], None]) -> None:
        log = LmdbLog(path)
        author = Author(log)
        head = author.start("r")
        while True:
            head = author.add(head, MOVE)
            say(str(head.version))

    for _ in range(3):
        writer = child(work if not path.exists() else _going_on(path))
        said = [int(writer.line()) for _ in range(20)]
        writer.kill()
        writer.end()
        with LmdbLogOpen(path) as log:
            head = log.head("r")
            assert head is not None
            assert head.version >= said[-1]
            assert len(log.read(head.run_key, 1, 9_999)) == head.version


def _going_on(path: Path) -> Callable[[Callable[[str], None]], None]:
    def work(say: Callable[[str], None]) -> None:
        log = LmdbLog(path)
        author, head = Author(log), log.head("r")
        while head is not None:
            head = author.add(head, MOVE)
            say(str(head.version))

    return work
