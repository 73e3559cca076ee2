"""What replay tells of runs whose history begins late: no more than is left, and nothing that is not so."""

from __future__ import annotations

import asyncio

import pytest

from eventflow import Engine, MemoryLog, SystemClock, Workflow
from eventflow.address import resolve
from eventflow.retention import compact_run
from replay.family import family
from replay.fork import fork, lineage
from replay.history import History
from replay.query import blame, watch, when


@pytest.fixture
def log():
    """A run `r` of four events that was compacted to its third, and a fork `f` of another that was compacted to its own first."""

    async def tell():
        flow = Workflow("w").add_node("a", lambda state: {"n": 1}).add_node("b", lambda state: {"m": 2})
        flow.add_node("c", lambda state: {"k": 3}).add_edge("a", "b").add_edge("b", "c").set_start("a")
        log = MemoryLog()
        async with Engine(log, workflows=[flow]) as engine:
            for name in ("r", "p"):
                await (await engine.start(flow, {}, run_id=name)).result()
            await engine.fork("p@2", run_id="f", drive=False)
        compact_run(log, SystemClock(), "r", 3)
        compact_run(log, SystemClock(), "f", 3)
        return log

    return asyncio.run(tell())


@pytest.mark.parametrize(("run", "node"), [("r", "c"), ("f", "b")])
def test_what_was_there_already_is_put_down_to_the_compaction(log, run, node):
    """Not to the event it was compacted to, which may have set something else; blame asks for nothing before it."""
    place = resolve(log, run)
    found = blame(log, place, "n").written
    assert (found.version, found.event, found.node, found.value) == (3, "RunCompacted", node, 1)
    assert [(one.version, one.event) for one in watch(log, place, "n")] == [(3, "RunCompacted")]
    assert next(when(log, place, "n == 1")).first == 3


def test_the_history_of_a_compacted_fork_is_read_from_where_it_begins(log):
    """What it continued is its own no more."""
    head = resolve(log, "f").head
    assert [(one.version, one.type) for one in History(log, head).upto(head)] == [(3, "Forked")]
    head = resolve(log, "r").head
    assert [(one.version, one.type) for one in History(log, head).upto(head)] == [
        (3, "Transitioned"),
        (4, "RunCompleted"),
    ]


def test_a_compacted_run_can_be_forked_and_has_a_family(log):
    """Whether it is a what-if run is asked of the state that it begins with."""
    head = fork(log, SystemClock(), resolve(log, "r@3"), run_id="new")
    assert [(one.run_id, one.what_if) for one in lineage(log, head)] == [("r", False), ("new", False)]
    assert [one.head.run_id for one in family(log, head)] == ["r", "new"]
