"""The one place a run's facts go through: append, then evolve, then tell.

One append is in flight at a time; facts that arrive meanwhile wait and go as the next list, all or nothing. A fact is
true once its append is durable: state, callers and listeners learn of it after that and not before. Checkpoints are made
from here: those of small states at once, those of large ones beside the path of the facts.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import NamedTuple

from eventflow.checkpoint import (
    EVENT_WEIGHT,
    NOTHING_DUE,
    Checkpoint,
    CheckpointPolicy,
    Due,
    Kind,
    Progress,
    due,
    expired,
    merged,
)
from eventflow.codec import Packed, PackedState, pack, pack_state
from eventflow.costs import UNTIMED, Timed
from eventflow.errors import Conflict, EventflowError, RunLost
from eventflow.event import (
    Event,
    Recorded,
    Transitioned,
    Vouch,
)
from eventflow.log import Answer, Append, Appended, Kept, Post, Upkeep
from eventflow.plain import FrozenDict
from eventflow.run.asked import Asked, Door, joined, next_lists, overtaken, tell, through, vouching
from eventflow.run.gauge import Gauge
from eventflow.run.mail import called_off, last_words
from eventflow.run.ruling import Ruling
from eventflow.run.shop import CheckpointTaken, Notice, RecoveryOutOfReach, Shop, passage
from eventflow.run.tally import Tally
from eventflow.state import State, evolve, standing_after, status_after

ENVELOPE = 110  # bytes an event's array adds to its body, about; only the checkpoint policy's estimate uses it
SMALL_STATE = 128 << 10  # bytes; packing less takes under 2 ms, which is less than a thread may be kept waiting
BREATH = 4  # commits of a lone run after which the event loop's other tasks get a turn: they wait under 2 ms


class _Closed(NamedTuple):
    """Lists of facts as one append, and what is to be done once it is durable."""

    asked: Asked
    append: Append
    sizes: list[int]
    vouch: Vouch | None
    wanted: Due
    mark: Checkpoint | None


class Journal:
    """The facts of one driven run, its state, and its checkpoints."""

    def __init__(
        self, shop: Shop, state: State, epoch: int, progress: Progress, marks: list[Checkpoint], *, needed: int = 0,
        timed: Timed = UNTIMED,
    ) -> None:  # fmt: skip
        self.shop = shop
        self.state = state
        self.epoch = epoch
        self.released = False
        self.cut_off: EventflowError | None = None
        self.ruling = Ruling(shop.log)
        self._progress = progress
        self.gauge = Gauge(shop.policy, shop.clock, state, timed)
        self.tally = Tally(shop.store, shop.log, state.run.run_key, state.version)
        self._marks = marks
        self._vouched = needed  # the snapshot that recovery would start from
        self._vouch: Vouch | None = None
        # A snapshot without a mark is one whose checkpoint has expired: it goes once recovery needs it no more.
        self._stale: set[int] = {needed} - {mark.version for mark in marks} if needed else set()
        self._busy = False
        self._commits = 0  # made on this thread
        self._waiting: list[Asked] = []
        self._rest: asyncio.Task[None] | None = None
        self._packing: asyncio.Task[None] | None = None
        self._dropping: asyncio.Future[Answer] | None = None

    @property
    def progress(self) -> Progress:
        """What has happened since the last snapshot."""
        return self._progress

    def check_held(self) -> None:
        """Refuse to begin what another process may have begun meanwhile: it has taken the run over. Raises RunLost.

        A process that was stopped for longer than its lease does not know; the last answer it had from the log may be as old.
        """
        shop = self.shop
        if shop.log.holds(shop.owner):
            return
        head = shop.log.head_of(self.state.run.run_key)
        if head is None or head.epoch != self.epoch:
            raise RunLost(f"run {self.state.run.run_id} was taken over by another process; this call is not begun here")

    # --- facts

    async def record(
        self, *events: Event, taken: tuple[int, ...] = (), after: FrozenDict | None = None, release: bool = False,
        visit: int = 0, door: Door | None = None,
    ) -> State:  # fmt: skip
        """Return the state after the events, once they are durable.

        `visit` says that they hold only as long as the run is in that visit, `door` that they are appended through that and
        not by the store's writer. Raises NotPlainData if they can't be
        written, RunLost if the run or the visit ended, or was taken over, before they could be appended, and what the
        log raises. Being cancelled meanwhile does not undo them.
        """
        undoing = self.state.undoing is not None
        if self.shop.redactor is not None and (clean := self.shop.cleaned(events)) != events:
            events, after = clean, None
        asked = Asked(events, tuple(map(pack, events)), taken, after, release, visit, undoing, door)
        if not taken:  # what somebody sent was held against it then
            self.shop.check_size(asked.packed)
        if self._busy:
            asked.done = asyncio.get_running_loop().create_future()
            self._waiting.append(asked)
            return await asyncio.shield(asked.done)
        self._busy = True
        try:
            problem = await self._flush([asked])
        finally:
            self._busy = False
            if self._waiting:
                self._busy = True
                self._rest = asyncio.get_running_loop().create_task(self._flush_rest())
        if problem is not None:
            raise problem
        return self.state

    async def _flush_rest(self) -> None:
        try:
            while self._waiting:
                await self._flush(self._next_lists())
        finally:
            self._busy = False

    def _next_lists(self) -> list[Asked]:
        """What goes into the next append."""
        count = next_lists(self._waiting)
        lists, self._waiting = self._waiting[:count], self._waiting[count:]
        return lists

    async def _flush(self, lists: list[Asked]) -> Exception | None:  # noqa: C901, PLR0912 - one await fewer is a frame fewer a step
        """Append lists of facts as one; returns what went wrong, which every waiting caller has been told too."""
        going, problem = self._admitted(lists)
        if not going:
            return problem
        problem, cancelled = None, False
        try:
            closed = self._closed(going)
            answer: Answer | None = None
            if (door := going[0].door) is not None:
                answer, cancelled = await through(door, closed.append)
            elif self.shop.active == 1:
                answer = self._at_once(closed.append)
            if answer is None:
                pending = self.shop.writer.ask(closed.append)
                while answer is None:
                    try:
                        answer = await pending.answer()
                    except asyncio.CancelledError:  # remembered, not obeyed, until the answer is there
                        cancelled = True
            elif door is None and self._commits % BREATH == 0:
                cancelled = await self._breathe()
            self._landed(closed, answer)
            if closed.mark is not None and self._progress.state_size <= SMALL_STATE:
                cancelled = await self._packed() or cancelled
        except Exception as error:  # noqa: BLE001 - every caller hears of it
            problem = error
            if isinstance(error, Conflict):
                self.cut_off = error
        except BaseException:  # the process is ending: nobody shall wait for what will not come
            self._end(going)
            raise
        for one in going:
            tell(one, problem or self.state)
        if cancelled:
            raise asyncio.CancelledError
        return problem

    def _admitted(self, lists: list[Asked]) -> tuple[list[Asked], Exception | None]:
        """The lists that may still be appended; the callers of the others are told, and why is returned."""
        problem: Exception | None = None
        going: list[Asked] = []
        for one in lists:
            refusal = self._refusal(one)
            if refusal is None:
                going.append(one)
            else:
                problem = refusal
                tell(one, refusal)
        return going, problem

    def _at_once(self, append: Append) -> Answer | None:
        """The answer to an append made on this thread, None if somebody else is writing."""
        answer = self.shop.writer.at_once(append)
        if answer is not None:
            self._commits += 1
        return answer

    def _end(self, going: list[Asked]) -> None:
        self.cut_off = RunLost(f"run {self.state.run.run_id}: the process that drives it is ending")
        waiting, self._waiting = self._waiting, []
        for one in (*going, *waiting):
            tell(one, self.cut_off)

    def _refusal(self, one: Asked) -> EventflowError | None:
        state = self.state
        if self.cut_off is not None:
            return self.cut_off
        if self.released or state.ended:
            return RunLost(f"run {state.run.run_id} was let go or has ended ({state.status}); this call came too late")
        if one.visit and one.visit != state.visit:
            return RunLost(f"run {state.run.run_id} has left the node that made this call; it came too late")
        if (state.undo or state.undoing is not None) and overtaken(state, one):
            return RunLost(f"run {state.run.run_id} is to take back what it did first; this came too late")
        return None

    def _closed(self, lists: list[Asked]) -> _Closed:
        """The lists as one append: its version, time and digest before are those of this moment."""
        one = lists[0] if len(lists) == 1 else joined(lists)
        now = self.shop.clock.now()
        vouch = self._vouch
        packed = vouching(one.packed, vouch)
        sizes = [each.size + ENVELOPE for each in packed]
        wanted = self._wanted(one.events, sizes, now)
        mark = Checkpoint(self.state.version + len(packed), wanted.kinds, now) if wanted.kinds else None
        return _Closed(one, self._append_of(one, packed, now, mark), sizes, vouch if packed else None, wanted, mark)

    def _wanted(self, events: tuple[Event, ...], sizes: list[int], now: int) -> Due:
        """What the policy wants after these events; the usual answer, nothing, is found without asking it."""
        progress = self._progress
        last = events[-1] if events else None
        weight = progress.weight + len(sizes) * EVENT_WEIGHT
        quiet = type(last) is Transitioned and last.error is None and weight < self.gauge.quiet
        if quiet and self.shop.by_size_only:
            return NOTHING_DUE
        ahead = progress.ahead(len(sizes), sum(sizes))
        self.gauge.time_events(self.shop.log, self.state)
        self.gauge.look(ahead)
        return due(self._policy(), ahead, passage(events), now, self.gauge.costs)

    def _landed(self, closed: _Closed, answer: Answer) -> None:
        """What follows from an append that is durable."""
        assert isinstance(answer, Appended)  # noqa: S101 - an Append is answered by Appended
        one = closed.asked
        if closed.vouch is not None:
            self._vouch_used(closed.vouch)
        self.released = self.released or one.release
        version, large = self.state.version, 0
        for size in closed.sizes:  # a snapshot may have been taken meanwhile: counted now, not before
            self._progress.add(size)
            version += 1
            if self.tally.add(version, size):
                large = size
        self._advance(one, answer, closed.append.time, closed.sizes)
        if large:
            self.tell(self.tally.large(self.state.run.run_id, version, large))
        if closed.mark is not None:
            self._marked(closed.mark, closed.wanted)

    async def _packed(self) -> bool:
        """Wait for a snapshot that is soon written, so that the next event vouches for it, whatever the machine's load.

        Returns whether the caller was cancelled meanwhile.
        """
        cancelled = False
        while self._packing is not None:
            try:
                await asyncio.wait({self._packing})
            except asyncio.CancelledError:
                cancelled = True
        return cancelled

    def _policy(self) -> CheckpointPolicy:
        """The policy; while a snapshot is in flight, nothing that only asks for another is due."""
        return self.shop.policy if self._packing is None else self.shop.meanwhile

    async def _breathe(self) -> bool:
        """Let the loop's other tasks run between commits on this thread; returns whether the caller was cancelled."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return True
        return False

    def _append_of(self, one: Asked, packed: tuple[Packed, ...], now: int, mark: Checkpoint | None) -> Append:
        run, state = self.state.run, self.state
        if len(one.events) == 1:
            status, waiting = status_after(state, one.events[0])
        else:
            status, waiting = standing_after(state, one.events)
        append = Append(
            run.run_id, run.run_key, run.incarnation, state.version, self.epoch, packed, now, status, waiting,
            release=one.release, taken=one.taken, marks=() if mark is None else (mark,),
        )  # fmt: skip
        if status != "running" or state.undo or state.branches is not None:
            append.posts = self._posts(one.events)
        return append

    def _posts(self, events: tuple[Event, ...]) -> tuple[Post, ...]:
        """What other runs are told in the same transaction."""
        if not events:
            return ()
        state = self.state
        return (*last_words(state, events[-1]), *called_off(self.shop.log, state, events[-1]))

    def _vouch_used(self, vouch: Vouch) -> None:
        self._vouched = vouch.version
        if self._vouch is vouch:  # a newer one may have come meanwhile
            self._vouch = None
        if self._stale:
            self._drop_stale()

    def _advance(self, one: Asked, answer: Appended, now: int, sizes: list[int]) -> None:
        """Fold what is durable now into the state, and tell the listeners."""
        run = self.state.run
        before = self.state.digest
        position = answer.position - len(one.events)
        for event, size, digest in zip(one.events, sizes, answer.digests, strict=True):
            position += 1
            recorded = Recorded(
                event, run.run_key, run.incarnation, self.state.version + 1, position, self.epoch, now, digest, before, None,
                size,
            )  # fmt: skip
            before = digest
            self.state = evolve(self.state, recorded, after=one.after)
            if self.shop.listeners:
                self.tell(recorded)

    def tell(self, notice: Notice) -> None:
        """Call the listeners with the state as it is now."""
        self.shop.tell(self.state, notice)

    async def look(self) -> str:
        """Tell what is near its limit; why the run can't go on, empty if it can."""
        run_id, version, store = self.state.run.run_id, self.state.version, self.shop.store
        if self.tally.asks or self.tally.full:
            for near in await self.tally.look(run_id, version):
                self.tell(near)
        if (filling := store.news(run_id, version)) is not None:
            self.tell(filling)
        return self.tally.full or store.why(run_id, version)

    # --- checkpoints

    def _marked(self, mark: Checkpoint, wanted: Due) -> None:
        self._remember(mark)
        self.gauge.marks += 1
        if wanted.snapshot and self._packing is None:
            self._progress.snapshot_taken(self._progress.state_size, mark.time)
            self.gauge.look(self._progress)
            self._packing = asyncio.get_running_loop().create_task(self._pack(self.state, mark))
        else:
            self.tell(CheckpointTaken(self.state.run.run_id, mark, 0.0))
        self._expire(mark.time)

    def _remember(self, mark: Checkpoint) -> None:
        place = len(self._marks)
        while place and self._marks[place - 1].version > mark.version:
            place -= 1
        if place and self._marks[place - 1].version == mark.version:
            self._marks[place - 1] = merged(self._marks[place - 1], mark)
        else:
            self._marks.insert(place, mark)

    async def _pack(self, state: State, mark: Checkpoint) -> None:
        """Write a snapshot beside the path of the facts; if it fails, the run goes on without."""
        try:
            with contextlib.suppress(EventflowError):
                await self.snapshot(state, mark)
                if self.gauge.costs is not None:
                    await self._measure(state)
        finally:
            self._packing = None

    async def _measure(self, state: State) -> None:
        """Time what a recovery would do now, and say so, once, if it can't be done in the time that was asked for."""
        gauge, progress = self.gauge, self._progress
        size = progress.snapshot_size
        await gauge.time_load(self.shop.log, state, size, beside=size > SMALL_STATE)
        gauge.look(progress)
        if not gauge.warned and gauge.target is not None and not gauge.in_reach(progress):
            gauge.warned = True
            self.tell(RecoveryOutOfReach(state.run.run_id, state.version, gauge.target, gauge.at_least(progress)))

    async def snapshot(self, state: State, mark: Checkpoint) -> Checkpoint:
        """Write the bytes of a checkpoint of a state; the next event vouches for them."""
        clock, compress = self.shop.clock, self.shop.policy.compress
        began, estimate, events = clock.monotonic(), self._progress.state_size, self._progress.events
        packed = await _pack_beside(state, small=estimate <= SMALL_STATE, compress=compress)
        whole = replace(mark, size=len(packed.root), digest=packed.digest)
        if not await self._keep(packed, whole):
            packed = await _pack_beside(state, small=estimate <= SMALL_STATE, compress=compress, anew=True)
            await self._keep(packed, whole)
        seconds = clock.monotonic() - began
        written = len(packed.root) + sum(len(blob.stored) for blob in packed.blobs)
        self.gauge.kept(seconds, written, self._progress.events - events)
        self._progress.state_size += packed.size - estimate  # what came meanwhile has been added to the estimate
        self._vouch = Vouch(packed.version, packed.digest)
        self._remember(whole)
        self.tell(CheckpointTaken(state.run.run_id, whole, seconds))
        return whole

    async def _keep(self, packed: PackedState, mark: Checkpoint) -> bool:
        answer = await self.shop.writer.write(Upkeep(self.state.run.run_key, packed, (mark,)))
        return isinstance(answer, Kept) and answer.snapshot

    async def checkpoint(self, kind: Kind, *, snapshot: bool) -> Checkpoint:
        """Make a checkpoint of the state as it is, outside the policy."""
        mark = Checkpoint(self.state.version, (kind,), self.shop.clock.now())
        self.gauge.marks += 1
        if self._packing is not None:
            await asyncio.wait([self._packing])
        if snapshot:
            return await self.snapshot(self.state, mark)
        await self.shop.writer.write(Upkeep(self.state.run.run_key, None, (mark,)))
        self._remember(mark)
        self.tell(CheckpointTaken(self.state.run.run_id, mark, 0.0))
        return mark

    def _expire(self, now: int) -> None:
        gone = expired(self.shop.policy, self._marks, now)
        if not gone:
            return
        self._marks = [mark for mark in self._marks if mark.version not in gone]
        self._stale.update(gone)
        self._drop_stale(unmark=tuple(gone))

    def _drop_stale(self, *, unmark: tuple[int, ...] = ()) -> None:
        """Drop expired checkpoints; of the one that recovery would start from only the mark, until there is another."""
        needed = {self._vouched, self._vouch.version if self._vouch else 0}
        gone = tuple(sorted(self._stale - needed))
        hidden = tuple(sorted(needed & set(unmark)))
        if gone or hidden:
            self._stale &= needed
            self._dropping = self.shop.writer.submit(Upkeep(self.state.run.run_key, drop=gone, unmark=hidden))
            self._dropping.add_done_callback(_look_at)

    async def settle(self) -> None:
        """Return when nothing is in flight any more."""
        while self._busy or self._packing is not None or (self._dropping is not None and not self._dropping.done()):
            if flying := [one for one in (self._packing, self._dropping) if one is not None]:
                await asyncio.wait(flying)
            else:
                await asyncio.sleep(0)


async def _pack_beside(state: State, *, small: bool, **options: bool) -> PackedState:
    """A state's bytes; those of a large one are made on another thread, so that other runs go on."""
    return pack_state(state, **options) if small else await asyncio.to_thread(pack_state, state, **options)


def _look_at(answer: asyncio.Future[Answer]) -> None:
    if not answer.cancelled():
        answer.exception()
