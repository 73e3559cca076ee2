"""The program: `python -m benchmarks [question …] [--full | --smoke] [--json FILE] [--markdown FILE] [--dir DIR]`."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import append, recover, storage, travel, waiting
from benchmarks.environment import environment
from benchmarks.figures import Figure, Size
from benchmarks.progress import Progress, progress
from benchmarks.report import Report, as_json, as_markdown, as_table

Measure = Callable[[Size, Path, Progress], list[Figure]]
# As a program with many objects sets it (docs/engine.md): CPython's 700 makes the collector walk a thousand live runs every
# few hundred steps. Baselines and candidates run under the same.
COLLECTOR = (50_000, 20, 50)
QUESTIONS: dict[str, tuple[Measure, str]] = {
    "append": (append.measure, append.ABOUT),
    "storage": (storage.measure, storage.ABOUT),
    "recover": (recover.measure, recover.ABOUT),
    "travel": (travel.measure, travel.ABOUT),
    "waiting": (waiting.measure, waiting.ABOUT),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked and print the table; 0 whether targets are met or missed, 2 for a question unknown."""
    asked = _parser().parse_args(arguments)
    unknown = [name for name in asked.questions if name not in QUESTIONS]
    if unknown:
        sys.stderr.write(f"no question {', '.join(unknown)}; there are {', '.join(QUESTIONS)}\n")
        return 2
    size: Size = "smoke" if asked.smoke else "full" if asked.full else "default"
    names = asked.questions or list(QUESTIONS)
    gc.set_threshold(*COLLECTOR)
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="eventflow-bench-", dir=asked.dir) as directory:
        place = Path(directory)
        figures = [figure for name in names for figure in _measured(name, size, place)]
        report = Report(_command(names, asked), began, time.time() - began, environment(place), figures)
    sys.stdout.write(as_table(report))
    if asked.json:
        asked.json.write_text(as_json(report))
    if asked.markdown:
        asked.markdown.write_text(as_markdown(report, {name: QUESTIONS[name][1] for name in QUESTIONS}))
    return 0


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
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page of docs/benchmarks.md too")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where stores are made; put it on the disk you ask about"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
