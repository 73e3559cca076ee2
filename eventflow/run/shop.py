"""What all runs of an engine share, how a run's first event is written, and what listeners are told.

How one run's facts go on from there is its journal's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from eventflow.checkpoint import Checkpoint, CheckpointPolicy, Passage, Progress, due
from eventflow.clock import Clock
from eventflow.codec import Packed, pack
from eventflow.errors import NotPlainData
from eventflow.event import AttemptFailed, Event, Recorded, RunCompleted, RunFailed, RunStarted, Transitioned
from eventflow.log import Append, Appended, First, Head, LockedLog, Log, Writer
from eventflow.quota import LimitNear
from eventflow.redaction import Redaction, Redactor
from eventflow.run.failure import is_failure
from eventflow.run.tally import Store
from eventflow.state import State, status_after


@dataclass(frozen=True, slots=True)
class CheckpointTaken:
    """A checkpoint was made; `seconds` is what packing its bytes took, 0 for a mark alone."""

    run_id: str
    checkpoint: Checkpoint
    seconds: float


@dataclass(frozen=True, slots=True)
class RecoveryOutOfReach:
    """A run's state has grown so large that no recovery is as fast as its policy asks; said once.

    `target` is what was asked for and `estimate` what one in a hundred is reckoned to take at the least, in seconds.
    From now on snapshots are made in proportion to the state's size.
    """

    run_id: str
    version: int
    target: float
    estimate: float


Notice = Recorded | CheckpointTaken | RecoveryOutOfReach | LimitNear
Listener = Callable[[State, Notice], None]


@dataclass(slots=True)
class Shop:
    """What all runs of an engine share: the log, its writer, time, policy, listeners."""

    log: Log
    writer: Writer
    clock: Clock
    policy: CheckpointPolicy
    owner: bytes
    listeners: list[Listener] = field(default_factory=list)
    active: int = 0
    resources: dict[Any, Any] = field(default_factory=dict)
    redactor: Redactor | None = None  # what takes secrets out of facts before they are recorded
    store: Store = field(default_factory=Store)  # how full it is, and how much may be kept
    meanwhile: CheckpointPolicy = field(init=False)  # the policy of a run while a snapshot of it is in flight
    by_size_only: bool = field(init=False)  # whether a plain transition is worth a checkpoint by its size alone

    def __post_init__(self) -> None:
        self.by_size_only = self.policy.by_size_only
        self.meanwhile = replace(self.policy, auto=False, every=None, interval=None, recovery=None)

    def tell(self, state: State, notice: Notice) -> None:
        """Call the listeners; what they raise is theirs to lose, a fact stays a fact."""
        for listener in self.listeners:
            try:
                listener(state, notice)
            except BaseException as error:
                if not is_failure(error):
                    raise

    def clean(self, value: Any) -> Any:
        """Frozen plain data without the secrets that are not to be recorded."""
        return value if self.redactor is None else self.redactor.value(value)

    def cleaned(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """The same for facts; the very same ones if there is nothing to take out."""
        return events if self.redactor is None else tuple(map(self.redactor.event, events))

    def check_size(self, packed: tuple[Packed, ...]) -> None:
        """Refuse facts that carry more than the quota lets one event carry. Raises NotPlainData."""
        limit = self.store.quota.event_bytes
        for one in packed if limit is not None else ():
            self._check(one.size)

    def check_message(self, data: bytes) -> None:
        """The same for a message, which becomes an event."""
        self._check(len(data))

    def _check(self, size: int) -> None:
        limit = self.store.quota.event_bytes
        if limit is not None and size > limit:
            raise NotPlainData(
                "what is to be recorded",
                f"makes an event of {size:,} bytes; the quota's event_bytes is {limit:,}. Keep such data in a file and its "
                f"name in the state, or raise it",
            )


def redactor_for(redaction: Redaction | None, log: Log) -> Redactor | None:
    """What takes secrets out of an engine's facts; its hashes are keyed by the store's own key, where it has one."""
    if redaction is None:
        return None
    secret = log.keys.secret() if isinstance(log, LockedLog) else None
    return Redactor(redaction, secret)


def passage(events: tuple[Event, ...]) -> Passage:
    """What the last of some events did, as far as a checkpoint policy asks."""
    last = events[-1] if events else None
    if isinstance(last, Transitioned):
        return Passage(last.node, last.to, failed=last.error is not None)
    if isinstance(last, RunCompleted):
        return Passage(last.node)
    return Passage(failed=isinstance(last, RunFailed | AttemptFailed))


async def begin(
    shop: Shop,
    head: Head | None,
    event: Event,
    *,
    run_id: str,
    run_key: bytes,
    incarnation: int,
    first: First,
    claim: bytes | None = None,
) -> Appended:
    """Append a run's first event and take its lease for the owner `claim`: nobody if empty, this engine if None.

    Raises VersionConflict if the run is there already.
    """
    event = shop.cleaned((event,))[0]
    packed = (pack(event),)
    shop.check_size(packed)
    status, waiting = status_after(None, event)
    now = shop.clock.now()
    entered = event.node if isinstance(event, RunStarted) else None
    kinds = due(shop.policy, Progress(last=now), Passage(entered=entered), now).kinds
    marks = (Checkpoint(first.at + 1, kinds, now),) if kinds else ()
    append = Append(
        run_id, run_key, incarnation, head.version if head else first.at, 0, packed, now, status, waiting,
        claim=shop.owner if claim is None else claim, marks=marks, first=first,
    )  # fmt: skip
    answer = await shop.writer.surely(append, alone=shop.active == 0)
    assert isinstance(answer, Appended)  # noqa: S101 - an Append is answered by Appended
    return answer
