"""A batch written part by part in one transaction, while nobody else writes: what it stands on is looked up in between.

The sure way, taken where what was remembered turned out to be old, and for what removes rows or hands out runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import RawCursor
from psycopg.types.numeric import Int8

from eventflow.codec import REWOUND
from eventflow.errors import Conflict, Corrupt, EventflowError, NotFound
from eventflow.log.mirror import Mirror
from eventflow.log.postgres import claiming, removing
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.columns import COLUMNS, columns, events
from eventflow.log.postgres.facts import look_up
from eventflow.log.postgres.mirroring import mirror
from eventflow.log.postgres.planning import Plan
from eventflow.log.postgres.portable import write_portably
from eventflow.log.postgres.wire import ByteColumn
from eventflow.log.protocol import Act, Answer, Append, Appended, Bring, Write
from eventflow.log.queueing import Claim
from eventflow.log.removal import Clear, Sweep

Answers = list[Answer | EventflowError]

# With numbers for the parameters, as the server has them: psycopg does not look for places in a long text each time.
_CALL = f"select * from write_batch({', '.join(f'${number}' for number in range(1, 5 + len(COLUMNS)))})".encode()  # noqa: S608 - numbers
_CALL_PLAIN = b"select * from append_batch($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_NOTE = """insert into writers values (%b, %b, (select position from tip), (select messages from tip), clock_timestamp())
    on conflict (writer) do update set batch = excluded.batch, position = excluded.position,
    messages = excluded.messages, seen = excluded.seen"""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who writes: to which store, under which writer's name, and whether queues go by the database's clock."""

    address: Address
    lock: Int8
    store_id: bytes
    writer: bytes
    own_clock: bool = True

    def send(self, connection: psycopg.Connection, plan: Plan, batch: int) -> tuple[int, int]:
        """Write a plan; the position and the message after which it comes. Raises psycopg's errors."""
        if not self.address.portable and plan.plain:
            return self._send_plain(connection, plan, batch)
        found = columns(plan)
        about = (self.lock, self.writer, Int8(batch), Int8(len(plan.posts)))
        if self.address.portable:
            return write_portably(connection, about, found)
        row = RawCursor(connection).execute(_CALL, (*about, *found.values()), prepare=True).fetchone()
        if row is None:
            raise Corrupt(self.address.text, "has a write function that answers nothing")
        return row[0], row[1]

    def _send_plain(self, connection: psycopg.Connection, plan: Plan, batch: int) -> tuple[int, int]:
        rows = events(plan)
        blobs = ByteColumn(plan.blobs), ByteColumn(plan.blobs.values())
        about = (self.lock, self.writer, Int8(batch), *rows, *blobs)
        row = RawCursor(connection).execute(_CALL_PLAIN, about, prepare=True, binary=True).fetchone()
        if row is None:
            raise Corrupt(self.address.text, "has a write function that answers nothing")
        return row[0], row[1]

    def take_lock(self, connection: psycopg.Connection) -> None:
        """Wait, in a transaction, until nobody else writes."""
        if self.address.portable:
            connection.execute("select position from tip for update")
        else:
            connection.execute("select pg_advisory_xact_lock(%b)", (self.lock,))


def stands_alone(one: Write) -> bool:
    """Whether a write is done by itself under the lock, and what comes after it must look again."""
    return isinstance(one, Clear | Sweep | Claim | Mirror) or (isinstance(one, Act) and removing.removes(one))


def needs_lock(one: Write) -> bool:
    """Whether a write can't be done at once: it stands alone, or a compaction of a run may change what it rests on."""
    append = one.append if isinstance(one, Bring) else one
    if not isinstance(append, Append):
        return stands_alone(one)
    if append.first is not None and append.first.entry.parent_id is not None:
        return True
    return any(packed.code == REWOUND for packed in append.events)


def write_parts(connection: psycopg.Connection, batch: Sequence[Write], sender: Sender, number: int) -> Answers:
    """The batch, in a transaction that is open and holds the lock; the answers are true once it is committed."""
    answers: Answers = []
    for part in _parts(batch):
        first = part[0]
        if isinstance(first, Clear | Sweep | Claim | Mirror):
            answers.append(_alone(connection, first, sender, number))
        else:
            answers += _planned(connection, part, sender, number)
    return answers


def _parts(batch: Sequence[Write]) -> list[Sequence[Write]]:
    parts: list[Sequence[Write]] = []
    begin = 0
    for number, one in enumerate(batch):
        if stands_alone(one):
            parts += [batch[begin:number], batch[number : number + 1]]
            begin = number + 1
    return [part for part in (*parts, batch[begin:]) if part]


def _planned(connection: psycopg.Connection, part: Sequence[Write], sender: Sender, number: int) -> Answers:
    plan = Plan(part, look_up(connection, part), sender.store_id)
    if not plan.writes:
        return plan.answers
    act = part[0]
    if not isinstance(act, Act) or not removing.removes(act):
        return plan.answered(*sender.send(connection, plan, number))
    try:
        removing.check(connection, act)
    except (Conflict, NotFound) as error:
        return [error]
    before = sender.send(connection, plan, number)
    removing.perform(connection, act)
    return plan.answered(*before)


def _alone(
    connection: psycopg.Connection, one: Clear | Sweep | Claim | Mirror, sender: Sender, number: int
) -> Answer | EventflowError:
    try:
        match one:
            case Clear():
                answer: Answer = removing.clear(connection, one.limit)
            case Sweep():
                answer = removing.sweep(connection, one)
            case Claim():
                answer = claiming.claim(connection, one, own_clock=sender.own_clock)
            case Mirror():
                facts = look_up(connection, [one])
                answer = mirror(connection, one, facts, partitions=not sender.address.portable)
    except Conflict as error:
        return error
    connection.execute("update tip set changes = changes + 1")
    connection.execute(_NOTE, (sender.writer, Int8(number)))
    return answer


def last_position(answers: Answers) -> int:
    """The last position that answers speak of, 0 if they speak of none."""
    return max((answer.position for answer in answers if isinstance(answer, Appended)), default=0)
