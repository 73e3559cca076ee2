"""replay verify: what it prints, and its exit codes."""

from __future__ import annotations

import pytest

from eventflow.change import Op
from eventflow.event import Transitioned
from eventflow.log import open_log
from eventflow.testing.author import Author


@pytest.fixture
def store(desk):
    """A store with the runs `r` and `s`; `s` takes a step that its definition does not have."""
    log = open_log(desk / "runs.eventflow")
    author = Author(log)
    for run in ("r", "s"):
        head = author.start(run, {"n": 1})
        author.add(head, *(Transitioned("a", "a", change=(Op("set", ("n",), number),)) for number in range(5)))
    log.close()
    return desk


def test_the_first_broken_place_is_named(run_replay, store):
    """With run and version; exit code 4, in every form of output."""
    for how in ("table", "json", "jsonl"):
        assert run_replay("verify", "r", "-o", how).code == 4
    done = run_replay("verify", "r")
    assert "the first: r@1: has a definition that is not the one its digest names" in done.out
    document = run_replay("verify", "--all", "-o", "json").json
    assert (document["schema"], document["sound"], document["runs"]) == ("eventflow.verification/1", False, 2)
    assert document["first"] == document["findings"][0]


def test_what_holds_ends_with_0(run_eventflow, run_replay, flows):
    """A run, several, or the whole store."""
    for run in ("one", "two"):
        assert run_eventflow("run", "flows.py:flow", "--id", run, "--input", '{"n": 1}').code == 0
    done = run_replay("verify", "one", "two")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2 runs, 6 events, ")
    assert "everything holds" in done.out
    assert run_replay("verify", "--all", "-o", "json").json["first"] is None


def test_a_flipped_bit_is_found(run_eventflow, run_replay, flows):
    """In the text of an event."""
    run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1, "notes": ["needle"]}')
    data = flows.parent / "runs.eventflow" / "data.1" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"needle", b"noodle"))
    done = run_replay("verify", "one")
    assert done.code in (4, 6)
    assert done.err


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["r", "--all"], 2), (["nobody"], 3)])
def test_what_can_not_be_verified_is_said_in_one_sentence(run_replay, store, argv, code):
    """With the exit code of what is wrong."""
    done = run_replay("verify", *argv)
    assert done.code == code
    assert done.sentence.startswith("replay: ")
