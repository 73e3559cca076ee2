"""Transactions in which a node writes to tables of its own, beside the store's: both are committed, or neither.

Each has a connection to itself while it is open. The store's lock is taken at its end, for the commit alone; what the node
does before that holds up nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from eventflow.errors import EffectMisused, EventflowError
from eventflow.log.postgres.failures import lost
from eventflow.log.postgres.writing import Writing
from eventflow.log.protocol import Answer, Append

_KEPT = 8  # idle connections: as many as are used again at once on a machine with a few processors
_ASKED = "select current_setting('eventflow.transaction', true), current_setting('transaction_isolation')"


class Transactions:
    """The transactions of one open log; a few connections are kept for the next ones."""

    def __init__(self, make: Callable[[], Writing]) -> None:
        self._make = make
        self._idle: list[Writing] = []
        self._lock = threading.Lock()
        self._closed = False

    def new(self) -> Transaction:
        """A transaction that is yet to begin."""
        with self._lock:
            writing = self._idle.pop() if self._idle else None
        return Transaction(writing or self._make(), self._over)

    def _over(self, writing: Writing) -> None:
        with self._lock:
            if len(self._idle) < _KEPT and not self._closed:
                self._idle.append(writing)
                return
        writing.close()

    def close(self) -> None:
        """Close what is idle; what is under way is closed when it is over."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for writing in idle:
            writing.close()

    def forget(self) -> None:
        """In a forked child: let go of the parent's connections without a word to the server."""
        self._lock = threading.Lock()
        for writing in self._idle:
            writing.forget()
        self._idle = []
        self._closed = True


class Transaction:
    """One transaction: `call`, then `finish` or `undo`; each blocks its thread."""

    def __init__(self, writing: Writing, over: Callable[[Writing], None]) -> None:
        self._writing, self._over = writing, over
        self._lock = threading.Lock()
        self._running = self._ended = self._given_up = False

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function returns that is given the connection first. What it raises takes the transaction back.

        Raises RolledBack if the connection was lost, EffectMisused if the function left the transaction otherwise than open.
        """
        with self._lock:
            self._running = True
        try:
            connection = self._writing.begin()
            try:
                value = function(connection, *args, **kwargs)
                _check(connection)
            except psycopg.Error as error:
                if lost(connection, error):
                    raise self._writing.undone(error) from None
                raise
        except BaseException:
            self._end()
            raise
        with self._lock:
            self._running = False
            given_up = self._given_up
        if given_up:
            self._end()
        return value

    def finish(self, append: Append) -> Answer:
        """Commit, with an append. Raises its refusal, RolledBack or StoreUnusable; then nothing is kept."""
        try:
            answer = self._writing.finish([append])[0]
        finally:
            self._end()
        if isinstance(answer, EventflowError):
            raise answer
        return answer

    def undo(self) -> None:
        """Take it back, after what is running in it, if it is not over."""
        with self._lock:
            self._given_up = True
            if self._running:  # else its statements would be made outside of it
                return
        self._end()

    def _end(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._writing.undo()
        self._over(self._writing)


def _check(connection: psycopg.Connection) -> None:
    """Raise EffectMisused unless the transaction is the one that was begun, and nothing in it has failed."""
    connection.row_factory, connection.cursor_factory = tuple_row, psycopg.Cursor
    if connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
        raise EffectMisused(
            "a transaction's function went on after a statement had failed; let the error pass, or write "
            "`with connection.transaction():` around what may fail"
        )
    mark, isolation = connection.execute(_ASKED).fetchall()[0]
    if mark != "on":
        raise EffectMisused("a transaction's function must neither commit nor roll back; that comes with its record")
    if isolation != "read committed":
        raise EffectMisused(f"a transaction's isolation level is read committed, not {isolation}; lock rows instead")
    connection.execute("set constraints all immediate")  # what is wrong is told now, not by the commit
