"""replay fork --run and replay tree: what they print, what they start, and their exit codes."""

from __future__ import annotations

import pytest

TYPED = """
from typing import TypedDict
from eventflow import Workflow

class Told(TypedDict, total=False):
    topic: str
    score: int

flow = Workflow("typed", state=Told).add_node("end", lambda state: {}).set_start("end")
"""


@pytest.fixture
def store(desk, run_eventflow, flows):
    """A store with the finished run `one`."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    return desk


def test_a_fork_is_driven_by_eventflows_own_command_line(store, process, run_replay):
    """In a process of its own; its exit code and its output are those of `resume`."""
    argv = ["fork", "one@1", "--id", "two", "--set", "n=5", "--run", "--flow", "flows.py:flow"]
    done = process("replay", *argv, "-o", "json").ended()
    assert (done.code, done.err) == (0, "")
    assert (done.json["run"], done.json["status"], done.json["state"]["n"]) == ("two", "completed", 6)
    done = process("replay", "fork", "one@1", "--id", "three", "--run", "--flow", "flows.py:flow").ended()
    assert done.code == 0
    assert "run three continues one@1" in done.out
    assert "run three: completed" in done.out


def test_what_drives_it_without_driving_is_refused(store, run_replay):
    """And nothing is recorded."""
    done = run_replay("fork", "one@1", "--id", "two", "--flow", "flows.py:flow")
    assert done.code == 2
    assert run_replay("show", "two").code == 3


@pytest.mark.parametrize("flow", [[], ["--flow", "flows.py:absent"], ["--flow", "flows.py:failing"]])
def test_a_workflow_that_is_not_known_is_told_before_the_fork_is_recorded(store, process, run_replay, flow):
    """With exit code 2 and a sentence of the command line's own words; no new run is left behind."""
    done = process("replay", "fork", "one@1", "--id", "two", "--run", *flow).ended()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("eventflow: ")
    assert "Engine(" not in done.err
    assert "absent" in done.err or "--flow MODULE:FLOW, or as one of `workflows` in the settings" in done.err
    assert run_replay("show", "two").code == 3


def test_a_fork_that_is_driven_at_once_needs_no_word_on_how_to_drive_it(store, process):
    """One that waits for somebody gets it."""
    done = process("replay", "fork", "one@1", "--id", "two", "--run", "--flow", "flows.py:flow").ended()
    assert done.out.startswith("run two continues one@1\n")
    done = process("replay", "fork", "one@1", "--id", "three").ended()
    assert done.out.startswith("run three continues one@1; `eventflow resume three` drives it\n")


def test_a_field_that_the_workflow_does_not_declare_is_refused(desk, run_eventflow, run_replay):
    """Where it declares any: with the nearest one, exit code 2, and nothing recorded."""
    (desk / "typed.py").write_text(TYPED)
    assert run_eventflow("run", "typed.py:flow", "--id", "one", "--input", '{"topic": "tides"}').code == 0
    done = run_replay("fork", "one@1", "--id", "two", "--set", "topik=1")
    assert done.code == 2
    assert done.sentence == (
        "replay: workflow 'typed' declares no field 'topik' (did you mean 'topic'?); it has score, topic"
    )
    assert run_replay("show", "two").code == 3
    assert run_replay("fork", "one@1", "--id", "two", "--set", "score=1").code == 0  # declared, and not there yet


def test_a_tree_tells_how_each_member_came_about(store, run_replay):
    """As lines for people, as rows for programs."""
    run_replay("fork", "one@1", "--id", "two")
    run_replay("fork", "two@2", "--id", "three")
    lines = run_replay("tree", "two").out.splitlines()
    assert lines == [
        "one (completed at version 3)",
        "└─ two forked from version 1 (running at version 2) <",
        "   └─ three forked from version 2 (running at version 3)",
    ]
    rows = run_replay("tree", "three", "-o", "jsonl").lines
    assert [(row["schema"], row["run"], row["how"], row["at"], row["depth"]) for row in rows] == [
        ("eventflow.tree/1", "one", "root", None, 0),
        ("eventflow.tree/1", "two", "fork", 1, 1),
        ("eventflow.tree/1", "three", "fork", 2, 2),
    ]
    assert run_replay("tree", "nobody").code == 3
