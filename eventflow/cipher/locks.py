"""A data key, and the locks made of it: one for each run, one for the blobs of all runs under the key.

What is sealed is bound to its place: store, key, run, incarnation, version, kind of fact and flags for an event; version
for a snapshot and its digest; name for a blob. The keys of a run are derived once and kept with the ciphers made of them.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, field
from typing import Literal

from eventflow.cipher.cose import Sealer, bound, derived
from eventflow.codec import LOCKED_ROOT, Spot, expanded_blob
from eventflow.errors import Corrupt
from eventflow.proof import digest

KeyKind = Literal["subject", "run", "store"]
BLOB_ROW = b"\x03"  # first byte of a blob's row that is encrypted
_EVENT, _ROOT, _DIGEST, _BLOB, _MESSAGE = range(1, 6)  # what a sealed thing is: the first byte of what it is bound to
_PLACE = struct.Struct(">BQQHH")  # kind, incarnation, version, type, flags
_SALT = 16  # random bytes under a message's nonce
_LOW = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that values are encrypted with: of a subject, or of a run and its forks; `name` is theirs.

    `run_key` is that of the run it was made for, empty for a subject's. `made` is ns since the epoch, UTC.
    """

    key_id: bytes
    store_id: bytes
    kind: KeyKind
    name: str
    run_key: bytes
    made: int
    secret: bytes = field(repr=False)


class RunLock:
    """A data key bound to one run."""

    __slots__ = ("_blobs", "_front", "_sealer", "key_id")

    def __init__(self, key: DataKey, run_key: bytes, blobs: BlobLock) -> None:
        self.key_id = key.key_id
        place = key.store_id + key.key_id + run_key
        self._front = bound(place + bytes(_PLACE.size))[: -_PLACE.size]  # what is the same for all of the run
        self._sealer = Sealer(derived(key.secret, b"run " + run_key))
        self._blobs = blobs

    def _about(self, kind: int, incarnation: int, version: int, code: int, flags: int) -> bytes:
        return self._front + _PLACE.pack(kind, incarnation, version, code, flags)

    def seal_event(self, spot: Spot, body: bytes) -> bytes:
        """An event's body, sealed."""
        return self._sealer.small(body, self._about(_EVENT, *spot), _low(spot.version))

    def open_event(self, spot: Spot, body: bytes, where: str) -> bytes:
        """An event's body, as it was. Raises Corrupt."""
        return self._sealer.opened_small(body, self._about(_EVENT, *spot), _low(spot.version), where)

    def seal_root(self, version: int, root: bytes) -> bytes:
        """A snapshot's stored root, as it is stored encrypted."""
        about = self._about(_ROOT, 0, version, 0, 0)
        return LOCKED_ROOT + self._sealer.sealed(root, about, _low(version), key_id=self.key_id)

    def open_root(self, version: int, row: bytes, where: str) -> bytes:
        """A snapshot's stored root, as it would be stored in the open. Raises Corrupt."""
        about = self._about(_ROOT, 0, version, 0, 0)
        return self._sealer.opened(row[1:], about, _low(version), where, key_id=self.key_id)

    def seal_digest(self, version: int, digest: bytes) -> bytes:
        """The digest of a state, sealed."""
        return self._sealer.small(digest, self._about(_DIGEST, 0, version, 0, 0), _low(version))

    def open_digest(self, version: int, data: bytes, where: str) -> bytes:
        """The digest of a state. Raises Corrupt."""
        return self._sealer.opened_small(data, self._about(_DIGEST, 0, version, 0, 0), _low(version), where)

    def seal_message(self, data: bytes) -> bytes:
        """A message's bytes, sealed; the same message twice is not seen to be the same."""
        about = self._about(_MESSAGE, 0, 0, 0, 0)
        return self._sealer.sealed_once(data, about, os.urandom(_SALT), self.key_id)

    def open_message(self, data: bytes, where: str) -> bytes:
        """A message's bytes. Raises Corrupt."""
        return self._sealer.opened_once(data, self._about(_MESSAGE, 0, 0, 0, 0), where, self.key_id)

    def name(self, digest: bytes) -> bytes:
        """The name under which a blob of that digest is stored."""
        return self._blobs.name(digest)

    def seal_blob(self, name: bytes, stored: bytes) -> bytes:
        """A blob's row, encrypted."""
        return self._blobs.seal(name, stored)


class BlobLock:
    """A data key for blobs, which the runs under it share."""

    __slots__ = ("_key_id", "_name_key", "_place", "_sealer")

    def __init__(self, key: DataKey) -> None:
        self._key_id = key.key_id
        self._place = bytes((_BLOB,)) + key.store_id + key.key_id
        self._sealer = Sealer(derived(key.secret, b"blobs"))
        self._name_key = derived(key.secret, b"names")

    def name(self, digest: bytes) -> bytes:
        """HMAC-SHA-256 of a blob's digest: without the key nobody can tell what it is the name of."""
        return hmac.digest(self._name_key, digest, "sha256")

    def seal(self, name: bytes, stored: bytes) -> bytes:
        """A blob's row, encrypted and bound to its name."""
        return BLOB_ROW + self._sealer.sealed(stored, bound(self._place + name), name[:6], key_id=self._key_id)

    def open(self, name: bytes, row: bytes) -> bytes:
        """A blob's bytes from its row (without the first byte), checked against its name. Raises Corrupt."""
        where = f"blob {name.hex()[:12]}"
        stored = self._sealer.opened(row, bound(self._place + name), name[:6], where, key_id=self._key_id)
        data = expanded_blob(stored, name)
        if self.name(digest(data)) != name:
            raise Corrupt(where, "does not have the digest it is named by")
        return data


def _low(version: int) -> bytes:
    return (version & _LOW).to_bytes(6, "big")
