"""--where: which runs are meant, and what becomes of each of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from eventflow.cli.batch import where_of, worst
from eventflow.errors import SettingsError

INPUT = '{"n": 1}'


@pytest.fixture
def several(run_eventflow, flows, desk):
    """Two runs that failed, one that completed, two that were let go before their last node."""
    run_eventflow("run", "flows:failing", "--id", "bad-1", "--tag", "x", "--tag", "y")
    run_eventflow("run", "flows:failing", "--id", "bad-2", "--tag", "x")
    run_eventflow("run", "flows:flow", "--id", "good", "--tag", "x", "--input", INPUT)
    (desk / "nothing").touch()
    for name in ("left-1", "left-2"):
        with (desk / "nothing").open() as lines, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", lines)
            run_eventflow("run", "flows:flow", "--id", name, "--tag", "z", "--input", INPUT, "--step")
    return desk


def statuses(run_eventflow) -> dict[str, str]:
    """Each run's status."""
    return {row["run"]: row["status"] for row in run_eventflow("list", "-o", "json").json["rows"]}


# --- which runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "runs"),
    [
        ("status=failed", {"bad-1", "bad-2"}),
        ("workflow=steps", {"good", "left-1", "left-2"}),
        ("tag=x status=failed", {"bad-1", "bad-2"}),
        ("tag=x tag=y", {"bad-1"}),
        ("tag=y tag=x", {"bad-1"}),
        ("since=1h", {"bad-1", "bad-2", "good", "left-1", "left-2"}),
        ("since=2099-01-01", set()),
        ("workflow='steps' status=pending", {"left-1", "left-2"}),
        ("tag=nothing", set()),
    ],
)
def test_all_that_is_given_must_fit(run_eventflow, several, where, runs):
    """A dry run lists what is meant, and changes nothing."""
    before = statuses(run_eventflow)
    ended = run_eventflow("delete", "--where", where, "--dry-run", "-o", "json")
    assert (ended.code, ended.json["schema"]) == (0, "eventflow.batch/1")
    assert {row["run"] for row in ended.json["rows"]} == runs
    assert statuses(run_eventflow) == before


def test_a_dry_run_is_a_table_that_says_what_would_happen(run_eventflow, several):
    """Its columns tell the runs apart; where none fits, it says so."""
    out = run_eventflow("retry", "--where", "tag=x", "--dry-run").out.splitlines()
    assert out[0] == "would be tried again:"
    assert [line.split()[:3] for line in out[2:]] == [["bad-2", "failing", "failed"], ["bad-1", "failing", "failed"]]
    assert run_eventflow("retry", "--where", "tag=z").out == "no run fits\n"


@pytest.mark.parametrize(
    "where",
    ["", " ", "failed", "status=", "status=odd", "status=failed status=failed", "name=x", "since=soon", "tag='x"],
)
def test_a_filter_that_means_nothing_is_refused(where):
    """One that were ignored would mean every run."""
    with pytest.raises(SettingsError):
        where_of(where)


@pytest.mark.parametrize(
    "argv",
    [
        ("pause", "good", "--where", "tag=x"),
        ("cancel", "good", "--where", "tag=x"),
        ("retry", "good", "--where", "tag=x"),
        ("delete", "good", "--where", "tag=x"),
        ("resume", "good", "--where", "tag=x"),
        ("resume", "--where", "tag=x", "--at", "1"),
        ("resume", "--where", "tag=x", "--step"),
        ("signal", "good", "go", "1", "--where", "tag=x"),
        ("signal", "--where", "tag=x"),
        ("pause",),
        ("cancel",),
        ("retry",),
        ("resume",),
        ("delete",),
        ("signal",),
        ("signal", "good"),
        ("pause", "good", "--dry-run"),
        ("cancel", "good", "--dry-run"),
        ("resume", "good", "--dry-run"),
        ("signal", "good", "go", "--dry-run"),
    ],
)
def test_one_run_or_many_are_named_and_not_both(run_eventflow, several, argv):
    """Exit code 2, one sentence, nothing done."""
    before = statuses(run_eventflow)
    ended = run_eventflow(*argv)
    assert ended.code == 2
    assert ended.sentence
    assert statuses(run_eventflow) == before


# --- what becomes of them ------------------------------------------------------------------------------------------


def test_each_run_is_told_of_and_the_worst_exit_code_is_given(run_eventflow, several):
    """What fails for one does not keep the others from it."""
    ended = run_eventflow("pause", "--where", "workflow=steps status=completed")
    assert ended.code == 5
    assert ended.out == "run good: has ended (completed); nobody reads its messages any more\n"
    ended = run_eventflow("pause", "--where", "workflow=steps", "-o", "jsonl")
    assert ended.code == 0
    assert [(row["run"], row["exit_code"], row["what"][:15]) for row in ended.lines] == [
        ("left-2", 0, "asked to pause,"), ("left-1", 0, "asked to pause,"),
    ]  # fmt: skip
    assert statuses(run_eventflow)["left-1"] == "paused"


def test_without_a_status_only_those_are_meant_that_it_can_be_done_to(run_eventflow, several):
    """Completed runs are not ended, and only failed ones are tried again."""
    ended = run_eventflow("cancel", "--where", "since=1h", "--yes", "--why", "enough", "-o", "json")
    assert ended.code == 0
    assert {row["run"] for row in ended.json["rows"]} == {"left-1", "left-2"}
    assert statuses(run_eventflow) == {
        "bad-1": "failed", "bad-2": "failed", "good": "completed", "left-1": "cancelled", "left-2": "cancelled",
    }  # fmt: skip


def test_why_is_recorded_for_each(run_eventflow, run_replay, several):
    """As where one run is named."""
    run_eventflow("cancel", "--where", "tag=z", "--yes", "--why", "enough")
    for name in ("left-1", "left-2"):
        assert "enough" in str(run_replay("log", name, "--type", "RunCancelled", "-o", "jsonl").lines)


@pytest.mark.parametrize("command", ["cancel", "delete"])
def test_what_can_not_be_taken_back_asks_first(run_eventflow, several, monkeypatch, command):
    """Where nobody can be asked it needs --yes; the question counts the runs and names some; a no changes nothing."""
    before = statuses(run_eventflow)
    ended = run_eventflow(command, "--where", "tag=z")
    assert ended.code == 2
    assert "2 runs (left-2, left-1)" in ended.sentence
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert run_eventflow(command, "--where", "tag=z").out == "2 runs stay as they are\n"
    assert statuses(run_eventflow) == before


def test_many_are_deleted(run_eventflow, several):
    """Those that fit are gone, the others are there, and the store verifies."""
    ended = run_eventflow("delete", "--where", "status=failed", "--yes")
    assert (ended.code, ended.out) == (0, "run bad-2: deleted\nrun bad-1: deleted\n")
    assert set(statuses(run_eventflow)) == {"good", "left-1", "left-2"}
    assert run_eventflow("store", "verify").code == 0


def test_forks_go_before_the_run_they_continue(run_eventflow, run_replay, several):
    """So that both can be deleted at once."""
    run_replay("fork", "good@2", "--id", "fork")
    assert run_eventflow("delete", "--where", "workflow=steps", "--yes").code == 0


def test_many_are_told_a_signal(run_eventflow, several):
    """The run's place in the arguments is left out."""
    ended = run_eventflow("signal", "go", '{"a": 1}', "--where", "tag=z")
    assert ended.code == 0
    assert ended.out.startswith("run left-2: sent signal go, message ")
    for name in ("left-1", "left-2"):
        [one] = run_eventflow("show", name, "-o", "json").json["signals"]
        assert (one["name"], one["payload"]) == ("go", {"a": 1})


def test_many_are_tried_again_and_told_as_they_end(run_eventflow, several):
    """Exit code 1 as long as one of them fails, 0 once none does."""
    ended = run_eventflow("retry", "--where", "workflow=failing", "--flow", "flows:failing", "-o", "json")
    assert ended.code == 1
    assert {row["run"]: row["exit_code"] for row in ended.json["rows"]} == {"bad-1": 1, "bad-2": 1}
    assert "ValueError" in ended.json["rows"][0]["what"]
    assert "it broke" not in str(ended.json)
    Path("mended").touch()
    ended = run_eventflow("retry", "--where", "workflow=failing", "--flow", "flows:failing")
    assert ended.code == 0
    assert sorted(line.partition(" at ")[0] for line in ended.out.splitlines()) == [
        "run bad-1: completed", "run bad-2: completed",
    ]  # fmt: skip


def test_many_are_resumed_and_one_of_another_workflow_is_told(run_eventflow, several):
    """What is not to be driven here is told with its own exit code."""
    ended = run_eventflow("resume", "--where", "since=1h", "--flow", "flows:flow", "-o", "json")
    assert ended.code == 2
    codes = {row["run"]: row["exit_code"] for row in ended.json["rows"]}
    assert codes == {"left-1": 0, "left-2": 0, "bad-1": 2, "bad-2": 2}
    assert statuses(run_eventflow)["left-1"] == "completed"


def test_a_signal_of_the_system_lets_all_of_them_go(process, run_eventflow, flows, until):
    """Each after its node or, told twice, at once; they can be resumed."""
    for name in ("a", "b"):
        running = process("eventflow", "run", "flows:waiting", "--id", name)
        until(Path("began").exists, running)
        running.signal(signal.SIGKILL)
        running.ended()
        Path("began").unlink()
    running = process("eventflow", "resume", "--where", "workflow=waiting", "--flow", "flows:waiting", "-o", "json")
    until(lambda: all(row["driven"] for row in run_eventflow("list", "-o", "json").json["rows"]), running)
    until(Path("began").exists, running)
    running.signal(signal.SIGINT)
    Path("go").touch()
    ended = running.ended()
    assert ended.code == 7
    assert {row["exit_code"] for row in ended.json["rows"]} == {7}
    assert set(statuses(run_eventflow).values()) == {"pending"}


def test_those_that_somebody_drives_are_not_taken(process, run_eventflow, flows, until):
    """Without a status they are not meant; with one they are a conflict."""
    running = process("eventflow", "run", "flows:waiting", "--id", "a")
    until(Path("began").exists, running)
    assert run_eventflow("resume", "--where", "workflow=waiting", "--flow", "flows:waiting").out == "no run fits\n"
    assert run_eventflow("resume", "--where", "status=running", "--flow", "flows:waiting").code == 5
    Path("go").touch()
    assert running.ended().code == 0


@pytest.mark.parametrize(("codes", "said"), [([0, 7, 1], 1), ([0, 7], 7), ([1, 5, 2], 5), ([], 0), ([3, 1], 3)])
def test_the_worst_of_exit_codes_is_not_the_greatest(codes, said):
    """A run that was stopped went better than one that failed."""
    assert worst(codes) == said
