"""Places in a state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import SettingsError
from eventflow.plain import Rope, freeze
from replay.path import MISSING, alike, look, parse_path, path_text, settled

DATA = freeze({"a": {"b": [1, {"c": None}]}, "odd.key": 2, "n": 0, "text": "abc"})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a", ("a",)),
        ("a.b[0]", ("a", "b", 0)),
        ("a.b[-1].c", ("a", "b", -1, "c")),
        ('["odd.key"]', ("odd.key",)),
        ('a["x]\\"y"].z', ("a", 'x]"y', "z")),
        ("a.2", ("a", "2")),
    ],
)
def test_a_path_is_keys_and_numbers(text, path):
    """Dots stand between keys, numbers and odd keys in brackets."""
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", ".a", "a.", "a..b", "a[", "a[x]", "[0]", "a[0]b", 'a["\\q"]', "a[1.5]", "a]"])
def test_what_is_no_path_is_refused(text):
    """With an example of one."""
    with pytest.raises(SettingsError, match=r"is not a (path|key)"):
        parse_path(text)


keys = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.tuples(keys).flatmap(lambda first: st.lists(keys | st.integers(-99, 99)).map(lambda rest: (*first, *rest))))
def test_a_path_as_text_reads_back(path):
    """Whatever its keys are made of."""
    assert parse_path(path_text(path)) == path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b[0]", 1), ("a.b[-2]", 1), ("a.b[1].c", None), ('["odd.key"]', 2), ("n", 0), ("b", MISSING), ("a.b[2]", MISSING),
        ("a.b[-3]", MISSING), ("a[0]", MISSING), ("a.b.c", MISSING), ("text[0]", MISSING), ("n.real", MISSING),
    ],
)  # fmt: skip
def test_what_stands_at_a_path(text, value):
    """None and zero stand there; what is absent is missing, and no attribute is ever asked."""
    found = look(DATA, parse_path(text))
    assert found is value or found == value


def test_long_lists_are_looked_into_as_they_are_held():
    """A rope is not made into a list for one item of it."""
    rope = Rope.of(range(1_000))
    data = freeze({})
    data = type(data)({"list": rope})
    assert look(data, ("list",)) is rope
    assert look(data, ("list", -1)) == 999
    assert look(data, ("list", 1_000)) is MISSING
    assert settled(rope) == list(range(1_000))
    assert alike(rope, Rope.of(range(1_000)))
    assert not alike(rope, Rope.of(range(999)))


def test_values_are_compared_type_for_type():
    """1, 1.0 and True are three values, and nothing is like what is missing."""
    assert not alike(1, True)
    assert not alike(1, 1.0)
    assert not alike(None, MISSING)
    assert alike({"a": [1]}, {"a": [1]})
