"""replay fork --run and replay tree: what they print, what they start, and their exit codes."""

from __future__ import annotations

import pytest


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


def test_a_workflow_that_is_not_there_ends_with_its_exit_code(store, process):
    """The fork is recorded, and can be driven later."""
    done = process("replay", "fork", "one@1", "--id", "two", "--run", "--flow", "flows.py:absent").ended()
    assert done.code == 2
    assert "eventflow: " in done.err


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
