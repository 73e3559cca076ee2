"""Definitions: building, closing, the digest, what follows a node's end, the difference of two definitions."""

from __future__ import annotations

import functools
from typing import TypedDict

import pytest

from eventflow import Go, RetryPolicy, Sleep, Wait, Workflow
from eventflow.change import Op
from eventflow.errors import DefinitionError, GuardFailed, NoEdgeHolds, UndeclaredTarget
from eventflow.event import Failure, RunCompleted, Transitioned
from eventflow.plain import EMPTY, freeze
from eventflow.state import Identity, State
from eventflow.workflow import difference


def nothing(state):
    """A node that changes nothing."""


def standing(node: str, **data) -> State:
    """A run that stands on a node."""
    run = Identity("r", bytes(16), 1, bytes(16), "w", b"", EMPTY, b"", freeze([]), None, 0)
    return State(run, 1, b"", 0, 0, "running", node, 1, freeze(data))


def triangle() -> Workflow:
    """A to b, back or on to c."""
    return (
        Workflow("w")
        .add_node("a", nothing)
        .add_node("b", nothing)
        .add_node("c", nothing)
        .add_edge("a", "b")
        .add_edge("b", "a", when=lambda s: s["score"] < 0.5, label="low")
        .add_edge("b", "c")
        .set_start("a")
    )


# --- building ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Workflow(""), "needs a name"),
        (lambda: Workflow("x" * 129), "needs a name"),
        (lambda: Workflow("w").add_node("", nothing), "needs a name"),
        (lambda: Workflow("w").add_node("a", nothing).add_node("a", nothing), "defined twice"),
        (lambda: Workflow("w").add_node("a", "not callable"), "needs a function or an Agent, got str"),
        (lambda: Workflow("w").add_node("a", nothing, timeout=0), "more than 0"),
        (lambda: Workflow("w").add_node("a", nothing, timeout="1m"), "timeout='1m' is in seconds"),
        (lambda: Workflow("w").add_node("a", nothing, idle_timeout="1m"), "idle_timeout='1m' is in seconds"),
        (lambda: Workflow("w").add_node("a", nothing, retry=3), "retry=3 is no RetryPolicy"),
        (lambda: Workflow("w").add_node("a", nothing, after_crash="rerun"), "'rerun' is none of retry, ask"),
        (lambda: Workflow("w").add_node("a", Wait(signal="s", timeout="1h")), "timeout='1h' is in seconds"),
        (lambda: Workflow("w").add_node("a", Sleep("1h")), "Sleep('1h') is in seconds"),
        (lambda: Workflow("w").add_node("a", lambda: None), "must take (state) or (state, run)"),
        (lambda: Workflow("w").add_node("a", lambda a, b, c: None), "must take (state) or (state, run)"),
        (lambda: Workflow("w").add_edge("a", "b", on="finished"), "is none of done, failed, timed_out, cancelled"),
        (lambda: Workflow("w").add_edge("a", "b", when=True), "must be a plain function"),
    ],
)
def test_what_can_not_be_meant_is_refused_while_building(build, said):
    """A definition that makes no sense says so on the line that makes none."""
    with pytest.raises(DefinitionError) as caught:
        build()
    assert said in str(caught.value)


def test_an_async_guard_is_refused():
    """A guard answers at once: a coroutine would always hold."""

    async def guard(state):
        return False

    with pytest.raises(DefinitionError, match="plain function"):
        Workflow("w").add_edge("a", "b", when=guard)


def test_a_broken_definition_names_all_that_is_wrong_at_its_first_use():
    """Unknown names and a missing start are told together, before anything runs."""
    flow = Workflow("w").add_node("a", nothing, targets=["z"]).add_edge("a", "y")
    with pytest.raises(DefinitionError) as caught:
        _ = flow.digest
    assert "no start" in str(caught.value)
    assert "'y'" in str(caught.value)
    assert "'z'" in str(caught.value)


def test_a_definition_in_use_can_not_be_changed():
    """What a run was started with stays what it is."""
    flow = triangle()
    assert flow.digest
    for change in (
        lambda: flow.add_node("d", nothing),
        lambda: flow.add_edge("a", "c"),
        lambda: flow.set_start("b"),
    ):
        with pytest.raises(DefinitionError, match="in use"):
            change()


def test_functions_of_every_kind_can_be_nodes():
    """Plain and async functions, partials, methods and callable objects are told apart by what they are."""

    class Worker:
        async def __call__(self, state, run):
            return None

        def method(self, state):
            return None

    async def waits(state):
        return None

    flow = (
        Workflow("w")
        .add_node("plain", nothing)
        .add_node("waits", waits)
        .add_node("partial", functools.partial(lambda extra, state: None, 1))
        .add_node("object", Worker())
        .add_node("method", Worker().method)
        .add_node("default", lambda state, limit=3: None)
    )
    kinds = {name: (node.is_async, node.takes_run) for name, node in flow.nodes.items()}
    assert kinds == {
        "plain": (False, False),
        "waits": (True, False),
        "partial": (False, False),
        "object": (True, True),
        "method": (False, False),
        "default": (False, False),
    }


def test_options_of_a_node_are_kept():
    """Retry, timeout, what a crash deserves and further targets are the node's."""
    retry = RetryPolicy(attempts=5)
    node = Workflow("w").add_node("a", nothing, retry=retry, timeout=2.5, after_crash="ask", targets=["b"]).nodes["a"]
    assert (node.retry, node.timeout, node.after_crash, node.targets) == (retry, 2.5, "ask", ("b",))


# --- the digest ----------------------------------------------------------------------------------------------------


class Small(TypedDict):
    """One field."""

    score: float


def test_the_digest_covers_the_shape_and_neither_code_nor_options():
    """Other code, retries and timeouts are the same definition."""
    again = (
        Workflow("w")
        .add_node("a", lambda state: {"other": "code"}, retry=RetryPolicy(attempts=9), timeout=1)
        .add_node("b", nothing)
        .add_node("c", nothing)
        .add_edge("a", "b")
        .add_edge("b", "a", when=lambda s: s["score"] < 0.9, label="low")
        .add_edge("b", "c")
        .set_start("a")
    )
    assert again.digest == triangle().digest


@pytest.mark.parametrize(
    "other",
    [
        lambda: triangle().add_node("d", nothing),
        lambda: triangle().add_edge("a", "c", on="failed"),
        lambda: triangle().set_start("b"),
        lambda: triangle().add_edge("c", "a", when=bool),
    ],
)
def test_another_shape_is_another_digest(other):
    """Nodes, edges, start and terminals are covered."""
    assert other().digest != triangle().digest


def test_name_version_fields_kinds_and_edge_order_are_in_the_digest():
    """Each of them alone changes it."""
    one = Workflow("w").add_node("a", nothing).set_start("a")
    named = Workflow("v").add_node("a", nothing).set_start("a")
    marked = Workflow("w", version="2").add_node("a", nothing).set_start("a")
    typed = Workflow("w", state=Small).add_node("a", nothing).set_start("a")
    digests = {flow.digest for flow in (one, named, marked, typed)}
    assert len(digests) == 4
    first = (("a", "b"), ("a", "c"))
    flows = []
    for order in (first, first[::-1]):
        flow = triangle()
        for source, target in order:
            flow.add_edge(source, target, on="failed")
        flows.append(flow)
    assert flows[0].digest != flows[1].digest


# --- deciding ------------------------------------------------------------------------------------------------------


def test_a_guard_sees_the_state_after_the_change():
    """The change is applied before the guard is asked, and the state is left as it was."""
    flow, state = triangle(), standing("b", score=0.1)
    low = flow.decide(state, "done")
    assert low.event == Transitioned("b", "a")
    change = (Op("set", ("score",), 0.9),)
    high = flow.decide(state, "done", change)
    assert high.event == Transitioned("b", "c", "done", change)
    assert high.after == {"score": 0.9}
    assert state.data == {"score": 0.1}


def test_the_first_edge_that_holds_is_taken_and_later_guards_are_not_asked():
    """Edges are asked in the order they were added."""
    asked = []

    def guard(name, holds):
        def ask(state):
            asked.append(name)
            return holds

        return ask

    flow = (
        Workflow("w")
        .add_node("a", nothing)
        .add_node("b", nothing)
        .add_node("c", nothing)
        .add_edge("a", "b", when=guard("no", holds=False))
        .add_edge("a", "c", when=guard("yes", holds=True))
        .add_edge("a", "b", when=guard("late", holds=True))
        .set_start("a")
    )
    assert flow.decide(standing("a"), "done").event == Transitioned("a", "c")
    assert asked == ["no", "yes"]


def test_a_terminal_node_completes_the_run():
    """A node without an edge for `done` is where the run ends, with its last change."""
    change = (Op("set", ("x",), 1),)
    assert triangle().decide(standing("c"), "done", change).event == RunCompleted("c", change)
    assert triangle().is_terminal("c")
    assert not triangle().is_terminal("a")


def test_a_node_with_only_an_error_edge_is_terminal_when_it_is_done():
    """An error edge is no way on for a node that succeeded."""
    flow = Workflow("w").add_node("a", nothing).add_node("b", nothing).add_edge("a", "b", on="failed").set_start("a")
    failure = Failure("E", "no")
    assert flow.decide(standing("a"), "done").event == RunCompleted("a")
    assert flow.decide(standing("a"), "failed", error=failure).event == Transitioned("a", "b", "failed", (), failure)
    assert (flow.has_edge("a", "failed"), flow.has_edge("a", "done")) == (True, False)


def test_go_takes_only_declared_targets():
    """Edges and `targets` declare where a node may go; guards are not asked."""
    flow = triangle()
    assert flow.decide(standing("b", score=0.1), "done", go="c").event == Transitioned("b", "c")
    with pytest.raises(UndeclaredTarget, match=r"'a' went to 'c'.*\(b\)"):
        flow.decide(standing("a"), "done", go="c")
    assert Go("x").update is None


def test_no_edge_that_holds_names_what_was_tried():
    """The error says which guards said no."""
    flow = (
        Workflow("w")
        .add_node("a", nothing)
        .add_node("b", nothing)
        .add_edge("a", "b", when=lambda s: False, label="never")
        .set_start("a")
    )
    with pytest.raises(NoEdgeHolds, match="tried: never"):
        flow.decide(standing("a"), "done")


def test_a_guard_that_raises_is_named():
    """The error names the node, the guard and what it raised."""
    flow = triangle()
    with pytest.raises(GuardFailed, match=r"guard 'low'.*'b'.*KeyError"):
        flow.decide(standing("b"), "done")


# --- pictures and differences --------------------------------------------------------------------------------------


def test_a_diagram_names_nodes_guards_and_the_start():
    """The mermaid text holds each node, the guard's label and where a run begins."""
    text = triangle().mermaid(at="b")
    assert "[*] --> a" in text
    for part in ("a", "b", "c", "low"):
        assert part in text
    assert text != triangle().mermaid()


def test_a_difference_is_told_in_words():
    """Every part of the shape that changed is named, and nothing else."""
    old = triangle().shape
    new = (
        Workflow("w", state=Small, version="2")
        .add_node("a", nothing)
        .add_node("c", nothing)
        .add_node("d", nothing)
        .add_edge("a", "c", on="failed")
        .add_edge("a", "d", when=bool, label="big")
        .set_start("c")
        .shape
    )
    said = difference(old, new)
    assert "nodes removed: b" in said
    assert "nodes added: d" in said
    assert "edges removed: a -> b, b -> a when low, b -> c" in said
    assert "edges added: a -> c on failed, a -> d when big" in said
    assert "start changed from 'a' to 'c'" in said
    assert "version changed from '' to '2'" in said
    assert "fields added: score" in said
    assert "fields removed: score" in difference(new, old)
    assert difference(old, old) == ""


def test_a_changed_kind_is_part_of_the_difference():
    """A function that became something else under its old name is told."""
    old = {"nodes": {"a": "function"}}
    assert difference(old, {"nodes": {"a": "agent"}}) == "kinds changed: a from function to agent"
