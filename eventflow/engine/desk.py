"""The runs an engine has: those it drives, and those that stand still for long, of which it keeps little.

A run that stands still leaves memory after a moment: what stays is its place here and the moment at which its time is
over. A message or that moment brings it back from the log, under the same lease. Nothing here decides what runs do.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from contextlib import suppress

from eventflow.engine.bodies import Hands
from eventflow.engine.drive import Driver
from eventflow.engine.standing import Spawn, next_moment, suspends
from eventflow.errors import EventflowError, StoreClosed
from eventflow.recovery import Recovered, recover
from eventflow.run import Journal, Shop
from eventflow.state import State
from eventflow.workflow import Workflow

MAIL_POLL = 0.05  # seconds between looks at the store's last transaction for other processes' messages


class Seat:
    """One run's place: who drives it, or that it is parked; `left` is how a parked run was let go."""

    __slots__ = ("_changed", "driver", "flow", "left", "stop_before", "suspends")

    def __init__(self, flow: Workflow, driver: Driver) -> None:
        self.flow = flow
        self.driver: Driver | None = driver
        self.stop_before: frozenset[str] = driver.stop_before
        self.suspends = False  # its letting go must be recorded, since its limit depends on when that was
        self.left: State | None = None
        self._changed: asyncio.Future[None] | None = None

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for a change here."""
        return self._changed is not None

    async def change(self) -> None:
        """Return when a parked run is driven again, or was let go."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def tell(self) -> None:
        """Wake who waits for a change."""
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)


class Desk:
    """The runs of one open engine."""

    def __init__(self, shop: Shop, hands: Hands, spawn: Spawn) -> None:
        self._shop, self._hands, self._spawn = shop, hands, spawn
        self._seats: dict[bytes, Seat] = {}
        self._due: list[tuple[int, int, bytes]] = []  # moments at which parked runs wake, a heap
        self._order = itertools.count()
        self._sooner = asyncio.Event()
        self._left: list[Driver] = []  # ended, with bodies that still run in threads
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    # --- who is here

    def __contains__(self, key: bytes) -> bool:
        return key in self._seats

    def seat(self, key: bytes) -> Seat | None:
        """The place of a run that is driven or parked here."""
        return self._seats.get(key)

    def driver(self, key: bytes) -> Driver | None:
        """Who drives a run here, None if it is parked or not here at all."""
        seat = self._seats.get(key)
        return None if seat is None else seat.driver

    def drivers(self) -> Iterator[Driver]:
        """All who drive."""
        return (seat.driver for seat in list(self._seats.values()) if seat.driver is not None)

    # --- driving

    def drive(
        self, flow: Workflow, recovered: Recovered, epoch: int, stop_before: frozenset[str] = frozenset()
    ) -> Seat:  # fmt: skip
        """Drive a run whose lease this engine holds."""
        shop = self._shop
        state = recovered.state
        key = state.run.run_key
        journal = Journal(
            shop, state, epoch, recovered.progress, shop.log.checkpoints(key), needed=recovered.snapshot
        )  # fmt: skip
        driver = Driver(flow, journal, self._hands, spawn=self._spawn, stop_before=stop_before)
        seat = self._seats.get(key)
        if seat is None:
            seat = self._seats[key] = Seat(flow, driver)
        seat.driver = driver
        shop.active += 1
        driver.start().add_done_callback(lambda _: self._ended(key, driver))
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._read_mail()), loop.create_task(self._wake_due())]
        if self._stopping:
            driver.stop()
        seat.tell()
        return seat

    def _ended(self, key: bytes, driver: Driver) -> None:
        self._shop.active -= 1
        if driver.threads:
            self._left = [*(one for one in self._left if one.threads), driver]
        if driver.task is not None and not driver.task.cancelled():
            driver.task.exception()  # `result` raises it to whoever asks
        seat = self._seats.get(key)
        if seat is None or seat.driver is not driver:
            return
        if driver.parked:
            self._park(key, seat, driver.journal.state)
            return
        del self._seats[key]
        caller = driver.journal.state.run.caller
        if caller is not None and driver.journal.state.ended:
            self.ring(caller.run_key)

    # --- parking

    def _park(self, key: bytes, seat: Seat, state: State) -> None:
        seat.driver = None
        seat.suspends = suspends(state)
        moment = next_moment(state)
        if moment:
            heapq.heappush(self._due, (moment, next(self._order), key))
            if self._due[0][2] == key:
                self._sooner.set()
        with suppress(EventflowError):  # a message may have come while it was leaving
            if self._stopping or self._shop.log.inbox(key):
                self.wake(key)

    def wake(self, key: bytes) -> Driver | None:
        """Drive a parked run again; returns who drives it, None if it is not here."""
        seat = self._seats.get(key)
        if seat is None or seat.driver is not None:
            return None if seat is None else seat.driver
        log = self._shop.log
        head = log.head_of(key)
        if head is None or head.owner != self._shop.owner:  # deleted, or taken over meanwhile
            del self._seats[key]
            seat.tell()
            return None
        return self.drive(seat.flow, recover(log, head), head.epoch, seat.stop_before).driver

    def ring(self, key: bytes) -> None:
        """Have a run's messages looked at, if it is here."""
        driver = self.wake(key)
        if driver is not None:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks.append(asyncio.get_running_loop().create_task(_taken(driver)))

    async def _wake_due(self) -> None:
        """Bring back parked runs when their time is over."""
        while True:
            self._sooner.clear()
            if self._due:
                until = asyncio.ensure_future(self._shop.clock.wait_until(self._due[0][0]))
                sooner = asyncio.ensure_future(self._sooner.wait())
                try:
                    await asyncio.wait({until, sooner}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    until.cancel()
                    sooner.cancel()
            else:
                await self._sooner.wait()
            while self._due and self._due[0][0] <= self._shop.clock.now():
                _, _, key = heapq.heappop(self._due)
                with suppress(EventflowError):  # what can't be read now is met by whoever asks for it
                    self.wake(key)

    async def _read_mail(self) -> None:
        """Look now and then whether other processes have written messages for runs that are here."""
        log = self._shop.log
        seen = -1
        while True:
            with suppress(EventflowError):  # a look that fails is made again
                if self._seats and (mark := log.change_mark()) != seen:
                    for key in log.mail():
                        driver = self.wake(key)
                        if driver is not None:
                            await driver.take_mail()
                    seen = mark
            await asyncio.sleep(MAIL_POLL)

    # --- letting go

    async def drain(self, grace: float) -> list[str]:
        """Let every run go; the names of nodes whose plain functions still run in threads."""
        self._stopping = True
        drivers = list(self.drivers())
        for driver in drivers:
            driver.stop()
        drivers += self._let_parked_go()
        tasks = {driver.task for driver in drivers if driver.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            for driver in drivers:
                if driver.task is not None and not driver.task.done():
                    driver.abandon()
            await asyncio.wait(tasks)
        return sorted({f"{d.journal.state.run.run_id}: {name}" for d in (*drivers, *self._left) for name in d.threads})

    def _let_parked_go(self) -> list[Driver]:
        """Parked runs need no event to be let go, save those whose limit depends on when that was; those are driven."""
        woken: list[Driver] = []
        for key, seat in list(self._seats.items()):
            if seat.driver is not None:
                continue
            with suppress(EventflowError):
                if seat.suspends:
                    driver = self.wake(key)
                    if driver is not None:
                        woken.append(driver)
                    continue
                head = self._shop.log.head_of(key) if seat.awaited else None
                seat.left = None if head is None else recover(self._shop.log, head).state
            del self._seats[key]
            seat.tell()
        return woken

    async def close(self) -> None:
        """End what looks after the runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []


async def _taken(driver: Driver) -> None:
    with suppress(EventflowError, StoreClosed):
        await driver.take_mail()
