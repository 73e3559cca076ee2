"""What is found in the files of a damaged store, sorted: events, values, digests of what was deleted, where runs ended.

Nothing found is believed here; it is only put where it can be proved. Bytes that are no event, no value and no row that
speaks of one are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eventflow.codec import LOCKED_BLOB, TOMBSTONE, Stored, blob_names, decode, expanded_blob
from eventflow.errors import Corrupt, EventflowError
from eventflow.exchange import items
from eventflow.log import STORE_RUN
from eventflow.log.lmdb.salvage import rows
from eventflow.log.lmdb.tables import head_from
from eventflow.proof import DIGEST_SIZE, digest
from eventflow.verification.report import STUMBLES

_HEAD_ROW, _PLACE = 94, 8  # bytes of a head's row, and of a place
_ARRAY = [int, int, bytes, int, int, int, int, int, dict, bytes, bytes]  # docs/format.md, "Events"


@dataclass(frozen=True, slots=True)
class Piece:
    """An event that was found: its digest and that of the one before, its type, header and stored bytes."""

    digest: bytes
    before: bytes
    code: int
    time: int
    incarnation: int
    header: Mapping[str, object]
    data: bytes


@dataclass(slots=True)
class Found:
    """All that was found: events by run key and version, values, digests of deleted events.

    `ends` are the digests (and versions) that heads name as the last event of a run, older heads among them.
    """

    events: dict[bytes, dict[int, dict[bytes, Piece]]] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)
    ends: dict[bytes, dict[bytes, int]] = field(default_factory=dict)
    _blobs: dict[bytes, bytes] = field(default_factory=dict)
    _names: dict[bytes, list[bytes]] = field(default_factory=dict)  # place -> names that were said to lie there
    _places: dict[bytes, list[bytes]] = field(default_factory=dict)

    def take(self, key: bytes, value: bytes) -> None:
        """Sort in one row."""
        if value[:1] == b"\x8b" and len(key) in (0, _PLACE):
            self._event(value, exact=bool(key))
        elif value[:1] == TOMBSTONE and len(value) == 1 + DIGEST_SIZE:
            self.gone.add(value[1:])
        elif len(key) == DIGEST_SIZE and len(value) == _PLACE:
            self._names.setdefault(value, []).append(key)
        elif len(value) == _HEAD_ROW:
            self._end(key, value)
        elif len(key) == _PLACE and value[:1] in (b"\0", b"\1", b"\2", LOCKED_BLOB):
            self._blob(key, value)

    def _event(self, data: bytes, *, exact: bool) -> None:
        try:
            if not exact:
                data = data[: next(iter(items(data)))[1]]
            array = decode(data, "an event", strict=True)
        except (EventflowError, StopIteration, *STUMBLES):
            return
        if type(array) is list and list(map(type, array)) == _ARRAY:
            piece = Piece(digest(data), array[10], array[7], array[6], array[3], array[8], data)
            self.events.setdefault(array[2], {}).setdefault(array[4], {})[piece.digest] = piece

    def _end(self, key: bytes, value: bytes) -> None:
        try:
            head = head_from(key, value)
        except EventflowError:
            return
        self.ends.setdefault(head.run_key, {})[head.digest] = head.version

    def _blob(self, key: bytes, value: bytes) -> None:
        if value[:1] == LOCKED_BLOB:  # its name can't be told from its bytes
            self._places.setdefault(key, []).append(value)
            return
        try:
            data = expanded_blob(value, b"")
        except (EventflowError, *STUMBLES):
            return
        self._blobs[digest(data)] = data

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Values by digest. Raises Corrupt if one is not there."""
        wanted = list(names)
        missing = next((name for name in wanted if name not in self._blobs), None)
        if missing is not None:
            raise Corrupt(f"blob {missing.hex()[:12]}", "is missing")
        return {name: self._blobs[name] for name in wanted}

    def has_values(self, piece: Piece) -> bool:
        """Whether every value that an event refers to was found."""
        try:
            return all(name in self._blobs for name in blob_names([Stored(0, piece.data)]))
        except (EventflowError, *STUMBLES):
            return False

    @property
    def deleted(self) -> set[bytes]:
        """Keys of runs that were deleted, as far as the store's own stream was found."""
        own = self.events.get(STORE_RUN, {})
        pieces = (piece for one in own.values() for piece in one.values())
        return {
            key
            for piece in pieces
            if piece.code == RUN_DELETED and isinstance(key := piece.header.get("run_key"), bytes)
        }


RUN_DELETED = 131  # docs/format.md


def find(root: Path) -> Found:
    """All that the LMDB files of a store still hold."""
    found = Found()
    for file in sorted(root.glob("data.*/data.mdb")):
        if file.is_file() and not file.is_symlink():
            for key, value in rows(file):
                found.take(key, value)
    return found
