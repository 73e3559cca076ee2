"""`store keys`: init, list, rotate, shred; and what other commands say of values they can't read."""

from __future__ import annotations

import pytest

from eventflow.cipher.master import new_master
from eventflow.errors import NoKey

STORE = "runs.eventflow"


@pytest.fixture
def store(run_eventflow, flows, desk, monkeypatch):
    """An encrypted store with a run of eve and one of nobody, and the settings that name its key."""
    assert run_eventflow("store", "keys", "init", "master.key").code == 0
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", str(desk / "master.key"))
    assert run_eventflow("run", "flows:flow", "--id", "e", "--input", '{"n": 1}', "--subject", "eve").code == 0
    assert run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}').code == 0
    return desk / STORE


def test_init_makes_a_key_and_says_where_it_is(run_eventflow, desk):
    """Once; again it is used as it is. The setting can stand in eventflow.toml."""
    first = run_eventflow("store", "keys", "init", "master.key")
    again = run_eventflow("store", "keys", "init", "master.key", "-o", "json").json
    assert "EVENTFLOW_KEY_FILE=master.key" in first.out
    assert (again["schema"], again["made"]) == ("eventflow.encryption/1", False)
    assert again["master"] in first.out
    assert (desk / "master.key").stat().st_mode & 0o777 == 0o600


def test_the_setting_key_file_names_the_master_key(run_eventflow, flows, desk, store, monkeypatch):
    """For every command, and for the processes they start."""
    monkeypatch.delenv("EVENTFLOW_KEY_FILE")
    assert run_eventflow("show", "e").code == NoKey.exit_code
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", "")
    (desk / "eventflow.toml").write_text('key_file = "master.key"\n')
    assert run_eventflow("show", "e").code == 0
    (desk / "eventflow.toml").write_text("key_file = 3\n")
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", "")
    assert run_eventflow("show", "e").code == 2


def test_list_says_whose_keys_there_are_without_any_key(run_eventflow, store, monkeypatch):
    """Kind, name, since when, and by which master key they are wrapped."""
    monkeypatch.delenv("EVENTFLOW_KEY_FILE")
    rows = run_eventflow("store", "keys", "list", "-o", "json").json["rows"]
    assert {(one["kind"], one["name"]) for one in rows} == {("subject", "eve"), ("run", "r"), ("store", "")}
    assert len({one["master"] for one in rows}) == 1


def test_without_keys_list_log_and_verify_work_and_values_are_placeholders(
    run_eventflow, run_replay, store, monkeypatch
):
    """Exit code 0 for what needs no values, 6 and one sentence for what does; never a traceback."""
    monkeypatch.delenv("EVENTFLOW_KEY_FILE")
    assert run_eventflow("list").code == run_eventflow("store", "verify").code == 0
    lines = run_replay("log", "e")
    assert lines.code == 0
    assert "[encrypted]" in lines.out
    shown = run_replay("show", "e", "-o", "json")
    assert (shown.code, shown.json["hidden"], shown.json["state"]) == (6, "encrypted", None)
    for argv in (
        ("diff", "e@1", "e@2"),
        ("export", "e", "x.jsonl", "--format", "jsonl"),
        ("blame", "e", "n"),
        ("verify", "--all"),
    ):
        ended = run_replay(*argv)
        assert ended.code in ((0,) if argv[0] == "verify" else (2, 6)), argv
        assert "Traceback" not in ended.err
    assert run_eventflow("show", "e").code == run_eventflow("resume", "e", "--flow", "flows:flow").code == 6


def test_shredding_asks_and_names_what_goes(run_eventflow, run_replay, store):
    """Without a terminal it takes --yes; then the values are gone and everything still verifies."""
    asked = run_eventflow("store", "keys", "shred", "eve")
    assert asked.code == 2
    assert "The values of 1 run are gone for good then: e." in asked.err
    done = run_eventflow(
        "store", "keys", "shred", "eve", "--yes", "--why", "art. 17", "--actor", "ann", "-o", "json"
    ).json
    assert (done["shredded"], done["runs"]) == (True, ["e"])
    assert "[shredded]" in run_replay("log", "e").out
    assert run_replay("show", "e").code == 6
    assert "shredded" in run_eventflow("show", "e").err
    assert run_eventflow("show", "r").code == 0
    assert run_eventflow("store", "verify", "-o", "json").json["sound"]
    assert run_eventflow("store", "keys", "shred", "eve", "--yes").code == 3


def test_a_shredded_subject_is_listed_and_kept_out_until_it_is_let_in(run_eventflow, flows, store):
    """A new run of it is a conflict that says how; `keys list` shows it as shredded until then."""
    start = ("run", "flows:flow", "--id", "e2", "--input", '{"n": 1}', "--subject", "eve")
    run_eventflow("store", "keys", "shred", "eve", "--yes")
    rows = run_eventflow("store", "keys", "list", "-o", "json").json["rows"]
    assert [(one["name"], one["state"]) for one in rows if one["kind"] == "subject"] == [("eve", "shredded")]
    refused = run_eventflow(*start)
    assert refused.code == 5
    assert "`eventflow store keys readmit eve`" in refused.sentence
    assert run_eventflow("show", "e2").code == 3
    done = run_eventflow("store", "keys", "readmit", "eve", "--why", "signed up", "-o", "json").json
    assert (done["schema"], done["subject"]) == ("eventflow.readmission/1", "eve")
    assert run_eventflow(*start).code == 0
    rows = run_eventflow("store", "keys", "list", "-o", "json").json["rows"]
    assert [(one["name"], one["state"]) for one in rows if one["kind"] == "subject"] == [("eve", "in use")]
    again = run_eventflow("store", "keys", "readmit", "eve")
    assert (again.code, "was not shredded" in again.sentence) == (2, True)


def test_without_its_master_key_a_run_says_which_one_it_wants_and_where_to_name_it(run_eventflow, store, monkeypatch):
    """With none, and with another one: both settings, and the id of the key that is wanted."""
    wanted = run_eventflow("store", "keys", "list", "-o", "json").json["rows"][0]["master"]
    for variable in ("EVENTFLOW_KEY_FILE", "other"):
        monkeypatch.delenv("EVENTFLOW_KEY_FILE", raising=False)
        if variable == "other":
            new_master(store.parent / "other.key")
            monkeypatch.setenv("EVENTFLOW_KEY_FILE", "other.key")
        ended = run_eventflow("show", "e")
        assert ended.code == 6
        assert f"name the file of master key {wanted} with EVENTFLOW_KEY_FILE, with `key_file`" in ended.sentence


def test_the_key_of_a_deleted_run_stays_until_it_is_pruned(run_eventflow, run_replay, store, desk):
    """A backup's copy of the run is read with it until then; the key of a subject, or of a run that is there, stays."""
    assert run_eventflow("run", "flows:flow", "--id", "kept", "--input", '{"n": 1}').code == 0
    assert run_eventflow("store", "backup", "b", "--with-keys").code == 0
    assert run_eventflow("store", "backup", "bare").code == 0
    for run in ("r", "e"):
        assert run_eventflow("delete", run, "--yes").code == 0

    def states():
        return {one["name"]: one["state"] for one in run_eventflow("store", "keys", "list", "-o", "json").json["rows"]}

    assert states() == {"eve": "in use", "kept": "in use", "r": "run deleted", "": "in use"}
    asked = run_eventflow("store", "keys", "prune")
    assert (asked.code, states()["r"]) == (2, "run deleted")
    assert (
        "Destroy the keys of 1 deleted run? Backups that still hold them can't be read any more then: r." in asked.err
    )
    done = run_eventflow("store", "keys", "prune", "--yes", "--why", "forget", "-o", "json").json
    assert done == {"schema": "eventflow.keyprune/1", "runs": ["r"], "pruned": True}
    assert states() == {"eve": "in use", "kept": "in use", "": "in use"}
    assert run_eventflow("store", "keys", "prune").out == "no deleted run has a key here\n"
    assert run_replay("show", "kept").code == 0
    assert run_replay("show", "r", "--store", "b").code == 0  # it was made with its keys
    assert run_eventflow("store", "verify").code == 0


def test_rotation_takes_the_old_key_from_the_settings(run_eventflow, store, desk, monkeypatch):
    """Afterwards the new one opens everything, the old one nothing, and doing it again changes nothing."""
    done = run_eventflow("store", "keys", "rotate", "new.key", "-o", "json").json
    assert done["keys"] == 3
    assert run_eventflow("show", "e").code == 6
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", str(desk / "new.key"))
    assert run_eventflow("show", "e").code == run_eventflow("show", "r").code == 0
    assert run_eventflow("store", "keys", "rotate", "new.key", "-o", "json").json["keys"] == 3


def test_a_store_in_the_open_says_how_to_begin(run_eventflow, flows, desk):
    """In one sentence."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    assert "store keys init FILE" in run_eventflow("store", "keys", "list").sentence


def test_rotating_the_keys_of_a_store_in_the_open_is_refused(run_eventflow, flows, desk):
    """No key is made for it, and it stays in the open: its new runs can be read with none."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    done = run_eventflow("store", "keys", "rotate", "new.key")
    assert (done.code, "store keys init FILE" in done.sentence) == (2, True)
    assert not (desk / "new.key").exists()
    assert run_eventflow("store", "keys", "list").code == 2
