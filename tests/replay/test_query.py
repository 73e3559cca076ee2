"""Questions to one history: watch, when, blame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.address import Address, resolve
from eventflow.change import Op
from eventflow.errors import Corrupt, NotFound, SettingsError
from eventflow.event import (
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    RunCompleted,
    RunPaused,
    RunResumed,
    Transitioned,
)
from eventflow.log import Head, MemoryLog
from eventflow.plain import freeze, same, thaw
from eventflow.recovery import line, recover
from eventflow.testing.author import Author
from replay.path import MISSING
from replay.query import answer_text, blame, watch, when


@pytest.fixture
def author() -> Author:
    """A log written by hand, one second an append."""
    return Author(MemoryLog())


def sets(to: str = "a", **values: Any) -> Transitioned:
    """A step that sets fields."""
    return Transitioned("a", to, change=tuple(Op("set", (key,), freeze(value)) for key, value in values.items()))


def asked(text: str, answer: str, key: str = "1", kind: str = "model") -> list[Event]:
    """A call of a model."""
    question = freeze({"model": "m", "messages": [{"role": "user", "content": text}]})
    output = freeze({"choices": [{"message": {"role": "assistant", "content": answer}}]})
    return [EffectStarted("model", key, kind, False, question, bytes(32), "k"), EffectFinished("model", key, output)]


def at(author: Author, text: str) -> Address:
    """What an address means."""
    return resolve(author.log, text)


# --- watch and when, against a scan of every version ---------------------------------------------------------------

small = st.sampled_from([0, 1, 2, None, "", "ab", [], [1], [1, 2], {"k": 1}, {"k": [0]}])
ops = st.one_of(
    st.builds(lambda key, value: Op("set", (key,), freeze(value)), st.sampled_from("xy"), small),
    st.builds(lambda key: Op("delete", (key,)), st.sampled_from("xy")),
    st.builds(
        lambda items: Op("extend", ("list",), freeze(items)), st.lists(st.integers(0, 3), min_size=1, max_size=300)
    ),
    st.builds(lambda number: Op("add", ("n",), number), st.integers(-2, 2)),
    st.builds(lambda value: Op("set", ("deep", "k"), freeze(value)), small),
)
share = st.floats(0, 1)
steps = st.one_of(
    st.tuples(st.just("move"), st.lists(ops, max_size=3)),
    st.tuples(st.just("move"), st.lists(ops, max_size=3)),
    st.tuples(st.just("call"), small),
    st.tuples(st.just("rewind"), share),
    st.tuples(st.just("fork"), share),
)
PATHS: dict[str, Callable[[Any], Any]] = {
    "x": lambda data: data["x"],
    "n": lambda data: data["n"],
    "deep.k": lambda data: data["deep"]["k"],
    "list": lambda data: data["list"],
    "list[-1]": lambda data: data["list"][-1],
    "list[600]": lambda data: data["list"][600],
}
CONDITIONS: dict[str, Callable[[Any], Any]] = {
    "n > 1": lambda data: data["n"] > 1,
    "x == y": lambda data: data["x"] == data["y"],
    "len(list) > 3 and not n == 0": lambda data: len(data["list"]) > 3 and data["n"] != 0,
    "deep.k in [1, 2] or 'ab' == x": lambda data: data["deep"]["k"] in [1, 2] or data.get("x") == "ab",
    "len(x) >= 1": lambda data: isinstance(data["x"], (str, list, dict)) and len(data["x"]) >= 1,
}


def history_of(done: list[tuple[str, Any]]) -> tuple[Author, Head]:
    """A random history: the last of its runs is the one that is asked."""
    author = Author(MemoryLog())
    head = author.start("r0", {"list": [], "n": 0, "deep": {"k": 0}, "y": 1})
    for number, (kind, what) in enumerate(done, 1):
        if kind == "move":
            head = author.add(head, Transitioned("a", "a", change=tuple(what)))
        elif kind == "call":
            head = author.add(head, *asked("?", str(what), key=str(number)))
        else:
            version = max(1, round(what * head.version))
            change = (Op("add", ("n",), 1),)
            head = (
                author.rewind(head, version)
                if kind == "rewind"
                else author.fork(head, version, f"r{number}", change=change)
            )
    return author, head


def scanned(author: Author, head: Head) -> Iterator[tuple[int, Any]]:
    """Every version of a line and its data as ordinary dicts and lists, each folded from the start."""
    for segment in line(author.log, head.run_key, head.version):
        owner = author.log.head_of(segment.run_key)
        assert owner is not None
        for version in range(segment.first, segment.last + 1):
            yield version, thaw(recover(author.log, owner, version, snapshots=False).state.data)


def value_of(data: Any, ask: Callable[[Any], Any]) -> Any:
    """A value by Python's own means."""
    try:
        return ask(data)
    except (KeyError, IndexError, TypeError):
        return MISSING


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=14))
def test_watch_blame_and_when_are_what_a_scan_of_every_version_finds(done):
    """On lines with rewinds and forks, for values of every kind."""
    author, head = history_of(done)
    place, versions = Address(head, head.version), list(scanned(author, head))
    for path, ask in PATHS.items():
        before: Any = MISSING
        expected = []
        for version, data in versions:
            value = value_of(data, ask)
            if not same(before, value):
                expected.append((version, value))
            before = value
        found = [(sight.version, sight.value) for sight in watch(author.log, place, path)]
        assert same([list(one) for one in found], [list(one) for one in expected])
        if before is MISSING:
            with pytest.raises(NotFound):
                blame(author.log, place, path)
        else:
            assert blame(author.log, place, path).written.version == expected[-1][0]
    for text, ask in CONDITIONS.items():
        held = [version for version, data in versions if value_of(data, ask) is True]
        stretches = list(when(author.log, place, text))
        assert [version for one in stretches for version in range(one.first, one.last + 1)] == held
        assert all(one.last + 1 not in held for one in stretches)


# --- watch ---------------------------------------------------------------------------------------------------------


def test_a_sight_names_version_time_node_and_event(author):
    """The node is the one that made the change, not the one it led to."""
    head = author.add(author.start("r", {"x": 1}), sets("b", x=2), RunPaused(), RunResumed("b", b""))
    author.add(head, RunCompleted("b", (Op("delete", ("x",)),)))
    sights = list(watch(author.log, at(author, "r"), "x"))
    assert [(one.version, one.node, one.event, one.value) for one in sights] == [
        (1, "a", "RunStarted", 1), (2, "a", "Transitioned", 2), (5, "b", "RunCompleted", MISSING),
    ]  # fmt: skip
    assert sights[1].time - sights[0].time == 1_000_000_000


def test_what_a_rewind_left_is_not_on_the_line(author):
    """Nor is what came after the version that is asked about."""
    head = author.add(author.start("r", {"x": 1}), sets(x=2))
    author.add(author.rewind(head, 1), sets(x=3))
    assert [one.value for one in watch(author.log, at(author, "r"), "x")] == [1, 3]
    assert [one.value for one in watch(author.log, at(author, "r@2"), "x")] == [1, 2]


def test_a_damaged_history_is_not_answered_from(author):
    """The chain is checked on the way, as in every recovery."""
    author.add(author.start("r", {"x": 1}), sets(x=2))
    place = at(author, "r")
    stored = author.log.read(place.head.run_key, 1, 2)
    real = author.log.read
    broken = [stored[0], type(stored[1])(stored[1].position, stored[1].data[:-1] + b"\0")]
    author.log.read = lambda key, first, last: (
        [broken[v - 1] for v in range(first, last + 1)] if key else real(key, 1, 1)
    )
    with pytest.raises(Corrupt):
        list(watch(author.log, place, "x"))


def test_a_path_that_is_none_is_refused_at_once(author):
    """Before the history is read, and so is an expression that is none."""
    author.start("r")
    for ask in (watch, blame, when):
        with pytest.raises(SettingsError):
            ask(author.log, at(author, "r"), "a..b")


# --- when ----------------------------------------------------------------------------------------------------------


def test_a_stretch_ends_at_a_gap_of_the_line(author):
    """Versions that a rewind left behind are in no stretch, though the condition holds before and after."""
    head = author.add(author.start("r", {"x": 1}), sets(x=1), sets(x=5))
    author.rewind(head, 2)
    stretches = list(when(author.log, at(author, "r"), "x == 1"))
    assert [(one.first, one.last) for one in stretches] == [(1, 2), (4, 4)]
    assert (stretches[0].event, stretches[0].node, stretches[1].event) == ("RunStarted", "a", "Rewound")


# --- blame ---------------------------------------------------------------------------------------------------------


def test_the_call_of_the_visit_that_wrote_is_to_blame(author):
    """With what it was asked and what it answered."""
    head = author.add(author.start("r", {"x": ""}), *asked("What?", "That."), sets(x="That."))
    author.add(head, *asked("Other?", "Else."), sets(y="Else."))
    found = blame(author.log, at(author, "r"), "x")
    assert (found.run_id, found.written.version, found.written.event) == ("r", 4, "Transitioned")
    assert found.call is not None
    assert (found.call.started, found.call.finished, found.call.quoted) == (2, 3, True)
    assert found.call.input["messages"][0]["content"] == "What?"
    assert answer_text(found.call.output) == "That."


def test_of_several_calls_the_one_that_is_quoted_is_to_blame(author):
    """Else the last, and that is said; calls of other kinds write nothing by themselves."""
    calls = [*asked("1?", "one", "1"), *asked("2?", "two", "2"), *asked("3?", "three", "3", kind="tool")]
    author.add(author.start("r"), *calls, sets(x=["said: one"], y=7))
    place = at(author, "r")
    quoted, other = blame(author.log, place, "x[0]").call, blame(author.log, place, "y").call
    assert quoted is not None
    assert other is not None
    assert (quoted.key, quoted.quoted) == ("1", True)
    assert (other.key, other.quoted) == ("2", False)


def called(output: Any, key: str = "1", attempt: int = 1, **more: Any) -> list[Event]:
    """A call of a function."""
    asked_for = freeze({"city": "Oslo"})
    return [
        EffectStarted("fetch", key, "call", False, asked_for, bytes(32), "k", attempt),
        EffectFinished("fetch", key, freeze(output), **more),
    ]


@pytest.mark.parametrize(
    ("output", "value", "sign"),
    [
        ({"temperature": -3.5}, {"temperature": -3.5}, "same"),
        ("14 degrees", "14 degrees", "same"),
        ("14 degrees", ["Oslo: 14 degrees"], "quoted"),
        (["a", "b"], ["x", "a", "b"], "quoted"),
        ({"id": 7}, [{"kept": {"id": 7}}], "quoted"),
        ({"temperature": -3.5, "wind": 2}, -3.5, "part"),
        (["a", "b", "c"], ["b", "c"], "part"),
        ("it has 14 degrees now", "14 degrees", "part"),
        ({"ok": True, "n": 1}, 1, None),
        ({"ok": True}, True, None),
        ("", "", None),
        (None, None, None),
        ("abc", "ab", None),
        ([], [], None),
        ([1, 2, 3], [3, 2], None),
    ],
)
def test_a_call_of_any_kind_is_to_blame_where_its_result_and_the_value_are_seen_in_each_other(
    author, output, value, sign
):
    """What it rests on is said; what is equal by chance, such as a digit or nothing at all, is no sign."""
    author.add(author.start("r"), *called(output), sets(x=value))
    found = blame(author.log, at(author, "r"), "x")
    assert (None if found.call is None else found.call.sign) == sign
    assert [(one.name, one.key, one.kind) for one in found.calls] == [("fetch", "1", "call")]


def test_the_attempt_that_gave_the_result_is_named(author):
    """With its key, who said what came back, and what answered in its place."""
    again = called("much later", "b", 3, actor="ann")
    author.add(author.start("r"), called("never")[0], *called("much later"), *again, sets(x="much later"))
    call = blame(author.log, at(author, "r"), "x").call
    assert call is not None
    assert (call.key, call.attempt, call.actor, call.started, call.finished) == ("b", 3, "ann", 5, 6)
    assert thaw(call.input) == {"city": "Oslo"}


def test_the_best_sign_goes_before_the_last_call(author):
    """A result that is the value speaks louder than one in which it stands, whatever came later."""
    calls = [*called("14 degrees", "1"), *called({"text": "14 degrees", "of": "Oslo"}, "2"), *asked("?", "Else.")]
    author.add(author.start("r"), *calls, sets(x="14 degrees"))
    call = blame(author.log, at(author, "r"), "x").call
    assert call is not None
    assert (call.key, call.sign) == ("1", "same")


def test_a_refused_answer_and_an_earlier_visit_are_not_to_blame(author):
    """Only finished calls of the very visit count."""
    head = author.add(author.start("r"), *asked("?", "no"), EffectRejected("model", "1"), sets(x="no"))
    assert blame(author.log, at(author, "r"), "x").call is None
    author.add(author.add(head, *asked("?", "yes"), sets(y=1)), sets(x="yes"))
    assert blame(author.log, at(author, "r"), "x").call is None


def test_the_input_and_a_fork_can_be_to_blame(author):
    """Each in the run it was recorded in."""
    parent = author.add(author.start("r", {"x": 1, "y": 1}), sets(z=1))
    author.fork(parent, 2, "f", change=(Op("set", ("y",), 2),))
    place = at(author, "f")
    told = [(blame(author.log, place, path)) for path in ("x", "y")]
    assert [(one.run_id, one.written.event, one.written.version) for one in told] == [
        ("r", "RunStarted", 1), ("f", "Forked", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain", "plain"), ({"choices": [{"message": {"content": "x"}}]}, "x"), ({"choices": []}, ""), ({"choices": [3]}, ""),
        ({"choices": [{"message": {"content": None}}]}, ""), (None, ""), ({"a": 1}, ""), ([1], ""),
    ],
)  # fmt: skip
def test_the_text_of_an_answer(output, text):
    """As the OpenAI protocol has it, or a text itself; whatever else was recorded has none."""
    assert answer_text(output) == text
