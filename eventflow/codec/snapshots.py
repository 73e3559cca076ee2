"""States as bytes: a root, long lists cut into pieces, and long values as blobs.

The bytes are a function of the state alone, however it came about, so that a fold and a snapshot can be compared by
digest. A list that is reached through dicts only is cut into closed pieces of about 32 KB, each written once under its
digest; what is left at its end stays in the root. The root is written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eventflow.codec.blobs import Blob, Fetch, Ref, expand, fill, frozen, lift, pack_blob, squeeze
from eventflow.codec.cbor import decode, encode
from eventflow.errors import Corrupt, WrittenByNewer
from eventflow.event import Failure
from eventflow.plain import ROPE_FROM, FrozenDict, FrozenList, Rope, raw_items
from eventflow.proof import digest
from eventflow.state import STATUSES, WAITS, Identity, Parent, State

SNAPSHOT_FORMAT = 1
PIECE = 32 << 10  # bytes; larger pieces leave longer tails in each root, smaller ones waste half a page each
_REF_SIZE = 40  # bytes a reference adds to a piece, about; part of the format, since it decides where pieces end
_RAW, _ZSTD = b"\x00", b"\x01"  # first byte of a stored root


@dataclass(frozen=True, slots=True)
class PackedState:
    """A state as bytes: the root as stored, its digest (over the root's own bytes), the blobs, the size of all.

    `known` names pieces that an earlier snapshot wrote; a log that lacks one must refuse the snapshot.
    """

    version: int
    root: bytes
    digest: bytes
    blobs: tuple[Blob, ...]
    size: int
    known: tuple[bytes, ...] = ()


def state_digest(state: State) -> bytes:
    """The digest a snapshot of this state has."""
    return pack_state(state, compress=False).digest


def pack_state(state: State, *, compress: bool = True, anew: bool = False) -> PackedState:
    """A state as the bytes of a snapshot; `anew` packs every piece again, even those an earlier snapshot wrote."""
    blobs: list[Blob] = []
    refs: list[Ref] = []
    cut = _Cut(blobs, refs, [], compress=compress, anew=anew)
    data = cut.of_dict(state.data, ())
    rest = [lift(value, refs, blobs, (index + 1,)) for index, value in enumerate(_standing(state))]
    root = encode([SNAPSHOT_FORMAT, [data, *rest], refs, cut.pieces])
    stored = _ZSTD + squeeze(root) if compress else _RAW + root
    if len(stored) > len(root):
        stored = _RAW + root
    size = len(root) + cut.size + sum(blob.size for blob in blobs)
    return PackedState(state.version, stored, digest(root), tuple(blobs), size, tuple(cut.known))


class _Cut:
    """The walk over a state's dicts that cuts long lists into pieces."""

    def __init__(self, blobs: list[Blob], refs: list[Ref], pieces: list[Any], *, compress: bool, anew: bool) -> None:
        self.blobs, self.refs, self.pieces, self.compress, self.anew = blobs, refs, pieces, compress, anew
        self.size = 0  # bytes of pieces known before, which are not among the blobs
        self.known: list[bytes] = []

    def of_dict(self, value: FrozenDict, path: tuple[str | int, ...]) -> dict[str, Any]:
        return {key: self._of_value(item, (*path, key)) for key, item in raw_items(value)}

    def _of_value(self, value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, FrozenDict):
            return self.of_dict(value, path)
        if isinstance(value, Rope | FrozenList):
            return self._of_list(value, path)
        return lift(value, self.refs, self.blobs, (0, *path))

    def _of_list(self, value: Rope | FrozenList, path: tuple[str | int, ...]) -> Any:
        known = value.pieces if isinstance(value, Rope) and not self.anew else []
        closed = [piece for piece in known if piece[0] <= len(value)]
        self.known.extend(piece[1] for piece in closed)
        self.size += sum(piece[2] for piece in closed)
        start = closed[-1][0] if closed else 0
        tail, tail_refs, tail_blobs, new = self._close_pieces(value, start)
        if isinstance(value, Rope) and new:
            value.pieces[len(closed) :] = new
        names = [piece[1] for piece in closed] + [piece[1] for piece in new]
        if names:
            self.pieces.append([list(path), names])
        self.refs.extend([[0, *path, *ref[0]], *ref[1:]] for ref in tail_refs)
        self.blobs.extend(tail_blobs)
        return tail

    def _close_pieces(
        self, value: Rope | FrozenList, start: int
    ) -> tuple[list[Any], list[Ref], list[Blob], list[tuple[int, bytes, int]]]:
        """The open tail with its references and blobs, and the pieces closed on the way as (end, digest, size)."""
        new: list[tuple[int, bytes, int]] = []
        items: list[Any] = []
        refs: list[Ref] = []
        blobs: list[Blob] = []
        filled = 0
        rest = value.slice(start, len(value)) if isinstance(value, Rope) else value
        for index, item in enumerate(rest, start + 1):
            before = len(refs)
            plain = lift(item, refs, blobs, (len(items),))
            items.append(plain)
            filled += len(encode(plain)) + _REF_SIZE * (len(refs) - before)
            if filled >= PIECE:
                new.append(self._closed(index, items, refs, blobs))
                items, refs, blobs, filled = [], [], [], 0
        return items, refs, blobs, new

    def _closed(self, end: int, items: list[Any], refs: list[Ref], blobs: list[Blob]) -> tuple[int, bytes, int]:
        data = encode([items, refs])
        piece = Blob(digest(data), pack_blob(data, compress=self.compress), len(data))
        size = piece.size + sum(blob.size for blob in blobs)
        self.blobs.extend(blobs)
        self.blobs.append(piece)
        return end, piece.digest, size


def _standing(state: State) -> list[Any]:
    """Where the run stands, in the format's order; new fields go to the end."""
    run, parent = state.run, state.run.parent
    return [
        run.run_id, run.run_key, run.incarnation, run.store_id, run.workflow, run.definition_digest, run.definition,
        run.input_digest, run.tags, run.subject, run.started,
        None if parent is None else [parent.run_id, parent.run_key, parent.incarnation, parent.at],
        state.version, state.digest, state.time, state.epoch, STATUSES.index(state.status), state.node, state.visit,
        WAITS.index(state.waiting_for), state.line, state.attempt, state.retry_at,
        None if state.error is None else
        [state.error.type, state.error.message, state.error.where, state.error.retryable],
        state.effects, state.signals, state.usage,
    ]  # fmt: skip


# --- reading -------------------------------------------------------------------------------------------------------


def root_digest(stored: bytes, where: str) -> bytes:
    """The digest of a stored root's own bytes. Raises Corrupt."""
    return digest(_root(stored, where))


def _root(stored: bytes, where: str) -> bytes:
    if stored[:1] == _ZSTD:
        return expand(stored[1:], where)
    if stored[:1] == _RAW:
        return stored[1:]
    raise Corrupt(where, "is stored in a way that this eventflow does not know")


def piece_names(stored: bytes, fetch: Fetch) -> set[bytes]:
    """The digests of all blobs a stored root needs, pieces and what they refer to included."""
    value = _checked(_root(stored, "a snapshot"), "a snapshot")
    pieces = {name for _, names in value[3] for name in names}
    names = {ref[1] for ref in value[2]} | pieces
    for data in fetch(pieces).values():
        names |= {ref[1] for ref in decode(data, "a piece of a snapshot")[1]}
    return names


def _checked(root: bytes, where: str) -> list[Any]:
    value = decode(root, where)
    if not isinstance(value, list) or not value:
        raise Corrupt(where, "is not a snapshot")
    if value[0] != SNAPSHOT_FORMAT:
        raise WrittenByNewer(where, f"snapshot format {value[0]!r}")
    if len(value) != 4 or not all(isinstance(part, list) for part in value[1:]) or len(value[1]) < 28:
        raise Corrupt(where, "does not have the fields of a snapshot")
    return value


def unpack_state(stored: bytes, fetch: Fetch, where: str) -> tuple[State, int]:
    """A state from its stored root, and its size in bytes as `pack_state` counts it. Raises Corrupt, WrittenByNewer.

    The caller has compared `root_digest` with what the chain vouches for.
    """
    root = _root(stored, where)
    _, fields, refs, cuts = _checked(root, where)
    pieces = fetch({name for _, names in cuts for name in names}) if cuts else {}
    opened = {name: _opened(data, where) for name, data in pieces.items()}
    wanted = {ref[1] for ref in refs} | {ref[1] for _, more in opened.values() for ref in more}
    blobs = fetch(wanted) if wanted else {}
    fill(fields, refs, blobs, where)
    data = frozen(fields[0], where)
    size = len(root) + sum(map(len, pieces.values())) + sum(map(len, blobs.values()))
    for path, names in cuts:
        data = _joined(data, path, [(name, opened[name], len(pieces[name])) for name in names], blobs, where)
    return _state(data, fields[1:], where), size


def _opened(data: bytes, where: str) -> tuple[list[Any], list[Ref]]:
    value = decode(data, where)
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], list) and isinstance(value[1], list):
        return value[0], value[1]
    raise Corrupt(where, "has a piece that can't be read")


def _joined(
    data: FrozenDict, path: list[str], pieces: list[tuple[bytes, tuple[list[Any], list[Ref]], int]],
    blobs: Mapping[bytes, bytes], where: str,
) -> FrozenDict:  # fmt: skip
    """The data with the list at a path put together from its pieces and its tail."""
    if len(path) > 1:
        inner = _joined(dict.__getitem__(data, path[0]), path[1:], pieces, blobs, where)
        return FrozenDict({**dict(raw_items(data)), path[0]: inner})
    items: list[Any] = []
    known: list[tuple[int, bytes, int]] = []
    for name, (part, refs), length in pieces:
        part = list(part)  # noqa: PLW2901 - one piece may stand in two lists
        fill(part, refs, blobs, where)
        items.extend(frozen(part, where))
        known.append((len(items), name, length + sum(len(blobs[ref[1]]) for ref in refs)))
    items.extend(dict.__getitem__(data, path[0]))
    whole: Any = FrozenList(items)
    if len(items) >= ROPE_FROM:
        whole = Rope(items, len(items), known)
    return FrozenDict({**dict(raw_items(data)), path[0]: whole})


def _state(data: FrozenDict, values: list[Any], where: str) -> State:
    v = [frozen(value, where) for value in values]
    try:
        parent = Parent(*v[11]) if v[11] is not None else None
        identity = Identity(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], parent)
        error = Failure(*v[23]) if v[23] is not None else None
        return State(
            identity, v[12], v[13], v[14], v[15], STATUSES[v[16]], v[17], v[18], data, WAITS[v[19]], v[20], v[21], v[22],
            error, v[24], v[25], v[26],
        )  # fmt: skip
    except (TypeError, IndexError) as problem:
        raise Corrupt(where, f"does not have the fields of a state ({problem})") from None
