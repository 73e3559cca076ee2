"""An account gathered: one pass over a run's own events, one over the store's, and a look at its relatives.

Stretches that a rewind left are told too, and marked: they happened. The parent's part of a fork is the parent's account.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from eventflow.address import Address
from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BranchFailed,
    CheckpointCreated,
    CheckpointsDeleted,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Failure,
    Forked,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompacted,
    RunCompleted,
    RunDeleted,
    RunFailed,
    RunHeld,
    RunParked,
    RunPaused,
    RunPinned,
    RunReleased,
    RunResumed,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    RunUnpinned,
    SignalReceived,
    SignalRefused,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import STORE_RUN, Head, Log
from eventflow.proof.note import TreeHead
from eventflow.recovery import history, line, recover
from eventflow.state import effect_id
from eventflow.verification import verify_run
from replay.family import children, first_version, forks
from replay.history import detail
from replay.path import path_text
from replay.report.facts import Account, Act, Call, Decision, Origin, Relative, Stay

_BY_HAND = (RunResumed, RunParked, RunPaused, RunCancelled, RunSuspended, RunTimedOut, NodeSkipped, UndoBegan, Rewound)
_OUTCOMES = {EffectFinished: "finished", EffectFailed: "failed", EffectRejected: "rejected"}


def account(log: Log, head: Head, *, seal: TreeHead | None = None) -> Account:
    """The account of a run as it is now. Raises Corrupt where its history can't be read."""
    report = verify_run(log, head)
    book = _Book(log, head)
    own = [one for one in line(log, head.run_key, head.version) if one.run_key == head.run_key]
    lines = [range(one.first, one.last + 1) for one in own]
    entry = log.entry(head.run_key)
    since = 0 if entry is None else entry.origin
    for recorded in history(log, head.run_key, since or first_version(log, head.run_key), head.version):
        if recorded.version == since:
            book.begin(recorded)
        else:
            book.take(recorded, on_line=any(recorded.version in one for one in lines))
    if book.origin is None:
        raise Corrupt(f"run {head.run_id}", "does not begin with its start, nor with a fork")
    return Account(
        head, recover(log, head).state, book.origin, tuple(book.stays), tuple(book.calls), tuple(book.decisions),
        tuple(book.unasked()), tuple(book.acts), tuple(_of_the_store(log, head)), tuple(_relatives(log, head)),
        book.events, tuple(map(str, report.findings)), seal,
    )  # fmt: skip


class _Book:
    """What has been read so far."""

    def __init__(self, log: Log, head: Head) -> None:
        self._log, self._head = log, head
        self.origin: Origin | None = None
        self.events = 0
        self.stays: list[Stay] = []
        self.calls: list[Call] = []
        self.decisions: list[Decision] = []
        self.acts: list[Act] = []
        self._messages: dict[int, tuple[Recorded, SignalReceived]] = {}
        self._answers: set[int] = set()
        self._open: dict[str, Call] = {}  # of this stay, by effect id
        self._waits: dict[str, Decision] = {}  # open, by branch
        self._node = ""

    def begin(self, recorded: Recorded) -> None:
        """Note the event that a run was compacted to, which says less than the state there."""
        self.events += 1
        state = recover(self._log, self._head, recorded.version).state
        self.origin = Origin(recorded.version, recorded.time, "", "", state.data, compacted=True)
        self._enter(state.node, recorded, on_line=True)

    def take(self, recorded: Recorded, *, on_line: bool) -> None:  # noqa: C901 - one line a kind of event
        """Note what an event says."""
        self.events += 1
        event = recorded.event
        match event:
            case RunStarted():
                self.origin = Origin(
                    recorded.version, recorded.time, event.actor, event.why, event.data, caller=event.caller_id
                )
                self._enter(event.node, recorded, on_line=on_line)
            case Forked():
                self._forked(recorded, event, on_line=on_line)
            case Transitioned() | RunCompleted():
                self._left(recorded, event, on_line=on_line)
                if isinstance(event, Transitioned):
                    self._enter(event.to, recorded, on_line=on_line)
            case AttemptFailed() | RunFailed() | BranchFailed():
                self._stumbled(event)
            case EffectStarted() | EffectFinished() | EffectFailed() | EffectRejected():
                self._called(recorded, event, on_line=on_line)
            case WaitOpened() | WaitClosed():
                self._waited(recorded, event, on_line=on_line)
            case SignalReceived():
                self._messages[event.message] = recorded, event
            case SignalRefused():
                self._refused(event)
        if isinstance(event, _BY_HAND):
            self._acted(recorded, on_line=on_line)

    # --- nodes

    def _enter(self, node: str, recorded: Recorded, *, on_line: bool) -> None:
        self._node = node
        self.stays.append(Stay(node, recorded.version, recorded.time, on_line=on_line))
        self._open, self._waits = {}, {}

    def _left(self, recorded: Recorded, event: Transitioned | RunCompleted, *, on_line: bool) -> None:
        stay = self.stays[-1]
        stay.on_line &= on_line  # it may have been entered on the line and left beside it
        stay.left, stay.ended = recorded.version, recorded.time
        stay.trigger, stay.to = (event.trigger, event.to) if isinstance(event, Transitioned) else ("done", "")

    def _stumbled(self, event: AttemptFailed | RunFailed | BranchFailed) -> None:
        stay = self.stays[-1]
        branch = "" if isinstance(event, RunFailed) else event.branch
        where = f" in branch {branch}" if branch else ""
        stay.failures.append(f"{said(event.error)}{where}")
        if isinstance(event, AttemptFailed) and not branch:
            stay.attempts = event.attempt + 1

    def _forked(self, recorded: Recorded, event: Forked, *, on_line: bool) -> None:
        changed = {path_text(op.path): op.value for op in event.change}
        self.origin = Origin(
            recorded.version,
            recorded.time,
            event.actor,
            event.why,
            parent=event.parent_id,
            at=event.at,
            changed=changed,
        )
        self._enter(recover(self._log, self._head, recorded.version).state.node, recorded, on_line=on_line)

    # --- calls

    def _called(
        self,
        recorded: Recorded,
        event: EffectStarted | EffectFinished | EffectFailed | EffectRejected,
        *,
        on_line: bool,
    ) -> None:
        name = effect_id(event.name, event.key, event.branch)
        call = self._open.get(name)
        if isinstance(event, EffectStarted):
            if call is None or event.attempt == 1:
                call = self._open[name] = _call(recorded, event, self._node, on_line=on_line)
                self.calls.append(call)
            else:  # begun again: what became of the attempt before is known only if it was recorded
                call.unknown |= call.outcome == "unknown"
                call.attempts, call.outcome = event.attempt, "unknown"
            return
        if call is None:  # a fork goes on with a call of its parent's
            return
        call.outcome, call.finished, call.ended = _OUTCOMES[type(event)], recorded.version, recorded.time
        if isinstance(event, EffectFailed):
            call.error = said(event.error)
            return
        call.why = event.why
        if isinstance(event, EffectFinished):
            call.usage, call.reused, call.source = event.usage, event.reused, event.source
        if event.actor:
            call.unknown, call.settled_by = True, event.actor

    # --- waits

    def _waited(self, recorded: Recorded, event: WaitOpened | WaitClosed, *, on_line: bool) -> None:
        if isinstance(event, WaitOpened):
            decision = Decision(
                event.node, event.branch, event.kind, event.name, event.spec, recorded.version, recorded.time, event.until,
                on_line=on_line,
            )  # fmt: skip
            self._waits[event.branch] = decision
            self.decisions.append(decision)
            call = self._open.get(effect_id(event.name, str(event.spec.get("key", "")), event.branch))
            if event.kind == "unknown" and call is not None:
                call.unknown = True
            return
        decision_of = self._waits.pop(event.branch, None)
        if decision_of is not None:
            self._closed(decision_of, recorded, event)

    def _closed(self, decision: Decision, recorded: Recorded, event: WaitClosed) -> None:
        decision.closed, decision.ended = recorded.version, recorded.time
        decision.outcome = "answered" if event.outcome == "signal" else event.outcome
        decision.message = event.message
        if event.message in self._messages:
            _, answer = self._messages[event.message]
            self._answers.add(event.message)
            decision.answer, decision.actor = answer.payload, answer.actor
        elif event.outcome == "settled":
            call = self._open.get(effect_id(decision.name, str(decision.asked.get("key", "")), decision.branch))
            decision.actor = call.settled_by if call is not None else ""
            decision.answer = None if call is None else call.outcome

    def _refused(self, event: SignalRefused) -> None:
        """A message that did not fit goes to the wait it was for, if it is open."""
        self._answers.add(event.message)
        who = self._messages[event.message][1].actor if event.message in self._messages else ""
        for decision in self._waits.values():
            decision.refused.append(f"{event.why}{f' (from {who})' if who else ''}")
            return

    def unasked(self) -> Iterator[Act]:
        """Messages that came in and answered nothing that was asked, as far as is known."""
        for number, (recorded, event) in self._messages.items():
            if number not in self._answers:
                yield Act(recorded.version, recorded.time, event.name, f"message {number}", event.actor, "")

    # --- by hand

    def _acted(self, recorded: Recorded, *, on_line: bool) -> None:
        event: Any = recorded.event
        actor, why = getattr(event, "actor", ""), getattr(event, "why", "")
        self.acts.append(
            Act(recorded.version, recorded.time, type(event).__name__, _detail(recorded), actor, why)
        )  # fmt: skip
        if isinstance(event, RunCancelled | RunTimedOut):
            stay = self.stays[-1]
            stay.left, stay.ended, stay.trigger = recorded.version, recorded.time, type(event).__name__
        elif isinstance(event, Rewound):
            self._enter(event.node, recorded, on_line=on_line)
        elif isinstance(event, RunResumed) and event.to:
            self._enter(event.to, recorded, on_line=on_line)


def _call(recorded: Recorded, event: EffectStarted, node: str, *, on_line: bool) -> Call:
    model = event.input.get("model") if event.kind == "model" and isinstance(event.input, dict) else ""
    return Call(
        node, event.name, event.key, event.branch, event.kind, event.mutating, event.idempotency_key, recorded.version,
        recorded.time, event.attempt, model=model if isinstance(model, str) else "", on_line=on_line,
    )  # fmt: skip


def said(error: Failure) -> str:
    """An error in a line."""
    return f"{error.type}: {error.message}"


def _detail(recorded: Recorded) -> str:
    """What an event says beside who did it and why, which an act tells by itself."""
    event: Any = recorded.event
    told = {name: "" for name in ("actor", "why") if hasattr(event, name)}
    return detail(replace(recorded, event=replace(event, **told)))


# --- beside the run ------------------------------------------------------------------------------------------------


def _of_the_store(log: Log, head: Head) -> Iterator[Act]:
    """What the store's own stream says was done by hand to this run's checkpoints, and to earlier runs of its id."""
    stream = log.head_of(STORE_RUN)
    for recorded in history(log, STORE_RUN, 1, stream.version if stream else 0):
        event = recorded.event
        match event:
            case CheckpointCreated() | CheckpointsDeleted() if event.run_key == head.run_key:
                pass
            case RunDeleted() if event.run_id == head.run_id:
                pass
            case RunPinned() | RunUnpinned() | RunHeld() | RunReleased() | RunCompacted() if (
                event.run_key == head.run_key
            ):
                pass
            case _:
                continue
        at = event.at if isinstance(event, CheckpointCreated) else 0
        label = f" {event.label!r}" if isinstance(event, CheckpointCreated) and event.label else ""
        what = f"{type(event).__name__}{label}"
        yield Act(at, recorded.time, what, _detail(recorded), event.actor, event.why)


def _relatives(log: Log, head: Head) -> Iterator[Relative]:
    found = [Relative(one.run_id, "fork", at, one.status) for at, one in forks(log, head.run_key)]
    found += [Relative(one.run_id, "child", at, one.status) for at, one in children(log, Address(head, head.version))]
    yield from sorted(found, key=lambda one: (one.at, one.run_id))
