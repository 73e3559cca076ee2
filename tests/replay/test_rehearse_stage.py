"""Today's bodies run on recorded states, their calls served from the log."""

from __future__ import annotations

import asyncio
import inspect
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from eventflow import Agent, Engine, Go, Human, RetryPolicy, Sleep, Wait, Workflow, extend
from eventflow.log import Log, open_log
from eventflow.run import Visit
from eventflow.testing import ModelServer
from replay.rehearse import RunReport, rehearse_run
from replay.rehearse.stage import Stage
from replay.rehearse.standin import StandIn


class Work(TypedDict, total=False):
    """A state."""

    n: int
    said: str
    notes: Annotated[list[str], extend]


def one(body: Any, name: str = "work", **options: Any) -> Workflow:
    """A node, and an end."""
    flow = Workflow(name, state=Work).add_node("only", body, **options).add_node("end", lambda state: None)
    return flow.add_edge("only", "end").set_start("only")


def record(store: Path, flow: Workflow, **options: Any) -> Log:
    """A store with one run of a workflow, driven to its end."""

    async def run() -> None:
        async with Engine(store, workflows=[flow], **options) as engine:
            await (await engine.start(flow, {"n": 1}, run_id="r")).result()

    asyncio.run(run())
    return open_log(store, readonly=True)


def staged(log: Log, flow: Workflow, limit: float = 5.0) -> RunReport:
    """The run rehearsed with its bodies."""
    head = log.head("r")
    assert head is not None
    report = rehearse_run(flow, log, head, Stage(flow, limit))
    assert report is not None
    return report


def called(state: Any, run: Any) -> dict[str, Any]:
    """One call to the outside."""
    return {"said": run.effect_sync("ask", outside, state["n"], mutating=False)}


CALLS: list[Any] = []


def outside(*args: Any) -> str:
    """The outside; it counts who calls."""
    CALLS.append(args)
    return "answer"


@pytest.fixture(autouse=True)
def nobody_called() -> None:
    """Each test counts for itself."""
    CALLS.clear()


def test_calls_are_answered_with_what_was_recorded(tmp_path):
    """Nothing is called, and the change is the recorded one."""
    log = record(tmp_path / "s", one(called))
    assert len(CALLS) == 1

    async def awaited(state: Any, run: Any) -> dict[str, Any]:
        return {"said": await run.effect("ask", outside, state["n"], mutating=False)}

    for body in (called, awaited):
        report = staged(log, one(body))
        assert (report.verdict, report.receipt.served, report.receipt.bodies) == ("same", 1, 2)
    assert len(CALLS) == 1
    log.close()


def test_a_call_with_another_input_or_another_name_is_told_and_not_made(tmp_path):
    """Also where the body catches what it is refused with."""
    log = record(tmp_path / "s", one(called))

    def swallows(state: Any, run: Any) -> dict[str, Any]:
        try:
            run.effect_sync("ask", outside, 99, mutating=False)
        except Exception:  # noqa: BLE001
            return {"said": "answer"}
        return {}

    def renamed(state: Any, run: Any) -> dict[str, Any]:
        return {"said": run.effect_sync("tell", outside, state["n"])}

    (other,) = staged(log, one(swallows)).findings
    assert (other.kind, other.version, other.problem) == ("effect", 4, "other input for effect ask#1")
    assert (other.recorded, other.now) == ({"args": [1]}, {"args": [99]})
    (new,) = staged(log, one(renamed)).findings
    assert new.problem == "new effect tell#1: no such call was recorded in this visit"
    assert len(CALLS) == 1
    log.close()


def test_a_call_that_is_made_no_more_is_told(tmp_path):
    """Its answer was paid for, and something depended on it."""
    log = record(tmp_path / "s", one(called))
    (found,) = staged(log, one(lambda state: {"said": "answer"})).findings
    assert found.problem == "effect ask#1 is not called any more"
    log.close()


def test_a_change_that_comes_out_otherwise_is_told_field_by_field(tmp_path):
    """The same state by other operations is the same."""
    log = record(tmp_path / "s", one(lambda state: {"notes": ["a"], "n": 2}))
    assert staged(log, one(lambda state: {"n": state["n"] + 1, "notes": ["a"]})).verdict == "same"
    report = staged(log, one(lambda state: {"notes": ["b"], "n": 2}))
    assert [(f.kind, f.version, f.recorded, f.now) for f in report.findings] == [("change", 2, "a", "b")]
    log.close()


def test_today_s_change_is_what_guards_are_asked_with(tmp_path):
    """So a body can change the route."""

    def made(value: int) -> Workflow:
        flow = (
            Workflow("work", state=Work)
            .add_node("only", lambda state: {"n": value})
            .add_node("end", lambda state: None)
        )
        flow.add_node("far", lambda state: None).add_edge("only", "far", when=lambda state: state["n"] > 5)
        return flow.add_edge("only", "end").set_start("only")

    log = record(tmp_path / "s", made(2))
    assert [one.kind for one in staged(log, made(9)).findings] == ["change", "route"]
    log.close()


def test_a_body_may_choose_another_way(tmp_path):
    """With Go, among its targets."""

    def made(target: str) -> Workflow:
        flow = Workflow("work", state=Work).add_node("only", lambda state: Go(target), targets=["b", "c"])
        return flow.add_node("b", lambda state: None).add_node("c", lambda state: None).set_start("only")

    log = record(tmp_path / "s", made("b"))
    assert staged(log, made("b")).verdict == "same"
    (found,) = staged(log, made("c")).findings
    assert (found.recorded, found.now) == ("b", "c")
    (found,) = staged(log, made("nowhere")).findings
    assert found.kind == "route"
    log.close()


def test_a_body_that_raises_or_takes_too_long_is_a_finding(tmp_path):
    """And so is one that ends the process, or returns what no node may."""
    log = record(tmp_path / "s", one(lambda state: None))

    def leaves(_: Any) -> None:
        raise SystemExit(1)

    def raises(_: Any) -> None:
        raise TimeoutError("its own")

    for body, said in ((leaves, "SystemExit"), (raises, "its own"), (lambda state: 7, "can't be used")):
        (found,) = staged(log, one(body)).findings
        assert (found.kind, said in found.problem) == ("body", True)
    (found,) = staged(log, one(lambda state: time.sleep(1.0)), 0.05).findings
    assert found.problem == "the body takes longer than 0.05 s"
    log.close()


def test_what_failed_fails_again_in_recorded_words(tmp_path):
    """An error's way out is the same where the body still raises, and another where it does not."""

    def broken(state: Any, run: Any) -> Any:
        def fails() -> None:
            raise ValueError("no luck")

        return run.effect_sync("ask", fails)

    def made(body: Any) -> Workflow:
        flow = Workflow("work", state=Work).add_node("only", body).add_node("end", lambda state: None)
        return (
            flow.add_node("saved", lambda state: None)
            .add_edge("only", "end")
            .add_edge("only", "saved", on="failed")
            .set_start("only")
        )

    log = record(tmp_path / "s", made(broken))
    report = staged(log, made(broken))
    assert (report.verdict, report.receipt.served) == ("same", 1)
    (found,) = staged(log, made(lambda state: {"n": 1})).findings
    assert found.problem == "the body returns where failed was recorded"
    log.close()


def test_attempts_that_failed_before_leave_their_answers(tmp_path):
    """The last attempt is the one that is rehearsed, with the calls that attempts before it finished."""
    tries: list[int] = []

    def twice(state: Any, run: Any) -> dict[str, Any]:
        said = run.effect_sync("ask", outside, mutating=False)
        tries.append(run.attempt)
        if run.attempt == 1:
            raise OSError("once")
        return {"said": said}

    flow = one(twice, retry=RetryPolicy(attempts=2, delay=0.001))
    log = record(tmp_path / "s", flow)
    assert staged(log, flow).verdict == "same"
    assert (tries, len(CALLS)) == ([1, 2, 2], 1)
    log.close()


def test_waits_people_and_sleeps_are_served_from_the_log(tmp_path):
    """What ended them is recorded; today's node says what it makes of it."""

    def made(writes: str = "said", **more: Any) -> Workflow:
        flow = (
            Workflow("work", state=Work)
            .add_node("nap", Sleep(0.001))
            .add_node("ask", Human(prompt="?", writes=writes, **more))
        )
        flow.add_node("hear", Wait(signal="go", writes="n", timeout=0.001, default=7)).add_node(
            "end", lambda state: None
        )
        return flow.add_edge("nap", "ask").add_edge("ask", "hear").add_edge("hear", "end").set_start("nap")

    flow = made()

    async def run() -> None:
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            handle = await engine.start(flow, {"n": 1}, run_id="r")
            while handle.state.waiting_for != "human":
                await asyncio.sleep(0.005)
            await engine.answer("r", "yes")
            await handle.result()

    asyncio.run(run())
    log = open_log(tmp_path / "s", readonly=True)
    report = staged(log, flow)
    assert (report.verdict, report.receipt.bodies) == ("same", 1)
    assert staged(log, made("notes")).findings[0].kind == "body"  # a text is no list to be extended by
    (found,) = staged(log, made(check=lambda answer: "too short")).findings
    assert "too short" in found.problem
    log.close()


def test_an_agent_is_answered_without_its_server(tmp_path):
    """The server's counter does not move; another question is a difference."""
    with ModelServer(["It is."]) as server:
        flow = one(Agent(model="m", reads="n", writes="said", base_url=server.base_url))
        log = record(tmp_path / "s", flow)
        before = len(server.calls)
        assert staged(log, flow).verdict == "same"
        other = one(Agent(model="m2", reads="n", writes="said", base_url=server.base_url))
        (found,) = staged(log, other).findings
        assert (found.kind, found.recorded["model"], found.now["model"]) == ("effect", "m", "m2")
        assert len(server.calls) == before == 1
        log.close()


def test_the_stand_in_has_the_face_of_a_visit():
    """Every public name, so that a body finds what it found."""
    assert {name for name in vars(Visit) if not name.startswith("_")} - {"take_away"} <= set(vars(StandIn))
    known = set(inspect.signature(StandIn._call).parameters)
    assert set(inspect.signature(Visit.effect).parameters) - {"function"} <= known


def test_calls_are_counted_when_they_are_made_not_when_they_are_awaited(tmp_path):
    """As a visit counts them."""

    async def body(state: Any, run: Any) -> dict[str, Any]:
        first = run.effect("ask", outside, "first", key="a", mutating=False)
        second = run.effect("ask", outside, "second", mutating=False)
        return {"said": await second + await first}

    log = record(tmp_path / "s", one(body))

    async def turned(state: Any, run: Any) -> dict[str, Any]:
        first = run.effect("ask", outside, "first", key="a", mutating=False)
        said = await run.effect("ask", outside, "second", mutating=False)
        return {"said": said + await first}

    assert staged(log, one(turned)).verdict == "same"
    log.close()
