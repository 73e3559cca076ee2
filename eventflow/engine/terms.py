"""On what terms a run is taken up again: who may drive it, and when somebody must say yes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eventflow.budget import Budget
from eventflow.change import NO_CHANGE, Change, apply
from eventflow.codec import root_digest, state_digest
from eventflow.engine.drive import CUT_OFF
from eventflow.errors import (
    DefinitionChanged,
    DefinitionError,
    InvalidState,
    NodeNotFound,
    NotResumable,
    WorkflowUnknown,
)
from eventflow.event import RunResumed, RunSuspended, Vouch
from eventflow.forking import who
from eventflow.log import NOBODY, Head, Log
from eventflow.plain import thaw
from eventflow.recovery import history
from eventflow.state import State, branch, branch_names, open_waits
from eventflow.what_if import EffectPolicy
from eventflow.workflow import Go, Workflow, difference

LONGEST_TIMEOUT = 100 * 366 * 86_400.0  # seconds; what ends later is no deadline, and its moment fits no 64 bits


def check_start(flow: object, tags: object, timeout: object, budget: object) -> None:
    """Refuse what no run can be started with, in a sentence each: a type checker does not look at every program."""
    if not isinstance(flow, Workflow):
        raise DefinitionError(f"start takes the workflow itself, as in start(flow, data); got {type(flow).__name__}")
    if isinstance(tags, str):
        raise DefinitionError(f"start(tags=...) takes a list: write tags=[{tags!r}]")
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout <= LONGEST_TIMEOUT):
        raise DefinitionError("start(timeout=...) is in seconds: give more than 0, at most a hundred years")
    if budget is not None and not isinstance(budget, Budget):
        raise DefinitionError(f"start(budget={budget!r}) takes a Budget, as in Budget(steps=100)")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the caller of `resume` said."""

    strict: bool = False
    yes: bool = False
    stop_before: frozenset[str] = frozenset()
    actor: str = ""
    why: str = ""
    reuse: bool = False
    keep_signals: bool = False
    budget: Budget | None = None
    migrate: Callable[[Any], Any] | None = None
    effects: EffectPolicy | None = None

    @property
    def changes(self) -> bool:
        """Whether taking the run up changes what it is, may use or may call."""
        return self.budget is not None or self.migrate is not None or self.effects is not None


def by_name(workflows: Iterable[Workflow]) -> dict[str, Workflow]:
    """Workflows by their names, those of their children included. Raises DefinitionError if two have the same: a run could be driven by the wrong one."""
    if isinstance(workflows, Workflow):
        raise DefinitionError("Engine(workflows=...) takes a list: write workflows=[flow]")
    found: dict[str, Workflow] = {}
    todo = list(workflows)
    while todo:
        flow = todo.pop(0)
        known = found.setdefault(flow.name, flow)
        if known is not flow:
            raise DefinitionError(f"two workflows are named {flow.name!r}; an engine tells them apart by their names")
        todo.extend(child for child in flow.children() if found.get(child.name) is not child)
    return found


def is_undone(state: State) -> bool:
    """Whether a run failed and has taken back what it did."""
    return state.status == "failed" and state.undoing is not None and not state.undo


def check_undone(state: State) -> None:
    """Refuse a run that failed and has taken back what it did: its data speaks of what is not so any more."""
    if is_undone(state):
        raise NotResumable(state.run.run_id, "what it did was taken back; rewind it with at=, or fork it")


def resumed(flow: Workflow, state: State, terms: Terms) -> RunResumed:
    """The event of taking a run up again, with the definition where it is not the one that is known so far."""
    shape = None if flow.digest == state.run.definition_digest else flow.shape
    budget = None if terms.budget is None else terms.budget.plain()
    effects = None
    if terms.effects is not None:
        if not state.run.policy:
            raise NotResumable(state.run.run_id, "it is no what-if run, and makes every call; fork it with effects=")
        effects = terms.effects.plain(state.run.policy.get("recorded"))
    return RunResumed(state.node, flow.digest, shape, terms.actor or who(), terms.why, budget, effects=effects)


def upcaster(flow: Workflow, state: State) -> Callable[[Any], Any] | None:
    """What the workflow itself does to data of the version that the run is of, if that is another one than its own."""
    version = state.run.definition.get("version", "")
    return None if version == flow.version or state.undoing is not None else flow.upcasters.get(version)


def migrated(flow: Workflow, state: State, terms: Terms) -> tuple[Change, str]:
    """What a migration makes of the data, and the node it moves the run to, if to another one.

    The function gets the data as a dict that can be changed, and returns the new data, or Go(node, data); Go(node) leaves
    the data as they are. Raises InvalidState, NotPlainData, NodeNotFound, NotResumable, and what the function raises.
    """
    run = state.run
    migrate = terms.migrate or upcaster(flow, state)
    if migrate is None:
        return NO_CHANGE, ""
    if state.undoing is not None:
        raise NotResumable(run.run_id, "it is taking back what it did; resume it without migrate=")
    data = thaw(state.data)
    made, to = migrate(data), ""
    if isinstance(made, Go):
        to = made.target if made.target != state.node else ""
        made = thaw(state.data) if made.update is None else made.update
        if to and to not in flow.nodes:
            raise NodeNotFound(run.run_id, to, difference(run.definition, flow.shape))
    if made is None:
        raise InvalidState("data", "a migration returns the new data, and this one returned None")
    change = flow.schema.replacement(made, state.data)
    flow.schema.view(apply(state.data, change))
    return change, to


def planned(flows: Mapping[str, Workflow], state: State, terms: Terms) -> tuple[Workflow, RunResumed, str]:
    """The workflow that may go on with a state, the event of taking it up, and the node a migration moves it to, if any.

    Raises WorkflowUnknown, NodeNotFound, DefinitionChanged, and as `migrated` does.
    """
    flow = flow_named(flows, state)
    if terms.migrate is not None and terms.strict:
        check_same(flow, state)
    change, to = migrated(flow, state, terms)
    if not to:
        flow_for(flows, state, strict=terms.strict)
    return flow, replace(resumed(flow, state, terms), change=change, to=to), to


def flow_named(flows: Mapping[str, Workflow], state: State) -> Workflow:
    """The workflow of a run, whether it may drive it or not. Raises WorkflowUnknown."""
    flow = flows.get(state.run.workflow)
    if flow is None:
        raise WorkflowUnknown(state.run.run_id, state.run.workflow, sorted(flows))
    return flow


def flow_for(flows: Mapping[str, Workflow], state: State, *, strict: bool = False) -> Workflow:
    """The workflow that may drive this state. Raises WorkflowUnknown, NodeNotFound, DefinitionChanged."""
    run = state.run
    flow = flow_named(flows, state)
    node = flow.nodes.get(state.node)
    if node is None or node.kind != run.definition.get("nodes", {}).get(state.node, node.kind):
        raise NodeNotFound(run.run_id, state.node, difference(run.definition, flow.shape))
    check_branches(flow, state)
    if strict:
        check_same(flow, state)
    return flow


def check_same(flow: Workflow, state: State) -> None:
    """Refuse every definition but the recorded one. Raises DefinitionChanged."""
    if flow.digest != state.run.definition_digest:
        raise DefinitionChanged(state.run.run_id, difference(state.run.definition, flow.shape))


def check_branches(flow: Workflow, state: State) -> None:
    """Refuse a definition in which a branch that the run has open is gone, or of another kind. Raises NodeNotFound.

    Of a node that maps over a list it is the body of all branches that must be there.
    """
    if state.branches is None or state.undoing is not None:
        return
    run = state.run
    known = flow.nodes[state.node].branches or {}
    kinds = run.definition.get("branches", {}).get(state.node, {})
    items = state.branches["items"] is not None
    for name in [""] if items else branch_names(state.branches):
        over = not items and branch(state.branches, name)["status"] == "finished"
        if not over and (name not in known or known[name].kind != kinds.get(name, known[name].kind)):
            raise NodeNotFound(run.run_id, f"{state.node}/{name}", difference(run.definition, flow.shape))


def was_cut_off(log: Log, head: Head, state: State, now: int) -> bool:
    """Whether the body of the node that a run stands on may have begun without having ended."""
    if state.undoing is not None:  # what is undone are calls, which say themselves whether they were cut off
        return False
    if head.status == "waiting":  # once the rest is over the next attempt begins, which leaves no event of its own
        return not open_waits(state) and state.retry_at <= now
    if head.status == "pending":
        event = next(history(log, head.run_key, head.version, head.version)).event
        return isinstance(event, RunSuspended) and event.why == CUT_OFF
    return head.status == "running" and head.owner != NOBODY


def vouch_for(log: Log, head: Head, state: State) -> Vouch | None:
    """A word for the snapshot at a run's head that nothing vouches for yet, if it is what the history folds to.

    The last snapshot before a stop or a failure has no event after it; the one that takes the run up again is the first.
    """
    for version, vouched_by in log.snapshots(head.run_key, head.version, limit=1):
        root = log.snapshot(head.run_key, version)
        if version == state.version and not vouched_by and root is not None:
            digest = state_digest(state)
            if root_digest(root, f"the snapshot at version {version}") == digest:
                return Vouch(version, digest)
    return None
