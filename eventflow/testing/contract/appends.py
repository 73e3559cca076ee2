"""What an append must do in every log: versions, epochs, leases, batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eventflow.checkpoint import Checkpoint
from eventflow.codec import read_events
from eventflow.errors import (
    Conflict,
    Corrupt,
    Fenced,
    RunOwned,
    VersionConflict,
)
from eventflow.log import (
    NOBODY,
    STORE_RUN,
    Acted,
    Appended,
    Post,
    Posted,
    Query,
    store_genesis,
)
from eventflow.proof import digest, genesis
from eventflow.testing.author import DEFINITION, written
from eventflow.testing.contract.maker import LONG, MOVE, OTHER, OWNER, LogMaker, deletion, moved, raises, versions


class AppendContract(LogMaker):
    """Tests of appends."""

    def test_a_new_log_holds_its_own_first_event_and_nothing_else(self, tmp_path: Path) -> None:
        """Position 1 is the store's creation, chained to the store's id; there are no runs."""
        with self.author(tmp_path) as author:
            log = author.log
            [created] = read_events(log.feed(0, 10), log.blobs)
            assert (created.position, created.version, created.run_key) == (1, 1, STORE_RUN)
            assert len(log.store_id) == 16
            assert created.before == store_genesis(log.store_id)
            assert log.position() == 1
            assert not any([log.runs(Query()), log.ids("", 9), log.mail()])
            head = log.head_of(STORE_RUN)
            assert head is not None
            assert head.version == 1

    def test_a_run_begins_with_the_digest_it_was_given(self, tmp_path: Path) -> None:
        """Version 1 chains to the genesis of its run, and the head names its digest."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            [first] = read_events(log.read(head.run_key, 1, 1), log.blobs)
            assert first.before == genesis(log.store_id, "r", 1, DEFINITION)
            assert first.digest == head.digest == digest(log.read(head.run_key, 1, 1)[0].data)
            assert log.head("r") == log.head_of(head.run_key) == head
            assert (head.version, head.epoch, head.owner) == (1, 0, NOBODY)

    def test_each_event_carries_the_digest_of_the_one_before(self, tmp_path: Path) -> None:
        """A run's events form a chain over their stored bytes."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            for _ in range(5):
                head = author.add(head, MOVE, MOVE)
            stored = log.read(head.run_key, 1, head.version)
            events = read_events(stored, log.blobs)
            assert [one.version for one in events] == list(range(1, 12))
            assert [one.before for one in events[1:]] == [digest(one.data) for one in stored[:-1]]
            assert head.digest == digest(stored[-1].data)

    def test_an_append_is_answered_with_what_it_wrote(self, tmp_path: Path) -> None:
        """The answer names the new head, the last position, each event's digest and the bytes."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            answer = written(log, author.then(head, MOVE, moved("x", LONG)))
            assert isinstance(answer, Appended)
            stored = log.read(head.run_key, 2, 3)
            assert answer.position == log.position() == stored[-1].position == 4
            assert answer.digests == tuple(digest(one.data) for one in stored)
            assert answer.size == sum(len(one.data) for one in stored) + len(LONG)
            assert answer.head == log.head("r")

    def test_an_append_at_another_version_is_refused(self, tmp_path: Path) -> None:
        """Expecting too little or too much is a VersionConflict that names both, and writes nothing."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), MOVE)
            for expected in (0, 1, 3):
                [answer] = log.write([author.then(head, MOVE, expected=expected)])
                assert isinstance(answer, VersionConflict)
                assert (answer.run_id, answer.expected, answer.actual) == ("r", expected, 2)
            assert log.head("r") == head
            assert log.position() == 3

    def test_an_append_with_another_epoch_is_refused(self, tmp_path: Path) -> None:
        """A writer whose lease was taken over is Fenced."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            author.log.new_owner(OWNER)
            taken = author.add(head, MOVE, claim=OWNER)
            assert (taken.epoch, taken.owner) == (1, OWNER)
            [answer] = log.write([author.then(taken, MOVE, epoch=0)])
            assert isinstance(answer, Fenced)
            assert (answer.held, answer.actual) == (0, 1)
            assert log.head("r") == taken

    def test_an_append_to_a_run_that_never_began_is_refused(self, tmp_path: Path) -> None:
        """Without its first event a run can't be continued; nothing of it is kept."""
        with self.author(tmp_path) as author:
            log = author.log
            [answer] = log.write([replace(author.first("r"), first=None)])
            assert isinstance(answer, VersionConflict)
            assert log.head("r") is None
            assert log.position() == 1

    def test_the_second_start_of_an_id_is_refused(self, tmp_path: Path) -> None:
        """Two starts of one id, apart or in one batch: the first wins, the other is told the version."""
        with self.author(tmp_path) as author:
            log = author.log
            one, two, three = (author.first("r") for _ in range(3))
            won, lost = log.write([one, two])
            [late] = log.write([three])
            assert isinstance(won, Appended)
            for answer in (lost, late):
                assert isinstance(answer, VersionConflict)
                assert answer.actual == 1
            assert log.head("r") == won.head
            assert [listed.head for listed in log.runs(Query())] == [won.head]

    def test_a_living_run_is_not_replaced_by_a_higher_incarnation(self, tmp_path: Path) -> None:
        """Only a deleted run's id can be used again."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            [answer] = log.write([author.first("r", incarnation=2)])
            assert isinstance(answer, VersionConflict)
            assert log.head("r") == head

    def test_a_run_key_serves_one_run(self, tmp_path: Path) -> None:
        """A start under another run's key is refused and leaves that run as it was."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            [answer] = log.write([replace(author.first("s"), run_key=head.run_key)])
            assert isinstance(answer, Conflict)
            assert log.head("s") is None
            assert versions(log, head) == [1]

    def test_a_claim_raises_the_epoch_and_a_release_frees_the_run(self, tmp_path: Path) -> None:
        """Claiming again as the owner changes nothing; after a release the next claim takes a new epoch."""
        with self.author(tmp_path) as author:
            author.log.new_owner(OWNER)
            head = author.start("r", claim=OWNER)
            assert (head.epoch, head.owner) == (1, OWNER)
            head = author.add(head, MOVE, claim=OWNER)
            assert head.epoch == 1
            head = author.add(head, MOVE, release=True)
            assert (head.epoch, head.owner) == (1, NOBODY)
            head = author.add(head, claim=OWNER)
            assert (head.epoch, head.owner, head.version) == (2, OWNER, 3)

    def test_events_carry_the_epoch_of_their_writer(self, tmp_path: Path) -> None:
        """The event that takes a lease carries the raised epoch already."""
        with self.author(tmp_path) as author:
            author.log.new_owner(OWNER)
            head = author.add(author.start("r"), MOVE, claim=OWNER)
            events = read_events(author.log.read(head.run_key, 1, 2), author.log.blobs)
            assert [one.epoch for one in events] == [0, 1]

    def test_a_run_of_a_living_owner_is_not_taken(self, tmp_path: Path) -> None:
        """RunOwned while the owner lives; once it has ended, the claim takes over and fences it."""
        with self.author(tmp_path) as author:
            log = author.log
            end = log.new_owner(OWNER)
            log.new_owner(OTHER)
            head = author.start("r", claim=OWNER)
            assert not log.owner_gone(OWNER)
            assert log.holds(OWNER)
            [answer] = log.write([author.then(head, MOVE, claim=OTHER)])
            assert isinstance(answer, RunOwned)
            end()
            assert log.owner_gone(OWNER)
            taken = author.add(head, MOVE, claim=OTHER)
            assert (taken.epoch, taken.owner) == (2, OTHER)
            [answer] = log.write([author.then(replace(taken, epoch=1), MOVE)])
            assert isinstance(answer, Fenced)

    def test_nobody_and_unknown_owners_are_gone(self, tmp_path: Path) -> None:
        """A lease that names an owner nobody registered is free."""
        with self.author(tmp_path) as author:
            assert author.log.owner_gone(NOBODY)
            assert author.log.owner_gone(b"never registered"[:16])

    def test_a_conflict_in_a_batch_fails_alone(self, tmp_path: Path) -> None:
        """The writes around it are kept, positions stay dense, and nothing of it is left behind."""
        with self.author(tmp_path) as author:
            log = author.log
            one, two, three = (author.start(name) for name in ("one", "two", "three"))
            bad = author.then(two, moved("x", LONG), moved("y", 1), expected=7)
            bad = replace(bad, marks=(Checkpoint(9, ("auto",), 1),))
            answers = log.write([author.then(one, MOVE), bad, author.then(three, MOVE, MOVE)])
            assert [type(answer) for answer in answers] == [Appended, VersionConflict, Appended]
            assert log.head("two") == two
            assert (versions(log, two), log.checkpoints(two.run_key)) == ([1], [])
            assert [one.position for one in log.feed(0, 100)] == list(range(1, 8))
            with raises(Corrupt):
                log.blobs([digest(LONG.encode())])

    def test_writes_of_a_batch_see_those_before_them(self, tmp_path: Path) -> None:
        """A run may be started, continued, written to and deleted in one batch."""
        with self.author(tmp_path) as author:
            log, first = author.log, author.first("r")
            now = author.clock.now()
            post = Post(first.run_key, b"hello")
            started, posted = log.write([first, post])
            assert isinstance(started, Appended)
            assert isinstance(posted, Posted)
            go_on = author.then(started.head, MOVE, MOVE)
            later = replace(started.head, version=3)
            answers = log.write([go_on, author.then(later, MOVE), go_on])
            assert [type(answer) for answer in answers] == [Appended, Appended, VersionConflict]
            head = log.head("r")
            assert head is not None
            again = author.first("r", incarnation=2)
            answers = log.write([deletion(head, now), again])
            assert [type(answer) for answer in answers] == [Acted, Appended]
            assert log.inbox(first.run_key) == []

    def test_an_empty_batch_is_answered_with_nothing(self, tmp_path: Path) -> None:
        """No writes, no answers, no change."""
        with self.author(tmp_path) as author:
            assert author.log.write([]) == []
            assert author.log.position() == 1
