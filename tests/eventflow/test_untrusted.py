"""Stores from anybody: nothing they are made of follows a link, ends this process, takes its time, or is believed unproved."""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import lmdb
import pytest

from eventflow.errors import Corrupt, ProofFailed, StoreBusy, StoreNotFound, StoreUnusable
from eventflow.exchange import read_export
from eventflow.log import LmdbLog, Query
from eventflow.log.lmdb.environment import damage
from eventflow.log.lmdb.tables import TABLES
from eventflow.untrusted import Examiner, Took, export_untrusted, verify_untrusted
from eventflow.untrusted import __main__ as serving
from eventflow.verification import Report

MUTANTS = 60  # stores
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
STORES = int(os.environ.get("EVENTFLOW_STORES", "10000" if FULL else MUTANTS))  # some 30 ms of a processor each
FRESH = 25 if FULL else 5  # stores that have a fresh process each
WORKERS = min(os.cpu_count() or 1, 4)
PAGE = 4096


@pytest.fixture
def store(tmp_path: Path, fill) -> Path:
    """A store with three runs, closed."""
    fill(tmp_path / "s", "a", "b", "c")
    return tmp_path / "s"


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """The process that examines, begun once for many stores."""
    with Examiner() as one:
        yield one


def data(store: Path) -> Path:
    """Its LMDB file."""
    return store / "data.1" / "data.mdb"


def content(store: Path) -> dict[str, bytes]:
    """Every byte of every file."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


# --- sound stores --------------------------------------------------------------------------------------------------


def test_a_sound_store_holds_and_stays_as_it_is(store):
    """What is found is what a verification in this process finds; not a byte of the store, nor its directory, changes."""
    before, names = content(store), sorted(store.rglob("*"))
    report = verify_untrusted(store)
    assert (report.findings, report.runs) == ([], 3)
    assert (content(store), sorted(store.rglob("*"))) == (before, names)


def test_a_store_that_is_in_use_is_read_all_the_same(store, examiner):
    """On a copy, and where it lies."""
    with closing(LmdbLog(store)) as log:
        for _ in range(3):
            assert examiner.verify(store).findings == []
            assert examiner.verify(store, own=True).findings == []
        assert log.position() > 0


def test_no_copy_that_a_commit_fell_into_is_examined(store, examiner, fill, child):
    """Under a writer a store is found sound, or too busy to be copied; never broken."""

    def write(say) -> None:
        for number in range(10_000):
            fill(store, f"more-{number}", heavy=10)
            say("more")

    writer = child(write)
    writer.line()
    for _ in range(4):
        with suppress(StoreBusy):
            assert examiner.verify(store).findings == []
        assert examiner.verify(store, own=True).findings == []
    writer.kill()


def test_a_sound_store_is_exported_by_the_child(store, tmp_path):
    """The export holds all of it, and proves itself."""
    export_untrusted(store, tmp_path / "x.cborseq")
    log = read_export(tmp_path / "x.cborseq")
    with closing(LmdbLog(store, readonly=True)) as original:
        assert [one.data for one in log.feed(0, 99)] == [one.data for one in original.feed(0, 99)]


def test_progress_is_told(store, examiner):
    """Runs and events, rising."""
    seen = []
    examiner.verify(store, progress=lambda runs, events: seen.append((runs, events)))
    assert seen == sorted(seen)
    assert seen[-1][0] == 3


# --- what it looks like --------------------------------------------------------------------------------------------


def _link_root(store: Path) -> None:
    store.rename(store.with_name("real"))
    store.symlink_to(store.with_name("real"))


def _linked(name: str) -> Callable[[Path], None]:
    def change(store: Path) -> None:
        path = store / name
        path.rename(store.parent / "elsewhere")
        path.symlink_to(store.parent / "elsewhere")

    return change


def _pipe(store: Path) -> None:
    data(store).unlink()
    os.mkfifo(data(store))


def _current(text: str) -> Callable[[Path], None]:
    return lambda store: (store / "CURRENT").write_text(text) and None


def _cut_mark(store: Path) -> None:
    (store / "data.1" / "mark").write_bytes(bytes(1 << 20))


SHAPES = {
    "link to a store": _link_root, "linked CURRENT": _linked("CURRENT"), "linked directory": _linked("data.1"),
    "linked file": _linked("data.1/data.mdb"), "linked mark": _linked("data.1/mark"), "pipe": _pipe,
    "CURRENT elsewhere": _current("../../etc\n"), "CURRENT absolute": _current("/etc\n"), "CURRENT of dots": _current("data.1/..\n"),
    "CURRENT of another": _current("data.7\n"), "CURRENT empty": _current(""), "huge mark": _cut_mark,
    "no whole pages": lambda store: os.truncate(data(store), 5_000), "empty": lambda store: os.truncate(data(store), 0),
    "gone": lambda store: data(store).unlink(), "not LMDB": lambda store: data(store).write_bytes(b"hell" * PAGE) and None,
}  # fmt: skip


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_what_does_not_look_like_a_store_is_a_finding(store, examiner, change):
    """No link is followed, no pipe waited for, no name from a file used as a path."""
    change(store)
    report = examiner.verify(store)
    assert len(report.findings) == 1
    assert tempfile.gettempdir() not in report.findings[0].problem.replace(str(store), "")  # nothing of the copy
    assert (report.runs, report.events) == (0, 0)


def test_where_there_is_nothing_there_is_no_store(tmp_path):
    """That is not found, and no damage."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StoreNotFound):
            verify_untrusted(path)


# --- what is in it -------------------------------------------------------------------------------------------------


def _edit(store: Path, at: int, new: bytes) -> None:
    with data(store).open("r+b") as file:
        file.seek(at)
        file.write(new)


def test_the_one_bit_that_no_check_of_the_structure_sees_is_found(store, examiner):
    """DUPSORT in a meta page's flags of the free pages: clean for LMDB's own check, the end of whoever writes first."""
    for page in (0, 1):
        _edit(store, page * PAGE + 16 + 24 + 4, b"\x0c")
    assert damage(data(store)) == ""
    (finding,) = examiner.verify(store).findings
    assert "would end who writes to it" in finding.problem
    with pytest.raises(Corrupt, match="would end who writes to it"):
        LmdbLog(store)


def test_without_that_look_the_first_writer_is_aborted(store):
    """The control: LMDB opens such a file, reads all of it, and dies in the first write."""
    for page in (0, 1):
        _edit(store, page * PAGE + 16 + 24 + 4, b"\x0c")
    script = (
        "import lmdb, sys; env = lmdb.open(sys.argv[1], max_dbs=20); t = env.open_db(b'store');\n"
        "for n in range(50):\n"
        "    with env.begin(write=True) as txn: txn.put(b'x%d' % n, bytes(3000), db=t); txn.delete(b'x%d' % (n - 1), db=t)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store / "data.1")], capture_output=True, check=False)
    assert done.returncode != 0


def test_a_flipped_bit_in_a_transactions_number_is_a_rollback_and_noticed(store, examiner):
    """The engine would choose the older of two meta pages, with a sound and older history; the mark knows better."""
    numbers = [
        struct.unpack_from("<Q", data(store).read_bytes(), page * PAGE + 16 + 24 + 48 * 2 + 8)[0] for page in (0, 1)
    ]
    newer = numbers.index(max(numbers))
    _edit(
        store,
        newer * PAGE + 16 + 24 + 48 * 2 + 8,
        struct.pack("<Q", max(numbers) ^ (1 << (max(numbers).bit_length() - 1))),
    )
    (finding,) = examiner.verify(store).findings
    assert "rolled back" in finding.problem
    (store / "data.1" / "mark").unlink()
    assert examiner.verify(store).findings == []  # the control: nothing inside the file tells


def test_a_forged_row_is_found_and_named(store, examiner):
    """Structure and first look are fine; the audit compares it with everything that speaks of it."""
    with lmdb.open(str(store / "data.1"), max_dbs=len(TABLES)) as env:
        table = env.open_db(b"names", create=False)
        with env.begin(write=True) as txn:
            row = txn.get(b"b", db=table)
            txn.put(b"b", row[:84] + b"\x05" + row[85:], db=table)
    findings = examiner.verify(store).findings
    assert {one.run for one in findings} == {"b"}


def test_a_damaged_store_is_not_exported(store, tmp_path):
    """Nothing of it is written down."""
    os.truncate(data(store), data(store).stat().st_size // 2 // PAGE * PAGE)
    with pytest.raises(ProofFailed, match="does not hold"):
        export_untrusted(store, tmp_path / "x.cborseq")
    assert not (tmp_path / "x.cborseq").exists()


# --- the child -----------------------------------------------------------------------------------------------------


def test_a_child_that_dies_is_a_finding(store, monkeypatch):
    """What ends the process that reads is told by the signal's name; the one that asks goes on."""
    with Examiner() as examiner:
        big = store.parent / "big"
        shutil.copytree(store, big)
        assert examiner.verify(store).findings == []
        answers = [{"ended": "ended the process that read it (SIGBUS)", "seconds": 0.0, "peak": 0}]
        monkeypatch.setattr(examiner, "_answer", answers.pop)
        (finding,) = examiner.verify(big).findings
    assert finding.problem == "ended the process that read it (SIGBUS); nothing of it was believed"


def test_the_process_that_waits_tells_what_ended_the_other():
    """By a signal, by its time, by an error, or in order."""

    def ended(work: Callable[[], object], seconds: float = 5.0) -> str:
        pid = os.fork()
        if not pid:
            faulthandler.disable()  # what ends this process is wanted
            work()
            os._exit(0)
        return serving.wait(pid, seconds).problem

    assert ended(lambda: os.kill(os.getpid(), 7)) == "ended the process that read it (SIGBUS)"
    assert ended(partial(time.sleep, 30), 0.05) == "took longer than 0.05 s"
    assert ended(lambda: os._exit(3)) == "ended the process that read it with an error"
    assert ended(lambda: None) == ""


def test_what_an_examination_took_is_told(store):
    """Seconds of the processor and bytes of memory, of the process that read the store and of no other."""
    with Examiner() as examiner:
        examiner.verify(store)
        assert 0 < examiner.took.seconds < 5
        assert 10 << 20 < examiner.took.peak < 512 << 20
    pid = os.fork()
    if not pid:
        held = bytearray(200 << 20)
        os._exit(len(held) & 0)
    assert 200 << 20 < serving.wait(pid, 30.0).peak < 1 << 30


def test_an_interrupt_is_for_the_process_that_asks():
    """Ctrl-C reaches all of a terminal's processes: these are not among them, and end with the block."""
    examiner = Examiner()
    with suppress(KeyboardInterrupt), examiner:
        assert os.getpgid(examiner._child.pid) == examiner._child.pid != os.getpgrp()
        raise KeyboardInterrupt
    assert examiner._child.returncode == -signal.SIGKILL


def test_a_child_that_can_t_be_asked_any_more_is_told(store):
    """Somebody ended it: that is no word about the store."""
    with Examiner() as examiner:
        examiner._child.kill()
        examiner._child.wait()
        with pytest.raises(StoreUnusable, match="try again"):
            examiner.verify(store)


# --- mutants -------------------------------------------------------------------------------------------------------


def mutant(whole: bytes, older: bytes, chance: random.Random) -> bytes:
    """A file with one thing wrong: a bit, bytes, a sector, a page, its length, two pages exchanged, or a page of before."""
    changed = bytearray(whole)
    pages = len(whole) // PAGE
    at = chance.randrange(len(whole)) if chance.random() < 0.7 else chance.randrange(2 * PAGE)
    one, two = chance.randrange(pages) * PAGE, chance.randrange(pages) * PAGE
    match chance.randrange(7):
        case 0:
            changed[at] ^= 1 << chance.randrange(8)
        case 1:
            changed[at : at + 8] = chance.randbytes(min(8, len(whole) - at))
        case 2:
            sector = at // 512 * 512
            changed[sector : sector + 512] = chance.choice([bytes(512), b"\xff" * 512, chance.randbytes(512)])
        case 3:
            changed[one : one + PAGE] = chance.choice([bytes(PAGE), chance.randbytes(PAGE)])
        case 4:
            del changed[max(at // PAGE, 1) * PAGE :]
        case 5:
            changed[one : one + PAGE], changed[two : two + PAGE] = changed[two : two + PAGE], changed[one : one + PAGE]
        case 6:
            stale = older[one : one + PAGE]
            changed[one : one + len(stale)] = stale
    return bytes(changed)


def feed(store: Path) -> tuple[list[bytes], list[object]]:
    """Everything that a store says but who drives a run, which nobody's history tells."""
    with closing(LmdbLog(store, readonly=True)) as log:
        heads = [one.head for one in log.runs(Query())]
        ends = [(one.run_id, one.run_key, one.version, one.digest, one.status, one.waiting_for) for one in heads]
        return [one.data for one in log.feed(0, 999)], ends


@dataclass
class Seen:
    """What mutants came to: how many were told, whether one was believed, and what one took at its most."""

    told: int = 0
    wrong: list[int] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0

    def look(self, number: int, report: Report, took: Took, says: Callable[[], bool]) -> None:
        """Count one; a store in which nothing is found must say what the original says."""
        self.told += bool(report.findings)
        self.seconds, self.peak = max(self.seconds, took.seconds), max(self.peak, took.peak)
        if not report.findings and not says():
            self.wrong.append(number)


def examined(store: Path, numbers: range, whole: bytes, older: bytes, said: object) -> Seen:
    """Mutants by their numbers, which are their seeds, each examined in a process of its own."""
    seen = Seen()
    with Examiner() as examiner:
        for number in numbers:
            chance = random.Random(number)  # noqa: S311 - a seed that can be repeated
            data(store).write_bytes(mutant(whole, older, chance))
            seen.look(number, examiner.verify(store), examiner.took, lambda: feed(store) == said)
    return seen


@pytest.mark.slow
def test_no_mutant_ends_this_process_or_is_believed(store, fill, record_property):
    """Each is found broken, or says exactly what the original says; each within a second and 512 MiB."""
    older = data(store).read_bytes()
    fill(store, "d", "e")
    whole, said = data(store).read_bytes(), feed(store)
    copies = [store.with_name(f"s{worker}") for worker in range(WORKERS)]
    for copy in copies:
        shutil.copytree(store, copy)
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = [range(worker, STORES, WORKERS) for worker in range(WORKERS)]
        every = list(pool.map(lambda job: examined(*job, whole, older, said), zip(copies, shares, strict=True)))
    told = sum(one.told for one in every)
    assert [number for one in every for number in one.wrong] == []
    assert STORES / 4 < told < STORES
    assert max(one.seconds for one in every) < 1.0  # of the process that reads
    assert max(one.peak for one in every) < 512 << 20
    slowest, largest = max(one.seconds for one in every), max(one.peak for one in every) >> 20
    record_property(
        "figures",
        f"{STORES:,} mutated stores: {told:,} told, the others say what they said; at most {slowest:.2f} s of the "
        f"processor and {largest:,} MiB each",
    )


def test_a_process_of_its_own_for_one_store_finds_the_same(store, examiner, fill):
    """What a caller asks for one store begins a fresh process; it finds what one that examines many finds."""
    older = data(store).read_bytes()
    fill(store, "d", "e")
    whole = data(store).read_bytes()
    for number in range(FRESH):
        data(store).write_bytes(mutant(whole, older, random.Random(number)))  # noqa: S311 - a seed that can be repeated
        assert verify_untrusted(store) == examiner.verify(store)


def test_read_without_a_child_mutants_end_the_process(store, fill, child):
    """The control: LMDB alone, asked for every row, is killed by some of the same files."""
    older = data(store).read_bytes()
    fill(store, "d", "e")
    chance = random.Random(5)  # noqa: S311 - a seed that can be repeated
    whole, killed = data(store).read_bytes(), 0

    def read_all() -> str:
        faulthandler.disable()
        with lmdb.open(str(store / "data.1"), max_dbs=len(TABLES), readonly=True, lock=False, create=False) as env:
            rows = 0
            for table in TABLES:
                with env.begin(db=env.open_db(table, create=False)) as txn:
                    rows += sum(len(value) for _, value in txn.cursor())
        return str(rows)

    for _ in range(MUTANTS):
        data(store).write_bytes(mutant(whole, older, chance))
        killed += child(read_all).answer().startswith("signal")
    assert killed >= MUTANTS / 20
