"""Writing: one call of the server a batch, if what is remembered holds; under the store's lock, looking first, if not.

A commit whose answer is lost may have happened. Each batch leaves its number in the writer's row, in the same transaction;
so whoever has a new connection, and the lock that the old one held, can tell. What is found there is acknowledged only
after one more commit of its own: a standby that has confirmed that one has all that came before.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg.types.numeric import Int8

from eventflow.errors import EventflowError, RolledBack, StoreBusy, StoreUnreachable, StoreUnusable
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.claiming import waiting
from eventflow.log.postgres.facts import KNOWN_HEADS, Facts, Unknown, look_up
from eventflow.log.postgres.failures import AGAIN, STALE, lost, translated
from eventflow.log.postgres.lookout import Lookout
from eventflow.log.postgres.parts import Answers, Sender, last_position, needs_lock, write_parts
from eventflow.log.postgres.planning import Plan
from eventflow.log.postgres.session import Seen, connected, patiently
from eventflow.log.protocol import Write
from eventflow.log.queueing import Claim, Claimed

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

_FOUND = "select position, messages from writers where writer = %b and batch = %b"
_TOUCH = "update writers set seen = clock_timestamp() where writer = %b"
# Somebody else's statements are to find their own tables; the mark is gone if they ended the transaction.
_BEGUN = b"set local search_path to default; set local eventflow.transaction to 'on'"
_ENDING = "set local search_path to {schema}; set local synchronous_commit to {commit}"
_TRIES = 5  # times that a batch is sent whose answer was lost and which was not written, or met a deadlock


class Interrupted(Exception):
    """The answer to a commit was lost, or does not mean what it says; whether it happened must be looked up."""


def sender_for(address: Address, store_id: bytes, writer: bytes, *, own_clock: bool = True) -> Sender:
    """Who writes to a store. Its advisory lock is named after its schema, so that stores of one database do not meet."""
    lock = Int8(zlib.crc32(f"eventflow/{address.schema}".encode()))
    return Sender(address, lock, store_id, writer, own_clock)


class Writing:
    """The writing side of one open log; one thread at a time. `patience` is in seconds."""

    def __init__(self, sender: Sender, seen: Seen, lookout: Lookout, *, patience: float) -> None:
        self._sender, self._address, self._seen, self._patience = sender, sender.address, seen, patience
        self._lookout = lookout
        self._connection: psycopg.Connection | None = None
        self._timeline = 0  # that was known when the connection was made
        self._doubt = False  # the server said that a commit may not be where it must be
        self._batch = 0
        self._outcome: Callable[[int, int], Answers] | None = None  # of the batch that is under way, if it was written
        self._open = contextlib.ExitStack()  # the transaction in which somebody else writes first
        self._commit = "on"  # how it is to be committed
        self.known = Facts()

    def write(self, batch: Sequence[Write]) -> Answers:
        """One durable transaction; an answer or an error for each write. Raises StoreUnusable."""
        self._batch += 1
        with self._lookout.over(lambda: self._connection):
            return self._surely(batch)

    def _surely(self, batch: Sequence[Write]) -> Answers:
        """The batch, sent as often as its answer was lost and it was not written."""
        for _ in range(_TRIES):
            self._outcome = None
            try:
                return self._written(batch)
            except Interrupted as interruption:
                found = self._settled(interruption)
                if found is not None:
                    return found
            except BaseException:
                self.known.forget()
                self._drop_half_done()
                raise
        raise StoreUnreachable(
            f"{self._address.text} was lost {_TRIES} times while this was written; nothing of it was kept, try again"
        )

    # --- the quick way, and the sure one

    def _written(self, batch: Sequence[Write]) -> Answers:
        try:
            connection = self._connected()
            if not self._address.portable and not any(map(needs_lock, batch)):
                answers = self._at_once(connection, batch)
                if answers is not None:
                    return answers
            one = batch[0]
            if len(batch) == 1 and isinstance(one, Claim) and self._nothing_waits(connection, one):
                return [Claimed(())]
            self.known.forget()
            return self._under_lock(connection, batch)
        except psycopg.Error as error:
            if self._connection is None or lost(self._connection, error) or (error.sqlstate or "") in AGAIN:
                raise Interrupted(error) from None
            raise translated(self._address, error) from None

    def _at_once(self, connection: psycopg.Connection, batch: Sequence[Write]) -> Answers | None:
        """The batch in one statement, if the facts are as remembered, or as looked up just now; None if they are not."""
        try:
            plan = Plan(batch, self.known, self._sender.store_id)
        except Unknown:
            plan = Plan(batch, look_up(connection, batch), self._sender.store_id)
        if not plan.writes:
            return plan.answers
        self._outcome = plan.answered
        try:
            before = self._sender.send(connection, plan, self._batch)
        except psycopg.Error as error:
            if error.sqlstate in STALE:
                return None
            raise
        self._believe()
        if len(self.known.heads) > KNOWN_HEADS:
            self.known.forget()
        self.known.learn(plan.heads.values())
        self._seen.position = max(self._seen.position, before[0] + len(plan.events))
        return plan.answered(*before)

    def _nothing_waits(self, connection: psycopg.Connection, one: Claim) -> bool:
        found = waiting(connection, one.queue, 1 + len(one.skip), workflows=one.workflows)
        return all(each.head.run_key in one.skip for each in found)

    def _under_lock(self, connection: psycopg.Connection, batch: Sequence[Write]) -> Answers:
        self._outcome = None
        with connection.transaction():
            self._sender.take_lock(connection)
            answers = write_parts(connection, batch, self._sender, self._batch)
            self._outcome = lambda *_: answers
        self._believe()
        self._seen.position = max(self._seen.position, last_position(answers))
        return answers

    # --- a transaction in which somebody else writes first

    def begin(self) -> psycopg.Connection:
        """A connection on which a transaction has begun, for whoever writes in it. Raises StoreUnusable, RolledBack."""
        self._batch += 1
        self._outcome = None
        try:
            connection = self._connected()
            self._commit = connection.execute("show synchronous_commit").fetchall()[0][0]
            connection.autocommit = False  # so that nothing is written outside of one, whatever is made of this one
            self._open.enter_context(connection.transaction())
            connection.execute(_BEGUN)
        except psycopg.Error as error:
            raise self.undone(error) from None
        return connection

    def finish(self, batch: Sequence[Write]) -> Answers:
        """Write a batch in it, and commit; if a write is refused, nothing at all is kept. Raises StoreUnusable, RolledBack."""
        try:
            with self._lookout.over(lambda: self._connection):
                return self._finished(batch)
        except Interrupted as interruption:
            with self._lookout.over(lambda: self._connection):
                found = self._settled(interruption)
            if found is None:
                raise RolledBack(f"{self._address.text} took back a transaction ({interruption})") from None
            return found
        finally:
            self.undo()

    def _finished(self, batch: Sequence[Write]) -> Answers:
        connection = self._connection
        if connection is None:
            raise RolledBack(f"{self._address.text}: a transaction was given up")
        try:
            connection.execute(_ENDING.format(schema=self._address.schema, commit=self._commit).encode())
            self._sender.take_lock(connection)
            answers = write_parts(connection, batch, self._sender, self._batch)
            if any(isinstance(answer, EventflowError) for answer in answers):
                return answers
            self._outcome = lambda *_: answers
            self._open.close()
        except psycopg.Error as error:
            if lost(connection, error) or (error.sqlstate or "") in AGAIN:
                raise Interrupted(self._address.scrubbed(error)) from None
            raise translated(self._address, error) from None
        self._believe()
        self._seen.position = max(self._seen.position, last_position(answers))
        return answers

    def undo(self) -> None:
        """Take back what was written in it, if it is still open; the connection is as it was before."""
        with contextlib.suppress(psycopg.Rollback, psycopg.Error), self._open.pop_all():
            raise psycopg.Rollback
        self._drop_half_done()
        if self._connection is not None:
            self._connection.autocommit = True

    def undone(self, error: psycopg.Error) -> RolledBack | StoreUnusable:
        """What an error on its way means, all of it having been taken back."""
        gone = self._connection is None or lost(self._connection, error)
        self.undo()
        if gone:
            return RolledBack(f"{self._address.text} took back a transaction ({self._address.scrubbed(error)})")
        return translated(self._address, error)

    # --- connections, and what became of a commit

    def _connected(self) -> psycopg.Connection:
        self._seen.check()
        connection = self._connection
        if connection is None or connection.closed or connection.broken or self._timeline < self._seen.timeline:
            self.known.forget()
            connection = patiently(self._anew, patience=self._patience)
        return connection

    def _anew(self) -> psycopg.Connection:
        self._seen.check()
        self._drop()
        self._timeline = self._seen.timeline
        connection = connected(self._address, self._seen, readonly=False)
        connection.add_notice_handler(self._notice)
        self._connection, self._doubt = connection, False
        return connection

    def _notice(self, notice: Diagnostic) -> None:
        """A wait for the standby that was cut short: the commit is here and may be nowhere else (sqlstate 01000)."""
        if notice.sqlstate == "01000":
            self._doubt = True

    def _believe(self) -> None:
        """Let a commit count, unless the server said that it may not be where it must be. Raises Interrupted."""
        if self._doubt:
            raise Interrupted("the wait for a standby was cut short")

    def _settled(self, interruption: Interrupted) -> Answers | None:
        """Find out whether the batch was written, once its old session can't write any more; its answers if it was."""
        self.known.forget()
        try:
            row = patiently(self._look, patience=self._patience)
        except (StoreUnreachable, StoreBusy) as error:
            raise StoreUnreachable(
                f"{error}; whether the last write was kept is not known yet ({self._address.scrubbed(interruption)}): "
                f"resume the run when the server is back, its log has the answer"
            ) from None
        if row is None or self._outcome is None:
            return None
        answers = self._outcome(*row)
        self._seen.position = max(self._seen.position, last_position(answers))
        return answers

    def _look(self) -> tuple[int, int] | None:
        try:
            connection = self._anew()
            with connection.transaction():
                self._sender.take_lock(connection)
                row = connection.execute(_FOUND, (self._sender.writer, Int8(self._batch))).fetchone()
                connection.execute(_TOUCH, (self._sender.writer,))
        except psycopg.Error as error:
            self._drop()
            if (error.sqlstate or "") in AGAIN:
                raise StoreUnreachable(self._address.scrubbed(error)) from None
            raise translated(self._address, error) from None
        if self._doubt:
            self._drop()
            raise StoreUnreachable(f"{self._address.text} does not wait for its standby any more; look at both servers")
        return None if row is None else (row[0], row[1])

    def _drop_half_done(self) -> None:
        """Let go of a connection on which something may still be under way."""
        connection = self._connection
        if connection is not None and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Let go of the connection, and of the writer's row, which nobody will ask for any more."""
        connection = self._connection
        if connection is not None and not (connection.closed or connection.broken):
            with (
                contextlib.suppress(psycopg.Error),
                self._lookout.over(lambda: connection),
            ):  # else it is swept away later
                connection.execute("delete from writers where writer = %b", (self._sender.writer,))
        self._drop()

    def forget(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the server."""
        self._connection = None
