"""Driving one run: call the node it stands on, decide, append, and again, until it ends or is stopped.

Being in a node is executing it. The node's code is called with the state, what it returns is resolved into a change, the
workflow decides where that leads, and one event says all of it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from traceback import format_exception
from typing import Any, Literal

from eventflow.budget import over_budget
from eventflow.change import extend
from eventflow.clock import NS
from eventflow.codec import read_events
from eventflow.engine.bodies import Bodies, Hands
from eventflow.engine.section import Section, Verdict, hold, let_in
from eventflow.engine.standing import PARK_AFTER, Bell, Place, Spawn, WaitTimedOut, next_moment, suspends
from eventflow.engine.undo import end, undo_one
from eventflow.errors import (
    BranchesDisagree,
    BudgetExceeded,
    ChildFailed,
    EffectDenied,
    EffectUnknown,
    EventflowError,
    GuardFailed,
    NodeCancelled,
    NodeTimedOut,
    NoEdgeHolds,
    RunLost,
    RunTooLong,
    StoreUnusable,
)
from eventflow.event import (
    AttemptFailed,
    Event,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunParked,
    RunPaused,
    RunSuspended,
    UndoBegan,
    WaitClosed,
    WaitOpened,
)
from eventflow.forking import who
from eventflow.plain import FrozenDict
from eventflow.recovery import line
from eventflow.run import Journal, Keys, Visit, asked_rest, facts, failure_of, is_failure, is_final
from eventflow.shapes import PROCESS_KEY, hidden
from eventflow.state import State, open_waits
from eventflow.workflow import Decision, Go, Node, Pause, Split, Standing, Workflow, joined

Interrupt = Literal["", "cancelled", "stopped", "undo"]
CUT_OFF = "its node was cut off"  # why a run was suspended, where its node had not ended


class Driver:
    """One run being driven by this process."""

    def __init__(
        self, flow: Workflow, journal: Journal, hands: Hands, *, spawn: Spawn, stop_before: frozenset[str] = frozenset(),
        parks: bool = True,
    ) -> None:  # fmt: skip
        self.flow, self.journal, self.spawn = flow, journal, spawn
        self.bell = Bell()
        self.bodies = Bodies(hands, journal.shop.clock)
        self.stop_before = stop_before
        self.parked = False  # it stands still and has left the task: the engine wakes it
        self.task: asyncio.Task[State] | None = None
        self._park_after = PARK_AFTER if parks else None
        self._taken_up_at = journal.state.visit
        self._stopping = False
        self._interrupt: Interrupt = ""
        self.raised: BaseException | None = None  # what the run failed of here, unless it tells a secret
        self._inside = False  # between the begin of a body and the record of what came of it
        self._visit: Visit | None = None  # what the body was given as its run, if it takes one
        self._reading_mail = False
        self._keys = Keys(journal.shop.log, journal.state.run.run_key)

    # --- from outside

    @property
    def threads(self) -> list[str]:
        """The nodes whose bodies run in threads."""
        return self.bodies.threads

    @property
    def ending(self) -> bool:
        """Whether the run is being let go, or will be after the node it is in."""
        return self._stopping

    def start(self) -> asyncio.Task[State]:
        """Begin to drive; the task's result is the state the run was left in."""
        self.task = asyncio.get_running_loop().create_task(self._drive(), name=f"run {self.journal.state.run.run_id}")
        return self.task

    async def gone(self) -> None:
        """Return once a run that has been let go already is no longer driven; at once while it is driven."""
        if self.journal.released and self.task is not None:
            await asyncio.wait({self.task})

    def stop(self) -> None:
        """Let the run go after the node it is in."""
        self._stopping = True
        self.bell.ring()

    def abandon(self) -> None:
        """Let the run go now; the node it is in begins again at the next resume."""
        self._cut("stopped", "the engine is stopping")

    def _cut(self, interrupt: Interrupt, why: str) -> None:
        self._interrupt = self._interrupt or interrupt
        self._stopping = self._stopping or interrupt != "undo"
        self.bell.ring()
        if self._visit is not None:
            self._visit.take_away(why)
        if self._inside and self.task is not None:
            self.task.cancel()

    async def take_mail(self) -> None:
        """Turn the messages in the run's inbox into events."""
        journal = self.journal
        if self._reading_mail or journal.released or self.parked:
            return
        self._reading_mail = True
        try:
            for number, data in journal.shop.log.inbox(journal.state.run.run_key):
                if journal.state.ended or journal.released:
                    break
                if not await self._take(number, data):
                    break
        finally:
            self._reading_mail = False
            self.bell.ring()

    async def _take(self, number: int, data: bytes) -> bool:
        """Take one message; False if the run ended meanwhile: what waits in its inbox is for whoever takes it up again."""
        journal = self.journal
        while True:
            state = journal.state
            events = facts(state, number, data, driven=True, taken=self._keys)
            ends = isinstance(events[-1], RunCancelled)
            try:
                await journal.record(*events, taken=(number,), release=ends)
                break
            except RunLost:  # what it means may have changed since it was decided: there is more to undo, or that began
                now = journal.state
                if len(now.undo) == len(state.undo) and now.undoing is state.undoing:
                    return False
        self._taken(events, ends=ends)
        return True

    def _taken(self, events: tuple[Event, ...], *, ends: bool) -> None:
        if ends:
            self._cut("cancelled", "the run was cancelled")
        elif isinstance(events[-1], UndoBegan):
            self._cut("undo", "the run was cancelled")
        elif isinstance(events[-1], RunPaused):
            self._stopping = True

    # --- the loop

    async def _drive(self) -> State:
        journal = self.journal
        deadline = self._deadline()
        try:
            await self.take_mail()
            if deadline is not None and journal.state.run.deadline <= journal.shop.clock.now():
                await self._time_out(journal.state.run.deadline)  # before any code of its runs again
            while await self._driven():
                pass
        finally:
            if deadline is not None:
                deadline.cancel()
            if self._visit is not None:
                self._visit.take_away("the run is no longer driven here")
            journal.gauge.leave()
        await journal.settle()  # a list of facts may still be under way
        if self.parked:
            return journal.state
        if not journal.state.ended and not journal.released and journal.cut_off is None:
            with suppress(RunLost):  # a message may end it at this moment
                await self._let_go()
        await journal.settle()
        return journal.state

    async def _driven(self) -> bool:
        """Drive until the run halts, is parked or cut off; True if there is something left to do here."""
        try:
            seen = self.bell.count
            while not self._halted() and not self.parked:
                seen = self.bell.count
                await self._step()
        except asyncio.CancelledError:
            if not self._interrupt:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        if self._interrupt == "undo":  # what ran was cut off; what it did is undone now
            self._interrupt = ""
            return not self._stopping
        if self.parked:
            await self.journal.settle()
            self.parked = not self._reading_mail and self.bell.count == seen and not self._halted()
            return not self.parked
        return False

    def _halted(self) -> bool:
        state = self.journal.state
        if state.ended or self._stopping or state.status == "paused":
            return True
        return state.node in self.stop_before and state.visit != self._taken_up_at

    async def _let_go(self) -> None:
        journal = self.journal
        standing = journal.state.status == "waiting" and bool(open_waits(journal.state))
        if journal.state.status == "paused" or (standing and not suspends(journal.state)):
            await journal.record(release=True)  # what stands still stands so without us
            return
        if journal.shop.policy.at_shutdown and journal.shop.log.durable:
            with suppress(EventflowError):  # without it the run is recovered from its events
                await journal.checkpoint("shutdown", snapshot=True)
        why = CUT_OFF if self._interrupt == "stopped" else ""
        await journal.record(RunSuspended(journal.state.node, why=why), release=True)

    def _deadline(self) -> asyncio.Task[None] | None:
        moment = self.journal.state.run.deadline
        return asyncio.ensure_future(self._time_out(moment)) if moment else None

    async def _time_out(self, moment: int) -> None:
        """End the run when its time is over."""
        journal = self.journal
        await journal.shop.clock.wait_until(moment)
        if journal.state.ended or journal.released or self.parked or journal.state.undoing is not None:
            return
        with suppress(EventflowError):  # it ended at this moment, or who drives it will meet the same
            ends = await end(journal, "timed_out")
            self._cut("cancelled" if ends else "undo", "the run's deadline has passed")

    async def _step(self) -> None:  # noqa: C901, PLR0912 - the hot path: one call more costs every step
        state = self.journal.state
        node = self.flow.nodes[state.node]
        if state.retry_at and not await self._rested(state.retry_at):
            return
        limits = self.journal
        if (limits.tally.asks or limits.tally.full or limits.shop.store.asks) and await self._parked_at_limit(state):
            return
        if state.run.budget and state.undoing is None and (what := over_budget(state, self.journal.shop.clock.now())):
            await self._fail(BudgetExceeded(state.run.run_id, what))
            return
        self._inside = True
        try:
            if (
                state.undoing is not None
                or node.pause is not None
                or node.branches is not None
                or state.wait is not None
            ):
                await self._odd(node, state)
                return
            if node.is_async and node.timeout is None and not node.takes_run:  # the short way
                try:
                    returned = await node.call(self.flow.schema.view(state.data))
                except asyncio.CancelledError:
                    self._check_cancelled(node)
                    raise
            else:
                returned = await self._returned(node, state)
            if type(returned) is Standing:
                await self._hold(returned)
                return
            if self.journal.ruling.denied is not None:
                raise self.journal.ruling.denied  # noqa: TRY301 - it ends the run, whatever its code made of it
            event, after = self._decided(state, returned)
            await self.journal.record(event, after=after, release=type(event) is RunCompleted)
        except (NoEdgeHolds, GuardFailed, BudgetExceeded, BranchesDisagree, EffectDenied) as error:
            await self._fail(error)
        except EffectUnknown as error:
            await self._ask(state, error)
        except RunTooLong as error:
            await self._park(error.why)
        except BaseException as error:
            if not is_failure(error):
                raise
            now = self.journal.state
            if isinstance(error, RunLost) and (now.ended or self._interrupt or now.undoing is not state.undoing):
                return
            if self.journal.cut_off is not None or isinstance(error, StoreUnusable):
                raise
            denied = self.journal.ruling.denied
            await (self._failed(node, state, error) if denied is None else self._fail(denied))
        finally:
            self._inside, self._visit = False, None

    async def _parked_at_limit(self, state: State) -> bool:
        """Whether the run was parked, since it, or its store, has as much as it may; what is near a limit is told."""
        why = await self.journal.look()
        if self.journal.state is not state:  # a message came meanwhile, and may have ended it
            return True
        if not why or state.undoing is not None or state.wait is not None or state.branches is not None:
            return False  # what is under way comes to its end first
        await self._park(why)
        return True

    async def _park(self, why: str) -> None:
        """Let the run go until somebody takes it up who knows why it stands still."""
        with suppress(RunLost):  # it ended at this moment
            await self.journal.record(RunParked(self.journal.state.node, 0, who(), why), release=True)
            self._stopping = True

    async def _odd(self, node: Node, state: State) -> None:
        """A step of a run that undoes what it did, stands still, or has split."""
        if state.wait is not None and state.wait["kind"] == "unknown":  # a compensation's outcome may be, too
            await self._rest(self._place(), self.bell.count)
        elif state.undoing is not None:
            self._visit = self.visit(attempt=state.attempt)
            await undo_one(self.flow, self.journal, self._visit, self.event_at)
        elif node.branches is not None and isinstance(node.body, Split):
            verdict, self.parked = await Section(self, node, node.body).run(self._park_after)
            await self._joined(state, verdict)
        elif node.pause is not None:
            await self._stand(node, node.pause)
        else:
            returned = await self._returned(node, state)
            if type(returned) is not Standing:  # its code has changed: it waits for nothing any more
                await self.journal.record(WaitClosed(node.name, "settled"))
                event, _ = self._decided(self.journal.state, returned)
                await self.journal.record(event, release=type(event) is RunCompleted)
            else:
                await self._hold(returned)

    # --- standing still

    def _place(self) -> Place:
        return Place(self.journal, self.bell, self.journal.state.node, self.spawn)

    async def _stand(self, node: Node, pause: Pause) -> None:
        """Stand still in a node until what it waits for has come, or its time is over."""
        journal, place = self.journal, self._place()
        self._inside = False  # nothing of the user's runs: a stop rings the bell
        seen = self.bell.count
        await place.opened(pause, self.flow.schema.view(journal.state.data))
        try:
            came = await place.come(pause.accepted)
        except ChildFailed as error:
            await self._lapsed(node, WaitClosed(node.name, "signal", error.message), error)
            return
        if came is None:
            await self._rest(place, seen)
            return  # look again whether the run goes on here
        closed = WaitClosed(node.name, came.outcome, came.message)
        returned = pause.lapsed() if came.outcome == "timeout" else pause.change(came.payload)
        if returned is None:
            await self._lapsed(node, closed, WaitTimedOut(f"node {node.name!r} waited in vain until its timeout"))
        else:
            event, _ = self._decided(journal.state, returned)
            await journal.record(closed, event, release=type(event) is RunCompleted)

    async def _lapsed(self, node: Node, closed: WaitClosed, error: Exception) -> None:
        """A wait ended badly: the edge that says what follows, else the end."""
        state = self.journal.state
        trigger = self._trigger(node, error)
        if not self.flow.has_edge(node.name, trigger):
            await self.journal.record(closed)
            await self._fail(error)
            return
        decision = self.flow.decide(state, trigger, error=failure_of(error))
        await self.journal.record(closed, decision.event)

    async def _hold(self, standing: Standing) -> None:
        """Stand still for a body that returned to wait; it is called again once what it waits for has come."""
        journal, place = self.journal, self._place()
        self._inside = False
        if journal.state.wait is None:
            await hold(place, standing)
        while not self._halted() and not self.parked and place.wait is not None:  # without: what it did is undone
            seen = self.bell.count
            came = await place.come(standing.pause.accepted)
            if came is not None:
                await journal.record(*let_in(place, standing, came.outcome, came.message, came.payload))
                return
            await self._rest(place, seen)

    async def _rest(self, place: Place, seen: int) -> None:
        """Rest until something comes; what rests for long leaves memory."""
        until = next_moment(self.journal.state)
        resting = asyncio.ensure_future(place.rest(until, seen))
        try:
            await asyncio.wait({resting}, timeout=self._park_after)
            self.parked = not resting.done() and not self._stopping
        finally:
            resting.cancel()

    async def _ask(self, state: State, error: EffectUnknown) -> None:
        """Stand still until somebody says what became of a call."""
        spec = FrozenDict({"key": error.key, "effect": error.effect})
        await self.journal.record(WaitOpened(state.node, "unknown", error.effect, spec=spec), visit=state.visit)

    async def _joined(self, state: State, verdict: Verdict) -> None:
        """What the branches' ends mean for the node."""
        if (failure := self.journal.ruling.denied or verdict.failure) is not None:
            raise failure
        if verdict.updates is None:
            return
        change, after = joined(state.data, verdict.updates, self.flow.schema.reducers)
        decision = self.flow.decide(self.journal.state, "done", change)
        event = decision.event
        await self.journal.record(event, after=after, release=type(event) is RunCompleted)

    # --- one node

    def visit(self, *, branch: str = "", attempt: int = 0) -> Visit:
        """A handle for a body: what it gets as its run."""
        return Visit(
            self.journal, self.event_at, self.bodies.hands.calls, self._extends, branch=branch,
            undoes=self.flow.compensations, attempt=attempt,
        )  # fmt: skip

    async def _returned(self, node: Node, state: State) -> Any:
        """What the body returns. The visit ends with it: what it left running can record nothing any more."""
        visit = self._visit = self.visit()
        try:
            return await self.bodies.run(node, visit, self.flow.schema.view(state.data))
        except asyncio.CancelledError:
            self._check_cancelled(node)
            raise
        finally:
            visit.take_away("its node has ended")

    def _check_cancelled(self, node: Node) -> None:
        """Raise NodeCancelled for a body that was cancelled by neither the engine nor who waits for it."""
        task = asyncio.current_task()
        if not self._interrupt and not (task is not None and task.cancelling()):
            raise NodeCancelled(f"node {node.name!r} was cancelled by something it waited for") from None

    async def _rested(self, until: int) -> bool:
        """Wait for the moment of the next attempt; False if something else came first."""
        clock, seen = self.journal.shop.clock, self.bell.count
        await self._place().rest(until, seen)
        return clock.now() >= until and not self._stopping

    def _decided(self, state: State, returned: Any) -> Decision:
        """What follows from what a node returned."""
        go = None
        if isinstance(returned, Go):
            go, returned = returned.target, returned.update
        change = self.flow.schema.change(returned, state.data)
        return self.flow.decide(state, "done", change, go=go)

    async def _failed(self, node: Node, state: State, error: BaseException) -> None:
        """Another attempt, an error edge, or the end."""
        failure = failure_of(error)
        policy, clock = node.retry, self.journal.shop.clock
        if state.attempt < policy.attempts and policy.covers(error) and not is_final(error):
            rest = max(policy.rest(state.attempt, seed=state.run.run_key), asked_rest(error))
            retry_at = clock.now() + round(rest * NS)
            await self.journal.record(AttemptFailed(node.name, state.attempt, failure, retry_at))
            return
        trigger = self._trigger(node, error)
        if not self.flow.has_edge(node.name, trigger):
            await self._fail(error)
            return
        try:
            decision = self.flow.decide(state, trigger, error=failure)
        except BaseException as problem:
            if not is_failure(problem):
                raise
            await self._fail(problem)  # its guards are the user's code
            return
        await self.journal.record(decision.event, after=decision.after)

    def _trigger(self, node: Node, error: BaseException) -> str:
        """The trigger an error fires: its own where an edge waits for it, else `failed`."""
        own = ""
        if isinstance(error, NodeTimedOut | WaitTimedOut):
            own = "timed_out"
        elif isinstance(error, NodeCancelled) or (isinstance(error, ChildFailed) and error.status == "cancelled"):
            own = "cancelled"
        return own if own and self.flow.has_edge(node.name, own) else "failed"

    async def _fail(self, error: BaseException) -> None:
        told = "".join(format_exception(error))
        self.raised = error if self.journal.shop.clean(hidden(told, PROCESS_KEY)) == told else None
        await end(self.journal, "failed", error=failure_of(error))

    def _extends(self, field: str) -> bool:
        return self.flow.schema.reducers.get(field) is extend

    def event_at(self, version: int) -> Recorded:
        """The event at a version of the run, be it one of a parent's."""
        log = self.journal.shop.log
        key = line(log, self.journal.state.run.run_key, version)[-1].run_key
        return read_events(log.read(key, version, version), log.blobs)[0]
