"""A fleet of workers on servers that Patroni watches over: leaders die, or are left behind by a Patroni that sleeps; nothing is lost.

Needs Patroni and etcd, which are no part of the test extra; skipped where there are none. `.ci/run` brings them.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eventflow.clock import ManualClock
from eventflow.log import open_log
from eventflow.log.postgres import PostgresLog
from eventflow.testing.author import Author
from tests.postgres.fleet import COUNTED, Feeder, Fleet, amiss, table_amiss, until_over
from tests.postgres.patroni_cluster import TTL, Cluster, a_cluster, lacking, version

pytestmark = pytest.mark.slow
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
ACTS = ("crash", "kill", "sleep") * 3 if FULL else ("crash", "kill")
WORKERS = 6 if FULL else 3
LEASE = 2.0
BOUND = 2 * TTL  # seconds from a leader's death until the store can be written: Patroni waits a TTL, and promotes then


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three servers, of which one confirms the commits of another."""
    if reason := lacking():
        pytest.skip(reason)
    pytest.importorskip("psycopg")
    with a_cluster() as three:
        yield three


@dataclass
class Trouble:
    """What befalls the leaders, and how long after it a store that is opened anew could be written."""

    cluster: Cluster
    url: str
    waits: list[float] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def befall(self, act: str) -> None:
        """One of the troubles, and the way out of it."""
        getattr(self, act)()
        self.done[act] += 1

    def crash(self) -> None:
        """The leader's server dies, and Patroni sees it."""
        self.cluster.leader().kill_server()
        self._writable()

    def kill(self) -> None:
        """The leader's server and its Patroni die together; they come back as they were."""
        leader = self.cluster.leader()
        leader.kill()
        self._writable()
        leader.start()

    def sleep(self) -> None:
        """The leader's Patroni sleeps: another one leads, and the old server goes on taking connections until it wakes."""
        leader = self.cluster.leader()
        leader.signal(signal.SIGSTOP)
        try:
            self.cluster.until(lambda: self.cluster.led_by_another(leader))
            self._writable()
        finally:
            leader.signal(signal.SIGCONT)

    def _writable(self) -> None:
        """Open the store anew, and write to it."""
        began = time.monotonic()
        with closing(PostgresLog(self.url, patience=3 * BOUND)) as log:
            Author(log, clock=ManualClock(seed=1_000 + len(self.waits))).start(f"probe-{len(self.waits)}")
        self.waits.append(time.monotonic() - began)


def test_whatever_befalls_its_leaders_nothing_is_lost(cluster: Cluster, tmp_path: Path, record_property) -> None:
    """Every acknowledged event is there once, chains hold, no epoch goes back, every run ends; it can be written soon."""
    url = f"{cluster.url}&lease={LEASE}"
    open_log(url).close()
    cluster.psql(COUNTED)
    fleet, feeder, trouble = Fleet(url, tmp_path), Feeder(url), Trouble(cluster, url)
    for _ in range(WORKERS):
        fleet.add()
    feeder.start()
    try:
        for act in ACTS:
            time.sleep(1.0)  # they are at it
            trouble.befall(act)
            fleet.mend()
        cluster.whole()  # those that were killed follow the others
        feeder.stop()
        with closing(open_log(url, readonly=True)) as log:
            until_over(log, fleet, 60)
            fleet.end()
            found = [
                one for one in amiss(log, fleet, feeder.names) if not one.startswith("probe-")
            ]  # nobody drives those
            found += table_amiss(cluster.psql, log)
    finally:
        feeder.stop()
        fleet.end()
    assert not found, (found[:10], trouble.done, (tmp_path / "errors").read_text()[-2_000:])
    assert len(feeder.names) > 10
    assert max(trouble.waits) < BOUND
    record_property(
        "figures",
        f"Patroni {version('patroni')}, etcd {version('etcd')}: {len(ACTS)} fail-overs, {fleet.acknowledged}: "
        f"0 lost; writable after {', '.join(f'{one:.1f}' for one in trouble.waits)} s",
    )
