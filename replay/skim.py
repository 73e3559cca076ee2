"""Events read only as far as a question needs them.

Every event's outer array is decoded and its digest taken, so that the chain is checked as in every fold; its body is
decoded only where it can matter to the question. A value is followed through the changes of its own field alone, which
gives what folding whole states gives, since operations on one field leave the others alone. Whatever is not known here
(a newer format, flag or fact) is left to the codec and to `walk`, which know it or say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from eventflow.address import Address
from eventflow.change import Change, apply
from eventflow.codec import FORMAT, Stored, decode, encode, read_events
from eventflow.codec.blobs import checked_refs, expand_small
from eventflow.codec.events import FLAG_REFS, FLAG_ZSTD, MAX_BODY, SHAPES
from eventflow.codec.reading import change_from_plain
from eventflow.errors import Corrupt, EventflowError
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    NodeSkipped,
    Recorded,
    RunCancelled,
    RunCompacted,
    RunCompleted,
    RunFailed,
    RunParked,
    RunPaused,
    RunResumed,
    RunSuspended,
    RunTimedOut,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import Log
from eventflow.plain import FrozenDict, raw
from eventflow.proof import digest
from eventflow.recovery import CHUNK, Segment, line, recover, walk
from eventflow.state import State

LAYOUT = 1  # the format whose arrays are read here
_KNOWN_FLAGS = FLAG_ZSTD | FLAG_REFS
_ARRAY = [int, int, bytes, int, int, int, int, int, dict, bytes, bytes]  # docs/format.md, "An event"
_BODIES = {kind: len(shape.body) for kind, shape in SHAPES.items()}  # fields of a body at most
_KINDS = {shape.code: (kind, frozenset({*shape.header, "snapshot"})) for kind, shape in SHAPES.items()}
# What changes the data, and where in the body it says how; nothing else does so between two bends of a line.
_MOVES = {kind: SHAPES[kind].body.index("change") for kind in (Transitioned, RunCompleted, RunResumed)}
_QUIET = frozenset({
    AttemptFailed, BranchesOpened, BranchFailed, BranchFinished, EffectFailed, EffectFinished, EffectRejected,
    EffectStarted, NodeSkipped, RunCancelled, RunFailed, RunParked, RunPaused, RunSuspended, RunTimedOut, SignalReceived,
    SignalRefused, UndoBegan, WaitClosed, WaitOpened,
})  # fmt: skip


class Unfamiliar(Exception):
    """An event is not of the layout that is known here; the codec must read it."""


class Glance(NamedTuple):
    """An event whose body has not been looked at: what kind of fact, its place, its header as it is stored."""

    kind: type
    version: int
    time: int
    header: Mapping[str, Any]
    run_key: bytes
    before: bytes
    flags: int
    body: bytes
    stored: Stored


def glance(stored: Stored) -> Glance:
    """The outside of an event. Raises Unfamiliar for what the codec must judge, Corrupt."""
    array = decode(stored.data, f"the event at position {stored.position}")
    if type(array) is not list or list(map(type, array)) != _ARRAY or array[0] != LAYOUT or FORMAT < LAYOUT:
        raise Unfamiliar
    _, flags, run_key, _, version, _, time, code, header, body, before = array
    kind, names = _KINDS.get(code, _NOTHING)
    if kind is None or flags & ~_KNOWN_FLAGS or not header.keys() <= names:
        raise Unfamiliar
    return Glance(kind, version, time, header, run_key, before, flags, body, stored)


_NOTHING: tuple[Any, frozenset[str]] = (None, frozenset())


class Opener:
    """Expands bodies, one after the other."""

    def inside(self, seen: Glance) -> bytes:
        """A body's bytes, expanded but not decoded. Raises Corrupt, WrittenByNewer."""
        if not seen.flags & FLAG_ZSTD:
            return seen.body
        return expand_small(seen.body, _where(seen), limit=MAX_BODY)


def parts(seen: Glance, body: bytes) -> tuple[list[Any], list[bytes]]:
    """The fields of a decoded body, and the names of the blobs it refers to. Raises Unfamiliar, Corrupt."""
    where = _where(seen)
    found, refs = decode(body, where), []
    if seen.flags & FLAG_REFS:
        if type(found) is not list or len(found) != 2:
            raise Unfamiliar
        found, refs = found[0], checked_refs(found[1], where)
    if type(found) is not list or len(found) > _BODIES[seen.kind]:
        raise Unfamiliar
    return found, [ref[1] for ref in refs]


def _where(seen: Glance) -> str:
    return f"the event at position {seen.stored.position}"


def whole(log: Log, stored: Stored) -> Recorded:
    """An event as the codec reads it."""
    return read_events([stored], log.blobs)[0]


def stored_events(log: Log, run_key: bytes, first: int, last: int) -> Iterator[Stored]:
    """A run's own events as they are stored, in chunks."""
    for start in range(first, last + 1, CHUNK):
        yield from log.read(run_key, start, min(start + CHUNK - 1, last))


# --- a few fields, followed ----------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A version at which one of the fields may be another than before, and the fields then.

    `node` is the one the event is about, `event` its type's name; `previous` is the version before it on the line, 0 if
    it is the first.
    """

    version: int
    previous: int
    time: int
    node: str
    event: str
    data: FrozenDict


def moments(log: Log, place: Address, names: frozenset[str]) -> Iterator[Moment]:
    """Where fields of the state may have changed along a line: at each of its bends, and at each change of theirs.

    `data` holds at least those fields. Raises Corrupt, WrittenByNewer.
    """
    head, previous = place.head, 0
    needles = [encode(name) for name in sorted(names)]
    for segment in line(log, head.run_key, place.version):
        state = recover(log, head, segment.first).state
        recorded = whole(log, log.read(segment.run_key, segment.first, segment.first)[0])
        node, kind = str(getattr(recorded.event, "node", state.node)), type(recorded.event)
        if not previous and segment.first > 1:  # what was set before it, and where, can't be told any more
            node, kind = state.node, RunCompacted
        yield Moment(segment.first, previous, state.time, node, kind.__name__, _only(state.data, names))
        track = _Track(log, segment, state, names, needles)
        yield from track.moments()
        if track.lost_at:
            yield from _walked(log, place, track.lost_at)
            return
        if recover(log, head, segment.last).state.digest != track.digest:
            raise Corrupt(f"version {segment.last}", "is not what recovery finds there: the chain is broken")
        previous = segment.last


def _only(data: FrozenDict, names: frozenset[str]) -> FrozenDict:
    return FrozenDict({name: raw(data, name) for name in data if name in names})


class _Track:
    """One stretch of a line after its first event: the fields' values, change by change.

    `lost_at` is the version of the first event that is not known here, 0 if all are.
    """

    def __init__(self, log: Log, segment: Segment, state: State, names: frozenset[str], needles: list[bytes]) -> None:
        self._log, self._segment = log, segment
        self._names, self._needles = names, needles
        self._data = _only(state.data, names)
        self._opener = Opener()
        self.digest = state.digest
        self.lost_at = 0

    def moments(self) -> Iterator[Moment]:
        """Each change of the fields. Raises Corrupt."""
        key, expected = self._segment.run_key, self._segment.first + 1
        for stored in stored_events(self._log, key, expected, self._segment.last):
            try:
                seen = glance(stored)
                change = self._change(seen)
            except Unfamiliar:
                self.lost_at = expected
                return
            if seen.version != expected or seen.run_key != key:
                raise Corrupt(f"version {expected}", "is missing, or stands at another event's place")
            if seen.before != self.digest:
                raise Corrupt(f"version {expected}", "does not follow the event before it: the chain is broken")
            self.digest = digest(stored.data)
            if change:
                self._apply(seen, change)
                node = str(seen.header.get("node", ""))
                yield Moment(seen.version, expected - 1, seen.time, node, seen.kind.__name__, self._data)
            expected += 1
        if expected != self._segment.last + 1:
            raise Corrupt(f"version {expected}", "is missing")

    def _change(self, seen: Glance) -> Change:
        """What an event changes of the fields. Raises Unfamiliar, Corrupt."""
        if seen.kind not in _MOVES:
            if seen.kind in _QUIET:
                return ()
            raise Unfamiliar
        body = self._opener.inside(seen) if seen.flags else seen.body
        for needle in self._needles:
            if needle in body:
                break
        else:  # no operation's path can begin with one of the names
            return ()
        if seen.flags & FLAG_REFS:
            return self._referring(seen)
        fields = decode(body, _where(seen))
        at = _MOVES[seen.kind]
        try:
            own = [op for op in fields[at] if op[1][0] in self._names] if len(fields) > at else []
        except (TypeError, LookupError):
            raise Unfamiliar from None
        if len(fields) > _BODIES[seen.kind]:
            raise Unfamiliar
        return change_from_plain(own, _where(seen)) if own else ()

    def _referring(self, seen: Glance) -> Change:
        """The same where values of the change are kept beside the event."""
        event = whole(self._log, seen.stored).event
        assert isinstance(event, Transitioned | RunCompleted | RunResumed)  # noqa: S101 - by its code
        return tuple([op for op in event.change if op.path[0] in self._names])

    def _apply(self, seen: Glance, change: Change) -> None:
        try:
            self._data = apply(self._data, change)
        except EventflowError as error:
            where = f"version {seen.version}"
            raise Corrupt(where, f"holds a change that does not fit the state ({error})") from None


def _walked(log: Log, place: Address, first: int) -> Iterator[Moment]:
    """The rest of a line from a version on, whole states folded."""
    before = recover(log, place.head, first - 1).state
    node, previous, data = before.node, before.version, before.data
    for recorded, state in walk(log, place.head, place.version, after=first - 1):
        node = str(getattr(recorded.event, "node", node))
        if state.data is not data or recorded.version != previous + 1:
            data = state.data
            yield Moment(recorded.version, previous, recorded.time, node, type(recorded.event).__name__, data)
        node, previous = state.node, recorded.version
