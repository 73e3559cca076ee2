"""Taking runs up: by a start, a resumption, a rewind, a fork, or because nobody drives them any more.

Who appends to a run holds its lease; between taking it and driving the run nobody else of this engine may look, which a
lock for each run sees to. What the callers are given back is a handle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal
from weakref import WeakValueDictionary

from eventflow.address import Address, find_run, version_at
from eventflow.codec import encode, pack
from eventflow.engine.delivery import deliver
from eventflow.engine.desk import Desk, Seat
from eventflow.engine.handle import Run
from eventflow.engine.operations import fresh_run_id
from eventflow.engine.orphans import OPEN_STATUSES
from eventflow.engine.rewinding import after_rewind, check_rewind
from eventflow.engine.terms import (
    Terms,
    by_name,
    check_undone,
    flow_for,
    is_undone,
    planned,
    vouch_for,
    was_cut_off,
)
from eventflow.errors import (
    Conflict,
    Corrupt,
    EventflowError,
    NeedsConfirmation,
    NotResumable,
    RunExists,
    RunOwned,
    StoreClosed,
    VersionConflict,
)
from eventflow.event import (
    Event,
    NodeSkipped,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    RunTimedOut,
    Vouch,
)
from eventflow.forking import fork_run, who
from eventflow.log import Append, Appended, Entry, First, Head, Log, Post
from eventflow.proof import digest, genesis
from eventflow.recovery import Recovered, followed, history, recover
from eventflow.run import CANCEL, Shop, begin, called_off, is_called_off, is_from, last_words, message
from eventflow.state import ENDED, FINAL, State, open_waits, standing_after
from eventflow.what_if import EffectPolicy, of_child
from eventflow.workflow import Child, Decision, Go, Workflow, end_name


class Leases:
    """The runs that one open engine may take up: those of the workflows it was given."""

    def __init__(self, shop: Shop, desk: Desk, flows: dict[str, Workflow]) -> None:
        self._shop, self._desk, self._flows = shop, desk, flows
        desk.unattended = self.read_for
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._untold: list[Post] = []  # posted with a run's turn held; who reads them needs turns too

    def turn(self, run_id: str) -> asyncio.Lock:
        """One at a time may take a run up: between the lease and its driver another would see a run that is free."""
        turn = self._turns.get(run_id)
        if turn is None:
            turn = self._turns[run_id] = asyncio.Lock()
        return turn

    def free(self, head: Head) -> bool:
        """Whether a run's lease can be taken: nobody living holds it, or this engine does, whose driver has ended."""
        return head.owner == self._shop.owner or self._shop.log.owner_gone(head.owner)

    def _run(self, head: Head, flow: Workflow | None, seat: Seat | None) -> Run:
        return Run(self._shop.log, head, flow, seat, clean=self._shop.clean)

    # --- starting

    async def start(self, flow: Workflow, event: RunStarted) -> Run:
        """Append a run's first event and drive it; if its id is taken, follow the run that is there."""
        log, name = self._shop.log, event.run_id
        self._flows.update(by_name([flow]))
        async with self.turn(name):
            if (head := log.head(name)) is not None:
                return await self._follow(flow, head, event.input_digest)
            try:
                answer, before = await self._begin(event)
            except VersionConflict:
                if (won := log.head(name)) is None:
                    raise
                return await self._follow(flow, won, event.input_digest)
            if event.queue:
                return self._run(answer.head, flow, None)
            begun = followed(None, self._shop.cleaned((event,)), answer, before)
            return self._drive(flow, begun, answer.head.epoch, head=answer.head)

    async def _begin(self, event: RunStarted) -> tuple[Appended, bytes]:
        """Append a run's first event; the answer, and the digest that it follows."""
        shop = self._shop
        incarnation = shop.log.next_incarnation(event.run_id)
        before = genesis(event.store_id, event.run_id, incarnation, event.definition_digest)
        entry = Entry(
            event.workflow, tuple(event.tags), event.subject, shop.clock.now(), queue=event.queue, priority=event.priority,
            queue_key=event.queue_key,
        )  # fmt: skip
        answer = await begin(
            shop, None, event, run_id=event.run_id, run_key=shop.clock.uuid7(), incarnation=incarnation,
            first=First(before, entry), claim=b"" if event.queue else shop.owner,
        )  # fmt: skip
        return answer, before

    async def _follow(self, flow: Workflow, head: Head, asked: bytes) -> Run:
        """The run that is there already, if it is the one that was asked for."""
        log = self._shop.log
        entry = log.entry(head.run_key)
        if entry is None or entry.workflow != flow.name:
            raise RunExists(head.run_id, f"workflow {entry.workflow if entry else '?'!r}")
        if recover(log, head, (entry.origin or 1) if entry.parent_id is None else None).state.run.input_digest != asked:
            raise RunExists(head.run_id, "another input")
        if head.run_key in self._desk or head.status not in OPEN_STATUSES or not self.free(head) or entry.queue:
            return self._run(head, flow, self._desk.seat(head.run_key))
        with suppress(Conflict):  # somebody else may take it over first; then follow that one
            return await self._resume(head, Terms(why="started again"))
        return self._run(log.head(head.run_id) or head, flow, None)

    async def spawn(self, child: Child, run_id: str, data: Any, caller: State) -> None:
        """Start the run of a child, or go on with it. Raises RunExists if the id is that of a run of somebody else's.

        One that failed, or that its caller called off, is taken up again; one that is over says once more how it ended.
        """
        flow, log = child.flow, self._shop.log
        head = log.head(run_id)
        if head is not None and log.inbox(head.run_key) and (driver := self._desk.wake(head.run_key)) is not None:
            await driver.take_mail()  # it may have been told to stand still a moment ago
            head = log.head(run_id)
        if head is not None and _started_by(log, head) != caller.run.run_key:
            raise RunExists(run_id, "a run that this one did not start")
        if head is not None and (head.status in ENDED or head.status == "paused"):
            await self._respawn(head, caller)
            return
        if head is not None and head.run_key in self._desk:
            return
        first = flow.schema.initial(data)
        event = RunStarted(
            run_id, log.store_id, flow.name, flow.digest, flow.shape, flow.start, first, digest(encode(first)),
            caller.run.tags, caller.run.subject, caller_id=caller.run.run_id, caller_key=caller.run.run_key,
            deadline=caller.run.deadline, effects=of_child(caller.run.policy),
        )  # fmt: skip
        with suppress(NeedsConfirmation):  # it waits for somebody's yes, and its caller for it
            await self.start(flow, event)

    async def _respawn(self, head: Head, caller: State) -> None:
        """Go on with a child that stands still or is over, whose end its caller waits for and has not heard of."""
        log, run_id = self._shop.log, head.run_id
        if self._is_told(run_id, caller):
            return
        state = recover(log, head).state
        last = _last_end(log, head)
        called_off = is_called_off(state, last)
        with suppress(Conflict):  # somebody else has it: its end will be told
            if head.status == "paused":
                if called_off:
                    await self.resume(run_id, None, Terms(why="its caller goes on"))
            elif head.status == "failed" and not is_undone(state):
                await self.resume(run_id, None, Terms(why="its caller goes on"))
            elif called_off:
                undone = state.undoing is not None
                terms = Terms(yes=undone, why="its caller goes on")
                await self.resume(run_id, 1 if undone else head.version - 1, terms)
            else:
                for words in last_words(state, last):
                    await self._shop.writer.write(words)
                self._desk.ring(caller.run.run_key)

    def _is_told(self, run_id: str, caller: State) -> bool:
        """Whether a child's last words are on their way to its caller. What left the inbox is in the log by then."""
        log, key = self._shop.log, caller.run.run_key
        if any(is_from(number, data, run_id) for number, data in log.inbox(key)):
            return True
        head = log.head_of(key)
        signals = () if head is None else recover(log, head).state.signals
        return any(one["name"] == end_name(run_id) for one in signals)

    async def read_for(self, key: bytes) -> None:
        """Take in what is said to a run that stands paused, which nobody drives."""
        head = self._shop.log.head_of(key)
        if head is not None and head.status == "paused":
            await self._hear(key)

    def _drive(
        self, flow: Workflow, recovered: Recovered, epoch: int, stop_before: frozenset[str] = frozenset(), *,
        head: Head | None = None,
    ) -> Run:  # fmt: skip
        shop = self._shop
        seat = self._desk.drive(flow, recovered, epoch, stop_before)
        if shop.listeners and seat.driver is not None:
            seat.driver.journal.tell(seat.driver.event_at(recovered.state.version))
        head = head or shop.log.head_of(recovered.state.run.run_key)
        if head is None:
            raise StoreClosed("the run vanished while it was being started")
        return self._run(head, flow, seat)

    # --- resuming

    async def resume(self, run: str, at: str | int | None, terms: Terms) -> Run:
        """Take a run up again where it stands, or at an earlier version."""
        log = self._shop.log
        async with self.turn(run):
            head = find_run(log, run, whole=True)
            if at is not None:
                taken = await self._rewind(head, version_at(log, head, str(at)), terms)
            else:
                taken = await self._go_on(head, terms)
        await self._tell()
        return taken

    async def _go_on(self, head: Head, terms: Terms) -> Run:
        log, run = self._shop.log, head.run_id
        driver = self._desk.driver(head.run_key)
        if driver is not None and driver.task is not None and (driver.ending or head.status in ENDED):
            await asyncio.wait({driver.task})  # it is about to stand still: what comes after that is asked for
            await asyncio.sleep(0)
            head = find_run(log, run, whole=True)
        if (seat := self._desk.seat(head.run_key)) is not None:
            if not terms.changes:
                return self._run(head, seat.flow, seat)
            if seat.driver is not None and head.status != "waiting":
                raise NotResumable(run, "it is being driven; pause it first, then resume it with what is to change")
            planned(self._flows, recover(log, head).state, terms)  # what can't be is said before it is let go
            with self._desk.held(head.run_key):
                await self.let_go(head, cut=False)
                return await self._taken_up(find_run(log, run, whole=True), terms)
        return await self._taken_up(head, terms)

    async def _taken_up(self, head: Head, terms: Terms) -> Run:
        run = head.run_id
        if head.status == "completed":
            return self._run(head, self._flow_of(head), None)
        if head.status in ("cancelled", "timed_out"):
            raise NotResumable(run, f"it was {head.status.replace('_', ' ')}; rewind it with at=, or fork it")
        return await self._resume(head, terms)

    def _flow_of(self, head: Head) -> Workflow | None:
        entry = self._shop.log.entry(head.run_key)
        return self._flows.get(entry.workflow) if entry else None

    async def _resume(self, head: Head, terms: Terms) -> Run:
        log = self._shop.log
        if not self.free(head):
            raise RunOwned(head.run_id, log.owner_text(head.owner))
        found = recover(log, head, monotonic=self._shop.clock.monotonic)
        state = found.state
        check_undone(state)
        flow, event, to = planned(self._flows, state, terms)
        asks = not to and not terms.yes and flow.nodes[state.node].after_crash == "ask"
        if asks and was_cut_off(log, head, state, self._shop.clock.now()):
            raise NeedsConfirmation(
                f"node {state.node!r} of run {head.run_id} was cut off in the middle and says to ask first"
            )
        posts = self._left(state) if to else ()
        answer = await self.take(head, (event,), state, vouch=vouch_for(log, head, state), posts=posts)
        self._untold += posts
        found = followed(found, self._shop.cleaned((event,)), answer, state.digest)
        if found.state.run.definition_digest != flow.digest:
            return await self._drive_again(flow, head.run_id, terms)
        return self._drive(flow, found, answer.head.epoch, terms.stop_before, head=answer.head)

    async def take(
        self, head: Head, events: tuple[Event, ...], state: State, *, vouch: Vouch | None = None, release: bool = False,
        posts: tuple[Post, ...] = (),
    ) -> Appended:  # fmt: skip
        """Append events and take the run's lease with them."""
        shop = self._shop
        events = shop.cleaned(events)
        packed = tuple(pack(event, vouch=None if number else vouch) for number, event in enumerate(events))
        append = Append(
            head.run_id, head.run_key, head.incarnation, head.version, head.epoch, packed, shop.clock.now(),
            *standing_after(state, events), claim=shop.owner, release=release, posts=posts,
        )  # fmt: skip
        answer = await shop.writer.surely(append, alone=shop.active == 0)
        assert isinstance(answer, Appended)  # noqa: S101 - an Append is answered by Appended
        if shop.listeners:  # the last one is told when the run is driven
            self._announce(head, head.version + 1, head.version + len(events) - (not release))
        return answer

    def _announce(self, head: Head, first: int, last: int) -> None:
        """Tell the listeners of events that no driver recorded; what they raise is theirs to lose."""
        log = self._shop.log
        now = find_run(log, head.run_id, whole=True)
        for recorded in history(log, head.run_key, first, last):
            state = recover(log, now, recorded.version).state
            self._shop.tell(state, recorded)

    def _left(self, state: State) -> tuple[Post, ...]:
        """What the children are told of a node that is left by somebody's word."""
        return called_off(self._shop.log, state, NodeSkipped(state.node))

    async def _tell(self) -> None:
        """Have messages looked at that were posted just now, also those to runs that nobody drives."""
        posts, self._untold = self._untold, []
        for post in posts:
            self._desk.ring(post.run_key)
            await self._hear(post.run_key)

    async def _hear(self, key: bytes) -> None:
        """Take in what is said to a run that nobody drives, and what it says to its children then."""
        log = self._shop.log
        head = log.head_of(key)
        if head is None or key in self._desk or not self.free(head) or not log.inbox(key):
            return
        async with self.turn(head.run_id):
            if key not in self._desk and self.free(find_run(log, head.run_id, whole=True)):
                await deliver(self._shop, head.run_id)
        await self.finish_undoing(head.run_id)
        for _, wait in open_waits(recover(log, find_run(log, head.run_id, whole=True)).state):
            if wait["kind"] == "child" and (child := log.head(wait["name"])) is not None:
                await self._hear(child.run_key)

    async def _drive_again(self, flow: Workflow, run_id: str, terms: Terms) -> Run:
        """Drive a run whose lease was taken just now; what changed in its definition is recorded first."""
        log = self._shop.log
        head = find_run(log, run_id, whole=True)
        recovered = recover(log, head, monotonic=self._shop.clock.monotonic)
        if recovered.state.run.definition_digest != flow.digest:
            _, event, _ = planned(self._flows, recovered.state, replace(terms, migrate=None))
            await self.take(head, (event,), recovered.state)
            head = find_run(log, run_id, whole=True)
            recovered = recover(log, head, monotonic=self._shop.clock.monotonic)
        return self._drive(flow, recovered, head.epoch, terms.stop_before)

    async def skip(self, run: str, result: Any, terms: Terms) -> Run:
        """End the node a run stands on with a given result, in place of its code, and go on."""
        log = self._shop.log
        async with self.turn(run):
            head = find_run(log, run, whole=True)
            before = recover(log, head).state
            self._skipped(before, result, terms)  # what can't be is said before the run is let go
            if not self.free(head):
                raise RunOwned(head.run_id, log.owner_text(head.owner))
            with self._desk.held(head.run_key):
                taken = await self._gone_past(head, before, result=result, terms=terms)
        await self._tell()
        return taken

    async def _gone_past(self, head: Head, before: State, *, result: Any, terms: Terms) -> Run:
        log, run = self._shop.log, head.run_id
        seat = self._desk.seat(head.run_key)
        stop_before = terms.stop_before if seat is None else seat.stop_before
        await self.let_go(head)
        head = find_run(log, run, whole=True)
        state = recover(log, head).state
        if state.visit != before.visit or (state.ended and not before.ended):
            if state.status in OPEN_STATUSES:
                with suppress(EventflowError):
                    await self._resume(head, Terms(stop_before=stop_before, why="nothing was skipped"))
            raise Conflict(f"run {run} left node {before.node!r} at this moment; nothing was skipped")
        flow, decision = self._skipped(state, result, terms)
        posts = (*self._left(state), *last_words(state, decision.event))
        ends = isinstance(decision.event, RunCompleted)
        skipped = NodeSkipped(state.node, terms.actor or who(), terms.why)
        await self.take(head, (skipped, decision.event), state, release=ends, posts=posts)
        self._untold += posts
        head = find_run(log, run, whole=True)
        if ends:
            return self._run(head, flow, None)
        return await self._drive_again(flow, run, replace(terms, stop_before=stop_before))

    def _skipped(self, state: State, result: Any, terms: Terms) -> tuple[Workflow, Decision]:
        """What follows if the node of a state ends with a result."""
        if state.status in FINAL:
            raise NotResumable(state.run.run_id, f"it is over ({state.status}); rewind it with at=, or fork it")
        check_undone(state)
        if state.undoing is not None:
            raise NotResumable(state.run.run_id, "it is taking back what it did; rewind it with at=, or fork it")
        flow = flow_for(self._flows, state, strict=terms.strict)
        go = None
        if isinstance(result, Go):
            go, result = result.target, result.update
        return flow, flow.decide(state, "done", flow.schema.change(result, state.data), go=go)

    async def finish_undoing(self, run: str) -> None:
        """Go on with a run that nobody drives and that is to take back what it did, if its workflow is known here."""
        log = self._shop.log
        head = find_run(log, run, whole=True)
        if head.status == "running" and head.run_key not in self._desk and self.free(head):
            state = recover(log, head).state
            if state.undoing is not None and state.run.workflow in self._flows:
                await self.resume(run, None, Terms(why="to undo what it did"))

    # --- going back, branching off

    async def _rewind(self, head: Head, to: int, terms: Terms) -> Run:
        log = self._shop.log
        # What can't be is said before anything is stopped for it.
        state = check_rewind(log, head, to, confirmed=terms.yes, reuse=terms.reuse)
        flow, taken_up, moved = planned(self._flows, state, terms)
        with self._desk.held(head.run_key):
            left = self._left(state) if moved else ()
            return await self._gone_back(head, state, terms=terms, flow=flow, taken_up=taken_up, left=left)

    async def _gone_back(
        self, head: Head, state: State, *, terms: Terms, flow: Workflow, taken_up: RunResumed, left: tuple[Post, ...]
    ) -> Run:
        log = self._shop.log
        await self.let_go(head)
        head = find_run(log, head.run_id, whole=True)
        if not self.free(head):
            raise RunOwned(head.run_id, log.owner_text(head.owner))
        event, children = after_rewind(log, head, state, terms)
        posts = (*self._called_off(head, children), *left)
        differs = terms.changes or flow.digest != state.run.definition_digest
        await self.take(head, (event, taken_up) if differs else (event,), state, posts=posts)
        told = {post.run_key for post in posts}
        late = [post for post in self._called_off(head, children) if post.run_key not in told]
        for post in late:  # a child's start was under way
            await self._shop.writer.surely(post)
        self._untold += (*posts, *late)
        return await self._drive_again(flow, head.run_id, terms)

    def _called_off(self, head: Head, children: Iterable[str]) -> tuple[Post, ...]:
        """What children are told that were started after the version a run goes back to."""
        why = f"run {head.run_id}, which started it, went back to before that"
        cancel = message(CANCEL, actor=head.run_id, why=why)
        found = (self._shop.log.head(name) for name in children)
        return tuple(Post(child.run_key, cancel) for child in found if child is not None and child.status not in FINAL)

    async def let_go(self, head: Head, *, cut: bool = True) -> None:
        """Stop driving a run here: now, or, without `cut`, after the node it is in."""
        driver = self._desk.wake(head.run_key)
        if driver is not None and driver.task is not None:
            if cut:
                driver.abandon()
            else:
                driver.stop()
            await asyncio.wait({driver.task})
            await asyncio.sleep(0)

    async def fork(
        self, parent: Address, change: Mapping[str, Any] | None, run_id: str | None, terms: Terms, *, drive: bool,
        effects: EffectPolicy | Literal["real"] | None = None,
    ) -> Run:  # fmt: skip
        """A new run that continues another's history, driven at once if its workflow is known here."""
        shop = self._shop
        state = recover(shop.log, parent.head, parent.version).state
        flow = self._flows.get(state.run.workflow)
        if flow is not None and drive:
            flow_for(self._flows, state)
        edit = change if flow is None or change is None else flow.schema.edit(change, state.data)
        if edit is not None and shop.redactor is not None:
            edit = shop.redactor.change(edit) if isinstance(edit, tuple) else shop.clean(dict(edit))
        name = run_id if run_id is not None else fresh_run_id(shop.clock)
        async with self.turn(name):
            answer = fork_run(
                shop.log, shop.clock, parent.head, parent.version, run_id=name, change=edit,
                claim=shop.owner if flow is not None and drive else b"", actor=terms.actor, why=shop.clean(terms.why),
                effects=effects,
            )  # fmt: skip
            if flow is not None and drive:
                return await self._drive_again(flow, name, terms)
            return self._run(answer.head, flow, None)


def _started_by(log: Log, head: Head) -> bytes:
    """The key of the run that started this one as a part of itself; empty if none did."""
    entry = log.entry(head.run_key)
    if entry is None or entry.parent_id is not None:
        return b""
    if entry.origin:  # its first event is gone; its state says it too
        caller = recover(log, head, entry.origin).state.run.caller
        return b"" if caller is None else caller.run_key
    event = next(history(log, head.run_key, 1, 1)).event
    return event.caller_key if isinstance(event, RunStarted) else b""


def _last_end(log: Log, head: Head) -> Event:
    """The event that ended a run or had it stand still, the newest if that is compacted away; messages may have come since."""
    newest = next(history(log, head.run_key, head.version, head.version)).event
    for version in range(head.version, 0, -1):
        event = next((one.event for one in history(log, head.run_key, version, version)), None)
        if event is None:
            return newest
        if isinstance(event, RunPaused | RunCompleted | RunFailed | RunCancelled | RunTimedOut):
            return event
    raise Corrupt(f"run {head.run_id}", f"is {head.status}, and no event says so")
