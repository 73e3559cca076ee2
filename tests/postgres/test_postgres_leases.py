"""Leases by the database's clock: who lives, who is taken over, and what a sleeper may still do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import Fenced, RunOwned
from eventflow.event import Transitioned
from eventflow.log import Appended, open_log
from eventflow.log.postgres import PostgresLog
from eventflow.log.postgres.address import parse
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer

MOVE = Transitioned("a", "a")
OWNER, OTHER = b"o" * 16, b"p" * 16
# Takes run r as OWNER and says so; then appends once for each line it is told, and says what came of it.
DRIVER = """
    import sys, time
    from eventflow.clock import ManualClock
    from eventflow.event import Transitioned
    from eventflow.log import Appended, open_log
    from eventflow.testing.author import Author
    log = open_log(sys.argv[1])
    log.new_owner(b"o" * 16)
    author = Author(log, clock=ManualClock(seed=5))
    head = author.start("r", claim=b"o" * 16)
    print("driving", flush=True)
    for told in sys.stdin:
        if told == "holds?\\n":
            print(log.holds(b"o" * 16), flush=True)
            continue
        [answer] = log.write([author.then(head, Transitioned("a", "a"))])
        print(type(answer).__name__, flush=True)
        if isinstance(answer, Appended):
            head = answer.head
"""


def until_gone(log: PostgresLog, owner: bytes) -> None:
    """Wait until an owner's lease is over."""
    while not log.owner_gone(owner):
        time.sleep(0.02)


def test_a_heartbeat_keeps_a_lease_alive(new_address: Callable[..., str]) -> None:
    """Long after its first lease would have ended, the owner lives; once it ends, it is gone at once."""
    with closing(open_log(new_address(lease="0.5"))) as log:
        end = log.new_owner(OWNER)
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert not log.owner_gone(OWNER)
            time.sleep(0.05)
        assert log.owner_text(OWNER).startswith("process ")
        end()
        assert log.owner_gone(OWNER)


def test_a_killed_process_is_taken_over_after_its_lease(new_address: Callable[..., str], program) -> None:
    """Until then the run is owned; then the next owner's claim raises the epoch, in the transaction of its event."""
    address = new_address(lease="1")
    driver = program(DRIVER, address)
    assert driver.line() == "driving"
    with closing(open_log(address)) as log:
        author = Author(log, clock=ManualClock(seed=6))
        log.new_owner(OTHER)
        head = log.head("r")
        assert head is not None
        driver.signal(signal.SIGKILL)
        [owned] = log.write([author.then(head, MOVE, claim=OTHER)])
        assert isinstance(owned, RunOwned)
        until_gone(log, OWNER)
        taken = author.add(head, MOVE, claim=OTHER)
        assert (taken.epoch, taken.owner) == (2, OTHER)
        assert [one.epoch for one in read_events(log.read(head.run_key, 1, 9), log.blobs)] == [1, 2]


def test_a_process_that_slept_past_its_lease_is_fenced(new_address: Callable[..., str], program) -> None:
    """Stopped, taken over and woken again, its append is refused by the epoch; the events are those of the new owner."""
    address = new_address(lease="1")
    driver = program(DRIVER, address)
    assert driver.line() == "driving"
    driver.tell("holds?")
    assert driver.line() == "True"
    with closing(open_log(address)) as log:
        driver.signal(signal.SIGSTOP)
        until_gone(log, OWNER)
        author = Author(log, clock=ManualClock(seed=6))
        log.new_owner(OTHER)
        head = log.head("r")
        assert head is not None
        taken = author.add(head, MOVE, claim=OTHER)
        driver.signal(signal.SIGCONT)
        for _ in range(5):  # and it never trusts its lease again, though heartbeats come through
            driver.tell("holds?")
            assert driver.line() == "False"
            time.sleep(0.2)
        driver.tell("go on")
        assert driver.line() in (Fenced.__name__, "VersionConflict")
        assert log.head("r") == taken


def test_a_process_that_slept_and_was_not_missed_goes_on(new_address: Callable[..., str], program) -> None:
    """Nobody took its run over: its epoch still holds, and so does its next heartbeat."""
    address = new_address(lease="0.5")
    driver = program(DRIVER, address)
    assert driver.line() == "driving"
    with closing(open_log(address)) as log:
        driver.signal(signal.SIGSTOP)
        until_gone(log, OWNER)
        driver.signal(signal.SIGCONT)
        driver.tell("go on")
        assert driver.line() == Appended.__name__
        while log.owner_gone(OWNER):
            time.sleep(0.02)


def test_heartbeats_outlive_a_lost_connection(server: PostgresServer, new_address: Callable[..., str]) -> None:
    """A heartbeat's connection that was cut is made anew within the lease."""
    address = new_address(lease="1")
    with closing(PostgresLog(address)) as log:
        log.new_owner(OWNER)
        connection = log._leases._connection
        assert connection is not None
        server.psql(f"select pg_terminate_backend({connection.info.backend_pid})")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not log.owner_gone(OWNER)
            time.sleep(0.05)


def test_the_lease_is_measured_by_the_databases_clock(server: PostgresServer, new_address: Callable[..., str]) -> None:
    """What counts is in the table; no clock of a client is asked."""
    address = new_address(lease="60")
    with closing(PostgresLog(address, clock=ManualClock(start=0))) as log:
        log.new_owner(OWNER)
        left = f"select round(extract(epoch from lease_until - clock_timestamp())) from {parse(address).schema}.owners"  # noqa: S608 - our own schema
        assert 55 <= int(server.psql(left)) <= 60
        server.psql(f"update {parse(address).schema}.owners set lease_until = clock_timestamp() - interval '1 s'")  # noqa: S608 - our own schema
        assert log.owner_gone(OWNER)


# Runs a workflow whose second node stands still when it is told to: to be killed there.
STEPS = """
    import asyncio, sys
    from pathlib import Path
    from typing import TypedDict
    from eventflow import Engine, Workflow
    class Data(TypedDict):
        called: list[str]
    async def first(state, run):
        return {"called": [await run.effect("pay", lambda idempotency_key: note("first"))]}
    async def second(state, run):
        paid = await run.effect("pay", lambda idempotency_key: note("second"))
        if sys.argv[2] == "hang":
            print("hangs", flush=True)
            await asyncio.sleep(600)
        return {"called": [*state["called"], paid]}
    def note(name):
        with Path(sys.argv[3]).open("a") as file:
            file.write(f"{name}\\n")
        return name
    flow = (
        Workflow("steps", state=Data).add_node("first", first).add_node("second", second).add_edge("first", "second")
        .set_start("first")
    )
    async def main():
        async with Engine(sys.argv[1], workflows=[flow]) as engine:
            if sys.argv[2] == "hang":
                run = await engine.start(flow, {"called": []}, run_id="r")
            else:
                while not (taken := (await engine.pick_up())[0]):
                    await asyncio.sleep(0.05)
                run = taken[0]
            print((await run.result())["called"], flush=True)
    asyncio.run(main())
"""


def test_a_killed_engines_run_goes_on_in_another(new_address: Callable[..., str], program, tmp_path: Path) -> None:
    """After the lease another engine picks the run up; calls that were recorded are not made again."""
    address, notes = new_address(lease="1"), tmp_path / "notes"
    first = program(STEPS, address, "hang", str(notes))
    assert first.line() == "hangs"
    first.signal(signal.SIGKILL)
    second = program(STEPS, address, "go on", str(notes))
    assert second.line() == "['first', 'second']"
    assert notes.read_text().split() == ["first", "second"]
    with closing(open_log(address, readonly=True)) as log:
        head = log.head("r")
        assert head is not None
        assert (head.status, head.epoch) == ("completed", 2)
        events = read_events(log.read(head.run_key, 1, 99), log.blobs)
        assert [one.epoch for one in events] == sorted(one.epoch for one in events)
