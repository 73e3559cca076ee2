"""Two servers, one of which confirms the commits of the other: for tests in which the first one dies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from eventflow.testing.postgres import PostgresServer

_SETTINGS = {"max_wal_senders": "4", "wal_level": "replica", "hot_standby": "on"}
_LONGEST = 60  # seconds that anything here may take


@dataclass
class Pair:
    """A primary and a standby that confirms its commits; `fail` promotes the standby."""

    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """An address that finds whichever of the two takes writes, in an order that does not change."""
        hosts = ",".join(sorted(str(one.directory) for one in (self.primary, self.standby)))
        return f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"

    def join(self, *, synchronous: bool = True) -> None:
        """Let the standby follow the primary, from a copy of it, and the primary wait for it."""
        self.primary.program(
            "pg_basebackup", "-h", self.primary.directory, "-U", "postgres", "-D", self.standby.data, "-R", "-X", "stream",
            "-c", "fast", "--no-sync",
        )  # fmt: skip
        self.standby.start()
        _set_standbys(self.primary, "*" if synchronous else "")
        state = "sync" if synchronous else "async"
        asked = f"select count(*) from pg_stat_replication where sync_state = '{state}'"  # noqa: S608 - a word of ours
        end = time.monotonic() + _LONGEST
        while self.primary.psql(asked) != "1":
            assert time.monotonic() < end, self.standby.log()
            time.sleep(0.05)

    def fail(self) -> None:
        """Kill the primary as a power cut does, and promote the standby, which then needs none itself."""
        self.primary.kill()
        self.fail_over()

    def fail_over(self) -> None:
        """Promote the standby of a primary that is dead."""
        self.standby.program("pg_ctl", "-w", "-D", self.standby.data, "promote")
        _set_standbys(self.standby, "")

    def swapped(self) -> Pair:
        """The same with the parts exchanged: what was the primary is made anew, as the standby."""
        self.primary.stop()
        shutil.rmtree(self.primary.data)
        pair = Pair(self.standby, self.primary)
        pair.join()
        return pair


def _set_standbys(server: PostgresServer, names: str) -> None:
    server.psql(f"alter system set synchronous_standby_names = '{names}'")
    server.psql("select pg_reload_conf()")


@contextmanager
def a_pair(*, synchronous: bool = True) -> Iterator[Pair]:
    """Two servers of which the second follows the first."""
    standby = PostgresServer(settings=_SETTINGS)
    with PostgresServer(settings=_SETTINGS) as primary:
        two = Pair(primary, standby)
        try:
            two.join(synchronous=synchronous)
            yield two
        finally:
            with suppress(Exception):
                standby.__exit__()
