"""A store copied into another, any kind into any, and kept up to date: the same id, positions, bytes and chains.

The copy is checked on the way: each event must follow the one before it in its run, and the tree over the copy's events
must be the source's at the same size; where a copy is gone on with, a consistency proof (RFC 6962, 2.1.2) shows that it
begins the source. What stands in the copy can be read at any moment; it can be killed at any moment and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from eventflow.clock import Clock
from eventflow.codec import (
    TOMBSTONE,
    PackedState,
    Stored,
    decode,
    pack,
    piece_names,
    read_events,
    root_digest,
)
from eventflow.errors import Conflict, Corrupt, NoKey, ProofFailed, Shredded
from eventflow.event import Recorded, RunCompacted, RunDeleted, StoreCreated, StoreRestored
from eventflow.forking import who, write_all, write_one
from eventflow.ingest import carrier, sealed, stored_blobs
from eventflow.log import (
    NOBODY,
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Append,
    Bring,
    Clear,
    Cleared,
    Compaction,
    Entry,
    First,
    Head,
    Log,
    Mirror,
    Query,
    Sealed,
    Upkeep,
    Write,
)
from eventflow.log.heads import remains
from eventflow.proof import digest
from eventflow.proof.merkle import Tree, consistency_spans, is_consistent, leaf_hash
from eventflow.recovery import history, recover
from eventflow.sealing import leaf, leaves, surveyed
from eventflow.state import ENDED

PAGE = 500  # events a transaction of the copy takes: some 100 KB
_WAITS = ("message", "number")  # fields of events that hold the number of a message
Progress = Callable[[int, int], None]  # events there are in the copy, and in the source


@dataclass(frozen=True, slots=True)
class Proof:
    """That a copy of `size` events with this root begins the source, which had `of` events with root `of_root`."""

    size: int
    root: bytes
    of: int
    of_root: bytes


@dataclass(frozen=True, slots=True)
class _FirstMoment:
    """A clock that says what the source said when it was created, so that the copy begins with the same bytes."""

    created: Recorded

    def now(self) -> int:
        """When the source was created."""
        return self.created.time

    def monotonic(self) -> float:
        """Nobody asks."""
        return 0.0

    def uuid7(self) -> bytes:
        """The source's id."""
        event = self.created.event
        return event.store_id if isinstance(event, StoreCreated) else b""

    async def wait_until(self, moment: int) -> None:
        """Nobody waits."""

    async def sleep(self, seconds: float) -> None:
        """Nobody waits."""


def raw(log: Log) -> Log:
    """The log as it is stored, were it encrypted."""
    inner: Log = getattr(log, "inner", log)
    return inner


def birth_clock(source: Log) -> Clock:
    """The clock with which a store is made that begins as the source does. Raises Corrupt."""
    created = next(history(raw(source), STORE_RUN, 1, 1), None)
    if created is None or not isinstance(created.event, StoreCreated):
        raise Corrupt("the store", "does not begin with its creation")
    return _FirstMoment(created)


@dataclass(slots=True)
class _Touched:
    """What a pass has met: runs that were written, the highest number of a message, and roots of both trees."""

    runs: dict[bytes, None] = field(default_factory=dict)
    messages: int = 0


class Replica:
    """A source and a copy of it. Raises Conflict if the copy is no beginning of the source, ProofFailed if it lies."""

    def __init__(self, source: Log, target: Log) -> None:
        self._opened, self._source, self._target = source, raw(source), raw(target)
        self._tree = Tree()  # over the copy's events
        self._touched = _Touched()
        if self._source.store_id != self._target.store_id:
            raise Conflict("the target is another store; copy into an empty place, or into a copy of this store")
        if self._target.position() > 1 and not getattr(self._target, "follows", False):
            raise Conflict("the target has a life of its own: it is no copy, or was promoted; copy into an empty place")
        self.proof = self._proved()
        if not getattr(self._target, "follows", False):
            self._write([Mirror(follows=True)])

    def _proved(self) -> Proof:
        """That the copy begins the source, by a consistency proof of the source's tree."""
        for name in leaves(self._target):
            self._tree.add(leaf_hash(name))
        old, new = self._tree.size, self._source.position()
        if old > new:
            raise Conflict(
                f"the target holds {old} events and the source {new}: it is ahead, or the source was rolled back"
            )
        spans = consistency_spans(old, new)
        found = surveyed(self._source, new, sizes=[old, new], spans=spans)
        root, of_root = self._tree.root(), found.roots[new]
        if not is_consistent((old, root), (new, of_root), [found.parts[span] for span in spans]):
            raise Conflict("the target does not begin as the source does: they are different histories of one store")
        return Proof(old, root, new, of_root)

    # --- a pass

    def catch_up(self, progress: Progress | None = None) -> int:
        """Copy what the source has come to since; how many events. Raises Corrupt, ProofFailed, StoreUnusable."""
        began = position = self._tree.size
        while page := self._opened.feed(position, PAGE):
            self._write(self._page(page))
            self._check(page)
            position = page[-1].position
            if progress is not None:
                progress(position, max(position, self._source.position()))
        self._keep_cache()
        self._keep_messages()
        return position - began

    def _write(self, writes: Sequence[Write]) -> None:
        write_all(self._target, writes)

    def _check(self, page: Sequence[Stored]) -> None:
        """Read a page back from the copy: the same positions and digests as in the source."""
        held = self._target.feed(page[0].position - 1, len(page))
        for ours, one in zip(held, page, strict=True):
            name = leaf(ours)
            if ours.position != one.position or name != leaf(one):
                raise ProofFailed("the copy", f"holds another event at position {one.position} than the source")
            self._tree.add(leaf_hash(name))

    def _page(self, page: Sequence[Stored]) -> list[Write]:
        """A page of the source as the writes that put it into the copy at the same positions."""
        writes: list[Write] = []
        ends: dict[bytes, Head] = {}
        for group in _groups(page):
            tombstones = [one for one in group if one.data[:1] == TOMBSTONE]
            if tombstones:
                writes.append(Mirror(tombstones=tuple(map(leaf, group))))
                continue
            events = read_events(group, self._opened.blobs, hidden=True)
            writes += self._brought(group, events, ends)
        return writes

    def _brought(self, group: Sequence[Stored], events: Sequence[Recorded], ends: dict[bytes, Head]) -> list[Write]:
        """Events of one run, one after the other, and what the store's own events say was removed."""
        key, first = events[0].run_key, events[0]
        before = ends.get(key) or self._target.head_of(key)
        named = self._named(key)
        if named is None:  # it was deleted in the source since, and will be gone there in a moment
            return [Mirror(tombstones=tuple(map(leaf, group)))]
        run_id, entry = named
        if before is None:
            begin = First(first.before, entry, first.version - 1)
            before = Head(
                run_id, key, first.incarnation, first.version - 1, first.before, 0, NOBODY, "running", "", first.time
            )
        else:
            begin = None
            if (first.version, first.before) != (before.version + 1, before.digest):
                raise Corrupt(f"run {run_id}", f"does not go on at version {first.version} from where the copy ends")
        end = self._end(before, group, events)
        ends[key] = end
        self._touched.runs[key] = None
        self._touched.messages = max([self._touched.messages, *map(_message, events)])
        append = Append(
            run_id, key, first.incarnation, before.version, 0, (carrier(self._source, group),), end.updated, end.status,
            end.waiting_for, first=begin,
        )  # fmt: skip
        removed = [write for one in events if key == STORE_RUN for write in self._removed(one, ends)]
        return [Bring(append, sealed(group, events, end)), *removed]

    def _named(self, key: bytes) -> tuple[str, Entry] | None:
        if key == STORE_RUN:
            return STORE_NAME, Entry("", (), None, 0)
        head, entry = self._source.head_of(key), self._source.entry(key)
        return None if head is None or entry is None else (head.run_id, entry)

    def _end(self, before: Head, group: Sequence[Stored], events: Sequence[Recorded]) -> Head:
        """A run's head after some events. Where it stands is known for certain only when the source stands there too."""
        last, theirs = events[-1], self._source.head_of(events[-1].run_key)
        if theirs is not None and theirs.version == last.version and last.run_key != STORE_RUN:
            status, waiting = theirs.status, theirs.waiting_for
        else:
            status, waiting = "running", ""
        return Head(
            before.run_id, before.run_key, last.incarnation, last.version, digest(group[-1].data), last.epoch, NOBODY,
            status, waiting, last.time,
        )  # fmt: skip

    def _removed(self, recorded: Recorded, ends: dict[bytes, Head]) -> Iterator[Write]:
        """What an operation by hand removed in the source, and now here."""
        event = recorded.event
        if isinstance(event, RunDeleted):
            here = ends.pop(event.run_key, None) or self._target.head_of(event.run_key)
            self._touched.runs.pop(event.run_key, None)
            gone = remains(event.run_id, event.incarnation, recorded.time)
            yield Mirror(gone=(gone,)) if here is None else Mirror(deleted=(here,))
        if isinstance(event, RunCompacted):
            yield from self._compacted(event, recorded.version, begun=event.run_key in ends)

    def _compacted(self, event: RunCompacted, version: int, *, begun: bool) -> Iterator[Write]:
        """A run begins later from now on, in the copy too if it began earlier there."""
        entry = self._target.entry(event.run_key)
        if entry is not None and entry.origin < event.at:
            yield from self._origin(event.run_key, event.at)
            yield Mirror(compacted=(Compaction(event.run_key, event.at),))
        if entry is not None or begun:
            yield Mirror(vouches=((event.run_key, event.at, STORE_VOUCH | version),))

    def _origin(self, key: bytes, at: int) -> Iterator[Write]:
        packed = self._snapshot(key, at)
        if packed is not None:
            yield Upkeep(key, packed)

    # --- the cache, and what waits

    def _keep_cache(self) -> None:
        """Checkpoints and newest snapshots of the runs that were written; where those runs stand; tidying up."""
        for key in self._touched.runs:
            if key == STORE_RUN or (head := self._target.head_of(key)) is None:
                continue
            marks = tuple(mark for mark in self._source.checkpoints(key) if mark.version <= head.version)
            entry = self._target.entry(key)
            wanted = [version for version, by in self._source.snapshots(key, head.version, limit=2) if by]
            wanted += [entry.origin] if entry is not None and entry.origin and entry.origin not in wanted else []
            packed = [one for one in (self._snapshot(key, version) for version in wanted) if one is not None]
            upkeep = [Upkeep(key, one) for one in packed] + ([Upkeep(key, marks=marks)] if marks else [])
            if upkeep:
                self._write(upkeep)
        self._touched.runs.clear()
        while (answer := self._target.write([Clear()])[0]) and isinstance(answer, Cleared) and answer.left:
            pass

    def _snapshot(self, key: bytes, version: int) -> PackedState | None:
        root = self._source.snapshot(key, version)
        if root is None:
            return None
        names: set[bytes] = set()
        with suppress(NoKey, Shredded):  # an encrypted snapshot is a cache that the copy makes anew
            names = piece_names(root, self._source.blobs)
            blobs = tuple(stored_blobs(self._source, sorted(names)))
            return PackedState(
                version, root, root_digest(root, "a snapshot"), blobs, len(root) + sum(one.size for one in blobs)
            )
        return None

    def _keep_messages(self) -> None:
        """The messages that wait in the source, under their numbers, and the guards on its runs."""
        waiting = [
            (key, number, data)
            for key in self._source.mail()
            if self._target.head_of(key) is not None
            for number, data in self._source.inbox(key)
        ]
        here = [(key, number, data) for key in self._target.mail() for number, data in self._target.inbox(key)]
        highest = max([self._touched.messages, *(number for _, number, _ in waiting)])
        if sorted(waiting) != sorted(here) or highest > self._touched.messages or self._touched.messages:
            self._write([Mirror(inbox=tuple(waiting), messages=highest)])
        guards = [one for one in self._source.guards() if self._target.head_of(one.run_key) is not None]
        if sorted(map(repr, guards)) != sorted(map(repr, self._target.guards())):
            self._write([Mirror(guards=tuple(guards))])
        self._touched.messages = 0

    def prove(self) -> Proof:
        """That the copy is the source's first events, by the roots of both trees at the copy's size. Raises ProofFailed."""
        size, root = self._tree.size, self._tree.root()
        found = surveyed(self._source, size, sizes=[size])
        if found.roots.get(size) != root:
            raise ProofFailed("the copy", f"is not the source's first {size} events")
        self.proof = Proof(size, root, size, root)
        return self.proof


def promote(log: Log, clock: Clock, *, actor: str = "", why: str = "") -> int:
    """Make a copy a store of its own life; its generation. Raises Conflict if it is no copy.

    Nobody owns any run, each one's epoch goes into a new generation, and its own stream says so. The store it was a copy of
    must not be driven any more: what is recorded there from now on is another history.
    """
    store = raw(log)
    if not getattr(store, "follows", False):
        raise Conflict("this store follows no other: there is nothing to promote")
    own = store.head_of(STORE_RUN)
    acts = () if own is None else history(store, STORE_RUN, 1, own.version)
    generation = 1 + max((one.event.generation for one in acts if isinstance(one.event, StoreRestored)), default=0)
    for write in _settled(store):
        write_one(store, write)
    event = StoreRestored(generation, store.position(), 0, actor or who(), why or "a copy was promoted")
    write_all(store, [Mirror(follows=False, generation=generation), Act(pack(event), clock.now())])
    return generation


def _settled(store: Log) -> Iterator[Write]:
    """Runs said to stand where they were when the copy stopped, which may be in the middle of a run's life."""
    for listed in store.runs(Query()):
        head = listed.head
        if head.status in ENDED:
            continue
        state: Any = recover(store, head).state
        if (state.status, state.waiting_for) != (head.status, head.waiting_for):
            moved = Head(
                head.run_id, head.run_key, head.incarnation, head.version, head.digest, head.epoch, NOBODY, state.status,
                state.waiting_for, head.updated,
            )  # fmt: skip
            append = Append(
                head.run_id, head.run_key, head.incarnation, head.version, 0, (), head.updated, state.status,
                state.waiting_for,
            )  # fmt: skip
            yield Bring(append, Sealed((), (), moved, (), ()))


def _groups(page: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Stored events cut into stretches of one run, or of tombstones; an operation by hand stands alone."""
    group: list[Stored] = []
    kind: object = None
    for one in page:
        mine: object = TOMBSTONE if one.data[:1] == TOMBSTONE else _run_key(one)
        if group and (mine != kind or mine == STORE_RUN):
            yield group
            group = []
        group, kind = [*group, one], mine
    if group:
        yield group


def _run_key(stored: Stored) -> object:
    event = decode(stored.data, f"the event at position {stored.position}")
    if not isinstance(event, list) or len(event) < 11:
        raise Corrupt(f"the event at position {stored.position}", "does not have its fields")
    return event[2]


def _message(recorded: Recorded) -> int:
    """The number of a message that an event came from, 0 if it came from none."""
    return max((found for name in _WAITS if isinstance(found := getattr(recorded.event, name, 0), int)), default=0)
