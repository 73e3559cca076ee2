"""Proofs that leave the store: this event is in what was sealed, this seal continues that one.

A proof is made from a store and a seal that the store fits; it is checked with a public key and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventflow.address import Address
from eventflow.cipher.signing import PublicKey, check_signed
from eventflow.codec import TOMBSTONE, decode
from eventflow.codec.events import SHAPES
from eventflow.errors import Corrupt, ProofFailed, VersionNotFound
from eventflow.log import Head, Log
from eventflow.proof import digest
from eventflow.proof.files import Consistency, Inclusion
from eventflow.proof.merkle import Span, Survey, consistency_spans, inclusion_spans
from eventflow.proof.note import Note, TreeHead, parse_head
from eventflow.recovery import line
from eventflow.sealing import Seal, differences, surveyed

_ARRAY = [int, int, bytes, int, int, int, int, int, dict, bytes, bytes]  # docs/format.md, "Events"
_NAMES = {shape.code: kind.__name__ for kind, shape in SHAPES.items()}


def position_of(log: Log, place: Address) -> int:
    """The position in the store of the event at an address, which may be its parent's. Raises VersionNotFound."""
    stored = log.read(line(log, place.head.run_key, place.version)[-1].run_key, place.version, place.version)
    if not stored:
        raise VersionNotFound(place.head.run_id, place.version, place.head.version)
    return stored[0].position


def position_of_head(log: Log, head: Head) -> int:
    """The position of a run's last event."""
    return position_of(log, Address(head, head.version))


def prove_event(log: Log, position: int, seal: Seal) -> Inclusion:
    """Proof that the event at a position is among those that a seal is of. Raises ProofFailed."""
    size, index = seal.head.size, position - 1
    if not 0 <= index < size:
        raise ProofFailed(seal.path.name, f"seals {size} events, the one at position {position} is not among them")
    spans = inclusion_spans(index, size)
    found = _fitting(log, (seal,), spans)
    data = log.feed(index, 1)[0].data
    if data[:1] == TOMBSTONE:
        raise ProofFailed("the event", "was deleted, only its digest is left")
    return Inclusion(data, index, tuple(found.parts[span] for span in spans), seal.note)


def prove_continued(log: Log, old: Seal, new: Seal) -> Consistency:
    """Proof that the events of an older seal are the first of those of a newer one. Raises ProofFailed."""
    if old.head.size > new.head.size:
        raise ProofFailed(
            new.path.name, f"is of {new.head.size} events, fewer than the {old.head.size} of the older seal"
        )
    spans = consistency_spans(old.head.size, new.head.size)
    found = _fitting(log, (old, new), spans)
    return Consistency(tuple(found.parts[span] for span in spans), old.note, new.note)


def _fitting(log: Log, seals: tuple[Seal, ...], spans: list[Span]) -> Survey:
    """The parts of a store's tree, if it fits the seals. Raises ProofFailed."""
    sizes = [one.head.size for one in seals]
    found = surveyed(log, max(sizes), sizes=sizes, spans=spans)
    for _, problem in differences(log.store_id, found, seals):
        raise ProofFailed("the store", f"proves nothing: {problem}")
    return found


# --- checking ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof that holds says: which seals, and for an event its place and what stands outside of its body.

    `event` has `position`, `digest`, `run_key`, `version`, `time` (ns since the epoch, UTC), `type` and `header`.
    """

    heads: tuple[TreeHead, ...]
    event: dict[str, object] | None = None


def check(proof: Inclusion | Consistency, key: PublicKey, seal: Note | None = None) -> Proven:
    """What a proof proves to who trusts a key; with a seal, the proof must be of that very head. Raises ProofFailed."""
    notes = (proof.note,) if isinstance(proof, Inclusion) else (proof.old, proof.new)
    for note in notes if seal is None else (*notes, seal):
        check_signed(note, key)
    heads = tuple(parse_head(note.text) for note in notes)
    if seal is not None and parse_head(seal.text) not in heads:
        raise ProofFailed("the proof", "is of another seal than the one that was given")
    if not proof.holds:
        raise ProofFailed("the proof", "does not lead to what is sealed")
    return Proven(heads, _told(proof) if isinstance(proof, Inclusion) else None)


def _told(proof: Inclusion) -> dict[str, object]:
    """What an event says of itself outside of its body."""
    array = decode(proof.event, "the event of the proof", strict=True)
    if not isinstance(array, list) or list(map(type, array)) != _ARRAY:
        raise Corrupt("the event of the proof", "is none")
    _, _, run_key, _, version, _, time, code, header, *_ = array
    kind = _NAMES.get(code, f"type {code}")
    return {
        "position": proof.index + 1, "digest": digest(proof.event), "run_key": run_key, "version": version, "time": time,
        "type": kind, "header": header,
    }  # fmt: skip
