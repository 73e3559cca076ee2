"""Branches and children of recorded runs, run and asked today."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from eventflow import Child, Engine, Human, Map, Parallel, RetryPolicy, Wait, Workflow, extend
from eventflow.log import Log, open_log
from replay.rehearse import RunReport, rehearse_run
from replay.rehearse.stage import Stage


class Work(TypedDict, total=False):
    """A state."""

    n: int
    pages: list[str]
    sums: list[Any]
    left: str
    right: str
    notes: Annotated[list[str], extend]


CALLS: list[Any] = []


def outside(*args: Any) -> str:
    """The outside; it counts who calls."""
    CALLS.append(args)
    return f"answer {args}"


@pytest.fixture(autouse=True)
def nobody_called() -> None:
    """Each test counts for itself."""
    CALLS.clear()


def made(split: Any, *, guard: Callable[[Any], bool] | None = None) -> Workflow:
    """A node that splits, then an end; another end where a guard says so."""
    flow = Workflow("work", state=Work).add_node("split", split).add_node("end", lambda state: None)
    flow.add_node("far", lambda state: None)
    return (
        flow.add_edge("split", "far", when=guard or (lambda state: False)).add_edge("split", "end").set_start("split")
    )


def record(store: Path, flow: Workflow, *more: Workflow, answers: int = 0) -> Log:
    """A store with one run of a workflow, driven to its end; people are answered."""

    async def run() -> None:
        async with Engine(store, workflows=[flow, *more]) as engine:
            handle = await engine.start(flow, {"n": 1, "pages": ["a", "b", "c"]}, run_id="r")
            for _ in range(answers):
                while handle.state.waiting_for != "human":
                    await asyncio.sleep(0.005)
                await engine.answer("r", "yes")
            await handle.result()

    asyncio.run(run())
    return open_log(store, readonly=True)


def staged(log: Log, flow: Workflow) -> RunReport:
    """The run rehearsed with its bodies."""
    head = log.head("r")
    assert head is not None
    report = rehearse_run(flow, log, head, Stage(flow, 5.0))
    assert report is not None
    return report


def asking(what: str, field: str, value: str = "") -> Callable[..., Any]:
    """A body that makes one call and brings its answer, or a value of its own."""

    async def body(state: Any, run: Any) -> dict[str, Any]:
        said = await run.effect("ask", outside, what, mutating=False)
        return {field: value or said, "notes": [field]}

    return body


def test_each_branch_is_run_with_its_own_answers(tmp_path):
    """Calls of one name in two branches are told apart; nothing is called."""
    flow = made(Parallel({"l": asking("one", "left"), "r": asking("two", "right")}))
    log = record(tmp_path / "s", flow)
    assert len(CALLS) == 2
    report = staged(log, flow)
    assert (report.verdict, report.receipt.served, report.receipt.bodies) == ("same", 2, 3)
    assert len(CALLS) == 2
    log.close()


def test_a_branch_that_comes_out_otherwise_is_named_and_changes_the_way(tmp_path):
    """The guard after the join is asked with what the branch brings today; the join itself is not told again."""

    def guarded(right: str = "") -> Workflow:
        split = Parallel({"l": asking("one", "left"), "r": asking("two", "right", right)})
        return made(split, guard=lambda state: state["right"] == "far")

    log = record(tmp_path / "s", guarded())
    change, route = staged(log, guarded("far")).findings
    assert (change.kind, change.node, change.now) == ("change", "split", "far")
    assert change.problem == "branch 'r' comes out otherwise at right"
    assert (route.kind, route.recorded, route.now) == ("route", "end", "far")
    assert route.version > change.version
    log.close()


def test_another_call_of_a_branch_is_told_and_not_made(tmp_path):
    """With the version at which the branch ended."""
    log = record(tmp_path / "s", made(Parallel({"l": asking("one", "left")})))
    (found,) = staged(log, made(Parallel({"l": asking("other", "left")}))).findings
    assert (found.kind, found.problem) == ("effect", "other input for effect l/ask#1")
    assert (found.recorded, found.now) == ({"args": ["one"]}, {"args": ["other"]})
    (found,) = staged(log, made(Parallel({"l": lambda state: {"left": "answer ('one',)", "notes": ["left"]}}))).findings
    assert found.problem == "effect l/ask#1 is not called any more"
    assert len(CALLS) == 1
    log.close()


def test_items_are_compared_and_each_is_run(tmp_path):
    """A map's values are told by item."""

    def mapped(body: Callable[..., Any], over: Any = "pages") -> Workflow:
        return made(Map(body, over=over, writes="sums"))

    log = record(tmp_path / "s", mapped(str.upper))
    report = staged(log, mapped(str.upper))
    assert (report.verdict, report.receipt.bodies) == ("same", 4)
    (found,) = staged(log, mapped(lambda page: "B!" if page == "b" else page.upper())).findings
    assert (found.problem, found.recorded, found.now) == ("branch '1' comes out otherwise", "B", "B!")
    (found,) = staged(log, mapped(str.upper, lambda state: ["a", "x", "c"])).findings
    assert (found.problem, found.recorded, found.now) == ("item [1] is another", "b", "x")
    (found,) = staged(log, mapped(str.upper, lambda state: 1 / 0)).findings
    assert found.problem.startswith("there are no items today: ZeroDivisionError")
    log.close()


def test_a_branch_that_is_gone_needs_migration_and_one_of_another_name_is_not_run(tmp_path):
    """Guards alone tell that too."""
    log = record(tmp_path / "s", made(Parallel({"l": asking("one", "left"), "r": asking("two", "right")})))
    today = made(Parallel({"l": asking("one", "left"), "other": asking("two", "right")}))
    head = log.head("r")
    assert head is not None
    for report in (staged(log, today), rehearse_run(today, log, head)):
        assert report is not None
        assert report.findings[0].problem == "the run split into branch 'r', which is gone"
        assert report.verdict == "migrate"
    log.close()


def failing(state: Any) -> Any:
    """A body that fails."""
    raise ValueError("no")


def test_a_failed_branch_fails_today_too_or_is_told(tmp_path):
    """What was tolerated and is not any more fails the node."""

    def tolerant(body: Callable[..., Any], tolerate: int = 1) -> Workflow:
        return made(Parallel({"l": body, "r": asking("two", "right")}, tolerate=tolerate))

    log = record(tmp_path / "s", tolerant(failing))
    assert staged(log, tolerant(failing)).verdict == "same"
    (found,) = staged(log, tolerant(lambda state: {})).findings
    assert found.problem == "branch 'l' finishes where it failed"
    (found,) = staged(log, tolerant(failing, tolerate=0)).findings
    assert found.problem == "branches that failed (1 of 2) are too many today"
    (found,) = staged(log, made(Parallel({"l": failing, "r": failing}, tolerate=1))).findings
    assert found.problem == "branch 'r' raises where it finished: ValueError: no"
    log.close()


def test_the_last_attempt_of_a_branch_is_the_one_that_is_run(tmp_path):
    """With its number, and the calls that attempts before it finished."""
    attempts: list[int] = []

    async def twice(item: str, run: Any) -> str:
        said = await run.effect("ask", outside, item, mutating=False)
        attempts.append(run.attempt)
        if run.attempt == 1:
            raise OSError("once")
        return str(said)

    def mapped() -> Workflow:
        flow = Workflow("work", state=Work).add_node(
            "split", Map(twice, over="pages", writes="sums"), retry=RetryPolicy(attempts=2, delay=0.001)
        )
        return flow.add_node("end", lambda state: None).add_edge("split", "end").set_start("split")

    log = record(tmp_path / "s", mapped())
    assert staged(log, mapped()).verdict == "same"
    assert sorted(attempts) == [1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert len(CALLS) == 3
    log.close()


def test_waits_of_branches_are_served_from_the_log(tmp_path):
    """An answer, and a limit that passed."""

    def waiting(writes: str = "left", default: int = 7) -> Workflow:
        return made(Parallel({
            "ask": Human(prompt="?", writes=writes), "hear": Wait(signal="go", writes="n", timeout=0.001, default=default),
        }))  # fmt: skip

    log = record(tmp_path / "s", waiting(), answers=1)
    report = staged(log, waiting())
    assert (report.verdict, report.receipt.bodies) == ("same", 1)
    gone, come = staged(log, waiting("right")).findings
    assert {gone.problem, come.problem} == {
        "branch 'ask' comes out otherwise at left",
        "branch 'ask' comes out otherwise at right",
    }
    (found,) = staged(log, waiting(default=8)).findings
    assert (found.problem, found.recorded, found.now) == ("branch 'hear' comes out otherwise at n", 7, 8)
    log.close()


def child() -> Workflow:
    """What is started as a child."""
    return Workflow("inner").add_node("only", lambda state: {"n": state["n"] * 2}).set_start("only")


@pytest.mark.parametrize("inside", [False, True])
def test_a_child_is_answered_from_the_log_and_its_input_compared(tmp_path, inside):
    """Neither is it started; in a branch as well as alone."""
    inner = child()

    def calling(reads: Any = ("n",), writes: Any = None) -> Workflow:
        node = Child(inner, reads=reads, writes=writes or {"n": "n"})
        return made(Parallel({"c": node}) if inside else node)

    log = record(tmp_path / "s", calling(), inner)
    assert staged(log, calling()).verdict == "same"
    (found,) = staged(log, calling(lambda state: {"n": 5})).findings
    assert (found.kind, found.problem) == ("effect", "other input for the child: input.n")
    assert (found.recorded, found.now) == (1, 5)
    assert {one.kind for one in staged(log, calling(writes={"n": "left"})).findings} <= {"change", "body"}
    assert staged(log, calling(writes={"n": "left"})).verdict == "diverges"
    log.close()


def test_a_child_that_failed_fails_today_too(tmp_path):
    """On the error's way out, as it was recorded."""
    inner = Workflow("inner").add_node("only", failing).set_start("only")

    def calling() -> Workflow:
        flow = (
            Workflow("work", state=Work).add_node("c", Child(inner, reads=("n",))).add_node("saved", lambda state: None)
        )
        return flow.add_edge("c", "saved", on="failed").set_start("c")

    log = record(tmp_path / "s", calling(), inner)
    assert staged(log, calling()).verdict == "same"
    log.close()
