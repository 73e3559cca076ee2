"""A look-out for statements that hang on a primary of the past, whose commits nobody confirms any more.

Such a server takes connections as ever, and a commit on it waits for a standby that is a primary itself by now: without
end, for nothing is lost on the way. So where an address names several hosts, what takes long is a reason to ask them who is
on a newer timeline; if one is, the connection is cut, and what was under way is looked up there. Nothing is written here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg

from eventflow.clock import SystemClock
from eventflow.errors import EventflowError
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.connecting import apart, connect

LONG = 5.0  # seconds a statement may take before anybody asks: a slow commit takes less, a look is a connection a host
Place = tuple[str, int]  # a host as libpq names it, and its port


class Lookout:
    """The look-out of one open log; a thread of its own, once there is something to look after. Close it in the end."""

    def __init__(self, address: Address, *, long: float = LONG) -> None:
        self._hosts = apart(address)
        self._long = long
        self._clock = SystemClock()
        self._under_way: dict[object, tuple[Callable[[], psycopg.Connection | None], float]] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, connection: Callable[[], psycopg.Connection | None]) -> Iterator[None]:
        """Look after what is done in this block on the connection that the function names then."""
        if not self._hosts:
            yield
            return
        self._start()
        mark = object()
        self._under_way[mark] = (connection, self._clock.monotonic())
        try:
            yield
        finally:
            del self._under_way[mark]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._work, name="eventflow-lookout", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while not self._over.wait(self._long):
            late = self._clock.monotonic() - self._long
            slow = [connection for connection, since in list(self._under_way.values()) if since <= late]
            if slow:
                self._look(slow)

    def _look(self, slow: list[Callable[[], psycopg.Connection | None]]) -> None:
        """Cut those of some connections whose server has a successor."""
        timelines = self._timelines()
        newest = max(timelines.values(), default=0)
        for find in slow:
            with suppress(psycopg.Error, OSError):  # it is over already
                connection = find()
                if connection is not None and timelines.get(_place(connection), 0) < newest:
                    _cut(connection)

    def _timelines(self) -> dict[Place, int]:
        """The timeline of each host that takes writes now."""
        found: dict[Place, int] = {}
        for host in self._hosts:
            with suppress(EventflowError, psycopg.Error):  # it is away, or only reads
                connection, server = connect(host)
                with connection:
                    found[_place(connection)] = server.timeline
        return found

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def forget(self) -> None:
        """In a forked child: there is no thread."""
        self._lock, self._thread, self._under_way = threading.Lock(), None, {}


def _place(connection: psycopg.Connection) -> Place:
    return connection.info.host, connection.info.port


def _cut(connection: psycopg.Connection) -> None:
    """Let whoever waits for a connection's answer see its end; only the socket is touched, which is another thread's."""
    with socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)
