"""Writing without a function of the server: the same statements, one by one, for what only speaks PostgreSQL's SQL.

Meant for CockroachDB and YugabyteDB, on which it has not been tested; the log's contract is, on PostgreSQL. Turned on by
`?dialect=portable`. Who writes holds the row of `tip` instead of an advisory lock, so that a batch is always written the
sure way, and whatever does not fit was looked up a moment ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from eventflow.errors import Corrupt

if TYPE_CHECKING:
    import psycopg


class _Step(NamedTuple):
    """A statement: done if this column holds anything; `counted` says that each of its values must meet one row."""

    column: str
    sql: str
    counted: bool = False


_TIP = """update tip set position = position + %(events)s, messages = messages + %(posts)s, changes = changes + 1
    returning position - %(events)s, messages - %(posts)s, sweep"""
_WRITER = """insert into writers values (%(writer)s, %(batch)s, %(before)s, %(posted)s, clock_timestamp())
    on conflict (writer) do update set batch = excluded.batch, position = excluded.position,
    messages = excluded.messages, seen = excluded.seen"""
_STEPS = (
    _Step("h_id", """update heads h set version = g.version, digest = g.digest, epoch = g.epoch, owner = g.owner,
            status = g.status, waiting = g.waiting, updated = g.updated
        from unnest(%(h_id)b, %(h_key)b, %(h_was_epoch)b, %(h_was_owner)b, %(h_version)b, %(h_digest)b, %(h_epoch)b,
                %(h_owner)b, %(h_status)b, %(h_waiting)b, %(h_updated)b)
            as g (id, key, was_epoch, was_owner, version, digest, epoch, owner, status, waiting, updated)
        where h.run_id = g.id and h.run_key = g.key and h.epoch = g.was_epoch and h.owner = g.was_owner""", counted=True),
    _Step("n_id", """insert into heads as h select * from unnest(%(n_id)b, %(n_key)b, %(n_incarnation)b, %(n_version)b,
            %(n_digest)b, %(n_epoch)b, %(n_owner)b, %(n_status)b, %(n_waiting)b, %(n_updated)b, %(n_queue)b, %(n_priority)b)
        on conflict (run_id) do update set run_key = excluded.run_key, incarnation = excluded.incarnation,
            version = excluded.version, digest = excluded.digest, epoch = excluded.epoch, owner = excluded.owner,
            status = excluded.status, waiting = excluded.waiting, updated = excluded.updated,
            queue = excluded.queue, priority = excluded.priority where h.run_key is null""", counted=True),
    _Step("i_key", "insert into info select * from unnest(%(i_key)b, %(i_id)b, %(i_entry)b, %(i_workflow)b, %(i_parent)b, %(i_origin)b)"),
    _Step("t_tag", "insert into tags select * from unnest(%(t_tag)b, %(t_key)b) on conflict do nothing"),
    _Step("e_key", """insert into log select %(before)s::bigint + e.number, e.key, e.version, e.data
        from unnest(%(e_key)b, %(e_epoch)b, %(e_version)b, %(e_data)b) with ordinality as e (key, epoch, version, data, number)
        where (select h.epoch from heads h where h.run_key = e.key) = e.epoch""", counted=True),
    _Step("b_digest", """insert into blobs as b select x.digest, x.stored, %(sweep)s::bigint
        from unnest(%(b_digest)b, %(b_stored)b) as x (digest, stored)
        on conflict (digest) do update set kept = excluded.kept where excluded.kept > 0 and b.kept <> excluded.kept"""),
    _Step("d_key", "insert into bends select * from unnest(%(d_key)b, %(d_version)b) on conflict do nothing"),
    _Step("k_key", """delete from inbox b using unnest(%(k_key)b, %(k_message)b) as k (key, message)
        where b.run_key = k.key and b.message = k.message""", counted=True),
    _Step("x_key", """delete from marks r using unnest(%(x_key)b, %(x_version)b) as x (key, version)
        where r.run_key = x.key and r.version = x.version"""),
    *(_Step("x_key", f"""delete from {table} r using unnest(%(x_key)b, %(x_version)b, %(x_snapshot)b) as x (key, version, snapshot)
        where r.run_key = x.key and r.version = x.version and x.snapshot = 1
            and not exists (select from info i where i.run_key = x.key and i.origin = x.version)""")  # noqa: S608 - ours
      for table in ("snapshots", "vouches")),
    _Step("s_key", """insert into snapshots select * from unnest(%(s_key)b, %(s_version)b, %(s_root)b)
        on conflict (run_key, version) do update set root = excluded.root"""),
    _Step("v_key", """insert into vouches as v select * from unnest(%(v_key)b, %(v_version)b, %(v_by)b)
        on conflict (run_key, version) do update set by_version =
            case when excluded.by_version < 0 then v.by_version else excluded.by_version end"""),
    _Step("m_key", """insert into marks as m select * from unnest(%(m_key)b, %(m_version)b, %(m_kinds)b, %(m_time)b,
            %(m_label)b, %(m_size)b, %(m_digest)b)
        on conflict (run_key, version) do update set kinds = m.kinds | excluded.kinds,
            label = case when excluded.label = '' then m.label else excluded.label end,
            size = case when excluded.size = 0 then m.size else excluded.size end,
            digest = case when excluded.digest = '' then m.digest else excluded.digest end"""),
    _Step("o_key", """insert into inbox select o.key, %(posted)s::bigint + o.ordinal, o.data
        from unnest(%(o_key)b, %(o_ordinal)b, %(o_data)b) as o (key, ordinal, data)"""),
)  # fmt: skip


def write_portably(
    connection: psycopg.Connection, about: tuple[Any, ...], columns: Mapping[str, Any]
) -> tuple[int, int]:
    """Write a batch's columns in the transaction that is open; the position and the message after which it comes.

    Raises Corrupt where something is not as it was looked up under the same lock.
    """
    _, writer, batch, posts = about
    values: dict[str, Any] = {**columns, "writer": writer, "batch": batch, "posts": posts}
    values["events"] = len(columns["e_data"])
    row = connection.execute(_TIP, values).fetchone()
    if row is None:
        raise Corrupt("the store", "does not know where it ends")
    values["before"], values["posted"], values["sweep"] = row
    connection.execute(_WRITER, values)
    for step in _STEPS:
        if columns[step.column]:
            done = connection.execute(step.sql.encode(), values)
            if step.counted and done.rowcount != len(columns[step.column]):
                raise Corrupt("the store", f"changed while its lock was held ({step.column})")
    return row[0], row[1]
