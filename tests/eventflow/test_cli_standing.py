"""What `show` tells beside a run's state: waits, branches, children and callers, what is left to undo, limits."""

from __future__ import annotations

import json
import re
import signal

import pytest

from eventflow.cli.standing import goes_on
from eventflow.plain import freeze

AROUND = [
    "waits",
    "branches",
    "children",
    "caller",
    "undo",
    "undoing",
    "budget",
    "deadline",
    "parked",
    "kept",
    "refused",
]
MORE = """
from pathlib import Path

from eventflow import Child, Human, Map, Parallel, Sleep, Wait, Workflow
from eventflow.errors import InvalidState


def one(name, body, **options):
    return Workflow(name).add_node("only", body, **options).set_start("only")


def fails(state):
    if not Path("mended").exists():
        raise ValueError("broken")
    return {"mended": True}


asks = one("asks", Human(prompt="Sure?", writes="sure", timeout=3600))
sleeps = one("sleeps", Sleep(3600))
listens = one("listens", Wait.for_message(writes="heard"))
signalled = one("signalled", Wait(signal="go"))
mixed = one("mixed", Parallel(
    {"ask": Human(prompt="Red?", writes="red"), "wait": Wait(signal="go"), "bad": fails, "done": lambda s: {"a": 1}},
    tolerate=1,
))
inner = one("inner", Wait(signal="go", writes="x"))
outer = (
    Workflow("outer")
    .add_node("first", Child(one("quick", lambda s: {"a": 1}), writes="first"))
    .add_node("both", Parallel({"x": Child(inner, writes="x"), "y": Child(inner, writes="y")}))
    .add_edge("first", "both")
    .set_start("first")
)
many = one("many", Map(lambda item: fails(item) if item == 30 else item, over="items", writes="out", limit=1))


async def books(state, run):
    await run.effect("book", lambda: "b-1", mutating=True)
    await run.effect("pay", lambda: "p-1", mutating=True)
    raise ValueError("no")


def cancels(output):
    if not Path("mended").exists():
        raise InvalidState("booking", "is not there")  # which no other attempt would mend


trip = (
    one("trip", books).add_compensation("book", cancels).add_compensation("pay", lambda output: None)
)
"""


@pytest.fixture
def start(process, run_eventflow, until, desk):
    """Start a run as a process, and wait until it stands so."""
    (desk / "more.py").write_text(MORE)

    def started(flow: str, ready=lambda shown: shown["status"] == "waiting", **options: str):
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        running = process("eventflow", "run", flow, "--id", "r", *arguments)

        def look():
            ended = run_eventflow("show", "r", "-o", "json")
            return ended.json if ended.code == 0 and ready(ended.json) else None

        return running, until(look, running)

    return started


@pytest.mark.parametrize(
    ("flow", "kind", "lines"),
    [
        ("asks", "human", ["asks: Sure?, until {}", "answer with: eventflow answer r JSON"]),
        ("sleeps", "timer", ["sleeps, until {}"]),
        ("signalled", "signal", ["waits for signal go", "send it with: eventflow signal r go JSON"]),
        ("listens", "signal", ["waits for signal message", "send it with: eventflow send r TEXT"]),
    ],
)
def test_a_wait_is_told_with_its_id_its_limit_and_what_ends_it(start, run_eventflow, flow, kind, lines):
    """In a line of its own where there is one, and in the table of all; in JSON with the same id and limit."""
    _, shown = start(f"more:{flow}")
    [wait] = shown["waits"]
    assert (wait["id"], wait["kind"], wait["branch"]) == (shown["version"], kind, None)
    table = run_eventflow("show", "r").out.splitlines()
    assert table[1 : 1 + len(lines)] == [line.format(wait["until"]) for line in lines]
    row = table[table.index("waits:") + 2].split()
    assert row[:2] == [str(wait["id"]), kind]
    assert wait["until"] is None or row[-1] == wait["until"]


def test_a_question_is_told_on_stderr_as_it_is_asked(process, run_eventflow, desk):
    """Once, with the command that answers; again when the run is taken up; not in JSON, nor where the answer has come."""
    (desk / "more.py").write_text(MORE)
    for argv in (("run", "more:asks", "--id", "r"), ("resume", "r", "--flow", "more:asks")):
        running = process("eventflow", *argv)
        assert running.popen.stderr.readline().startswith("asks: Sure?, until ")
        assert running.popen.stderr.readline() == "answer with: eventflow answer r JSON\n"
        running.signal(signal.SIGINT)
        ended = running.ended()
        assert (ended.code, "asks:" in ended.err) == (7, False)
    run_eventflow("answer", "r", "true")
    done = run_eventflow("resume", "r", "--flow", "more:asks")
    assert (done.code, done.err) == (0, "")


def test_a_question_of_a_branch_is_told_with_its_branch_and_its_wait(process, desk):
    """Several may be open, and each is answered by its id."""
    (desk / "more.py").write_text(MORE)
    running = process("eventflow", "run", "more:mixed", "--id", "r")
    lines = {running.popen.stderr.readline() for _ in range(4)}
    assert {"run r: branch ask asks: Red?\n", "run r: branch wait waits for signal go\n"} <= lines
    assert any(re.fullmatch(r"answer with: eventflow answer r JSON --wait \d+\n", line) for line in lines)


def test_branches_are_counted_and_named_by_how_they_stand(start, run_eventflow):
    """Each open wait is told with its branch, and with the command that ends it."""
    _, shown = start("more:mixed")
    branches = shown["branches"]
    assert {name: branches[name]["names"] for name in ("finished", "failed", "waiting", "open")} == {
        "finished": ["done"], "failed": ["bad"], "waiting": ["ask", "wait"], "open": [],
    }  # fmt: skip
    assert (branches["node"], branches["count"], branches["waiting"]["count"]) == ("only", 4, 2)
    ids = {one["branch"]: one["id"] for one in shown["waits"]}
    out = run_eventflow("show", "r").out
    assert "branches of node only: 1 finished, 1 failed, 2 waiting of 4" in out
    assert f"wait {ids['ask']}: answer with eventflow answer r JSON\n" in out
    assert f"wait {ids['wait']}: send it with eventflow signal r go JSON\n" in out


def test_of_many_branches_some_are_named(start, run_eventflow):
    """The counts are whole, the names up to a limit."""
    given = json.dumps({"items": list(range(50))})
    _, shown = start("more:many", lambda one: one["status"] == "failed", input=given)
    branches = shown["branches"]
    assert branches["finished"] == {"count": 30, "names": [str(number) for number in range(20)]}
    assert branches["failed"] == {"count": 1, "names": ["30"]}
    assert branches["open"]["count"] == 19
    assert "  finished: 0, 1, 2" in (out := run_eventflow("show", "r").out)
    assert "18, 19 and 10 more" in out


def test_children_and_their_caller_name_each_other(start, run_eventflow):
    """All that a run has started, with where each stands; a child tells who started it."""
    _, shown = start(
        "more:outer", lambda one: [child["status"] for child in one["children"]] == ["completed", "waiting", "waiting"]
    )
    places = [(one["node"], one["branch"]) for one in shown["children"]]
    assert places == [("first", None), ("both", "x"), ("both", "y")]
    child = shown["children"][1]["run"]
    assert run_eventflow("show", child, "-o", "json").json["caller"] == {"run": "r", "status": "waiting"}
    assert "started by run r (waiting)" in run_eventflow("show", child).out
    assert child in run_eventflow("show", "r").out.split("children:")[1]


def test_what_is_left_to_undo_is_told(run_eventflow, desk):
    """After a compensation that failed: what is left, the newest first, and how the run ends once it is done."""
    (desk / "more.py").write_text(MORE)
    assert run_eventflow("run", "more:trip", "--id", "r").code == 1
    shown = run_eventflow("show", "r", "-o", "json").json
    assert shown["undo"] == [{"name": "book", "key": "1", "branch": "", "by": "book"}]
    assert shown["undoing"] == "failed"
    assert "left to undo: book (key 1)" in run_eventflow("show", "r").out
    at_pay = next(
        version for version in range(1, shown["version"])
        if len(run_eventflow("show", f"r@{version}", "-o", "json").json["undo"]) == 2
    )  # fmt: skip
    assert "left to undo: pay (key 1), book (key 1)" in run_eventflow("show", f"r@{at_pay}").out


def test_a_time_limit_is_told_as_long_as_it_runs(start, run_eventflow):
    """As the moment at which it is over."""
    _, shown = start("more:signalled", timeout="900")
    assert shown["deadline"] > shown["time"]
    assert f"its time is over at {shown['deadline']}" in run_eventflow("show", "r").out


def test_a_plain_run_has_nothing_around_it(run_eventflow, flows):
    """The keys are there all the same, and its table stays as short as it was."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    shown = run_eventflow("show", "r", "-o", "json").json
    assert [shown[name] for name in AROUND[:-2]] == [[], None, [], None, [], None, None, None, None]
    assert shown["refused"] is None
    assert shown["kept"] == {"origin": None, "guards": [], "events": shown["version"], "limit": 50_000}
    assert len(run_eventflow("show", "r").out.splitlines()) == 4


def test_what_moves_by_itself_and_is_driven_by_nobody_says_so(start, run_eventflow):
    """A sleeping run needs somebody who wakes it; one that waits for a person does not, until there is an answer."""
    for flow, word in (("more:sleeps", "nobody"), ("more:asks", "")):
        running, _ = start(flow)
        running.signal(signal.SIGKILL)
        running.ended()
        row = run_eventflow("list").out.splitlines()[1]
        assert ("nobody" in row) == bool(word)
        assert run_eventflow("delete", "r", "--yes").code == 0


def test_a_paused_run_says_how_it_goes_on(start, run_eventflow):
    """With the command that takes it up again."""
    running, _ = start("more:asks")
    assert run_eventflow("pause", "r").code == 0
    running.ended()
    assert "it was paused; go on with `eventflow resume r --flow MODULE:NAME`" in run_eventflow("show", "r").out


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "JSON"),
        ({"schema": {"type": "object"}}, "JSON"),
        ({"schema": {"type": "boolean"}}, "true (or false)"),
        ({"schema": {"type": "string"}}, "'\"TEXT\"'"),
        ({"schema": {"type": "integer"}}, "NUMBER"),
        ({"tool": "refund", "schema": {"anyOf": []}}, "true (or false)"),
    ],
)
def test_the_form_of_an_answer_is_said_as_far_as_it_is_known(spec, said):
    """A question whose answer is one word has that word in its command."""
    wait = freeze({"id": 3, "kind": "human", "name": "", "spec": spec})
    assert goes_on("r", "", wait) == [("answer with", f"eventflow answer r {said}")]
