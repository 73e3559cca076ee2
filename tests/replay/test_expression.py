"""Conditions on a state."""

from __future__ import annotations

import pytest

from eventflow.errors import SettingsError
from eventflow.plain import FrozenDict, Rope, freeze
from replay.expression import MAX_TEXT, parse_condition

DATA = freeze(
    {
        "score": 0.4,
        "n": 3,
        "notes": ["a", "b"],
        "meta": {"kind": "x", "deep": [{"k": 1}]},
        "none": None,
        "zero": 0,
        "s": "",
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "score < 0.5", "score <= 0.4 and n > 2", "n == 3", "n != 4", "not n == 4", "1 < n < 4", "n in [1, 3]", "n in (3,)",
        "n not in [1]", "'a' in notes", "'kind' in meta", "len(notes) == 2", "len(meta.kind) == 1", "meta.kind == 'x'",
        "meta['kind'] == \"x\"", "notes[0] == 'a'", "notes[-1] == 'b'", "meta.deep[0].k == 1", "none == None", "n", "notes",
        "not zero", "not s", "zero == 0", "n > -1", "absent == 1 or n == 3", "not absent", "notes == ['a', 'b']", "  n == 3 ",
        "[n, zero] == [3, 0]", "True",
    ],
)  # fmt: skip
def test_what_holds(text):
    """Comparisons, membership, and/or/not, len, literals and paths mean what they mean in Python."""
    assert parse_condition(text).holds(DATA) is True


@pytest.mark.parametrize(
    "text",
    [
        "score > 0.5", "n == 4", "1 < n < 3", "n < 4 < 3", "absent", "absent == 1", "absent != 1", "absent not in [1]", "none",
        "len(absent) == 0", "len(n) == 1", "n < 'a'", "'a' in n", "meta.real", "n.real == 3", "notes[5] == 'a'", "notes.append",
        "notes[0].upper", "meta.items", "s", "zero", "not n",
    ],
)  # fmt: skip
def test_what_does_not_hold(text):
    """What is absent, or of another kind, makes a comparison not hold; no attribute is ever asked."""
    assert parse_condition(text).holds(DATA) is False


@pytest.mark.parametrize(
    "text",
    [
        "", "n ==", "n = 3", "import os", "__import__('os')", "open('x')", "len(notes, n)", "len()", "len(x=n)", "len(*n)",
        "n + 1 == 4", "n ** 9", "lambda: n", "[x for x in notes]", "n if n else n", "(n := 3)", "f'{n}'", "notes[0:1]",
        "notes[n]", "meta[0.5]", "{1: 2} == n", "{1} == n", "n is None", "notes[0]()", "len.x(n)", "...", "1j == n", "~n", "-n",
        "'a'.join(notes)", "'a'.x", "notes[True]", "await n", "*n", "n; n", "n\nn", "(" * 400 + "n" + ")" * 400, "not " * 249,
        "\0", "n == " + "1" * 5_000, "n" * (MAX_TEXT + 1),
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    """Before a single state is looked at."""
    with pytest.raises(SettingsError):
        parse_condition(text)


def test_deep_conditions_are_answered():
    """As deep as the limit of an expression's length lets them be."""
    assert parse_condition("not " * 200 + "zero").holds(DATA) is False
    assert parse_condition("n" + ".a" * 400).holds(DATA) is False


def test_a_strange_escape_in_a_literal_warns_nobody():
    """Python's own warnings about literals are no business of whoever asks."""
    assert parse_condition("s != '\\d'").holds(DATA) is True


def test_a_long_list_is_measured_as_it_is_held():
    """Its length costs nothing, and it compares as a list."""
    data = FrozenDict({"list": Rope.of(range(1_000)), "empty": Rope.of([])})
    for text in ("len(list) == 1000", "999 in list", "list", "list[-1] == 999", "not empty"):
        assert parse_condition(text).holds(data) is True


@pytest.mark.parametrize("text", ["e\u0301 == 1", "a.\ufb01 == 1"])
def test_a_name_that_would_be_read_as_another_one_is_refused(text):
    """Python composes names as it parses them; a field that is written otherwise is another field."""
    with pytest.raises(SettingsError, match="another field"):
        parse_condition(text)
    assert parse_condition("\u00e9 == 'e\u0301'").holds({"\u00e9": "e\u0301"})
