"""A day's busiest time, event by event: runs arrive, wait for a place, take their steps, and each step waits for the writer.

A discrete-event simulation from a seed: arrivals are a Poisson process whose rate follows the day (by thinning: Lewis and
Shedler, 1979), the time in a node is lognormal, places are taken in the order of arrival, and the one writer of a store
takes into each commit all that waits for it. Nothing of eventflow runs here, and no clock is read.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

DAY = 86_400.0  # seconds
LONGEST = 4_000.0  # seconds of the day that are simulated at most
_ASKS, _WRITTEN = range(2)


@dataclass(frozen=True, slots=True)
class Load:
    """What comes and what it takes: runs a day, the busiest moment over the mean, steps of a run, seconds in a node.

    `spread` is the sigma of the logarithm of a node's seconds: 1 means that one in a hundred takes six times the mean.
    """

    runs: float
    peak: float = 2.0
    steps: int = 10
    node: float = 1.0
    spread: float = 1.0

    @property
    def at_peak(self) -> float:
        """Runs a second at the busiest time."""
        return self.runs / DAY * self.peak

    @property
    def offered(self) -> float:
        """Runs that are in progress at the busiest time, if none ever waits (Little's law)."""
        return self.at_peak * self.steps * self.node

    def rate(self, moment: float) -> float:
        """Runs a second at a moment; the busiest one is 0."""
        return self.runs / DAY * (1 + (self.peak - 1) * math.cos(2 * math.pi * moment / DAY))


@dataclass(frozen=True, slots=True)
class Waits:
    """What was simulated: runs, seconds that they waited for a place, seconds from asking for a commit to its end."""

    runs: int
    places: tuple[float, ...]
    commits: tuple[float, ...]
    busy: float


@dataclass(slots=True)
class _Simulation:
    load: Load
    places: int
    commit: float
    each: float
    most: int  # events in one commit
    dice: random.Random
    heap: list[tuple[float, int, int, int]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)  # steps that a run has yet to take
    came: list[float] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    asked: deque[tuple[int, float]] = field(default_factory=deque)
    writing: list[tuple[int, float]] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    order: int = 0
    busy: float = 0.0

    def at(self, moment: float, what: int, run: int) -> None:
        self.order += 1
        heapq.heappush(self.heap, (moment, self.order, what, run))

    def node(self) -> float:
        """Seconds in a node, of that mean."""
        sigma = self.load.spread
        return self.dice.lognormvariate(math.log(self.load.node) - sigma * sigma / 2, sigma) if self.load.node else 0.0

    def begin(self, run: int, now: float) -> None:
        self.places -= 1
        self.waited.append(now - self.came[run])
        self.at(now + self.node(), _ASKS, run)

    def ask(self, run: int, now: float) -> None:
        self.asked.append((run, now))
        if not self.writing:
            self.write(now)

    def write(self, now: float) -> None:
        self.writing = [self.asked.popleft() for _ in range(min(len(self.asked), self.most))]
        seconds = self.commit + self.each * len(self.writing)
        self.busy += seconds
        self.at(now + seconds, _WRITTEN, -1)

    def end_of_write(self, now: float) -> None:
        done, self.writing = self.writing, []
        for run, since in done:
            self.written.append(now - since)
            self.left[run] -= 1
            if self.left[run] == self.load.steps:  # its start is durable: it waits for a place from now on
                self.started(run, now)
                continue
            if self.left[run]:
                self.at(now + self.node(), _ASKS, run)
                continue
            self.places += 1
            if self.waiting:
                self.begin(self.waiting.popleft(), now)
        if self.asked:
            self.write(now)

    def started(self, run: int, now: float) -> None:
        self.came[run] = now
        if self.places:
            self.begin(run, now)
        else:
            self.waiting.append(run)


def simulate(load: Load, *, places: int, commit: float, each: float, most: int, runs: int, seed: int) -> Waits:
    """Simulate so many runs about the busiest time; the first third fills the system and is not counted."""
    one = _Simulation(load, places, commit, each, most, random.Random(seed))
    span = min(max(runs / load.at_peak, 5 * load.steps * load.node), LONGEST) if load.at_peak else 0.0
    for number, moment in enumerate(_arrivals(load, -span / 2, span / 2, one.dice)):
        one.came.append(moment)
        one.left.append(load.steps + 1)
        one.at(moment, _ASKS, number)
    end = 0.0
    while one.heap:
        now, _, what, run = heapq.heappop(one.heap)
        end = max(end, now)
        if what == _ASKS:
            one.ask(run, now)
        else:
            one.end_of_write(now)
    skipped = len(one.waited) // 3
    share = one.busy / (end + span / 2) if end + span / 2 > 0 else 0.0
    return Waits(len(one.came), tuple(one.waited[skipped:]), tuple(one.written[len(one.written) // 3 :]), share)


def _arrivals(load: Load, begin: float, end: float, dice: random.Random) -> Iterator[float]:
    highest, now = load.at_peak, begin
    while highest > 0 and (now := now + dice.expovariate(highest)) < end:
        if dice.random() * highest < load.rate(now):
            yield now


def places_for(load: Load, *, quality: float = 1.0) -> int:
    """Places so that few runs wait: the offered load and so many times its square root (Halfin and Whitt, 1981)."""
    return max(1, math.ceil(load.offered + quality * math.sqrt(load.offered)))


def quantile(values: tuple[float, ...], share: float) -> float:
    """The value that this share of all values does not pass; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0
