"""send, ask, answer, settle: what somebody says to a run, and what comes back."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from eventflow.cli.talking import fit_schema
from eventflow.errors import InvalidState
from eventflow.testing import ModelServer, Reply

MORE = """
import asyncio
from pathlib import Path
from typing import TypedDict

from eventflow import Human, Map, Parallel, Wait, Workflow


class Talk(TypedDict, total=False):
    heard: str
    said: str


chat = (
    Workflow("chat", state=Talk)
    .add_node("listen", Wait.for_message(writes="heard", answers="said", type=str))
    .add_node("speak", lambda s: {"said": s["heard"].upper() + "!"})
    .add_node("end", lambda s: {})
    .add_edge("listen", "speak")
    .add_edge("speak", "listen", when=lambda s: s["heard"] != "bye")
    .add_edge("speak", "end")
    .set_start("listen")
)
numbers = (
    Workflow("numbers")
    .add_node("listen", Wait(signal="number", writes="n", answers="twice"))
    .add_node("double", lambda s: {"twice": {"is": s["n"] * 2}})
    .add_edge("listen", "double")
    .add_edge("double", "listen")
    .set_start("listen")
)
deaf = Workflow("deaf").add_node("only", Wait(signal="never")).set_start("only")


def falls(state):
    raise ValueError("no more")


falling = (
    Workflow("falling")
    .add_node("listen", Wait.for_message(writes="heard"))
    .add_node("fall", falls)
    .add_edge("listen", "fall")
    .set_start("listen")
)
two = (
    Workflow("two")
    .add_node("ask", Parallel({"a": Human(prompt="Red?", writes="red"), "b": Human(prompt="Blue?", writes="blue")}))
    .set_start("ask")
)


async def pays(state, run):
    return {"paid": await run.effect("pay", forever)}


async def forever():
    Path("began").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.005)
    return "late"


agrees = Workflow("agrees").add_node("ask", Human(prompt="Sure?", writes="sure", type=bool)).set_start("ask")
paying = Workflow("paying").add_node("each", Parallel({"shop": pays})).set_start("each")
"""


@pytest.fixture
def driven(process, run_eventflow, until, desk):
    """Start a run as a process, and wait until it stands still."""
    (desk / "more.py").write_text(MORE)

    def start(flow: str, name: str = "r", status: str = "waiting"):
        running = process("eventflow", "run", flow, "--id", name, "-o", "json")
        until(lambda: _status(run_eventflow, name) == status, running)
        return running

    return start


def _status(run_eventflow, name: str) -> str | None:
    ended = run_eventflow("show", name, "-o", "json")
    return None if ended.code else ended.json["status"]


# --- send and ask --------------------------------------------------------------------------------------------------


def test_ask_prints_what_the_run_answers(driven, run_eventflow):
    """Text as it is, once the run stands still again or is over; nothing else on stdout."""
    running = driven("more:chat")
    for text, said in (("hello", "HELLO!"), ("7", "7!"), ("bye", "BYE!")):
        ended = run_eventflow("ask", "r", text)
        assert (ended.code, ended.out, ended.err) == (0, f"{said}\n", "")
    assert running.ended().json["status"] == "completed"


def test_an_answer_that_is_no_text_is_json(driven, run_eventflow):
    """In a table's place one line; with -o json a document."""
    driven("more:numbers")
    ended = run_eventflow("ask", "r", "4", "--name", "number", "--json")
    assert (ended.code, ended.out) == (0, '{"is": 8}\n')
    ended = run_eventflow("ask", "r", "5", "--name", "number", "--json", "-o", "json")
    assert ended.json == {"schema": "eventflow.answer/1", "run": "r", "answer": {"is": 10}}


def test_what_a_run_answers_does_not_command_the_terminal(driven, run_eventflow):
    """Its control and direction characters are shown."""
    driven("more:chat")
    assert run_eventflow("ask", "r", "\x1b[2j\u202e").out.replace("\n", "").isprintable()


def test_send_says_it_and_waits_for_nothing(driven, run_eventflow):
    """The message is durable when it returns."""
    running = driven("more:chat")
    ended = run_eventflow("send", "r", "bye")
    assert (ended.code, ended.out) == (0, "run r: sent, message 1\n")
    assert running.ended().json["state"] == {"heard": "bye", "said": "BYE!"}


@pytest.mark.parametrize(
    ("argv", "heard"),
    [
        (("@said.txt",), "two\nlines"),
        (("@@home",), "@home"),
        (('"quoted"',), '"quoted"'),
        (('"quoted"', "--json"), "quoted"),
        (("@said.json", "--json"), "from a file"),
    ],
)
def test_a_text_is_taken_as_it_is_unless_it_is_said_to_be_json(run_eventflow, desk, argv, heard):
    """@FILE gives a file's text, of which a last line's end is no part; two @ stand for one."""
    (desk / "more.py").write_text(MORE)
    (desk / "said.txt").write_text("two\nlines\n")
    (desk / "said.json").write_text('"from a file"')
    _left_waiting(run_eventflow, desk)
    assert run_eventflow("send", "r", *argv).code == 0
    assert [one["payload"] for one in run_eventflow("show", "r", "-o", "json").json["signals"]] == [heard]


def _left_waiting(run_eventflow, desk) -> None:
    """A run that was let go before its first node, and which nobody drives."""
    with (desk / "lines").open("w+") as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", lines)
        (desk / "before.py").write_text(
            "from eventflow import Workflow\nimport more\n"
            "flow = Workflow('before').add_node('a', lambda s: {}).add_node('b', more.chat.nodes['listen'].body)"
            ".add_edge('a', 'b').set_start('a')\n"
        )
        assert run_eventflow("run", "before:flow", "--id", "r", "--step").code == 7


def test_a_text_comes_from_stdin_too(process, run_eventflow, desk):
    """As @-."""
    (desk / "more.py").write_text(MORE)
    _left_waiting(run_eventflow, desk)
    (desk / "said.txt").write_text("piped\n")
    with (desk / "said.txt").open() as given:
        assert process("eventflow", "send", "r", "@-", stdin=given).ended().code == 0
    assert [one["payload"] for one in run_eventflow("show", "r", "-o", "json").json["signals"]] == ["piped"]


@pytest.mark.parametrize("argv", [("@nowhere",), ("@binary",), ("nope", "--json"), ("@nowhere", "--json")])
def test_a_text_that_can_not_be_had_is_not_sent(run_eventflow, desk, argv):
    """One sentence, exit code 2."""
    (desk / "more.py").write_text(MORE)
    (desk / "binary").write_bytes(b"\xff\xfe")
    _left_waiting(run_eventflow, desk)
    ended = run_eventflow("send", "r", *argv)
    assert (ended.code, ended.out) == (2, "")
    assert ended.sentence
    assert run_eventflow("show", "r", "-o", "json").json["signals"] == []


def test_a_run_that_nobody_drives_is_not_asked(run_eventflow, desk):
    """It would never answer: exit code 5, and nothing is sent."""
    (desk / "more.py").write_text(MORE)
    _left_waiting(run_eventflow, desk)
    ended = run_eventflow("ask", "r", "hello")
    assert ended.code == 5
    assert "nobody drives it" in ended.sentence
    assert run_eventflow("show", "r", "-o", "json").json["signals"] == []


def test_a_run_that_has_failed_is_not_asked(run_eventflow, flows):
    """Nor is anything left in it that it would take in once it is resumed."""
    run_eventflow("run", "flows:failing", "--id", "r")
    assert run_eventflow("ask", "r", "hello").code == 5
    run_eventflow("resume", "r", "--flow", "flows:failing")
    assert run_eventflow("show", "r", "-o", "json").json["signals"] == []


def test_a_run_that_does_not_answer_in_time_is_told_so(driven, run_eventflow):
    """It waits for something else."""
    driven("more:deaf")
    ended = run_eventflow("ask", "r", "hello", "--timeout", "0.2")
    assert ended.code == 1
    assert ended.sentence.startswith("eventflow: run r has not answered within 0.2 s; it has the message")
    assert run_eventflow("ask", "r", "hello", "--timeout", "0").code == 2


def test_who_asks_hears_that_the_driver_is_gone(driven, process, run_eventflow, until):
    """Its process is killed while the answer is awaited: exit code 7, and the message is there for the next one."""
    running = driven("more:deaf")
    asking = process("eventflow", "ask", "r", "hello")
    until(lambda: run_eventflow("show", "r", "-o", "json").json["signals"], asking)
    running.signal(signal.SIGKILL)
    ended = asking.ended()
    assert ended.code == 7
    assert "`eventflow resume r`" in ended.sentence


def test_a_message_that_will_not_do_or_breaks_the_run_is_told(driven, run_eventflow):
    """What the wait refuses, and the error that the run fails with."""
    driven("more:chat")
    ended = run_eventflow("ask", "r", "7", "--json")
    assert ended.code == 1
    assert "valid string" in ended.sentence
    driven("more:falling", "f")
    ended = run_eventflow("ask", "f", "hello")
    assert ended.code == 1
    assert "ValueError: no more" in ended.sentence


@pytest.mark.parametrize("command", ["send", "ask"])
def test_what_is_not_there_is_told(run_eventflow, flows, desk, command):
    """No store: exit code 3, and none is made; no run: 3; a run that is over: 5."""
    assert run_eventflow(command, "r", "x").code == 3
    assert not (desk / "runs.eventflow").exists()
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    assert run_eventflow(command, "nobody", "x").code == 3
    assert run_eventflow(command, "r", "x").code == 5


# --- answer and settle ---------------------------------------------------------------------------------------------


def test_of_several_questions_the_answered_one_is_named(driven, run_eventflow, until):
    """Without --wait the error lists them; each is answered by its own id."""
    running = driven("more:two")
    waits = {one["branch"]: one["id"] for one in run_eventflow("show", "r", "-o", "json").json["waits"]}
    for argv in ((), ("--wait", 99)):
        ended = run_eventflow("answer", "r", "true", *argv)
        assert ended.code == 2
        assert f"{waits['a']} (a): Red?; {waits['b']} (b): Blue?" in ended.sentence
        assert "--wait" in ended.sentence
    assert run_eventflow("answer", "r", "true", "--wait", waits["b"]).code == 0
    until(lambda: len(run_eventflow("show", "r", "-o", "json").json["waits"]) == 1, running)
    assert run_eventflow("answer", "r", "false").code == 0
    assert running.ended().json["state"] == {"red": False, "blue": True}


@pytest.mark.parametrize("flow", [(), ("--flow", "more:agrees")])
def test_an_answer_of_another_type_is_refused_at_once(driven, run_eventflow, flow):
    """With its workflow at hand or by what is recorded; what is expected is said, nothing is sent, the run asks on."""
    running = driven("more:agrees")
    ended = run_eventflow("answer", "r", '"perhaps"', *flow)
    assert ended.code == 2
    assert "would not do: Input should be a valid boolean" in ended.sentence
    assert "nothing was sent, run r still asks" in ended.sentence
    assert run_eventflow("answer", "r", '"yes"', *flow).code == 0  # which the type takes
    assert running.ended().json["state"] == {"sure": True}


@pytest.mark.parametrize(
    ("schema", "answer", "fits"),
    [
        ({"type": "boolean"}, 7, False), ({"type": "integer"}, "7", True), ({"type": "integer"}, "x", False),
        ({"type": "number"}, 1, True), ({"type": "string"}, 1, False),
        ({"type": "string", "enum": ["a", "b"]}, "c", False), ({"type": "string", "enum": ["a", "b"]}, "a", True),
        ({"type": "integer", "enum": [1]}, 2, True), ({"type": "string", "format": "date"}, 1, True),
        ({"type": "array"}, 1, True), ({}, 1, True),
    ],
)  # fmt: skip
def test_only_types_that_a_schema_says_whole_are_checked_without_the_workflow(schema, answer, fits):
    """What pydantic would turn into the type fits; of other schemas nothing is refused here."""
    if fits:
        fit_schema(schema, answer)
    else:
        with pytest.raises(InvalidState):
            fit_schema(schema, answer)


def test_a_message_that_would_not_do_is_told_while_the_run_waits(driven, run_eventflow, until):
    """Its number and why, in the table and in JSON, until the wait is over."""
    driven("more:chat")
    run_eventflow("send", "r", "7", "--json")
    look = lambda: run_eventflow("show", "r", "-o", "json").json["refused"]  # noqa: E731
    refused = until(look)
    assert (refused["message"], "valid string" in refused["why"]) == (1, True)
    assert f"message 1 would not do: {refused['why']}\n" in run_eventflow("show", "r").out
    run_eventflow("send", "r", "hello")
    until(lambda: look() is None)


def test_a_call_of_a_branch_is_settled_by_the_branch_s_name(driven, run_eventflow, until):
    """The command that `show` prints does it, and without the branch there is no such call."""
    running = driven("more:paying", status="running")
    until(Path("began").exists, running)
    running.signal(signal.SIGKILL)
    running.ended()
    ended = run_eventflow("resume", "r", "--flow", "more:paying")
    assert ended.code == 7
    shown = run_eventflow("show", "r")
    command = "eventflow settle r pay --key 1 --branch shop --result JSON (or --never-happened)"
    assert command in shown.out
    assert run_eventflow("settle", "r", "pay", "--result", '"r-1"').code == 1
    told = run_eventflow("settle", "r", "pay", "--branch", "shop", "--result", json.dumps("r-1"), "--why", "looked")
    assert (told.code, told.out.split(";")[0]) == (0, "run r: effect pay (key 1) of branch shop happened")
    ended = run_eventflow("resume", "r", "--flow", "more:paying", "-o", "json")
    assert (ended.code, ended.json["state"]) == (0, {"paid": "r-1"})


APPROVING = """
from eventflow import Agent, Tool, Workflow


def refund(order: int) -> str:
    return "refunded"


agent = Agent(model="m", reads="q", writes="a", tools=[Tool(refund, needs_approval=True)])
flow = Workflow("desk").add_node("desk", agent).set_start("desk")
"""


def test_an_approval_of_another_form_is_not_sent(process, run_eventflow, until, desk):
    """Nobody need have the workflow for that; one that will do is sent, and what comes next is said."""
    (desk / "approving.py").write_text(APPROVING)
    with ModelServer([Reply(tool_calls=(("refund", {"order": 7}),))]) as server:
        argv = ("eventflow", "run", "approving:flow", "--id", "r", "--input", '{"q": "?"}')
        running = process(*argv, env={"OPENAI_BASE_URL": server.base_url})
        until(lambda: _status(run_eventflow, "r") == "waiting", running)
        running.signal(signal.SIGKILL)
        running.ended()
    for answer in ('"yes"', '{"approv": true}', '{"approve": false, "arguments": {}}'):
        ended = run_eventflow("answer", "r", answer)
        assert ended.code == 2
        assert ended.sentence.startswith("eventflow: the answer would not do: ")
        assert "nothing was sent" in ended.sentence
    ended = run_eventflow("answer", "r", "true")
    assert ended.out.splitlines() == [
        "run r: answered, message 1",
        "nobody drives it; go on with `eventflow resume r --flow MODULE:NAME`",
    ]
    shown = run_eventflow("show", "r").out.splitlines()
    assert shown[2] == "message 1 has come, and is taken once somebody drives the run"
    assert not any("eventflow answer" in line for line in shown)
