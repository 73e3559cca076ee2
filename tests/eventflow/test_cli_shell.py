"""What all commands share: settings, output, exit codes, and how an error is told."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import cli
from eventflow.checkpoint import CheckpointPolicy
from eventflow.cli import shell
from eventflow.cli.policy import NO_OPTIONS, policy_of, retention_of
from eventflow.cli.shell import (
    STOPPED,
    bytes_text,
    confirm,
    counted,
    json_argument,
    plain_json,
    print_json,
    print_table,
    progress,
    settings,
    short_time,
    store_path,
    time_text,
    visible,
)
from eventflow.cli.slips import elsewhere
from eventflow.errors import SettingsError
from eventflow.retention import RetentionPolicy

HOSTILE = "a\x1b[2J\x07\x9b31m\u202eb\u2066c\x00\x7f\u200bd\ue000\U000e0041"


# --- settings ------------------------------------------------------------------------------------------------------


def test_an_argument_comes_before_the_environment_before_files_before_the_default(desk, monkeypatch):
    """Each source of a setting gives way to the one before it."""
    assert store_path(None) == "runs.eventflow"
    (desk / "pyproject.toml").write_text('[tool.eventflow]\nstore = "from-pyproject"\n')
    assert store_path(None) == "from-pyproject"
    (desk / "eventflow.toml").write_text('store = "from-toml"\n')
    assert store_path(None) == "from-toml"
    monkeypatch.setenv("EVENTFLOW_STORE", "from-environment")
    assert store_path(None) == "from-environment"
    assert store_path("from-argument") == "from-argument"


def test_an_empty_setting_is_none(desk, monkeypatch):
    """An empty variable and an empty file are as good as none."""
    monkeypatch.setenv("EVENTFLOW_STORE", "")
    (desk / "eventflow.toml").write_text("")
    (desk / "pyproject.toml").write_text('[tool.eventflow]\nstore = "from-pyproject"\n')
    assert store_path(None) == "from-pyproject"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eventflow.toml", b"store = "),
        ("eventflow.toml", b'store = "\xff"'),
        ("pyproject.toml", b"[tool.eventflow"),
    ],
)
def test_a_settings_file_that_is_not_toml_is_named(desk, run_eventflow, name, content):
    """A broken file is told by its name, not taken for an empty one."""
    (desk / name).write_bytes(content)
    ended = run_eventflow("list")
    assert ended.code == 2
    assert ended.sentence.startswith(f"eventflow: {name} is not TOML")


@pytest.mark.parametrize("content", ["tool = 3", "[tool]\neventflow = 3", "[tool.other]\nstore = 'x'"])
def test_a_project_without_settings_has_none(desk, content):
    """A pyproject that says nothing about eventflow, in whatever form, is no error."""
    (desk / "pyproject.toml").write_text(content)
    assert settings() == {}


@pytest.mark.parametrize("value", ["3", '""', "[]", "true"])
def test_a_store_setting_that_is_no_path_is_refused(desk, run_eventflow, value):
    """What is set as the store must be a text."""
    (desk / "eventflow.toml").write_text(f"store = {value}\n")
    ended = run_eventflow("list")
    assert ended.code == 2
    assert "give the path of a directory" in ended.sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('stroe = "x"', "there is no setting `stroe` (did you mean `store`?)"),
        ('workflow = ["a:b"]', "(did you mean `workflows`?)"),
        ("zzz = 1", "there is no setting `zzz`; there are checkpoints,"),
        ('schedules = "x"', "the setting `schedules` is 'x'; give a list of names"),
        ("workflows = [3]", "the setting `workflows` is [3]; give a list of names"),
        ("checkpoints = 3", "the setting `checkpoints` is 3; give a table"),
        ('[checkpoints]\nkeep = "many"', None),
    ],
)
def test_settings_nobody_knows_or_of_another_type_are_refused_by_every_command(desk, run_eventflow, content, said):
    """A slip is told with what was meant; a table is looked at by the commands that use it."""
    (desk / "eventflow.toml").write_text(f"{content}\n")
    ended = run_eventflow("list")
    assert ended.code == (3 if said is None else 2)
    assert said is None or said in ended.sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('keep = "many"', "CheckpointPolicy(keep='many') counts checkpoints"),
        ('every = "x"', "CheckpointPolicy(every='x') counts events"),
        ('interval = "soon"', "CheckpointPolicy(interval='soon') is a span"),
        ('recovery = "50"', 'give a unit: "50 ms"'),
        ('after_node = "yes"', "True or False, or a tuple of names"),
    ],
)
def test_checkpoints_in_the_settings_that_mean_nothing_are_one_sentence(desk, run_eventflow, flows, content, said):
    """With exit code 2, before anything is started."""
    (desk / "eventflow.toml").write_text(f"[checkpoints]\n{content}\n")
    ended = run_eventflow("run", "flows.py:flow", "--id", "r", "--input", '{"n": 1}')
    assert ended.code == 2
    assert ended.sentence.startswith("eventflow: the setting `checkpoints` can't be used: ")
    assert said in ended.sentence


def test_spans_in_the_settings_and_options_are_texts_or_seconds(desk, run_eventflow, flows):
    """An hour is an hour, written either way."""
    (desk / "eventflow.toml").write_text(
        '[checkpoints]\ninterval = "1h"\nmax_age = "30d"\n[retention]\nmax_age = "30d"\n'
    )
    assert policy_of(NO_OPTIONS) == CheckpointPolicy(interval=3_600, max_age=30 * 86_400)
    assert retention_of() == RetentionPolicy(max_age=30 * 86_400)
    argv = ("run", "flows.py:flow", "--input", '{"n": 1}')
    assert [run_eventflow(*argv, "--interval", one).code for one in ("2h", "60", "soon")] == [0, 0, 2]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["prune"], 'Did you mean "checkpoints prune" or "store prune"?'),
        (["backup", "b"], 'Did you mean "store backup"?'),
        (["start", "flows.py:flow"], 'Did you mean "eventflow run"?'),
        (["log", "r"], 'Did you mean "replay log"?'),
        (["demo", "bsic"], "there is no demo 'bsic' (did you mean `basic`?); there are basic, recovery,"),
    ],
)
def test_a_command_that_stands_elsewhere_is_named(desk, run_eventflow, argv, said):
    """A command of a group without its group, one of the other program, one by another tool's name, a wrong demo."""
    ended = run_eventflow(*argv)
    assert ended.code == 2
    assert said in ended.sentence


def test_every_command_that_is_guessed_exists(desk, run_eventflow, run_replay):
    """What a slip is answered with can be typed."""
    for name in (
        "start",
        "ls",
        "status",
        "continue",
        "kill",
        "stop",
        "rm",
        "rewind",
        "inspect",
        "logs",
        "blame",
        "open",
        "tui",
    ):
        program, command = elsewhere(name).split()[:2]
        assert (run_replay if program == "replay" else run_eventflow)(command, "--help").code == 0, name
    assert 'Did you mean "eventflow list"?' in run_replay("list").sentence


def test_a_store_in_memory_has_no_checkpointer(run_eventflow):
    """A command that needs a store of before can't be given one in memory, and says so by the guide's name."""
    for argv in (("list",), ("resume", "r"), ("checkpoints", "create", "r"), ("store", "verify")):
        ended = run_eventflow(*argv, "--store", "memory")
        assert ended.code == 2
        assert "no checkpointer configured" in ended.sentence


def test_a_database_that_is_not_there_is_told_without_its_password(run_eventflow):
    """An address is not taken for a directory's name; what can't be reached is one sentence and exit code 6."""
    ended = run_eventflow("list", "--store", "postgresql://ann:hush-hush@127.0.0.1:9/db")
    assert ended.code == 6
    assert "postgresql://ann@127.0.0.1:9/db can't be reached" in ended.sentence
    assert "hush-hush" not in ended.out + ended.err


# --- text on a terminal --------------------------------------------------------------------------------------------


def test_what_commands_a_terminal_is_shown_and_not_obeyed():
    """Control, direction, hidden and private characters become escapes; line breaks only where lines are wanted."""
    shown = visible(HOSTILE)
    assert shown.isprintable()
    assert "\\x1b[2J" in shown
    assert "\\u202e" in shown
    assert visible("a\nb\tc") == "a\\nb\\tc"
    assert visible("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"


@pytest.mark.parametrize(
    "text", ["Grüße", "日本\u3000語", "a\u00a0b", "\u0645\u06cc\u200c\u062e", "👩\u200d💻", "क्\u200dष"]
)
def test_what_people_write_is_shown_as_they_write_it(text):
    """Letters, joiners and spaces of all scripts stay what they are."""
    assert visible(text) == text


@given(st.text())
def test_nothing_that_is_shown_can_move_the_cursor(text):
    """Of any text at all, no control or format character is left but the two joiners."""
    assert visible(text).replace("\u200c", "").replace("\u200d", "").isprintable() or any(map(str.isspace, text))
    assert not set(visible(text)) & {chr(code) for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F))}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_says_the_same_after_its_escapes(value):
    """What is printed parses to the value that was given, and no raw control or direction character is in it."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        print_json(value)
        print_json(value, lines=True)
    whole, line = out.getvalue()[: out.getvalue().rindex("\n", 0, -1)], out.getvalue().splitlines()[-1]
    assert json.loads(whole) == value
    assert json.loads(line) == value
    assert not set(out.getvalue()) & {
        chr(code) for code in (*range(10), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))
    }


def test_json_has_no_raw_control_characters(capsys):
    """Escapes of JSON's own stand for them, beyond the Basic Multilingual Plane as two."""
    print_json({HOSTILE: [HOSTILE]})
    out = capsys.readouterr().out
    assert json.loads(out) == {HOSTILE: [HOSTILE]}
    assert out.replace("\n", "").isprintable()


def test_what_json_has_no_word_for_is_said_in_an_object():
    """Bytes, NaN and infinities are told apart from texts and numbers."""
    value = {"b": b"\xff", "n": [math.nan, math.inf, -math.inf, 1.5], "t": (1, None)}
    assert plain_json(value) == {
        "b": {"base64": "/w=="},
        "n": [{"float": "nan"}, {"float": "inf"}, {"float": "-inf"}, 1.5],
        "t": [1, None],
    }


def test_a_table_in_a_pipe_keeps_each_row_on_one_line(capsys):
    """However long its cells are: a program that reads it line by line must not be misled."""
    print_table([{"a": "x" * 500, "b": "y" * 500}, {"a": "1\n2", "b": None}], ("a", "b"), "a title")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == "a title"
    assert lines[2].split() == ["x" * 500, "y" * 500]
    assert lines[3] == "1\\n2"


def test_columns_stay_under_each_other(capsys):
    """Wide characters take two columns of a terminal, and accents none."""
    print_table([{"a": "日本", "b": "x"}, {"a": "e\u0301", "b": "y"}, {"a": "four", "b": "z"}], ("a", "b"))
    assert capsys.readouterr().out.splitlines() == ["a     b", "日本  x", "e\u0301     y", "four  z"]


def test_on_a_narrow_terminal_cells_are_folded(process, run_eventflow, flows):
    """Nothing is cut off where a row is wider than the terminal."""
    run_eventflow("run", "flows:make", "--id", "a-rather-long-name-for-a-run")
    leader, follower = os.openpty()
    listing = process("eventflow", "list", stdout=follower, env={"COLUMNS": "60", "TERM": "xterm"})
    os.close(follower)
    told = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end has gone
        while part := os.read(leader, 4096):
            told += part
    os.close(leader)
    assert listing.ended().code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", told.decode()).splitlines()
    assert max(map(len, lines)) <= 60
    assert "a-rather-long-name-for-a-run" in "".join(line.split()[0] for line in lines)


def test_plain_columns_and_others_stand_in_line(capsys):
    """A column of which every cell is plain is filled up as one that has a wide or a hidden character in one cell."""
    rows = [
        {"a": "plain", "b": "日本", "c": 1},
        {"a": "x", "b": "b\x07", "c": None},
        {"a": None, "b": ["p", 2], "c": "é"},
    ]
    print_table(rows, ("a", "b", "c"))
    assert capsys.readouterr().out.splitlines() == [
        "a      b      c", "plain  日本   1", "x      b\\x07", "       p, 2   é",
    ]  # fmt: skip


def test_a_table_takes_no_commands_from_its_cells(capsys):
    """Neither markup of the library that draws it nor escapes of the terminal have an effect, in cells or title."""
    print_table([{"a": "[bold]x[/bold]\x1b[31m", "b": ["p", "q"]}], ("a", "b"), "t [red]\x1b[31m")
    out = capsys.readouterr().out
    assert "[bold]x[/bold]\\x1b[31m" in out
    assert "t [red]\\x1b[31m" in out
    assert "p, q" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (3 << 20, "3.0 MB"), (5 << 40, "5120.0 GB")]
)
def test_bytes_are_told_in_the_unit_that_fits(count, text):
    """The number before the unit is one a person can read."""
    assert bytes_text(count) == text


def test_text_without_quotes_is_told_how_it_is_written(run_eventflow, flows):
    """The error names the option; a file's own text is not taught."""
    ended = run_eventflow("run", "flows:flow", "--input", "yes")
    assert ended.code == 2
    assert "--input is not JSON" in ended.sentence
    assert """give an object, as in '{"topic": "tides"}'""" in ended.sentence
    ended = run_eventflow("answer", "r", "yes")
    assert """text needs its own quotes, as in '"yes"'""" in ended.sentence
    Path("in.json").write_text("yes")
    assert "quotes" not in run_eventflow("run", "flows:flow", "--input", "@in.json").sentence
    assert (
        "--mock pay is not JSON"
        in run_eventflow("resume", "r", "--mock", "pay=yes", "--store", _made(run_eventflow)).sentence
    )


def _made(run_eventflow) -> str:
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}', "--store", "made")
    return "made"


def test_help_does_not_tell_that_nothing_is_given(run_eventflow):
    """A default that is empty is left out, one that says something is shown."""
    out = run_eventflow("queue", "put", "--help").out
    assert "[default: ]" not in out
    assert "()" not in out
    assert '""' not in out
    assert "[default: table]" in " ".join(out.split())


def test_on_a_terminal_times_are_short(monkeypatch):
    """The time of today, day and time of this year, else the date; in full where nobody looks."""
    monkeypatch.setattr(sys, "stdout", _Terminal())
    now = time.time_ns()
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ", short_time(now))
    assert short_time(0) == "1970-01-01"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert short_time(0) == "1970-01-01T00:00:00.000Z"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_there_is_one_of_is_told_in_the_singular():
    """None and two are several."""
    assert [counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def test_times_are_utc_to_the_millisecond():
    """A time is told as ISO 8601 with a Z, before 1970 and long after too."""
    assert time_text(0) == "1970-01-01T00:00:00.000Z"
    assert time_text(1_790_000_000_123_456_789) == "2026-09-21T14:13:20.123Z"
    assert time_text(2**63 - 1).startswith("2262-")
    assert time_text(-(2**62)).startswith("1823-")


def test_progress_is_for_terminals(capsys):
    """Where stderr is no terminal, nothing is written to it."""
    say, done = progress()
    say("hello")
    done()
    assert capsys.readouterr() == ("", "")


# --- input ---------------------------------------------------------------------------------------------------------


def test_input_is_json_or_a_file_or_stdin(desk, monkeypatch):
    """`@FILE` and `@-` stand for their content."""
    (desk / "in.json").write_text('{"ü": [1, 2.5, null]}', encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO('"from stdin"'))
    assert json_argument("[true]") == [True]
    assert json_argument("@in.json") == {"ü": [1, 2.5, None]}
    assert json_argument("@-") == "from stdin"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{'a': 1}", "is not JSON"),
        ("[1] 2", "is not JSON"),
        ("1" * 5_000, "is not JSON"),
        ("@nowhere.json", "can't be read: No such file"),
        ("@.", "can't be read: Is a directory"),
        (str(2**64), "more than 64 bits"),
        ("[" * 70 + "]" * 70, "nested deeper than 64 levels"),
        ("[" * 100_000, "is not JSON"),
        ('{"a": ["\\ud800"]}', "a[0] holds a lone surrogate"),
    ],
)
def test_input_that_cant_be_used_is_refused_with_its_reason(desk, text, said):
    """What is not JSON, and JSON that is not plain data, is an error of the command line."""
    with pytest.raises(SettingsError) as caught:
        json_argument(text)
    assert said in str(caught.value)


def test_binary_input_is_refused(desk):
    """A file that is not UTF-8 is not JSON."""
    (desk / "in.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not JSON"):
        json_argument("@in.json")


# --- asking --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stdin that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.mark.parametrize(
    ("answer", "meant"),
    [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False), ("yesterday\n", False)],
)
def test_only_yes_means_yes(monkeypatch, answer, meant):
    """Everything else, an end of input included, means no."""
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert confirm("Really?", yes=False) is meant


def test_where_nobody_can_be_asked_yes_must_be_given(monkeypatch):
    """A script that forgot --yes is told so instead of being taken to have said it."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(SettingsError, match="--yes"):
        confirm("Really?", yes=False)
    assert confirm("Really?", yes=True) is True


# --- errors and exit codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("bogus",), ("run",), ("show",), ("list", "--limit", "x"), ("list", "-o", "xml"), ("checkpoints", "bogus"),
        ("show", "a", "b"), ("list", "--bogus"), ("store", "verify", "--output"),
    ],
)  # fmt: skip
def test_a_command_line_that_means_nothing_is_one_sentence(run_eventflow, argv):
    """It is told in one line on stderr, with exit code 2 and nothing on stdout."""
    ended = run_eventflow(*argv)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.sentence.startswith("eventflow: ")


def test_help_and_version_are_no_errors(run_eventflow, run_replay):
    """They go to stdout with exit code 0, each command's help too."""
    for argv in (("--help",), (), ("run", "--help"), ("checkpoints", "--help"), ("store", "verify", "--help")):
        ended = run_eventflow(*argv)
        assert (ended.code, ended.err) == (0, "")
        assert "Usage: eventflow" in ended.out
    for command in (run_eventflow, run_replay):
        assert command("--version").out.strip()[0].isdigit()
    assert "Usage: replay" in run_replay("log", "--help").out


def test_an_argument_that_is_not_text_is_refused(run_eventflow):
    """Bytes that are not UTF-8 reach a program as surrogates, which no log can hold."""
    ended = run_eventflow("show", "r\udcff")
    assert ended.code == 2
    assert "not UTF-8" in ended.sentence


def test_an_error_from_a_log_is_shown_and_not_obeyed(run_eventflow, tmp_path):
    """Control characters in an error's sentence are escapes."""
    ended = run_eventflow("list", "--store", f"{tmp_path}/\x1b[31m")
    assert ended.code == 3
    assert "\\x1b[31m" in ended.sentence


def test_ctrl_c_before_anything_runs_ends_quietly(process, desk, until):
    """It is no traceback, and the exit code says that nothing was lost."""
    (desk / "slow.py").write_text("import time, pathlib\npathlib.Path('began').touch()\ntime.sleep(60)\n")
    loading = process("eventflow", "run", "slow:flow")
    until((desk / "began").exists, loading)
    loading.signal(signal.SIGINT)
    ended = loading.ended()
    assert (ended.code, ended.out, ended.err) == (7, "", "")


def test_a_reader_that_goes_away_is_no_error(process, run_eventflow, flows):
    """`eventflow ... | head` ends quietly with exit code 0, whether output is buffered or not."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    for unbuffered in ("", "1"):
        reading, writing = os.pipe()
        os.close(reading)
        listing = process("eventflow", "list", stdout=writing, env={"PYTHONUNBUFFERED": unbuffered})
        os.close(writing)
        ended = listing.ended()
        assert (ended.code, ended.err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_on_a_full_disk_is_one_sentence(process, run_eventflow, flows):
    """What can't be written is told on stderr, with exit code 6."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    for unbuffered in ("", "1"):
        with Path("/dev/full").open("w") as full:
            ended = process("eventflow", "list", stdout=full, env={"PYTHONUNBUFFERED": unbuffered}).ended()
        assert ended.code == 6
        assert "No space left" in ended.sentence


def test_a_terminal_of_few_characters_gets_escapes(process, run_eventflow, desk):
    """Where stdout can't show a character, its number is shown; JSON stays what it was."""
    (desk / "f.py").write_text(
        "from eventflow import Workflow\n"
        "flow = Workflow('f').add_node('a', lambda s: {'t': 'grüße 日本'}).set_start('a')\n",
        encoding="utf-8",
    )
    run_eventflow("run", "f.py:flow", "--id", "r")
    table, document = (
        process("eventflow", "show", "r", *more, env={"PYTHONIOENCODING": "ascii"}) for more in ((), ("-o", "json"))
    )
    assert "gr\\xfc\\xdfe" in table.ended().out
    assert document.ended().json["state"] == {"t": "grüße 日本"}


def test_it_is_a_program(process):
    """`python -m eventflow` and `python -m replay` are the two commands."""
    for name in ("eventflow", "replay"):
        ended = process(name, "--version").ended()
        assert (ended.code, ended.err) == (0, "")


def test_every_exit_code_has_its_own_number():
    """The eight codes are those that the documentation gives."""
    names = ("OK", "FAILED", "USAGE", "NOT_FOUND", "DIFFERENCE", "CONFLICT", "UNUSABLE", "STOPPED")
    assert [getattr(shell, name) for name in names] == list(range(8))


def test_a_signal_that_kills_leaves_no_output(process, run_eventflow, flows, until, desk):
    """SIGKILL in the middle of a run is survived by the store, which goes on from there."""
    running = process("eventflow", "run", "flows:waiting", "--id", "r")
    until((desk / "began").exists, running)
    running.signal(signal.SIGKILL)
    assert running.ended().code == -signal.SIGKILL
    (desk / "go").touch()
    assert run_eventflow("store", "verify").code == 0
    assert run_eventflow("list", "-o", "json").json["rows"][0]["driven"] is False
    assert run_eventflow("resume", "r", "--flow", "flows:waiting", "-o", "json").json["status"] == "completed"


def test_ctrl_c_while_the_commands_are_loaded_is_no_traceback(monkeypatch):
    """The exit code is the one of a stop."""

    def stopped() -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == STOPPED
