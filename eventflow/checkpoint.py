"""When a state is worth a snapshot, and which checkpoints stay: arithmetic on facts, nothing is written here.

A checkpoint is a mark at a version; its snapshot bytes are written when they are worth it. After A and before B are one
version, so a mark may have several kinds. The default is proportional to size: a snapshot once the events since the last
one weigh as much as the state, so that snapshots stay linear in the log and recovery proportional to the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from eventflow.clock import NS
from eventflow.costs import STEP, Costs, seconds_of
from eventflow.errors import DefinitionError
from eventflow.span import span_in

Kind = Literal["auto", "before_node", "after_node", "interval", "every", "error", "manual", "shutdown"]
KINDS: tuple[Kind, ...] = ("auto", "before_node", "after_node", "interval", "every", "error", "manual", "shutdown")

# Folding one event takes as long as reading this many bytes of a snapshot, beside its own bytes: 500 to 7,000, depending
# on what the state is made of (`python -m benchmarks recover` prints it). More makes recovery faster and stores larger.
EVENT_WEIGHT = 7_000
MIN_BYTES = 64 << 10  # a state that folds from less is recovered in a few ms anyway
MIN_EVENTS = 64  # and so is a run of fewer events


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A mark at a version of a run; `size` is that of its snapshot's bytes, 0 where it is reached by folding."""

    version: int
    kinds: tuple[Kind, ...]
    time: int
    label: str = ""
    size: int = 0
    digest: bytes = b""

    @property
    def id(self) -> str:
        """`c-` and the version; one version has one checkpoint."""
        return f"c-{self.version}"


def merged(old: Checkpoint | None, new: Checkpoint) -> Checkpoint:
    """One mark with the kinds of both; bytes that exist stay."""
    if old is None:
        return new
    kinds = tuple(kind for kind in KINDS if kind in old.kinds or kind in new.kinds)
    return replace(
        new, kinds=kinds, time=old.time, label=new.label or old.label, size=new.size or old.size,
        digest=new.digest or old.digest,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """What is kept of a run besides its events; every option combines with every other.

    auto: snapshots proportional to size, the default. every: a snapshot each that many events. interval: one at the
    first event after that span. before_node, after_node: a mark around each node, or around those named.
    on_error, at_shutdown: a checkpoint when a node fails or the engine stops. keep, max_age: the newest that many, or
    those younger than that span, stay; manual ones are not counted. compress: zstd for snapshot bytes.
    recovery: in place of auto's proportion, snapshots as far apart as lets a recovery take no longer than that. A span is a text
    as "50 ms", "1h", "30d", or seconds, and is kept as seconds. Raises DefinitionError for what means nothing.
    """

    auto: bool = True
    every: int | None = None
    interval: str | float | None = None
    before_node: bool | tuple[str, ...] = False
    after_node: bool | tuple[str, ...] = False
    on_error: bool = True
    at_shutdown: bool = True
    keep: int | None = None
    max_age: str | float | None = None
    compress: bool = True
    recovery: str | float | None = None

    def __post_init__(self) -> None:
        if self.recovery is not None:
            object.__setattr__(self, "recovery", seconds_of(self.recovery))
        for name, counted in (("every", "events"), ("keep", "checkpoints")):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise DefinitionError(
                    f"CheckpointPolicy({name}={number!r}) counts {counted}: give a whole number, 1 or more"
                )
        for name in ("interval", "max_age"):
            if (span := getattr(self, name)) is not None:
                object.__setattr__(self, name, _span(name, span))
        for name in ("auto", "on_error", "at_shutdown", "compress"):
            if not isinstance(given := getattr(self, name), bool):
                raise DefinitionError(f"CheckpointPolicy({name}={given!r}) is on or off: give True or False")
        for name in ("before_node", "after_node"):
            given = getattr(self, name)
            if not isinstance(given, bool) and not _are_names(given):
                raise DefinitionError(f"CheckpointPolicy({name}={given!r}) takes True or False, or a tuple of names")

    @property
    def by_size_only(self) -> bool:
        """Whether an event that is no failure is worth a checkpoint by what came since the last one alone."""
        return not (self.every or self.interval or self.before_node or self.after_node)

    @property
    def target(self) -> float | None:
        """How many seconds a recovery may take, if anybody said."""
        return self.recovery if isinstance(self.recovery, float) else None


def _span(name: str, given: object) -> float:
    seconds = span_in(given)
    if isinstance(seconds, str):
        raise DefinitionError(f"CheckpointPolicy({name}={given!r}) is a span: {seconds}")
    if seconds <= 0:
        raise DefinitionError(f"CheckpointPolicy({name}={given!r}) is a span: give more than 0")
    return seconds


def _are_names(given: object) -> bool:
    return isinstance(given, tuple | list | set | frozenset) and all(isinstance(one, str) for one in given)


NO_CHECKPOINTS = CheckpointPolicy(auto=False, on_error=False, at_shutdown=False)


@dataclass(slots=True)
class Progress:
    """What has happened to a run since its last snapshot; `state_size` estimates the state's bytes."""

    events: int = 0
    weight: int = 0
    state_size: int = 0
    last: int = 0
    since_every: int = 0

    def add(self, size: int) -> None:
        """One more event of that many bytes."""
        self.events += 1
        self.since_every += 1
        self.weight += size + EVENT_WEIGHT
        self.state_size += size

    def ahead(self, count: int, size: int) -> Progress:
        """What it will be after so many more events of so many bytes in all."""
        weight = self.weight + size + count * EVENT_WEIGHT
        return Progress(self.events + count, weight, self.state_size + size, self.last, self.since_every + count)

    @property
    def snapshot_size(self) -> int:
        """Bytes of the state that the last snapshot holds, 0 before the first."""
        return self.state_size - (self.weight - self.events * EVENT_WEIGHT)

    def snapshot_taken(self, size: int, at: int) -> None:
        """A snapshot of that many bytes was made from here, at that time (ns)."""
        self.events = self.weight = self.since_every = 0
        self.state_size = size
        self.last = at


class Passage(NamedTuple):
    """What the last event did, as far as a policy asks: the node left, the node entered, whether it failed."""

    left: str | None = None
    entered: str | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """What is due now: a mark of these kinds, and whether its bytes are worth writing."""

    kinds: tuple[Kind, ...] = ()
    snapshot: bool = False


NOTHING_DUE = Due()


def worth_bytes(progress: Progress) -> bool:
    """Whether what came since the last snapshot weighs as much as the state, and enough to notice."""
    return progress.events >= MIN_EVENTS and progress.weight >= max(MIN_BYTES, progress.state_size)


def worth_time(target: float, costs: Costs, progress: Progress) -> bool:
    """Whether a recovery would soon take longer than it may; where it does anyway, the proportion decides."""
    if not costs.in_reach(target, progress.snapshot_size):
        return worth_bytes(progress)
    return costs.room(target, progress.state_size, progress.events) <= 0


def quiet_until(target: float, costs: Costs, progress: Progress) -> int:
    """The weight since the last snapshot below which none can be due for the time a recovery takes."""
    if not costs.in_reach(target, progress.snapshot_size):
        ahead: float = progress.state_size - progress.weight
    else:  # seconds that a unit of weight adds at most
        each = max(costs.event / EVENT_WEIGHT, costs.load)
        ahead = costs.room(target, progress.state_size, progress.events) / each
    return progress.weight + max(int(ahead), STEP * EVENT_WEIGHT)


def due(
    policy: CheckpointPolicy, progress: Progress, passage: Passage, now: int, costs: Costs | None = None
) -> Due:  # fmt: skip
    """What the policy wants after an event, `now` in ns; `costs` are what a target for recoveries is compared with."""
    if costs is None or (target := policy.target) is None:
        worth = policy.auto and worth_bytes(progress)
    else:
        worth = worth_time(target, costs, progress)
    by_count = policy.every is not None and progress.since_every >= policy.every
    by_time = isinstance(policy.interval, float) and now - progress.last >= policy.interval * NS
    before = passage.entered is not None and _names(policy.before_node, passage.entered)
    after = passage.left is not None and _names(policy.after_node, passage.left)
    failed = passage.failed and policy.on_error
    if not (worth or by_count or by_time or before or after or failed):
        return NOTHING_DUE
    wanted = (worth, before, after, by_time, by_count, failed)
    names: tuple[Kind, ...] = ("auto", "before_node", "after_node", "interval", "every", "error")
    kinds = tuple(kind for kind, want in zip(names, wanted, strict=True) if want)
    return Due(kinds, snapshot=worth or by_count or by_time or failed)


def _names(option: bool | tuple[str, ...], node: str) -> bool:  # noqa: FBT001 - the option's own type
    return option if isinstance(option, bool) else node in option


def expired(policy: CheckpointPolicy, marks: Sequence[Checkpoint], now: int) -> list[int]:
    """Versions of the checkpoints that the policy no longer keeps, oldest first; manual ones and the newest stay."""
    if policy.keep is None and policy.max_age is None:
        return []
    counted = sorted((mark for mark in marks if "manual" not in mark.kinds), key=lambda mark: mark.version)
    gone: set[int] = set()
    if policy.keep is not None:
        gone.update(mark.version for mark in counted[: -policy.keep])
    if isinstance(policy.max_age, float):
        gone.update(mark.version for mark in counted[:-1] if now - mark.time > policy.max_age * NS)
    return sorted(gone)


def select(marks: Iterable[Checkpoint], *, older_than: int | None, keep: int | None) -> list[int]:
    """Versions that a prune by hand takes: older than a time (ns), or all but the newest `keep`."""
    ordered = sorted(marks, key=lambda mark: mark.version)
    if keep is not None:
        ordered = ordered[:-keep] if keep else ordered
    return [mark.version for mark in ordered if older_than is None or mark.time < older_than]
