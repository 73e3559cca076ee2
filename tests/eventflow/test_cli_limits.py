"""What a run may use, from the command line: --timeout and --budget."""

from __future__ import annotations

import pytest

from eventflow.budget import Budget
from eventflow.cli.limits import budget_of, seconds_of
from eventflow.errors import SettingsError

MORE = """
import asyncio

from eventflow import Workflow

late = Workflow("late").add_node("only", lambda s: asyncio.sleep(20)).set_start("only")
counting = (
    Workflow("counting")
    .add_node("count", lambda s: {"n": s["n"] + 1})
    .add_node("end", lambda s: {})
    .add_edge("count", "count", when=lambda s: s["n"] < 5)
    .add_edge("count", "end")
    .set_start("count")
)
"""


@pytest.fixture
def more(desk):
    """Workflows that take their time, in `more.py`."""
    (desk / "more.py").write_text(MORE)


def test_each_limit_is_a_name_and_a_number():
    """Whole numbers where things are counted, any number above 0 where they are measured."""
    assert budget_of(["tokens=10", "calls=2", "cost=0.5", "steps=7", "seconds=1.5"]) == Budget(
        tokens=10, calls=2, cost=0.5, steps=7, seconds=1.5
    )
    assert budget_of([]) is None


@pytest.mark.parametrize(
    "given",
    ["tokens", "tokens=", "tokens=1.5", "cost=0", "cost=nan", "seconds=inf", "steps=-1", "money=3", "=3", "calls=many"],
)
def test_a_limit_that_means_nothing_is_refused(given):
    """The sentence repeats what was given."""
    with pytest.raises(SettingsError, match=f"--budget '{given}'"):
        budget_of([given])


def test_a_limit_given_twice_is_refused():
    """Nobody knows which one was meant."""
    with pytest.raises(SettingsError, match="each limit once"):
        budget_of(["steps=1", "steps=2"])


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds):
    """No limit is written by leaving it out."""
    with pytest.raises(SettingsError, match="more than 0"):
        seconds_of(seconds)


def test_a_run_whose_time_is_over_ends_with_a_sentence_of_its_own(run_eventflow, more):
    """Exit code 1; `show` tells the same status, and no time that is left."""
    ended = run_eventflow("run", "more:late", "--id", "r", "--timeout", "0.1", "-o", "json")
    assert (ended.code, ended.json["status"]) == (1, "timed_out")
    assert ended.sentence.startswith(
        "eventflow: run r did not end in the time it was given, and was ended in node 'only'"
    )
    assert "`replay fork r@VERSION`" in ended.sentence
    assert "its time is over" not in run_eventflow("show", "r").out


def test_the_way_out_that_the_sentence_names_is_one(run_eventflow, run_replay, more):
    """A fork of a run whose time is over has no limit, while a rewind keeps it."""
    run_eventflow("run", "more:late", "--id", "r", "--timeout", "0.1")
    assert run_replay("fork", "r@1", "--id", "f").code == 0
    assert run_eventflow("show", "f", "-o", "json").json["deadline"] is None
    assert run_eventflow("show", "r@1", "-o", "json").json["deadline"] is not None


def test_a_budget_stops_a_run_and_a_larger_one_lets_it_go_on(run_eventflow, more):
    """What is used is told beside what may be; resuming with another budget sets that."""
    ended = run_eventflow(
        "run", "more:counting", "--id", "r", "--input", '{"n": 0}', "--budget", "steps=2", "--budget", "seconds=60"
    )
    assert ended.code == 1
    assert ended.sentence.startswith("eventflow: run r has used its budget (2 of 2 steps)")
    assert "`eventflow resume r --flow more:counting --budget NAME=NUMBER`" in ended.sentence
    budget = run_eventflow("show", "r", "-o", "json").json["budget"]
    assert budget["steps"] == {"used": 2, "limit": 2}
    assert 0 <= budget["seconds"]["used"] < budget["seconds"]["limit"] == 60
    assert "budget used: 2 of 2 steps, " in run_eventflow("show", "r").out
    ended = run_eventflow("resume", "r", "--flow", "more:counting", "--budget", "steps=20", "-o", "json")
    assert (ended.code, ended.json["state"]["n"]) == (0, 5)
    assert run_eventflow("show", "r", "-o", "json").json["budget"] == {"steps": {"used": 6, "limit": 20}}


@pytest.mark.parametrize("option", [("--budget", "steps=x"), ("--timeout", "0"), ("--timeout", "soon")])
def test_a_limit_that_means_nothing_starts_nothing(run_eventflow, more, desk, option):
    """Exit code 2, and no store is made."""
    assert run_eventflow("run", "more:late", *option).code == 2
    assert not (desk / "runs.eventflow").exists()
