"""store info and store verify; what a store that can't be used gets; that reading writes nothing."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import shutil
import struct
from pathlib import Path

import lmdb
import pytest

from eventflow.cli import build
from eventflow.cli.shell import run_app
from eventflow.log import open_log

STORE = "runs.eventflow"
READING = (
    ("list",), ("list", "--status", "failed"), ("show", "r"), ("show", "r@2"), ("checkpoints", "list", "r"),
    ("checkpoints", "show", "r", "c-2"), ("checkpoints", "prune", "r", "--keep", "0", "--dry-run"),
    ("checkpoints", "delete", "r", "--all", "--dry-run"), ("delete", "r", "--dry-run"), ("store", "info"),
    ("store", "verify"), ("store", "verify", "r"), ("check", "flows:flow"), ("doctor",),
)  # fmt: skip


@pytest.fixture
def store(run_eventflow, flows, desk) -> Path:
    """A store with a run `r` that has a checkpoint c-2, and a run that failed."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    run_eventflow("run", "flows:failing", "--id", "f")
    run_eventflow("checkpoints", "create", "r", "--at", "2", "--snapshot")
    return desk / STORE


def content(store: Path) -> dict[str, bytes]:
    """Every byte of every file but the lock files, in which readers register."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


# --- reading writes nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["table", "json"])
def test_reading_commands_leave_every_byte_where_it_is(run_eventflow, run_replay, store, how):
    """Files, their content and their number are the same before and after."""
    before = content(store)
    for argv in READING:
        assert run_eventflow(*argv, "-o", how).code == 0, argv
    for argv in (("log", "r"), ("log", "f", "--follow"), ("show", "r@c-2")):
        assert run_replay(*argv, "-o", how).code == 0, argv
    assert content(store) == before


def test_a_store_that_can_t_be_written_can_be_read(run_eventflow, store, child):
    """All reading commands work on it; what would write says in one sentence, with exit code 6, that it can't."""
    assert run_eventflow("list").code == 0  # what a table needs is loaded now: a stranger may not read this Python
    app = build()

    def ended(*argv: str) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return run_app(app, argv), said.getvalue()

    def work() -> str:
        _become_somebody(store)
        reading = [
            ended(*argv)
            for argv in (("list",), ("show", "r"), ("store", "verify", "--in-process"), ("store", "info", "-o", "json"))
        ]
        changing = ("create", "r"), ("delete", "r", "--all", "--yes"), ("prune", "r", "--keep", "0", "--yes")
        writing = [ended("checkpoints", *argv) for argv in changing]
        writing += [ended("delete", "r", "--yes"), ended("signal", "f", "s"), ended("doctor", "-o", "json")]
        return repr((reading, writing))

    reading, writing = ast.literal_eval(child(work).answer())
    assert reading == [(0, "")] * 4
    assert [code for code, _ in writing] == [6] * 6
    assert all(said.count("\n") == 1 and "can't be used by this user" in said for _, said in writing[:-1])


def _become_somebody(store: Path) -> None:
    """Take all rights to write from a store, and give up those of root, for whom everything can be written."""
    root = os.getuid() == 0
    for path in (store, *store.rglob("*")):
        if root:
            os.chown(path, 65534, 65534)
        path.chmod(0o500 if path.is_dir() else 0o600 if path.name == "lock.mdb" else 0o400)  # readers register there
    if root:
        for place in store.parents:
            place.chmod(place.stat().st_mode | 0o711)
        os.setgid(65534)
        os.setuid(65534)


# --- info ----------------------------------------------------------------------------------------------------------


def test_info_has_these_fields_and_no_others(run_eventflow, store):
    """The store's document is stable."""
    document = run_eventflow("store", "info", "-o", "json").json
    assert list(document) == [
        "schema", "path", "id", "format", "runs", "by_status", "driven", "events", "rows", "bytes", "file_bytes",
        "free_bytes", "growth", "attending", "kept", "partitions",
    ]  # fmt: skip
    assert (document["schema"], document["path"], document["format"]) == ("eventflow.store/1", STORE, 1)
    assert (document["runs"], document["by_status"]) == (2, {"failed": 1, "completed": 1})
    assert document["events"] == document["rows"]["events"] == 7
    assert (document["rows"]["runs"], document["rows"]["checkpoints"], document["driven"]) == (2, 2, 0)
    assert sum(document["bytes"].values()) + document["free_bytes"] == document["file_bytes"]
    assert list(document["growth"]) == [
        "first", "last", "events_per_hour", "bytes_per_day", "bytes_of_event", "last_hour", "last_hour_bytes", "last_day",
        "last_day_bytes",
    ]  # fmt: skip
    assert (document["growth"]["last_hour"], document["growth"]["last_day"]) == (7, 7)


def test_info_as_a_table_tells_the_same(run_eventflow, store):
    """Runs, events, statuses, and the rows of each kind that has any."""
    text = run_eventflow("store", "info").out
    assert "2 runs, 7 events" in text
    assert "by status: 1 failed, 1 completed" in text
    rows = [line.split() for line in text.splitlines()[4:]]
    assert [row[:2] for row in rows[:-2]] == [
        ["events", "7"], ["index", "7"], ["runs", "2"], ["snapshots", "2"], ["checkpoints", "2"],
    ]  # fmt: skip
    assert rows[-2][0] == "free"
    assert text.splitlines()[-1].startswith("last hour: 7 events, about ")


def test_info_of_a_store_without_runs(run_eventflow, desk):
    """It says that there are none."""
    open_log(desk / STORE).close()
    assert "by status: no runs" in run_eventflow("store", "info").out


# --- verify --------------------------------------------------------------------------------------------------------


def test_a_sound_store_verifies(run_eventflow, store):
    """The verification's document is stable, and the exit code 0."""
    ended = run_eventflow("store", "verify", "-o", "json")
    assert ended.code == 0
    assert ended.json == {
        "schema": "eventflow.verification/1", "sound": True, "runs": 2, "events": 7, "snapshots": 2, "deleted": 0,
        "compacted": 0, "hidden": 0, "unopened": 0, "findings": [],
    }  # fmt: skip
    assert run_eventflow("store", "verify").out.splitlines()[-1] == "everything holds"
    assert run_eventflow("store", "verify", "r", "-o", "json").json["events"] == 3


def test_deleted_events_are_counted(run_eventflow, store):
    """A deleted run leaves positions whose digests stay."""
    run_eventflow("delete", "f", "--yes")
    document = run_eventflow("store", "verify", "-o", "json").json
    assert (document["sound"], document["runs"], document["deleted"]) == (True, 1, 2)


def _edited(store: Path, table: bytes, edit) -> None:
    """Change a table of a store by hand."""
    with lmdb.open(str(store / "data.1"), max_dbs=20, map_size=1 << 30) as env:
        db = env.open_db(table, create=False)
        with env.begin(write=True) as txn, txn.cursor(db=db) as cursor:
            edit(cursor)


def _break_snapshot(cursor) -> None:
    cursor.last()
    cursor.put(cursor.key(), cursor.value()[:-1] + bytes([cursor.value()[-1] ^ 1]))


def test_what_does_not_hold_is_told_with_exit_code_4(run_eventflow, store):
    """Findings name run and version, in JSON on stdout and as sentences on stderr; reading goes on as far as it can."""
    _edited(store, b"snapshots", _break_snapshot)
    ended = run_eventflow("store", "verify", "-o", "json")
    assert ended.code == 4
    document = ended.json
    assert document["sound"] is False
    assert document["events"] == 7
    assert [list(one) for one in document["findings"]] == [["run", "version", "problem"]]
    assert "Traceback" not in ended.err
    table = run_eventflow("store", "verify")
    assert table.code == 4
    assert table.out.splitlines()[-1] == "1 of what was compared does not hold"
    assert "snapshot at version" in table.err
    assert table.err.splitlines()[-1].startswith("eventflow: write nothing more to this store")


def test_verify_of_a_run_that_is_not_there(run_eventflow, store):
    """It is exit code 3, as everywhere."""
    assert run_eventflow("store", "verify", "nobody").code == 3


# --- stores that can't be used -------------------------------------------------------------------------------------


def _no_lmdb(store: Path) -> None:
    (store / "data.1" / "data.mdb").write_bytes(b"hello" * 5_000)


def _cut(store: Path) -> None:
    file = store / "data.1" / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)


def _empty(store: Path) -> None:
    os.truncate(store / "data.1" / "data.mdb", 0)


def _gone(store: Path) -> None:
    (store / "data.1" / "data.mdb").unlink()


def _newer(store: Path) -> None:
    _edited(store, b"store", lambda cursor: cursor.put(b"format", struct.pack(">Q", 2)))


def _current(store: Path) -> None:
    (store / "CURRENT").write_text("../../etc\n")


def _others(store: Path) -> None:
    store.chmod(0o777)


def _a_file(store: Path) -> None:
    shutil.rmtree(store)
    store.write_text("not a store")


def _another_directory(store: Path) -> None:
    shutil.rmtree(store)
    store.mkdir()
    (store / "photo.jpg").touch()


def _head(store: Path) -> None:
    def edit(cursor) -> None:
        cursor.set_key(b"r")
        cursor.put(b"r", cursor.value()[:-1] + b"\x00\x00")

    _edited(store, b"names", edit)


BROKEN = [
    (_no_lmdb, "is not an LMDB file that eventflow writes"), (_cut, "it was cut"), (_empty, "ends before or inside"),
    (_gone, "which its CURRENT names"), (_newer, "written by a newer eventflow"), (_current, "does not name a data directory"),
    (_others, "chmod 700"), (_a_file, "is not an eventflow store"), (_another_directory, "is not an eventflow store"),
    (_head, "can't be read"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), BROKEN, ids=lambda one: getattr(one, "__name__", "")[1:])
def test_a_store_that_can_t_be_used_is_one_sentence(run_eventflow, run_replay, store, damage, said):
    """Whatever is wrong with it, each command says it in one line with exit code 6, and doctor finds it too."""
    damage(store)
    for argv in (("list",), ("store", "info"), ("resume", "r", "--flow", "flows:flow"), ("store", "verify")):
        ended = run_eventflow(*argv)
        assert ended.code == 6, argv
        assert said in ended.sentence
    assert run_replay("show", "r").code == 6
    ended = run_eventflow("doctor", "-o", "json")
    assert ended.code == 6
    (finding,) = [one for one in ended.json["findings"] if one["what"] == "store"]
    assert finding["state"] == "bad"
    assert said in finding["detail"]


def test_no_store_is_not_made_by_looking(run_eventflow, run_replay, desk):
    """Every reading command says where it looked, with exit code 3, and leaves nothing behind."""
    for argv in (("list",), ("show", "r"), ("store", "info"), ("store", "verify"), ("checkpoints", "list", "r")):
        ended = run_eventflow(*argv)
        assert ended.code == 3
        assert f"no store at {desk / STORE}" in ended.sentence
    assert run_replay("log", "r").code == 3
    assert list(desk.iterdir()) == []


def test_a_map_size_that_is_no_number_is_refused(run_eventflow, store, monkeypatch):
    """A bad environment is told by the variable's name, with exit code 2."""
    for value in ("banana", "-1", "0", "1e9"):
        monkeypatch.setenv("EVENTFLOW_MAP_SIZE", value)
        ended = run_eventflow("list")
        assert ended.code == 2
        assert "EVENTFLOW_MAP_SIZE" in ended.sentence


def test_the_address_of_a_store_that_we_do_not_have_is_no_path(run_eventflow, desk):
    """It is refused, by its beginning alone since there may be a password in it, and no directory is made of it."""
    ended = run_eventflow("run", "flows:flow", "--store", "mysql://user:secret@host/x", "-o", "json")
    assert ended.code == 2
    assert "secret" not in ended.err
    ended = run_eventflow("list", "--store", "mysql://user:secret@host/x")
    assert ended.sentence == (
        "eventflow: no store is named by mysql://…: give the path of a directory, or postgresql://…"
    )
    assert not list(desk.glob("mysql*"))
