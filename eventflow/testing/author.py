"""Histories written straight into a log: the facts a test wants, without workflow, engine or event loop.

Time is a manual clock that moves one second an append, so that a history is the same each time it is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventflow.change import Change
from eventflow.clock import ManualClock
from eventflow.codec import pack, pack_state
from eventflow.errors import EventflowError
from eventflow.event import Event, Forked, Rewound, RunStarted, Vouch
from eventflow.log import Answer, Append, Appended, Entry, First, Head, Log, Upkeep, Write
from eventflow.plain import EMPTY, FrozenDict, FrozenList, freeze
from eventflow.proof import genesis
from eventflow.recovery import recover
from eventflow.state import State, Status

DEFINITION = bytes(range(32))  # the digest of a definition that nobody looks at


def written(log: Log, write: Write) -> Answer:
    """The answer to one write; raises its error."""
    answer = log.write([write])[0]
    if isinstance(answer, EventflowError):
        raise answer
    return answer


class Author:
    """Writes runs into a log by hand. `first` and `then` only say what would be written; the others write it."""

    def __init__(self, log: Log, *, clock: ManualClock | None = None) -> None:
        self.log = log
        self.clock = clock or ManualClock()

    def first(
        self, run_id: str, data: Mapping[str, Any] | None = None, *, node: str = "a", workflow: str = "flow",
        tags: Sequence[str] = (), claim: bytes = b"", incarnation: int | None = None, queue: str = "", priority: int = 0,
        queue_key: str = "",
    ) -> Append:  # fmt: skip
        """The append that starts a run."""
        self.clock.advance(1)
        number = incarnation or self.log.next_incarnation(run_id)
        event = RunStarted(
            run_id, self.log.store_id, workflow, DEFINITION, EMPTY, node, freeze(dict(data or {})), bytes(32),
            FrozenList(tags), queue=queue, priority=priority, queue_key=queue_key,
        )  # fmt: skip
        entry = Entry(
            workflow, tuple(tags), None, self.clock.now(), queue=queue, priority=priority, queue_key=queue_key
        )
        first = First(genesis(self.log.store_id, run_id, number, DEFINITION), entry)
        status: Status = "pending" if queue else "running"
        return Append(
            run_id, self.clock.uuid7(), number, 0, 0, (pack(event),), self.clock.now(), status, claim=claim, first=first
        )  # fmt: skip

    def then(
        self, head: Head, *events: Event, vouch: Vouch | None = None, status: Status = "running", **more: Any
    ) -> Append:
        """The append that continues a run from a head; the first event vouches for a snapshot, if one is given."""
        self.clock.advance(1)
        packed = tuple(pack(event, vouch=None if index else vouch) for index, event in enumerate(events))
        values = {"expected": head.version, "epoch": head.epoch, **more}
        return Append(
            head.run_id, head.run_key, head.incarnation, events=packed, time=self.clock.now(), status=status, **values
        )

    def start(self, run_id: str, data: Mapping[str, Any] | None = None, **more: Any) -> Head:
        """Start a run; returns its head."""
        return self._head(self.first(run_id, data, **more))

    def add(self, head: Head, *events: Event, **more: Any) -> Head:
        """Continue a run; returns its new head."""
        return self._head(self.then(head, *events, **more))

    def rewind(self, head: Head, to: int) -> Head:
        """Take a run back to a version; returns its new head."""
        return self.add(head, Rewound(to, self.state(head, to).node))

    def fork(
        self, parent: Head, at: int, run_id: str, *, change: Change = (), effects: FrozenDict | None = None
    ) -> Head:
        """Start a run that continues another from a version; returns its head."""
        return self._head(self.forking(parent, at, run_id, change=change, effects=effects))

    def forking(
        self, parent: Head, at: int, run_id: str, *, change: Change = (), effects: FrozenDict | None = None
    ) -> Append:
        """The append that forks a run."""
        self.clock.advance(1)
        state, now = self.state(parent, at), self.clock.now()
        event = Forked(
            run_id, self.log.store_id, parent.run_id, parent.run_key, parent.incarnation, at, change, effects=effects
        )  # fmt: skip
        entry = Entry(state.run.workflow, (), None, now, parent.run_id, parent.run_key, at)
        number = self.log.next_incarnation(run_id)
        return Append(
            run_id, self.clock.uuid7(), number, at, 0, (pack(event),), now, "running", first=First(state.digest, entry, at)
        )  # fmt: skip

    def snapshot(self, head: Head, *, anew: bool = True) -> Vouch:
        """Keep a snapshot of a run's newest state; returns what its next event says of it."""
        packed = pack_state(self.state(head), anew=anew)
        written(self.log, Upkeep(head.run_key, packed))
        return Vouch(packed.version, packed.digest)

    def state(self, head: Head, upto: int | None = None) -> State:
        """The state of a run at a version, folded from its start."""
        return recover(self.log, head, upto, snapshots=False).state

    def _head(self, append: Append) -> Head:
        answer = written(self.log, append)
        assert isinstance(answer, Appended)  # an append is answered so
        return answer.head
