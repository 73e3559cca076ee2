"""One LMDB file and several processes: turns, locks, forks, kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import (
    StoreBusy,
    StoreClosed,
    StoreUnusable,
    VersionConflict,
)
from eventflow.event import Transitioned
from eventflow.log import Appended, LmdbLog, Log, Post, Query, Writer
from eventflow.log.lmdb.environment import READER_CHECK_EVERY
from eventflow.log.lmdb.files import Gate
from eventflow.log.lmdb.writing import Batch
from eventflow.testing.author import Author, written

MOVE = Transitioned("a", "a")
Start = Callable[[Callable[..., object]], Any]


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


# --- several processes ---------------------------------------------------------------------------------------------


def test_two_processes_that_append_to_one_run_take_turns(filled: Path, child: Start) -> None:
    """Of two appends at one version exactly one wins; versions and positions stay dense."""

    def work() -> str:
        won = []
        with closing(LmdbLog(filled)) as log:
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
    with closing(LmdbLog(filled)) as log:
        events = read_events(log.feed(0, 999), log.blobs)
        assert [one.position for one in events] == list(range(1, 182))
        assert [one.version for one in events[1:]] == list(range(1, 181))
        assert [one.before for one in events[2:]] == [one.digest for one in events[1:-1]]


def test_a_process_that_is_stopped_in_the_middle_of_a_write_is_named(
    filled: Path, child: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another one wrote last: who follows others says who it is."""

    def stopped(self: Batch, batch: object) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def work(say: Callable[[str], None]) -> None:
        with closing(LmdbLog(filled)) as log:
            say("open")
            seen = log.position()
            while log.position() == seen:
                time.sleep(0.001)
            monkeypatch.setattr(Batch, "apply", stopped)
            log.write([Post(log.runs(Query())[0].head.run_key, b"")])

    holder = child(work)
    assert holder.line() == "open"
    with closing(LmdbLog(filled, gate_timeout=0.2)) as log:
        head = log.head("r")
        assert head is not None
        written(log, Author(log).then(head, MOVE))
        moved = log.head("r")
        assert moved is not None
        with pytest.raises(StoreBusy, match=f"process {holder.pid};"):
            _post_for_ever(log, moved.run_key)
    holder.kill()


def _post_for_ever(log: Log, run_key: bytes) -> None:
    while True:
        log.write([Post(run_key, b"")])


def test_a_stopped_process_at_the_gate_is_named(filled: Path, child: Start) -> None:
    """Writing, and opening to write, raise StoreBusy with its process id; opening to read does not wait."""

    def work(say: Callable[[str], None]) -> None:
        gate = Gate(filled)
        with gate.held():
            gate.name_holder()
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
            if not os.fork():
                say(str(os.getpid()))
            time.sleep(30)

    holder = child(work)
    grandchild = int(holder.line())
    holder.kill()
    holder.end()
    try:
        with closing(LmdbLog(filled, gate_timeout=0.5)) as log:
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
        with closing(LmdbLog(filled)) as own:
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

    def keep(say: Callable[[str], None]) -> None:
        log = LmdbLog(filled, readonly=True)  # while a store is open somewhere, LMDB itself clears nothing
        say(str(log.position()))
        time.sleep(30)

    assert child(keep).line() == "101"
    reader = child(work)
    assert reader.line() == "reading"
    reader.kill()
    reader.end()
    with closing(LmdbLog(filled)) as log:
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
        with closing(LmdbLog(path)) as log:
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
