"""The history of a run as it is read: a line for each event, from nothing but the log.

Needs none of the user's code and works on a store that others are writing to: each look is a short read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from eventflow.change import Change
from eventflow.clock import NS
from eventflow.errors import RunNotFound
from eventflow.event import (
    AttemptFailed,
    BackupMade,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    CheckpointCreated,
    CheckpointsDeleted,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    EncryptionBegan,
    Event,
    Forked,
    KeysRotated,
    NodeSkipped,
    Recorded,
    Rewound,
    RunCancelled,
    RunCompacted,
    RunCompleted,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunHeld,
    RunParked,
    RunPaused,
    RunPinned,
    RunReleased,
    RunResumed,
    RunsImported,
    RunStarted,
    RunSuspended,
    RunTimedOut,
    RunUnpinned,
    SignalReceived,
    SignalRefused,
    StoreCreated,
    StoreEvent,
    StoreRepaired,
    StoreRestored,
    SubjectReadmitted,
    SubjectShredded,
    Transitioned,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import Head, Log
from eventflow.recovery import history
from eventflow.what_if import MOCK
from replay.notebook import history_html, safely
from replay.outline import node_at

TYPES: tuple[str, ...] = tuple(kind.__name__ for kind in get_args(RunEvent))


@dataclass(frozen=True, slots=True)
class Line:
    """One event as a line: `duration` is ns since the event before (None for the first), `tokens` what it reports.

    `node` is the node the run stood on when it happened.
    """

    version: int
    position: int
    time: int
    type: str
    node: str
    detail: str
    duration: int | None
    tokens: int
    digest: bytes


class History:
    """A run's own events as lines, read on from where the last look ended; a fork's begin after its parent's."""

    def __init__(self, log: Log, head: Head) -> None:
        self._log, self._run_key = log, head.run_key
        self._seen, self._node = 0, ""
        self._before: int | None = None
        entry = log.entry(head.run_key)
        if entry is not None and entry.origin:
            self._seen = entry.origin - 1
        elif entry is not None and entry.parent_id is not None:
            self._seen = entry.parent_at
            self._node = node_at(log, head, entry.parent_at)

    def __repr__(self) -> str:
        return f"History(run key {self._run_key.hex()}, read to version {self._seen})"

    def _repr_html_(self) -> str:
        """All of it for a notebook; what has been read stays read."""
        return safely(self._html, self)

    def _html(self) -> str:
        head = self._log.head_of(self._run_key)
        if head is None:
            raise RunNotFound(self._run_key.hex())
        return history_html(head.run_id, list(History(self._log, head).upto(head)))

    def upto(self, head: Head) -> Iterator[Line]:
        """The lines up to the version of a head that have not been read yet."""
        for recorded in history(self._log, self._run_key, self._seen + 1, head.version, hidden=True):
            yield self._line(recorded)

    def _line(self, recorded: Recorded) -> Line:
        said = line_of(recorded, self._node, self._before)
        self._seen, self._before = recorded.version, recorded.time
        self._node = node_after(recorded.event, self._node)
        return said


def line_of(recorded: Recorded, node: str, before: int | None) -> Line:
    """The line of an event that happened in a node, or in the one that it names; `before` is the time of the one before."""
    event = recorded.event
    return Line(
        recorded.version, recorded.position, recorded.time, type(event).__name__, str(getattr(event, "node", node)),
        detail(recorded), None if before is None else recorded.time - before, _tokens(event), recorded.digest,
    )  # fmt: skip


def node_after(event: Event, node: str) -> str:
    """The node that a run stands on after an event, if it stood on `node` before."""
    return event.to if isinstance(event, Transitioned) else str(getattr(event, "node", node))


def _tokens(event: Event) -> int:
    return tokens_of(event.usage) if isinstance(event, EffectFinished) else 0


def tokens_of(usage: Mapping[str, Any]) -> int:
    """Input and output tokens that a call reports; whoever reports usage may report anything."""
    counts = (usage.get("input_tokens", 0), usage.get("output_tokens", 0))
    return sum(count for count in counts if type(count) is int)


_IN_BRANCH = AttemptFailed | EffectStarted | EffectFinished | EffectFailed | EffectRejected | WaitOpened | WaitClosed


def detail(recorded: Recorded) -> str:
    """What an event says, in a few words."""
    said = _said(recorded.event)
    if recorded.hidden:
        said = f"{said} [{recorded.hidden}]"
    if isinstance(recorded.event, _IN_BRANCH) and recorded.event.branch:
        said = f"branch {recorded.event.branch}: {said}"
    if recorded.vouch is not None:
        said = f"{said} [vouches for the snapshot at version {recorded.vouch.version}]"
    return said.strip()


def _said(event: Event) -> str:
    return _said_of_store(event) if isinstance(event, StoreEvent) else _said_of_run(event)


def _said_of_run(event: RunEvent) -> str:  # noqa: C901, PLR0911, PLR0912 - one line an event, seen whole
    match event:
        case RunStarted():
            return f"workflow {event.workflow}, starts in {event.node}"
        case Transitioned():
            changed = _changed(event.change)
            arrow = f"to {event.to}" + (f" on {event.trigger}" if event.trigger != "done" else "")
            return f"{arrow}{f': {changed}' if changed else ''}"
        case RunCompleted():
            return _changed(event.change)
        case AttemptFailed():
            return f"attempt {event.attempt}: {event.error.type}: {event.error.message}"
        case RunFailed() | EffectFailed():
            name = f"{event.name} (key {event.key}): " if isinstance(event, EffectFailed) else ""
            return f"{name}{event.error.type}: {event.error.message}"
        case RunResumed():
            told = [_by(event.actor, event.why).removeprefix(": ")]
            told.append("with another definition" if event.definition is not None else "")
            told.append(f"moved to {event.to}" if event.to else "")
            told.append(f"migrated: {_changed(event.change)}" if event.change else "")
            told.append("what it may call is said anew" if event.effects is not None else "")
            return ", ".join(one for one in told if one)
        case RunTimedOut():
            return "its deadline passed"
        case UndoBegan():
            return f"before it ends as {event.ending}{_by(event.actor, event.why)}"
        case BranchesOpened():
            return f"{len(event.names) if event.items is None else len(event.items)} branches"
        case BranchFinished():
            return f"branch {event.branch}"
        case BranchFailed():
            return f"branch {event.branch}: {event.error.type}: {event.error.message}"
        case RunSuspended() | RunPaused() | RunCancelled() | NodeSkipped():
            return _by(event.actor, event.why).removeprefix(": ")
        case RunParked():
            after = f"after {event.crashes} crashes" if event.crashes else "at a limit"
            return f"{after}{_by(event.actor, event.why)}"
        case SignalReceived():
            return f"{event.name} (message {event.message}){_by(event.actor, '')}"
        case SignalRefused():
            return f"message {event.message}: {event.why}"
        case WaitOpened():
            return f"for {event.name or event.kind}" + (f", until {_moment(event.until)}" if event.until else "")
        case WaitClosed():
            return event.outcome + (f" (message {event.message})" if event.message else "")
        case EffectStarted():
            return f"{event.name} (key {event.key}), attempt {event.attempt}" + (", mutating" if event.mutating else "")
        case EffectFinished():
            return f"{event.name} (key {event.key})" + (f", {source_text(event.source)}" if event.source else "")
        case EffectRejected():
            return f"{event.name} (key {event.key}){_by(event.actor, event.why)}"
        case Rewound():
            return f"back to version {event.to}{_by(event.actor, event.why)}"
        case Forked():
            changed = ", ".join(f"{op.op} {'.'.join(op.path)}" for op in event.change)
            kind = "what-if run " if event.effects else ""
            return f"{kind}from {event.parent_id}@{event.at}{f': {changed}' if changed else ''}{_by(event.actor, event.why)}"


def _said_of_store(event: StoreEvent) -> str:  # noqa: C901, PLR0911, PLR0912 - the same of a store's own
    match event:
        case StoreCreated():
            return event.store_id.hex()
        case CheckpointCreated():
            return f"c-{event.at} of {event.run_id}{_by(event.actor, event.why)}"
        case CheckpointsDeleted():
            return f"{len(event.versions)} of {event.run_id}{_by(event.actor, event.why)}"
        case RunDeleted():
            return f"{event.run_id}, {event.head} versions{_by(event.actor, event.why)}"
        case RunCompacted():
            return f"{event.run_id}, versions {event.since} to {event.at - 1}{_by(event.actor, event.why)}"
        case RunPinned() | RunUnpinned() | RunHeld() | RunReleased():
            return f"{event.run_id}{_by(event.actor, event.why)}"
        case BackupMade():
            keys = ", with keys" if event.keys else ""
            return f"number {event.number}, up to position {event.upto}{keys}{_by(event.actor, event.why)}"
        case StoreRestored():
            return f"as it was at position {event.upto}, generation {event.generation}{_by(event.actor, event.why)}"
        case RunsImported():
            return f"{len(event.runs)} runs, {event.events} events{_by(event.actor, event.why)}"
        case KeysRotated():
            return f"{event.count} keys, now wrapped by {event.master}{_by(event.actor, event.why)}"
        case SubjectShredded():
            return f"{event.kind} {event.name}, {len(event.runs)} runs{_by(event.actor, event.why)}"
        case EncryptionBegan():
            return f"with master key {event.master}{_by(event.actor, event.why)}"
        case SubjectReadmitted():
            return f"subject {event.name}{_by(event.actor, event.why)}"
        case StoreRepaired():
            return f"{event.events} events, {len(event.lost)} losses{_by(event.actor, event.why)}"


def _moment(ns: int) -> str:
    """A time in ns as text, UTC, to the second; as the number where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(ns // NS, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{ns} ns"


def source_text(source: str) -> str:
    """That no call was made, and what answered in its place."""
    return "not called: a given value answered" if source == MOCK else f"not called: {source} answered"


def _changed(change: Change) -> str:
    """What a change does, without the values."""
    return ", ".join(f"{op.op} {'.'.join(op.path)}" for op in change)


def _by(actor: str, why: str) -> str:
    return (f" by {actor}" if actor else "") + (f": {why}" if why else "")
