"""Figures for people and programs: a table, a page of Markdown, JSON. Nothing is measured here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.figures import Figure, Spread

SCHEMA = "eventflow.benchmarks/1"
COLUMNS = ("question", "measured", "median", "p99", "baseline", "ratio", "target", "", "note")


@dataclass(frozen=True, slots=True)
class Report:
    """All that one call of the program has found."""

    command: str
    began: float
    seconds: float
    environment: Mapping[str, str]
    figures: Sequence[Figure]


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The table's cells."""
    return [
        (
            figure.question, figure.name, f"{number(figure.value.median)} {figure.unit}", _p99(figure.value),
            "" if figure.baseline is None else f"{number(figure.baseline.median)} {figure.unit}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}x", target_of(figure), verdict_of(figure), figure.note,
        )
        for figure in figures
    ]  # fmt: skip


def _p99(spread: Spread) -> str:
    return number(spread.p99) if spread.count > 1 else ""


def target_of(figure: Figure) -> str:
    """The bound on a figure, empty if it has none."""
    if figure.target is None:
        return ""
    sign = "<=" if figure.target.at == "most" else ">="
    unit = "x" if figure.ratio is not None else f" {figure.unit}"
    return f"{sign} {figure.target.limit:g}{unit}"


def verdict_of(figure: Figure) -> str:
    """Met or missed, empty where there is no bound."""
    return "" if figure.met is None else "met" if figure.met else "missed"


def number(value: float) -> str:
    """A number as people read it: three digits, thousands apart."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def day(moment: float) -> str:
    """A moment, to the minute, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


def as_table(report: Report) -> str:
    """The table as text."""
    cells = [COLUMNS, *rows(report.figures)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    about = [f"{name}: {value}" for name, value in report.environment.items()]
    head = f"{report.command}   {day(report.began)}, {report.seconds:.0f} s"
    return "\n".join([head, "; ".join(about), "", *lines, ""])


def as_markdown(report: Report, about: Mapping[str, str]) -> str:
    """The page docs/benchmarks.md: how to run, what is measured, the last run."""
    table = [COLUMNS, ("---",) * len(COLUMNS), *rows(report.figures)]
    return "\n".join([
        "# Benchmarks",
        "",
        _INTRODUCTION,
        *(f"## {name}\n\n{text.strip()}\n" for name, text in about.items()),
        "## The last run",
        "",
        f"By `{report.command}`, {day(report.began)}, in {report.seconds:.0f} s, on:",
        "",
        *(f"- {name}: {value}" for name, value in report.environment.items()),
        "",
        *("| " + " | ".join(row) + " |" for row in table),
        "",
    ])  # fmt: skip


def between(page: str, name: str, text: str) -> str:
    """A page with a text put between its lines `<!-- figures: NAME -->` and `<!-- end of figures: NAME -->`.

    Raises ValueError if the page has no such lines.
    """
    begin, end = f"<!-- figures: {name} -->\n", f"<!-- end of figures: {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no place for the figures of {name}: the page has no line {begin.strip()} with its end")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


_INTRODUCTION = """\
This page is written by the program it describes; figures are never typed in by hand.

```
python -m benchmarks                     all questions
python -m benchmarks append recover      some of them
python -m benchmarks --full              ten times as much
python -m benchmarks --smoke             a few seconds: shows that it works, says nothing of speed
python -m benchmarks --json FILE         the figures as JSON too
python -m benchmarks --plot FILE.svg     drawings: the frontier, steps as bars
python -m benchmarks --html FILE         all of it as one page that needs nothing else
python -m benchmarks --dir DIR           stores on the disk that you ask about
python -m benchmarks --markdown docs/benchmarks.md
python -m benchmarks peers               beside other systems, which are installed first; only asked by name
python -m benchmarks peers --into docs/performance.md
```

Run it from the root of the repository, with the extra `bench` installed (`pip install -e '.[bench]'`); 99th percentiles
are those of an HDR histogram. A figure has a baseline where the same work can be done bare; both take turns
within one run, so that their ratio means the same on any machine, while the absolute numbers are those of one. Say
`--dir` if your temporary directory lies in memory: there, a durable commit costs nothing. A target is `met` or
`missed`; the program ends with 0 either way.
"""


def as_json(report: Report) -> str:
    """The figures and what they depend on, as JSON."""
    figures = [{**asdict(figure), "met": figure.met} for figure in report.figures]
    value = {
        "schema": SCHEMA,
        "command": report.command,
        "began": day(report.began),
        "seconds": round(report.seconds, 1),
        "environment": dict(report.environment),
        "figures": figures,
    }
    return json.dumps(value, indent=2) + "\n"
