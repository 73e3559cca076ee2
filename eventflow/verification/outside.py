"""What can be verified of a run whose values can't be read, for want of a key or because the key was destroyed.

Digests and the chain are over the bytes as they are stored, so density, places, chain, head and bends are checked as ever.
What the values are, and whether they fold to the snapshots, only a key can tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventflow.errors import Corrupt
from eventflow.event import Forked, Recorded, Rewound, RunStarted
from eventflow.log import Entry, Head, Log
from eventflow.proof import digest, genesis
from eventflow.recovery import history, line


def outside(log: Log, head: Head, entry: Entry | None) -> Iterator[Recorded]:
    """Each event of a run's own history, checked as far as it can be without its values. Raises Corrupt."""
    if entry is None:
        raise Corrupt("the run list", "does not have this run")
    first = max(entry.parent_at + 1, entry.origin)
    before: bytes | None = None
    bends: list[int] = []
    version = first - 1
    for recorded in history(log, head.run_key, first, head.version, strict=True, hidden=True):
        version += 1
        if (recorded.version, recorded.run_key, recorded.incarnation) != (version, head.run_key, head.incarnation):
            raise Corrupt(f"version {version}", "is missing, or another event stands at its place")
        if version == first:
            before = recorded.before if version == entry.origin else _first_before(log, head, recorded)
        if recorded.before != before:
            raise Corrupt(f"version {version}", "does not follow the event before it: the chain is broken")
        bends += [version] if isinstance(recorded.event, Forked | Rewound) else []
        before = recorded.digest
        yield recorded
    if (version, before) != (head.version, head.digest):
        raise Corrupt(
            "the head", f"speaks of version {head.version}, the history ends at {version}, or at another event"
        )
    if bends != [one for one in log.bends(head.run_key) if first <= one <= head.version]:
        raise Corrupt("the index of rewinds and forks", "is not what the history says")


def _first_before(log: Log, head: Head, recorded: Recorded) -> bytes:
    """What a run's first event must follow. Raises Corrupt."""
    event = recorded.event
    if isinstance(event, RunStarted) and event.run_id == head.run_id:
        return genesis(event.store_id, event.run_id, recorded.incarnation, event.definition_digest)
    if isinstance(event, Forked) and event.run_id == head.run_id:
        run_key = line(log, event.parent_key, event.at)[-1].run_key
        stored = log.read(run_key, event.at, event.at)
        if stored:
            return digest(stored[0].data)
    raise Corrupt(f"version {recorded.version}", "is not how a run of this id begins")
