"""What the screens read: lists of runs, events by version, states beside those before them. Draws nothing.

Each look is a short read; nothing is held open between two. What was read stays at hand as long as there is room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import RLock
from typing import Generic, TypeVar, get_args

from eventflow.address import moment
from eventflow.errors import SettingsError
from eventflow.event import Recorded
from eventflow.exchange import Stretch, stretches
from eventflow.log import Head, Listed, Log, Query
from eventflow.recovery import history, line, recover, walk
from eventflow.state import State, Status, evolve
from replay.history import Line, line_of, node_after

MAX_RUNS = 5_000  # runs listed, the newest: more than anybody scrolls through; a filter finds the others
PAGE = 200  # events read at a time: a few screens, a few ms
PAGES = 50  # pages kept: what a search jumps to and fro between
STATES = 32  # states kept: those around where one stands; each may be large, but they share what has not changed
NEAR = 16  # versions before it that a state is recovered with: so many steps back cost nothing more
BEFORE = 100  # events looked back through for the node that the first of a page happened in

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key, made when they are first asked for; the newest `room` of them are kept. For several threads."""

    def __init__(self, room: int, make: Callable[[Key], Value]) -> None:
        self._room, self._make = room, make
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = RLock()

    def get(self, key: Key) -> Value:
        """The value of a key."""
        with self._lock:
            found = self._kept.get(key)
            return self.put(key, self._make(key) if found is None else found)

    def at_hand(self, key: Key) -> Value | None:
        """The value of a key, if it is kept."""
        return self._kept.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Keep a value as the newest."""
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return value

    def forget(self, key: Key) -> None:
        """Make it anew the next time."""
        with self._lock:
            self._kept.pop(key, None)


# --- runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs are listed: those that fit the query, and in whose id, workflow, tags or subject all words stand."""

    query: Query
    words: tuple[str, ...] = ()

    def fits(self, listed: Listed) -> bool:
        """Whether all words stand somewhere in what a list knows of a run."""
        entry, head = listed.entry, listed.head
        told = "\n".join((head.run_id, entry.workflow, *entry.tags, entry.subject or "", head.status, head.waiting_for))
        return all(word in told.casefold() for word in self.words)


def read_filter(text: str, *, now: int) -> Filter:
    """A filter from its text: `status=`, `workflow=`, `tag=`, `since=`, and words. Raises SettingsError."""
    query, words = Query(limit=MAX_RUNS), list[str]()
    status: Status | None = None
    found: dict[str, str] = {}
    for word in text.split():
        name, sign, value = word.partition("=")
        if sign and name in ("status", "workflow", "tag", "since"):
            found[name] = value
        else:
            words.append(word.casefold())
    if "status" in found:
        status = next((one for one in get_args(Status) if one == found["status"]), None)
        if status is None:
            raise SettingsError(f"{found['status']!r} is no status; a run is one of {', '.join(get_args(Status))}")
    since = moment(found["since"], now=now) if "since" in found else None
    query = Query(status, found.get("workflow"), found.get("tag"), since, MAX_RUNS)
    return Filter(query, tuple(words))


def listed_runs(log: Log, wanted: Filter) -> list[Listed]:
    """The runs that a filter lets through, newest first."""
    return [one for one in log.runs(wanted.query) if wanted.fits(one)]


# --- one run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instant:
    """A run at a version: the event of that version, the state after it, and the state before it, if there was one."""

    recorded: Recorded
    state: State
    before: State | None


class Trail:
    """A run's events by version, 1 to `head.version`, those it shares with its parents included. Grows by `reach`."""

    def __init__(self, log: Log, head: Head) -> None:
        self.log, self.head = log, head
        self._pages: Recent[int, list[tuple[Line, Recorded]]] = Recent(PAGES, self._read)
        self._states: Recent[int, State] = Recent(STATES, self._state)
        self._stretches: list[Stretch] = stretches(log, [head])
        self._look()

    def _look(self) -> None:
        """What may be another with each new event: the line, and the checkpoints."""
        segments = line(self.log, self.head.run_key, self.head.version)
        self._on_line = [range(one.first, one.last + 1) for one in segments]
        self.marks = frozenset(mark.version for mark in self.log.checkpoints(self.head.run_key))

    def reach(self, head: Head) -> None:
        """Take in what has been recorded since."""
        grown = (self.head.version - 1) // PAGE
        self.head, self._stretches = head, stretches(self.log, [head])
        self._pages.forget(grown)  # only now: another thread may have been reading it
        self._look()

    def on_line(self, version: int) -> bool:
        """Whether an event is part of what the run's newest state came from, and was not left behind by a rewind."""
        return any(version in one for one in self._on_line)

    def line(self, version: int) -> Line:
        """The line of an event."""
        return self._at(version)[0]

    def instant(self, version: int) -> Instant:
        """The run at a version. Raises Corrupt, WrittenByNewer, VersionNotFound."""
        before = self._states.get(version - 1) if version > 1 else None
        return Instant(self._at(version)[1], self._states.get(version), before)

    def _state(self, version: int) -> State:
        """The state at a version: one step on from the one before, or recovered together with some before it.

        So a walk in either direction folds little, also where a file of an export holds no snapshots.
        """
        segment = line(self.log, self.head.run_key, version)[-1]
        if version == segment.first:
            return recover(self.log, self.head, version).state
        before, recorded = self._states.at_hand(version - 1), self._at(version)[1]
        if before is not None and before.digest == recorded.before and self._vouched(recorded):
            return evolve(before, recorded)
        state = before
        for seen, state in walk(self.log, self.head, version, after=max(segment.first, version - NEAR)):
            self._states.put(seen.version, state)
        assert state is not None  # noqa: S101 - a version after the first of a stretch has been walked to
        return state

    def _vouched(self, recorded: Recorded) -> bool:
        """Whether the event after it, or the head, says that it is this one."""
        last = recorded.version == self.head.version
        return recorded.digest == (self.head.digest if last else self._at(recorded.version + 1)[1].before)

    def _at(self, version: int) -> tuple[Line, Recorded]:
        return self._pages.get((version - 1) // PAGE)[(version - 1) % PAGE]

    def _read(self, page: int) -> list[tuple[Line, Recorded]]:
        """A page's events; some before it are read too, for the node that the first of it happened in."""
        first, last = page * PAGE + 1, min((page + 1) * PAGE, self.head.version)
        found: list[tuple[Line, Recorded]] = []
        node, time = "", None
        for one in self._stretches:
            start, end = max(one.first, first - BEFORE), min(one.last, last)
            for recorded in history(self.log, one.run_key, start, end) if start <= end else ():
                if recorded.version >= first:
                    found.append((line_of(recorded, node, time), recorded))
                node, time = node_after(recorded.event, node), recorded.time
        return found


def day_text(ns: int) -> str:
    """A time in ns as date and time, UTC, to the second."""
    return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def hour_text(ns: int, *, fine: bool) -> str:
    """A time in ns as the time of its day, UTC, to the ms if `fine`."""
    text = datetime.fromtimestamp(ns / 1e9, UTC).strftime("%H:%M:%S.%f")
    return text[:12] if fine else text[:8]
