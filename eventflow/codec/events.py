"""Events as bytes: format 1, an array of eleven fields, described byte by byte in docs/format.md.

`pack` turns a fact into what does not depend on its place; `seal` adds place, time and the digest before; `read_events`
gives recorded events back. Everything the user wrote is in the body; the header holds what a reader without keys may see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from eventflow import event as facts
from eventflow.change import Change, Op, OpName
from eventflow.codec.blobs import Blob, Fetch, Ref, checked_refs, expand_small, fill, frozen, lift, squeeze_small
from eventflow.codec.cbor import decode, encode, encode_ordered
from eventflow.codec.hidden import Hidden, placeholders, why_hidden
from eventflow.codec.locks import KEY_ID_SIZE, Lock, Spot, Unlock, through
from eventflow.errors import Corrupt, NoKey, NotPlainData, WrittenByNewer
from eventflow.event import Event, Failure, Recorded, Vouch
from eventflow.plain import EMPTY, MAX_DEPTH, FrozenDict, FrozenList
from eventflow.proof import DIGEST_SIZE, digest

FORMAT = 1
FLAG_ZSTD = 1  # the body is a zstd frame
FLAG_REFS = 2  # the body is [fields, refs] instead of fields
FLAG_ENCRYPTED = 4  # the body, compressed before, is encrypted; the header names the key
KNOWN_FLAGS = FLAG_ZSTD | FLAG_REFS | FLAG_ENCRYPTED
TOMBSTONE = (
    b"\xff"  # what stands at the position of a deleted event: this byte, which no event begins with, and its digest
)
_BEGINNING = b"\x8b\x01"  # an event of format 1: the head of an array of eleven, the format; then come its flags
MAX_BODY = 16 << 20  # 16 MiB beside blobs: decoding takes a tenth of a second, and a commit writes it whole
MAX_REFERRED = 1 << 30  # bytes of all values an event refers to: what reading one event may take, whatever it says
_MAX_NUMBER = 2**63 - 1  # of versions, times and their like: signed 64 bits, as any database holds
_SQUEEZED_FROM = 64  # bytes; a zstd frame of less gains next to nothing, even with the dictionary

OPS: tuple[OpName, ...] = ("set", "delete", "extend", "merge", "add")
_OP_NUMBERS = {name: number for number, name in enumerate(OPS)}


class Shape(NamedTuple):
    """How one fact is laid out: its number, the fields in the header by their key there, the fields in the body."""

    code: int
    header: tuple[str, ...]
    body: tuple[str, ...]


# Numbers are for ever; a new field goes to the end of a body, so that old bytes lack it and take its default.
SHAPES: dict[type, Shape] = {
    facts.RunStarted: Shape(
        1,
        (
            "run_id",
            "store_id",
            "workflow",
            "definition_digest",
            "node",
            "actor",
            "why",
            "caller_id",
            "caller_key",
            "deadline",
            "queue",
            "priority",
            "queue_key",
        ),
        ("definition", "data", "input_digest", "tags", "subject", "budget", "effects"),
    ),
    facts.Transitioned: Shape(2, ("node", "to", "trigger"), ("change", "error")),
    facts.RunCompleted: Shape(3, ("node",), ("change",)),
    facts.AttemptFailed: Shape(4, ("node", "attempt", "retry_at", "branch"), ("error",)),
    facts.RunFailed: Shape(5, ("node",), ("error",)),
    facts.RunResumed: Shape(
        6, ("node", "definition_digest", "actor", "why", "to"), ("definition", "budget", "change", "effects")
    ),
    facts.RunPaused: Shape(7, ("actor", "why"), ()),
    facts.RunCancelled: Shape(8, ("actor", "why"), ()),
    facts.SignalReceived: Shape(9, ("name", "message", "actor", "key"), ("payload",)),
    facts.EffectStarted: Shape(
        10,
        ("name", "key", "kind", "mutating", "attempt", "branch", "undo"),
        ("input", "input_digest", "idempotency_key"),
    ),
    facts.EffectFinished: Shape(
        11, ("name", "key", "usage", "actor", "why", "branch", "reused", "source"), ("output",)
    ),
    facts.EffectFailed: Shape(12, ("name", "key", "branch"), ("error",)),
    facts.EffectRejected: Shape(13, ("name", "key", "actor", "why", "branch"), ()),
    facts.Rewound: Shape(14, ("to", "node", "actor", "why"), ("reuse", "signals")),
    facts.Forked: Shape(
        15,
        ("run_id", "store_id", "parent_id", "parent_key", "parent_incarnation", "at", "actor", "why"),
        ("change", "effects"),
    ),
    facts.RunSuspended: Shape(16, ("node", "actor", "why"), ()),
    facts.SignalRefused: Shape(17, ("message",), ("why",)),
    facts.WaitOpened: Shape(18, ("node", "kind", "name", "until", "restore", "branch"), ("spec",)),
    facts.WaitClosed: Shape(19, ("node", "outcome", "message", "branch"), ()),
    facts.BranchesOpened: Shape(20, ("node",), ("names", "items")),
    facts.BranchFinished: Shape(21, ("node", "branch"), ("result",)),
    facts.BranchFailed: Shape(22, ("node", "branch"), ("error",)),
    facts.RunTimedOut: Shape(23, ("node",), ()),
    facts.UndoBegan: Shape(24, ("node", "ending", "actor", "why"), ("error",)),
    facts.NodeSkipped: Shape(25, ("node", "actor", "why"), ()),
    facts.RunParked: Shape(28, ("node", "crashes", "actor", "why"), ()),
    facts.StoreCreated: Shape(128, ("store_id", "actor"), ()),
    facts.CheckpointCreated: Shape(129, ("run_id", "run_key", "at", "actor", "why"), ("label",)),
    facts.CheckpointsDeleted: Shape(130, ("run_id", "run_key", "versions", "actor", "why"), ()),
    facts.RunDeleted: Shape(131, ("run_id", "run_key", "incarnation", "head", "head_digest", "actor", "why"), ()),
    facts.RunPinned: Shape(132, ("run_id", "run_key", "actor", "why"), ()),
    facts.RunCompacted: Shape(133, ("run_id", "run_key", "incarnation", "since", "at", "actor", "why"), ()),
    facts.RunUnpinned: Shape(134, ("run_id", "run_key", "actor", "why"), ()),
    facts.RunHeld: Shape(135, ("run_id", "run_key", "actor", "why"), ()),
    facts.RunReleased: Shape(136, ("run_id", "run_key", "actor", "why"), ()),
    facts.BackupMade: Shape(140, ("number", "upto", "head_digest", "keys", "actor", "why"), ()),
    facts.StoreRestored: Shape(141, ("generation", "upto", "number", "actor", "why"), ()),
    facts.RunsImported: Shape(142, ("store_id", "events", "actor", "why"), ("runs",)),
    facts.StoreRepaired: Shape(143, ("store_id", "events", "actor", "why"), ("lost",)),
    facts.KeysRotated: Shape(150, ("master", "count", "actor", "why"), ()),
    facts.SubjectShredded: Shape(151, ("key_id", "kind", "name", "actor", "why"), ("runs",)),
    facts.EncryptionBegan: Shape(152, ("master", "actor", "why"), ()),
}
# Facts whose body's last field came later, with its default: it is left out then, so that a fact is written as it ever was.
_LATER: dict[type, Any] = {facts.RunStarted: EMPTY, facts.RunResumed: None, facts.Forked: None}
# The fields in the header in the order of canonical CBOR, each with the default that is left out.
_HEADERS: dict[type, tuple[tuple[str, Any], ...]] = {
    kind: tuple(
        (name, kind.__dataclass_fields__[name].default)  # type: ignore[attr-defined]
        for name in sorted(shape.header, key=lambda name: (len(name), name))
    )
    for kind, shape in SHAPES.items()
}
_VAGUE = {"Any", "Change"}  # declared types that hold any plain data, or are checked when they are read
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "bytes": (bytes,), "int": (int,), "bool": (bool,), "FrozenDict": (FrozenDict,),
    "FrozenList": (FrozenList,), "Failure": (Failure,), "None": (type(None),),
}  # fmt: skip
_FIELDS: dict[type, dict[str, tuple[type, ...]]] = {
    kind: {
        f.name: sum((_TYPES[name] for name in str(f.type).split(" | ")), ())
        for f in fields(kind)
        if f.type not in _VAGUE
    }
    for kind in SHAPES
}
# Facts whose header holds nothing that canonical CBOR writes in another way than its order: no float, no map.
_SIMPLE = frozenset(
    shape.code
    for kind, shape in SHAPES.items()
    if all(set(_FIELDS[kind][name]) <= {str, bytes, int, bool, type(None)} for name in shape.header)
)
_ARRAY = [int, int, bytes, int, int, int, int, int, dict, bytes, bytes]  # the types of an event's fields
_TEXT = frozenset({str})
_NEVER_LIFTED = frozenset({int, bool, float, type(None)})
_VOUCH = "snapshot"  # the header's key for the snapshot an event vouches for
KEY = "k"  # the header's key for the id of the key that sealed the body, or the digest that the event vouches with
REWOUND, FORKED = SHAPES[facts.Rewound].code, SHAPES[facts.Forked].code

Upcaster = Callable[[list[Any]], list[Any]]
UPCASTERS: Mapping[int, Upcaster] = {}  # format n -> how to read its array as one of format n+1; none is older than 1


class Packed(NamedTuple):
    """A fact as bytes, without its place: what a log needs to write it."""

    code: int
    flags: int
    header: dict[str, Any]
    body: bytes
    blobs: tuple[Blob, ...] = ()

    @property
    def size(self) -> int:
        """Bytes the fact adds to a history, blobs included."""
        size = len(self.body)
        return size + sum(blob.size for blob in self.blobs) if self.blobs else size


@dataclass(frozen=True, slots=True)
class Stored:
    """An event's bytes at a position of the store; `unlock` gives what opens them, if they are encrypted."""

    position: int
    data: bytes
    unlock: Unlock | None = field(default=None, compare=False, repr=False)


class Place(NamedTuple):
    """Where an event stands: everything about it that is not the fact itself."""

    run_key: bytes
    incarnation: int
    version: int
    epoch: int
    time: int
    before: bytes


def pack(event: Event, *, vouch: Vouch | None = None) -> Packed:
    """A fact as bytes without its place. Raises NotPlainData when it is too large."""
    shape = SHAPES[type(event)]
    header = {name: value for name, default in _HEADERS[type(event)] if (value := getattr(event, name)) != default}
    if vouch is not None:
        header[_VOUCH] = [vouch.version, vouch.digest]
    refs: list[Ref] = []
    blobs: list[Blob] = []
    names = shape.body
    if type(event) in _LATER and getattr(event, names[-1]) == _LATER[type(event)]:
        names = names[:-1]
    body = [_to_plain(name, getattr(event, name), index, refs, blobs) for index, name in enumerate(names)]
    data = encode([body, refs] if refs else body)
    if len(data) > MAX_BODY:
        raise _too_large(event, len(data), MAX_BODY)
    if blobs and (referred := sum(blob.size for blob in blobs)) > MAX_REFERRED:
        raise _too_large(event, referred, MAX_REFERRED)
    flags = FLAG_REFS if refs else 0
    if len(data) >= _SQUEEZED_FROM:
        squeezed = squeeze_small(data)
        if len(squeezed) < len(data):
            data, flags = squeezed, flags | FLAG_ZSTD
    return Packed(shape.code, flags, header, data, tuple(blobs))


def seal(packed: Packed, place: Place) -> bytes:
    """The stored bytes of a fact at its place; their SHA-256 is the event's digest."""
    array = [
        FORMAT, packed.flags, place.run_key, place.incarnation, place.version, place.epoch, place.time, packed.code,
        packed.header, packed.body, place.before,
    ]  # fmt: skip
    return encode_ordered(array) if packed.code in _SIMPLE and _VOUCH not in packed.header else encode(array)


def _to_plain(name: str, value: Any, index: int, refs: list[Ref], blobs: list[Blob]) -> Any:
    if name == "change":
        return [
            [
                _OP_NUMBERS[op], list(path),
                item if type(item) in _NEVER_LIFTED else lift(item, refs, blobs, (index, number, 2)),
            ]
            for number, (op, path, item) in enumerate(value)
        ]  # fmt: skip
    if name == "error":
        return None if value is None else value.plain()
    return lift(value, refs, blobs, (index,))


def _too_large(event: Event, size: int, limit: int) -> NotPlainData:
    change: Change = getattr(event, "change", ())
    largest = max(change, key=lambda op: len(encode(lift(op.value, [], []))), default=None)
    path = ".".join(largest.path) if largest else "the value"
    return NotPlainData(
        path,
        f"makes an event of {size:,} bytes; the limit is {limit:,}. Keep such data in a file and its name in the "
        f"state, or return it in smaller parts",
    )


# --- reading -------------------------------------------------------------------------------------------------------


class _Reading(NamedTuple):
    """How one fact is read: each field's name and the types it may have (none: any), and how it comes from plain data."""

    kind: type
    header: tuple[tuple[str, tuple[type, ...]], ...]
    body: tuple[tuple[str, tuple[type, ...], Callable[[Any, str], Any]], ...]
    known: frozenset[str]


class _Draft(NamedTuple):
    """An event decoded but for the values that are blobs."""

    array: list[Any]
    reading: _Reading
    body: list[Any]
    refs: list[Ref]
    where: str
    lock: Lock | None
    hidden: Hidden


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
    drafts = [_draft(one, strict=strict, hidden=hidden, upcasters=upcasters) for one in stored]
    wanted: dict[Lock | None, set[bytes]] = {}
    for draft in drafts:
        if draft.refs:
            wanted.setdefault(draft.lock, set()).update(ref[1] for ref in draft.refs)
    blobs = {lock: through(lock, fetch)(names) for lock, names in wanted.items()}
    return [_recorded(one, draft, blobs.get(draft.lock, {})) for one, draft in zip(stored, drafts, strict=True)]


def refers(data: bytes) -> bool:
    """Whether an event as stored may refer to blobs, by its first bytes alone: most do not, and need not be decoded."""
    return data[:2] != _BEGINNING or data[2] & ~FLAG_ZSTD != 0


def blob_names(stored: Iterable[Stored], *, hidden: bool = False) -> set[bytes]:
    """The names of all blobs these events refer to. Raises NoKey where only a key can tell; with `hidden` such are left out."""
    drafts = [_draft(one, strict=False, hidden=hidden, upcasters=UPCASTERS) for one in stored]
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


def _draft(stored: Stored, *, strict: bool, hidden: bool, upcasters: Mapping[int, Upcaster]) -> _Draft:
    where = f"the event at position {stored.position}"
    array = _checked_array(decode(stored.data, where, strict=strict), where, upcasters)
    reading = _READINGS.get(array[7])
    if reading is None:
        raise WrittenByNewer(where, f"event type {array[7]}")
    flags = array[1]
    if flags & ~KNOWN_FLAGS:
        raise WrittenByNewer(where, f"flag {flags & ~KNOWN_FLAGS}")
    if not array[8].keys() <= reading.known:
        raise WrittenByNewer(where, f"a field of {reading.kind.__name__}")
    lock, why = _unlocked(array, stored.unlock, where, hidden=hidden)
    data = array[9]
    if flags & FLAG_ENCRYPTED:
        if lock is None:
            return _Draft(array, reading, [], [], where, None, why)
        data = lock.open_event(Spot(array[3], array[4], array[7], flags), data, where)
    data = expand_small(data, where, limit=MAX_BODY) if flags & FLAG_ZSTD else data
    body = decode(data, where, strict=strict)
    refs: list[Ref] = []
    if flags & FLAG_REFS:
        if not (isinstance(body, list) and len(body) == 2):
            raise Corrupt(where, "has no list of references where its flags say there is one")
        body, refs = body[0], checked_refs(body[1], where)
    if not isinstance(body, list):
        raise Corrupt(where, "has a body that is not a list")
    if len(body) > len(reading.body):
        raise WrittenByNewer(where, f"a field of {reading.kind.__name__}")
    return _Draft(array, reading, body, refs, where, lock, "")


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


def _recorded(stored: Stored, draft: _Draft, blobs: Mapping[bytes, bytes]) -> Recorded:
    array, where = draft.array, draft.where
    referred = 0
    if draft.refs:
        referred = sum(len(blobs[ref[1]]) for ref in draft.refs)
        if referred > MAX_REFERRED:
            raise Corrupt(where, "refers to more than any writer lets it")
        fill(draft.body, draft.refs, blobs, where)
    event = _event(draft, where)
    vouch = _vouch(array[8][_VOUCH], where, draft.lock) if _VOUCH in array[8] else None
    return Recorded(
        event, array[2], array[3], array[4], stored.position, array[5], array[6], digest(stored.data), array[10], vouch,
        len(stored.data) + referred, draft.hidden,
    )  # fmt: skip


def _event(draft: _Draft, where: str) -> Event:
    """The fact itself, from its fields in header and body."""
    reading, header = draft.reading, draft.array[8]
    values: dict[str, Any] = {}
    for name, types in reading.header:
        if name in header:
            value = values[name] = frozen(header[name], where)
            if types and type(value) not in types:
                raise Corrupt(where, f"has {name!r} of type {type(value).__name__}")
    for (name, types, read), plain in zip(reading.body, draft.body, strict=False):
        value = values[name] = read(plain, where)
        if types and type(value) not in types:
            raise Corrupt(where, f"has {name!r} of type {type(value).__name__}")
    if draft.hidden:
        values |= placeholders(reading.kind, ((name, types) for name, types, _ in reading.body), draft.hidden)
    try:
        return reading.kind(**values)  # type: ignore[no-any-return]
    except TypeError as error:
        raise Corrupt(where, f"lacks a field ({error})") from None


def _vouch(raw: Any, where: str, lock: Lock | None) -> Vouch:
    if isinstance(raw, list) and len(raw) == 2 and type(raw[0]) is int and type(raw[1]) is bytes:
        return Vouch(raw[0], raw[1] if lock is None else lock.open_digest(raw[0], raw[1], where))
    raise Corrupt(where, "vouches for a snapshot in a way that can't be read")


def change_from_plain(value: Any, where: str) -> Change:
    """A change from its operations, as events write them. Raises Corrupt, WrittenByNewer."""
    if not isinstance(value, list) or not all(map(_is_op, value)):
        raise Corrupt(where, "holds a change that can't be read")
    change: list[Op] = []
    for number, path, item in value:
        if number >= len(OPS):
            raise WrittenByNewer(where, f"operation {number}")
        change.append(Op(OPS[number], tuple(path), frozen(item, where, depth=len(path))))
    return tuple(change)


def _is_op(op: Any) -> bool:
    if type(op) is not list or len(op) != 3:
        return False
    number, path, _ = op
    if type(number) is not int or number < 0 or type(path) is not list:
        return False
    return 0 < len(path) <= MAX_DEPTH and _TEXT.issuperset(map(type, path))


def failure_from_plain(value: Any, where: str) -> Failure | None:
    """A failure from its four fields, as events and snapshots write it. Raises Corrupt."""
    if value is None:
        return None
    kinds = [str, str, str, bool]
    if isinstance(value, list) and list(map(type, value)) == kinds:
        return Failure(*value)
    raise Corrupt(where, "holds an error that can't be read")


_READERS: dict[str, Callable[[Any, str], Any]] = {"change": change_from_plain, "error": failure_from_plain}
_READINGS: dict[int, _Reading] = {
    shape.code: _Reading(
        kind,
        tuple((name, _FIELDS[kind].get(name, ())) for name in shape.header),
        tuple((name, _FIELDS[kind].get(name, ()), _READERS.get(name, frozen)) for name in shape.body),
        frozenset({*shape.header, _VOUCH, KEY}),
    )
    for kind, shape in SHAPES.items()
}
