"""The log in an LMDB file: the contract of every log, and the files it is made of."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventflow.errors import (
    EventflowError,
    SettingsError,
    StoreNotFound,
    StoreUnusable,
)
from eventflow.event import Transitioned
from eventflow.log import LmdbLog, Log
from eventflow.log.lmdb import files
from eventflow.log.lmdb.tables import TABLES
from eventflow.testing.author import Author
from eventflow.testing.contract import LogContract

MOVE = Transitioned("a", "a")
Start = Callable[[Callable[..., object]], Any]


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


def test_a_directory_that_was_there_becomes_private(path: Path) -> None:
    """An empty directory made by hand is taken for the store's, and closed to others."""
    path.mkdir(mode=0o755)
    LmdbLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_no_descriptor_of_a_store_is_inherited_by_a_program(path: Path) -> None:
    """Each descriptor that points into the store closes on exec."""
    log = LmdbLog(path)
    log.new_owner(b"o" * 16)
    open_files = {
        (path / name).stat().st_ino: name for name in ("data.1/data.mdb", "data.1/lock.mdb", "data.1/mark", "gate")
    }
    open_files[(path / "owners" / (b"o" * 16).hex()).stat().st_ino] = "owner"
    inherited: dict[str, bool] = {}
    for entry in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):
            name = open_files.get(os.fstat(int(entry.name)).st_ino, "")
            inherited[name] = inherited.get(name, False) or os.get_inheritable(int(entry.name))
    inherited.pop("")
    assert inherited == dict.fromkeys(open_files.values(), False)
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


# --- half made stores ----------------------------------------------------------------------------------------------


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


def _all_but_the_data(path: Path) -> None:
    _directories(path)
    (path / "data.1").rmdir()
    (path / "gate").write_bytes(b"")
    (path / "CURRENT.new").write_bytes(b"")


def _first_page(path: Path) -> None:
    _no_tables(path)
    file = path / "data.1" / "data.mdb"
    file.write_bytes(file.read_bytes()[: mmap.PAGESIZE])


def _second_page(path: Path) -> None:
    _no_tables(path)
    file = path / "data.1" / "data.mdb"
    file.write_bytes(bytes(mmap.PAGESIZE) + file.read_bytes()[mmap.PAGESIZE :])


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
    [
        _nothing, _one_directory, _directories, _all_but_the_data, _empty_file, _zeros, _first_page, _second_page,
        _no_tables, _no_rows,
    ],
    ids=lambda one: one.__name__,
)  # fmt: skip
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
    with closing(LmdbLog(filled)) as log:
        before = (log.store_id, log.feed(0, 999))
    (filled / "CURRENT").unlink()
    with closing(LmdbLog(filled)) as log:
        assert (log.store_id, log.feed(0, 999)) == before
    assert (filled / "CURRENT").read_text() == "data.1\n"


def test_processes_that_make_one_store_at_once_make_one(path: Path, child: Start) -> None:
    """Each of them ends with the same store id, and nobody takes the other's half-made file for damage."""

    def work() -> str:
        with closing(LmdbLog(path)) as log:
            return log.store_id.hex()

    children = [child(work) for _ in range(6)]
    answers = {one.answer() for one in children}
    with closing(LmdbLog(path)) as log:
        assert answers == {log.store_id.hex()}
        assert log.position() == 1


# --- reading only --------------------------------------------------------------------------------------------------


def test_a_log_opened_to_read_refuses_writes_and_changes_no_file(filled: Path) -> None:
    """Listing, modes and contents stay what they were; only the reader's slot in lock.mdb may change."""

    def every() -> dict[str, tuple[int, bytes]]:
        files = [one for one in filled.rglob("*") if one.is_file() and one.name != "lock.mdb"]
        return {str(one): (one.stat().st_mode, one.read_bytes()) for one in files}

    (filled / "data.1" / "data.mdb").chmod(0o640)
    before = every()
    with closing(LmdbLog(filled, readonly=True)) as log:
        assert log.readonly
        head = log.head("r")
        assert head is not None
        with pytest.raises(StoreUnusable, match="read-only"):
            log.write([Author(log).then(head, MOVE)])
        assert len(log.read(head.run_key, 1, 999)) == 100
    assert every() == before


def test_a_reader_sees_what_another_process_writes(filled: Path, child: Start) -> None:
    """The change mark moves, and the new head is there."""
    with closing(LmdbLog(filled, readonly=True)) as log:
        mark, head = log.change_mark(), log.head("r")
        assert head is not None

        def work() -> int:
            with closing(LmdbLog(filled)) as other:
                return Author(other).add(head, MOVE).version

        assert child(work).answer() == "101"
        assert log.change_mark() != mark
        assert (log.head("r") or head).version == 101


def test_what_a_change_mark_stands_for_can_be_read(filled: Path, child: Start) -> None:
    """Whoever sees a mark and then reads, sees what it stands for: one mark never goes with two positions."""

    def work() -> str:
        with closing(LmdbLog(filled)) as log:
            author, head = Author(log), log.head("r")
            for _ in range(300):
                assert head is not None
                head = author.add(head, MOVE)
        return "done"

    with closing(LmdbLog(filled, readonly=True)) as log:
        writer = child(work)
        seen: dict[int, set[int]] = {}
        while log.position() < 401:
            mark, position = log.change_mark(), log.position()
            if log.change_mark() == mark:
                seen.setdefault(mark, set()).add(position)
        assert writer.answer() == "done"
    assert len(seen) > 100
    assert [positions for positions in seen.values() if len(positions) > 1] == []


def test_opening_while_another_process_writes_is_no_rollback(filled: Path, child: Start) -> None:
    """The mark is read before the rows, so that a commit in between can't make them seem to lie behind it."""

    def work() -> str:
        with closing(LmdbLog(filled)) as log:
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


@pytest.mark.skipif(not os.getuid() and sys.platform != "linux", reason="only Linux lets root obey modes")
def test_a_store_in_a_directory_that_cant_be_written(tmp_path: Path, child: Start) -> None:
    """Making one there, or opening one there to write, says so in one sentence; reading one works."""
    store = tmp_path / "store"

    def work() -> str:
        _obey_modes()
        with closing(LmdbLog(store)) as log:
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
        with closing(LmdbLog(store, readonly=True)) as log:
            said.append(str(log.position()))
        for one in (store, store / "data.1", store / "owners"):
            one.chmod(0o700)
        return str(said)

    assert child(work).answer() == "['StoreUnusable True', 'StoreUnusable True', '2']"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mounted")
def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the kind of what is mounted there; nothing is made. Here a local kind is called one of them."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines()]
    monkeypatch.setattr(files, "_NETWORK", frozenset(kind for _, _, kind, *_ in mounts))
    with pytest.raises(StoreUnusable, match=r"lies on a network file system .*use a local disk"):
        LmdbLog(path)
    assert not path.exists()


def _obey_modes() -> None:
    """Give up what lets root write anywhere (capabilities(7): CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    if os.getuid():
        return
    library = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert library.capget(head, sets) == 0
    sets[0] &= ~0b110
    assert library.capset(head, sets) == 0


def test_whatever_engine_the_library_would_choose_a_store_is_made_with_one(tmp_path: Path) -> None:
    """py-lmdb brings two, whose files differ, and a variable of the environment that chooses between them."""
    script = (
        "import sys; from eventflow.log import LmdbLog\n"
        "for _ in range(2): log = LmdbLog(sys.argv[1]); print(log.position()); log.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True, check=False,
        env={**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1\n1\n", "")
    with closing(LmdbLog(tmp_path / "s")) as log:
        assert log.position() == 1
