"""Figures: what a question answers with. Facts and the arithmetic on them; nothing here measures or prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hdrh.histogram import HdrHistogram

FINEST = 1_000_000  # steps in one unit of whatever is measured: milliseconds and ratios below 1 keep their digits
LARGEST, DIGITS = 10**15, 3
Size = Literal["smoke", "default", "full"]


@dataclass(frozen=True, slots=True)
class Spread:
    """What many measurements of one thing look like."""

    median: float
    mean: float
    p99: float
    count: int


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a figure's ratio, or on its value where it has no baseline."""

    limit: float
    at: Literal["most", "least"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: something measured, the baseline beside it, and what it should come to.

    `ratio` is the median over the pairs of value to baseline; `note` is what else was seen.
    """

    question: str
    name: str
    unit: str
    value: Spread
    baseline: Spread | None = None
    ratio: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        measured = self.value.median if self.ratio is None else self.ratio
        return measured <= self.target.limit if self.target.at == "most" else measured >= self.target.limit


def spread(values: Sequence[float]) -> Spread:
    """Median, mean and 99th percentile (the largest of fewer than a hundred)."""
    return Spread(statistics.median(values), statistics.fmean(values), percentile(values, 99), len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so many in a hundred do not pass, to three digits, by an HDR histogram."""
    histogram = HdrHistogram(1, LARGEST, DIGITS)
    for value in values:
        histogram.record_value(min(round(value * FINEST), LARGEST))
    return float(histogram.get_value_at_percentile(share)) / FINEST


def once(value: float) -> Spread:
    """Something that was measured once, because it does not depend on time."""
    return Spread(value, value, value, 1)


def ratio(values: Sequence[float], baselines: Sequence[float]) -> float:
    """The median of the ratios of pairs that were measured in turn."""
    return statistics.median(value / other for value, other in zip(values, baselines, strict=True))


def blocks(values: Sequence[float], length: int) -> list[Sequence[float]]:
    """Whole blocks of that many neighbours; what is left over at the end is not counted."""
    return [values[start : start + length] for start in range(0, len(values) - length + 1, length)]
