"""Texts found in what runs recorded, and what they cost."""

from __future__ import annotations

from dataclasses import fields

import pytest

from eventflow.address import resolve
from eventflow.change import Op
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectStarted,
    Failure,
    RunCompleted,
    RunFailed,
    RunResumed,
    SignalReceived,
    Transitioned,
    WaitClosed,
    WaitOpened,
)
from eventflow.log import MemoryLog
from eventflow.plain import freeze
from eventflow.recovery import history
from eventflow.testing.author import Author
from replay.search import AROUND, Hit, search, search_all, stats

BROKE = Failure("ValueError", "the Needle broke")
SECOND = 1_000_000_000


@pytest.fixture
def author() -> Author:
    """A log written by hand, one second an append."""
    return Author(MemoryLog())


def hits(author: Author, address: str, text: str = "needle") -> list[Hit]:
    """What a search finds."""
    return list(search(author.log, resolve(author.log, address), text))


def asked(text: str, answer: str) -> list:
    """A call of a model that reports tokens."""
    question = freeze({"model": "m", "messages": [{"role": "user", "content": text}]})
    usage = freeze({"input_tokens": 3, "output_tokens": 4})
    return [
        EffectStarted("model", "1", "model", False, question, bytes(32), "k"),
        EffectFinished("model", "1", freeze({"text": answer}), usage),
    ]


# --- search --------------------------------------------------------------------------------------------------------


def test_texts_are_found_wherever_they_were_recorded(author):
    """In input, calls, answers, changes, errors, messages, keys and reasons, whatever the case."""
    head = author.start("r", {"a": ["no", "a needle"]})
    head = author.add(head, *asked("where is the NEEDLE?", "needle: here"))
    head = author.add(head, Transitioned("a", "a", change=(Op("set", ("b",), freeze({"needle": 1})),)))
    head = author.add(head, SignalReceived("needle", 1, 1), AttemptFailed("a", 1, BROKE, 5))
    author.add(head, RunResumed("a", b"", why="Needle"), RunCompleted("a"))
    assert [(hit.version, hit.event, hit.where) for hit in hits(author, "r")] == [
        (1, "RunStarted", "data.a[1]"), (2, "EffectStarted", "input.messages[0].content"), (3, "EffectFinished", "output.text"),
        (4, "Transitioned", "change.b.needle"), (5, "SignalReceived", "name"), (6, "AttemptFailed", "error[1]"),
        (7, "RunResumed", "why"),
    ]  # fmt: skip
    assert [hit.version for hit in hits(author, "r@3")] == [1, 2, 3]


def test_a_hit_shows_what_stands_around_it(author):
    """As much as fits into a line, on one line, and in how many places the event has it."""
    author.start("r", {"a": f"{'x' * 99} a\nNeedle {'y' * 99}", "b": ["needle", "needles"]})
    (hit,) = hits(author, "r")
    assert hit.places == 3
    assert hit.excerpt == f"…{'x' * (AROUND - 3)} a Needle {'y' * (AROUND - 1)}…"


def test_a_rewound_stretch_is_searched_and_said_to_be_off_the_line(author):
    """What was done and undone is still on record."""
    head = author.start("r", {"a": "needle"})
    head = author.add(head, Transitioned("a", "a", change=(Op("set", ("a",), "needle 2"),)))
    author.rewind(head, 1)
    assert [(hit.version, hit.on_line) for hit in hits(author, "r")] == [(1, True), (2, False)]
    assert [(hit.version, hit.on_line) for hit in hits(author, "r@2")] == [(1, True), (2, True)]


def test_a_fork_is_searched_with_its_parents(author):
    """Each hit in the run that recorded it; all runs together have each event once."""
    parent = author.add(author.start("r", {"a": "needle"}), Transitioned("a", "a"))
    author.fork(parent, 1, "f", change=(Op("set", ("a",), "needle 2"),))
    author.add(parent, Transitioned("a", "a", change=(Op("set", ("a",), "needle 3"),)))
    author.start("s", {"a": "hay"})
    assert [(hit.run_id, hit.version) for hit in hits(author, "f")] == [("r", 1), ("f", 2)]
    assert sorted((hit.run_id, hit.version) for hit in search_all(author.log, "needle")) == [
        ("f", 2),
        ("r", 1),
        ("r", 3),
    ]
    assert hits(author, "s") == []


def everywhere(event: object, text: str) -> int:
    """In how many places of an event a text stands, by looking at all of it."""

    def inside(value: object) -> int:
        if isinstance(value, str):
            return text in value.casefold()
        if isinstance(value, dict):
            return sum((text in key.casefold()) + inside(item) for key, item in value.items())
        return sum(map(inside, value)) if isinstance(value, list | tuple) else 0

    found = text in type(event).__name__.casefold()
    for one in fields(event):
        value = getattr(event, one.name)
        if one.name == "change":
            found += sum(inside(op.value) for op in value)
        elif isinstance(value, Failure):
            found += inside([value.type, value.message])
        elif one.name != "definition":
            found += inside(value)
    return found


@pytest.mark.parametrize("text", ["needle", "transitioned", "done", "m", "e", "Ünder", "deadline", "pay", "x" * 40])
def test_what_is_found_is_what_a_look_at_every_event_finds(author, text):
    """However little of an event is read: names of types, values that are left out, long ones kept beside it."""
    head = author.start("r", {"a": ["no", "a needle", "x" * 3_000], "ÜNDER": None})
    head = author.add(head, *asked("where is the NEEDLE?" + "x" * 2_000, "needle: here"))
    change = (Op("set", ("b",), freeze({"needle": 1})), Op("set", ("c",), "x" * 3_000), Op("set", ("d",), "ünder" * 30))
    head = author.add(head, Transitioned("a", "a", change=change), Transitioned("a", "needle", "failed", (), BROKE))
    head = author.add(head, SignalReceived("needle", {"m": [1]}, 1), AttemptFailed("needle", 1, BROKE, 5))
    head = author.add(head, WaitOpened("needle", "timer"), WaitClosed("needle", "timeout", message=4))
    head = author.add(head, EffectStarted("pay", "k", "call", True, "x" * 2_000, bytes(32), "ef", undo="unpay"))
    author.add(
        head, RunResumed("needle", b"", freeze({"nodes": {"needle": "m"}}), why="Needle"), RunFailed("needle", BROKE)
    )
    wanted = text.casefold()
    recorded = history(author.log, head.run_key, 1, resolve(author.log, "r").head.version)
    expected = {one.version: places for one in recorded if (places := everywhere(one.event, wanted))}
    assert {hit.version: hit.places for hit in hits(author, "r", text)} == expected


# --- stats ---------------------------------------------------------------------------------------------------------


def test_costs_add_up_by_node(author):
    """Visits, attempts, calls and their failures, tokens, models, and the time between events."""
    head = author.start("r")
    head = author.add(head, *asked("?", "!"))
    head = author.add(head, AttemptFailed("a", 1, BROKE, 5))
    head = author.add(head, EffectStarted("pay", "1", "call", True, None, bytes(32), "k"))
    head = author.add(head, EffectFailed("pay", "1", BROKE), Transitioned("a", "b"))
    author.add(head, Transitioned("b", "a"), RunCompleted("a"))
    found = stats(author.log, resolve(author.log, "r"))
    one, other = found.nodes
    assert (one.node, one.visits, one.attempts, one.calls, one.failed_calls) == ("a", 2, 3, 2, 1)
    assert (one.input_tokens, one.output_tokens, one.models, one.time) == (3, 4, {"m"}, 4 * SECOND)
    assert (other.node, other.visits, other.attempts, other.calls, other.time) == ("b", 1, 1, 0, SECOND)
    assert (found.events, found.time, found.idle) == (9, 5 * SECOND, 0)
    assert stats(author.log, resolve(author.log, "r@3")).events == 3


def test_time_before_a_resume_is_nobody_s(author):
    """And what failed for good and was resumed is another attempt."""
    head = author.add(author.start("r"), RunFailed("a", BROKE))
    author.clock.advance(100)
    author.add(head, RunResumed("a", b""), RunCompleted("a"))
    found = stats(author.log, resolve(author.log, "r"))
    assert (found.time, found.idle) == (102 * SECOND, 101 * SECOND)
    assert [(one.visits, one.attempts, one.time) for one in found.nodes] == [(1, 2, SECOND)]


def test_a_rewound_stretch_was_paid_for(author):
    """So it counts; what a fork's parent paid does not."""
    head = author.add(author.start("r"), Transitioned("a", "b"), *asked("?", "!"))
    head = author.add(author.rewind(head, 1), *asked("?", "!"))
    author.add(author.fork(head, 2, "f"), *asked("?", "!"))
    assert [(one.node, one.visits, one.output_tokens) for one in stats(author.log, resolve(author.log, "r")).nodes] == [
        ("a", 2, 4), ("b", 1, 4),
    ]  # fmt: skip
    assert [(one.node, one.visits, one.calls) for one in stats(author.log, resolve(author.log, "f")).nodes] == [
        ("b", 1, 1)
    ]
    assert stats(author.log, resolve(author.log, "f@1")).nodes == ()


def test_whoever_reports_usage_may_report_anything(author):
    """What is no number is not added, and a clock that jumps back gives no negative time."""
    head = author.start("r")
    start, _ = asked("?", "!")
    head = author.add(
        head, start, EffectFinished("model", "1", 1, freeze({"input_tokens": "many", "output_tokens": True}))
    )
    author.clock.advance(-50)
    author.add(head, RunCompleted("a"))
    (one,) = stats(author.log, resolve(author.log, "r")).nodes
    assert (one.input_tokens, one.output_tokens, one.time) == (0, 0, SECOND)
