"""The runs an engine has: those it drives, and those that stand still for long, of which it keeps little.

A run that stands still leaves memory after a moment: what stays is its place here and the moment at which its time is
over. A message or that moment brings it back from the log, under the same lease. Nothing here decides what runs do.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from eventflow.clock import NS
from eventflow.engine.bodies import Hands
from eventflow.engine.drive import Driver
from eventflow.engine.standing import Spawn, next_moment, suspends
from eventflow.errors import EventflowError
from eventflow.recovery import Recovered, recover
from eventflow.run import Journal, Shop
from eventflow.state import State
from eventflow.workflow import Workflow

MAIL_POLL = 0.05  # seconds between looks at the store's last transaction for other processes' messages
AT_ONCE = 20  # runs woken in one turn of the loop, whose other tasks wait meanwhile: a few ms
AGAIN = NS  # ns until a run is looked at again that could not be read when its time was over
SLACK = 1_000  # entries of runs that are gone which the list of moments may hold beside its own size: 100 KB


class Seat:
    """One run's place: who drives it, or that it is parked.

    `gone` says that it is not here any more; `let_go` that this engine let it go as it stood, `left` being its state then,
    if anybody waited for it. `due` is when a parked run wakes, `listed` where the list of moments has it. `held` says that
    its driver is being exchanged: who waits for the run waits on.
    """

    __slots__ = (
        "_changed", "driver", "due", "flow", "gone", "held", "left", "let_go", "listed", "stop_before", "suspends",
    )  # fmt: skip

    def __init__(self, flow: Workflow, driver: Driver) -> None:
        self.flow = flow
        self.driver: Driver | None = driver
        self.stop_before: frozenset[str] = driver.stop_before
        self.suspends = False  # its letting go must be recorded, since its limit depends on when that was
        self.gone = self.let_go = self.held = False
        self.left: State | None = None
        self.due = self.listed = 0
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
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.unattended: Callable[[bytes], Awaitable[None]] | None = None  # messages for a run that is not here

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
            shop, state, epoch, recovered.progress, shop.log.checkpoints(key), needed=recovered.snapshot, timed=recovered.timed
        )  # fmt: skip
        driver = Driver(flow, journal, self._hands, spawn=self._spawn, stop_before=stop_before)
        seat = self._seats.get(key)
        if seat is None:
            seat = self._seats[key] = Seat(flow, driver)
        seat.driver, seat.flow, seat.stop_before = driver, flow, stop_before
        shop.active += 1
        driver.start().add_done_callback(lambda _: self._ended(key, driver))
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = {loop.create_task(self._read_mail()), loop.create_task(self._wake_due())}
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
        if seat.held:
            seat.driver = None
        elif driver.parked:
            self._park(key, seat, driver.journal.state)
            return
        else:
            self._leave(key, seat)
        caller = driver.journal.state.run.caller
        if caller is not None and driver.journal.state.ended:
            self.ring(caller.run_key)

    @contextmanager
    def held(self, key: bytes) -> Iterator[None]:
        """Keep a run's place, if it has one here, while its driver is exchanged within this block."""
        self.wake(key)  # what is parked is driven to be let go
        seat = self._seats.get(key)
        if seat is not None:
            seat.held = True
        try:
            yield
        finally:
            if seat is not None:
                seat.held = False
                if seat.driver is None and self._seats.get(key) is seat:
                    self._leave(key, seat)

    def _leave(self, key: bytes, seat: Seat) -> None:
        """The run is not here any more."""
        self._seats.pop(key, None)
        seat.gone = True
        seat.tell()

    # --- parking

    def _park(self, key: bytes, seat: Seat, state: State) -> None:
        seat.driver = None
        seat.suspends = suspends(state) or state.status != "waiting"
        self._wake_at(key, seat, next_moment(state))
        with suppress(EventflowError):  # a message may have come while it was leaving
            if self._stopping or self._shop.log.inbox(key):
                self.wake(key)

    def wake(self, key: bytes) -> Driver | None:
        """Drive a parked run again; returns who drives it, None if it is not here."""
        seat = self._seats.get(key)
        if seat is None or seat.driver is not None or seat.held:
            return None if seat is None else seat.driver
        log = self._shop.log
        head = log.head_of(key)
        if head is None or head.owner != self._shop.owner:  # deleted, or taken over meanwhile
            self._leave(key, seat)
            return None
        found = recover(log, head, monotonic=self._shop.clock.monotonic)
        return self.drive(seat.flow, found, head.epoch, seat.stop_before).driver

    def ring(self, key: bytes) -> None:
        """Have a run's messages looked at, if it is here."""
        driver = self.wake(key)
        if driver is not None:
            task = asyncio.get_running_loop().create_task(_taken(driver))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
            for number in itertools.count(1):
                if not self._due or self._due[0][0] > self._shop.clock.now():
                    break
                self._wake_next()
                if number % AT_ONCE == 0:  # thousands may be due at one moment
                    await asyncio.sleep(0)

    def _wake_at(self, key: bytes, seat: Seat, moment: int) -> None:
        """Have a parked run woken at a moment, never if 0; a run has one entry that counts in the list of moments."""
        seat.due = moment
        if moment and (not seat.listed or moment < seat.listed):
            seat.listed = moment
            heapq.heappush(self._due, (moment, next(self._order), key))
            if self._due[0][2] == key:
                self._sooner.set()
            if len(self._due) > 2 * len(self._seats) + SLACK:
                self._due = [one for one in self._due if (it := self._seats.get(one[2])) and it.listed == one[0]]
                heapq.heapify(self._due)

    def _wake_next(self) -> None:
        """Wake the run whose moment is the first in the list, if it still stands and that is still its moment."""
        moment, _, key = heapq.heappop(self._due)
        seat = self._seats.get(key)
        if seat is None or seat.listed != moment:
            return
        seat.listed = 0
        if seat.driver is not None:
            return
        if seat.due != moment:
            self._wake_at(key, seat, seat.due)
            return
        try:
            self.wake(key)
        except EventflowError:  # it can't be read now
            self._wake_at(key, seat, self._shop.clock.now() + AGAIN)

    async def _read_mail(self) -> None:
        """Look now and then whether other processes have written messages for runs that are here."""
        log = self._shop.log
        seen = -1
        while True:
            with suppress(EventflowError):  # a look that fails is made again
                if (mark := log.change_mark()) != seen and await self._deliver(log.mail()):
                    seen = mark
            await asyncio.sleep(MAIL_POLL)

    async def _deliver(self, keys: list[bytes]) -> bool:
        """Have the messages of some runs looked at; False if some could not be."""
        whole = True
        for number, key in enumerate(keys, 1):
            try:
                if key in self._seats:
                    self.ring(key)
                elif self.unattended is not None:
                    await self.unattended(key)
            except EventflowError:  # what is amiss with one run is no other's affair
                whole = False
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return whole

    # --- letting go

    async def drain(self, grace: float) -> list[str]:
        """Let every run go; the names of nodes whose plain functions still run in threads."""
        self._stopping = True
        for driver in self.drivers():
            driver.stop()
        met: list[Driver] = []
        while True:  # one that was about to park comes back to be let go
            self._let_parked_go()
            tasks = {driver.task: driver for driver in self.drivers() if driver.task is not None}
            if not tasks:
                break
            met += [driver for driver in tasks.values() if driver not in met]
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                tasks[task].abandon()
            if late:
                await asyncio.wait(late)
            await asyncio.sleep(0)
        return sorted({f"{d.journal.state.run.run_id}: {name}" for d in (*met, *self._left) for name in d.threads})

    def _let_parked_go(self) -> None:
        """Parked runs need no event to be let go, save those whose limit depends on when that was; those are driven."""
        for key, seat in list(self._seats.items()):
            if seat.driver is not None or seat.held:
                continue
            with suppress(EventflowError):
                must_say_so, seat.let_go = seat.suspends and not seat.let_go, True
                if must_say_so and self.wake(key) is not None:
                    continue
                head = self._shop.log.head_of(key) if seat.awaited else None
                seat.left = None if head is None else recover(self._shop.log, head).state
            self._leave(key, seat)

    async def close(self) -> None:
        """End what looks after the runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = set()


async def _taken(driver: Driver) -> None:
    with suppress(EventflowError):  # it is durable: who drives the run next takes it
        await driver.take_mail()
