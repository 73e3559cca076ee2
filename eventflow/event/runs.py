"""What can happen to a run. Facts of stores stand in a file of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventflow.change import NO_CHANGE, Change
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList
from eventflow.swift import swift


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, as plain data: the error's type and sentence, and where it was raised."""

    type: str
    message: str
    where: str = ""
    retryable: bool = True

    def plain(self) -> list[Any]:
        """Its four fields in their order, as events, states and snapshots hold it; `Failure(*…)` makes it again."""
        return [self.type, self.message, self.where, self.retryable]


@swift
@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run was accepted; always version 1, durable before any code of the user runs.

    `caller_id` and `caller_key` name the run that started it as a part of itself; `deadline` is ns since the epoch, UTC,
    0 for none; `budget` holds limits by what they limit; `effects` says what it may call, empty for everything.
    A run that names a `queue` waits there until a process claims it: by `priority`, highest first, and no more than so
    many of one `queue_key` at once.
    """

    run_id: str
    store_id: bytes
    workflow: str
    definition_digest: bytes
    definition: FrozenDict
    node: str
    data: FrozenDict
    input_digest: bytes
    tags: FrozenList = NOTHING
    subject: str | None = None
    actor: str = ""
    why: str = ""
    caller_id: str = ""
    caller_key: bytes = b""
    deadline: int = 0
    budget: FrozenDict = EMPTY
    effects: FrozenDict = EMPTY
    queue: str = ""
    priority: int = 0
    queue_key: str = ""


@swift
@dataclass(frozen=True, slots=True)
class Transitioned:
    """The run left `node` for `to` on `trigger`, and its state changed; `error` is why, on an error edge."""

    node: str
    to: str
    trigger: str = "done"
    change: Change = NO_CHANGE
    error: Failure | None = None


@swift
@dataclass(frozen=True, slots=True)
class RunCompleted:
    """The body of a terminal node ended; the run is over."""

    node: str
    change: Change = NO_CHANGE


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """One attempt of a node, or of a branch of it, failed and another follows at `retry_at` (ns since the epoch, UTC)."""

    node: str
    attempt: int
    error: Failure
    retry_at: int
    branch: str = ""


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A node failed for good, or nothing could be decided; the run can be resumed once the cause is mended."""

    node: str
    error: Failure


@dataclass(frozen=True, slots=True)
class RunResumed:
    """An engine took the run up again; `definition`, `budget` and `effects` are set when they differ from those known so far.

    A migration's `change` of the data, and the node it moves the run `to`, are recorded with it.
    """

    node: str
    definition_digest: bytes
    definition: FrozenDict | None = None
    actor: str = ""
    why: str = ""
    budget: FrozenDict | None = None
    change: Change = NO_CHANGE
    to: str = ""
    effects: FrozenDict | None = None


@dataclass(frozen=True, slots=True)
class RunSuspended:
    """An engine stopped and let the run go, in the middle; anybody may resume it."""

    node: str
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunParked:
    """The run stands still, and nobody takes it up unasked; `why` says what for.

    The processes that drove it ended `crashes` times in this visit of its node; or, with none, it is at a limit.
    """

    node: str
    crashes: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunPaused:
    """Somebody asked that the run stand still after the node it is in."""

    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Somebody ended the run before its end."""

    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunTimedOut:
    """The run's deadline passed before its end."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeSkipped:
    """Somebody said how the node ends, in place of its code; the transition that follows has the result."""

    node: str
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class UndoBegan:
    """The run is about to end as `ending` (failed, cancelled, timed_out), and what it did is undone first."""

    node: str
    ending: str
    error: Failure | None = None
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class BranchesOpened:
    """The node split into branches; `items` are what they work on, where the node maps over a list."""

    node: str
    names: FrozenList
    items: FrozenList | None = None


@dataclass(frozen=True, slots=True)
class BranchFinished:
    """A branch ended with a result, which goes into the state at the join."""

    node: str
    branch: str
    result: Any = None


@dataclass(frozen=True, slots=True)
class BranchFailed:
    """A branch failed for good; what that means for the node is decided at the join."""

    node: str
    branch: str
    error: Failure


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """A message from outside was taken from the inbox; `message` is its number there, `key` what it was sent under."""

    name: str
    payload: Any
    message: int
    actor: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class SignalRefused:
    """A message did not fit what was waited for, and was put aside; `message` is its number."""

    message: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class WaitOpened:
    """The run, or a branch of it, stands still in `node` until something comes, or until a moment.

    `kind` is signal, human, timer, child or unknown (what became of a call); `name` that of the signal, child or call
    waited for; `until` ns since the epoch, UTC, 0 for no limit; `restore` says what the limit means when the run is
    taken up again; `spec` is what people are shown.
    """

    node: str
    kind: str
    name: str = ""
    until: int = 0
    restore: str = "deadline"
    spec: FrozenDict = EMPTY
    branch: str = ""


@dataclass(frozen=True, slots=True)
class WaitClosed:
    """What was waited for came (`signal`, with the number of its message), or its time was over (`timeout`).

    `settled` closes a wait for what became of a call.
    """

    node: str
    outcome: str
    message: int = 0
    branch: str = ""


@swift
@dataclass(frozen=True, slots=True)
class EffectStarted:
    """A call to the outside is about to be made; durable before it is.

    `undo` names what takes it back, should the run end otherwise than well.
    """

    name: str
    key: str
    kind: str
    mutating: bool
    input: Any
    input_digest: bytes
    idempotency_key: str
    attempt: int = 1
    branch: str = ""
    undo: str = ""


@swift
@dataclass(frozen=True, slots=True)
class EffectFinished:
    """A call to the outside gave a result; it is never made again on this line.

    `actor` is set where somebody said so who looked (see `Engine.settle`), `reused` where the result is that of the
    call that finished at that version, on a line that was left. `source` is set where no call was made because the run
    is a what-if run: `mock`, or the address of the event that answered.
    """

    name: str
    key: str
    output: Any
    usage: FrozenDict = EMPTY
    actor: str = ""
    why: str = ""
    branch: str = ""
    reused: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class EffectFailed:
    """A call to the outside is known to have failed."""

    name: str
    key: str
    error: Failure
    branch: str = ""


@dataclass(frozen=True, slots=True)
class EffectRejected:
    """A recorded result was refused, so that the call may be made again."""

    name: str
    key: str
    actor: str = ""
    why: str = ""
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Rewound:
    """The run went back to an earlier version; nothing is erased, later versions leave the line.

    `reuse` holds the versions at which calls finished that may answer on the new line too, by what they were; `signals`
    the messages that were consumed since and come back.
    """

    to: int
    node: str
    actor: str = ""
    why: str = ""
    reuse: FrozenDict = EMPTY
    signals: FrozenList = NOTHING


@dataclass(frozen=True, slots=True)
class Forked:
    """A new run continues another's history from version `at`; its first version is `at` + 1.

    `effects` says what it may call: empty for everything, None for what its parent may.
    """

    run_id: str
    store_id: bytes
    parent_id: str
    parent_key: bytes
    parent_incarnation: int
    at: int
    change: Change = NO_CHANGE
    actor: str = ""
    why: str = ""
    effects: FrozenDict | None = None


RunEvent = (
    RunStarted
    | Transitioned
    | RunCompleted
    | AttemptFailed
    | RunFailed
    | RunResumed
    | RunSuspended
    | RunParked
    | RunPaused
    | RunCancelled
    | RunTimedOut
    | NodeSkipped
    | UndoBegan
    | BranchesOpened
    | BranchFinished
    | BranchFailed
    | SignalReceived
    | SignalRefused
    | WaitOpened
    | WaitClosed
    | EffectStarted
    | EffectFinished
    | EffectFailed
    | EffectRejected
    | Rewound
    | Forked
)
