"""How a run's end becomes an exit code: failures, full disks, signals, other processes; and the log stays intact."""

from __future__ import annotations

import functools
import operator
import os
import re
import resource
import shlex
import signal
import textwrap
from pathlib import Path

import pytest

from eventflow.testing.model_server import ModelServer, Reply

STORE = "runs.eventflow"
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="signals of a process are seen in /proc")

BAD = """
from eventflow import Agent, Go, RetryPolicy, Workflow


def one(name, body):
    return Workflow(name).add_node("a", body).set_start("a")


def edge(name, when, body=lambda s: {}):
    return Workflow(name).add_node("a", body).add_node("b", lambda s: {}).add_edge("a", "b", when=when).set_start("a")


def deep(state):
    value = []
    for _ in range(100):
        value = [value]
    return {"tree": {"deep": value}}


def bad_guard(state):
    return state["missing"] > 1


raises = one("raises", lambda s: 1 / 0)
not_plain = one("not_plain", lambda s: {"x": {"y": [1, object()]}})
not_a_dict = one("not_a_dict", lambda s: 7)
too_deep = one("too_deep", deep)
too_large = one("too_large", lambda s: {"big": ["x" * 999] * 20_000})
in_place = one("in_place", lambda s: s.update(a=1))
guard_raises = edge("guard_raises", bad_guard)
no_edge = edge("no_edge", lambda s: False)
undeclared = edge("undeclared", None, lambda s: Go("nowhere", {}))
asking = Workflow("asking").add_node(
    "a", Agent(model="m", reads="q", writes="a"), retry=RetryPolicy(attempts=2, delay=0.001)
).set_start("a")
"""


MORE = """
from eventflow import Workflow


def wants(state):
    city = state["city"]
    return {"said": city.upper() if isinstance(city, str) else {}["city"]}


wants = Workflow("wants").add_node("a", wants).set_start("a")
"""


@pytest.fixture
def bad(desk) -> Path:
    """Workflows that go wrong, each in its own way, in `bad.py`."""
    (desk / "bad.py").write_text(BAD)
    return desk / "bad.py"


def is_sound(run_eventflow) -> bool:
    """Whether the store verifies."""
    return run_eventflow("store", "verify").code == 0


# --- what goes wrong in a node -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "failed in node 'a': ZeroDivisionError: division by zero (bad.py:24 in <lambda>); mend the cause"),
        ("not_plain", "x.y[1] is a builtins.object, which is not plain data"),
        ("not_a_dict", "int"),
        ("too_deep", "tree.deep[0][0]"),
        ("too_large", "big makes an event of"),
        ("in_place", "state is read-only"),
        ("guard_raises", "guard 'bad_guard' on an edge out of node 'a' raised KeyError: 'missing'; mend the guard"),
        ("no_edge", "no edge out of node 'a' holds after 'done'"),
        ("undeclared", "went to 'nowhere', which is not among its declared targets (b)"),
    ],
)
def test_what_a_node_does_wrong_is_one_sentence(run_eventflow, bad, name, said):
    """It names the node and what to do, ends with the command that resumes, gives exit code 1; the log is intact."""
    ended = run_eventflow("run", f"bad:{name}", "--id", "r")
    assert ended.code == 1
    assert said in ended.sentence
    assert ended.sentence.count("`eventflow resume r --flow bad:" + name + "`") == 1
    document = run_eventflow("show", "r", "-o", "json").json
    assert (document["status"], document["node"], document["state"]) == ("failed", "a", {})
    assert list(document["error"]) == ["type", "message", "where"]
    assert is_sound(run_eventflow)


def test_a_field_that_the_input_did_not_give_can_be_given_in_a_fork(run_eventflow, run_replay, bad):
    """The sentence names the field and the command that goes on with it; an error of another dict says nothing of it."""
    (bad.parent / "more.py").write_text(MORE)
    ended = run_eventflow("run", "more:wants", "--id", "r", "--input", "{}")
    assert ended.code == 1
    assert (
        "KeyError: 'city' (more.py:6 in wants); if a field 'city' of the state is meant, `replay fork r --set city=JSON --run --real"
        in ended.sentence
    )
    command = re.search("`(replay fork [^`]*)`", ended.sentence)[1]
    assert run_replay(*shlex.split(command.replace("JSON", "'\"Oslo\"'"))[1:], "--id", "s").code == 0
    assert run_eventflow("show", "s", "-o", "json").json["state"] == {"city": "Oslo", "said": "OSLO"}
    other = run_eventflow("run", "more:wants", "--id", "o", "--input", '{"city": {}}')
    assert "mend the cause, then" in other.sentence
    agent = run_eventflow("run", "bad:asking", "--id", "a")
    assert "or write it before; `replay fork a --set q=JSON" in agent.sentence
    assert is_sound(run_eventflow)


def test_a_missing_key_is_told_without_trying(run_eventflow, bad):
    """No attempt is made again: the next would fail in the same way."""
    ended = run_eventflow("run", "bad:asking", "--id", "r", "--input", '{"q": "why"}')
    assert ended.code == 1
    assert "no model to call: set OPENAI_API_KEY" in ended.sentence
    assert run_eventflow("show", "r", "-o", "json").json["attempt"] == 1
    assert is_sound(run_eventflow)


def test_a_model_server_that_is_down_is_told_after_the_attempts_it_deserves(run_eventflow, bad, monkeypatch):
    """Each attempt is in the log; once the server is up again, resume goes on."""
    with ModelServer(lambda _: "because") as server:
        address = server.base_url
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    ended = run_eventflow("run", "bad:asking", "--id", "r", "--input", '{"q": "why"}')
    assert ended.code == 1
    assert "the model server can't be reached" in ended.sentence
    assert "OPENAI_BASE_URL" in ended.sentence
    assert is_sound(run_eventflow)
    with ModelServer(lambda _: "because") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        ended = run_eventflow("resume", "r", "--flow", "bad:asking", "-o", "json")
    assert (ended.code, ended.json["state"]["a"]) == (0, "because")
    assert ended.json["usage"]["calls"] == 1


def test_what_a_model_server_says_does_not_command_the_terminal(run_eventflow, bad, monkeypatch):
    """Neither its answers nor its errors reach the terminal raw."""
    hostile = "oh\x1b[2J\u202eno"
    replies = iter([Reply(hostile, status=400), Reply(hostile)])
    with ModelServer(lambda _: next(replies)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        failed = run_eventflow("run", "bad:asking", "--id", "r", "--input", '{"q": "why"}')
        done = run_eventflow("resume", "r", "--flow", "bad:asking")
    assert (failed.code, done.code) == (1, 0)
    for ended in (failed, done, run_eventflow("show", "r", "-o", "json")):
        assert (ended.out + ended.err).replace("\n", "").isprintable()


# --- a store that can't take it ------------------------------------------------------------------------------------

GROWING = """
import random
from eventflow import Workflow

flow = (
    Workflow("growing")
    .add_node("grow", lambda s: {"n": s["n"] + 1, "noise": random.randbytes(2_000)})
    .add_node("end", lambda s: {})
    .add_edge("grow", "grow", when=lambda s: s["n"] < 300)
    .add_edge("grow", "end")
    .set_start("grow")
)
"""


def test_a_full_map_stops_the_run_and_a_larger_one_lets_it_go_on(run_eventflow, desk, monkeypatch):
    """Exit code 6 and one sentence that names the setting; nothing acknowledged is lost."""
    (desk / "growing.py").write_text(GROWING)
    monkeypatch.setenv("EVENTFLOW_MAP_SIZE", "400000")
    ended = run_eventflow("run", "growing:flow", "--id", "r", "--input", '{"n": 0}')
    assert ended.code == 6
    assert "EVENTFLOW_MAP_SIZE" in ended.sentence
    monkeypatch.delenv("EVENTFLOW_MAP_SIZE")
    assert is_sound(run_eventflow)
    reached = run_eventflow("show", "r", "-o", "json").json["state"]["n"]
    assert 0 < reached < 300
    ended = run_eventflow("resume", "r", "--flow", "growing:flow", "-o", "json")
    assert (ended.code, ended.json["state"]["n"]) == (0, 300)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(process, run_eventflow, desk):
    """The same where the file can't grow: exit code 6, one sentence, a log that verifies and goes on."""
    (desk / "growing.py").write_text(GROWING)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # bytes; the process that is started inherits it
    try:
        running = process("eventflow", "run", "growing:flow", "--id", "r", "--input", '{"n": 0}')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ended = running.ended()
    assert ended.code == 6
    assert "no room" in ended.sentence
    assert is_sound(run_eventflow)
    ended = run_eventflow("resume", "r", "--flow", "growing:flow", "-o", "json")
    assert (ended.code, ended.json["state"]["n"]) == (0, 300)


def test_a_directory_that_can_t_be_made_is_one_sentence(run_eventflow, flows, desk):
    """Where a file stands in the way of the store's directory, nothing is started."""
    (desk / "file").touch()
    ended = run_eventflow("run", "flows:make", "--store", "file/store")
    assert ended.code == 6
    assert "can't be created" in ended.sentence


# --- the operating system's signals --------------------------------------------------------------------------------


@needs_proc
@pytest.mark.usefixtures("flows")
@pytest.mark.parametrize(
    ("number", "flow"),
    [(number, flow) for number in (signal.SIGINT, signal.SIGTERM) for flow in ("flows:waiting", "flows:blocking")],
)
def test_a_signal_lets_the_run_go_after_its_node(process, run_eventflow, until, number, flow):
    """The node ends, the run is let go before the next with a checkpoint, exit code 7, and it can be resumed."""
    running = process("eventflow", "run", flow, "--id", "r", "-o", "json")
    until(Path("began").exists, running)
    running.signal(number)
    until(lambda: not _masks(running.popen.pid, "SigPnd", "ShdPnd"))
    Path("fresh").write_text("0.3")  # seconds the node goes on: it must end after the signal has been looked at
    Path("fresh").rename("go")
    ended = running.ended()
    assert ended.code == 7
    assert ended.sentence == f"eventflow: run r was stopped and can go on: `eventflow resume r --flow {flow}`"
    document = ended.json
    assert (document["status"], document["node"], document["state"]) == ("pending", "after", {"gone": True})
    assert run_eventflow("list", "-o", "json").json["rows"][0]["driven"] is False
    kinds = [row["kinds"] for row in run_eventflow("checkpoints", "list", "r", "-o", "json").json["rows"]]
    assert kinds == [["shutdown"]]
    assert is_sound(run_eventflow)
    ended = run_eventflow("resume", "r", "--flow", flow, "-o", "json")
    assert (ended.code, ended.json["state"]) == (0, {"gone": True, "after": True})


@needs_proc
@pytest.mark.usefixtures("flows")
@pytest.mark.parametrize("flow", ["flows:waiting", "flows:blocking"])
def test_a_second_signal_cuts_the_node_off(process, run_eventflow, desk, until, flow):
    """Nobody waits for a node that does not end: it begins again at the next resume. The process is gone at once."""
    running = process("eventflow", "run", flow, "--id", "r", "-o", "json")
    until((desk / "began").exists, running)
    running.signal(signal.SIGINT)
    until(lambda: not _masks(running.popen.pid, "SigPnd", "ShdPnd"))
    running.signal(signal.SIGTERM)
    ended = running.ended()
    assert ended.code == 7
    document = ended.json
    assert (document["status"], document["node"], document["state"]) == ("pending", "gate", {})
    assert "Traceback" not in ended.err
    (desk / "go").touch()
    assert run_eventflow("resume", "r", "--flow", flow, "-o", "json").json["status"] == "completed"
    assert is_sound(run_eventflow)


def _masks(pid: int, *names: str) -> int:
    """The signals in these sets of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(names)]
    return functools.reduce(operator.or_, found, 0)


def test_a_process_that_was_killed_left_everything_it_was_told(process, run_eventflow, flows, desk, until):
    """SIGKILL in a node: the run stands as it stood, nobody drives it, and resume goes on."""
    running = process("eventflow", "run", "flows:waiting", "--id", "r")
    until((desk / "began").exists, running)
    running.signal(signal.SIGKILL)
    assert running.ended().code == -signal.SIGKILL
    document = run_eventflow("show", "r", "-o", "json").json
    assert (document["status"], document["node"]) == ("running", "gate")
    assert is_sound(run_eventflow)
    (desk / "go").touch()
    assert run_eventflow("run", "flows:waiting", "--id", "r", "-o", "json").json["status"] == "completed"


@pytest.mark.usefixtures("flows")
def test_a_node_that_says_to_ask_is_asked_for(process, run_eventflow, until):
    """Cut off in its middle, it begins again only on --yes; the sentence gives the command that does."""
    Path("f.py").write_text(
        "from flows import waits\nfrom eventflow import Workflow\n"
        "flow = Workflow('f').add_node('a', waits, after_crash='ask').set_start('a')\n"
    )
    running = process("eventflow", "run", "f:flow", "--id", "r")
    until(Path("began").exists, running)
    running.signal(signal.SIGKILL)
    running.ended()
    Path("go").touch()
    ended = run_eventflow("run", "f:flow", "--id", "r")
    assert ended.code == 2
    assert "says to ask first" in ended.sentence
    assert run_eventflow("resume", "r", "--flow", "f:flow").code == 2
    assert run_eventflow(*ended.sentence.split("`")[1].split()[1:]).code == 0


# --- other processes -----------------------------------------------------------------------------------------------


@pytest.fixture
def driven(process, flows, desk, until):
    """A run `r` that another process drives, in its node `gate` until a file `go` is there."""
    running = process("eventflow", "run", "flows:waiting", "--id", "r", "-o", "json")
    until((desk / "began").exists, running)
    return running


def test_a_driven_run_is_left_to_its_driver(driven, run_eventflow, desk):
    """Resume, rewind and delete are conflicts that say who has it; listing tells that it is driven."""
    for argv in (
        ("resume", "r", "--flow", "flows:waiting"), ("resume", "r", "--flow", "flows:waiting", "--at", "1"),
        ("delete", "r", "--yes"),
    ):  # fmt: skip
        ended = run_eventflow(*argv)
        assert ended.code == 5
        assert "run r is driven by process " in ended.sentence
    assert run_eventflow("list", "-o", "json").json["rows"][0]["driven"] is True
    assert run_eventflow("list").out.splitlines()[1].split()[3] == "yes"
    assert run_eventflow("store", "info", "-o", "json").json["driven"] == 1
    (desk / "go").touch()
    assert driven.ended().json["status"] == "completed"


def test_a_checkpoint_of_a_driven_run_can_be_made(driven, run_eventflow, desk):
    """It needs neither lease nor version: it is beside the run's history."""
    assert run_eventflow("checkpoints", "create", "r", "--label", "now").code == 0
    (desk / "go").touch()
    assert driven.ended().code == 0
    assert is_sound(run_eventflow)


def test_messages_reach_the_process_that_drives(driven, run_eventflow, desk, until):
    """A signal is taken while the node runs; a pause lets the run go after it, with exit code 7."""
    assert run_eventflow("signal", "r", "hello", '{"n": 1}').code == 0
    until(lambda: run_eventflow("show", "r", "-o", "json").json["signals"])
    assert run_eventflow("pause", "r", "--why", "lunch").code == 0
    until(lambda: run_eventflow("show", "r", "-o", "json").json["status"] == "paused")
    (desk / "go").touch()
    ended = driven.ended()
    assert ended.code == 7
    assert ended.sentence == "eventflow: run r was paused and can go on: `eventflow resume r --flow flows:waiting`"
    assert (ended.json["node"], ended.json["status"]) == ("after", "paused")
    assert run_eventflow("resume", "r", "--flow", "flows:waiting", "-o", "json").json["status"] == "completed"
    assert is_sound(run_eventflow)


def test_cancelling_ends_a_run_in_the_middle_of_its_node(driven, run_eventflow):
    """The process that drives it cuts the node off and ends with exit code 1."""
    assert run_eventflow("cancel", "r", "--why", "no longer needed").code == 0
    ended = driven.ended()
    assert ended.code == 1
    assert "was cancelled" in ended.sentence
    assert ended.json["status"] == "cancelled"
    assert is_sound(run_eventflow)


def test_the_same_run_again_follows_the_one_that_drives_it(driven, process, run_eventflow, desk):
    """Both processes print the same end; the node ran once."""
    second = process("eventflow", "run", "flows:waiting", "--id", "r", "-o", "json")
    (desk / "go").touch()
    first, second = driven.ended(), second.ended()
    assert (first.code, second.code) == (0, 0)
    assert first.json == second.json
    assert first.json["version"] == 3


@needs_proc
def test_a_follower_can_be_stopped_without_stopping_the_run(driven, process, run_eventflow, desk, until):
    """SIGINT ends the process that only looks on, with exit code 7; the other drives on."""
    second = process("eventflow", "run", "flows:waiting", "--id", "r", env={"EVENTFLOW_STORE": str(desk / STORE)})
    until(lambda: _listens(second.popen.pid))
    second.signal(signal.SIGINT)
    ended = second.ended()
    assert ended.code == 7
    assert "run r is driven by another process and goes on there" in ended.sentence
    (desk / "go").touch()
    assert driven.ended().code == 0


def _listens(pid: int) -> bool:
    """Whether a process has said what shall happen on SIGTERM, which ends one that has not."""
    return bool(_masks(pid, "SigCgt") >> (signal.SIGTERM - 1) & 1)


def test_two_processes_that_start_the_same_run_drive_it_once(process, run_eventflow, desk):
    """One wins, the other follows; the witness outside counts one call."""
    (desk / "f.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        from eventflow import Workflow

        def witness(state):
            with Path("calls").open("a") as file:
                file.write("x")
            return {}

        flow = Workflow("f").add_node("a", witness).set_start("a")
        """)
    )
    both = [process("eventflow", "run", "f:flow", "--id", "r", "-o", "json") for _ in range(2)]
    first, second = (one.ended() for one in both)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert first.json == second.json
    assert (desk / "calls").read_text() == "x"
    assert is_sound(run_eventflow)


def test_a_terminal_s_progress_says_where_the_run_is(process, flows):
    """On a terminal, stderr has a line that changes; stdout has the result alone."""
    leader, follower = os.openpty()
    argv = ("run", "flows:flow", "--id", "r", "--input", '{"n": 1}', "-o", "json")
    running = process("eventflow", *argv, stderr=follower, env={"TERM": "xterm"})
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 4096):
            told += part
    except OSError:  # how Linux says that the other end has gone
        pass
    os.close(leader)
    ended = running.ended()
    assert (ended.code, ended.json["status"]) == (0, "completed")
    assert b"r: version" in told


# --- what was taken back -------------------------------------------------------------------------------------------


def test_a_failed_run_that_took_back_what_it_did_says_so(desk, run_eventflow):
    """It can't be resumed; it can go back."""
    (desk / "back.py").write_text("""
from eventflow import Workflow


async def pay(state, run):
    await run.effect("pay", lambda: 1)
    raise ValueError("no")


flow = Workflow("back").add_node("pay", pay).add_compensation("pay", lambda paid: None).set_start("pay")
""")
    ended = run_eventflow("run", "back.py:flow", "--id", "r")
    assert (ended.code, "what it did was taken back" in ended.sentence) == (1, True)
    assert run_eventflow("resume", "r", "--flow", "back.py:flow").code == 5
    assert run_eventflow("resume", "r", "--flow", "back.py:flow", "--at", "1", "--yes").code == 1


# --- calls whose outcome is unknown --------------------------------------------------------------------------------

LOST = """
import os

from eventflow import Child, Workflow


def charge():
    with open("charges", "a") as file:
        file.write("charged\\n")
    if os.environ.get("CRASH"):
        os.kill(os.getpid(), 9)
    return 7


async def pay(state, run):
    return {"paid": await run.effect("charge it", charge)}


flow = Workflow("shop").add_node("pay", pay).set_start("pay")
caller = Workflow("caller").add_node("sub", Child(flow)).set_start("sub")
"""


@pytest.mark.parametrize(("name", "stands"), [("flow", "r"), ("caller", None)])
def test_a_run_with_an_unknown_call_ends_the_command_and_says_how_to_settle_it(
    name, stands, desk, process, run_eventflow
):
    """Resuming does not hang where only a person can help: exit code 7, and the command that helps."""
    (desk / "lost.py").write_text(LOST)
    started = process("eventflow", "run", f"lost.py:{name}", "--id", "r", env={"CRASH": "1"})
    assert started.ended().code == -9
    resumed = process("eventflow", "resume", "r", "--flow", f"lost.py:{name}").ended()
    assert resumed.code == 7
    if stands is None:
        assert "run r waits for run r" in resumed.err  # its child's id begins with its own
        return
    assert "waits to be told what became of call charge it" in resumed.err
    assert "eventflow settle r 'charge it' --key 1 --result JSON" in resumed.err
    assert "waiting, waiting for unknown" in resumed.out
    again = process("eventflow", "run", "lost.py:flow", "--id", "r").ended()
    assert again.code == 7
    assert run_eventflow("settle", "r", "charge it", "--result", "7").code == 0
    assert process("eventflow", "resume", "r", "--flow", "lost.py:flow").ended().code == 0
    assert (desk / "charges").read_text() == "charged\n"
