"""How far a run is: shares, times left, and why something is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import CheckpointPolicy, Engine, ManualClock, MemoryLog, Wait, Workflow
from eventflow.errors import RunNotFound
from eventflow.progress import EARLIER, longest_way, progress, progress_at
from eventflow.progress import Progress as Known
from eventflow.recovery import recover

QUIET = CheckpointPolicy(auto=False, on_error=False, at_shutdown=False)
Edges = Sequence[tuple[str, str]]


def lasting(clock: ManualClock, seconds: float, change: Any = None) -> Any:
    """A body that takes its time."""

    async def body(state: Any) -> dict[str, Any]:
        clock.advance(seconds)
        return change or {}

    return body


def line(clock: ManualClock, *seconds: float, name: str = "line") -> Workflow:
    """Nodes n0, n1 … in a row, each of which takes its time."""
    flow = Workflow(name)
    for number, each in enumerate(seconds):
        flow.add_node(f"n{number}", lasting(clock, each))
        if number:
            flow.add_edge(f"n{number - 1}", f"n{number}")
    return flow.set_start("n0")


def ran(log: MemoryLog, clock: ManualClock, flow: Workflow, *names: str, upto: str | None = None) -> None:
    """Drive runs to their ends, one after another; then take each back, so that it stands before a node."""

    async def work() -> None:
        async with Engine(log, workflows=[flow], clock=clock, checkpoints=QUIET) as engine:
            for name in names:
                await (await engine.start(flow, {}, run_id=name)).wait()
                if upto is not None:
                    await (await engine.resume(name, at=1, stop_before=[upto])).wait()

    asyncio.run(work())


def stands(log: MemoryLog, clock: ManualClock, flow: Workflow, name: str, before: str) -> None:
    """A run that stands before a node, let go by its engine."""
    ran(log, clock, flow, name, upto=before)


@pytest.fixture
def log() -> MemoryLog:
    """A store in memory."""
    return MemoryLog()


# --- the share -----------------------------------------------------------------------------------------------------


def test_a_completed_run_is_done(log, clock):
    """All of what it did, nothing left, nothing to explain."""
    ran(log, clock, line(clock, 1, 1, 1), "r")
    assert progress(log, "r") == Known("n2", 3, 3, 100.0, 0.0)


@pytest.mark.parametrize(("before", "done", "percent"), [("n1", 1, 25.0), ("n2", 2, 50.0), ("n3", 3, 75.0)])
def test_a_run_in_the_middle_has_its_share_behind_it(log, clock, before, done, percent):
    """The visits that are over, of those there will be."""
    stands(log, clock, line(clock, 1, 1, 1, 1), "r", before)
    found = progress(log, "r")
    assert (found.node, found.done, found.total, found.percent) == (before, done, 4, percent)


def test_the_longest_way_is_what_counts(log, clock):
    """Of two ways to an end the one with more nodes; a shorter one taken only brings the end nearer."""
    flow = Workflow("w")
    for name in ("a", "b", "c", "end"):
        flow.add_node(name, lambda s: {})
    flow.add_edge("a", "end", when=lambda s: s.get("short")).add_edge("a", "b").add_edge("b", "c").add_edge("c", "end")
    flow.set_start("a")
    stands(log, clock, flow, "r", "b")
    assert progress(log, "r").total == 4
    assert progress_at(log, log.head("r"), recover(log, log.head("r"), 1).state).total == 4

    async def short() -> None:
        async with Engine(log, workflows=[flow], checkpoints=QUIET) as engine:
            await (await engine.start(flow, {"short": True}, run_id="s")).wait()

    asyncio.run(short())
    assert progress(log, "s") == Known("end", 2, 2, 100.0, 0.0)


def test_a_loop_behind_counts_and_a_loop_ahead_is_not_guessed(log, clock):
    """Where the run may come by again, percent and time are None, and the reason names the node."""
    flow = Workflow("w")
    for name in ("a", "b", "c", "d"):
        flow.add_node(name, lasting(clock, 1, {"n": 1}))
    flow.add_edge("a", "b").add_edge("b", "a", when=lambda s: False).add_edge("b", "c").add_edge("c", "d").set_start(
        "a"
    )
    stands(log, clock, flow, "r", "c")
    before = recover(log, log.head("r"), 1).state
    ahead = progress_at(log, log.head("r"), before)
    assert (ahead.percent, ahead.total, ahead.left_seconds) == (None, None, None)
    assert "a loop through node 'a' lies ahead" in ahead.why
    found = progress(log, "r")
    assert (found.done, found.total, found.percent) == (2, 4, 50.0)


def test_a_node_that_says_itself_where_it_leads_is_not_guessed(log, clock):
    """Targets of `Go` are no edges, and the record does not hold them."""
    flow = Workflow("w").add_node("a", Wait(signal="go", writes="x"), targets=["b"])
    flow.add_node("b", lambda s: {}).set_start("a")

    async def work() -> None:
        async with Engine(log, workflows=[flow], checkpoints=QUIET) as engine:
            await engine.start(flow, {}, run_id="r")

    asyncio.run(work())
    assert progress(log, "r") == Known("a", 0, why="node 'a' itself says where it leads")


def test_edges_of_errors_and_timeouts_are_not_the_way(log, clock):
    """They may lead back as often as they like: the share is that of a run that succeeds."""
    flow = Workflow("w").add_node("a", lambda s: {}).add_node("b", lambda s: {}).add_edge("a", "b")
    flow.add_edge("b", "a", on="failed").set_start("a")
    stands(log, clock, flow, "r", "b")
    assert progress(log, "r").percent == 50.0


def test_a_failed_run_says_how_far_it_came(log, clock):
    """Its share as it was, no time left, and that it has ended."""
    flow = Workflow("w").add_node("a", lambda s: {}).add_node("b", lambda s: 1 / 0).add_edge("a", "b").set_start("a")
    ran(log, clock, flow, "r")
    assert progress(log, "r") == Known("b", 1, 2, 50.0, None, "it has ended (failed)")


def test_only_what_is_on_the_line_counts(log, clock):
    """After a rewind the visits that were left behind are to be made again, and a fork has its parent's behind it."""
    flow = line(clock, 1, 1, 1)
    ran(log, clock, flow, "r")
    stands(log, clock, flow, "s", "n1")
    assert progress(log, "s").done == 1

    async def fork() -> None:
        async with Engine(log, workflows=[flow], clock=clock, checkpoints=QUIET) as engine:
            await engine.fork("r@3", run_id="f", drive=False)

    asyncio.run(fork())
    assert (progress(log, "f").done, progress(log, "f").total) == (2, 3)


def test_a_history_too_long_to_count_says_so(log, clock, monkeypatch):
    """Rather than reading for minutes."""
    monkeypatch.setattr("eventflow.progress.MAX_EVENTS", 3)
    flow = line(clock, 1, 1, 1)
    ran(log, clock, flow, "r")
    found = progress(log, "r")
    assert (found.percent, found.total) == (100.0, None)
    assert "more than 3 events" in found.why


def test_a_run_that_is_not_there_is_not_found(log):
    """As everywhere."""
    with pytest.raises(RunNotFound):
        progress(log, "nobody")


# --- the time ------------------------------------------------------------------------------------------------------


def test_the_time_left_is_the_median_of_earlier_runs(log, clock):
    """For each node ahead, the one it stands on less what is over already."""
    for seconds in ((1, 2, 40), (1, 4, 20), (1, 300, 30)):
        ran(log, clock, line(clock, *seconds), f"r{seconds[1]}")
    stands(log, clock, line(clock, 1, 1, 1), "now", "n1")
    # "now" has completed once before it was taken back; what it took itself does not tell about its rest
    assert progress(log, "now").left_seconds == 4 + 30
    clock.advance(3)
    assert progress(log, "now", now=clock.now()).left_seconds == 1 + 30
    clock.advance(300)
    assert progress(log, "now", now=clock.now()).left_seconds == 30


def test_without_earlier_runs_the_time_is_not_known(log, clock):
    """The share is; and the reason names the node that nothing is known of."""
    stands(log, clock, line(clock, 1, 1), "r", "n1")
    found = progress(log, "r")
    assert (found.percent, found.left_seconds) == (50.0, None)
    assert found.why == "no earlier run tells how long node 'n1' takes"


def test_other_workflows_and_unfinished_runs_tell_nothing(log, clock):
    """Only completed runs of the same workflow count."""
    ran(log, clock, line(clock, 1, 1, name="other"), "o")
    stands(log, clock, line(clock, 1, 1), "unfinished", "n1")
    stands(log, clock, line(clock, 1, 1), "r", "n1")
    assert progress(log, "r").left_seconds is None


def test_only_the_newest_earlier_runs_are_asked(log, clock):
    """What a workflow took long ago is forgotten."""
    ran(log, clock, line(clock, 500, 500), *(f"old{number}" for number in range(EARLIER)))
    ran(log, clock, line(clock, 1, 1), *(f"new{number}" for number in range(EARLIER)))
    stands(log, clock, line(clock, 1, 1), "r", "n1")
    assert progress(log, "r").left_seconds == 1


def test_a_stop_in_between_is_not_a_node_s_time(log, clock):
    """A run that lay still for a day and was taken up again took what it took after that."""
    flow = line(clock, 1, 1)

    async def work() -> None:
        async with Engine(log, workflows=[flow], clock=clock, checkpoints=QUIET) as engine:
            run = await engine.start(flow, {}, run_id="r")
            await run.wait()
            await (await engine.resume("r", at=1, stop_before=["n1"])).wait()
        clock.advance(86_400)
        async with Engine(log, workflows=[flow], clock=clock, checkpoints=QUIET, pick_up=True) as engine:
            await engine.get("r").wait()

    asyncio.run(work())
    stands(log, clock, flow, "s", "n1")
    assert progress(log, "s").left_seconds == 1


def test_very_long_earlier_runs_are_left_out(log, clock, monkeypatch):
    """Asking how far a run is must not read a store from end to end."""
    ran(log, clock, line(clock, 1, 1), "earlier")
    stands(log, clock, line(clock, 1, 1), "r", "n1")
    monkeypatch.setattr("eventflow.progress.MAX_EARLIER", 3)  # events, as many as the earlier run has
    assert progress(log, "r").left_seconds == 1
    monkeypatch.setattr("eventflow.progress.MAX_EARLIER", 2)
    assert progress(log, "r").left_seconds is None


def test_a_run_does_not_foretell_itself(log, clock):
    """Looked back at, a run tells what was known then of its rest: nothing, if there was none before it."""
    ran(log, clock, line(clock, 1, 1), "r")
    head = log.head("r")
    assert progress_at(log, head, recover(log, head, 2).state).left_seconds is None
    ran(log, clock, line(clock, 1, 5), "other")
    assert progress_at(log, head, recover(log, head, 2).state).left_seconds == 5


# --- the longest way -----------------------------------------------------------------------------------------------

NAMES = [f"n{number}" for number in range(7)]


def shape(edges: Edges) -> dict[str, Any]:
    """A definition as it is recorded, of edges that success takes."""
    sources = {source for source, _ in edges}
    return {
        "edges": [[source, target, "done", ""] for source, target in edges],
        "terminals": [name for name in NAMES if name not in sources],
    }


def every_way(edges: Edges, node: str, trail: tuple[str, ...] = ()) -> list[tuple[str, ...]] | None:
    """All ways from a node to an end, by trying each; None if one of them comes by again."""
    if node in trail:
        return None
    targets = [target for source, target in edges if source == node]
    if not targets:
        return [(*trail, node)]
    found: list[tuple[str, ...]] = []
    for target in targets:
        ways = every_way(edges, target, (*trail, node))
        if ways is None:
            return None
        found += ways
    return found


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=12), st.sampled_from(NAMES))
def test_the_longest_way_is_the_longest_of_all(edges, node):
    """For any definition: as long as the longest that trying finds, along its edges, or none where one comes by again."""
    ways = every_way(edges, node)
    found = longest_way(shape(edges), node)
    if ways is None:
        assert isinstance(found, str)
        assert "a loop through node" in found
    else:
        assert found in ways
        assert len(found) == max(map(len, ways))


def test_a_very_long_chain_is_no_matter():
    """Thousands of nodes in a row need no deep stack."""
    edges = [[f"n{number}", f"n{number + 1}", "done", ""] for number in range(3_000)]
    found = longest_way({"edges": edges, "terminals": ["n3000"]}, "n0")
    assert len(found) == 3_001
