"""replay report: what it prints, and its exit codes."""

from __future__ import annotations

import pytest

from eventflow.event import EffectFinished, EffectStarted, SignalReceived, WaitClosed, WaitOpened
from eventflow.log import open_log
from eventflow.plain import FrozenDict
from eventflow.testing.author import Author

HUGE = """
from eventflow import Workflow


def step(state):
    more = {"a_list": [f"row {i} of a list of a megabyte" for i in range(30_000)], **{f"f{i}": i for i in range(100)}}
    return {"n": state["n"] + 1, **({} if state["n"] else more)}


flow = (
    Workflow("huge")
    .add_node("step", step)
    .add_node("end", lambda state: None)
    .add_edge("step", "step", when=lambda state: state["n"] < 250)
    .add_edge("step", "end")
    .set_start("step")
)
"""


@pytest.fixture
def store(desk):
    """A store with the run `r`, in which a person answered what became of a payment, and whether to ship."""
    log = open_log(desk / "runs.eventflow")
    author = Author(log)
    head = author.start("r", {"n": 1, "bad": "\x1b[31m"})
    head = author.add(head, EffectStarted("pay", "1", "call", True, {"sum": 5}, bytes(32), "key-1"))
    head = author.add(head, WaitOpened("a", "unknown", "pay", spec=FrozenDict({"effect": "pay", "key": "1"})))
    head = author.add(head, EffectFinished("pay", "1", {}, actor="ann", why="I looked"), WaitClosed("a", "settled"))
    head = author.add(head, WaitOpened("a", "human", spec=FrozenDict({"prompt": "Ship it?"})))
    author.add(head, SignalReceived("answer:8", "yes", 1, actor="bob"), WaitClosed("a", "signal", 1))
    log.close()
    return desk


def test_an_account_is_read_by_people(run_replay, store):
    """The sections of what there is, and nothing raw from the log."""
    done = run_replay("report", "r")
    assert done.code == 4  # the history was written by hand, and no definition stands behind it
    for text in (
        "Account of run r",
        "Nodes",
        "Calls to the outside",
        "Decisions and waits",
        "How it stands",
        "What proves it",
    ):
        assert text in done.out
    assert "pay (key 1)" in done.out
    assert "settled by ann: I looked" in done.out
    assert "Ship it?" in done.out
    assert "bob" in done.out
    assert "THE HISTORY DOES NOT HOLD" in done.out
    assert "\x1b" not in done.out
    assert "Model calls" not in done.out


def test_an_account_of_a_huge_state_and_a_long_history_is_a_few_pages(run_replay, run_eventflow, desk):
    """Values are cut, of many fields and many visits some are shown and the rest counted; JSON has all."""
    (desk / "huge.py").write_text(HUGE)
    assert run_eventflow("run", "huge.py:flow", "--id", "h", "--input", '{"n": 0}').code == 0
    told = run_replay("report", "h")
    assert told.code == 0
    assert len(told.out) < 60_000
    assert max(map(len, told.out.splitlines())) < 400
    assert "Nodes (the first and the last 100; 51 between them left out, all with -o json)" in told.out
    assert "… and 42 fields more, all with -o json" in told.out
    assert '  a_list = ["row 0' in told.out
    assert "(30,000 items, " in told.out
    fields = [line.split()[0] for line in told.out.splitlines() if line.startswith("  ") and " = " in line]
    assert fields == ["n", *sorted(fields[1:])]
    document = run_replay("report", "h", "-o", "json").json
    assert (len(document["nodes"]), len(document["end"]["state"])) == (251, 102)
    assert len(document["end"]["state"]["a_list"]) == 30_000


def test_an_account_is_read_by_programs(run_replay, store):
    """The same facts, in one document."""
    for how in ("json", "jsonl"):
        document = run_replay("report", "r", "-o", how).json
        assert (document["schema"], document["run"], document["evidence"]["holds"]) == (
            "eventflow.report/1",
            "r",
            False,
        )
        assert document["origin"]["input"]["n"] == 1
        (call,) = document["calls"]
        assert (call["name"], call["unknown"], call["settled_by"], call["mutating"]) == ("pay", True, "ann", True)
        assert [(one["kind"], one["answer"], one["actor"]) for one in document["decisions"]] == [
            ("unknown", "finished", "ann"),
            ("human", "yes", "bob"),
        ]
        assert document["nodes"][0]["ended"] is None


def test_a_seal_that_covers_the_end_is_named(run_replay, run_eventflow, flows):
    """And that none does, as long as none does."""
    run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}')
    done = run_replay("report", "one")
    assert done.code == 0
    assert "no seal that is kept here covers its end" in done.out
    run_eventflow("store", "keygen", "key")
    run_eventflow("store", "seal", "--key", "key")
    assert "the seal of 4 events covers its end" in run_replay("report", "one").out
    assert run_replay("report", "one", "-o", "json").json["evidence"]["seal"]["size"] == 4
    assert run_replay("report", "nobody").code == 3


@pytest.mark.parametrize(("actor", "columns"), [("ann", False), ("bob", True)])
def test_who_did_it_and_why_is_said_once(run_eventflow, run_replay, flows, monkeypatch, actor, columns):  # noqa: PLR0917
    """In columns of their own, where more than one had a hand in it; of one who did everything, in one sentence."""
    monkeypatch.setenv("LOGNAME", "ann")
    assert run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}').code == 0
    assert run_eventflow("pin", "r", "--why", "an audit", "--actor", actor).code == 0
    told = run_replay("report", "r").out
    section = told[told.index("Checkpoints and the store") :].splitlines()
    assert ("by" in section[1].split()) == columns
    assert section[2].count("an audit") == 1
    assert section[2].count(f" {actor}") == columns
    assert ("all that was done by hand was done by ann too" in told) != columns
