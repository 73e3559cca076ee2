"""What is removed from the tables, under the store's lock: runs, what came before a version, blobs; and the guards on runs.

A removal unlists at once and leaves a row in `clearing`; `clear` tidies up in steps of a bounded number of rows, each a
transaction, and can be killed and repeated. What is refused is refused before the first row is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg.types.numeric import Int8

from eventflow.errors import Conflict, HasForks, RunNotFound
from eventflow.log.checking import check_origin
from eventflow.log.heads import NOBODY, Head
from eventflow.log.lmdb.tables import entry_from, entry_row
from eventflow.log.postgres.rows import text_bytes
from eventflow.log.postgres.wire import ByteColumn
from eventflow.log.protocol import STORE_RUN, Act
from eventflow.log.removal import (
    GUARDS,
    STEP,
    Cleared,
    Compaction,
    Guard,
    Standing,
    Sweep,
    Swept,
    check_compaction,
    check_unguarded,
    stored_target,
)

if TYPE_CHECKING:
    import psycopg

_EVERYTHING = (1 << 63) - 1  # up to which version a deleted run is tidied up
_BURY = """update log set run_key = null,
    data = case when get_byte(data, 0) = 255 then data else '\\xff'::bytea || sha256(data) end
    where position = any (array(select position from log where run_key = %b and version {} %b order by version limit %b))"""


def removes(act: Act) -> bool:
    """Whether an operation does more than an event and upkeep."""
    return not (act.delete_run is None and act.compact is None and act.guard is None and act.unguard is None)


def _rows(connection: psycopg.Connection, asked: str, *values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(asked.encode(), values, binary=True).fetchall()


def guards(connection: psycopg.Connection, run_key: bytes | None = None) -> list[Guard]:
    """The guards of a run, or of all."""
    asked = "select run_key, kind, time, actor, why from guards"
    found = _rows(connection, asked) if run_key is None else _rows(connection, f"{asked} where run_key = %b", run_key)
    return [Guard(key, GUARDS[kind], time, actor.decode(), why.decode()) for key, kind, time, actor, why in found]


def check(connection: psycopg.Connection, act: Act) -> None:
    """Refuse what an operation would remove that somebody needs. Raises RunNotFound and Conflicts."""
    for guard in (act.guard, act.unguard):
        if guard is not None and _entry(connection, guard.run_key) is None:
            raise RunNotFound(guard.run_key.hex())
    if act.delete_run is not None:
        check_unguarded(act.delete_run.run_id, guards(connection, act.delete_run.run_key))
        if _forks(connection, act.delete_run.run_key):
            raise HasForks(act.delete_run.run_id)
    if act.compact is not None:
        _check_compacting(connection, act.compact)
        check_origin(act)


def _entry(connection: psycopg.Connection, run_key: bytes) -> bytes | None:
    found = _rows(connection, "select entry from info where run_key = %b", run_key)
    return found[0][0] if found and run_key != STORE_RUN else None


def _forks(connection: psycopg.Connection, run_key: bytes) -> tuple[int, ...]:
    """The versions that runs continue from which still fold through this one."""
    found = _rows(connection, "select entry from info where parent_key = %b and origin = 0", run_key)
    return tuple(entry_from(row[0])[1].parent_at for row in found)


def _check_compacting(connection: psycopg.Connection, compaction: Compaction) -> None:
    key = compaction.run_key
    row = _entry(connection, key)
    if row is None:
        raise RunNotFound(key.hex())
    run_id, entry = entry_from(row)
    if _rows(connection, "select run_key from clearing where run_key = %b", key):
        raise Conflict(f"run {run_id} is still being tidied up after it was compacted; repeat this in a moment")
    check_unguarded(run_id, guards(connection, key))
    asked = "select d.version, l.data from bends d join log l using (run_key, version) where d.run_key = %b"
    targets = [(version, stored_target(data)) for version, data in _rows(connection, asked, key)]
    bends = tuple((version, to) for version, to in targets if to is not None)
    first = entry.parent_at + 1 if entry.parent_id is not None else 1
    newest = _rows(connection, "select max(version) from log where run_key = %b", key)[0][0]
    standing = Standing(run_id, first, entry.origin, newest or 0, bends, _forks(connection, key))
    check_compaction(compaction.at, standing)


def perform(connection: psycopg.Connection, act: Act) -> None:
    """Do what an operation removes, and its guards, once its event is written."""
    if act.delete_run is not None:
        unlist(connection, act.delete_run)
    if act.compact is not None:
        compact(connection, act.compact)
    if act.guard is not None:
        set_guard(connection, act.guard)
    if act.unguard is not None:
        gone = (act.unguard.run_key, GUARDS.index(act.unguard.kind))
        connection.execute("delete from guards where run_key = %b and kind = %b", gone)
    if act.delete_run is not None or act.compact is not None:
        clear(connection, STEP)


def set_guard(connection: psycopg.Connection, one: Guard) -> None:
    """Put a guard on a run; the first one of its kind stays."""
    connection.execute(
        "insert into guards values (%b, %b, %b, %b, %b) on conflict do nothing",
        (one.run_key, GUARDS.index(one.kind), Int8(one.time), text_bytes(one.actor), text_bytes(one.why)),
    )


def unlist(connection: psycopg.Connection, head: Head) -> None:
    """Take a run out of every list, put the tombstone of its last event, and note down what is left to tidy up."""
    key = head.run_key
    connection.execute(_BURY.format("=").encode(), (key, Int8(head.version), Int8(1)))
    connection.execute(
        """update heads set run_key = null, version = 0, digest = %b, epoch = 0, owner = %b, waiting = 0, queue = ''
            where run_key = %b""",
        (bytes(32), NOBODY, key),
    )
    for table in ("info", "tags", "inbox"):
        connection.execute(f"delete from {table} where run_key = %b".encode(), (key,))  # noqa: S608 - ours
    connection.execute("insert into clearing values (%b, %b)", (key, Int8(_EVERYTHING)))


def compact(connection: psycopg.Connection, compaction: Compaction) -> None:
    """Set a run's origin, and note down what is left to tidy up."""
    key, at = compaction.run_key, Int8(compaction.at)
    run_id, entry = entry_from(_rows(connection, "select entry from info where run_key = %b", key)[0][0])
    changed = entry_row(run_id, replace(entry, origin=compaction.at))
    connection.execute("update info set entry = %b, origin = %b where run_key = %b", (changed, at, key))
    connection.execute("delete from bends where run_key = %b and version <= %b", (key, at))
    connection.execute("insert into clearing values (%b, %b)", (key, at))


def clear(connection: psycopg.Connection, limit: int) -> Cleared:
    """Tidy up, at most `limit` rows."""
    events, left = 0, max(limit, 1)
    for key, upto in _rows(connection, "select run_key, upto from clearing order by run_key"):
        count = connection.execute(_BURY.format("<").encode(), (key, Int8(upto), Int8(left))).rowcount
        events, left = events + count, left - count
        for table in ("marks", "snapshots", "vouches", "bends"):
            if left:
                asked = f"""delete from {table} where run_key = %b and version in
                    (select version from {table} where run_key = %b and version < %b limit %b)"""  # noqa: S608 - ours
                left -= connection.execute(asked.encode(), (key, key, Int8(upto), Int8(left))).rowcount
        if not left:
            return Cleared(events, left=True)
        connection.execute("delete from clearing where run_key = %b", (key,))
    return Cleared(events, left=False)


def sweep(connection: psycopg.Connection, step: Sweep) -> Swept:
    """One step of a sweep. Raises Conflict."""
    mark, last = _rows(connection, "select sweep, sweeps from tip")[0]
    if not step.mark:
        connection.execute("update tip set sweep = sweeps + 1, sweeps = sweeps + 1")
        return Swept(last + 1)
    if step.mark != mark:
        raise Conflict("another sweep has begun since, or this one has ended; begin anew")
    sizes = _forget(connection, step.forget, mark)
    if step.end:
        connection.execute("update tip set sweep = 0")
    return Swept(mark, len(sizes), sum(sizes))


def _forget(connection: psycopg.Connection, names: Sequence[bytes], mark: int) -> list[int]:
    asked = "delete from blobs where digest = any (%b) and kept <> %b returning length(stored)"
    return [row[0] for row in _rows(connection, asked, ByteColumn(names), Int8(mark))] if names else []
