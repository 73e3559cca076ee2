"""Today's guards asked on recorded runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, TypedDict

import pytest

from eventflow import Engine, Go, Human, Sleep, Workflow
from eventflow.errors import SettingsError
from eventflow.log import Log, Query, open_log
from replay.rehearse import RunReport, chosen, rehearse, rehearse_run


class Numbers(TypedDict, total=False):
    """A state."""

    n: int
    note: str


def plus(state: Any) -> dict[str, Any]:
    """One more."""
    return {"n": state["n"] + 1}


def counting(
    limit: int = 3, *, end: str = "end", state: Any = Numbers, guard: Any = None, name: str = "count"
) -> Workflow:
    """Counts to a limit, then ends."""
    return (
        Workflow(name, state=state).add_node("step", plus).add_node(end, lambda state: {"note": "done"})
        .add_edge("step", "step", when=guard or (lambda state: state["n"] < limit), label="more")
        .add_edge("step", end).set_start("step")
    )  # fmt: skip


def recorded(store: Path, *flows: Workflow, **options: Any) -> Log:
    """A store with one finished run of each workflow, under its name."""

    async def run() -> None:
        async with Engine(store, workflows=list(flows)) as engine:
            for flow in flows:
                handle = await engine.start(flow, {"n": 0}, run_id=flow.name, **options)
                await handle.result()

    asyncio.run(run())
    return open_log(store, readonly=True)


@pytest.fixture
def log(tmp_path) -> Any:
    """A store with the run `count`, which counted to 3."""
    opened = recorded(tmp_path / "s", counting())
    yield opened
    opened.close()


def asked(log: Log, flow: Workflow, run: str = "count") -> RunReport:
    """A run rehearsed."""
    head = log.head(run)
    assert head is not None
    report = rehearse_run(flow, log, head)
    assert report is not None
    return report


def told(report: RunReport) -> list[tuple[str, int, str]]:
    """What was found, in short."""
    return [(one.kind, one.version, one.node) for one in report.findings]


def test_unchanged_guards_lead_where_they_led(log):
    """Every recorded step is asked, and the run's end."""
    report = asked(log, counting())
    assert (report.verdict, report.findings, report.definition) == ("same", (), "")
    assert report.receipt.decisions == log.head("count").version - 1


def test_a_guard_that_leads_elsewhere_is_named_with_both_ends(log):
    """At the version of the step, with the label of the guard that leads there today."""
    report = asked(log, counting(5))
    assert told(report) == [("route", 4, "step")]
    (found,) = report.findings
    assert (found.recorded, found.now) == ("end", "step")
    assert found.problem == "'step' leads to 'step' (guard more) where 'end' was recorded"
    assert report.verdict == "diverges"


def test_one_difference_does_not_hide_the_next(log):
    """Each step is asked on its recorded state."""
    assert [one.version for one in asked(log, counting(1)).findings] == [2, 3]


def test_no_body_is_run(log):
    """Guards alone are code that is asked."""

    def never(_: Any) -> Any:
        raise AssertionError

    flow = Workflow("count", state=Numbers).add_node("step", never).add_node("end", never)
    flow.add_edge("step", "step", when=lambda state: state["n"] < 3, label="more").add_edge("step", "end").set_start(
        "step"
    )
    assert asked(log, flow).verdict == "same"


def test_a_guard_that_raises_is_a_finding(log):
    """Also one that wants to end the process."""
    assert told(asked(log, counting(guard=lambda state: 1 // 0))) == [("guard", v, "step") for v in (2, 3, 4)]

    def leave(_: Any) -> bool:
        raise SystemExit(3)

    assert told(asked(log, counting(guard=leave))) == [("route", v, "step") for v in (2, 3, 4)]


def test_a_step_for_which_no_edge_holds_is_a_finding(log):
    """And so is an end that goes on today, and a start elsewhere."""
    flow = Workflow("count", state=Numbers).add_node("step", plus).add_node("end", plus)
    flow.add_edge("step", "step", when=lambda state: state["n"] < 3).add_edge("step", "end", when=lambda state: False)
    flow.add_edge("end", "step").set_start("end")
    assert told(asked(log, flow)) == [("start", 1, "step"), ("route", 4, "step"), ("route", 5, "end")]


def test_a_node_that_is_gone_needs_a_migration(log):
    """Told once, where the run went there; other steps are asked all the same."""
    report = asked(log, counting(end="finish"))
    assert told(report) == [("node", 4, "step")]
    assert report.verdict == "migrate"
    assert "nodes removed: end" in report.definition


def test_a_node_of_another_kind_needs_a_migration(log):
    """A function that became a wait."""
    flow = Workflow("count", state=Numbers).add_node("step", Sleep(1)).add_node("end", plus)
    flow.add_edge("step", "end").set_start("step")
    report = asked(log, flow)
    assert (report.verdict, told(report)) == ("migrate", [("kind", 2, "step")])


def test_where_an_open_run_stands_is_looked_at(tmp_path):
    """Its node, its fields and their types: it has to go on from there."""
    flow = counting()
    waiting = Workflow("count", state=Numbers).add_node("step", plus).add_node("end", Human(prompt="?", writes="note"))
    waiting.add_edge("step", "end").set_start("step")

    async def run() -> None:
        async with Engine(tmp_path / "s", workflows=[waiting]) as engine:
            handle = await engine.start(waiting, {"n": 0}, run_id="count")
            while handle.state.status != "waiting":
                await asyncio.sleep(0.005)

    asyncio.run(run())
    log = open_log(tmp_path / "s", readonly=True)

    class Other(TypedDict, total=False):
        note: str

    class Typed(TypedDict, total=False):
        n: list[bytes]
        note: Path

    try:
        assert asked(log, waiting).verdict == "same"
        assert told(asked(log, flow))[-1][0] == "kind"
        other = Workflow("count", state=Other).add_node("step", plus).add_node("end", Human(prompt="?", writes="note"))
        assert [one.kind for one in asked(log, other.add_edge("step", "end").set_start("step")).findings] == ["field"]
    finally:
        log.close()


def test_a_way_that_a_body_chose_is_not_asked_of_guards(tmp_path):
    """With Go the body decides; only running it tells."""

    def made(target: str) -> Workflow:
        flow = Workflow("go", state=Numbers).add_node("a", lambda state: Go(target), targets=["b", "c"])
        return flow.add_node("b", plus).add_node("c", plus).set_start("a")

    log = recorded(tmp_path / "s", made("b"))
    try:
        assert asked(log, made("c"), "go").verdict == "same"
    finally:
        log.close()


def test_runs_of_other_workflows_are_skipped_and_counted(tmp_path):
    """They say nothing about this one."""
    log = recorded(tmp_path / "s", counting(), counting(name="other"))
    try:
        found = rehearse(counting(), log, [one.head for one in log.runs(Query())])
        assert ([one.run_id for one in found.runs], found.skipped, found.same) == (["count"], 1, True)
    finally:
        log.close()


def test_a_sample_is_the_same_each_time(tmp_path):
    """And just one way of choosing runs may be asked for."""
    log = recorded(tmp_path / "s", *(counting(name=f"w{number}") for number in range(6)))
    try:
        heads = [one.head for one in log.runs(Query())]
        sample = chosen(log, [], sample=3)
        assert sample == chosen(log, [], sample=3)
        assert len({one.run_id for one in sample}) == 3
        assert {one.run_id for one in chosen(log, [], everything=True)} == {one.run_id for one in heads}
        for wrong in ({}, {"everything": True, "sample": 1}):
            with pytest.raises(SettingsError):
                chosen(log, [], **wrong)
    finally:
        log.close()
