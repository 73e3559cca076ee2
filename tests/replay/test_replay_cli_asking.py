"""replay diff, watch, when, blame, search, stats and fork: what they print, and their exit codes."""

from __future__ import annotations

import asyncio
import json

import pytest

from eventflow import Engine, Map, Workflow
from eventflow.change import Op
from eventflow.event import EffectFinished, EffectStarted, RunCompleted, Transitioned
from eventflow.log import open_log
from eventflow.plain import freeze
from eventflow.testing.author import Author

HOSTILE = "x\x1b[2J\u202ey"


@pytest.fixture
def store(desk):
    """A store with the run `good`, which a model's answer went into, and its fork `other`."""
    log = open_log(desk / "runs.eventflow")
    author = Author(log)
    head = author.start("good", {"n": 1, "bytes": b"\0"})
    asked = freeze({"model": "m", "messages": [{"role": "user", "content": f"What {HOSTILE}?"}]})
    answer = freeze({"choices": [{"message": {"content": "That."}}]})
    head = author.add(
        head,
        EffectStarted("model", "1", "model", False, asked, bytes(32), "k"),
        EffectFinished("model", "1", answer, freeze({"input_tokens": 3, "output_tokens": 4})),
        Transitioned("a", "b", change=(Op("set", ("answer",), "That."), Op("add", ("n",), 1))),
    )
    fork = author.fork(head, 4, "other", change=(Op("set", ("n",), 9),))
    author.add(fork, RunCompleted("b"), status="completed")
    author.add(head, RunCompleted("b", (Op("set", ("odd",), HOSTILE),)), status="completed")
    log.close()
    return desk


# --- diff ----------------------------------------------------------------------------------------------------------


def test_points_that_differ_end_with_4_and_those_that_do_not_with_0(run_replay, store):
    """In every form of output."""
    for how in ("table", "json", "jsonl"):
        assert run_replay("diff", "good@1", "good@4", "-o", how).code == 4
        assert run_replay("diff", "good", "other", "-o", how).code == 4
        assert run_replay("diff", "good@2", "good@3", "-o", how).code == 0
    assert run_replay("diff", "good@2", "good@3").out == "good@2 and good@3 are the same\n"


def test_a_difference_of_states_as_json_is_a_patch(run_replay, store):
    """RFC 6902, beside where the run stands."""
    document = run_replay("diff", "good@1", "good@4", "-o", "json").json
    assert document == {
        "schema": "eventflow.diff/1", "one": "good@1", "other": "good@4", "same": False, "shared": 1, "divergences": [],
        "standing": {"node": {"one": "a", "other": "b"}},
        "patch": [{"op": "replace", "path": "/n", "value": 2}, {"op": "add", "path": "/answer", "value": "That."}],
    }  # fmt: skip


def test_a_difference_of_runs_tells_the_first_first(run_replay, store):
    """With the version of each run, null where it has none, and no value where there is none."""
    document = run_replay("diff", "good", "other", "-o", "json").json
    assert document["shared"] == 4
    assert document["divergences"] == [
        {
            "kind": "state",
            "what": "n",
            "node": "b",
            "one": {"version": None, "value": 2},
            "other": {"version": 5, "value": 9},
        },
        {"kind": "state", "what": "odd", "node": "b", "one": {"version": 5, "value": HOSTILE}, "other": {"version": 6}},
    ]
    rows = run_replay("diff", "good", "other", "-o", "jsonl").lines
    assert [row["row"] for row in rows] == ["divergence", "divergence", "patch", "patch"]
    assert all(row["schema"] == "eventflow.diff/1" for row in rows)


def test_a_difference_as_tables(run_replay, store):
    """First where the histories part, then what differs between the states."""
    lines = run_replay("diff", "good", "other").out.splitlines()
    assert lines[0] == "good@5 and other@6 share their history to version 4, then part; the first difference first"
    assert lines[2].split() == ["state", "n", "b", "-", "/", "5", "2", "9"]
    assert lines[4] == "the states of good@5 and other@6 differ"
    assert lines[6].split() == ["replace", "n", "2", "9"]
    assert lines[7].split() == ["remove", "odd", '"x\\u001b[2J\\u202ey"', "-"]


# --- watch, when, blame --------------------------------------------------------------------------------------------


def test_watch_lists_changes(run_replay, store):
    """As a table, and as JSON with the value."""
    rows = run_replay("watch", "other", "n", "-o", "json").json
    assert (rows["schema"], [(row["version"], row["value"]) for row in rows["rows"]]) == (
        "eventflow.watch/1", [(1, 1), (4, 2), (5, 9)],
    )  # fmt: skip
    assert list(rows["rows"][0]) == ["version", "time", "node", "event", "value"]
    lines = run_replay("watch", "other@4", "n").out.splitlines()
    assert lines[0] == "n of run other@4"
    assert [(line.split()[0], line.split()[-1]) for line in lines[2:]] == [("1", "1"), ("4", "2")]


def test_when_tells_stretches_and_ends_with_4_if_there_are_none(run_replay, store):
    """The first version stands apart in JSON."""
    document = run_replay("when", "other", "n > 1 and 'Th' in answer", "-o", "json").json
    assert (document["schema"], document["first"]) == ("eventflow.when/1", 4)
    assert [(row["first"], row["last"], row["event"]) for row in document["rows"]] == [(4, 6, "Transitioned")]
    never = run_replay("when", "good", "n > 100", "-o", "json")
    assert (never.code, never.json["first"], never.json["rows"]) == (4, None, [])
    never = run_replay("when", "good", "n > 100")
    assert (never.code, never.out) == (4, "run good@5: n > 100 never holds\n")
    assert run_replay("when", "good", "n > 100", "-o", "jsonl").code == 4


def test_blame_names_a_call_its_attempt_and_what_it_was_given(run_replay, desk):
    """Of any kind; where no result is seen in the value, the calls that there were."""
    log = open_log(desk / "runs.eventflow")
    author = Author(log)
    begun = [
        EffectStarted("fetch", "oslo", "call", False, freeze({"args": ["Oslo"]}), bytes(32), "k", n) for n in (1, 2)
    ]
    end = Transitioned("a", "b", change=(Op("set", ("x",), "14 degrees"), Op("set", ("y",), 3)))
    author.add(author.start("r"), *begun, EffectFinished("fetch", "oslo", "14 degrees"), end)
    log.close()
    call = run_replay("blame", "r", "x", "-o", "json").json["call"]
    assert (call["name"], call["key"], call["kind"], call["attempt"], call["sign"]) == (
        "fetch",
        "oslo",
        "call",
        2,
        "same",
    )
    lines = run_replay("blame", "r", "x").out.splitlines()
    assert lines[2:] == [
        "call fetch (key oslo), attempt 2, versions 3 to 4: its result is the value",
        '  input: {"args": ["Oslo"]}',
        '  result: "14 degrees"',
    ]
    unsure = run_replay("blame", "r", "y")
    assert unsure.out.splitlines()[2:] == ["no result of that visit's calls is seen in it: fetch (key oslo)"]
    document = run_replay("blame", "r", "y", "-o", "json").json
    assert (document["call"], [one["key"] for one in document["calls"]]) == (None, ["oslo"])


def test_blame_names_the_event_the_call_and_the_prompt(run_replay, store):
    """In JSON with the whole input and output of the call."""
    document = run_replay("blame", "good", "answer", "-o", "json").json
    assert (document["schema"], document["run"], document["version"]) == ("eventflow.blame/1", "good", 4)
    assert (document["node"], document["event"], document["value"]) == ("a", "Transitioned", "That.")
    assert (document["call"]["started"], document["call"]["finished"], document["call"]["quoted"]) == (2, 3, True)
    assert document["call"]["input"]["messages"][0]["content"] == f"What {HOSTILE}?"
    out = run_replay("blame", "good", "answer").out
    assert "written by Transitioned at version 4 of run good, in node a" in out
    assert 'user: "What x' in out
    assert run_replay("blame", "good", "n", "-o", "jsonl").lines[0]["call"]["key"] == "1"
    assert run_replay("blame", "other", "n", "-o", "json").json["call"] is None


def test_what_histories_say_is_made_visible(run_replay, store):
    """No control or direction character from a log reaches the terminal."""
    for argv in (
        ["diff", "good@1", "good"],
        ["watch", "good", "odd"],
        ["blame", "good", "answer"],
        ["search", "good", "what"],
    ):
        for how in ("table", "json", "jsonl"):
            out = run_replay(*argv, "-o", how).out
            assert not {"\x1b", "\u202e"} & set(out)
            assert out


# --- search and stats ----------------------------------------------------------------------------------------------


def test_search_finds_in_one_run_or_in_all(run_replay, store):
    """And ends with 4 if there is nothing."""
    document = run_replay("search", "other", "that", "-o", "json").json
    assert document["schema"] == "eventflow.search/1"
    assert [(row["run"], row["version"], row["where"]) for row in document["rows"]] == [
        ("good", 3, "output.choices[0].message.content"), ("good", 4, "change.answer"),
    ]  # fmt: skip
    rows = run_replay("search", "--all", "that", "-o", "jsonl").lines
    assert [(row["run"], row["version"], row["on_line"]) for row in rows] == [("good", 3, True), ("good", 4, True)]
    assert "change.answer" in run_replay("search", "good", "THAT").out
    nothing = run_replay("search", "--all", "absent")
    assert (nothing.code, nothing.out) == (4, "'absent' is nowhere in what was recorded\n")


def test_stats_add_up_a_run(run_replay, store):
    """A row a node, and the sums above."""
    document = run_replay("stats", "good", "-o", "json").json
    assert (document["schema"], document["events"], document["time_ms"], document["idle_ms"]) == (
        "eventflow.stats/1", 5, 4000.0, 0.0,
    )  # fmt: skip
    assert document["rows"][0] == {
        "node": "a", "visits": 1, "attempts": 1, "calls": 1, "failed_calls": 0, "input_tokens": 3, "output_tokens": 4,
        "time_ms": 1000.0, "models": ["m"],
    }  # fmt: skip
    assert run_replay("stats", "good").out.splitlines()[0] == (
        "run good@5: 5 events in 4.0 s, 0.0 ms of it driven by nobody"
    )  # fmt: skip
    assert [row["node"] for row in run_replay("stats", "good", "-o", "jsonl").lines] == ["a", "b"]


# --- fork ----------------------------------------------------------------------------------------------------------


def test_a_fork_is_recorded_and_its_family_shown(run_replay, store):
    """With values set as JSON; who did it and why is in the log."""
    ended = run_replay(
        "fork", "other@5", "--set", "n=10", "--set", 'extra={"k": [1]}', "--set", "extra.k[0]=2", "--id", "new"
    )
    assert ended.out.splitlines() == [
        "run new continues other@5; `eventflow resume new` drives it",
        "good",
        "└─ other from version 4",
        "   └─ new from version 5 (new)",
    ]
    state = run_replay("show", "new", "-o", "json").json
    assert state["state"] == {"n": 10, "extra": {"k": [2]}, "bytes": {"base64": "AA=="}, "answer": "That."}
    assert (state["parent"], state["version"]) == ("other@5", 6)


def test_a_fork_as_json(run_replay, store):
    """Its id is a fresh one if none is given."""
    document = run_replay("fork", "good@1", "--why", "what if", "-o", "json").json
    assert list(document) == ["schema", "run", "version", "parent", "what_if", "lineage"]
    assert (document["schema"], document["version"], document["parent"]) == ("eventflow.fork/1", 2, "good@1")
    assert document["lineage"][:2] == [
        {"run": "good", "at": None, "depth": 0, "what_if": False},
        {"run": document["run"], "at": 1, "depth": 1, "what_if": False},
    ]  # fmt: skip
    assert "what if" in run_replay("log", document["run"]).out


def test_a_fork_can_be_driven(run_eventflow, run_replay, flows, desk):
    """By eventflow, as any other run: nothing else is recorded than what an engine would have."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    assert run_replay("fork", "r@2", "--set", "n=7", "--id", "f").code == 0
    ended = run_eventflow("resume", "f", "--flow", "flows:flow", "-o", "json")
    assert (ended.code, ended.json["status"], ended.json["state"]["n"]) == (0, "completed", 7)
    assert run_eventflow("store", "verify").code == 0
    assert json.loads(run_replay("diff", "r", "f", "-o", "json").out)["divergences"][0]["what"] == "n"


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["diff", "good", "nobody"], 3, "no run 'nobody'"),
        (["diff", "good", "good@9"], 3, "its versions go from 1 to 5"),
        (["watch", "good", "absent"], 3, "never had a value at 'absent'"),
        (["watch", "good", "a..b"], 2, "is not a path"),
        (["blame", "good", "absent.x"], 3, "has no value at 'absent.x'"),
        (["when", "good", "n = 1"], 2, "is not an expression"),
        (["when", "good", "open('x')"], 2, "can't stand in an expression"),
        (["search", "good"], 2, "give a run and a text"),
        (["search", "good", "x", "--all"], 2, "give a run and a text"),
        (["search", "good", ""], 2, "an empty text"),
        (["stats", "nobody"], 3, "no run 'nobody'"),
        (["fork", "goo@2"], 3, "no run 'goo'"),
        (["fork", "good@5"], 5, "version 5 is the run's end"),
        (["fork", "good@1", "--id", "other"], 5, "other"),
        (["fork", "good@1", "--id", "a b"], 2, "can't be a run id"),
        (["fork", "good@1", "--set", "n"], 2, "sets nothing"),
        (["fork", "good@1", "--set", "n=moons"], 2, "is not JSON"),
        (["fork", "good@1", "--set", "n.x=1"], 2, "nothing can be set at n.x"),
    ],
)
def test_what_is_not_there_or_means_nothing_is_refused(run_replay, store, argv, code, said):
    """One sentence each, and nothing is written."""
    before = run_replay("log", "good", "-o", "json").out
    ended = run_replay(*argv)
    assert ended.code == code
    assert said in ended.sentence
    assert run_replay("log", "good", "-o", "json").out == before


@pytest.mark.parametrize(
    "argv",
    [
        ["diff", "good", "other"],
        ["watch", "good", "n"],
        ["when", "good", "n"],
        ["blame", "good", "n"],
        ["stats", "good"],
    ],
)
def test_asking_writes_nothing(run_replay, store, argv):
    """The store is byte for byte what it was."""
    file = max((store / "runs.eventflow").rglob("*"), key=lambda path: path.stat().st_size)
    before = file.read_bytes()
    run_replay(*argv)
    assert file.read_bytes() == before


def test_calls_of_branches_are_told_apart_where_none_is_seen_in_the_value(run_replay, desk):
    """By the branches they were made in: their names and keys are the same."""

    def fetch(item, run):
        run.effect_sync("fetch", lambda: "kept", mutating=False)
        return item * 2

    async def work() -> None:
        flow = Workflow("w").add_node("each", Map(fetch, over="items", writes="out")).set_start("each")
        async with Engine(desk / "runs.eventflow") as engine:
            await (await engine.start(flow, {"items": [1, 2]}, run_id="r")).result()

    asyncio.run(work())
    last = run_replay("blame", "r", "out").out.splitlines()[-1]
    assert last.startswith("no result of that visit's calls is seen in it: ")
    assert "fetch (key 1, branch 0)" in last
    assert "fetch (key 1, branch 1)" in last
