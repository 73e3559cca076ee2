"""What is looked at after a crash: the end, the history, the calls; compared with the undisturbed run and with the notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eventflow.event import (
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Recorded,
    Rewound,
    RunCompleted,
    SignalReceived,
    Transitioned,
)
from eventflow.log import Log
from eventflow.plain import thaw
from eventflow.recovery import history, recover
from eventflow.run import facts
from eventflow.state import State
from eventflow.testing.crash.witness import Told
from eventflow.verification import verify_store

Invariant = Callable[[State], Any]
MAX_VALUE = 300  # characters of a state in a difference

# A call by what names it in its run: the workflow's own words, not its idempotency key, which is another in each run.
Calls = Counter[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended: where, with what state, and which calls have given a result."""

    status: str
    node: str
    data: Any
    error: str
    calls: Calls

    def differences(self, undisturbed: End) -> Iterator[str]:
        """What is other than in the undisturbed run."""
        for name in ("status", "node", "error", "data"):
            here, there = getattr(self, name), getattr(undisturbed, name)
            if here != there:
                yield f"{name} is {_short(here)}, undisturbed {_short(there)}"
        for call, count in sorted(((self.calls - undisturbed.calls) + (undisturbed.calls - self.calls)).items()):
            name, key, node = call
            yield f"call {name}#{key} of {node} finished {self.calls[call]} times, undisturbed {undisturbed.calls[call]} ({count} off)"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def events_of_run(log: Log, run_id: str) -> list[Recorded]:
    """A run's events, empty if there is no such run."""
    head = log.head(run_id)
    return [] if head is None else list(history(log, head.run_key, 1, head.version))


def end_of(log: Log, run_id: str, view: Callable[[Any], Any] | None) -> End:
    """How a run ended. Raises what recovery raises."""
    head = log.head(run_id)
    if head is None:
        return End("not there", "", None, "", Counter())
    state = recover(log, head).state
    data = thaw(state.data)
    error = "" if state.error is None else f"{state.error.type}: {state.error.message}"
    calls = _finished(events_of_run(log, run_id))
    return End(state.status, state.node, data if view is None else view(data), error, calls)


def _finished(recorded: Iterable[Recorded]) -> Calls:
    """The calls whose results count: finished in a visit of a node, and not refused in it."""
    calls: Calls = Counter()
    here: dict[tuple[str, str, str], None] = {}
    node = ""
    for one in recorded:
        event = one.event
        if isinstance(event, EffectFinished):
            here[_called(event), event.key, node] = None
        elif isinstance(event, EffectRejected):
            here.pop((_called(event), event.key, node), None)
        elif isinstance(event, Transitioned | RunCompleted | Rewound):
            calls.update(here.keys())
            here.clear()
        node = _stands(event, node)
    calls.update(here.keys())
    return calls


def _called(event: EffectStarted | EffectFinished | EffectRejected) -> str:
    """A call's name, with the branch that made it: another branch may make one of the same name and key."""
    return f"{event.branch}/{event.name}" if event.branch else event.name


def _stands(event: Any, node: str) -> str:
    """The node a run stands in after an event."""
    to = getattr(event, "to", None)
    return to if to and isinstance(to, str) else str(getattr(event, "node", node))


def unsound(log: Log, run_id: str, invariants: Sequence[Invariant]) -> Iterator[str]:
    """What does not hold of a store: chain and bytes, snapshots against folds, and the user's own invariants."""
    *_, report = verify_store(log)
    yield from (f"verify: {finding}" for finding in report.findings)
    head = log.head(run_id)
    if head is None:
        return
    state = recover(log, head).state
    for version, _ in log.snapshots(head.run_key, head.version):
        if recover(log, head, version).state != recover(log, head, version, snapshots=False).state:
            yield f"refold: version {version} from its snapshot is another than from the start"
    if state != recover(log, head, snapshots=False).state:
        yield "refold: the end is another from the start than from a snapshot"
    yield from _broken(state, invariants)


def _broken(state: State, invariants: Sequence[Invariant]) -> Iterator[str]:
    for invariant in invariants:
        name = getattr(invariant, "__name__", "invariant")
        try:
            held = invariant(state)
        except AssertionError as error:
            yield f"invariant {name}: {error}"
        else:
            if held is False:
                yield f"invariant {name} does not hold"


def lost(log: Log, told: Iterable[Told]) -> list[str]:
    """What was acknowledged and is not in the log, or is there as something else."""
    known: dict[str, dict[int, str]] = {}
    messages: dict[str, set[int]] = {}
    gone = []
    for one in told:
        if one.run not in known:
            recorded = events_of_run(log, one.run)
            known[one.run] = {each.version: each.digest.hex() for each in recorded}
            messages[one.run] = _messages(log, one.run, recorded)
        if one.kind == "message":
            if one.version not in messages[one.run]:
                gone.append(f"message {one.version} was accepted and is not there")
        elif known[one.run].get(one.version) != one.digest:
            called = "; its call was made although its start is not in the log" if one.call else ""
            gone.append(f"{one.kind} was acknowledged as version {one.version} and is not there{called}")
    return gone


def _messages(log: Log, run_id: str, recorded: Iterable[Recorded]) -> set[int]:
    """The numbers of all messages that a run has taken, or that wait for it."""
    taken = {one.event.message for one in recorded if isinstance(one.event, SignalReceived)}
    head = log.head(run_id)
    inbox = [] if head is None else log.inbox(head.run_key)
    if head is None or not inbox:
        return taken
    state = recover(log, head).state
    said = {number: facts(state, number, data, driven=False) for number, data in inbox}
    return taken | {number for number, events in said.items() if isinstance(events[0], SignalReceived)}


def repeated(log: Log, run_ids: Iterable[str], told: Sequence[Told], outside: Iterable[str]) -> list[str]:
    """Calls made again though their result was recorded, and calls that nothing in the log speaks of."""
    names: dict[str, str] = {}
    starts: Counter[str] = Counter()
    found: list[str] = []
    for run_id in run_ids:
        found += _again(events_of_run(log, run_id), names, starts)
    calls = Counter(one.call for one in told if one.call)
    for call, count in calls.items():
        if count > starts[call]:
            found.append(
                f"call {names.get(call, call)} was made {count} times, {starts[call]} of them recorded as started"
            )
    for call, count in Counter(outside).items():
        if count > starts[call]:
            found.append(
                f"the outside had call {names.get(call, call)} {count} times, {starts[call]} starts are recorded"
            )
    return found


def _again(recorded: Iterable[Recorded], names: dict[str, str], starts: Counter[str]) -> Iterator[str]:
    """Calls that were started although their result was recorded; notes on the way how often each was started."""
    last: dict[tuple[str, str], str] = {}
    finished: set[str] = set()
    for one in recorded:
        event = one.event
        if isinstance(event, EffectStarted):
            call = last[_called(event), event.key] = event.idempotency_key
            names[call] = f"{_called(event)}#{event.key}"
            starts[call] += 1
            if call and call in finished:  # a wait of a body is a call without a key: nothing is called
                yield f"call {names[call]} was started again at version {one.version} although its result was recorded"
        elif isinstance(event, EffectFinished):
            finished.add(last.get((_called(event), event.key), ""))
        elif isinstance(event, EffectRejected):
            finished.discard(last.get((_called(event), event.key), ""))
