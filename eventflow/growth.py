"""How a store grows: events and bytes over its recorded times, from a few reads, whatever its size.

Positions rise and times rise with them, but for clocks that were set back; so the first event of the last hour or day is
found by halving. Nothing here reads a clock: the moment it is asked for is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventflow.clock import NS
from eventflow.codec import TOMBSTONE, Stored, decode
from eventflow.errors import Corrupt
from eventflow.log import Log

HOUR, DAY = 3_600 * NS, 86_400 * NS  # ns
PAGE = 256  # positions looked at in one go where runs were deleted
_TIME = 6  # the place of its time in an event's array (docs/format.md)


@dataclass(frozen=True, slots=True)
class Growth:
    """What came to a store, and when; times in ns since the epoch, UTC, 0 in an empty store.

    `bytes` is what all events take with their indexes, texts and snapshots: what came in an hour or a day is reckoned by
    the average event. `last_hour` and `last_day` are the events of the hour and the day before it was asked.
    """

    events: int
    bytes: int
    first: int = 0
    last: int = 0
    last_hour: int = 0
    last_day: int = 0

    @property
    def events_per_hour(self) -> float:
        """How many events came in an hour, on the average between the first event and the last."""
        return self.events * HOUR / max(self.last - self.first, NS)

    @property
    def bytes_per_day(self) -> float:
        """By how many bytes the store grew in a day, on the same average."""
        return self.bytes * DAY / max(self.last - self.first, NS)

    @property
    def bytes_of_event(self) -> float:
        """Bytes that one event adds to the store, on the average."""
        return self.bytes / self.events if self.events else 0.0


def growth(log: Log, size: int, now: int) -> Growth:
    """How a store of so many bytes has grown up to now. Raises Corrupt."""
    last = log.position()
    newest = _newest(log, last)
    if not newest:
        return Growth(last, size)
    hour, day = (last - _before(log, last, now - span) for span in (HOUR, DAY))
    return Growth(last, size, _time_after(log, 0), newest, hour, day)


def _newest(log: Log, last: int) -> int:
    """The time of the newest event that is there, 0 where none is: those of deleted runs are not."""
    for after in range(max(last - PAGE, 0), -PAGE, -PAGE):
        there = [one for one in log.feed(max(after, 0), PAGE) if one.data[:1] != TOMBSTONE]
        if there:
            return _time_of(there[-1])
    return 0


def _before(log: Log, last: int, moment: int) -> int:
    """How many positions come before a moment."""
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        if _time_after(log, middle) < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _time_after(log: Log, position: int) -> int:
    """The time of the first event after a position that is there; beyond all times where there is none."""
    page, limit = log.feed(position, 1), 1
    while page:
        for one in page:
            if one.data[:1] != TOMBSTONE:
                return _time_of(one)
        if len(page) < limit:
            break
        limit = PAGE
        page = log.feed(page[-1].position, limit)
    return 1 << 63


def _time_of(stored: Stored) -> int:
    array = decode(stored.data, f"position {stored.position}")
    if not isinstance(array, list) or len(array) <= _TIME or not isinstance(array[_TIME], int):
        raise Corrupt(f"position {stored.position}", "is no event")
    return int(array[_TIME])
