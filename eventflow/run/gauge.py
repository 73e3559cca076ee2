"""What is measured of a run while this process drives it: its checkpoints, and what bringing it back would cost.

Time is read around what takes long, never around a step: the seconds of a checkpoint, those of a few events that
are folded again now and then, those of reading a snapshot again when it has doubled. Where the clock goes on it is the
processor's time that counts, since other runs have their share of the wall's. Nothing here decides when a checkpoint is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from eventflow.checkpoint import EVENT_WEIGHT, MIN_EVENTS, CheckpointPolicy, Progress, quiet_until
from eventflow.clock import Clock, processor
from eventflow.costs import AIM, FEWEST, WORTH_TIMING, Costs, Timed
from eventflow.errors import EventflowError
from eventflow.log import Log
from eventflow.recovery import fold_on, load_again
from eventflow.state import State

Found = TypeVar("Found")

QUIET = MIN_EVENTS * EVENT_WEIGHT  # the weight of fewer events than the default policy asks for
FOLDED_AGAIN = 64  # events, at most: they take 2 ms, as long as a thread may be kept waiting
AT_A_TIME = 8  # of them
LONGEST = 0.002  # seconds of folding again, where events are large
FARTHEST = 4_096  # events between two times of folding again; they begin at 64 apart and double


class Gauge:
    """What was measured of one driven run since this process took it up; times are the clock's, in seconds.

    `quiet` is the weight of events since the last snapshot below which no policy by size or by recovery asks for one.
    """

    __slots__ = (
        "_clock", "_from", "_gap", "_next", "began", "bytes", "costs", "left", "marks", "quiet", "seconds", "snapshots", "target",
        "warned",
    )  # fmt: skip

    def __init__(
        self, policy: CheckpointPolicy, clock: Clock, state: State, timed: Timed
    ) -> None:  # fmt: skip
        self._clock = clock
        self.began, self.left = clock.monotonic(), 0.0
        self.marks = self.snapshots = self.bytes = 0
        self.seconds = 0.0
        self.quiet = QUIET
        self.target, self.warned = policy.target, False
        self.costs: Costs | None = None
        self._from: State | None = None  # whose next events are folded again
        self._next, self._gap = state.version, FOLDED_AGAIN
        if self.target is not None:
            self.costs = Costs()
            self.costs.recovered(timed)
            self.quiet = 0

    @property
    def driven(self) -> float:
        """Seconds since the run was taken up, up to now or to when it was let go."""
        return (self.left or self._clock.monotonic()) - self.began

    def leave(self) -> None:
        """The run is let go."""
        self.left = self._clock.monotonic()

    def kept(self, seconds: float, size: int, late: int) -> None:
        """A snapshot was written: so many bytes, in that time, in which so many events came."""
        self.snapshots += 1
        self.bytes += size
        self.seconds += seconds
        if self.costs is not None:
            self.costs.landed(late)

    def look(self, progress: Progress) -> None:
        """Say anew until when nothing can be due for the time that a recovery takes."""
        if self.costs is not None and self.target is not None:
            soon = progress.weight + FOLDED_AGAIN * EVENT_WEIGHT
            self.quiet = min(quiet_until(self.target, self.costs, progress), soon)

    def recovery(self, progress: Progress) -> float:
        """Seconds in which the run could be brought back now, by what is known; 0 where nobody set a target."""
        return 0.0 if self.costs is None else self.costs.estimate(progress.state_size, progress.events)

    def at_least(self, progress: Progress) -> float:
        """Seconds that one recovery in a hundred takes even right after a snapshot, by what is known."""
        return 0.0 if self.costs is None else self.costs.estimate(progress.snapshot_size, FEWEST) / AIM

    def in_reach(self, progress: Progress) -> bool:
        """Whether the run could be brought back in time right after a snapshot."""
        if self.costs is None or self.target is None:
            return True
        return self.costs.in_reach(self.target, progress.snapshot_size)

    async def time_load(self, log: Log, state: State, size: int, *, beside: bool) -> None:
        """Time what reading the snapshot of a state takes, if it has doubled; `beside` does it on another thread."""
        if self.costs is not None and size >= max(WORTH_TIMING, 2 * self.costs.loaded):
            work = partial(load_again, log, state.run.run_key, state.version)
            self.costs.loading(*(await asyncio.to_thread(self._timed, work) if beside else self._timed(work)))

    def time_events(self, log: Log, state: State) -> None:
        """Fold a few of the events that led to a state once more, if it is time to."""
        costs, version = self.costs, state.version
        if costs is None or version < self._next:
            return
        base, self._from = self._from, None
        if base is None:
            self._from, self._next = state, version + FOLDED_AGAIN
            return
        self._next, self._gap = version + self._gap, min(2 * self._gap, FARTHEST)
        folded, last, left = base, min(version, base.version + FOLDED_AGAIN), LONGEST
        with suppress(EventflowError):  # what is amiss with them is for the next recovery to say, or for a verification
            while folded.version < last and left > 0:
                upto = min(folded.version + AT_A_TIME, last)
                size = sum(len(one.data) for one in log.read(state.run.run_key, folded.version + 1, upto))
                count = upto - folded.version
                seconds, folded = self._timed(partial(fold_on, log, folded, upto))
                costs.folding(seconds, count, size)
                left -= seconds

    def _timed(self, work: Callable[[], Found]) -> tuple[float, Found]:
        """Seconds of the processor that some work takes, none where the clock stands still; and what it returns."""
        began, used = self._clock.monotonic(), processor()
        found = work()
        return min(self._clock.monotonic() - began, processor() - used), found
