"""Signed notes, and the head of a tree as the text of one: c2sp.org/signed-note, c2sp.org/tlog-checkpoint.

A note is a text, an empty line, and lines of signatures. Whether a signature holds is decided elsewhere; this file only
says what is written where.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from eventflow.errors import ProofFailed
from eventflow.proof.digests import DIGEST_SIZE

MAX_NOTE = 1 << 20  # bytes; sixteen of the largest signatures anybody has defined take a tenth of it
MAX_SIGNATURES = 100  # of a note: each of a known key is verified, so somebody could have us verify for hours
ED25519 = b"\x01"  # the type of signature, as the specification numbers them
_MARK = "\u2014 "  # what a line of a signature begins with
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_KEY_ID_SIZE = 4


@dataclass(frozen=True, slots=True)
class Signature:
    """One line of a note: who signed, by which key, and the signature's bytes."""

    name: str
    key_id: bytes
    data: bytes

    def __str__(self) -> str:
        return f"{_MARK}{self.name} {base64.b64encode(self.key_id + self.data).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a newline, and the signatures under it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a seal says: whose tree, of how many leaves, and its root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def key_id(name: str, public: bytes) -> bytes:
    """The four bytes by which an Ed25519 key of a name and 32 bytes is known in notes."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:_KEY_ID_SIZE]


def is_key_name(name: str) -> bool:
    """Whether a text may name a key: not empty, no spaces, no plus, nothing that controls."""
    return bool(name) and name.isprintable() and "+" not in name and not any(map(str.isspace, name))


def parse_note(text: str) -> Note:
    """A note from its text. Raises ProofFailed."""
    if len(text) > MAX_NOTE:
        raise ProofFailed("the note", "is longer than any that is written")
    if any(one < " " and one != "\n" for one in text):
        raise ProofFailed("the note", "has a control character in it")
    body, found, rest = text.rpartition("\n\n")
    lines = rest.split("\n")
    if not found or len(lines) < 2 or lines.pop():
        raise ProofFailed("the note", "has no signature under it, or its end is missing")
    if len(lines) > MAX_SIGNATURES:
        raise ProofFailed("the note", f"has more than {MAX_SIGNATURES} signatures")
    return Note(f"{body}\n", tuple(map(_signature, lines)))


def _signature(line: str) -> Signature:
    name, _, coded = line.removeprefix(_MARK).partition(" ")
    data = from_base64(coded)
    if not line.startswith(_MARK) or not is_key_name(name) or data is None or len(data) <= _KEY_ID_SIZE:
        raise ProofFailed("the note", "has a line among its signatures that is none")
    return Signature(name, data[:_KEY_ID_SIZE], data[_KEY_ID_SIZE:])


def parse_head(text: str) -> TreeHead:
    """The head that the text of a note tells; lines that follow are no part of it. Raises ProofFailed."""
    lines = text.split("\n")
    root = from_base64(lines[2]) if len(lines) > 3 else None
    if not lines[0] or root is None or len(root) != DIGEST_SIZE or not _SIZE.fullmatch(lines[1]) or "" in lines[:-1]:
        raise ProofFailed("the seal", "does not tell the head of a tree in three lines")
    return TreeHead(lines[0], int(lines[1]), root)


def from_base64(text: str) -> bytes | None:
    """Bytes from base64 in the one form in which it is written (RFC 4648, section 4), None for any other."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return data if base64.b64encode(data).decode() == text else None
