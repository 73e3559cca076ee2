"""Events from their bytes: each is checked to be what this codec writes before anything is made of it.

Reading is what recovery, travel and audits spend their time with, so an event without references becomes a fact in one go.
What an event says is not judged here, nor whether it follows the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from eventflow import event as facts
from eventflow.change import Change, Op
from eventflow.codec.blobs import SCALARS, Fetch, Ref, checked_refs, expand_small, fill, frozen
from eventflow.codec.cbor import decode
from eventflow.codec.events import (
    FIELDS,
    FLAG_ENCRYPTED,
    FLAG_REFS,
    FLAG_ZSTD,
    FORMAT,
    KEY,
    KNOWN_FLAGS,
    MAX_BODY,
    MAX_REFERRED,
    OPS,
    SHAPES,
    TOMBSTONE,
    VOUCH,
    Stored,
)
from eventflow.codec.hidden import Hidden, placeholders, why_hidden
from eventflow.codec.locks import KEY_ID_SIZE, Lock, Spot, Unlock, through
from eventflow.errors import Corrupt, NoKey, WrittenByNewer
from eventflow.event import Event, Failure, Recorded, Vouch
from eventflow.plain import MAX_DEPTH
from eventflow.proof import DIGEST_SIZE, digest

_BEGINNING = b"\x8b\x01"  # an event of format 1: the head of an array of eleven, the format; then come its flags
_ARRAY = [int, int, bytes, int, int, int, int, int, dict, bytes, bytes]  # the types of an event's fields
_MAX_NUMBER = 2**63 - 1  # of versions, times and their like: signed 64 bits, as any database holds
_TEXT = frozenset({str})
_FAILURE = [str, str, str, bool]  # the types of a failure's fields

Upcaster = Callable[[list[Any]], list[Any]]
UPCASTERS: Mapping[int, Upcaster] = {}  # format n -> how to read its array as one of format n+1; none is older than 1


class _Reading(NamedTuple):
    """How one fact is read: the types each field may have (none: any), and how those of the body come from plain data."""

    kind: type
    header: Mapping[str, tuple[type, ...]]
    body: tuple[tuple[str, tuple[type, ...], Callable[[Any, str], Any]], ...]
    known: frozenset[str]  # what the header may hold


class _Draft(NamedTuple):
    """An event decoded but for the values that are blobs."""

    stored: Stored
    array: list[Any]
    reading: _Reading
    body: list[Any]
    refs: list[Ref]
    where: str
    lock: Lock | None


def keys_of(stored: Iterable[Stored]) -> list[str]:
    """The keys of the messages that events tell of having been taken, from their headers alone."""
    found = []
    for one in stored:
        if one.data[:1] == TOMBSTONE:
            continue
        value = decode(one.data, f"position {one.position}")
        if value[7] == SHAPES[facts.SignalReceived].code and (key := value[8].get("key")):
            found.append(str(key))
    return found


def read_events(
    stored: Sequence[Stored], fetch: Fetch, *, strict: bool = False, hidden: bool = False,
    upcasters: Mapping[int, Upcaster] = UPCASTERS,
) -> list[Recorded]:  # fmt: skip
    """Recorded events from their bytes, blobs included. Raises Corrupt, WrittenByNewer, NoKey or Shredded.

    `strict` refuses bytes that this codec would not write; without it the caller checks the digests against the chain.
    With `hidden`, values that can't be opened are replaced by placeholders and the event says so.
    """
    read = [_read(one, strict=strict, hidden=hidden, upcasters=upcasters) for one in stored]
    wanted: dict[Lock | None, set[bytes]] = {}
    for one in read:
        if type(one) is _Draft:
            wanted.setdefault(one.lock, set()).update(ref[1] for ref in one.refs)
    if not wanted:
        return read  # type: ignore[return-value]  # none is a draft
    blobs = {lock: through(lock, fetch)(names) for lock, names in wanted.items()}
    return [_completed(one, blobs[one.lock]) if type(one) is _Draft else one for one in read]  # type: ignore[misc]


def refers(data: bytes) -> bool:
    """Whether an event as stored may refer to blobs, by its first bytes alone: most do not, and need not be decoded."""
    return data[:2] != _BEGINNING or data[2] & ~FLAG_ZSTD != 0


def blob_names(stored: Iterable[Stored], *, hidden: bool = False) -> set[bytes]:
    """The names of all blobs these events refer to. Raises NoKey where only a key can tell; with `hidden` such are left out."""
    read = [_read(one, strict=False, hidden=hidden, upcasters=UPCASTERS) for one in stored]
    drafts = [one for one in read if type(one) is _Draft]
    return {ref[1] if one.lock is None else one.lock.name(ref[1]) for one in drafts for ref in one.refs}


def lock_of(array: list[Any], unlock: Unlock | None, where: str) -> Lock:
    """The lock of an event's array whose header names a key. Raises NoKey, Shredded, Corrupt."""
    name, run_key = array[8].get(KEY), array[8].get("run_key", array[2])
    if type(name) is not bytes or len(name) != KEY_ID_SIZE or type(run_key) is not bytes:
        raise Corrupt(where, "names its key in a way that can't be read")
    if unlock is None:
        raise NoKey(where)
    return unlock(name, run_key)


def _unlocked(array: list[Any], unlock: Unlock | None, where: str, *, hidden: bool) -> tuple[Lock | None, Hidden]:
    """What opens an event, None if it lies open; and the word for why it can't be opened, if that is asked for."""
    if KEY not in array[8] and not array[1] & FLAG_ENCRYPTED:
        return None, ""
    try:
        return lock_of(array, unlock, where), ""
    except NoKey as error:
        if array[1] & FLAG_ENCRYPTED and not hidden:
            raise
        return None, why_hidden(error)


# --- one event -----------------------------------------------------------------------------------------------------


def _read(stored: Stored, *, strict: bool, hidden: bool, upcasters: Mapping[int, Upcaster]) -> Recorded | _Draft:
    """An event from its bytes; a draft of it where it refers to blobs."""
    where = f"the event at position {stored.position}"
    array = _checked_array(decode(stored.data, where, strict=strict), where, upcasters)
    flags, header = array[1], array[8]
    reading = _READINGS.get(array[7])
    if reading is None or flags & ~KNOWN_FLAGS or not reading.known.issuperset(header):
        raise _newer(array, reading, where)
    lock: Lock | None = None
    why: Hidden = ""
    if KEY in header or flags & FLAG_ENCRYPTED:
        lock, why = _unlocked(array, stored.unlock, where, hidden=hidden)
    if why and flags & FLAG_ENCRYPTED:
        return _recorded(stored, array, reading, [], where, None, why)
    data = array[9]
    if flags & FLAG_ENCRYPTED:
        assert lock is not None  # noqa: S101 - else it is said why
        data = lock.open_event(Spot(array[3], array[4], array[7], flags), data, where)
    if flags & FLAG_ZSTD:
        data = expand_small(data, where, limit=MAX_BODY)
    body = decode(data, where, strict=strict)
    if flags & FLAG_REFS:
        if not (isinstance(body, list) and len(body) == 2):
            raise Corrupt(where, "has no list of references where its flags say there is one")
        body, refs = body[0], checked_refs(body[1], where)
        if refs:
            return _Draft(stored, array, reading, _checked_body(body, reading, where), refs, where, lock)
    return _recorded(stored, array, reading, _checked_body(body, reading, where), where, lock)


def _newer(array: list[Any], reading: _Reading | None, where: str) -> WrittenByNewer:
    if reading is None:
        return WrittenByNewer(where, f"event type {array[7]}")
    if array[1] & ~KNOWN_FLAGS:
        return WrittenByNewer(where, f"flag {array[1] & ~KNOWN_FLAGS}")
    return WrittenByNewer(where, f"a field of {reading.kind.__name__}")


def _checked_body(body: Any, reading: _Reading, where: str) -> list[Any]:
    if not isinstance(body, list):
        raise Corrupt(where, "has a body that is not a list")
    if len(body) > len(reading.body):
        raise WrittenByNewer(where, f"a field of {reading.kind.__name__}")
    return body


def _completed(draft: _Draft, blobs: Mapping[bytes, bytes]) -> Recorded:
    """A draft's event, with the values that it refers to."""
    referred = sum(len(blobs[ref[1]]) for ref in draft.refs)
    if referred > MAX_REFERRED:
        raise Corrupt(draft.where, "refers to more than any writer lets it")
    fill(draft.body, draft.refs, blobs, draft.where)
    return _recorded(
        draft.stored, draft.array, draft.reading, draft.body, draft.where, draft.lock, referred=referred
    )  # fmt: skip


def _recorded(  # noqa: PLR0917 - a bundle would be made and taken apart for every event
    stored: Stored, array: list[Any], reading: _Reading, body: list[Any], where: str, lock: Lock | None,
    hidden: Hidden = "", *, referred: int = 0,
) -> Recorded:  # fmt: skip
    header = array[8]
    event = _event(reading, header, body, where, hidden)
    vouch = _vouch(header[VOUCH], where, lock) if VOUCH in header else None
    return Recorded(
        event, array[2], array[3], array[4], stored.position, array[5], array[6], digest(stored.data), array[10], vouch,
        len(stored.data) + referred, hidden,
    )  # fmt: skip


def _event(reading: _Reading, header: dict[str, Any], body: list[Any], where: str, hidden: Hidden) -> Event:
    """The fact itself, from its fields in header and body."""
    values: dict[str, Any] = {}
    for name, value in header.items():
        types = reading.header.get(name)
        if types is None:  # the vouch or the key
            continue
        if type(value) not in types:  # a plain text or number, most often, needs no second look
            if type(value) not in SCALARS:
                value = frozen(value, where)  # noqa: PLW2901 - the same value, as the fact holds it
            if types and type(value) not in types:
                raise Corrupt(where, f"has {name!r} of type {type(value).__name__}")
        values[name] = value
    for (name, types, read), plain in zip(reading.body, body, strict=False):
        value = values[name] = read(plain, where)
        if types and type(value) not in types:
            raise Corrupt(where, f"has {name!r} of type {type(value).__name__}")
    if hidden:
        values |= placeholders(reading.kind, ((name, types) for name, types, _ in reading.body), hidden)
    try:
        return reading.kind(**values)  # type: ignore[no-any-return]
    except TypeError as error:
        raise Corrupt(where, f"lacks a field ({error})") from None


def _checked_array(raw: Any, where: str, upcasters: Mapping[int, Upcaster]) -> list[Any]:
    value: list[Any] = raw
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise Corrupt(where, "is not an event")
    if value[0] > FORMAT:
        raise WrittenByNewer(where, f"format {value[0]}")
    for older in range(value[0], FORMAT):
        value = _upcast(value, upcasters.get(older), where)
    if list(map(type, value)) != _ARRAY:
        raise Corrupt(where, "does not have the fields of an event")
    incarnation, version, epoch, time = value[3:7]
    sound = 0 <= incarnation <= _MAX_NUMBER and 0 <= version <= _MAX_NUMBER and 0 <= epoch <= _MAX_NUMBER
    if not sound or not -_MAX_NUMBER <= time <= _MAX_NUMBER or len(value[10]) != DIGEST_SIZE:
        raise Corrupt(where, "has a number or a digest that no event has")
    return value


def _upcast(value: list[Any], upcaster: Upcaster | None, where: str) -> list[Any]:
    """An event's array as one of the next format."""
    if upcaster is None:
        raise Corrupt(where, f"says format {value[0]}, which never was")
    try:
        return upcaster(value)
    except (LookupError, TypeError, ValueError):
        raise Corrupt(where, f"is not an event of format {value[0]}") from None


def _vouch(raw: Any, where: str, lock: Lock | None) -> Vouch:
    if isinstance(raw, list) and len(raw) == 2 and type(raw[0]) is int and type(raw[1]) is bytes:
        return Vouch(raw[0], raw[1] if lock is None else lock.open_digest(raw[0], raw[1], where))
    raise Corrupt(where, "vouches for a snapshot in a way that can't be read")


# --- the parts of facts --------------------------------------------------------------------------------------------


def change_from_plain(value: Any, where: str) -> Change:
    """A change from its operations, as events write them. Raises Corrupt, WrittenByNewer."""
    if type(value) is not list:
        raise _no_change(where)
    change: list[Op] = []
    for op in value:
        if type(op) is not list or len(op) != 3:
            raise _no_change(where)
        number, path, item = op
        if type(number) is not int or number < 0 or type(path) is not list:
            raise _no_change(where)
        if not 0 < len(path) <= MAX_DEPTH or not _TEXT.issuperset(map(type, path)):
            raise _no_change(where)
        if number >= len(OPS):
            raise WrittenByNewer(where, f"operation {number}")
        if type(item) not in SCALARS:
            item = frozen(item, where, depth=len(path))
        change.append(Op(OPS[number], tuple(path), item))
    return tuple(change)


def _no_change(where: str) -> Corrupt:
    return Corrupt(where, "holds a change that can't be read")


def failure_from_plain(value: Any, where: str) -> Failure | None:
    """A failure from its four fields, as events and snapshots write it. Raises Corrupt."""
    if value is None:
        return None
    if isinstance(value, list) and list(map(type, value)) == _FAILURE:  # a snapshot holds it as a FrozenList
        return Failure(*value)
    raise Corrupt(where, "holds an error that can't be read")


_READERS: dict[str, Callable[[Any, str], Any]] = {"change": change_from_plain, "error": failure_from_plain}
_READINGS: dict[int, _Reading] = {
    shape.code: _Reading(
        kind,
        {name: FIELDS[kind].get(name, ()) for name in shape.header},
        tuple((name, FIELDS[kind].get(name, ()), _READERS.get(name, frozen)) for name in shape.body),
        frozenset({*shape.header, VOUCH, KEY}),
    )
    for kind, shape in SHAPES.items()
}
