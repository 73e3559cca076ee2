"""store backup, restore, export, import, repair; store verify of others' stores; who keeps what in store info."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from eventflow.codec import read_events
from eventflow.event import BackupMade, RunsImported, StoreRepaired, StoreRestored
from eventflow.log import STORE_RUN, LmdbLog

STORE = "runs.eventflow"


@pytest.fixture
def store(run_eventflow, flows, desk) -> Path:
    """A store with a run `r` that is over, and one that failed."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    run_eventflow("run", "flows:failing", "--id", "f")
    return desk / STORE


def last_act(path: Path) -> object:
    """What the store's own stream said last."""
    with closing(LmdbLog(path, readonly=True)) as log:
        head = log.head_of(STORE_RUN)
        return read_events(log.read(STORE_RUN, head.version, head.version), log.blobs)[0].event


def test_a_store_in_a_database_is_backed_up_by_other_means(run_eventflow, desk):
    """Which are named; its address is not taken for a path, and is not shown."""
    ended = run_eventflow("store", "backup", "b", "--store", "postgresql://ann:hush-hush@127.0.0.1:9/db")
    assert ended.code == 2
    assert "`eventflow store copy`" in ended.sentence
    assert "hush" not in ended.err
    assert not (desk / "b").exists()


# --- backup and restore --------------------------------------------------------------------------------------------


def test_a_backup_has_a_stable_document(run_eventflow, store):
    """Number, position, digest, place, and what was done; the act has actor and reason."""
    ended = run_eventflow("store", "backup", "b", "--verify", "--actor", "ann", "--why", "nightly", "-o", "json")
    document = ended.json
    assert ended.code == 0
    assert list(document) == [
        "schema", "store", "number", "position", "digest", "time", "path", "bytes", "keys", "recorded", "verified",
    ]  # fmt: skip
    assert (document["schema"], document["number"], document["verified"]) == ("eventflow.backup/1", 1, True)
    said = last_act(store)
    assert isinstance(said, BackupMade)
    assert (said.upto, said.actor, said.why) == (document["position"], "ann", "nightly")
    more = run_eventflow("store", "backup", "b", "--incremental", "-o", "json").json
    assert (more["number"], more["path"], more["verified"]) == (2, "b/increments/000002.efinc", None)


def test_a_restore_has_a_stable_document(run_eventflow, store):
    """What was restored, as of which position, and which generation it is."""
    run_eventflow("store", "backup", "b")
    ended = run_eventflow("store", "restore", "b", "back", "--verify", "--why", "fire", "-o", "json")
    document = ended.json
    assert list(document) == [
        "schema", "path", "store", "number", "position", "digest", "time", "upto", "generation", "runs", "lost", "verified",
    ]  # fmt: skip
    assert (document["runs"], document["generation"], document["lost"], document["verified"]) == (2, 1, [], True)
    assert isinstance(last_act(store.parent / "back"), StoreRestored)
    assert [one["run"] for one in run_eventflow("list", "--store", "back", "-o", "jsonl").lines] == ["f", "r"]


def test_a_restore_takes_a_position_or_a_time(run_eventflow, store):
    """As of then; a point that is not there is a wrong argument."""
    run_eventflow("store", "backup", "b")
    assert "1 run as they were at position 3" in run_eventflow("store", "restore", "b", "early", "--at", "3").out
    assert run_eventflow("store", "restore", "b", "now", "--at", "2100-01-01").code == 0
    for at in ("0", "999", "2001-01-01", "noon"):
        assert run_eventflow("store", "restore", "b", "never", "--at", at).code == 2
    assert not (store.parent / "never").exists()


def test_what_is_there_is_a_conflict_and_what_is_not_is_not_found(run_eventflow, store):
    """Exit codes 5 and 3, in one sentence."""
    run_eventflow("store", "backup", "b")
    for argv in (("backup", "b"), ("restore", "b", STORE), ("repair", STORE, "b")):
        ended = run_eventflow("store", *argv)
        assert ended.code == 5
        assert "is there already" in ended.sentence
    for argv in (
        ("backup", "c", "--incremental"),
        ("restore", "c", "d"),
        ("repair", "c", "d"),
        ("backup", "d", "--store", "c"),
    ):
        assert run_eventflow("store", *argv).code == 3, argv
    assert not (store.parent / "c").exists()


def test_a_backup_that_does_not_hold_is_exit_code_4(run_eventflow, store):
    """What was wrong in the store before it was copied is found when it is read, and the copy is named."""
    with lmdb.open(str(store / "data.1"), max_dbs=20) as env:
        table = env.open_db(b"index", create=False)
        with env.begin(write=True) as txn, txn.cursor(db=table) as cursor:
            cursor.first()
            cursor.delete()
    ended = run_eventflow("store", "backup", "b", "--verify")
    assert ended.code == 4
    assert "the backup b does not hold" in ended.err


def test_a_restore_beside_a_store_at_work_asks(run_eventflow, store, child):
    """Its runs would be driven twice; with --yes it is done."""
    run_eventflow("store", "backup", "b")

    def drive(say) -> None:
        log = LmdbLog(store)
        owner = b"o" * 16
        log.new_owner(owner)
        with log._env.writing() as txn:
            from dataclasses import replace  # noqa: PLC0415 - in a child

            from eventflow.log.lmdb.tables import head_from, head_row  # noqa: PLC0415

            head = head_from(b"f", txn.get(b"f", db=log._env.tables.names))
            txn.put(b"f", head_row(replace(head, owner=owner)), db=log._env.tables.names)
        say("driving")
        time.sleep(60)

    one = child(drive)
    one.line()
    ended = run_eventflow("store", "restore", "b", "back")
    assert ended.code == 2
    assert "1 of its runs are being driven" in ended.err
    assert not (store.parent / "back").exists()
    assert run_eventflow("store", "restore", "b", "back", "--yes").code == 0


# --- export, import, repair ----------------------------------------------------------------------------------------


def test_an_export_is_what_replay_writes(run_eventflow, run_replay, store):
    """The whole store, in the same bytes; the name must end as replay knows it, and nothing is written over."""
    assert run_eventflow("store", "export", "a.cborseq", "-o", "json").json["events"] == 6
    run_replay("export", "--all", "b.cborseq")
    assert (store.parent / "a.cborseq").read_bytes() == (store.parent / "b.cborseq").read_bytes()
    assert (store.parent / "a.cborseq").stat().st_mode & 0o777 == 0o600
    for name in ("a.cborseq", "a.json"):
        assert run_eventflow("store", "export", name).code == 2


def test_an_import_takes_a_file_or_a_store(run_eventflow, store):
    """Into a new store, or one that is there; what it did is in its own stream, with the operator's reason."""
    run_eventflow("store", "export", "a.cborseq")
    ended = run_eventflow("store", "import", "a.cborseq", "--into", "new", "--why", "moved", "-o", "json")
    assert ended.json == {
        "schema": "eventflow.import/1",
        "store": "new",
        "runs": ["r", "f"],
        "present": [],
        "events": 5,
        "without_key": 0,
        "hidden": 0,
        "unopened": 0,
    }
    said = last_act(store.parent / "new")
    assert isinstance(said, RunsImported)
    assert said.why == "moved"
    again = run_eventflow("store", "import", STORE, "--into", "new", "-o", "json")
    assert (again.json["runs"], again.json["present"]) == ([], ["r", "f"])
    assert run_eventflow("store", "verify", "--store", "new").code == 0


@pytest.mark.parametrize("words", [("import", "a.cborseq", "--into"), ("backup",), ("restore", "b"), ("repair", STORE)])
def test_a_database_s_address_is_no_directory(run_eventflow, store, words):
    """It is refused without its password, and no directory of that name is made."""
    run_eventflow("store", "export", "a.cborseq")
    run_eventflow("store", "backup", "b")
    ended = run_eventflow("store", *words, "postgresql://ann:secret@host/name")
    assert (ended.code, "secret" in ended.err) == (2, False)
    assert not (store.parent / "postgresql:").exists()


def test_an_import_of_what_does_not_hold_takes_nothing(run_eventflow, store):
    """Neither from a changed file nor from a damaged store; and no store is left half-made."""
    run_eventflow("store", "export", "a.cborseq")
    data = (store.parent / "a.cborseq").read_bytes()
    (store.parent / "a.cborseq").write_bytes(data[:-50] + bytes([data[-50] ^ 1]) + data[-49:])
    os.truncate(store / "data.1" / "data.mdb", 8192)
    for source in ("a.cborseq", STORE):
        ended = run_eventflow("store", "import", source, "--into", "new")
        assert ended.code in (4, 6)
        assert "Traceback" not in ended.err
    assert sorted(path.name for path in store.parent.iterdir() if "new" in path.name) == []


def test_a_repair_lists_what_was_lost_with_exit_code_4(run_eventflow, store):
    """And with 0 if nothing was."""
    whole = run_eventflow("store", "repair", STORE, "whole", "-o", "json")
    assert (whole.code, whole.json["lost"], whole.json["runs"]) == (0, [], 2)
    with closing(LmdbLog(store, readonly=True)) as log:
        event = log.read(log.head("r").run_key, 2, 2)[0].data
    file = store / "data.1" / "data.mdb"
    file.write_bytes(file.read_bytes().replace(event, event[:-40] + bytes([event[-40] ^ 1]) + event[-39:]))
    part = run_eventflow("store", "repair", STORE, "part", "-o", "json")
    assert part.code == 4
    assert [(one["run"], one["version"]) for one in part.json["lost"]] == [("r", 2)]
    said = last_act(store.parent / "part")
    assert isinstance(said, StoreRepaired)
    assert "not saved:" in run_eventflow("store", "repair", STORE, "again").out


# --- verify, info --------------------------------------------------------------------------------------------------


def test_verify_of_a_path_reads_a_private_copy(run_eventflow, store, desk):
    """A store from anybody is told from a run by its being a directory; damage is a finding, and exit code 4."""
    shutil.copytree(store, desk / "theirs")
    assert run_eventflow("store", "verify", "theirs", "-o", "json").json["runs"] == 2
    (desk / "theirs" / "data.1" / "data.mdb").unlink()
    (desk / "theirs" / "data.1" / "data.mdb").symlink_to(store / "data.1" / "data.mdb")
    ended = run_eventflow("store", "verify", "theirs", "-o", "json")
    assert ended.code == 4
    assert "links" in ended.json["findings"][0]["problem"]


def test_verify_in_this_process_finds_the_same(run_eventflow, store):
    """The fast path is the same audit."""
    one = run_eventflow("store", "verify", "-o", "json").json
    assert run_eventflow("store", "verify", "--in-process", "-o", "json").json == one


def test_info_tells_who_keeps_what(run_eventflow, store, child, monkeypatch):
    """Readers with how far behind they are, and a word on what to do about those that are far behind."""
    monkeypatch.setattr("eventflow.cli.attending.LONG", 2)

    def read_on(say) -> None:
        log = LmdbLog(store, readonly=True)
        with log._env.reading():
            say("reading")
            time.sleep(60)

    reader = child(read_on)
    reader.line()
    assert run_eventflow("store", "info", "-o", "json").json["attending"]["warnings"] == []
    run_eventflow("run", "flows:flow", "--id", "more", "--input", '{"n": 1}')
    found = run_eventflow("store", "info", "-o", "json").json["attending"]
    assert list(found) == ["readers", "oldest", "cleared", "writer", "owners", "warnings"]
    (one,) = [one for one in found["readers"] if one["process"] == reader.pid]
    assert one["behind"] == found["oldest"] >= 2
    assert f"process {reader.pid} has been reading since" in found["warnings"][0]
    assert f"process {reader.pid} ({one['behind']} behind)" in run_eventflow("store", "info").out
