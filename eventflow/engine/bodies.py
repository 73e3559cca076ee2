"""Running the code of a node: on the loop or on a thread, within its timeouts, and not a moment longer than it may.

What the code returns is its caller's business; so is what follows when it raises.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, field
from typing import Any

from eventflow.clock import Clock
from eventflow.engine.executors import Executors, lost
from eventflow.errors import NodeTimedOut
from eventflow.run import Threads, Visit
from eventflow.workflow import Node

IDLE_LOOKS = (
    4  # times in an idle timeout that the last sign of life is looked at: the code is cut off at most a quarter late
)


@dataclass(frozen=True, slots=True)
class Hands:
    """The threads of an engine: for the bodies of plain nodes, and for the calls they and others make; its executors.

    Two pools, since a body waits for its calls: in one pool, bodies that fill it would wait for ever.
    """

    bodies: Threads
    calls: Threads
    executors: Executors


@dataclass(slots=True)
class Bodies:
    """The bodies that one run has running; `threads` names those in threads, which may outlive their visit."""

    hands: Hands
    clock: Clock
    threads: list[str] = field(default_factory=list)

    async def run(self, node: Node, visit: Visit | None, *args: Any) -> Any:
        """What a body returns. Raises NodeTimedOut, and what the body raises."""
        given = (*args, visit) if node.takes_run else args
        if node.timeout is None and node.idle is None:
            return await (node.call(*given) if node.is_async else self._in_thread(node, given))
        return await self._timed(node, visit, given)

    async def _in_thread(self, node: Node, args: tuple[Any, ...]) -> Any:
        """Run a plain function beside the event loop, so that it can't stall other runs."""
        if node.executor is not None:
            return await self._elsewhere(node, node.executor, args)

        def work() -> Any:
            self.threads.append(node.name)
            try:
                return node.call(*args)
            finally:
                self.threads.remove(node.name)

        returned = await asyncio.wrap_future(self.hands.bodies.submit(work))
        return await returned if inspect.isawaitable(returned) else returned

    async def _elsewhere(self, node: Node, where: str | Executor, args: tuple[Any, ...]) -> Any:
        """Run a plain function where its executor takes it."""
        try:
            return await asyncio.wrap_future(
                self.hands.executors.submit(where, node.body, *args)  # type: ignore[arg-type] # only functions have one
            )
        except BrokenExecutor as error:
            raise lost(error, node.name, where) from error

    async def _timed(self, node: Node, visit: Visit | None, args: tuple[Any, ...]) -> Any:
        body = asyncio.ensure_future(node.call(*args) if node.is_async else self._in_thread(node, args))
        limits = [asyncio.ensure_future(self._limit(node, visit))]
        if node.idle is not None and visit is not None:
            limits.append(asyncio.ensure_future(self._idle(node, node.idle, visit)))
        try:
            await asyncio.wait({body, *limits}, return_when=asyncio.FIRST_COMPLETED)
            if body.done():
                return body.result()
            why = next(limit.result() for limit in limits if limit.done())
            if visit is not None:
                visit.take_away(why)
            raise NodeTimedOut(f"node {node.name!r}: {why}")
        finally:
            for limit in limits:
                limit.cancel()
            if not body.done():
                body.cancel()
                await asyncio.wait({body})
            if not body.cancelled():
                body.exception()  # what it raises on its way out is nobody's any more

    async def _limit(self, node: Node, visit: Visit | None) -> str:  # noqa: ARG002 - as its sibling
        if node.timeout is None:
            await asyncio.Event().wait()
        await self.clock.sleep(node.timeout or 0)
        return f"it took longer than its timeout of {node.timeout:g} s"

    async def _idle(self, node: Node, idle: float, visit: Visit) -> str:  # noqa: ARG002 - as its sibling
        """Return once the body has given no sign of life for that long."""
        visit.last_beat = max(visit.last_beat, self.clock.monotonic())
        while (left := visit.last_beat + idle - self.clock.monotonic()) > 0:
            await self.clock.sleep(max(min(left, idle / IDLE_LOOKS), 0.001))
        return f"it gave no sign of life (run.heartbeat) for {idle:g} s"
