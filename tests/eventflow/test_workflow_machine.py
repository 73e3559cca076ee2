"""The one place that knows the machine library: a throwaway cursor, guards, nothing else."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.errors import GuardFailed, NoEdgeHolds, StateIsReadOnly
from eventflow.plain import freeze
from eventflow.workflow import Edge
from eventflow.workflow.machine import DecisionMachine


def test_nothing_is_left_behind_by_a_decision():
    """The machine holds no model: a million decisions are as dear as one."""
    machine = DecisionMachine(["a", "b"], [Edge("a", "b")])
    for _ in range(100):
        assert machine.target("a", "done", None) == "b"
    assert machine._machine.models == []


def test_names_that_the_library_uses_can_be_nodes():
    """A node may be called like a method of the library, or like no Python name at all."""
    names = ["to_b", "trigger", "state", "initial", "is_a", "with space", "ü", "*x"]
    edges = [Edge(one, other) for one, other in itertools.pairwise(names)]
    machine = DecisionMachine(names, edges)
    assert [machine.target(name, "done", None) for name in names[:-1]] == names[1:]


def test_an_unknown_trigger_holds_nowhere():
    """A trigger that no edge waits for is a typed error, not the library's."""
    with pytest.raises(NoEdgeHolds, match="none on this trigger"):
        DecisionMachine(["a", "b"], [Edge("a", "b")]).target("a", "failed", None)


def test_a_guard_that_changes_the_state_is_told_so():
    """The sentence about read-only state comes through as it is."""
    machine = DecisionMachine(["a", "b"], [Edge("a", "b", when=lambda s: s.update(x=1), label="g")])
    with pytest.raises(StateIsReadOnly):
        machine.target("a", "done", freeze({}))


def test_a_guard_may_raise_what_it_likes():
    """Whatever a guard raises is a guard that failed."""

    def guard(state):
        raise ZeroDivisionError("by zero")

    machine = DecisionMachine(["a", "b"], [Edge("a", "b", when=guard, label="guard")])
    with pytest.raises(GuardFailed, match="ZeroDivisionError: by zero"):
        machine.target("a", "done", None)


def test_many_threads_may_ask_one_machine():
    """Each decision has its own cursor."""
    machine = DecisionMachine(["a", "b", "c"], [Edge("a", "b", when=lambda v: v), Edge("a", "c")])
    barrier = threading.Barrier(8)

    def ask(number):
        barrier.wait()
        return {machine.target("a", "done", number % 2) for _ in range(200)}

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert answers == [{"c"}, {"b"}] * 4


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc"), st.sampled_from([None, True, False])), max_size=8)
)
def test_the_machine_takes_the_first_edge_that_holds(edges):
    """The library decides as a plain search through the edges in their order would."""
    machine = DecisionMachine(
        list("abc"),
        [Edge(s, t, when=None if h is None else (lambda _, h=h: h), label=str(h)) for s, t, h in edges],
    )
    for node in "ab":
        expected = next((t for s, t, h in edges if s == node and h is not False), None)
        if expected is None:
            with pytest.raises(NoEdgeHolds):
                machine.target(node, "done", None)
        else:
            assert machine.target(node, "done", None) == expected
