"""checkpoints list, create, show, delete, prune."""

from __future__ import annotations

import asyncio

import pytest

from eventflow import Engine

ROW_KEYS = ["checkpoint", "version", "kinds", "time", "label", "bytes", "reached_by"]


@pytest.fixture
def run(run_eventflow, flows):
    """A run `r` with checkpoints c-1, c-2 (labelled) and c-3, made by hand in that order."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    for version, options in ((1, ()), (2, ("--label", "before lunch")), (3, ())):
        run_eventflow("checkpoints", "create", "r", "--at", version, *options)
    return "r"


def ids(run_eventflow) -> list[str]:
    """The ids of the run's checkpoints."""
    return [row["checkpoint"] for row in run_eventflow("checkpoints", "list", "r", "-o", "json").json["rows"]]


def test_a_list_has_these_fields_and_no_others(run_eventflow, run):
    """The list's document is stable, oldest version first."""
    document = run_eventflow("checkpoints", "list", "r", "-o", "json").json
    assert list(document) == ["schema", "rows"]
    assert document["schema"] == "eventflow.checkpoints/1"
    assert [row["checkpoint"] for row in document["rows"]] == ["c-1", "c-2", "c-3"]
    assert all(list(row) == ROW_KEYS for row in document["rows"])
    assert document["rows"][1] | {"time": ""} == {
        "checkpoint": "c-2", "version": 2, "kinds": ["manual"], "time": "", "label": "before lunch",
        "bytes": document["rows"][1]["bytes"], "reached_by": "folding",
    }  # fmt: skip


def test_the_list_comes_as_a_table_and_as_lines(run_eventflow, run):
    """All formats hold the same checkpoints."""
    lines = run_eventflow("checkpoints", "list", "r", "-o", "jsonl").lines
    assert [(one["schema"], one["checkpoint"]) for one in lines] == [
        ("eventflow.checkpoints/1", name) for name in ("c-1", "c-2", "c-3")
    ]
    table = run_eventflow("checkpoints", "list", "r").out.splitlines()
    assert table[0].split() == ["checkpoint", "kinds", "time", "bytes", "reached", "by", "label"]
    assert table[2].endswith("before lunch")


def test_bytes_are_used_once_the_chain_vouches_for_them(run_eventflow, flows):
    """A checkpoint says `snapshot` where recovery begins from its bytes, and `folding` where it does not."""
    run_eventflow("run", "flows:flow", "--id", "e", "--input", '{"n": 1}', "--every", "1")
    rows = run_eventflow("checkpoints", "list", "e", "-o", "json").json["rows"]
    for row in rows:
        shown = run_eventflow("checkpoints", "show", "e", row["checkpoint"], "-o", "json").json
        assert (shown["folded_events"] == 0) == (row["reached_by"] == "snapshot")


def test_show_gives_the_state_a_checkpoint_stands_for(run_eventflow, run):
    """Its document holds the row of the list, the state, and how it was reached."""
    document = run_eventflow("checkpoints", "show", "r", "c-2", "-o", "json").json
    assert list(document) == ["schema", "run", *ROW_KEYS, "node", "status", "folded_from", "folded_events", "state"]
    assert document["schema"] == "eventflow.checkpoint/1"
    assert (document["run"], document["version"], document["label"]) == ("r", 2, "before lunch")
    assert (document["node"], document["status"]) == ("second", "running")
    assert document["state"] == {"n": 2, "notes": ["plus"]}
    text = run_eventflow("checkpoints", "show", "r", "c-2").out
    assert "reached by folding 2 events after version 0" in text


def test_create_answers_with_the_checkpoint(run_eventflow, flows):
    """As a line, and as a document with the row of the list."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    assert run_eventflow("checkpoints", "create", "r").out.startswith("checkpoint c-3 of run r made (")
    document = run_eventflow("checkpoints", "create", "r", "--at", "1", "--snapshot", "-o", "json").json
    assert list(document) == ["schema", "run", *ROW_KEYS]
    assert (document["schema"], document["run"], document["checkpoint"]) == ("eventflow.checkpoint/1", "r", "c-1")
    assert document["bytes"] > 0
    assert run_eventflow("store", "verify").code == 0


def test_a_checkpoint_made_twice_is_one(run_eventflow, run):
    """One version has one checkpoint; a new label replaces the old."""
    run_eventflow("checkpoints", "create", "r", "--at", "2", "--label", "after lunch")
    rows = run_eventflow("checkpoints", "list", "r", "-o", "json").json["rows"]
    assert [(row["checkpoint"], row["label"]) for row in rows] == [("c-1", ""), ("c-2", "after lunch"), ("c-3", "")]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["list", "nobody"], 3, "no run 'nobody'"),
        (["create", "nobody"], 3, "no run 'nobody'"),
        (["create", "r", "--at", "9"], 3, "no version 9"),
        (["create", "r", "--at", "x"], 2, "is not a version"),
        (["show", "r", "c-9"], 3, "checkpoint not found: run r has no 'c-9'"),
        (["show", "r", "2"], 3, "checkpoint not found"),
        (["delete", "r", "c-9", "--yes"], 3, "checkpoint not found"),
        (["delete", "r"], 2, "--all"),
        (["delete", "r", "c-1", "--all"], 2, "--all"),
        (["delete", "nobody", "--all", "--yes"], 3, "no run"),
        (["prune", "r"], 2, "--keep N"),
        (["prune", "r", "--keep", "-1"], 2, "0 or more"),
        (["prune", "r", "--older-than", "long"], 2, "long"),
        (["prune", "nobody", "--keep", "1"], 3, "no run"),
    ],
)
def test_what_is_not_there_or_means_nothing_is_refused(run_eventflow, run, argv, code, said):
    """One sentence each, and all checkpoints stay."""
    ended = run_eventflow("checkpoints", *argv)
    assert ended.code == code
    assert said in ended.sentence
    assert ids(run_eventflow) == ["c-1", "c-2", "c-3"]


def test_what_changes_takes_whole_ids_only(run_eventflow, flows):
    """A prefix lists and shows; it neither creates nor deletes."""
    run_eventflow("run", "flows:make", "--id", "long-name")
    run_eventflow("checkpoints", "create", "long-name")
    assert run_eventflow("checkpoints", "list", "long").code == 0
    assert run_eventflow("checkpoints", "show", "long", "c-2").code == 0
    for argv in (("create", "long"), ("delete", "long", "--all", "--yes"), ("prune", "long", "--keep", "0", "--yes")):
        assert run_eventflow("checkpoints", *argv).code == 3


def test_deleting_checkpoints_leaves_every_version_reachable(run_eventflow, run):
    """They are a cache: named ones go, the state at their versions stays."""
    ended = run_eventflow("checkpoints", "delete", "r", "c-1", "c-3", "c-1", "--yes")
    assert (ended.code, ended.out) == (0, "2 checkpoints of run r deleted\n")
    assert ids(run_eventflow) == ["c-2"]
    assert run_eventflow("show", "r@1", "-o", "json").json["state"] == {"n": 1}
    ended = run_eventflow("checkpoints", "delete", "r", "--all", "--yes", "-o", "json")
    assert [row["checkpoint"] for row in ended.json["rows"]] == ["c-2"]
    assert ids(run_eventflow) == []
    assert run_eventflow("store", "info", "-o", "json").json["rows"]["snapshots"] == 0
    assert run_eventflow("store", "verify").code == 0


def test_deleting_asks(run_eventflow, run, monkeypatch):
    """Without --yes somebody must say so; a no keeps them and says that."""
    ended = run_eventflow("checkpoints", "delete", "r", "--all")
    assert ended.code == 2
    assert "Delete 3 checkpoints of run r (c-1, c-2, c-3)?" in ended.sentence
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert run_eventflow("checkpoints", "delete", "r", "c-2").out == "1 checkpoint of run r stays\n"
    assert run_eventflow("checkpoints", "prune", "r", "--keep", "1", "-o", "json").json["rows"] == []
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert run_eventflow("checkpoints", "delete", "r", "c-2").out == "1 checkpoint of run r deleted\n"
    assert ids(run_eventflow) == ["c-1", "c-3"]


def test_a_dry_run_only_says_what_would_go(run_eventflow, run):
    """It lists those, in every format, and deletes none."""
    for argv in (("prune", "r", "--keep", "1"), ("delete", "r", "c-1", "c-2")):
        rows = run_eventflow("checkpoints", *argv, "--dry-run", "-o", "json").json["rows"]
        assert [row["checkpoint"] for row in rows] == ["c-1", "c-2"]
        table = run_eventflow("checkpoints", *argv, "--dry-run").out.splitlines()
        assert table[0] == "would go:"
        assert [line.split()[0] for line in table[2:]] == ["c-1", "c-2"]
    assert ids(run_eventflow) == ["c-1", "c-2", "c-3"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep", "2"], ["c-2", "c-3"]),
        (["--keep", "0"], []),
        (["--keep", "9"], ["c-1", "c-2", "c-3"]),
        (["--older-than", "1h"], ["c-1", "c-2", "c-3"]),
        (["--older-than", "2100-01-01"], []),
        (["--keep", "1", "--older-than", "0s"], ["c-3"]),
        (["--keep", "1", "--older-than", "1h"], ["c-1", "c-2", "c-3"]),
    ],
)
def test_pruning_keeps_what_it_is_told_to(run_eventflow, run, options, left):
    """By number, by age, or by both; what both want gone goes."""
    ended = run_eventflow("checkpoints", "prune", "r", *options, "--yes")
    gone = 3 - len(left)
    assert ended.out == f"{gone} checkpoint{'s' * (gone != 1)} of run r deleted\n"
    assert ids(run_eventflow) == left


def test_pruning_nothing_does_not_ask(run_eventflow, run):
    """Where nothing would go, nobody need say yes."""
    ended = run_eventflow("checkpoints", "prune", "r", "--keep", "3")
    assert (ended.code, ended.out) == (0, "0 checkpoints of run r deleted\n")


def test_what_was_done_by_hand_is_in_the_store_s_own_stream(run_eventflow, run, desk):
    """Creating and deleting leave an event with who and why, in the store's history and not in the run's."""
    events = run_eventflow("store", "info", "-o", "json").json["events"]
    run_eventflow("checkpoints", "delete", "r", "c-1", "--yes", "--why", "too old")
    assert run_eventflow("store", "info", "-o", "json").json["events"] == events + 1
    assert run_eventflow("show", "r", "-o", "json").json["version"] == 3
    assert b"too old" in (desk / "runs.eventflow" / "data.1" / "data.mdb").read_bytes()


def test_a_fork_has_checkpoints_of_its_own_at_any_version(run_eventflow, run, desk):
    """One at a version before the fork belongs to the fork, as a mark, and rewinds it; the parent has none of it."""

    async def fork() -> None:
        async with Engine(desk / "runs.eventflow") as engine:
            await engine.fork("r@2", run_id="f", drive=False)

    asyncio.run(fork())
    run_eventflow("checkpoints", "delete", "r", "--all", "--yes")
    run_eventflow("checkpoints", "create", "f", "--at", "1", "--label", "early")
    assert ids(run_eventflow) == []
    (row,) = run_eventflow("checkpoints", "list", "f", "-o", "json").json["rows"]
    assert (row["checkpoint"], row["label"], row["reached_by"]) == ("c-1", "early", "folding")
    assert run_eventflow("checkpoints", "show", "f", "c-1", "-o", "json").json["state"] == {"n": 1}
    assert run_eventflow("store", "verify").code == 0
    ended = run_eventflow("resume", "f", "--at", "c-1", "--flow", "flows:flow", "-o", "json")
    assert (ended.code, ended.json["state"]["n"]) == (0, 2)
