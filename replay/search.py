"""Texts found in what a run recorded, and what it cost: all its events, also those that a rewind left behind.

What was asked of models and what they answered is searched like everything else. Nothing here folds a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import islice
from typing import Any, NamedTuple

from eventflow.address import Address
from eventflow.codec import Stored, read_events
from eventflow.codec.events import FLAG_REFS, SHAPES
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Event,
    Forked,
    Rewound,
    RunFailed,
    RunResumed,
    RunStarted,
    Transitioned,
)
from eventflow.log import Head, Log, Query
from eventflow.recovery import CHUNK, line, recover
from replay.behind import MODEL
from replay.path import Path, path_text
from replay.skim import Glance, Opener, Unfamiliar, glance, parts, stored_events, whole

AROUND = 60  # characters shown on each side of what was found: a line or two of a terminal


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that holds a text: the first place in it, what stands around it there, and in how many places.

    `on_line` is False for events that a rewind left behind.
    """

    run_id: str
    version: int
    time: int
    event: str
    where: str
    excerpt: str
    places: int
    on_line: bool


def search(log: Log, place: Address, text: str) -> Iterator[Hit]:
    """The events up to an address that hold a text, whatever the case of its letters; a fork's with its parents'."""
    own = place.head.run_key
    segments = line(log, own, place.version)
    sieve = _Sieve(log, text)
    for segment in segments:
        if segment.run_key != own:
            head = log.head_of(segment.run_key)
            stored = stored_events(log, segment.run_key, segment.first, segment.last)
            yield from _hits(sieve.kept(stored), head or place.head, text, None)
    on_line = [range(one.first, one.last + 1) for one in segments if one.run_key == own]
    stored = stored_events(log, own, _first(log, own), place.version)
    yield from _hits(sieve.kept(stored), place.head, text, on_line)


def search_all(log: Log, text: str) -> Iterator[Hit]:
    """The events of all runs of a store that hold a text, the newest run first; each event once."""
    sieve = _Sieve(log, text)
    for listed in log.runs(Query()):
        head = listed.head
        on_line = [range(one.first, one.last + 1) for one in line(log, head.run_key, head.version)
                   if one.run_key == head.run_key]  # fmt: skip
        stored = stored_events(log, head.run_key, _first(log, head.run_key), head.version)
        yield from _hits(sieve.kept(stored), head, text, on_line)


def _first(log: Log, run_key: bytes) -> int:
    """The first version that is a run's own."""
    entry = log.entry(run_key)
    return entry.parent_at + 1 if entry is not None and entry.parent_id is not None else 1


class _Sieve:
    """Lets through the events that may hold a text: of the others it is certain, without their values being made.

    Texts stand in CBOR as UTF-8, in one piece, so bytes read as UTF-8 hold them whatever lies between; a value that is
    kept beside its event is looked at once, however many events refer to it.
    """

    def __init__(self, log: Log, text: str) -> None:
        self._log, self._wanted = log, text.casefold()
        self._always = {
            kind for kind in SHAPES
            if self._has(kind.__name__) or any(type(one.default) is str and self._has(one.default) for one in fields(kind))
        }  # fmt: skip
        self._opener = Opener()
        self._known: dict[bytes, bool] = {}  # blobs looked at, and whether they may hold it

    def kept(self, stored: Iterable[Stored]) -> Iterator[_Said]:
        """What the events say that may hold the text; the codec reads those of which a look is not enough."""
        several = iter(stored)
        while some := list(islice(several, CHUNK)):
            looked = [(one, self._look(one)) for one in some]
            whole = [one for one, told in looked if told is _UNREAD]
            read = iter(read_events(whole, self._log.blobs) if whole else ())
            for _, told in looked:
                if told is _UNREAD:
                    recorded = next(read)
                    yield _Said(recorded.version, recorded.time, type(recorded.event), _texts(recorded.event))
                elif told is not None:
                    yield told

    def _look(self, stored: Stored) -> _Said | None:
        """What an event says, None if it can't hold the text, `_UNREAD` if the codec must read it."""
        try:
            seen = glance(stored)
            outside = self._in(stored.data)
            body = self._opener.inside(seen)
            inside = self._in(body) if body is not seen.body else outside
            if seen.flags & FLAG_REFS:
                may = outside or inside or seen.kind in self._always or self._in_blobs(parts(seen, body)[1])
                return _UNREAD if may else None
            if not (outside or inside or seen.kind in self._always):
                return None
            values = parts(seen, body)[0] if inside else ()
            return _Said(seen.version, seen.time, seen.kind, list(_texts_seen(seen, values)))
        except (Unfamiliar, TypeError, ValueError, LookupError):  # the codec reads it, or says what is wrong with it
            return _UNREAD

    def _in_blobs(self, names: list[bytes]) -> bool:
        unknown = {name for name in names if name not in self._known}
        if unknown:
            self._known |= {name: self._in(data) for name, data in self._log.blobs(unknown).items()}
        return any(self._known[name] for name in names)

    def _in(self, data: bytes) -> bool:
        return self._has(data.decode("utf-8", "replace"))

    def _has(self, text: str) -> bool:
        return self._wanted in text.casefold()


class _Said(NamedTuple):
    """An event that may hold a text: its place, its kind, and all texts in it."""

    version: int
    time: int
    kind: type
    texts: Iterable[tuple[Path, str]]


_UNREAD = _Said(0, 0, object, ())


def _hits(events: Iterator[_Said], head: Head, text: str, on_line: list[range] | None) -> Iterator[Hit]:
    wanted = text.casefold()
    for told in events:
        places = 0
        first: tuple[Path, str] | None = None
        for path, value in told.texts:
            if wanted in value.casefold():
                places += 1
                first = first or (path, value)
        if first is not None:
            yield Hit(
                head.run_id, told.version, told.time, told.kind.__name__, path_text(first[0]), _excerpt(first[1], text),
                places, on_line is None or any(told.version in one for one in on_line),
            )  # fmt: skip


# Where each field of a fact stands that may hold texts: its name, its place in the body (-1: in the header), its default.
_LAYOUT: dict[type, tuple[tuple[str, int, Any], ...]] = {
    kind: tuple(
        (one.name, shape.body.index(one.name) if one.name in shape.body else -1, one.default)
        for one in fields(kind)
        if one.name != "definition"  # of which every run of a workflow has the same
    )
    for kind, shape in SHAPES.items()
}


def _texts_seen(seen: Glance, body: Sequence[Any]) -> Iterator[tuple[Path, str]]:
    """What `_texts` finds, in an event whose values are plain yet; a body that holds none of what is wanted may be left out."""
    yield (("type",), seen.kind.__name__)
    for name, at, default in _LAYOUT[seen.kind]:
        value = seen.header.get(name, default) if at < 0 else body[at] if at < len(body) else default
        if type(value) is str:
            yield (name,), value
        elif not value or value is MISSING:
            continue
        elif name == "change":
            for _, path, item in value:
                yield from _texts_in(item, ("change", *path))
        elif name == "error":
            yield from _texts_in(value[:2], ("error",))
        elif isinstance(value, dict | list):
            yield from _texts_in(value, (name,))


def _texts(event: Event) -> Iterator[tuple[Path, str]]:
    """All texts in an event, keys included, each with its place; what was changed stands at its path in the state."""
    yield (("type",), type(event).__name__)
    for one in fields(event):
        value = getattr(event, one.name)
        if one.name == "change":
            for op in value:
                yield from _texts_in(op.value, ("change", *op.path))
        elif one.name == "error" and value is not None:
            yield from _texts_in([value.type, value.message], ("error",))
        elif one.name != "definition":  # of which every run of a workflow has the same
            yield from _texts_in(value, (one.name,))


def _texts_in(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), key
            yield from _texts_in(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts_in(item, (*path, index))


def _excerpt(value: str, text: str) -> str:
    """What stands around a text; by the folded text's place, which a few letters move by one."""
    if len(value) <= AROUND:
        return " ".join(value.split())
    at = max(value.casefold().find(text.casefold()), 0)
    start, end = max(at - AROUND, 0), at + len(text) + AROUND
    shown = " ".join(value[start:end].split())
    return f"{'…' if start else ''}{shown}{'…' if end < len(value) else ''}"


# --- what it cost --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cost:
    """What a node took: visits, attempts, calls and failed calls, models asked, tokens, and ns spent in it."""

    node: str
    visits: int = 0
    attempts: int = 0
    calls: int = 0
    failed_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    time: int = 0
    models: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a run took by node, and in all: events, ns between its first and last, ns of them nobody drove it."""

    nodes: tuple[Cost, ...]
    events: int
    time: int
    idle: int


def stats(log: Log, place: Address) -> Stats:
    """What a run recorded itself up to an address, rewound stretches included; a parent's part is the parent's."""
    own = place.head.run_key
    first = _first(log, own)
    tally = _Tally(recover(log, place.head, first - 1).state.node if 1 < first <= place.version else "")
    opener = Opener()
    for stored in stored_events(log, own, first, place.version):
        tally.take(_told(log, opener, stored))
    return tally.sum()


class _Told(NamedTuple):
    """What the costs of an event are read off: its kind, its time, its fields as far as they matter."""

    kind: type
    time: int
    fields: Mapping[str, Any]


def _told(log: Log, opener: Opener, stored: Stored) -> _Told:
    """An event's header, which is enough of nearly all of them; of a model call also what was asked."""
    try:
        seen = glance(stored)
        if seen.kind is not EffectStarted or seen.header.get("kind") != MODEL:
            return _Told(seen.kind, seen.time, seen.header)
        values, refs = parts(seen, opener.inside(seen))
        asked = values[0] if values else None
        if not (refs and isinstance(asked, dict) and asked.get("model") is None):
            return _Told(seen.kind, seen.time, {**seen.header, "input": asked})
    except Unfamiliar:
        pass
    recorded = whole(log, stored)
    event = recorded.event
    return _Told(type(event), recorded.time, {one.name: getattr(event, one.name) for one in fields(event)})


class _Tally:
    """Costs as they add up, event by event."""

    def __init__(self, node: str) -> None:
        self._node, self._costs = node, dict[str, Cost]()
        self._began: int | None = None
        self._last, self._idle, self._events = 0, 0, 0
        self._failed = False

    def take(self, told: _Told) -> None:
        """Add what one event says; the time before it was spent in the node it found, or by nobody before a resume."""
        kind, values = told.kind, told.fields
        self._spend(told)
        self._node = str(values.get("node", self._node))
        if kind is Transitioned:
            self._at(self._node)
            self._enter(str(values.get("to", "")))
        elif kind in (RunStarted, Rewound, Forked):
            self._enter(self._node)
        else:
            self._count(kind, values)

    def _count(self, kind: type, values: Mapping[str, Any]) -> None:
        """Add what is not a step from node to node."""
        cost = self._at(self._node)
        if kind is AttemptFailed:
            cost.attempts += 1  # which is the next one
        elif kind is RunFailed:
            self._failed = True
        elif kind is RunResumed:
            moved = values.get("to")  # by a migration
            if moved:
                self._enter(str(moved))
            else:
                cost.attempts += self._failed
            self._failed = False
        elif kind is EffectStarted:
            cost.calls += 1
            asked = values.get("input") if values.get("kind") == MODEL else None
            model = asked.get("model") if isinstance(asked, dict) else None
            cost.models |= {model} if isinstance(model, str) else set()
        elif kind is EffectFailed:
            cost.failed_calls += 1
        elif kind is EffectFinished and isinstance(usage := values.get("usage"), dict):
            cost.input_tokens += _number(usage.get("input_tokens"))
            cost.output_tokens += _number(usage.get("output_tokens"))

    def _spend(self, told: _Told) -> None:
        self._events += 1
        if self._began is None:
            self._began = self._last = told.time
        gap = max(told.time - self._last, 0)  # clocks jump
        if told.kind in (RunResumed, Rewound):
            self._idle += gap
        elif self._node:
            self._at(self._node).time += gap
        self._last = told.time

    def _enter(self, node: str) -> None:
        self._node = node
        cost = self._at(node)
        cost.visits += 1
        cost.attempts += 1

    def _at(self, node: str) -> Cost:
        return self._costs.setdefault(node, Cost(node))

    def sum(self) -> Stats:
        """All of it, nodes in the order in which they were first met."""
        return Stats(tuple(self._costs.values()), self._events, max(self._last - (self._began or 0), 0), self._idle)


def _number(value: Any) -> int:
    return value if type(value) is int else 0  # whoever reports usage may report anything
