"""The demos, as the processes that a newcomer starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventflow.cli.demo.flow import SECTIONS, initial, study
from eventflow.cli.demo.model import answer
from eventflow.testing.model_server import Call, ModelServer, Reply

ROOT = Path(__file__).parent.parent.parent
STORE = "demo.eventflow"
CALLS = len(SECTIONS) + 2  # the researcher's, one a section, the analyzer's and the writer's


@dataclass(frozen=True)
class Shown:
    """A demo that was run: where, and what it wrote."""

    place: Path
    code: int
    out: str
    err: str


def shown(place: Path, *argv: str) -> Shown:
    """Run a demo as a newcomer does, into a pipe that is buffered."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "EVENTFLOW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "eventflow", "demo", *argv]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    return Shown(place, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def recovery(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """`eventflow demo`, once."""
    return shown(tmp_path_factory.mktemp("recovery"))


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """`eventflow demo basic`, once."""
    return shown(tmp_path_factory.mktemp("basic"), "basic")


def test_the_recovery_demo_repeats_nothing(recovery, run_eventflow):
    """A process is killed between an answer and its transition, another goes on; the server counts no call twice."""
    assert (recovery.code, recovery.err) == (0, "")
    text = recovery.out
    assert "No OPENAI_API_KEY and no OPENAI_BASE_URL is set: a scripted server" in text
    before, after = text.split("The process is dead.")
    assert "SIGKILL, now, in analyzer" in before
    assert "recovered: version" in after
    assert f"skipped by the second process: {len(SECTIONS)} finished visits of researcher" in text
    counted = re.search(
        r"counted (\d+) calls, (\d+) before the kill and (\d+) after; (\d+) of them for a second time", text
    )
    assert counted is not None
    assert list(map(int, counted.groups())) == [CALLS, CALLS - 1, 1, 0]
    assert f"the log holds {CALLS} model calls, each finished once; verified: everything holds" in text
    assert "In short: The tide" in text
    document = run_eventflow("show", "recovery-1", "--store", recovery.place / STORE, "-o", "json").json
    assert document["usage"]["calls"] == CALLS


def test_a_demos_run_can_be_asked_what_if(basic, process):
    """Its workflow is named like any other."""
    argv = ["fork", "basic-1@4", "--id", "again", "--store", basic.place / STORE, "-o", "json"]
    done = process("replay", *argv, "--run", "--flow", "eventflow.cli.demo.flow:study").ended()
    assert (done.code, done.json["status"]) == (0, "completed"), done.err


def test_what_is_said_comes_in_order_through_a_pipe(recovery):
    """Lines of the two processes of the recovery demo stand in the order in which they were said."""
    said = [
        "No OPENAI_API_KEY", "A first process starts", "1  run recovery-1 started", "SIGKILL", "The process is dead",
        "A new process resumes it", "run resumed in node analyzer", "run completed", "In short", "skipped by",
    ]  # fmt: skip
    places = [recovery.out.index(one) for one in said]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["recovery", "basic"])
def test_what_a_demo_says_to_look_at_can_be_looked_at(request, run_eventflow, run_replay, monkeypatch, name):
    """Each command it ends with works as it stands."""
    demo = request.getfixturevalue(name)
    monkeypatch.chdir(demo.place)
    commands = [line.split() for line in demo.out.split("Look at it:\n")[1].splitlines()]
    assert len(commands) == 5
    for program, *argv in commands:
        ended = {"eventflow": run_eventflow, "replay": run_replay}[program](*argv)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out


def test_the_basic_demo_shows_checkpoints_as_they_are_made(basic, run_eventflow):
    """Every transition and checkpoint has its line, before the report; the store it leaves verifies."""
    assert (basic.code, basic.err) == (0, "")
    told, report = basic.out.split("In short:")
    assert told.count("researcher asks the model") == len(SECTIONS)
    assert "researcher -> analyzer" in told
    assert "writer is done: run completed" in told
    assert "(after_node): a mark, reached by folding" in told
    assert re.search(r"checkpoint c-\d+ \(.*every\): [\d.]+ KB written", told)
    assert re.search(r"\d+ events, 5 checkpoints kept: (c-\d+, ){4}c-\d+\n", report)
    assert run_eventflow("store", "verify", "--store", basic.place / STORE).code == 0


def test_each_demo_is_a_run_of_its_own(process, run_eventflow):
    """Started again, it takes the next number, in the store it is given and no other; --quiet leaves the report alone."""
    for _ in range(2):
        ended = process("eventflow", "demo", "basic", "--quiet", "--store", "mine").ended()
        assert ended.code == 0
        assert "->" not in ended.out
        assert "In short:" in ended.out
        assert "checkpoints kept" in ended.out
    rows = run_eventflow("list", "--store", "mine", "-o", "json").json["rows"]
    assert [(row["run"], row["tags"]) for row in rows] == [("basic-2", ["demo"]), ("basic-1", ["demo"])]
    assert not Path(STORE).exists()


@pytest.mark.parametrize("name", ["basic", "recovery"])
def test_a_model_of_one_s_own_is_asked_instead(process, name):
    """Where OPENAI_BASE_URL is set the scripted server stays away, and the demo says so."""
    with ModelServer(answer) as server:
        ended = process("eventflow", "demo", name, env={"OPENAI_BASE_URL": server.base_url}).ended()
        assert len(server.calls) == CALLS
    assert (ended.code, ended.err) == (0, "")
    assert "The agents ask the model you have configured." in ended.out
    assert "scripted" not in ended.out


def test_a_model_that_refuses_fails_the_demo_in_one_sentence(process, run_eventflow):
    """Its words are shown as escapes, with exit code 1; the run is there to be looked at."""
    with ModelServer(lambda _: Reply("no \x1b[31m entry", status=400)) as server:
        ended = process("eventflow", "demo", "basic", env={"OPENAI_BASE_URL": server.base_url}).ended()
    assert ended.code == 1
    assert "basic-1 did not complete: the model server answered 400: no \\x1b[31m entry" in ended.sentence
    assert (ended.out + ended.err).replace("\n", "").isprintable()
    assert run_eventflow("list", "--store", STORE, "-o", "json").json["rows"][0]["status"] == "failed"


def test_a_demo_in_a_store_that_can_t_be_used(process, desk):
    """It ends in one sentence with the store's exit code."""
    (desk / STORE).touch()
    for name in ("basic", "recovery"):
        ended = process("eventflow", "demo", name).ended()
        assert ended.code == 6
        assert "is not an eventflow store" in ended.sentence


def test_ctrl_c_ends_a_demo_without_a_traceback(process, until):
    """Both processes end quietly, and the store verifies."""
    ended_already = threading.Event()

    def slow(_: Call) -> str:
        ended_already.wait(30)
        return "too late"

    with ModelServer(slow) as server:
        running = process("eventflow", "demo", env={"OPENAI_BASE_URL": server.base_url}, start_new_session=True)
        until(lambda: server.calls)
        os.killpg(running.popen.pid, signal.SIGINT)  # as a terminal does
        ended = running.ended()
        ended_already.set()
    assert ended.code == 7
    assert "Traceback" not in ended.err
    assert process("eventflow", "store", "verify", "--store", STORE).ended().code == 0


def test_the_demo_s_workflow_has_nothing_wrong():
    """It passes its own check, and its input fits."""
    assert study().check() == []
    assert study().schema.initial(initial())["facts"] == []


def test_the_scripted_answers_depend_on_the_question_alone():
    """The same request gets the same answer, made of the text's own sentences."""

    def ask(role: str, text: str) -> str:
        messages = [{"role": "system", "content": f"You are {role}."}, {"role": "user", "content": text}]
        return str(answer(Call(1, "/v1/chat/completions", {"messages": messages}, "")))

    for section in SECTIONS:
        facts = ask("a researcher", section)
        assert facts == ask("a researcher", section)
        assert all(sentence in " ".join(section.split()) for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", facts))
    assert ask("an analyzer", "It is 3 m high.").startswith("The facts turn on:")
    assert ask("a writer", "facts: A. B.\n\nanalysis: The facts turn on: x.\nmore").startswith("In short: A. B.")
