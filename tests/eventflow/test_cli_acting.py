"""retry, skip, and the options of resume that say what is taken along."""

from __future__ import annotations

from pathlib import Path

import pytest

MORE = """
from pathlib import Path

from eventflow import Wait, Workflow


def fails(state):
    with Path("tries").open("a") as file:
        file.write("x")
    if not Path("mended").exists():
        raise ValueError("broken")
    return {"made": "here"}


failing = (
    Workflow("failing")
    .add_node("a", fails)
    .add_node("b", lambda s: {"seen": s["made"]})
    .add_edge("a", "b")
    .set_start("a")
)


def charge():
    with Path("charges").open("a") as file:
        file.write("x")
    return "charged"


async def pays(state, run):
    return {"paid": await run.effect("pay", charge)}


paying = (
    Workflow("paying")
    .add_node("a", lambda s: {})
    .add_node("b", pays)
    .add_node("c", lambda s: {"end": True})
    .add_edge("a", "b")
    .add_edge("b", "c")
    .set_start("a")
)
told = (
    Workflow("told")
    .add_node("a", lambda s: {"n": 1})
    .add_node("b", Wait(signal="go", writes="x"))
    .add_edge("a", "b")
    .set_start("a")
)
"""


@pytest.fixture
def failed(run_eventflow, desk):
    """A run that has failed in its first node."""
    (desk / "more.py").write_text(MORE)
    assert run_eventflow("run", "more:failing", "--id", "r").code == 1
    return desk


def test_retry_tries_the_node_again_and_goes_on(run_eventflow, failed):
    """It prints the state and gives the exit code as `resume` does; the record says that it was a retry."""
    assert run_eventflow("retry", "r", "--flow", "more:failing").code == 1
    Path("mended").touch()
    ended = run_eventflow("retry", "r", "--flow", "more:failing", "--why", "mended", "-o", "json")
    assert (ended.code, ended.json["state"]) == (0, {"made": "here", "seen": "here"})
    assert Path("tries").read_text() == "xxx"


def test_only_what_has_failed_is_retried(run_eventflow, failed):
    """A completed run is a conflict, one that is not there is not found; no store is made."""
    Path("mended").touch()
    run_eventflow("run", "more:failing", "--id", "good")
    ended = run_eventflow("retry", "good", "--flow", "more:failing")
    assert ended.code == 5
    assert "it has not failed (completed)" in ended.sentence
    assert run_eventflow("retry", "nobody", "--flow", "more:failing").code == 3
    assert run_eventflow("retry", "r", "--flow", "more:failing", "--store", "none").code == 3
    assert not Path("none").exists()
    assert run_eventflow("retry", "r", "--dry-run").code == 2


def test_skip_puts_a_result_in_place_of_the_node_s_code(run_eventflow, run_replay, failed):
    """The node's function is not called; what follows it sees the result; who and why are in the history."""
    ended = run_eventflow(
        "skip", "r", "--result", '{"made": "by hand"}', "--flow", "more:failing", "--why", "known", "-o", "json"
    )
    assert (ended.code, ended.json["state"]) == (0, {"made": "by hand", "seen": "by hand"})
    assert Path("tries").read_text() == "x"
    [skipped] = run_replay("log", "r", "--type", "NodeSkipped", "-o", "jsonl").lines
    assert "known" in str(skipped)


def test_a_result_that_does_not_fit_skips_nothing(run_eventflow, failed):
    """Exit code 2, and the run stands as it stood."""
    before = run_eventflow("show", "r", "-o", "json").json
    for given, said in (("7", "--result does not fit"), ("nope", "not JSON"), ("@nowhere", "can't be read")):
        ended = run_eventflow("skip", "r", "--result", given, "--flow", "more:failing")
        assert ended.code == 2
        assert said in ended.sentence
    assert run_eventflow("show", "r", "-o", "json").json == before


@pytest.mark.parametrize(("effects", "calls"), [("again", "xx"), ("reuse", "x")])
def test_calls_made_since_a_point_are_made_again_or_answer(run_eventflow, desk, effects, calls):
    """--effects says which; --yes confirms that a call which changes something is repeated."""
    (desk / "more.py").write_text(MORE)
    run_eventflow("run", "more:paying", "--id", "r")
    yes = ("--yes",) if effects == "again" else ()
    ended = run_eventflow("resume", "r", "--at", "1", "--effects", effects, "--flow", "more:paying", "-o", "json", *yes)
    assert (ended.code, ended.json["state"]) == (0, {"paid": "charged", "end": True})
    assert Path("charges").read_text() == calls


@pytest.mark.parametrize("kept", [True, False])
def test_messages_that_came_since_a_point_are_given_back_where_asked(process, run_eventflow, until, desk, kept):
    """With --keep-signals the run need not be told again."""
    (desk / "more.py").write_text(MORE)
    running = process("eventflow", "run", "more:told", "--id", "r")
    until(lambda: run_eventflow("signal", "r", "go", "5").code == 0, running)
    assert running.ended().code == 0
    keep = ("--keep-signals",) if kept else ()
    running = process("eventflow", "resume", "r", "--at", "1", "--flow", "more:told", "-o", "json", *keep)
    if not kept:
        until(lambda: run_eventflow("show", "r", "-o", "json").json["status"] == "waiting", running)
        assert run_eventflow("signal", "r", "go", "6").code == 0
    assert running.ended().json["state"]["x"] == (5 if kept else 6)


@pytest.mark.parametrize("option", [("--effects", "reuse"), ("--keep-signals",)])
def test_what_is_about_a_point_needs_one(run_eventflow, failed, option):
    """Without --at there is nothing that came after it."""
    ended = run_eventflow("resume", "r", "--flow", "more:failing", *option)
    assert ended.code == 2
    assert "--at" in ended.sentence
