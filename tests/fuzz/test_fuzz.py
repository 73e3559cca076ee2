"""Readers of bytes and text from strangers, fed with what nobody writes: a moment a target here, a minute in the full size."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import targets
from targets import TARGETS, attempt, bound, corpus

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
EXAMPLES = 500 if FULL else 40
# What turns a sound text into one that asks for more: pieces of the languages that are read here.
PIECES = [
    b"", b"\x00", b"\xff", b"\xc1\x00", b"\x9f", b"\xd8\x1c", b"\x81" * 60, b"\x1b]52;c;x\x07", "\u202e".encode(), b"\xed\xa0\x80", b"..", b"/",
    b"'", b'"', b"(", b")", b"[", b"]", b"@", b"-", b"9" * 30, b"1e999", b"NaN", b"{", b"}", b":", b"\n", b"\n\n", b" ", b"%2F", b"=",
    b"not ", b" in ", b"len(", b"__class__", b"*", b"*/1", b"L", b"#", b",", b"?", b"://", b"eyJ", "\u0663".encode(), "\u00b2".encode(), b"\\u",
]  # fmt: skip


@st.composite
def inputs(draw: st.DrawFn, name: str) -> bytes:
    """Something of the corpus with pieces exchanged, or pieces alone."""
    seeds = list(corpus(name))
    data = draw(st.sampled_from(seeds)) if draw(st.integers(0, 9)) else b""
    for _ in range(draw(st.integers(0, 4))):
        at, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        piece = draw(
            st.sampled_from(PIECES)
            | st.binary(max_size=4)
            | st.text(max_size=3).map(lambda one: one.encode("utf-8", "replace"))
        )
        data = data[:at] + piece + data[at + gone :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_each_kept_input_is_read_or_refused(name: str) -> None:
    """Seeds, and what was found by a fuzzer before, stay what they are: no other error, no long time."""
    kept = list(corpus(name))
    assert kept, f"tests/fuzz/corpus/{name} is empty"
    for data in kept:
        assert attempt(name, data) < bound(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_the_input_is_it_is_read_or_refused(name: str) -> None:
    """Made up by hypothesis from the corpus; the seed of a failure is printed."""

    @given(data=inputs(name))
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=not FULL, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )  # fmt: skip
    def fed(data: bytes) -> None:
        assert attempt(name, data) < bound(data)

    fed()


def test_a_target_that_breaks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an error that is none of ours, and an answer that takes too long, come out."""
    monkeypatch.setitem(targets.TARGETS, "cbor", lambda data: data[0])
    with pytest.raises(IndexError):
        attempt("cbor", b"")

    def slow(_: bytes) -> None:
        began = time.process_time()
        while time.process_time() - began < 1.1:
            pass

    monkeypatch.setitem(targets.TARGETS, "cbor", slow)
    assert attempt("cbor", b"x") > bound(b"x")
