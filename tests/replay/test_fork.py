"""Branching a history."""

from __future__ import annotations

import contextlib

import pytest

from eventflow.address import resolve
from eventflow.change import Op
from eventflow.errors import NotResumable, RunExists, SettingsError
from eventflow.event import Forked, RunCompleted, Transitioned
from eventflow.log import LmdbLog, MemoryLog
from eventflow.plain import freeze
from eventflow.recovery import history, recover
from eventflow.testing.author import Author
from eventflow.what_if import EffectPolicy
from replay.fork import MAX_KIN, edited, fork, lineage
from replay.path import parse_path

DATA = {"topic": "tides", "deep": {"list": [1, {"k": 2}], "b": 1}, "long": list(range(700))}


@pytest.fixture
def author() -> Author:
    """A log with the run `r`, at version 3 over."""
    author = Author(MemoryLog())
    author.add(author.start("r", DATA), Transitioned("a", "b"), RunCompleted("b"))
    return author


def sets(**values):
    """Assignments by path."""
    return [(parse_path(path), value) for path, value in values.items()]


def test_a_fork_is_one_event_and_the_smallest_change(author):
    """Whatever the state weighs; the parent is not touched."""
    place, before = resolve(author.log, "r@2"), author.log.position()
    head = fork(author.log, author.clock, place, sets=sets(topic="moons"), run_id="f", why="what if")
    assert (head.run_id, head.version, author.log.position()) == ("f", 3, before + 1)
    (recorded,) = history(author.log, head.run_key, 1, head.version)
    event = recorded.event
    assert isinstance(event, Forked)
    assert (event.parent_id, event.at, event.why) == ("r", 2, "what if")
    assert event.change == (Op("set", ("topic",), "moons"),)
    assert recover(author.log, head).state.data == {**DATA, "topic": "moons"}
    assert recover(author.log, resolve(author.log, "r").head).state.data == DATA


@pytest.mark.parametrize("length", [10, 1_000, 20_000])
def test_a_fork_grows_the_file_by_a_few_pages_whatever_the_length(tmp_path, length):
    """At most eight, from its begin, its middle and its end, what-if runs too."""
    with contextlib.closing(LmdbLog(tmp_path / "store")) as log:
        author = Author(log)
        head = author.start("r", {"n": 0, "text": "x" * 3_000})
        step = Transitioned("a", "a", change=(Op("add", ("n",), 1),))
        while head.version < length:
            head = author.add(head, *[step] * min(500, length - head.version))
        vouch = author.snapshot(head)
        head = author.add(head, step, vouch=vouch)
        file = tmp_path / "store" / "data.1" / "data.mdb"
        for at, policy in ((1, None), (length // 2, EffectPolicy(live=["*"], mock={"pay": 1})), (length, None)):
            before = file.stat().st_size
            fork(log, author.clock, resolve(log, f"r@{at}"), sets=sets(n=5), effects=policy)
            assert file.stat().st_size - before <= 8 * 4_096


def test_without_an_id_it_gets_a_fresh_one(author):
    """And without a value set it changes nothing."""
    heads = [fork(author.log, author.clock, resolve(author.log, "r@1")) for _ in range(2)]
    assert heads[0].run_id != heads[1].run_id
    assert recover(author.log, heads[0]).state.data == DATA


@pytest.mark.parametrize(
    ("path", "value", "update"),
    [
        ("topic", None, {"topic": None}),
        ("new", [1], {"new": [1]}),
        ("deep.b", 5, {"deep": {"list": [1, {"k": 2}], "b": 5}}),
        ("deep.new", 5, {"deep": {"list": [1, {"k": 2}], "b": 1, "new": 5}}),
        ("deep.list[0]", 9, {"deep": {"list": [9, {"k": 2}], "b": 1}}),
        ("deep.list[-1].k", 9, {"deep": {"list": [1, {"k": 9}], "b": 1}}),
        ("long[699]", 0, {"long": [*range(699), 0]}),
    ],
)
def test_a_value_is_set_at_a_path(path, value, update):
    """Through keys and into lists; a last key may be new."""
    assert edited(freeze(DATA), [(parse_path(path), value)]) == update


def test_values_are_set_in_order():
    """A later one sees what an earlier one set."""
    done = edited(freeze(DATA), [(("new",), {}), (("new", "x"), [0]), (("new", "x", 0), 1), (("deep", "b"), 2)])
    assert done == {"new": {"x": [1]}, "deep": {"list": [1, {"k": 2}], "b": 2}}


@pytest.mark.parametrize(
    "path", ["absent.x", "topic.x", "topic[0]", "deep.list[2]", "deep.list.x", "deep[0]", "deep.b.c"]
)
def test_a_path_that_leads_nowhere_is_refused(author, path):
    """And nothing is written."""
    before = author.log.position()
    with pytest.raises(SettingsError, match="nothing can be set at"):
        fork(author.log, author.clock, resolve(author.log, "r@2"), sets=[(parse_path(path), 1)])
    assert author.log.position() == before


def test_a_run_that_is_over_and_an_id_that_is_taken_are_refused(author):
    """As everywhere."""
    with pytest.raises(NotResumable):
        fork(author.log, author.clock, resolve(author.log, "r@3"))
    with pytest.raises(RunExists):
        fork(author.log, author.clock, resolve(author.log, "r@1"), run_id="r")


def test_a_family_is_a_tree(author):
    """From whichever of its runs it is asked: parents before their forks, those of earlier versions first."""
    log, clock = author.log, author.clock
    fork(log, clock, resolve(log, "r@2"), run_id="b")
    fork(log, clock, resolve(log, "r@1"), run_id="a")
    fork(log, clock, resolve(log, "b@3"), run_id="c")
    fork(log, clock, resolve(log, "b@1"), run_id="d")  # a version that is the parent's
    author.start("other")
    expected = [("r", 0, 0), ("a", 1, 1), ("b", 2, 1), ("d", 1, 2), ("c", 3, 2)]
    for name in ("r", "a", "c"):
        assert [(kin.run_id, kin.at, kin.depth) for kin in lineage(log, resolve(log, name).head)] == expected


def test_a_large_family_is_cut(author):
    """A tree that nobody reads to its end is not gathered to its end."""
    for number in range(MAX_KIN + 5):
        fork(author.log, author.clock, resolve(author.log, "r@1"), run_id=f"f{number}")
    assert len(lineage(author.log, resolve(author.log, "r").head)) == MAX_KIN
