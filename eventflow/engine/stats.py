"""A run in numbers: what its history takes and how it grows, what its checkpoints are and cost.

Counts, bytes and times are those of the history, whoever asks. What was measured is known only of a run that this process
drives or drove. Nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventflow.checkpoint import Checkpoint
from eventflow.clock import NS
from eventflow.log import Head, Log
from eventflow.run import Journal

HOUR, DAY = 3_600 * NS, 86_400 * NS  # ns
_PAGE = 1_000  # events read in one go


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured since this process took a run up; seconds, bytes.

    `driven` is how long it was driven, standing still included, and `overhead` the share of that, in per cent, in which
    checkpoints were made; those of large states are made beside the steps, which go on. `recovery` is what bringing the
    run back now would take by what is known, 0 where the policy sets no target; `in_reach` whether the target can be met.
    """

    checkpoints: int
    snapshots: int
    snapshot_bytes: int
    checkpoint_seconds: float
    driven: float
    target: float | None
    recovery: float
    in_reach: bool

    @property
    def overhead(self) -> float:
        """Per cent of the time driven in which checkpoints were made."""
        return 100 * self.checkpoint_seconds / self.driven if self.driven > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RunStats:
    """A run in numbers. Times are ns since the epoch, UTC; `bytes` is what its own events take in the log.

    `checkpoints` are those it has now, `snapshots` the ones with bytes of their own, `snapshot_bytes` the bytes of their
    roots: pieces of lists are shared, and counted with the store. `measured` is None where this process did not drive it.
    """

    events: int
    bytes: int
    began: int
    updated: int
    checkpoints: int
    snapshots: int
    snapshot_bytes: int
    measured: Measured | None = None

    @property
    def events_per_hour(self) -> float:
        """How many events came in an hour, on the average over its recorded time."""
        return self._rate(self.events, HOUR)

    @property
    def bytes_per_day(self) -> float:
        """By how many bytes its history grew in a day, on the average over its recorded time."""
        return self._rate(self.bytes, DAY)

    def _rate(self, amount: int, span: int) -> float:
        """So much in each span, in a history that took at least a second: what is shorter has no rate."""
        return amount * span / max(self.updated - self.began, NS)


def stats_of(log: Log, head: Head, journal: Journal | None) -> RunStats:
    """What the log says of a run in numbers, reading all its events; and what was measured, if it is driven here."""
    entry = log.entry(head.run_key)
    first = entry.parent_at + 1 if entry else 1  # what a fork continues is its parent's
    size = 0
    for start in range(first, head.version + 1, _PAGE):
        size += sum(len(one.data) for one in log.read(head.run_key, start, min(start + _PAGE - 1, head.version)))
    marks: list[Checkpoint] = log.checkpoints(head.run_key)
    kept = [mark.size for mark in marks if mark.size]
    return RunStats(
        head.version - first + 1, size, entry.started if entry else head.updated, head.updated, len(marks), len(kept),
        sum(kept), None if journal is None else measured_of(journal),
    )  # fmt: skip


def measured_of(journal: Journal) -> Measured:
    """What was measured of a run that is or was driven here."""
    gauge, progress = journal.gauge, journal.progress
    return Measured(
        gauge.marks, gauge.snapshots, gauge.bytes, gauge.seconds, gauge.driven, gauge.target, gauge.recovery(progress),
        gauge.in_reach(progress),
    )  # fmt: skip
