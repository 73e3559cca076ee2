"""Recorded events as log lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any, get_args

import pytest
import structlog
from structlog.testing import capture_logs

from eventflow import CheckpointPolicy, Engine, MemoryLog, RetryPolicy, Workflow
from eventflow.event import RunEvent
from eventflow.quota import LimitNear
from eventflow.run import CheckpointTaken, RecoveryOutOfReach
from eventflow.telemetry import EVENT_NAMES, log_lines, to_stderr


@pytest.fixture(autouse=True)
def _unconfigured():
    """The library's own settings, whatever a test makes of them."""
    yield
    structlog.reset_defaults()


def drive(flow: Workflow, *listeners: Any, data: Any = None, **options: Any) -> MemoryLog:
    """Run a workflow with listeners, to its end."""
    log = MemoryLog()

    async def work() -> None:
        async with Engine(log, workflows=[flow], listeners=listeners, **options) as engine:
            await (await engine.start(flow, data or {}, run_id="r")).wait()

    asyncio.run(work())
    return log


def two(name: str = "two") -> Workflow:
    """Two nodes."""
    flow = Workflow(name).add_node("a", lambda s: {"secret": "hunter2"}).add_node("b", lambda s: {})
    return flow.add_edge("a", "b").set_start("a")


def test_every_event_of_a_run_has_a_name():
    """The names are dotted, none is used twice, and no event falls back to its class."""
    assert set(EVENT_NAMES) == {*get_args(RunEvent), CheckpointTaken, RecoveryOutOfReach, LimitNear}
    assert len(set(EVENT_NAMES.values())) == len(EVENT_NAMES)
    assert all(name.islower() and name.count(".") == 1 for name in EVENT_NAMES.values())


def test_each_event_is_one_line_with_its_place():
    """Name, run, workflow, version, position and status, in order."""
    with capture_logs() as lines:
        drive(two(), log_lines())
    assert [line["event"] for line in lines] == ["run.started", "transition.committed", "run.completed"]
    assert [line["version"] for line in lines] == [1, 2, 3]
    assert [line["position"] for line in lines] == [2, 3, 4]
    assert lines[1] == {
        "event": "transition.committed", "log_level": "info", "run_id": "r", "workflow": "two", "version": 2, "position": 3,
        "from": "a", "to": "b", "trigger": "done", "status": "running",
    }  # fmt: skip
    assert lines[2]["status"] == "completed"


def test_what_was_said_and_kept_is_not_in_a_line():
    """Names, numbers and times only: neither state nor input nor the text of an error."""

    def fails(state):
        raise ValueError("hunter2")

    async def calls(state, run):
        return {"x": await run.effect("pay", lambda card: "hunter2", "hunter2")}

    flow = Workflow("f").add_node("a", calls).add_node("b", fails).add_edge("a", "b").set_start("a")
    with capture_logs() as lines:
        drive(flow, log_lines(), data={"secret": "hunter2"})
    assert [line["event"] for line in lines if line["event"] != "checkpoint.taken"] == [
        "run.started", "effect.started", "effect.finished", "transition.committed", "run.failed",
    ]  # fmt: skip
    assert "hunter2" not in str(lines)
    assert lines[1]["name"] == "pay"
    assert next(line for line in lines if line["event"] == "run.failed")["error"] == "ValueError"


def test_failures_are_warnings():
    """A failed attempt, a failed run and a failed call warn; everything else informs."""

    async def fails(state, run):
        await run.effect("call", lambda: 1 / 0, mutating=False)

    flow = Workflow("f").add_node("a", fails, retry=RetryPolicy(attempts=2, delay=0.001)).set_start("a")
    with capture_logs() as lines:
        drive(flow, log_lines(), checkpoints=CheckpointPolicy(on_error=False))
    levels = {line["event"]: line["log_level"] for line in lines}
    assert {name for name, level in levels.items() if level == "warning"} == {
        "attempt.failed", "run.failed", "effect.failed",
    }  # fmt: skip
    assert next(line for line in lines if line["event"] == "attempt.failed")["attempt"] == 1


def test_a_checkpoint_is_a_line_with_its_size():
    """Its id, kinds, bytes and what packing took."""
    with capture_logs() as lines:
        drive(two(), log_lines(), checkpoints=CheckpointPolicy(after_node=("a",)))
    (line,) = [line for line in lines if line["event"] == "checkpoint.taken"]
    assert (line["checkpoint"], line["kinds"], line["bytes"]) == ("c-2", ["after_node"], 0)
    assert line["seconds"] == 0.0


def test_a_rewind_says_where_to():
    """A version, beside the node it goes back to."""
    flow = two()

    async def work() -> None:
        async with Engine(MemoryLog(), workflows=[flow], listeners=[log_lines()]) as engine:
            await (await engine.start(flow, {}, run_id="r")).wait()
            await (await engine.resume("r", at=1)).wait()

    with capture_logs() as lines:
        asyncio.run(work())
    rewound = next(line for line in lines if line["event"] == "run.rewound")
    assert (rewound["to"], rewound["node"]) == (1, "a")


def test_a_logger_of_one_s_own_is_told_instead():
    """Anything with `info` and `warning` will do."""
    told: list[tuple[str, dict[str, Any]]] = []

    class Logger:
        def info(self, name: str, **values: Any) -> None:
            told.append((name, values))

        warning = info

    drive(two(), log_lines(Logger()))
    assert [name for name, _ in told] == ["run.started", "transition.committed", "run.completed"]
    assert told[0][1]["run_id"] == "r"


def test_a_logger_that_breaks_breaks_nothing():
    """A fact stays a fact, whatever becomes of its line."""

    class Broken:
        def info(self, *_: Any, **__: Any) -> None:
            raise OSError("the disk is full")

        warning = info

    log = drive(two(), log_lines(Broken()))
    assert log.head("r").status == "completed"


def test_the_library_is_not_configured_by_being_used(capsys):
    """A listener's lines go through the settings that the program has made, or through the library's own."""
    structlog.reset_defaults()
    drive(two(), log_lines())
    assert not structlog.is_configured()
    assert "transition.committed" in capsys.readouterr().out  # where the library's own settings put it


def test_a_program_s_lines_go_to_stderr(capsys):
    """As text, one line an event, with time and level; nothing goes to stdout."""
    to_stderr()
    drive(two(), log_lines())
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0][:4].isdigit()
    assert "[info" in lines[0]
    assert "run.started" in lines[0]
    assert "from=a" in lines[1]


def test_a_program_s_lines_can_be_json(capsys):
    """Each line is a document."""
    to_stderr(json_lines=True)
    drive(two("\x1b[31m"), log_lines())
    err = capsys.readouterr().err
    assert [json.loads(line)["event"] for line in err.splitlines()] == [
        "run.started", "transition.committed", "run.completed",
    ]  # fmt: skip
    assert err.replace("\n", "").isprintable()


def test_names_from_a_log_do_not_command_the_terminal(capsys):
    """Control and direction characters in names of runs, nodes and calls are escapes."""
    bad = "x\x1b[2J\u202e\x9b"

    async def calls(state, run):
        return {"x": await run.effect(bad, lambda: 1)}

    to_stderr()
    drive(Workflow(bad).add_node(bad, calls).set_start(bad), log_lines())
    err = capsys.readouterr().err
    assert err.replace("\n", "").isprintable()
    assert "\\x1b[2J" in err
