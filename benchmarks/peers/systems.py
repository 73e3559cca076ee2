"""Which systems are measured: one table of names, versions, the settings they are given and why. Facts only.

Versions are the newest releases on the day in `PINNED`. Whoever raises one measures anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.wire import Question

PINNED = "2026-11-24"


@dataclass(frozen=True, slots=True)
class System:
    """One row: a system, or another way to use one.

    `worker` is the module under `benchmarks.peers` that drives it. `environment` names what is installed for it, `packages`
    by pip and `server` by npm. `ways` are the ways to run many at once, of which the best is quoted; `way` is said to the
    worker in all other questions. `times` is how many times as long as eventflow's its durable step must take.
    """

    name: str
    worker: str
    environment: str
    packages: tuple[str, ...]
    settings: str
    ways: tuple[str, ...] = ("async",)
    way: str = ""
    server: str = ""
    asked: tuple[Question, ...] = ("steps", "growing", "concurrent", "long", "syncs")
    times: float = 1.0
    judged: bool = True  # whether targets are set against it

    @property
    def version(self) -> str:
        """The pinned version, of the server too where there is one."""
        own = self.packages[0].partition("==")[2] if self.packages else ""
        return f"{own}, server {self.server.rpartition('@')[2]}" if self.server else own


_LANGGRAPH = ("langgraph==1.2.24", "langgraph-checkpoint-sqlite==3.1.2")
_EVENTSOURCING = ("eventsourcing==9.5.6",)
EVENTFLOW = System("eventflow", "eventflow", "", (), "all defaults")
PEERS = (
    System(
        "LangGraph", "langgraph", "langgraph", _LANGGRAPH,
        'SqliteSaver and, for many runs, AsyncSqliteSaver; durability="sync", which alone keeps each step before the next; '
        "journal_mode=WAL, which the saver sets, and synchronous=FULL",
        ways=("async", "8 threads", "1 thread"), times=4.0,
    ),
    System(
        "LangGraph, DeltaChannel", "langgraph", "langgraph", _LANGGRAPH,
        "the same, the list in a DeltaChannel (beta) with its default of a snapshot each 100 updates",
        way="DeltaChannel", asked=("growing",),
    ),
    System(
        "DBOS", "dbos", "dbos", ("dbos==3.4.0",),
        "the system database an SQLite file set to journal_mode=WAL beforehand, which saves DBOS syncs (its own default "
        "is the rollback journal); synchronous=FULL by default",
        ways=("async", "8 threads", "1 thread"), times=4.0,
    ),
    System(
        "eventsourcing", "eventsourcing", "eventsourcing", _EVENTSOURCING,
        "its SQLite module, which sets WAL, synchronous=FULL by default; a snapshot each 100 events, as a long aggregate needs",
        ways=("8 threads", "1 thread"),
    ),
    System(
        "eventsourcing, saved together", "eventsourcing", "eventsourcing", _EVENTSOURCING,
        "the same; all runs step in one loop and are saved by one call, in one transaction: what a program can do that "
        "drives its aggregates itself",
        ways=("saved together",), asked=("concurrent",), judged=False,
    ),
    System(
        "Burr", "burr", "burr", ("apache-burr==0.43.0",),
        "SQLitePersister on a connection with journal_mode=WAL (else the rollback journal, with more syncs) and "
        "synchronous=FULL; no tracker",
        ways=("8 threads", "1 thread"),
    ),
    System(
        "Restate", "restate", "restate", ("restate-sdk==1.3.0", "hypercorn==0.18.0"),
        "one server on this machine with its default settings, telemetry off; the service over HTTP/2; a step is `ctx.run`",
        server="@restatedev/restate-server@1.7.12",
    ),
)  # fmt: skip
