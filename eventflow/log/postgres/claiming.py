"""Queues: which runs wait in one, in their order, and handing them out under the store's lock.

A worker that asks while nothing waits takes no lock and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from psycopg.types.numeric import Int8

from eventflow.log.heads import Head, claimed
from eventflow.log.lmdb.tables import FACET_WORKFLOW, entry_from, facet
from eventflow.log.postgres.rows import HEAD, HEAD_FIELDS, head_from, text_bytes
from eventflow.log.postgres.wire import ByteColumn
from eventflow.log.queueing import LOOKED_AT, Bucket, Claim, Claimed, Queued, choose

if TYPE_CHECKING:
    import psycopg

# The conditions stand as in the partial indexes `heads_queued` and `heads_taken`, so that those are used.
_IN = "h.queue = %(queue)b and h.queue <> '' and h.status <= 2 and h.run_key is not null"
_FREE = "h.owner = '\\x00000000000000000000000000000000'"
_TAKEN = "h.owner <> '\\x00000000000000000000000000000000'"
_LIVES = "exists (select from owners o where o.owner = {} and o.lease_until > clock_timestamp())"
_ROWS = f"select {HEAD}, i.entry from standing h join info i on i.run_key = h.run_key where {_IN}"  # noqa: S608
_ORDER = "order by h.priority desc, h.run_key limit %(limit)b"
_KNOWN = "and (%(all)b or i.workflow = any (%(workflows)b))"
# The owners of a queue's runs, one look at the index each, however many runs they have.
_OWNERS = f"""with recursive d (owner) as (
    (select h.owner from heads h where {_IN} and {_TAKEN} order by h.owner limit 1)
    union all
    select (select h.owner from heads h where {_IN} and {_TAKEN} and h.owner > d.owner order by h.owner limit 1)
        from d where d.owner is not null
) select owner, {_LIVES.format("d.owner")} from d where owner is not null"""  # noqa: S608 - made of constants


def _asked(connection: psycopg.Connection, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(sql.encode(), values, prepare=True, binary=True).fetchall()


def _queued(rows: Iterable[tuple[Any, ...]], *, taken: bool) -> list[Queued]:
    found = []
    for row in rows:
        entry = entry_from(row[HEAD_FIELDS])[1]
        found.append(Queued(head_from(row), entry.workflow, entry.priority, entry.queue_key, taken))
    return found


def waiting(
    connection: psycopg.Connection, queue: str, limit: int, *, workflows: frozenset[str] | None = None
) -> list[Queued]:  # fmt: skip
    """The runs of a queue that nobody drives, in their order: those that were begun, then by priority and age."""
    name = text_bytes(queue)
    gone = [owner for owner, lives in _asked(connection, _OWNERS, queue=name) if not lives]
    known = ByteColumn(facet(FACET_WORKFLOW, one) for one in workflows or ())
    about: dict[str, Any] = {"queue": name, "limit": Int8(limit), "all": workflows is None, "workflows": known}
    rows: list[tuple[Any, ...]] = []
    if gone:
        asked = f"{_ROWS} {_KNOWN} and {_TAKEN} and h.owner = any (%(owners)b) {_ORDER}"
        rows = _asked(connection, asked, **about, owners=ByteColumn(gone))
    rows += _asked(connection, f"{_ROWS} {_KNOWN} and {_FREE} {_ORDER}", **about)
    return _queued(rows[:limit], taken=False)


def taken(connection: psycopg.Connection, queue: str, *, busy: bool = False) -> list[Queued]:
    """The runs of a queue that living processes have; with `busy` only those that do not wait for something."""
    only = "and h.status <= 1" if busy else ""
    asked = f"{_ROWS} and {_TAKEN} and {_LIVES.format('h.owner')} {only} order by h.run_key"
    return _queued(_asked(connection, asked, queue=text_bytes(queue)), taken=True)


def claim(connection: psycopg.Connection, asked: Claim, *, own_clock: bool) -> Claimed:
    """Hand out runs; the caller holds the lock. `own_clock` says that the database's clock counts, not the claim's."""
    limits, now = asked.limits, asked.now
    if own_clock:
        now = _asked(connection, "select (extract(epoch from clock_timestamp()) * 1000000000)::bigint")[0][0]
    counted = limits.concurrency is not None or limits.per_key is not None
    driven = taken(connection, asked.queue, busy=True) if counted else []
    bucket = _bucket(connection, asked, now)
    # Some may have to be passed over: by a key, or because the claimer can't use them.
    most = asked.room + len(asked.skip) if limits.per_key is None else LOOKED_AT
    found = choose(asked, driven, waiting(connection, asked.queue, most, workflows=asked.workflows), bucket)
    heads = tuple(claimed(one.head, asked.owner) for one in found)
    if heads:
        _hand_out(connection, asked, heads)
        if bucket is not None:
            connection.execute(
                """insert into buckets values (%b, %b, %b)
                    on conflict (queue) do update set tokens = excluded.tokens, at = excluded.at""",
                (text_bytes(asked.queue), bucket.tokens - len(heads), Int8(bucket.at)),
            )
    return Claimed(heads)


def _hand_out(connection: psycopg.Connection, asked: Claim, heads: Iterable[Head]) -> None:
    connection.execute(
        "update heads set owner = %b, epoch = epoch + 1 where run_key = any (%b)",
        (asked.owner, ByteColumn(head.run_key for head in heads)),
    )


def _bucket(connection: psycopg.Connection, asked: Claim, now: int) -> Bucket | None:
    rate = asked.limits.rate
    if rate is None:
        return None
    found = _asked(connection, "select tokens, at from buckets where queue = %(queue)b", queue=text_bytes(asked.queue))
    return (Bucket(*found[0]) if found else Bucket(float(rate[0]), now)).filled(rate, now)
