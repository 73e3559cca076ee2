"""Errors of taking a run up again."""

from __future__ import annotations

from eventflow.errors.appending import Conflict
from eventflow.errors.ground import EventflowError


class NodeNotFound(EventflowError):
    """The node a run stands on is gone from the definition, or is of another kind."""

    exit_code = 3

    def __init__(self, run_id: str, node: str, difference: str) -> None:
        self.run_id, self.node, self.difference = run_id, node, difference
        super().__init__(
            f"node not found during resume: run {run_id} stands on {node!r}, and the definition changed since "
            f"({difference}); put the node back, or resume at an earlier checkpoint"
        )


class DefinitionChanged(Conflict):
    """A strict resume met another definition."""

    def __init__(self, run_id: str, difference: str) -> None:
        self.run_id, self.difference = run_id, difference
        super().__init__(
            f"run {run_id} was started with another definition ({difference}) and resume is strict; "
            f"use the old definition, or resume without strict"
        )


class NotResumable(Conflict):
    """A run can't go on from where it is."""

    def __init__(self, run_id: str, why: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id} can't be resumed: {why}")


class NotWaiting(Conflict):
    """A run does not ask anybody anything."""

    def __init__(self, run_id: str, status: str) -> None:
        self.run_id, self.status = run_id, status
        super().__init__(
            f"run {run_id} asks nobody anything ({status}); `eventflow show {run_id}` tells where it stands"
        )


class NeedsConfirmation(EventflowError):
    """An operation would take back or repeat something; it must be confirmed."""

    exit_code = 2

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; confirm with yes=True, or --yes")
