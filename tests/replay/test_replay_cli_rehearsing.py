"""replay rehearse and bisect: what they print, and their exit codes."""

from __future__ import annotations

import subprocess

import pytest

from eventflow.cli import build as build_eventflow
from eventflow.cli.shell import run_app

CODE = """
from eventflow import Workflow


def made(limit, end="end", name="count", body=None):
    flow = Workflow(name).add_node("step", body or (lambda state: {"n": state["n"] + 1}))
    flow.add_node(end, lambda state: None).add_edge("step", "step", when=lambda state: state["n"] < limit, label="more")
    return flow.add_edge("step", end).set_start("step")


flow, more, renamed, other = made(2), made(3), made(2, end="finish"), made(2, name="other")
raising = made(2, body=lambda state: 1 / 0)
"""


@pytest.fixture
def store(desk, capsys):
    """A store with the finished runs `a` and `b` of the workflow `count` and `c` of another."""
    (desk / "counts.py").write_text(CODE)
    for run, flow in (("a", "flow"), ("b", "flow"), ("c", "other")):
        argv = ["run", f"counts.py:{flow}", "--id", run, "--input", '{"n": 0}', "-o", "json"]
        assert run_app(build_eventflow(), argv) == 0
    capsys.readouterr()
    return desk


def test_runs_that_are_the_same_end_with_0_and_others_with_4(run_replay, store):
    """In every form of output."""
    for how in ("table", "json", "jsonl"):
        assert run_replay("rehearse", "counts.py:flow", "a", "-o", how).code == 0
        assert run_replay("rehearse", "counts.py:more", "a", "-o", how).code == 4
        assert run_replay("rehearse", "counts.py:raising", "a", "-o", how).code == 0
        assert run_replay("rehearse", "counts.py:raising", "a", "--nodes", "-o", how).code == 4


def test_the_table_tells_the_first_difference_of_each_run(run_replay, store):
    """And what was skipped, and what was asked."""
    done = run_replay("rehearse", "counts.py:more", "--all")
    lines = done.out.splitlines()
    assert lines[0] == "workflow count; runs rehearsed: 2"
    assert [line.split()[:4] for line in lines[2:4]] == [[run, "diverges", "3", "step"] for run in ("b", "a")]
    assert "'step' leads to 'step' (guard more) where 'end' was recorded" in lines[2]
    assert lines[4:] == ["runs of other workflows, skipped: 1", "decisions asked: 6, bodies run: 0, calls served: 0"]


def test_the_document_has_everything(run_replay, store):
    """Counts, findings with both values, the receipt."""
    document = run_replay("rehearse", "counts.py:renamed", "a", "c", "-o", "json").json
    assert (document["schema"], document["same"], document["skipped"]) == ("eventflow.rehearsal/1", False, 1)
    assert document["counts"] == {"same": 0, "migrate": 1, "diverges": 0}
    (run,) = document["runs"]
    assert (run["run"], run["verdict"]) == ("a", "migrate")
    assert run["findings"] == [
        {"kind": "node", "version": 3, "node": "step", "problem": "the run went to 'end', which is gone"}
    ]  # fmt: skip
    assert run["definition"].startswith("nodes removed: end; nodes added: finish")


def test_with_nodes_the_receipt_names_what_stood_between(run_replay, store):
    """On the last line."""
    out = run_replay("rehearse", "counts.py:flow", "a", "--nodes").out
    line = out.splitlines()[-1]
    assert line.startswith("decisions asked: 3, bodies run: 3, calls served: 0, calls blocked: 0; behind an audit hook")


def test_a_migration_is_written_where_it_is_asked_for(run_replay, store):
    """To a file, or to the terminal; JSON on stdout stays JSON."""
    run_replay("rehearse", "counts.py:renamed", "--all", "--migration", "migrate.py")
    assert "'end': None" in (store / "migrate.py").read_text()
    assert "def migrate(state)" in run_replay("rehearse", "counts.py:renamed", "a", "--migration", "-").out
    done = run_replay("rehearse", "counts.py:renamed", "a", "--migration", "-", "-o", "json")
    assert done.json["same"] is False
    assert "def migrate(state)" in done.err


def test_a_rehearsal_writes_nothing_to_the_store(run_replay, store):
    """Byte for byte."""
    data = store / "runs.eventflow" / "data.1" / "data.mdb"
    before = data.read_bytes()
    run_replay("rehearse", "counts.py:flow", "--all", "--nodes")
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["counts.py:flow"], 2), (["counts.py:flow", "a", "--all"], 2), (["counts.py:flow", "a", "--nodes", "--routes"], 2),
        (["counts.py:none", "a"], 2), (["counts.py:none", "a", "--nodes"], 2), (["counts.py:flow", "nobody"], 3),
    ],
)  # fmt: skip
def test_what_can_not_be_rehearsed_is_said_in_one_sentence(run_replay, store, argv, code):
    """With the exit code of what is wrong."""
    done = run_replay("rehearse", *argv)
    assert (done.code, done.out) == (code, "")
    assert done.sentence.startswith("replay: ")


# --- bisect --------------------------------------------------------------------------------------------------------


def test_the_first_variant_that_differs_is_named(run_replay, store):
    """With what was tried before it; exit code 4, or 0 if none differs."""
    done = run_replay("bisect", "a", "counts.py:flow", "counts.py:more", "counts.py:renamed")
    assert done.code == 4
    assert "the first to differ: counts.py:more" in done.out
    assert "counts.py:renamed" not in done.out
    assert run_replay("bisect", "a", "counts.py:flow", "counts.py:raising").code == 0
    assert run_replay("bisect", "a", "counts.py:flow", "counts.py:raising", "--nodes").code == 4


def test_what_could_not_be_tried_is_not_called_the_same(run_replay, store):
    """A name with a mistake in it is passed over beside others, and is exit code 2 where there was nothing else."""
    done = run_replay("bisect", "a", "nowhere:flow", "counts.py:flow")
    assert done.code == 0
    assert "none of those that could be tried differs" in done.out
    done = run_replay("bisect", "a", "nowhere:flow")
    assert done.code == 2
    assert "none of them could be tried" in done.out


def test_the_first_revision_that_differs_is_named(run_replay, store):
    """The module is that of the revision, though the working directory has one of its name."""
    repository = store / "repository"
    (repository / "src").mkdir(parents=True)

    def git(*arguments: str) -> str:
        config = ["-c", "user.email=a@example.com", "-c", "user.name=a"]
        command = ["/usr/bin/env", "git", "-C", str(repository), *config, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", ".")
    for number, limit in enumerate((2, 2, 2, 5, 5)):
        (repository / "src" / "counts.py").write_text(
            CODE.replace("made(2), made(3)", f"made({limit}), made({number})")
        )
        git("add", "-A")
        git("commit", "-q", "-m", str(number))
    argv = ["bisect", "a", "counts:flow", "--git", "HEAD~4..HEAD", "--path", str(repository / "src")]
    document = run_replay(*argv, "-o", "json").json
    assert document["schema"] == "eventflow.bisection/1"
    assert document["first"] == git("rev-parse", "HEAD~1")
    assert [one["outcome"] for one in document["trials"]] == ["differs", "same", "same", "differs"]
    assert document["receipt"]["blocked"] == 0
    argv[4] = "HEAD~4..HEAD~2"
    assert run_replay(*argv).code == 0
    assert run_replay(*argv, "counts:more").code == 2


# --- exports in place of a store -----------------------------------------------------------------------------------


@pytest.fixture
def exports(run_replay, store):
    """The exports `a.cborseq` of one run and `all.cborseq` of all, and no store any more."""
    assert run_replay("export", "a", "a.cborseq").code == 0
    assert run_replay("export", "--all", "all.cborseq").code == 0
    (store / "runs.eventflow").rename(store / "gone")
    return store


@pytest.mark.parametrize("how", ["--routes", "--nodes"])
def test_an_export_is_rehearsed_in_place_of_a_run(run_replay, exports, how):
    """One of several runs stands for all of them; several files may be given."""
    assert run_replay("rehearse", "counts.py:flow", "a.cborseq", how).code == 0
    document = run_replay("rehearse", "counts.py:more", "a.cborseq", "all.cborseq", how, "-o", "json").json
    assert [run["run"] for run in document["runs"]] == ["a", "b", "a"]
    assert document["skipped"] == 1
    assert document["counts"]["diverges"] == 3
    document = run_replay("rehearse", "counts.py:raising", "b", "--store", "all.cborseq", how, "-o", "json").json
    assert document["same"] is (how == "--routes")
    assert run_replay("rehearse", "counts.py:flow", "--all", "--store", "all.cborseq", how).code == 0
    assert run_replay("rehearse", "counts.py:flow", "a.cborseq", "--all", how).code == 2


def test_an_export_is_bisected_in_place_of_a_run(run_replay, exports):
    """Of several runs one must be named."""
    assert (
        "the first to differ: counts.py:more"
        in run_replay("bisect", "a.cborseq", "counts.py:flow", "counts.py:more").out
    )
    assert run_replay("bisect", "a.cborseq", "counts.py:flow", "counts.py:raising", "--nodes").code == 4
    done = run_replay("bisect", "all.cborseq", "counts.py:flow", "counts.py:more")
    assert done.code == 2
    assert "--store all.cborseq" in done.sentence
    assert run_replay("bisect", "b", "counts.py:flow", "counts.py:more", "--store", "all.cborseq").code == 4


def test_the_command_line_rehearses_an_export_in_a_confined_process(exports, process):
    """With the workflow beside it; a file that was changed is not rehearsed."""
    done = process("replay", "rehearse", "counts.py:more", "a.cborseq", "--nodes").ended()
    assert (done.code, done.err) == (4, "")
    assert "counts" not in done.err
    data = (exports / "a.cborseq").read_bytes()
    (exports / "a.cborseq").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = process("replay", "rehearse", "counts.py:more", "a.cborseq").ended()
    assert (done.code, done.out) == (6, "")
