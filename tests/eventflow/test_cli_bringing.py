"""`store import` and `store export` of encrypted stores, with and without the key."""

from __future__ import annotations

import pytest

from eventflow.cipher.master import new_master

STORE = "runs.eventflow"


@pytest.fixture
def store(run_eventflow, flows, desk, monkeypatch):
    """An encrypted store with a run of eve and one of nobody, and the settings that name its key."""
    assert run_eventflow("store", "keys", "init", "master.key").code == 0
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", str(desk / "master.key"))
    assert run_eventflow("run", "flows:flow", "--id", "e", "--input", '{"n": 1}', "--subject", "eve").code == 0
    assert run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}').code == 0
    return desk / STORE


def state(run_replay, run, store):
    """What a run's state is, in a store."""
    return run_replay("show", run, "--store", store, "-o", "json").json["state"]


@pytest.mark.parametrize("known", [True, False], ids=["with the key", "without"])
def test_an_encrypted_store_is_taken_in_with_its_keys(run_eventflow, run_replay, store, monkeypatch, *, known):
    """The master key is needed to read it and not to bring it; what was encrypted stays so."""
    key = str(store.parent / "master.key")
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", key if known else "")
    done = run_eventflow("store", "import", STORE, "--into", "new", "-o", "json").json
    again = run_eventflow("store", "import", STORE, "--into", "new", "-o", "json").json
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", key)
    assert (sorted(done["runs"]), done["without_key"]) == (["e", "r"], 0)
    assert (again["runs"], sorted(again["present"])) == ([], ["e", "r"])
    for run in ("e", "r"):
        assert state(run_replay, run, "new") == state(run_replay, run, STORE)
    verified = run_eventflow("store", "verify", "--store", "new")
    assert verified.code == 0, verified.err
    shredded = run_eventflow("store", "keys", "shred", "eve", "--yes", "--store", "new")
    assert "the values of 1 run" in shredded.out
    assert state(run_replay, "e", STORE)


def test_an_export_of_an_encrypted_store_brings_no_key(run_eventflow, run_replay, store, desk, monkeypatch):
    """It is taken in, proved, and says what it lacks; the files of the keys may come later."""
    assert run_eventflow("store", "export", "all.cborseq").code == 0
    assert run_replay("verify", "all.cborseq").code == 0
    shown = run_replay("show", "e", "--store", "all.cborseq")
    done = run_eventflow("store", "import", "all.cborseq", "--into", "new")
    assert "2 runs are encrypted and came without a key" in done.out
    assert run_eventflow("store", "verify", "--store", "new").code == 0
    assert "is encrypted" in run_replay("show", "e", "--store", "new", "-o", "json").err
    for file in (store / "keys").glob("*.key"):
        if file.name != "store.key":
            (desk / "new" / "keys" / file.name).write_bytes(file.read_bytes())
            (desk / "new" / "keys" / file.name).chmod(0o600)
    assert state(run_replay, "e", "new") == state(run_replay, "e", STORE)
    assert shown.code != 0


def test_who_has_another_key_there_is_told_and_nothing_is_taken_in(run_eventflow, flows, store, desk, monkeypatch):
    """One owner has one key in a store, by which all of theirs is shredded."""
    assert (
        run_eventflow(
            "run", "flows:flow", "--id", "x", "--input", '{"n": 1}', "--subject", "eve", "--store", "mine"
        ).code
        == 0
    )
    refused = run_eventflow("store", "import", STORE, "--into", "mine")
    assert refused.code == 5
    assert "subject eve has a key of its own in" in refused.err
    assert [one["run"] for one in run_eventflow("list", "--store", "mine", "-o", "json").json["rows"]] == ["x"]


def test_a_page_of_an_encrypted_run_is_refused_in_a_sentence(run_replay, store):
    """What it offers instead works: sealed as an export, in the open as JSON, or a page without what is taken out."""
    refused = run_replay("export", "e", "e.html", "--format", "capsule")
    assert refused.code == 2
    assert "is encrypted, and a page holds its history" in refused.err
    assert run_replay("export", "e", "e.cborseq").code == 0
    assert run_replay("export", "e", "e.jsonl", "--format", "jsonl").code == 0
    assert run_replay("export", "e", "e.html", "--format", "capsule", "--redact", "nothing").code == 0


def test_the_master_key_is_not_wanted_for_what_needs_none(run_eventflow, store, monkeypatch, desk):
    """Another master key is no hindrance to an import: it is looked at when values are."""
    new_master(desk / "other.key")
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", str(desk / "other.key"))
    assert run_eventflow("store", "import", STORE, "--into", "new").code == 0
