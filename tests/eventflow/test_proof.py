"""Digests: known values, and every part of a genesis counts."""

from __future__ import annotations

import hashlib

import pytest

from eventflow.proof import DIGEST_SIZE, digest, genesis

STORE, DEFINITION = bytes(range(16)), bytes(range(32))


def test_a_digest_is_sha_256() -> None:
    """The value for `abc` stands in FIPS 180-4's examples."""
    assert digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(digest(b"")) == DIGEST_SIZE


def test_a_genesis_is_made_of_its_parts_in_their_order() -> None:
    """Anybody can compute it from the documented layout."""
    parts = b"eventflow/1 genesis\x00" + STORE + (3).to_bytes(8, "big") + DEFINITION + "läuft".encode()
    assert genesis(STORE, "läuft", 3, DEFINITION) == hashlib.sha256(parts).digest()


@pytest.mark.parametrize(
    "other",
    [(bytes(16), "run", 1, DEFINITION), (STORE, "run2", 1, DEFINITION), (STORE, "run", 2, DEFINITION), (STORE, "run", 1, bytes(32))],
)  # fmt: skip
def test_another_store_run_incarnation_or_definition_has_another_genesis(other: tuple[bytes, str, int, bytes]) -> None:
    """A history can't be moved to another place unseen."""
    assert genesis(*other) != genesis(STORE, "run", 1, DEFINITION)
