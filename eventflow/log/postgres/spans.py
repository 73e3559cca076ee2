"""The log's partitions, spans of positions: how much of each is still events, and which are worth writing anew.

What was deleted leaves a tombstone's row, and the bytes it had stay in the file of its span until that is written anew; then
they go back to the file system. The database does it, by `rewrite_spans` of its schema. Nothing here decides what is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from psycopg.types.numeric import Int8

if TYPE_CHECKING:
    import psycopg

WORTH = 0.25  # of a span's bytes must go by it: less is read and written for little, and the rest comes again
TOMBSTONE_BYTES = 110  # of a tombstone's row and its place in the index, measured on PostgreSQL 18
FAN = 4  # spans without an event that become one, so that their number grows with the logarithm of what was deleted
ALIKE = 2  # times that the largest of them may be longer than the smallest, so that no tombstone is copied often
LEAST = 1 << 20  # bytes that must go: a file system and its cache do not notice less

_SPANS = """select s.low, s.high, s.changed, s.kept, coalesce(pg_total_relation_size(to_regclass('log_' || s.low)), 0),
    s.low >= t.low from spans s, tip t order by s.low"""
_REWRITE = "select bytes_before, bytes_after from rewrite_spans(%b, %b)"


@dataclass(frozen=True, slots=True)
class Span:
    """One partition: positions `low` to before `high`, bytes with its indexes, events that may be left in it.

    `deleted` are those that became tombstones since it was written last; `open` says that events are still added to it.
    """

    low: int
    high: int
    deleted: int
    events: int
    bytes: int
    open: bool

    @property
    def frees(self) -> int:
        """Bytes that writing it anew would free, about."""
        rows = self.high - self.low
        left = self.events + self.deleted
        weight = self.bytes - rows * TOMBSTONE_BYTES
        return max(0, weight * self.deleted // left) if left and not self.open else 0


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Spans that are neighbours, to be one table afterwards."""

    spans: tuple[Span, ...]

    @property
    def low(self) -> int:
        """Where they begin."""
        return self.spans[0].low

    @property
    def high(self) -> int:
        """The position before which they end."""
        return self.spans[-1].high

    @property
    def bytes(self) -> int:
        """What they have now."""
        return sum(span.bytes for span in self.spans)

    @property
    def frees(self) -> int:
        """What of it would be freed, about."""
        return sum(span.frees for span in self.spans)


def spans(connection: psycopg.Connection) -> list[Span]:
    """The partitions of a log by position, those that were made ahead among them; no row of the log is read."""
    found = connection.execute(_SPANS.encode(), prepare=True, binary=True).fetchall()
    return [
        Span(low, high, changed, (high - low if kept is None else kept) - changed, size, is_open)
        for low, high, changed, kept, size, is_open in found
    ]


def worthwhile(held: Sequence[Span]) -> list[Rewrite]:
    """What is worth writing anew, oldest first: where much would be freed, and small ones without events."""
    closed = [span for span in held if not span.open]
    chosen = [Rewrite((span,)) for span in closed if span.frees >= max(LEAST, WORTH * span.bytes)]
    taken = {one.low for one in chosen}
    begin = 0
    while begin + FAN <= len(closed):
        group = closed[begin : begin + FAN]
        if _are_alike(group) and not taken.intersection(span.low for span in group):
            chosen.append(Rewrite(tuple(group)))
            begin += FAN
        else:
            begin += 1
    return sorted(chosen, key=lambda one: one.low)


def _are_alike(group: Sequence[Span]) -> bool:
    """Whether spans can become one: neighbours without events, none much longer than another."""
    lengths = [span.high - span.low for span in group]
    return (
        all(not span.events for span in group)
        and all(one.high == other.low for one, other in pairwise(group))
        and max(lengths) <= ALIKE * min(lengths)
    )


def rewrite(connection: psycopg.Connection, one: Rewrite) -> tuple[int, int]:
    """Write spans anew, in one transaction; bytes before and after. Raises psycopg's errors."""
    row = connection.execute(_REWRITE.encode(), (Int8(one.low), Int8(one.high))).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))
