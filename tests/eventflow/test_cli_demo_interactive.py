"""The interactive demo: a session as a process, with a command a line on stdin, or typed on a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from eventflow.cli.demo.flow import SECTIONS
from eventflow.testing.model_server import ModelServer, Reply

STORE = "demo.eventflow"
RUN = "interactive-1"
PROMPT = f"{RUN}> "


@pytest.fixture
def talk(process):
    """Hold a session: lines for stdin, the end of the input after them. Returns what it ended with."""

    def work(*lines, **options):
        running = process("eventflow", "demo", "interactive", stdin=subprocess.PIPE, **options)
        running.popen.stdin.write("".join(f"{line}\n" for line in lines))
        return running.ended()

    return work


def answers(text: str) -> dict[str, str]:
    """What was said to each command of a session, by the command."""
    return dict(part.split("\n", 1) for part in text.split(PROMPT)[1:])


def ids(told: str) -> list[str]:
    """The checkpoints of a list, in order."""
    return re.findall(r"^(c-\d+) ", told, re.MULTILINE)


def test_the_session_opens_in_the_middle_of_a_run(talk, run_eventflow):
    """The researcher has read everything, the analyzer has not begun, and nobody drives the run; the end is a quit."""
    ended = talk()
    assert (ended.code, ended.err) == (0, "")
    assert f"run {RUN} is pending at version 19, node analyzer, with {len(SECTIONS)} facts" in ended.out
    assert ended.out.count(PROMPT) == 1
    (row,) = run_eventflow("list", "--store", STORE, "-o", "json").json["rows"]
    assert (row["run"], row["status"], row["driven"], row["tags"]) == (RUN, "pending", False, ["demo"])


def test_a_checkpoint_is_made_listed_shown_and_deleted(talk, run_eventflow):
    """Each command does to the store what it says, and nothing else."""
    ended = talk("create before the analysis", "list", "show c-19", "show c-18", "delete c-6", "history", "quit")
    assert (ended.code, ended.err) == (0, "")
    said = answers(ended.out)
    assert "checkpoint c-19 of run interactive-1 made" in said["create before the analysis"]
    assert ids(said["list"]) == ["c-1", "c-6", "c-9", "c-12", "c-15", "c-18", "c-19"]
    assert re.search(r"^c-19 .*manual .*folding +before the analysis$", said["list"], re.MULTILINE)
    assert "c-19 of run interactive-1: manual" in said["show c-19"]
    assert "reached by folding 1 events after version 18" in said["show c-19"]
    assert "version 19, node analyzer, pending" in said["show c-19"]
    assert "facts     [" in said["show c-19"]
    assert "reached by its snapshot" in said["show c-18"]
    assert said["delete c-6"] == "1 checkpoint of run interactive-1 deleted\n"
    assert re.search(r"^19 +RunSuspended +analyzer +c-19 before the analysis$", said["history"], re.MULTILINE)
    left = run_eventflow("checkpoints", "list", RUN, "--store", STORE, "-o", "json").json["rows"]
    assert [row["checkpoint"] for row in left] == ["c-1", "c-9", "c-12", "c-15", "c-18", "c-19"]


def test_all_checkpoints_go_at_once_and_the_history_stays(talk, run_eventflow):
    """After `delete all` there is none, and the run goes on to its end all the same."""
    said = answers(talk("delete all", "list", "resume").out)
    assert said["delete all"] == "6 checkpoints of run interactive-1 deleted\n"
    assert ids(said["list"]) == []
    assert "run interactive-1 is completed" in said["resume"]
    assert run_eventflow("store", "verify", "--store", STORE).code == 0


def test_resume_at_a_checkpoint_asks_then_rewinds_and_drives_on(talk, run_eventflow):
    """A yes takes the run back and on to its end; the history shows what was left behind, and everything verifies."""
    ended = talk("resume c-9", "y", "history")
    assert (ended.code, ended.err) == (0, "")
    said = answers(ended.out)
    question = (
        "Take the run back from version 19 to c-9, in node researcher, and go on from there? Nothing is erased. [y/N] y"
    )
    assert said["resume c-9"].startswith(question)
    assert said["resume c-9"].count("researcher asks the model") == len(SECTIONS) - 2
    assert "In short: The tide" in said["resume c-9"]
    left = re.findall(r"^(\d+) .*left behind$", said["history"], re.MULTILINE)
    assert list(map(int, left)) == list(range(10, 20))
    assert re.search(r"^20 +Rewound +back to version 9, in researcher$", said["history"], re.MULTILINE)
    state = run_eventflow("show", RUN, "--store", STORE, "-o", "json").json
    assert (state["status"], len(state["state"]["facts"])) == ("completed", len(SECTIONS))
    assert run_eventflow("store", "verify", "--store", STORE).code == 0


@pytest.mark.parametrize("answer", [["n"], [""], [], ["perhaps", "no"]])
def test_without_a_yes_the_run_stays(talk, run_eventflow, answer):
    """No, nothing, the end of the input: no version is added; what is neither is asked again."""
    ended = talk("resume c-9", *answer)
    assert ended.code == 0
    assert "the run stays at version 19" in ended.out
    assert ended.out.count("[y/N]") == 1 + ("perhaps" in answer)
    assert run_eventflow("show", RUN, "--store", STORE, "-o", "json").json["version"] == 19


def test_wrong_lines_cost_a_sentence_each(talk):
    """What can't be obeyed is answered by one sentence and the prompt, and shown with its control characters visible."""
    none = "run interactive-1 has no checkpoint"
    wrong = {
        "foo": "'foo' is not a command; `help` lists them",
        "show": "write it as `show c-N`",
        "list all": "write it as `list`",
        "delete": "write it as `delete c-N|all`",
        "show c-7": f"{none} 'c-7'; `list` shows those it has",
        "delete c-6 c-9": f"{none} 'c-6 c-9'; `list` shows those it has",
        "resume 9": f"{none} '9'; `list` shows those it has",
    }
    ended = talk(*wrong, "\x1b[31mred", "", "resume", "resume", "resume c-26", "list")
    assert (ended.code, ended.err) == (0, "")
    said = answers(ended.out)
    assert {typed: said[typed] for typed in wrong} == {typed: f"{sentence}\n" for typed, sentence in wrong.items()}
    assert "\x1b" not in ended.out
    assert "is not a command" in said["\\x1b[31mred"]
    assert said[""].startswith("run interactive-1 is kept")  # the last one, at the end: the one before said nothing
    assert said["resume"] == "the run is completed; `resume c-N` takes it back to a checkpoint, `list` shows which\n"
    assert "version 26 is the run's end; go back to an earlier version" in said["resume c-26"]
    assert "c-26" in ids(said["list"])


def test_bytes_that_are_no_text_are_a_wrong_line_too(process):
    """They neither end the session nor leave a traceback."""
    running = process("eventflow", "demo", "interactive", stdin=subprocess.PIPE)
    running.popen.stdin.buffer.write(b"\xff\xfe\nlist\n")
    ended = running.ended()
    assert (ended.code, ended.err) == (0, "")
    said = answers(ended.out)
    assert "is not a command" in said["\\xff\\xfe"]
    assert ids(said["list"])


def test_help_names_every_command_that_a_wrong_line_may_have_meant(talk):
    """Each command of the list is one that is obeyed, or answered by how to write it."""
    said = answers(talk("help").out)
    words = re.findall(r"^([a-z]+)", said["help"], re.MULTILINE)[1:]
    assert words == ["create", "list", "show", "delete", "resume", "history", "help", "quit"]


def test_what_comes_after_quit_is_not_done(talk, run_eventflow):
    """Quit ends the session, and says how to look at what is left."""
    ended = talk("quit", "delete all")
    assert ended.code == 0
    assert "Look at it:" in ended.out
    assert len(run_eventflow("checkpoints", "list", RUN, "--store", STORE, "-o", "json").json["rows"]) == 6


def test_a_failed_model_is_told_and_can_be_tried_again(talk, run_eventflow):
    """The session opens on the failed run; once the model is there, `resume` goes on and repeats nothing."""
    with ModelServer([Reply("shut", status=400), *["a fact"] * (len(SECTIONS) + 2)]) as server:
        ended = talk("resume", env={"OPENAI_BASE_URL": server.base_url})
        assert len(server.calls) == 1 + len(SECTIONS) + 2
    assert (ended.code, ended.err) == (0, "")
    assert "it failed: the model server answered 400: shut; `resume` tries again" in ended.out
    assert "scripted" not in ended.out
    assert run_eventflow("show", RUN, "--store", STORE, "-o", "json").json["status"] == "completed"


def test_on_a_terminal_it_is_typed(process, until):
    """With a terminal as stdin the prompt waits, a line is obeyed, Ctrl-D ends the session."""
    leader, follower = os.openpty()
    with open("out", "w+") as out:  # noqa: PTH123 - the process writes on while it is read
        running = process("eventflow", "demo", "interactive", stdin=follower, stdout=out)
        os.close(follower)
        until(lambda: PROMPT in _text(out))
        os.write(leader, b"list\n")
        until(lambda: _text(out).count(PROMPT) == 2)
        os.write(leader, b"\x04")
        ended = running.ended()
        text = _text(out)
    os.close(leader)
    assert ended.code == 0
    assert len(ids(text)) == 6
    assert "Look at it:" in text


def _text(file) -> str:
    """What has been written to an open file so far."""
    file.seek(0)
    return file.read()


def test_ctrl_c_at_the_prompt_ends_it_quietly(process, until):
    """Exit code 7 and no traceback; the run stays as it was."""
    with open("out", "w+") as out:  # noqa: PTH123 - see above
        running = process("eventflow", "demo", "interactive", stdin=subprocess.PIPE, stdout=out)
        until(lambda: PROMPT in _text(out))
        running.signal(signal.SIGINT)
        ended = running.ended()
    assert (ended.code, ended.err) == (7, "")


def test_ctrl_c_while_the_run_is_driven_lets_it_go_and_asks_again(process, until, run_eventflow):
    """The session goes on at its prompt, and the run can be resumed from there."""
    replies = [*["a fact"] * len(SECTIONS), Reply("slow", delay=1.0), "an analysis", "a report"]
    with ModelServer(replies) as server:
        running = process(
            "eventflow", "demo", "interactive", stdin=subprocess.PIPE, env={"OPENAI_BASE_URL": server.base_url}
        )
        running.popen.stdin.write("resume\n")
        running.popen.stdin.flush()
        until(lambda: len(server.calls) > len(SECTIONS))
        running.signal(signal.SIGINT)
        running.popen.stdin.write("resume\n")
        ended = running.ended()
    assert (ended.code, ended.err) == (0, "")
    assert "run interactive-1 was let go" in ended.out
    assert run_eventflow("show", RUN, "--store", STORE, "-o", "json").json["status"] == "completed"


def test_a_store_that_can_t_be_used_is_one_sentence(process, desk):
    """The session does not begin."""
    (desk / STORE).touch()
    ended = process("eventflow", "demo", "interactive").ended()
    assert ended.code == 6
    assert "is not an eventflow store" in ended.sentence
