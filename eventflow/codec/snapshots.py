"""States as bytes: a root, long lists cut into pieces, and long values as blobs.

The bytes are a function of the state alone, however it came about, so that a fold and a snapshot can be compared by
digest. A list that is reached through dicts only is cut into closed pieces of 4 KB
and later of up to 64 KB, each written once under its digest; what is left at its end stays in the root. The root is
written last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from eventflow.codec.blobs import (
    MAX_EXPANDED,
    Blob,
    Fetch,
    Ref,
    checked_refs,
    expand,
    fill,
    frozen,
    lift,
    pack_blob,
    squeeze,
)
from eventflow.codec.cbor import decode, encode
from eventflow.codec.locks import LOCKED_ROOT, OpenedRoot, through
from eventflow.codec.reading import failure_from_plain
from eventflow.errors import Corrupt, NoKey, WrittenByNewer
from eventflow.plain import EMPTY, ROPE_FROM, FrozenDict, FrozenList, Rope, raw, raw_items
from eventflow.proof import DIGEST_SIZE, digest
from eventflow.state import STATUSES, WAITS, Caller, Identity, Parent, State
from eventflow.state.shape import (
    are_answers,
    are_branches,
    are_numbers,
    is_call,
    is_message,
    is_policy,
    is_undo,
    is_undoing,
    is_wait,
)

SNAPSHOT_FORMAT = 1
SMALLEST_PIECE = 4_000  # bytes; with its row's head this fills one page of the store
LARGEST_PIECE = 64_000  # bytes; a root of a few KB then names the pieces of tens of MB
EVEN_PIECES = 8  # pieces of one size before the size doubles: a list's open tail stays about a tenth of the list
_REF_SIZE = 40  # bytes a reference adds to a piece, about; part of the format, since it decides where pieces end
_RAW, _ZSTD = b"\x00", b"\x01"  # first byte of a stored root
_AROUND = 5  # levels that stand around what a branch waits with, which may be as deep as a state; around others fewer


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
    """The digest a snapshot of this state has; nothing is taken for written afterwards."""
    return digest(_walked(state, _Cut(compress=False, remember=False)))


def pack_state(state: State, *, compress: bool = True, anew: bool = False) -> PackedState:
    """A state as the bytes of a snapshot; `anew` packs every piece again, even those an earlier snapshot wrote."""
    cut = _Cut(compress=compress, anew=anew)
    root = _walked(state, cut)
    stored = _ZSTD + squeeze(root) if compress and len(root) <= MAX_EXPANDED else _RAW + root
    if len(stored) > len(root):
        stored = _RAW + root
    size = len(root) + cut.size + sum(blob.size for blob in cut.blobs)
    return PackedState(state.version, stored, digest(root), tuple(cut.blobs), size, tuple(cut.known))


def _walked(state: State, cut: _Cut) -> bytes:
    """The root's bytes; what else belongs to the snapshot is with the cut."""
    data = cut.of_dict(state.data, ())
    rest = [lift(value, cut.refs, cut.blobs, (index + 1,)) for index, value in enumerate(_standing(state))]
    return encode([SNAPSHOT_FORMAT, [data, *rest], _sorted(cut.refs), _sorted(cut.pieces)])


def _sorted(entries: list[Any]) -> list[Any]:
    """Entries by the bytes of their paths, so that their order does not depend on that of a dict's keys."""
    return sorted(entries, key=lambda entry: encode(entry[0])) if len(entries) > 1 else entries


def piece_size(number: int) -> int:
    """Bytes from which piece `number` of a list (from 0) is closed: small ones first, then twice as large, and so on."""
    return min(SMALLEST_PIECE << min(number // EVEN_PIECES, 16), LARGEST_PIECE)


class _Cut:
    """The walk over a state's dicts that cuts long lists into pieces."""

    def __init__(self, *, compress: bool, anew: bool = False, remember: bool = True) -> None:
        self.compress, self.anew, self.remember = compress, anew, remember
        self.blobs: list[Blob] = []
        self.refs: list[Ref] = []
        self.pieces: list[Any] = []  # [path, names of the pieces]
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
        tail, tail_refs, tail_blobs, new = self._close_pieces(value, start, len(closed))
        if isinstance(value, Rope) and new and self.remember:
            value.pieces[len(closed) :] = new
        names = [piece[1] for piece in closed] + [piece[1] for piece in new]
        if names:
            self.pieces.append([list(path), names])
        self.refs.extend([[0, *path, *ref[0]], *ref[1:]] for ref in tail_refs)
        self.blobs.extend(tail_blobs)
        return tail

    def _close_pieces(
        self, value: Rope | FrozenList, start: int, number: int
    ) -> tuple[list[Any], list[Ref], list[Blob], list[tuple[int, bytes, int]]]:
        """The open tail with its references and blobs, and the pieces closed on the way as (end, digest, size).

        `number` pieces are closed already and end at item `start`.
        """
        new: list[tuple[int, bytes, int]] = []
        items: list[Any] = []
        refs: list[Ref] = []
        blobs: list[Blob] = []
        filled, limit = 0, piece_size(number)
        rest = value.slice(start, len(value)) if isinstance(value, Rope) else value
        for index, item in enumerate(rest, start + 1):
            before = len(refs)
            plain = lift(item, refs, blobs, (len(items),))
            items.append(plain)
            filled += len(encode(plain)) + _REF_SIZE * (len(refs) - before)
            if filled >= limit:
                new.append(self._closed(index, items, refs, blobs))
                items, refs, blobs, filled = [], [], [], 0
                limit = piece_size(number + len(new))
        return items, refs, blobs, new

    def _closed(self, end: int, items: list[Any], refs: list[Ref], blobs: list[Blob]) -> tuple[int, bytes, int]:
        data = encode([items, _sorted(refs)])
        piece = Blob(digest(data), pack_blob(data, compress=self.compress), len(data))
        size = piece.size + sum(blob.size for blob in blobs)
        self.blobs.extend(blobs)
        self.blobs.append(piece)
        return end, piece.digest, size


def _standing(state: State) -> list[Any]:
    """Where the run stands, in the format's order; new fields go to the end, and are left out where they say nothing."""
    run, parent = state.run, state.run.parent
    standing = [
        run.run_id, run.run_key, run.incarnation, run.store_id, run.workflow, run.definition_digest, run.definition,
        run.input_digest, run.tags, run.subject, run.started,
        None if parent is None else [parent.run_id, parent.run_key, parent.incarnation, parent.at],
        state.version, state.digest, state.time, state.epoch, STATUSES.index(state.status), state.node, state.visit,
        WAITS.index(state.waiting_for), state.line, state.attempt, state.retry_at,
        None if state.error is None else state.error.plain(),
        state.effects, state.signals, state.usage, state.wait,
        None if run.caller is None else [run.caller.run_id, run.caller.run_key], run.deadline, run.budget, state.steps,
        state.branches, state.undo, state.undoing, state.reuse,
    ]  # fmt: skip
    return [*standing, run.policy] if run.policy else standing  # so that snapshots without one keep their digest


# --- reading -------------------------------------------------------------------------------------------------------


def root_digest(stored: bytes, where: str) -> bytes:
    """The digest of a stored root's own bytes. Raises Corrupt."""
    return digest(_root(stored, where))


def _root(stored: bytes, where: str) -> bytes:
    if stored[:1] == _ZSTD:
        return expand(stored[1:], where)
    if stored[:1] == _RAW:
        return stored[1:]
    if stored[:1] == LOCKED_ROOT:
        raise NoKey(where)
    raise Corrupt(where, "is stored in a way that this eventflow does not know")


def piece_names(stored: bytes, fetch: Fetch) -> set[bytes]:
    """The names of all blobs a stored root needs, pieces and what they refer to included. Raises NoKey."""
    lock = stored.lock if isinstance(stored, OpenedRoot) else None
    names = _piece_digests(stored, through(lock, fetch))
    return names if lock is None else set(map(lock.name, names))


def _piece_digests(stored: bytes, fetch: Fetch) -> set[bytes]:
    value = _checked(_root(stored, "a snapshot"), "a snapshot")
    pieces = {name for _, names in value[3] for name in names}
    names = {ref[1] for ref in value[2]} | pieces
    for data in fetch(pieces).values() if pieces else ():
        names |= {ref[1] for ref in _opened(data, "a piece of a snapshot")[1]}
    return names


def _checked(root: bytes, where: str) -> list[Any]:
    value = decode(root, where)
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise Corrupt(where, "is not a snapshot")
    if value[0] > SNAPSHOT_FORMAT:
        raise WrittenByNewer(where, f"snapshot format {value[0]!r}")
    if value[0] < SNAPSHOT_FORMAT or len(value) != 4 or not all(isinstance(part, list) for part in value[1:]):
        raise Corrupt(where, "does not have the parts of a snapshot")
    if len(value[1]) > 1 + len(_TYPES):
        raise WrittenByNewer(where, "a field of a snapshot")
    if len(value[1]) <= _ALWAYS or not all(map(_is_cut, value[3])):
        raise Corrupt(where, "does not have the fields of a snapshot")
    checked_refs(value[2], where)
    return value


def _is_cut(cut: Any) -> bool:
    if type(cut) is not list or len(cut) != 2 or not all(type(part) is list and part for part in cut):
        return False
    path, names = cut
    return all(type(key) is str for key in path) and all(
        type(name) is bytes and len(name) == DIGEST_SIZE for name in names
    )


def unpack_state(stored: bytes, fetch: Fetch, where: str) -> tuple[State, int]:
    """A state from its stored root, and its size in bytes as `pack_state` counts it. Raises Corrupt, WrittenByNewer.

    The caller has compared `root_digest` with what the chain vouches for.
    """
    root = _root(stored, where)
    fetch = through(stored.lock if isinstance(stored, OpenedRoot) else None, fetch)
    _, fields, refs, cuts = _checked(root, where)
    pieces = fetch({name for _, names in cuts for name in names}) if cuts else {}
    opened = {name: _opened(data, where) for name, data in pieces.items()}
    wanted = {ref[1] for ref in refs} | {ref[1] for _, more in opened.values() for ref in more}
    blobs = fetch(wanted) if wanted else {}
    fill(fields, refs, blobs, where)
    depths = {name: len(path) for path, names in sorted(cuts, key=lambda cut: len(cut[0])) for name in names}
    closed = {
        name: _piece(_Piece(name, items, len(pieces[name]), depths[name]), more, blobs, where)
        for name, (items, more) in opened.items()
    }
    data = frozen(fields[0], where)
    if type(data) is not FrozenDict:
        raise Corrupt(where, "holds data that is not a dict")
    for path, names in cuts:
        data = _joined(data, path, [closed[name] for name in names], where)
    size = len(root) + sum(len(blobs[ref[1]]) for ref in refs)
    return _state(data, fields[1:], where), size + sum(closed[name].size for _, names in cuts for name in names)


def _opened(data: bytes, where: str) -> tuple[list[Any], list[Ref]]:
    value = decode(data, where)
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], list):
        return value[0], checked_refs(value[1], where)
    raise Corrupt(where, "has a piece that can't be read")


class _Piece(NamedTuple):
    """A closed piece of a list, opened once however many lists it stands in; `depth` is that of the deepest."""

    name: bytes
    items: list[Any]
    size: int
    depth: int


def _piece(bare: _Piece, refs: list[Ref], blobs: Mapping[bytes, bytes], where: str) -> _Piece:
    """The piece with what it refers to in place and in its size."""
    fill(bare.items, refs, blobs, where)
    size = bare.size + sum(len(blobs[ref[1]]) for ref in refs)
    return bare._replace(items=frozen(bare.items, where, depth=bare.depth), size=size)


def _joined(data: Any, path: list[str], pieces: list[_Piece], where: str) -> FrozenDict:
    """The data with the list at a path put together from its pieces and its tail."""
    held = raw(data, path[0]) if type(data) is FrozenDict and path[0] in data else None
    if len(path) > 1:
        whole: Any = _joined(held, path[1:], pieces, where)
    elif type(held) is FrozenList:
        whole = _whole(held, pieces)
    else:
        raise Corrupt(where, "has pieces of a list that is not there")
    return FrozenDict({**dict(raw_items(data)), path[0]: whole})


def _whole(tail: FrozenList, pieces: list[_Piece]) -> FrozenList | Rope:
    items: list[Any] = []
    known: list[tuple[int, bytes, int]] = []
    for piece in pieces:
        items.extend(piece.items)
        known.append((len(items), piece.name, piece.size))
    items.extend(tail)
    return Rope(items, len(items), known) if len(items) >= ROPE_FROM else FrozenList(items)


# Types of the fields after the data, in the format's order: identity, standing, then what the user's code left behind.
_NONE = type(None)
_TYPES: tuple[tuple[type, ...], ...] = (
    (str,), (bytes,), (int,), (bytes,), (str,), (bytes,), (FrozenDict,), (bytes,), (FrozenList,), (str, _NONE), (int,),
    (FrozenList, _NONE), (int,), (bytes,), (int,), (int,), (int,), (str,), (int,), (int,), (int,), (int,), (int,),
    (FrozenList, _NONE), (FrozenDict,), (FrozenList,), (FrozenDict,), (FrozenDict, _NONE), (FrozenList, _NONE), (int,),
    (FrozenDict,), (int,), (FrozenDict, _NONE), (FrozenList,), (FrozenDict, _NONE), (FrozenDict,), (FrozenDict,),
)  # fmt: skip
_ALWAYS = 36  # fields that each snapshot has; the others came later and are left out where they say nothing
_PARENT = (str, bytes, int, int)
_CALLER = (str, bytes)


def _state(data: FrozenDict, values: list[Any], where: str) -> State:
    v = [frozen(value, where, depth=-_AROUND) for value in values]
    if not all(type(value) in types for value, types in zip(v, _TYPES, strict=False)):
        raise Corrupt(where, "has a field of another type")
    if not (0 <= v[16] < len(STATUSES) and 0 <= v[19] < len(WAITS)):
        raise WrittenByNewer(where, "a status")
    parent, effects, usage, caller = v[11], v[24], v[26], v[28]
    for one, shape in ((parent, _PARENT), (caller, _CALLER)):
        if one is not None and tuple(map(type, one)) != shape:
            raise Corrupt(where, "names a parent in a way that can't be read")
    if not all(map(is_call, effects.values())) or not all(map(is_message, v[25])) or not are_numbers(usage):
        raise Corrupt(where, "does not have the fields of a state")
    if v[27] is not None and not is_wait(v[27]):
        raise Corrupt(where, "waits in a way that can't be read")
    fits = are_branches(v[32]) and all(map(is_undo, v[33])) and is_undoing(v[34]) and are_answers(v[35])
    policy = v[_ALWAYS] if len(v) > _ALWAYS else EMPTY
    if not fits or not are_numbers(v[30]) or not is_policy(policy):
        raise Corrupt(where, "goes on in a way that can't be read")
    identity = Identity(
        v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], None if parent is None else Parent(*parent),
        None if caller is None else Caller(*caller), v[29], v[30], policy,
    )  # fmt: skip
    return State(
        identity, v[12], v[13], v[14], v[15], STATUSES[v[16]], v[17], v[18], data, WAITS[v[19]], v[20], v[21], v[22],
        failure_from_plain(v[23], where), effects, v[25], usage, v[27], v[31], v[32], v[33], v[34], v[35],
    )  # fmt: skip
