"""Golden histories: what is the same in each run is compared, what is other in each is left out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from eventflow import Engine, MemoryLog, RetryPolicy, Wait, Workflow
from eventflow.codec import pack
from eventflow.event import EffectFinished, EffectStarted, RunPaused, RunResumed, RunStarted
from eventflow.plain import EMPTY
from eventflow.testing import golden, normalised
from eventflow.testing.author import Author, written


def flow(answer="yes") -> Workflow:
    """A call, a failure, a wait."""

    async def ask(state, run):
        return {"answer": await run.effect("ask", lambda: answer, mutating=False)}

    def fails(state, run):
        if run.attempt == 1:
            raise OSError("once")
        return {"fine": True}

    return (
        Workflow("w")
        .add_node("ask", ask)
        .add_node("fails", fails, retry=RetryPolicy(attempts=2, delay=0))
        .add_node("wait", Wait(signal="go", writes="said"))
        .add_edge("ask", "fails")
        .add_edge("fails", "wait")
        .set_start("ask")
    )


def ran(made: Workflow, log=None, data=None):
    """A run of it to its end, and the log it is in."""
    log = log or MemoryLog()

    async def tell():
        async with Engine(log, workflows=[made], grace=0) as engine:
            run = await engine.start(made, {"n": 1} if data is None else data)
            await engine.signal(run.id, "go", "now")
            await run.result()
            return run

    return asyncio.run(tell()), log


def order(text: str) -> list[str]:
    """The lines of a golden file without their versions, sorted: a signal comes when it comes."""
    return sorted(line[6:] for line in text.splitlines())


def test_two_runs_of_one_workflow_have_one_history(tmp_path):
    """Ids, times, digests and keys are not in it; types, nodes, changes and calls are."""
    one, _ = ran(flow())
    two, _ = ran(flow())
    golden(one, tmp_path / "one.txt", update=True)
    golden(two, tmp_path / "two.txt", update=True)
    text = (tmp_path / "one.txt").read_text()
    assert order(text) == order((tmp_path / "two.txt").read_text())
    for secret in (one.id, one.state.run.run_key.hex(), "ef-", str(one.state.time), "test_testing_golden.py"):
        assert secret not in text
    assert text.splitlines()[0] == '   1  RunStarted      ask             workflow="w" data={"n": 1}'
    assert 'EffectFinished  ask             name="ask" key="1" output="yes"' in text
    assert 'Transitioned    ask             to="fails" trigger="done" change=[["set", ["answer"], "yes"]]' in text
    assert 'AttemptFailed   fails           attempt=1 error={"type": "OSError", "message": "once"' in text
    assert "SignalReceived" in text


def test_a_history_that_is_the_same_passes_and_another_is_shown(tmp_path):
    """The difference is a unified diff that names the version where they part."""
    run, _ = ran(flow())
    file = tmp_path / "deep" / "history.txt"
    golden(run, file, update=True)
    golden(run, file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line.replace('"yes"', '"no"') for line in lines))
    version = next(line.split()[0] for line in lines if '"yes"' in line)
    with pytest.raises(AssertionError, match=f"parts from .*history.txt at version {version}:") as caught:
        golden(run, file)
    said = str(caught.value)
    assert "--- " in said
    assert "-" + next(line for line in lines if '"yes"' in line).replace('"yes"', '"no"').rstrip() in said
    assert "+" + next(line for line in lines if '"yes"' in line).rstrip() in said
    assert "pytest --update-golden" in said
    file.write_text("".join(lines[:-1]))
    with pytest.raises(AssertionError, match=f"at version {len(lines)}:"):
        golden(run, file)
    file.write_text("".join([*lines, "more\n"]))
    with pytest.raises(AssertionError, match="at the end:"):
        golden(run, file)


def test_json_holds_the_same_as_data(tmp_path):
    """A file whose name ends so is JSON, an entry a line, and parts at a version too."""
    run, _ = ran(flow())
    file = tmp_path / "history.json"
    golden(run, file, update=True)
    golden(run, file)
    assert json.loads(file.read_text()) == normalised(run)
    kept = file.read_text()
    file.write_text(kept.replace('"yes"', '"no"', 1))
    version = next(one["version"] for one in normalised(run) if '"yes"' in json.dumps(one))
    with pytest.raises(AssertionError, match=f"at version {version}:"):
        golden(run, file)


def test_a_log_is_the_history_of_all_its_runs(tmp_path):
    """Oldest first, each entry with its run's number; or of one run, by its id."""
    first, log = ran(flow())
    second, _ = ran(flow(), log, {"n": 2})
    entries = normalised(log)
    assert [one["run"] for one in entries] == [1] * first.version + [2] * second.version
    assert normalised(log, second.id) == normalised(second)
    golden(log, tmp_path / "all.txt", update=True)
    file = tmp_path / "all.txt"
    file.write_text(file.read_text().replace('{"n": 2}', '{"n": 3}'))
    with pytest.raises(AssertionError, match="at run 2, version 1:"):
        golden(log, file)


def test_without_a_file_it_fails_and_says_how_to_write_one(tmp_path, monkeypatch):
    """A golden file is written only by who asks for it."""
    run, _ = ran(flow())
    monkeypatch.delenv("EVENTFLOW_UPDATE_GOLDEN", raising=False)
    with pytest.raises(AssertionError, match="EVENTFLOW_UPDATE_GOLDEN=1 or pytest --update-golden"):
        golden(run, tmp_path / "none.txt")
    monkeypatch.setenv("EVENTFLOW_UPDATE_GOLDEN", "1")
    golden(run, tmp_path / "none.txt")
    monkeypatch.delenv("EVENTFLOW_UPDATE_GOLDEN")
    golden(run, tmp_path / "none.txt")


def test_moments_and_zeros_go_without_saying():
    """A deadline and a caller are other in each run; a call that was made is not one that was reused; a move is told."""
    author = Author(MemoryLog())
    called = RunStarted(
        "r", author.log.store_id, "w", bytes(32), EMPTY, "a", EMPTY, bytes(32), caller_id="p", caller_key=b"p" * 16, deadline=99
    )  # fmt: skip
    head = written(author.log, replace(author.first("r"), events=(pack(called),))).head
    begun = EffectStarted("pay", "1", "call", True, None, bytes(32), "ef")
    author.add(
        head, begun, EffectFinished("pay", "1", 5), begun, EffectFinished("pay", "1", 5, reused=3),
        RunResumed("a", bytes(32)), RunPaused(), RunResumed("a", bytes(32), to="b"), RunPaused(),
    )  # fmt: skip
    entries = normalised(author.log, "r")
    assert entries[0] == {"version": 1, "type": "RunStarted", "node": "a", "workflow": "w"}
    assert [entry.get("reused") for entry in entries if entry["type"] == "EffectFinished"] == [None, 3]
    assert [entry["node"] for entry in entries[5:]] == ["a", "a", "a", "b"]
