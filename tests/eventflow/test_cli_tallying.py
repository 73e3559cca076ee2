"""A run in numbers on the command line, and a policy with a target given there."""

from __future__ import annotations

import json

import pytest


def test_show_tells_a_run_in_numbers_only_when_asked(run_eventflow, flows, desk):
    """Two lines for people, a document for programs; without the option neither."""
    run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}')
    run_eventflow("checkpoints", "create", "r", "--snapshot")
    plain = run_eventflow("show", "r")
    told = run_eventflow("show", "r", "--stats")
    more = told.out.removeprefix(plain.out).splitlines()
    assert [line.split(":")[0] for line in more] == ["history", "checkpoints"]
    document = run_eventflow("show", "r", "--stats", "-o", "json").json
    assert list(document["stats"]) == [
        "events", "bytes", "began", "updated", "events_per_hour", "bytes_per_day", "checkpoints", "snapshots",
        "snapshot_bytes",
    ]  # fmt: skip
    assert (document["stats"]["events"], document["stats"]["checkpoints"]) == (document["version"], 1)
    assert document["stats"]["snapshot_bytes"] > 0
    assert "stats" not in run_eventflow("show", "r", "-o", "json").json


@pytest.mark.parametrize("span", ["50ms", "50 ms", "2 s", "500 us"])
def test_a_target_is_an_option_of_run(run_eventflow, flows, desk, span):
    """Any way of saying a span is taken, and the run ends as it does without."""
    assert run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}', "--recovery", span).code == 0


def test_a_target_that_is_no_span_is_one_sentence(run_eventflow, flows, desk):
    """It says what a span looks like, with exit code 2, and nothing has been started."""
    ended = run_eventflow("run", "flows:flow", "--id", "r", "--recovery", "soon")
    assert ended.code == 2
    assert "50 ms" in ended.err
    assert ended.err.count("\n") == 1


def test_a_target_may_stand_in_the_settings(run_eventflow, flows, desk):
    """Under `checkpoints`, as every option of the policy; one that is no span is refused."""
    (desk / "eventflow.toml").write_text('[checkpoints]\nrecovery = "50 ms"\n')
    assert run_eventflow("run", "flows:flow", "--id", "r", "--input", '{"n": 1}').code == 0
    (desk / "eventflow.toml").write_text(f"[checkpoints]\nrecovery = {json.dumps('soon')}\n")
    assert run_eventflow("run", "flows:flow", "--id", "s", "--input", '{"n": 1}').code == 2
