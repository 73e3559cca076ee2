"""Who has a store open, and what they keep from being given back: a part of `store info`."""

from __future__ import annotations

import os
from typing import Any

from eventflow.cli.shell import counted
from eventflow.log import LmdbLog, LockedLog, Log, Query

LONG = 1_000  # transactions behind: a reader of one page is gone after one or two; a copy of a large store takes longer


def attending(log: Log) -> dict[str, Any] | None:
    """Readers, writer and owners of a store, with a word on what to do where there is something; None if it is no file."""
    inner = log.inner if isinstance(log, LockedLog) else log
    if not isinstance(inner, LmdbLog):
        return None
    found = inner.readers()
    readers = [
        {"process": pid, "thread": f"{thread:x}", "transaction": since if since >= 0 else None,
         "behind": found.last - since if since >= 0 else 0}
        for pid, thread, since in found.readers
        if not (pid == os.getpid() and since < 0)
    ]  # fmt: skip
    owners: dict[str, int] = {}
    for one in inner.runs(Query()):
        if not inner.owner_gone(one.head.owner):
            name = inner.owner_text(one.head.owner)
            owners[name] = owners.get(name, 0) + 1
    return {
        "readers": readers, "oldest": found.lag, "cleared": found.cleared, "writer": found.writer or None,
        "owners": owners, "warnings": _warnings(readers, found.writer),
    }  # fmt: skip


def _warnings(readers: list[dict[str, Any]], writer: str) -> list[str]:
    said = [
        f"process {one['process']} has been reading since {one['behind']:,} transactions ago: no page freed since is used "
        f"again, and the file grows; end that process, or close what it has open"
        for one in readers
        if one["behind"] >= LONG
    ]
    if writer:
        said.append(f"process {writer} is writing; if this stays so, look whether it is stopped or its disk hangs")
    return said


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    said: list[str] = []
    if not found:
        return said
    reading = [
        f"process {one['process']}" + (f" ({one['behind']} behind)" if one["behind"] else "")
        for one in found["readers"]
    ]
    if reading:
        said.append("open in: " + ", ".join(reading))
    if found["owners"]:
        said.append(
            "driven by: " + ", ".join(f"{name} ({counted(count, 'run')})" for name, count in found["owners"].items())
        )
    if found["cleared"]:
        said.append(f"{found['cleared']} readers that died were cleared away")
    return [*said, *found["warnings"]]
