"""What a store is asked, one statement each, so that each answer is of one moment. Every connection here only reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg.types.numeric import Int8

from eventflow.checkpoint import Checkpoint
from eventflow.codec import Stored, unpack_blob
from eventflow.errors import Corrupt
from eventflow.log.heads import Entry, Head, Listed, Query, fits
from eventflow.log.lmdb.tables import FACET_TAG, FACET_WORKFLOW, entry_from, facet
from eventflow.log.postgres.rows import (
    HEAD,
    HEAD_FIELDS,
    STATUS_NUMBER,
    head_from,
    mark_from,
    text_bytes,
    unsigned,
)
from eventflow.log.postgres.wire import ByteColumn
from eventflow.log.protocol import Usage

if TYPE_CHECKING:
    import psycopg

LAST = (1 << 63) - 1  # the largest bigint
_HEADS = f"select {HEAD} from standing h"  # noqa: S608 - made of constants
_RUNS = f"select {HEAD}, i.entry from standing h join info i on i.run_key = h.run_key"  # noqa: S608
_EVENTS = "select position, data from events_of(%b, %b, %b)"
_EVENTS_PORTABLE = "select position, data from log where run_key = %b and version between %b and %b order by version"
_PAGE = 500  # runs of a list that are read at once, where it has a limit
# kind of what a store holds -> its tables; of the first one the rows are counted
_TABLES = {
    "events": ("log",),
    "index": ("bends", "tags", "vouches", "store", "tip", "owners", "writers", "guards", "clearing", "buckets"),
    "runs": ("info", "heads"),
    "blobs": ("blobs",),
    "snapshots": ("snapshots",),
    "checkpoints": ("marks",),
    "messages": ("inbox",),
}
_NAMES = [table for tables in _TABLES.values() for table in tables]


def _all(connection: psycopg.Connection, asked: str, *values: Any) -> list[tuple[Any, ...]]:
    return connection.execute(asked.encode(), values, prepare=True, binary=True).fetchall()


def _bounded(number: int) -> Int8:
    return Int8(min(number, LAST))


def head(connection: psycopg.Connection, run_id: str) -> Head | None:
    """The head of a run, of the store's own stream, or what is left of a deleted run's."""
    found = _all(connection, f"{_HEADS} where h.run_id = %b", text_bytes(run_id))
    return head_from(found[0]) if found else None


def head_of(connection: psycopg.Connection, run_key: bytes) -> Head | None:
    """The same by run key."""
    found = _all(connection, f"{_HEADS} where h.run_key = %b", run_key)
    return head_from(found[0]) if found else None


def entry(connection: psycopg.Connection, run_key: bytes) -> Entry | None:
    """What `list` shows of a run."""
    found = _all(connection, "select entry from info where run_key = %b", run_key)
    return entry_from(found[0][0])[1] if found else None


def ids(connection: psycopg.Connection, prefix: str, limit: int) -> list[str]:
    """Run ids that begin with a prefix, in order."""
    begin = text_bytes(prefix)
    asked = "select run_id from info where run_id >= %b and substr(run_id, 1, %b) = %b order by run_id limit %b"
    return [row[0].decode() for row in _all(connection, asked, begin, len(begin), begin, _bounded(limit))]


def runs(connection: psycopg.Connection, query: Query) -> list[Listed]:
    """Runs, newest first: the keys sort by time."""
    where: list[str] = ["true"]
    values: list[Any] = []
    if query.status is not None:
        where.append("h.status = %b")
        values.append(Int8(STATUS_NUMBER[query.status]))
    if query.workflow is not None:
        where.append("i.workflow = %b")
        values.append(facet(FACET_WORKFLOW, query.workflow))
    if query.tag is not None:
        where.append("exists (select from tags t where t.tag = %b and t.run_key = i.run_key)")
        values.append(facet(FACET_TAG, query.tag))
    found: list[Listed] = []
    before: bytes | None = None
    page = LAST if query.limit is None else max(query.limit, _PAGE)
    while query.limit is None or len(found) < query.limit:
        further = ["h.run_key < %b"] if before is not None else []
        asked = f"{_RUNS} where {' and '.join([*where, *further])} order by h.run_key desc limit %b"
        rows = _all(connection, asked, *values, *([before] if before is not None else []), Int8(page))
        listed = (Listed(entry_from(row[HEAD_FIELDS])[1], head_from(row)) for row in rows)
        found += [one for one in listed if fits(one, query)]
        if len(rows) < page:
            break
        before = rows[-1][1]
    return found[: query.limit]


def children(connection: psycopg.Connection, run_key: bytes) -> list[bytes]:
    """The keys of runs that were forked from a run."""
    return [
        row[0] for row in _all(connection, "select run_key from info where parent_key = %b order by run_key", run_key)
    ]


def read(connection: psycopg.Connection, run_key: bytes, first: int, last: int, *, portable: bool) -> list[Stored]:
    """Events of a run from one version to another."""
    asked = _EVENTS_PORTABLE if portable else _EVENTS
    return [Stored(*row) for row in _all(connection, asked, run_key, _bounded(first), _bounded(last))]


def feed(connection: psycopg.Connection, after: int, limit: int) -> list[Stored]:
    """Events of the whole store in order of position."""
    asked = "select position, data from log where position > %b order by position limit %b"
    return [Stored(*row) for row in _all(connection, asked, _bounded(after), _bounded(limit))]


def tip(connection: psycopg.Connection) -> tuple[int, int, int]:
    """The last position, the last message, and how many writes there were."""
    found = _all(connection, "select position, messages, changes from tip")
    if not found:
        raise Corrupt("the store", "does not know where it ends")
    return found[0][0], found[0][1], found[0][2]


def bends(connection: psycopg.Connection, run_key: bytes) -> list[int]:
    """Versions of a run at which its line bends."""
    return [
        row[0] for row in _all(connection, "select version from bends where run_key = %b order by version", run_key)
    ]


def blobs(connection: psycopg.Connection, names: Sequence[bytes]) -> dict[bytes, bytes]:
    """The bytes of blobs by digest, checked. Raises Corrupt."""
    if not names:
        connection.execute("select")  # for whoever asks of a store that can't be reached
        return {}
    held = dict(_all(connection, "select digest, stored from blobs where digest = any (%b)", ByteColumn(names)))
    found: dict[bytes, bytes] = {}
    for name in names:
        if name not in held:
            raise Corrupt(f"blob {name.hex()[:12]}", "is missing")
        found[name] = unpack_blob(held[name], name)
    return found


def blob_names(connection: psycopg.Connection, after: bytes, limit: int) -> list[bytes]:
    """Digests of blobs that are there, rising."""
    asked = "select digest from blobs where digest > %b order by digest limit %b"
    return [row[0] for row in _all(connection, asked, after, _bounded(limit))]


def snapshots(connection: psycopg.Connection, run_key: bytes, upto: int, limit: int | None) -> list[tuple[int, int]]:
    """A run's snapshots up to a version, newest first, each with the version that vouches for it."""
    asked = """select s.version, v.by_version from snapshots s
        left join vouches v on v.run_key = s.run_key and v.version = s.version
        where s.run_key = %b and s.version <= %b order by s.version desc limit %b"""
    rows = _all(connection, asked, run_key, _bounded(upto), Int8(LAST if limit is None else limit))
    return [(version, unsigned(by or 0)) for version, by in rows]


def snapshot(connection: psycopg.Connection, run_key: bytes, version: int) -> bytes | None:
    """A snapshot's stored root."""
    found = _all(
        connection, "select root from snapshots where run_key = %b and version = %b", run_key, _bounded(version)
    )
    return found[0][0] if found else None


def checkpoints(connection: psycopg.Connection, run_key: bytes) -> list[Checkpoint]:
    """A run's checkpoints, oldest first."""
    asked = "select version, kinds, time, label, size, digest from marks where run_key = %b order by version"
    return [mark_from(row) for row in _all(connection, asked, run_key)]


def inbox(connection: psycopg.Connection, run_key: bytes) -> list[tuple[int, bytes]]:
    """A run's waiting messages by number."""
    asked = "select message, data from inbox where run_key = %b order by message"
    return [(row[0], row[1]) for row in _all(connection, asked, run_key)]


def mail(connection: psycopg.Connection) -> list[bytes]:
    """The keys of runs that have messages waiting."""
    return [row[0] for row in _all(connection, "select distinct run_key from inbox order by run_key")]


def owner(connection: psycopg.Connection, name: bytes) -> tuple[bool, str]:
    """Whether an owner's lease still runs, and what it said of itself."""
    found = _all(connection, "select lease_until > clock_timestamp(), said from owners where owner = %b", name)
    return (found[0][0], found[0][1].decode()) if found else (False, "")


def follows(connection: psycopg.Connection) -> bool:
    """Whether this is a copy of another store."""
    return any(row[0] for row in _all(connection, "select follows from store"))


def usage(connection: psycopg.Connection) -> Usage:
    """What the store holds: rows as they are now, bytes as the server's files have them."""
    counts = ", ".join(f"(select count(*) from {tables[0]})" for tables in _TABLES.values())  # noqa: S608 - ours
    sizes = ", ".join(_size(name) for name in _NAMES)
    row = _all(connection, f"select (select position from tip), {counts}, {sizes}")[0]  # noqa: S608 - ours
    rows = dict(zip(_TABLES, row[1:], strict=False))
    held = dict(zip(_NAMES, row[1 + len(_TABLES) :], strict=True))
    by_kind = {kind: sum(held[name] for name in tables) for kind, tables in _TABLES.items()}
    return Usage(rows, by_kind, sum(held.values()), 0, row[0])


def held_bytes(connection: psycopg.Connection) -> int:
    """Bytes of the server's files that the store's tables and indexes have; no row is counted."""
    sizes = " + ".join(_size(name) for name in _NAMES)
    return int(_all(connection, f"select {sizes}")[0][0])


def _size(table: str) -> str:
    """What asks for the bytes of a table with its partitions and indexes."""
    own = f"pg_total_relation_size('{table}'::regclass)"
    if table != "log":
        return own
    parts = "select sum(pg_total_relation_size(inhrelid)) from pg_inherits where inhparent = 'log'::regclass"
    return f"({own} + coalesce(({parts}), 0))::bigint"
