"""A damaged, short, old or foreign LMDB file: refused with a sentence, never followed, never fatal."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventflow.change import Op
from eventflow.clock import ManualClock
from eventflow.codec import pack, pack_state
from eventflow.errors import (
    Corrupt,
    StoreFull,
    WrittenByNewer,
)
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import Act, LmdbLog, Query, Upkeep
from eventflow.log.lmdb.environment import damage
from eventflow.log.lmdb.files import missing_bytes
from eventflow.log.lmdb.tables import TABLES
from eventflow.log.lmdb.writing import Batch
from eventflow.plain import freeze
from eventflow.testing.author import Author, written

MOVE = Transitioned("a", "a")
Start = Callable[[Callable[..., object]], Any]


def blob_move(size: int) -> Transitioned:
    """A fact that brings bytes which do not compress."""
    return Transitioned("a", "a", change=(Op("set", ("x",), freeze(os.urandom(size))),))


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
        with closing(LmdbLog(filled)) as log:
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
    with closing(LmdbLog(filled)) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
    shutil.copy(filled.parent / "old.mdb", file)
    for readonly in (False, True):
        with pytest.raises(Corrupt, match="rolled back"):
            LmdbLog(filled, readonly=readonly)
    (filled / "data.1" / "mark").unlink()
    with closing(LmdbLog(filled)) as log:
        assert log.head("r") == head


_NUMBER = 16 + 24 + 2 * 48 + 8  # where the transaction's number stands in a meta page, its last 8 bytes


@pytest.mark.parametrize("page", [0, 1])
def test_no_flipped_bit_in_a_transactions_number_goes_unnoticed(filled: Path, page: int) -> None:
    """LMDB takes the older of its two roots then, and nothing inside the file tells; the mark does."""
    file = filled / "data.1" / "data.mdb"
    whole = file.read_bytes()
    with closing(LmdbLog(filled, readonly=True)) as log:
        position = log.position()
    noticed = 0
    for bit in range(64):
        changed = bytearray(whole)
        changed[page * 4096 + _NUMBER + bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            with closing(LmdbLog(filled, readonly=True)) as log:
                assert log.position() == position
        except Corrupt:
            noticed += 1
    assert noticed


def test_a_meta_sector_torn_in_its_middle_is_noticed(filled: Path) -> None:
    """Its end from after a commit, its beginning from before: the new number with the old root, or the other way round."""
    file = filled / "data.1" / "data.mdb"
    before = file.read_bytes()
    with closing(LmdbLog(filled)) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
        position = log.position()
    after = file.read_bytes()
    for page in (0, 1):
        start, end = page * 4096, page * 4096 + _NUMBER + 8
        for cut in range(start, end, 4):
            for whole, torn in ((before, after), (after, before)):
                file.write_bytes(after[:start] + whole[start:cut] + torn[cut:end] + after[end:])
                try:
                    with closing(LmdbLog(filled, readonly=True)) as log:
                        assert log.position() == position
                except Corrupt:
                    pass


def test_a_flag_of_a_meta_page_that_ends_the_first_writer_is_noticed(filled: Path) -> None:
    """No check of the structure sees it; any other flag than those we write is refused."""
    file = filled / "data.1" / "data.mdb"
    whole = file.read_bytes()
    for page in (0, 1):
        for table in (0, 48):
            for bit in range(16):
                changed = bytearray(whole)
                changed[page * 4096 + 16 + 24 + table + 4 + bit // 8] ^= 1 << bit % 8
                file.write_bytes(changed)
                with pytest.raises(Corrupt, match="flags in a meta page"):
                    LmdbLog(filled)


def test_another_history_of_the_same_length_is_noticed(filled: Path) -> None:
    """The mark holds the digest of the event at its position too."""
    file = filled / "data.1" / "data.mdb"
    shutil.copy(file, filled.parent / "old.mdb")

    def go_on(data: int) -> None:
        with closing(LmdbLog(filled)) as log:
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
    with closing(LmdbLog(path)) as log:
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
    with closing(LmdbLog(path)) as log:
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


@pytest.mark.parametrize("content", [b"", b"torn", bytes(52), b"eflowhw1" + bytes(44), bytes(128)])
def test_a_torn_mark_counts_as_none(filled: Path, content: bytes) -> None:
    """It is a plain store, so a power cut may tear it; the next commit makes it anew."""
    mark = filled / "data.1" / "mark"
    mark.write_bytes(content)
    with closing(LmdbLog(filled)) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
        assert _highest(mark) == log.position()


def _highest(mark: Path) -> int:
    data = mark.read_bytes()
    return max(int.from_bytes(data[at + 8 : at + 16], "big") for at in (0, 64))


def test_a_mark_torn_in_the_middle_of_its_writing_leaves_the_one_before(filled: Path) -> None:
    """Two marks are written in turn, so a process that dies while it writes one leaves the other."""
    mark = filled / "data.1" / "mark"
    file = filled / "data.1" / "data.mdb"
    shutil.copy(file, filled.parent / "old.mdb")
    with closing(LmdbLog(filled)) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(Author(log).add(head, MOVE), MOVE)
    whole = mark.read_bytes()
    newest = max((0, 64), key=lambda at: whole[at + 8 : at + 16])
    mark.write_bytes(whole[: newest + 20] + b"torn" + whole[newest + 24 :])
    LmdbLog(filled).close()
    shutil.copy(filled.parent / "old.mdb", file)
    with pytest.raises(Corrupt, match="rolled back"):
        LmdbLog(filled)


def _refused(*_: object) -> None:
    raise OSError("no room")


def test_a_mark_that_cant_be_mapped_fails_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is durable when the mark is written, so its author hears of success."""
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", _refused)
        log = LmdbLog(filled)
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


@pytest.mark.parametrize("table", ["info", "bends", "runs", "snapshots"])
def test_a_row_that_nobody_writes_is_corruption_when_it_is_read(filled: Path, table: str) -> None:
    """One that is short, or holds something else: an error of ours, whatever it makes the reader stumble over."""
    log = LmdbLog(filled, readonly=True)
    head = log.head("r")
    assert head is not None
    with pytest.raises(Corrupt, match="can't be read"), log._reading():
        b"".fromhex(None)  # type: ignore[arg-type] - as a row that is missing does
    log.close()
    key = head.run_key if table == "info" else head.run_key + b"short"
    rows(filled, table, lambda txn, handle: txn.put(key, b"", db=handle))
    with contextlib.suppress(Corrupt), closing(LmdbLog(filled, readonly=True)) as damaged:  # where the row is looked at
        [*damaged.runs(Query())]
        damaged.bends(head.run_key)
        damaged.read(head.run_key, 1, 999)
        damaged.snapshots(head.run_key, 999)


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
    with closing(LmdbLog(filled)) as log:
        head = log.head("r")
        assert head is not None
        Author(log).add(head, MOVE)
    assert missing_bytes(file) == 0


def test_a_deleted_run_gives_its_pages_back(path: Path) -> None:
    """Large events become small rows, and the file's structure stays without fault."""
    with closing(LmdbLog(path)) as log:
        author = Author(log)
        head = author.start("r")
        for _ in range(20):
            head = author.add(head, blob_move(900), blob_move(900), Transitioned("a", "a", change=_wide()))
        full = log.usage().bytes["events"]
        event = RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest)
        written(log, Act(pack(event), 1, delete_run=head))
        assert log.usage().bytes["events"] < full / 3
    assert damage(path / "data.1" / "data.mdb") == ""


def test_a_row_written_twice_in_one_batch_leaves_the_file_without_fault(path: Path) -> None:
    """A short value in place of a long one of the same transaction must not keep the long one's pages."""
    with closing(LmdbLog(path)) as log:
        author = Author(log)
        head = author.start("r", {f"k{number}": "x" * 900 for number in range(20)})
        long, short = (pack_state(author.state(head), compress=compress) for compress in (False, True))
        assert len(short.root) < 2_000 < len(long.root)
        log.write([Upkeep(head.run_key, long), Upkeep(head.run_key, short)])
        assert log.snapshot(head.run_key, 1) == short.root
    assert damage(path / "data.1" / "data.mdb") == ""


def _wide() -> tuple[Op, ...]:
    return tuple(Op("set", (f"k{number}",), freeze(os.urandom(300))) for number in range(30))


# --- full ----------------------------------------------------------------------------------------------------------


def test_a_full_map_fails_the_batch_and_nothing_else(path: Path) -> None:
    """Nothing of the batch is kept; reads and small appends go on; a larger map takes what did not fit."""
    with closing(LmdbLog(path, map_size=1 << 20)) as log:
        author = Author(log)
        head, small = author.start("big"), author.start("small")
        position = log.position()
        with pytest.raises(StoreFull, match="EVENTFLOW_MAP_SIZE"):
            log.write([author.then(small, MOVE), author.then(head, *(blob_move(60_000) for _ in range(30)))])
        assert (log.position(), log.head("big"), log.head("small")) == (position, head, small)
        assert len(log.feed(0, 99)) == position
        small = author.add(small, MOVE)
        assert small.version == 2
    with closing(LmdbLog(path, map_size=1 << 24)) as log:
        assert Author(log).add(head, *(blob_move(60_000) for _ in range(30))).version == 31


def test_a_limit_on_the_files_size_fails_the_batch_and_nothing_else(path: Path, child: Start) -> None:
    """Whatever the file system says when there is no room is StoreFull; what was acknowledged is safe."""

    def work() -> str:
        with closing(LmdbLog(path)) as log:
            author = Author(log)
            head = author.start("r")
            size = (path / "data.1" / "data.mdb").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
            with pytest.raises(StoreFull):
                author.add(head, *(blob_move(10_000) for _ in range(30)))
            assert (log.head("r"), log.position()) == (head, 2)
            head = author.add(head, MOVE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            head = author.add(head, *(blob_move(10_000) for _ in range(30)))
        return f"{head.version} {damage(path / 'data.1' / 'data.mdb')}"

    assert child(work).answer() == "32 "
    with closing(LmdbLog(path)) as log:
        assert len(log.feed(0, 999)) == 33


def test_a_disk_without_room_for_a_new_store_is_full(path: Path, child: Start) -> None:
    """Making a store where nothing can be written is StoreFull too; with room again it is finished."""

    def work() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        with pytest.raises(StoreFull):
            LmdbLog(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with closing(LmdbLog(path)) as log:
            return str(log.position())

    assert child(work).answer() == "1"
