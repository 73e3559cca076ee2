"""A primary that is killed while its standby confirms every commit: nothing acknowledged is lost, and the old one is refused."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import StoreUnreachable
from eventflow.event import Transitioned
from eventflow.log import Appended, Head, Log, open_log
from eventflow.log.postgres import PostgresLog
from eventflow.log.postgres.address import parse
from eventflow.log.postgres.session import connected
from eventflow.testing.author import Author
from tests.postgres.pairs import Pair

pytestmark = pytest.mark.slow
FULL = os.environ.get("EVENTFLOW_FULL") == "1"
WRITERS, SECONDS = (6, 8.0) if FULL else (2, 0.7)  # that write at once, and how long before the primary dies
ROUNDS = 4 if FULL else 1
MOVE = Transitioned("a", "a")


@dataclass
class Writer:
    """Somebody who appends to a run of its own, and remembers what was acknowledged."""

    number: int
    log: PostgresLog
    acknowledged: list[tuple[int, bytes]] = field(default_factory=list)
    problems: list[BaseException] = field(default_factory=list)
    head: Head | None = None

    def work(self, done: threading.Event) -> None:
        """Append until told to stop; an error that is told is not an acknowledgement."""
        author = Author(self.log, clock=ManualClock(seed=self.number))
        try:
            self.head = author.start(f"run-{self.number}")
            while not done.is_set():
                [answer] = self.log.write([author.then(self.head, MOVE, MOVE)])
                if isinstance(answer, Appended):
                    self.head = answer.head
                    self.acknowledged += [(answer.head.version, answer.head.digest)]
                else:
                    self.problems.append(ValueError(str(answer)))
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.problems.append(error)


def check(log: Log, writers: list[Writer]) -> None:
    """Every acknowledged event is there, once; versions are dense, chains hold, positions have no gap."""
    for writer in writers:
        assert writer.head is not None
        stored = log.read(writer.head.run_key, 1, 1 << 40)
        events = read_events(stored, log.blobs)
        assert [one.version for one in events] == list(range(1, len(events) + 1))
        assert [one.before for one in events[1:]] == [one.digest for one in events[:-1]]
        digests = {one.version: one.digest for one in events}
        assert all(digests[version] == name for version, name in writer.acknowledged)
    positions = [one.position for one in log.feed(0, 1 << 30)]
    assert positions == list(range(1, len(positions) + 1))


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_no_acknowledged_event_is_lost_when_the_primary_dies(pair: Pair, round_: int, record_property) -> None:
    """Writers go on by themselves on the promoted standby; the old primary, back as it was, is neither written nor read."""
    open_log(pair.url).close()
    writers = [Writer(number, PostgresLog(pair.url)) for number in range(WRITERS)]
    done = threading.Event()
    threads = [threading.Thread(target=writer.work, args=(done,)) for writer in writers]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    before = [len(writer.acknowledged) for writer in writers]
    pair.fail()
    while not all(len(w.acknowledged) > count or w.problems for w, count in zip(writers, before, strict=True)):
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert not [problem for writer in writers for problem in writer.problems]
    assert all(before)
    log = writers[0].log
    check(log, writers)
    pair.primary.start()
    with pytest.raises(StoreUnreachable, match="primary of the past"):
        connected(parse(pair.primary.url()), log._seen, readonly=True)
    for writer in writers:
        writer.log.close()
    told = sum(len(writer.acknowledged) for writer in writers)
    record_property("figures", f"a fail-over under {WRITERS} writers, {told:,} batches acknowledged: 0 lost, 0 forks")


def test_a_cut_standby_blocks_and_loses_nothing(pair: Pair) -> None:
    """While the standby is away nothing is acknowledged; back again, what waited is there once."""
    with closing(PostgresLog(pair.url)) as log:
        author = Author(log)
        head = author.start("r")
        pair.standby.stop("immediate")
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.extend(log.write([author.then(head, MOVE)])))
        thread.start()
        while not pair.primary.psql("select pid from pg_stat_activity where wait_event = 'SyncRep'"):
            time.sleep(0.02)
        assert not answers
        pair.standby.start()
        thread.join()
        assert isinstance(answers[0], Appended)
        assert [one.version for one in read_events(log.read(head.run_key, 1, 9), log.blobs)] == [1, 2]
