"""A log in PostgreSQL: `PostgresLog`. Reading takes a connection for one statement; writing goes through `Writing`."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import psycopg

from eventflow.checkpoint import Checkpoint
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored
from eventflow.errors import Corrupt, EventflowError, StoreUnusable
from eventflow.log.heads import NOBODY, Entry, Head, Listed, Query
from eventflow.log.postgres import reading, spans
from eventflow.log.postgres.address import parse
from eventflow.log.postgres.claiming import taken, waiting
from eventflow.log.postgres.connecting import of_writer
from eventflow.log.postgres.failures import translated
from eventflow.log.postgres.leases import Leases
from eventflow.log.postgres.lookout import Lookout
from eventflow.log.postgres.migrating import migrate
from eventflow.log.postgres.opening import Wanted, open_store
from eventflow.log.postgres.removing import guards
from eventflow.log.postgres.session import PATIENCE, Readers, Seen, connected
from eventflow.log.postgres.spans import Rewrite, Span
from eventflow.log.postgres.transacting import Transaction, Transactions
from eventflow.log.postgres.writing import Writing, sender_for
from eventflow.log.protocol import Answer, Usage, Write
from eventflow.log.queueing import Queued
from eventflow.log.removal import Guard


class PostgresLog:
    """A log in a PostgreSQL database. Raises StoreNotFound, Corrupt or StoreUnusable when it can't be opened.

    `url` is what libpq takes, with `schema=` and `lease=` (seconds) if they are not the usual ones. `patience` is how
    long, in seconds, a lost server is looked for before a call fails.
    """

    durable = True

    def __init__(
        self, url: str, *, readonly: bool = False, create: bool = True, clock: Clock | None = None,
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self.address = parse(url) if readonly else of_writer(parse(url))
        self.readonly = readonly
        self._seen = Seen()
        wanted = Wanted(readonly, create, clock or SystemClock(), patience)
        self._lookout = Lookout(self.address)
        try:
            self.store_id = open_store(self.address, self._seen, wanted, self._lookout)
        except BaseException:
            self._lookout.close()
            raise
        own_clock = clock is None or isinstance(clock, SystemClock)
        sender = sender_for(self.address, self.store_id, os.urandom(16), own_clock=own_clock)
        self._readers = Readers(self.address, self._seen, patience=patience)
        self._writing = Writing(sender, self._seen, self._lookout, patience=patience)
        self._leases = Leases(self.address, self._seen, self._lookout, patience=patience)
        self._transactions = Transactions(
            lambda: Writing(replace(sender, writer=os.urandom(16)), self._seen, self._lookout, patience=patience)
        )
        self._lock = threading.Lock()
        _open_logs.add(self)

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """One durable transaction; an answer or an error for each write. Raises StoreUnusable for all."""
        with self._lock:
            self._seen.check()
            if self.readonly:
                raise StoreUnusable(f"{self.address.text} was opened read-only; open it for writing")
            return self._writing.write(batch) if batch else []

    def transaction(self) -> Transaction:
        """A transaction for somebody who writes to other tables of this database, with an append at its end."""
        self._seen.check()
        return self._transactions.new()

    # --- runs

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        head = self._readers.use(lambda c: reading.head(c, run_id))
        if head is None or not head.version or head.run_key == NOBODY:
            return None
        self._writing.known.hint(head)
        return head

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key; STORE_RUN is that of the store's own stream."""
        return self._readers.use(lambda c: reading.head_of(c, run_key))

    def next_incarnation(self, run_id: str) -> int:
        """1, or one more than the deleted run's."""
        head = self._readers.use(lambda c: reading.head(c, run_id))
        return 1 if head is None else head.incarnation + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What `list` shows of a run."""
        return self._readers.use(lambda c: reading.entry(c, run_key))

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        return self._readers.use(lambda c: reading.ids(c, prefix, limit))

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        return self._readers.use(lambda c: reading.runs(c, query))

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        return self._readers.use(lambda c: reading.children(c, run_key))

    # --- events

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included."""
        portable = self.address.portable
        return self._readers.use(lambda c: reading.read(c, run_key, first, last, portable=portable))

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store in order of position, from `after` + 1 on."""
        return self._readers.use(lambda c: reading.feed(c, after, limit))

    def position(self) -> int:
        """The position of the last event."""
        return self._readers.use(lambda c: reading.tip(c)[0])

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends, rising."""
        return self._readers.use(lambda c: reading.bends(c, run_key))

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by digest, checked."""
        wanted = list(names)
        return self._readers.use(lambda c: reading.blobs(c, wanted))

    def blob_names(self, after: bytes, limit: int) -> list[bytes]:
        """Digests of blobs that are there, rising."""
        return self._readers.use(lambda c: reading.blob_names(c, after, limit))

    def guards(self) -> list[Guard]:
        """All guards on runs."""
        return self._readers.use(guards)

    # --- the cache

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:
        """A run's snapshots up to a version, newest first, each with the version that vouches for it or 0."""
        return self._readers.use(lambda c: reading.snapshots(c, run_key, upto, limit))

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root."""
        return self._readers.use(lambda c: reading.snapshot(c, run_key, version))

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first."""
        return self._readers.use(lambda c: reading.checkpoints(c, run_key))

    # --- the inbox

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages by number, oldest first."""
        return self._readers.use(lambda c: reading.inbox(c, run_key))

    def mail(self) -> list[bytes]:
        """The keys of runs that have messages waiting."""
        return self._readers.use(reading.mail)

    def queued(self, queue: str, limit: int | None = None) -> list[Queued]:
        """The runs of a queue: the taken ones, then those that wait, in the order in which they will be taken."""
        most = reading.LAST if limit is None else limit
        return self._readers.use(lambda c: [*taken(c, queue), *waiting(c, queue, most)])

    # --- owners, and the rest

    def owner_gone(self, owner: bytes) -> bool:
        """Whether an owner's lease has ended, by the database's clock."""
        return owner == NOBODY or not self._readers.use(lambda c: reading.owner(c, owner))[0]

    def owner_text(self, owner: bytes) -> str:
        """An owner for people: the process that took the lease, and its host."""
        said = self._readers.use(lambda c: reading.owner(c, owner))[1]
        return said or f"owner {owner.hex()}"

    def holds(self, owner: bytes) -> bool:
        """Whether an owner's lease goes on, by what this process last heard of it; the database is not asked."""
        return self._leases.holds(owner)

    def new_owner(self, owner: bytes) -> Callable[[], None]:
        """Register a living owner, whose lease is kept alive from now on; returns what ends it."""
        return self._leases.new(owner)

    @property
    def follows(self) -> bool:
        """Whether this is a copy of another store, which nobody may drive until it is promoted."""
        return self._readers.use(reading.follows)

    def change_mark(self) -> int:
        """A number that changes whenever any process has written."""
        return self._readers.use(lambda c: reading.tip(c)[2])

    def usage(self) -> Usage:
        """What the store holds; bytes are those of the tables with their indexes."""
        return self._readers.use(reading.usage)

    def held_bytes(self) -> int:
        """Bytes of the tables with their indexes, those of rows that are gone and not yet used again among them."""
        return self._readers.use(reading.held_bytes)

    # --- partitions

    def spans(self) -> list[Span]:
        """The log's partitions by position, those that were made ahead among them; none in the portable dialect."""
        return [] if self.address.portable else self._readers.use(spans.spans)

    def rewritable(self) -> list[Rewrite]:
        """Spans that are worth writing anew, oldest first."""
        return spans.worthwhile(self.spans())

    def rewrite(self, one: Rewrite) -> tuple[int, int]:
        """Write spans anew without what was deleted; bytes before and after. Others wait while the tables change places.

        Raises StoreBusy if somebody reads the log for long, or does the same; nothing is changed then.
        """
        self._seen.check()
        connection = connected(self.address, self._seen, readonly=False)
        try:
            return spans.rewrite(connection, one)
        except psycopg.Error as error:
            raise translated(self.address, error) from None
        finally:
            connection.close()

    def close(self) -> None:
        """Let go of every connection."""
        if self._seen.closed:
            return
        self._leases.close()
        self._transactions.close()
        with self._lock:
            self._writing.close()
        self._seen.closed = True
        self._readers.close()
        self._lookout.close()

    def forget(self) -> None:
        """In a forked child: what is called from now on raises StoreClosed, and the parent's connections live on."""
        self._seen.closed = self._seen.inherited = True
        self._lock = threading.Lock()  # a thread of the parent may hold the old one
        self._leases.forget()
        self._writing.forget()
        self._transactions.forget()
        self._readers.forget()
        self._lookout.forget()


_open_logs: weakref.WeakSet[PostgresLog] = weakref.WeakSet()


def _after_fork() -> None:
    for log in list(_open_logs):
        log.forget()


os.register_at_fork(after_in_child=_after_fork)


def bring_up_to_date(url: str, *, clock: Clock | None = None) -> tuple[bytes, list[int]]:
    """Make a store's tables, or bring them to this version; its id, and the steps that were taken. Raises StoreUnusable."""
    address = of_writer(parse(url))
    connection = connected(address, Seen(), readonly=False)
    try:
        steps = migrate(connection, address, clock or SystemClock())
        row = connection.execute("select store_id from store").fetchone()
    finally:
        connection.close()
    if row is None:
        raise Corrupt(address.text, "has no id")
    return bytes(row[0]), steps
