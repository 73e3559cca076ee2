"""What the events of a run add up to: the user's data, and where the run stands.

`evolve` is the one function that turns a state and an event into the next state; live running, crash recovery, time
travel and forks all go through it. It asks nobody: no guard, no node, no clock. An event that can't follow the state is
refused, so that a damaged history can't be folded by accident.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from eventflow.change import Change, apply
from eventflow.errors import Corrupt, EventflowError
from eventflow.event import (
    AttemptFailed,
    CheckpointCreated,
    CheckpointsDeleted,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    Failure,
    Forked,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunDeleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    SignalReceived,
    SignalRefused,
    StoreCreated,
    Transitioned,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, MAX_INT, MIN_INT, NOTHING, FrozenDict, FrozenList, ordered

Status = Literal[
    "pending", "running", "waiting", "paused", "completed", "failed", "cancelled", "timed_out", "parked"
]  # closed; the order is the format's numbering
STATUSES: tuple[Status, ...] = (
    "pending", "running", "waiting", "paused", "completed", "failed", "cancelled", "timed_out", "parked",
)  # fmt: skip
WaitingFor = Literal["", "timer", "signal", "human", "child", "retry", "unknown"]
WAITS: tuple[WaitingFor, ...] = ("", "timer", "signal", "human", "child", "retry", "unknown")
ENDED: frozenset[Status] = frozenset({"completed", "failed", "cancelled", "timed_out"})
FINAL: frozenset[Status] = ENDED - {"failed"}  # only a rewind or a fork goes on from these


@dataclass(frozen=True, slots=True)
class Parent:
    """The run a fork continues, and the version it continues from."""

    run_id: str
    run_key: bytes
    incarnation: int
    at: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is, from its first event on."""

    run_id: str
    run_key: bytes
    incarnation: int
    store_id: bytes
    workflow: str
    definition_digest: bytes
    definition: FrozenDict
    input_digest: bytes
    tags: FrozenList
    subject: str | None
    started: int
    parent: Parent | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The user's data and where the run stands, at one version.

    `visit` is the version at which the run entered `node`; `line` the version at which its line begins (0, or that of
    the last rewind or fork). `effects` are the calls of this visit by "name#key"; `signals` wait to be read; `usage`
    sums what effects reported; `wait` is what the run stands still for. `time` is that of the last event, ns since the epoch, UTC.
    """

    run: Identity
    version: int
    digest: bytes
    time: int
    epoch: int
    status: Status
    node: str
    visit: int
    data: FrozenDict
    waiting_for: WaitingFor = ""
    line: int = 0
    attempt: int = 1
    retry_at: int = 0
    error: Failure | None = None
    effects: FrozenDict = EMPTY
    signals: FrozenList = NOTHING
    usage: FrozenDict = EMPTY
    wait: FrozenDict | None = None

    @property
    def ended(self) -> bool:
        """Whether the run is over; a failed run can still be resumed."""
        return self.status in ENDED


def status_after(state: State | None, event: Event) -> tuple[Status, WaitingFor]:  # noqa: C901, PLR0911 - a table
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
        case RunPaused():
            return "paused", ""
        case RunResumed() if state is not None and state.wait is not None:
            return "waiting", state.wait["kind"]
        case RunStarted() | RunResumed() | Rewound() | Forked():
            return "running", ""
    if state is None or state.status == "paused":
        return "paused" if state else "running", ""
    match event:
        case AttemptFailed():
            return "waiting", "retry"
        case RunSuspended():
            return "pending", ""
        case WaitOpened():
            return "waiting", _wait_kind(event.kind)
        case WaitClosed():
            return "running", ""
    return state.status, state.waiting_for


def _wait_kind(kind: str) -> WaitingFor:
    for known in WAITS:
        if known == kind:
            return known
    raise Corrupt("a wait", f"is of a kind that is not known ({kind!r})")


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
            return _stamped(
                state, recorded, effects=_with_effect(state, event.name, event.key, _begun(event, recorded.version))
            )
        case EffectFinished():
            return _effect_finished(state, recorded, event)
        case EffectFailed() | EffectRejected():
            return _effect_closed(state, recorded, event)
        case RunCompleted():
            _expect_node(state, recorded, event.node)
            data = _changed(state, recorded, event.change)
            return _stamped(state, recorded, data=data, error=None, effects=EMPTY)
        case AttemptFailed():
            _expect_node(state, recorded, event.node)
            return _stamped(state, recorded, attempt=event.attempt + 1, retry_at=event.retry_at, error=event.error)
        case RunFailed():
            _expect_node(state, recorded, event.node)
            return _stamped(state, recorded, error=event.error)
        case RunResumed():
            return _resumed(state, recorded, event)
        case RunSuspended():
            _expect_node(state, recorded, event.node)
            return _stamped(state, recorded)
        case RunPaused() | RunCancelled():
            return _stamped(state, recorded)
        case SignalReceived():
            entry = FrozenDict({"name": event.name, "message": event.message, "payload": event.payload})
            return _stamped(state, recorded, signals=FrozenList([*state.signals, entry]))
        case SignalRefused():
            return _stamped(state, recorded, signals=_without(state, event.message))
        case WaitOpened() | WaitClosed():
            return _waited(state, recorded, event)
        case Rewound():
            return _rewound(state, recorded, event)
        case Forked():
            return _forked(state, recorded, event)
        case RunStarted():
            raise Corrupt(f"version {recorded.version}", "the run starts a second time")
        case StoreCreated() | CheckpointCreated() | CheckpointsDeleted() | RunDeleted():
            raise Corrupt(f"version {recorded.version}", f"{type(event).__name__} belongs to the store's own stream")
        case _:
            assert_never(event)


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
    identity = Identity(
        event.run_id, recorded.run_key, recorded.incarnation, event.store_id, event.workflow, event.definition_digest,
        event.definition, event.input_digest, event.tags, event.subject, recorded.time,
    )  # fmt: skip
    return State(
        identity, recorded.version, recorded.digest, recorded.time, recorded.epoch, "running", event.node,
        recorded.version, event.data,
    )  # fmt: skip


def _moved(state: State, recorded: Recorded, event: Transitioned, after: FrozenDict | None) -> State:
    _expect_node(state, recorded, event.node)
    if recorded.version != state.version + 1:
        raise Corrupt(f"version {recorded.version}", f"follows version {state.version}; versions are dense")
    status: Status = "paused" if state.status == "paused" else "running"
    # Spelled out, not replace(): this is the hot path of live running and of recovery.
    return State(
        state.run, recorded.version, recorded.digest, recorded.time, recorded.epoch, status,
        event.to, recorded.version, _changed(state, recorded, event.change) if after is None else after, "", state.line, 1, 0,
        event.error, EMPTY, state.signals, state.usage,
    )  # fmt: skip


def _expect_node(state: State, recorded: Recorded, node: str) -> None:
    if state.node != node:
        raise Corrupt(f"version {recorded.version}", f"is about node {node!r}, but the run stands on {state.node!r}")
    if state.status in ENDED and not isinstance(recorded.event, RunResumed):
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
    fresh = state.status == "failed"
    wait = None if state.wait is None else _restored(state.wait, state.time, recorded.time)
    return _stamped(
        state, recorded, run=run, wait=wait, attempt=1 if fresh else state.attempt,
        retry_at=0 if fresh else state.retry_at,
    )  # fmt: skip


def _rewound(state: State, recorded: Recorded, event: Rewound) -> State:
    """`state` is that of version `to`: the line was resolved before the fold."""
    if state.version != event.to or recorded.version <= event.to:
        raise Corrupt(f"version {recorded.version}", f"goes back to version {event.to}, not to {state.version}")
    if event.node != state.node:
        raise Corrupt(
            f"version {recorded.version}", f"goes back to node {event.node!r}, which version {event.to} is not on"
        )
    return replace(
        state, version=recorded.version, digest=recorded.digest, time=recorded.time, epoch=recorded.epoch,
        status="running", waiting_for="", line=recorded.version, attempt=1, retry_at=0, error=None,
        effects=_only_finished(state.effects), wait=None,
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
        store_id=event.store_id, parent=parent, started=recorded.time,
    )  # fmt: skip
    # A changed state makes recorded answers of this visit answers to another question: the visit begins anew.
    effects = EMPTY if event.change else _only_finished(state.effects)
    return State(
        identity, recorded.version, recorded.digest, recorded.time, recorded.epoch, "running", state.node, state.visit,
        _changed(state, recorded, event.change), line=recorded.version, effects=effects, usage=state.usage,
    )  # fmt: skip


# --- waits ---------------------------------------------------------------------------------------------------------


def _waited(state: State, recorded: Recorded, event: WaitOpened | WaitClosed) -> State:
    """One wait is open at a time; it is opened before it is closed."""
    _expect_node(state, recorded, event.node)
    if (state.wait is None) is isinstance(event, WaitClosed):
        problem = "closes a wait that is not open" if state.wait is None else "opens a wait while another is open"
        raise Corrupt(f"version {recorded.version}", problem)
    if isinstance(event, WaitClosed):
        return _stamped(state, recorded, wait=None, signals=_without(state, event.message))
    wait = FrozenDict({
        "id": recorded.version, "kind": event.kind, "name": event.name, "spec": event.spec, "until": event.until,
        "opened": recorded.time, "restore": event.restore,
    })  # fmt: skip
    return _stamped(state, recorded, wait=wait)


def _without(state: State, message: int) -> FrozenList:
    return FrozenList([one for one in state.signals if one["message"] != message]) if message else state.signals


def _restored(wait: FrozenDict, last: int, now: int) -> FrozenDict:
    """A wait after the run was taken up again: its limit stands, or goes on from where it was, or begins anew."""
    until = wait["until"]
    if not until or wait["restore"] == "deadline":
        return wait
    left = until - (last if wait["restore"] == "remaining" else wait["opened"])
    return FrozenDict({**wait, "until": now + max(left, 0), "opened": now})


# --- effects -------------------------------------------------------------------------------------------------------


def effect_id(name: str, key: str) -> str:
    """How a call is named in `State.effects`: no other name and key give the same."""
    if "#" in name or "%" in name:
        name = name.replace("%", "%25").replace("#", "%23")
    return f"{name}#{key}"


def _begun(event: EffectStarted, version: int) -> FrozenDict:
    return ordered({
        "kind": event.kind,
        "status": "started",
        "attempt": event.attempt,
        "version": version,
        "mutating": event.mutating,
        "input_digest": event.input_digest,
        "idempotency_key": event.idempotency_key,
    })  # fmt: skip


def _with_effect(state: State, name: str, key: str, entry: FrozenDict) -> FrozenDict:
    return ordered({**state.effects, effect_id(name, key): entry})


def _open_effect(state: State, recorded: Recorded, name: str, key: str) -> FrozenDict:
    entry = state.effects.get(effect_id(name, key))
    if entry is None:
        raise Corrupt(f"version {recorded.version}", f"closes effect {name!r} (key {key}), which was never started")
    return entry  # type: ignore[no-any-return]


def _effect_finished(state: State, recorded: Recorded, event: EffectFinished) -> State:
    entry = ordered(
        {**_open_effect(state, recorded, event.name, event.key), "output": event.output, "status": "finished"}
    )
    usage = _summed(state.usage, event.usage) if event.usage else state.usage
    return _stamped(state, recorded, effects=_with_effect(state, event.name, event.key, entry), usage=usage)


def _summed(usage: FrozenDict, more: FrozenDict) -> FrozenDict:
    """Counts added up, within 64 bits; what is not a number is left to the event that reported it."""
    total: dict[str, Any] = {**usage}
    for key, value in more.items():
        if type(value) in (int, float):
            total[key] = min(max(total.get(key, 0) + value, MIN_INT), MAX_INT)
    return ordered(total)


def _effect_closed(state: State, recorded: Recorded, event: EffectFailed | EffectRejected) -> State:
    status = "failed" if isinstance(event, EffectFailed) else "rejected"
    entry = {**_open_effect(state, recorded, event.name, event.key), "status": status}
    entry.pop("output", None)
    return _stamped(state, recorded, effects=_with_effect(state, event.name, event.key, ordered(entry)))


def _only_finished(effects: FrozenDict) -> FrozenDict:
    return FrozenDict({name: entry for name, entry in effects.items() if entry["status"] == "finished"})
