"""Messages for a run: the bytes that wait in its inbox, and the fact each becomes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.codec import encode
from eventflow.errors import Corrupt, NotPlainData
from eventflow.event import RunCancelled, RunPaused, SignalReceived
from eventflow.run import CANCEL, PAUSE, SIGNAL, fact, message


def test_each_kind_of_message_becomes_its_fact():
    """A signal keeps its name, payload and number; pause and cancel keep who and why."""
    signal = message(SIGNAL, name="go", payload={"x": [1]}, actor="ada")
    assert fact(7, signal) == SignalReceived("go", {"x": [1]}, 7, "ada")
    assert fact(1, message(PAUSE, actor="ada", why="lunch")) == RunPaused("ada", "lunch")
    assert fact(2, message(CANCEL, actor="ada", why="enough")) == RunCancelled("ada", "enough")


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.none() | st.integers(-5, 5) | st.text(max_size=3))
def test_a_signal_comes_out_as_it_went_in(name, payload):
    """Falsy payloads and odd names too."""
    try:
        data = message(SIGNAL, name=name, payload=payload)
    except NotPlainData:
        return
    assert fact(1, data) == SignalReceived(name, payload, 1)


def test_a_payload_that_is_not_plain_is_refused_by_its_sender():
    """Who sends it hears of it, with the path; nothing is put into the inbox."""
    with pytest.raises(NotPlainData, match=r"payload\.x"):
        message(SIGNAL, payload={"x": object()})
    with pytest.raises(NotPlainData, match="lone surrogate"):
        message(SIGNAL, payload="\ud800")


@pytest.mark.parametrize(
    "data", [b"", b"\xff", encode([1]), encode({"kind": "signal"}), message("dance"), message(SIGNAL)[:-1]]
)
def test_what_is_no_message_is_corrupt(data):
    """Bytes that no sender wrote are said to be so, and become no event."""
    with pytest.raises(Corrupt, match="message 3"):
        fact(3, data)
