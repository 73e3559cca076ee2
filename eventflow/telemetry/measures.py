"""What is counted and timed, whoever keeps the count: one table of instruments, and from a notice to measurements.

Durations are differences of recorded times, so they are what the log says. Labels are names out of the workflow's
definition and words of a closed set: never a run's id, never what users wrote, so that there are few of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from eventflow.clock import NS
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Forked,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunParked,
    RunResumed,
    RunStarted,
    RunSuspended,
    Transitioned,
)
from eventflow.quota import LimitNear
from eventflow.run import CheckpointTaken, Notice, RecoveryOutOfReach
from eventflow.state import State
from eventflow.telemetry import names

# Seconds. A body may be a comparison or a conversation; a snapshot of a small state is written in a few ms.
LONG = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200)
SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


@dataclass(frozen=True, slots=True)
class Instrument:
    """A counter, or a histogram if it has `buckets`; `unit` is OpenTelemetry's, `labels` are attributes' names."""

    name: str
    unit: str
    text: str
    labels: tuple[str, ...] = (names.WORKFLOW,)
    buckets: tuple[float, ...] = ()


_NODE, _KIND = (names.WORKFLOW, names.NODE), (names.WORKFLOW, names.KIND)

RUNS_STARTED = Instrument("eventflow.runs.started", "{run}", "Runs started, forks among them.")
RUNS_RESUMED = Instrument("eventflow.runs.resumed", "{run}", "Runs taken up again, rewinds among them.")
RUNS_COMPLETED = Instrument("eventflow.runs.completed", "{run}", "Runs completed.")
RUNS_FAILED = Instrument("eventflow.runs.failed", "{run}", "Runs failed.")
RUNS_CANCELLED = Instrument("eventflow.runs.cancelled", "{run}", "Runs cancelled while they were driven here.")
TRANSITIONS = Instrument(
    "eventflow.transitions", "{transition}", "Transitions, by the node that was left.", (*_NODE, names.TRIGGER)
)
ATTEMPTS_FAILED = Instrument("eventflow.attempts.failed", "{attempt}", "Attempts that another one follows.", _NODE)
EFFECTS = Instrument(
    "eventflow.effects", "{effect}", "Calls to the outside that were finished or failed.", (*_KIND, names.OUTCOME)
)
TOKENS = Instrument(
    "eventflow.tokens", "{token}", "Tokens that calls reported.", (names.WORKFLOW, names.TOKEN_TYPE)
)  # fmt: skip
COST = Instrument("eventflow.cost", "1", "Cost that calls reported, in whatever they count it.")
CHECKPOINTS = Instrument("eventflow.checkpoints", "{checkpoint}", "Checkpoints made.")
CHECKPOINT_SIZE = Instrument("eventflow.checkpoint.size", "By", "Bytes of the snapshots written.")
NODE_DURATION = Instrument("eventflow.node.duration", "s", "From entering a node to leaving it.", _NODE, LONG)
EFFECT_DURATION = Instrument("eventflow.effect.duration", "s", "From a call's start to its end.", _KIND, LONG)
CHECKPOINT_DURATION = Instrument(
    "eventflow.checkpoint.duration", "s", "What writing a snapshot took.", buckets=SHORT
)  # fmt: skip

INSTRUMENTS = (
    RUNS_STARTED, RUNS_RESUMED, RUNS_COMPLETED, RUNS_FAILED, RUNS_CANCELLED, TRANSITIONS, ATTEMPTS_FAILED, EFFECTS, TOKENS,
    COST, CHECKPOINTS, CHECKPOINT_SIZE, NODE_DURATION, EFFECT_DURATION, CHECKPOINT_DURATION,
)  # fmt: skip

Measurement = tuple[Instrument, float, tuple[str, ...]]  # its value, and its labels' values after the workflow's


@dataclass(slots=True)
class _Run:
    """When a run entered the node it is in, and its open calls: kind and start by name and key. Times in ns."""

    entered: int
    calls: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)


class Measuring:
    """Turns notices into measurements; remembers what it must for durations, as long as a run is driven here."""

    def __init__(self) -> None:
        self._runs: dict[bytes, _Run] = {}

    def of(self, state: State, notice: Notice) -> Iterator[Measurement]:
        """What a notice adds: instrument, value, labels in the instrument's order."""
        workflow = state.run.workflow
        if isinstance(notice, RecoveryOutOfReach | LimitNear):  # a word for people, and no number
            return
        found = _of_checkpoint(notice) if isinstance(notice, CheckpointTaken) else self._of_event(state, notice)
        for instrument, value, labels in found:
            yield instrument, value, (workflow, *labels)

    def _of_event(self, state: State, notice: Recorded) -> Iterator[Measurement]:
        event, key = notice.event, notice.run_key
        match event:
            case RunStarted() | Forked():
                self._runs[key] = _Run(notice.time)
                yield RUNS_STARTED, 1, ()
            case RunResumed() | Rewound():
                self._runs[key] = _Run(notice.time)
                yield RUNS_RESUMED, 1, ()
            case Transitioned():
                yield TRANSITIONS, 1, (event.node, event.trigger)
                yield from self._left(notice, event.node)
            case AttemptFailed():
                yield ATTEMPTS_FAILED, 1, (event.node,)
            case EffectStarted() | EffectFinished() | EffectFailed():
                yield from self._of_call(notice, event)
            case RunCompleted():
                yield RUNS_COMPLETED, 1, ()
                yield from self._left(notice, event.node)
            case RunFailed():
                yield RUNS_FAILED, 1, ()
                yield from self._left(notice, event.node)
            case RunCancelled():
                yield RUNS_CANCELLED, 1, ()
        if state.ended or isinstance(event, RunSuspended | RunParked):
            self._runs.pop(key, None)

    def _left(self, notice: Recorded, node: str) -> Iterator[Measurement]:
        run = self._runs.get(notice.run_key)
        if run is not None:
            yield NODE_DURATION, _seconds(run.entered, notice.time), (node,)
            run.entered = notice.time
            run.calls.clear()

    def _of_call(self, notice: Recorded, event: EffectStarted | EffectFinished | EffectFailed) -> Iterator[Measurement]:
        run = self._runs.get(notice.run_key)
        if isinstance(event, EffectStarted):
            if run is not None:
                run.calls[event.name, event.key] = event.kind, notice.time
            return
        kind, began = run.calls.pop((event.name, event.key), ("", 0)) if run is not None else ("", 0)
        outcome = "finished" if isinstance(event, EffectFinished) else "failed"
        yield EFFECTS, 1, (kind, outcome)
        if began:
            yield EFFECT_DURATION, _seconds(began, notice.time), (kind,)
        if isinstance(event, EffectFinished):
            for name, direction in (("input_tokens", "input"), ("output_tokens", "output")):
                if count := amount(event.usage.get(name)):
                    yield TOKENS, count, (direction,)
            if cost := amount(event.usage.get("cost")):
                yield COST, cost, ()


def _of_checkpoint(notice: CheckpointTaken) -> Iterator[Measurement]:
    yield CHECKPOINTS, 1, ()
    if notice.checkpoint.size:  # else it is a mark alone, which takes no time of its own
        yield CHECKPOINT_SIZE, notice.checkpoint.size, ()
        yield CHECKPOINT_DURATION, notice.seconds, ()


def _seconds(began: int, ended: int) -> float:
    return max(ended - began, 0) / NS  # a clock may have been set back in between


def amount(value: Any) -> int | float:
    """A number that can be added to a count; 0 for what can't, since what calls report is theirs."""
    return value if type(value) in (int, float) and value > 0 and math.isfinite(value) else 0
