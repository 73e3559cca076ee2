"""A run's family: forks, children, whoever started whom."""

from __future__ import annotations

import asyncio

from eventflow import Engine, MemoryLog, Workflow
from eventflow.address import resolve
from eventflow.event import Transitioned, WaitOpened
from eventflow.testing.author import Author
from eventflow.workflow import Child
from replay.family import MAX_FAMILY, children, family

INNER = Workflow("inner").add_node("only", lambda state: {"done": True}).set_start("only")
OUTER = (
    Workflow("outer")
    .add_node("part", Child(INNER))
    .add_node("end", lambda state: {})
    .add_edge("part", "end")
    .set_start("part")
)


def told(log, run):
    """How each member came about, in order."""
    return [(one.head.run_id, one.how, one.at, one.depth) for one in family(log, log.head(run))]


def test_children_stand_below_the_run_that_started_them():
    """And forks below theirs; from whichever member it is asked."""
    log = MemoryLog()

    async def drive():
        async with Engine(log, workflows=[OUTER, INNER]) as engine:
            await (await engine.start(OUTER, {}, run_id="r")).wait()
            await (await engine.fork("r@1", run_id="f")).wait()

    asyncio.run(drive())
    listed = told(log, "r")
    assert [(how, depth) for _, how, _, depth in listed] == [("root", 0), ("fork", 1), ("child", 2), ("child", 1)]
    (child,) = [head.run_id for _, head in children(log, resolve(log, "r"))]
    assert listed[-1][0] == child
    assert told(log, child) == told(log, "f") == listed


def test_a_run_that_only_has_the_name_of_a_child_is_none():
    """Its first event must name who started it."""
    author = Author(MemoryLog())
    author.start("impostor")
    head = author.add(author.start("r"), WaitOpened("a", "child", "impostor"), WaitOpened("a", "child", "absent"))
    assert list(children(author.log, resolve(author.log, "r"))) == []
    assert told(author.log, head.run_id) == [("r", "root", 0, 0)]
    assert told(author.log, "impostor") == [("impostor", "root", 0, 0)]


def test_a_large_family_is_cut():
    """A tree that nobody reads to its end is not gathered to its end."""
    author = Author(MemoryLog())
    head = author.add(author.start("r"), Transitioned("a", "a"))
    for number in range(MAX_FAMILY + 5):
        author.fork(head, 1, f"f{number}")
    assert len(family(author.log, head)) == MAX_FAMILY
