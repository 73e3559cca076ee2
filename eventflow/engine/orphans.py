"""Runs that nobody drives: taken up again, unless they keep taking their processes down with them.

A run whose process died in the middle of its node is tried again by whoever finds it. One whose node kills each process that
drives it would go from worker to worker for ever; after a number of such ends in one visit of a node it is *parked*, and
waits for a person. How a run is taken up is said beside this file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from eventflow.engine.desk import Desk
from eventflow.engine.drive import CUT_OFF
from eventflow.engine.handle import Run
from eventflow.engine.terms import Terms, was_cut_off
from eventflow.errors import Conflict, Corrupt, NoKey, StoreUnusable, WrittenByNewer
from eventflow.event import (
    AttemptFailed,
    Event,
    Forked,
    NodeSkipped,
    Rewound,
    RunFailed,
    RunParked,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    Transitioned,
    UndoBegan,
)
from eventflow.forking import who
from eventflow.log import Append, Head, Log, Query
from eventflow.recovery import history, recover
from eventflow.run import Shop
from eventflow.state import Status

OPEN_STATUSES: tuple[Status, ...] = ("pending", "running", "waiting")
CRASHES = 5  # ends of a process in one visit of a node, after which its run is parked: a deploy kills fewer in a row
LOOKED_AT = 1_000  # events read back at most to count them; a visit with more of them is counted from there on
# What begins a visit of a node, or was said of it on purpose: ends before it do not count.
_BEGINS = (RunStarted, Transitioned, Rewound, Forked, NodeSkipped, UndoBegan)
_ON_PURPOSE = (RunSuspended, RunPaused, RunFailed, RunParked, AttemptFailed)

Resume = Callable[[str, Terms], Awaitable[Run]]
Take = Callable[..., Awaitable[object]]


class Orphans:
    """The runs of one store that nobody drives, as far as one engine may take them up."""

    def __init__(self, shop: Shop, desk: Desk, *, resume: Resume, take: Take, crashes: int | None = CRASHES) -> None:
        self._shop, self._desk, self._resume, self._take, self._crashes = shop, desk, resume, take, crashes

    async def pick_up(self, workflows: Iterable[str]) -> tuple[list[Run], list[str]]:
        """Resume every unfinished run whose owner is gone; returns them, and the ids of runs of unknown workflows."""
        log, known = self._shop.log, set(workflows)
        gone: dict[bytes, bool] = {self._shop.owner: True}  # what this engine has and does not drive, it has dropped
        taken: list[Run] = []
        unknown: list[str] = []
        for status in OPEN_STATUSES:
            for listed in log.runs(Query(status=status)):
                head = listed.head
                if head.run_key in self._desk or listed.entry.queue:  # whoever serves its queue takes it
                    continue
                if head.owner not in gone:
                    gone[head.owner] = log.owner_gone(head.owner)
                if not gone[head.owner]:
                    continue
                if listed.entry.workflow not in known:
                    unknown.append(head.run_id)
                elif (run := await self.take_up(head)) is not None:
                    taken.append(run)
        return taken, unknown

    def drives(self, run_key: bytes) -> bool:
        """Whether this engine has a run."""
        return run_key in self._desk

    async def take_up(self, head: Head) -> Run | None:
        """Resume one run, or park it; None if somebody else has it, or it can't go on here, and `resume` says why.

        It asks first, say, its node is gone, or its key, or its data can't be brought to this version of its workflow: trouble
        of its own, which must not keep others from going on. Raises StoreUnusable for what is not, and for a run that is damaged.
        """
        try:
            if not await self._parked(head):
                return await self._resume(head.run_id, Terms(why="picked up"))
        except Exception as error:
            if isinstance(error, StoreUnusable) and not isinstance(error, NoKey):
                raise
        return None

    async def let_go(self, head: Head) -> None:
        """Give back a lease that was claimed and can't be used.

        That the body of its node was cut off must not be forgotten with its owner: an event says so. Where none can be
        written, since a key is missing or the run is damaged, its lease is kept until this process ends.
        """
        log = self._shop.log
        now = log.head_of(head.run_key)
        if now is None or now.owner != self._shop.owner or head.run_key in self._desk:
            return
        if now.status != "running":
            with suppress(Conflict):
                await self._release(now)
            return
        with suppress(Conflict, NoKey, Corrupt, WrittenByNewer):
            state = recover(log, now).state
            cut_off = was_cut_off(log, now, state, self._shop.clock.now())
            events = (RunSuspended(state.node, who(), CUT_OFF),) if cut_off else ()
            await self._take(now, events, state, release=True)

    async def _release(self, head: Head) -> None:
        """End a lease as the head has it, for which neither key nor history is needed."""
        shop = self._shop
        await shop.writer.write(
            Append(
                head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (), shop.clock.now(), head.status,
                head.waiting_for, claim=shop.owner, release=True,
            )
        )  # fmt: skip

    async def _parked(self, head: Head) -> bool:
        log = self._shop.log
        if self._crashes is None or head.status != "running":
            return False
        state = recover(log, head).state
        if not was_cut_off(log, head, state, self._shop.clock.now()):
            return False
        crashes = crashes_of(log, head) + 1  # its process has just ended in this visit once more
        if crashes < self._crashes:
            return False
        why = f"each process that drove it ended in node {state.node!r}"
        await self._take(head, (RunParked(state.node, crashes, who(), why),), state, release=True)
        return True


def crashes_of(log: Log, head: Head) -> int:
    """How often a run was taken up from a process that had ended, since it entered the node it stands on."""
    entry = log.entry(head.run_key)
    first = max(1 if entry is None else entry.parent_at + 1, head.version - LOOKED_AT + 1)
    before: Event | None = None
    count = 0
    for recorded in history(log, head.run_key, first, head.version):
        event = recorded.event
        if isinstance(event, _BEGINS):
            count = 0
        elif isinstance(event, RunResumed) and not isinstance(before, _ON_PURPOSE):
            count += 1
        before = event
    return count
