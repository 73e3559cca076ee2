"""Events as bytes: format 1, an array of eleven fields, described byte by byte in docs/format.md.

`pack` turns a fact into what does not depend on its place; `seal` adds place, time and the digest before; `read_events`
gives recorded events back. Everything the user wrote is in the body; the header holds what a reader without keys may see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

from eventflow import event as facts
from eventflow.change import Change, Op, OpName
from eventflow.codec.blobs import Blob, Fetch, Ref, expand, fill, frozen, lift, squeeze
from eventflow.codec.cbor import decode, encode
from eventflow.errors import Corrupt, NotPlainData, WrittenByNewer
from eventflow.event import Event, Failure, Recorded, Vouch
from eventflow.proof import digest

FORMAT = 1
FLAG_ZSTD = 1  # the body is a zstd frame
FLAG_REFS = 2  # the body is [fields, refs] instead of fields
FLAG_ENCRYPTED = 4  # reserved: the body is encrypted, the header names the key
KNOWN_FLAGS = FLAG_ZSTD | FLAG_REFS
TOMBSTONE = (
    b"\xff"  # what stands at the position of a deleted event: this byte, which no event begins with, and its digest
)
MAX_BODY = 16 << 20  # 16 MiB beside blobs: decoding takes a tenth of a second, and a commit writes it whole
_SQUEEZED_FROM = 200  # bytes; a zstd frame of less gains nothing

OPS: tuple[OpName, ...] = ("set", "delete", "extend", "merge", "add")


class Shape(NamedTuple):
    """How one fact is laid out: its number, the fields in the header by their key there, the fields in the body."""

    code: int
    header: tuple[str, ...]
    body: tuple[str, ...]


# Numbers are for ever; a new field goes to the end of a body, so that old bytes lack it and take its default.
SHAPES: dict[type, Shape] = {
    facts.RunStarted: Shape(
        1,
        ("run_id", "store_id", "workflow", "definition_digest", "node", "actor", "why"),
        ("definition", "data", "input_digest", "tags", "subject"),
    ),
    facts.Transitioned: Shape(2, ("node", "to", "trigger"), ("change", "error")),
    facts.RunCompleted: Shape(3, ("node",), ("change",)),
    facts.AttemptFailed: Shape(4, ("node", "attempt", "retry_at"), ("error",)),
    facts.RunFailed: Shape(5, ("node",), ("error",)),
    facts.RunResumed: Shape(6, ("node", "definition_digest", "actor", "why"), ("definition",)),
    facts.RunPaused: Shape(7, ("actor", "why"), ()),
    facts.RunCancelled: Shape(8, ("actor", "why"), ()),
    facts.SignalReceived: Shape(9, ("name", "message", "actor"), ("payload",)),
    facts.EffectStarted: Shape(
        10, ("name", "key", "kind", "mutating", "attempt"), ("input", "input_digest", "idempotency_key")
    ),
    facts.EffectFinished: Shape(11, ("name", "key", "usage"), ("output",)),
    facts.EffectFailed: Shape(12, ("name", "key"), ("error",)),
    facts.EffectRejected: Shape(13, ("name", "key", "actor", "why"), ()),
    facts.Rewound: Shape(14, ("to", "node", "actor", "why"), ()),
    facts.Forked: Shape(
        15,
        ("run_id", "store_id", "parent_id", "parent_key", "parent_incarnation", "at", "actor", "why"),
        ("change",),
    ),
    facts.StoreCreated: Shape(128, ("store_id", "actor"), ()),
    facts.CheckpointCreated: Shape(129, ("run_id", "run_key", "at", "actor", "why"), ("label",)),
    facts.CheckpointsDeleted: Shape(130, ("run_id", "run_key", "versions", "actor", "why"), ()),
    facts.RunDeleted: Shape(131, ("run_id", "run_key", "incarnation", "head", "head_digest", "actor", "why"), ()),
}
_BY_CODE: dict[int, tuple[type, Shape]] = {shape.code: (kind, shape) for kind, shape in SHAPES.items()}
_DEFAULTS: dict[type, dict[str, Any]] = {
    kind: {f.name: f.default for f in fields(kind) if f.default is not MISSING} for kind in SHAPES
}
REWOUND, FORKED = SHAPES[facts.Rewound].code, SHAPES[facts.Forked].code

Upcaster = Callable[[list[Any]], list[Any]]
UPCASTERS: Mapping[int, Upcaster] = {}  # format n -> how to read its array as one of format n+1; none is older than 1


@dataclass(frozen=True, slots=True)
class Packed:
    """A fact as bytes, without its place: what a log needs to write it."""

    code: int
    flags: int
    header: dict[str, Any]
    body: bytes
    blobs: tuple[Blob, ...] = ()

    @property
    def size(self) -> int:
        """Bytes the fact adds to a history, blobs included."""
        return len(self.body) + sum(blob.size for blob in self.blobs)


@dataclass(frozen=True, slots=True)
class Stored:
    """An event's bytes at a position of the store."""

    position: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Place:
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
    defaults = _DEFAULTS[type(event)]
    header = {name: value for name in shape.header if (value := getattr(event, name)) != defaults.get(name, MISSING)}
    if vouch is not None:
        header["snapshot"] = [vouch.version, vouch.digest]
    refs: list[Ref] = []
    blobs: list[Blob] = []
    body = [_to_plain(name, getattr(event, name), (index,), refs, blobs) for index, name in enumerate(shape.body)]
    data = encode([body, refs] if refs else body)
    if len(data) > MAX_BODY:
        raise _too_large(event, len(data))
    flags = FLAG_REFS if refs else 0
    if len(data) >= _SQUEEZED_FROM:
        squeezed = squeeze(data)
        if len(squeezed) < len(data):
            data, flags = squeezed, flags | FLAG_ZSTD
    return Packed(shape.code, flags, header, data, tuple(blobs))


def seal(packed: Packed, place: Place) -> bytes:
    """The stored bytes of a fact at its place; their SHA-256 is the event's digest."""
    return encode([
        FORMAT, packed.flags, place.run_key, place.incarnation, place.version, place.epoch, place.time, packed.code,
        packed.header, packed.body, place.before,
    ])  # fmt: skip


def _to_plain(name: str, value: Any, path: tuple[int, ...], refs: list[Ref], blobs: list[Blob]) -> Any:
    if name == "change":
        return [_op_to_plain(op, (*path, index), refs, blobs) for index, op in enumerate(value)]
    if name == "error":
        return None if value is None else [value.type, value.message, value.where, value.retryable]
    return lift(value, refs, blobs, path)


def _op_to_plain(op: Op, path: tuple[int, ...], refs: list[Ref], blobs: list[Blob]) -> list[Any]:
    return [OPS.index(op.op), list(op.path), lift(op.value, refs, blobs, (*path, 2))]


def _too_large(event: Event, size: int) -> NotPlainData:
    change: Change = getattr(event, "change", ())
    largest = max(change, key=lambda op: len(encode(lift(op.value, [], []))), default=None)
    path = ".".join(largest.path) if largest else "the value"
    return NotPlainData(
        path,
        f"makes an event of {size:,} bytes; the limit is {MAX_BODY:,}. Keep such data in a file and its name in the "
        f"state, or return it in smaller parts",
    )


# --- reading -------------------------------------------------------------------------------------------------------


class _Draft(NamedTuple):
    """An event decoded but for the values that are blobs."""

    array: list[Any]
    kind: type
    shape: Shape
    body: list[Any]
    refs: list[Ref]
    where: str


def read_events(
    stored: Sequence[Stored], fetch: Fetch, *, strict: bool = False, upcasters: Mapping[int, Upcaster] = UPCASTERS
) -> list[Recorded]:
    """Recorded events from their bytes, blobs included. Raises Corrupt or WrittenByNewer.

    `strict` refuses bytes that this codec would not write; without it the caller checks the digests against the chain.
    """
    drafts = [_draft(one, strict=strict, upcasters=upcasters) for one in stored]
    wanted = {ref[1] for draft in drafts for ref in draft.refs}
    blobs = fetch(wanted) if wanted else {}
    return [_recorded(one, draft, blobs) for one, draft in zip(stored, drafts, strict=True)]


def blob_names(stored: Iterable[Stored]) -> set[bytes]:
    """The digests of all blobs these events refer to."""
    return {ref[1] for one in stored for ref in _draft(one, strict=False, upcasters=UPCASTERS).refs}


def _draft(stored: Stored, *, strict: bool, upcasters: Mapping[int, Upcaster]) -> _Draft:
    where = f"the event at position {stored.position}"
    array = _checked_array(decode(stored.data, where, strict=strict), where, upcasters)
    known = _BY_CODE.get(array[7])
    if known is None:
        raise WrittenByNewer(where, f"event type {array[7]}")
    flags = array[1]
    if flags & ~KNOWN_FLAGS:
        raise WrittenByNewer(where, f"flag {flags & ~KNOWN_FLAGS}")
    data = expand(array[9], where) if flags & FLAG_ZSTD else array[9]
    body = decode(data, where, strict=strict)
    refs: list[Ref] = []
    if flags & FLAG_REFS:
        if not (isinstance(body, list) and len(body) == 2):
            raise Corrupt(where, "has no list of references where its flags say there is one")
        body, refs = body
    if not isinstance(body, list):
        raise Corrupt(where, "has a body that is not a list")
    return _Draft(array, known[0], known[1], body, refs, where)


def _checked_array(value: Any, where: str, upcasters: Mapping[int, Upcaster]) -> list[Any]:
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise Corrupt(where, "is not an event")
    while value[0] in upcasters:
        value = upcasters[value[0]](value)
    if value[0] > FORMAT:
        raise WrittenByNewer(where, f"format {value[0]}")
    kinds = (int, int, bytes, int, int, int, int, int, dict, bytes, bytes)
    if len(value) != len(kinds) or not all(type(one) is kind for one, kind in zip(value, kinds, strict=True)):
        raise Corrupt(where, "does not have the fields of an event")
    return value


def _recorded(stored: Stored, draft: _Draft, blobs: Mapping[bytes, bytes]) -> Recorded:
    array, where = draft.array, draft.where
    if draft.refs:
        fill(draft.body, draft.refs, blobs, where)
    values: dict[str, Any] = {}
    header = array[8]
    for name in draft.shape.header:
        if name in header:
            values[name] = frozen(header[name], where)
    for name, value in zip(draft.shape.body, draft.body, strict=False):
        values[name] = _from_plain(name, value, where)
    try:
        event = draft.kind(**values)
    except TypeError as error:
        raise Corrupt(where, f"lacks a field ({error})") from None
    size = len(draft.body) if not draft.refs else sum(len(blobs[ref[1]]) for ref in draft.refs)
    return Recorded(
        event, array[2], array[3], array[4], stored.position, array[5], array[6], digest(stored.data), array[10],
        _vouch(header, where), len(stored.data) + size,
    )  # fmt: skip


def _vouch(header: dict[str, Any], where: str) -> Vouch | None:
    raw = header.get("snapshot")
    if raw is None:
        return None
    if isinstance(raw, list) and len(raw) == 2 and type(raw[0]) is int and type(raw[1]) is bytes:
        return Vouch(raw[0], raw[1])
    raise Corrupt(where, "vouches for a snapshot in a way that can't be read")


def _from_plain(name: str, value: Any, where: str) -> Any:
    if name == "change":
        return _change_from_plain(value, where)
    if name == "error":
        return _failure_from_plain(value, where)
    return frozen(value, where)


def _change_from_plain(value: Any, where: str) -> Change:
    try:
        return tuple(Op(OPS[number], tuple(path), frozen(item, where)) for number, path, item in value)
    except (TypeError, ValueError, IndexError):
        raise Corrupt(where, "holds a change that can't be read") from None


def _failure_from_plain(value: Any, where: str) -> Failure | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) >= 4:
        return Failure(*value[:4])
    raise Corrupt(where, "holds an error that can't be read")
