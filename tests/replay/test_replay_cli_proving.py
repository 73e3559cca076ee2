"""eventflow store keygen and seal, replay prove and check-proof: from key to proof, as a user does it."""

from __future__ import annotations

import stat

import pytest


@pytest.fixture
def store(desk, run_eventflow, flows):
    """A store with a run, a key and its other half, and a seal that is kept and held."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    made = run_eventflow("store", "keygen", "key")
    assert made.code == 0
    (desk / "key.pub").write_text(made.out)
    (desk / "held.note").write_text(run_eventflow("store", "seal", "--key", "key").out)
    return desk


def test_from_key_to_proof(run_replay, run_eventflow, store):
    """What is printed is the file."""
    kept = store / "runs.eventflow" / "seals" / "4.note"
    assert kept.read_text() == (store / "held.note").read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE((store / "key").stat().st_mode) == 0o600
    (store / "proof").write_text(run_replay("prove", "one@2").out)
    done = run_replay("check-proof", "proof", "--key", "key.pub", "--seal", "held.note")
    assert (done.code, done.err) == (0, "")
    assert "the event is number 3 of the 4 that are sealed" in done.out
    assert "Transitioned, version 2 of the run" in done.out
    document = run_replay("check-proof", "proof", "--key", (store / "key.pub").read_text().strip(), "-o", "json").json
    assert (document["schema"], document["holds"], document["event"]["header"]["to"]) == (
        "eventflow.proof/1",
        True,
        "second",
    )


def test_a_proof_is_checked_where_there_is_no_store(run_replay, store, monkeypatch):
    """With the public key alone."""
    (store / "proof").write_text(run_replay("prove", "one@1").out)
    (store / "runs.eventflow").rename(store / "gone")
    assert run_replay("check-proof", "proof", "--key", "key.pub").code == 0


def test_one_seal_continues_another(run_replay, run_eventflow, store):
    """Across what was recorded in between."""
    run_eventflow("run", "flows.py:flow", "--id", "two", "--input", '{"n": 1}')
    done = run_eventflow("store", "seal", "--key", "key", "-o", "json").json
    assert (done["schema"], done["size"]) == ("eventflow.seal/1", 7)
    (store / "new.note").write_text(done["note"])
    (store / "proof").write_text(run_replay("prove", "--consistency", "held.note", "--seal", "new.note").out)
    done = run_replay("check-proof", "proof", "--key", "key.pub", "--seal", "held.note")
    assert "the 4 events of the older seal are the first of the 7 of the newer one" in done.out


def test_a_key_may_have_a_name_of_its_own(run_eventflow, desk):
    """Then there need be no store."""
    done = run_eventflow("store", "keygen", "key", "--name", "example.com/me", "-o", "json").json
    assert (done["schema"], done["name"]) == ("eventflow.key/1", "example.com/me")
    assert done["public"].startswith(f"example.com/me+{done['id']}+")


def test_a_changed_proof_ends_with_4(run_replay, store):
    """In one sentence."""
    text = run_replay("prove", "one@2").out
    (store / "proof").write_text(text.replace("index 2", "index 1"))
    done = run_replay("check-proof", "proof", "--key", "key.pub")
    assert (done.code, done.out) == (4, "")
    assert "the proof does not lead to what is sealed" in done.sentence


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["prove"], 2), (["prove", "one@2", "--consistency", "held.note"], 2), (["prove", "nobody"], 3),
        (["prove", "one@9"], 3), (["prove", "one@2", "--seal", "key.pub"], 4), (["check-proof", "absent", "--key", "key.pub"], 2),
        (["check-proof", "held.note", "--key", "key.pub"], 4), (["check-proof", "held.note", "--key", "key"], 2),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_said_in_one_sentence(run_replay, store, argv, code):
    """With the exit code of what is wrong."""
    (store / "key.pub").chmod(0o600)
    done = run_replay(*argv)
    assert done.code == code
    assert done.sentence.startswith("replay: ")


@pytest.mark.parametrize("key", ["key.pub", "absent"])
def test_what_can_not_sign_is_refused_in_one_sentence(run_eventflow, store, key):
    """The public half, or a file that is not there."""
    (store / "key.pub").chmod(0o600)
    done = run_eventflow("store", "seal", "--key", key)
    assert done.code == 2
    assert done.sentence.startswith("eventflow: ")


def test_without_a_seal_nothing_can_be_proven(run_replay, run_eventflow, store):
    """It says how one is made."""
    run_eventflow("run", "flows.py:flow", "--id", "two", "--input", '{"n": 1}')
    done = run_replay("prove", "two@1")
    assert done.code == 3
    assert "`eventflow store seal --key FILE` makes one" in done.sentence
