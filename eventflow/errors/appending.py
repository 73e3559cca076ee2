"""Errors of appending to a log: somebody was first, or the store can't be used."""

from __future__ import annotations

from eventflow.errors.ground import EventflowError


class Conflict(EventflowError):
    """Somebody else got there first."""

    exit_code = 5


class VersionConflict(Conflict):
    """An append expected another version than the run has; nothing was written."""

    def __init__(self, run_id: str, expected: int, actual: int) -> None:
        self.run_id, self.expected, self.actual = run_id, expected, actual
        super().__init__(
            f"run {run_id}: expected version {expected}, the log is at {actual}; load the run and decide again"
        )


class Fenced(Conflict):
    """A writer lost its lease: the run's epoch is higher than the one it holds; nothing was written."""

    def __init__(self, run_id: str, held: int, actual: int) -> None:
        self.run_id, self.held, self.actual = run_id, held, actual
        super().__init__(
            f"run {run_id}: this writer holds epoch {held}, the run is at {actual}; "
            f"another process has taken it over, stop driving it here"
        )


class RunOwned(Conflict):
    """A living process drives this run."""

    def __init__(self, run_id: str, owner: str) -> None:
        self.run_id, self.owner = run_id, owner
        super().__init__(
            f"run {run_id} is driven by {owner}, which is alive; wait for it, stop it, or send it a signal"
        )


class RolledBack(EventflowError):
    """A transaction was taken back by the database, with everything that was written in it; it may be made again."""

    exit_code = 6


class RunExists(Conflict):
    """The id belongs to a run with another workflow or another input."""

    def __init__(self, run_id: str, difference: str) -> None:
        self.run_id, self.difference = run_id, difference
        super().__init__(f"run {run_id} exists with {difference}; choose another id, or delete that run first")


class HasForks(Conflict):
    """A run can't be deleted while others continue its history."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id} has forks that continue its history; delete those first")


class RunGuarded(Conflict):
    """A run is pinned or on legal hold: nothing of it may be removed."""

    def __init__(self, run_id: str, kind: str, why: str) -> None:
        self.run_id, self.kind = run_id, kind
        said = "on hold" if kind == "hold" else "pinned"
        undo = "release" if kind == "hold" else "unpin"
        super().__init__(
            f"run {run_id} is {said}{f' ({why})' if why else ''}, so nothing of it may be removed; "
            f"`eventflow {undo} {run_id}` lifts that"
        )


class StoreUnusable(EventflowError):
    """The store can't be used: full, read-only, unreachable, of another format or broken."""

    exit_code = 6


class StoreFull(StoreUnusable):
    """The disk or the map has no room; nothing of the batch was written, what was acknowledged is safe."""


class StoreOverQuota(StoreUnusable):
    """The store holds as much as it may: no new run is started, those that have begun go on."""

    def __init__(self, used: int, limit: int) -> None:
        self.used, self.limit = used, limit
        super().__init__(
            f"the store holds {used:,} bytes and its quota (store_bytes) is {limit:,}, so no new run is started and those that "
            f"have begun go on; remove runs with `eventflow store prune`, or raise it"
        )


class StoreBusy(StoreUnusable):
    """Another process holds the store's write gate for longer than the timeout."""


class StoreUnreachable(StoreUnusable):
    """The server that holds the store does not answer, or is not the one that held it; what was acknowledged is safe."""


class StoreClosed(StoreUnusable):
    """The store was closed, or inherited through a fork, and can't be used any more."""
