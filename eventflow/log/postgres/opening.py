"""How a store in PostgreSQL is opened: which server, which tables, and whether its end is what it was.

The last events are compared with what names their digests, the next event or the run's head, as in any store; a server that
was rolled back behind what this process saw is found out when it is connected to again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from eventflow.clock import Clock
from eventflow.codec import TOMBSTONE, decode
from eventflow.errors import Corrupt, StoreNotFound, WrittenByNewer
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.connecting import apart
from eventflow.log.postgres.failures import passes, translated
from eventflow.log.postgres.lookout import Lookout
from eventflow.log.postgres.migrating import FORMAT, check_version, migrate, version_of
from eventflow.log.postgres.session import Seen, connected, patiently
from eventflow.proof import digest

TAIL = 64  # events; as an LMDB store checks, and reading them takes 2 ms
# Writers' rows are kept far longer than a process looks for its lost server.
_SWEEP = "delete from writers where seen < clock_timestamp() - interval '30 days'"
_TAIL = """select l.position, l.run_key, l.version, l.data, n.data, h.version, h.digest, c.upto
    from (select * from log order by position desc limit %b) l
    left join log n on n.run_key = l.run_key and n.version = l.version + 1 and n.position > l.position
    left join heads h on h.run_key = l.run_key left join clearing c on c.run_key = l.run_key"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a store shall be opened; `patience` is for how many seconds a server is looked for that is being replaced."""

    readonly: bool
    create: bool
    clock: Clock
    patience: float


def open_store(address: Address, seen: Seen, wanted: Wanted, lookout: Lookout) -> bytes:
    """Look at a store, making it first if it is wanted; its id. Raises StoreNotFound, StoreUnusable, Corrupt.

    A server that is starting, stopping or lost on the way is waited for, as is any of several hosts: one that is alone and
    is not there may well be a wrong address, which shall be told at once.
    """
    several = bool(apart(address))
    return patiently(
        lambda: _open(address, seen, wanted, lookout),
        patience=wanted.patience,
        passing=lambda error: several or passes(error),
    )


def _open(address: Address, seen: Seen, wanted: Wanted, lookout: Lookout) -> bytes:
    connection = connected(address, seen, readonly=wanted.readonly)
    try:
        with lookout.over(lambda: connection):
            return _opened(connection, address, seen, wanted)
    except psycopg.Error as error:
        raise translated(address, error) from None
    finally:
        connection.close()


def _opened(connection: psycopg.Connection, address: Address, seen: Seen, wanted: Wanted) -> bytes:
    at = version_of(connection, address)
    if not at:
        if wanted.readonly or not wanted.create:
            raise StoreNotFound(address.text)
        migrate(connection, address, wanted.clock)
    else:
        check_version(at, address)
    row = connection.execute("select format, store_id from store").fetchone()
    if row is None:
        raise Corrupt(address.text, "has no format number or no id")
    if row[0] != FORMAT:
        raise WrittenByNewer(address.text, f"store format {row[0]}")
    check_tail(connection, address.text)
    if not wanted.readonly:
        connection.execute(_SWEEP)
        if seen.system_id:
            connection.execute(
                "update store set system_id = %s, timeline = %s where (system_id, timeline) is distinct from (%s, %s)",
                (seen.system_id, seen.timeline) * 2,
            )
    return bytes(row[1])


def check_tail(connection: psycopg.Connection, where: str) -> None:
    """Compare a store's last events with its own digests. Raises Corrupt."""
    for row in connection.execute(_TAIL, (TAIL,), binary=True):
        try:
            _check_event(row, where)
        except (TypeError, ValueError, IndexError) as error:
            raise Corrupt(where, f"ends in something that can't be read ({error})") from error


def _check_event(row: tuple[Any, ...], where: str) -> None:
    position, run_key, version, data, following, head_version, head_digest, upto = row
    if data[:1] == TOMBSTONE:
        return
    event = decode(data, f"the event at position {position}")
    if event[2] != run_key or event[4] != version:
        raise Corrupt(where, f"does not find the event at position {position} by its run and version")
    named = head_digest if head_version == version else None
    if following is not None:
        named = decode(following, where)[10]
    if named is not None and named != digest(data):
        raise Corrupt(where, f"holds an event at position {position} that is not what its run says it is")
    if head_version is None and upto is None:  # nor is it what a deletion has left to tidy up
        raise Corrupt(where, f"has no head for the run of the event at position {position}")
