"""The worker: what it takes up, what it leaves, how it ends, what it tells."""

from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request
from pathlib import Path

import pytest

STORE = "runs.eventflow"

MORE = """
import asyncio
from pathlib import Path

from eventflow import Human, Sleep, Wait, Workflow


async def gate(state):
    while not Path("go").exists():
        await asyncio.sleep(0.005)
    return {"gone": True}


def one(name, body, **options):
    return Workflow(name).add_node("only", body, **options).set_start("only")


def then(name, body):
    return one(name, body).add_node("end", lambda s: {}).add_edge("only", "end")


signalled = then("signalled", Wait(signal="go", writes="x"))
sleeping = then("sleeping", Sleep(0.05))
careful = one("careful", gate, after_crash="ask")
failing = one("failing", lambda s: {}[Path("secret").read_text()])
broken = Workflow("broken").add_node("a", lambda s: {})
"""


@pytest.fixture
def more(flows, desk) -> Path:
    """Workflows that wait, in `more.py`, beside those of `flows.py`."""
    file = desk / "more.py"
    file.write_text(MORE)
    return file


@pytest.fixture
def orphan(more, process, until, run_eventflow):
    """Leave a run whose process has been killed in the middle."""

    def left(flow: str, name: str, status: str = "running") -> None:
        running = process("eventflow", "run", flow, "--id", name)
        until(lambda: _status(run_eventflow, name) == status, running)
        running.signal(signal.SIGKILL)
        running.ended()

    return left


def _status(run_eventflow, name: str) -> str | None:
    ended = run_eventflow("show", name, "-o", "json")
    return None if ended.code else ended.json["status"]


def test_runs_whose_process_is_gone_are_taken_up_and_driven(orphan, run_eventflow, desk):
    """Each to its end, with a line when it is taken and one when it is done; a free one of no use stays as it is."""
    orphan("flows:waiting", "a")
    orphan("more:signalled", "b", "waiting")
    (desk / "go").touch()
    ended = run_eventflow("worker", "flows:waiting", "flows:flow", "--once")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "run a: taken up at version 2, node gate", "run a: completed at version 4, node after",
        "1 run driven: 1 completed",
    ]  # fmt: skip
    assert ended.sentence == "eventflow: of other workflows, left as they are: b"
    assert _status(run_eventflow, "a") == "completed"
    assert run_eventflow("store", "verify").code == 0


def test_with_nothing_to_do_once_ends_at_once(run_eventflow, flows):
    """Completed, failed and paused runs are nothing to drive."""
    run_eventflow("run", "flows:flow", "--input", '{"n": 1}', "--id", "done")
    run_eventflow("run", "flows:failing", "--id", "bad")
    ended = run_eventflow("worker", "flows:flow", "flows:failing", "--once", "-o", "json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json == {"schema": "eventflow.worker/1", "runs": {}, "unknown": [], "refused": []}


def test_once_ends_where_only_somebody_else_can_go_on(orphan, run_eventflow, desk):
    """A run that waits for a signal is let go, one that only sleeps is driven to its end."""
    orphan("more:signalled", "b", "waiting")
    orphan("more:sleeping", "s", "waiting")
    ended = run_eventflow("worker", "more:signalled", "more:sleeping", "--once", "-o", "jsonl")
    assert ended.code == 0
    rows = {row["run"]: row for row in ended.lines}
    assert (rows["s"]["status"], rows["s"]["node"]) == ("completed", "end")
    assert (rows["b"]["status"], rows["b"]["node"]) == ("waiting", "only")
    assert run_eventflow("signal", "b", "go").code == 0
    assert run_eventflow("worker", "more:signalled", "--once", "-o", "json").json["runs"] == {"completed": 1}


def test_a_failure_is_told_by_its_type_alone(orphan, run_eventflow, desk):
    """The worker goes on, ends in order, and says where more is to be read."""
    orphan("flows:waiting", "a")
    text = (desk / "flows.py").read_text().replace('return {"gone": True}', 'raise ValueError("hunter2")')
    (desk / "flows.py").write_text(text)
    (desk / "go").touch()
    ended = run_eventflow("worker", "flows:waiting", "--once")
    assert ended.code == 0
    assert "run a: failed at version 3, node gate (ValueError; `eventflow show a` tells more)" in ended.out
    assert "hunter2" not in ended.out + ended.err


def test_what_must_be_asked_for_is_left_and_named(orphan, run_eventflow, desk):
    """A node that says to ask after a crash is not begun again without a word."""
    orphan("more:careful", "c")
    (desk / "go").touch()
    ended = run_eventflow("worker", "more:careful", "--once", "-o", "json")
    assert (ended.code, ended.json["refused"]) == (0, ["c"])
    assert ended.sentence == "eventflow: not taken up, `eventflow resume RUN --flow more:careful` tells why: c"
    assert _status(run_eventflow, "c") == "running"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="signals of a process are seen in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(orphan, process, run_eventflow, until, number):
    """What it drives is let go with a checkpoint, to be taken up again; exit code 0."""
    orphan("flows:waiting", "a")
    Path("began").unlink(missing_ok=True)  # the process was killed before its node began, or after
    running = process("eventflow", "worker", "flows:waiting")
    until(Path("began").exists, running)
    running.signal(number)
    until(lambda: "SigPnd:\t0000000000000000" in (text := _status_of(running)) and "ShdPnd:\t0000000000000000" in text)
    running.signal(number)  # and it shall not wait for the node
    ended = running.ended()
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.splitlines() == [
        "run a: taken up at version 2, node gate", "run a: pending at version 3, node gate", "1 run driven: 1 pending",
    ]  # fmt: skip
    (row,) = run_eventflow("list", "-o", "json").json["rows"]
    assert (row["status"], row["driven"]) == ("pending", False)
    Path("go").touch()
    assert run_eventflow("worker", "flows:waiting", "--once", "-o", "json").json["runs"] == {"completed": 1}


def _status_of(running) -> str:
    return Path(f"/proc/{running.popen.pid}/status").read_text()


def test_it_looks_again_and_again(orphan, process, run_eventflow, until):
    """A run that is left behind while it works is taken up too; those of other workflows are named once."""
    orphan("more:signalled", "b", "waiting")
    running = process("eventflow", "worker", "flows:waiting")
    until(lambda: run_eventflow("list", "-o", "json").code == 0, running)
    orphan("flows:waiting", "a")
    until(lambda: run_eventflow("list", "--workflow", "waiting", "-o", "json").json["rows"][0]["driven"], running)
    Path("go").touch()
    until(lambda: _status(run_eventflow, "a") == "completed", running)
    running.signal(signal.SIGTERM)
    ended = running.ended()
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "1 run driven: 1 completed"
    assert ended.err.count("left as they are: b") == 1


def test_two_workers_drive_a_run_once(orphan, process, run_eventflow):
    """Whoever takes it has it; the other one goes on without."""
    for number in range(4):
        orphan("flows:waiting", f"r{number}")
    Path("go").touch()
    running = [process("eventflow", "worker", "flows:waiting", "--once", "-o", "jsonl") for _ in range(2)]
    ended = [one.ended() for one in running]
    assert [one.code for one in ended] == [0, 0]
    driven = [row["run"] for one in ended for row in one.lines]
    assert sorted(driven) == ["r0", "r1", "r2", "r3"]
    assert run_eventflow("store", "verify").code == 0


def test_metrics_are_served_while_it_works(orphan, process, until):
    """At an address of this machine that it names on stderr; the counts are those of what it drives."""
    orphan("flows:waiting", "a")
    with Path("err").open("w") as err:
        running = process("eventflow", "worker", "flows:waiting", "--metrics", "0", stderr=err)
    found = until(lambda: re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", Path("err").read_text()), running)
    until(lambda: 'eventflow_runs_resumed_total{workflow="waiting"} 1.0' in _page(found[1]), running)
    Path("go").touch()
    until(lambda: 'eventflow_runs_completed_total{workflow="waiting"} 1.0' in _page(found[1]), running)
    running.signal(signal.SIGTERM)
    assert running.ended().code == 0


def _page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as page:  # noqa: S310 - of our own worker
        return page.read().decode()


@pytest.mark.parametrize(
    "more_arguments", [("--metrics", "70000"), ("--metrics", "0", "--metrics-host", "no.such.host.invalid")]
)
def test_an_address_that_can_not_be_had_is_told_before_anything_is_driven(run_eventflow, flows, more_arguments):
    """One sentence, exit code 2."""
    run_eventflow("run", "flows:flow", "--input", '{"n": 1}')
    ended = run_eventflow("worker", "flows:flow", "--once", *more_arguments)
    assert ended.code == 2
    assert "metrics can't be served" in ended.sentence


def test_metrics_without_the_package_name_the_extra(run_eventflow, flows, monkeypatch):
    """One sentence, exit code 2."""
    run_eventflow("run", "flows:flow", "--input", '{"n": 1}')
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    ended = run_eventflow("worker", "flows:flow", "--once", "--metrics", "0")
    assert (ended.code, "'eventflow[metrics]'" in ended.sentence) == (2, True)


def test_verbose_is_a_log_line_for_each_event(orphan, process, desk):
    """On stderr, with names and numbers, as `run` and `resume` do."""
    orphan("flows:waiting", "a")
    (desk / "go").touch()
    ended = process("eventflow", "worker", "flows:waiting", "--once", "-v").ended()
    assert ended.code == 0
    assert [name for name in ("run.resumed", "transition.committed", "run.completed") if name not in ended.err] == []


def test_the_settings_name_the_workflows_too(orphan, run_eventflow, desk):
    """Where none is given; and without any there is nothing that it may drive."""
    orphan("flows:waiting", "a")
    assert run_eventflow("worker", "--once").sentence.startswith("eventflow: name the workflows")
    (desk / "eventflow.toml").write_text(f"workflows = {json.dumps(['flows:waiting'])}\n")
    (desk / "go").touch()
    assert run_eventflow("worker", "--once", "-o", "json").json["runs"] == {"completed": 1}


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("flows:flow",), 3, "no store"),
        (("flows:flow", "--store", "memory"), 2, "no checkpointer configured"),
        (("flows:nothing",), 2, "has no workflow"),
        (("more:broken",), 2, "broken"),
    ],
)
def test_what_can_not_begin_is_one_sentence(run_eventflow, more, argv, code, said):
    """Nothing is created by it."""
    ended = run_eventflow("worker", "--once", *argv)
    assert ended.code == code
    assert said in ended.sentence
    assert not Path(STORE).exists()


# --- schedules -----------------------------------------------------------------------------------------------------

SCHEDULES = """
import flows
from eventflow import Schedule


def broken(moment):
    raise KeyError("hunter2")


tick = Schedule(name="tick", flow=flows.flow, every=1, input={"n": 1})
hourly = Schedule(name="hourly", flow=flows.flow, every=3600, input={"n": 1})
sick = Schedule(name="sick", flow=flows.flow, every=1, input=broken)
both = [tick, hourly]
mixed = [tick, 7]
twice = [tick, tick]


def made():
    return (tick,)


never = Schedule
"""


@pytest.fixture
def kept(flows, desk, run_eventflow) -> Path:
    """Schedules in `kept.py`, and a store."""
    (desk / "kept.py").write_text(SCHEDULES)
    assert run_eventflow("run", "flows:flow", "--id", "first", "--input", '{"n": 1}').code == 0
    return desk / "kept.py"


@pytest.mark.parametrize("named", ["kept:both", "kept:made", "setting"])
def test_a_worker_keeps_schedules_and_drives_what_they_start(kept, process, run_eventflow, until, named):
    """Their workflows need not be named again; each run that is started is told, and what became of it."""
    options = ("--schedules", named)
    if named == "setting":
        Path("eventflow.toml").write_text('schedules = ["kept.py:tick"]\n')
        options = ()
    running = process("eventflow", "worker", *options)
    until(
        lambda: run_eventflow("list", "--tag", "schedule:tick", "--status", "completed", "-o", "json").json["rows"],
        running,
    )
    running.signal(signal.SIGTERM)
    ended = running.ended()
    assert (ended.code, ended.err) == (0, "")
    run_id = run_eventflow("list", "--tag", "schedule:tick", "-o", "json").json["rows"][-1]["run"]
    assert f"run {run_id}: started by its schedule" in ended.out
    assert f"run {run_id}: completed at version 3, node second" in ended.out


def test_two_workers_start_the_run_of_a_moment_once(kept, process, run_eventflow, until):
    """Each says which runs it started, and both together say each once."""
    workers = [process("eventflow", "worker", "--schedules", "kept:tick") for _ in range(2)]
    until(lambda: len(run_eventflow("list", "--tag", "schedule:tick", "-o", "json").json["rows"]) >= 2, workers[0])
    for one in workers:
        one.signal(signal.SIGTERM)
    said = [line for one in workers for line in one.ended().out.splitlines() if "started by its schedule" in line]
    runs = [row["run"] for row in run_eventflow("list", "--tag", "schedule:tick", "-o", "json").json["rows"]]
    assert sorted(said) == sorted(f"run {run}: started by its schedule" for run in runs)


def test_a_schedule_whose_input_fails_is_told_and_the_others_go_on(kept, process, run_eventflow, until, desk):
    """By the error's type alone."""
    with (desk / "err").open("w") as err:
        running = process("eventflow", "worker", "--schedules", "kept:sick", "--schedules", "kept:tick", stderr=err)
    until(lambda: "not started (KeyError)" in (desk / "err").read_text(), running)
    until(lambda: run_eventflow("list", "--tag", "schedule:tick", "-o", "json").json["rows"], running)
    running.signal(signal.SIGTERM)
    assert running.ended().code == 0
    assert "hunter2" not in (desk / "err").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--schedules", "kept:nothing"), "has no schedules 'nothing'"),
        (("--schedules", "kept:mixed"), "has no schedules 'mixed'"),
        (("--schedules", "kept:twice"), "two schedules are named 'tick'"),
        (("--schedules", "kept:never"), "can't be loaded"),
        (("--schedules", "kept"), "does not name a schedule"),
        (("--schedules", "kept:tick", "--once"), "leave one of them out"),
    ],
)
def test_schedules_that_can_not_be_kept_are_told_before_anything_is_driven(kept, run_eventflow, options, said):
    """One sentence, exit code 2."""
    ended = run_eventflow("worker", "flows:flow", *options)
    assert ended.code == 2
    assert said in ended.sentence


def test_a_worker_that_ends_by_itself_leaves_the_settings_schedules_alone(kept, run_eventflow, desk):
    """There would be no end."""
    (desk / "eventflow.toml").write_text('schedules = ["kept.py:tick"]\n')
    assert run_eventflow("worker", "flows:flow", "--once").code == 0
    assert run_eventflow("list", "--tag", "schedule:tick", "-o", "json").json["rows"] == []
