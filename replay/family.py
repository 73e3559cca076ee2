"""The family of a run as a tree: who forked whom, and which run started which as a part of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eventflow.address import Address
from eventflow.codec import read_events
from eventflow.event import RunStarted, WaitOpened
from eventflow.log import Head, Log
from eventflow.recovery import recover
from eventflow.what_if import is_what_if
from replay.skim import Unfamiliar, glance, stored_events, whole

MAX_FAMILY = 500  # runs of one family that a tree shows: more than anybody reads
CHILD = "child"  # the kind of a wait for a run that was started by the one that waits


@dataclass(frozen=True, slots=True)
class Member:
    """A run in its family: how it came about (`root`, `fork` or `child`), at which version of the run above it, how deep.

    `what_if` says that it does not make every call that it would.
    """

    head: Head
    how: str
    at: int
    depth: int
    what_if: bool = False


def first_version(log: Log, run_key: bytes) -> int:
    """The first version that is a run's own: a fork's follow its parent's."""
    entry = log.entry(run_key)
    return entry.parent_at + 1 if entry is not None and entry.parent_id is not None else 1


def above(log: Log, run_key: bytes) -> Head | None:
    """The run that a run was forked from or started by, if it is in the store."""
    entry = log.entry(run_key)
    if entry is not None and entry.parent_id is not None:
        return log.head_of(entry.parent_key)
    head = log.head_of(run_key)
    if entry is not None and entry.origin and head is not None:  # its first event is gone; its state says it too
        caller = recover(log, head, entry.origin).state.run.caller
        return None if caller is None else log.head_of(caller.run_key)
    stored = log.read(run_key, 1, 1)
    event = read_events(stored, log.blobs)[0].event if stored else None
    return log.head_of(event.caller_key) if isinstance(event, RunStarted) and event.caller_key else None


def forks(log: Log, run_key: bytes) -> list[tuple[int, Head]]:
    """The forks of a run, each with the version it continues, those of earlier versions first."""
    found = []
    for key in log.children(run_key):
        head, entry = log.head_of(key), log.entry(key)
        if head is not None and entry is not None:
            found.append((entry.parent_at, head))
    return sorted(found, key=lambda one: (one[0], one[1].run_id))


def children(log: Log, place: Address) -> Iterator[tuple[int, Head]]:
    """The runs that a run started as parts of itself, each with the version at which it began to wait for it."""
    seen: set[str] = set()
    for stored in stored_events(log, place.head.run_key, first_version(log, place.head.run_key), place.version):
        try:
            seen_event = glance(stored)
            kind, header, version = seen_event.kind, seen_event.header, seen_event.version
        except Unfamiliar:
            recorded = whole(log, stored)
            kind, version = type(recorded.event), recorded.version
            header = {name: getattr(recorded.event, name, "") for name in ("kind", "name")}
        name = str(header.get("name", ""))
        if kind is not WaitOpened or header.get("kind") != CHILD or name in seen:
            continue
        seen.add(name)
        head = log.head(name)
        if head is not None and _is_of(log, head, place.head.run_key):
            yield version, head


def _is_of(log: Log, head: Head, run_key: bytes) -> bool:
    caller = above(log, head.run_key)
    return caller is not None and caller.run_key == run_key


def family(log: Log, head: Head) -> list[Member]:
    """All of a run's family, from the run it all began with down, depth first; cut at MAX_FAMILY."""
    found: list[Member] = []
    root = _root(log, head)
    waiting = [Member(root, "root", 0, 0)]
    while waiting and len(found) < MAX_FAMILY:
        one = waiting.pop()
        found.append(replace(one, what_if=is_what_if(log, one.head)))
        below = [Member(run, "fork", at, one.depth + 1) for at, run in forks(log, one.head.run_key)]
        started = children(log, Address(one.head, one.head.version))
        below += [Member(run, CHILD, at, one.depth + 1) for at, run in started]
        waiting += sorted(below, key=lambda member: (member.at, member.head.run_id), reverse=True)
    return found


def _root(log: Log, head: Head) -> Head:
    seen = {head.run_key}
    while (over := above(log, head.run_key)) is not None and over.run_key not in seen:
        seen.add(over.run_key)
        head = over
    return head
