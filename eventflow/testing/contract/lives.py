"""What becomes of runs and of the log itself: forks, deletion, many threads, opening again."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from eventflow.change import Op
from eventflow.checkpoint import Checkpoint
from eventflow.codec import TOMBSTONE, Stored, encode, pack, pack_state, read_events
from eventflow.errors import (
    Conflict,
    HasForks,
    RunNotFound,
    VersionConflict,
    VersionNotFound,
)
from eventflow.event import CheckpointCreated, RunDeleted, Transitioned
from eventflow.log import (
    NOBODY,
    STORE_RUN,
    Act,
    Acted,
    Head,
    Log,
    Post,
    Query,
    Upkeep,
)
from eventflow.plain import freeze
from eventflow.proof import digest
from eventflow.recovery import recover
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import LONG, MOVE, LogMaker, deletion, moved, versions

READERS, ROUNDS = 4, 150  # threads that read, and appends they read through: enough to meet an append half-way


class LifeContract(LogMaker):
    """Tests of forks, deletion, threads and opening again."""

    def test_a_fork_goes_on_with_its_parents_numbers(self, tmp_path: Path) -> None:
        """Its first version follows the parent's; the parent knows its children."""
        with self.author(tmp_path) as author:
            log, parent = author.log, author.add(author.start("r"), MOVE, MOVE)
            child = author.fork(parent, 2, "child")
            assert (child.version, versions(log, child)) == (3, [3])
            assert log.bends(child.run_key) == [3]
            assert log.children(parent.run_key) == [child.run_key]
            assert log.children(child.run_key) == log.children(NOBODY) == []
            entry = log.entry(child.run_key)
            assert entry is not None
            assert (entry.parent_id, entry.parent_key, entry.parent_at) == ("r", parent.run_key, 2)
            child = author.rewind(author.add(child, MOVE), 3)
            assert log.bends(child.run_key) == [3, 5]

    def test_a_fork_needs_its_parent(self, tmp_path: Path) -> None:
        """A fork from a version the parent has not, or of a run that was deleted meanwhile, is refused."""
        with self.author(tmp_path) as author:
            log, parent = author.log, author.add(author.start("r"), MOVE)
            fork = author.forking(parent, 2, "child")
            assert fork.first is not None
            far = replace(fork.first, at=9, entry=replace(fork.first.entry, parent_at=9))
            other = replace(fork.first, entry=replace(fork.first.entry, parent_at=1))
            answers = log.write(
                [replace(fork, expected=9, first=far), replace(fork, first=other), deletion(parent, 1), fork]
            )
            assert [type(answer) for answer in answers] == [VersionNotFound, VersionNotFound, Acted, RunNotFound]
            assert log.head("child") is None

    def test_a_deleted_run_leaves_tombstones(self, tmp_path: Path) -> None:
        """Its positions hold the digests of its events; no list, index or inbox knows it; the store's stream tells."""
        with self.author(tmp_path) as author:
            log, other = author.log, author.start("s")
            head = author.add(author.start("r", tags=("red",)), moved("x", "y" * 5_000))
            head = author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(2, ("auto",), 5),))
            written(log, Post(head.run_key, b"too late"))
            stored = log.read(head.run_key, 1, 3)
            assert written(log, deletion(head, author.clock.now())) == Acted(2)
            places = {one.position: one.data for one in log.feed(0, 99)}
            assert [places[one.position] for one in stored] == [TOMBSTONE + digest(one.data) for one in stored]
            assert [one.head for one in log.runs(Query())] == [other]
            assert (log.runs(Query(tag="red")), log.ids("r", 9), log.head("r"), log.head_of(head.run_key)) == (
                [],
                [],
                None,
                None,
            )
            assert not any([log.read(head.run_key, 1, 9), log.snapshots(head.run_key, 9), log.inbox(head.run_key)])
            assert not any([log.checkpoints(head.run_key), log.mail(), log.bends(head.run_key)])
            last = read_events(log.feed(log.position() - 1, 1), log.blobs)[0]
            assert isinstance(last.event, RunDeleted)
            assert (last.run_key, last.version) == (STORE_RUN, 2)

    def test_the_id_of_a_deleted_run_takes_a_higher_incarnation(self, tmp_path: Path) -> None:
        """The old number is refused, the next one begins a run of its own."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            written(log, deletion(head, 1))
            assert log.next_incarnation("r") == 2
            [answer] = log.write([author.first("r", incarnation=1)])
            assert isinstance(answer, VersionConflict)
            again = author.start("r")
            assert (again.incarnation, again.version) == (2, 1)
            assert again.digest != head.digest
            written(log, deletion(again, 1))
            assert log.next_incarnation("r") == 3

    def test_only_the_run_that_was_looked_at_is_deleted(self, tmp_path: Path) -> None:
        """If the run has gone on since, or is gone, deleting it is a conflict and leaves no event."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            newer = author.add(head, MOVE)
            [answer] = log.write([deletion(head, 1)])
            assert isinstance(answer, VersionConflict)
            assert log.head("r") == newer
            first, second = log.write([deletion(newer, 1), deletion(newer, 1)])
            assert (type(first), type(second)) == (Acted, VersionConflict)
            assert log.position() == 4

    def test_a_run_with_forks_is_not_deleted(self, tmp_path: Path) -> None:
        """HasForks while a child lives; once the child is deleted, the parent can be."""
        with self.author(tmp_path) as author:
            log, parent = author.log, author.start("r")
            child = author.fork(parent, 1, "child")
            [answer] = log.write([deletion(parent, 1)])
            assert isinstance(answer, HasForks)
            assert log.head("r") == parent
            answers = log.write([deletion(child, 1), deletion(parent, 1)])
            assert [type(answer) for answer in answers] == [Acted, Acted]

    def test_operations_by_hand_are_events_of_the_stores_own_stream(self, tmp_path: Path) -> None:
        """Their versions are given inside the write; what they do is done with them."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            mark = Checkpoint(1, ("manual",), 5, "before lunch")
            act = Act(pack(CheckpointCreated("r", head.run_key, 1)), 7, Upkeep(head.run_key, marks=(mark,)))
            assert log.write([act, act]) == [Acted(2), Acted(3)]
            assert log.checkpoints(head.run_key) == [mark]
            events = read_events(log.read(STORE_RUN, 1, 9), log.blobs)
            assert [one.version for one in events] == [1, 2, 3]
            assert [one.before for one in events[1:]] == [one.digest for one in events[:-1]]
            own = log.head_of(STORE_RUN)
            assert own is not None
            assert own.digest == events[-1].digest

    def test_an_operation_that_cant_be_done_leaves_nothing(self, tmp_path: Path) -> None:
        """If one half of it is refused, the other is not done and no event tells of it."""
        with self.author(tmp_path) as author:
            log = author.log
            more = Transitioned("a", "a", change=(Op("extend", ("list",), freeze(["y" * 900] * 300)),))
            head = author.add(author.start("r"), moved("list", ["x" * 900] * 400), more)
            state = author.state(head)
            pack_state(state)
            unwritten = Upkeep(head.run_key, pack_state(state), (Checkpoint(3, ("manual",), 5),))
            other, changed = author.start("s"), author.start("t")
            newer = author.add(changed, MOVE)
            position = log.position()
            marks = Upkeep(head.run_key, marks=(Checkpoint(3, ("manual",), 5),))
            answers = log.write([
                replace(deletion(other, 1), upkeep=unwritten), replace(deletion(changed, 1), upkeep=marks),
            ])  # fmt: skip
            assert all(isinstance(answer, Conflict) for answer in answers)
            assert (log.head("s"), log.head("t"), log.position()) == (other, newer, position)
            assert not log.checkpoints(head.run_key)

    def test_many_threads_read_while_one_writes(self, tmp_path: Path) -> None:
        """Whatever a reader meets is a whole prefix of what was written."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            problems: list[BaseException] = []
            done = threading.Event()

            def look() -> None:
                try:
                    while not done.is_set():
                        seen = log.head("r")
                        stored = log.read(head.run_key, 1, 1 << 40)
                        _check_prefix(stored, seen)
                        assert [one.position for one in log.feed(0, 1 << 20)][-1] >= len(stored)
                        assert len(log.runs(Query())) == 1
                except BaseException as error:  # noqa: BLE001 - told to the test's own thread
                    problems.append(error)

            readers = [threading.Thread(target=look) for _ in range(READERS)]
            for reader in readers:
                reader.start()
            newest = head
            for _ in range(ROUNDS):
                newest = author.add(newest, MOVE, MOVE)
            done.set()
            for reader in readers:
                reader.join()
            assert not problems
            assert newest.version == 1 + 2 * ROUNDS

    def test_a_log_that_outlives_its_process_is_the_same_when_opened_again(self, tmp_path: Path) -> None:
        """Heads, events, blobs, checkpoints, messages and incarnations are all there."""
        log = self.make_log(tmp_path)
        author = Author(log)
        head = author.add(author.start("r", tags=("red",)), moved("text", LONG))
        head = author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(2, ("auto",), 5),))
        written(log, Post(head.run_key, b"x"))
        written(log, deletion(author.start("gone"), 1))
        before = _everything(log, head)
        again = self.reopen(log)
        if again is None:
            log.close()
            return
        try:
            assert _everything(again, head) == before
        finally:
            again.close()


def _check_prefix(stored: list[Stored], seen: Head | None) -> None:
    assert seen is not None
    assert len(stored) >= seen.version
    assert len(stored) % 2  # appends of two come whole
    assert digest(stored[seen.version - 1].data) == seen.digest


def _everything(log: Log, head: Head) -> dict[str, object]:
    return {
        "store": log.store_id,
        "events": log.feed(0, 99),
        "runs": log.runs(Query(tag="red")),
        "state": encode(dict(recover(log, head).state.data)),
        "snapshots": log.snapshots(head.run_key, 9),
        "checkpoints": log.checkpoints(head.run_key),
        "inbox": log.inbox(head.run_key),
        "incarnation": log.next_incarnation("gone"),
    }
