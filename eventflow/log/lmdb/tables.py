"""The layout of a store's LMDB file: tables, keys and fixed rows (docs/format.md says the same in prose).

Numbers are big-endian, so that keys sort as numbers do. Nothing here opens, reads or writes anything.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, NamedTuple

from eventflow.checkpoint import KINDS, Checkpoint
from eventflow.codec import decode, encode
from eventflow.errors import Corrupt, EventflowError
from eventflow.log.heads import NOBODY, QUEUED, Entry, Head
from eventflow.log.queueing import HIGHEST
from eventflow.state import STATUSES, WAITS

# table: what its keys are -> what its values are
TABLES = (
    b"log",  # position -> event, or a tombstone
    b"runs",  # run key, version -> position
    b"names",  # run id -> head (a fixed row)
    b"info",  # run key -> entry of the list
    b"index",  # facet, digest of a value, run key -> nothing
    b"bends",  # run key, version -> nothing: rewinds and forks
    b"marks",  # run key, version -> checkpoint
    b"snapshots",  # run key, version -> root; run key, version, "v" -> version that vouches for it
    b"blobs",  # place -> blob as stored
    b"places",  # digest -> place
    b"inbox",  # run key, message -> data
    b"due",  # time, run key -> a timer; empty until something waits
    b"store",  # text -> what concerns the whole store
)
# Kinds of what a store holds -> the tables they lie in; the first one's rows are counted.
USAGE = {
    "events": ("log",),
    "index": ("runs", "bends", "index", "places", "due", "store"),
    "runs": ("info", "names"),
    "blobs": ("blobs",),
    "snapshots": ("snapshots",),
    "checkpoints": ("marks",),
    "messages": ("inbox",),
}
KEY_FORMAT, KEY_STORE_ID, KEY_MESSAGES = b"format", b"id", b"messages"
KEY_BUCKET = b"bucket"  # and the name of a queue -> how many of its runs may be claimed, and when that was so
KEY_CHANGE = b"change"  # and a number -> table and key of a row that changed while the file is being copied elsewhere
KEY_CLEAR = b"clear"  # and a run key -> the version up to which what was removed of it is still to be tidied up
KEY_FOLLOWS = b"follows"  # -> 1 if this is a copy of another store that nobody may drive
KEY_GUARD = b"guard"  # and a run key and a kind -> why nothing of that run may be removed
KEY_SWEEP = b"sweep"  # -> number of the newest sweep, last place in `blobs` when it began or 0
KEY_VACUUM = b"vacuum"  # -> COPYING and who copies, or MOVED and the name of the directory
COPYING, MOVED = b"c", b"m"
FACET_STATUS, FACET_WORKFLOW, FACET_TAG, FACET_PARENT = b"s", b"w", b"t", b"p"
FACET_QUEUED, FACET_TAKEN = b"q", b"Q"  # of a queue: its runs that wait, by priority, and those that are driven

_HEAD = struct.Struct(">16sIQ32sQ16sBBq")
U64 = struct.Struct(">Q")
VERSIONED = 24  # bytes of a key that is a run key and a version


class Tables(NamedTuple):
    """Open tables, in the order of TABLES."""

    log: Any
    runs: Any
    names: Any
    info: Any
    index: Any
    bends: Any
    marks: Any
    snapshots: Any
    blobs: Any
    places: Any
    inbox: Any
    due: Any
    store: Any


def number(value: int) -> bytes:
    """8 bytes that sort as the number does."""
    return U64.pack(value)


def versioned(run_key: bytes, version: int) -> bytes:
    """The key of something at a version of a run: 24 bytes."""
    return run_key + U64.pack(version)


def facet(kind: bytes, value: str | bytes) -> bytes:
    """The first 17 bytes of an index key: the facet and the first half of its value's SHA-256."""
    data = value.encode() if isinstance(value, str) else value
    return kind + hashlib.sha256(data).digest()[:16]


def facets(entry: Entry, head: Head) -> list[bytes]:
    """All index keys of a run, without its run key."""
    keys = [facet(FACET_STATUS, head.status), facet(FACET_WORKFLOW, entry.workflow)]
    keys += [facet(FACET_TAG, tag) for tag in entry.tags]
    if entry.parent_id is not None:
        keys.append(facet(FACET_PARENT, entry.parent_key))
    if (place := queue_facet(entry, head)) is not None:
        keys.append(place)
    return keys


def queue_facet(entry: Entry, head: Head) -> bytes | None:
    """Where a run stands in its queue, without its run key: 21 bytes that sort by priority, None if it is in none."""
    if not entry.queue or head.status not in QUEUED:
        return None
    kind = FACET_QUEUED if head.owner == NOBODY else FACET_TAKEN
    return facet(kind, entry.queue) + struct.pack(">I", HIGHEST - entry.priority)


def head_row(head: Head) -> bytes:
    """A head as its fixed row of 94 bytes."""
    return _HEAD.pack(
        head.run_key, head.incarnation, head.version, head.digest, head.epoch, head.owner,
        STATUSES.index(head.status), WAITS.index(head.waiting_for), head.updated,
    )  # fmt: skip


def head_from(name: bytes, row: bytes) -> Head:
    """A head from its row. Raises Corrupt."""
    try:
        key, incarnation, version, digest, epoch, owner, status, waiting, updated = _HEAD.unpack(row)
        return Head(
            name.decode(), key, incarnation, version, digest, epoch, owner, STATUSES[status], WAITS[waiting], updated
        )
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Corrupt(f"the head of run {name!r}", f"can't be read ({error})") from None


def entry_row(run_id: str, entry: Entry) -> bytes:
    """An entry of the list, with the run's id, as CBOR."""
    return encode([
        run_id, entry.workflow, list(entry.tags), entry.subject, entry.started, entry.parent_id, entry.parent_key,
        entry.parent_at, *_later(entry),
    ])  # fmt: skip


def _later(entry: Entry) -> list[Any]:
    """The fields that came later, as far as they are set."""
    later = [entry.origin, entry.queue, entry.priority, entry.queue_key]
    while later and not later[-1]:
        later.pop()
    return later


def entry_from(row: bytes) -> tuple[str, Entry]:
    """A run's id and its entry of the list. Raises Corrupt."""
    value = decode(row, "an entry of the run list")
    if not isinstance(value, list) or len(value) < 8 or not isinstance(value[2], list):
        raise Corrupt("an entry of the run list", "does not have its fields")
    return value[0], Entry(value[1], tuple(value[2]), *value[3:12])


def mark_row(mark: Checkpoint) -> bytes:
    """A checkpoint as CBOR; its version is in the key."""
    return encode([[KINDS.index(kind) for kind in mark.kinds], mark.time, mark.label, mark.size, mark.digest])


def mark_from(key: bytes, row: bytes) -> Checkpoint:
    """A checkpoint from its row. Raises Corrupt."""
    try:
        kinds, time, label, size, digest = decode(row, "a checkpoint")
        return Checkpoint(U64.unpack(key[16:24])[0], tuple(KINDS[kind] for kind in kinds), time, label, size, digest)
    except (ValueError, TypeError, IndexError) as error:
        raise Corrupt("a checkpoint", f"can't be read ({error})") from None


def refuse_damage(where: Path, error: BaseException | None) -> None:
    """Raise Corrupt for an error that a row makes which nobody writes: one that is missing, too short, or of another kind."""
    if isinstance(error, EventflowError | UnicodeEncodeError):  # the latter is of an id that was asked for
        return
    if isinstance(error, TypeError | ValueError | LookupError | OverflowError | struct.error):
        raise Corrupt(str(where), f"holds a row that can't be read ({error})") from error
