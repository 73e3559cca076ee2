"""What `check` finds in a definition before anything runs."""

from __future__ import annotations

from typing import TypedDict

import pytest

from eventflow import Agent, Workflow


def nothing(state):
    """A node that changes nothing."""


def flow_of(nodes: str, *edges, start: str = "a", **more) -> Workflow:
    """A workflow of one-letter nodes and (source, target, options) edges."""
    flow = Workflow("w", **more)
    for name in nodes:
        flow.add_node(name, nothing)
    for source, target, *options in edges:
        flow.add_edge(source, target, **(options[0] if options else {}))
    return flow.set_start(start) if start else flow


def found(flow: Workflow) -> dict[str, str]:
    """Each finding's kind and sentence."""
    return {problem.kind: problem.text for problem in flow.check()}


def test_a_sound_definition_has_no_problems():
    """A loop with a way out, an error edge and a default are all fine."""
    flow = flow_of(
        "abc", ("a", "b"), ("b", "a", {"when": bool}), ("b", "c"), ("a", "c", {"on": "failed"})
    )  # fmt: skip
    assert flow.check() == []


def test_a_node_that_can_not_be_reached_is_found():
    """It is named, and where the search began."""
    assert "'c' can't be reached from the start 'a'" in found(flow_of("abc", ("a", "b"), ("c", "b")))["unreachable"]


def test_a_loop_without_a_way_out_is_found():
    """A run there never ends."""
    problems = flow_of("abc", ("a", "b"), ("b", "a")).check()
    assert {p.text.split("'")[1] for p in problems if p.kind == "dead end"} == {"a", "b"}


def test_a_way_out_through_targets_counts():
    """Where a node may go by its own choice is a way like an edge."""
    flow = Workflow("w").add_node("a", nothing, targets=["a", "b"]).add_node("b", nothing).set_start("a")
    assert flow.check() == []


def test_guards_without_a_default_are_found():
    """If each edge has a guard, none may hold."""
    assert "out of 'a' on 'done'" in found(flow_of("ab", ("a", "b", {"when": bool})))["missing default"]


def test_edges_after_the_default_are_found():
    """They are never asked."""
    flow = flow_of("abc", ("a", "b"), ("a", "c", {"when": bool}), ("b", "c"))
    assert "after the one without `when` are never asked" in found(flow)["shadowed edge"]


def test_unknown_targets_are_fatal():
    """A name that is not a node keeps the workflow from running."""
    flow = flow_of("a", ("a", "b")).add_node("c", nothing, targets=["d"])
    problems = flow.check()
    assert all(problem.fatal for problem in problems)
    assert ["'b'" in problems[0].text, "'d'" in problems[1].text] == [True, True]


def test_a_slip_in_a_name_is_told_with_the_name_that_is_near():
    """In edges, in the start and in targets."""
    flow = Workflow("w").add_node("collect", nothing, targets=["sumarize"]).add_node("summarize", nothing)
    flow.add_edge("colect", "summarize").set_start("collet")
    texts = [problem.text for problem in flow.check()]
    assert [text.rpartition("; ")[2] for text in texts] == [
        "did you mean 'collect'?",
        "did you mean 'collect'?",
        "did you mean 'summarize'?",
    ]


@pytest.mark.parametrize(("start", "kind"), [("", "no start"), ("z", "unknown node")])
def test_a_start_that_is_not_there_is_fatal(start, kind):
    """A run must begin somewhere."""
    assert [(p.kind, p.fatal) for p in flow_of("a", start=start).check()] == [(kind, True)]


def test_an_undeclared_field_is_fatal():
    """An agent that reads or writes what the state does not have is found before a model is paid for it."""

    class Research(TypedDict):
        topic: str
        notes: list[str]

    def checked(reads, writes):
        agent = Agent(model="m", reads=reads, writes=writes)
        return Workflow("w", state=Research).add_node("a", agent).set_start("a").check()

    assert checked("topic", "notes") == []
    assert checked(lambda s: s["topic"], {"text": "notes"}) == []
    (reading,) = checked(["topic", "theme"], "notes")
    assert "reads 'theme'" in reading.text
    (writing,) = checked("topic", {"text": "notes", "usage": "cost"})
    assert "writes 'cost'" in writing.text
    assert reading.fatal
    assert writing.fatal
