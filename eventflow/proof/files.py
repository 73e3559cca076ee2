"""Proofs as files that are checked without the store: an event is in it, or one seal continues another.

A proof of inclusion is laid out by c2sp.org/tlog-proof; its extra data are the event's bytes. A proof of consistency has
the same kind of lines, and both seals. What a proof says is believed only once its signatures hold, which is not looked
at here.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from eventflow.errors import ProofFailed
from eventflow.proof.digests import DIGEST_SIZE, digest
from eventflow.proof.merkle import includes, is_consistent
from eventflow.proof.note import Note, TreeHead, from_base64, parse_head, parse_note

MAX_PROOF = 32 << 20  # bytes; an event of the largest size in base64, and room
MAX_PATH = 64  # digests: a tree of more levels has more leaves than positions have numbers
INCLUSION = "c2sp.org/tlog-proof@v1"
CONSISTENCY = "eventflow/consistency-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """An event's bytes, its number in the tree (from 0), the path to the root, and the seal of that root."""

    event: bytes
    index: int
    path: tuple[bytes, ...]
    note: Note

    @property
    def head(self) -> TreeHead:
        """What the seal says. Raises ProofFailed."""
        return parse_head(self.note.text)

    @property
    def holds(self) -> bool:
        """Whether the event is where it is said to be, under the seal's root."""
        head = self.head
        return includes(head.root, head.size, self.index, digest(self.event), self.path)

    def __str__(self) -> str:
        extra = base64.b64encode(self.event).decode()
        return f"{INCLUSION}\nextra {extra}\nindex {self.index}\n{_lines(self.path)}\n{self.note}"


@dataclass(frozen=True, slots=True)
class Consistency:
    """Two seals of one store, and the path that proves that the newer one's events begin with the older one's."""

    path: tuple[bytes, ...]
    old: Note
    new: Note

    @property
    def heads(self) -> tuple[TreeHead, TreeHead]:
        """What the two seals say. Raises ProofFailed."""
        return parse_head(self.old.text), parse_head(self.new.text)

    @property
    def holds(self) -> bool:
        """Whether the newer seal continues the older one."""
        old, new = self.heads
        return old.origin == new.origin and is_consistent((old.size, old.root), (new.size, new.root), self.path)

    def __str__(self) -> str:
        return f"{CONSISTENCY}\n{_lines(self.path)}\n{self.old}\n{self.new}"


def parse_proof(text: str) -> Inclusion | Consistency:
    """A proof from its text. Raises ProofFailed."""
    if len(text) > MAX_PROOF:
        raise ProofFailed("the proof", "is longer than any that is written")
    first, _, rest = text.partition("\n")
    if first == INCLUSION:
        return _inclusion(rest)
    if first == CONSISTENCY:
        return _consistency(rest)
    raise ProofFailed("the proof", "is not of a kind that is known here")


def _inclusion(text: str) -> Inclusion:
    proof, _, note = text.partition("\n\n")
    lines = proof.split("\n")
    event = from_base64(lines[0].removeprefix("extra ")) if lines[0].startswith("extra ") else None
    index = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
    if event is None or index is None:
        raise ProofFailed("the proof", "does not say which event it is about")
    return Inclusion(event, int(index[1]), _path(lines[2:]), parse_note(note))


def _consistency(text: str) -> Consistency:
    proof, _, notes = text.partition("\n\n") if not text.startswith("\n") else ("", "", text[1:])
    parts = notes.split("\n\n")  # the text of a seal has no empty line in it
    if len(parts) != 4:
        raise ProofFailed("the proof", "does not hold two seals")
    old, new = f"{parts[0]}\n\n{parts[1]}\n", f"{parts[2]}\n\n{parts[3]}"
    return Consistency(_path(proof.split("\n") if proof else []), parse_note(old), parse_note(new))


def _lines(path: tuple[bytes, ...]) -> str:
    return "".join(f"{base64.b64encode(one).decode()}\n" for one in path)


def _path(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > MAX_PATH:
        raise ProofFailed("the proof", "has a longer path than any tree")
    found = [from_base64(line) for line in lines]
    if any(one is None or len(one) != DIGEST_SIZE for one in found):
        raise ProofFailed("the proof", "has a line in its path that is no digest")
    return tuple(one for one in found if one is not None)
