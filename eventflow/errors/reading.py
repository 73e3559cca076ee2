"""Errors of reading: what is asked for is not there, or is not what was written."""

from __future__ import annotations

from collections.abc import Sequence

from eventflow.errors.appending import StoreUnusable
from eventflow.errors.ground import EventflowError


class NotFound(EventflowError):
    """What was asked for is not there."""

    exit_code = 3


class StoreNotFound(NotFound):
    """There is no store at that place."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"no store at {path}; check --store (or EVENTFLOW_STORE), or start a run there, which creates it"
        )


class RunNotFound(NotFound):
    """No run has this id, nor begins with it."""

    def __init__(self, run_id: str, longer: Sequence[str] = ()) -> None:
        self.run_id = run_id
        said = "`eventflow list` shows what there is"
        if longer:
            shown = f"{', '.join(longer[:5])}{', …' if len(longer) > 5 else ''}"
            said = f"there is {shown}, but what changes a run takes its whole id"
        super().__init__(f"no run {run_id!r} in this store; {said}")


class AmbiguousRun(NotFound):
    """A prefix fits more than one run."""

    def __init__(self, prefix: str, matches: Sequence[str]) -> None:
        self.prefix, self.matches = prefix, tuple(matches)
        shown = ", ".join(matches[:5])
        super().__init__(
            f"{prefix!r} fits more than one run ({shown}{', …' if len(matches) > 5 else ''}); give more of the id"
        )


class VersionNotFound(NotFound):
    """A run has no such version on its line."""

    def __init__(self, run_id: str, version: int, head: int) -> None:
        self.run_id, self.version, self.head = run_id, version, head
        super().__init__(f"run {run_id} has no version {version}; its versions go from 1 to {head}")


class VersionCompacted(VersionNotFound):
    """A version lies before the one that a run was compacted to; what it was can't be told any more."""

    def __init__(self, run_id: str, version: int, origin: int, head: int) -> None:
        self.run_id, self.version, self.origin, self.head = run_id, version, origin, head
        NotFound.__init__(
            self,
            f"run {run_id} was compacted: its history begins at version {origin}, and version {version} lies before it; "
            f"its versions go from {origin} to {head}",
        )


class CheckpointNotFound(NotFound):
    """A run has no such checkpoint."""

    def __init__(self, run_id: str, checkpoint: str) -> None:
        self.run_id, self.checkpoint = run_id, checkpoint
        super().__init__(
            f"checkpoint not found: run {run_id} has no {checkpoint!r}; `eventflow checkpoints list {run_id}` shows what there is"
        )


class Corrupt(StoreUnusable):
    """Bytes in the store are not what was written; nothing is written on top of them."""

    def __init__(self, where: str, problem: str) -> None:
        self.where, self.problem = where, problem
        super().__init__(
            f"{where}: {problem}; nothing was changed, run `eventflow store verify` and restore from a backup"
        )


class WrittenByNewer(StoreUnusable):
    """The bytes use a format, type or flag that this version does not know."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where}: {what} was written by a newer eventflow; upgrade eventflow to read it")
