"""A workflow laid out on a plane: nodes in layers from the start down, edges as curves around them.

After K. Sugiyama and others, "Methods for visual understanding of hierarchical system structures" (1981): edges that go
back are turned round, each node stands below all that lead to it, an edge over several layers passes each by a place of
its own, and places within a layer are ordered by the middle of their neighbours. Numbers only; nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

MAX_NODES, MAX_EDGES = 300, 1_200  # beyond, a drawing says nothing any more
NODE_HEIGHT, MIN_WIDTH, MAX_WIDTH = 36, 76, 220
_CHARACTER, _PADDING = 7.4, 30  # px of a letter, and beside a name
_ROW, _GAP, _LANE, _MARGIN = 34, 26, 14, 12  # px between layers, between places, of an edge that passes, around
_LABEL = 150  # px that a label beside a lane may take
_SWEEPS = 8  # passes that order the layers: more changed nothing in drawings of a hundred nodes

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Graph:
    """A drawing: nodes as (name, kind, x, y, width) by their middle, edges as (source, target, labels, curve)."""

    width: float
    height: float
    nodes: tuple[tuple[str, str, float, float, float], ...]
    edges: tuple[tuple[str, str, tuple[str, ...], str, float, float], ...]
    left_out: int = 0


@dataclass(slots=True)
class _Place:
    """A node, or where a long edge passes a layer."""

    name: str
    layer: int
    width: float
    x: float = 0.0
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)


def layout(kinds: Mapping[str, str], edges: Mapping[Edge, Sequence[str]], start: str) -> Graph:
    """A drawing of nodes (name → kind) and edges (source, target → labels)."""
    names = list(kinds)[:MAX_NODES]
    kept = {edge: labels for edge, labels in edges.items() if edge[0] in kinds and edge[1] in kinds}
    drawn = {edge: kept[edge] for edge in list(kept)[:MAX_EDGES] if edge[0] in names and edge[1] in names}
    forward = _forward(names, drawn, start)
    layers = _layers(names, forward)
    places = {name: _Place(name, layers[name], _width(name)) for name in names}
    passing = {edge: _threaded(places, edge) for edge in forward}
    rows = _rows([*places.values(), *(one for chain in passing.values() for one in chain)])
    _ordered(rows)
    _spread(rows)
    right = max((one.x + one.width / 2 for row in rows for one in row), default=0)
    height = len(rows) * (NODE_HEIGHT + _ROW) - _ROW
    lanes = _Lanes(right)
    curves = [_edge(places, passing, edge, labels, lanes) for edge, labels in drawn.items()]
    nodes = [(one.name, kinds[one.name], one.x + _MARGIN, _y(one.layer), one.width) for one in places.values()]
    left_out = len(kinds) - len(names) + len(kept) - len(drawn)
    beside = max(
        (len(" ".join(labels)) * 5.6 for source, target, labels, *_ in curves if (source, target) not in forward),
        default=0,
    )
    width = max(right, lanes.right + min(beside, _LABEL)) + 2 * _MARGIN
    return Graph(round(width, 1), height + 2 * _MARGIN, tuple(nodes), tuple(curves), left_out)


def _width(name: str) -> float:
    return min(max(len(name) * _CHARACTER + _PADDING, MIN_WIDTH), MAX_WIDTH)


def _y(layer: int) -> float:
    return layer * (NODE_HEIGHT + _ROW) + NODE_HEIGHT / 2 + _MARGIN


def _forward(names: Iterable[str], edges: Iterable[Edge], start: str) -> dict[Edge, None]:
    """Edges that do not go back in a walk from the start, in depth; without a stack of Python's own."""
    following: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        if source != target:
            following[source].append(target)
    forward: dict[Edge, None] = {}
    done: set[str] = set()
    for root in [start, *following] if start in following else list(following):
        if root in done:
            continue
        open_, trail = {root}, [(root, iter(following[root]))]
        done.add(root)
        while trail:
            node, rest = trail[-1]
            for target in rest:
                if target not in open_:
                    break
            else:
                open_.discard(node)
                trail.pop()
                continue
            forward[node, target] = None
            if target not in done:
                done.add(target)
                open_.add(target)
                trail.append((target, iter(following[target])))
    return forward


def _layers(names: Iterable[str], forward: Iterable[Edge]) -> dict[str, int]:
    """Each node one layer below the lowest that leads to it."""
    waiting = dict.fromkeys(names, 0)
    following: dict[str, list[str]] = {name: [] for name in waiting}
    for source, target in forward:
        following[source].append(target)
        waiting[target] += 1
    layers = dict.fromkeys(waiting, 0)
    ready = [name for name, count in waiting.items() if not count]
    for name in ready:  # grows while it is walked
        for target in following[name]:
            layers[target] = max(layers[target], layers[name] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return layers


def _threaded(places: Mapping[str, _Place], edge: Edge) -> list[_Place]:
    """Places for an edge in the layers it passes, linked from its source to its target."""
    source, target = places[edge[0]], places[edge[1]]
    chain = [_Place("", layer, _LANE) for layer in range(source.layer + 1, target.layer)]
    whole = [source, *chain, target]
    for upper, lower in pairwise(whole):
        upper.below.append(lower)
        lower.above.append(upper)
    return chain


def _rows(places: Sequence[_Place]) -> list[list[_Place]]:
    rows: list[list[_Place]] = [[] for _ in range(max((one.layer for one in places), default=-1) + 1)]
    for one in places:
        rows[one.layer].append(one)
    return rows


def _ordered(rows: list[list[_Place]]) -> None:
    """Order each layer by the middle of the neighbours in the one before, down and up again."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            for index, one in enumerate(row):
                one.x = index
        for row in rows[1:] if down else rows[-2::-1]:
            middles = {id(one): _middle(one.above if down else one.below, one.x) for one in row}
            row.sort(key=lambda one: middles[id(one)])
            for index, one in enumerate(row):
                one.x = index


def _middle(neighbours: Sequence[_Place], otherwise: float) -> float:
    return sum(one.x for one in neighbours) / len(neighbours) if neighbours else otherwise


def _spread(rows: list[list[_Place]]) -> None:
    """Give places their x: layers centred, then each drawn towards its neighbours as far as order and room allow."""
    for row in rows:
        at = 0.0
        for one in row:
            one.x = at + one.width / 2
            at += one.width + _GAP
        for one in row:
            one.x -= (at - _GAP) / 2
    for _ in range(_SWEEPS):
        for row in rows:
            _settle(row)
    left = min((one.x - one.width / 2 for row in rows for one in row), default=0)
    for row in rows:
        for one in row:
            one.x = round(one.x - left, 1)


def _settle(row: list[_Place]) -> None:
    wanted = [_middle([*one.above, *one.below], one.x) for one in row]
    for index, one in enumerate(row):
        low = row[index - 1].x + (row[index - 1].width + one.width) / 2 + _GAP if index else float("-inf")
        high = float("inf")
        if index + 1 < len(row):
            high = row[index + 1].x - (row[index + 1].width + one.width) / 2 - _GAP
        one.x = max(low, min(wanted[index], high)) if low <= high else one.x


class _Lanes:
    """Where edges that go back run: each on a line of its own, right of all nodes."""

    def __init__(self, right: float) -> None:
        self.right = right
        self._taken = 0

    def next(self) -> float:
        """The x of a new line."""
        self._taken += 1
        self.right += 34 if self._taken == 1 else 22
        return self.right


def _edge(
    places: Mapping[str, _Place], passing: Mapping[Edge, list[_Place]], edge: Edge, labels: Sequence[str], lanes: _Lanes
) -> tuple[str, str, tuple[str, ...], str, float, float]:
    """An edge as an SVG path, and where its label may stand."""
    source, target = places[edge[0]], places[edge[1]]
    if edge in passing:
        curve, x, y = _down(source, passing[edge], target)
    else:
        curve, x, y = _back(source, target, lanes.next())
    return *edge, tuple(labels), curve, round(x, 1), round(y, 1)


def _down(source: _Place, chain: Sequence[_Place], target: _Place) -> tuple[str, float, float]:
    half = NODE_HEIGHT / 2
    points = [(source.x, _y(source.layer) + half)]
    for one in chain:
        points += [(one.x, _y(one.layer) - half), (one.x, _y(one.layer) + half)]
    points.append((target.x, _y(target.layer) - half - 3))
    moved = [(x + _MARGIN, y) for x, y in points]
    path = f"M{_n(moved[0][0])} {_n(moved[0][1])}"
    for (x, y), (to_x, to_y) in pairwise(moved):
        bend = (to_y - y) / 2
        path += f"C{_n(x)} {_n(y + bend)} {_n(to_x)} {_n(to_y - bend)} {_n(to_x)} {_n(to_y)}"
    (x, y), (to_x, to_y) = moved[0], moved[1]
    return path, (x + to_x) / 2, (y + to_y) / 2


def _back(source: _Place, target: _Place, lane: float) -> tuple[str, float, float]:
    """Out at the right side, up a lane, and in at the right side: a loop where it is the same node."""
    off = 9
    start = (source.x + source.width / 2 + _MARGIN, _y(source.layer) + (0 if source is not target else off))
    end = (target.x + target.width / 2 + _MARGIN + 3, _y(target.layer) - (0 if source is not target else off))
    x = lane + _MARGIN
    turn = min(18.0, abs(start[1] - end[1]) / 2)
    path = (
        f"M{_n(start[0])} {_n(start[1])}C{_n(x)} {_n(start[1])} {_n(x)} {_n(start[1])} {_n(x)} {_n(start[1] - turn)}"
        f"L{_n(x)} {_n(end[1] + turn)}C{_n(x)} {_n(end[1])} {_n(x)} {_n(end[1])} {_n(end[0])} {_n(end[1])}"
    )
    return path, x, (start[1] + end[1]) / 2


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def graph_of(definition: Mapping[str, Any], seen: Iterable[tuple[str, str]], nodes: Iterable[str], start: str) -> Graph:
    """The drawing of a recorded definition, with nodes and edges added that only a history has seen.

    Nothing in a definition that comes from a file is believed to be of its form.
    """
    kinds: dict[str, str] = {}
    declared = definition.get("nodes")
    if isinstance(declared, dict):
        kinds = {name: kind if isinstance(kind, str) else "" for name, kind in declared.items()}
    for name in nodes:
        kinds.setdefault(name, "")
    edges: dict[Edge, list[str]] = {}
    told = definition.get("edges")
    for one in told if isinstance(told, list) else ():
        if isinstance(one, list) and len(one) == 4 and all(isinstance(part, str) for part in one):
            source, target, trigger, label = one
            words = " · ".join(filter(None, [f"on {trigger}" if trigger != "done" else "", label]))
            edges.setdefault((source, target), []).extend([words] if words else [])
    for source, target in seen:
        edges.setdefault((source, target), [])
    return layout(kinds, edges, start)
