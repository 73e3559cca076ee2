"""`store import` and `store export` of encrypted stores, with and without the key, and of compacted runs."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from eventflow.cipher.master import new_master
from eventflow.codec import decode, encode
from eventflow.exchange import items

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
    assert "what is encrypted stays so in it" in run_eventflow("store", "export", "all.cborseq").out
    assert "what is encrypted stays so in it" in run_replay("export", "e", "e.cborseq").out
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


# --- compacted runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def late(run_eventflow, run_replay, flows, desk):
    """A store in the open with a run that begins late, a fork of it, and another one."""
    for run in ("c", "d"):
        assert run_eventflow("run", "flows:flow", "--id", run, "--input", '{"n": 1}').code == 0
    assert run_replay("fork", "c@2", "--id", "f").code == 0
    assert run_eventflow("compact", "c", "--before", "2", "--yes").code == 0
    return desk / STORE


@pytest.mark.parametrize("way", ["the store", "an export of it", "an export of the run"])
def test_a_compacted_run_is_taken_in_from_its_origin_on(run_eventflow, run_replay, late, way):
    """What it begins with comes along, vouched for in the new store's own stream; what is not there any more is no loss."""
    source = {"the store": STORE, "an export of it": "all.cborseq", "an export of the run": "f.cborseq"}[way]
    if way == "an export of it":
        assert run_eventflow("store", "export", source).code == 0
    if way == "an export of the run":
        assert run_replay("export", "f", source).code == 0
    if source != STORE:
        assert run_replay("verify", source).code == 0
        assert run_replay("show", "f", "--store", source, "-o", "json").json["state"] == state(run_replay, "f", STORE)
    done = run_eventflow("store", "import", source, "--into", "new", "-o", "json").json
    assert set(done["runs"]) >= {"c", "f"}
    verified = run_eventflow("store", "verify", "--store", "new")
    assert verified.code == 0, verified.err
    for run in done["runs"]:
        if way != "an export of the run" or run == "f":  # of its parent it holds what the fork goes on from
            assert state(run_replay, run, "new") == state(run_replay, run, STORE)
    below = run_replay("show", "c@1", "--store", "new")
    assert below.code == 3
    assert "was compacted" in below.err


def test_an_origin_that_was_changed_is_not_taken_in(run_eventflow, run_replay, late, desk):
    """The event that vouches for it names its digest."""
    assert run_replay("export", "c", "c.cborseq").code == 0
    whole = (desk / "c.cborseq").read_bytes()
    cut = [whole[start:end] for start, end, _ in items(whole)]
    (at,) = [number for number, one in enumerate(cut) if one[0] >> 5 == 5 and "origin" in decode(one, "an item")]
    value = decode(cut[at], "an item")
    for change in (
        {"root": value["root"][:-1] + bytes([value["root"][-1] ^ 1])},
        {"origin": value["origin"] + 1},
        {"act": b""},
    ):
        changed = [*cut[:at], encode({**value, **change}), *cut[at + 1 : -1]]
        footer = decode(cut[-1], "an item") | {"sha256": hashlib.sha256(b"".join(changed)).digest()}
        (desk / "x.cborseq").write_bytes(b"".join(changed) + encode(footer))
        refused = run_eventflow("store", "import", "x.cborseq", "--into", "new")
        assert refused.code in (4, 6), refused.err
        assert not (desk / "new").exists()


@pytest.mark.parametrize("known", [True, False], ids=["with the key", "without"])
@pytest.mark.parametrize("way", ["the store", "an export"])
def test_a_run_that_is_encrypted_and_compacted_is_taken_in(run_eventflow, run_replay, store, monkeypatch, way, known):  # noqa: PLR0917
    """From its origin on; without the key it is said what was not compared, and by what it will be."""
    key = str(store.parent / "master.key")
    for run in ("e", "r"):
        assert run_eventflow("compact", run, "--before", "2", "--yes").code == 0
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", key if known else "")
    source = STORE
    if way == "an export":
        source = "all.cborseq"
        assert run_eventflow("store", "export", source).code == 0
        assert "nor was what 2 compacted runs began with" in run_replay("verify", source).out
    done = run_eventflow("store", "import", source, "--into", "new")
    told = (done.code, "nor was what 2 compacted runs began with" in done.out)
    assert told == (0, not known or way == "an export"), done.err
    without = run_eventflow("store", "verify", "--store", "new", "-o", "json").json
    assert (without["sound"], without["unopened"]) == (True, 0 if known and way == "the store" else 2)
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", key)
    if way == "the store":
        verified = run_eventflow("store", "verify", "--store", "new", "-o", "json").json
        assert (verified["sound"], verified["compacted"], verified["hidden"]) == (True, 2, 0)
        assert state(run_replay, "e", "new") == state(run_replay, "e", STORE)
    below = run_replay("show", "e@1", "--store", "new")
    assert (below.code, "was compacted" in below.err) == (3, True)


def test_what_the_key_finds_wrong_is_not_taken_in(run_eventflow, store, desk, monkeypatch):
    """Where the key is, each value is opened before anything is taken in."""
    assert run_eventflow("compact", "e", "--before", "2", "--yes").code == 0
    assert run_eventflow("store", "export", "all.cborseq").code == 0
    assert run_eventflow("run", "flows:flow", "--id", "x", "--input", '{"n": 1}', "--store", "keyed").code == 0
    for file in (store / "keys").glob("*.key"):
        if file.name != "store.key":
            shutil.copy(file, desk / "keyed" / "keys" / file.name)
    whole = (desk / "all.cborseq").read_bytes()
    cut = [whole[start:end] for start, end, _ in items(whole)]
    (at,) = [number for number, one in enumerate(cut) if one[0] >> 5 == 5 and "origin" in decode(one, "an item")]
    value = decode(cut[at], "an item")
    value["root"] = value["root"][:-1] + bytes([value["root"][-1] ^ 1])
    changed = [*cut[:at], encode(value), *cut[at + 1 : -1]]
    footer = decode(cut[-1], "an item") | {"sha256": hashlib.sha256(b"".join(changed)).digest()}
    (desk / "x.cborseq").write_bytes(b"".join(changed) + encode(footer))
    assert run_eventflow("store", "import", "x.cborseq", "--into", "blind").code == 0
    refused = run_eventflow("store", "import", "x.cborseq", "--into", "keyed")
    assert (refused.code, "run e" in refused.err) == (4, True), refused.err
