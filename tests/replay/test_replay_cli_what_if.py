"""replay fork with what a what-if run may call, and eventflow resume with more of it: what is asked, said, shown."""

from __future__ import annotations

import pytest

FLOW = """
from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

from eventflow import Workflow, extend


class Data(TypedDict, total=False):
    n: int
    said: Annotated[list, extend]


def called(name):
    with Path("calls").open("a") as file:
        file.write(name + "\\n")


def ask(n):
    called("ask")
    return f"answer {n}"


def pay(n):
    called("pay")
    return {"paid": n}


async def look(state, run):
    usage = {"input_tokens": 1_000, "output_tokens": 20, "cost": 0.25}
    said = await run.effect("ask", ask, state["n"], mutating=False, usage=lambda _: usage)
    return {"said": [said]}


async def buy(state, run):
    return {"said": [await run.effect("pay", pay, state["n"])]}


flow = (
    Workflow("shopping", state=Data)
    .add_node("look", look)
    .add_node("buy", buy)
    .add_edge("look", "buy")
    .set_start("look")
)
"""


@pytest.fixture
def calls(desk, run_eventflow):
    """What was really called since, after the finished run `r`."""
    (desk / "shop.py").write_text(FLOW)
    assert run_eventflow("run", "shop.py:flow", "--id", "r", "--input", '{"n": 1}').code == 0
    file = desk / "calls"

    def made() -> list[str]:
        return file.read_text().split()[2:]

    return made


FORK = ["fork", "r@1", "--flow", "shop.py:flow", "--run"]


def test_a_fork_that_is_driven_at_once_is_a_what_if_run(calls, process, run_replay):
    """Nothing is called; log, report, show and tree say what answered, and that it is no run like others."""
    done = process("replay", *FORK, "--id", "b").ended()
    assert (done.code, done.err, calls()) == (0, "", [])
    assert "it is a what-if run: what was recorded answers; all else is denied" in done.out
    details = [row["detail"] for row in run_replay("log", "b", "-o", "jsonl").lines]
    assert details[0].startswith("what-if run from r@1")
    assert [one for one in details if "not called" in one] == [
        "ask (key 1), not called: r@3 answered", "pay (key 1), not called: r@6 answered",
    ]  # fmt: skip
    report = run_replay("report", "b").out
    assert "A WHAT-IF RUN: what was recorded answers; all else is denied" in report
    assert "not called: r@6 answered" in report
    document = run_replay("report", "b", "-o", "json").json
    assert document["what_if"] == {"live": [], "mock": {}, "deny": [], "recorded": True}
    assert [one["source"] for one in document["calls"]] == ["r@3", "r@6"]
    shown = run_replay("show", "b@5").out
    assert "a what-if run: " in shown
    assert "call ask#1: finished, attempt 1, not called: r@3 answered" in shown
    assert run_replay("show", "b", "-o", "json").json["what_if"]["recorded"] is True
    assert run_replay("show", "r", "-o", "json").json["what_if"] is None
    assert "└─ b forked from version 1, what-if (completed at version 9) <" in run_replay("tree", "b").out
    assert [row["what_if"] for row in run_replay("tree", "b", "-o", "jsonl").lines] == [False, True]
    assert run_replay("verify", "b").code == 0


def test_a_denied_call_is_exit_code_1_and_a_sentence_that_can_be_followed(calls, process, run_replay, run_eventflow):
    """The option that it names makes the run go on, and what else it may call stays as it was."""
    done = process("replay", *FORK, "--id", "b", "--set", "n=2", "--mock", 'ask="given"').ended()
    assert (done.code, calls()) == (1, [])
    assert "call 'pay' (key 1) of node 'buy' is not made" in done.sentence
    assert "{'args': [2]}" in done.sentence
    assert "`eventflow resume b --flow shop.py:flow" in done.sentence
    assert "--mock pay=JSON" in done.sentence
    assert run_eventflow("resume", "b", "--flow", "shop.py:flow", "--mock", 'pay={"paid": 0}').code == 0
    shown = run_replay("show", "b", "-o", "json").json
    assert shown["state"]["said"] == ["given", {"paid": 0}]
    assert shown["what_if"] == {"live": [], "mock": {"ask": "given", "pay": {"paid": 0}}, "deny": [], "recorded": True}
    assert calls() == []


def test_what_it_may_cost_is_said_and_agreed_to_before_anything_is_really_called(
    calls, process, run_replay, run_eventflow
):
    """As the parent's calls cost it; without a terminal and without --yes nothing is recorded."""
    argv = [*FORK, "--id", "b", "--set", "n=2", "--live", "*"]
    done = process("replay", *argv).ended()
    assert (done.code, run_replay("show", "b").code) == (2, 3)
    for part in (
        "every call that does not mutate",
        "made these calls",
        "ask",
        "1,000 tokens in and 20 out",
        "cost 0.25",
        "--yes",
    ):
        assert part in done.sentence
    done = process("replay", *argv, "--yes").ended()
    assert (done.code, calls()) == (1, ["ask"])
    assert "cost 0.25" in done.err
    resume = ["resume", "b", "--flow", "shop.py:flow", "--live", "pay"]
    asked = run_eventflow(*resume)
    assert (asked.code, calls()) == (2, ["ask"])
    assert "The run may really call pay" in asked.sentence
    assert (run_eventflow(*resume, "--yes").code, calls()) == (0, ["ask", "pay"])


def test_a_real_fork_makes_every_call(calls, process, run_replay):
    """Said in so many words; what is forked without being driven is what it ever was."""
    assert process("replay", *FORK, "--id", "b", "--real").ended().code == 0
    assert calls() == ["ask", "pay"]
    assert run_replay("fork", "r@1", "--id", "c", "-o", "json").json["what_if"] is False
    assert run_replay("fork", "r@1", "--id", "d", "--what-if", "-o", "json").json["what_if"] is True
    assert run_replay("fork", "d@2", "--id", "e", "-o", "json").json["what_if"] is True


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--real", "--live", "ask"], "--real makes every call"),
        (["--mock", "pay"], "NAME=JSON"),
        (["--mock", "pay={"], "not JSON"),
        (["--deny", "pay", "--live", "pay"], "two things of pay"),
        (["--deny", "*"], "denied"),
    ],
)
def test_what_makes_no_sense_is_refused(calls, run_replay, argv, sentence):
    """Before anything is recorded."""
    done = run_replay("fork", "r@1", "--id", "b", *argv)
    assert done.code == 2
    assert sentence in done.sentence
    assert run_replay("show", "b").code == 3


def test_a_run_that_makes_every_call_takes_no_policy(calls, run_replay, run_eventflow):
    """Nor do many at once."""
    assert run_replay("fork", "r@1", "--id", "b").code == 0
    done = run_eventflow("resume", "b", "--flow", "shop.py:flow", "--mock", "ask=1")
    assert done.code == 5
    assert "no what-if run" in done.sentence
    assert run_eventflow("resume", "--where", "status=running", "--live", "ask", "--yes").code == 2
    assert calls() == []
