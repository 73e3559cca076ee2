"""What every log must do when something is removed: in steps, refusing what somebody needs, keeping every digest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eventflow.change import Op
from eventflow.checkpoint import Checkpoint
from eventflow.codec import TOMBSTONE, pack, pack_state
from eventflow.errors import Conflict, HasForks, RunGuarded, RunNotFound, VersionCompacted, VersionNotFound
from eventflow.event import Rewound, RunCompacted, RunHeld, RunReleased, Transitioned, Vouch
from eventflow.log import (
    STEP,
    Act,
    Acted,
    Clear,
    Cleared,
    Compaction,
    Guard,
    Head,
    Kept,
    Log,
    Query,
    Sweep,
    Swept,
    Upkeep,
)
from eventflow.plain import freeze
from eventflow.proof import digest
from eventflow.recovery import recover
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import LONG, MOVE, LogMaker, deletion, moved, raises

LONG_RUN = STEP + 200  # events: more than one step of tidying up takes


def _compaction(author: Author, head: Head, at: int) -> Act:
    """The operation that lets a run begin at a version."""
    packed = pack_state(author.state(head, at), anew=True)
    event = RunCompacted(head.run_id, head.run_key, head.incarnation, 1, at)
    return Act(
        pack(event, vouch=Vouch(packed.version, packed.digest)), author.clock.now(), Upkeep(head.run_key, packed),
        compact=Compaction(head.run_key, at),
    )  # fmt: skip


def _digests(log: Log) -> list[bytes]:
    """The digest of each event, whether or not it is still there."""
    events = log.feed(0, 1 << 30)
    return [one.data[1:] if one.data[:1] == TOMBSTONE else digest(one.data) for one in events]


class RemovalContract(LogMaker):
    """Tests of deletion in steps, guards, compaction and sweeps."""

    def test_a_long_run_is_deleted_in_steps(self, tmp_path: Path) -> None:
        """It is in no list at once; each step tidies up a bounded part, until every event is a tombstone of its digest."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            while head.version < LONG_RUN:
                head = author.add(head, *([MOVE] * 100))
            before = _digests(log)
            assert isinstance(written(log, deletion(head, 1)), Acted)
            assert (log.runs(Query()), log.head("r")) == ([], None)
            left = sum(one.data[:1] != TOMBSTONE for one in log.feed(1, head.version))
            assert 0 < left < head.version
            answers: list[Cleared] = []
            while not answers or answers[-1].left:
                answer = written(log, Clear(100))
                assert isinstance(answer, Cleared)
                assert answer.events <= 100
                answers.append(answer)
            assert len(answers) > 1
            assert all(one.data[:1] == TOMBSTONE for one in log.feed(1, head.version))
            assert _digests(log)[: len(before)] == before
            assert written(log, Clear()) == Cleared(0, left=False)

    def test_nothing_of_a_guarded_run_is_removed(self, tmp_path: Path) -> None:
        """Neither by deletion nor by compaction, until each guard is lifted; the first reason stays."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), MOVE, MOVE)
            held = Act(pack(RunHeld("r", head.run_key)), 5, guard=Guard(head.run_key, "hold", 5, "me", "court"))
            pinned = replace(held, guard=Guard(head.run_key, "pin", 6))
            later = replace(held, guard=Guard(head.run_key, "hold", 9, "you"))
            assert all(isinstance(one, Acted) for one in log.write([held, pinned, later]))
            expected = [Guard(head.run_key, "pin", 6), Guard(head.run_key, "hold", 5, "me", "court")]
            assert sorted(log.guards(), key=lambda one: one.kind, reverse=True) == expected
            answers = log.write([deletion(head, 1), _compaction(author, head, 2)])
            assert [type(one) for one in answers] == [RunGuarded] * 2
            lifted = replace(held, event=pack(RunReleased("r", head.run_key)), guard=None, unguard=held.guard)
            log.write([lifted, deletion(head, 1)])
            assert log.head("r") == head
            log.write([replace(lifted, unguard=pinned.guard), deletion(head, 1)])
            assert (log.head("r"), log.guards()) == (None, [])
            assert isinstance(log.write([held])[0], RunNotFound)

    def test_a_compacted_run_begins_with_its_origin(self, tmp_path: Path) -> None:
        """States from there on are the same with and without snapshots; what came before is gone and says so."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            for number in range(8):
                head = author.add(head, moved("x", number), marks=(Checkpoint(head.version + 1, ("auto",), 5),))
            states = {version: recover(log, head, version).state for version in range(5, 10)}
            before = _digests(log)
            assert isinstance(written(log, _compaction(author, head, 5)), Acted)
            entry = log.entry(head.run_key)
            assert entry is not None
            assert (entry.origin, log.head("r")) == (5, head)
            for version, state in states.items():
                for snapshots in (True, False):
                    assert recover(log, head, version, snapshots=snapshots).state == state
            with raises(VersionCompacted):
                recover(log, head, 4)
            assert not log.read(head.run_key, 1, 4)
            assert len(log.read(head.run_key, 5, 9)) == 5
            assert [mark.version for mark in log.checkpoints(head.run_key)] == [5, 6, 7, 8, 9]
            assert written(log, Upkeep(head.run_key, drop=(5, 6))) == Kept()
            assert [version for version, _ in log.snapshots(head.run_key, 99)] == [5]
            assert recover(log, author.add(head, moved("x", 9)), 7).state == states[7]
            assert _digests(log)[: len(before)] == before

    def test_a_compaction_takes_nothing_that_somebody_rests_on(self, tmp_path: Path) -> None:
        """Neither what a fork continues from, nor what a rewind went back to, nor what is gone already."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), *([MOVE] * 5))
            child = author.fork(head, 3, "child")
            [answer] = log.write([_compaction(author, head, 4)])
            assert isinstance(answer, HasForks)
            assert isinstance(written(log, _compaction(author, head, 3)), Acted)
            assert recover(log, child).state.version == 4
            for at, kind in ((3, VersionCompacted), (99, VersionNotFound)):
                [answer] = log.write([replace(_compaction(author, head, 5), compact=Compaction(head.run_key, at))])
                assert type(answer) is kind
            head = author.add(author.rewind(head, 4), MOVE)
            [answer] = log.write([_compaction(author, head, 6)])
            assert isinstance(answer, Conflict)
            assert isinstance(written(log, _compaction(author, author.add(child, MOVE), 5)), Acted)
            assert isinstance(written(log, _compaction(author, head, 8)), Acted)
            assert recover(log, head).state.version == 8

    def test_a_rewind_and_a_fork_to_before_an_origin_are_refused(self, tmp_path: Path) -> None:
        """Though they were decided before the run was compacted."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.add(author.start("r"), *([MOVE] * 5))
            back, fork = author.then(head, Rewound(2, "a")), author.forking(head, 2, "child")
            written(log, _compaction(author, head, 4))
            answers = log.write([back, fork])
            assert [type(one) for one in answers] == [VersionCompacted] * 2
            assert log.head("r") == head

    def test_a_parent_may_go_once_its_fork_was_compacted(self, tmp_path: Path) -> None:
        """The fork does not fold through it any more."""
        with self.author(tmp_path) as author:
            log, parent = author.log, author.start("r")
            child = author.add(author.fork(parent, 1, "child"), moved("x", 1))
            written(log, _compaction(author, child, 3))
            assert isinstance(written(log, deletion(parent, 1)), Acted)
            assert recover(log, child).state.data == {"x": 1}

    def test_a_sweep_forgets_what_was_not_kept_anew(self, tmp_path: Path) -> None:
        """What an append or a snapshot refers to since it began stays, though it was there before; the rest goes."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            head = author.add(head, moved("x", LONG), moved("y", LONG + "!"), moved("z", LONG + "?"))
            names = log.blob_names(b"", 99)
            assert (len(names), log.blob_names(names[0], 1)) == (3, [names[1]])
            begun = written(log, Sweep())
            assert isinstance(begun, Swept)
            other = author.add(author.start("s"), moved("x", LONG))
            kept = digest(LONG.encode())
            swept = written(log, Sweep(begun.mark, (*names, b"?" * 32)))
            assert isinstance(swept, Swept)
            assert (swept.blobs, swept.bytes > 0, log.blob_names(b"", 99)) == (2, True, [kept])
            assert recover(log, other).state.data == {"x": LONG}
            again = author.add(other, moved("y", LONG + "!"))
            assert isinstance(written(log, Sweep(begun.mark, tuple(names))), Swept)
            assert recover(log, again).state.data["y"] == LONG + "!"
            assert isinstance(written(log, Sweep(begun.mark, end=True)), Swept)
            assert isinstance(log.write([Sweep(begun.mark, (kept,))])[0], Conflict)
            newer = written(log, Sweep())
            assert isinstance(newer, Swept)
            assert newer.mark != begun.mark
            assert isinstance(log.write([Sweep(begun.mark, (kept,))])[0], Conflict)
            assert kept in log.blob_names(b"", 99)

    def test_a_snapshot_takes_no_piece_for_known_that_a_sweep_may_take(self, tmp_path: Path) -> None:
        """It is refused as if the piece were not there; packed anew it is kept, pieces and all."""
        with self.author(tmp_path) as author:
            more = Transitioned("a", "a", change=(Op("extend", ("list",), freeze(["y" * 900] * 300)),))
            log, head = author.log, author.add(author.start("r"), moved("list", ["x" * 900] * 400), more)
            state = author.state(head)
            assert written(log, Upkeep(head.run_key, pack_state(state))) == Kept()
            known = pack_state(state)
            assert known.known
            written(log, Upkeep(head.run_key, drop=(3,)))
            begun = written(log, Sweep())
            assert isinstance(begun, Swept)
            assert written(log, Upkeep(head.run_key, known)) == Kept(snapshot=False)
            packed = pack_state(state, anew=True)
            assert written(log, Upkeep(head.run_key, packed)) == Kept()
            swept = written(log, Sweep(begun.mark, tuple(log.blob_names(b"", 99))))
            assert isinstance(swept, Swept)
            assert set(log.blobs(known.known)) == set(known.known)
