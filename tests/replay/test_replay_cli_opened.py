"""replay open, and capsules on the command line."""

from __future__ import annotations

import base64
import json
import re

import pytest

from eventflow.cipher.signing import new_key
from eventflow.log import open_log
from eventflow.sealing import keep, seal


@pytest.fixture
def capsule(desk, run_eventflow, run_replay, flows):
    """A capsule of the run `one`, and no store any more."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    assert run_replay("export", "one", "one.html", "--format", "capsule").code == 0
    assert run_replay("export", "one", "one.cborseq").code == 0
    (desk / "runs.eventflow").rename(desk / "gone")
    return desk / "one.html"


@pytest.mark.parametrize("name", ["one.html", "one.cborseq"])
def test_a_file_says_what_it_is_and_where_it_stands(capsule, run_replay, name):
    """At its end, or at a version of it."""
    done = run_replay("open", name, "--at", "2", "-o", "json")
    assert (done.code, done.err) == (0, "")
    assert done.json["kind"] == ("capsule" if name == "one.html" else "export")
    assert (done.json["runs"], done.json["stands"]["version"], done.json["stands"]["state"]["n"]) == (["one"], 2, 2)
    assert done.json["page_holds"] is (True if name == "one.html" else None)
    assert "all of it holds" in run_replay("open", name).out


def test_every_command_reads_a_capsule_in_place_of_a_store(capsule, run_replay):
    """Where it stands for its run."""
    for argv in (
        ["verify", "one.html"],
        ["log", "one.html"],
        ["show", "one.html@2"],
        ["watch", "one", "n", "--store", "one.html"],
    ):
        done = run_replay(*argv)
        assert (done.code, done.err) == (0, ""), argv


def test_a_history_goes_on_in_a_new_store(capsule, process, run_replay, run_eventflow):
    """As a fork, driven by eventflow's own command line; the run itself is there event for event."""
    shown = run_replay("show", "one.html@2", "-o", "json").json
    done = process(
        "replay",
        "open",
        "one.html",
        "--store",
        "new",
        "--at",
        "2",
        "--run",
        "--id",
        "again",
        "--flow",
        "flows.py:flow",
        "-o",
        "json",
    ).ended()
    assert (done.code, json.loads(done.out)["status"]) == (0, "completed"), done.err
    assert run_replay("show", "one@2", "--store", "new", "-o", "json").json == shown
    assert run_replay("show", "again", "--store", "new", "-o", "json").json["parent"] == "one@2"
    assert run_replay("verify", "--all", "--store", "new").code == 0


def test_a_store_that_is_there_is_left_alone(capsule, desk, run_replay):
    """A history from elsewhere goes into a new one; what can't be done leaves none behind."""
    (desk / "mine").mkdir()
    done = run_replay("open", "one.html", "--store", "mine")
    assert (done.code, list((desk / "mine").iterdir())) == (2, [])
    assert "there already" in done.sentence
    done = run_replay("open", "one.html", "--store", "new", "--run", "--flow", "flows.py:flow")
    assert done.code == 5
    assert "an earlier one, as --at 2" in done.sentence
    assert not (desk / "new").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["absent.html"],
        ["one.html", "--run"],
        ["one.html", "--flow", "x:y"],
        ["one.html", "--at", "99"],
        ["one.html", "two"],
    ],
)
def test_what_can_not_be_opened_is_said_in_one_sentence(capsule, run_replay, argv):
    """With the exit code of its kind."""
    done = run_replay("open", *argv)
    assert done.code in (2, 3)
    assert done.sentence.startswith("replay: ")


@pytest.mark.parametrize("content", ["import this\n", "", "<html></html>", "{}", "\u00e9t\u00e9"])
def test_a_file_that_is_no_history_is_told_as_that(desk, run_replay, content):
    """Without a word on stores and backups, which have nothing to do with it."""
    (desk / "order.py").write_text(content)
    done = run_replay("open", "order.py")
    assert done.code == 2
    assert done.sentence.startswith("replay: order.py is no export and no capsule")
    assert "restore" not in done.sentence


def test_a_file_of_several_runs_says_how_to_stand_at_one(desk, run_eventflow, run_replay, flows):
    """Below the list of them; what it says works."""
    for name in ("one", "two"):
        assert run_eventflow("run", "flows.py:flow", "--id", name, "--input", '{"n": 1}').code == 0
    assert run_eventflow("store", "export", "all.cborseq").code == 0
    assert "name one to stand at it, and a version if it is not the last: `replay open all.cborseq RUN" in (
        run_replay("open", "all.cborseq").out
    )
    assert "run two at version 2 of " in run_replay("open", "all.cborseq", "two", "--at", "2").out


def test_who_can_not_drive_it_takes_nothing_in(capsule, process, desk):
    """A workflow that is not known is told before a store is made."""
    done = process("replay", "open", "one.html", "--store", "new", "--at", "2", "--run").ended()
    assert (done.code, done.out) == (2, "")
    assert "--flow MODULE:FLOW" in done.err
    assert not (desk / "new").exists()


def test_a_history_that_was_changed_is_not_opened(capsule, process, desk):
    """What is wrong is found by a process of its own, and nothing is taken in."""
    data = capsule.read_text()
    found = re.search(r'id="history">([^<]+)', data)[1]
    spoilt = found[:200] + ("A" if found[200] != "A" else "B") + found[201:]
    capsule.write_text(data.replace(found, spoilt))
    done = process("replay", "open", "one.html", "--store", "new").ended()
    assert done.code in (4, 6)
    assert done.out == ""
    assert not (desk / "new").exists()


def test_a_page_that_shows_something_else_than_its_history_is_told(capsule, run_replay):
    """The history is what is believed."""
    capsule.write_text(capsule.read_text().replace('"status":"completed"', '"status":"failed"'))
    done = run_replay("open", "one.html", "-o", "json").json
    assert (done["page_holds"], done["stands"]["status"]) == (False, "completed")
    assert "its page is not what its history makes" in run_replay("open", "one.html").out


def test_a_capsule_carries_a_proof_where_there_is_a_seal(desk, run_eventflow, run_replay, flows):
    """Of its newest sealed event; `open` makes the same page again from it."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    log = open_log("runs.eventflow", readonly=True)
    keep(desk / "runs.eventflow", seal(log, new_key("me")))
    log.close()
    assert run_replay("export", "one", "one.html", "--format", "capsule").code == 0
    proof = re.search(r'id="proof">([^<]*)', (desk / "one.html").read_text())[1]
    assert base64.b64decode(proof).decode() == run_replay("prove", "one").out
    assert run_replay("open", "one.html", "-o", "json").json["page_holds"] is True


@pytest.mark.parametrize(
    "argv",
    [["one", "one.txt"], ["--all", "all.html"], ["one", "one", "one.html"], ["nobody", "x.html"]],
)
def test_what_is_no_capsule_is_said_in_one_sentence(desk, run_eventflow, run_replay, flows, argv):
    """A capsule is of one run, in a file that a browser knows."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    done = run_replay("export", *argv, "--format", "capsule")
    assert done.code in (2, 3)
    assert done.sentence.startswith("replay: ")
    assert not list(desk.glob("*.html"))
