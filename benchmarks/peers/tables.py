"""The section of docs/performance.md that is generated: systems and settings, all figures side by side, targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.figures import Figure
from benchmarks.peers.systems import EVENTFLOW, PEERS, PINNED
from benchmarks.report import Report, day, number, target_of, verdict_of

_SKIPPED = "skipped: "


def section(report: Report) -> str:
    """Markdown of what one run has found about peers."""
    figures = [figure for figure in report.figures if figure.question == "peers"]
    measured = [figure for figure in figures if not figure.name.startswith(_SKIPPED)]
    skipped = [figure for figure in figures if figure.name.startswith(_SKIPPED)]
    return "\n".join([
        f"By `{report.command}`, {day(report.began)}, in {report.seconds:.0f} s, on:", "",
        *(f"- {name}: {value}" for name, value in report.environment.items()), "",
        f"The systems, in their newest releases of {PINNED}:", "",
        *_table(("system", "version", "settings"), [(one.name, one.version, one.settings) for one in PEERS]), "",
        f"Each system's best turn; **bold** is ahead of {EVENTFLOW.name}:", "",
        *_side_by_side(measured), "",
        *(f"- {one.name.removeprefix(_SKIPPED)} is not there: {one.note}" for one in skipped), *([""] if skipped else []),
        f"What is asked of {EVENTFLOW.name}; the ratio is the peer's figure over its own:", "",
        *_table(("measured", "ratio", "target", "", "way"), list(_judged(measured))),
    ])  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(row) + " |"


def _side_by_side(figures: Sequence[Figure]) -> Iterator[str]:
    """A row for each thing measured, a column for each system; of steps, a row of their 99th percentiles too."""
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        what, _, system = figure.name.rpartition(": ")
        cells.setdefault(f"{what}, {figure.unit}", {})[system] = _cell(figure)
        if what == "a step":
            cells.setdefault(f"{what}, p99, {figure.unit}", {})[system] = number(figure.value.p99)
    systems = [one.name for one in (EVENTFLOW, *PEERS) if any(one.name in row for row in cells.values())]
    rows = [(what, *(row.get(system, "") for system in systems)) for what, row in cells.items()]
    return _table(("", *systems), rows)


def _cell(figure: Figure) -> str:
    value = number(figure.value.median)
    return f"**{value}**" if "ahead of eventflow" in figure.note else value


def _judged(figures: Sequence[Figure]) -> Iterator[tuple[str, ...]]:
    for figure in figures:
        if figure.target is not None and figure.ratio is not None:
            way = figure.note if figure.unit == "steps/s" else ""
            yield figure.name, f"{figure.ratio:.3g}x", target_of(figure), verdict_of(figure), way
