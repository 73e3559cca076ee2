"""What a state is made of. Nothing here moves: how an event changes a state is said beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eventflow.event import Failure
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList
from eventflow.swift import swift

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
class Caller:
    """The run that started this one as a part of itself, and is told how it ends."""

    run_id: str
    run_key: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is, from its first event on; `deadline` is ns since the epoch, UTC, 0 for none.

    `policy` says what a what-if run may call, and what answers in place of the rest; empty for every other run.
    """

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
    caller: Caller | None = None
    deadline: int = 0
    budget: FrozenDict = EMPTY
    policy: FrozenDict = EMPTY


@swift
@dataclass(frozen=True, slots=True)
class State:
    """The user's data and where the run stands, at one version.

    `visit` is the version at which the run entered `node`; `line` the version at which its line begins (0, or that of
    the last rewind or fork). `effects` are the calls of this visit by "name#key", or "branch/name#key"; `signals` wait
    to be read; `usage` sums what effects reported; `wait` is what the run stands still for; `steps` counts the nodes it
    has left. `branches` are those of the node, if it split: their names, the items they work on, and how far each is.
    `undo` lists what must be taken back should the run not end well, `undoing` says how it ends once that is done;
    `reuse` are calls of a line that was left which may still answer. `time` is that of the last event, ns since the epoch, UTC.
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
    steps: int = 0
    branches: FrozenDict | None = None
    undo: FrozenList = NOTHING
    undoing: FrozenDict | None = None
    reuse: FrozenDict = EMPTY

    @property
    def ended(self) -> bool:
        """Whether the run is over; a failed run can still be resumed."""
        return self.status in ENDED
