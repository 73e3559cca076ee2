"""Commands on a store in PostgreSQL: wherever a store is named, an address may stand, and no password is shown."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from eventflow.log import LmdbLog, open_log
from eventflow.log.postgres.address import parse
from eventflow.testing.author import Author
from eventflow.testing.contract.maker import LONG, MOVE, moved
from eventflow.testing.postgres import PostgresServer


def with_password(address: str) -> str:
    """The address as one with a password, which this server does not ask for."""
    return address.replace("postgres@", "postgres:hush-hush@")


def test_doctor_looks_at_the_server(run_eventflow, server: PostgresServer, address: str) -> None:
    """Before there is a store, with one, and for a role that may nothing; a server that is not there is told in a sentence."""
    ended = run_eventflow("doctor", "--store", address, "-o", "json")
    found = {one["what"]: one for one in json.loads(ended.out)["findings"]}
    assert ended.code == 0
    assert found["server"]["detail"].startswith("PostgreSQL")
    assert [found[name]["state"] for name in ("fsync", "full_page_writes", "synchronous_commit", "psycopg")] == [
        "ok"
    ] * 4
    assert found["synchronous standby"]["state"] == "note"
    assert "none in schema" in found["store"]["detail"]
    open_log(address).close()
    found = {
        one["what"]: one
        for one in json.loads(run_eventflow("doctor", "--store", address, "-o", "json").out)["findings"]
    }
    assert [found[name]["state"] for name in ("tables", "privileges", "store", "clock")] == ["ok"] * 4
    role = f"nobody_{parse(address).schema}"
    server.psql(f"create role {role} login")
    poor = run_eventflow("doctor", "--store", address.replace("postgres@", f"{role}@"))
    assert poor.code == 6
    assert run_eventflow("doctor", "--store", "postgresql://ann:hush-hush@127.0.0.1:9/x").code == 6
    with closing(open_log(address)):
        server.psql(f"grant usage on schema {parse(address).schema} to {role}")
        lacking = run_eventflow("doctor", "--store", address.replace("postgres@", f"{role}@"))
        assert lacking.code == 6


def test_commands_take_an_address_and_never_show_its_password(run_eventflow, run_replay, address: str) -> None:
    """Listing, showing, verifying, info and replay's own; errors too."""
    with closing(open_log(address)) as log:
        author = Author(log)
        author.add(author.start("r", {"x": 1}), moved("text", LONG))
    secret = with_password(address)
    ended = [
        run_eventflow("list", "--store", secret), run_eventflow("show", "r", "--store", secret, "-o", "json"),
        run_eventflow("store", "info", "--store", secret), run_replay("log", "r", "--store", secret),
        run_replay("show", "r@1", "--store", secret, "-o", "json"), run_eventflow("doctor", "--store", secret),
        run_eventflow("store", "migrate", "--store", secret),
    ]  # fmt: skip
    assert [one.code for one in ended] == [0] * 7
    assert "3 events" in run_eventflow("store", "verify", "--store", secret).out
    ended.append(run_eventflow("list", "--store", secret.replace("schema=", "schema=x")))
    assert ended[-1].code == 3
    for one in ended:
        assert "hush-hush" not in one.out + one.err


def test_a_store_moves_into_a_database_and_back(run_eventflow, address: str, tmp_path: Path) -> None:
    """LMDB to PostgreSQL to LMDB: the same positions and bytes, and what is new is shipped on."""
    log = LmdbLog(tmp_path / "a")
    author = Author(log)
    head = author.add(author.start("r"), moved("text", LONG))
    for _ in range(2):
        assert run_eventflow("store", "copy", tmp_path / "a", address).code == 0
        assert run_eventflow("store", "copy", address, tmp_path / "b").code == 0
        with (
            closing(open_log(address, readonly=True)) as middle,
            closing(open_log(tmp_path / "b", readonly=True)) as back,
        ):
            assert log.feed(0, 99) == middle.feed(0, 99) == back.feed(0, 99)
            assert log.head("r") == middle.head("r") == back.head("r")
        head = author.add(head, MOVE)
    refused = run_eventflow("delete", "r", "--store", address, "--yes")
    assert refused.code == 6
    assert "promote" in refused.sentence
    assert run_eventflow("store", "promote", "--store", address, "--yes").code == 0
    assert run_eventflow("delete", "r", "--store", address, "--yes").code == 0
    log.close()
