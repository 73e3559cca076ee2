"""Seals: what they say of a store, where they are kept, and that a store which is not what they say is not sealed."""

from __future__ import annotations

import stat

import pytest

from eventflow.change import Op
from eventflow.cipher.signing import check_signed, new_key
from eventflow.codec import pack
from eventflow.errors import ProofFailed, SealNotFound, SettingsError
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import Act, MemoryLog
from eventflow.proof import digest
from eventflow.proof.merkle import Tree, leaf_hash
from eventflow.proof.note import parse_head
from eventflow.sealing import Seal, covering, differences, keep, kept_seals, leaves, origin, read_seal, seal, surveyed
from eventflow.testing.author import Author, written

KEY = new_key("example.com/auditor")


@pytest.fixture
def author():
    """A store in memory with a run of some events."""
    author = Author(MemoryLog())
    grown(author, 5)
    return author


def grown(author, count):
    """One more run, of so many events."""
    head = author.start(f"r{author.log.position()}", {"n": 0})
    return author.add(
        head, *(Transitioned("a", "a", change=(Op("set", ("n",), number),)) for number in range(count - 1))
    )


def of(note, path):
    """A note as a seal."""
    return Seal(note, parse_head(note.text), path)


def test_a_seal_is_the_root_over_all_events_in_order_of_position(author):
    """Signed, with the store's id as its origin."""
    note = seal(author.log, KEY)
    tree = Tree()
    for stored in author.log.feed(0, 100):
        tree.add(leaf_hash(digest(stored.data)))
    head = parse_head(note.text)
    assert (head.origin, head.size, head.root) == (origin(author.log.store_id), 6, tree.root())
    check_signed(note, KEY.public)


def test_deleting_a_run_does_not_change_what_was_sealed(author, tmp_path):
    """Its events keep their digests, and the deletion is an event more."""
    before = list(leaves(author.log))
    head = grown(author, 3)
    old = of(seal(author.log, KEY), tmp_path / "9.note")
    event = RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest)
    written(author.log, Act(pack(event), author.clock.now(), delete_run=head))
    assert list(leaves(author.log))[: len(before)] == before
    found = surveyed(author.log, 10, sizes=[9])
    assert list(differences(author.log.store_id, found, [old])) == []
    assert parse_head(seal(author.log, KEY, [old]).text).size == 10


def test_a_store_that_is_not_what_was_sealed_is_not_sealed_again(author, tmp_path):
    """So nobody holds two seals of one key that contradict each other."""
    old = of(seal(author.log, KEY), tmp_path / "6.note")
    author.log._events[3] = author.log._events[4]
    with pytest.raises(ProofFailed, match="changed since"):
        seal(author.log, KEY, [old])
    with pytest.raises(ProofFailed, match="another store"):
        seal(MemoryLog(), KEY, [old])


def test_a_tail_that_was_cut_off_is_told(author, tmp_path):
    """With how much is missing."""
    old = of(seal(author.log, KEY), tmp_path / "6.note")
    found = surveyed(author.log, 4, sizes=[6])
    (_, problem), *_ = differences(author.log.store_id, found, [old])
    assert "its last 2 of 6 sealed events are gone" in problem


def test_seals_are_kept_where_only_the_owner_reads_them(author, tmp_path):
    """A file each, named by how much it seals; the smallest first."""
    for _ in range(3):
        keep(tmp_path, seal(author.log, KEY))
        grown(author, 5)
    found = kept_seals(tmp_path)
    assert [one.path.name for one in found] == ["6.note", "11.note", "16.note"]
    assert [one.head.size for one in found] == [6, 11, 16]
    assert {stat.S_IMODE(one.path.stat().st_mode) for one in found} == {0o600}
    assert stat.S_IMODE((tmp_path / "seals").stat().st_mode) == 0o700
    assert covering(found, 12).head.size == 16
    with pytest.raises(SealNotFound, match="position 17"):
        covering(found, 17)


def test_where_no_seal_is_kept_there_is_none(tmp_path):
    """And other files in the folder are none."""
    assert kept_seals(tmp_path) == []
    (tmp_path / "seals").mkdir()
    (tmp_path / "seals" / "7.note.new").write_text("half")
    assert kept_seals(tmp_path) == []
    with pytest.raises(SealNotFound):
        covering([], 1)


def test_a_kept_seal_that_is_none_is_told(author, tmp_path):
    """Or that is named as another."""
    path = keep(tmp_path, seal(author.log, KEY))
    path.rename(path.with_name("7.note"))
    with pytest.raises(ProofFailed, match="its name says 7"):
        kept_seals(tmp_path)
    path.with_name("7.note").write_bytes(b"\xff")
    with pytest.raises(ProofFailed, match="not the text of a seal"):
        kept_seals(tmp_path)
    with pytest.raises(SettingsError):
        read_seal(tmp_path / "absent")


def test_a_position_that_is_missing_is_told(author):
    """Rather than passed over."""

    class Holed:
        def feed(self, after, limit):
            return [one for one in author.log.feed(after, limit) if one.position != 3]

    with pytest.raises(ProofFailed, match="lacks the event at position 3"):
        list(leaves(Holed()))
