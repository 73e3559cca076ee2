"""Queues: who is given which runs, in which order, and within which limits."""

from __future__ import annotations

from pathlib import Path

from eventflow.errors import Fenced, VersionConflict
from eventflow.event import Failure as Why
from eventflow.event import RunFailed, RunResumed, RunSuspended, Transitioned, WaitOpened
from eventflow.log import NOBODY, Claim, Claimed, Head, Limits, Log
from eventflow.testing.author import DEFINITION, Author, written
from eventflow.testing.contract.maker import OTHER, OWNER, LogMaker, deletion, raises

_FOR_EVER = 1 << 62  # ns; later than any claim here


def claimed(
    author: Author, room: int = 10, *, owner: bytes = OWNER, workflow: str = "flow", **limits: object
) -> list[Head]:
    """What a claim of queue "q" is given."""
    author.clock.advance(1)
    found = Limits(**limits)  # type: ignore[arg-type] # the tests name its fields
    answer = written(author.log, Claim(owner, "q", frozenset({workflow}), room, found, author.clock.now()))
    assert isinstance(answer, Claimed)
    return list(answer.heads)


def names(heads: list[Head]) -> list[str]:
    """Their run ids."""
    return [head.run_id for head in heads]


def waiting(log: Log) -> list[str]:
    """Which runs of queue "q" wait, in their order."""
    return [one.head.run_id for one in log.queued("q") if not one.taken]


def taken(log: Log) -> list[str]:
    """Which runs of queue "q" a living process has."""
    return sorted(one.head.run_id for one in log.queued("q") if one.taken)


class QueueContract(LogMaker):
    """Tests of queues."""

    def test_runs_are_given_out_by_priority_and_then_by_age(self, tmp_path: Path) -> None:
        """Each is given once, its epoch rises, and its lease is the owner's."""
        with self.author(tmp_path) as author:
            log = author.log
            log.new_owner(OWNER)
            log.new_owner(OTHER)
            for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -3), ("e", 5)):
                author.start(name, queue="q", priority=priority)
            author.start("elsewhere", queue="other")
            author.start("nowhere")
            assert waiting(log) == ["b", "e", "a", "c", "d"]
            assert [one.head.run_id for one in log.queued("q", 2)] == ["b", "e"]
            heads = claimed(author, 3)
            assert names(heads) == ["b", "e", "a"]
            assert [(head.owner, head.epoch) for head in heads] == [(OWNER, 1)] * 3
            assert log.head("b") == heads[0]
            assert (taken(log), waiting(log)) == (["a", "b", "e"], ["c", "d"])
            assert names(claimed(author, owner=OTHER)) == ["c", "d"]
            assert claimed(author) == []

    def test_a_claim_is_a_lease(self, tmp_path: Path) -> None:
        """Only who was given the run can go on with it; what another still holds is refused."""
        with self.author(tmp_path) as author:
            author.log.new_owner(OWNER)
            before = author.start("a", queue="q")
            [head] = claimed(author)
            with raises(Fenced):
                author.add(before, Transitioned("a", "b"))
            assert author.add(head, RunResumed("a", DEFINITION), claim=OWNER).epoch == 1
            with raises(VersionConflict):
                author.add(head, Transitioned("a", "b"))

    def test_a_run_that_is_let_go_waits_again_and_one_that_is_over_is_gone(self, tmp_path: Path) -> None:
        """A queue holds what is to be driven: neither what failed nor what was deleted."""
        with self.author(tmp_path) as author:
            log = author.log
            log.new_owner(OWNER)
            for name in ("a", "b", "c"):
                author.start(name, queue="q")
            a, b, c = claimed(author)
            author.add(a, RunSuspended("a"), status="pending", release=True)
            author.add(b, RunFailed("a", Why("E", "no")), status="failed", release=True)
            assert (taken(log), waiting(log)) == (["c"], ["a"])
            [again] = claimed(author)
            assert (again.run_id, again.epoch) == ("a", 2)
            gone = author.add(c, RunSuspended("a"), status="pending", release=True)
            written(log, deletion(gone, author.clock.now()))
            assert (taken(log), waiting(log)) == (["a"], [])

    def test_runs_whose_owner_is_gone_come_first(self, tmp_path: Path) -> None:
        """They were begun already."""
        with self.author(tmp_path) as author:
            log = author.log
            end, _ = log.new_owner(OWNER), log.new_owner(OTHER)
            author.start("a", queue="q")
            claimed(author)
            author.start("b", queue="q", priority=9)
            assert claimed(author, 1, owner=OTHER)[0].run_id == "b"
            end()
            assert waiting(log) == ["a"]
            assert names(claimed(author, 1, owner=OTHER)) == ["a"]

    def test_no_more_are_given_than_may_be_driven_at_once(self, tmp_path: Path) -> None:
        """Whoever asks, the limit is the queue's; a run that waits for something does not count."""
        with self.author(tmp_path) as author:
            log = author.log
            log.new_owner(OWNER)
            log.new_owner(OTHER)
            for number in range(5):
                author.start(f"r{number}", queue="q")
            first = claimed(author, concurrency=2)
            assert names(first) == ["r0", "r1"]
            assert claimed(author, owner=OTHER, concurrency=2) == []
            author.add(first[0], WaitOpened("a", "timer", until=_FOR_EVER), status="waiting", waiting_for="timer")
            assert names(claimed(author, owner=OTHER, concurrency=2)) == ["r2"]

    def test_runs_of_one_key_are_limited_and_do_not_hold_up_others(self, tmp_path: Path) -> None:
        """What has no key is limited by none."""
        with self.author(tmp_path) as author:
            author.log.new_owner(OWNER)
            for name, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("n1", ""), ("n2", "")):
                author.start(name, queue="q", queue_key=key)
            assert names(claimed(author, per_key=1)) == ["a1", "b1", "n1", "n2"]
            assert claimed(author, per_key=1) == []
            assert names(claimed(author, per_key=2)) == ["a2"]

    def test_a_rate_lets_so_many_begin_in_a_time(self, tmp_path: Path) -> None:
        """Time that passes gives room for more, at most the whole of it."""
        with self.author(tmp_path) as author:
            author.log.new_owner(OWNER)
            for number in range(9):
                author.start(f"r{number}", queue="q")
            rate = (2, 100.0)
            assert len(claimed(author, rate=rate)) == 2
            assert claimed(author, rate=rate) == []
            author.clock.advance(50)
            assert len(claimed(author, rate=rate)) == 1
            author.clock.advance(10_000)
            assert len(claimed(author, rate=rate)) == 2

    def test_only_runs_of_known_workflows_are_given(self, tmp_path: Path) -> None:
        """The others wait for somebody who knows them."""
        with self.author(tmp_path) as author:
            author.log.new_owner(OWNER)
            author.start("a", queue="q", workflow="strange")
            author.start("b", queue="q")
            assert names(claimed(author)) == ["b"]
            assert names(claimed(author, workflow="strange")) == ["a"]

    def test_what_the_claimer_cant_use_is_passed_over(self, tmp_path: Path) -> None:
        """It waits on, in its place, for somebody who can."""
        with self.author(tmp_path) as author:
            log = author.log
            log.new_owner(OWNER)
            bad = author.start("bad", queue="q", priority=9)
            author.start("good", queue="q")
            skip = frozenset({bad.run_key})
            for expected in (["good"], []):
                claim = Claim(OWNER, "q", frozenset({"flow"}), 1, Limits(), author.clock.now(), skip)
                answer = written(log, claim)
                assert isinstance(answer, Claimed)
                assert names(list(answer.heads)) == expected
            assert waiting(log) == ["bad"]

    def test_queues_outlive_their_process(self, tmp_path: Path) -> None:
        """Opened again, the same runs wait in the same order."""
        log = self.make_log(tmp_path)
        author = Author(log)
        for name, priority in (("a", 0), ("b", 5)):
            author.start(name, queue="q", priority=priority, queue_key="k")
        again = self.reopen(log)
        if again is None:
            return
        [first, second] = again.queued("q")
        assert (first.head.run_id, first.priority, first.key, first.workflow) == ("b", 5, "k", "flow")
        assert (second.head.run_id, second.head.owner) == ("a", NOBODY)
        entry = again.entry(first.head.run_key)
        assert entry is not None
        assert (entry.queue, entry.priority, entry.queue_key) == ("q", 5, "k")
        again.close()
