"""Serving queues: claim the runs that wait in them, as many as there is room for, and drive them.

A queue is shared by all processes on a store; its limits hold in all of them together and are checked where the claim is
made. Here it is only decided when to look, and how many of a queue's runs this process has in hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eventflow.engine.background import stopped
from eventflow.engine.handle import Run
from eventflow.engine.orphans import OPEN_STATUSES, Orphans
from eventflow.errors import Corrupt, DefinitionError, EventflowError, WrittenByNewer
from eventflow.log import HIGHEST, LOWEST, Claim, Claimed, Head, Limits
from eventflow.run import Shop

LOOK_EVERY = 0.2  # seconds between looks at a queue in which nothing was found, or for which there is no room
GATHER = 0.01  # seconds in which more runs may end before others are asked for in their place: a claim is a commit
HERE = 100  # runs of a queue that one process has in hand at once, unless it says another number
LONGEST_NAME = 128  # characters


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue that an engine serves; its limits hold for all processes on the store together.

    `concurrency` is how many of its runs may be driven at once, `per_key` how many of those with the same key, `rate` how
    many may begin in how many seconds, `here` how many this process takes at once. A run that waits for something (time, a
    person, a signal) is not counted in the store's limits; when it goes on, it goes on at once. Raises DefinitionError.
    """

    name: str
    concurrency: int | None = None
    per_key: int | None = None
    rate: tuple[int, float] | None = None
    here: int = HERE

    def __post_init__(self) -> None:
        check_queue(self.name, 0)
        counts = (self.concurrency, self.per_key, self.here)
        if any(count is not None and count < 1 for count in counts):
            raise DefinitionError(f"queue {self.name!r}: concurrency, per_key and here count runs: give 1 or more")
        if self.rate is not None and not (self.rate[0] >= 1 and self.rate[1] > 0):
            raise DefinitionError(f"queue {self.name!r}: rate is (runs, seconds), both more than 0")

    @property
    def limits(self) -> Limits:
        """What holds for it in the whole store."""
        return Limits(self.concurrency, self.per_key, self.rate)


def check_queue(name: str, priority: int) -> None:
    """Refuse a queue's name, or a priority, that can't be kept. Raises DefinitionError."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise DefinitionError(f"a queue needs a name of 1 to {LONGEST_NAME} characters that can be printed")
    if not LOWEST <= priority <= HIGHEST:
        raise DefinitionError(f"a priority is a number from {LOWEST} to {HIGHEST}")


def queues_of(settings: Mapping[str, Any]) -> list[Queue]:
    """Queues as the settings write them: name -> concurrency, per_key, rate, here. Raises DefinitionError."""
    found = []
    for name, terms in settings.items():
        given = dict(terms)
        if isinstance(given.get("rate"), list):
            given["rate"] = tuple(given["rate"])
        try:
            found.append(Queue(name, **given))
        except (TypeError, ValueError):
            raise DefinitionError(
                f"queue {name!r}: its settings are concurrency, per_key, here (numbers) and rate ([runs, seconds])"
            ) from None
    return found


class Serving:
    """The queues that one engine serves, and the runs it has in hand."""

    def __init__(self, shop: Shop, orphans: Orphans, queues: Iterable[Queue], workflows: Mapping[str, Any]) -> None:
        self._shop, self._orphans, self._workflows = shop, orphans, workflows
        self._queues = {queue.name: queue for queue in queues}
        self._held: Counter[str] = Counter()
        self._refused: dict[str, dict[bytes, int]] = {name: {} for name in self._queues}  # at which version each was
        self._ends: set[asyncio.Task[None]] = set()
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._hindered: dict[str, str] = {}  # queue -> what went wrong at the last look

    def start(self) -> None:
        """Begin to look, if there is a queue to serve."""
        if self._queues and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="queues")

    def look(self) -> None:
        """Look at once: something was put into a queue here."""
        self._kick.set()

    @property
    def idle(self) -> bool:
        """Whether this process has none of their runs in hand."""
        return not self._held.total()

    @property
    def refused(self) -> set[str]:
        """The ids of runs that wait in its queues and could not be taken up here; `Engine.resume` says why."""
        heads = (self._shop.log.head_of(key) for refused in self._refused.values() for key in refused)
        return {head.run_id for head in heads if head is not None and head.status in OPEN_STATUSES}

    @property
    def hindered(self) -> dict[str, str]:
        """Why its queues could not be looked at the last time, those that could left out. Raises what ended the looking."""
        if self._task is not None and self._task.done():
            self._task.result()
        return dict(self._hindered)

    async def stop(self) -> None:
        """Claim nothing more. Raises what ended the looking, if anything did."""
        task, self._task = self._task, None
        await stopped(task)

    async def _serve(self) -> None:
        monotonic = self._shop.clock.monotonic
        again_at = monotonic() + LOOK_EVERY
        while True:
            self._kick.clear()
            found, again = False, monotonic() >= again_at
            for queue in self._queues.values():
                try:
                    found = await self._take_from(queue, again=again) or found
                    self._hindered.pop(queue.name, None)
                except EventflowError as error:  # the store is away, busy or full: it may be better the next time
                    self._hindered[queue.name] = str(error)
            if again:
                again_at = monotonic() + LOOK_EVERY
            if not found:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._kick.wait(), LOOK_EVERY)
                    await asyncio.sleep(GATHER)

    async def _take_from(self, queue: Queue, *, again: bool) -> bool:
        """Claim what there is room for; whether anything was. With `again`, look also after what was dropped here."""
        room = queue.here - self._held[queue.name]
        if room <= 0 and not again:
            return False
        refused = self._still_refused(queue.name)
        # A look that writes nothing: the writers' time is everybody's.
        seen = self._shop.log.queued(queue.name, 1 + len(refused))
        for one in seen if again else ():
            if one.taken and one.head.run_key not in refused and self._is_dropped(one.head):
                await self._take_up(queue.name, one.head)
        if room <= 0 or all(one.taken or one.head.run_key in refused for one in seen):
            return False
        shop = self._shop
        claim = Claim(
            shop.owner, queue.name, frozenset(self._workflows), room, queue.limits, shop.clock.now(), frozenset(refused)
        )  # fmt: skip
        answer = await shop.writer.write(claim)
        assert isinstance(answer, Claimed)  # noqa: S101 - a Claim is answered by Claimed
        for head in answer.heads:
            await self._take_up(queue.name, head)
        return bool(answer.heads)

    def _still_refused(self, queue: str) -> dict[bytes, int]:
        """The runs of a queue that could not be taken up here and have not moved since: asked again, they would answer the same."""
        log, refused = self._shop.log, self._refused[queue]
        for run_key, version in list(refused.items()):
            now = log.head_of(run_key)
            if now is None or now.version != version or now.status not in OPEN_STATUSES:
                del refused[run_key]
        return refused

    def _is_dropped(self, head: Head) -> bool:
        """Whether this engine has a run's lease and does not drive it: the store was away when it should have."""
        if head.owner != self._shop.owner or self._orphans.drives(head.run_key):
            return False
        now = self._shop.log.head_of(head.run_key)
        return now is not None and now.owner == head.owner and now.status in OPEN_STATUSES

    async def _take_up(self, queue: str, head: Head) -> None:
        run = None
        with suppress(Corrupt, WrittenByNewer):  # the run's own: nothing is written on top of it, and others go on
            run = await self._orphans.take_up(head)
        if run is None:  # it asks somebody first, or its node is gone: whoever looks is told
            await self._orphans.let_go(head)
            now = self._shop.log.head_of(head.run_key)
            if now is not None:
                self._refused[queue][head.run_key] = now.version
            return
        self._held[queue] += 1
        self._ends.add(task := asyncio.ensure_future(self._see_off(queue, run)))
        task.add_done_callback(self._ends.discard)

    async def _see_off(self, queue: str, run: Run) -> None:
        try:
            with suppress(EventflowError):
                await run.wait()
        finally:
            self._held[queue] -= 1
            self._kick.set()
