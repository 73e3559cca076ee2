"""The one reader of spans."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.span import UNITS, seconds_in, span_in


@given(st.integers(0, 10**9 - 1), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_every_unit_is_read_with_or_without_a_space(number, unit, space):
    """A number times its unit."""
    assert seconds_in(f"{number}{space}{unit}") == number * UNITS[unit]
    assert span_in(f" {number}{space}{unit} ") == number * UNITS[unit]


@given(st.text(max_size=12) | st.sampled_from(["50", "50msec", "-1 s", "1e3 s", "1 s 2 s", "h", "\u0661 s"]))
def test_any_other_text_is_none_and_is_told_what_to_give(text):
    """No text makes it fail, and none without a unit is taken for seconds."""
    if seconds_in(text) is None:
        assert "the units are us, ms, s" in str(span_in(text))
    else:
        assert text.strip()[-1] in "smnhdw"


@pytest.mark.parametrize(
    ("given_", "seconds"), [(60, 60.0), (0.05, 0.05), (-1, -1.0), (math.inf, math.inf), ("1.5h", 5_400.0)]
)
def test_a_number_is_seconds(given_, seconds):
    """What they are for decides whether they will do."""
    assert span_in(given_) == seconds


@pytest.mark.parametrize("given_", [math.nan, True, None, [], 10**400, b"1 s"])
def test_what_is_neither_is_told_what_to_give(given_):
    """In words, so that whoever asks can say what for."""
    assert isinstance(span_in(given_), str)
