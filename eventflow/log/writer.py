"""Group commit: one thread per open store writes, everything that piled up during the last commit in the next one.

A caller waits until its own write is durable. A caller with nothing else going on may write on its own thread, which
saves two hand-overs. Nothing here knows what a write means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import weakref

from eventflow.errors import EventflowError, StoreClosed
from eventflow.log.protocol import Answer, Log, Write

MAX_BATCH = 4_096  # writes in one transaction: beyond, an fsync is already shared by so many that more gains nothing


class Pending:
    """A write that was asked for, and who waits for it. Who is cancelled while waiting does not undo it."""

    __slots__ = ("future", "loop", "outcome", "write")

    def __init__(self, write: Write, loop: asyncio.AbstractEventLoop) -> None:
        self.write, self.loop = write, loop
        self.future: asyncio.Future[Answer] = loop.create_future()
        self.outcome: Answer | BaseException | None = None

    def answer(self) -> asyncio.Future[Answer]:
        """A future of the answer or its error; a new one if who waited for the last was cancelled."""
        if self.future.cancelled():
            self.future = self.loop.create_future()
            if self.outcome is not None:
                self.settle(self.outcome)
        return self.future

    def settle(self, outcome: Answer | BaseException) -> None:
        """Give the answer to who waits for it, if anybody does still."""
        self.outcome = outcome
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Writer:
    """The writer of one open log, for any number of event loops."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._inherited = False  # the thread does not live on in a forked child
        self._queue: queue.SimpleQueue[list[Pending] | None] = queue.SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[Pending]] = {}  # asked for in this turn of a loop
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self._door = threading.Lock()  # guards what follows, so that nothing is asked for after the end
        self._pending = 0  # writes asked for and not yet answered
        self._closed = False
        _open_writers.add(self)

    async def write(self, one: Write, *, alone: bool = False) -> Answer:
        """Return once the write is durable; raise its error.

        `alone` says that the caller's loop has nothing else to do: the write may then block it for one commit.
        """
        answer = self.at_once(one) if alone else None
        return await self.submit(one) if answer is None else answer

    async def surely(self, one: Write, *, alone: bool = False) -> Answer:
        """The same for who goes on with what is durable: a cancellation that comes meanwhile comes at the task's next wait."""
        answer = self.at_once(one) if alone else None
        if answer is not None:
            return answer
        pending, cancelled = self.ask(one), False
        try:
            while True:
                try:
                    return await pending.answer()
                except asyncio.CancelledError:
                    cancelled = True
        finally:
            if cancelled and (task := asyncio.current_task()) is not None:
                task.uncancel()
                task.cancel()

    def at_once(self, one: Write) -> Answer | None:
        """Write on this thread if nobody else is writing or waiting to; None if somebody is. Raises its error."""
        self._check()
        if self._pending or not self._turn.acquire(blocking=False):
            return None
        try:
            return _answered(self._log.write([one])[0])
        finally:
            self._turn.release()

    def submit(self, one: Write) -> asyncio.Future[Answer]:
        """Ask for a write; the future of the running loop is done when it is durable, or has the error."""
        return self.ask(one).future

    def ask(self, one: Write) -> Pending:
        """The same for who must have the answer even if it is cancelled while waiting."""
        loop = asyncio.get_running_loop()
        pending = Pending(one, loop)
        try:
            if self._inherited:  # looked at before the lock, which a thread of the parent may hold for ever
                self._check()
            with self._door:
                if self._closed:
                    self._check_open()
                self._pending += 1
                gathered = self._gathered.get(loop)
                if gathered is None:
                    self._gathered[loop] = [pending]
                    loop.call_soon(self._hand_over, loop)
                else:
                    gathered.append(pending)
        except StoreClosed as error:
            pending.future.set_exception(error)
        return pending

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the thread all that was asked for in one turn of a loop: it then works while the loop has nothing to do.

        Handed over one by one, the first writes would be written against the loop's thread, which still makes the rest.
        """
        with self._door:
            gathered = self._gathered.pop(loop, None)
            if gathered is None:  # the writer was closed meanwhile
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="eventflow-writer", daemon=True)
                self._thread.start()
            self._queue.put(gathered)

    def write_now(self, one: Write) -> Answer:
        """The same for callers without an event loop: write on this thread."""
        self._check()
        with self._turn:
            return _answered(self._log.write([one])[0])

    def close(self) -> None:
        """Write what was asked for, then end the thread."""
        with self._door:
            self._closed = True
            left = [one for gathered in self._gathered.values() for one in gathered]
            self._gathered.clear()
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()
        if left:
            self._commit(left)

    def inherited(self) -> None:
        """In a forked child: refuse every write from now on."""
        self._inherited = True

    def _check(self) -> None:
        if self._inherited:
            raise StoreClosed("this store was opened before a fork; a child process must open its own, after the fork")
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("this store was closed; open it again")

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = first
            ends = False
            while len(batch) < MAX_BATCH:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ends = True
                    break
                batch = batch + more
            self._commit(batch)
            if ends:
                return

    def _commit(self, batch: list[Pending]) -> None:
        answers: list[Answer | EventflowError | BaseException]
        try:
            with self._turn:
                answers = list(self._log.write([one.write for one in batch]))
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            answers = [error] * len(batch)
        with self._door:
            self._pending -= len(batch)
        for loop in {one.loop for one in batch}:
            with contextlib.suppress(RuntimeError):  # a loop that was closed meanwhile has nobody waiting
                loop.call_soon_threadsafe(_deliver, loop, batch, answers)


def writer_of(log: Log) -> Writer:
    """The writer of a log: group commit on a thread, or what the log brings itself as `own_writer()`."""
    own = getattr(log, "own_writer", None)
    return Writer(log) if own is None else own()


_open_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork() -> None:
    for writer in list(_open_writers):
        writer.inherited()


os.register_at_fork(after_in_child=_after_fork)


def _deliver(
    loop: asyncio.AbstractEventLoop, batch: list[Pending], answers: list[Answer | EventflowError | BaseException]
) -> None:
    for pending, answer in zip(batch, answers, strict=True):
        if pending.loop is loop:
            pending.settle(answer)


def _answered(answer: Answer | EventflowError) -> Answer:
    if isinstance(answer, EventflowError):
        raise answer
    return answer
