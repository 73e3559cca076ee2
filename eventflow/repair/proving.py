"""Chains through what was found: of each run the longest history whose every event names the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eventflow.codec import FORKED, KEY, key_id_of, root_digest, unpack_state
from eventflow.errors import Corrupt, EventflowError, NoKey
from eventflow.event import SubjectShredded
from eventflow.exchange import Origin
from eventflow.log import STORE_RUN, STORE_VOUCH, Entry
from eventflow.plain import FrozenList
from eventflow.proof import DIGEST_SIZE, genesis
from eventflow.repair.finding import Found, Piece
from eventflow.verification.report import STUMBLES

STARTED, COMPACTED, SHREDDED = 1, 133, 151  # docs/format.md
AGAIN = "it was told in the damaged store"


@dataclass(frozen=True, slots=True)
class Chain:
    """A run's history as far as it proves itself; `parent` is the run it continues, none if that is empty.

    `origin` is what a compacted run begins with: its first event is then the last of those that were taken together.
    """

    run_id: str
    run_key: bytes
    first: int
    pieces: tuple[Piece, ...]
    parent: bytes = b""
    origin: Origin | None = None

    @property
    def key_id(self) -> bytes:
        """The id of the key it is encrypted with, empty for a run in the open."""
        found = self.pieces[0].header.get(KEY)
        return found if isinstance(found, bytes) else b""

    @property
    def last(self) -> int:
        """Its last version."""
        return self.first + len(self.pieces) - 1


@dataclass(frozen=True, slots=True)
class Lost:
    """What could not be brought back: versions of a run from one on, and why."""

    run: str
    version: int
    problem: str

    def plain(self) -> dict[str, object]:
        """As an event or a program has it."""
        return {"run": self.run, "version": self.version, "problem": self.problem}


class Proving:
    """Finds the chains of a store's runs; `lost` tells what is missing from them."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self.chains: dict[bytes, Chain] = {}
        self.lost: list[Lost] = []

    def prove(self) -> None:
        """Look at each run, those that others continue first (keys sort by the time a run began)."""
        deleted = self._found.deleted
        for key in sorted({*self._found.events, *self._found.ends} - {STORE_RUN, bytes(16)}):
            if key in deleted:
                continue
            chain = self._chain(key)
            ends = (head.version for head in self._found.ends.get(key, {}).values())
            known = max(*ends, *self._found.events.get(key, {}), 0, 0)
            if chain is None:
                self._miss(key, known)
                continue
            self.chains[key] = chain
            if chain.last < known:
                self.lost.append(
                    Lost(chain.run_id, chain.last + 1, f"versions up to {known} do not follow: {self._why(chain)}")
                )

    def shredded(self, actor: str) -> list[SubjectShredded]:
        """That keys were destroyed on purpose, as far as the store's own stream was found: of those of runs that are saved."""
        found: dict[bytes, SubjectShredded] = {}
        for one in self._found.events.get(STORE_RUN, {}).values():
            for piece in one.values():
                key_id, kind, name = (piece.header.get(field) for field in ("key_id", "kind", "name"))
                runs = [chain.run_id for chain in self.chains.values() if chain.key_id == key_id]
                if piece.code == SHREDDED and runs and isinstance(key_id, bytes):
                    found[key_id] = SubjectShredded(key_id, str(kind), str(name), FrozenList(runs), actor, AGAIN)
        return list(found.values())

    def _miss(self, key: bytes, known: int) -> None:
        pieces = [piece for one in self._found.events.get(key, {}).values() for piece in one.values()]
        if pieces and all(piece.digest in self._found.gone for piece in pieces):
            return  # old pages of a run that was deleted
        acts = [
            piece
            for one in self._found.events.get(STORE_RUN, {}).values()
            for piece in one.values()
            if piece.code == COMPACTED and piece.header.get("run_key") == key
        ]
        name = next(
            (str(piece.header["run_id"]) for piece in (*pieces, *acts) if "run_id" in piece.header),
            f"with key {key.hex()}",
        )
        why = "it was compacted, and its origin does not prove itself" if acts else "its beginning was not found"
        self.lost.append(Lost(name, 1, f"none of its versions up to {known}: {why}"))

    def _why(self, chain: Chain) -> str:
        after = self._found.events.get(chain.run_key, {}).get(chain.last + 1, {})
        follows = any(piece.before == chain.pieces[-1].digest for piece in after.values())
        if not follows:
            return "an event was not found, or is damaged"
        if all(self._found.has_values(piece) for piece in after.values()):
            return "nothing that was found names its digest, so it may have been changed"
        return "a value it refers to was not found"

    def _chain(self, key: bytes) -> Chain | None:
        versions = self._found.events.get(key, {})
        best: Chain | None = None
        for bare in self._beginnings(key):
            pieces = self._longest(key, versions, bare.first, bare.pieces[0])
            if not pieces:
                continue
            chain = replace(bare, pieces=pieces)
            if best is None or (chain.last, chain.pieces[-1].time) > (best.last, best.pieces[-1].time):
                best = chain
        return best

    def _beginnings(self, key: bytes) -> Iterator[Chain]:
        """First events that prove themselves: a start by its genesis, a fork by its parent's event, an origin by its snapshot."""
        yield from self._origins(key)
        for version, pieces in self._found.events.get(key, {}).items():
            for piece in pieces.values():
                if piece.digest in self._found.gone or not self._found.has_values(piece):
                    continue
                header = piece.header
                run_id = str(header.get("run_id"))
                if piece.code == STARTED and version == 1 and piece.before == _genesis(piece):
                    yield Chain(run_id, key, version, (piece,))
                elif piece.code == FORKED and header.get("at") == version - 1:
                    parent = self.chains.get(_parent(piece))
                    if parent is not None and piece.before == self._digest_at(parent, version - 1):
                        yield Chain(run_id, key, version, (piece,), parent.run_key)

    def _origins(self, key: bytes) -> Iterator[Chain]:
        """What a run was compacted to: a snapshot that the store's own stream vouches for, and the event it was made at."""
        for by, act in self._acts(key):
            at, run_id = act.header["at"], str(act.header["run_id"])
            if not isinstance(at, int):
                continue
            for root in self._found.roots.get((key, at), ()):
                bare = Origin(at, root, by | STORE_VOUCH, act.data)
                try:
                    piece, origin = self._opened_at(key, act, bare)
                except NoKey:
                    yield from self._sealed_at(key, act, bare)
                except (EventflowError, *STUMBLES):
                    continue
                else:
                    yield Chain(run_id, key, at, (piece,), origin=origin)

    def _opened_at(self, key: bytes, act: Piece, origin: Origin) -> tuple[Piece, Origin]:
        """The event that an origin was made at, and the origin with what it says of its run. Raises what tells that it is none."""
        root, fetch = self._found.opened(key, origin.at, origin.root)
        if self._found.vouched(key, act) != (origin.at, root_digest(root, "a snapshot")):
            raise Corrupt("a snapshot", "is not the one that the chain speaks of")
        state, _ = unpack_state(root, fetch, "a snapshot")
        piece = self._found.events[key][origin.at][state.digest]
        if not origin.sealed:
            return piece, origin
        run, parent = state.run, state.run.parent
        entry = Entry(run.workflow, tuple(run.tags), run.subject, run.started, origin=origin.at)
        if parent is not None:
            entry = replace(entry, parent_id=parent.run_id, parent_key=parent.run_key, parent_at=parent.at)
        self._found.entries[key] = entry
        return piece, replace(origin, run_id=run.run_id, entry=entry)

    def _sealed_at(self, key: bytes, act: Piece, origin: Origin) -> Iterator[Chain]:
        """The same without the key: what is under the run's key is taken for what it was compacted to, until that is here."""
        entry, key_id = self._found.entries.get(key), key_id_of(origin.root[1:])
        if not origin.sealed or entry is None or act.header.get(KEY) != key_id:
            return
        told = replace(origin, run_id=str(act.header["run_id"]), entry=replace(entry, origin=origin.at))
        for piece in self._found.events.get(key, {}).get(origin.at, {}).values():
            if piece.header.get(KEY) == key_id:
                yield Chain(told.run_id, key, origin.at, (piece,), origin=told)

    def _acts(self, key: bytes) -> Iterator[tuple[int, Piece]]:
        """Compactions of a run by their version in the store's stream; what nothing names there may have been changed."""
        own = self._found.events.get(STORE_RUN, {})
        for version, pieces in own.items():
            named = {one.before for one in own.get(version + 1, {}).values()}
            for piece in pieces.values():
                known = piece.digest in named or piece.digest in self._found.ends.get(STORE_RUN, {})
                header = piece.header
                if piece.code == COMPACTED and known and header.get("run_key") == key and "snapshot" in header:
                    yield version, piece

    def _digest_at(self, chain: Chain, version: int) -> bytes:
        """The digest of a version of a run, which may be its parent's."""
        while version < chain.first:
            if chain.parent not in self.chains:
                return b""
            chain = self.chains[chain.parent]
        return chain.pieces[version - chain.first].digest if version <= chain.last else b""

    def _longest(
        self, key: bytes, versions: dict[int, dict[bytes, Piece]], first: int, piece: Piece
    ) -> tuple[Piece, ...]:
        """The longest chain from a first event on to one whose digest is named: by a head, or by the event after it."""
        levels = [{piece.digest: piece}]
        while True:
            after = versions.get(first + len(levels), {})
            step = {
                name: one
                for name, one in after.items()
                if one.before in levels[-1] and one.incarnation == piece.incarnation and self._found.has_values(one)
            }
            if not step:
                break
            levels.append(step)
        heads = self._found.ends.get(key, {})
        last = None
        while levels and last is None:  # of what nobody speaks of, each may have been changed, or never acknowledged
            named = {*heads, *(one.before for one in versions.get(first + len(levels), {}).values())}
            known = [one for one in levels[-1].values() if one.digest in named]
            last = max(known, key=lambda one: (one.digest in heads, one.time), default=None)
            levels = levels if last is not None else levels[:-1]
        chain = [] if last is None else [last]
        for level in reversed(levels[:-1]):
            chain.append(level[chain[-1].before])
        return tuple(reversed(chain))


def _parent(piece: Piece) -> bytes:
    key = piece.header.get("parent_key")
    return key if piece.code == FORKED and isinstance(key, bytes) else b""


def _genesis(piece: Piece) -> bytes:
    header = piece.header
    store_id, run_id, definition = header.get("store_id"), header.get("run_id"), header.get("definition_digest")
    if not isinstance(store_id, bytes) or not isinstance(run_id, str) or not isinstance(definition, bytes):
        return b""
    if len(store_id) != len(STORE_RUN) or len(definition) != DIGEST_SIZE:
        return b""
    return genesis(store_id, run_id, piece.incarnation, definition)
