"""Everything that can go wrong, grouped by the moment it goes wrong.

One base class, one child for each case a caller may want to tell apart. Each error is one sentence that says what
happened and what to do next, and carries its values as attributes. `exit_code` is what the command line returns for it
(0 ok, 1 the run failed, 2 usage, 3 not found, 4 verification failed, 5 conflict, 6 the store can't be used, 7 stopped
and resumable). Nothing may be imported here: this is the ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class EventflowError(Exception):
    """Every error this package raises on purpose is one of these.

    They can be pickled, so that they survive the way out of a worker process.
    """

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.args, self.__dict__)


def _revived(kind: type[EventflowError], args: tuple[Any, ...], values: dict[str, Any]) -> EventflowError:
    """An error from its parts, past an `__init__` that takes others than `args`."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error


# --- defining a workflow -------------------------------------------------------------------------------------------


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


# --- deciding ------------------------------------------------------------------------------------------------------


class NotPlainData(EventflowError):
    """A value is not plain data (None, bool, 64-bit int, float, text, bytes, list, dict with text keys) or too large."""

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path or 'the value'} {problem}")


class InvalidState(EventflowError):
    """A value does not fit the type that the workflow declares for its state."""

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"state field {path}: {problem}")


class StateIsReadOnly(EventflowError, TypeError):
    """A node tried to change its state in place."""

    def __init__(self, method: str) -> None:
        super().__init__(f"state is read-only ({method} was called on it): return the change instead, as a dict")


class NoEdgeHolds(EventflowError):
    """No edge out of a node holds for its state."""

    def __init__(self, node: str, trigger: str, edges: Sequence[str]) -> None:
        self.node, self.trigger, self.edges = node, trigger, tuple(edges)
        tried = "; ".join(edges) or "none on this trigger"
        super().__init__(
            f"no edge out of node {node!r} holds after {trigger!r} (tried: {tried}): "
            f"add a last edge without `when`, then resume the run"
        )


class GuardFailed(EventflowError):
    """A guard raised instead of answering."""

    def __init__(self, node: str, guard: str, error: BaseException) -> None:
        self.node, self.guard = node, guard
        super().__init__(
            f"guard {guard!r} on an edge out of node {node!r} raised {type(error).__name__}: {error}; "
            f"mend the guard, then resume the run"
        )


class UndeclaredTarget(EventflowError):
    """A node returned Go(...) to a node that is not among its declared targets."""

    def __init__(self, node: str, target: str, declared: Sequence[str]) -> None:
        self.node, self.target, self.declared = node, target, tuple(declared)
        have = ", ".join(declared) or "none"
        super().__init__(
            f"node {node!r} went to {target!r}, which is not among its declared targets ({have}); "
            f"declare it with add_edge or add_node(..., targets=[...])"
        )


class BranchesDisagree(EventflowError):
    """Two branches brought the same field, and no reducer says how the two become one."""

    def __init__(self, field: str, one: str, other: str) -> None:
        self.field, self.one, self.other = field, one, other
        super().__init__(
            f"branches {one!r} and {other!r} both bring {field!r}: declare how the two become one "
            f"(Annotated[..., extend], add, merge or a function), or let each write a field of its own"
        )


class BudgetExceeded(EventflowError):
    """A run has used what it was given."""

    def __init__(self, run_id: str, what: str) -> None:
        self.run_id, self.what = run_id, what
        super().__init__(
            f"run {run_id} has used its budget ({what}); resume it with a larger one, as budget=Budget(...)"
        )


# --- appending -----------------------------------------------------------------------------------------------------


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


class StoreUnusable(EventflowError):
    """The store can't be used: full, read-only, unreachable, of another format or broken."""

    exit_code = 6


class StoreFull(StoreUnusable):
    """The disk or the map has no room; nothing of the batch was written, what was acknowledged is safe."""


class StoreBusy(StoreUnusable):
    """Another process holds the store's write gate for longer than the timeout."""


class StoreClosed(StoreUnusable):
    """The store was closed, or inherited through a fork, and can't be used any more."""


# --- reading -------------------------------------------------------------------------------------------------------


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

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"no run {run_id!r} in this store; `eventflow list` shows what there is")


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


# --- recovering ----------------------------------------------------------------------------------------------------


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


# --- calling out ---------------------------------------------------------------------------------------------------


class EffectMisused(EventflowError):
    """Two calls can't be told apart, or a call differs from the one recorded under its identity."""


class EffectUnknown(EventflowError):
    """A mutating effect was started before a crash and nothing says whether it happened."""

    def __init__(self, run_id: str, effect: str, key: str) -> None:
        self.run_id, self.effect, self.key = run_id, effect, key
        super().__init__(
            f"run {run_id}: effect {effect!r} (key {key}) was started and its outcome is unknown; find out whether it "
            f"happened, record that with `eventflow settle {run_id} {effect} --key {key}`, or Engine.settle, and resume"
        )


class NodeTimedOut(EventflowError, TimeoutError):
    """A node's body took longer than its timeout; its result is dropped."""


class NodeCancelled(EventflowError):
    """A node's body was cancelled, and not by the engine: by something it waited for."""


class BranchesFailed(EventflowError):
    """More branches of a node failed than it tolerates."""

    def __init__(self, node: str, failed: Sequence[str], count: int, first: str) -> None:
        self.node, self.failed, self.count = node, tuple(failed), count
        names = ", ".join(self.failed[:5]) + (", …" if len(self.failed) > 5 else "")
        super().__init__(
            f"{len(self.failed)} of {count} branches of node {node!r} failed ({names}); the first: {first}"
        )


class ChildFailed(EventflowError):
    """A run that was started as a part of another did not end well."""

    def __init__(self, run_id: str, status: str, error: str) -> None:
        self.run_id, self.status = run_id, status
        self.message = 0  # the number of the message that told of it
        super().__init__(f"child run {run_id} {status.replace('_', ' ')}" + (f": {error}" if error else ""))


class RunLost(EventflowError):
    """A node's handle was taken away: the node timed out, was cancelled, or the run is driven elsewhere."""


class ModelUnavailable(EventflowError):
    """A model server could not be reached or answered with an error; another attempt may succeed."""

    def __init__(self, problem: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        self.status, self.retry_after = status, retry_after
        super().__init__(problem)


class ModelRefused(EventflowError):
    """A model, or its server, did not do what was asked; asked the same again, it would not either."""

    def __init__(self, problem: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(problem)


class MissingApiKey(EventflowError):
    """Neither a key nor a server of one's own was given."""

    exit_code = 2

    def __init__(self) -> None:
        super().__init__(
            "no model to call: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own, "
            "or pass Agent(client=...)"
        )


class ConversationTooLong(ModelRefused):
    """A conversation is longer than the model can read; sent again it would be just as long."""


class ContentFiltered(ModelRefused):
    """A content filter stopped a question or its answer."""


class OutputInvalid(ModelRefused):
    """A model's answers did not fit the form that was asked for, as often as it was told so."""

    def __init__(self, form: str, answers: int, problem: str) -> None:
        self.form, self.answers, self.problem = form, answers, problem
        super().__init__(
            f"the model's answer does not fit {form}, after {answers} answers ({problem}); "
            f"raise output_retries= or make the form simpler, then resume the run"
        )


class TooManyTurns(ModelRefused):
    """A model went on asking for tools past the agent's number of turns."""

    def __init__(self, turns: int, asked: Sequence[str]) -> None:
        self.turns, self.asked = turns, tuple(asked)
        super().__init__(
            f"the model has no answer after {turns} turns and asks for more tools ({', '.join(asked)}); "
            f"raise max_turns= or tell it when to stop, then resume the run"
        )


# --- ending --------------------------------------------------------------------------------------------------------


class RunFailed(EventflowError):
    """A run ended in failure; its log is intact and it can be resumed once the cause is mended."""

    def __init__(self, run_id: str, node: str, error: Any) -> None:
        self.run_id, self.node, self.error = run_id, node, error
        advice = "" if "resume" in error.message else "; mend the cause, then resume the run"
        super().__init__(f"run {run_id} failed in node {node!r}: {error.type}: {error.message}{advice}")


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
    """The engine was stopped in the middle of a run, which goes on at the next resume."""

    exit_code = 7

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id} was stopped and can go on: `eventflow resume {run_id}`")
