"""What a copy of another store keeps beside events, in PostgreSQL, under the store's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.types.numeric import Int8

from eventflow.codec import TOMBSTONE
from eventflow.errors import VersionConflict
from eventflow.log.heads import NOBODY
from eventflow.log.mirror import EPOCH_BITS, Mirror
from eventflow.log.postgres.facts import Facts
from eventflow.log.postgres.removing import compact, set_guard, unlist
from eventflow.log.postgres.rows import STATUS_NUMBER, signed, text_bytes
from eventflow.log.postgres.wire import ByteColumn
from eventflow.log.protocol import STORE_RUN, Kept

if TYPE_CHECKING:
    import psycopg

_MOVE = "update tip set position = position + %b returning position - %b"
_TOMBSTONES = """insert into log select %b + e.number, null, 0, e.data
    from unnest(%b) with ordinality as e (data, number)"""
_GONE = """insert into heads (run_id, run_key, incarnation, version, digest, epoch, owner, status, waiting, updated)
    values (%b, null, %b, 0, %b, 0, %b, %b, 0, %b) on conflict do nothing"""
_VOUCH = """insert into vouches values (%b, %b, %b)
    on conflict (run_key, version) do update set by_version = excluded.by_version"""
_LET_GO = """update heads set owner = %b, epoch = (%b::bigint << %b) + (epoch & ((1::bigint << %b) - 1)) + 1
    where run_key is not null and run_key <> %b"""


def mirror(connection: psycopg.Connection, one: Mirror, facts: Facts, *, partitions: bool) -> Kept:
    """Do what a mirror says; `partitions` says that the log has some. Raises VersionConflict where a run that was deleted has moved on here."""
    for head in one.deleted:
        held = facts.heads.get(head.run_id)
        if held != head:
            raise VersionConflict(head.run_id, head.version, held.version if held else 0)
    if one.tombstones:
        _bury(connection, one, partitions=partitions)
    _remove(connection, one)
    _note(connection, one)
    return Kept()


def _bury(connection: psycopg.Connection, one: Mirror, *, partitions: bool) -> None:
    many = Int8(len(one.tombstones))
    before = connection.execute(_MOVE, (many, many)).fetchall()[0][0]
    if partitions:
        connection.execute("select make_room()")
    connection.execute(_TOMBSTONES, (Int8(before), ByteColumn(TOMBSTONE + name for name in one.tombstones)))


def _remove(connection: psycopg.Connection, one: Mirror) -> None:
    for head in one.deleted:
        unlist(connection, head)
    for head in one.gone:
        values = (text_bytes(head.run_id), Int8(head.incarnation), bytes(32), NOBODY, STATUS_NUMBER[head.status])
        connection.execute(_GONE, (*values, Int8(head.updated)))
    for compaction in one.compacted:
        compact(connection, compaction)


def _note(connection: psycopg.Connection, one: Mirror) -> None:
    for key, version, by in one.vouches:
        connection.execute(_VOUCH, (key, Int8(version), Int8(signed(by))))
    if one.guards is not None:
        connection.execute("delete from guards")
        for guard in one.guards:
            set_guard(connection, guard)
    if one.inbox is not None:
        connection.execute("delete from inbox")
        for key, number, data in one.inbox:
            connection.execute("insert into inbox values (%b, %b, %b)", (key, Int8(number), data))
    connection.execute("update tip set messages = greatest(messages, %b)", (Int8(one.messages),))
    if one.follows is not None:
        connection.execute("update store set follows = %b", (int(one.follows),))
    if one.generation:
        about = (NOBODY, Int8(one.generation), EPOCH_BITS, EPOCH_BITS, STORE_RUN)
        connection.execute(_LET_GO, about)
