"""What it means to remove something from a log, whatever the log is made of: the words, and the rules.

Three things are removed: a run as a whole (`Act.delete_run`), the part of a run before a version (`Act.compact`), and blobs
that nobody refers to any more (`Sweep`). A removal takes effect at once, in the transaction of the event that tells of it;
what is left to tidy up after it is done in small steps (`Clear`), so that no transaction grows with a history and any
process may die in between. Nothing here reads or writes a log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from eventflow.codec import REWOUND, TOMBSTONE, Packed, decode
from eventflow.errors import Conflict, HasForks, RunGuarded, VersionCompacted, VersionNotFound
from eventflow.proof import digest

STEP = 1_000  # rows that one transaction removes at most: some MB of pages, some 10 ms
GuardKind = Literal["pin", "hold"]
GUARDS: tuple[GuardKind, ...] = ("pin", "hold")


@dataclass(frozen=True, slots=True)
class Guard:
    """Why a run may not be removed, in whole or in part: somebody pinned it, or the law holds it.

    `time` is when that was said, ns since the epoch, UTC. A run has at most one guard of each kind; the first one stays.
    """

    run_key: bytes
    kind: GuardKind
    time: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Compaction:
    """A run's history shall begin at version `at`, whose snapshot comes with the same operation and is the origin from then on.

    A log keeps the event at that version, refuses to drop the snapshot, and gives `at` as `Entry.origin`.
    """

    run_key: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Tidy up after deletions and compactions: at most `limit` rows, in any order that is the same after a crash.

    In the place of each event that is gone stands TOMBSTONE and its digest, whatever else goes.
    """

    limit: int = STEP


@dataclass(frozen=True, slots=True)
class Cleared:
    """A step of tidying up is durable: how many events got their tombstone, and whether there is more to do."""

    events: int
    left: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """A step of giving back blobs that nobody refers to.

    `mark=0` begins: its answer has the mark of this sweep, which no other sweep has. From then on until the end a log
    remembers which blobs are *kept anew*: an append or a snapshot brings the bytes of what it refers to, and where such a
    blob is there already it counts as new from then on. A snapshot that takes a piece for known which has not been kept
    anew is refused as if the piece were not there. So whoever has read every event and every snapshot after the
    beginning knows which of the blobs that were there before are needed.

    `forget` removes blobs by their digests, save those that were kept anew since the beginning, and those that are not
    there. `end` ends it. A mark that is not that of the newest sweep, or of one that has ended, is answered by Conflict.
    What a log remembers of a sweep outlives its process: a sweep that nobody ends costs writes and nothing else.
    """

    mark: int = 0
    forget: tuple[bytes, ...] = ()
    end: bool = False


@dataclass(frozen=True, slots=True)
class Swept:
    """A step is durable: the sweep's mark, how many blobs it removed, and their bytes as stored."""

    mark: int
    blobs: int = 0
    bytes: int = 0


def tombstone(data: bytes) -> bytes:
    """What stands in the place of an event that is gone; of one that is gone already, what stands there."""
    return data if data[:1] == TOMBSTONE else TOMBSTONE + digest(data)


def name_of(data: bytes) -> bytes:
    """The digest of an event as stored; of one that is gone, the one that its tombstone keeps."""
    return tombstone(data)[1:]


def check_unguarded(run_id: str, guards: Iterable[Guard]) -> None:
    """Refuse to remove anything of a run that is pinned or held. Raises RunGuarded."""
    for guard in guards:
        raise RunGuarded(run_id, guard.kind, guard.why)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a compaction depends on: the run's id, first own version, origin and head, and what leads below a version.

    `bends` are (version, version gone back to) of its rewinds, `forks` the versions that runs continue from which still
    fold through this one.
    """

    run_id: str
    first: int
    origin: int
    head: int
    bends: tuple[tuple[int, int], ...]
    forks: tuple[int, ...]


def check_compaction(at: int, run: Standing) -> None:
    """Refuse a compaction that would take away what somebody needs.

    Raises VersionNotFound, VersionCompacted, HasForks, Conflict.
    """
    if at < run.first or at > run.head:
        raise VersionNotFound(run.run_id, at, run.head)
    if run.origin and at <= run.origin:
        raise VersionCompacted(run.run_id, at, run.origin, run.head)
    if any(fork < at for fork in run.forks):
        raise HasForks(run.run_id)
    for version, to in run.bends:
        if version > at > to:
            raise Conflict(
                f"run {run.run_id} went back to version {to} at version {version}, so what it is rests on that; "
                f"compact it before version {to}, or before one after {version}"
            )


def check_above(run_id: str, version: int, origin: int, head: int) -> None:
    """Refuse to continue from a version that was compacted away. Raises VersionCompacted."""
    if version < origin:
        raise VersionCompacted(run_id, version, origin, head)


def rewind_target(packed: Packed) -> int | None:
    """The version that a fact about to be written goes back to, None if it is no rewind."""
    return int(packed.header["to"]) if packed.code == REWOUND else None


def stored_target(data: bytes) -> int | None:
    """The same of an event that is written."""
    event = decode(data, "a rewind")
    return int(event[8]["to"]) if event[7] == REWOUND else None
