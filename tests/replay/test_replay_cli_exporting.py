"""replay export, and commands that read an export in place of a store."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from eventflow.cipher.signing import new_key
from eventflow.log import open_log
from eventflow.sealing import seal
from replay.cli.opening import names_export

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(desk, run_eventflow, flows):
    """A store with the runs `one` and `two`, which continues it, and exports of all and of `two`."""
    assert run_eventflow("run", "flows.py:flow", "--id", "one", "--input", '{"n": 1}').code == 0
    return desk


@pytest.fixture
def exports(store, run_replay):
    """The exports `all.cborseq` and `two.cborseq`, and no store any more."""
    assert run_replay("fork", "one@2", "--id", "two").code == 0
    assert run_replay("export", "--all", "all.cborseq").code == 0
    assert run_replay("export", "two", "two.cborseq").code == 0
    (store / "runs.eventflow").rename(store / "gone")
    return store


def test_an_export_is_a_new_file_that_only_its_owner_reads(run_replay, store):
    """And says how much it holds."""
    done = run_replay("export", "one", "one.cborseq", "-o", "json").json
    assert (done["schema"], done["events"]) == ("eventflow.export/1", 3)
    assert stat.S_IMODE((store / "one.cborseq").stat().st_mode) == 0o600
    done = run_replay("export", "one", "one.cborseq")
    assert done.code == 2
    assert "there already" in done.sentence


def test_every_command_reads_an_export_in_place_of_the_store(run_replay, exports):
    """Where the file holds one run that was asked for, it stands for that run."""
    assert "1 run, 4 events" not in run_replay("verify", "all.cborseq").out
    for argv in (
        ["verify", "all.cborseq"], ["verify", "two.cborseq"], ["log", "two.cborseq"], ["show", "two.cborseq@1"],
        ["report", "two.cborseq"], ["tree", "two.cborseq"], ["log", "one", "--store", "all.cborseq"],
        ["watch", "one", "n", "--store", "all.cborseq"], ["search", "plus", "--all", "--store", "all.cborseq"],
        ["stats", "one", "--store", "all.cborseq"], ["blame", "one", "n", "--store", "all.cborseq"],
        ["verify", "one", "--store", "all.cborseq"],
    ):  # fmt: skip
        done = run_replay(*argv)
        assert (done.code, done.err) == (0, ""), argv
    assert run_replay("show", "two.cborseq", "-o", "json").json["run"] == "two"
    done = run_replay("log", "all.cborseq")
    assert done.code == 2
    assert "--store all.cborseq" in done.sentence


def test_a_changed_export_is_not_shown(run_replay, exports):
    """Neither its log nor its states; verify says what is wrong."""
    data = (exports / "two.cborseq").read_bytes()
    (exports / "two.cborseq").write_bytes(data.replace(b"plus", b"flus"))
    for command in ("log", "show", "report", "verify"):
        done = run_replay(command, "two.cborseq")
        assert done.code in (4, 6)
        assert done.out == ""


def test_a_seal_is_compared_with_an_export_of_all(run_replay, exports):
    """As with the store itself; one of a run alone has no tree."""
    log = open_log(exports / "gone", readonly=True)
    (exports / "held.note").write_text(str(seal(log, new_key("me"))))
    log.close()
    assert run_replay("verify", "all.cborseq", "--seal", "held.note").code == 0
    assert run_replay("verify", "two.cborseq", "--seal", "held.note").code == 2


def test_lines_are_redacted(run_replay, store):
    """And say that they prove nothing."""
    done = run_replay("export", "one", "one.jsonl", "--format", "jsonl", "--redact", "notes")
    assert "proves nothing but its digests" in done.out
    lines = [json.loads(line) for line in (store / "one.jsonl").read_text().splitlines()]
    assert {line["schema"] for line in lines} == {"eventflow.exported/1"}
    assert '"plus"' not in (store / "one.jsonl").read_text()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 2), (["one"], 2), (["--all"], 2), (["one", "x"], 2), (["one", "x.cborseq", "--redact", "n"], 2),
        (["one", "--all", "x.cborseq"], 2), (["nobody", "x.cborseq"], 3), (["one", "absent/x.cborseq"], 2),
    ],
)  # fmt: skip
def test_what_can_not_be_exported_is_said_in_one_sentence(run_replay, store, argv, code):
    """And leaves no file."""
    done = run_replay("export", *argv)
    assert done.code == code
    assert done.sentence.startswith("replay: ")
    assert not list(store.glob("*.cborseq"))


# --- the confined process ------------------------------------------------------------------------------------------


def test_the_end_of_a_name_tells_which_form_is_meant(run_replay, store):
    """The sentence names it; of an end that nobody knows it names the option."""
    for name, said in (("x.html", "--format capsule"), ("x.jsonl", "--format jsonl"), ("x.zip", "--format")):
        ended = run_replay("export", "good", name)
        assert (ended.code, ended.sentence.rstrip().endswith(said)) == (2, True)


def test_the_command_line_reads_an_export_in_a_process_of_its_own(exports, process):
    """With the same output and exit code."""
    done = process("replay", "show", "two.cborseq", "-o", "json").ended()
    assert (done.code, json.loads(done.out)["run"], done.err) == (0, "two", "")
    whole = (exports / "two.cborseq").read_bytes()
    (exports / "two.cborseq").write_bytes(whole[:100] + b"\x9b" + b"\xff" * 8 + whole[109:])
    done = process("replay", "log", "two.cborseq").ended()
    assert (done.code, done.out) == (6, "")
    assert done.sentence.startswith("replay: the export")


def test_code_that_lies_beside_an_export_is_not_loaded(exports, process):
    """A folder of a stranger's is no place to import from."""
    for name in ("resource", "cbor2", "eventflow", "json"):
        (exports / f"{name}.py").write_text("raise SystemExit(99)")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from replay.cli import main; main(['log', 'two.cborseq'])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(ROOT)], cwd=exports, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_memory_is_bounded_there(exports):
    """What takes more fails, and the process goes on to say so."""
    code = "from replay.cli.opening import MAX_MEMORY, confine\nconfine()\ntry: bytearray(MAX_MEMORY)\nexcept MemoryError: print('bounded')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "bounded\n"


@pytest.mark.parametrize(
    ("argv", "confined"),
    [
        (["log", "a.cborseq"], True), (["show", "a.cborseq@17"], True), (["log", "r", "--store", "a.cborseq"], True),
        (["log", "r", "--store=a.cborseq"], True), (["log", "r"], False), (["export", "r", "a.cborseq"], False), ([], False),
    ],
)  # fmt: skip
def test_a_command_line_that_reads_an_export_is_known(desk, argv, confined):
    """One that writes one is none."""
    assert names_export(argv) is confined
