"""--step: a run stands before each next node until somebody says go."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

MORE = """
from typing import Annotated, TypedDict

from eventflow import Wait, Workflow, extend


class Steps(TypedDict, total=False):
    n: int
    notes: Annotated[list[str], extend]
    deep: dict


flow = (
    Workflow("stepped", state=Steps)
    .add_node("first", lambda s: {"n": s["n"] + 1, "notes": ["first"], "deep": {"a": 1, "b": 2}})
    .add_node("again", lambda s: {"n": s["n"] + 1, "notes": ["again"], "deep": {"b": 2}})
    .add_node("idle", lambda s: {})
    .add_node("last", lambda s: {"n": 0})
    .add_edge("first", "again")
    .add_edge("again", "again", when=lambda s: s["n"] < 3)
    .add_edge("again", "idle")
    .add_edge("idle", "last")
    .set_start("first")
)
failing = (
    Workflow("failing").add_node("a", lambda s: {}).add_node("b", lambda s: 1 / 0).add_edge("a", "b").set_start("a")
)
"""
INPUT = '{"n": 0}'


@pytest.fixture
def step(process, desk):
    """Run or resume by step with these lines on stdin."""
    (desk / "more.py").write_text(MORE)

    def stepped(*argv: str, lines: str = ""):
        (desk / "lines").write_text(lines)
        with (desk / "lines").open() as given:
            return process("eventflow", *argv, "--step", stdin=given).ended()

    return stepped


def test_a_run_stops_before_each_next_node_and_shows_what_changed(step, run_eventflow):
    """A node that follows itself is a next node too; an empty line and `go` go on, `stop` lets the run go."""
    ended = step("run", "more:flow", "--id", "r", "--input", INPUT, lines="go\n\n GO \nstop\n")
    assert ended.code == 7
    assert ended.out.splitlines()[:11] == [
        "node first is done at version 4, next is again", "  n = 1", '  deep = {"a": 1, "b": 2}', '  notes = ["first"]',
        "node again is done at version 7, next is again", "  n = 2", "  deep.a is gone", '  notes + ["again"]',
        "node again is done at version 10, next is idle", "  n = 3", '  notes + ["again"]',
    ]  # fmt: skip
    assert ended.out.splitlines()[11:14] == [
        "node idle is done at version 13, next is last", "  nothing changed", "run r: pending at version 14, node last"
    ]  # fmt: skip
    assert ended.sentence == "eventflow: run r was stopped and can go on: `eventflow resume r --flow more:flow`"
    assert run_eventflow("list", "-o", "json").json["rows"][0]["driven"] is False


def test_resume_steps_on_from_where_a_run_stands(step, run_eventflow):
    """The node it stands on is run at once; after the last one the run is completed as ever."""
    step("run", "more:flow", "--id", "r", "--input", INPUT, lines="stop\n")
    ended = step("resume", "r", "--flow", "more:flow", "-o", "jsonl", lines="\n\n\n\n")
    assert ended.code == 0
    *steps, last = ended.lines
    assert [(one["node"], one["next"]) for one in steps] == [("again", "again"), ("again", "idle"), ("idle", "last")]
    assert steps[0]["schema"] == "eventflow.step/1"
    assert steps[0]["change"][0] == {"op": "set", "path": ["n"], "value": 2}
    assert (last["schema"], last["status"], last["state"]["n"]) == ("eventflow.state/1", "completed", 0)
    assert run_eventflow("store", "verify").code == 0


def test_going_back_by_step_asks_before_the_next_node_only(step, run_eventflow):
    """--at takes the run back once; the steps after it go forward."""
    run_eventflow("run", "more:flow", "--id", "r", "--input", INPUT)
    ended = step("resume", "r", "--at", "2", "--flow", "more:flow", lines="\n")
    assert ended.code == 7
    assert [line.split()[1] for line in ended.out.splitlines() if line.startswith("node")] == ["again", "again"]
    assert run_eventflow("show", "r", "-o", "json").json["node"] == "idle"


def test_the_end_of_stdin_is_a_stop(step):
    """Nobody is asked for ever."""
    ended = step("run", "more:flow", "--id", "r", "--input", INPUT)
    assert ended.code == 7
    assert "node again" in ended.out


def test_another_word_is_told_and_asked_for_again(step):
    """What was meant is not guessed."""
    ended = step("run", "more:flow", "--id", "r", "--input", INPUT, lines="g\nstop\n")
    assert ended.code == 7
    assert ended.err.splitlines()[0] == "eventflow: 'g' is neither go (or an empty line) nor stop"


def test_a_failure_ends_the_steps(step):
    """It is told as ever, and nothing is asked."""
    ended = step("run", "more:failing", "--id", "r", lines="\n\n\n")
    assert ended.code == 1
    assert "ZeroDivisionError" in ended.sentence


def test_as_one_json_document_stdout_has_nothing_else(step):
    """The steps are told on stderr then."""
    ended = step("run", "more:flow", "--id", "r", "--input", INPUT, "-o", "json", lines="stop\n")
    assert ended.json["node"] == "again"
    assert "node first is done" in ended.err


@pytest.mark.parametrize(("typed", "code"), [(b"\n\n\n\n", 0), (b"stop\n", 7)])
def test_on_a_terminal_there_is_a_prompt(process, desk, until, typed, code):
    """It names the next node, and what can be typed."""
    (desk / "more.py").write_text(MORE)
    running, ours = _on_a_terminal(process, desk)
    until(lambda: "go on with node again? [go/stop] " in (desk / "err").read_text(), running)
    os.write(ours, typed)
    assert running.ended().code == code
    os.close(ours)


def test_ctrl_c_at_the_prompt_is_a_stop(process, desk, until):
    """The run has been let go already; the exit code says that it can go on."""
    (desk / "more.py").write_text(MORE)
    running, ours = _on_a_terminal(process, desk)
    until(lambda: "[go/stop] " in (desk / "err").read_text(), running)
    running.signal(signal.SIGINT)
    assert running.ended().code == 7
    assert "Traceback" not in (desk / "err").read_text()
    os.close(ours)


def _on_a_terminal(process, desk):
    ours, its = os.openpty()
    with (desk / "err").open("w") as err:
        running = process(
            "eventflow", "run", "more:flow", "--id", "r", "--input", INPUT, "--step", stdin=its, stderr=err,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    os.close(its)
    return running, ours
