"""Text from models, tools and strangers, in whatever the command lines print: it is shown, and never obeyed."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent))

from hostile_text import ALL, LONG, VECTORS, obeyed

from eventflow.change import Op
from eventflow.cli import build as build_eventflow
from eventflow.cli.shell import progress, visible
from eventflow.codec import read_events
from eventflow.event import (
    AttemptFailed,
    EffectFinished,
    EffectStarted,
    Failure,
    RunCompleted,
    RunPaused,
    SignalReceived,
    Transitioned,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import open_log
from eventflow.markup import cell, html_block, html_table
from eventflow.plain import freeze
from eventflow.recovery import recover
from eventflow.telemetry import log_lines
from eventflow.telemetry.lines import to_stderr
from eventflow.testing.author import Author
from replay.cli import build as build_replay

ENDLESS = {"store follow"}  # goes on until it is stopped
# What each command does with a run whose every text is hostile; a command that is not named here gets hostile arguments only.
ON_A_RUN: dict[str, list[list[str]]] = {
    "eventflow list": [[]], "eventflow show": [["evil"], ["evil@2"]], "eventflow checkpoints list": [["evil"]],
    "eventflow checkpoints create": [["evil", "--label", ALL]], "eventflow store info": [[]], "eventflow store verify": [[]],
    "eventflow pin": [["evil", "--why", ALL]], "eventflow unpin": [["evil", "--why", ALL]], "eventflow hold": [["evil", "--why", ALL]],
    "eventflow delete": [["evil", "--yes", "--why", ALL], ["--where", f"workflow='{ALL}'", "--dry-run"]], "eventflow resume": [["evil"]],
    "eventflow retry": [["evil"]], "eventflow skip": [["evil", "--why", ALL]], "eventflow answer": [["evil", "{}"]], "eventflow store prune": [["--dry-run"]],
    "eventflow settle": [["evil", "x"]], "eventflow queue list": [[]], "eventflow store export": [["all.cborseq"]],
    "replay log": [["evil"], ["evil", "--full"]], "replay show": [["evil"], ["evil@1"], ["evil@6"]], "replay diff": [["evil@1", "evil@9"]],
    "replay watch": [["evil"]], "replay when": [["evil", "text != 1"]], "replay blame": [["evil", "text"], ["evil", "keys"]],
    "replay search": [["evil"], ["FORGED"], ["red"]], "replay stats": [[]], "replay tree": [["evil"]], "replay verify": [[], ["evil"]],
    "replay report": [["evil"]], "replay fork": [["evil@3", "--why", ALL]], "replay export": [["evil", "one.cborseq"], ["evil", "page.html", "--format", "capsule"]],
    "replay prove": [["evil@2"]],
}  # fmt: skip


def commands(app: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every command of an app, as words."""
    for name in app:
        if name.startswith("-"):
            continue
        below = [one for one in app[name] if not one.startswith("-")]
        if below:
            yield from commands(app[name], (*path, name))
        if app[name].default_command is not None or not below:
            yield (*path, name)


COMMANDS = [
    " ".join(one)
    for app, name in ((build_eventflow(), "eventflow"), (build_replay(), "replay"))
    for one in commands(app, (name,))
]


@pytest.fixture
def evil(desk: Path) -> Path:
    """A store in the working directory with one run, `evil`, whose every text is hostile."""
    log = open_log("runs.eventflow")
    author = Author(log)
    data = {
        "text": ALL,
        "long": LONG,
        "list": list(VECTORS.values()),
        "keys": {text: text for text in VECTORS.values()},
        ALL: 1,
    }
    head = author.start("evil", data, node=ALL, workflow=ALL, tags=list(VECTORS.values()))
    head = author.add(head, EffectStarted(ALL, "1", "model", False, freeze({"content": ALL}), bytes(32), "k"))
    head = author.add(head, EffectFinished(ALL, "1", ALL, freeze({"tokens": 3})))
    head = author.add(head, AttemptFailed(ALL, 1, Failure(ALL, LONG, ALL), 0))
    head = author.add(head, Transitioned(ALL, ALL + "2", change=(Op("set", ("text",), LONG), Op("set", (ALL,), 2))))
    head = author.add(head, WaitOpened(ALL + "2", "human", ALL, spec=freeze({"prompt": ALL, "form": {ALL: ALL}})))
    head = author.add(head, SignalReceived(ALL, freeze({ALL: ALL}), 1, actor=ALL))
    head = author.add(head, WaitClosed(ALL + "2", "signal", 1))
    head = author.add(head, RunPaused(ALL, ALL), status="paused")
    author.add(author.start("done", {"x": ALL}, tags=[ALL]), RunCompleted("a"), status="completed")
    log.close()
    return desk


def said(run_eventflow: Any, run_replay: Any, command: str, *argv: str) -> str:
    """What a command line prints, on both streams."""
    run = run_eventflow if command.startswith("eventflow") else run_replay
    done = run(*command.split()[1:], *argv)
    assert "Traceback" not in done.err
    return f"{done.out}\n{done.err}"


def test_the_vectors_are_obeyed_where_nobody_takes_care() -> None:
    """The control: printed as they are, all but markup of other places would do something."""
    harmless = {"markup of rich and textual", "a page's markup", "a formula", "a template"}
    assert {name for name, text in VECTORS.items() if not obeyed(text)} == harmless


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_shown(name: str) -> None:
    """Alone, in the midst of text, and where a text may have lines of its own."""
    for text in (VECTORS[name], f"a {VECTORS[name]} b"):
        assert obeyed(visible(text)) == []
        assert not [one for one in obeyed(visible(text, lines=True)) if "forged" not in one]


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_arguments_are_shown_when_they_are_refused(
    command: str, desk: Path, run_eventflow: Any, run_replay: Any
) -> None:
    """Each command of both apps, a new one too: as a positional, as an option's value, as an option, as a store's path."""
    text = ALL.replace("\0", "")  # which no argument of a process can hold
    for argv in (
        [text],
        [text, text],
        ["--store", text, "x"],
        [f"--{text}"],
        ["-o", text],
        ["x", "--at", text],
        ["--flow", text, "x"],
    ):
        if command.removeprefix("eventflow ") in ENDLESS and argv != [f"--{text}"]:
            continue
        assert obeyed(said(run_eventflow, run_replay, command, *argv)) == []


@pytest.mark.parametrize("command", ON_A_RUN)
@pytest.mark.parametrize("how", ["table", "json", "jsonl"])
def test_a_hostile_run_is_shown(command: str, how: str, evil: Path, run_eventflow: Any, run_replay: Any) -> None:
    """Names, tags, values, keys, errors, reasons, actors, prompts and answers, as a table and as JSON."""
    for argv in ON_A_RUN[command]:
        assert obeyed(said(run_eventflow, run_replay, command, *argv, "-o", how)) == []


def test_the_table_of_commands_names_commands() -> None:
    """None of them is forgotten when one is renamed."""
    assert set(ON_A_RUN) <= set(COMMANDS)
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(
    "command", ["eventflow show evil", "eventflow list", "replay show evil", "replay log evil", "replay watch evil"]
)
def test_on_a_narrow_terminal_too(
    command: str, evil: Path, run_eventflow: Any, run_replay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where cells are folded and colours are used: none of the sequences is the text's own."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    text = re.sub(
        "\x1b\\[[01]m", "", said(run_eventflow, run_replay, command)
    )  # headings are bold, and nothing else is
    assert [one for one in obeyed(text) if "forged" not in one] == []


def test_a_page_s_cell_holds_no_markup_and_no_direction() -> None:
    """What a notebook shows."""
    for text in (*VECTORS.values(), ALL, LONG):
        page = html_block(text, html_table([text], [[text]]), cell(text))
        assert "<script" not in page
        assert "<img" not in page
        assert [one for one in obeyed(page) if "forged" not in one] == []


class _Terminal(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_of_progress_takes_no_markup_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a link nor an error of the program that draws it."""
    screen = _Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    tell, end = progress()
    for text in (*VECTORS.values(), "[link=https://evil.example]x[/link]", "[/]", "[/nothing]", ALL):
        tell(text)
    end()
    assert "\x1b]8;" not in screen.getvalue()
    assert "\x1b]52" not in screen.getvalue()
    assert "\x1b]0;" not in screen.getvalue()


def test_a_log_line_commands_nothing(evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a worker logs of a run whose every name is hostile, as text and as JSON."""
    with closing(open_log("runs.eventflow", readonly=True)) as log:
        head = log.head("evil")
        assert head is not None
        events = read_events(log.read(head.run_key, 1, head.version), log.blobs)
        state = recover(log, head).state
    for as_json in (False, True):
        to_stderr(json_lines=as_json)
        listener = log_lines()
        for one in events:
            listener(state, one)
        text = capsys.readouterr().err
        assert len(text.splitlines()) == len(events)
        assert obeyed(text) == []
    structlog.reset_defaults()


def test_json_gives_the_text_back(evil: Path, run_eventflow: Any) -> None:
    """Escaped is not changed: a program reads what was recorded."""
    assert run_eventflow("show", "evil", "-o", "json").json["state"]["list"] == list(VECTORS.values())
    assert json.loads(json.dumps(ALL)) == ALL
