"""The keys of a store: a ring of master keys that its owner gives, and the data keys that lie wrapped in `keys/`.

A data key belongs to a subject, or to a run and its forks. Its file says in the open whose it is and which master key wraps
it; the key itself is wrapped. What is encrypted with it, and when, is not this file's business.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from eventflow.cipher.cose import KEY_SIZE
from eventflow.cipher.files import KeyShelf, Shelf
from eventflow.cipher.locks import BlobLock, DataKey, KeyKind, RunLock
from eventflow.cipher.master import (
    FILE_VARIABLE,
    KEY_VARIABLE,
    Kms,
    master_from_environment,
    master_from_file,
    master_from_system,
    unwrapped,
    wrapped_by,
)
from eventflow.codec import KEY_ID_SIZE, decode, encode
from eventflow.errors import Conflict, Corrupt, NoKey, WrongKey

TAG_SIZE = 7  # bytes that name who a key is for: of 10^6 subjects no two share one (1 in 10^5), and it would be noticed
STORE_TAG = "store"  # of the key that tells whether the right master key was given
KNOWN_LOCKS = 10_000  # runs whose derived keys are kept: some 10 MB
_RESTORE = "restore the folder of the store's keys, `keys/` in a directory, from a copy of it"
_FORMAT = 1
_FIELDS = {
    "format": int, "id": bytes, "kind": str, "made": int, "master": str, "name": str, "run": bytes, "store": bytes,
    "wrapped": bytes,
}  # fmt: skip


class Keyring:
    """Master keys: the first wraps new data keys, the others still open what they wrapped before a rotation.

    `folder` is where the wrapped data keys of a store lie that is not a directory itself, a database: every process that
    works on it must see the same; EVENTFLOW_KEYS names another one.
    """

    def __init__(self, master: Kms, *older: Kms, folder: str | os.PathLike[str] | None = None) -> None:
        self.master, self.older = master, older
        self.folder = None if folder is None else Path(folder)
        self._masters = {one.id: one for one in (*older, master)}
        self._shelves: dict[bytes, KeyShelf] = {}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._masters)})"

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *older: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
    ) -> Keyring:
        """A ring of the master keys in files of mode 0600. Raises SettingsError."""
        return cls(master_from_file(path), *map(master_from_file, older), folder=folder)

    @classmethod
    def from_environment(cls, name: str = KEY_VARIABLE) -> Keyring:
        """A ring of the master key in an environment variable, in base64. Raises SettingsError."""
        return cls(master_from_environment(name))

    @classmethod
    def from_system(cls, name: str) -> Keyring:
        """A ring of the master key that the operating system's keyring holds under a name. Raises SettingsError."""
        return cls(master_from_system(name))

    def of(self, master: str) -> Kms | None:
        """The master key of an id, None if it is not on the ring."""
        return self._masters.get(master)

    def shelf(self, store_id: bytes) -> KeyShelf:
        """Where the data keys of a store in memory lie, as long as this ring does."""
        return self._shelves.setdefault(store_id, KeyShelf())


def ring_from_settings(path: str | None = None) -> Keyring | None:
    """The ring that EVENTFLOW_KEY_FILE (paths, as in PATH) or EVENTFLOW_KEY names, else the file at `path`, else None.

    Raises SettingsError.
    """
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Keyring.from_file(*filter(None, named.split(os.pathsep)))
    if os.environ.get(KEY_VARIABLE):
        return Keyring.from_environment()
    return Keyring.from_file(*filter(None, path.split(os.pathsep))) if path else None


@dataclass(frozen=True, slots=True)
class Wrapped:
    """What the file of a data key says: whose it is, since when, by which master key it is wrapped."""

    key: DataKey  # without its secret
    master: str
    wrapped: bytes

    @property
    def about(self) -> bytes:
        """What the wrapping is bound to: everything the file says of the key."""
        key = self.key
        return encode(["eventflow/1 key", key.store_id, key.key_id, key.kind, key.name, key.run_key, key.made])

    def packed(self) -> bytes:
        """The bytes of the file."""
        key = self.key
        return encode(
            {"format": _FORMAT, "id": key.key_id, "kind": key.kind, "made": key.made, "master": self.master,
             "name": key.name, "run": key.run_key, "store": key.store_id, "wrapped": self.wrapped}
        )  # fmt: skip


def wrap(key: DataKey, kms: Kms) -> Wrapped:
    """A data key as its file holds it."""
    bare = Wrapped(replace(key, secret=b""), kms.id, b"")
    return replace(bare, wrapped=wrapped_by(kms, key.secret, bare.about))


def read_wrapped(data: bytes, where: str) -> Wrapped:
    """What a key's file says. Raises Corrupt."""
    value = decode(data, where, strict=True)
    if not isinstance(value, dict) or {name: type(item) for name, item in value.items()} != _FIELDS:
        raise Corrupt(where, "is not the file of a key")
    if value["format"] != _FORMAT or value["kind"] not in ("subject", "run", "store"):
        raise Corrupt(where, "is a key of a kind that this eventflow does not know")
    key = DataKey(value["id"], value["store"], value["kind"], value["name"], value["run"], value["made"], b"")
    return Wrapped(key, value["master"], value["wrapped"])


def tag_of(kind: KeyKind, name: str, run_key: bytes = b"") -> bytes:
    """The first bytes of a key's id, and the name of its file: who it is for."""
    return hashlib.sha256(encode(["eventflow/1 key for", kind, name, run_key])).digest()[:TAG_SIZE]


CameFrom = Callable[[bytes], bool]


class Keys:
    """The data keys of one store, opened with a ring; without one they can be listed and nothing else.

    `came_from` tells of a store's id whether runs of that one were taken into this one: then their keys are used here too.
    """

    def __init__(
        self, shelf: Shelf, store_id: bytes, ring: Keyring | None, now: Callable[[], int], *, came_from: CameFrom = lambda _: False
    ) -> None:  # fmt: skip
        self.shelf, self.store_id, self.ring, self._now = shelf, store_id, ring, now
        self._came_from = came_from
        self._held: dict[bytes, tuple[DataKey, object]] = {}  # with what tells its file from another one of that name
        self._blobs: dict[bytes, BlobLock] = {}
        self._locks: dict[tuple[bytes, bytes], RunLock] = {}
        self._stamp = shelf.stamp()

    @property
    def begun(self) -> bool:
        """Whether this store's new runs are encrypted."""
        return self.shelf.read(STORE_TAG) is not None

    def begin(self) -> bool:
        """Have new runs be encrypted from now on; whether they were not before. Raises NoKey without a ring."""
        key = DataKey(
            secrets.token_bytes(KEY_ID_SIZE),
            self.store_id,
            "store",
            "",
            b"",
            self._now(),
            secrets.token_bytes(KEY_SIZE),
        )
        return self.shelf.create(STORE_TAG, wrap(key, self._ring("this store").master).packed())

    def check(self) -> None:
        """Raise WrongKey if the ring does not open this store."""
        data = self.shelf.read(STORE_TAG)
        if data is not None and self.ring is not None:
            self._unwrap(read_wrapped(data, "keys/store.key"), "this store")

    def secret(self) -> bytes:
        """The store's own key, for what is neither a subject's nor a run's. Raises NoKey."""
        data = self.shelf.read(STORE_TAG)
        if data is None:
            raise NoKey("this store")
        return self._unwrap(read_wrapped(data, "keys/store.key"), "this store").secret

    # --- looking up

    def refresh(self) -> None:
        """Forget keys whose files went, or were replaced, meanwhile: one that was destroyed must not be used on."""
        stamp = self.shelf.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        gone = {one for one, (_, token) in self._held.items() if self.shelf.token(one[:TAG_SIZE].hex()) != token}
        if gone:
            self._held = {one: held for one, held in self._held.items() if one not in gone}
            self._blobs = {one: held for one, held in self._blobs.items() if one not in gone}
            self._locks = {one: held for one, held in self._locks.items() if one[0] not in gone}

    def lock(self, key_id: bytes, run_key: bytes, what: str) -> RunLock:
        """A key bound to a run. Raises NoKey, WrongKey, Corrupt; `what` names the run in errors."""
        found = self._locks.get((key_id, run_key))
        if found is None:
            if len(self._locks) >= KNOWN_LOCKS:
                self._locks.clear()
            found = self._locks[key_id, run_key] = RunLock(
                self.get(key_id, what), run_key, self.blob_lock(key_id, what)
            )
        return found

    def blob_lock(self, key_id: bytes, what: str) -> BlobLock:
        """A key for blobs. Raises NoKey, WrongKey, Corrupt."""
        found = self._blobs.get(key_id)
        if found is None:
            found = self._blobs[key_id] = BlobLock(self.get(key_id, what))
        return found

    def get(self, key_id: bytes, what: str) -> DataKey:
        """A data key by its id. Raises NoKey, WrongKey, Corrupt."""
        held = self._held.get(key_id)
        if held is not None:
            return held[0]
        name = key_id[:TAG_SIZE].hex()
        token, data = self.shelf.token(name), self.shelf.read(name)
        if data is None:
            raise NoKey(what, f"its key, {name}.key, is not among the store's keys", todo=_RESTORE)
        wrapped = read_wrapped(data, f"keys/{name}.key")
        if wrapped.key.key_id != key_id:  # its owner has another key by now
            raise NoKey(what, f"its key, {name}.key, was replaced by another one", todo=_RESTORE)
        found = self._unwrap(wrapped, what)
        self._held[key_id] = found, token
        return found

    def _unwrap(self, wrapped: Wrapped, what: str) -> DataKey:
        ring = self._ring(what, wrapped.master)
        kms = ring.of(wrapped.master)
        if kms is None:
            raise WrongKey(what, ring.master.id, wrapped.master)
        if wrapped.key.store_id != self.store_id and not self._came_from(wrapped.key.store_id):
            raise Corrupt("a key's file", "is of another store")
        return replace(wrapped.key, secret=unwrapped(kms, wrapped.wrapped, wrapped.about, "a key's file"))

    def _ring(self, what: str, wanted: str = "") -> Keyring:
        if self.ring is not None:
            return self.ring
        data = None if wanted else self.shelf.read(STORE_TAG)
        known = wanted if data is None else read_wrapped(data, "keys/store.key").master
        raise NoKey(what, "no master key was given", wanted=known)

    # --- keys come and go

    def made_for(self, kind: KeyKind, name: str, run_key: bytes = b"") -> tuple[DataKey, bool]:
        """The key of a subject or a run, made if there is none; and whether it was made. Raises NoKey, WrongKey."""
        tag = tag_of(kind, name, run_key)
        data = self.shelf.read(tag.hex())
        if data is None:
            key_id = tag + secrets.token_bytes(KEY_ID_SIZE - TAG_SIZE)
            key = DataKey(key_id, self.store_id, kind, name, run_key, self._now(), secrets.token_bytes(KEY_SIZE))
            if self.shelf.create(tag.hex(), wrap(key, self._ring(name).master).packed()):
                self._held[key_id] = key, self.shelf.token(tag.hex())
                return key, True
            data = self.shelf.read(tag.hex()) or b""  # somebody else was first
        wrapped = read_wrapped(data, f"keys/{tag.hex()}.key")
        if (wrapped.key.kind, wrapped.key.name, wrapped.key.run_key) != (kind, name, run_key):
            raise Conflict(
                f"{kind} {name} can't have a key: its place is taken by that of {wrapped.key.name}; rename it"
            )
        return self.get(wrapped.key.key_id, name), False

    def discard(self, key: DataKey) -> None:
        """Take away a key that was made for a run which did not come to be."""
        self.shelf.discard(key.key_id[:TAG_SIZE].hex())
        self._held.pop(key.key_id, None)

    def listed(self) -> Iterator[Wrapped]:
        """What the files of all keys say, the store's own last. Raises Corrupt."""
        names = self.shelf.names()
        for name in sorted(names, key=lambda one: (one == STORE_TAG, one)):
            data = self.shelf.read(name)
            if data is not None:
                yield read_wrapped(data, f"keys/{name}.key")

    def rotate(self, fresh: Kms) -> Iterator[int]:
        """Wrap every key with another master key, one after the other; yields how many have been looked at.

        The store's own goes last, so that a rotation which was cut off is seen to be; it can be repeated at any point.
        Raises WrongKey if a key is wrapped with a master key that is neither on the ring nor the new one.
        """
        for count, one in enumerate(self.listed(), 1):
            if one.master != fresh.id:
                name = STORE_TAG if one.key.kind == "store" else one.key.key_id[:TAG_SIZE].hex()
                self.shelf.replace(
                    name, wrap(self._unwrap(one, f"the key of {one.key.name or 'this store'}"), fresh).packed()
                )
            yield count

    def destroy(self, key_id: bytes) -> None:
        """Destroy a key for good; `forget` removes what is left."""
        self.shelf.destroy(key_id[:TAG_SIZE].hex())
        self._stamp = 0
        self.refresh()

    def forget(self, key_id: bytes) -> None:
        """Remove what is left of a key that was destroyed."""
        self.shelf.forget(key_id[:TAG_SIZE].hex())


def adopt(source: Shelf, target: Shelf, key_ids: Iterable[bytes]) -> set[bytes]:
    """Copy the files of some keys, as they are wrapped, from one store's to another's; the ids of those that are there now.

    A key that is not in the source is left out, and so is one whose owner has another key in the target. Raises Corrupt.
    """
    found: set[bytes] = set()
    for key_id in key_ids:
        name = key_id[:TAG_SIZE].hex()
        data = source.read(name)
        if data is None or read_wrapped(data, f"keys/{name}.key").key.key_id != key_id:
            continue
        target.create(name, data)
        held = target.read(name)
        if held is not None and read_wrapped(held, f"keys/{name}.key").key.key_id == key_id:
            found.add(key_id)
    return found


def taken(target: Shelf, key_ids: Iterable[bytes]) -> Iterator[Wrapped]:
    """Keys of the target whose owners have other keys among some: both can't be there. Raises Corrupt."""
    for key_id in key_ids:
        name = key_id[:TAG_SIZE].hex()
        held = target.read(name)
        if held is not None and (found := read_wrapped(held, f"keys/{name}.key")).key.key_id != key_id:
            yield found


def adopt_store(source: Shelf, target: Shelf) -> bytes:
    """Have a new store be encrypted as another one is, with its own key; that one's id, empty if it is not encrypted."""
    data = source.read(STORE_TAG)
    if data is None:
        return b""
    target.create(STORE_TAG, data)
    return read_wrapped(data, "keys/store.key").key.store_id
