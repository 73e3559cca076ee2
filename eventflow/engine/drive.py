"""Driving one run: call the node it stands on, decide, append, and again, until it ends or is stopped.

Being in a node is executing it. The node's code is called with the state, what it returns is resolved into a change, the
workflow decides where that leads, and one event says all of it.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from eventflow.change import extend
from eventflow.clock import NS
from eventflow.codec import read_events
from eventflow.engine.standing import Bell, WaitTimedOut, come, opened
from eventflow.errors import (
    EffectUnknown,
    EventflowError,
    GuardFailed,
    NodeCancelled,
    NodeTimedOut,
    NoEdgeHolds,
    RunLost,
    StoreUnusable,
)
from eventflow.event import (
    AttemptFailed,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunSuspended,
    WaitClosed,
)
from eventflow.recovery import line
from eventflow.run import Journal, Threads, Visit, fact, failure_of, is_final
from eventflow.state import State
from eventflow.workflow import Decision, Go, Node, Pause, Workflow

Interrupt = Literal["", "cancelled", "stopped"]
CUT_OFF = "its node was cut off"  # why a run was suspended, where its node had not ended
LONGEST_REST = 7 * 86_400.0  # seconds; what asks for a longer rest before the next attempt gets a week


@dataclass(frozen=True, slots=True)
class Hands:
    """The threads of an engine: for the bodies of plain nodes, and for the calls they and others make.

    Two pools, since a body waits for its calls: in one pool, bodies that fill it would wait for ever.
    """

    bodies: Threads
    calls: Threads


class Driver:
    """One run being driven by this process."""

    def __init__(self, flow: Workflow, journal: Journal, hands: Hands, *, stop_before: frozenset[str]) -> None:
        self.flow, self.journal, self._hands = flow, journal, hands
        self._stop_before = stop_before
        self._taken_up_at = journal.state.visit
        self._stopping = False
        self._interrupt: Interrupt = ""
        self._inside = False  # between the begin of a body and the record of what came of it
        self._visit: Visit | None = None  # what the body was given as its run, if it takes one
        self._reading_mail = False
        self._bell = Bell()
        self.threads: list[str] = []  # bodies running in threads, by node name
        self.task: asyncio.Task[State] | None = None

    # --- from outside

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
        self._bell.ring()

    def abandon(self) -> None:
        """Let the run go now; the node it is in begins again at the next resume."""
        self._cut("stopped", "the engine is stopping")

    def _cut(self, interrupt: Interrupt, why: str) -> None:
        self._interrupt = self._interrupt or interrupt
        self._stopping = True
        self._bell.ring()
        if self._visit is not None:
            self._visit.take_away(why)
        if self._inside and self.task is not None:
            self.task.cancel()

    async def take_mail(self) -> None:
        """Turn the messages in the run's inbox into events."""
        journal = self.journal
        if self._reading_mail or journal.released:
            return
        self._reading_mail = True
        try:
            for number, data in journal.shop.log.inbox(journal.state.run.run_key):
                if journal.state.ended or journal.released:
                    break
                event = fact(number, data)
                ends = isinstance(event, RunCancelled)
                try:
                    await journal.record(event, taken=(number,), release=ends)
                except RunLost:  # it ended meanwhile; what waits in its inbox is for whoever takes it up again
                    break
                if ends:
                    self._cut("cancelled", "the run was cancelled")
                elif isinstance(event, RunPaused):
                    self._stopping = True
        finally:
            self._reading_mail = False
            self._bell.ring()

    # --- the loop

    async def _drive(self) -> State:
        journal = self.journal
        try:
            await self.take_mail()
            while not self._halted():
                await self._step()
        except asyncio.CancelledError:
            if not self._interrupt:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        finally:
            if self._visit is not None:
                self._visit.take_away("the run is no longer driven here")
        await journal.settle()  # a list of facts may still be under way
        if not journal.state.ended and not journal.released and journal.cut_off is None:
            with suppress(RunLost):  # a message may end it at this moment
                await self._let_go()
        await journal.settle()
        return journal.state

    def _halted(self) -> bool:
        state = self.journal.state
        if state.ended or self._stopping or state.status == "paused":
            return True
        return state.node in self._stop_before and state.visit != self._taken_up_at

    async def _let_go(self) -> None:
        journal = self.journal
        if journal.state.status == "paused":
            await journal.record(release=True)
            return
        if journal.shop.policy.at_shutdown and journal.shop.log.durable:
            with suppress(EventflowError):  # without it the run is recovered from its events
                await journal.checkpoint("shutdown", snapshot=True)
        why = CUT_OFF if self._interrupt == "stopped" else ""
        await journal.record(RunSuspended(journal.state.node, why=why), release=True)

    async def _step(self) -> None:
        state = self.journal.state
        node = self.flow.nodes[state.node]
        if state.retry_at and not await self._rested(state.retry_at):
            return
        if node.pause is not None:
            await self._stand(node, node.pause)
            return
        self._inside = True
        try:
            if node.is_async and node.timeout is None and not node.takes_run:  # the short way
                try:
                    returned = await node.call(self.flow.schema.view(state.data))
                except asyncio.CancelledError:
                    self._check_cancelled(node)
                    raise
            else:
                visit = self._visit = Visit(self.journal, self.event_at, self._hands.calls, self._extends)
                returned = await self._returned(node, visit, state)
            event, after = self._decided(state, returned)
            await self.journal.record(event, after=after, release=type(event) is RunCompleted)
        except (NoEdgeHolds, GuardFailed, EffectUnknown) as error:
            await self._fail(state, error)
        except Exception as error:
            if isinstance(error, RunLost) and self.journal.state.ended:
                return
            if self.journal.cut_off is not None or isinstance(error, StoreUnusable):
                raise
            await self._failed(node, state, error)
        finally:
            self._inside, self._visit = False, None

    async def _stand(self, node: Node, pause: Pause) -> None:
        """Stand still in a node until what it waits for has come, or its time is over."""
        journal = self.journal
        try:
            await opened(journal, self.flow, pause)
            ended = await come(journal, pause, self._bell)
            if ended is None:
                return  # look again whether the run goes on here
            outcome, message, payload = ended
            closed = WaitClosed(node.name, outcome, message)
            returned = pause.lapsed() if outcome == "timeout" else pause.change(payload)
            if returned is None:
                await self._lapsed(node, closed)
            else:
                event, _ = self._decided(journal.state, returned)
                await journal.record(closed, event, release=type(event) is RunCompleted)
        except (NoEdgeHolds, GuardFailed) as error:
            await self._fail(journal.state, error)
        except EventflowError as error:
            if journal.state.ended or journal.cut_off is not None or isinstance(error, StoreUnusable | RunLost):
                raise
            await self._fail(journal.state, error)

    async def _lapsed(self, node: Node, closed: WaitClosed) -> None:
        """The time of a wait without a default is over: its edge on `timed_out`, else the end."""
        state = self.journal.state
        error = WaitTimedOut(f"node {node.name!r} waited in vain until its timeout")
        if not self.flow.has_edge(node.name, "timed_out"):
            await self._fail(state, error)
            return
        decision = self.flow.decide(state, "timed_out", error=failure_of(error))
        await self.journal.record(closed, decision.event)

    async def _returned(self, node: Node, visit: Visit, state: State) -> Any:
        """What the body returns. The visit ends with it: what it left running can record nothing any more."""
        try:
            return await self._body(node, visit, state)
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
        rest = asyncio.ensure_future(self.journal.shop.clock.wait_until(until))
        rung = asyncio.ensure_future(self._bell.wait())
        try:
            await asyncio.wait({rest, rung}, return_when=asyncio.FIRST_COMPLETED)
            return rest.done() and not self._stopping
        finally:
            rung.cancel()
            rest.cancel()

    # --- one node

    async def _body(self, node: Node, visit: Visit, state: State) -> Any:
        view = self.flow.schema.view(state.data)
        args = (view, visit) if node.takes_run else (view,)
        if node.timeout is None:
            return await (node.call(*args) if node.is_async else self._in_thread(node, args))
        return await self._timed(node, visit, args)

    async def _in_thread(self, node: Node, args: tuple[Any, ...]) -> Any:
        """Run a plain function beside the event loop, so that it can't stall other runs."""

        def work() -> Any:
            self.threads.append(node.name)
            try:
                return node.call(*args)
            finally:
                self.threads.remove(node.name)

        returned = await asyncio.wrap_future(self._hands.bodies.submit(work))
        return await returned if inspect.isawaitable(returned) else returned

    async def _timed(self, node: Node, visit: Visit, args: tuple[Any, ...]) -> Any:
        assert node.timeout is not None  # noqa: S101 - the caller looked
        body = asyncio.ensure_future(node.call(*args) if node.is_async else self._in_thread(node, args))
        limit = asyncio.ensure_future(self.journal.shop.clock.sleep(node.timeout))
        try:
            await asyncio.wait({body, limit}, return_when=asyncio.FIRST_COMPLETED)
            if body.done():
                return body.result()
            visit.take_away(f"it took longer than its timeout of {node.timeout:g} s")
            raise NodeTimedOut(f"node {node.name!r} took longer than its timeout of {node.timeout:g} s")
        finally:
            limit.cancel()
            if not body.done():
                body.cancel()
                await asyncio.wait({body})
            if not body.cancelled():
                body.exception()  # what it raises on its way out is nobody's any more

    def _decided(self, state: State, returned: Any) -> Decision:
        """What follows from what a node returned."""
        go = None
        if isinstance(returned, Go):
            go, returned = returned.target, returned.update
        change = self.flow.schema.change(returned, state.data)
        return self.flow.decide(state, "done", change, go=go)

    async def _failed(self, node: Node, state: State, error: Exception) -> None:
        """Another attempt, an error edge, or the end."""
        failure = failure_of(error)
        policy, clock = node.retry, self.journal.shop.clock
        if state.attempt < policy.attempts and policy.covers(error) and not is_final(error):
            rest = max(policy.rest(state.attempt, seed=state.run.run_key), _asked_rest(error))
            retry_at = clock.now() + round(rest * NS)
            await self.journal.record(AttemptFailed(node.name, state.attempt, failure, retry_at))
            return
        trigger = self._trigger(node, error)
        if not self.flow.has_edge(node.name, trigger):
            await self._fail(state, error)
            return
        try:
            decision = self.flow.decide(state, trigger, error=failure)
        except (NoEdgeHolds, GuardFailed) as problem:
            await self._fail(state, problem)
            return
        await self.journal.record(decision.event, after=decision.after)

    def _trigger(self, node: Node, error: Exception) -> str:
        """The trigger an error fires: its own where an edge waits for it, else `failed`."""
        own = (
            "timed_out" if isinstance(error, NodeTimedOut) else "cancelled" if isinstance(error, NodeCancelled) else ""
        )
        return own if own and self.flow.has_edge(node.name, own) else "failed"

    async def _fail(self, state: State, error: Exception) -> None:
        await self.journal.record(RunFailed(state.node, failure_of(error)), release=True)

    def _extends(self, field: str) -> bool:
        return self.flow.schema.reducers.get(field) is extend

    def event_at(self, version: int) -> Recorded:
        """The event at a version of the run, be it one of a parent's."""
        log = self.journal.shop.log
        key = line(log, self.journal.state.run.run_key, version)[-1].run_key
        return read_events(log.read(key, version, version), log.blobs)[0]


def _asked_rest(error: Exception) -> float:
    """Seconds that an error asks to wait before the next attempt, as `retry_after`; 0 if it asks for nothing."""
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, timedelta):
        asked = asked.total_seconds()
    if not isinstance(asked, int | float) or math.isnan(asked):
        return 0.0
    return min(max(float(asked), 0.0), LONGEST_REST)
