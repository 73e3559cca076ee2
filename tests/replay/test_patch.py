"""What differs between two pieces of plain data, as a JSON Patch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.plain import freeze, same, thaw
from replay.patch import by_field, differences

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, -0.0, 1.0, "", "a", "~/", b"", b"a"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["a", "b", "a/b", "~", ""]), inner),
    max_leaves=20,
)


def applied(document: Any, patch: list[dict[str, Any]]) -> Any:
    """A document after a JSON Patch, as RFC 6902 says it is applied."""
    document = {"": deepcopy(document)}
    for one in patch:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in f"{one['path']}".split("/")]
        holder: Any = document
        for key in keys[:-1]:
            holder = holder[int(key)] if isinstance(holder, list) else holder[key]
        last: Any = int(keys[-1]) if isinstance(holder, list) else keys[-1]
        if one["op"] == "add" and isinstance(holder, list):
            assert last <= len(holder)
            holder.insert(last, one["value"])
        elif one["op"] == "remove":
            del holder[last]
        else:
            assert one["op"] == "add" or last in holder or isinstance(holder, list)
            holder[last] = one["value"]
    return document[""]


@given(values, values)
def test_a_patch_turns_the_first_into_the_second(one, other):
    """Type for type, and by the rules of RFC 6902 alone."""
    edits = list(differences(freeze(one), freeze(other)))
    assert same(thaw(applied(one, [edit.document() for edit in edits])), thaw(freeze(other)))
    assert bool(edits) is not same(freeze(one), freeze(other))


@pytest.mark.parametrize(
    ("one", "other", "patch"),
    [
        ({"a": 1}, {"a": 2}, [("replace", "/a")]),
        ({"a": 1}, {"b": 1}, [("remove", "/a"), ("add", "/b")]),
        ({"x": [1, 2, 3]}, {"x": [1, 9, 2, 3]}, [("add", "/x/1")]),
        ({"x": [1, 2, 3, 4]}, {"x": [1, 4]}, [("remove", "/x/2"), ("remove", "/x/1")]),
        ({"x": [{"a": 1, "b": 2}]}, {"x": [{"a": 1, "b": 3}]}, [("replace", "/x/0/b")]),
        ({"a": 1}, {"a": True}, [("replace", "/a")]),
        ({"a": None}, {}, [("remove", "/a")]),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, [("replace", "/a~1b/~0")]),
        ({"a": 1}, {"a": 1}, []),
    ],
)
def test_only_what_differs_is_told(one, other, patch):
    """An item put between others is one operation, a changed key of a changed item another."""
    edits = list(differences(freeze(one), freeze(other)))
    assert [(edit.op, edit.pointer) for edit in edits] == patch


def test_people_read_a_patch_by_the_names_of_fields():
    """Within a field the order stays, for there it counts."""
    one, other = freeze({"zz": 1, "b": [1, 2, 3, 4], "aaa": 1}), freeze({"zz": 2, "b": [1, 4], "aaa": 2})
    told = [edit.pointer for edit in by_field(differences(one, other))]
    assert told == ["/aaa", "/b/2", "/b/1", "/zz"]


def test_long_lists_differ_by_their_items():
    """A list held as a rope is compared like any other."""
    one, other = freeze({"x": list(range(2_000))}), freeze({"x": [*range(2_000), 5]})
    (edit,) = differences(one, other)
    assert edit.document() == {"op": "add", "path": "/x/2000", "value": 5}
