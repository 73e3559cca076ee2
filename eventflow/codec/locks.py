"""What codecs know of encryption: that bytes may be locked, and what opens them. No cipher is here.

A *lock* is a key bound to one run. Bodies, roots of snapshots, blobs and digests that would betray a value are handed to it
and come back sealed, or opened. Whoever reads a log without its keys gets no lock and is told why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from eventflow.codec.blobs import Fetch

KEY_ID_SIZE = 10  # bytes of the id by which events and rows name the key that opens them
LOCKED_ROOT = b"\x02"  # first byte of a stored root that is encrypted
_COSE = b"\x83\x43\xa1\x01\x03"  # an array of three that begins with a protected header of A256GCM alone (RFC 9052)
_KID_FROM = len(_COSE) + 3  # a map of two, label 4, bytes of 10


class Spot(NamedTuple):
    """What a sealed event body is bound to, beside its run."""

    incarnation: int
    version: int
    code: int
    flags: int


class Lock(Protocol):
    """A key bound to one run. What it can't open raises Corrupt: it was changed, or belongs elsewhere."""

    @property
    def key_id(self) -> bytes:
        """The id of the key, 10 bytes."""
        ...

    def seal_event(self, spot: Spot, body: bytes) -> bytes:
        """An event's body, sealed."""
        ...

    def open_event(self, spot: Spot, body: bytes, where: str) -> bytes:
        """An event's body, as it was before it was sealed."""
        ...

    def seal_digest(self, version: int, digest: bytes) -> bytes:
        """The digest of a state, sealed: in the open it would confirm a guess of what the state was."""
        ...

    def open_digest(self, version: int, data: bytes, where: str) -> bytes:
        """The digest of a state, as it was before."""
        ...

    def name(self, digest: bytes) -> bytes:
        """The name under which a blob of that digest is stored: keyed, so that nobody can look whether a text is there."""
        ...


Unlock = Callable[[bytes, bytes], Lock]  # key id, run key -> the lock; raises NoKey, Shredded


class OpenedRoot(bytes):
    """A snapshot's root that was encrypted and has been opened; `lock` names its blobs."""

    lock: Lock

    @classmethod
    def by(cls, root: bytes, lock: Lock) -> OpenedRoot:
        """The root with the lock that opened it."""
        opened = cls(root)
        opened.lock = lock
        return opened


def through(lock: Lock | None, fetch: Fetch) -> Fetch:
    """Fetch that is asked by digest where the log knows the blobs of a lock by other names."""
    if lock is None:
        return fetch

    def fetched(names: object) -> dict[bytes, bytes]:
        stored = {lock.name(name): name for name in names}  # type: ignore[attr-defined]
        return {stored[name]: data for name, data in fetch(stored).items()}

    return fetched


def is_locked_message(data: bytes) -> bool:
    """Whether the bytes of a message are encrypted; a message in the open is a map."""
    return data.startswith(_COSE)


def key_id_of(row: bytes) -> bytes:
    """The id of the key that a sealed row names (a blob or a root without its first byte, or a message)."""
    return row[_KID_FROM : _KID_FROM + KEY_ID_SIZE]
