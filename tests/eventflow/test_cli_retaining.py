"""Commands that remove and keep: store prune, store vacuum, compact, pin, unpin, hold, release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventflow import RetentionPolicy
from eventflow.cli.policy import retention_of
from eventflow.errors import SettingsError

STORE = "runs.eventflow"


@pytest.fixture
def store(run_eventflow, flows, desk) -> Path:
    """A store with three runs that are over."""
    for name in ("a", "b"):
        run_eventflow("run", "flows:flow", "--id", name, "--input", '{"n": 1}')
    run_eventflow("run", "flows:failing", "--id", "f")
    return desk / STORE


def document(ended) -> dict:
    """What a command printed as JSON."""
    return json.loads(ended.out)


def test_a_dry_run_changes_no_byte_and_a_prune_does_what_it_said(run_eventflow, store):
    """The same runs in the same words; afterwards the store verifies."""
    before = (store / "data.1" / "data.mdb").read_bytes()
    would = document(run_eventflow("store", "prune", "--keep", "0", "--status", "completed", "--dry-run", "-o", "json"))
    assert (store / "data.1" / "data.mdb").read_bytes() == before
    assert (would["schema"], would["dry_run"], would["runs"]) == ("eventflow.prune/1", True, ["a", "b"])
    refused = run_eventflow("store", "prune", "--keep", "0", "--status", "completed")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    done = document(run_eventflow("store", "prune", "--keep", "0", "--status", "completed", "--yes", "-o", "json"))
    assert (done["runs"], done["events"], done["dry_run"]) == (would["runs"], would["events"], False)
    assert [row["run"] for row in document(run_eventflow("list", "-o", "json"))["rows"]] == ["f"]
    assert run_eventflow("store", "verify").code == 0


@pytest.mark.parametrize(
    "argv", [(), ("--keep", "-1"), ("--keep", "1", "--status", "running"), ("--older-than", "soon")]
)
def test_rules_that_mean_nothing_are_a_usage_error(run_eventflow, store, argv):
    """One sentence, and nothing is touched."""
    ended = run_eventflow("store", "prune", *argv, "--yes")
    assert ended.code == 2
    assert ended.err.startswith("eventflow: ")


def test_pins_and_holds_keep_a_run_from_everything(run_eventflow, store):
    """Deleting and compacting are conflicts, pruning tells why it stays; lifted, it goes."""
    assert run_eventflow("pin", "a", "--why", "shown").code == 0
    assert document(run_eventflow("hold", "b", "--why", "court", "--actor", "ann", "-o", "json"))["is"] == "on hold"
    for argv in (("delete", "a", "--yes"), ("delete", "b", "--yes"), ("compact", "b", "--before", "2", "--yes")):
        assert run_eventflow(*argv).code == 5
    stays = document(run_eventflow("store", "prune", "--keep", "0", "--yes", "-o", "json"))["stays"]
    assert {one["run"]: one["why"] for one in stays} == {"a": "pinned: shown", "b": "on hold: court"}
    assert run_eventflow("hold", "a").code == 2
    assert run_eventflow("unpin", "a").code == run_eventflow("release", "b", "--why", "over").code == 0
    assert run_eventflow("delete", "a", "--yes").code == run_eventflow("delete", "b", "--yes").code == 0
    assert run_eventflow("store", "verify").code == 0


def test_a_compacted_run_answers_below_its_beginning_with_not_found(run_eventflow, run_replay, store):
    """Exit code 3 and the versions it has; above everything is as it was; `verify` says how many begin late."""
    above = run_replay("show", "a@3", "-o", "json").out
    would = run_eventflow("compact", "a", "--before", "3", "--dry-run")
    assert (would.code, "versions 1 to 2" in would.out) == (0, True)
    assert run_replay("show", "a@2").code == 0
    done = document(run_eventflow("compact", "a", "--before", "3", "--yes", "-o", "json"))
    assert (done["since"], done["at"], done["compacted"]) == (1, 3, True)
    below = run_replay("show", "a@2")
    assert (below.code, "begins at version 3" in below.err) == (3, True)
    assert run_replay("show", "a@3", "-o", "json").out == above
    assert document(run_eventflow("store", "verify", "-o", "json"))["compacted"] == 1
    assert "begin late" in run_eventflow("store", "verify").out
    assert run_eventflow("show", "a").code == run_replay("log", "a").code == 0


def test_a_vacuum_says_what_it_gave_back(run_eventflow, store):
    """The store is in another file afterwards, and everything is there."""
    before = run_eventflow("list", "-o", "json").out
    done = document(run_eventflow("store", "vacuum", "-o", "json"))
    assert done["after"] <= done["before"]
    assert (store / "CURRENT").read_text() == "data.2\n"
    assert not (store / "data.1").exists()
    assert run_eventflow("list", "-o", "json").out == before
    assert run_eventflow("store", "verify").code == 0


def test_a_worker_takes_the_rules_from_the_settings(desk, monkeypatch):
    """A table of the rules' names; what is none of them is a sentence."""
    monkeypatch.chdir(desk)
    assert retention_of() is None
    settings = desk / "eventflow.toml"
    settings.write_text('[retention]\nmax_age = 60\nkeep = 3\nstatuses = ["failed"]\n')
    assert retention_of() == RetentionPolicy(max_age=60, keep=3, statuses=("failed",))
    for wrong in ("[retention]\nage = 1\n", "[retention]\nkeep = 'x'\n"):
        settings.write_text(wrong)
        with pytest.raises(SettingsError):
            retention_of()
