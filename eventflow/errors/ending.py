"""Errors that tell how a run ended."""

from __future__ import annotations

from typing import Any

from eventflow.errors.ground import EventflowError


class RunFailed(EventflowError):
    """A run ended in failure; its log is intact and it can be resumed once the cause is mended.

    `lacking` says what the state had to have, where the cause is that it has not.
    """

    def __init__(self, run_id: str, node: str, error: Any, lacking: str = "") -> None:
        self.run_id, self.node, self.error = run_id, node, error
        advice = "" if "resume" in error.message else f"; {lacking or 'mend the cause, then resume the run'}"
        super().__init__(f"run {run_id} failed in node {node!r}: {error.type}: {error.message}{advice}")
        if place := own_place(error):
            self.add_note(f"{error.type} was raised at {place}")


def own_place(error: Any) -> str:
    """Where a failure was raised, if its cause is an error of the user's code; ours say in their sentence what to do."""
    return "" if error.type in _names(EventflowError) else str(error.where)


def _names(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


class RunTimedOutError(EventflowError):
    """A run's deadline passed before its end."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id} did not end before its deadline; rewind it, or fork it, to go on")


class RunCancelledError(EventflowError):
    """A run was cancelled."""

    def __init__(self, run_id: str, why: str) -> None:
        self.run_id, self.why = run_id, why
        super().__init__(f"run {run_id} was cancelled{f': {why}' if why else ''}")


class Stopped(EventflowError):
    """The engine was stopped in the middle of a run, or the run was parked; it goes on at the next resume.

    `parked` is why it was parked, empty if it was not.
    """

    exit_code = 7

    def __init__(self, run_id: str, parked: str = "") -> None:
        self.run_id, self.parked = run_id, parked
        said = f"parked: {parked}" if parked else f"stopped and can go on: `eventflow resume {run_id}`"
        super().__init__(f"run {run_id} was {said}")
