"""Recovery: a snapshot that the chain vouches for, and a fold of what follows on the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventflow.change import Op
from eventflow.codec import encode, pack, pack_state, read_events, seal, state_digest
from eventflow.codec.events import Place
from eventflow.errors import Corrupt, VersionNotFound, WrittenByNewer
from eventflow.event import Event, Forked, Recorded, Rewound, RunPaused, RunResumed, Transitioned, Vouch
from eventflow.log import Entry, First, Head, LmdbLog, Log, MemoryLog, Upkeep
from eventflow.log.lmdb.tables import TABLES, number, versioned
from eventflow.plain import freeze
from eventflow.recovery import NEAR, Segment, caught_up, history, line, recover, walk
from eventflow.state import fold
from eventflow.testing.author import Author, written

MOVE = Transitioned("a", "a")
Rows = Callable[[str, Callable[[Any, Any], object]], Author]


def put(key: str, value: Any) -> Transitioned:
    """A fact that sets one value."""
    return Transitioned("a", "a", change=(Op("set", (key,), freeze(value)),))


def more(*items: Any) -> Transitioned:
    """A fact that lengthens the list."""
    return Transitioned("a", "a", change=(Op("extend", ("list",), freeze(list(items))),))


def events(log: Log, head: Head, *versions: int) -> list[Recorded]:
    """Recorded events of one run by version."""
    return [read_events(log.read(head.run_key, one, one), log.blobs)[0] for one in versions]


def agrees(log: Log, head: Head, upto: int, folded: list[Recorded]) -> None:
    """Recovery, with and without snapshots, gives what a plain fold of these events gives, byte for byte."""
    expected = fold(None, folded)
    assert expected is not None
    for snapshots in (True, False):
        state = recover(log, head, upto, snapshots=snapshots).state
        assert state == expected
        assert state_digest(state) == state_digest(expected)


@pytest.fixture
def author() -> Author:
    """Somebody who writes into a log in memory."""
    return Author(MemoryLog())


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Callable[[], tuple[Author, Rows]]]:
    """A durable log, and a way to change its tables behind its back."""
    logs: list[LmdbLog] = []

    def make() -> tuple[Author, Rows]:
        log = LmdbLog(tmp_path / "store")
        logs.append(log)

        def rows(table: str, change: Callable[[Any, Any], object]) -> Author:
            logs.pop().close()
            env = lmdb.open(str(tmp_path / "store" / "data.1"), max_dbs=len(TABLES))
            handle = env.open_db(table.encode())
            with env.begin(write=True) as txn:
                change(txn, handle)
            env.close()
            logs.append(LmdbLog(tmp_path / "store"))
            return Author(logs[-1])

        return Author(log), rows

    yield make
    for log in logs:
        log.close()


# --- versions and lines --------------------------------------------------------------------------------------------


def test_each_version_is_the_fold_up_to_it(author: Author) -> None:
    """A run without bends: the state at a version is the fold of all events up to it."""
    log, head = author.log, author.start("r", {"list": []})
    for step in range(12):
        head = author.add(head, more(step), vouch=author.snapshot(head) if step in (3, 7) else None)
    every = events(log, head, *range(1, 14))
    for upto in range(1, 14):
        agrees(log, head, upto, every[:upto])
    assert recover(log, head) == recover(log, head, 13)


def test_a_version_that_is_not_there_is_not_found(author: Author) -> None:
    """Below 1 or above the head; the error names the range."""
    head = author.add(author.start("r"), MOVE)
    for upto in (-1, 0, 3, 99):
        with pytest.raises(VersionNotFound, match="from 1 to 2"):
            recover(author.log, head, upto)


def test_an_older_head_recovers_the_older_state(author: Author) -> None:
    """A head that was read before the run went on still leads to its own version."""
    old = author.add(author.start("r"), put("x", 1))
    author.add(old, put("x", 2))
    assert recover(author.log, old).state.data == {"x": 1}


def test_rewinds_may_be_nested(author: Author) -> None:
    """Only the line counts: back to 3, on, back to a version of the new line, back over a rewind."""
    log, head = author.log, author.start("r", {"list": []})
    head = author.add(head, more("two"), more("three"), more("four"))
    head = author.rewind(head, 3)  # version 5
    head = author.add(head, more("six"), more("seven"))
    head = author.rewind(head, 6)  # version 8
    head = author.add(head, more("nine"))
    lines = {
        4: (1, 2, 3, 4), 5: (1, 2, 3, 5), 7: (1, 2, 3, 5, 6, 7), 8: (1, 2, 3, 5, 6, 8), 9: (1, 2, 3, 5, 6, 8, 9),
    }  # fmt: skip
    for upto, versions in lines.items():
        agrees(log, head, upto, events(log, head, *versions))
    assert recover(log, head).state.data["list"] == ["two", "three", "six", "nine"]
    head = author.rewind(head, 4)  # version 10: a version that left the line comes back
    agrees(log, head, 10, events(log, head, 1, 2, 3, 4, 10))
    head = author.rewind(head, 5)  # version 11: to a rewind itself
    agrees(log, head, 11, events(log, head, 1, 2, 3, 5, 11))
    assert line(log, head.run_key, 11) == [
        Segment(head.run_key, 1, 3), Segment(head.run_key, 5, 5), Segment(head.run_key, 11, 11),
    ]  # fmt: skip


def test_a_fork_goes_on_from_its_parents_line(author: Author) -> None:
    """At a version inside the parent's rewound line, and at one that left it."""
    log, parent = author.log, author.start("p", {"list": []})
    parent = author.add(parent, more("two"), more("three"))
    parent = author.rewind(parent, 2)  # version 4
    parent = author.add(parent, more("five"))
    for at, versions, items in (
        (5, (1, 2, 4, 5), ["two", "five"]),
        (3, (1, 2, 3), ["two", "three"]),
        (4, (1, 2, 4), ["two"]),
    ):
        child = author.fork(parent, at, f"child-{at}", change=(Op("set", ("new",), True),))
        child = author.add(child, more("mine"))
        own = events(log, child, at + 1, at + 2)
        agrees(log, child, at + 2, events(log, parent, *versions) + own)
        agrees(log, child, at, events(log, parent, *versions))
        state = recover(log, child).state
        assert state.data == {"list": [*items, "mine"], "new": True}
        assert (state.run.run_id, state.run.run_key) == (child.run_id, child.run_key)
        assert state.run.parent is not None
        assert (state.run.parent.run_id, state.run.parent.at) == ("p", at)


def test_a_fork_may_be_forked(author: Author) -> None:
    """From a version of its own, and from one that is its parent's."""
    log, parent = author.log, author.add(author.start("p", {"list": []}), more("two"), more("three"))
    child = author.add(author.fork(parent, 2, "c"), more("four"))
    deep = author.add(author.fork(child, 4, "g"), more("six"))
    agrees(
        log, deep, 6, [*events(log, parent, 1, 2), *events(log, child, 3, 4), *events(log, deep, 5, 6)],
    )  # fmt: skip
    early = author.add(author.fork(child, 1, "e"), more("three again"))
    agrees(log, early, 3, [*events(log, parent, 1), *events(log, early, 2, 3)])
    assert recover(log, deep).state.data["list"] == ["two", "four", "six"]
    assert recover(log, early).state.data["list"] == ["three again"]


@pytest.mark.parametrize("to", [1, 2, 3])
def test_a_fork_may_rewind_to_before_it_was_one(author: Author, to: int) -> None:
    """The state is the parent's at that version, and the run is still the fork, with its own id and snapshots."""
    log, parent = author.log, author.add(author.start("p", {"list": []}), more("two"), more("three"))
    child = author.add(author.fork(parent, 3, "c"), more("five"))
    child = author.rewind(child, to)  # version 6
    child = author.add(child, more("seven"))
    vouch = author.snapshot(child)
    child = author.add(child, more("eight"), vouch=vouch)
    items = ["two", "three"][: to - 1]
    for upto, rest in ((6, []), (7, ["seven"]), (8, ["seven", "eight"])):
        for snapshots in (True, False):
            state = recover(log, child, upto, snapshots=snapshots).state
            assert state.data["list"] == items + rest
            assert (state.run.run_id, state.run.run_key, state.run.incarnation) == ("c", child.run_key, 1)
            assert state.run.parent is not None
            assert (state.run.parent.run_key, state.run.parent.at) == (parent.run_key, 3)
            assert (state.version, state.line) == (upto, 6)
    assert recover(log, child).snapshot == 7
    grandchild = author.add(author.fork(child, 7, "g"), more("mine"))
    assert recover(log, grandchild).state.data["list"] == [*items, "seven", "mine"]


def test_what_another_run_does_changes_nothing(author: Author) -> None:
    """A parent that goes on, rewinds and is snapshotted does not move its forks."""
    log, parent = author.log, author.add(author.start("p"), put("x", 1))
    child = author.fork(parent, 2, "c")
    before = recover(log, child)
    parent = author.add(parent, put("x", 2))
    parent = author.rewind(parent, 1)
    author.add(parent, put("x", 3), vouch=author.snapshot(parent))
    assert recover(log, child) == before


# --- snapshots -----------------------------------------------------------------------------------------------------


def test_recovery_begins_at_the_newest_vouched_snapshot_on_the_line(author: Author) -> None:
    """One that nothing vouches for is passed over; so is one that lies off the line."""
    log, head = author.log, author.start("r", {"list": []})
    head = author.add(head, more("two"))
    head = author.add(head, more("three"), vouch=author.snapshot(head))
    head = author.add(head, more("four"))
    author.snapshot(head)
    assert (recover(log, head).snapshot, recover(log, head).folded) == (2, 2)
    head = author.add(head, more("five"), vouch=author.snapshot(head))
    assert (recover(log, head).snapshot, recover(log, head).folded) == (4, 1)
    assert recover(log, head, 3).snapshot == 2
    assert recover(log, head, 1).snapshot == 0
    head = author.rewind(head, 3)
    assert (recover(log, head).snapshot, recover(log, head).folded) == (2, 2)
    assert recover(log, head, snapshots=False).snapshot == 0
    assert recover(log, head).state == recover(log, head, snapshots=False).state


def test_a_fork_begins_at_its_parents_snapshot(author: Author) -> None:
    """Until it has one of its own."""
    log, parent = author.log, author.add(author.start("p"), put("x", 1))
    parent = author.add(parent, MOVE, vouch=author.snapshot(parent))
    child = author.add(author.fork(parent, 3, "c"), MOVE)
    assert (recover(log, child).snapshot, recover(log, child).folded) == (2, 3)
    child = author.add(child, MOVE, vouch=author.snapshot(child))
    assert (recover(log, child).snapshot, recover(log, child).folded) == (5, 1)


def test_without_snapshots_the_states_are_the_same(author: Author) -> None:
    """Deleting every checkpoint costs time and changes nothing."""
    log, head = author.log, author.start("r", {"list": []})
    for step in range(30):
        head = author.add(head, more(step), vouch=author.snapshot(head) if step % 5 == 0 else None)
    head = author.rewind(head, 20)
    head = author.add(head, more("last"))
    child = author.add(author.fork(head, 25, "c"), more("child"))
    before = [recover(log, run, upto).state for run in (head, child) for upto in range(1, run.version + 1)]
    assert recover(log, head).snapshot > 0
    drop = tuple(version for version, _ in log.snapshots(head.run_key, 999))
    written(log, Upkeep(head.run_key, drop=drop))
    assert log.snapshots(head.run_key, 999) == []
    assert [recover(log, run, upto).state for run in (head, child) for upto in range(1, run.version + 1)] == before
    assert recover(log, head).snapshot == 0


def test_a_snapshot_dropped_meanwhile_is_passed_over(author: Author) -> None:
    """Between being listed and being read a snapshot may go; the one before it does."""
    head = author.add(author.start("r"), put("x", 1))
    head = author.add(head, MOVE, vouch=author.snapshot(head))
    head = author.add(head, MOVE, vouch=author.snapshot(head))

    class Dropping:
        """A log from which the newest snapshot goes just after it was listed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(author.log, name)

        def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
            listed = author.log.snapshots(run_key, upto, limit=limit)
            written(author.log, Upkeep(run_key, drop=(3,)))
            return listed

    found = recover(Dropping(), head)  # type: ignore[arg-type]
    assert found.snapshot == 2
    assert found.state == recover(author.log, head, snapshots=False).state


def test_an_edited_snapshot_is_corruption(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """The chain vouches for a digest: another root, however well made, is found out; without snapshots all is well."""
    author, rows = behind()
    head = author.add(author.start("r"), put("x", 1))
    head = author.add(head, MOVE, vouch=author.snapshot(head))
    root = pack_state(replace(author.state(head, 2), data=freeze({"x": 1_000_000}))).root
    author = rows("snapshots", lambda txn, table: txn.put(versioned(head.run_key, 2), root, db=table))
    with pytest.raises(Corrupt, match="vouches"):
        recover(author.log, head)
    assert recover(author.log, head, snapshots=False).state.data == {"x": 1}


def test_a_snapshot_that_cant_be_unpacked_is_corruption(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """Whatever stands in its row."""
    author, rows = behind()
    head = author.add(author.start("r"), put("x", 1))
    head = author.add(head, MOVE, vouch=author.snapshot(head))
    for root in (b"", b"\x00", b"\x01rubbish", b"\x03?", b"\x00" + encode([1, 2, 3, 4]), b"\x00\xff"):
        author = rows("snapshots", lambda txn, table, root=root: txn.put(versioned(head.run_key, 2), root, db=table))
        with pytest.raises(Corrupt):
            recover(author.log, head)


def test_a_vouching_that_speaks_of_another_snapshot_is_corruption(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """The index of vouching events is only an index: the event itself must speak of that version."""
    author, rows = behind()
    head = author.add(author.start("r"), put("x", 1))
    head = author.add(head, MOVE, MOVE, vouch=author.snapshot(head))
    author = rows("snapshots", lambda txn, table: txn.put(versioned(head.run_key, 2) + b"v", number(4), db=table))
    with pytest.raises(Corrupt):
        recover(author.log, head)


def test_a_missing_blob_is_corruption(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """A long value that is gone is said to be missing, wherever it is needed."""
    author, rows = behind()
    head = author.add(author.start("r"), put("text", "long " * 500))
    head = author.add(head, put("text", "short"))
    author = rows("blobs", lambda txn, table: txn.drop(table, delete=False))
    for upto in (2, 3):
        with pytest.raises(Corrupt, match="missing"):
            recover(author.log, head, upto)
    assert recover(author.log, head, 1).state.version == 1


# --- the chain -----------------------------------------------------------------------------------------------------


def forged(author: Author, head: Head, version: int, event: Event, *, vouch: Vouch | None = None) -> bytes:
    """Stored bytes that could stand at a version but for their digest."""
    old = events(author.log, head, version)[0]
    place = Place(old.run_key, old.incarnation, old.version, old.epoch, old.time, old.before)
    return seal(pack(event, vouch=vouch), place)


@pytest.mark.parametrize("upto", [3, 4, 5, 90])
def test_a_changed_event_breaks_the_chain(behind: Callable[[], tuple[Author, Rows]], upto: int) -> None:
    """Version 3 is exchanged for another that reads well: every state from it on is refused, itself included."""
    author, rows = behind()
    head = author.start("r")
    for step in range(89):  # far enough that opening does not look at version 3
        head = author.add(head, put("x", step))
    event = forged(author, head, 3, put("x", "forged"))
    position = author.log.read(head.run_key, 3, 3)[0].position
    author = rows("log", lambda txn, table: txn.put(number(position), event, db=table))
    with pytest.raises(Corrupt):
        recover(author.log, head, upto)
    assert recover(author.log, head, 2).state.data == {"x": 0}


def test_a_changed_event_that_a_rewind_goes_back_to_breaks_the_chain(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """The rewind chains to the event before it, so the one it goes back to is held against its own follower."""
    author, rows = behind()
    head = author.start("r")
    head = author.add(head, put("x", 2), put("x", 3))
    head = author.rewind(head, 2)
    for _ in range(80):
        head = author.add(head, MOVE)
    event = forged(author, head, 2, put("x", "forged"))
    position = author.log.read(head.run_key, 2, 2)[0].position
    author = rows("log", lambda txn, table: txn.put(number(position), event, db=table))
    with pytest.raises(Corrupt, match="version 2"):
        recover(author.log, head)


def test_a_changed_event_before_a_fork_breaks_the_chain_of_the_fork(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """A fork chains to its parent's event, also after a rewind to before it was one."""
    author, rows = behind()
    parent = author.add(author.start("p"), put("x", 2), put("x", 3))
    child = author.add(author.fork(parent, 3, "c"), put("x", 5))
    back = author.rewind(child, 2)
    other = author.start("other")
    for _ in range(80):
        other = author.add(other, MOVE)
    event = forged(author, parent, 2, put("x", "forged"))
    position = author.log.read(parent.run_key, 2, 2)[0].position
    author = rows("log", lambda txn, table: txn.put(number(position), event, db=table))
    for head, upto in ((child, None), (child, 2), (back, None), (parent, None), (parent, 2)):
        with pytest.raises(Corrupt):
            recover(author.log, head, upto)
    assert recover(author.log, child, 1).state.version == 1


def test_a_gap_is_corruption(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """A version that is not in the index of its run is said to be missing."""
    author, rows = behind()
    head = author.start("r")
    for _ in range(80):
        head = author.add(head, MOVE)
    author = rows("runs", lambda txn, table: txn.delete(versioned(head.run_key, 5), db=table))
    for upto in (5, 6, None):
        with pytest.raises(Corrupt, match="version 5: is missing"):
            recover(author.log, head, upto)
    with pytest.raises(Corrupt):  # nothing says any more that version 4 is what was written
        recover(author.log, head, 4)
    assert recover(author.log, head, 3).state.version == 3


def test_an_event_in_anothers_place_is_corruption(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """An index that leads to another run's event is found out."""
    author, rows = behind()
    head, other = author.add(author.start("r"), MOVE), author.add(author.start("s"), MOVE)
    for _ in range(80):
        head = author.add(head, MOVE)
    position = author.log.read(other.run_key, 2, 2)[0].position
    author = rows("runs", lambda txn, table: txn.put(versioned(head.run_key, 2), number(position), db=table))
    with pytest.raises(Corrupt):
        recover(author.log, head)


def test_a_head_that_the_events_do_not_lead_to_is_corruption(author: Author) -> None:
    """The last event's digest must be the head's."""
    head = author.add(author.start("r"), MOVE)
    with pytest.raises(Corrupt, match="head"):
        recover(author.log, replace(head, digest=bytes(32)))


def test_a_first_event_that_does_not_name_its_store_and_run_is_corruption(author: Author) -> None:
    """Version 1 chains to the genesis of its store, id, incarnation and definition."""
    first = author.first("r")
    assert first.first is not None
    bad = replace(first, first=replace(first.first, before=bytes(32)))
    answer = written(author.log, bad)
    with pytest.raises(Corrupt, match="chain"):
        recover(author.log, answer.head)  # type: ignore[union-attr]


def test_a_history_under_another_runs_name_is_corruption(author: Author) -> None:
    """The id in the events must be the one it was looked up by."""
    head = author.add(author.start("r"), MOVE)
    with pytest.raises(Corrupt, match="history of run r"):
        recover(author.log, replace(head, run_id="s"))


def test_a_change_that_does_not_fit_is_corruption(author: Author) -> None:
    """An operation on something of another kind can't come from a sound log."""
    head = author.add(author.start("r", {"x": 1}), Transitioned("a", "a", change=(Op("extend", ("x",), freeze([1])),)))
    with pytest.raises(Corrupt, match="does not fit"):
        recover(author.log, head)


@pytest.mark.parametrize("to", [0, 3, 7])
def test_a_rewind_to_nowhere_is_corruption(author: Author, to: int) -> None:
    """To version 0, to itself, to later: refused instead of turning in circles."""
    head = author.add(author.start("r"), MOVE, Rewound(to, "a"))
    with pytest.raises(Corrupt):
        recover(author.log, head)


def test_runs_that_are_each_others_parents_are_corruption(author: Author) -> None:
    """A damaged list that leads in circles is refused."""
    log = author.log
    first = author.start("p")
    keys = [author.clock.uuid7() for _ in range(2)]
    heads = []
    for name, key, parent in (("a", keys[0], first.run_key), ("b", keys[1], keys[0])):
        event = Forked(name, log.store_id, "p", parent, 1, 1)
        entry = Entry("flow", (), None, 1, "p", parent, 1)
        append = replace(
            author.first(name), run_key=key, expected=1, events=(pack(event),), first=First(first.digest, entry, 1)
        )
        heads.append(written(log, append).head)  # type: ignore[union-attr]
    entries = {keys[0]: keys[1], keys[1]: keys[0]}

    class Circling:
        """A log whose list names each of the two as the other's parent."""

        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def entry(self, run_key: bytes) -> Entry | None:
            return Entry("flow", (), None, 1, "p", entries[run_key], 1)

    with pytest.raises(Corrupt, match="parents"):
        recover(Circling(), heads[1], 1)  # type: ignore[arg-type]


def test_an_event_of_a_newer_eventflow_stops_the_fold(behind: Callable[[], tuple[Author, Rows]]) -> None:
    """It is never skipped, since nobody can know what it did to the state."""
    author, rows = behind()
    head = author.start("r")
    for _ in range(80):
        head = author.add(head, MOVE)
    old = events(author.log, head, 5)[0]
    place = Place(old.run_key, old.incarnation, old.version, old.epoch, old.time, old.before)
    event = seal(pack(MOVE)._replace(code=99), place)
    position = author.log.read(head.run_key, 5, 5)[0].position
    author = rows("log", lambda txn, table: txn.put(number(position), event, db=table))
    with pytest.raises(WrittenByNewer):
        recover(author.log, head)


# --- the rest ------------------------------------------------------------------------------------------------------


def test_recovery_counts_what_came_since_the_snapshot(author: Author) -> None:
    """What a checkpoint policy needs to know: events, their weight, the size of the state, when the last was."""
    head = author.add(author.start("r"), put("x", 1))
    head = author.add(head, MOVE, MOVE, vouch=author.snapshot(head))
    found = recover(author.log, head)
    assert (found.progress.events, found.folded) == (2, 2)
    assert found.progress.last == events(author.log, head, 2)[0].time
    assert found.progress.state_size > 0
    whole = recover(author.log, head, snapshots=False)
    assert (whole.progress.events, whole.progress.last) == (4, whole.state.run.started)


def test_a_state_seen_before_is_caught_up_with(author: Author) -> None:
    """Nothing is read if the run has not moved, else what came since, over bends too; the state is the one recovered."""
    log, head = author.log, author.start("r", {"list": []})
    seen = caught_up(log, head, None)
    assert caught_up(log, head, seen) is seen
    for _ in range(4):
        head = author.add(head, *[more(0)] * (NEAR // 3))
        seen = caught_up(log, head, seen)
        assert seen == recover(log, head).state
    for back in (5, 9):
        head = author.add(author.rewind(head, back), more(1), more(2))
        seen = caught_up(log, head, seen)
        assert seen == recover(log, head).state
    head = author.add(head, *[more(0)] * (NEAR + 1))
    assert caught_up(log, head, seen) == recover(log, head).state
    other = author.fork(head, 7, "other")
    assert caught_up(log, other, seen) == recover(log, other).state


def test_a_state_that_is_not_of_this_history_is_not_caught_up_from(author: Author) -> None:
    """Whoever holds a state that the run never had gets the run's own."""
    log, head = author.log, author.start("r", {"x": 1})
    strange = replace(recover(log, head).state, digest=bytes(32), data=freeze({"x": 2}))
    head = author.add(head, put("y", 1))
    assert caught_up(log, head, strange).data == {"x": 1, "y": 1}


def test_history_gives_a_runs_own_events_in_order(author: Author) -> None:
    """Whatever their number, and whether or not they are on the line."""
    head = author.add(author.start("r"), *[MOVE] * 2_100)
    head = author.rewind(head, 2)
    assert [one.version for one in history(author.log, head.run_key, 1, head.version)] == list(range(1, 2_103))
    assert [one.version for one in history(author.log, head.run_key, 1_999, 2_001, strict=True)] == [
        1_999,
        2_000,
        2_001,
    ]


def test_a_long_run_is_read_in_parts(author: Author) -> None:
    """More events than are read in one go fold like fewer."""
    head = author.start("r", {"list": []})
    head = author.add(head, *(more(step) for step in range(2_500)))
    assert recover(author.log, head).state.data["list"] == list(range(2_500))


def test_events_that_do_not_leave_a_node_are_folded_too(author: Author) -> None:
    """Pausing and resuming move the version and the status, not the node."""
    head = author.add(author.start("r"), RunPaused("me"), status="paused")
    assert recover(author.log, head).state.status == "paused"
    head = author.add(head, RunResumed("a", bytes(32)))
    state = recover(author.log, head).state
    assert (state.status, state.version, state.node) == ("running", 3, "a")


def test_a_walk_shows_every_state_of_a_line(author: Author) -> None:
    """Along rewinds and forks, each as recovery has it; from any version of the line on, the rest of the same."""
    head = author.add(author.start("r", {"n": 0}), put("n", 1), put("n", 2))
    head = author.add(author.rewind(head, 2), put("n", 3))
    fork = author.add(author.fork(head, 5, "f"), put("n", 4))
    fork = author.add(author.rewind(fork, 4), put("n", 5))
    whole = list(walk(author.log, fork))
    assert [recorded.version for recorded, _ in whole] == [1, 2, 4, 8, 9]
    assert [state.data["n"] for _, state in whole] == [0, 1, 1, 1, 5]
    assert whole[-1][1] == recover(author.log, fork).state
    for done, (recorded, state) in enumerate(whole[:-1], 1):
        assert state.data == recover(author.log, fork, recorded.version).state.data
        assert list(walk(author.log, fork, after=recorded.version)) == whole[done:]
    assert [recorded.version for recorded, _ in walk(author.log, fork, 3)] == [1, 2, 3]
    for outside in (0, 10):
        with pytest.raises(VersionNotFound):
            list(walk(author.log, fork, outside))


def test_a_walk_ends_where_the_head_says(author: Author) -> None:
    """A head of another digest than the last event's stops it, as it stops recovery."""
    head = author.add(author.start("r"), MOVE)
    with pytest.raises(Corrupt):
        list(walk(author.log, replace(head, digest=bytes(32))))
