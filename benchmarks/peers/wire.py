"""What every measured system is asked for, and the one program that asks: the same clock, warm-up and checks for all.

A worker runs in its system's own environment, so only the standard library may be imported here, and no eventflow. A job
is one JSON object on the command line; what was seen goes to stdout, one JSON object a line.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

NOTE = "The tide comes in twice a day, a little later each time, and nobody has ever had to tell it when to go."
ITEM = 1_024  # characters that a step of the growing list adds
FIRST = 20  # steps and readings at the beginning that are not counted: imports, caches, pages of the file
WARM = (20, 3)  # runs and steps before the concurrent ones
RUN = "measured"
Question = Literal["steps", "growing", "concurrent", "long", "syncs"]


@dataclass(frozen=True, slots=True)
class Job:
    """One turn of a worker: what is asked, where its store is to be, how much, and which way to run many."""

    question: Question
    place: str
    steps: int
    reads: int = 0
    runs: int = 0
    way: str = ""
    server: str = ""  # the program of a server, for who needs one

    def words(self) -> str:
        """As the worker's argument."""
        return json.dumps(asdict(self))


class Laps:
    """The microseconds between the end of one step's body and the begin of the next: all that a step is but its body."""

    def __init__(self) -> None:
        self.micros: list[float] = []
        self._left = 0.0

    def enter(self) -> None:
        """A body begins."""
        if self._left:
            self.micros.append((time.perf_counter() - self._left) * 1e6)

    def leave(self) -> None:
        """A body ends."""
        self._left = time.perf_counter()


class Subject(Protocol):
    """A system with an empty store of its own. Each step is durable before the next of its run begins."""

    def count(self, run: str, steps: int, laps: Laps) -> None:
        """A run of so many steps, one after the other; each adds one to `n` and writes `note`."""
        ...

    def grow(self, run: str, texts: list[str], laps: Laps) -> None:
        """A run with a step for each text, which adds it to the list `items`."""
        ...

    def many(self, runs: list[str], steps: int, way: str) -> None:
        """So many runs as `count` makes, in one of the ways that the table of systems names."""
        ...

    def latest(self, run: str) -> dict[str, Any]:
        """The run's newest state, read from the store."""
        ...

    def at(self, run: str, step: int) -> dict[str, Any]:
        """The run's state after that many steps. Raises Absent where the system does not offer it."""
        ...

    def history(self, run: str) -> int:
        """How many entries the run's history has, all of them read. Raises Absent."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A system in which it makes a difference whether the newest state was asked for before."""

    def again(self, run: str) -> dict[str, Any]:
        """The run's newest state, asked for once more."""
        ...


class Absent(Exception):
    """A system does not offer what was asked."""


def text(number: int) -> str:
    """An item of the growing list: base64 over bytes that nobody can foresee, the same for all systems."""
    return base64.b64encode(random.Random(number).randbytes(ITEM * 3 // 4)).decode()


def in_threads(way: str, one: Callable[[str], Any], runs: list[str]) -> None:
    """Each run whole, so many at a time as the way says: "8 threads"."""
    with ThreadPoolExecutor(int(way.split(maxsplit=1)[0])) as pool:
        list(pool.map(one, runs))


def size(place: Path) -> int:
    """Bytes of all files under a place, but LMDB's table of readers, which is made anew whenever it is gone."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and path.name != "lock.mdb")


def main(open_subject: Callable[[Job], Subject]) -> None:
    """The worker's program: do the job of the command line, say what was seen."""
    job = Job(**json.loads(sys.argv[1]))
    Path(job.place).mkdir(parents=True, exist_ok=True)
    subject = open_subject(job)
    try:
        for seen in _asked(subject, job):
            sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
    finally:
        subject.close()


def _asked(subject: Subject, job: Job) -> Iterator[dict[str, Any]]:
    if job.question == "concurrent":
        yield {"seconds": _concurrent(subject, job)}
        return
    laps = Laps()
    if job.question == "growing":
        texts = [text(number) for number in range(job.steps)]
        subject.grow(RUN, texts, laps)
    else:
        subject.count(RUN, job.steps, laps)
    yield {"micros": laps.micros[min(FIRST, len(laps.micros) // 2) :]}
    if job.reads:
        yield from _readings(subject, job)


def _concurrent(subject: Subject, job: Job) -> float:
    """Seconds from the start of the first run to the end of the last."""
    subject.many([f"warm-{number}" for number in range(WARM[0])], WARM[1], job.way)
    names = [f"run-{number}" for number in range(job.runs)]
    began = time.perf_counter()
    subject.many(names, job.steps, job.way)
    seconds = time.perf_counter() - began
    for name in (names[0], names[-1]):
        _check(subject.latest(name), job.steps, "n")
    return seconds


def _readings(subject: Subject, job: Job) -> Iterator[dict[str, Any]]:
    """The newest state, states at random steps, the history if it is not long: microseconds of each reading."""
    kind = "items" if job.question == "growing" else "n"
    chance = random.Random(7)
    steps = [chance.randint(1, job.steps) for _ in range(job.reads)]
    asked: list[tuple[str, Callable[[int], Any], int]] = [
        ("latest", lambda _: _check(subject.latest(RUN), job.steps, kind), job.reads),
        ("at", lambda number: _check(subject.at(RUN, steps[number]), steps[number], kind), job.reads),
    ]
    if isinstance(subject, Remembers):
        asked.append(("again", lambda _: _check(subject.again(RUN), job.steps, kind), job.reads))
    if job.question == "steps":
        asked.append(("history", lambda _: _enough(subject.history(RUN), job.steps), max(job.reads // 10, 3)))
    for name, ask, times in asked:
        try:
            ask(0)  # what is opened and kept at the first reading is not counted
            yield {name: [_timed(ask, number) for number in range(times)]}
        except Absent as absent:
            yield {name: [], "absent": f"{name}: {absent}"}


def _timed(ask: Callable[[int], Any], number: int) -> float:
    began = time.perf_counter()
    ask(number)
    return (time.perf_counter() - began) * 1e6


def _check(state: dict[str, Any], steps: int, kind: str) -> None:
    """What was read is what was written: a system that answers wrongly ends the benchmark."""
    seen = len(state["items"]) if kind == "items" else state["n"]
    if seen != steps:
        raise AssertionError(f"the state after {steps} steps was read as that after {seen}")


def _enough(entries: int, steps: int) -> None:
    if entries < steps:
        raise AssertionError(f"{entries} entries of a history of {steps} steps")
