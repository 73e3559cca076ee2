"""Events as bytes: format 1, an array of eleven fields, described byte by byte in docs/format.md.

`pack` turns a fact into what does not depend on its place; `seal` adds place, time and the digest before; `reading` gives
recorded events back. Everything the user wrote is in the body; the header holds what a reader without keys may see.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from eventflow import event as facts
from eventflow.change import Change, OpName
from eventflow.codec.blobs import Blob, Ref, lift, squeeze_small
from eventflow.codec.cbor import encode, encode_ordered
from eventflow.codec.locks import Unlock
from eventflow.errors import NotPlainData
from eventflow.event import Event, Failure, Vouch
from eventflow.plain import EMPTY, FrozenDict, FrozenList

FORMAT = 1
FLAG_ZSTD = 1  # the body is a zstd frame
FLAG_REFS = 2  # the body is [fields, refs] instead of fields
FLAG_ENCRYPTED = 4  # the body, compressed before, is encrypted; the header names the key
KNOWN_FLAGS = FLAG_ZSTD | FLAG_REFS | FLAG_ENCRYPTED
TOMBSTONE = (
    b"\xff"  # what stands at the position of a deleted event: this byte, which no event begins with, and its digest
)
MAX_BODY = 16 << 20  # 16 MiB beside blobs: decoding takes a tenth of a second, and a commit writes it whole
MAX_REFERRED = 1 << 30  # bytes of all values an event refers to: what reading one event may take, whatever it says
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
    facts.SubjectReadmitted: Shape(153, ("name", "actor", "why"), ()),
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
# The types that each field of a fact may have; none: any plain data.
FIELDS: dict[type, dict[str, tuple[type, ...]]] = {
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
    if all(set(FIELDS[kind][name]) <= {str, bytes, int, bool, type(None)} for name in shape.header)
)
_NEVER_LIFTED = frozenset({int, bool, float, type(None)})
VOUCH = "snapshot"  # the header's key for the snapshot an event vouches for
KEY = "k"  # the header's key for the id of the key that sealed the body, or the digest that the event vouches with
REWOUND, FORKED = SHAPES[facts.Rewound].code, SHAPES[facts.Forked].code


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
        header[VOUCH] = [vouch.version, vouch.digest]
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
    return encode_ordered(array) if packed.code in _SIMPLE and VOUCH not in packed.header else encode(array)


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
