"""The commands for a store in a second place: copy, follow, promote, migrate; and what doctor says of a database."""

from __future__ import annotations

import json
from pathlib import Path

from eventflow.log import LmdbLog, open_copy
from eventflow.testing.author import Author
from eventflow.testing.contract.maker import MOVE


def store_at(path: Path) -> None:
    """A store with one run."""
    log = LmdbLog(path)
    author = Author(log)
    author.add(author.start("r"), MOVE)
    log.close()


def test_a_store_is_copied_followed_and_promoted(run_eventflow, tmp_path):
    """The copy is read like the store, can't be driven before it is promoted, and can't be copied into afterwards."""
    store_at(tmp_path / "a")
    ended = run_eventflow("store", "copy", tmp_path / "a", tmp_path / "b", "-o", "json")
    document = json.loads(ended.out)
    assert (document["schema"], document["copied"], document["events"]) == ("eventflow.copy/1", 2, 3)
    assert "2 events" not in run_eventflow("store", "follow", tmp_path / "a", tmp_path / "b", "--once").out
    listed = run_eventflow("list", "--store", tmp_path / "b", "-o", "json")
    assert [row["run"] for row in json.loads(listed.out)["rows"]] == ["r"]
    refused = run_eventflow("delete", "r", "--store", tmp_path / "b", "--yes")
    assert refused.code == 6
    assert "store promote" in refused.sentence
    assert run_eventflow("store", "promote", "--store", tmp_path / "b").code == 2  # nobody can be asked here
    promoted = run_eventflow("store", "promote", "--store", tmp_path / "b", "--yes", "--why", "moved", "-o", "json")
    assert json.loads(promoted.out)["generation"] == 1
    assert run_eventflow("store", "promote", "--store", tmp_path / "b", "--yes").code == 5
    assert run_eventflow("store", "copy", tmp_path / "a", tmp_path / "b").code == 5
    assert run_eventflow("delete", "r", "--store", tmp_path / "b", "--yes").code == 0


def test_what_can_not_be_copied_is_said(run_eventflow, tmp_path):
    """A source that is not there, a target that is another store, and the store itself; nothing is made of the first."""
    store_at(tmp_path / "a")
    LmdbLog(tmp_path / "other").close()
    assert run_eventflow("store", "copy", tmp_path / "nowhere", tmp_path / "b").code == 3
    assert not (tmp_path / "b").exists()
    assert run_eventflow("store", "copy", tmp_path / "a", tmp_path / "other").code == 5
    assert run_eventflow("store", "copy", tmp_path / "a", tmp_path / "a" / ".." / "a").code == 2


def test_a_copy_is_shown_as_one(run_eventflow, tmp_path):
    """It says that it follows; a store that follows nobody does not."""
    store_at(tmp_path / "a")
    run_eventflow("store", "copy", tmp_path / "a", tmp_path / "b")
    for name, follows in (("a", False), ("b", True)):
        log = open_copy(tmp_path / name, readonly=True)
        assert log.follows is follows
        log.close()


def test_only_a_database_has_tables_to_migrate(run_eventflow, tmp_path):
    """A directory is told so."""
    ended = run_eventflow("store", "migrate", "--store", tmp_path / "a")
    assert ended.code == 2
    assert "postgresql" in ended.sentence
