"""The ids of children: readable where names allow it, never two for one, never one for two."""

from __future__ import annotations

from typing import TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Child, Choice, Workflow
from eventflow.address import check_run_id
from eventflow.errors import DefinitionError
from eventflow.workflow import child_id

RUN_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True).filter(lambda text: ".." not in text)
NAMES = st.one_of(
    st.text(min_size=1, max_size=128), st.sampled_from(["a", "a-1", "a-1.b", "a.b", "..", "-", "é", "x" * 128])
)


class Text(TypedDict, total=False):
    """A caller's state."""

    text: str


VISITS = st.integers(1, 2**40)
WHERE = st.tuples(RUN_IDS, NAMES, VISITS, st.one_of(st.just(""), NAMES, st.integers(0, 9_999).map(str)))


@given(where=WHERE)
def test_whatever_names_there_are_the_id_is_one_and_it_is_the_same_each_time(where):
    """128 characters at most, of those that ids have."""
    name = child_id(*where)
    assert check_run_id(name) == name
    assert child_id(*where) == name


@given(one=WHERE, other=WHERE)
def test_two_visits_or_two_branches_never_have_one_id(one, other):
    """Within a run; names that look like others' ids too."""
    other = (one[0], *other[1:])
    assert (child_id(*one) == child_id(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("r", "a", 1, "b-5"), ("r", "a-1.b", 5, "")),
        (("r", "a", 1, "x.b-2"), ("r.a-1.x", "b", 2, "")),
        (("r.", "a", 1, ""), ("r", "a", 1, "")),
        (("r", "a\\0", 1, ""), ("r", "a", 1, "")),
    ],
)
def test_names_that_are_made_to_collide_do_not(one, other):
    """Dots in names are where two could be read as one."""
    assert child_id(*one) != child_id(*other)


def test_plain_names_can_be_read():
    """Run, node, the version at which the node was entered, branch."""
    assert child_id("my-run", "write", 3, "") == "my-run.write-3"
    assert child_id("my-run", "write", 3, "12") == "my-run.write-3.12"
    assert child_id("r", "write it", 3, "").startswith("r.")


def test_a_choice_needs_a_function_and_targets():
    """It chooses among them, and the run goes there."""
    for wrong in (lambda: Choice("not a function", targets=["a"]), lambda: Choice(len, targets=[])):
        with pytest.raises(DefinitionError):
            wrong()
    flow = (
        Workflow("w")
        .add_node("sort", Choice(lambda state: "big" if state["n"] > 5 else "small", targets=["big", "small"]))
        .add_node("big", lambda state: {"size": "big"})
        .add_node("small", lambda state: {"size": "small"})
        .set_start("sort")
    )
    assert flow.check() == []
    assert (flow.run_sync({"n": 9})["size"], flow.run_sync({"n": 1})["size"]) == ("big", "small")


def test_a_childs_fields_are_checked_as_an_agents_are():
    """What it reads and writes must be declared; two children in branches must not write one field."""
    inner = Workflow("inner").add_node("a", lambda state: None).set_start("a")
    flow = Workflow("w", state=Text).add_node("a", Child(inner, reads=["nowhere"], writes={"x": "text"})).set_start("a")
    (problem,) = flow.check()
    assert "nowhere" in problem.text


def test_a_choice_may_go_where_its_node_says_besides():
    """Targets given with the node join those of the body."""
    flow = (
        Workflow("sorts")
        .add_node("sort", Choice(lambda state: state["to"], targets=["big"]), targets=["other"])
        .add_node("big", lambda state: {"was": "big"})
        .add_node("other", lambda state: {"was": "other"})
        .set_start("sort")
    )
    for name in ("big", "other"):
        assert flow.run_sync({"to": name})["was"] == name
