"""What bringing a run back would cost, from what it cost so far: averages, and the arithmetic on them.

The model is that of a recovery: something for finding the run, so much for each byte of the newest snapshot and of the
events after it, so much for each of those events. Nothing here reads a clock or a log: seconds come in as numbers. A clock
that stands still measures nothing, and what is taken for true until something was measured stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from eventflow.errors import DefinitionError
from eventflow.span import span_in

# Until they are measured; somewhat more than was seen with states of many kinds (`python -m benchmarks recover`).
FIXED = 0.000_2  # seconds that any recovery takes: finding the run, its line and its newest snapshot
FOLD = 0.000_03  # seconds to read, check and fold an event, beside its bytes
LOAD = 12e-9  # seconds to read a byte: pieces of lists take a quarter of it, texts that are kept one by one all of it

AIM = 0.5  # of the target is planned for; the rest is for what a busy machine does to one recovery in a hundred
SPREADS = 2.0  # mean deviations an event is reckoned dearer than the average: of many events not all are
BELIEVED = 32  # events that what was taken for true counts as, beside the first that are measured
MEMORY = 512  # events that all measured before count as, so that a run may change its ways
WORTH_TIMING = 16 << 10  # bytes; reading less takes no longer than finding it
FEWEST = 8  # events between two snapshots; where a target needs more snapshots than that, it is out of reach
STEP = 4  # events after which a run is looked at again at the earliest, so that looking costs next to nothing


class Timed(NamedTuple):
    """What a recovery took: seconds and bytes of its snapshot, then seconds, number and bytes of the events after it."""

    load: float = 0.0
    loaded: int = 0
    fold: float = 0.0
    folded: int = 0
    size: int = 0


UNTIMED = Timed()


def seconds_of(span: str | float) -> float:
    """A span in seconds, from seconds or a text as "50 ms", "2 s", "500 us". Raises DefinitionError."""
    seconds = span_in(span)
    if isinstance(seconds, str):
        raise DefinitionError(f"CheckpointPolicy(recovery={span!r}) is how long a recovery may take: {seconds}")
    if not 0 < seconds < math.inf:
        raise DefinitionError(
            "CheckpointPolicy(recovery=...) is how long a recovery may take: give more than 0 seconds"
        )
    return seconds


@dataclass(slots=True)
class Costs:
    """What recoveries of one run cost, in seconds: `fold` an event, `spread` how far events were above it, `load` a byte.

    `late` is how many events come while a snapshot is written, which a recovery before its end would have to fold too.
    """

    fold: float = FOLD
    spread: float = 0.0
    load: float = LOAD
    late: float = 0.0
    folded: int = BELIEVED
    loaded: int = 0

    def folding(self, seconds: float, events: int, size: int) -> None:
        """So many events of so many bytes in all were read, checked and folded in that time."""
        if seconds <= 0 or events < 1:
            return
        one = max(seconds - size * self.load, seconds / 4) / events
        share = events / (events + min(self.folded, MEMORY))
        self.spread += share * (max(one - self.fold, 0.0) - self.spread)
        self.fold += share * (one - self.fold)
        self.folded += events

    def loading(self, seconds: float, size: int) -> None:
        """A snapshot of so many bytes was read and checked in that time."""
        if seconds <= 0 or size < WORTH_TIMING:
            return
        one = max(seconds - FIXED, seconds / 4) / size
        self.load = (self.load + one) / 2 if self.loaded else one
        self.loaded = max(self.loaded, size)

    def recovered(self, timed: Timed) -> None:
        """A recovery of the run took that."""
        self.loading(timed.load, timed.loaded)
        self.folding(timed.fold, timed.folded, timed.size)

    def landed(self, events: int) -> None:
        """So many events came while a snapshot was written."""
        self.late += (events - self.late) / 4

    @property
    def event(self) -> float:
        """Seconds an event is reckoned with."""
        return self.fold + SPREADS * self.spread

    def estimate(self, size: int, events: int) -> float:
        """Seconds of a recovery that folds so many events; `size` is that of them and of the snapshot before them."""
        return FIXED + size * self.load + events * self.event

    def in_reach(self, target: float, size: int) -> bool:
        """Whether a run whose state has that size could be brought back in time at all."""
        return self.estimate(size, FEWEST) + self.late * self.event < AIM * target

    def room(self, target: float, size: int, events: int) -> float:
        """Seconds that are left before the next snapshot must be made; below 0 where it is late."""
        return AIM * target - self.estimate(size, events) - self.late * self.event
