"""The store of a simulation: one log that outlives its processes, and each process's own way to it, which can fail or end.

Faults come from a seeded source: a write is refused by a full disk, fails after it was made, or is the last thing its
process does, before or after it became durable. What was acknowledged is remembered, so that nothing of it may be missing
later. Two bugs can be planted, to see that a simulation finds them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eventflow.errors import EventflowError, StoreClosed, StoreFull, StoreUnusable
from eventflow.log import Answer, Append, Appended, Log, MemoryLog
from eventflow.log import Write as LogWrite
from eventflow.log.writer import Pending, Writer

Plant = Literal["", "unsynced", "unguarded"]
PLANTS: dict[Plant, str] = {
    "": "nothing is wrong",
    "unsynced": "what was written last is lost when its process ends, although it was acknowledged",
    "unguarded": "an append is taken from whoever makes it, whatever version and epoch he believes in",
}


class Died(BaseException):
    """The end of a simulated process: nothing catches it."""


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely each fault is, a write."""

    full: float = 0.01
    fails_after: float = 0.01
    dies_before: float = 0.03
    dies_after: float = 0.03


NO_FAULTS = Odds(0, 0, 0, 0)


@dataclass(slots=True)
class Disk:
    """What all processes share: the log, what was acknowledged, what was written last."""

    make: Callable[[], MemoryLog]
    plant: Plant = ""
    log: MemoryLog = field(init=False)
    acknowledged: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    _batches: list[list[LogWrite]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = self.make()

    def write(self, batch: Sequence[LogWrite]) -> list[Answer | EventflowError]:
        """One durable transaction."""
        if self.plant == "unguarded":
            batch = [self._unguarded(one) for one in batch]
        if self.plant == "unsynced":
            self._batches.append(list(batch))
        return self.log.write(batch)

    def _unguarded(self, one: LogWrite) -> LogWrite:
        head = self.log.head(one.run_id) if isinstance(one, Append) else None
        return (
            one
            if head is None or not isinstance(one, Append)
            else replace(one, epoch=head.epoch, expected=head.version)
        )

    def cut(self) -> None:
        """A process has ended: what it wrote is there, unless a bug was planted."""
        if self.plant == "unsynced" and self._batches:
            owners = self.log._owners  # noqa: SLF001 - the living are the same
            self._batches.pop()
            self.log = self.make()
            self.log._owners = owners  # noqa: SLF001
            for batch in self._batches:
                self.log.write(batch)

    def acknowledge(self, answers: Sequence[Answer | EventflowError]) -> None:
        """Remember what a process was told is durable."""
        for answer in answers:
            if isinstance(answer, Appended):
                version = answer.head.version - len(answer.digests)
                for digest in answer.digests:
                    version += 1
                    self.acknowledged[answer.head.run_key, version] = digest


class ProcessLog:
    """One process's way to the store; after its end it takes and tells nothing more."""

    durable = True
    readonly = False

    def __init__(self, disk: Disk, seed: int, odds: Odds, died: Callable[[], None]) -> None:
        self._disk, self._random, self.odds, self._died = disk, random.Random(seed), odds, died  # noqa: S311
        self.dead, self._owner = False, b""

    def __getattr__(self, name: str) -> Any:
        if self.dead:
            raise StoreClosed("this process has ended")
        return getattr(self._disk.log, name)

    def own_writer(self) -> SimulatedWriter:
        """What gathers its writes; there are no threads in a simulation."""
        return SimulatedWriter(self, self._random)

    def write(self, batch: Sequence[LogWrite]) -> list[Answer | EventflowError]:
        """Write, fail, or end."""
        if self.dead:
            raise StoreClosed("this process has ended")
        fate = self._fate()
        if fate == "full":
            raise StoreFull("the simulated disk is full; make room, then go on")
        if fate == "before":
            self.end()
            raise Died
        answers = self._disk.write(batch)
        if fate == "after":
            self.end()
            raise Died
        if fate == "fails":
            raise StoreUnusable("the simulated disk failed after it had written")
        self._disk.acknowledge(answers)
        return answers

    def _fate(self) -> str:
        """What becomes of this write: one drawn fault, or none."""
        odds, drawn = self.odds, self._random.random()
        likely = {"full": odds.full, "before": odds.dies_before, "after": odds.dies_after, "fails": odds.fails_after}
        for fate, share in likely.items():
            if drawn < share:
                return fate
            drawn -= share
        return ""

    def end(self) -> None:
        """The process is gone: nothing of it runs or writes any more."""
        if not self.dead:
            self.dead = True
            self.forsake()  # the kernel lets its lock go
            self._disk.cut()
            self._died()

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register this process's owner."""
        self._owner = owner
        return self._disk.log.new_owner(owner)

    def forsake(self) -> None:
        """Let others take this process for gone, as if it had been stopped for too long; it does not know."""
        self._disk.log._owners.discard(self._owner)  # noqa: SLF001

    def close(self) -> None:
        """Let go; the store itself goes on."""


class SimulatedWriter:
    """Group commit without a thread: what was asked for in a moment is written together, a drawn moment later."""

    def __init__(self, log: ProcessLog, source: random.Random) -> None:
        self._log, self._random = log, source
        self._gathered: list[Pending] = []

    async def write(self, one: LogWrite, *, alone: bool = False) -> Answer:
        """Return once the write is durable; raise its error."""
        answer = self.at_once(one) if alone else None
        return await self.submit(one) if answer is None else answer

    async def surely(self, one: LogWrite, *, alone: bool = False) -> Answer:
        """The same, as a real writer has it for who goes on with what is durable."""
        return await Writer.surely(self, one, alone=alone)  # type: ignore[arg-type] # it asks for these two alone

    def at_once(self, one: LogWrite) -> Answer | None:
        """Write now, unless others wait to be written."""
        return None if self._gathered else self.write_now(one)

    def write_now(self, one: LogWrite) -> Answer:
        """Write now."""
        answer = self._log.write([one])[0]
        if isinstance(answer, EventflowError):
            raise answer
        return answer

    def submit(self, one: LogWrite) -> asyncio.Future[Answer]:
        """Ask for a write; the future is done when it is durable."""
        return self.ask(one).future

    def ask(self, one: LogWrite) -> Pending:
        """The same for who must have the answer even if it is cancelled while waiting."""
        loop = asyncio.get_running_loop()
        pending = Pending(one, loop)
        if not self._gathered:
            loop.call_later(self._random.uniform(0, 0.01), self._commit)
        self._gathered.append(pending)
        return pending

    def _commit(self) -> None:
        batch, self._gathered = self._gathered, []
        answers: Sequence[Any]
        try:
            answers = [Died()] * len(batch) if self._log.dead else self._log.write([one.write for one in batch])
        except Died as end:  # whoever waits ends with the process
            answers = [end] * len(batch)
        except EventflowError as error:
            answers = [error] * len(batch)
        for pending, answer in zip(batch, answers, strict=True):
            pending.settle(answer)

    def close(self) -> None:
        """Write what was asked for."""
        if self._gathered:
            self._commit()


def as_log(log: ProcessLog) -> Log:
    """The same to who wants a log: it has what a log has, in part through the store."""
    return log
