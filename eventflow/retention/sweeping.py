"""Blobs given back: those that no event and no snapshot of the store refers to any more.

Which ones are needed is found out by reading, not by counting, so that nothing that was written wrongly once can make it
forget: every event and every snapshot is looked at after the sweep has begun, and the log keeps what is referred to anew
meanwhile. If anything can't be read, nothing is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from eventflow.codec import TOMBSTONE, blob_names, piece_names, refers
from eventflow.errors import Conflict, Corrupt, NoKey
from eventflow.forking import write_one
from eventflow.log import STEP, Answer, Clear, Cleared, Head, LockedLog, Log, Query, Sweep, Swept, Write

PAGE = 1_000  # events read at a time: a few MB, a few ms under a read transaction
WINDOW = 500_000  # blobs looked after in one pass over the store: 60 MB of digests
LAST_VERSION = 2**63 - 1  # the highest version there can be
Writes = Callable[[Write], Answer]


@dataclass(frozen=True, slots=True)
class Freed:
    """What was given back: blobs, and their bytes as stored."""

    blobs: int = 0
    bytes: int = 0

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.blobs + other.blobs, self.bytes + other.bytes)


def writes_to(log: Log) -> Writes:
    """How a write is made where nobody else drives the log: on this thread, in a transaction of its own."""
    return lambda write: write_one(log, write)


def tidy(log: Log, write: Writes | None = None) -> int:
    """Do what deletions and compactions have left to be done, step by step; returns how many events got their tombstone."""
    write, events = write or writes_to(log), 0
    while True:
        step = write(Clear())
        assert isinstance(step, Cleared)  # noqa: S101 - a Clear is answered by Cleared
        events += step.events
        if not step.left:
            return events


def blobs_of(log: Log, head: Head) -> set[bytes]:
    """The blobs that a run's own events and snapshots refer to."""
    found: set[bytes] = set()
    entry = log.entry(head.run_key)
    first = entry.parent_at + 1 if entry is not None else 1
    for start in range(max(first, 1), head.version + 1, PAGE):
        events = log.read(head.run_key, start, min(start + PAGE - 1, head.version))
        found |= blob_names((one for one in events if refers(one.data)), hidden=True)
    for names in _of_snapshots(log, head.run_key):
        found |= names
    return found


def sweep(log: Log, names: Iterable[bytes] | None = None, *, write: Writes | None = None) -> Freed:
    """Give back blobs that nobody refers to: all such, or those among some.

    Whoever sweeps at the same time takes over: this one then stops where it is. Raises Corrupt, and removes nothing more,
    where something can't be read.
    """
    write = write or writes_to(log)
    wanted = None if names is None else sorted(set(names))
    if wanted == [] or not log.blob_names(b"", 1):
        return Freed()
    begun = write(Sweep())
    assert isinstance(begun, Swept)  # noqa: S101 - a Sweep is answered by Swept
    freed = Freed()
    try:
        for window in _windows(log, wanted):
            dead = set(window)
            _spare(log, dead)
            for step in _batched(sorted(dead), STEP):
                answer = write(Sweep(begun.mark, step))
                assert isinstance(answer, Swept)  # noqa: S101
                freed += Freed(answer.blobs, answer.bytes)
        write(Sweep(begun.mark, end=True))
    except Conflict:
        return freed
    return freed


def _windows(log: Log, wanted: list[bytes] | None) -> Iterator[Iterable[bytes]]:
    if wanted is not None:
        yield from _batched(wanted, WINDOW)
        return
    after = b""
    while window := log.blob_names(after, WINDOW):
        yield window
        after = window[-1]


def _batched(names: Iterable[bytes], count: int) -> Iterator[tuple[bytes, ...]]:
    """Some names at a time."""
    left = iter(names)
    while batch := tuple(islice(left, count)):
        yield batch


def _spare(log: Log, dead: set[bytes]) -> None:
    """Take out of a set of blobs those that an event or a snapshot refers to.

    What is encrypted with a key that is not here stays; what was shredded refers to nothing that anybody could read.
    """
    position = 0
    while dead and (page := log.feed(position, PAGE)):
        position = page[-1].position
        dead -= blob_names((one for one in page if one.data[:1] != TOMBSTONE and refers(one.data)), hidden=True)
    for listed in log.runs(Query()) if dead else ():
        for names in _of_snapshots(log, listed.head.run_key):
            dead -= names
    if isinstance(log, LockedLog):
        dead -= log.kept_by_others(dead)


def _of_snapshots(log: Log, run_key: bytes) -> Iterator[set[bytes]]:
    """The blobs of each snapshot of a run."""
    for version, _ in log.snapshots(run_key, LAST_VERSION):
        try:
            root = log.snapshot(run_key, version)
        except NoKey:  # its blobs are under the same key
            return
        if root is None:  # dropped since it was listed
            continue
        try:
            yield piece_names(root, log.blobs)
        except Corrupt:
            if log.snapshot(run_key, version) is not None:
                raise
