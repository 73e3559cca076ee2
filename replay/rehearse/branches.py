"""What a node that splits makes of its parts today: what it works on, what a branch is given and brings, the join.

As an engine does it when it drives a run, but from recorded states. Runs no body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventflow.change import Change
from eventflow.errors import DefinitionError, NotPlainData
from eventflow.event import WaitClosed
from eventflow.plain import FrozenDict, FrozenList, freeze
from eventflow.state import State
from eventflow.workflow import Child, Go, Map, Pause, Split, Workflow, joined, plainly
from replay.rehearse.standin import RecordedFailure


def today_items(body: Split, flow: Workflow, state: State) -> FrozenList:
    """The items that a node splits over today, as plain data. Raises what gives them raises."""
    items = body.items(flow.schema.view(state.data))
    return FrozenList([_plain(item) for item in items or ()])


def given_to(body: Split, flow: Workflow, state: State, name: str) -> Any:
    """What a branch's body gets: its recorded item, in the type that is declared for it, or the state at the split."""
    items = None if state.branches is None else state.branches["items"]
    if items is None:
        return flow.schema.view(state.data)
    if isinstance(body, Map) and isinstance(body.over, str):
        typed: Sequence[Any] = body.items(flow.schema.view(FrozenDict({**state.data, body.over: items})))
        return typed[int(name)]
    return items[int(name)]


def brought(body: Split, flow: Workflow, state: State, returned: Any) -> Any:
    """What a branch brings to the join, as plain data. Raises InvalidState, DefinitionError, NotPlainData."""
    if isinstance(returned, Go):
        raise DefinitionError("a branch can't choose where the run goes")
    if isinstance(body, Map) and body.writes is not None:
        return _plain(returned)
    return freeze(flow.schema.brought(returned, state.data), "the branch's result")


def said_today(body: Split, flow: Workflow, state: State, *, pause: Pause, closed: WaitClosed, payload: Any) -> Any:
    """What a branch that stood still brings, from the recorded answer. Raises RecordedFailure, InvalidState, ChildFailed."""
    accepted = None if closed.outcome == "timeout" else pause.accepted(payload)
    update = pause.lapsed() if closed.outcome == "timeout" else pause.change(accepted)
    if update is None:
        raise RecordedFailure("it waited in vain until its timeout")
    if isinstance(body, Map) and body.writes is not None:
        value = pause.result(accepted) if isinstance(pause, Child) else next(iter(update.values()), None)
        return brought(body, flow, state, value)
    return brought(body, flow, state, update)


def join(body: Split, flow: Workflow, state: State, results: Sequence[tuple[str, Any]], count: int) -> Change:
    """The one change that the branches' results come to. Raises BranchesDisagree, InvalidState."""
    updates = body.updates(results, count)
    if isinstance(body, Map) and body.writes is not None:
        updates = [(name, flow.schema.update(one, state.data)) for name, one in updates]
    return joined(state.data, updates, flow.schema.reducers)[0]


def _plain(value: Any) -> Any:
    try:
        return freeze(value, "the branch's result")
    except NotPlainData:
        return freeze(plainly(value), "the branch's result")
