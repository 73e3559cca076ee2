"""A batch worked out: what each write comes to if the facts hold, and the rows that would be written. Pure; no connection.

The rules are those of every log (`admit`), applied in order, each write seeing those before it. A write that is refused
leaves nothing. With facts that are only remembered, whatever would be refused asks for them to be looked up instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from eventflow.checkpoint import Checkpoint, merged
from eventflow.codec import Blob
from eventflow.errors import Conflict, EventflowError, NotFound, RunNotFound, VersionConflict
from eventflow.log.checking import check_rewinds
from eventflow.log.heads import NOBODY, Head
from eventflow.log.postgres.facts import Facts, Unknown
from eventflow.log.protocol import (
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Acted,
    Answer,
    Append,
    Appended,
    Bring,
    First,
    Kept,
    Post,
    Posted,
    Sealed,
    Upkeep,
    Write,
    admit,
    admit_brought,
    check_parent,
    fresh,
    store_append,
)

Place = tuple[bytes, int]  # a run key and a version, or a message


class Plan:
    """What one batch would write. Raises Unknown where a fact must be looked up first."""

    def __init__(self, batch: Sequence[Write], facts: Facts, store_id: bytes) -> None:
        self._facts, self._store_id = facts, store_id
        self.was: dict[str, Head | None] = {}  # heads of the runs that are written, as they are taken to be
        self.heads: dict[str, Head] = {}  # and as they will be
        self.events: list[tuple[str, bytes, int, bytes]] = []  # run id, run key, version, bytes
        self.firsts: dict[str, First] = {}
        self._begun: dict[bytes, str] = {}  # runs that begin here, by key
        self.there: set[bytes] = set()  # runs that must be there
        self.gone: set[bytes] = set()  # owners that must be gone
        self.pieces: set[bytes] = set()  # blobs that must be there
        self.blobs: dict[bytes, bytes] = {}
        self.bends: list[Place] = []
        self.vouches: dict[Place, int] = {}
        self.taken: set[Place] = set()
        self.marks: dict[Place, Checkpoint] = {}
        self.snapshots: dict[Place, bytes] = {}
        self.drops: dict[Place, bool] = {}  # marks that go, and whether their snapshots do
        self.posts: list[tuple[bytes, bytes]] = []
        self.answers = [self._write(one) for one in batch]

    @property
    def writes(self) -> bool:
        """Whether anything of the batch was taken."""
        return not all(isinstance(answer, EventflowError) for answer in self.answers)

    @property
    def plain(self) -> bool:
        """Whether there is nothing but events and blobs of runs whose heads change in nothing else."""
        more = (
            self.firsts, self.there, self.gone, self.pieces, self.bends, self.vouches, self.taken, self.marks,
            self.snapshots, self.drops, self.posts,
        )  # fmt: skip
        return bool(self.events) and not any(more) and not any(map(self._is_moved, self.heads))

    def _is_moved(self, name: str) -> bool:
        was = self.was[name]
        return was is None or not was.version or moves_more(was, self.heads[name])

    def answered(self, position: int, message: int) -> list[Answer | EventflowError]:
        """The answers, once it is known after which position and message the batch came."""
        return [_moved(answer, position, message) for answer in self.answers]

    # --- the writes

    def _write(self, one: Write) -> Answer | EventflowError:
        try:
            if isinstance(one, Append):
                return self._append(one)
            match one:
                case Upkeep():
                    return Kept(self._upkeep(one))
                case Act():
                    return self._act(one)
                case Post():
                    return self._post(one)
                case Bring():
                    return self._append(one.append, one)
                case _:
                    raise TypeError(f"{type(one).__name__} is not written by plan")
        except (Conflict, NotFound) as error:
            if not self._facts.sure:
                raise Unknown from error
            return error

    def _append(self, append: Append, brought: Bring | None = None) -> Appended:
        """Every event passes here: what most appends have not is looked at once, in the end."""
        name, key, heads = append.run_id, append.run_key, self.heads
        old = heads.get(name) or self._head(name, append)
        sealed = admit(append, old, self._is_gone) if brought is None else admit_brought(brought, old)
        first = append.first if fresh(append, old) else None
        if first is not None or append.taken or self._facts.sure:
            self._check(append, first)
        if name not in heads:
            self.was[name] = old
        heads[name] = sealed.head
        if first is not None:
            self.firsts[name] = first
            self._begun[key] = name
        size, version = 0, sealed.head.version - len(sealed.data)
        for data in sealed.data:
            version += 1
            size += len(data)
            self.events.append((name, key, version, data))
        for packed in append.events:
            if packed.blobs:
                size += self._keep(packed.blobs)
        if sealed.bends or sealed.vouched or append.taken or append.marks or append.posts:
            self._attach(append, sealed)
        return Appended(sealed.head, len(self.events), sealed.digests, size)

    def _is_gone(self, owner: bytes) -> bool:
        if owner == NOBODY:
            return True
        if not self._facts.sure:
            raise Unknown
        self.gone.add(owner)
        return owner not in self._facts.living

    def _attach(self, append: Append, sealed: Sealed) -> None:
        """What rides along with an append."""
        key = append.run_key
        self.bends += [(key, bend) for bend in sealed.bends]
        if key != STORE_RUN:
            self.vouches.update(((key, snapshot), by) for snapshot, by in sealed.vouched)
        self.taken.update((key, message) for message in append.taken)
        self._set_marks(key, append.marks)
        for post in append.posts:
            with contextlib.suppress(RunNotFound):
                self._post(post)

    def _head(self, name: str, append: Append | None = None) -> Head | None:
        """A run's head after the writes so far. A start takes it that there is none, where that is not known."""
        found = self.heads.get(name) or self._facts.heads.get(name)
        if found is None and not self._facts.sure:
            begins = append is not None and append.first is not None and append.expected == append.first.at
            if not begins:
                raise Unknown
        return found

    def _check(self, append: Append, first: First | None) -> None:
        """What an append says about other rows must hold too."""
        key, facts = append.run_key, self._facts
        if first is not None and (key in self._begun or key in facts.names):
            raise Conflict(f"run {append.run_id}: its run key belongs to another run; make a new one")
        if first is not None and first.entry.folds_through:
            parent_key = first.entry.parent_key
            check_parent(first, self._head_of(parent_key), facts.origins.get(parent_key, 0))
            self._needs(parent_key)
        if first is None:
            check_rewinds(append, facts.origins.get(key, 0))
        for message in append.taken:
            if (key, message) in self.taken or (facts.sure and (key, message) not in facts.messages):
                raise Conflict(f"run {append.run_id}: message {message} was taken already; read the inbox again")

    def _head_of(self, key: bytes) -> Head | None:
        name = self._begun.get(key) or self._facts.names.get(key)
        if name is None and not self._facts.sure:
            raise Unknown
        return None if name is None else self._head(name)

    def _needs(self, key: bytes) -> None:
        """Let a run be there when this is written. Raises RunNotFound if it is not."""
        if key in self._begun:
            return
        if key == STORE_RUN or key not in self._facts.names:
            raise RunNotFound(key.hex())
        self.there.add(key)

    def _keep(self, blobs: Iterable[Blob]) -> int:
        size = 0
        for blob in blobs:
            size += blob.size
            self.blobs.setdefault(blob.digest, blob.stored)
        return size

    # --- the cache

    def _lacks(self, upkeep: Upkeep) -> bool:
        """Whether the store lacks a piece that a snapshot takes for written. Raises RunNotFound."""
        self._needs(upkeep.run_key)
        unwritten = {name for name in upkeep.snapshot.known if name not in self.blobs} if upkeep.snapshot else set()
        if self._facts.sure and not unwritten <= self._facts.blobs:
            return True
        self.pieces |= unwritten
        return False

    def _upkeep(self, upkeep: Upkeep) -> bool:
        if self._lacks(upkeep):
            return False
        key, snapshot = upkeep.run_key, upkeep.snapshot
        if snapshot is not None:
            self._keep(snapshot.blobs)
            self.snapshots[key, snapshot.version] = snapshot.root
        self._set_marks(key, upkeep.marks)
        for version in upkeep.unmark:
            self.marks.pop((key, version), None)
            self.drops.setdefault((key, version), False)
        for version in upkeep.drop:
            for table in (self.marks, self.snapshots, self.vouches):
                table.pop((key, version), None)
            self.drops[key, version] = True
        return True

    def _set_marks(self, key: bytes, marks: Iterable[Checkpoint]) -> None:
        for mark in marks:
            self.marks[key, mark.version] = merged(self.marks.get((key, mark.version)), mark)

    # --- operations by hand, messages

    def _act(self, act: Act) -> Acted:
        if act.delete_run is not None:
            self._check_delete(act.delete_run)
        if act.upkeep is not None and self._lacks(act.upkeep):
            raise Conflict("the snapshot takes pieces for written that are not there; pack it anew")
        append = store_append(act, self._head(STORE_NAME), self._store_id)
        if act.upkeep is not None:
            self._upkeep(act.upkeep)
        version = self._append(append).head.version
        if act.upkeep is not None and act.upkeep.snapshot is not None and "snapshot" in act.event.header:
            self.vouches.setdefault((act.upkeep.run_key, act.upkeep.snapshot.version), STORE_VOUCH | version)
        return Acted(version)

    def _check_delete(self, head: Head) -> None:
        held = self._head(head.run_id)
        if held != head:
            raise VersionConflict(head.run_id, head.version, held.version if held else 0)

    def _post(self, post: Post) -> Posted:
        if not self._facts.sure and post.run_key not in self._begun and post.run_key not in self._facts.names:
            raise Unknown
        self._needs(post.run_key)
        self.posts.append((post.run_key, post.data))
        return Posted(len(self.posts))


def moves_more(was: Head, head: Head) -> bool:
    """Whether a head changes in more than version, digest and time, so that its row must be written."""
    return (
        head.status != was.status or head.owner != was.owner or head.epoch != was.epoch
        or head.waiting_for != was.waiting_for or head.version == was.version
    )  # fmt: skip


def _moved(answer: Answer | EventflowError, position: int, message: int) -> Answer | EventflowError:
    """An answer whose numbers counted from the start of the batch."""
    if isinstance(answer, Appended):
        return Appended(answer.head, position + answer.position, answer.digests, answer.size)
    if isinstance(answer, Posted):
        return Posted(message + answer.message)
    return answer
