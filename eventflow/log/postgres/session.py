"""A connection that is made anew when it is lost, to a server that has not forgotten what this process saw.

After a fail-over the old primary may come back and answer as if nothing had been: it is on an older timeline, or lacks
positions that were acknowledged. Neither is written to nor read from. libpq takes the first host that will do, so where an
address names several, all of them are asked which is on the newest timeline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from eventflow.clock import SystemClock
from eventflow.errors import StoreClosed, StoreUnreachable, StoreUnusable
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.connecting import Server, apart, connect
from eventflow.log.postgres.failures import lost, translated

PATIENCE = 30.0  # seconds during which a lost server is looked for: a promotion takes less, an operator more
_RESTS = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between tries, the last one repeated
_KEPT = 8  # idle connections for reading: as many as threads read at once
_FORKED = "this store was opened before a fork; a child process must open its own, after the fork"
_T = TypeVar("_T")


class Seen:
    """What this process has seen of a store, for as long as it has it open: never less afterwards.

    `unsure` says that the server may have a successor that this process has not met: a connection was lost, or none was made.
    """

    __slots__ = ("closed", "inherited", "position", "system_id", "timeline", "unsure")

    def __init__(self) -> None:
        self.system_id, self.timeline, self.position = "", 0, 0
        self.closed = self.inherited = False
        self.unsure = True

    def check(self) -> None:
        """Raise StoreClosed if the store can't be used any more."""
        if self.closed:
            raise StoreClosed(_FORKED if self.inherited else "this store was closed; open it again")

    def meet(self, address: Address, server: Server) -> None:
        """Take a server for the one that was seen before, or its successor. Raises StoreUnusable."""
        at = address.text
        if server.standby or not server.system_id:
            return
        if self.system_id and server.system_id != self.system_id:
            raise StoreUnusable(f"{at} is another server than before; close the store, and open it where it should be")
        if server.timeline < self.timeline:
            raise StoreUnreachable(
                f"{at} is on timeline {server.timeline} and was on {self.timeline}: it is a primary of the past, "
                f"which must not be written to; stop it, and give the address of its successor"
            )
        self.system_id, self.timeline = server.system_id, server.timeline


def connected(address: Address, seen: Seen, *, readonly: bool) -> psycopg.Connection:
    """A new connection to a server that has all this process has seen. Raises StoreUnusable."""
    connection, server = connect(address, readonly=readonly)
    if not server.standby and (seen.unsure or not readonly or server.timeline < seen.timeline):
        connection, server = _newest(address, connection, server, readonly=readonly)
        seen.unsure = False
    try:
        seen.meet(address, server)
        if seen.position and not server.standby:
            _check_position(connection, address, seen)
    except psycopg.Error as error:
        connection.close()
        raise translated(address, error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _newest(
    address: Address, connection: psycopg.Connection, server: Server, *, readonly: bool
) -> tuple[psycopg.Connection, Server]:  # fmt: skip
    """That of several hosts which is on the newest timeline; the one that is here already if it is as good as any."""
    for host in apart(address) if server.system_id else []:
        try:
            other, its = connect(host, readonly=readonly)
        except StoreUnusable:  # it is away, or only reads
            continue
        if its.system_id == server.system_id and its.timeline > server.timeline:
            connection, server, other = other, its, connection
        other.close()
    return connection, server


def _check_position(connection: psycopg.Connection, address: Address, seen: Seen) -> None:
    """Refuse a server that lacks what this process was told is durable. Raises StoreUnusable."""
    acknowledged = seen.position  # before the server is asked: another thread may write meanwhile
    row = connection.execute("select position from tip").fetchone()
    if row is None or row[0] < acknowledged:
        raise StoreUnusable(
            f"{address.text} ends at position {row[0] if row else 0}, and {acknowledged} was acknowledged: "
            f"events are lost; do not go on before it is known where they are"
        )


def patiently(
    attempt: Callable[[], _T], *, patience: float = PATIENCE,
    passing: Callable[[StoreUnreachable], bool] = lambda _: True,
) -> _T:  # fmt: skip
    """Try until it works or patience is over; then its error. For what fails while a server is being replaced.

    `passing` says of an error whether it is worth to try again.
    """
    clock = SystemClock()
    until = clock.monotonic() + patience
    tries = 0
    while True:
        try:
            return attempt()
        except StoreUnreachable as error:
            if clock.monotonic() > until or not passing(error):
                raise
        time.sleep(_RESTS[min(tries, len(_RESTS) - 1)])
        tries += 1


class Readers:
    """Connections for reading, one a thread at a time; a few are kept."""

    def __init__(self, address: Address, seen: Seen, *, patience: float = PATIENCE) -> None:
        self._address, self._seen, self._patience = address, seen, patience
        self._idle: list[tuple[psycopg.Connection, int]] = []  # and the timeline that was known when it was made
        self._lock = threading.Lock()

    def use(self, work: Callable[[psycopg.Connection], _T]) -> _T:
        """Let some work have a connection; it is done again on another one if the connection was lost."""
        self._seen.check()
        connection, timeline = self._kept()
        if connection is not None:
            try:
                return self._done(connection, timeline, work)
            except psycopg.Error as error:
                is_lost = lost(connection, error)
                connection.close()
                if not is_lost:
                    raise translated(self._address, error) from None
                self._seen.unsure = True
        return patiently(lambda: self._anew(work), patience=self._patience)

    def _kept(self) -> tuple[psycopg.Connection | None, int]:
        """An idle connection; those to a server that has a successor by now are closed, though they would answer."""
        with self._lock:
            while self._idle:
                connection, timeline = self._idle.pop()
                if timeline >= self._seen.timeline:
                    return connection, timeline
                connection.close()
        return None, 0

    def _anew(self, work: Callable[[psycopg.Connection], _T]) -> _T:
        self._seen.check()
        timeline = self._seen.timeline
        connection = connected(self._address, self._seen, readonly=True)
        try:
            return self._done(connection, timeline, work)
        except psycopg.Error as error:
            connection.close()
            raise translated(self._address, error) from None

    def _done(self, connection: psycopg.Connection, timeline: int, work: Callable[[psycopg.Connection], _T]) -> _T:
        try:
            result = work(connection)
        except psycopg.Error:
            raise
        except BaseException:  # an answer may be under way, which the next reader must not take for its own
            connection.close()
            raise
        with self._lock:
            if len(self._idle) < _KEPT and not self._seen.closed:
                self._idle.append((connection, timeline))
                return result
        connection.close()
        return result

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is given back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def forget(self) -> None:
        """In a forked child: let go of the parent's connections without a word to the server."""
        self._lock = threading.Lock()
        self._idle = []
