"""Histories from elsewhere taken into a store: checked from the first byte to the last, then appended as they are.

A source is any log: an export that somebody sent, a capsule's, a store. Its events keep their stored bytes, so their
digests, chains and proofs stay what they were; its own stream, snapshots, checkpoints and messages stay behind. Nothing of
a source is written that has not been verified, and no file of a source is ever opened for writing. Encrypted runs come as
they are stored, with all values under their key; who has the key must bring that too, or they stay unreadable. What only
a key can prove is proved where the source is opened with it, and counted where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from eventflow.clock import Clock, SystemClock
from eventflow.codec import (
    KEY,
    LOCKED_BLOB,
    VOUCH,
    Blob,
    LockedBlob,
    OpenedRoot,
    Packed,
    PackedState,
    Stored,
    blob_names,
    decode,
    key_id_of,
    pack,
    pack_blob,
    piece_names,
    read_events,
    root_digest,
)
from eventflow.errors import Conflict, Corrupt, NoKey, ProofFailed, RunExists
from eventflow.event import Event, Forked, Recorded, Rewound, RunCompacted, RunPaused, RunsImported, Vouch
from eventflow.exchange import Origin, Stretch, key_of, origin_of, sealed_blobs, stored_events
from eventflow.forking import write_all
from eventflow.log import (
    NOBODY,
    STORE_RUN,
    STORE_VOUCH,
    Act,
    Append,
    Bring,
    First,
    Head,
    LockedLog,
    Log,
    Query,
    Sealed,
    Upkeep,
    Write,
)
from eventflow.plain import FrozenList
from eventflow.state import ENDED
from eventflow.verification import Report, verify_run

BATCH_BYTES = (
    16 << 20
)  # of events a transaction takes before it ends with a whole run: some 100 ms, in which none else writes
BEGUN = "it was compacted in the store that it was taken from"
WHY = "taken in from another store; resume it to go on with it here"


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was taken in: the ids of runs that are new, of those that were there already, and how many events.

    For want of a key the values of `hidden` events were not compared, nor what `unopened` compacted runs begin with.
    """

    runs: tuple[str, ...]
    present: tuple[str, ...]
    events: int
    hidden: int = 0
    unopened: int = 0


Progress = Callable[[int, int], None]  # runs done, runs in all


def ingest(
    source: Log, target: Log, heads: Sequence[Head] | None = None, *, actor: str = "", why: str = "", pause: bool = True,
    clock: Clock | None = None, record: Callable[[Ingested], Event] | None = None, progress: Progress | None = None,
) -> Ingested:  # fmt: skip
    """Take runs of a source (all for None) into a store, the runs they continue first; each run whole or not at all.

    Runs that are there already, event for event, are left as they are, so that it can be repeated after a crash. With
    `pause`, a run that is not over stands paused in the store until somebody resumes it: it may be driven elsewhere. The
    store's own stream says what was taken in, as RunsImported or as what `record` makes of it. Raises ProofFailed if a
    history does not hold, RunExists if another run has its id, Conflict.
    """
    clock = clock or SystemClock()
    note = record or (lambda done: RunsImported(source.store_id, FrozenList(done.runs), done.events, actor, why))
    wanted = in_order(source, heads)
    runs: list[str] = []
    present: list[str] = []
    total = size = events = 0
    batch: list[Write] = []
    names: list[str] = []
    looked = Report()
    for number, head in enumerate(wanted, 1):
        if is_there(source, target, head):
            present.append(head.run_id)
        else:
            brought = bring(source, head, looked)
            batch += [
                brought,
                *begun_at(source, head, clock, actor),
                *(_paused(brought, clock, actor) if pause else ()),
            ]
            names.append(head.run_id)
            events += len(brought.sealed.data)
            size += brought_bytes(brought)
        if names and (size >= BATCH_BYTES or number == len(wanted)):
            done = Ingested(tuple(names), tuple(present), events)
            write_all(target, [*batch, Act(pack(note(done)), clock.now())])
            runs, total = [*runs, *names], total + events
            batch, names, size, events = [], [], 0, 0
        if progress is not None:
            progress(number, len(wanted))
    return Ingested(tuple(runs), tuple(present), total, looked.hidden, looked.unopened)


def in_order(source: Log, heads: Sequence[Head] | None) -> list[Head]:
    """Heads with those of the runs that they continue, each once, parents first."""
    found: dict[bytes, Head] = {}
    every = [one.head for one in source.runs(Query())] if heads is None else heads
    for head in reversed(every):  # lists are newest first
        chain = [head]
        while (entry := source.entry(chain[-1].run_key)) is not None and entry.folds_through:
            parent = source.head_of(entry.parent_key)
            if parent is None:
                raise Corrupt(f"run {chain[-1].run_id}", f"continues run {entry.parent_id}, which is not there")
            if parent in chain:
                raise Corrupt(f"run {head.run_id}", "continues itself")
            chain.append(parent)
        for one in reversed(chain):
            found.setdefault(one.run_key, one)
    return list(found.values())


def is_there(source: Log, target: Log, head: Head) -> bool:
    """Whether a store holds a run of a source, event for event. Raises RunExists for another run of its id, Conflict."""
    held = target.head(head.run_id)
    if held is None:
        return False
    if held.run_key != head.run_key:
        raise RunExists(head.run_id, "another history; delete it first, or take the other into a store of its own")
    ours = target.read(head.run_key, head.version, head.version)
    theirs = source.read(head.run_key, head.version, head.version)
    if [one.data for one in ours] != [one.data for one in theirs]:
        raise Conflict(f"run {head.run_id} is there already and has gone another way since; take it into a new store")
    return True


def bring(source: Log, head: Head, report: Report | None = None) -> Bring:
    """One run of a source, verified whole, as the write that takes it in. What was looked at is added to a report.

    Raises ProofFailed.
    """
    entry = source.entry(head.run_key)
    if entry is None:
        raise Corrupt(f"run {head.run_id}", "is in no list")
    report = verify_run(source, head, report)
    if report.findings:
        raise ProofFailed(f"run {head.run_id}", f"does not hold: {report.findings[0]}")
    at = entry.origin - 1 if entry.origin else entry.parent_at
    stored = list(stored_events(source, Stretch(head.run_key, at + 1, head.version)))
    recorded = read_events(stored, source.blobs, strict=True, hidden=True)
    moved = replace(head, owner=NOBODY)
    bare = source.inner if isinstance(source, LockedLog) else source  # values are brought as they are stored
    brought = carrier(bare, stored, key_of(bare, head))
    append = Append(
        head.run_id, head.run_key, head.incarnation, at, 0, (brought,), head.updated, head.status, head.waiting_for,
        first=First(recorded[0].before, entry, at),
    )  # fmt: skip
    taken = sealed(stored, recorded, moved)
    return Bring(append, taken._replace(bends=tuple(one for one in taken.bends if one != entry.origin)))


def begun_at(source: Log, head: Head, clock: Clock, actor: str) -> list[Write]:
    """What makes a compacted run begin in the target as it does in the source: its snapshot, and an event that vouches for it."""
    bare = source.inner if isinstance(source, LockedLog) else source
    entry = bare.entry(head.run_key)
    if entry is None or not entry.origin:
        return []
    origin, where = origin_of(bare, head, entry.origin), f"the snapshot at version {entry.origin}"
    event = RunCompacted(head.run_id, head.run_key, head.incarnation, entry.origin, entry.origin, actor, BEGUN)
    if origin.sealed:
        return [_sealed_origin(source, origin, event, clock)]
    root = origin.root
    blobs = tuple(stored_blobs(bare, sorted(piece_names(root, bare.blobs))))
    packed = PackedState(
        entry.origin, root, root_digest(root, where), blobs, len(root) + sum(one.size for one in blobs)
    )
    vouch = Vouch(packed.version, packed.digest)
    return [Act(pack(event, vouch=vouch), clock.now(), Upkeep(head.run_key, packed))]


def _sealed_origin(source: Log, origin: Origin, event: RunCompacted, clock: Clock) -> Act:
    """The same of an encrypted run: root and digest as they are stored, sealed under its key, whether that is here or not."""
    bare = source.inner if isinstance(source, LockedLog) else source
    run_key, own = event.run_key, not origin.by & STORE_VOUCH
    (vouching,) = bare.read(run_key if own else STORE_RUN, *(origin.by & ~STORE_VOUCH,) * 2)
    array = decode(vouching.data, "the event that vouches for a snapshot")
    at, digest = array[8][VOUCH]
    try:  # all values under the key have come with the events if it is not here
        root = source.snapshot(run_key, origin.at)
        names = piece_names(root, source.blobs) if isinstance(root, OpenedRoot) else set()
    except NoKey:
        names = set()
    blobs = tuple(stored_blobs(bare, sorted(names)))
    packed = pack(event, vouch=Vouch(at, digest))
    header = {KEY: key_id_of(origin.root[1:]), **packed.header}  # the short name comes first in canonical CBOR
    snapshot = PackedState(at, origin.root, digest, blobs, len(origin.root) + sum(one.size for one in blobs))
    return Act(packed._replace(header=header), clock.now(), Upkeep(run_key, snapshot))


def sealed(stored: Sequence[Stored], recorded: Sequence[Recorded], head: Head) -> Sealed:
    """Stored events of one run with what a log's indexes say of them."""
    return Sealed(
        tuple(one.data for one in stored), tuple(one.digest for one in recorded), head,
        tuple(one.version for one in recorded if isinstance(one.event, Forked | Rewound)),
        tuple((one.vouch.version, one.version) for one in recorded if one.vouch is not None),
    )  # fmt: skip


def carrier(source: Log, stored: Sequence[Stored], key_id: bytes = b"") -> Packed:
    """The values that events refer to, as an append brings them; of encrypted ones without their key, all under it."""
    sealed: list[Blob] = []
    try:
        names = blob_names(stored)
    except NoKey:
        if not key_id:
            raise
        names = blob_names(stored, hidden=True)
        for name, row in sealed_blobs(source, {key_id})[key_id].items():
            sealed.append(Blob(name, LOCKED_BLOB + row, len(row)))
    return Packed(0, 0, {}, b"", (*stored_blobs(source, sorted(names)), *sealed))


def stored_blobs(source: Log, names: Sequence[bytes]) -> Iterator[Blob]:
    """Values as a log takes them in, encrypted ones as they are."""
    for name, data in source.blobs(names).items():
        yield Blob(name, LOCKED_BLOB + data if isinstance(data, LockedBlob) else pack_blob(data), len(data))


def brought_bytes(brought: Bring) -> int:
    """How much a run brings, in bytes."""
    return sum(map(len, brought.sealed.data)) + sum(one.size for one in brought.append.events)


def _paused(brought: Bring, clock: Clock, actor: str) -> list[Write]:
    """What makes a run that is not over stand still."""
    head = brought.sealed.head
    if head.status in ENDED or head.status == "paused":
        return []
    return [
        Append(
            head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (pack(RunPaused(actor, WHY)),),
            clock.now(), "paused",
        )
    ]  # fmt: skip
