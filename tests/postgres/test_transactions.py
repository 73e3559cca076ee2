"""Transactions of a node's own: its writes and the record of them are kept together or not at all, whatever dies."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from eventflow import Engine, Workflow
from eventflow.cipher import Keyring
from eventflow.clock import ManualClock
from eventflow.codec import read_events
from eventflow.errors import Conflict, EffectMisused, NoTransactions, RunFailed
from eventflow.event import EffectFailed, EffectFinished, EffectStarted, Transitioned
from eventflow.log import open_log
from eventflow.log.postgres.address import parse
from eventflow.recovery import history
from eventflow.testing.author import Author
from eventflow.testing.postgres import PostgresServer

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
KILLS, TRANSACTIONS = (40, 400) if FULL else (4, 60)
# Makes a transaction a step until there are enough of them, or it is killed.
COUNTER = """
    import asyncio, sys
    from eventflow import Engine, Workflow
    def count(connection, n):
        connection.execute("insert into counted values (%s)", (n,))
        return n
    async def step(state, run):
        print(state["n"], flush=True)
        return {"n": await run.transaction("count", count, state["n"]) + 1}
    enough = int(sys.argv[2])
    flow = Workflow("count").add_node("step", step).add_node("end", lambda s: {})
    flow.add_edge("step", "step", when=lambda s: s["n"] < enough).add_edge("step", "end").set_start("step")
    async def main():
        async with Engine(sys.argv[1], workflows=[flow], crashes=None) as engine:
            if engine.log.head("r") is None:
                await engine.start(flow, {"n": 0}, run_id="r")
            while (run := engine.get("r")).status != "completed":
                await engine.pick_up()
                await run.wait()
                await asyncio.sleep(0.02)
    asyncio.run(main())
"""


@pytest.fixture
def money(server: PostgresServer) -> Callable[[], int]:
    """A table with one number in it, beside the store's schemas; what it holds."""
    server.psql("drop table if exists money; create table money (n int); insert into money values (0)")
    return lambda: int(server.psql("select n from money"))


def add(connection: psycopg.Connection, n: int) -> int:
    """Put something into the table; what is in it then."""
    return int(connection.execute("update money set n = n + %s returning n", (n,)).fetchall()[0][0])


def one(body: Any) -> Workflow:
    """A workflow of one node."""
    return Workflow("one").add_node("only", body).set_start("only")


def driven(address: str, body: Any, **options: Any) -> tuple[Any, list[str]]:
    """The result of a run, or the error it failed with, and the names of its events on calls."""

    async def story() -> tuple[Any, list[str]]:
        async with Engine(address, workflows=[flow := one(body)], **options) as engine:
            run = await engine.start(flow, {}, run_id="r")
            try:
                result = await run.result()
            except RunFailed as error:
                result = error
            events = [recorded.event for recorded in run.events()]
        return result, [
            type(e).__name__ for e in events if isinstance(e, EffectStarted | EffectFinished | EffectFailed)
        ]

    return asyncio.run(story())


def test_its_writes_and_its_record_are_there_together(address: str, money: Callable[[], int]) -> None:
    """What the function wrote is in its table, what it returned in the log, and a plain node does it as well."""

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        return {"after": [await run.transaction("add", add, 5), await run.transaction("add", add, 7)]}

    assert driven(address, pay) == ({"after": [5, 12]}, ["EffectStarted", "EffectFinished"] * 2)

    def plain(_: Any, run: Any) -> dict[str, Any]:
        return {"after": run.transaction_sync("add", add, 1)}

    assert driven(f"{address}2", plain)[0] == {"after": 13}
    assert money() == 13


def test_an_encrypted_store_records_it_encrypted(address: str, money: Callable[[], int], tmp_path) -> None:
    """The record of a transaction passes the same lock as any other event."""
    keys = Keyring.from_file(_key(tmp_path), folder=tmp_path / "keys")

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        return {"after": await run.transaction("add", lambda c: f"marzipan {add(c, 1)}")}

    assert driven(address, pay, keys=keys)[0] == {"after": "marzipan 1"}
    with closing(open_log(address, readonly=True)) as log:
        assert not any(b"marzipan" in stored.data for stored in log.feed(0, 99))
    assert money() == 1


def _key(tmp_path: Any) -> Any:
    file = tmp_path / "key"
    file.write_text("q" * 42 + "o=")  # 32 bytes in base64
    file.chmod(0o600)
    return file


def test_an_error_takes_back_what_it_wrote(address: str, money: Callable[[], int]) -> None:
    """The call is recorded as failed, and its table is as before."""

    def fails(connection: psycopg.Connection) -> None:
        add(connection, 100)
        raise ValueError("no")

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        with pytest.raises(ValueError, match="no"):
            await run.transaction("fails", fails)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await run.transaction("wrong", lambda c: c.execute("update nothing set n = 1"))
        return {}

    assert driven(address, pay) == ({}, ["EffectStarted", "EffectFailed"] * 2)
    assert money() == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda c: c.execute("rollback") and None,
        lambda c: c.execute("rollback") and add(c, 50),
        lambda c: c.execute("set transaction isolation level serializable") and None,
    ],
)
def test_a_function_that_ends_the_transaction_is_told_so(address: str, money: Callable[[], int], function: Any) -> None:
    """What it wrote is not kept, and the call failed."""

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        with pytest.raises((EffectMisused, psycopg.Error)):
            await run.transaction("odd", function)
        return {}

    assert driven(address, pay)[1] == ["EffectStarted", "EffectFailed"]
    assert money() == 0


def test_other_stores_have_none() -> None:
    """The error names what is needed and what can be used in its place; no call was begun."""

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        with pytest.raises(NoTransactions, match=r"PostgreSQL.*run\.effect"):
            await run.transaction("add", add, 5)
        return {}

    assert driven("memory", pay) == ({}, [])


def test_a_transaction_whose_connection_is_cut_is_made_again(server: PostgresServer, address: str, money: Any) -> None:
    """Cut while its function was at work, it has not happened; the second time it is kept, once."""
    calls: list[int] = []

    def cut(connection: psycopg.Connection) -> int:
        after = add(connection, 1)
        calls.append(after)
        if len(calls) == 1:
            server.psql(f"select pg_terminate_backend({connection.info.backend_pid})")
            connection.execute("select 1")
        return after

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        return {"after": await run.transaction("cut", cut)}

    assert driven(address, pay) == ({"after": 1}, ["EffectStarted", "EffectFinished"])
    assert (calls, money()) == ([1, 1], 1)


def test_a_commit_whose_answer_is_lost_is_not_made_again(way: Any, money: Callable[[], int]) -> None:
    """The server kept it: that is looked up, and the function is called once."""
    lossy, address = way
    calls: list[int] = []

    def paid(connection: psycopg.Connection) -> int:
        calls.append(add(connection, 1))
        lossy.lose_answer(b"COMMIT")
        return calls[-1]

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        return {"after": await run.transaction("pay", paid)}

    assert driven(address, pay) == ({"after": 1}, ["EffectStarted", "EffectFinished"])
    assert (calls, money()) == ([1], 1)


def test_who_was_taken_over_meanwhile_has_written_nothing(server: PostgresServer, address: str, money: Any) -> None:
    """A transaction of a process whose run another one has taken is refused as a whole, its own tables included."""
    other = b"p" * 16
    schema = parse(address).schema

    def overtaken(connection: psycopg.Connection) -> int:
        server.psql(f"update {schema}.owners set lease_until = clock_timestamp() - interval '1 s'")  # noqa: S608 - ours
        with closing(open_log(address)) as log:
            author = Author(log, clock=ManualClock(seed=6))
            end = log.new_owner(other)
            head = log.head("r")
            assert head is not None
            author.add(head, Transitioned("only", "only"), claim=other)
            end()
        return add(connection, 1000)

    async def pay(_: Any, run: Any) -> dict[str, Any]:
        return {"after": await run.transaction("overtaken", overtaken)}

    with pytest.raises(Conflict):
        driven(address, pay)
    assert money() == 0
    with closing(open_log(address, readonly=True)) as log:
        head = log.head("r")
        assert head is not None
        events = read_events(log.read(head.run_key, 1, 9), log.blobs)
        assert not [one for one in events if isinstance(one.event, EffectFinished)]
        assert [one.epoch for one in events] == [1, 1, 2]


@pytest.mark.slow
def test_killed_again_and_again_each_is_there_once(server: PostgresServer, new_address: Any, program: Any) -> None:
    """The rows are those of the recorded finishes, each once, wherever between begin and commit the process was killed."""
    address = new_address(lease="0.5")
    server.psql("drop table if exists counted; create table counted (n int)")
    luck = random.Random(5)  # noqa: S311 - the same each time
    for _ in range(KILLS):
        running = program(COUNTER, address, str(TRANSACTIONS))
        assert running.line()
        time.sleep(luck.random() * 0.15)
        running.end()
        assert _recorded(address) == _counted(server)
    last = program(COUNTER, address, str(TRANSACTIONS))
    while last.line():
        pass
    assert _counted(server) == list(range(TRANSACTIONS)) == _recorded(address)


def _counted(server: PostgresServer) -> list[int]:
    return [int(n) for n in server.psql("select n from counted order by n").split()]


def _recorded(address: str) -> list[int]:
    with closing(open_log(address, readonly=True)) as log:
        head = log.head("r")
        assert head is not None
        found = history(log, head.run_key, 1, head.version)
        return [one.event.output for one in found if isinstance(one.event, EffectFinished)]
