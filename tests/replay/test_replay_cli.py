"""replay log and replay show."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from eventflow import Engine
from eventflow.event import EffectFinished, EffectStarted, Transitioned
from eventflow.log import open_log
from eventflow.plain import freeze
from eventflow.testing.author import Author

STORE = "runs.eventflow"
ROW_KEYS = ["version", "position", "time", "type", "node", "took_ms", "tokens", "detail", "digest"]
HOSTILE = "x\x1b[2J\u202e\x9by"


@pytest.fixture
def store(run_eventflow, flows, desk):
    """A store with the runs `good`, which completed, and `bad`, which failed."""
    run_eventflow("run", "flows:flow", "--id", "good", "--input", '{"n": 1}')
    run_eventflow("run", "flows:failing", "--id", "bad")
    return desk / STORE


# --- log -----------------------------------------------------------------------------------------------------------


def test_a_history_has_these_fields_and_no_others(run_replay, store):
    """The history's document is stable, a row for each event in order."""
    document = run_replay("log", "good", "-o", "json").json
    assert list(document) == ["schema", "rows"]
    assert document["schema"] == "eventflow.history/1"
    assert all(list(row) == ROW_KEYS for row in document["rows"])
    assert [(row["version"], row["type"], row["node"]) for row in document["rows"]] == [
        (1, "RunStarted", "first"), (2, "Transitioned", "first"), (3, "RunCompleted", "second"),
    ]  # fmt: skip
    assert document["rows"][0]["took_ms"] is None
    assert document["rows"][1]["took_ms"] >= 0


def test_each_line_of_a_history_carries_its_schema(run_replay, store):
    """`-o jsonl` prints the same rows, each on its own line."""
    lines = run_replay("log", "good", "-o", "jsonl").lines
    assert all(list(line) == ["schema", *ROW_KEYS] for line in lines)
    rows = run_replay("log", "good", "-o", "json").json["rows"]
    assert lines == [{"schema": "eventflow.history/1", **row} for row in rows]


def test_a_history_as_a_table_has_a_row_an_event(run_replay, store):
    """With the run's id above, found by the beginning of it."""
    lines = run_replay("log", "goo").out.splitlines()
    assert lines[0] == "run good"
    assert lines[1].split() == ["version", "time", "type", "node", "took", "tokens", "detail"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    assert lines[3].endswith("to second: set n, set notes")


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        (["--type", "Transitioned"], [2]),
        (["--type", "Transitioned", "--type", "RunStarted"], [1, 2]),
        (["--type", "Rewound"], []),
        (["--since", "1h"], [1, 2, 3]),
        (["--since", "2100-01-01"], []),
        (["--since", "1h", "--type", "RunCompleted"], [3]),
    ],
)
def test_a_history_can_be_narrowed(run_replay, store, options, versions):
    """By type, by time, or both."""
    rows = run_replay("log", "good", *options, "-o", "json").json["rows"]
    assert [row["version"] for row in rows] == versions


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["log", "nobody"], 3, "no run 'nobody'"),
        (["log", "good@2"], 3, "no run 'good@2'"),
        (["log", "good", "--type", "Teleported"], 2, "a run has RunStarted, Transitioned,"),
        (["log", "good", "--since", "long ago"], 2, "'long ago'"),
        (["show", "nobody@1"], 3, "no run 'nobody'"),
        (["show", "good@4"], 3, "its versions go from 1 to 3"),
        (["show", "good@c-1"], 3, "checkpoint not found"),
        (["show", "good@soon"], 2, "is not a version"),
        (["show"], 2, ""),
        (["bogus"], 2, "bogus"),
    ],
)
def test_what_is_not_there_or_means_nothing_is_refused(run_replay, store, argv, code, said):
    """One sentence each."""
    ended = run_replay(*argv)
    assert ended.code == code
    assert said in ended.sentence
    assert ended.sentence.startswith("replay: ")


def test_following_a_run_that_has_ended_ends_at_once(run_replay, store):
    """It prints the history as ever; JSON becomes lines, since there may be more to come."""
    assert run_replay("log", "good", "--follow").out == run_replay("log", "good").out
    for how in ("json", "jsonl"):
        assert [line["version"] for line in run_replay("log", "bad", "--follow", "-o", how).lines] == [1, 2]


@pytest.fixture
def driven(process, flows, desk, until):
    """A run `r` that another process drives, in its node `gate` until a file `go` is there."""
    running = process("eventflow", "run", "flows:waiting", "--id", "r")
    until((desk / "began").exists, running)
    return running


@pytest.mark.parametrize("how", ["table", "json"])
def test_following_tells_what_another_process_does_as_it_happens(driven, process, run_eventflow, desk, how):
    """Events come one by one while the run is driven; it ends when the run does."""
    following = process("replay", "log", "r", "--follow", "-o", how)
    out = following.popen.stdout
    first = [out.readline() for _ in range(3 if how == "table" else 1)][-1]
    assert "RunStarted" in first
    run_eventflow("signal", "r", "hello")
    told = out.readline()
    assert "SignalReceived" in told
    assert "gate" in told
    (desk / "go").touch()
    ended = following.ended()
    assert (ended.code, ended.err) == (0, "")
    rest = ended.out.splitlines()
    assert [one for one in ("Transitioned", "RunCompleted") if one not in ended.out] == []
    assert len(rest) == 2
    assert driven.ended().code == 0
    if how == "json":
        assert [json.loads(line)["version"] for line in (first, told, *rest)] == [1, 2, 3, 4]


def test_following_narrows_by_type(driven, process, run_eventflow, desk):
    """Other types are left out, before and after."""
    following = process("replay", "log", "r", "--follow", "--type", "RunCompleted", "-o", "jsonl")
    run_eventflow("signal", "r", "hello")
    (desk / "go").touch()
    ended = following.ended()
    assert [line["type"] for line in ended.lines] == ["RunCompleted"]


def test_ctrl_c_is_how_following_ends(driven, process):
    """It is no error."""
    following = process("replay", "log", "r", "--follow", "-o", "jsonl")
    assert "RunStarted" in following.popen.stdout.readline()
    following.signal(signal.SIGINT)
    ended = following.ended()
    assert (ended.code, ended.err) == (0, "")


def test_following_ends_when_its_reader_goes_away(driven, process, run_eventflow):
    """`replay log --follow | head` ends with the next event."""
    following = process("replay", "log", "r", "--follow", "-o", "jsonl")
    following.popen.stdout.readline()
    following.popen.stdout.close()
    run_eventflow("signal", "r", "hello")
    assert following.popen.wait(20) == 0
    assert following.popen.stderr.read() == ""


def test_following_ends_when_the_run_is_deleted(process, run_eventflow, desk):
    """What is gone has no more events; a new run of that id is another run."""
    log = open_log(desk / STORE)
    author = Author(log)
    author.start("r")
    following = process("replay", "log", "r", "--follow", "-o", "jsonl")
    following.popen.stdout.readline()
    log.close()
    assert run_eventflow("delete", "r", "--yes").code == 0
    log = open_log(desk / STORE)
    Author(log, clock=author.clock).start("r")
    log.close()
    ended = following.ended()
    assert (ended.code, ended.out, ended.err) == (0, "", "")


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_gives_the_state_at_any_version(run_eventflow, run_replay, store):
    """Its document is in that of `eventflow show`, which tells more of what is around, at each point: number, time, prefix."""
    for version, data in ((1, {"n": 1}), (2, {"n": 2, "notes": ["plus"]}), (3, {"n": 2, "notes": ["plus", "second"]})):
        document = run_replay("show", f"good@{version}", "-o", "json").json
        shown = run_eventflow("show", f"good@{version}", "-o", "json").json
        assert document.items() <= shown.items()
        assert (document["schema"], document["version"], document["state"]) == ("eventflow.state/1", version, data)
    assert run_replay("show", "goo", "-o", "json").json["version"] == 3
    assert run_replay("show", "good@2100-01-01T10:00Z", "-o", "json").json["version"] == 3
    run_eventflow("checkpoints", "create", "good", "--at", "2")
    assert run_replay("show", "good@c-2", "-o", "jsonl").lines[0]["version"] == 2


def test_a_time_between_two_events_is_the_earlier_one(run_replay, desk):
    """The state at a moment is that of the last event at or before it, to the nanosecond."""
    log = open_log(desk / STORE)
    author = Author(log)
    head = author.start("r")
    author.add(author.add(head, Transitioned("a", "b")), Transitioned("b", "c"))
    log.close()
    times = [row["time"] for row in run_replay("log", "r", "-o", "json").json["rows"]]
    for version, time in enumerate(times, 1):
        assert run_replay("show", f"r@{time}", "-o", "json").json["version"] == version
        later = time.replace(".000Z", ".999999Z")
        assert run_replay("show", f"r@{later}", "-o", "json").json["version"] == version


def test_a_long_value_is_cut_by_how_much_it_says_and_shown_whole_when_asked(run_eventflow, run_replay, desk):
    """In both commands that show a state; fields stand by their names; JSON is never cut."""
    log = open_log(desk / "runs.eventflow")
    rows = [f"row {number}" for number in range(1_000)]
    Author(log).start("r", {"zz": 1, "a_list": rows, "text": "x" * 1_000, "b": 2})
    log.close()
    for run in (run_replay, run_eventflow):
        told = run("show", "r").out
        listed = [line.split()[0] for line in told.splitlines() if line.split()[0] in ("zz", "a_list", "text", "b")]
        assert listed == ["a_list", "b", "text", "zz"]
        assert max(map(len, told.splitlines())) < 350
        assert f"… (1,000 items, {len(json.dumps(rows)) - 240:,} characters more, whole with --full)" in told
        assert "x… (760 characters more, whole with --full)" in told
        whole = run("show", "r", "--full").out
        assert json.dumps(rows) in whole
        assert "x" * 1_000 in whole
        assert run("show", "r", "-o", "json").json["state"]["a_list"] == rows


def test_show_as_a_table_says_where_it_stands(run_replay, store):
    """The point, how far the run has come since, node, attempt, and an error if there is one."""
    lines = run_replay("show", "good@2").out.splitlines()
    assert lines[0] == "run good at version 2 of 3: running"
    assert lines[1].startswith("workflow steps, node second, attempt 1, ")
    assert lines[3].split() == ["n", "2"]
    assert "error: ValueError: it \\x1b[31mbroke\\x1b[0m" in run_replay("show", "bad").out


def test_show_tells_the_calls_of_a_node(run_replay, desk):
    """Each with its status and attempt: what a crash at this point would find."""
    log = open_log(desk / STORE)
    author = Author(log)
    head = author.add(author.start("r"), EffectStarted("pay", "1", "call", True, None, bytes(32), "k"))
    author.add(head, EffectFinished("pay", "1", 7))
    log.close()
    assert "call pay#1: started, attempt 1" in run_replay("show", "r@2").out
    assert "call pay#1: finished, attempt 1" in run_replay("show", "r@3").out


def test_a_version_before_a_fork_is_its_parent_s(run_replay, run_eventflow, store, desk):
    """A fork's address reaches back into what it continues; its log lists its own events."""

    async def fork() -> None:
        async with Engine(desk / STORE) as engine:
            await engine.fork("good@2", run_id="fork", change={"n": 9}, drive=False)

    asyncio.run(fork())
    assert run_replay("show", "fork@1", "-o", "json").json["state"] == {"n": 1}
    document = run_replay("show", "fork", "-o", "json").json
    assert (document["run"], document["parent"], document["state"]["n"]) == ("fork", "good@2", 9)
    rows = run_replay("log", "fork", "-o", "json").json["rows"]
    assert [(row["version"], row["node"]) for row in rows] == [(3, "second")]
    assert "from good@2: set n" in rows[0]["detail"]
    assert run_eventflow("list", "-o", "json").json["rows"][0]["parent"] == "good@2"


def test_none_of_the_user_s_code_is_needed(run_eventflow, process, store, desk):
    """With the file of workflows gone, log and show tell what they told before, at every version."""
    (desk / "flows.py").rename(desk / "flows.txt")
    for argv in (("log", "good"), ("show", "good@2"), ("show", "bad")):
        ended = process("replay", *argv, "-o", "json").ended()
        assert (ended.code, ended.err) == (0, "")
        assert ended.json


def test_what_a_log_holds_does_not_command_the_terminal(run_replay, desk):
    """Control and direction characters of every field are escapes, in every format."""
    log = open_log(desk / STORE)
    author = Author(log)
    head = author.start("r", {HOSTILE: [HOSTILE]}, node=HOSTILE, workflow=HOSTILE, tags=(HOSTILE,))
    head = author.add(head, EffectStarted(HOSTILE, HOSTILE, "call", True, None, bytes(32), "k"))
    head = author.add(head, EffectFinished(HOSTILE, HOSTILE, freeze({HOSTILE: HOSTILE})))
    author.add(head, Transitioned(HOSTILE, HOSTILE))
    log.close()
    for argv in (("log", "r"), ("log", "r", "--since", "9999h"), ("show", "r"), ("show", "r@3")):
        for how in ("table", "json", "jsonl"):
            ended = run_replay(*argv, "-o", how)
            assert ended.code == 0
            assert (ended.out + ended.err).replace("\n", "").isprintable()
