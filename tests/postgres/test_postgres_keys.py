"""An encrypted store in PostgreSQL: its wrapped keys lie in a folder that all its processes see."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from eventflow import Engine, Keyring, Workflow
from eventflow.cipher.master import new_master
from eventflow.errors import NoKey, SettingsError
from eventflow.log import open_log
from eventflow.log.postgres.address import parse
from eventflow.recovery import recover

PLAIN = "a word that nobody may read"


def flow() -> Workflow:
    """A workflow that keeps a secret."""
    return Workflow("secret").add_node("only", lambda _: {"word": PLAIN}).set_start("only")


@pytest.fixture
def master(tmp_path):
    """The file of a master key."""
    file = tmp_path / "master.key"
    new_master(file)
    return file


def run(address, keys, name="r"):
    """Drive one run to its end."""

    async def story():
        async with Engine(address, workflows=[flow()], keys=keys) as engine:
            return await (await engine.start(flow(), {"n": PLAIN}, run_id=name)).result()

    return asyncio.run(story())


def test_keys_lie_in_the_folder_and_values_nowhere(address, master, tmp_path):
    """What the tables hold does not contain the plain text; another process with folder and key reads it."""
    folder = tmp_path / "keys"
    assert run(address, Keyring.from_file(master, folder=folder)) == {"n": PLAIN, "word": PLAIN}
    [of_store] = folder.iterdir()
    assert sorted(file.suffix for file in of_store.iterdir()) == [".key", ".key"]
    where = parse(address)
    with psycopg.connect(where.conninfo) as connection:
        rows = [
            row
            for table, column in (("log", "data"), ("blobs", "stored"), ("snapshots", "root"))
            for row in connection.execute(f"select {column} from {where.schema}.{table}").fetchall()  # noqa: S608
        ]
    assert rows
    assert not any(PLAIN.encode() in row[0] for row in rows)
    log = open_log(address, keys=Keyring.from_file(master, folder=folder))
    assert recover(log, log.head("r")).state.data["word"] == PLAIN
    log.close()


def test_a_ring_without_a_folder_is_refused(address, master):
    """Keys in memory alone would be lost with the process; the sentence says what to set."""
    with pytest.raises(SettingsError, match="EVENTFLOW_KEYS"):
        run(address, Keyring.from_file(master))


def test_the_folder_may_come_from_the_environment(address, master, tmp_path, monkeypatch):
    """EVENTFLOW_KEYS names it, EVENTFLOW_KEY_FILE the master key."""
    monkeypatch.setenv("EVENTFLOW_KEYS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", str(master))
    run(address, None)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_an_encrypted_store_is_not_driven_in_the_open(address, master, tmp_path):
    """Without folder and key nobody can add runs in plain text by accident."""
    run(address, Keyring.from_file(master, folder=tmp_path / "keys"))
    with pytest.raises(NoKey, match="EVENTFLOW_KEYS"):
        run(address, None, "s")
