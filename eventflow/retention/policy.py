"""The rules of cleaning up as plain values, and what they select: arithmetic on facts, nothing is read or written here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eventflow.checkpoint import Checkpoint
from eventflow.clock import NS
from eventflow.errors import SettingsError
from eventflow.span import span_in
from eventflow.state import STATUSES, Status

OVER: tuple[Status, ...] = (
    "completed",
    "failed",
    "cancelled",
    "timed_out",
)  # of runs that nobody goes on with by itself
_HOUR, _DAY = 3_600 * NS, 86_400 * NS


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is kept of runs that are over, and of the checkpoints of all runs.

    max_age: runs whose last event is older than that go: seconds, or a span as "30d", kept as seconds. keep: the newest that many of each workflow stay;
    with `max_age`, a run goes only if both say so. max_bytes: of what is left the oldest go until the events of runs that
    are over have no more than that many bytes; those that `keep` names stay even then. statuses, workflow, tag: only such
    runs. last, hourly, daily: of a run's checkpoints the newest that many stay, the newest of each of so many hours, and of
    each of so many days; those made by hand are not counted.
    """

    max_age: str | float | None = None
    keep: int | None = None
    max_bytes: int | None = None
    statuses: tuple[Status, ...] = OVER
    workflow: str | None = None
    tag: str | None = None
    last: int | None = None
    hourly: int | None = None
    daily: int | None = None

    def __post_init__(self) -> None:
        if self.max_age is not None:
            object.__setattr__(self, "max_age", _span(self.max_age))
        for name in ("keep", "max_bytes", "last", "hourly", "daily"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise SettingsError(f"RetentionPolicy({name}={value!r}): give a whole number, 0 or more")
        for name in ("workflow", "tag"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise SettingsError(f"RetentionPolicy({name}={value!r}): give a name, as text")
        if not isinstance(self.statuses, tuple | list):
            raise SettingsError(f"RetentionPolicy(statuses={self.statuses!r}): give a tuple of {', '.join(OVER)}")
        for status in self.statuses:
            if status not in STATUSES:
                raise SettingsError(f"{status!r} is not a status; a run that is over is one of {', '.join(OVER)}")
            if status not in OVER:
                raise SettingsError(f"a run that is {status} is not over, so no rule takes it; cancel it first")

    @property
    def age(self) -> float | None:
        """`max_age` in seconds, if there is one."""
        return self.max_age if isinstance(self.max_age, float) else None

    @property
    def takes_runs(self) -> bool:
        """Whether any rule takes whole runs."""
        return self.max_age is not None or self.keep is not None or self.max_bytes is not None

    @property
    def takes_checkpoints(self) -> bool:
        """Whether any rule takes checkpoints."""
        return self.last is not None or self.hourly is not None or self.daily is not None

    def __str__(self) -> str:
        told = [
            f"older than {self.age:g} s" if self.age is not None else "",
            f"beyond the newest {self.keep} of their workflow" if self.keep is not None else "",
            f"beyond {self.max_bytes} bytes" if self.max_bytes is not None else "",
        ]
        return "retention: " + ", ".join(one for one in told if one)


def _span(given: object) -> float:
    seconds = span_in(given)
    if isinstance(seconds, str):
        raise SettingsError(f"RetentionPolicy(max_age={given!r}): {seconds}")
    if not 0 <= seconds < math.inf:
        raise SettingsError(f"RetentionPolicy(max_age={given!r}): give 0 or more, and an end")
    return seconds


class Candidate(NamedTuple):
    """A run that is over: when its last event was (ns since the epoch, UTC), and the bytes of its events."""

    run_key: bytes
    workflow: str
    updated: int
    size: int = 0


def selected(policy: RetentionPolicy, candidates: Sequence[Candidate], now: int) -> list[bytes]:
    """The keys of the runs that the rules take, the oldest first."""
    oldest = sorted(candidates, key=lambda one: (one.updated, one.run_key))
    kept = _newest(policy.keep, oldest) if policy.keep is not None else set()
    taken: dict[bytes, None] = {}
    if policy.max_age is not None or policy.keep is not None:
        before = None if policy.age is None else now - round(policy.age * NS)
        for one in oldest:
            if one.run_key not in kept and (before is None or one.updated < before):
                taken[one.run_key] = None
    if policy.max_bytes is not None:
        total = sum(one.size for one in oldest if one.run_key not in taken)
        for one in oldest:
            if total <= policy.max_bytes:
                break
            if one.run_key not in taken and one.run_key not in kept:
                taken[one.run_key] = None
                total -= one.size
    return list(taken)


def _newest(count: int, oldest: Sequence[Candidate]) -> set[bytes]:
    """The newest that many of each workflow."""
    left: dict[str, int] = {}
    kept: set[bytes] = set()
    for one in reversed(oldest):
        if left.setdefault(one.workflow, count) > 0:
            left[one.workflow] -= 1
            kept.add(one.run_key)
    return kept


def expired_marks(policy: RetentionPolicy, marks: Sequence[Checkpoint], now: int) -> list[int]:
    """Versions of the checkpoints that no tier keeps; those made by hand and the newest stay."""
    counted = sorted((mark for mark in marks if "manual" not in mark.kinds), key=lambda mark: mark.version)
    kept = {mark.version for mark in counted[-max(policy.last or 0, 1) :]}
    for span, count in ((_HOUR, policy.hourly), (_DAY, policy.daily)):
        newest: dict[int, int] = {mark.time // span: mark.version for mark in counted}  # the last one of each stays
        current = now // span
        kept |= {version for slot, version in newest.items() if current - slot < (count or 0)}
    return [mark.version for mark in counted if mark.version not in kept]
