"""The zero-call proof: a scripted model server counts, and nothing that replay does moves its counter."""

from __future__ import annotations

import pytest

from eventflow.testing.model_server import ModelServer, Reply

FLOW = """
from __future__ import annotations

import socket
from typing import Annotated, TypedDict

from eventflow import Agent, Tool, Workflow, extend


class Research(TypedDict, total=False):
    topic: str
    notes: Annotated[list[str], extend]
    text: str


def weigh(stone: str) -> int:
    "The weight of a stone."
    return len(stone)


def shorten(state):
    return {"text": state["notes"][-1][:5]}


def looks(state):
    socket.create_connection(("127.0.0.1", 9))
    return {"text": ""}


def made(body, name="research"):
    return (
        Workflow(name, state=Research)
        .add_node("researcher", Agent(model="m", reads="topic", writes="notes", tools=[weigh], price=(1, 2)))
        .add_node("shorten", body)
        .add_node("critic", Agent(model="m", reads="text", writes="notes"))
        .add_edge("researcher", "shorten")
        .add_edge("shorten", "critic")
        .set_start("researcher")
    )


flow = made(shorten)
reaching = made(looks)
"""
ANSWERS = [Reply(tool_calls=(("weigh", {"stone": "flint"}, "call-1"),)), "It weighs five.", "Too short."]


@pytest.fixture
def server(desk, monkeypatch, run_eventflow):
    """The model server, after a run of three calls of it, `r`."""
    with ModelServer(ANSWERS) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        (desk / "flow.py").write_text(FLOW)
        ended = run_eventflow("run", "flow.py:flow", "--id", "r", "--input", '{"topic": "stones"}')
        assert (ended.code, len(server.calls)) == (0, 3)
        yield server


READING = [
    ["log", "r"], ["show", "r"], ["show", "r@5"], ["diff", "r@3", "r"], ["stats", "r"], ["search", "r", "five"],
    ["watch", "r", "notes"], ["blame", "r", "notes"], ["when", "r", "text == 'It we'"], ["tree", "r"], ["report", "r"], ["verify", "r"],
    ["export", "r", "r.cborseq"], ["export", "r", "r.jsonl", "--format", "jsonl"], ["export", "r", "r.html", "--format", "capsule"],
    ["rehearse", "flow.py:flow", "r"], ["rehearse", "flow.py:flow", "r", "--nodes"],
]  # fmt: skip


def test_reading_and_rehearsing_call_no_model(server, run_replay):
    """Whatever is asked of the history, the counter stands still."""
    for argv in READING:
        ended = run_replay(*argv)
        assert (ended.code in (0, 4), ended.err, len(server.calls)) == (True, "", 3), argv
    assert run_replay("rehearse", "flow.py:flow", "r", "--nodes").code == 0


def test_a_what_if_run_on_the_record_calls_no_model(server, process, run_replay):
    """It comes out as its parent did, and every model's and tool's call says what answered it."""
    ended = process("replay", "fork", "r@1", "--id", "b", "--run", "--flow", "flow.py:flow", "-o", "json").ended()
    assert (ended.code, len(server.calls)) == (0, 3), ended.err
    assert ended.json["state"] == run_replay("show", "r", "-o", "json").json["state"]
    finished = run_replay("log", "b", "--type", "EffectFinished", "-o", "jsonl").lines
    assert [row["detail"].partition(", ")[2].partition(" answered")[0][:14] for row in finished] == [
        "not called: r@"
    ] * 4
    assert [row["tokens"] for row in finished] == [0] * 4
    assert run_replay("diff", "r", "b").code in (0, 4)
    assert len(server.calls) == 3


def test_a_text_given_by_hand_is_what_a_model_would_have_said(server, process, run_eventflow):
    """So that it needs no model's wire form, and no model."""
    argv = ["fork", "r@1", "--id", "b", "--mock", 'model="Nothing."', "--run", "--flow", "flow.py:flow", "-o", "json"]
    ended = process("replay", *argv).ended()
    assert (ended.code, len(server.calls)) == (0, 3), ended.err
    assert ended.json["state"]["notes"] == ["Nothing.", "Nothing."]


def test_a_changed_question_is_asked_only_if_that_was_said(server, process, monkeypatch):
    """Denied, then, once it is named and agreed to, really asked, once."""
    argv = ["fork", "r@1", "--set", 'topic="sand"', "--run", "--flow", "flow.py:flow"]
    ended = process("replay", *argv, "--id", "b").ended()
    assert (ended.code, len(server.calls)) == (1, 3)
    assert "EffectDenied" in ended.err
    ended = process("replay", *argv, "--id", "c", "--live", "*").ended()
    assert (ended.code, len(server.calls)) == (2, 3)
    assert "model (3 times)" in ended.err


def test_a_socket_that_a_rehearsed_node_tries_is_blocked_and_named(server, run_replay):
    """On the command line too, by its node and where it would have gone."""
    ended = run_replay("rehearse", "flow.py:reaching", "r", "--nodes")
    assert (ended.code, len(server.calls)) == (4, 3)
    assert "socket" in ended.out
    assert "node 'shorten'" in ended.out
