"""What an account of a run is made of; plain facts, in the order in which they were recorded. Nothing is read here.

Times are ns since the epoch, UTC; versions are those of the run; 0 is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventflow.log import Head
from eventflow.proof.note import TreeHead
from eventflow.state import State


@dataclass(frozen=True, slots=True)
class Origin:
    """How the run began: started (`input`), or forked from `parent` at `at` with `changed` set; by whom, and why.

    Of one that was `compacted` that is not known any more; `input` is the data that its history begins with.
    """

    version: int
    time: int
    actor: str
    why: str
    input: Any = None
    parent: str = ""
    at: int = 0
    changed: Mapping[str, Any] = field(default_factory=dict)
    caller: str = ""
    compacted: bool = False


@dataclass(slots=True)
class Stay:
    """One stay in a node: from when to when, how many attempts, why they failed, on what it left and where to."""

    node: str
    entered: int
    began: int
    left: int = 0
    ended: int = 0
    attempts: int = 1
    failures: list[str] = field(default_factory=list)
    trigger: str = ""
    to: str = ""
    on_line: bool = True


@dataclass(slots=True)
class Call:
    """One call to the outside.

    `outcome` is finished, failed, rejected or unknown; `unknown` whether it was ever unknown what became of it, and
    `settled_by` who said so then. `model` is the model's name, if one was asked; `usage` what the call reported;
    `source` is what answered where no call was made: `mock`, or the address of an event.
    """

    node: str
    name: str
    key: str
    branch: str
    kind: str
    mutating: bool
    idempotency_key: str
    started: int
    began: int
    attempts: int = 1
    outcome: str = "unknown"
    finished: int = 0
    ended: int = 0
    error: str = ""
    unknown: bool = False
    settled_by: str = ""
    why: str = ""
    reused: int = 0
    model: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    on_line: bool = True
    source: str = ""


@dataclass(slots=True)
class Decision:
    """Something the run stood still for: what was asked, and what was answered, by whom.

    `kind` is human, signal, timer, child or unknown; `outcome` answered, timeout, settled, or open; `refused` are answers
    that did not fit.
    """

    node: str
    branch: str
    kind: str
    name: str
    asked: Any
    opened: int
    began: int
    until: int
    closed: int = 0
    ended: int = 0
    outcome: str = "open"
    answer: Any = None
    actor: str = ""
    message: int = 0
    refused: list[str] = field(default_factory=list)
    on_line: bool = True


@dataclass(frozen=True, slots=True)
class Act:
    """Something somebody did by hand, to the run or to what is kept of it: what, who, why."""

    version: int
    time: int
    what: str
    detail: str
    actor: str
    why: str


@dataclass(frozen=True, slots=True)
class Relative:
    """A run that was forked from this one, or started by it, at a version of this one."""

    run_id: str
    how: str
    at: int
    status: str


@dataclass(frozen=True, slots=True)
class Account:
    """All of it. `problems` are what a verification of the run found; `seal` is one that covers its last event."""

    head: Head
    state: State
    origin: Origin
    stays: tuple[Stay, ...]
    calls: tuple[Call, ...]
    decisions: tuple[Decision, ...]
    messages: tuple[Act, ...]
    acts: tuple[Act, ...]
    checkpoints: tuple[Act, ...]
    relatives: tuple[Relative, ...]
    events: int
    problems: tuple[str, ...]
    seal: TreeHead | None = None

    @property
    def model_calls(self) -> tuple[Call, ...]:
        """The calls that asked a model."""
        return tuple(call for call in self.calls if call.kind == "model")
