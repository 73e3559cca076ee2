"""Digests: what ties an event to the one before, a run to its store, a snapshot to its bytes.

All are SHA-256 (FIPS 180-4) over bytes as they are stored, so that a chain can be checked without reading what is in
it. Keys and signatures are not here.
"""

from __future__ import annotations

import hashlib

DIGEST_SIZE = 32
_GENESIS = b"eventflow/1 genesis\x00"


def digest(data: bytes) -> bytes:
    """SHA-256 of stored bytes: 32 bytes."""
    return hashlib.sha256(data).digest()


def genesis(store_id: bytes, run_id: str, incarnation: int, definition_digest: bytes) -> bytes:
    """What version 1 of a run chains to: it binds the history to its store, its run and its definition.

    SHA-256 over a fixed label, the 16 bytes of the store's id, the incarnation as 8 bytes big-endian, the 32 bytes of
    the definition's digest (zeros for the store's own stream) and the run's id in UTF-8, which is last as it varies.
    """
    parts = _GENESIS + store_id + incarnation.to_bytes(8, "big") + definition_digest + run_id.encode()
    return hashlib.sha256(parts).digest()
