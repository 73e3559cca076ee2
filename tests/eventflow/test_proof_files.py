"""Proofs as files: written, read back, and nothing else taken for one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import ProofFailed
from eventflow.proof import digest
from eventflow.proof.files import MAX_PATH, Consistency, Inclusion, parse_proof
from eventflow.proof.merkle import consistency_spans, inclusion_spans, survey
from eventflow.proof.note import Note, Signature, TreeHead

EVENTS = [bytes([number]) * number for number in range(1, 8)]
LEAVES = [digest(event) for event in EVENTS]


def sealed(size):
    """A note that says what the first events are, signed by nobody."""
    root = survey(LEAVES, sizes=[size]).roots[size]
    return Note(str(TreeHead("store", size, root)), (Signature("nobody", b"1234", b"s"),))


def path(spans):
    """The roots of subtrees."""
    parts = survey(LEAVES, spans=spans).parts
    return tuple(parts[span] for span in spans)


def inclusion(index=3, size=7):
    """A proof that holds."""
    return Inclusion(EVENTS[index], index, path(inclusion_spans(index, size)), sealed(size))


def consistency(old=3, new=7):
    """A proof that holds."""
    return Consistency(path(consistency_spans(old, new)), sealed(old), sealed(new))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_proof_of_inclusion_is_a_file(size):
    """In the layout of c2sp.org/tlog-proof."""
    for index in range(size):
        proof = inclusion(index, size)
        assert parse_proof(str(proof)) == proof
        assert proof.holds
    lines = str(inclusion()).split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1:3] == [f"extra {base64.b64encode(EVENTS[3]).decode()}", "index 3"]
    assert str(inclusion()).endswith(f"\n\n{sealed(7)}")


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 7), (3, 7), (4, 7), (7, 7)])
def test_a_proof_of_consistency_is_a_file(old, new):
    """With an empty path too."""
    proof = consistency(old, new)
    assert parse_proof(str(proof)) == proof
    assert proof.holds
    assert [head.size for head in proof.heads] == [old, new]


def test_a_proof_of_something_else_does_not_hold():
    """Another event, another number, another seal, seals of two stores."""
    one = inclusion()
    assert not Inclusion(EVENTS[4], one.index, one.path, one.note).holds
    assert not Inclusion(one.event, 4, one.path, one.note).holds
    assert not Inclusion(one.event, one.index, one.path, sealed(6)).holds
    two = consistency()
    assert not Consistency(two.path, two.new, two.old).holds
    other = Note(two.new.text.replace("store", "other"), two.new.signatures)
    assert not Consistency(two.path, two.old, other).holds


@given(st.text() | st.sampled_from([str(inclusion()), str(consistency())]), st.data())
def test_any_other_text_is_refused(text, data):
    """Cut anywhere, with a character changed anywhere; with the one error of proofs, or it does not hold."""
    if text:
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.sampled_from(["", "\n", "A", "0", "\x00"])) + text[place + 1 :]
    try:
        proof = parse_proof(text)
        holds = proof.holds
    except ProofFailed:
        return
    same = str(proof) == text
    signatures_only = any(str(proof).startswith(str(one)[:150]) for one in (inclusion(), consistency()))
    assert same
    assert not holds or signatures_only


@pytest.mark.parametrize("make", [inclusion, consistency])
def test_a_path_longer_than_any_tree_is_refused(make):
    """Before anything is computed."""
    line = base64.b64encode(bytes(32)).decode() + "\n"
    first, found, rest = str(make()).partition(base64.b64encode(make().path[0]).decode() + "\n")
    assert found
    with pytest.raises(ProofFailed, match="longer path"):
        parse_proof(first + line * (MAX_PATH + 1) + rest)
