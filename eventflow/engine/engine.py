"""The engine: starts, resumes, forks and ends runs of the workflows it was given, on one store.

It drives only what it was given; a name read from a store is never imported. Nothing it says has happened before the log
has it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

from eventflow.address import Address, check_run_id, find_run, resolve
from eventflow.budget import Budget
from eventflow.checkpoint import Checkpoint, CheckpointPolicy, select
from eventflow.cipher import Keyring
from eventflow.clock import NS, Clock, SystemClock
from eventflow.codec import encode
from eventflow.engine.asking import answered
from eventflow.engine.bodies import Hands
from eventflow.engine.cleaning import Cleaning
from eventflow.engine.delivery import check_unknown, deliver
from eventflow.engine.desk import Desk
from eventflow.engine.executors import Executors
from eventflow.engine.handle import Run
from eventflow.engine.leases import Leases
from eventflow.engine.operations import (
    create_checkpoint,
    delete_checkpoints,
    fresh_run_id,
    give_back,
    unlist_run,
)
from eventflow.engine.orphans import CRASHES, Orphans
from eventflow.engine.queues import Queue, Serving, check_queue
from eventflow.engine.standing import question
from eventflow.engine.terms import Terms, by_name, check_start
from eventflow.engine.watching import Watching, check_room, quota_for
from eventflow.errors import (
    Conflict,
    EventflowError,
    NotResumable,
    SettingsError,
    StoreClosed,
)
from eventflow.event import RunStarted
from eventflow.forking import who
from eventflow.log import Log, Post, Posted, open_log, writer_of
from eventflow.plain import EMPTY, freeze
from eventflow.proof import digest
from eventflow.quota import Quota
from eventflow.redaction import Redaction
from eventflow.retention import RetentionPolicy
from eventflow.run import CANCEL, PAUSE, SETTLE, SIGNAL, Listener, Shop, Threads, message, redactor_for
from eventflow.state import FINAL, State
from eventflow.what_if import EffectPolicy
from eventflow.workflow import MESSAGE, Child, Workflow

THREADS = 64  # plain functions at a time: they wait for the outside more than they compute


class Engine:
    """An engine on a store: a path, `"memory"`, or a Log of one's own. Use it as an async context manager.

    `workflows` are those it may drive; `checkpoints` is the policy of all its runs; `listeners` are called after each
    durable event; `pick_up=True` resumes, on entering, every unfinished run whose owner is gone. `grace` is how many
    seconds a node may go on when the engine is stopped. `executors` are those that nodes name, `processes` is how many
    of its own the engine may start for nodes that say "process". `crashes` is how often in a row a process may end in one
    visit of a node before `pick_up` parks its run; None for ever. `queues` are those it serves. With `keys` what new runs hold is encrypted;
    `redact` says what is taken out of values before they are recorded. `retention` says what is removed of runs that are over, and
    of checkpoints, in small steps while the engine is open. `quota` says how much may be kept; by default a run in a store that
    outlives the process has limits, and the store none. Raises
    StoreUnusable when the store can't be opened, WrongKey when its keys are others.
    """

    def __init__(
        self, store: str | os.PathLike[str] | Log = "memory", *, workflows: Iterable[Workflow] = (),
        checkpoints: CheckpointPolicy | None = None, clock: Clock | None = None, listeners: Iterable[Listener] = (),
        pick_up: bool = False, grace: float = 5.0, threads: int = THREADS, executors: Mapping[str, Executor] | None = None,
        processes: int | None = None, crashes: int | None = CRASHES, keys: Keyring | None = None,
        redact: Redaction | None = None, queues: Iterable[Queue] = (), retention: RetentionPolicy | None = None,
        quota: Quota | None = None,
    ) -> None:  # fmt: skip
        self._where, self._clock, self._keys = store, clock or SystemClock(), keys
        self._redact, self._retention, self._quota = redact, retention, quota
        self._policy = checkpoints or CheckpointPolicy()
        self._flows = by_name(workflows)
        self._listeners = list(listeners)
        self._pick_up, self._grace, self._threads = pick_up, grace, threads
        self._crashes, self._queues = crashes, tuple(queues)
        self._executors = Executors(executors, processes=processes)
        for flow in self._flows.values():
            self._check_executors(flow)
        self._shop: Shop | None = None

    # --- life

    async def __aenter__(self) -> Self:
        log = open_log(self._where, clock=self._clock, keys=self._keys)
        owner = self._clock.uuid7()
        self._end_owner = log.new_owner(owner)
        self._loop = asyncio.get_running_loop()
        self._shop = Shop(log, writer_of(log), self._clock, self._policy, owner, self._listeners)
        self._shop.redactor = redactor_for(self._redact, log)
        self._shop.store.quota = quota_for(self._quota, log)
        self._hands = Hands(
            Threads(self._threads, "eventflow-node"), Threads(self._threads, "eventflow-call"), self._executors
        )
        self._desk = Desk(self._shop, self._hands, self._spawn)
        leases = self._leases = Leases(self._shop, self._desk, self._flows)
        self._orphans = Orphans(
            self._shop, self._desk, resume=lambda run, terms: leases.resume(run, None, terms), take=leases.take,
            crashes=self._crashes,
        )  # fmt: skip
        self._serving = Serving(self._shop, self._orphans, self._queues, self._flows)
        self._serving.start()
        self._cleaning = Cleaning(self._shop, self._retention)
        self._cleaning.start()
        self._watching = Watching(self._shop)
        await self._watching.start()
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
        await self._cleaning.stop()
        await self._watching.stop()
        shop, self._shop = self._shop, None
        await self._desk.close()
        for made in shop.resources.values():
            with suppress(Exception):  # what can't be closed any more is closed
                await made.close()
        shop.writer.close()
        self._end_owner()
        self._hands.bodies.close()
        self._hands.calls.close()
        self._executors.close()
        if shop.log is not self._where:
            shop.log.close()

    async def drain(self, grace: float | None = None) -> list[str]:
        """Stop driving: let each node finish within `grace` seconds, else abandon it; make a shutdown checkpoint.

        Returns the names of nodes whose plain functions are still running in threads; their results are dropped.
        """
        await self._serving.stop()
        return await self._desk.drain(self._grace if grace is None else grace)

    @property
    def log(self) -> Log:
        """The open log. Raises StoreClosed outside the context."""
        return self._open.log

    @property
    def clock(self) -> Clock:
        """The engine's clock."""
        return self._clock

    @property
    def _open(self) -> Shop:
        if self._shop is None:
            raise StoreClosed("the engine is not open; use it as `async with Engine(...) as engine:`")
        return self._shop

    @property
    def _here(self) -> Leases:
        """What takes runs up. Raises StoreClosed outside the context, and in another event loop: what began there would end with it."""
        if self._open and asyncio.get_running_loop() is not self._loop:
            raise StoreClosed(
                "the engine is open in another event loop; hand it work by asyncio.run_coroutine_threadsafe"
            )
        return self._leases

    async def _whole(self, work: Awaitable[Run]) -> Run:
        """A run that was taken up; only then its caller may be cancelled, since nobody else drives what is taken."""
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        run = await work
        if task is not None and task.cancelling() > before:
            await asyncio.sleep(0)
        return run

    def _check_executors(self, flow: Workflow) -> None:
        """Raise DefinitionError for a node that names an executor which is not there."""
        for node in flow.nodes.values():
            for one in (node, *(node.branches or {}).values()):
                if one.executor is not None:
                    self._executors.check(one.executor)

    # --- start

    async def start(
        self, flow: Workflow, data: Any = None, *, run_id: str | None = None, tags: Sequence[str] = (),
        subject: str | None = None, timeout: float | None = None,  # noqa: ASYNC109 - the run's time, which is recorded
        budget: Budget | None = None, queue: str = "", priority: int = 0, queue_key: str = "", actor: str = "",
        why: str = "",
    ) -> Run:  # fmt: skip
        """Start a run, durably, and drive it; the same id again follows the run that is there.

        With a `queue` it is not driven at once: it waits until an engine that serves the queue (here or elsewhere) takes it,
        the highest `priority` first, within the queue's limits, which may be counted by `queue_key`.

        `timeout` is how many seconds of wall time it has, waits and stops included; `budget` what it may use.
        Raises RunExists if the id belongs to another workflow or another input, InvalidState or NotPlainData for the
        input, DefinitionError for the workflow, StoreOverQuota for a new run where the store holds as much as it may.
        """
        check_start(flow, tags, timeout, budget)
        if queue or priority or queue_key:
            check_queue(queue, priority)
        self._check_executors(flow)
        first = self._open.clean(flow.schema.initial({} if data is None else data))
        name = check_run_id(run_id) if run_id is not None else fresh_run_id(self._clock)
        if self._open.log.head(name) is None:
            await check_room(self._open)
        event = RunStarted(
            name, self._open.log.store_id, flow.name, flow.digest, flow.shape, flow.start, first, digest(encode(first)),
            freeze(list(tags), "tags"), subject, actor, why,
            deadline=0 if timeout is None else self._clock.now() + round(timeout * NS),
            budget=EMPTY if budget is None else budget.plain(), queue=queue, priority=priority, queue_key=queue_key,
        )  # fmt: skip
        run = await self._whole(self._here.start(flow, event))
        if queue:
            self._serving.look()
        return run

    async def start_many(
        self, flow: Workflow, inputs: Mapping[str, Any] | Iterable[Any], *, tags: Sequence[str] = ()
    ) -> list[Run]:
        """Start a run for each input, or each id and input of a mapping, at once."""
        pairs = list(inputs.items()) if isinstance(inputs, Mapping) else [(None, data) for data in inputs]
        return list(await asyncio.gather(*(self.start(flow, data, run_id=name, tags=tags) for name, data in pairs)))

    async def _spawn(self, child: Child, run_id: str, data: Any, caller: State) -> None:
        await self._leases.spawn(child, run_id, data, caller)

    # --- resume, rewind, fork

    async def resume(
        self, run: str, *, at: str | int | None = None, strict: bool = False, yes: bool = False,
        stop_before: Iterable[str] = (), effects: Literal["again", "reuse"] | EffectPolicy = "again", keep_signals: bool = False,
        budget: Budget | None = None, migrate: Callable[[Any], Any] | None = None, actor: str = "", why: str = "",
    ) -> Run:  # fmt: skip
        """Take a run up again after a crash, a failure, a stop or a pause; `at` rewinds it to a checkpoint or version.

        A finished run is returned as it is. `strict` refuses another definition than the recorded one; `yes` confirms
        what would repeat something; `stop_before` lets the run go again before any of these nodes; `budget` sets another
        one. `migrate` is a function of the data, as a dict, that returns what it shall be under a changed definition, or
        Go(node, data) where the node is another one. With `at`, `effects="reuse"` lets calls answer that were made since
        and are the same (node, name, key, input), and `keep_signals` gives back the messages that came since. An
        EffectPolicy says anew what a what-if run may call.
        Raises RunNotFound, CheckpointNotFound, VersionNotFound, WorkflowUnknown, NodeNotFound, DefinitionChanged,
        NotResumable, NeedsConfirmation, RunOwned.
        """
        policy = effects if isinstance(effects, EffectPolicy) else None
        terms = Terms(
            strict, yes, frozenset(stop_before), actor, why, effects == "reuse", keep_signals, budget, migrate, policy
        )  # fmt: skip
        return await self._whole(self._here.resume(run, at, terms))

    async def retry(self, run: str, *, yes: bool = False, actor: str = "", why: str = "") -> Run:
        """Try the node that a run failed in again, with all its attempts. Raises NotResumable if it has not failed."""
        head = find_run(self.log, run, whole=True)
        if head.status != "failed":
            raise NotResumable(run, f"it has not failed ({head.status})")
        return await self.resume(run, yes=yes, actor=actor, why=why or "retried")

    async def skip(self, run: str, result: Any = None, *, actor: str = "", why: str = "") -> Run:
        """End the node a run stands on with a given result (what the node would return), and go on from there.

        Raises RunNotFound, RunOwned, NotResumable if the run is over, InvalidState, NoEdgeHolds.
        """
        return await self._whole(self._here.skip(run, result, Terms(actor=actor, why=why)))

    async def fork(
        self, address: str, *, change: Mapping[str, Any] | None = None, run_id: str | None = None, drive: bool = True,
        effects: EffectPolicy | Literal["real"] | None = None, actor: str = "", why: str = "",
    ) -> Run:  # fmt: skip
        """A new run that continues another's history from an address (`RUN@17`), its state changed if asked.

        It is driven at once if its workflow is known here, unless `drive=False`. An EffectPolicy makes it a what-if run:
        what it says is all that is called. Without one a fork may call what its parent may, and with `"real"` everything.
        Raises as `resolve` does, NotResumable, RunExists, NodeNotFound, StoreOverQuota.
        """
        parent: Address = resolve(self.log, address)
        await check_room(self._open)
        terms = Terms(actor=actor, why=why)
        return await self._whole(self._here.fork(parent, change, run_id, terms, drive=drive, effects=effects))

    async def pick_up(self) -> tuple[list[Run], list[str]]:
        """Resume every unfinished run whose owner is gone; returns them, and the ids of runs of unknown workflows.

        A run whose processes keep ending in one node, `crashes` times in a row, is parked instead: it waits for a person.
        """
        return await self._orphans.pick_up(self._flows)

    @property
    def refused(self) -> set[str]:
        """The ids of runs that wait in the queues it serves and that it could not take up; `resume` says why."""
        return self._serving.refused

    @property
    def hindered(self) -> dict[str, str]:
        """Why queues could not be looked at the last time, by their names: the store is full, say. It goes on trying."""
        return self._serving.hindered

    # --- reading

    def get(self, run: str) -> Run:
        """A handle on any run of the store, by id or unique prefix; needs neither workflow nor lease."""
        log = self._open.log
        head = find_run(log, run)
        entry = log.entry(head.run_key)
        flow = self._flows.get(entry.workflow) if entry else None
        return Run(log, head, flow, self._desk.seat(head.run_key), clean=self._open.clean)

    # --- messages

    async def signal(self, run: str, name: str, payload: Any = None, *, actor: str = "", key: str = "") -> int:
        """Send a run a message; durable when this returns, taken by whoever drives the run. Returns its number.

        Of several messages with one `key` the run takes the first: whoever does not know whether one arrived sends it again.
        """
        clean = self._open.clean(freeze(payload, "payload"))
        return await self._send(run, message(SIGNAL, name=name, payload=clean, actor=actor or who(), key=key))

    async def send(self, run: str, text: Any, *, actor: str = "") -> int:
        """Send a run what somebody said: the next turn of a conversation, for a `Wait.for_message`."""
        return await self.signal(run, MESSAGE, text, actor=actor)

    async def ask(self, run: str, name: str = MESSAGE, payload: Any = None, *, actor: str = "") -> Any:
        """Send a run a message and return what it answers: the field that the wait names, once the run waits again or ends.

        Without such a field that is the whole data, as a dict. Raises InvalidState if the message was refused, RunFailed,
        RunCancelledError or RunTimedOutError if the run ends so before it answers, Conflict if it ends without having
        read the message, Stopped if nobody drives it, RunNotFound.
        """
        head = find_run(self.log, run, whole=True)
        number = await self.signal(run, name, payload, actor=actor)
        return await answered(self.log, head, number)

    async def answer(self, run: str, answer: Any, *, wait: int | None = None, actor: str = "") -> int:
        """Answer what a run asks a person, once; returns the message's number.

        `wait` says which question, where it asks several at once. Raises NotWaiting if it asks nobody, InvalidState if
        the answer will not do, SettingsError if it is not clear what is answered.
        """
        name = question(self._open.log, run, self._flows, answer, wait=wait)
        return await self.signal(run, name, answer, actor=actor)

    async def pause(self, run: str, *, actor: str = "", why: str = "") -> int:
        """Ask that a run stand still after the node it is in."""
        return await self._send(run, message(PAUSE, actor=actor or who(), why=self._open.clean(why)))

    async def cancel(self, run: str, *, actor: str = "", why: str = "") -> int:
        """End a run before its end; the node it is in is cut off."""
        return await self._send(run, message(CANCEL, actor=actor or who(), why=self._open.clean(why)))

    async def _send(self, run: str, data: bytes) -> int:
        shop = self._open
        leases = self._here
        head = find_run(shop.log, run, whole=True)
        if head.status in FINAL:
            raise Conflict(f"run {head.run_id} has ended ({head.status}); nobody reads its messages any more")
        shop.check_message(data)
        answer = await shop.writer.write(Post(head.run_key, data), alone=shop.active == 0)
        assert isinstance(answer, Posted)  # noqa: S101 - a Post is answered by Posted
        with suppress(EventflowError):  # it is durable: if it can't be taken now, whoever drives the run next does
            driver = self._desk.wake(head.run_key)
            if driver is not None:
                await driver.take_mail()
                await driver.gone()
            async with leases.turn(run):
                if head.run_key not in self._desk and leases.free(find_run(shop.log, run, whole=True)):
                    await deliver(shop, head.run_id)
            await leases.finish_undoing(run)
        return answer.message

    # --- by hand

    async def checkpoint(self, run: str, *, label: str = "", snapshot: bool = False, why: str = "") -> Checkpoint:
        """Make a checkpoint of a run as it is now; `snapshot=True` forces its bytes."""
        label, why = self._open.clean(label), self._open.clean(why)
        return create_checkpoint(self._open.log, self._clock, run, label=label, snapshot=snapshot, why=why)

    def checkpoints(self, run: str) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        log = self._open.log
        return log.checkpoints(find_run(log, run).run_key)

    async def delete_checkpoints(
        self, run: str, ids: Iterable[str] | None = None, *, why: str = ""
    ) -> list[Checkpoint]:
        """Delete checkpoints of a run by id, all of them if None; its history is untouched."""
        return delete_checkpoints(self._open.log, self._clock, run, ids, why=self._open.clean(why))

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
        return await self.delete_checkpoints(run, [f"c-{version}" for version in gone], why=why)

    async def delete(self, run: str, *, why: str = "") -> None:
        """Delete a run for good, and give back what nobody else needs. Raises RunNotFound, RunOwned, HasForks, RunGuarded."""
        shop = self._open
        _, mine = unlist_run(shop.log, self._clock, run, why=shop.clean(why))
        await asyncio.to_thread(give_back, shop.log, mine, shop.writer.write_now)

    async def settle(
        self, run: str, effect: str, key: str = "1", *, output: Any = None, happened: bool, branch: str = "",
        actor: str = "", why: str = "",
    ) -> int:  # fmt: skip
        """Say what became of a call whose outcome is unknown: its result, or that it never happened; the run goes on.

        Returns the message's number. Raises RunNotFound, EffectMisused if the outcome is not unknown, NotPlainData.
        """
        check_unknown(self._open.log, run, effect, key, branch)
        told = {"key": key, "branch": branch, "happened": happened, "output": self._open.clean(freeze(output))}
        return await self._send(
            run, message(SETTLE, name=effect, payload=told, actor=actor or who(), why=self._open.clean(why))
        )
