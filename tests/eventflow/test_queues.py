"""Runs that wait in a queue until an engine that serves it takes them."""

from __future__ import annotations

import asyncio

import pytest

from eventflow import Engine, Sleep, Workflow
from eventflow.engine.queues import Queue, queues_of
from eventflow.errors import DefinitionError, NeedsConfirmation, RunExists
from eventflow.log import LmdbLog
from eventflow.recovery import history


class Crowd:
    """How many bodies are in at once, and in which order they came."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.came: list[str] = []

    def flow(self, *, rest: float = 0.01) -> Workflow:
        """A workflow of one node that notes who is in it."""

        async def body(_, run):
            self.came.append(run.id)
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(rest)
            self.inside -= 1
            return {}

        return Workflow("crowd").add_node("only", body).set_start("only")


def test_a_queued_run_waits_until_somebody_serves_its_queue(tmp_path):
    """It is durable and pending; an engine without the queue leaves it, one with it drives it."""
    crowd = Crowd()

    async def story():
        flow = crowd.flow()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r", queue="q", priority=3)
            assert run.status == "pending"
            assert await engine.pick_up() == ([], [])
            again = await engine.start(flow, {}, run_id="r", queue="q", priority=3)
            assert (again.status, crowd.came) == ("pending", [])
        async with Engine(tmp_path / "s", workflows=[flow], queues=[Queue("q")]) as engine:
            assert (await engine.get("r").wait()).status == "completed"

    asyncio.run(story())
    log = LmdbLog(tmp_path / "s", readonly=True)
    head = log.head("r")
    names = [type(one.event).__name__ for one in history(log, head.run_key, 1, head.version)]
    assert names == ["RunStarted", "RunResumed", "RunCompleted"]
    assert log.queued("q") == []
    log.close()


def test_runs_are_taken_by_priority_within_the_queues_limit():
    """One at a time: the highest priority first, then the oldest."""
    crowd = Crowd()

    async def story():
        flow = crowd.flow()
        async with Engine(workflows=[flow]) as maker:
            for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 7)):
                await maker.start(flow, {}, run_id=name, queue="q", priority=priority)
            async with Engine(maker.log, workflows=[flow], queues=[Queue("q", concurrency=1)]) as engine:
                await asyncio.gather(*(engine.get(name).wait() for name in ("low", "first", "second", "high")))

    asyncio.run(story())
    assert crowd.came == ["high", "first", "second", "low"]
    assert crowd.most == 1


def test_two_engines_keep_one_limit_together(tmp_path):
    """What one drives counts for the other."""
    crowd = Crowd()

    async def story():
        flow = crowd.flow()
        limited = [Queue("q", concurrency=3)]
        store = tmp_path / "s"
        async with (
            Engine(store, workflows=[flow], queues=limited) as one,
            Engine(store, workflows=[flow], queues=limited) as other,
        ):
            runs = [await (one, other)[n % 2].start(flow, {}, queue="q") for n in range(20)]
            await asyncio.gather(*(run.wait() for run in runs))

    asyncio.run(story())
    assert len(crowd.came) == len({*crowd.came}) == 20
    assert 1 < crowd.most <= 3


def test_runs_of_one_key_go_one_at_a_time():
    """Those of other keys are not held up."""
    crowd = Crowd()

    async def story():
        flow = crowd.flow(rest=0.05)
        async with Engine(workflows=[flow], queues=[Queue("q", per_key=1)]) as engine:
            runs = [
                await engine.start(flow, {}, run_id=f"{key}{n}", queue="q", queue_key=key)
                for n in range(2)
                for key in "ab"
            ]
            await asyncio.gather(*(run.wait() for run in runs))

    asyncio.run(story())
    assert crowd.most == 2
    assert sorted(crowd.came[:2]) == ["a0", "b0"]


def test_a_waiting_run_makes_room_for_the_next():
    """A limit of one does not let a sleeper block the queue."""

    async def story():
        flow = Workflow("sleeper").add_node("rest", Sleep(60)).set_start("rest")
        quick = Workflow("quick").add_node("only", lambda _: {}).set_start("only")
        async with Engine(workflows=[flow, quick], queues=[Queue("q", concurrency=1)], grace=0) as engine:
            await engine.start(flow, {}, run_id="sleeper", queue="q")
            run = await engine.start(quick, {}, run_id="quick", queue="q")
            assert (await run.wait()).status == "completed"
            assert engine.get("sleeper").status == "waiting"

    asyncio.run(story())


def test_what_a_process_has_in_hand_is_limited_too():
    """`here` holds for the process alone."""
    crowd = Crowd()

    async def story():
        flow = crowd.flow()
        async with Engine(workflows=[flow], queues=[Queue("q", here=2)]) as engine:
            runs = [await engine.start(flow, {}, queue="q") for _ in range(8)]
            await asyncio.gather(*(run.wait() for run in runs))

    asyncio.run(story())
    assert crowd.most == 2


def test_a_stopped_engine_gives_its_queued_runs_back(tmp_path):
    """The next one that serves the queue takes them up where they stand."""
    crowd = Crowd()

    async def story():
        flow = crowd.flow(rest=60)
        async with Engine(tmp_path / "s", workflows=[flow], queues=[Queue("q")], grace=0) as engine:
            await engine.start(flow, {}, run_id="r", queue="q")
            while not crowd.came:
                await asyncio.sleep(0.01)
        flow = crowd.flow()
        async with Engine(tmp_path / "s", workflows=[flow], queues=[Queue("q")]) as engine:
            assert (await engine.get("r").wait()).status == "completed"

    asyncio.run(story())
    assert crowd.came == ["r", "r"]


def test_a_run_that_cant_be_taken_up_holds_up_nobody(tmp_path):
    """A node that was cut off and says to ask first is left to a person, who is still asked; others go on, and nothing spins."""
    crowd = Crowd()

    async def begin():
        flow = asking()
        async with Engine(tmp_path / "s", workflows=[flow], queues=[Queue("q")], grace=0) as engine:
            await engine.start(flow, {}, run_id="asks", queue="q", priority=9)
            await until(lambda: engine.get("asks").status == "running")

    async def story():
        flow = crowd.flow()
        limited = [Queue("q", concurrency=1)]
        async with Engine(tmp_path / "s", workflows=[asking(), flow], queues=limited) as engine:
            first = await engine.start(flow, {}, run_id="other", queue="q")
            assert (await first.wait()).status == "completed"
            position = engine.log.position()
            await asyncio.sleep(0.7)  # some looks at the queue
            assert engine.log.position() == position
            assert engine.refused == {"asks"}
            with pytest.raises(NeedsConfirmation):
                await engine.resume("asks")

    def asking():
        async def wait(_):
            await asyncio.sleep(60)

        return Workflow("asking").add_node("only", wait, after_crash="ask").set_start("only")

    async def until(holds):
        while not holds():
            await asyncio.sleep(0.01)

    asyncio.run(begin())
    asyncio.run(story())


def test_the_same_id_with_another_input_is_a_conflict_in_a_queue_too():
    """An id belongs to one run."""

    async def story():
        flow = Crowd().flow()
        async with Engine(workflows=[flow]) as engine:
            await engine.start(flow, {"n": 1}, run_id="r", queue="q")
            with pytest.raises(RunExists):
                await engine.start(flow, {"n": 2}, run_id="r", queue="q")

    asyncio.run(story())


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"per_key": 0}, {"here": 0}, {"rate": (0, 1)}, {"rate": (1, 0)}])
def test_limits_that_let_nothing_through_are_refused(bad):
    """A queue that never moves is a mistake."""
    with pytest.raises(DefinitionError):
        Queue("q", **bad)


def test_a_priority_needs_a_queue_and_fits_its_key():
    """Both are said in one sentence."""

    async def story():
        flow = Crowd().flow()
        async with Engine(workflows=[flow]) as engine:
            with pytest.raises(DefinitionError, match="a queue needs a name"):
                await engine.start(flow, {}, priority=1)
            with pytest.raises(DefinitionError, match="a priority is a number"):
                await engine.start(flow, {}, queue="q", priority=2**31)

    asyncio.run(story())


def test_queues_are_read_from_settings():
    """A table a queue, as in [tool.eventflow.queues]."""
    [queue] = queues_of({"gpu": {"concurrency": 2, "rate": [10, 60]}})
    assert (queue.name, queue.concurrency, queue.rate) == ("gpu", 2, (10, 60))
    with pytest.raises(DefinitionError, match="queue 'gpu'"):
        queues_of({"gpu": {"speed": 3}})
