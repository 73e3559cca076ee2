"""The program: `python -m benchmarks [question …] [--full | --smoke] [--json FILE] [--plot FILE] [--html FILE]`."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

try:
    import hdrh.histogram  # noqa: F401 - asked for before anything is measured
except ImportError:
    sys.stderr.write("benchmarks need hdrhistogram: pip install -e '.[bench]'\n")
    sys.exit(2)

from benchmarks import (
    append,
    concurrency,
    fleet,
    frontier,
    overhead,
    postgres,
    recover,
    scale,
    stages,
    storage,
    travel,
    waiting,
    wakeups,
)
from benchmarks.environment import environment
from benchmarks.figures import Figure, Size
from benchmarks.progress import Progress, progress
from benchmarks.report import Report, as_json, as_markdown, as_table, between

Measure = Callable[[Size, Path, Progress], list[Figure]]
# As a program with many objects sets it (docs/engine.md): CPython's 700 makes the collector walk a thousand live runs every
# few hundred steps. Baselines and candidates run under the same.
COLLECTOR = (50_000, 20, 50)
QUESTIONS: dict[str, tuple[Measure, str]] = {
    "append": (append.measure, append.ABOUT),
    "stages": (stages.measure, stages.ABOUT),
    "overhead": (overhead.measure, overhead.ABOUT),
    "frontier": (frontier.measure, frontier.ABOUT),
    "recover": (recover.measure, recover.ABOUT),
    "travel": (travel.measure, travel.ABOUT),
    "storage": (storage.measure, storage.ABOUT),
    "concurrency": (concurrency.measure, concurrency.ABOUT),
    "wakeups": (wakeups.measure, wakeups.ABOUT),
    "waiting": (waiting.measure, waiting.ABOUT),
    "scale": (scale.measure, scale.ABOUT),
}
BY_DEFAULT = tuple(QUESTIONS)
QUESTIONS["postgres"] = (postgres.measure, postgres.ABOUT)  # starts a server, so only who names it gets it
QUESTIONS["fleet"] = (fleet.measure, fleet.ABOUT)  # and this one installs DBOS
if find_spec("benchmarks.peers") is not None:  # installs other software, so only who names it gets it
    peers = import_module("benchmarks.peers")
    QUESTIONS["peers"] = (peers.measure, peers.ABOUT)


PLACED = {"peers": "benchmarks.peers.tables", "stages": "benchmarks.stages"}  # what docs/performance.md has room for


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked and print the table; 0 whether targets are met or missed, 2 for what can't be asked."""
    asked = _parser().parse_args(arguments)
    unknown = [name for name in asked.questions if name not in QUESTIONS]
    if unknown:
        sys.stderr.write(f"no question {', '.join(unknown)}; there are {', '.join(QUESTIONS)}\n")
        return 2
    if (asked.plot or asked.html) and find_spec("matplotlib") is None:
        sys.stderr.write("--plot and --html need matplotlib: pip install -e '.[bench]'\n")
        return 2
    size: Size = "smoke" if asked.smoke else "full" if asked.full else "default"
    names = asked.questions or list(BY_DEFAULT)
    if reason := _no_place(names, asked.into):
        sys.stderr.write(f"{reason}\n")
        return 2
    gc.set_threshold(*COLLECTOR)
    began, load = time.time(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="eventflow-bench-", dir=asked.dir) as directory:
        place = Path(directory)
        figures = [figure for name in names for figure in _measured(name, size, place)]
        where = environment(place) | {"load average": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after"}
        report = Report(_command(names, asked), began, time.time() - began, where, figures)
    sys.stdout.write(as_table(report))
    if not asked.questions:
        sys.stderr.write("peers are not among these, for they are installed first: python -m benchmarks peers\n")
    _written(report, asked)
    return 0


def _no_place(names: Sequence[str], page: Path | None) -> str:
    """Why figures can't be put into a page, said before they are measured; empty if they can or nobody asked."""
    if page is None:
        return ""
    wanted = [name for name in PLACED if name in names]
    if not wanted:
        return "--into puts the figures of peers or of stages into a page: python -m benchmarks peers --into FILE"
    try:
        for name in wanted:
            between(page.read_text(), name, "")
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _written(report: Report, asked: argparse.Namespace) -> None:
    """The files that were asked for."""
    about = {name: text for name, (_, text) in QUESTIONS.items()}
    if asked.json:
        asked.json.write_text(as_json(report))
    if asked.markdown:
        asked.markdown.write_text(as_markdown(report, about))
    if asked.into:
        page = asked.into.read_text()
        for name, module in PLACED.items():
            if any(figure.question == name for figure in report.figures):
                page = between(page, name, import_module(module).section(report))
        asked.into.write_text(page)
    if asked.plot:
        from benchmarks.plots import drawn, panels  # noqa: PLC0415 - loads matplotlib

        asked.plot.write_text(drawn(panels(report.figures), titled=True))
    if asked.html:
        from benchmarks.page import as_html  # noqa: PLC0415 - the same

        asked.html.write_text(as_html(report, about))


def _measured(name: str, size: Size, place: Path) -> list[Figure]:
    own = place / name
    own.mkdir()
    return QUESTIONS[name][0](size, own, progress())


def _command(names: Sequence[str], asked: argparse.Namespace) -> str:
    parts = ["python -m benchmarks", *(asked.questions and names)]
    parts += [flag for flag, given in (("--full", asked.full), ("--smoke", asked.smoke)) if given]
    return " ".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure eventflow on this machine.")
    parser.add_argument("questions", nargs="*", metavar="question", help=f"of {', '.join(QUESTIONS)}; all by default")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="ten times as much, for hours of quiet")
    size.add_argument("--smoke", action="store_true", help="a few seconds: shows that it works, says nothing of speed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them as SVG too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with tables and drawings too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page of docs/benchmarks.md too")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="put the figures of peers or stages into docs/performance.md"
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where stores are made; put it on the disk you ask about"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
