"""Figures as drawings: the frontier as points, steps as bars; SVG text, made by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from benchmarks.figures import Figure

WIDTH, POINTS, ROW, AROUND = 8.0, 5.0, 0.42, 1.2  # inches: of all, of the points, of a bar, around bars
LEAST = 0.01  # microseconds: what costs nothing has a place on a logarithmic axis too
OURS, THEIRS = "#2b6cb0", "#a0aec0"
BARS = ("append", "overhead")


class Panel(NamedTuple):
    """One drawing: its title, which begins with the question, its height in inches, what draws it on axes."""

    title: str
    height: float
    draw: Callable[[Any], None]


def panels(figures: Sequence[Figure]) -> list[Panel]:
    """What these figures can be drawn as."""
    found: list[Panel] = []
    if points := frontier_points(figures):
        title = "frontier: checkpoints while running, recovery after a crash"
        found.append(Panel(title, POINTS, partial(_scatter, points)))
    for question in BARS:
        for unit in sorted({one.unit for one in figures if one.question == question}):
            rows = [one for one in figures if one.question == question and one.unit == unit]
            found.append(Panel(f"{question}, {unit}", AROUND + ROW * len(rows), partial(_bars, rows, unit)))
    return found


def frontier_points(figures: Sequence[Figure]) -> list[tuple[str, float, float]]:
    """Policies with microseconds of checkpoints a step and the 99th percentile of a recovery in ms."""
    costs: dict[str, float] = {}
    times: dict[str, float] = {}
    for one in figures:
        name, _, what = one.name.rpartition(": ")
        if one.question == "frontier" and what == "checkpoints":
            costs[name] = one.value.median
        elif one.question == "frontier" and what == "recovery":
            times[name] = one.value.p99
    return [(name, costs[name], times[name]) for name in costs if name in times]


def drawn(some: Sequence[Panel], *, titled: bool) -> str:
    """Drawings below each other, as the text of one SVG."""
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - only who asks for a drawing pays for it

    heights = [one.height for one in some]
    canvas = Canvas(figsize=(WIDTH, sum(heights) or 1.0), layout="constrained")
    every = canvas.subplots(max(len(some), 1), 1, squeeze=False, height_ratios=heights or [1.0])
    for panel, axes in zip(some, every[:, 0], strict=False):
        panel.draw(axes)
        if titled:
            axes.set_title(panel.title, fontsize=10)
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _scatter(points: Sequence[tuple[str, float, float]], axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name, cost, recovery in points:
        axes.scatter([max(cost, LEAST)], [recovery], color=OURS, zorder=3)
        axes.annotate(name, (max(cost, LEAST), recovery), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.margins(x=0.15)  # so that a name at the right edge has its place
    axes.set_xlabel("checkpoints: microseconds a step")
    axes.set_ylabel("recovery: ms, 99th percentile")
    axes.grid(visible=True, which="both", alpha=0.25)


def _bars(rows: Sequence[Figure], unit: str, axes: Any) -> None:
    for place, one in enumerate(reversed(rows)):
        axes.barh(place + 0.18, one.value.median, 0.34, color=OURS)
        if one.baseline is not None:
            axes.barh(place - 0.18, one.baseline.median, 0.34, color=THEIRS)
    axes.set_yticks(range(len(rows)), [one.name for one in reversed(rows)], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"{unit}; grey: the baseline in the same run")
    axes.grid(visible=True, axis="x", alpha=0.25)
