"""Splits by themselves: what they take, what so many ends mean, and how what branches bring becomes one change."""

from __future__ import annotations

from typing import Annotated, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Choice, Human, Map, Parallel, Sleep, Wait, Workflow, add, extend
from eventflow.change import apply
from eventflow.errors import BranchesDisagree, DefinitionError, InvalidState
from eventflow.plain import freeze
from eventflow.workflow import joined
from eventflow.workflow.branches import MAX_BRANCHES, Terms


def nothing(state):
    """A body that brings nothing."""


# --- how many may fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerate", "count", "allowed"),
    [
        (0, 10, 0),
        (3, 10, 3),
        ("0%", 10, 0),
        ("10%", 10, 1),
        ("10%", 19, 1),
        ("10 %", 20, 2),
        ("100%", 7, 7),
        ("10%", 0, 0),
    ],
)
def test_a_share_is_of_the_branches_and_never_rounded_up(tolerate, count, allowed):
    """10 % of 19 branches is one."""
    assert Terms(tolerate).allowed(count) == allowed


@pytest.mark.parametrize("tolerate", ["10", "%", "-1%", "101%", "1.5%", "ten%", -1])
def test_a_share_that_is_none_is_an_error(tolerate):
    """It is said when the node is made, not when a branch fails."""
    with pytest.raises(DefinitionError, match=r"tolerate"):
        Map(nothing, over="items", tolerate=tolerate)


def test_what_can_never_be_or_says_two_things_is_an_error():
    """More successes than branches, none at all, and both ways of saying how many."""
    for wrong in (
        lambda: Parallel({"a": nothing}, at_least=2),
        lambda: Parallel({"a": nothing}, at_least=0),
        lambda: Parallel({"a": nothing, "b": nothing}, at_least=1, tolerate=1),
        lambda: Parallel({"a": nothing}, limit=0),
        lambda: Parallel({}),
    ):
        with pytest.raises(DefinitionError):
            wrong()


@given(count=st.integers(0, 30), data=st.data(), share=st.booleans())
def test_a_verdict_never_changes_once_it_is_said(count, data, share):
    """Whatever ends next, a join stays a join and a failure a failure; and all ends together always give one."""
    terms = Terms(at_least=data.draw(st.integers(1, 10))) if share else Terms(data.draw(st.integers(0, 10)))
    said, finished, failed = "", 0, 0
    for good in [None, *data.draw(st.lists(st.booleans(), min_size=count, max_size=count))]:
        finished, failed = finished + (good is True), failed + (good is False)
        now = terms.verdict(count, finished, failed)
        assert said in ("", now)
        said = now
    assert said


# --- what they are made of -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", 1, None, ("a",)])
def test_a_branch_without_a_text_as_its_name_is_an_error(name):
    """Names go into the log, which holds text."""
    with pytest.raises(DefinitionError, match="name"):
        Parallel({name: nothing})


def test_a_branch_can_neither_split_nor_choose():
    """A split in a split is a child of its own; where the run goes is for the whole node to say."""
    with pytest.raises(DefinitionError, match="Child"):
        Workflow("w").add_node("n", Parallel({"a": Parallel({"b": nothing})}))
    with pytest.raises(DefinitionError, match="Choice"):
        Parallel({"a": Choice(lambda state: "x", targets=["x"])})


def test_a_map_takes_a_list_of_bounded_length():
    """A text is no list, and ten thousand items are the most."""
    split = Map(nothing, over="items")
    assert split.items({"items": []}) == []
    assert len(split.items({"items": [0] * MAX_BRANCHES})) == MAX_BRANCHES
    for wrong in ("text", None, {"a": 1}, [0] * (MAX_BRANCHES + 1)):
        with pytest.raises(InvalidState):
            split.items({"items": wrong})


def test_branches_and_their_kinds_are_part_of_the_definition():
    """Another branch, or a branch of another kind, is another digest; options are not."""

    def flow(**branches):
        return Workflow("w").add_node("n", Parallel(branches)).set_start("n").digest

    assert flow(a=nothing) == flow(a=lambda state: {})
    assert flow(a=nothing) != flow(b=nothing)
    assert flow(a=nothing) != flow(a=Sleep(1))


# --- check ---------------------------------------------------------------------------------------------------------


class Notes(TypedDict, total=False):
    """A state with one field that joins and one that does not."""

    notes: Annotated[list[str], extend]
    title: str


def test_two_branches_that_declare_one_field_are_found_before_anything_runs():
    """The finding names the node, both branches and the field; a reducer makes it none."""

    def flow(field):
        asks = {name: Wait(signal=name, writes=field) for name in ("a", "b")}
        return Workflow("w", state=Notes).add_node("n", Parallel(asks)).set_start("n")

    (problem,) = flow("title").check()
    assert problem.fatal
    assert problem.text == "branches 'a' and 'b' of node 'n' both write 'title' without a reducer"
    assert flow("notes").check() == []


def test_fields_of_branches_must_be_declared():
    """A branch that writes what the state does not have is found too, and so is what a map reads and writes."""
    for body in (
        Parallel({"a": Human(prompt="?", writes="nowhere")}),
        Map(nothing, over="nowhere"),
        Map(nothing, over="notes", writes="nowhere"),
    ):
        (problem,) = Workflow("w", state=Notes).add_node("n", body).set_start("n").check()
        assert "nowhere" in problem.text
        assert problem.fatal


def test_a_diagram_shows_a_split_as_one_state_that_lists_its_branches():
    """The machine has one state for it: branches are no states of their own."""
    many = {f"b{number}": nothing for number in range(9)}
    flow = (
        Workflow("w")
        .add_node("n", Parallel({"a": nothing, "b: c\n": nothing}))
        .add_node("many", Parallel(many))
        .add_node("each", Map(nothing, over="items"))
        .add_edge("n", "many")
        .add_edge("many", "each")
        .set_start("n")
    )
    drawn = flow.mermaid().splitlines()
    assert "  n --> many: done" in drawn
    assert drawn[-3:] == [
        "  n : branches a, b  c ",
        "  many : branches b0, b1, b2, b3, b4, b5 and 3 more",
        "  each : a branch for each item of items",
    ]


# --- the join ------------------------------------------------------------------------------------------------------


def test_one_field_of_two_branches_without_a_reducer_names_both():
    """Whatever the values are, equal ones too."""
    with pytest.raises(BranchesDisagree, match=r"'a'.*'b'|'b'.*'a'") as caught:
        joined(freeze({}), [("a", {"x": 1}), ("b", {"x": 1})], {})
    assert "x" in str(caught.value)


def test_reducers_see_the_branches_one_after_the_other():
    """Each gets what the ones before have left, in the order in which they are given."""

    def own(old, new):
        return [*(old or []), {"seen": len(old or []), "new": new}]

    data = freeze({"n": 1, "list": ["z"], "own": None})
    updates = [("a", {"n": 2, "list": ["a"], "own": "p"}), ("b", {"n": 3, "list": ["b"], "own": "q"})]
    change, after = joined(data, updates, {"n": add, "list": extend, "own": own})
    assert after == {
        "n": 6, "list": ["z", "a", "b"], "own": [{"seen": 0, "new": "p"}, {"seen": 1, "new": "q"}],
    }  # fmt: skip
    assert apply(data, change) == after
