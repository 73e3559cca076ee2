"""Where a run stands at a version, as far as the headers of its events tell: for who reads without its keys."""

from __future__ import annotations

from typing import NamedTuple

from eventflow.errors import NoKey
from eventflow.event import RunResumed, Transitioned
from eventflow.log import Head, Log
from eventflow.recovery import CHUNK, history, line, recover


class Outline(NamedTuple):
    """Workflow, node and time at a version; `hidden` says why there is no more to tell: encrypted, or shredded."""

    workflow: str
    node: str
    time: int
    digest: bytes
    hidden: str


def outline(log: Log, head: Head, version: int) -> Outline:
    """What can be told of a run at a version without its values. Raises VersionNotFound, Corrupt."""
    entry = log.entry(head.run_key)
    node, found = "", None
    for segment in reversed(line(log, head.run_key, version)):
        for last in range(segment.last, segment.first - 1, -CHUNK):
            page = list(history(log, segment.run_key, max(segment.first, last - CHUNK + 1), last, hidden=True))
            for recorded in reversed(page):
                found = found or recorded
                event = recorded.event
                moved = event.to if isinstance(event, Transitioned | RunResumed) else ""
                node = moved or str(getattr(event, "node", ""))
                if node:
                    return Outline(entry.workflow if entry else "", node, found.time, found.digest, found.hidden)
    return Outline("", node, 0, b"", "")


def node_at(log: Log, head: Head, version: int) -> str:
    """The node a run stands on at a version, whether its values can be read or not."""
    try:
        return recover(log, head, version).state.node
    except NoKey:
        return outline(log, head, version).node
