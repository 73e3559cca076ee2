"""Proofs made from a store and checked without it."""

from __future__ import annotations

import pytest

from eventflow.address import resolve
from eventflow.change import Op
from eventflow.cipher.signing import new_key
from eventflow.codec import pack
from eventflow.errors import Corrupt, ProofFailed
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import Act, MemoryLog
from eventflow.proof import digest
from eventflow.proof.files import Inclusion, parse_proof
from eventflow.proof.merkle import Tree, leaf_hash
from eventflow.proof.note import TreeHead, parse_head
from eventflow.sealing import Seal, seal
from eventflow.testing.author import Author, written
from replay.proving import check, position_of, prove_continued, prove_event

KEY, OTHER = new_key("example.com/auditor"), new_key("example.com/auditor")


@pytest.fixture
def author():
    """A store in memory with the runs `r` and `f`, which continues `r` from version 2."""
    author = Author(MemoryLog())
    head = author.start("r", {"n": 0})
    head = author.add(head, *(Transitioned("a", "a", change=(Op("set", ("n",), n),)) for n in range(3)))
    author.add(author.fork(head, 2, "f"), Transitioned("a", "a"))
    return author


def sealed(author, tmp_path, key=KEY):
    """The store sealed as it is."""
    note = seal(author.log, key)
    return Seal(note, parse_head(note.text), tmp_path / "a.note")


def test_every_event_of_a_store_can_be_proven(author, tmp_path):
    """What the proof says of it is what the log says."""
    held = sealed(author, tmp_path)
    for stored in author.log.feed(0, 100):
        proof = parse_proof(str(prove_event(author.log, stored.position, held)))
        proven = check(proof, KEY.public)
        assert proof.event == stored.data
        assert proven.event["position"] == stored.position
        assert proven.heads == (held.head,)


def test_a_version_of_before_a_fork_is_the_parents_event(author):
    """Which a fork's own are not."""
    at = {text: position_of(author.log, resolve(author.log, text)) for text in ("r@2", "f@2", "f@3", "f@4", "r@4")}
    assert at == {"r@2": 3, "f@2": 3, "f@3": 6, "f@4": 7, "r@4": 5}


def test_a_newer_seal_continues_an_older_one(author, tmp_path):
    """As long as nothing was changed; the older one can't continue the newer."""
    old = sealed(author, tmp_path)
    author.start("more")
    new = sealed(author, tmp_path)
    proven = check(parse_proof(str(prove_continued(author.log, old, new))), KEY.public, old.note)
    assert [head.size for head in proven.heads] == [7, 8]
    with pytest.raises(ProofFailed, match="fewer"):
        prove_continued(author.log, new, old)


def test_nothing_is_proven_of_a_store_that_is_not_what_was_sealed(author, tmp_path):
    """Nor of what came after the seal."""
    held = sealed(author, tmp_path)
    author.start("more")
    with pytest.raises(ProofFailed, match="not among them"):
        prove_event(author.log, 8, held)
    author.log._events[6] = author.log._events[5]
    with pytest.raises(ProofFailed, match="proves nothing"):
        prove_event(author.log, 2, held)


def test_a_deleted_event_can_not_be_shown(author, tmp_path):
    """Only its digest is left, and its neighbours can still be proven."""
    head = author.start("gone")
    event = RunDeleted("gone", head.run_key, 1, head.version, head.digest)
    written(author.log, Act(pack(event), author.clock.now(), delete_run=head))
    held = sealed(author, tmp_path)
    with pytest.raises(ProofFailed, match="was deleted"):
        prove_event(author.log, 8, held)
    assert prove_event(author.log, 7, held).holds


def test_a_proof_is_believed_only_with_the_key_and_the_seal_that_are_trusted(author, tmp_path):
    """Another key of the same name will not do, nor another seal."""
    held, author_two = sealed(author, tmp_path), Author(MemoryLog())
    proof = prove_event(author.log, 2, held)
    with pytest.raises(ProofFailed, match="not signed"):
        check(proof, OTHER.public)
    with pytest.raises(ProofFailed, match="not signed"):
        check(proof, KEY.public, sealed(author, tmp_path, OTHER).note)
    with pytest.raises(ProofFailed, match="another seal"):
        check(proof, KEY.public, sealed(author_two, tmp_path).note)


def test_a_changed_event_is_not_proven(author, tmp_path):
    """By a path that is another's."""
    proof = prove_event(author.log, 2, sealed(author, tmp_path))
    changed = parse_proof(str(proof).replace("index 1", "index 2"))
    with pytest.raises(ProofFailed, match="does not lead"):
        check(changed, KEY.public)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff", b"\x8b" + b"\x00" * 11])
def test_what_is_sealed_and_is_no_event_is_refused(data):
    """By one of our errors, though its proof leads to the seal."""
    tree = Tree()
    tree.add(leaf_hash(digest(data)))
    note = KEY.signed(str(TreeHead("o", 1, tree.root())))
    with pytest.raises(Corrupt):
        check(Inclusion(data, 0, (), note), KEY.public)
