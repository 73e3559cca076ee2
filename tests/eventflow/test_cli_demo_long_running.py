"""The long-running demo: processes that are interrupted in the middle and go on where the one before stood."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from eventflow.address import find_run
from eventflow.cli.demo.stages import LINES, STAGES, STEPS, long_flow, nothing_yet, steps_made
from eventflow.event import Transitioned
from eventflow.log import open_log
from eventflow.recovery import history

STORE = "demo.eventflow"
RUN = "long-running-1"
DEMO = ("eventflow", "demo", "long-running")
SLOW = 60  # seconds for a run that is stopped long before its end


def steps(run: str = RUN, store: str = STORE) -> list[str]:
    """The node of each recorded step, in order; none while there is no run."""
    if not Path(store).exists():
        return []
    log = open_log(store, readonly=True)
    try:
        head = find_run(log, run)
        events = [one.event for one in history(log, head.run_key, 1, head.version)]
        return [event.node for event in events if isinstance(event, Transitioned)]
    finally:
        log.close()


@pytest.fixture
def stopped(process, until):
    """A run that was interrupted in its second stage, with the arguments given: what its process left."""

    def work(*argv, number=signal.SIGINT):
        with Path("out").open("w") as out:
            running = process(*DEMO, "--seconds", 3, *argv, stdout=out)
            until(lambda: "read is done" in Path("out").read_text())
            running.signal(number)
            return running.ended()

    return work


def test_uninterrupted_it_tells_stages_and_checkpoints(process, run_eventflow):
    """Every stage ends with its number of steps, checkpoints come by interval, no bar is drawn where there is no terminal."""
    ended = process(*DEMO, "--seconds", 0.5).ended()
    assert (ended.code, ended.err) == (0, "")
    told = re.findall(r"(\d+) %  (\w+) is done: (\d+) steps", ended.out)
    assert [(name, int(count)) for _, name, count in told] == [(stage.name, stage.steps) for stage in STAGES]
    assert told[-1][0] == "100"
    assert re.search(r"checkpoint c-\d+ \(interval\): .* written", ended.out)
    assert f"the log holds {STEPS} steps for the {STEPS} that there are" in ended.out
    assert f"{len(LINES)} lines in 5 sections." in ended.out
    rows = run_eventflow("checkpoints", "list", RUN, "--store", STORE, "-o", "json").json["rows"]
    assert 1 <= len(rows) <= 5
    assert all(row["kinds"] == ["interval"] for row in rows)
    assert run_eventflow("store", "verify", "--store", STORE).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_run_go_and_the_command_it_names_goes_on(stopped, process, run_eventflow, number):
    """Exit code 7 and one sentence; its command skips the finished stage, makes the other steps, and no step twice."""
    ended = stopped(number=number)
    assert ended.code == 7
    command = re.search(r"was stopped in (\w+) after (\d+) of 70 steps; go on: `(.*)`$", ended.sentence)
    assert command is not None
    assert command[3] == f"eventflow demo long-running --resume {RUN} --seconds 3"
    made = int(command[2])
    assert len(steps()) == made < STEPS
    assert run_eventflow("show", RUN, "--store", STORE, "-o", "json").json["status"] == "pending"

    again = process(*shlex.split(command[3])[:-1], 0.2).ended()
    assert (again.code, again.err) == (0, "")
    assert f"in {command[1]}, {made} of {STEPS} steps made." in again.out
    assert "skipped: read, all its 18 steps" in again.out
    assert "read is done" not in again.out
    assert f"run resumed in node {command[1]}, epoch 2" in again.out
    assert steps() == [stage.name for stage in STAGES for _ in range(stage.steps)]
    assert run_eventflow("store", "verify", "--store", STORE).code == 0


def test_the_command_names_the_store_and_the_pace_that_were_given(stopped):
    """A store with a space in its name is quoted."""
    assert stopped("--store", "my demos").sentence.endswith(
        "`eventflow demo long-running --resume long-running-1 --seconds 3 --store 'my demos'`"
    )


def test_a_process_that_was_killed_is_gone_on_with_too(process, until):
    """After SIGKILL the same command goes on: what was recorded is skipped, no step is made twice."""
    with Path("out").open("w") as out:
        running = process(*DEMO, "--seconds", 3, stdout=out)
        until(lambda: "read is done" in Path("out").read_text())
        running.signal(signal.SIGKILL)
        running.ended()
    again = process(*DEMO, "--resume", RUN, "--seconds", 0).ended()
    assert (again.code, again.err) == (0, "")
    assert "skipped: read" in again.out
    assert len(steps()) == STEPS


def test_resumed_when_it_is_over_it_says_so_again(process, run_eventflow):
    """Every stage is skipped and the report is the same; nothing is recorded."""
    first = process(*DEMO, "--seconds", 0).ended()
    version = run_eventflow("show", RUN, "--store", STORE, "-o", "json").json["version"]
    again = process(*DEMO, "--resume", RUN, "--seconds", 0).ended()
    assert (again.code, again.err) == (0, "")
    assert again.out.count("skipped: ") == len(STAGES)
    assert again.out.split("\n\n")[1] == first.out.split("\n\n")[1]
    assert run_eventflow("show", RUN, "--store", STORE, "-o", "json").json["version"] == version


def test_what_can_t_be_resumed_is_one_sentence(run_eventflow, flows):
    """No store, no such run, a run of another workflow: nothing is made or changed."""
    missing = run_eventflow("demo", "long-running", "--resume", RUN)
    assert (missing.code, "no store" in missing.sentence, Path(STORE).exists()) == (3, True, False)
    argv = ("run", "flows:flow", "--id", "other", "--input", '{"n": 1}')
    assert run_eventflow(*argv, "--store", STORE).code == 0
    unknown = run_eventflow("demo", "long-running", "--resume", RUN)
    assert (unknown.code, f"no run '{RUN}'" in unknown.sentence) == (3, True)
    other = run_eventflow("demo", "long-running", "--resume", "other")
    assert (other.code, "is not one of this demo but of workflow 'steps'" in other.sentence) == (2, True)


def test_a_run_that_is_driven_is_left_alone(process, until, run_eventflow):
    """A second process that would go on with it is told who drives it; the first one is not disturbed."""
    with Path("out").open("w") as out:
        running = process(*DEMO, "--seconds", SLOW, stdout=out)
        until(lambda: "started in node" in Path("out").read_text())
        second = process(*DEMO, "--resume", RUN).ended()
        assert second.code == 5
        assert str(running.popen.pid) in second.sentence
        running.signal(signal.SIGINT)
        assert running.ended().code == 7


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_no_time_is_a_usage_error(run_eventflow, seconds, desk):
    """A negative, an endless or an undefined time is refused before there is a store."""
    ended = run_eventflow("demo", "long-running", "--seconds", seconds)
    assert (ended.code, "give 0 to 86400" in ended.sentence) == (2, True)
    assert not (desk / STORE).exists()


def test_on_a_terminal_a_bar_shows_stage_and_steps(process):
    """The bar goes to stderr; stdout has the lines alone, without any of the bar's characters."""
    leader, follower = os.openpty()
    running = process(*DEMO, "--seconds", 0.5, stderr=follower, env={"TERM": "xterm"})
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 4096):
            told += part
    except OSError:  # how Linux says that the other end has gone
        pass
    os.close(leader)
    ended = running.ended()
    assert ended.code == 0
    assert f"{STEPS}/{STEPS}".encode() in told
    assert b"compare" in told
    assert "read is done" in ended.out
    assert "\x1b" not in ended.out


def test_its_workflow_has_nothing_wrong_and_its_pace_is_no_part_of_it():
    """It passes its own check; a run may go on at another pace, for the definition is the same."""
    assert long_flow(0).check() == []
    assert long_flow(0).digest == long_flow(1).digest
    result = long_flow(0).run_sync(nothing_yet())
    assert [steps_made(result, stage) for stage in STAGES] == [stage.steps for stage in STAGES]
    assert sum(result["counts"].values()) == sum(len(words.split()) for words in result["words"])
