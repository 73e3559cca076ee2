"""The drawing of a workflow: every node in a place of its own, every edge from its source to its target."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from replay.export.capsule.graph import MAX_NODES, NODE_HEIGHT, graph_of, layout

names = st.sampled_from([f"node{number}" for number in range(12)])


@given(st.lists(names, min_size=1, max_size=12, unique=True), st.lists(st.tuples(names, names), max_size=30))
def test_nodes_never_overlap_and_stay_on_the_paper(nodes, pairs):
    """Whatever the edges are: cycles, loops, several parts, edges to what is not there."""
    found = layout(dict.fromkeys(nodes, ""), {pair: [] for pair in pairs}, nodes[0])
    assert [one[0] for one in found.nodes] == nodes
    assert {one[:2] for one in found.edges} == {pair for pair in pairs if set(pair) <= set(nodes)}
    for index, (_, _, x, y, width) in enumerate(found.nodes):
        assert x - width / 2 >= 0
        assert x + width / 2 <= found.width
        assert NODE_HEIGHT / 2 <= y <= found.height - NODE_HEIGHT / 2
        for _, _, other_x, other_y, other_width in found.nodes[index + 1 :]:
            assert y != other_y or abs(x - other_x) >= (width + other_width) / 2


def test_a_chain_stands_one_below_the_other_and_a_cycle_goes_back():
    """What leads to a node stands above it; an edge back runs beside."""
    found = layout(dict.fromkeys("abc", ""), {("a", "b"): [], ("b", "c"): ["x"], ("c", "a"): ["again"]}, "a")
    heights = [one[3] for one in found.nodes]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3
    curves = {(one[0], one[1]): one[3] for one in found.edges}
    assert "L" in curves["c", "a"]
    assert "L" not in curves["a", "b"]
    for curve in curves.values():
        assert re.fullmatch(r"[MCL\d. -]+", curve)


def test_what_a_file_says_of_its_definition_is_not_believed():
    """Whatever is of another form is left out; what the history has seen is added."""
    odd = {"nodes": {"a": 3, "b": "agent"}, "edges": [["a"], ["a", "b", "failed", "x"], ["a", "b", 1, ""], "ab", None]}
    found = graph_of(odd, [("b", "new")], ["new"], "a")
    assert [one[:2] for one in found.nodes] == [("a", ""), ("b", "agent"), ("new", "")]
    assert {one[:3] for one in found.edges} == {("a", "b", ("on failed · x",)), ("b", "new", ())}
    assert graph_of({}, [], [], "").nodes == ()
    assert graph_of({"nodes": [], "edges": {}}, [], ["a"], "a").nodes[0][0] == "a"


def test_a_drawing_has_a_limit():
    """And says how much it leaves out."""
    many = {f"n{number}": "" for number in range(MAX_NODES + 10)}
    found = layout(many, {("n0", f"n{number}"): [] for number in range(1, MAX_NODES + 10)}, "n0")
    assert len(found.nodes) == MAX_NODES
    assert found.left_out == 20
