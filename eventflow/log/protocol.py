"""What a log is: the words every backend speaks, and the rules an append must pass.

A log takes *writes* in batches. One batch is one durable transaction; each write in it is answered on its own, so that a
conflict fails one write and a full disk all of them. Reads return at once and hold nothing open. A store of one's own
implements `Log` and runs `eventflow.testing.LogContract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from eventflow.checkpoint import Checkpoint
from eventflow.codec import FORKED, REWOUND, Packed, PackedState, Place, Stored, seal
from eventflow.errors import EventflowError, Fenced, RunNotFound, RunOwned, VersionConflict, VersionNotFound
from eventflow.log.heads import NOBODY, Entry, Head, Listed, Query
from eventflow.log.mirror import Mirror
from eventflow.log.queueing import Claim, Claimed, Queued
from eventflow.log.removal import Clear, Cleared, Compaction, Guard, Sweep, Swept, check_above
from eventflow.proof import digest, genesis
from eventflow.state import Status, WaitingFor

STORE_RUN = bytes(16)  # the run key of the store's own stream
STORE_NAME = "~store"  # its name, which no run id can be
STORE_VOUCH = 1 << 63  # set in "the version that vouches": it is a version of the store's own stream, not of the run
NO_DEFINITION = bytes(32)  # the definition digest that the store's own stream chains to


# Append, Appended and Sealed are made for every event and are not frozen: freezing them costs a tenth of a step.
@dataclass(frozen=True, slots=True)
class First:
    """What a run's first append also says: the digest its chain begins with, its entry in the list."""

    before: bytes
    entry: Entry
    at: int = 0  # the parent's version for a fork, whose own versions follow it


@dataclass(slots=True)
class Append:
    """Events of one run, all or nothing.

    `expected` is the version the writer believes is last, `epoch` the one it holds. `claim` takes the lease (and raises
    the epoch) if the run is free or its owner is gone; `release` lets it go. `taken` are inbox messages these events
    come from. `marks` ride along, and `posts`: messages to other runs, which are left out where such a run is not there.
    """

    run_id: str
    run_key: bytes
    incarnation: int
    expected: int
    epoch: int
    events: tuple[Packed, ...]
    time: int
    status: Status
    waiting_for: WaitingFor = ""
    claim: bytes = b""
    release: bool = False
    taken: tuple[int, ...] = ()
    marks: tuple[Checkpoint, ...] = ()
    first: First | None = None
    posts: tuple[Post, ...] = ()


class Appended(NamedTuple):
    """An append is durable: the run's new head, the position of its last event, the bytes its events take."""

    head: Head
    position: int
    digests: tuple[bytes, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Care of the cache: a snapshot to keep, marks to set, checkpoints to drop, or only their marks. Leaves no event.

    The snapshot at a run's origin is no cache: of that `drop` takes the mark alone.
    """

    run_key: bytes
    snapshot: PackedState | None = None
    marks: tuple[Checkpoint, ...] = ()
    drop: tuple[int, ...] = ()
    unmark: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """Upkeep is done; `snapshot` is False if the log lacked a piece that the snapshot takes for written."""

    snapshot: bool = True


@dataclass(frozen=True, slots=True)
class Act:
    """An operation by hand: an event of the store's own stream, and what it does, in one transaction.

    `delete_run` removes a run that must still have this head: it is in no list at once, and what it leaves is tidied up by
    this write as far as STEP rows go, and then by `Clear`. Refused with VersionConflict if it has moved on, RunGuarded if it
    has a guard, HasForks if a run that `folds_through` it is there. `compact` sets a run's origin, to the version of the
    snapshot that comes with `upkeep`, whose digest the event's header names; what comes before goes in the same way.
    Refused as `check_compaction` says, and with RunGuarded. `guard` sets a guard, `unguard` (by run and kind) lifts it;
    RunNotFound if the run is not there.
    """

    event: Packed
    time: int
    upkeep: Upkeep | None = None
    delete_run: Head | None = None
    compact: Compaction | None = None
    guard: Guard | None = None
    unguard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Acted:
    """An operation by hand is durable: its version in the store's own stream."""

    version: int


@dataclass(frozen=True, slots=True)
class Post:
    """A message for a run's inbox, from anybody; needs neither version nor epoch."""

    run_key: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Bring:
    """Events of one run as they were stored elsewhere, byte for byte, all or nothing; whoever brings them has checked them.

    `sealed` is what they are and where the run's history ends with them. `append` says where they go: its `events` hold
    their blobs and nothing else, its `expected` is the version they follow, its `first` is set where they begin the run.
    Answered as an append is; refused with VersionConflict where they do not follow.
    """

    append: Append
    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Posted:
    """A message is durable: its number, which rises within the store."""

    message: int


Write = Append | Upkeep | Act | Post | Clear | Sweep | Bring | Claim | Mirror
Answer = Appended | Kept | Acted | Posted | Cleared | Swept | Claimed


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds, in rows and bytes by kind: events, index, runs, blobs, snapshots, checkpoints, messages."""

    rows: Mapping[str, int]
    bytes: Mapping[str, int]
    file_bytes: int
    free_bytes: int
    positions: int


class Log(Protocol):
    """A store of events. Every method may be called from any thread; `write` is called by one at a time."""

    @property
    def store_id(self) -> bytes:
        """The store's id, 16 bytes."""
        ...

    @property
    def durable(self) -> bool:
        """Whether what it acknowledges outlives the process."""
        ...

    @property
    def readonly(self) -> bool:
        """Whether writes are refused."""
        ...

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """One durable transaction; an answer or an error for each write, in order. Raises StoreUnusable for all.

        A write that is refused leaves nothing behind: its error is a Conflict, or RunNotFound for upkeep and messages
        of a run that is not there.
        """
        ...

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        ...

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key; STORE_RUN is that of the store's own stream."""
        ...

    def next_incarnation(self, run_id: str) -> int:
        """The incarnation a new run of this id would have: 1, or one more than the deleted run's."""
        ...

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        ...

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        ...

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        ...

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        ...

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included; fewer where there are none."""
        ...

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store in order of position, from `after` + 1 on."""
        ...

    def position(self) -> int:
        """The position of the last event, 0 in an empty store."""
        ...

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends (rewinds, and the first version of a fork), rising."""
        ...

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by digest, checked. Raises Corrupt if one is missing or not what it is named by."""
        ...

    def blob_names(self, after: bytes, limit: int) -> list[bytes]:
        """Digests of blobs that are there, rising, from the first one after `after` on."""
        ...

    def guards(self) -> list[Guard]:
        """All guards on runs, in any order."""
        ...

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
        """(version, version of the event that vouches for it or 0) of a run's snapshots up to a version, newest first.

        `limit` is how many at most; asking for the newest few must not cost more the longer the history is.
        """
        ...

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root."""
        ...

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        ...

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages by number, oldest first."""
        ...

    def queued(self, queue: str, limit: int | None = None) -> list[Queued]:
        """The runs of a queue that are not over and stand neither still nor failed: the taken ones, then those that wait.

        Those that wait come in the order in which they will be taken; `limit` is how many of those at most. A run whose
        owner is gone waits, before all others.
        """
        ...

    def mail(self) -> list[bytes]:
        """The keys of runs that have messages waiting."""
        ...

    def owner_gone(self, owner: bytes) -> bool:
        """Whether an owner's process is gone (or the owner is NOBODY)."""
        ...

    def owner_text(self, owner: bytes) -> str:
        """An owner for people: its process, where that is known."""
        ...

    def holds(self, owner: bytes) -> bool:
        """Whether no other process can have taken this owner for gone yet; False where a lease may have ended unseen."""
        ...

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it."""
        ...

    def change_mark(self) -> int:
        """A number that changes whenever any process has written."""
        ...

    def usage(self) -> Usage:
        """What the store holds."""
        ...

    def close(self) -> None:
        """Let go of everything; later calls raise StoreClosed."""
        ...


class Transaction(Protocol):
    """A transaction of a store's database: `call`, then `finish` or `undo`; of a log that has `transaction()`."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function returns that is given the connection first. Raises what it raises, RolledBack, EffectMisused."""
        ...

    def finish(self, append: Append) -> Answer:
        """Commit, with an append. Raises its refusal, RolledBack or StoreUnusable; then nothing is kept."""
        ...

    def undo(self) -> None:
        """Take it back, after what is running in it, if it is not over."""
        ...


# --- the rules, shared by all backends ------------------------------------------------------------------------------


class Sealed(NamedTuple):
    """Events as they will be stored, and the head they lead to. `bends` and `vouched` index the run."""

    data: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    head: Head
    bends: tuple[int, ...]
    vouched: tuple[tuple[int, int], ...]


def admit(append: Append, head: Head | None, owner_gone: Callable[[bytes], bool]) -> Sealed:
    """Check an append against the run's head and seal its events. Raises VersionConflict, Fenced or RunOwned.

    The head of a deleted run has version 0 and NOBODY's run key; its id can be used again by a higher incarnation.
    """
    if head is None or fresh(append, head):
        head = _fresh_head(append, head)
    if head.version != append.expected or head.run_key != append.run_key:
        raise VersionConflict(append.run_id, append.expected, head.version)
    if head.epoch != append.epoch:
        raise Fenced(append.run_id, append.epoch, head.epoch)
    epoch, owner = head.epoch, head.owner
    if append.claim and owner != append.claim:
        if not owner_gone(owner):
            raise RunOwned(append.run_id, f"owner {owner.hex()}")
        epoch, owner = epoch + 1, append.claim
    return _sealed(append, head, epoch, NOBODY if append.release else owner)


def admit_brought(bring: Bring, head: Head | None) -> Sealed:
    """Check events from elsewhere against the run's head; they are sealed already. Raises VersionConflict."""
    append = bring.append
    if head is None or fresh(append, head):
        if append.first is None or not bring.sealed.data:
            raise VersionConflict(append.run_id, append.expected, head.version if head else 0)
    elif (head.version, head.run_key) != (append.expected, append.run_key):
        raise VersionConflict(append.run_id, append.expected, head.version)
    return bring.sealed


def fresh(append: Append, head: Head | None) -> bool:
    """Whether an append would begin a run: its id is new, or that of a deleted run of a lower incarnation."""
    return head is None or (not head.version and head.incarnation < append.incarnation)


def check_parent(first: First, parent: Head | None, origin: int = 0) -> None:
    """Refuse a fork whose parent is gone, has not come so far, or was compacted since (`origin` is the parent's).

    Raises RunNotFound or VersionNotFound.
    """
    entry = first.entry
    if parent is None:
        raise RunNotFound(entry.parent_id or entry.parent_key.hex())
    if not entry.parent_at == first.at <= parent.version:
        raise VersionNotFound(parent.run_id, first.at, parent.version)
    check_above(parent.run_id, first.at, origin, parent.version)


def _fresh_head(append: Append, old: Head | None) -> Head:
    if append.first is None or not append.events:
        raise VersionConflict(append.run_id, append.expected, old.version if old else 0)
    return Head(
        append.run_id, append.run_key, append.incarnation, append.first.at, append.first.before, 0, NOBODY, "pending", "",
        append.time,
    )  # fmt: skip


def _sealed(append: Append, head: Head, epoch: int, owner: bytes) -> Sealed:
    version, before = head.version, head.digest
    data: list[bytes] = []
    digests: list[bytes] = []
    bends: list[int] = []
    vouched: list[tuple[int, int]] = []
    for packed in append.events:
        version += 1
        stored = seal(packed, Place(append.run_key, append.incarnation, version, epoch, append.time, before))
        before = digest(stored)
        data.append(stored)
        digests.append(before)
        if packed.code in (REWOUND, FORKED):
            bends.append(version)
        if "snapshot" in packed.header:
            vouched.append((packed.header["snapshot"][0], version))
    moved = Head(
        append.run_id, append.run_key, append.incarnation, version, before, epoch, owner, append.status, append.waiting_for,
        append.time,
    )  # fmt: skip
    return Sealed(tuple(data), tuple(digests), moved, tuple(bends), tuple(vouched))


def store_genesis(store_id: bytes) -> bytes:
    """What version 1 of the store's own stream chains to."""
    return genesis(store_id, STORE_NAME, 0, NO_DEFINITION)


def store_append(act: Act, head: Head | None, store_id: bytes) -> Append:
    """An operation by hand as an append to the store's own stream, at whatever version it has reached."""
    first = None
    if head is None:
        first = First(store_genesis(store_id), Entry("", (), None, act.time))
    return Append(
        STORE_NAME, STORE_RUN, 0, head.version if head else 0, 0, (act.event,), act.time, "running", first=first
    )
