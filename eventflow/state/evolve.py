"""What the events of a run add up to: the user's data, and where the run stands.

`evolve` is the one function that turns a state and an event into the next state; live running, crash recovery, time
travel and forks all go through it. It asks nobody: no guard, no node, no clock. An event that can't follow the state is
refused, so that a damaged history can't be folded by accident.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, assert_never

from eventflow.change import Change, apply
from eventflow.errors import Corrupt, EventflowError
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    Forked,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    SignalReceived,
    SignalRefused,
    StoreEvent,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, FrozenDict, FrozenList, ordered
from eventflow.state.effects import call_closed, call_finished, only_finished, with_begun, without_branch
from eventflow.state.parts import ENDED, FINAL, Caller, Identity, Parent, State, Status, WaitingFor
from eventflow.state.shape import are_answers, are_names, are_numbers, is_message, is_policy
from eventflow.state.waits import (
    BranchEvent,
    again,
    branches_moved,
    branches_resumed,
    gone_back,
    restored,
    section_status,
    split,
    wait_kind,
    wait_of,
    without_message,
)


def status_after(  # noqa: C901, PLR0911, PLR0912 - a table
    state: State | None, event: Event
) -> tuple[Status, WaitingFor]:
    """Where a run stands once an event has happened: what a log is told with an append."""
    match event:
        case Transitioned():  # the most frequent first; it leaves a paused run paused
            return "paused" if state is not None and state.status == "paused" else "running", ""
        case RunCompleted():
            return "completed", ""
        case RunFailed():
            return "failed", ""
        case RunCancelled():
            return "cancelled", ""
        case RunTimedOut():
            return "timed_out", ""
        case RunPaused():
            return "paused", ""
        case RunParked():
            return "parked", ""
        case RunResumed() if state is not None and state.wait is not None and not event.to:
            return "waiting", state.wait["kind"]
        case RunResumed() if state is not None and state.branches is not None and not event.to:
            branches = branches_resumed(state.branches, 0, 0, afresh=state.status == "failed")
            return section_status(branches or state.branches)
        case Rewound() if state is not None:
            return _after_rewind(*gone_back(state))
        case RunStarted() if event.queue:
            return "pending", ""
        case RunStarted() | RunResumed() | Rewound() | Forked() | NodeSkipped() | UndoBegan():
            return "running", ""
    if state is None or state.status == "paused":
        return "paused" if state else "running", ""
    match event:
        case AttemptFailed() | WaitOpened() | WaitClosed() | BranchFinished() | BranchFailed() if event.branch:
            return section_status(branches_moved(state, event, state.version + 1, 0))
        case AttemptFailed():
            return "waiting", "retry"
        case RunSuspended():
            return "pending", ""
        case WaitOpened():
            return "waiting", wait_kind(event.kind)
        case WaitClosed() | BranchesOpened():
            return "running", ""
    return state.status, state.waiting_for


def _after_rewind(wait: FrozenDict | None, branches: FrozenDict | None) -> tuple[Status, WaitingFor]:
    """Where a run stands that was taken back: what it waits for yet is a child."""
    if wait is not None:
        return "waiting", "child"
    return ("running", "") if branches is None else section_status(branches)


def standing_after(state: State, events: Sequence[Event]) -> tuple[Status, WaitingFor]:
    """Where a run stands once several events have happened, before any of them has its place.

    Raises Corrupt if one of them, but for the last, can't follow.
    """
    for event in events[:-1]:
        if not isinstance(event, _ASIDE):
            state = evolve(state, _placeless(state, event))
    return status_after(state, events[-1]) if events else (state.status, state.waiting_for)


# What leaves status, wait and branches as they are: looking ahead past it costs nothing.
_ASIDE = (EffectStarted, EffectFinished, EffectFailed, EffectRejected, SignalReceived, SignalRefused)


def _placeless(state: State, event: Event) -> Recorded:
    """An event as the next one of its run, before it has digest, position and time: where a run stands hangs on none."""
    run = state.run
    return Recorded(
        event, run.run_key, run.incarnation, state.version + 1, 0, state.epoch, state.time, bytes(32), state.digest
    )


def fold(state: State | None, events: Iterable[Recorded]) -> State | None:
    """The state after all events, in their order."""
    for recorded in events:
        state = evolve(state, recorded)
    return state


def evolve(  # noqa: C901, PLR0911, PLR0912 - one match over the closed set of events, in one place
    state: State | None, recorded: Recorded, *, after: FrozenDict | None = None
) -> State:
    """The state after one more event. Raises Corrupt for an event that can't follow this state.

    `after` is the data after the event's change, where the caller has worked it out already.
    """
    event = recorded.event
    if type(event) is Transitioned and state is not None and state.status not in FINAL:  # the most frequent first
        return _moved(state, recorded, event, after)
    if state is None:
        if isinstance(event, RunStarted):
            return _started(event, recorded)
        raise Corrupt(f"version {recorded.version}", f"{type(event).__name__} comes before the run's start")
    if state.status in FINAL and not isinstance(event, Rewound | Forked):
        raise _after_end(recorded)
    match event:
        case Transitioned():
            return _moved(state, recorded, event, after)
        case EffectStarted():
            return _stamped(state, recorded, effects=with_begun(state, event, recorded.version))
        case EffectFinished():
            return _stamped(state, recorded, **call_finished(state, recorded, event))
        case EffectFailed() | EffectRejected():
            return _stamped(state, recorded, **call_closed(state, recorded, event))
        case RunCompleted():
            _expect_node(state, recorded, event.node)
            data = _changed(state, recorded, event.change)
            return _over(state, recorded, data=data, error=None)
        case AttemptFailed() | WaitOpened() | WaitClosed() | BranchFinished() | BranchFailed() if event.branch:
            return _in_branch(state, recorded, event)
        case AttemptFailed():
            _expect_node(state, recorded, event.node)
            return _stamped(state, recorded, attempt=event.attempt + 1, retry_at=event.retry_at, error=event.error)
        case RunResumed():
            return _resumed(state, recorded, event)
        case (
            RunFailed() | RunSuspended() | RunParked() | RunPaused() | RunCancelled() | RunTimedOut() | NodeSkipped() | UndoBegan()
        ):  # fmt: skip
            return _stopped(state, recorded, event)
        case BranchesOpened():
            return _split(state, recorded, event)
        case SignalReceived() | SignalRefused():
            return _stamped(state, recorded, signals=_signals(state, event))
        case WaitOpened() | WaitClosed():
            return _waited(state, recorded, event)
        case BranchFinished() | BranchFailed():
            raise Corrupt(f"version {recorded.version}", "is about a branch without a name")
        case Rewound():
            return _rewound(state, recorded, event)
        case Forked():
            return _forked(state, recorded, event)
        case RunStarted():
            raise Corrupt(f"version {recorded.version}", "the run starts a second time")
        case _:
            if isinstance(event, StoreEvent):
                raise Corrupt(
                    f"version {recorded.version}", f"{type(event).__name__} belongs to the store's own stream"
                )
            assert_never(event)


Stop = RunFailed | RunSuspended | RunParked | RunPaused | RunCancelled | RunTimedOut | NodeSkipped | UndoBegan


def _stopped(state: State, recorded: Recorded, event: Stop) -> State:
    """What somebody said of the run as a whole, or the end of it."""
    if not isinstance(event, RunPaused | RunCancelled):
        _expect_node(state, recorded, event.node)
    if isinstance(event, RunFailed):
        return _stamped(state, recorded, error=event.error)
    if isinstance(event, NodeSkipped):
        return _stamped(
            state, recorded, wait=None, branches=None, effects=EMPTY, attempt=1, retry_at=0, error=None, undoing=None
        )
    if isinstance(event, UndoBegan):
        return _undoing(state, recorded, event)
    return _stamped(state, recorded)


def _split(state: State, recorded: Recorded, event: BranchesOpened) -> State:
    _expect_node(state, recorded, event.node)
    if state.branches is not None or state.wait is not None:
        why = "that has split already" if state.wait is None else "that stands still"
        raise Corrupt(f"version {recorded.version}", f"splits a node {why}")
    if not are_names(event.names):
        raise Corrupt(f"version {recorded.version}", "splits a node into branches without names of their own")
    return _stamped(state, recorded, branches=split(event))


def _signals(state: State, event: SignalReceived | SignalRefused) -> FrozenList:
    if isinstance(event, SignalRefused):
        return without_message(state, event.message)
    entry = FrozenDict({"name": event.name, "message": event.message, "payload": event.payload})
    return FrozenList([*state.signals, entry])


def _stamped(state: State, recorded: Recorded, **changes: Any) -> State:
    """Every event moves version, digest, time, epoch and status."""
    if recorded.version != state.version + 1:
        raise Corrupt(f"version {recorded.version}", f"follows version {state.version}; versions are dense")
    status, waiting_for = status_after(state, recorded.event)
    return replace(
        state, version=recorded.version, digest=recorded.digest, time=recorded.time, epoch=recorded.epoch, status=status,
        waiting_for=waiting_for, **changes,
    )  # fmt: skip


def _started(event: RunStarted, recorded: Recorded) -> State:
    if recorded.version != 1:
        raise Corrupt(f"version {recorded.version}", "starts the run, which only version 1 does")
    _check_budget(recorded, event)
    identity = Identity(
        event.run_id, recorded.run_key, recorded.incarnation, event.store_id, event.workflow, event.definition_digest,
        event.definition, event.input_digest, event.tags, event.subject, recorded.time, None,
        Caller(event.caller_id, event.caller_key) if event.caller_id else None, event.deadline, event.budget,
        _policy(recorded, event.effects),
    )  # fmt: skip
    return State(
        identity, recorded.version, recorded.digest, recorded.time, recorded.epoch,
        "pending" if event.queue else "running", event.node, recorded.version, event.data,
    )  # fmt: skip


def _check_budget(recorded: Recorded, event: RunStarted | RunResumed) -> None:
    if event.budget and not are_numbers(event.budget):
        raise Corrupt(f"version {recorded.version}", "limits the run by what is not a number")


def _policy(recorded: Recorded, effects: FrozenDict) -> FrozenDict:
    if not is_policy(effects):
        raise Corrupt(f"version {recorded.version}", "says in a way that can't be read what the run may call")
    return effects


def _moved(state: State, recorded: Recorded, event: Transitioned, after: FrozenDict | None) -> State:
    _expect_node(state, recorded, event.node)
    if recorded.version != state.version + 1:
        raise Corrupt(f"version {recorded.version}", f"follows version {state.version}; versions are dense")
    status: Status = "paused" if state.status == "paused" else "running"
    # Spelled out, not replace(): this is the hot path of live running and of recovery.
    return State(
        state.run, recorded.version, recorded.digest, recorded.time, recorded.epoch, status,
        event.to, recorded.version, _changed(state, recorded, event.change) if after is None else after, "", state.line, 1, 0,
        event.error, EMPTY, state.signals, state.usage, None, state.steps + 1, None, state.undo, state.undoing, state.reuse,
    )  # fmt: skip


def _over(state: State, recorded: Recorded, **changes: Any) -> State:
    """The end of a run that ended well: what only a run that goes on needs is gone."""
    return _stamped(
        state,
        recorded,
        effects=EMPTY,
        branches=None,
        wait=None,
        undo=FrozenList(),
        reuse=EMPTY,
        steps=state.steps + 1,
        **changes,
    )


def _in_branch(state: State, recorded: Recorded, event: BranchEvent) -> State:
    _expect_node(state, recorded, event.node)
    changes: dict[str, Any] = {"branches": branches_moved(state, event, recorded.version, recorded.time)}
    if isinstance(event, BranchFinished | BranchFailed):
        changes["effects"] = without_branch(state.effects, event.branch)
    if isinstance(event, WaitClosed):
        changes["signals"] = without_message(state, event.message)
    return _stamped(state, recorded, **changes)


def _undoing(state: State, recorded: Recorded, event: UndoBegan) -> State:
    if event.ending not in ("failed", "cancelled", "timed_out"):
        raise Corrupt(f"version {recorded.version}", f"ends the run as {event.ending!r}, which no run ends as")
    one = event.error
    error = None if one is None else FrozenList(one.plain())
    undoing = ordered({"ending": event.ending, "error": error, "actor": event.actor, "why": event.why})
    return _stamped(state, recorded, undoing=undoing, wait=None, branches=None, effects=EMPTY, attempt=1, retry_at=0)


def _expect_node(state: State, recorded: Recorded, node: str) -> None:
    if state.node != node:
        raise Corrupt(f"version {recorded.version}", f"is about node {node!r}, but the run stands on {state.node!r}")
    if state.status in ENDED and not isinstance(recorded.event, RunResumed | NodeSkipped):
        raise _after_end(recorded)


def _after_end(recorded: Recorded) -> Corrupt:
    return Corrupt(f"version {recorded.version}", f"{type(recorded.event).__name__} follows the run's end")


def _changed(state: State, recorded: Recorded, change: Change) -> FrozenDict:
    try:
        return apply(state.data, change)
    except EventflowError as error:
        raise Corrupt(f"version {recorded.version}", f"holds a change that does not fit the state ({error})") from None


def _resumed(state: State, recorded: Recorded, event: RunResumed) -> State:
    _expect_node(state, recorded, event.node)
    run = state.run
    if event.definition is not None:
        run = replace(run, definition_digest=event.definition_digest, definition=event.definition)
    if event.budget is not None:
        _check_budget(recorded, event)
        run = replace(run, budget=event.budget)
    if event.effects is not None:
        run = replace(run, policy=_policy(recorded, event.effects))
    fresh = state.status == "failed"
    wait = None if state.wait is None else restored(state.wait, state.time, recorded.time)
    branches = branches_resumed(state.branches, state.time, recorded.time, afresh=fresh)
    moved: dict[str, Any] = {"wait": wait, "branches": branches}
    if event.change:
        moved["data"] = _changed(state, recorded, event.change)
    if event.to:
        moved |= {"node": event.to, "visit": recorded.version, "wait": None, "branches": None, "effects": EMPTY}
        moved["error"] = None  # it is of the node that was left
        fresh = True
    return _stamped(
        state, recorded, run=run, attempt=1 if fresh else state.attempt, retry_at=0 if fresh else state.retry_at, **moved
    )  # fmt: skip


def _rewound(state: State, recorded: Recorded, event: Rewound) -> State:
    """`state` is that of version `to`: the line was resolved before the fold."""
    if state.version != event.to or recorded.version <= event.to:
        raise Corrupt(f"version {recorded.version}", f"goes back to version {event.to}, not to {state.version}")
    if event.node != state.node:
        raise Corrupt(
            f"version {recorded.version}", f"goes back to node {event.node!r}, which version {event.to} is not on"
        )
    if not (all(map(is_message, event.signals)) and are_answers(event.reuse)):
        raise Corrupt(f"version {recorded.version}", "takes along what can be neither a message nor an answer")
    wait, branches = gone_back(state)
    status, waiting_for = _after_rewind(wait, branches)
    run = state.run
    if run.deadline and run.deadline <= recorded.time:  # who goes back after it wants the run to go on
        run = replace(run, deadline=0)
    return replace(
        state, run=run, version=recorded.version, digest=recorded.digest, time=recorded.time, epoch=recorded.epoch,
        status=status, waiting_for=waiting_for, line=recorded.version, attempt=1, retry_at=0, error=None,
        effects=only_finished(state.effects), wait=wait, branches=branches, undoing=None,
        reuse=event.reuse, signals=FrozenList([*state.signals, *event.signals]),
    )  # fmt: skip


def _forked(state: State, recorded: Recorded, event: Forked) -> State:
    """`state` is the parent's at version `at`."""
    if state.version != event.at or recorded.version != event.at + 1:
        raise Corrupt(
            f"version {recorded.version}", f"forks at version {event.at}, the parent's state is at {state.version}"
        )
    parent = Parent(event.parent_id, event.parent_key, event.parent_incarnation, event.at)
    identity = replace(
        state.run, run_id=event.run_id, run_key=recorded.run_key, incarnation=recorded.incarnation,
        store_id=event.store_id, parent=parent, started=recorded.time, caller=None, deadline=0,
        policy=state.run.policy if event.effects is None else _policy(recorded, event.effects),
    )  # fmt: skip
    # A changed state makes recorded answers of this visit answers to another question: the visit begins anew.
    answers, branches = only_finished(state.effects), again(state.branches)
    if event.change:
        answers, branches = EMPTY, None
    return State(
        identity, recorded.version, recorded.digest, recorded.time, recorded.epoch, "running", state.node, state.visit,
        _changed(state, recorded, event.change), line=recorded.version, effects=answers, usage=state.usage,
        steps=state.steps, branches=branches,
    )  # fmt: skip


# --- waits ---------------------------------------------------------------------------------------------------------


def _waited(state: State, recorded: Recorded, event: WaitOpened | WaitClosed) -> State:
    """One wait is open at a time; it is opened before it is closed."""
    _expect_node(state, recorded, event.node)
    if (state.wait is None) is isinstance(event, WaitClosed):
        problem = "closes a wait that is not open" if state.wait is None else "opens a wait while another is open"
        raise Corrupt(f"version {recorded.version}", problem)
    if isinstance(event, WaitClosed):
        return _stamped(state, recorded, wait=None, signals=without_message(state, event.message))
    if state.branches is not None:
        raise Corrupt(f"version {recorded.version}", "opens a wait of the whole run while its node has split")
    return _stamped(state, recorded, wait=wait_of(event, recorded.version, recorded.time))
