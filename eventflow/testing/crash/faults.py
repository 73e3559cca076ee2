"""Bugs planted on purpose, to show that a test finds them: a log that misbehaves, a store that does not wait for the disk.

Nothing here is of use for anything else, and nothing outside `testing` can switch it on.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from eventflow.errors import EventflowError
from eventflow.event import EffectStarted
from eventflow.log import Answer, Append, Appended, Kept, Log, Upkeep, Write, admit
from eventflow.log.lmdb import environment
from eventflow.testing.crash.boundary import events_of

# What tells of events; not what an engine asks now and then by itself, so that a bug is found in the same place each time.
_READS = frozenset(
    {"bends", "checkpoints", "feed", "head", "head_of", "read", "runs", "snapshot", "snapshots", "usage"}
)
Fault = Literal["", "acknowledge_before_commit", "effect_before_started"]
WEAKLY = {  # what LMDB is told when a store shall not wait for the disk as it must
    "": {},
    "skip_the_sync": {"sync": False},
    "skip_the_sync_of_the_meta_page": {"metasync": False},
}


@contextlib.contextmanager
def weakly_synced(fault: str) -> Iterator[None]:
    """A block in which stores are opened without the syncs that make a commit durable; the first fault of a power cut.

    `skip_the_sync` skips all of them, `skip_the_sync_of_the_meta_page` the last one of each commit. What opens stores
    meanwhile in this process is affected, so it is for a process of its own.
    """
    library = vars(environment)["lmdb"]
    opened = library.open
    library.open = functools.partial(opened, **WEAKLY[fault])
    try:
        yield
    finally:
        library.open = opened


class FaultyLog:
    """A log that acknowledges some appends before it has written them: it writes them with the next.

    `acknowledge_before_commit` does so with every append but a run's first, `effect_before_started` with the start of a
    call, which is so made before its start is durable.
    """

    def __init__(self, log: Log, fault: Fault) -> None:
        self._log, self._fault = log, fault
        self._owed: list[Write] = []
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        if name in _READS:  # who reads shall see what was acknowledged
            self.pay()
        return getattr(self._log, name)

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """Write what is owed, and then this, or owe it."""
        with self._lock:
            more = bool(self._owed) and all(isinstance(one, Upkeep) for one in batch)
            if not more:
                self.pay()
                more = self._can_wait(batch)
            if not more:
                return self._log.write(batch)
            answers = [self._promised(one) if isinstance(one, Append) else Kept() for one in batch]
            self._owed += batch  # a snapshot comes after its events, here too
            return [*answers]

    def _can_wait(self, batch: Sequence[Write]) -> bool:
        """Whether a batch holds appends to be owed, and beside them nothing but the care of the cache."""
        appends = [one for one in batch if isinstance(one, Append)]
        care = sum(isinstance(one, Upkeep) for one in batch)
        return bool(appends) and all(map(self._owes, appends)) and len(appends) + care == len(batch)

    def _owes(self, append: Append) -> bool:
        if append.first is not None or append.release or append.taken or not append.events:
            return False
        if self._fault == "effect_before_started":
            return all(isinstance(event, EffectStarted) for event in events_of(append, self._log))
        return True

    def _promised(self, append: Append) -> Appended:
        sealed = admit(append, self._log.head(append.run_id), self._log.owner_gone)
        size = sum(map(len, sealed.data))
        return Appended(sealed.head, self._log.position() + len(sealed.data), sealed.digests, size)

    def pay(self) -> None:
        """Write what was acknowledged and not written."""
        with self._lock:
            owed, self._owed = self._owed, []
            if owed:
                self._log.write(owed)
