"""A node that has split: its branches side by side, each to its end, and what their ends mean for the node.

Every branch's end is an event of its own, so that a crash repeats only what was not over; the join is the node's own
transition, once. Branches are taken from the declared order by as many workers as may run at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from eventflow.clock import NS
from eventflow.engine.bodies import Bodies
from eventflow.engine.standing import Bell, Place, Spawn, WaitTimedOut
from eventflow.errors import (
    BranchesFailed,
    BudgetExceeded,
    DefinitionError,
    EffectDenied,
    EffectUnknown,
    NodeCancelled,
    NotPlainData,
    RunLost,
    StoreUnusable,
)
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    EffectFinished,
    EffectStarted,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList, freeze
from eventflow.run import Journal, Visit, asked_rest, failure_of, is_failure, is_final
from eventflow.state import FAILED, FINISHED, OVER, State, branch, branch_names
from eventflow.workflow import AT_ONCE, Child, Go, Map, Node, Pause, Split, Standing, Workflow, plainly


class Verdict(NamedTuple):
    """What came of the branches: they are joined, or the node fails, or it is left as it is."""

    updates: Sequence[tuple[str, Any]] | None = None
    failure: BranchesFailed | None = None


LEFT = Verdict()


class Crew(Protocol):
    """What a section needs of the driver it belongs to."""

    journal: Journal
    flow: Workflow
    bell: Bell
    bodies: Bodies
    spawn: Spawn

    @property
    def ending(self) -> bool:
        """Whether nothing new may begin."""
        ...

    def visit(self, *, branch: str = "", attempt: int = 0) -> Visit:
        """A handle for a body."""
        ...


class Section:
    """The branches of one visit of one node."""

    def __init__(self, crew: Crew, node: Node, split: Split) -> None:
        self._crew, self._node, self._split = crew, node, split
        self._journal = crew.journal
        self._view: Any = None
        self._items: Sequence[Any] | None = None
        self._visits: dict[str, Visit] = {}
        self._claimed: set[int] = set()  # messages that one branch is letting in are no other's
        self._at_work = 0  # workers whose branch does not stand still
        self._working = 0  # workers that have branches left
        self._count = self._finished = self._failures = 0
        self._said = asyncio.Event()  # the ends so far mean something for the node, or nothing more will end
        self._trouble: BaseException | None = None  # what ended a worker and is no matter of its branch

    async def run(self, park_after: float | None) -> tuple[Verdict, bool]:
        """What came of the branches, and whether the run may leave memory since all of them stand still."""
        self._view = self._crew.flow.schema.view(self._journal.state.data)
        branches = await self._opened()
        names = branch_names(branches)
        self._count = len(names)
        if not names:
            self._said.set()
        left = deque[str]()
        for name in names:
            status = branch(branches, name)["status"]
            self._end(status)
            if status not in OVER:
                left.append(name)
        if (verdict := self._verdict()) is not None:
            return verdict, False
        self._items = self._typed(branches["items"])
        workers = [asyncio.create_task(self._work(left)) for _ in range(min(self._most(left), len(left)))]
        self._working = len(workers)
        for one in workers:
            one.add_done_callback(self._gone)
        try:
            if await self._watched(park_after):
                return LEFT, True
        finally:
            for visit in list(self._visits.values()):
                visit.take_away("its node has ended")
            await _cancelled(workers)
        if self._trouble is not None:
            raise self._trouble
        return self._verdict() or LEFT, False  # asked again: more may have ended while the others were cut off

    def _most(self, left: Iterable[str]) -> int:
        """How many branches may be under way; those that only stand still take nobody's place."""
        if self._split.limit is not None:
            return self._split.limit
        nodes = self._node.branches or {}
        return AT_ONCE + sum(nodes[self._split.body_name(name)].pause is not None for name in left)

    async def _opened(self) -> FrozenDict:
        state = self._journal.state
        if state.branches is None:
            items = self._split.items(self._view)
            frozen: FrozenList | None = None if items is None else _frozen_items(items)
            names = NOTHING if items is not None else FrozenList(self._split.names(0))
            state = await self._journal.record(BranchesOpened(state.node, names, frozen), visit=state.visit)
        assert state.branches is not None  # noqa: S101 - the node has split
        return state.branches

    def _typed(self, items: FrozenList | None) -> Sequence[Any] | None:
        """The recorded items in the type that the state declares for them, where they are those of a field."""
        split = self._split
        if items is None or not isinstance(split, Map) or not isinstance(split.over, str):
            return items
        data = FrozenDict({**self._journal.state.data, split.over: items})
        return split.items(self._crew.flow.schema.view(data))

    async def _watched(self, park_after: float | None) -> bool:
        """Return when the ends say something, or no worker is left; True once all have stood still for long."""
        said = asyncio.create_task(self._said.wait())
        try:
            while not self._said.is_set():
                seen, idle = self._crew.bell.count, not self._at_work
                await asyncio.wait({said}, timeout=park_after if idle else _LOOK)
                still = idle and not self._at_work and self._crew.bell.count == seen
                if still and park_after is not None and not self._said.is_set() and not self._crew.ending:
                    return True
        finally:
            said.cancel()
        return False

    def _gone(self, worker: asyncio.Task[None]) -> None:
        self._working -= 1
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._trouble = self._trouble or error
        if self._trouble is not None or not self._working:
            self._said.set()

    def _end(self, status: str) -> None:
        """Count how one branch stands."""
        self._finished += status == FINISHED
        self._failures += status == FAILED
        if self._split.terms.verdict(self._count, self._finished, self._failures):
            self._said.set()

    def _verdict(self) -> Verdict | None:
        """What the ends so far mean for the node; None while it is open. Raises InvalidState."""
        state = self._journal.state
        branches = state.branches
        if branches is None:
            return LEFT
        ends = [(name, branch(branches, name)) for name in branch_names(branches)] if self._said.is_set() else []
        failed = [(name, end["error"]) for name, end in ends if end["status"] == FAILED]
        results = [(name, end["result"]) for name, end in ends if end["status"] == FINISHED]
        said = self._split.terms.verdict(self._count, len(results), len(failed)) if self._said.is_set() else ""
        if said == "fail":
            error = failed[0][1]
            names = [name for name, _ in failed]
            return Verdict(failure=BranchesFailed(self._node.name, names, self._count, f"{error[0]}: {error[1]}"))
        if not said:
            return None
        updates = self._split.updates(results, self._count)
        if isinstance(self._split, Map) and self._split.writes is not None:  # the others were looked at as they came
            update = self._crew.flow.schema.update
            updates = [(name, update(brought, state.data)) for name, brought in updates]
        return Verdict(updates=updates)

    # --- one branch after the other

    async def _work(self, left: deque[str]) -> None:
        while left and not self._said.is_set() and not self._crew.ending:
            name = left.popleft()
            self._at_work += 1
            try:
                while not await self._once(name):
                    if self._crew.ending:
                        return
                branches = self._journal.state.branches
                if branches is not None:
                    self._end(branch(branches, name)["status"])
            finally:
                self._at_work -= 1

    async def _once(self, name: str) -> bool:
        """One attempt, or one wait; True once the branch is over."""
        branches = self._journal.state.branches
        if branches is None:
            return True
        entry = branch(branches, name)
        if entry["status"] in OVER:
            return True
        node = (self._node.branches or {})[self._split.body_name(name)]
        given = self._view if self._items is None else self._items[int(name)]
        try:
            if (retry_at := entry.get("retry_at", 0)) > self._journal.shop.clock.now():
                await self._place(name).rest(retry_at, self._crew.bell.count)  # as if at work: it ends by itself
            elif node.pause is not None:
                await self._stand(name, node.pause, given)
            elif "wait" in entry and entry["wait"]["kind"] == "unknown":
                await self._rest(name, 0)
            else:
                await self._attempt(name, node, given, entry["attempt"])
        except (RunLost, StoreUnusable, BudgetExceeded, EffectDenied):  # of the whole run, not of this branch
            raise
        except BaseException as error:
            if self._journal.cut_off is not None or not is_failure(error):
                raise
            await self._failed(name, node, entry["attempt"], error)
        return False

    async def _attempt(self, name: str, node: Node, given: Any, attempt: int) -> None:
        visit = self._visits[name] = self._crew.visit(branch=name, attempt=attempt)
        try:
            returned = await self._crew.bodies.run(node, visit, given)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._crew.ending or (task is not None and task.cancelling()):
                raise
            raise NodeCancelled(f"branch {name!r} was cancelled by something it waited for") from None
        finally:
            visit.take_away("its branch has ended")
            self._visits.pop(name, None)
        if isinstance(returned, Standing):
            await self._hold(name, returned)
        else:
            await self._record(BranchFinished(self._node.name, name, self._result(returned)))

    def _result(self, returned: Any) -> Any:
        """What a branch brings to the join, as plain data. Raises InvalidState, DefinitionError, NotPlainData."""
        if isinstance(returned, Go):
            raise DefinitionError(
                f"a branch of node {self._node.name!r} returned Go({returned.target!r}): a branch can't choose where the "
                f"run goes; let the node after it choose"
            )
        if isinstance(self._split, Map) and self._split.writes is not None:
            return _plain(returned, "the branch's result")
        flow = self._crew.flow
        return freeze(flow.schema.brought(returned, self._journal.state.data), "the branch's result")

    async def _record(self, *events: Any) -> State:
        return await self._journal.record(*events, visit=self._journal.state.visit)

    # --- standing still

    def _place(self, name: str) -> Place:
        return Place(self._journal, self._crew.bell, self._node.name, self._crew.spawn, name, self._claimed)

    async def _stand(self, name: str, pause: Pause, given: Any) -> None:
        """Stand still until what a branch waits for has come, or its time is over, or the run is let go."""
        place = self._place(name)
        wait = await place.opened(pause, given)
        while (came := await place.come(pause.accepted)) is None:
            if self._crew.ending:
                return
            await self._rest(name, wait["until"])
        closed = WaitClosed(self._node.name, came.outcome, came.message, name)
        brought = pause.lapsed() if came.outcome == "timeout" else pause.change(came.payload)
        if brought is None:
            raise WaitTimedOut(f"branch {name!r} of node {self._node.name!r} waited in vain until its timeout")
        if isinstance(self._split, Map) and self._split.writes is not None:  # a value, not changes
            brought = pause.result(came.payload) if isinstance(pause, Child) else next(iter(brought.values()), None)
        await self._record(closed, BranchFinished(self._node.name, name, self._result(brought)))

    async def _hold(self, name: str, standing: Standing) -> None:
        """Stand still for a body that returned to wait, and record what came as the result it asked for."""
        place = self._place(name)
        while True:
            seen = self._crew.bell.count
            if place.wait is None:
                await hold(place, standing)
            came = await place.come(standing.pause.accepted)
            if came is not None:
                await self._record(*let_in(place, standing, came.outcome, came.message, came.payload))
                return
            wait = place.wait
            await self._rest(name, wait["until"] if wait else 0, seen)
            if self._crew.ending:
                return

    async def _rest(self, name: str, until: int, seen: int | None = None) -> None:
        """Rest until something comes; what rests so may leave memory."""
        self._at_work -= 1
        try:
            await self._place(name).rest(until, self._crew.bell.count if seen is None else seen)
        finally:
            self._at_work += 1

    # --- failing

    async def _failed(self, name: str, node: Node, attempt: int, error: BaseException) -> None:
        journal = self._journal
        failure = failure_of(error)
        if isinstance(error, EffectUnknown):
            spec = FrozenDict({"key": error.key, "effect": error.effect})
            await self._record(WaitOpened(self._node.name, "unknown", error.effect, spec=spec, branch=name))
            return
        events: list[Any] = []
        if self._place(name).wait is not None:
            outcome = "timeout" if isinstance(error, WaitTimedOut) else "signal"
            events.append(WaitClosed(self._node.name, outcome, getattr(error, "message", 0), name))
        policy = node.retry
        if attempt < policy.attempts and policy.covers(error) and not is_final(error):
            rest = max(policy.rest(attempt, seed=journal.state.run.run_key + name.encode()), asked_rest(error))
            retry_at = journal.shop.clock.now() + round(rest * NS)
            events.append(AttemptFailed(self._node.name, attempt, failure, retry_at, name))
        else:
            events.append(BranchFailed(self._node.name, name, failure))
        await self._record(*events)


async def hold(place: Place, standing: Standing) -> None:
    """Open the wait of a body that returned to wait; what it waits for is a call of its own."""
    state = place.journal.state
    opening = standing.pause.opening(None, place.journal.shop.clock.now())
    spec: FrozenDict = EMPTY if opening.spec is None else freeze(opening.spec, "the wait")
    begun = EffectStarted(
        standing.name, standing.key, "wait", mutating=False, input=spec, input_digest=bytes(32), idempotency_key="",
        branch=place.branch,
    )  # fmt: skip
    opened = WaitOpened(
        place.node, opening.kind, opening.name, opening.until, opening.restore, spec, place.branch
    )  # fmt: skip
    await place.journal.record(begun, opened, visit=state.visit)


def let_in(
    place: Place, standing: Standing, outcome: str, message: int, payload: Any
) -> tuple[WaitClosed, EffectFinished]:
    """The facts of what came for a body that returned to wait."""
    if outcome == "timeout":
        payload = standing.pause.lapsed()
        if payload is None:
            raise WaitTimedOut(f"node {place.node!r} waited in vain until its timeout")
    closed = WaitClosed(place.node, outcome, message, place.branch)
    return closed, EffectFinished(standing.name, standing.key, freeze(payload, "the answer"), branch=place.branch)


_LOOK = 0.2  # seconds between looks whether all branches stand still by now


def _plain(value: Any, path: str) -> Any:
    """A value of the user's as plain data, where pydantic knows how. Raises NotPlainData."""
    try:
        return freeze(value, path)
    except NotPlainData:
        return freeze(plainly(value), path)


def _frozen_items(items: Sequence[Any]) -> FrozenList:
    return FrozenList([_plain(item, f"item {place}") for place, item in enumerate(items)])


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are gone."""
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
