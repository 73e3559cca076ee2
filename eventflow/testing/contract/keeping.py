"""What every log must keep beside events: snapshots, checkpoints, messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eventflow.change import Op
from eventflow.checkpoint import Checkpoint
from eventflow.codec import pack, pack_state
from eventflow.errors import (
    Conflict,
    RunNotFound,
    VersionConflict,
)
from eventflow.event import CheckpointCreated, SignalReceived, Transitioned
from eventflow.log import (
    STORE_RUN,
    Act,
    Acted,
    Appended,
    Kept,
    Post,
    Posted,
    Upkeep,
)
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.testing.author import written
from eventflow.testing.contract.maker import MOVE, LogMaker, deletion, moved, versions


class KeepContract(LogMaker):
    """Tests of snapshots, checkpoints and the inbox."""

    def test_a_snapshot_counts_once_the_chain_vouches_for_it(self, tmp_path: Path) -> None:
        """Its row names the version of the event that vouches, 0 until there is one; newest first, up to a version."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), moved("x", 1))
            vouch = author.snapshot(head)
            assert log.snapshots(head.run_key, 9) == [(2, 0)]
            head = author.add(head, MOVE, MOVE, vouch=vouch)
            later = author.snapshot(head)
            assert log.snapshots(head.run_key, 9) == [(4, 0), (2, 3)]
            head = author.add(head, MOVE, vouch=later)
            assert log.snapshots(head.run_key, 4) == [(4, 5), (2, 3)]
            assert log.snapshots(head.run_key, 3) == [(2, 3)]
            assert log.snapshots(head.run_key, 9, limit=1) == [(4, 5)]
            assert log.snapshots(head.run_key, 1) == log.snapshots(b"?" * 16, 9) == []
            assert log.snapshot(head.run_key, 2) != log.snapshot(head.run_key, 4)
            assert log.snapshot(head.run_key, 3) is None
            assert recover(log, head).snapshot == 4

    def test_a_snapshot_of_unwritten_pieces_is_refused(self, tmp_path: Path) -> None:
        """A snapshot that takes a piece for known is kept only where that piece is; nothing else of its upkeep is done."""
        with self.author(tmp_path) as author:
            more = Transitioned("a", "a", change=(Op("extend", ("list",), freeze(["y" * 900] * 300)),))
            head = author.add(author.start("r"), moved("list", ["x" * 900] * 400), more)
            state = author.state(head)
            pack_state(state)
            packed = pack_state(state)
            assert packed.known
            marks = (Checkpoint(3, ("auto",), 5),)
            assert written(author.log, Upkeep(head.run_key, packed, marks, drop=(1,))) == Kept(snapshot=False)
            assert not author.log.snapshots(head.run_key, 9)
            assert not author.log.checkpoints(head.run_key)
            assert written(author.log, Upkeep(head.run_key, pack_state(state, anew=True), marks)) == Kept()
            assert written(author.log, Upkeep(head.run_key, packed)) == Kept()
            assert author.log.snapshots(head.run_key, 9) == [(3, 0)]

    def test_marks_at_one_version_become_one_checkpoint(self, tmp_path: Path) -> None:
        """Kinds add up, the first time and a given label stay, and bytes that exist are not forgotten."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            written(log, author.then(head, MOVE, marks=(Checkpoint(2, ("after_node",), 5, "kept", 70, b"d" * 32),)))
            written(
                log, Upkeep(head.run_key, marks=(Checkpoint(2, ("auto",), 9), Checkpoint(1, ("manual",), 9, "by hand")))
            )
            assert log.checkpoints(head.run_key) == [
                Checkpoint(1, ("manual",), 9, "by hand"),
                Checkpoint(2, ("auto", "after_node"), 5, "kept", 70, b"d" * 32),
            ]
            assert log.checkpoints(b"?" * 16) == []

    def test_an_unmarked_checkpoint_leaves_its_snapshot(self, tmp_path: Path) -> None:
        """Only the mark goes: recovery still starts from the bytes."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), moved("x", 1))
            head = author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(2, ("auto",), 5),))
            written(log, Upkeep(head.run_key, unmark=(2, 77)))
            assert not log.checkpoints(head.run_key)
            assert log.snapshots(head.run_key, 9) == [(2, 3)]
            assert recover(log, head).snapshot == 2

    def test_a_dropped_checkpoint_takes_its_snapshot_with_it(self, tmp_path: Path) -> None:
        """Mark, bytes and vouching go; the run's history stays, and so do the states that it folds to."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), moved("x", 1))
            head = author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(2, ("auto",), 5),))
            before = recover(log, head).state
            written(log, Upkeep(head.run_key, drop=(2, 77)))
            assert not log.snapshots(head.run_key, 9)
            assert not log.checkpoints(head.run_key)
            assert log.snapshot(head.run_key, 2) is None
            assert versions(log, head) == [1, 2, 3]
            assert recover(log, head).state == before
            written(log, Upkeep(head.run_key, pack_state(author.state(head, 2), anew=True)))
            assert log.snapshots(head.run_key, 9) == [(2, 0)]

    def test_a_message_waits_until_an_event_takes_it(self, tmp_path: Path) -> None:
        """Numbers rise over all runs; the event and the removal are one write, and a refused one removes nothing."""
        with self.author(tmp_path) as author:
            log, head, other = author.log, author.start("r"), author.start("s")
            numbers = []
            for key, data in ((head.run_key, b"one"), (other.run_key, b"two"), (head.run_key, b"three")):
                answer = written(log, Post(key, data))
                assert isinstance(answer, Posted)
                numbers.append(answer.message)
            assert numbers == sorted(set(numbers))
            assert log.inbox(head.run_key) == [(numbers[0], b"one"), (numbers[2], b"three")]
            assert sorted(log.mail()) == sorted([head.run_key, other.run_key])
            taking = author.then(head, SignalReceived("go", None, numbers[0]), taken=(numbers[0],))
            [refused] = log.write([replace(taking, expected=9)])
            assert isinstance(refused, VersionConflict)
            assert len(log.inbox(head.run_key)) == 2
            answer = written(log, taking)
            assert isinstance(answer, Appended)
            assert log.inbox(head.run_key) == [(numbers[2], b"three")]
            author.add(answer.head, MOVE, taken=(numbers[2],))
            assert log.inbox(head.run_key) == []
            assert log.mail() == [other.run_key]

    def test_a_message_is_taken_once(self, tmp_path: Path) -> None:
        """An append that takes what is not there is refused as a whole."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            posted = written(log, Post(head.run_key, b"once"))
            assert isinstance(posted, Posted)
            head = author.add(head, MOVE, taken=(posted.message,))
            [answer] = log.write([author.then(head, MOVE, taken=(posted.message,))])
            assert isinstance(answer, Conflict)
            assert log.head("r") == head

    def test_upkeep_and_messages_need_their_run(self, tmp_path: Path) -> None:
        """For a run that is not there they are answered with RunNotFound, and leave nothing."""
        with self.author(tmp_path) as author:
            log, nowhere = author.log, b"?" * 16
            upkeep = Upkeep(nowhere, marks=(Checkpoint(1, ("auto",), 1),))
            act = Act(pack(CheckpointCreated("r", nowhere, 1)), 1, upkeep)
            answers = log.write([upkeep, Post(nowhere, b"lost"), act])
            assert [type(answer) for answer in answers] == [RunNotFound] * 3
            assert not any([log.inbox(nowhere), log.checkpoints(nowhere), log.mail()])
            assert log.position() == 1

    # --- messages that ride along with an append

    def test_a_post_is_durable_with_the_append_it_rides_in(self, tmp_path: Path) -> None:
        """It is numbered like any message, in order, and to be found again after a reopening."""
        with self.author(tmp_path) as author:
            log, head, other = author.log, author.start("r"), author.start("s")
            first = written(log, Post(other.run_key, b"before"))
            posts = (Post(other.run_key, b"one"), Post(head.run_key, b"to itself"), Post(other.run_key, b"two"))
            answer = written(log, author.then(head, MOVE, posts=posts))
            assert isinstance(answer, Appended)
            assert isinstance(first, Posted)
            assert answer.head == log.head("r")
            assert [data for _, data in log.inbox(other.run_key)] == [b"before", b"one", b"two"]
            assert [data for _, data in log.inbox(head.run_key)] == [b"to itself"]
            numbers = [number for key in (other.run_key, head.run_key) for number, _ in log.inbox(key)]
            assert len({*numbers}) == 4
            assert min(numbers) == first.message
            last = written(log, Post(other.run_key, b"after"))
            assert isinstance(last, Posted)
            assert last.message > max(numbers)
            waiting = log.inbox(other.run_key)
            again = self.reopen(log)
            if again is not None:
                assert again.inbox(other.run_key) == waiting
                again.close()

    def test_a_post_to_a_run_that_is_not_there_is_left_out(self, tmp_path: Path) -> None:
        """The append is written as if nobody had been told: who is gone needs no news, nor does the store's own stream."""
        with self.author(tmp_path) as author:
            log, head, other = author.log, author.start("r"), author.start("s")
            gone = author.start("gone")
            assert isinstance(written(log, deletion(gone, author.clock.now())), Acted)
            nowhere = (Post(b"?" * 16, b"lost"), Post(gone.run_key, b"late"), Post(STORE_RUN, b"nobody reads this"))
            head = author.add(head, MOVE, posts=(*nowhere, Post(other.run_key, b"there")))
            assert versions(log, head) == [1, 2]
            assert [data for _, data in log.inbox(other.run_key)] == [b"there"]
            assert log.mail() == [other.run_key]

    def test_an_append_that_is_refused_posts_nothing(self, tmp_path: Path) -> None:
        """At another version, epoch or for a message that was taken; and what else is in the batch is not held up."""
        with self.author(tmp_path) as author:
            log, head, other = author.log, author.start("r"), author.start("s")
            posts = (Post(other.run_key, b"never"),)
            refused = [
                author.then(head, MOVE, posts=posts, expected=7), author.then(head, MOVE, posts=posts, epoch=3),
                author.then(head, MOVE, posts=posts, taken=(99,)), replace(author.first("r"), posts=posts),
            ]  # fmt: skip
            answers = log.write([*refused, author.then(head, MOVE, posts=(Post(other.run_key, b"now"),))])
            assert all(isinstance(answer, Conflict) for answer in answers[:4])
            assert isinstance(answers[4], Appended)
            assert [data for _, data in log.inbox(other.run_key)] == [b"now"]

    def test_a_post_may_go_to_a_run_that_begins_in_the_same_batch(self, tmp_path: Path) -> None:
        """Before it, it is to nobody; a run's first append may post too, even to itself."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            begins = author.first("s")
            early, late = (
                author.then(head, MOVE, posts=(Post(begins.run_key, b"early"),)),
                Post(begins.run_key, b"late"),
            )
            begins = replace(begins, posts=(Post(head.run_key, b"hello"), Post(begins.run_key, b"to myself")))
            follows = author.then(replace(head, version=2), MOVE, posts=(late,))
            answers = log.write([early, begins, follows])
            assert [type(answer) for answer in answers] == [Appended] * 3
            assert [data for _, data in log.inbox(begins.run_key)] == [b"to myself", b"late"]
            assert [data for _, data in log.inbox(head.run_key)] == [b"hello"]
