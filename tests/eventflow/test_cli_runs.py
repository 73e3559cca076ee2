"""run, list, show, resume, signal, pause, cancel, delete: what they say and what they do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventflow import Engine, Workflow
from eventflow.log import open_log
from eventflow.testing.author import Author

STATE_KEYS = [
    "schema", "run", "workflow", "version", "status", "waiting_for", "node", "attempt", "time", "state", "error", "usage",
    "signals", "wait", "parent", "what_if", "digest",
]  # fmt: skip
AROUND_KEYS = [
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
    "progress",
]
ROW_KEYS = [
    "run", "workflow", "status", "waiting_for", "driven", "version", "tags", "started", "updated", "parent",
]  # fmt: skip
INPUT = '{"n": 1}'


@pytest.fixture
def three(run_eventflow, flows):
    """A store with a run that completed, one that failed and one with tags."""
    run_eventflow("run", "flows:flow", "--id", "good", "--input", INPUT)
    run_eventflow("run", "flows:failing", "--id", "bad")
    run_eventflow(
        "run", "flows:flow", "--id", "tagged", "--input", INPUT, "--tag", "a", "--tag", "b", "--subject", "me"
    )
    return flows


# --- run -----------------------------------------------------------------------------------------------------------


def test_a_run_goes_to_its_end(run_eventflow, flows):
    """A completed run prints its state as a table, nothing on stderr, and gives exit code 0."""
    ended = run_eventflow("run", "flows:flow", "--id", "r", "--input", INPUT)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == "run r: completed at version 3, node second"
    assert [line.split() for line in ended.out.splitlines()[1:]] == [
        ["field", "value"],
        ["n", "2"],
        ["notes", '["plus",', '"second"]'],
    ]


def test_a_run_as_json_has_these_fields_and_no_others(run_eventflow, flows):
    """The state's document is stable: these keys, in this order, under this schema."""
    ended = run_eventflow("run", "flows:flow", "--id", "r", "--input", INPUT, "-o", "json")
    assert ended.code == 0
    document = ended.json
    assert list(document) == STATE_KEYS
    assert document["schema"] == "eventflow.state/1"
    assert document["state"] == {"n": 2, "notes": ["plus", "second"]}
    assert (document["run"], document["workflow"], document["node"]) == ("r", "steps", "second")
    assert (document["version"], document["status"], document["waiting_for"]) == (3, "completed", None)
    assert (document["error"], document["parent"], document["signals"], document["usage"]) == (None, None, [], {})
    assert len(bytes.fromhex(document["digest"])) == 32


def test_a_run_as_json_lines_is_one_line(run_eventflow, flows):
    """`-o jsonl` prints the same document on a single line."""
    one = run_eventflow("run", "flows:flow", "--id", "r", "--input", INPUT, "-o", "jsonl")
    (line,) = one.lines
    shown = run_eventflow("show", "r", "-o", "json").json
    assert line == {name: shown[name] for name in STATE_KEYS}
    assert list(shown) == [*STATE_KEYS, *AROUND_KEYS]


def test_the_same_id_again_gives_the_result(run_eventflow, three):
    """A finished run is not run again; its state is printed as it was."""
    before = run_eventflow("show", "good", "-o", "json").json
    ended = run_eventflow("run", "flows:flow", "--id", "good", "--input", INPUT, "-o", "json")
    assert ended.code == 0
    assert ended.json == {name: before[name] for name in STATE_KEYS}


@pytest.mark.parametrize(
    ("flow", "given", "said"),
    [("flows:flow", '{"n": 2}', "exists with another input"), ("flows:failing", "{}", "exists with workflow 'steps'")],
)
def test_the_same_id_for_something_else_is_a_conflict(run_eventflow, three, flow, given, said):
    """Another input or another workflow under a known id is refused with exit code 5."""
    ended = run_eventflow("run", flow, "--id", "good", "--input", given)
    assert ended.code == 5
    assert said in ended.sentence


def test_a_run_without_an_id_gets_one_that_sorts_by_time(run_eventflow, flows):
    """Two runs without an id have two, the later one the greater."""
    ids = [run_eventflow("run", "flows:make", "-o", "json").json["run"] for _ in range(2)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("name", ["", "../x", "-x", "a b", "a/b", "ü", "a..b", "x" * 129])
def test_an_id_that_cant_be_one_is_refused(run_eventflow, flows, name):
    """It is told what an id may be, with exit code 2, and nothing is started."""
    ended = run_eventflow("run", "flows:make", f"--id={name}")
    assert ended.code == 2
    assert "can't be a run id" in ended.sentence
    assert run_eventflow("list", "-o", "json").json["rows"] == []


def test_input_that_does_not_fit_is_the_caller_s_mistake(run_eventflow, flows):
    """What the declared state refuses is told with its field and exit code 2; no run is started, no store made."""
    for given, said in (
        ('{"zzz": 1}', "zzz"), ('{"n": "many"}', "n"), ("[1]", "must be a dict"), ('{"n": 100000000000000000000}', "64 bits"),
    ):  # fmt: skip
        ended = run_eventflow("run", "flows:flow", "--id", "r", "--input", given)
        assert ended.code == 2
        assert said in ended.sentence
    assert not Path("runs.eventflow").exists()


def test_input_comes_from_a_file_and_from_stdin(process, run_eventflow, flows, desk):
    """`@FILE` and `@-` give the run the same input as JSON on the command line."""
    (desk / "in.json").write_text(INPUT)
    assert run_eventflow("run", "flows:flow", "--id", "f", "--input", "@in.json", "-o", "json").json["state"]["n"] == 2
    with (desk / "in.json").open() as given:
        ended = process("eventflow", "run", "flows:flow", "--id", "s", "--input", "@-", stdin=given).ended()
    assert ended.code == 0
    assert run_eventflow("show", "s", "-o", "json").json["state"]["n"] == 2


def test_a_run_is_found_by_what_it_was_given(run_eventflow, three):
    """Tags and workflow select it in a list."""
    for option in (("--tag", "a"), ("--tag", "b"), ("--workflow", "steps", "--tag", "b")):
        rows = run_eventflow("list", *option, "-o", "json").json["rows"]
        assert [row["run"] for row in rows] == ["tagged"]
        assert rows[0]["tags"] == ["a", "b"]


def test_checkpoint_options_make_checkpoints(run_eventflow, flows):
    """--after-node, --every and --keep do what the policy's options of the same names do."""
    run_eventflow("run", "flows:flow", "--id", "a", "--input", INPUT, "--after-node")
    run_eventflow("run", "flows:flow", "--id", "b", "--input", INPUT, "--every", "1")
    run_eventflow("run", "flows:flow", "--id", "c", "--input", INPUT, "--every", "1", "--keep", "1")
    kinds = {
        run: [row["kinds"] for row in run_eventflow("checkpoints", "list", run, "-o", "json").json["rows"]]
        for run in "abc"
    }
    assert kinds["a"] == [["after_node"]] * 2
    assert kinds["b"][0] == ["every"]
    assert kinds["c"] == [["every"]]


@pytest.mark.parametrize(
    ("option", "value"), [("--every", "0"), ("--keep", "0"), ("--interval", "0"), ("--interval", "nan")]
)
def test_a_checkpoint_option_that_means_nothing_is_refused(run_eventflow, flows, option, value):
    """A policy that can't be is an error of the command line."""
    ended = run_eventflow("run", "flows:make", option, value)
    assert ended.code == 2
    assert option.removeprefix("--") in ended.sentence


def test_verbose_tells_each_event_on_stderr(run_eventflow, flows):
    """A line for each event goes to stderr, and stdout stays what it was."""
    ended = run_eventflow("run", "flows:flow", "--id", "r", "--input", INPUT, "-v", "-o", "json")
    assert ended.json["status"] == "completed"
    told = [line.split("] ")[1].split()[0] for line in ended.err.splitlines()]
    assert told == ["run.started", "transition.committed", "run.completed"]


# --- list ----------------------------------------------------------------------------------------------------------


def test_a_list_has_these_fields_and_no_others(run_eventflow, three):
    """The list's document is stable, newest run first."""
    document = run_eventflow("list", "-o", "json").json
    assert list(document) == ["schema", "rows"]
    assert document["schema"] == "eventflow.runs/1"
    assert [row["run"] for row in document["rows"]] == ["tagged", "bad", "good"]
    assert all(list(row) == ROW_KEYS for row in document["rows"])


def test_a_list_as_json_lines_carries_its_schema_in_each(run_eventflow, three):
    """Each line stands for itself."""
    lines = run_eventflow("list", "-o", "jsonl").lines
    assert [list(line) for line in lines] == [["schema", *ROW_KEYS]] * 3
    assert {line["schema"] for line in lines} == {"eventflow.runs/1"}


def test_a_list_as_a_table_has_a_row_a_run(run_eventflow, three):
    """The same runs in the same order."""
    lines = run_eventflow("list").out.splitlines()
    assert lines[0].split() == ["run", "workflow", "status", "driven", "version", "tags", "started", "updated"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["tagged", "steps", "completed"], ["bad", "failing", "failed"], ["good", "steps", "completed"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (["--status", "failed"], ["bad"]),
        (["--status", "waiting"], []),
        (["--workflow", "steps"], ["tagged", "good"]),
        (["--workflow", "nothing"], []),
        (["--tag", "a"], ["tagged"]),
        (["--status", "completed", "--tag", "zzz"], []),
        (["--since", "1h"], ["tagged", "bad", "good"]),
        (["--since", "2100-01-01"], []),
        (["--since", "2020-01-01T10:00Z"], ["tagged", "bad", "good"]),
        (["--limit", "1"], ["tagged"]),
        (["--limit", "99"], ["tagged", "bad", "good"]),
    ],
)
def test_a_list_holds_what_fits_all_that_is_asked(run_eventflow, three, options, runs):
    """Filters combine."""
    rows = run_eventflow("list", *options, "-o", "json").json["rows"]
    assert [row["run"] for row in rows] == runs


@pytest.mark.parametrize(
    "options",
    [["--status", "sleeping"], ["--since", "yesterday"], ["--since", ""], ["--limit", "0"], ["--limit", "-1"]],
)
def test_a_filter_that_means_nothing_is_refused(run_eventflow, three, options):
    """It is told what may be given, with exit code 2."""
    ended = run_eventflow("list", *options)
    assert ended.code == 2
    assert ended.sentence


def test_a_list_of_nothing_is_empty(run_eventflow, desk):
    """A new store has no runs, in all formats."""
    open_log(desk / "runs.eventflow").close()
    assert run_eventflow("list", "-o", "json").json == {"schema": "eventflow.runs/1", "rows": []}
    assert run_eventflow("list", "-o", "jsonl").out == ""
    assert run_eventflow("list").out.split()[0] == "run"


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_tells_where_a_run_stands(run_eventflow, three):
    """A prefix is enough; a failed run is shown with its error, on stdout, with exit code 0."""
    ended = run_eventflow("show", "b")
    assert (ended.code, ended.err) == (0, "")
    first, second = ended.out.splitlines()
    assert first == "run bad: failed at version 2, node only"
    assert second.startswith("error: ValueError: it \\x1b[31mbroke\\x1b[0m \\u202e here (flows.py:")


def test_show_goes_to_any_point(run_eventflow, three):
    """A version, a checkpoint or a time after the id is the state there."""
    rows = run_eventflow("list", "-o", "json").json["rows"]
    started = next(row["started"] for row in rows if row["run"] == "bad")
    for address, version in (("good@2", 2), ("good@c-3", 3), ("good@2100-01-01", 3), (f"good@{started}", 3)):
        if address == "good@c-3":
            run_eventflow("checkpoints", "create", "good")
        document = run_eventflow("show", address, "-o", "json").json
        assert (document["run"], document["version"]) == ("good", version)
    assert run_eventflow("show", "good@1", "-o", "json").json["state"] == {"n": 1}


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("nobody", 3, "no run 'nobody'"),
        ("", 3, "no run ''"),
        ("good@0", 3, "its versions go from 1 to 3"),
        ("good@4", 3, "its versions go from 1 to 3"),
        ("good@" + "9" * 5_000, 2, "is not a version"),
        ("good@²", 2, "is not a version"),
        ("good@c-9", 3, "checkpoint not found"),
        ("good@2001-01-01", 3, "had not begun"),
        ("good@soon", 2, "is not a version"),
        ("good@", 2, "is not a version"),
        ("g\x1b[31m", 3, "no run"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(run_eventflow, three, address, code, said):
    """What is not there is exit code 3, what means nothing 2."""
    ended = run_eventflow("show", address)
    assert ended.code == code
    assert said in ended.sentence


def test_a_prefix_of_several_names_them(run_eventflow, flows):
    """It is refused, with the ids it fits."""
    for name in ("aa", "ab", "a.b"):
        run_eventflow("run", "flows:make", "--id", name)
    ended = run_eventflow("show", "a")
    assert ended.code == 3
    assert "(a.b, aa, ab)" in ended.sentence
    assert run_eventflow("show", "aa").code == 0


def test_an_exact_id_wins_over_a_prefix(run_eventflow, flows):
    """`a` is the run of that id although `ab` begins with it too."""
    for name in ("a", "ab"):
        run_eventflow("run", "flows:make", "--id", name)
    assert run_eventflow("show", "a", "-o", "json").json["run"] == "a"


def test_a_long_value_is_cut_in_a_table_and_whole_in_json(run_eventflow, desk):
    """A table says that it was cut, how long it is, and where the whole is."""
    (desk / "f.py").write_text(
        "from eventflow import Workflow\n"
        "flow = Workflow('f').add_node('a', lambda s: {'t': 'x' * 5000, 'b': b'\\xff', 'n': float('nan')}).set_start('a')\n"
    )
    table = run_eventflow("run", "f.py:flow", "--id", "r").out
    assert f"{'x' * 240}… (4,760 characters more, whole with -o json)" in table
    assert "x" * 241 not in table
    state = run_eventflow("show", "r", "-o", "json").json["state"]
    assert state == {"b": {"base64": "/w=="}, "n": {"float": "nan"}, "t": "x" * 5000}


def test_what_a_run_holds_does_not_command_the_terminal(run_eventflow, desk):
    """Control and direction characters of state, fields and node names are escapes in every output."""
    (desk / "f.py").write_text(
        "from eventflow import Workflow\n"
        "bad = 'x\\x1b[2J\\u202e\\x9b'\n"
        "flow = Workflow(bad).add_node(bad, lambda s: {bad: bad, 'l': [bad]}).set_start(bad)\n"
    )
    outputs = [run_eventflow("run", "f.py:flow", "--id", "r"), run_eventflow("check", "f.py:flow")]
    for how in ("table", "json", "jsonl"):
        outputs += [run_eventflow(*argv, "-o", how) for argv in (("show", "r"), ("list",), ("check", "f.py:flow"))]
    outputs.append(run_eventflow("run", "f.py:flow", "--id", "v", "-v"))
    for ended in outputs:
        assert ended.code == 0
        assert (ended.out + ended.err).replace("\n", "").isprintable()


# --- resume --------------------------------------------------------------------------------------------------------


def test_a_failed_run_goes_on_once_its_cause_is_mended(run_eventflow, three, desk):
    """The sentence of its failure gives the command that takes it up again, and that command works."""
    ended = run_eventflow("run", "flows:failing", "--id", "worse")
    assert ended.code == 1
    assert ended.sentence == (
        "eventflow: run worse failed in node 'only': ValueError: it \\x1b[31mbroke\\x1b[0m \\u202e here (flows.py:36 in fails); "
        "mend the cause, then `eventflow resume worse --flow flows:failing`"
    )
    again = ended.sentence.split("`")[1].split()[1:]
    assert run_eventflow(*again).code == 1
    (desk / "mended").touch()
    ended = run_eventflow(*again, "-o", "json")
    assert ended.code == 0
    assert ended.json["state"] == {"mended": True}


def test_the_command_that_resumes_names_the_store_it_was_given(run_eventflow, flows):
    """A store from the command line is named again, quoted for a shell."""
    ended = run_eventflow("run", "flows:failing", "--id", "r", "--store", "a b")
    assert "`eventflow resume r --flow flows:failing --store 'a b'`" in ended.sentence


def test_resume_takes_workflows_from_the_settings(run_eventflow, three, desk):
    """What `workflows` lists may be driven without --flow."""
    (desk / "mended").touch()
    (desk / "eventflow.toml").write_text('workflows = ["flows:flow", "flows.py:failing"]\n')
    assert run_eventflow("resume", "bad").code == 0


def test_resume_needs_the_run_s_workflow(run_eventflow, three):
    """A name read from the store is never imported: the workflow must be given."""
    for options in ((), ("--flow", "flows:flow")):
        ended = run_eventflow("resume", "bad", *options)
        assert ended.code == 2
        assert "--flow MODULE:FLOW" in ended.sentence


def test_resume_goes_back_to_a_version_or_checkpoint(run_eventflow, three):
    """--at rewinds: later versions follow the old ones, which stay."""
    ended = run_eventflow("resume", "good", "--at", "1", "--flow", "flows:flow", "-o", "json")
    assert ended.code == 0
    assert (ended.json["version"], ended.json["state"]["n"]) == (6, 2)
    run_eventflow("checkpoints", "create", "good", "--at", "2")
    ended = run_eventflow("resume", "good", "--at", "c-2", "--flow", "flows:flow", "-o", "json")
    assert (ended.code, ended.json["version"]) == (0, 8)
    assert run_eventflow("show", "good@3", "-o", "json").json["status"] == "completed"
    assert run_eventflow("store", "verify").code == 0


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["nobody"], 3, "no run 'nobody'"),
        (["goo"], 3, "no run 'goo'"),
        (["good", "--at", "c-9"], 3, "checkpoint not found"),
        (["good", "--at", "9"], 3, "no version 9"),
        (["good", "--at", "3"], 5, "is the run's end"),
        (["good", "--at", "when"], 2, "is not a version"),
    ],
)
def test_resume_of_what_is_not_there_is_refused(run_eventflow, three, argv, code, said):
    """Run, checkpoint or version: each by its own sentence; a prefix is not enough to change a run."""
    ended = run_eventflow("resume", *argv, "--flow", "flows:flow")
    assert ended.code == code
    assert said in ended.sentence


def test_resume_makes_no_store(run_eventflow, flows, desk):
    """What is resumed must be there already."""
    for argv in (("resume", "r"), ("signal", "r", "s"), ("pause", "r"), ("cancel", "r"), ("delete", "r", "--yes")):
        ended = run_eventflow(*argv)
        assert ended.code == 3
        assert "no store at" in ended.sentence
    assert not (desk / "runs.eventflow").exists()


def _other(desk: Path, nodes: str) -> None:
    (desk / "other.py").write_text(f"from eventflow import Workflow\nflow = Workflow('failing'){nodes}\n")


def test_a_node_that_is_gone_is_told_with_the_difference(run_eventflow, three, desk):
    """The guide's name, what was removed and added, what to do, and exit code 3; the run is left as it was."""
    _other(desk, ".add_node('new', lambda s: {}).set_start('new')")
    ended = run_eventflow("resume", "bad", "--flow", "other.py:flow")
    assert ended.code == 3
    assert "node not found during resume: run bad stands on 'only'" in ended.sentence
    assert "nodes removed: only; nodes added: new" in ended.sentence
    assert run_eventflow("show", "bad", "-o", "json").json["version"] == 2


def test_a_definition_that_changed_elsewhere_is_fine_unless_strict(run_eventflow, three, desk):
    """Resume is compatible by default; --strict refuses with the difference and exit code 5."""
    _other(
        desk,
        ".add_node('only', lambda s: {'x': 1}).add_node('b', lambda s: {}).add_edge('only', 'b').set_start('only')",
    )
    ended = run_eventflow("resume", "bad", "--flow", "other.py:flow", "--strict")
    assert ended.code == 5
    assert "nodes added: b" in ended.sentence
    assert run_eventflow("resume", "bad", "--flow", "other.py:flow").code == 0
    assert run_eventflow("store", "verify").code == 0


def test_what_can_t_be_taken_back_is_asked_for(run_eventflow, desk):
    """Rewinding over a finished call that changed something needs --yes."""
    (desk / "f.py").write_text(
        "from eventflow import Workflow\n"
        "async def pay(state, run):\n"
        "    return {'paid': await run.effect('pay', lambda: 7)}\n"
        "flow = Workflow('f').add_node('pay', pay).set_start('pay')\n"
    )
    run_eventflow("run", "f.py:flow", "--id", "r")
    ended = run_eventflow("resume", "r", "--at", "1", "--flow", "f.py:flow")
    assert ended.code == 2
    assert "(pay)" in ended.sentence
    assert "--yes" in ended.sentence
    assert run_eventflow("resume", "r", "--at", "1", "--flow", "f.py:flow", "--yes").code == 0


# --- messages ------------------------------------------------------------------------------------------------------


def _left_waiting(desk: Path) -> None:
    """A run `r` that was let go in its first node."""

    async def work() -> None:
        flow = Workflow("waiting").add_node("gate", lambda s: {}).add_node("after", lambda s: {})
        flow.add_edge("gate", "after").set_start("gate")
        async with Engine(desk / "runs.eventflow", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await engine.drain()
            await run.wait()

    asyncio.run(work())


def test_messages_to_a_run_that_nobody_drives_are_taken_at_once(run_eventflow, desk):
    """A signal, a pause and a cancellation become events of the run, each acknowledged by its number."""
    _left_waiting(desk)
    ended = run_eventflow("signal", "r", "hello", '{"a": [1]}', "-o", "json")
    assert ended.code == 0
    assert ended.json == {"schema": "eventflow.message/1", "run": "r", "message": 1}
    assert run_eventflow("show", "r", "-o", "json").json["signals"] == [
        {"name": "hello", "message": 1, "payload": {"a": [1]}}
    ]
    assert run_eventflow("pause", "r", "--why", "lunch").out == "run r: asked to pause, message 2\n"
    assert run_eventflow("show", "r", "-o", "json").json["status"] == "paused"
    assert run_eventflow("cancel", "r", "--why", "over").out == "run r: asked to end, message 3\n"
    assert run_eventflow("show", "r", "-o", "json").json["status"] == "cancelled"
    assert run_eventflow("store", "verify").code == 0


def test_a_run_that_was_cancelled_is_told_so(run_eventflow, flows, desk):
    """It failed to complete: exit code 1, and the sentence says how to go back to before."""
    _left_waiting(desk)
    run_eventflow("cancel", "r")
    ended = run_eventflow("run", "flows:waiting", "--id", "r")
    assert ended.code == 1
    assert "was cancelled" in ended.sentence
    assert "--at VERSION`" in ended.sentence
    ended = run_eventflow("resume", "r", "--flow", "flows:waiting")
    assert ended.code == 5
    assert "cancelled" in ended.sentence


@pytest.mark.parametrize(
    "argv", [["signal", "good", "x"], ["pause", "good"], ["cancel", "good"], ["pause", "bad"], ["cancel", "bad"]]
)
def test_a_message_that_nobody_will_read_is_refused(run_eventflow, three, argv):
    """A run that has ended takes no more messages: a conflict, and nothing is put into its inbox."""
    before = run_eventflow("store", "info", "-o", "json").json["rows"]
    ended = run_eventflow(*argv)
    assert ended.code == 5
    assert ended.sentence
    assert run_eventflow("store", "info", "-o", "json").json["rows"] == before


def test_a_failed_run_keeps_signals_for_later(run_eventflow, three, desk):
    """It can be taken up again, and gets them then."""
    assert run_eventflow("signal", "bad", "late", "1").code == 0
    (desk / "mended").touch()
    document = run_eventflow("resume", "bad", "--flow", "flows:failing", "-o", "json").json
    assert [one["name"] for one in document["signals"]] == ["late"]


def test_a_payload_must_be_plain_data(run_eventflow, three):
    """What is not JSON, or not plain data, is not sent."""
    for payload in ("nope", "@nowhere", str(2**70)):
        assert run_eventflow("signal", "bad", "s", payload).code == 2


# --- delete --------------------------------------------------------------------------------------------------------


def test_deleting_asks_or_takes_yes(run_eventflow, three):
    """Without --yes, and with nobody to ask, nothing is deleted."""
    ended = run_eventflow("delete", "good")
    assert ended.code == 2
    assert "--yes" in ended.sentence
    assert run_eventflow("show", "good").code == 0
    assert run_eventflow("delete", "good", "--yes").out == "run good deleted\n"
    assert run_eventflow("show", "good").code == 3
    assert run_eventflow("delete", "good", "--yes").code == 3
    assert run_eventflow("store", "verify").code == 0


def test_a_no_deletes_nothing(run_eventflow, three, monkeypatch):
    """Who is asked and says no keeps the run, and is told so."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    ended = run_eventflow("delete", "good")
    assert ended.code == 0
    assert ended.out == "run good stays, with its history up to version 3\n"
    assert run_eventflow("show", "good").code == 0


def test_a_dry_run_changes_nothing(run_eventflow, three, desk):
    """It says what would go, in every format, and leaves each byte where it is."""
    before = _content(desk / "runs.eventflow")
    assert run_eventflow("delete", "good", "--dry-run").out.startswith("run good would go")
    document = run_eventflow("delete", "good", "--dry-run", "-o", "json").json
    assert document == {"schema": "eventflow.deletion/1", "run": "good", "version": 3, "deleted": False}
    assert _content(desk / "runs.eventflow") == before
    assert run_eventflow("delete", "good", "--yes", "-o", "jsonl").lines == [{**document, "deleted": True}]


def _content(store: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name not in ("lock.mdb", "gate")
    }


def test_a_deleted_id_can_be_used_anew(run_eventflow, three):
    """The new run has nothing of the old one, and the store still verifies."""
    run_eventflow("delete", "bad", "--yes")
    ended = run_eventflow("run", "flows:flow", "--id", "bad", "--input", '{"n": 5}', "-o", "json")
    assert ended.json["state"]["n"] == 6
    assert run_eventflow("store", "verify").code == 0


def test_a_run_that_others_continue_is_kept(run_eventflow, three, desk):
    """Deleting a run before its forks is a conflict."""
    with_fork = Engine(desk / "runs.eventflow")

    async def fork() -> None:
        async with with_fork as engine:
            await engine.fork("good@2", run_id="fork", drive=False)

    asyncio.run(fork())
    assert run_eventflow("delete", "good", "--yes").code == 5
    assert run_eventflow("delete", "fork", "--yes").code == 0
    assert run_eventflow("delete", "good", "--yes").code == 0


def test_ids_from_a_store_made_by_others_are_shown_as_escapes(run_eventflow, run_replay, desk):
    """A store can hold an id that this program would refuse; showing it must not command the terminal."""
    log = open_log(desk / "runs.eventflow")
    Author(log).start("odd\x1b[2J\u202e")
    log.close()
    for how in ("table", "json", "jsonl"):
        for command in (run_eventflow, run_replay):
            ended = command("show", "od", "-o", how)
            assert ended.code == 0
            assert (ended.out + ended.err).replace("\n", "").isprintable()
    for ended in (run_replay("log", "od"), run_eventflow("list"), run_eventflow("checkpoints", "list", "od")):
        assert ended.out.replace("\n", "").isprintable()
