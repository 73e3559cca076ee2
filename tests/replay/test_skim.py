"""Events read only as far as a question needs: the answers are those of folding everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.address import Address
from eventflow.change import Op
from eventflow.codec import Packed
from eventflow.codec.events import SHAPES
from eventflow.errors import Corrupt, WrittenByNewer
from eventflow.event import (
    BranchesOpened,
    BranchFinished,
    EffectFinished,
    EffectStarted,
    Forked,
    Rewound,
    RunEvent,
    RunPaused,
    RunResumed,
    RunStarted,
    Transitioned,
)
from eventflow.log import Append, Head, MemoryLog
from eventflow.plain import freeze, same, thaw
from eventflow.recovery import walk
from eventflow.testing.author import Author, written
from replay import skim
from replay.query import blame, watch, when
from replay.search import search, search_all, stats

LONG = "The tide comes in twice a day, and nobody has to tell it when. "  # long enough to be squeezed, and in a blob
values = st.sampled_from(
    [0, 1, 0.5, None, "x", "Straße", "\u017fpring", [1, 2], {"x": "Moon"}, LONG * 5, LONG * 20, [LONG * 17]]
)
ops = st.one_of(
    st.builds(lambda key, value: Op("set", (key,), freeze(value)), st.sampled_from(["x", "other", "xx"]), values),
    st.builds(lambda key, value: Op("set", ("deep", key), freeze(value)), st.sampled_from(["x", "k"]), values),
    st.builds(lambda value: Op("merge", ("deep",), freeze({"m": value, "x": 1})), values),
    st.builds(lambda value: Op("extend", ("list",), freeze([value])), values),
    st.builds(lambda number: Op("add", ("n",), number), st.integers(-2, 2)),
)
share = st.floats(0, 1)
steps = st.one_of(
    st.tuples(st.just("move"), st.lists(ops, max_size=3)),
    st.tuples(st.just("call"), values),
    st.tuples(st.just("stop"), st.none()),
    st.tuples(st.just("migrate"), st.lists(ops, max_size=3)),
    st.tuples(st.just("split"), values),
    st.tuples(st.just("rewind"), share),
    st.tuples(st.just("fork"), share),
)
FIELDS = [{"x"}, {"deep"}, {"n", "list"}, {"absent"}, set()]
PATHS = ["x", "deep.x", "list[-1]", "n"]
CONDITIONS = ["n > 0", "x == 'x' or len(list) > 1", "1 < 2", "absent == 1", "not deep.x"]
TEXTS = [
    "x",
    "tide",
    "STRASSE",
    "spring",
    "done",
    "Transitioned",
    "\u017f",
    "moon",
    "user",
    "model-a",
    "nothing at all",
]


def history_of(done: list[tuple[str, Any]]) -> tuple[Author, Head]:
    """A random history with bends; the last of its runs is the one that is asked."""
    author = Author(MemoryLog())
    head = author.start("r0", {"list": [], "n": 0, "deep": {"k": 0}})
    for number, (kind, what) in enumerate(done, 1):
        if kind == "move":
            head = author.add(head, Transitioned("a", "a", change=tuple(what)))
        elif kind == "call":
            asked = freeze({"model": "model-a", "messages": [{"role": "user", "content": what}]})
            head = author.add(
                head, EffectStarted("model", str(number), "model", False, asked, bytes(32), "k"),
                EffectFinished("model", str(number), freeze(what), freeze({"input_tokens": 2})),
            )  # fmt: skip
        elif kind == "stop":
            head = author.add(head, RunPaused(), RunResumed("a", b""))
        elif kind == "migrate":
            head = author.add(head, RunResumed("a", b"", change=tuple(what)))
        elif kind == "split" and author.state(head).branches is None:  # a rewind may have led into a split
            head = author.add(
                head, BranchesOpened("a", freeze(["one"])), BranchFinished("a", "one", freeze({"x": what})),
                Transitioned("a", "a", change=(Op("set", ("x",), freeze(what)),)),
            )  # fmt: skip
        elif kind == "rewind":
            head = author.rewind(head, max(1, round(what * head.version)))
        elif kind == "fork":
            head = author.fork(head, max(1, round(what * head.version)), f"r{number}", change=(Op("add", ("n",), 1),))
    return author, head


def folded(author: Author, head: Head, names: set[str]) -> Iterator[tuple[int, Any]]:
    """Each version of a line with a few fields of its state, by folding whole states."""
    for recorded, state in walk(author.log, head, head.version):
        yield recorded.version, {name: thaw(state.data[name]) for name in state.data if name in names}


@settings(max_examples=80, deadline=None)
@given(st.lists(steps, max_size=14), st.sampled_from(FIELDS))
def test_fields_that_are_followed_are_those_of_folded_states(done, names):
    """At every version, on lines with rewinds and forks, whatever the changes are stored as."""
    author, head = history_of(done)
    found = {one.version: one for one in skim.moments(author.log, Address(head, head.version), frozenset(names))}
    data: Any = None
    previous = 0
    for version, expected in folded(author, head, names):
        if version in found:
            data = {name: thaw(found[version].data[name]) for name in found[version].data if name in names}
            assert found[version].previous == previous
        assert same(data, expected)
        assert version in found or version == previous + 1
        previous = version


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_answers_do_not_depend_on_what_can_be_skimmed(done):
    """With a layout that it does not know, everything goes through the codec and the walk, and comes out the same."""
    author, head = history_of(done)
    quick = answers(author, head)
    for name, value in (("LAYOUT", 99), ("_QUIET", frozenset())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(skim, name, value)
            assert answers(author, head) == quick


def answers(author: Author, head: Head) -> list[Any]:
    """Everything that is asked of a history, as text: values are told apart by their types too."""
    log, place = author.log, Address(head, head.version)
    found: list[Any] = [list(watch(log, place, path)) for path in PATHS]
    found += [list(when(log, place, condition)) for condition in CONDITIONS]
    found += [blame(log, place, "n"), stats(log, place)]
    found += [list(search(log, place, text)) for text in TEXTS]
    found += [list(search_all(log, text)) for text in TEXTS]
    return list(map(repr, found))


def test_every_fact_is_known_to_change_data_or_not():
    """A fact that is in neither set would make each question fold whole states."""
    bends = {RunStarted, Rewound, Forked}
    assert {*skim._MOVES} | skim._QUIET | bends == {*get_args(RunEvent)}
    assert {kind for kind in get_args(RunEvent) if hasattr(kind, "change")} == {*skim._MOVES, Forked}


def test_a_fact_that_a_newer_eventflow_wrote_stops_a_question():
    """It is not skipped, though its bytes say nothing of the field that is asked about."""
    author = Author(MemoryLog())
    head = author.add(author.start("r", {"x": 1}), Transitioned("a", "a"))
    newer = next(code for code in range(1, 128) if code not in {shape.code for shape in SHAPES.values()})
    packed = Packed(newer, 0, {}, b"\x80")
    now = author.clock.now()
    answer = written(
        author.log,
        Append(head.run_id, head.run_key, head.incarnation, head.version, head.epoch, (packed,), now, "running"),
    )
    place = Address(answer.head, answer.head.version)
    for ask in (lambda: list(watch(author.log, place, "x")), lambda: stats(author.log, place)):
        with pytest.raises(WrittenByNewer):
            ask()


def test_a_link_that_is_broken_anywhere_stops_a_question():
    """Each event's digest is taken, also of those whose bodies are not looked at."""
    author = Author(MemoryLog())
    head = author.start("r", {"x": 1})
    head = author.add(head, *(Transitioned("a", "a", change=(Op("set", ("y",), number),)) for number in range(9)))
    place, real = Address(head, head.version), author.log.read

    def read(key, first, last):
        found = real(key, first, last)
        return [
            type(one)(one.position, one.data.replace(b"\x61y\x04", b"\x61y\x05"))
            if one.data.count(b"\x61y\x04")
            else one
            for one in found
        ]

    author.log.read = read
    with pytest.raises(Corrupt, match="chain"):
        list(watch(author.log, place, "x"))
