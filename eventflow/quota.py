"""How much may be kept: limits on a run's history, on one event, on a store, as plain values, and the arithmetic on them.

A limit is there to be met late and seen early: what comes near one is told first. What is done about a run or a store that
has reached one is the business of who drives it; nothing here reads or writes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from eventflow.errors import SettingsError

RUN_EVENTS = 50_000  # events: beyond, questions to one history (watch, blame, diff) take over a second
RUN_BYTES = 50_000_000  # bytes, which a verification reads in a few seconds: a run's own events with the values in them
EARLY = 5  # a run is told of at one part in so many of its limits: there are weeks left then, not minutes
LARGE_EVENT = 256 << 10  # bytes; an event so large is mostly a file that found its way into the state
SMALLEST_EVENT = 4 << 10  # bytes; a failure's own event must still fit
FILLING = 80  # per cent of a store's bytes at which it is told of
RESERVE = 10  # per cent beyond a limit that what is under way may still use

What = Literal["run_events", "run_bytes", "event_bytes", "store_bytes"]
_UNITS = {"run_events": "events"}
_OWNERS = {
    "run_events": "its history has",
    "run_bytes": "its history has",
    "event_bytes": "one of its events has",
    "store_bytes": "the store has",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much may be kept; None is no limit.

    `run_events` and `run_bytes` hold for each run's own history, counted from its origin where it was compacted: at the
    limit it is parked. `event_bytes` holds for what one event carries, up to what the format allows. At `store_bytes` no
    new run is started. Raises SettingsError for what can be no limit.
    """

    run_events: int | None = RUN_EVENTS
    run_bytes: int | None = RUN_BYTES
    event_bytes: int | None = None
    store_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            least = SMALLEST_EVENT if field.name == "event_bytes" else 1
            if limit is not None and (type(limit) is not int or limit < least):
                raise SettingsError(f"Quota({field.name}={limit!r}): give a whole number, {least} or more, or None")


NO_QUOTA = Quota(run_events=None, run_bytes=None)


@dataclass(frozen=True, slots=True)
class LimitNear:
    """A run or its store comes near a limit, or one event is very large; said once for each run and limit.

    `what` is the limit's name in `Quota`, `used` what there is of it, `limit` the limit, or None for an event that is
    large where none is set.
    """

    run_id: str
    version: int
    what: What
    used: int
    limit: int | None

    def __str__(self) -> str:
        return f"run {self.run_id}: {amount_text(self.what, self.used, self.limit)}"


def amount_text(what: What, used: int, limit: int | None) -> str:
    """How much of a limit is used, in words: "its history has 10,000 of 50,000 events"."""
    of = "" if limit is None else f" of {limit:,}"
    return f"{_OWNERS[what]} {used:,}{of} {_UNITS.get(what, 'bytes')}"


def full_text(run_id: str, version: int, what: What, used: int, limit: int) -> str:
    """What to do about a run that has reached a limit, as one sentence."""
    if what == "store_bytes":
        return (
            f"{amount_text(what, used, limit)}, so nothing goes on; remove runs with `eventflow store prune`, or raise "
            f"store_bytes of its quota, then `eventflow resume {run_id}`"
        )
    return (
        f"{amount_text(what, used, limit)}; `eventflow compact {run_id} --before {version}` lets it begin at a later version, or "
        f"raise {what} of its quota (None is no limit), then `eventflow resume {run_id}`"
    )


def beyond(limit: int) -> int:
    """A limit with the reserve that what is under way may use."""
    return limit + limit * RESERVE // 100
