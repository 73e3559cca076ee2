"""What a writer remembers between its batches, and that it forgets it when somebody else has written."""

from __future__ import annotations

import pytest

from eventflow.clock import ManualClock
from eventflow.codec import pack
from eventflow.errors import VersionConflict
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import Act, Head, LmdbLog, Upkeep
from eventflow.log.lmdb import writing
from eventflow.log.lmdb.tables import head_from
from eventflow.testing.author import Author, written

MOVE = Transitioned("a", "a")


@pytest.fixture
def two(tmp_path):
    """Two logs on one store, as two processes have them."""
    logs = LmdbLog(tmp_path / "s"), LmdbLog(tmp_path / "s")
    yield tuple(Author(log, clock=ManualClock(seed=number)) for number, log in enumerate(logs))
    for log in logs:
        log.close()


def test_a_head_that_another_log_moved_is_read_anew(two) -> None:
    """The stale append is refused, the fresh one taken, and positions go on."""
    here, there = two
    head = here.add(here.start("r"), MOVE)
    moved = there.add(head, MOVE)
    with pytest.raises(VersionConflict):
        here.add(head, MOVE)
    assert here.add(moved, MOVE).version == 4
    assert [one.position for one in here.log.read(head.run_key, 1, 9)] == [2, 3, 4, 5]


def test_a_transaction_that_changed_nothing_is_not_taken_for_the_last(two) -> None:
    """LMDB gives its number to the next one, whoever makes it."""
    here, there = two
    head = here.add(here.start("r"), MOVE)
    written(here.log, Upkeep(head.run_key))
    moved = there.add(head, MOVE)
    with pytest.raises(VersionConflict):
        here.add(head, MOVE)
    assert here.add(moved, MOVE).version == 4


def test_a_refused_batch_leaves_what_is_known_as_it_was(two) -> None:
    """The next append to the same head is taken."""
    here, _ = two
    head = here.start("r")
    with pytest.raises(VersionConflict):
        here.add(head, MOVE, expected=9)
    assert here.add(head, MOVE).version == 2


def test_a_lone_writer_does_not_read_the_head_again(two, monkeypatch) -> None:
    """It is known from the batch before, as long as nobody else has written."""
    here, there = two
    head = here.start("r")
    asked: list[bytes] = []

    def read(name: bytes, row: bytes) -> Head:
        asked.append(name)
        return head_from(name, row)

    monkeypatch.setattr(writing, "head_from", read)
    head = here.add(here.add(head, MOVE), MOVE)
    assert asked == []
    there.start("s")
    here.add(head, MOVE)
    assert asked == [b"r"]


def test_a_deleted_run_is_known_to_be_deleted(two) -> None:
    """Its id can be used again at once, by a higher incarnation."""
    here, _ = two
    head = here.start("r")
    event = RunDeleted("r", head.run_key, head.incarnation, head.version, head.digest)
    written(here.log, Act(pack(event), 9, delete_run=head))
    assert here.start("r").incarnation == 2
