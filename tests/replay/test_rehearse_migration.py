"""A migration as a stub."""

from __future__ import annotations

from typing import Any

from replay.rehearse import migration

OLD = {"nodes": {"a": "function", "b": "function"}, "fields": ["gone", "kept"]}


def made(text: str) -> dict[str, Any]:
    """What a stub defines."""
    found: dict[str, Any] = {}
    exec(compile(text, "stub", "exec"), found)  # noqa: S102
    return found


def test_a_stub_is_python_that_names_what_came_and_went():
    """Fields in the function, nodes in a table to be filled in."""
    text = migration("work", OLD, {"nodes": {"a": "function", "c": "function"}, "fields": ["kept", "new"]})
    stub = made(text)
    assert stub["migrate"]({"gone": 1, "kept": 2}) == {"kept": 2, "new": None}
    assert stub["NODES"] == {"b": None}
    assert "'c'" in text


def test_where_nothing_changed_the_stub_changes_nothing():
    """It is still there to be filled in."""
    assert made(migration("work", OLD, OLD))["migrate"]({"kept": 1}) == {"kept": 1}


def test_names_are_quoted_as_python_has_them():
    """A name from a log is data, never code."""
    hostile = 'x\'\n"""\nraise SystemExit\n#'
    stub = made(migration(hostile, {"nodes": {hostile: "function"}, "fields": [hostile]}, {"nodes": {}, "fields": []}))
    assert stub["NODES"] == {hostile: None}
    assert stub["migrate"]({hostile: 1}) == {}
