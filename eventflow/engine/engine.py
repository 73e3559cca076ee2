"""The engine: starts, resumes, forks and ends runs of the workflows it was given, on one store.

It drives only what it was given; a name read from a store is never imported. Nothing it says has happened before the log
has it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

from eventflow.address import Address, check_run_id, find_run, resolve, version_at
from eventflow.budget import Budget
from eventflow.checkpoint import Checkpoint, CheckpointPolicy, select
from eventflow.clock import NS, Clock, SystemClock
from eventflow.codec import encode, pack
from eventflow.engine.bodies import Hands
from eventflow.engine.delivery import check_unknown, deliver
from eventflow.engine.desk import Desk
from eventflow.engine.handle import Run
from eventflow.engine.operations import (
    check_rewind,
    create_checkpoint,
    delete_checkpoints,
    delete_run,
    fresh_run_id,
    rewind_run,
)
from eventflow.engine.standing import question
from eventflow.engine.terms import Terms, by_name, check_undone, flow_for, resumed, vouch_for, was_cut_off
from eventflow.errors import (
    Conflict,
    DefinitionError,
    EventflowError,
    NeedsConfirmation,
    NodeNotFound,
    NotResumable,
    RunExists,
    RunOwned,
    SettingsError,
    StoreClosed,
    VersionConflict,
)
from eventflow.event import Event, RunStarted, Vouch
from eventflow.forking import fork_run, who
from eventflow.log import Append, Appended, Entry, First, Head, Log, Post, Posted, Query, Writer, open_log
from eventflow.plain import EMPTY, freeze
from eventflow.proof import digest, genesis
from eventflow.recovery import Recovered, recover
from eventflow.run import CANCEL, PAUSE, SETTLE, SIGNAL, Listener, Shop, Threads, begin, message
from eventflow.state import FINAL, State, Status, status_after
from eventflow.workflow import Child, Workflow

THREADS = 64  # plain functions at a time: they wait for the outside more than they compute
OPEN_STATUSES: tuple[Status, ...] = ("pending", "running", "waiting")


class Engine:
    """An engine on a store: a path, `"memory"`, or a Log of one's own. Use it as an async context manager.

    `workflows` are those it may drive; `checkpoints` is the policy of all its runs; `listeners` are called after each
    durable event; `pick_up=True` resumes, on entering, every unfinished run whose owner is gone. `grace` is how many
    seconds a node may go on when the engine is stopped. Raises StoreUnusable when the store can't be opened.
    """

    def __init__(
        self, store: str | os.PathLike[str] | Log = "memory", *, workflows: Iterable[Workflow] = (),
        checkpoints: CheckpointPolicy | None = None, clock: Clock | None = None, listeners: Iterable[Listener] = (),
        pick_up: bool = False, grace: float = 5.0, threads: int = THREADS,
    ) -> None:  # fmt: skip
        self._where, self._clock = store, clock or SystemClock()
        self._policy = checkpoints or CheckpointPolicy()
        self._flows = by_name(workflows)
        self._listeners = list(listeners)
        self._pick_up, self._grace, self._threads = pick_up, grace, threads
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._shop: Shop | None = None

    # --- life

    async def __aenter__(self) -> Self:
        log = open_log(self._where, clock=self._clock)
        owner = self._clock.uuid7()
        self._end_owner = log.new_owner(owner)
        self._shop = Shop(log, Writer(log), self._clock, self._policy, owner, self._listeners)
        self._hands = Hands(Threads(self._threads, "eventflow-node"), Threads(self._threads, "eventflow-call"))
        self._desk = Desk(self._shop, self._hands, self._spawn)
        if self._pick_up:
            try:
                await self.pick_up()
            except BaseException:  # nobody else will: the context is not entered
                await self.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let every run go (see `drain`) and close what the engine opened."""
        if self._shop is None:
            return
        await self.drain()
        shop, self._shop = self._shop, None
        await self._desk.close()
        for made in shop.resources.values():
            with suppress(Exception):  # what can't be closed any more is closed
                await made.close()
        shop.writer.close()
        self._end_owner()
        self._hands.bodies.close()
        self._hands.calls.close()
        if shop.log is not self._where:
            shop.log.close()

    async def drain(self, grace: float | None = None) -> list[str]:
        """Stop driving: let each node finish within `grace` seconds, else abandon it; make a shutdown checkpoint.

        Returns the names of nodes whose plain functions are still running in threads; their results are dropped.
        """
        return await self._desk.drain(self._grace if grace is None else grace)

    @property
    def log(self) -> Log:
        """The open log. Raises StoreClosed outside the context."""
        return self._open.log

    @property
    def _open(self) -> Shop:
        if self._shop is None:
            raise StoreClosed("the engine is not open; use it as `async with Engine(...) as engine:`")
        return self._shop

    # --- start

    async def start(
        self, flow: Workflow, data: Any = None, *, run_id: str | None = None, tags: Sequence[str] = (),
        subject: str | None = None, timeout: float | None = None,  # noqa: ASYNC109 - the run's time, which is recorded
        budget: Budget | None = None, actor: str = "",
        why: str = "",
    ) -> Run:  # fmt: skip
        """Start a run, durably, and drive it; the same id again follows the run that is there.

        `timeout` is how many seconds of wall time it has, waits and stops included; `budget` what it may use.
        Raises RunExists if the id belongs to another workflow or another input, InvalidState or NotPlainData for the
        input, DefinitionError for the workflow.
        """
        if timeout is not None and not timeout > 0:
            raise DefinitionError("start(timeout=...) is in seconds: give more than 0")
        first = flow.schema.initial({} if data is None else data)
        name = check_run_id(run_id) if run_id is not None else fresh_run_id(self._clock)
        event = RunStarted(
            name, self._open.log.store_id, flow.name, flow.digest, flow.shape, flow.start, first, digest(encode(first)),
            freeze(list(tags), "tags"), subject, actor, why,
            deadline=0 if timeout is None else self._clock.now() + round(timeout * NS),
            budget=EMPTY if budget is None else budget.plain(),
        )  # fmt: skip
        return await self._started(flow, event)

    async def _started(self, flow: Workflow, event: RunStarted) -> Run:
        shop, name = self._open, event.run_id
        self._flows.update(by_name([flow]))
        async with self._turn(name):
            if (head := shop.log.head(name)) is not None:
                return await self._follow(flow, head, event.input_digest)
            try:
                answer = await self._begin(event)
            except VersionConflict:
                if (won := shop.log.head(name)) is None:
                    raise
                return await self._follow(flow, won, event.input_digest)
            return self._drive(flow, recover(shop.log, answer.head), answer.head.epoch)

    def _turn(self, run_id: str) -> asyncio.Lock:
        """One at a time may take a run up: between the lease and its driver another would see a run that is free."""
        turn = self._turns.get(run_id)
        if turn is None:
            turn = self._turns[run_id] = asyncio.Lock()
        return turn

    async def _begin(self, event: RunStarted) -> Appended:
        shop = self._open
        incarnation = shop.log.next_incarnation(event.run_id)
        before = genesis(event.store_id, event.run_id, incarnation, event.definition_digest)
        entry = Entry(event.workflow, tuple(event.tags), event.subject, self._clock.now())
        return await begin(
            shop, None, event, run_id=event.run_id, run_key=self._clock.uuid7(), incarnation=incarnation,
            first=First(before, entry),
        )  # fmt: skip

    async def start_many(
        self, flow: Workflow, inputs: Mapping[str, Any] | Iterable[Any], *, tags: Sequence[str] = ()
    ) -> list[Run]:
        """Start a run for each input, or each id and input of a mapping, at once."""
        pairs = list(inputs.items()) if isinstance(inputs, Mapping) else [(None, data) for data in inputs]
        return list(await asyncio.gather(*(self.start(flow, data, run_id=name, tags=tags) for name, data in pairs)))

    async def _follow(self, flow: Workflow, head: Head, asked: bytes) -> Run:
        """The run that is there already, if it is the one that was asked for."""
        log = self._open.log
        entry = log.entry(head.run_key)
        if entry is None or entry.workflow != flow.name:
            raise RunExists(head.run_id, f"workflow {entry.workflow if entry else '?'!r}")
        if recover(log, head, 1 if entry.parent_id is None else None).state.run.input_digest != asked:
            raise RunExists(head.run_id, "another input")
        if head.run_key in self._desk or head.status not in OPEN_STATUSES or not self._free(head):
            return Run(log, head, flow, self._desk.seat(head.run_key))
        with suppress(Conflict):  # somebody else may take it over first; then follow that one
            return await self._resume(head, Terms(why="started again"))
        return Run(log, log.head(head.run_id) or head, flow, None)

    def _drive(
        self, flow: Workflow, recovered: Recovered, epoch: int, stop_before: frozenset[str] = frozenset()
    ) -> Run:
        shop = self._open
        seat = self._desk.drive(flow, recovered, epoch, stop_before)
        if shop.listeners and seat.driver is not None:
            seat.driver.journal.tell(seat.driver.event_at(recovered.state.version))
        head = shop.log.head_of(recovered.state.run.run_key)
        if head is None:
            raise StoreClosed("the run vanished while it was being started")
        return Run(shop.log, head, flow, seat)

    async def _spawn(self, child: Child, run_id: str, data: Any, caller: State) -> None:
        """Start the run of a child, or go on with it; one that failed before is taken up again."""
        flow, log = child.flow, self._open.log
        head = log.head(run_id)
        if head is not None and head.status == "failed":
            await self.resume(run_id, why="its caller was resumed")
            return
        if head is not None and (head.status not in OPEN_STATUSES or head.run_key in self._desk):
            return
        first = flow.schema.initial(data)
        event = RunStarted(
            run_id, log.store_id, flow.name, flow.digest, flow.shape, flow.start, first, digest(encode(first)),
            caller.run.tags, caller.run.subject, caller_id=caller.run.run_id, caller_key=caller.run.run_key,
            deadline=caller.run.deadline,
        )  # fmt: skip
        await self._started(flow, event)

    # --- resume, rewind, fork

    async def resume(
        self, run: str, *, at: str | int | None = None, strict: bool = False, yes: bool = False,
        stop_before: Iterable[str] = (), actor: str = "", why: str = "",
    ) -> Run:  # fmt: skip
        """Take a run up again after a crash, a failure, a stop or a pause; `at` rewinds it to a checkpoint or version.

        A finished run is returned as it is. `strict` refuses another definition than the recorded one; `yes` confirms
        what would repeat something; `stop_before` lets the run go again before any of these nodes.
        Raises RunNotFound, CheckpointNotFound, VersionNotFound, WorkflowUnknown, NodeNotFound, DefinitionChanged,
        NotResumable, NeedsConfirmation, RunOwned.
        """
        terms = Terms(strict, yes, frozenset(stop_before), actor, why)
        async with self._turn(run):
            head = find_run(self._open.log, run, whole=True)
            if at is not None:
                return await self._rewind(head, version_at(self._open.log, head, str(at)), terms)
            return await self._go_on(head, terms)

    async def _go_on(self, head: Head, terms: Terms) -> Run:
        log, run = self._open.log, head.run_id
        driver = self._desk.driver(head.run_key)
        if driver is not None and driver.ending and driver.task is not None:
            await asyncio.wait({driver.task})  # it is about to stand still: what comes after that is asked for
            await asyncio.sleep(0)
            head = find_run(log, run, whole=True)
        if (seat := self._desk.seat(head.run_key)) is not None:
            return Run(log, head, seat.flow, seat)
        if head.status == "completed":
            return self.get(run)
        if head.status in ("cancelled", "timed_out"):
            raise NotResumable(run, f"it was {head.status.replace('_', ' ')}; rewind it with at=, or fork it")
        return await self._resume(head, terms)

    async def _resume(self, head: Head, terms: Terms) -> Run:
        log = self._open.log
        if not self._free(head):
            raise RunOwned(head.run_id, log.owner_text(head.owner))
        state = recover(log, head).state
        check_undone(state)
        flow = flow_for(self._flows, state, strict=terms.strict)
        node = flow.nodes[state.node]
        if node.after_crash == "ask" and not terms.yes and was_cut_off(log, head, state, self._clock.now()):
            raise NeedsConfirmation(
                f"node {node.name!r} of run {head.run_id} was cut off in the middle and says to ask first"
            )
        await self._take(head, resumed(flow, state, terms), state, vouch_for(log, head, state))
        return await self._drive_again(flow, head.run_id, terms)

    def _free(self, head: Head) -> bool:
        """Whether a run's lease can be taken: nobody living holds it, or this engine does, whose driver has ended."""
        shop = self._open
        return head.owner == shop.owner or shop.log.owner_gone(head.owner)

    async def _take(self, head: Head, event: Event, state: State, vouch: Vouch | None = None) -> None:
        """Append an event and take the run's lease with it."""
        shop = self._open
        append = Append(
            head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (pack(event, vouch=vouch),),
            self._clock.now(), *status_after(state, event), claim=shop.owner,
        )  # fmt: skip
        await shop.writer.write(append, alone=shop.active == 0)

    async def _drive_again(self, flow: Workflow, run_id: str, terms: Terms) -> Run:
        """Drive a run whose lease was taken just now; what changed in its definition is recorded first."""
        log = self._open.log
        head = find_run(log, run_id, whole=True)
        recovered = recover(log, head)
        if recovered.state.run.definition_digest != flow.digest:
            await self._take(head, resumed(flow, recovered.state, terms), recovered.state)
            head = find_run(log, run_id, whole=True)
            recovered = recover(log, head)
        return self._drive(flow, recovered, head.epoch, terms.stop_before)

    async def _rewind(self, head: Head, to: int, terms: Terms) -> Run:
        shop = self._open
        state = check_rewind(shop.log, head, to, confirmed=terms.yes)  # before anything is stopped for it
        flow = flow_for(self._flows, state, strict=terms.strict)
        await self._let_go(head)
        head = find_run(shop.log, head.run_id, whole=True)
        if not self._free(head):
            raise RunOwned(head.run_id, shop.log.owner_text(head.owner))
        rewind_run(
            shop.log, self._clock, head, to, claim=shop.owner, confirmed=terms.yes, actor=terms.actor, why=terms.why
        )  # fmt: skip
        return await self._drive_again(flow, head.run_id, terms)

    async def _let_go(self, head: Head) -> None:
        """Stop driving a run here, now."""
        driver = self._desk.wake(head.run_key)
        if driver is not None and driver.task is not None:
            driver.abandon()
            await asyncio.wait({driver.task})
            await asyncio.sleep(0)

    async def fork(
        self, address: str, *, change: Mapping[str, Any] | None = None, run_id: str | None = None, drive: bool = True,
        actor: str = "", why: str = "",
    ) -> Run:  # fmt: skip
        """A new run that continues another's history from an address (`RUN@17`), its state changed if asked.

        It is driven at once if its workflow is known here, unless `drive=False`. Raises as `resolve` does, NotResumable,
        RunExists, NodeNotFound.
        """
        shop = self._open
        parent: Address = resolve(shop.log, address)
        state = recover(shop.log, parent.head, parent.version).state
        flow = self._flows.get(state.run.workflow)
        if flow is not None and drive:
            flow_for(self._flows, state)
        edit = change if flow is None or change is None else flow.schema.edit(change, state.data)
        name = run_id if run_id is not None else fresh_run_id(self._clock)
        async with self._turn(name):
            answer = fork_run(
                shop.log, self._clock, parent.head, parent.version, run_id=name, change=edit,
                claim=shop.owner if flow is not None and drive else b"", actor=actor, why=why,
            )  # fmt: skip
            if flow is not None and drive:
                return await self._drive_again(flow, name, Terms(actor=actor, why=why))
            return Run(shop.log, answer.head, flow, None)

    async def pick_up(self) -> tuple[list[Run], list[str]]:
        """Resume every unfinished run whose owner is gone; returns them, and the ids of runs of unknown workflows."""
        log = self._open.log
        taken: list[Run] = []
        unknown: list[str] = []
        for status in OPEN_STATUSES:
            for listed in log.runs(Query(status=status)):
                head = listed.head
                if head.run_key in self._desk or not log.owner_gone(head.owner):
                    continue
                if listed.entry.workflow not in self._flows:
                    unknown.append(head.run_id)
                    continue
                with suppress(Conflict, NeedsConfirmation, NodeNotFound):
                    async with self._turn(head.run_id):
                        taken.append(await self._resume(head, Terms(why="picked up")))
        return taken, unknown

    # --- reading

    def get(self, run: str) -> Run:
        """A handle on any run of the store, by id or unique prefix; needs neither workflow nor lease."""
        log = self._open.log
        head = find_run(log, run)
        entry = log.entry(head.run_key)
        flow = self._flows.get(entry.workflow) if entry else None
        return Run(log, head, flow, self._desk.seat(head.run_key))

    # --- messages

    async def signal(self, run: str, name: str, payload: Any = None, *, actor: str = "") -> int:
        """Send a run a message; durable when this returns, taken by whoever drives the run. Returns its number."""
        return await self._send(run, message(SIGNAL, name=name, payload=payload, actor=actor or who()))

    async def answer(self, run: str, answer: Any, *, wait: int | None = None, actor: str = "") -> int:
        """Answer what a run asks a person, once; returns the message's number.

        `wait` says which question, where it asks several at once. Raises NotWaiting if it asks nobody, InvalidState if
        the answer will not do, SettingsError if it is not clear what is answered.
        """
        name = question(self._open.log, run, self._flows, answer, wait=wait)
        return await self.signal(run, name, answer, actor=actor)

    async def pause(self, run: str, *, actor: str = "", why: str = "") -> int:
        """Ask that a run stand still after the node it is in."""
        return await self._send(run, message(PAUSE, actor=actor or who(), why=why))

    async def cancel(self, run: str, *, actor: str = "", why: str = "") -> int:
        """End a run before its end; the node it is in is cut off."""
        return await self._send(run, message(CANCEL, actor=actor or who(), why=why))

    async def _send(self, run: str, data: bytes) -> int:
        shop = self._open
        head = find_run(shop.log, run, whole=True)
        if head.status in FINAL:
            raise Conflict(f"run {head.run_id} has ended ({head.status}); nobody reads its messages any more")
        answer = await shop.writer.write(Post(head.run_key, data), alone=shop.active == 0)
        assert isinstance(answer, Posted)  # noqa: S101 - a Post is answered by Posted
        with suppress(EventflowError):  # it is durable: if it can't be taken now, whoever drives the run next does
            driver = self._desk.wake(head.run_key)
            if driver is not None:
                await driver.take_mail()
                await driver.gone()
            async with self._turn(run):
                if head.run_key not in self._desk and self._free(find_run(shop.log, run, whole=True)):
                    await deliver(shop, head.run_id)
        return answer.message

    # --- by hand

    async def checkpoint(self, run: str, *, label: str = "", snapshot: bool = False, why: str = "") -> Checkpoint:
        """Make a checkpoint of a run as it is now; `snapshot=True` forces its bytes."""
        return create_checkpoint(self._open.log, self._clock, run, label=label, snapshot=snapshot, why=why)

    def checkpoints(self, run: str) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        log = self._open.log
        return log.checkpoints(find_run(log, run).run_key)

    async def delete_checkpoints(
        self, run: str, ids: Iterable[str] | None = None, *, why: str = ""
    ) -> list[Checkpoint]:
        """Delete checkpoints of a run by id, all of them if None; its history is untouched."""
        return delete_checkpoints(self._open.log, self._clock, run, ids, why=why)

    async def prune_checkpoints(
        self, run: str, *, keep: int | None = None, max_age: float | None = None, why: str = ""
    ) -> list[Checkpoint]:
        """Delete all but the newest `keep` checkpoints of a run, or those older than `max_age` seconds.

        Where both are given, both must hold. Raises SettingsError where neither is, RunNotFound.
        """
        if keep is None and max_age is None:
            raise SettingsError("say what to keep: keep=..., max_age=..., or both")
        older = None if max_age is None else self._clock.now() - round(max_age * NS)
        gone = select(self.checkpoints(run), older_than=older, keep=keep)
        return delete_checkpoints(self._open.log, self._clock, run, [f"c-{version}" for version in gone], why=why)

    async def delete(self, run: str, *, why: str = "") -> None:
        """Delete a run for good. Raises RunNotFound, RunOwned, HasForks."""
        delete_run(self._open.log, self._clock, run, why=why)

    async def settle(
        self, run: str, effect: str, key: str = "1", *, output: Any = None, happened: bool, branch: str = "",
        actor: str = "", why: str = "",
    ) -> int:  # fmt: skip
        """Say what became of a call whose outcome is unknown: its result, or that it never happened; the run goes on.

        Returns the message's number. Raises RunNotFound, EffectMisused if the outcome is not unknown, NotPlainData.
        """
        check_unknown(self._open.log, run, effect, key, branch)
        told = {"key": key, "branch": branch, "happened": happened, "output": output}
        return await self._send(run, message(SETTLE, name=effect, payload=told, actor=actor or who(), why=why))
