"""Facts: what can happen to a run and to a store, in the past tense, as a closed set.

Each fact is a frozen dataclass of plain data. A *recorded* event is a fact with its place: run, version, position, time,
digest. Facts carry resolved changes and destinations, so that folding them needs none of the user's code. How facts are
written as bytes is the codec's business; what they add up to is the state's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eventflow.change import NO_CHANGE, Change
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList


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


# --- what happens to a run -----------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Transitioned:
    """The run left `node` for `to` on `trigger`, and its state changed; `error` is why, on an error edge."""

    node: str
    to: str
    trigger: str = "done"
    change: Change = NO_CHANGE
    error: Failure | None = None


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
    """The processes that drove the run ended `crashes` times in this visit of its node; nobody takes it up unasked."""

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
    """A message from outside was taken from the inbox; `message` is its number there."""

    name: str
    payload: Any
    message: int
    actor: str = ""


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


# --- what happens to a store ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreCreated:
    """A store came to be; always version 1 of the store's own stream."""

    store_id: bytes
    actor: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointCreated:
    """Somebody asked for a checkpoint of a run."""

    run_id: str
    run_key: bytes
    at: int
    label: str = ""
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointsDeleted:
    """Somebody deleted checkpoints of a run; its history is untouched."""

    run_id: str
    run_key: bytes
    versions: FrozenList
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunDeleted:
    """Somebody deleted a run; the digests of its events stay."""

    run_id: str
    run_key: bytes
    incarnation: int
    head: int
    head_digest: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunPinned:
    """Somebody said that a run stays, whatever the rules of cleaning up say."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunCompacted:
    """A run's history begins at version `at` from now on, with the snapshot this event vouches for.

    `since` is the first version that went; the digests of all that went stay.
    """

    run_id: str
    run_key: bytes
    incarnation: int
    since: int
    at: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunUnpinned:
    """Somebody took a pin off."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunHeld:
    """Somebody put a legal hold on a run: nobody removes anything of it until it is released."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunReleased:
    """Somebody lifted a legal hold."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class BackupMade:
    """The store was copied up to position `upto`; `number` is 1 for a whole copy, that of the increment for what came since.

    `head_digest` is the digest of the event at that position; `keys` says whether the copy holds the keys too.
    """

    number: int
    upto: int
    head_digest: bytes
    keys: bool = False
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class StoreRestored:
    """This store was made from a backup, as it was at position `upto`; the store it is a copy of may live on.

    `generation` counts the restores that led here and is in the high bits of every run's epoch from then on; `number` is
    that of the backup.
    """

    generation: int
    upto: int
    number: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunsImported:
    """Runs of another store were taken in, their events as they were stored there."""

    store_id: bytes
    runs: FrozenList
    events: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class StoreRepaired:
    """This store was made from what proved itself in a damaged one; `lost` says what did not, and why."""

    store_id: bytes
    events: int
    lost: FrozenList
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class KeysRotated:
    """Every key of the store was wrapped with another master key; `count` says how many, `master` by which."""

    master: str
    count: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class SubjectShredded:
    """A key was destroyed for good, and with it the values of all runs under it; `kind` is subject or run, `name` whose."""

    key_id: bytes
    kind: str
    name: str
    runs: FrozenList
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class EncryptionBegan:
    """Runs that begin from here on are encrypted; `master` is the id of the master key, no secret."""

    master: str
    actor: str = ""
    why: str = ""


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
StoreEvent = (
    StoreCreated
    | CheckpointCreated
    | CheckpointsDeleted
    | RunDeleted
    | RunPinned
    | RunCompacted
    | RunUnpinned
    | RunHeld
    | RunReleased
    | BackupMade
    | StoreRestored
    | RunsImported
    | StoreRepaired
    | KeysRotated
    | SubjectShredded
    | EncryptionBegan
)
Event = RunEvent | StoreEvent


@dataclass(frozen=True, slots=True)
class Vouch:
    """The version and the state digest of a snapshot, carried by an event, so that the chain answers for it."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place: what the log gives back.

    `version` counts in the run, `position` in the whole store, both from 1; `time` is ns since the epoch, UTC, by the
    engine's clock; `digest` is the SHA-256 of the stored bytes and `before` that of the run's event before.
    """

    event: Event
    run_key: bytes
    incarnation: int
    version: int
    position: int
    epoch: int
    time: int
    digest: bytes
    before: bytes
    vouch: Vouch | None = None
    size: int = field(default=0, compare=False)
    hidden: str = field(default="", compare=False)  # "encrypted" or "shredded": the fact's values are placeholders
