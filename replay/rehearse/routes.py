"""Today's guards asked on recorded states, to see whether each step leads where it led.

The states are the recorded ones, folded from the log; the change of each step is the recorded one too, unless bodies are
run (`replay.rehearse.stage`). One decision is asked a recorded step, whatever the one before would have come to, so that
each difference is told where it arises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eventflow.change import Change
from eventflow.errors import EventflowError, GuardFailed, SettingsError, UndeclaredTarget
from eventflow.event import (
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFailed,
    EffectStarted,
    Failure,
    Recorded,
    RunCompleted,
    RunStarted,
    SignalReceived,
    Transitioned,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import Head, Log, Query
from eventflow.recovery import walk
from eventflow.state import ENDED, State, effect_id
from eventflow.workflow import Workflow, difference
from replay.rehearse.report import Finding, Receipt, Rehearsal, RunReport

PROGRESS = 1_000  # events between two signs of life: a few hundredths of a second
MAX_FINDINGS = 1_000  # of one run: more than anybody reads, and a report that fits into memory


@dataclass(frozen=True, slots=True)
class Waited:
    """What a node or a branch stood still for: how that began, how it ended, with the payload that ended it."""

    opened: WaitOpened | None = None
    closed: WaitClosed | None = None
    payload: Any = None


NO_WAIT = Waited()


@dataclass(frozen=True, slots=True)
class BranchStay:
    """One recorded branch of a node that split: the state in which it ended, its end, and what came in meanwhile."""

    state: State
    recorded: Recorded
    event: BranchFinished | BranchFailed
    inputs: dict[str, Any]
    failures: dict[str, Failure]
    wait: Waited


@dataclass(frozen=True, slots=True)
class Stay:
    """One recorded stay in a node: the state in it, the event that ended it, and what came in meanwhile.

    `inputs` and `failures` are those of its calls, by `effect_id`; `wait` is what it stood still for, if it did.
    """

    state: State
    recorded: Recorded
    event: Transitioned | RunCompleted
    inputs: dict[str, Any]
    failures: dict[str, Failure]
    wait: Waited

    @property
    def trigger(self) -> str:
        """What ended it."""
        return self.event.trigger if isinstance(self.event, Transitioned) else "done"

    @property
    def target(self) -> str | None:
        """Where it led; None to the run's end."""
        return self.event.to if isinstance(self.event, Transitioned) else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stay comes to today: trigger, change, and the successor a node chose itself; findings on the way.

    `known` is False where it can't be said what it comes to.
    """

    trigger: str
    change: Change
    go: str | None = None
    findings: tuple[Finding, ...] = ()
    known: bool = True


class Bodies(Protocol):
    """Something that runs today's bodies on recorded states."""

    def outcome(self, stay: Stay, receipt: Receipt) -> Outcome:
        """What a stay comes to today."""
        ...

    def split(self, state: State, recorded: Recorded, event: BranchesOpened) -> tuple[Finding, ...]:
        """What a node splits into today, where it is not what was recorded."""
        ...

    def branch(self, stay: BranchStay, receipt: Receipt) -> tuple[Finding, ...]:
        """What a branch comes to today, where it is not what was recorded; the join is told what it comes to."""
        ...


def chosen(log: Log, names: Sequence[Head], *, everything: bool = False, sample: int = 0) -> list[Head]:
    """The runs to rehearse: those named, all of a store, or a sample of it that is the same each time.

    Raises SettingsError unless just one of the three is asked.
    """
    if (bool(names), everything, bool(sample)).count(True) != 1:
        raise SettingsError("say which runs to rehearse: name some, or --all, or --sample N")
    if names:
        return list(names)
    heads = [one.head for one in log.runs(Query())]
    if sample:
        heads = sorted(heads, key=lambda head: hashlib.sha256(head.run_key).digest())[:sample]
    return heads


def rehearse(flow: Workflow, log: Log, heads: Sequence[Head]) -> Rehearsal:
    """Runs rehearsed here and now by their guards alone. Raises Corrupt, WrittenByNewer."""
    found = [rehearse_run(flow, log, head) for head in heads]
    runs = tuple(one for one in found if one is not None)
    return Rehearsal(flow.name, runs, len(found) - len(runs))


def rehearse_run(
    flow: Workflow, log: Log, head: Head, bodies: Bodies | None = None, *, at: Callable[[str, int], None] | None = None
) -> RunReport | None:  # fmt: skip
    """How a run comes out with a workflow; None if it is a run of another. Raises Corrupt, WrittenByNewer.

    `at` is told node and version each `PROGRESS` events.
    """
    work = _Run(flow, bodies)
    state: State | None = None
    for recorded, after in walk(log, head):
        if at is not None and recorded.version % PROGRESS == 0:
            at(after.node, recorded.version)
        if state is None and after.run.workflow != flow.name:
            return None
        work.take(state, recorded, after)
        state = after
    if state is None:
        return None
    work.stand(state)
    return RunReport(head.run_id, head.version, tuple(work.findings), work.definition, work.receipt)


class _Run:
    """One run being rehearsed, event by event."""

    def __init__(self, flow: Workflow, bodies: Bodies | None) -> None:
        self._flow, self._bodies = flow, bodies
        self.findings: list[Finding] = []
        self.receipt = Receipt()
        self.definition = ""
        self._told: set[str] = set()  # nodes said to be gone or changed
        self._inputs: dict[str, Any] = {}
        self._failures: dict[str, Failure] = {}
        self._waits: dict[str, Waited] = {}  # by branch, "" for the node as a whole
        self._payloads: dict[int, Any] = {}

    def take(self, before: State | None, recorded: Recorded, after: State) -> None:
        """Look at one event, between the states before and after it."""
        match recorded.event:
            case RunStarted() as event:
                self._start(event)
            case EffectStarted() as event:
                self._inputs[effect_id(event.name, event.key, event.branch)] = event.input
            case EffectFailed() as event:
                self._failures[effect_id(event.name, event.key, event.branch)] = event.error
            case SignalReceived() as event:
                self._payloads[event.message] = event.payload
            case WaitOpened() | WaitClosed() as event:
                self._wait(event)
            case BranchesOpened() as event if before is not None:
                self._split(before, recorded, event)
            case BranchFinished() | BranchFailed() as event if before is not None and self._bodies is not None:
                wait = self._waits.get(event.branch, NO_WAIT)
                stay = BranchStay(before, recorded, event, self._inputs, self._failures, wait)
                self._find(*self._bodies.branch(stay, self.receipt))
            case Transitioned() | RunCompleted() as event if before is not None:
                wait = self._waits.get("", NO_WAIT)
                self._stay(Stay(before, recorded, event, self._inputs, self._failures, wait))
        if before is None or after.visit != before.visit:
            self._inputs, self._failures, self._waits = {}, {}, {}

    def _wait(self, event: WaitOpened | WaitClosed) -> None:
        if isinstance(event, WaitOpened):
            self._waits[event.branch] = Waited(event)
        else:
            opened = self._waits.get(event.branch, NO_WAIT).opened
            self._waits[event.branch] = Waited(opened, event, self._payloads.pop(event.message, None))

    def _find(self, *findings: Finding) -> None:
        self.findings += findings[: MAX_FINDINGS - len(self.findings)]

    def _start(self, event: RunStarted) -> None:
        if event.node != self._flow.start:
            problem = f"starts in {self._flow.start!r} where {event.node!r} was recorded"
            self._find(Finding("start", 1, event.node, problem, event.node, self._flow.start))

    def stand(self, state: State) -> None:
        """Look at where the run was left, and whether it could go on from there."""
        self.definition = difference(state.run.definition, self._flow.shape) if state.run.definition else ""
        if state.status in ENDED:
            return
        self._is_there(state, state.version, "stands on")
        schema = self._flow.schema
        if schema.declared is not None:
            for name in state.data:
                if name not in schema.fields:
                    problem = f"field {name!r} is in the state and not declared any more"
                    self._find(Finding("field", state.version, state.node, problem))
        try:
            schema.view(state.data)
        except EventflowError as error:
            self._find(Finding("field", state.version, state.node, f"the state does not fit its type: {error}"))

    def _is_there(self, state: State, version: int, how: str) -> bool:
        """Whether a node is known today, as what it was."""
        name = state.node
        node = self._flow.nodes.get(name)
        was = state.run.definition.get("nodes", {}).get(name)
        if node is not None and was in (None, node.kind):
            return True
        if name not in self._told:
            self._told.add(name)
            if node is None:
                self._find(Finding("node", version, name, f"the run {how} {name!r}, which is gone"))
            else:
                problem = f"the run {how} {name!r}, which is of kind {node.kind} where {was} was recorded"
                self._find(Finding("kind", version, name, problem, was, node.kind))
        return False

    def _split(self, state: State, recorded: Recorded, event: BranchesOpened) -> None:
        """Look whether the branches that were declared are there today, and what they are to work on."""
        node = self._flow.nodes.get(state.node)
        if node is None or node.branches is None:  # which is told where the node ends
            return
        for name in event.names if event.items is None else ():
            if name not in node.branches:
                problem = f"the run split into branch {name!r}, which is gone"
                self._find(Finding("node", recorded.version, state.node, problem))
        if self._bodies is not None:
            self._find(*self._bodies.split(state, recorded, event))

    def _stay(self, stay: Stay) -> None:
        version = stay.recorded.version
        if not self._is_there(stay.state, version, "passed"):
            return
        if stay.target is not None and stay.target not in self._flow.nodes:  # told here, where the way leads there
            self._told.add(stay.target)
            self._find(Finding("node", version, stay.state.node, f"the run went to {stay.target!r}, which is gone"))
            return
        outcome = Outcome(stay.trigger, stay.event.change)
        if self._bodies is not None:
            outcome = self._bodies.outcome(stay, self.receipt)
        elif self._was_chosen(stay):
            return
        self._find(*outcome.findings)
        if outcome.known:
            self._find(*self._decided(stay, outcome))

    def _was_chosen(self, stay: Stay) -> bool:
        """Whether the body chose its successor itself, which only the body can be asked about."""
        if stay.trigger != "done" or stay.target is None:
            return False
        recorded = stay.state.run.definition.get("edges", ())
        edges = recorded or [(edge.source, edge.target) for edge in self._flow.edges]
        by_edge = any((edge[0], edge[1]) == (stay.state.node, stay.target) for edge in edges)
        return not by_edge and stay.target in self._flow.nodes[stay.state.node].targets

    def _decided(self, stay: Stay, outcome: Outcome) -> Iterator[Finding]:
        """What today's edges and guards make of a stay's outcome, where it is not what was recorded."""
        node, version = stay.state.node, stay.recorded.version
        error = stay.event.error if isinstance(stay.event, Transitioned) else None
        self.receipt.decisions += 1
        try:
            decision = self._flow.decide(stay.state, outcome.trigger, outcome.change, go=outcome.go, error=error)
        except GuardFailed as raised:
            problem = f"a guard raises where {_named(stay.target)} was recorded: {raised}"
            yield Finding("guard", version, node, problem, stay.target)
            return
        except UndeclaredTarget as raised:
            yield Finding("route", version, node, str(raised), stay.target)
            return
        except (EventflowError, SystemExit) as raised:
            problem = f"nothing follows where {_named(stay.target)} was recorded: {raised}"
            yield Finding("route", version, node, problem, stay.target)
            return
        now = decision.event.to if isinstance(decision.event, Transitioned) else None
        if now != stay.target:
            because = self._because(node, now, outcome)
            problem = f"{node!r} leads to {_named(now)}{because} where {_named(stay.target)} was recorded"
            yield Finding("route", version, node, problem, stay.target, now)

    def _because(self, node: str, target: str | None, outcome: Outcome) -> str:
        """The guard that leads there today, in words."""
        if outcome.go is not None:
            return " by its own choice"
        for edge in self._flow.edges:
            if (edge.source, edge.target, edge.trigger) == (node, target, outcome.trigger):
                return f" (guard {edge.label})" if edge.when is not None else ""
        return ""


def _named(target: str | None) -> str:
    return "the run's end" if target is None else repr(target)
