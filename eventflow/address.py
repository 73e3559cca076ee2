"""Addresses: `RUN`, `RUN@17`, `RUN@2026-11-24T10:00Z`, `RUN@c-17`, ids by unique prefix.

The same in the command line, in URLs and in Python. What changes or deletes something takes whole ids only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from eventflow.clock import NS
from eventflow.codec import read_events
from eventflow.errors import (
    AmbiguousRun,
    CheckpointNotFound,
    NotFound,
    RunNotFound,
    SettingsError,
    VersionCompacted,
    VersionNotFound,
)
from eventflow.log import Head, Log
from eventflow.span import seconds_in

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_SHOWN = 20  # ids looked at for a prefix that fits several: enough to name a few
_PAGE = 500  # events read at a time when a moment is looked for
_VERSION = re.compile(r"[0-9]{1,19}")  # no more digits than a version of 64 bits has


@dataclass(frozen=True, slots=True)
class Address:
    """A run and a version of it."""

    head: Head
    version: int

    def __str__(self) -> str:
        return f"{self.head.run_id}@{self.version}"


def check_run_id(run_id: str) -> str:
    """The id itself if it may name a run. Raises SettingsError."""
    if not RUN_ID.fullmatch(run_id) or ".." in run_id:
        raise SettingsError(
            f"{run_id!r} can't be a run id: use 1 to 128 letters, digits and . _ : -, "
            f"begin with a letter or digit, no two dots in a row"
        )
    return run_id


def find_run(log: Log, text: str, *, whole: bool = False) -> Head:
    """The run of that id, or the only one whose id begins with it. Raises RunNotFound, AmbiguousRun, SettingsError."""
    _check_is_id(text, whole=whole)
    if RUN_ID.fullmatch(text) and (head := log.head(text)) is not None:
        return head
    ids = log.ids(text, _SHOWN) if RUN_ID.fullmatch(text) else []
    if whole or not ids:
        raise RunNotFound(text, ids)
    if len(ids) > 1:
        raise AmbiguousRun(text, ids)
    head = log.head(ids[0])
    if head is None:
        raise RunNotFound(text)
    return head


def _check_is_id(text: object, *, whole: bool) -> None:
    """Refuse what is no id, where it is clear what was meant instead. Raises SettingsError."""
    if not isinstance(text, str):
        raise SettingsError(f"a run is named by its id, as text (`run.id` of a Run); got {type(text).__name__}")
    run, at, point = text.partition("@")
    if whole and at and RUN_ID.fullmatch(run):
        raise SettingsError(
            f"{text!r} names a point of a run, and this is about the run as a whole: name {run!r}; "
            f"`eventflow resume {run} --at {point}` goes back to that point"
        )


def resolve(log: Log, text: str, *, whole: bool = False) -> Address:
    """What an address means. Raises RunNotFound, AmbiguousRun, VersionNotFound, CheckpointNotFound, SettingsError."""
    run, at, point = text.partition("@")
    head = find_run(log, run, whole=whole)
    return Address(head, version_at(log, head, point) if at else head.version)


def version_at(log: Log, head: Head, point: str) -> int:
    """The version that a point names: a number, a checkpoint's id, or a moment. Raises as `resolve` does."""
    if _VERSION.fullmatch(point):
        version = int(point)
        if not 1 <= version <= head.version:
            raise VersionNotFound(head.run_id, version, head.version)
        return version
    if point.startswith("c-"):
        return checkpoint_at(log, head, point)
    return _version_at_time(log, head, point)


def checkpoint_at(log: Log, head: Head, name: str) -> int:
    """The version of a checkpoint. Raises CheckpointNotFound."""
    for mark in log.checkpoints(head.run_key):
        if mark.id == name:
            return mark.version
    raise CheckpointNotFound(head.run_id, name)


def moment(text: str, *, now: int | None = None) -> int:
    """Ns since the epoch, UTC, of an ISO 8601 time (UTC if it names no zone), or of a span before `now` such as 2h."""
    span = None if now is None else seconds_in(text)
    if span is not None and now is not None:
        return now - round(span * NS)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        what = "a version, a checkpoint (c-17) or a time" if now is None else "a time, or a span such as 2h"
        raise SettingsError(f"{text!r} is not {what}; write a time as 2026-11-24T10:00Z") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return round((when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1_000


def _version_at_time(log: Log, head: Head, point: str) -> int:
    """The last version recorded at or before a moment: by version, since clocks jump. Raises NotFound."""
    when = moment(point)
    key, last = head.run_key, head.version
    while last >= 1:
        recorded = read_events(log.read(key, max(1, last - _PAGE + 1), last), log.blobs)
        for one in reversed(recorded):
            if one.time <= when:
                return one.version
        if recorded:
            last = recorded[0].version - 1
            continue
        entry = log.entry(key)  # what came before a fork is its parent's
        if entry is not None and entry.origin:
            raise VersionCompacted(head.run_id, entry.origin - 1, entry.origin, head.version)
        if entry is None or entry.parent_id is None:
            break
        key, last = entry.parent_key, min(last, entry.parent_at)
    raise NotFound(f"run {head.run_id} had not begun at {point}; `eventflow show {head.run_id}` tells when it did")
