"""Queues of runs: which of those that wait to be driven a process may take, by priority and within limits.

A run that was started into a queue waits in it until a process claims it. The choice is made here, for every backend that
can list a queue's runs; a backend makes claim and choice one transaction, so that no two processes get the same run and no
limit is passed. Nothing here reads or writes a store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from eventflow.clock import NS
from eventflow.log.heads import Head

LOOKED_AT = 1_000  # waiting runs looked at for one claim: more would hold up other writers
LOWEST, HIGHEST = -(2**31), 2**31 - 1  # priorities: what four bytes of a key can tell apart


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for a queue in the whole store; None is no limit.

    `concurrency` is how many of its runs may be driven at once, `per_key` how many of those with the same key, `rate` how
    many may be claimed within how many seconds. A run that waits for something is not counted.
    """

    concurrency: int | None = None
    per_key: int | None = None
    rate: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Take up to `room` runs of a queue that nobody drives, for an owner; only those of these workflows.

    Each one's epoch rises and its lease is the owner's. Runs whose owner is gone come first, then by priority, highest
    first, and age. `now` is ns since the epoch, UTC; a backend with a clock of its own takes that. `skip` are keys of runs
    that the claimer can't use.
    """

    owner: bytes
    queue: str
    workflows: frozenset[str]
    room: int
    limits: Limits
    now: int
    skip: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Claimed:
    """The runs that were taken, as their heads are now."""

    heads: tuple[Head, ...]


@dataclass(slots=True)
class Bucket:
    """How many runs of a queue may still be claimed, at a time (ns): it fills up as time goes by (a token bucket)."""

    tokens: float
    at: int

    def filled(self, rate: tuple[int, float], now: int) -> Bucket:
        """What it holds later."""
        count, seconds = rate
        gained = max(now - self.at, 0) / NS * count / seconds
        return Bucket(min(self.tokens + gained, float(count)), max(now, self.at))


class Queued(NamedTuple):
    """A run of a queue: its head, workflow, priority and key; `taken` says that a living process holds it."""

    head: Head
    workflow: str
    priority: int
    key: str
    taken: bool


def choose(claim: Claim, taken: Iterable[Queued], waiting: Iterable[Queued], bucket: Bucket | None) -> list[Queued]:
    """The runs to hand out, of those that `waiting` gives in their order; `taken` are those that are driven now."""
    limits = claim.limits
    busy = Counter(one.key for one in taken if one.head.status != "waiting")
    room = claim.room
    if limits.concurrency is not None:
        room = min(room, limits.concurrency - busy.total())
    if bucket is not None:
        room = min(room, int(bucket.tokens))
    chosen: list[Queued] = []
    for one in waiting:
        if len(chosen) >= room:
            break
        if one.workflow not in claim.workflows or one.head.run_key in claim.skip:
            continue
        if limits.per_key is not None and one.key:
            if busy[one.key] >= limits.per_key:
                continue
            busy[one.key] += 1
        chosen.append(one)
    return chosen
