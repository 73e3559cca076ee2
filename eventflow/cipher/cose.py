"""Bytes sealed with AES-256-GCM, in the container of COSE_Encrypt0 (RFC 9052), and how nonces are found.

Under GCM one nonce used twice with different plaintexts gives both away, and lets others forge. Nonces that count, or come
from run and version alone, do repeat here: an append that was refused is sealed again at the same version with other
content, a rewound or forked history passes the same numbers, a copied machine wakes up with the same random numbers. So a
nonce is made from what is sealed: a keyed hash (HMAC-SHA-256, with a key of its own) over the associated data *and* the
plaintext. It repeats only where both are the same, which gives the same bytes and betrays nothing but that. What is left
is chance: of an event 48 bits of that hash are kept, beside 48 bits of its version, so that only the few events ever
sealed for one version of one run could meet (1 in 10^14 a pair); where nothing counts, as with messages, 96 bits are kept
over a hash that also covers 16 random bytes. Each run has keys of its own (HKDF, RFC 5869), each subject one for blobs.

Bodies of events are written without what is the same in each of them, as RFC 8613 (section 6) does for small messages: the
partial nonce, then ciphertext and tag; all else is written in full.

Nothing here knows what is sealed, or where keys come from.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from eventflow.errors import Corrupt

KEY_SIZE = 32  # bytes: AES-256
NONCE_SIZE, TAG_SIZE = 12, 16  # bytes, of AES-GCM as RFC 9053 has it (algorithm A256GCM, number 3)
PARTIAL = 6  # bytes of the nonce that are written, where the other six are known from elsewhere ("Partial IV")
_PROTECTED = b"\x43\xa1\x01\x03"  # the protected header {1: 3} as bytes: algorithm A256GCM
_PARTIAL = b"\x83" + _PROTECTED + b"\xa1\x06\x46"  # an array of three, then {6: 6 bytes}
_PARTIAL_KEYED = b"\x83" + _PROTECTED + b"\xa2\x04\x4a"  # the same with {4: key id of 10 bytes, …}
_PARTIAL_MORE = b"\x06\x46"  # …, 6: 6 bytes}
_FULL_MORE = b"\x05\x4c"  # …, 5: 12 bytes}
_STRUCTURE = b"\x83\x68Encrypt0" + _PROTECTED  # RFC 9052, section 5.3: what the tag covers beside the plaintext
_HEADS = {0x58: 2, 0x59: 3, 0x5A: 5}  # first byte of a byte string in CBOR -> bytes of its head; below, one byte


class Aead(Protocol):
    """What of a cipher is used here."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Ciphertext and tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """The plaintext. Raises InvalidTag."""
        ...


def aes(key: bytes) -> Aead:
    """AES-256-GCM with a key of 32 bytes."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 20 ms, and most stores are not encrypted

    return AESGCM(key)


def derived(key: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose, from a key that is random itself: HKDF-Expand with SHA-256 (RFC 5869, 2.3)."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand  # noqa: PLC0415

    return HKDFExpand(SHA256(), KEY_SIZE, b"eventflow/1 " + purpose).derive(key)


def bound(associated: bytes) -> bytes:
    """The associated data of a COSE_Encrypt0 (its Enc_structure) for what it is bound to outside."""
    return _STRUCTURE + _head(len(associated)) + associated


def _head(size: int) -> bytes:
    """The head of a byte string in canonical CBOR."""
    if size < 24:
        return bytes((0x40 | size,))
    if size < 0x100:
        return bytes((0x58, size))
    return b"\x59" + size.to_bytes(2, "big") if size < 0x10000 else b"\x5a" + size.to_bytes(4, "big")


class Sealer:
    """A key for sealing, with the key that finds nonces."""

    __slots__ = ("_aead", "_nonce_key")

    def __init__(self, key: bytes) -> None:
        self._aead = aes(derived(key, b"seal"))
        self._nonce_key = derived(key, b"nonce")

    def small(self, data: bytes, about: bytes, known: bytes) -> bytes:
        """The same as `sealed` without what is the same in all: partial nonce, ciphertext, tag."""
        part = hmac.digest(self._nonce_key, about + data, "sha256")[:PARTIAL]
        return part + self._aead.encrypt(known + part, data, about)

    def opened_small(self, data: bytes, about: bytes, known: bytes, where: str) -> bytes:
        """What was sealed so. Raises Corrupt."""
        if len(data) < PARTIAL + TAG_SIZE:
            raise Corrupt(where, "is not sealed in the way that eventflow seals")
        return self._decrypted(known + data[:PARTIAL], data[PARTIAL:], about, where)

    def sealed(self, data: bytes, about: bytes, known: bytes, *, key_id: bytes = b"") -> bytes:
        """A COSE_Encrypt0 of data; `about` is what it is bound to (see `bound`), `known` six bytes of the nonce."""
        part = hmac.digest(self._nonce_key, about + data, "sha256")[:PARTIAL]
        text = self._aead.encrypt(known + part, data, about)
        if key_id:
            return b"".join((_PARTIAL_KEYED, key_id, _PARTIAL_MORE, part, _head(len(text)), text))
        return b"".join((_PARTIAL, part, _head(len(text)), text))

    def opened(self, data: bytes, about: bytes, known: bytes, where: str, *, key_id: bytes = b"") -> bytes:
        """What was sealed. Raises Corrupt if it is not that, bound to that."""
        front = _PARTIAL_KEYED + key_id + _PARTIAL_MORE if key_id else _PARTIAL
        start = len(front) + PARTIAL
        text = _text(data, front, start, where)
        return self._decrypted(known + data[len(front) : start], text, about, where)

    def sealed_once(self, data: bytes, about: bytes, salt: bytes, key_id: bytes) -> bytes:
        """A COSE_Encrypt0 of data with all of the nonce written; `salt` are 16 random bytes."""
        nonce = hmac.digest(self._nonce_key, salt + about + data, "sha256")[:NONCE_SIZE]
        text = self._aead.encrypt(nonce, data, about)
        return b"".join((_PARTIAL_KEYED, key_id, _FULL_MORE, nonce, _head(len(text)), text))

    def opened_once(self, data: bytes, about: bytes, where: str, key_id: bytes) -> bytes:
        """What was sealed so. Raises Corrupt."""
        front = _PARTIAL_KEYED + key_id + _FULL_MORE
        start = len(front) + NONCE_SIZE
        text = _text(data, front, start, where)
        return self._decrypted(data[len(front) : start], text, about, where)

    def _decrypted(self, nonce: bytes, text: bytes, about: bytes, where: str) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - imported already, in this process, by `aes`

        try:
            return self._aead.decrypt(nonce, text, about)
        except InvalidTag:
            raise Corrupt(where, "does not open with its key: it was changed, or it belongs to another place") from None


def _text(data: bytes, front: bytes, start: int, where: str) -> bytes:
    """The ciphertext of a container that begins as it must. Raises Corrupt."""
    size = _HEADS.get(data[start], 1) if start < len(data) else 1
    text = data[start + size :]
    if not data.startswith(front) or len(text) < TAG_SIZE or data[start : start + size] != _head(len(text)):
        raise Corrupt(where, "is not sealed in the way that eventflow seals")
    return text
