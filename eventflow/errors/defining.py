"""Errors of defining a workflow, and of what it is started with."""

from __future__ import annotations

from collections.abc import Sequence

from eventflow.errors.ground import EventflowError


class DefinitionError(EventflowError):
    """A workflow can't be built or run as it is written."""

    exit_code = 2


class SettingsError(EventflowError):
    """A setting, an argument or an address does not mean anything."""

    exit_code = 2


class MissingExtra(EventflowError):
    """Something was asked for that needs a package which is not installed."""

    exit_code = 2

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed, and this needs it: pip install 'eventflow[{extra}]'")


class WorkflowUnknown(EventflowError):
    """A run belongs to a workflow that this engine was not given."""

    exit_code = 2

    def __init__(self, run_id: str, workflow: str, known: Sequence[str]) -> None:
        self.run_id, self.workflow, self.known = run_id, workflow, tuple(known)
        have = ", ".join(known) or "none"
        super().__init__(
            f"run {run_id} belongs to workflow {workflow!r}, which this engine was not given (it has: {have}); "
            f"pass it as Engine(workflows=[...]) or --flow MODULE:FLOW"
        )


class NoCheckpointer(EventflowError):
    """A checkpoint was asked for where nothing keeps one."""

    exit_code = 2

    def __init__(self, what: str) -> None:
        super().__init__(
            f"no checkpointer configured: {what} needs a store that outlives the process; "
            f"give the engine a path, as in Engine('runs.eventflow')"
        )
