"""Owners whose leases end by the database's clock: a row each, kept alive by one thread on a connection of its own.

A lease only says who may be taken over. What keeps two from appending is the run's epoch, which a take-over raises: so an
owner that was stopped for longer than its lease goes on with the runs that nobody took, and is refused on the others.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable

import psycopg
from psycopg.types.numeric import Float8

from eventflow.errors import StoreUnusable
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.failures import translated
from eventflow.log.postgres.lookout import Lookout
from eventflow.log.postgres.session import PATIENCE, Seen, connected, patiently

BEATS = 3  # heartbeats a lease: two may be late or lost before somebody else takes over
_BEAT = """insert into owners as o values (%b, clock_timestamp() + make_interval(secs => %b), %b)
    on conflict (owner) do update set lease_until = excluded.lease_until"""
_END = "delete from owners where owner = %b"
# Owners that are long gone: their names are never used twice, so a missing row means the same.
_SWEEP = "delete from owners where lease_until < clock_timestamp() - make_interval(secs => %b)"
_SWEPT_AFTER = 86_400.0  # seconds; until then a row says which process it was


# A clock that goes on while the machine sleeps, where there is one: the database's does.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_LAPSED = -math.inf


class Leases:
    """The owners of one open log."""

    def __init__(self, address: Address, seen: Seen, lookout: Lookout, *, patience: float = PATIENCE) -> None:
        self._address, self._seen, self._lookout, self._patience = address, seen, lookout, patience
        # When the last heartbeat that came through was sent; _LAPSED for ever if it was too late for the one before.
        self._owners: dict[bytes, float] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: psycopg.Connection | None = None
        self._timeline = 0  # that was known when the connection was made
        self._said = f"process {os.getpid()} on {socket.gethostname()}".encode()

    def new(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner; returns what ends it. Raises StoreUnusable."""
        self._seen.check()
        patiently(lambda: self._begin(owner), patience=self._patience)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="eventflow-lease", daemon=True)
                self._thread.start()
        return lambda: self._end(owner)

    def holds(self, owner: bytes) -> bool:
        """Whether an owner's lease can never have ended: the database began to count it no earlier than this process did."""
        return self._is_within(owner, time.clock_gettime(_CLOCK))

    def _is_within(self, owner: bytes, now: float) -> bool:
        return now < self._owners.get(owner, _LAPSED) + self._address.lease

    def _begin(self, owner: bytes) -> None:
        with self._lock:
            try:
                self._beat(owner)
            except psycopg.Error as error:
                self._drop()
                raise translated(self._address, error) from None

    def _beat(self, *owners: bytes) -> None:
        connection = self._connection
        if connection is None or connection.closed or connection.broken or self._timeline < self._seen.timeline:
            self._drop()
            self._timeline = self._seen.timeline
            connection = self._connection = connected(self._address, self._seen, readonly=False)
        sent = time.clock_gettime(_CLOCK)
        with self._lookout.over(lambda: connection), connection.pipeline():
            for owner in owners:
                connection.execute(_BEAT, (owner, Float8(self._address.lease), self._said), prepare=True)
        fresh = {one for one in owners if one not in self._owners or self._is_within(one, sent)}
        self._owners |= {one: sent if one in fresh else _LAPSED for one in owners}

    def _work(self) -> None:
        """Beat until the end. What goes wrong is tried again at the next beat; the lease says when it was too late."""
        while not self._over.wait(self._address.lease / BEATS):
            with self._lock:
                try:
                    if self._owners:
                        self._beat(*self._owners)
                except (psycopg.Error, StoreUnusable):
                    self._drop()

    def _end(self, owner: bytes) -> None:
        with self._lock:
            if owner not in self._owners:
                return
            del self._owners[owner]
            try:
                self._beat()
                with self._lookout.over(lambda: self._connection):
                    assert self._connection is not None  # noqa: S101 - a beat has one, or raises
                    self._connection.execute(_END, (owner,))
                    self._connection.execute(_SWEEP, (Float8(_SWEPT_AFTER),))
            except (psycopg.Error, StoreUnusable):
                self._drop()  # then the lease ends by itself

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """End the thread, and all owners that are left."""
        self._over.set()
        for owner in list(self._owners):
            self._end(owner)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        with self._lock:
            self._drop()

    def forget(self) -> None:
        """In a forked child: let go of the parent's thread, owners and connection."""
        self._lock, self._thread, self._connection = threading.Lock(), None, None
        self._owners.clear()
