"""Where runs stand, as a log knows it without reading their histories: heads, and the entries of the list of runs.

What a log is asked to write, and by which rules it does, is said beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from eventflow.state import Status, WaitingFor

NOBODY = bytes(16)  # the owner of a run that nobody drives
QUEUED: frozenset[Status] = frozenset({"pending", "running", "waiting"})  # statuses of a run that is in its queue


# A head is made for every event and is not frozen: freezing it costs a part of a step.
@dataclass(slots=True)
class Head:
    """Where a run's history ends, as the log knows it without reading the history.

    `updated` is the time of the last event, ns since the epoch, UTC. `owner` is 16 bytes, NOBODY if the run is free.
    """

    run_id: str
    run_key: bytes
    incarnation: int
    version: int
    digest: bytes
    epoch: int
    owner: bytes
    status: Status
    waiting_for: WaitingFor
    updated: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What `list` shows of a run besides its head; written with its first event.

    `origin` is the version that the run was compacted to and its history begins with, 0 if it is whole.
    """

    workflow: str
    tags: tuple[str, ...]
    subject: str | None
    started: int
    parent_id: str | None = None
    parent_key: bytes = NOBODY
    parent_at: int = 0
    origin: int = 0
    queue: str = ""
    priority: int = 0
    queue_key: str = ""

    @property
    def folds_through(self) -> bool:
        """Whether its history still goes on from its parent's: it is a fork, and was not compacted."""
        return self.parent_id is not None and not self.origin


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in a list: its entry and its head."""

    entry: Entry
    head: Head


@dataclass(frozen=True, slots=True)
class Query:
    """Which runs a list holds: all that are given must fit. `since` is ns since the epoch, UTC."""

    status: Status | None = None
    workflow: str | None = None
    tag: str | None = None
    since: int | None = None
    limit: int | None = None


def claimed(head: Head, owner: bytes) -> Head:
    """A head once an owner has claimed its run."""
    return replace(head, owner=owner, epoch=head.epoch + 1)


def remains(run_id: str, incarnation: int, updated: int) -> Head:
    """What is left of a deleted run: its id, which only a higher incarnation can use again."""
    return Head(run_id, NOBODY, incarnation, 0, bytes(32), 0, NOBODY, "cancelled", "", updated)


def fits(listed: Listed, query: Query) -> bool:
    """Whether a run is among those a query asks for."""
    entry, head = listed.entry, listed.head
    return (
        (query.status is None or head.status == query.status)
        and (query.workflow is None or entry.workflow == query.workflow)
        and (query.tag is None or query.tag in entry.tags)
        and (query.since is None or entry.started >= query.since)
    )
