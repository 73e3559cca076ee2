"""What is found in the files of a damaged store, sorted: events, values, digests of what was deleted, where runs ended.

Nothing found is believed here; it is only put where it can be proved. Bytes that are no event, no value and no row that
speaks of one are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from eventflow.cipher import Keys
from eventflow.codec import (
    KEY,
    LOCKED_BLOB,
    LOCKED_ROOT,
    TOMBSTONE,
    VOUCH,
    Fetch,
    Lock,
    OpenedRoot,
    Stored,
    blob_names,
    decode,
    expanded_blob,
    key_id_of,
)
from eventflow.errors import Corrupt, EventflowError, NoKey
from eventflow.exchange import items
from eventflow.log import STORE_RUN, Entry, Head
from eventflow.log.lmdb.salvage import rows
from eventflow.log.lmdb.tables import entry_from, head_from
from eventflow.proof import DIGEST_SIZE, digest
from eventflow.verification.report import STUMBLES

_HEAD_ROW, _PLACE = 94, 8  # bytes of a head's row, and of a place
_LISTS = (b"\x88", b"\x89", b"\x8a", b"\x8b", b"\x8c")  # how the entry of a list begins: arrays of 8 to 12
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

    `ends` are heads by the digest that they name as the last event of a run, older heads among them; `roots` are snapshots
    by run key and version, as they are stored.
    """

    events: dict[bytes, dict[int, dict[bytes, Piece]]] = field(default_factory=dict)
    entries: dict[bytes, Entry] = field(default_factory=dict)  # what a list says of runs, by run key
    gone: set[bytes] = field(default_factory=set)
    ends: dict[bytes, dict[bytes, Head]] = field(default_factory=dict)
    roots: dict[tuple[bytes, int], list[bytes]] = field(default_factory=dict)
    sealed: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)  # encrypted values: key id -> name -> row
    _keys: Keys | None = None
    _locked: set[bytes] = field(default_factory=set)  # names of encrypted values
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
        elif len(key) == len(STORE_RUN) and value[:1] in _LISTS:
            with suppress(EventflowError, *STUMBLES):
                self.entries[key] = entry_from(value)[1]
        elif len(value) == _HEAD_ROW:
            self._end(key, value)
        elif len(key) == len(STORE_RUN) + _PLACE and len(value) > _PLACE and value[:1] in (b"\0", b"\1", LOCKED_ROOT):
            run_key, version = key[: len(STORE_RUN)], int.from_bytes(key[len(STORE_RUN) :], "big")
            self.roots.setdefault((run_key, version), []).append(value)
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
        self.ends.setdefault(head.run_key, {})[head.digest] = head

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

    def opened(self, run_key: bytes, version: int, row: bytes) -> tuple[bytes, Fetch]:
        """A snapshot's root with what its values are fetched by: opened if it is encrypted. Raises NoKey, Corrupt."""
        if row[:1] != LOCKED_ROOT:
            return row, self.blobs
        if self._keys is None:
            raise NoKey("a run")
        key_id = key_id_of(row[1:])
        lock = self._keys.lock(key_id, run_key, "a run")
        return OpenedRoot.by(lock.open_root(version, row, "a snapshot"), lock), partial(self._unsealed, key_id)

    def vouched(self, run_key: bytes, act: Piece) -> tuple[object, ...]:
        """The version and the digest that an event vouches for, opened if it is sealed. Raises NoKey, Corrupt."""
        told, key_id = act.header.get(VOUCH), act.header.get(KEY)
        if not isinstance(told, list) or len(told) != 2:
            raise Corrupt("a compaction", "does not say to what")
        if key_id is None:
            return tuple(told)
        if self._keys is None:
            raise NoKey("a run")
        return told[0], self._keys.lock(key_id, run_key, "a run").open_digest(told[0], told[1], "a digest")  # type: ignore[arg-type]

    def _unsealed(self, key_id: bytes, names: Iterable[bytes]) -> dict[bytes, bytes]:
        assert self._keys is not None  # noqa: S101 - who asks has opened a root
        lock, held = self._keys.blob_lock(key_id, "a run"), self.sealed.get(key_id, {})
        found = {name: held.get(name) for name in names}
        missing = next((name for name, row in found.items() if row is None), None)
        if missing is not None:
            raise Corrupt(f"blob {missing.hex()[:12]}", "is missing")
        return {name: lock.open(name, row) for name, row in found.items() if row is not None}

    def has_values(self, piece: Piece) -> bool:
        """Whether every value that an event refers to was found."""
        try:
            names = blob_names(
                [Stored(0, piece.data, self._unlock)], hidden=True
            )  # without the key, none of an encrypted one
            return all(name in self._blobs or name in self._locked for name in names)
        except (EventflowError, *STUMBLES):
            return False

    def settle(self, keys: Keys | None) -> None:
        """Give encrypted values the names that rows of the index give to their places, once all rows are taken.

        That a value is what its name says only its key can tell: where that is here, what does not open is left out.
        """
        self._keys = keys
        for place, found in self._places.items():
            for name in self._names.get(place, ()):
                for row in found:
                    if _opens(keys, name, row[1:]):
                        self.sealed.setdefault(key_id_of(row[1:]), {})[name] = row[1:]
                        self._locked.add(name)

    def _unlock(self, key_id: bytes, run_key: bytes) -> Lock:
        if self._keys is None:
            raise NoKey("a run")
        return self._keys.lock(key_id, run_key, "a run")

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


def _opens(keys: Keys | None, name: bytes, row: bytes) -> bool:
    """Whether an encrypted value may be the one of a name: its key is not here, or opens it so."""
    if keys is None:
        return True
    try:
        keys.blob_lock(key_id_of(row), "a value").open(name, row)
    except NoKey:
        return True
    except (EventflowError, *STUMBLES):
        return False
    return True


RUN_DELETED = 131  # docs/format.md


def find(root: Path) -> Found:
    """All that the LMDB files of a store still hold."""
    found = Found()
    for file in sorted(root.glob("data.*/data.mdb")):
        if file.is_file() and not file.is_symlink():
            for key, value in rows(file):
                found.take(key, value)
    return found
