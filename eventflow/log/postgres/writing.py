"""Writing: one call of the server a batch, if what is remembered holds; under the store's lock, looking first, if not.

A commit whose answer is lost may have happened. Each batch leaves its number in the writer's row, in the same transaction;
so whoever has a new connection, and the lock that the old one held, can tell. What is found there is acknowledged only
after one more commit of its own: a standby that has confirmed that one has all that came before.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import psycopg
from psycopg.errors import Diagnostic
from psycopg.types.numeric import Int8

from eventflow.errors import Corrupt, EventflowError, StoreBusy, StoreUnreachable
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.columns import COLUMNS, columns
from eventflow.log.postgres.facts import KNOWN_HEADS, Facts, Unknown, look_up
from eventflow.log.postgres.failures import AGAIN, STALE, lost, translated
from eventflow.log.postgres.planning import Plan
from eventflow.log.postgres.portable import write_portably
from eventflow.log.postgres.session import PATIENCE, Seen, connected, patiently
from eventflow.log.protocol import Act, Answer, Appended, Write

_CALL = f"select * from write_batch(%b, %b, %b, %b, {', '.join(['%b'] * len(COLUMNS))})"
_LOCK = "select pg_advisory_xact_lock(%b)"
_LOCK_PORTABLY = "select position from tip for update"
_FOUND = "select position, messages from writers where writer = %b and batch = %b"
_TOUCH = "update writers set seen = clock_timestamp() where writer = %b"
_TRIES = 5  # times that a batch is sent whose answer was lost and which was not written, or met a deadlock


Answers = list[Answer | EventflowError]


class Interrupted(Exception):  # noqa: N818 - not told to anybody: it is settled first
    """The answer to a commit was lost, or does not mean what it says; whether it happened must be looked up."""


def lock_key(address: Address) -> int:
    """The number of the advisory lock of a store: of its schema's name, so that stores of one database do not meet."""
    return zlib.crc32(f"eventflow/{address.schema}".encode())


def send(
    connection: psycopg.Connection, address: Address, plan: Plan, *, writer: bytes, batch: int
) -> tuple[int, int]:  # fmt: skip
    """Write a plan; the position and the message after which it comes. Raises psycopg's errors, STALE ones among them."""
    found = columns(plan)
    about = (Int8(lock_key(address)), writer, Int8(batch), Int8(len(plan.posts)))
    if address.portable:
        return write_portably(connection, about, found)
    row = connection.execute(_CALL, (*about, *found.values()), prepare=True).fetchone()
    if row is None:
        raise Corrupt(address.text, "has a write function that answers nothing")
    return row[0], row[1]


class Writing:
    """The writing side of one open log; one thread at a time."""

    def __init__(self, address: Address, seen: Seen, store_id: bytes, writer: bytes, *, patience: float) -> None:
        self._address, self._seen, self._store_id, self._writer = address, seen, store_id, writer
        self._patience = patience
        self._connection: psycopg.Connection | None = None
        self._doubt = False  # the server said that a commit may not be where it must be
        self._batch = 0
        self._outcome: Callable[[int, int], Answers] | None = None  # of the batch that is under way, if it was written
        self._lock = Int8(lock_key(address))
        self.known = Facts()

    def write(self, batch: Sequence[Write]) -> Answers:
        """One durable transaction; an answer or an error for each write. Raises StoreUnusable."""
        self._batch += 1
        self._outcome = None
        for _ in range(_TRIES):
            try:
                return self._written(batch)
            except Interrupted as interruption:
                found = self._settled(interruption)
                if found is not None:
                    return found
            except BaseException:
                self.known.forget()
                raise
        raise StoreUnreachable(
            f"{self._address.text} was lost {_TRIES} times while this was written; nothing of it was kept, try again"
        )

    # --- the quick way, and the sure one

    def _written(self, batch: Sequence[Write]) -> Answers:
        try:
            connection = self._connected()
            if len(batch) == 1 and isinstance(one := batch[0], Claim) and self._nothing_waits(connection, one):
                return [Claimed(())]
            if not self._address.portable and not any(_stands_alone(one) or _rests_on_others(one) for one in batch):
                answers = self._at_once(connection, batch)
                if answers is not None:
                    return answers
            self.known.forget()
            return self._under_lock(connection, batch)
        except psycopg.Error as error:
            self._failed(error)
            raise translated(self._address, error) from None

    def _failed(self, error: psycopg.Error) -> None:
        """Raise Interrupted for what may have happened, or may happen if it is tried again."""
        connection = self._connection
        if connection is None or lost(connection, error) or (error.sqlstate or "") in AGAIN:
            raise Interrupted(error) from None

    def _at_once(self, connection: psycopg.Connection, batch: Sequence[Write]) -> Answers | None:
        """The batch in one statement, if the facts are as remembered, or as looked up just now; None if they are not."""
        try:
            plan = Plan(batch, self.known, self._store_id)
        except Unknown:
            plan = Plan(batch, look_up(connection, batch), self._store_id)
        if not plan.writes:
            return plan.answers
        self._outcome = plan.answered
        try:
            before = self._send(connection, plan)
        except psycopg.Error as error:
            if error.sqlstate in STALE:
                self._outcome = None
                return None
            raise
        return self._done(plan, before)

    def _under_lock(self, connection: psycopg.Connection, batch: Sequence[Write]) -> Answers:
        """The batch while nobody else writes; what it stands on is looked up in between."""
        done: list[tuple[Plan, tuple[int, int]]] = []
        answers: Answers = []
        with connection.transaction():
            if self._address.portable:
                connection.execute(_LOCK_PORTABLY)
            else:
                connection.execute(_LOCK, (self._lock,))
            for part in _parts(batch):
                if isinstance(part[0], Clear | Sweep | Claim):
                    answers.append(self._alone(connection, part[0]))
                    continue
                plan = Plan(part, look_up(connection, part), self._store_id)
                before = (0, 0)
                removing = part[0] if isinstance(part[0], Act) and removes(part[0]) else None
                if plan.writes and (removing is None or (refused := _refused(connection, removing)) is None):
                    before = self._send(connection, plan)
                    done.append((plan, before))
                    if removing is not None:
                        perform(connection, removing)
                answers += plan.answered(*before)
            self._outcome = lambda *_: answers
        for plan, before in done:
            self._done(plan, before)
        self._believe()
        return answers

    def _send(self, connection: psycopg.Connection, plan: Plan) -> tuple[int, int]:
        return send(connection, self._address, plan, writer=self._writer, batch=self._batch)

    def _done(self, plan: Plan, before: tuple[int, int]) -> Answers:
        """What is remembered after a batch, and its answers."""
        self._believe()
        if len(self.known.heads) > KNOWN_HEADS or plan.deleted:
            self.known.forget()
        if not plan.deleted:
            self.known.learn(plan.heads.values())
        self._seen.position = max(self._seen.position, before[0] + len(plan.events))
        return plan.answered(*before)

    # --- connections, and what became of a commit

    def _connected(self) -> psycopg.Connection:
        self._seen.check()
        connection = self._connection
        if connection is None or connection.closed or connection.broken:
            self.known.forget()
            connection = patiently(self._anew, patience=self._patience)
        return connection

    def _anew(self) -> psycopg.Connection:
        self._seen.check()
        self._drop()
        connection = connected(self._address, self._seen, readonly=False)
        connection.add_notice_handler(self._notice)
        self._connection, self._doubt = connection, False
        return connection

    def _notice(self, notice: Diagnostic) -> None:
        """A wait for the standby that was cut short: the commit is here and may be nowhere else (sqlstate 01000)."""
        if notice.sqlstate == "01000":
            self._doubt = True

    def _believe(self) -> None:
        if self._doubt:
            self._drop()
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
        written = [answer.position for answer in answers if isinstance(answer, Appended)]
        self._seen.position = max(self._seen.position, *written, 0)
        return answers

    def _look(self) -> tuple[int, int] | None:
        try:
            connection = self._anew()
            with connection.transaction():
                if self._address.portable:
                    connection.execute(_LOCK_PORTABLY)
                else:
                    connection.execute(_LOCK, (self._lock,))
                row = connection.execute(_FOUND, (self._writer, Int8(self._batch))).fetchone()
                connection.execute(_TOUCH, (self._writer,))
        except psycopg.Error as error:
            self._drop()
            if (error.sqlstate or "") in AGAIN:
                raise StoreUnreachable(self._address.scrubbed(error)) from None
            raise translated(self._address, error) from None
        if self._doubt:
            self._drop()
            raise StoreUnreachable(f"{self._address.text} does not wait for its standby any more; look at both servers")
        return None if row is None else (row[0], row[1])

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Let go of the connection, and of the writer's row, which nobody will ask for any more."""
        connection = self._connection
        if connection is not None and not (connection.closed or connection.broken):
            try:
                connection.execute("delete from writers where writer = %b", (self._writer,))
            except psycopg.Error:
                pass  # it is swept away later
        self._drop()

    def forget(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the server."""
        self._connection = None


def _stands_alone(one: Write) -> bool:
    """Whether a write is done by itself under the lock, and what comes after it must look again."""
    return isinstance(one, Clear | Sweep | Claim) or (isinstance(one, Act) and removes(one))


def _rests_on_others(one: Write) -> bool:
    """Whether a write depends on what a compaction of a run may change: a fork of it, a rewind of it."""
    append = one.append if isinstance(one, Bring) else one
    if not isinstance(append, Append):
        return False
    if append.first is not None and append.first.entry.parent_id is not None:
        return True
    return any(packed.code == REWOUND for packed in append.events)


def _parts(batch: Sequence[Write]) -> list[Sequence[Write]]:
    """A batch cut where something is removed or handed out: what comes after must look again at what is left."""
    parts: list[Sequence[Write]] = []
    begin = 0
    for number, one in enumerate(batch):
        if _stands_alone(one):
            parts += [batch[begin:number], batch[number : number + 1]]
            begin = number + 1
    return [part for part in (*parts, batch[begin:]) if part]
