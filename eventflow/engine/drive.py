"""Driving one run: call the node it stands on, decide, append, and again, until it ends or is stopped.

Being in a node is executing it. The node's code is called with the state, what it returns is resolved into a change, the
workflow decides where that leads, and one event says all of it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any, Literal

from eventflow.change import extend, resolve
from eventflow.clock import NS
from eventflow.codec import read_events
from eventflow.errors import EventflowError, GuardFailed, NoEdgeHolds, RunLost
from eventflow.event import (
    AttemptFailed,
    Recorded,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunSuspended,
)
from eventflow.run import Journal, Visit, fact, failure_of, is_final
from eventflow.state import State
from eventflow.workflow import Go, Node, Workflow

Interrupt = Literal["", "cancelled", "stopped"]


class NodeTimedOut(EventflowError):
    """A node's body took longer than its timeout; its result is dropped."""


class Driver:
    """One run being driven by this process."""

    def __init__(self, flow: Workflow, journal: Journal, pool: Executor, *, stop_before: frozenset[str]) -> None:
        self.flow, self.journal, self._pool = flow, journal, pool
        self._stop_before = stop_before
        self._stopping = asyncio.Event()
        self._interrupt: Interrupt = ""
        self._visit: Visit | None = None
        self._reading_mail = False
        self.threads: set[str] = set()  # bodies left running in threads, by node name
        self.task: asyncio.Task[State] | None = None

    # --- from outside

    def start(self) -> asyncio.Task[State]:
        """Begin to drive; the task's result is the state the run was left in."""
        self.task = asyncio.get_running_loop().create_task(self._drive(), name=f"run {self.journal.state.run.run_id}")
        return self.task

    def stop(self) -> None:
        """Let the run go after the node it is in."""
        self._stopping.set()

    def abandon(self) -> None:
        """Let the run go now; the node it is in begins again at the next resume."""
        self._stopping.set()
        self._cut("stopped", "the engine is stopping")

    def _cut(self, interrupt: Interrupt, why: str) -> None:
        self._interrupt = self._interrupt or interrupt
        if self._visit is not None:
            self._visit.take_away(why)
            if self.task is not None:
                self.task.cancel()

    async def take_mail(self) -> None:
        """Turn the messages in the run's inbox into events."""
        journal = self.journal
        if self._reading_mail or journal.released:
            return
        self._reading_mail = True
        try:
            for number, data in journal.shop.log.inbox(journal.state.run.run_key):
                event = fact(number, data)
                if journal.state.ended:
                    break
                ends = isinstance(event, RunCancelled)
                await journal.record(event, taken=(number,), release=ends)
                if ends:
                    self._cut("cancelled", "the run was cancelled")
                elif isinstance(event, RunPaused):
                    self._stopping.set()
        finally:
            self._reading_mail = False

    # --- the loop

    async def _drive(self) -> State:
        journal = self.journal
        try:
            await self.take_mail()
            first = True
            while not self._halted(first=first):
                first = False
                await self._step()
        except asyncio.CancelledError:
            if not self._interrupt:
                raise
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        finally:
            if self._visit is not None:
                self._visit.take_away("the run is no longer driven here")
        if not journal.state.ended and journal.cut_off is None:
            await self._let_go()
        await journal.settle()
        return journal.state

    def _halted(self, *, first: bool) -> bool:
        state = self.journal.state
        if state.ended or self._stopping.is_set() or state.status == "paused":
            return True
        return not first and state.node in self._stop_before

    async def _let_go(self) -> None:
        journal = self.journal
        if journal.released:
            return
        if journal.state.status == "paused":
            await journal.record(release=True)
            return
        await journal.settle()
        if journal.shop.policy.at_shutdown and journal.shop.log.durable:
            await journal.checkpoint("shutdown", snapshot=True)
        await journal.record(RunSuspended(journal.state.node), release=True)

    async def _step(self) -> None:
        state = self.journal.state
        node = self.flow.nodes[state.node]
        if state.retry_at and not await self._rested(state.retry_at):
            return
        visit = self._visit = Visit(self.journal, self.event_at, self._pool, self._extends)
        try:
            returned = await self._body(node, visit, state)
            await self._done(state, returned)
        except (NoEdgeHolds, GuardFailed) as error:
            await self._fail(state, error)
        except Exception as error:
            if isinstance(error, RunLost) and self.journal.state.ended:
                return
            if self.journal.cut_off is not None or _is_ours(error):
                raise
            await self._failed(node, state, error)
        finally:
            visit.take_away("its node has ended")
            self._visit = None

    async def _rested(self, until: int) -> bool:
        """Wait for the moment of the next attempt; False if the run is to be let go instead."""
        rest = asyncio.ensure_future(self.journal.shop.clock.wait_until(until))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({rest, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            rest.cancel()
        return not self._stopping.is_set()

    # --- one node

    async def _body(self, node: Node, visit: Visit, state: State) -> Any:
        view = self.flow.schema.view(state.data)
        args = (view, visit) if node.takes_run else (view,)
        if node.timeout is None:
            return await (node.body(*args) if node.is_async else self._in_thread(node, args))
        return await self._timed(node, visit, args)

    async def _in_thread(self, node: Node, args: tuple[Any, ...]) -> Any:
        """Run a plain function beside the event loop, so that it can't stall other runs."""
        here = copy_context()
        self.threads.add(node.name)
        work = asyncio.get_running_loop().run_in_executor(self._pool, lambda: here.run(node.body, *args))
        work.add_done_callback(lambda done: self._thread_ended(node.name, done))
        return await work

    def _thread_ended(self, name: str, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            self.threads.discard(name)
            done.exception()

    async def _timed(self, node: Node, visit: Visit, args: tuple[Any, ...]) -> Any:
        assert node.timeout is not None  # noqa: S101 - the caller looked
        body = asyncio.ensure_future(node.body(*args) if node.is_async else self._in_thread(node, args))
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

    async def _done(self, state: State, returned: Any) -> None:
        go = None
        if isinstance(returned, Go):
            go, returned = returned.target, returned.update
        update = self.flow.schema.update(returned, state.data)
        change = resolve(state.data, update, self.flow.schema.reducers)
        decision = self.flow.decide(state, "done", change, go=go)
        ends = isinstance(decision.event, RunCompleted)
        await self.journal.record(decision.event, after=decision.after, release=ends)

    async def _failed(self, node: Node, state: State, error: Exception) -> None:
        """Another attempt, an error edge, or the end."""
        failure = failure_of(error)
        policy, clock = node.retry, self.journal.shop.clock
        if state.attempt < policy.attempts and policy.covers(error) and not is_final(error):
            rest = max(policy.rest(state.attempt, seed=state.run.run_key), getattr(error, "retry_after", None) or 0.0)
            retry_at = clock.now() + round(rest * NS)
            await self.journal.record(AttemptFailed(node.name, state.attempt, failure, retry_at))
            return
        timed_out = isinstance(error, NodeTimedOut) and self.flow.has_edge(node.name, "timed_out")
        trigger = "timed_out" if timed_out else "failed"
        if not self.flow.has_edge(node.name, trigger):
            await self._fail(state, error)
            return
        try:
            decision = self.flow.decide(state, trigger, error=failure)
        except (NoEdgeHolds, GuardFailed) as problem:
            await self._fail(state, problem)
            return
        await self.journal.record(decision.event, after=decision.after)

    async def _fail(self, state: State, error: Exception) -> None:
        await self.journal.record(RunFailed(state.node, failure_of(error)), release=True)

    def _extends(self, field: str) -> bool:
        return self.flow.schema.reducers.get(field) is extend

    def event_at(self, version: int) -> Recorded:
        """The event at a version of the run."""
        log = self.journal.shop.log
        return read_events(log.read(self.journal.state.run.run_key, version, version), log.blobs)[0]


def _is_ours(error: Exception) -> bool:
    """Whether an error is about the store and not about the node."""
    return isinstance(error, EventflowError) and error.exit_code in (5, 6)
