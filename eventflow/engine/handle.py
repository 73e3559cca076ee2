"""A run as its caller sees it: where it stands, how it ends, what happened; driven here, elsewhere, or over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from eventflow.codec import read_events
from eventflow.engine.asking import answered
from eventflow.engine.desk import Seat
from eventflow.engine.stats import RunStats, stats_of
from eventflow.errors import (
    Conflict,
    EventflowError,
    RunCancelledError,
    RunFailed,
    RunNotFound,
    RunTimedOutError,
    Stopped,
)
from eventflow.event import Recorded
from eventflow.forking import who, write_one
from eventflow.log import QUEUED, Head, Log, Post, Posted
from eventflow.plain import freeze, thaw
from eventflow.progress import parked_why
from eventflow.recovery import caught_up, history, recover
from eventflow.run import SIGNAL, message
from eventflow.state import FINAL, State, Status
from eventflow.workflow import MESSAGE, Workflow, looked_for

POLL = 0.05  # seconds between looks at a run that another process drives
_PAGE = 500  # events a follower takes at a time


class Run:
    """A handle on one run. `flow` is None where its workflow is not known here: everything but typed results works."""

    def __init__(
        self, log: Log, head: Head, flow: Workflow | None, seat: Seat | None, *,
        clean: Callable[[Any], Any] = lambda value: value,
    ) -> None:  # fmt: skip
        self._log, self._head, self._flow, self._seat, self._clean = log, head, flow, seat, clean
        self._seen: State | None = None  # what was found when its state was asked for last

    def __repr__(self) -> str:
        try:
            return f"Run({self.id!r}, {self.status}, version {self.version})"
        except EventflowError:  # its store is closed, or the run deleted: a repr must not raise
            return f"Run({self.id!r})"

    def _repr_html_(self) -> str:
        from eventflow.markup import cell, html_block, html_table  # noqa: PLC0415 - only a notebook asks

        try:
            state = self.state
        except EventflowError:  # as above
            return f"<code>{cell(repr(self))}</code>"
        waits = f", waiting for {state.waiting_for}" if state.waiting_for else ""
        told = f"<p>{cell(f'workflow {state.run.workflow}: {state.status}{waits} in {state.node}, version {state.version}')}</p>"
        failed = f"<p>{cell(f'{state.error.type}: {state.error.message}')}</p>" if state.error else ""
        rows = [(name, thaw(state.data[name])) for name in state.data]
        return html_block(f"run {self.id}", told, failed, html_table(("field", "value"), rows))

    @property
    def id(self) -> str:
        """The run's id."""
        return self._head.run_id

    @property
    def state(self) -> State:
        """Where the run stands now, with its data; recovered from the log unless this process drives it.

        Asked again, it reads what came since.
        """
        driver = None if self._seat is None else self._seat.driver
        if driver is not None and driver.task is not None and not driver.task.done():
            return driver.journal.state
        self._seen = state = caught_up(self._log, self._now(), self._seen)
        return state

    @property
    def status(self) -> Status:
        """The run's status now."""
        return self._now().status

    @property
    def version(self) -> int:
        """The number of the run's last event."""
        return self._now().version

    @property
    def data(self) -> Any:
        """The user's data in the declared type."""
        return self._typed(self.state)

    def _now(self) -> Head:
        head = self._log.head(self.id)
        if head is None:
            raise RunNotFound(self.id)
        return head

    # --- messages

    async def signal(self, name: str, payload: Any = None, *, actor: str = "", key: str = "") -> int:
        """Send the run a message: durable when this returns, taken by whoever drives it. Returns its number.

        Of several messages with one `key` the run takes the first.

        Raises Conflict if the run is over, NotPlainData.
        """
        if self._now().status in FINAL:
            raise Conflict(f"run {self.id} has ended ({self.status}); nobody reads its messages any more")
        clean = self._clean(freeze(payload, "payload"))
        data = message(SIGNAL, name=name, payload=clean, actor=actor or who(), key=key)
        posted = write_one(self._log, Post(self._head.run_key, data))
        assert isinstance(posted, Posted)  # noqa: S101 - a Post is answered by Posted
        driver = None if self._seat is None else self._seat.driver
        if driver is not None:
            await driver.take_mail()
        return posted.message

    async def send(self, text: Any, *, actor: str = "") -> int:
        """Say something to the run: the next turn of a conversation."""
        return await self.signal(MESSAGE, text, actor=actor)

    async def ask(self, name: str = MESSAGE, payload: Any = None, *, actor: str = "") -> Any:
        """Send the run a message and return what it answers, as `Engine.ask` does."""
        before = self._now()
        return await answered(self._log, before, await self.signal(name, payload, actor=actor))

    async def wait(self) -> State:
        """Return the state once the run has ended, or was let go by the process that drives it."""
        if self._seat is not None and (state := await self._driven(self._seat)) is not None:
            return state
        entry = self._log.entry(self._head.run_key)
        queued = entry is not None and entry.queue
        while (head := self._now()).status in QUEUED:
            if not queued and self._log.owner_gone(head.owner):  # nobody drives it: it will not move
                break
            await asyncio.sleep(POLL)
        return recover(self._log, self._now()).state

    async def _driven(self, seat: Seat) -> State | None:
        """The state in which this process lets the run go, however often it leaves memory in between."""
        while True:
            driver = seat.driver
            if driver is not None and driver.task is not None:
                state = await asyncio.shield(driver.task)
                if not driver.parked and not seat.held:
                    return state
                await asyncio.sleep(0)  # so that it is seen to be parked
            elif seat.let_go:
                return seat.left or recover(self._log, self._now()).state
            elif seat.gone:
                return None
            else:
                await seat.change()

    async def result(self) -> Any:
        """The final state in the declared type. Raises RunFailed, RunCancelledError, RunTimedOutError or Stopped.

        A RunFailed has the error itself as its cause, traceback and all, where this process drove the run to that end.
        """
        state = await self.wait()
        if state.status == "completed":
            return self._typed(state)
        if state.status == "failed":
            driver = None if self._seat is None else self._seat.driver
            cause = None if driver is None else driver.raised
            raise RunFailed(self.id, state.node, state.error, self._lacking(state)) from cause
        if state.status == "cancelled":
            raise RunCancelledError(self.id, self._why(state))
        if state.status == "timed_out":
            raise RunTimedOutError(self.id)
        raise Stopped(self.id, parked_why(self._log, state))

    def _typed(self, state: State) -> Any:
        if self._flow is None or self._flow.schema.shape in ("dict", "typed_dict"):
            data = state.data if self._flow is None else self._flow.schema.view(state.data)
            return thaw(data)
        return self._flow.schema.view(state.data)

    def _lacking(self, state: State) -> str:
        """What to do where a node looked for a declared field which neither the input nor a node before has given."""
        name = "" if state.error is None else looked_for(state.error.type, state.error.message, state.data)
        if self._flow is None or name not in self._flow.schema.fields:
            return ""
        return (
            f"the state has no field {name!r} ({self._flow.schema.type_of(name)}): give it in the input of a new run, or with "
            f"fork({self.id!r}, change={{{name!r}: ...}}), or mend the node, then resume the run"
        )

    def _why(self, state: State) -> str:
        stored = self._log.read(state.run.run_key, state.version, state.version)
        return getattr(read_events(stored, self._log.blobs)[0].event, "why", "") if stored else ""

    @property
    def stats(self) -> RunStats:
        """The run in numbers, from its history, all of which is read; with what was measured if it is driven here."""
        driver = None if self._seat is None else self._seat.driver
        return stats_of(self._log, self._now(), None if driver is None else driver.journal)

    def events(self, after: int = 0) -> list[Recorded]:
        """The run's own events after a version, as they were recorded."""
        head = self._now()
        return list(history(self._log, head.run_key, after + 1, head.version))

    async def follow(self, after: int = 0) -> AsyncIterator[Recorded]:
        """The run's events after a version, and then the new ones as they come, until it ends."""
        entry = self._log.entry(self._head.run_key)
        after = max(after, entry.parent_at if entry else 0)  # what a fork continues is its parent's
        while True:
            head = self._now()
            while stored := self._log.read(head.run_key, after + 1, after + _PAGE):
                for recorded in read_events(stored, self._log.blobs):
                    after = recorded.version
                    yield recorded
            if head.status in ("completed", "failed", "cancelled", "timed_out") and after >= head.version:
                return
            await asyncio.sleep(POLL)
