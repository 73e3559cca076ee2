"""What can be seen to be wrong with a definition before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from eventflow.workflow.parts import TRIGGERS, Edge, Node


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding; a fatal one keeps the workflow from running at all."""

    kind: str
    text: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class _Graph:
    """The definition as far as it is looked at here."""

    nodes: Mapping[str, Node]
    edges: Sequence[Edge]
    start: str
    fields: frozenset[str]
    reduced: frozenset[str]


def find_problems(
    nodes: Mapping[str, Node], edges: Sequence[Edge], start: str, *, fields: Iterable[str], reduced: Iterable[str] = ()
) -> list[Problem]:
    """All findings; only the fatal ones where there are any. `reduced` are the fields that have a reducer."""
    flow = _Graph(nodes, edges, start, frozenset(fields), frozenset(reduced))
    fatal = _unknown_names(flow) + _undeclared_fields(flow) + _disagreeing_branches(flow)
    if fatal:
        return fatal
    return [
        *(Problem("unreachable", f"node {name!r} can't be reached from the start {start!r}") for name in _unreachable(flow)),
        *(Problem("dead end", f"no terminal node can be reached from {name!r}: a run there never ends") for name in _dead_ends(flow)),
        *_missing_defaults(flow),
    ]  # fmt: skip


def _unknown_names(flow: _Graph) -> list[Problem]:
    found = []
    if not flow.start:
        found.append(Problem("no start", "no start is set; call set_start(...)", fatal=True))
    elif flow.start not in flow.nodes:
        found.append(Problem("unknown node", f"the start {_unknown(flow.start, flow)}", fatal=True))
    for edge in flow.edges:
        for name in (edge.source, edge.target):
            if name not in flow.nodes:
                text = f"the edge {edge.source} -> {edge.target} names " + _unknown(name, flow, ", which ")
                found.append(Problem("unknown target", text, fatal=True))
    for node in flow.nodes.values():
        for name in node.targets:
            if name not in flow.nodes:
                text = f"node {node.name!r} may go to " + _unknown(name, flow, ", which ")
                found.append(Problem("unknown target", text, fatal=True))
    return found


def _unknown(name: str, flow: _Graph, which: str = " ") -> str:
    """That a name is no node's, and which may be meant."""
    near = get_close_matches(name, flow.nodes, n=1)
    return f"{name!r}{which}is not a node" + (f"; did you mean {near[0]!r}?" if near else "")


def _steps(flow: _Graph) -> dict[str, set[str]]:
    steps: dict[str, set[str]] = {name: set(node.targets) for name, node in flow.nodes.items()}
    for edge in flow.edges:
        steps[edge.source].add(edge.target)
    return steps


def _reached(steps: dict[str, set[str]], starts: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    todo = list(starts)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(steps[name])
    return seen


def _unreachable(flow: _Graph) -> list[str]:
    seen = _reached(_steps(flow), [flow.start])
    return [name for name in flow.nodes if name not in seen]


def _dead_ends(flow: _Graph) -> list[str]:
    steps = _steps(flow)
    back: dict[str, set[str]] = {name: set() for name in flow.nodes}
    for name, targets in steps.items():
        for target in targets:
            back[target].add(name)
    going_on = {edge.source for edge in flow.edges if edge.trigger == "done"}
    ends = [name for name, node in flow.nodes.items() if name not in going_on and not node.targets]
    ending = _reached(back, ends)
    return [name for name in flow.nodes if name not in ending]


def _missing_defaults(flow: _Graph) -> list[Problem]:
    found = []
    for name in flow.nodes:
        for trigger in TRIGGERS:
            edges = [edge for edge in flow.edges if edge.source == name and edge.trigger == trigger]
            if edges and all(edge.when is not None for edge in edges):
                text = f"every edge out of {name!r} on {trigger!r} has a guard; add a last one without `when`"
                found.append(Problem("missing default", text))
            default = next((index for index, edge in enumerate(edges) if edge.when is None), len(edges))
            if default < len(edges) - 1:
                text = f"edges out of {name!r} on {trigger!r} after the one without `when` are never asked"
                found.append(Problem("shadowed edge", text))
    return found


def _undeclared_fields(flow: _Graph) -> list[Problem]:
    declared = flow.fields
    found = []
    for node in flow.nodes.values():
        fields = getattr(node.body, "fields", None)
        if not declared or fields is None or node.kind == "function":
            continue
        reads, writes = fields()
        for verb, names in (("reads", reads), ("writes", writes)):
            for name in names:
                if name not in declared:
                    text = f"node {node.name!r} {verb} {name!r}, which the workflow's state does not declare"
                    found.append(Problem("undeclared field", text, fatal=True))
    return found


def _disagreeing_branches(flow: _Graph) -> list[Problem]:
    found = []
    for node in flow.nodes.values():
        brought: dict[str, str] = {}
        for branch, one in (node.branches or {}).items():
            fields = getattr(one.body, "fields", None)
            for name in () if fields is None or not branch else fields()[1]:
                if name in brought and name not in flow.reduced:
                    text = f"branches {brought[name]!r} and {branch!r} of node {node.name!r} both write {name!r} without a reducer"
                    found.append(Problem("branches disagree", text, fatal=True))
                brought[name] = branch
    return found
