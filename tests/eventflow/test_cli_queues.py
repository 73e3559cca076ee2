"""Queues on the command line: put, list, and the worker that serves them."""

from __future__ import annotations

import json

import pytest

from eventflow import Queue
from eventflow.cli.queues import queues_to_serve

FLOWS = """
import asyncio

from eventflow import Workflow

quick = Workflow("quick").add_node("only", lambda state: {"done": True}).set_start("only")
here = []


async def alone(state):
    here.append(len(here))
    await asyncio.sleep(0.01)
    return {"others": len(here) - 1, "ended": here.clear()}


busy = Workflow("busy").add_node("only", alone).set_start("only")
"""


@pytest.fixture
def quick(desk):
    """A workflow in a file."""
    file = desk / "quick.py"
    file.write_text(FLOWS)
    return f"{file}:quick"


def test_runs_are_put_listed_and_taken_by_a_worker(quick, run_eventflow):
    """The highest priority is listed first; afterwards the queue is empty."""
    for name, priority in (("low", "-1"), ("high", "5")):
        put = run_eventflow("queue", "put", quick, "jobs", "--id", name, "--priority", priority, "--key", "k")
        assert (put.code, put.out) == (0, f"run {name}: pending, in queue jobs\n")
    listed = json.loads(run_eventflow("queue", "list", "jobs", "-o", "json").out)
    assert [(row["run"], row["stands"], row["priority"], row["key"]) for row in listed["rows"]] == [
        ("high", "waits", 5, "k"), ("low", "waits", -1, "k"),
    ]  # fmt: skip
    other = run_eventflow("worker", quick, "--once", "--queue", "others")
    assert (other.code, "0 runs driven" in other.out) == (0, True)
    assert other.sentence == "eventflow: 2 runs wait in queue jobs; serve it with --queue jobs"
    assert run_eventflow("queue", "list", "jbs").sentence == (
        "eventflow: queue jbs is empty; runs wait in jobs (2 runs)"
    )
    assert run_eventflow("queue", "list", "jbs", "-o", "json").err == ""
    assert "waits in queue jobs\n" in run_eventflow("show", "low").out
    assert "nobody" not in run_eventflow("list").out
    worked = run_eventflow("worker", quick, "--once", "--queue", "jobs:1")
    assert worked.code == 0
    assert "run high: taken from its queue" in worked.out
    assert "2 runs driven: 2 completed" in worked.out
    assert (worked.err, run_eventflow("queue", "list", "jobs").err) == ("", "")
    assert json.loads(run_eventflow("queue", "list", "jobs", "-o", "json").out)["rows"] == []
    assert json.loads(run_eventflow("show", "low", "-o", "json").out)["status"] == "completed"


def test_queues_and_their_limits_come_from_the_settings(quick, desk, run_eventflow):
    """A worker without --queue serves those."""
    (desk / "eventflow.toml").write_text("[queues.jobs]\nconcurrency = 2\nrate = [100, 1]\n")
    run_eventflow("queue", "put", quick, "jobs", "--id", "r")
    assert "1 run driven: 1 completed" in run_eventflow("worker", quick, "--once").out


def test_a_worker_takes_no_more_of_a_queue_at_once_than_it_says_it_will(quick, run_eventflow):
    """`--queue NAME:here=1`: each of three runs was alone in its process."""
    busy = quick.replace(":quick", ":busy")
    for name in "abc":
        run_eventflow("queue", "put", busy, "jobs", "--id", name)
    assert "3 runs driven: 3 completed" in run_eventflow("worker", busy, "--once", "--queue", "jobs:here=1").out
    assert [run_eventflow("show", name, "-o", "json").json["state"]["others"] for name in "abc"] == [0, 0, 0]


def test_what_an_option_does_not_say_of_a_queue_s_limits_comes_from_the_settings(desk):
    """A number alone is `concurrency`; a queue that the settings do not name has no others."""
    (desk / "eventflow.toml").write_text("[queues.jobs]\nconcurrency = 2\nper_key = 3\nrate = [100, 1]\n")
    assert queues_to_serve(("jobs:20,here=4", "jobs", "mail:here=1,per_key=2")) == [
        Queue("jobs", 20, 3, (100, 1), 4), Queue("jobs", 2, 3, (100, 1)), Queue("mail", None, 2, None, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queue", "jobs:many"], "after the colon comes a number of runs"),
        (["--queue", "jobs:0"], "give 1 or more"),
        (["--queue", "jobs:here=0"], "give 1 or more"),
        (["--queue", "jobs:her=2"], "or concurrency=N, per_key=N, here=N, each once"),
        (["--queue", "jobs:4,concurrency=2"], "each once"),
        (["--queue", "jobs:4,"], "as in --queue jobs:20,here=4"),
    ],
)
def test_what_is_no_limit_is_refused(quick, run_eventflow, arguments, said):
    """One sentence, exit code 2."""
    run_eventflow("queue", "put", quick, "jobs", "--id", "r")
    worked = run_eventflow("worker", quick, *arguments)
    assert worked.code == 2
    assert said in worked.err


def test_settings_that_are_no_table_are_refused(quick, desk, run_eventflow):
    """So are those of a queue that are not understood."""
    run_eventflow("queue", "put", quick, "jobs", "--id", "r")
    for text in ("queues = 3\n", "[queues.jobs]\nspeed = 3\n"):
        (desk / "eventflow.toml").write_text(text)
        assert run_eventflow("worker", quick).code == 2
