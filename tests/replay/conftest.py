"""Histories that tests of capsules share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventflow.change import Op
from eventflow.codec import encode, pack
from eventflow.event import (
    AttemptFailed,
    EffectFinished,
    EffectStarted,
    Failure,
    RunCompleted,
    RunStarted,
    SignalReceived,
    Transitioned,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import Append, Entry, First, Head, open_log
from eventflow.plain import FrozenDict, FrozenList, freeze
from eventflow.proof import digest, genesis
from eventflow.testing.author import Author, written

HOSTILE = (
    "</script><script>window.pwned = 1; alert(1)</script>",
    "<img src=x onerror='window.pwned=1;alert(1)'><svg onload=alert(1)>",
    "javascript:window.pwned=1//[click](javascript:alert(1)) https://evil.example/x",
    "<!--<script>{{constructor.constructor('window.pwned=1')()}}${window.pwned=1}-->",
    "abc\u202ecod.exe\u2066\u2069 \u200bzero",
    "\x1b]52;c;cm0gLXJmIC8=\x07\x1b[31mred\x1b[0m\x00",
    "</style><style>*{display:none}</style><link rel=stylesheet href=http://evil.example/a.css>",
    "\u2028\u2029 & &lt; \\u003c/script\\u003e \ufeff",
)
KEYS = ("__proto__", "constructor", "toString", "hasOwnProperty", "</script>", "a/b~c", "10", "9", "", "\u202egnp")


@pytest.fixture
def hostile(desk: Path) -> Head:
    """A store in the working directory with one run, `evil`, whose texts and keys want to be more than data."""
    log = open_log("runs.eventflow")
    head = _story(Author(log))
    log.close()
    return head


def _started(author: Author, data: dict[str, Any]) -> Head:
    """A run whose definition is as nasty as its data."""
    nodes = {"ask <b>": "agent", "who\u202e": "human", "</svg><script>": "function"}
    edges = [
        ["ask <b>", "who\u202e", "done", HOSTILE[1]],
        ["who\u202e", "ask <b>", "failed", HOSTILE[0]],
        ["who\u202e", "</svg><script>", "done", ""],
    ]
    shape = {
        "name": "<script>alert(1)</script>",
        "nodes": nodes,
        "edges": edges,
        "start": "ask <b>",
        "terminals": ["</svg><script>"],
    }
    event = RunStarted(
        "evil", author.log.store_id, "<script>alert(1)</script>", digest(encode(shape)), freeze(shape), "ask <b>", freeze(data),
        bytes(32), FrozenList(["<i>"]),
    )  # fmt: skip
    now = author.clock.now()
    first = First(
        genesis(event.store_id, "evil", 1, event.definition_digest), Entry(event.workflow, ("<i>",), None, now)
    )
    append = Append("evil", author.clock.uuid7(), 1, 0, 0, (pack(event),), now, "running", first=first)
    written(author.log, append)
    head = author.log.head("evil")
    assert head is not None
    return head


def _story(author: Author) -> Head:
    nasty = {key: {"polluted": text} for key, text in zip(KEYS, [*HOSTILE, "x", "y"], strict=True)}
    start: dict[str, Any] = {
        "texts": list(HOSTILE), "big": 2**62 + 1, "small": -(2**62), "one": 1.0, "not": float("nan"), "raw": b"\x00\xff",
        "none": None, "empty": {}, "list": [], "yes": True, "keys": nasty, "__proto__": {"polluted": 1},
    }  # fmt: skip
    head = _started(author, start)
    asked = freeze({"model": "<b>", "messages": [{"role": "</script>", "content": text} for text in HOSTILE]})
    head = author.add(head, EffectStarted("model", "1", "model", False, asked, bytes(32), "k" * 32))
    answer = "\n".join(HOSTILE)
    head = author.add(head, EffectFinished("model", "1", answer, FrozenDict({"input_tokens": 3, "output_tokens": 5})))
    change = (
        Op("set", ("answer",), answer),
        Op("set", ("__proto__", "deep"), freeze({"__proto__": 2})),
        Op("delete", ("big",)),
    )
    head = author.add(head, Transitioned("ask <b>", "who\u202e", change=change))
    spec = freeze({"prompt": HOSTILE[0], "form": {"__proto__": HOSTILE[1]}})
    head = author.add(head, WaitOpened("who\u202e", "human", "answer:5", spec=spec))
    head = author.add(head, SignalReceived("answer:5", freeze({"say": HOSTILE[3]}), 1, actor="<u>eve</u>"))
    head = author.add(head, WaitClosed("who\u202e", "signal", 1))
    head = author.add(head, AttemptFailed("who\u202e", 1, Failure("Bad<i>", HOSTILE[1], "x.py:1"), 0))
    extended = (Op("extend", ("texts",), freeze(["one more", HOSTILE[2]])), Op("set", ("big",), 2**53))
    head = author.add(head, Transitioned("who\u202e", "ask <b>", change=extended))
    head = author.rewind(head, 4)
    return author.add(head, RunCompleted("who\u202e", (Op("set", ("done",), True),)), status="completed")
