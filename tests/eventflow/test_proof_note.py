"""Notes and heads as text: what is written is read back, what is not a note is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import ProofFailed
from eventflow.proof.note import MAX_SIGNATURES, Note, Signature, TreeHead, parse_head, parse_note

# The examples of c2sp.org/signed-note and c2sp.org/tlog-checkpoint.
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

\u2014 quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""
CHECKPOINT = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""


def test_the_examples_of_the_specifications_are_read():
    """A text may have empty lines in it; the last one ends it."""
    poem = parse_note(POEM)
    assert poem.text.startswith("Ognuno")
    assert poem.text.endswith("\n\ned è subito sera.\n")
    assert [one.name for one in poem.signatures] == ["quasimodo.example/salvatore"]
    assert str(poem) == POEM
    head = parse_head(parse_note(CHECKPOINT).text)
    assert (head.origin, head.size, len(head.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert str(Note(str(head), parse_note(CHECKPOINT).signatures)) == CHECKPOINT


names = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="+"), min_size=1, max_size=20)
heads = st.builds(TreeHead, names, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
signatures = st.lists(
    st.builds(Signature, names, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)), min_size=1, max_size=16
)  # fmt: skip


@given(heads, signatures)
def test_what_is_written_is_read_back(head, signed):
    """Heads and signatures of any kind."""
    note = Note(str(head), tuple(signed))
    assert parse_note(str(note)) == note
    assert parse_head(note.text) == head


@given(st.text())
def test_any_other_text_is_refused(text):
    """With the one error of proofs, whatever it is."""
    for read in (parse_note, parse_head):
        try:
            read(text)
        except ProofFailed:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "", "text\n", "text\n\n", CHECKPOINT[:-1], CHECKPOINT + "more\n", CHECKPOINT + "\n", CHECKPOINT.replace("\u2014 ", "- "),
        CHECKPOINT.replace("AYQ8=", "AYQ9="), CHECKPOINT.replace("AYQ8=", "!!!"), CHECKPOINT.replace("behind", "be\thind"),
        CHECKPOINT.replace("\n", "\r\n"), "text\n\n\u2014 name AAAAAA==\n", "text\n\n\u2014 na+me AAAAAAA=\n",
        "text\n\n" + "\u2014 name AAAAAAA=\n" * (MAX_SIGNATURES + 1),
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(text):
    """Cut, changed, padded, or with too much in it."""
    with pytest.raises(ProofFailed):
        parse_note(text)


ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "text",
    ["", "a\n", "a\n1\n", f"a\n01\n{ROOT}\n", f"a\n-1\n{ROOT}\n", f"a\n1\n{ROOT[4:]}\n", f"\n1\n{ROOT}\n", f"a\n1\n{ROOT}",
     f"a\n1\n\n{ROOT}\n", f"a\n\u0661\n{ROOT}\n", f"a\n1\n{ROOT[:-2]}J=\n"],
)  # fmt: skip
def test_what_is_no_head_is_refused(text):
    """A size has one form, and so has a root."""
    with pytest.raises(ProofFailed):
        parse_head(text)
