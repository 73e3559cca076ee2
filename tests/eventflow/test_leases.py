"""Taking runs up: one at a time, told to everybody whom it concerns, and nothing left half done."""

from __future__ import annotations

import asyncio
import os

import pytest
from stories import Full, story, until

from eventflow import Child, Engine, MemoryLog, Wait, Workflow
from eventflow.errors import Conflict, RunExists, Stopped, StoreFull
from eventflow.event import NodeSkipped, Recorded, Rewound, RunResumed, RunStarted
from eventflow.recovery import recover


def waiting(name="w") -> Workflow:
    """A node that waits, and one behind it."""
    flow = Workflow(name).add_node("hear", Wait(signal="go")).add_node("end", lambda state: {"done": True})
    return flow.add_edge("hear", "end").set_start("hear")


async def left(log, flow=None, run_id="r"):
    """A run that an engine has let go while it waits."""
    flow = flow or waiting()
    async with Engine(log, workflows=[flow]) as engine:
        run = await engine.start(flow, {}, run_id=run_id)
        await until(lambda: run.status == "waiting")


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_whoever_comes_second_follows_the_one_who_has_the_run(where, tmp_path):
    """Two engines that resume or start the same run at once: one drives it, both see its end."""

    async def tell():
        log = MemoryLog() if where == "memory" else tmp_path / "s"
        await left(log)
        async with Engine(log, workflows=[waiting()]) as one, Engine(log, workflows=[waiting()]) as other:
            taken = await asyncio.gather(one.resume("r"), other.resume("r"), return_exceptions=True)
            assert sum(isinstance(run, Conflict) for run in taken) == 1
            runs = await asyncio.gather(*(engine.start(waiting(), {}, run_id="r") for engine in (one, other)))
            await other.signal("r", "go")
            assert [await run.result() for run in runs] == [{"done": True}] * 2
            assert sum(isinstance(event.event, RunResumed) for event in runs[0].events()) == 1

    story(tell())


def test_taking_a_run_up_does_not_hold_up_others():
    """Each run has a turn of its own: one whose node does not end at once keeps nobody from another."""

    async def tell():
        gate = asyncio.Event()

        async def stubborn(state):
            try:
                await gate.wait()
            except asyncio.CancelledError:
                await gate.wait()
                raise

        flow = Workflow("stubborn").add_node("a", stubborn).set_start("a")
        async with Engine(workflows=[flow, waiting()]) as engine:
            run = await engine.start(flow, {}, run_id="slow")
            await until(lambda: run.status == "running")
            await asyncio.sleep(0.02)
            back = asyncio.ensure_future(engine.resume("slow", at=1))
            quick = await engine.start(flow2(), {}, run_id="q")
            assert await quick.result() == {"done": True}
            assert not back.done()
            gate.set()
            await (await back).result()

    def flow2():
        return Workflow("quick").add_node("only", lambda state: {"done": True}).set_start("only")

    story(tell())


def test_a_caller_and_its_child_may_be_taken_in_hand_at_once():
    """Neither turn waits for the other: going back to before the child, while its last node is skipped."""

    async def tell():
        kid = Workflow("kid").add_node("hear", Wait(signal="never")).set_start("hear")
        flow = Workflow("family").add_node("start", lambda s: None).add_node("kid", Child(kid, reads=lambda s: {}))
        flow.add_edge("start", "kid").set_start("start")
        for _ in range(5):
            async with Engine(workflows=[flow]) as engine:
                run = await engine.start(flow, {}, run_id="r")
                name = await until(lambda run=run: run.state.wait and run.state.wait["name"])
                await until(lambda engine=engine, name=name: engine.log.head(name))
                await asyncio.gather(
                    engine.resume("r", at=1), engine.skip(name, {}), engine.skip(name, {}), return_exceptions=True
                )
                again = await until(
                    lambda name=name, run=run: (
                        run.state.wait and run.state.wait["name"] != name and run.state.wait["name"]
                    )
                )
                await until(lambda engine=engine, again=again: engine.log.head(again))
                await engine.skip(again, {})
                await asyncio.wait_for(engine.get("r").result(), 5)

    story(tell())


def test_each_event_of_taking_a_run_up_is_told_to_the_listeners_once():
    """Also where one append holds several, and none is driven after it."""

    async def tell():
        heard: list[Recorded] = []
        log = MemoryLog()
        await left(log)

        def listen(state, notice):
            if isinstance(notice, Recorded):
                assert (state.version, state.digest) == (notice.version, notice.digest)
                heard.append(notice)
            raise ValueError("a listener's own trouble")

        async with Engine(log, workflows=[waiting()], listeners=[listen]) as engine:
            run = await engine.resume("r", at=1, migrate=lambda data: {"n": 1})
            await until(lambda: run.status == "waiting")
            await (await engine.skip("r", {})).result()
            first = next(one.version for one in run.events() if isinstance(one.event, Rewound))
            assert [one.version for one in heard] == list(range(first, run.version + 1))
            assert {Rewound, RunResumed, NodeSkipped} < {type(one.event) for one in heard}

    story(tell())


def test_another_runs_id_is_not_taken_for_a_childs(tmp_path):
    """A run of that id which somebody else started is left alone."""

    async def tell():
        kid = waiting("kid")
        flow = Workflow("family").add_node("kid", Child(kid, reads=lambda s: {})).set_start("kid")
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            other = await engine.start(kid, {}, run_id="r.kid-1")
            run = await engine.start(flow, {}, run_id="r")
            state = await run.wait()
            assert state.status == "failed"
            assert state.error.type == RunExists.__name__
            assert other.status == "waiting"

    story(tell())


@pytest.mark.parametrize("how", ["resume", "rewind", "skip", "start"])
def test_a_run_that_could_not_be_taken_up_can_be_once_there_is_room(how):
    """Nothing is held back by an append that failed."""

    async def tell():
        log, flow = Full(), waiting()
        await left(log, flow)
        async with Engine(log, workflows=[flow]) as engine:
            log.full = True
            take = {
                "resume": lambda: engine.resume("r"),
                "rewind": lambda: engine.resume("r", at=1),
                "skip": lambda: engine.skip("r", {}),
                "start": lambda: engine.start(flow, {}, run_id="new"),
            }[how]
            with pytest.raises(StoreFull):
                await take()
            log.full = False
            run = await take()
            if how != "skip":
                await engine.signal(run.id, "go")
            assert await run.result() == {"done": True}

    story(tell())


def test_a_cancelled_child_of_a_dead_process_is_told_so_at_once(tmp_path, child):
    """And its own children: nobody has to take them up first."""

    def flows():
        grandchild = waiting("grandchild")
        kid = Workflow("kid").add_node("kid", Child(grandchild, reads=lambda s: {})).set_start("kid")
        flow = Workflow("family").add_node("kid", Child(kid, reads=lambda s: {})).add_node("end", lambda s: None)
        return flow.add_edge("kid", "end").set_start("kid")

    def dying():
        async def tell():
            async with Engine(tmp_path / "s", workflows=[flows()]) as engine:
                await engine.start(engine._flows["family"], {}, run_id="r")
                await until(
                    lambda: len(engine.log.ids("r", 9)) == 3 and engine.log.head(engine.log.ids("r", 9)[-1]).version > 1
                )
                os._exit(9)

        story(tell())

    async def after():
        flow = flows()
        async with Engine(tmp_path / "s", workflows=[flow]) as engine:
            names = engine.log.ids("r.", 9)
            assert len(names) == 2
            await (await engine.skip("r", {})).result()
            assert [engine.get(name).status for name in names] == ["cancelled", "cancelled"]
            for name in names:
                state = recover(engine.log, engine.log.head(name)).state
                assert state.run.caller is not None
                assert sum(isinstance(one.event, RunStarted) for one in engine.get(name).events()) == 1

    assert child(dying).answer() == "signal 0"
    story(after())


@pytest.mark.parametrize("how", ["skip", "rewind", "migrate"])
@pytest.mark.parametrize("stands", ["driven", "parked"])
def test_who_waits_for_a_run_waits_on_when_it_is_taken_in_hand(how, stands):
    """The driver is exchanged; the result is that of the run, not that it was stopped for a moment."""

    async def tell():
        flow = waiting()
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            results = [asyncio.ensure_future(run.result()) for _ in range(2)]
            await until(lambda: run.status == "waiting")
            if stands == "parked":
                await until(lambda: engine._desk.driver(engine.log.head("r").run_key) is None)
            if how == "skip":
                await engine.skip("r", {"by": "hand"})
            elif how == "rewind":
                await engine.resume("r", at=1)
            else:
                await engine.resume("r", migrate=lambda data: {"by": "hand"})
            if how != "skip":
                await engine.signal("r", "go")
            expected = {"done": True} if how == "rewind" else {"by": "hand", "done": True}
            assert await asyncio.gather(*results) == [expected] * 2

    story(tell())


def test_who_waits_for_a_run_hears_of_an_end_by_hand():
    """A terminal node that is skipped ends the run for everybody."""

    async def tell():
        async def never(state):
            await asyncio.Event().wait()

        flow = Workflow("w").add_node("only", never).set_start("only")
        async with Engine(workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            result = asyncio.ensure_future(run.result())
            await asyncio.sleep(0.01)
            await engine.skip("r", {"by": "hand"})
            assert await result == {"by": "hand"}

    story(tell())


def test_a_run_that_could_not_be_exchanged_is_let_go_for_those_who_wait():
    """They are told that it was stopped, and it can be resumed."""

    async def tell():
        log, flow = Full(), waiting()
        async with Engine(log, workflows=[flow]) as engine:
            run = await engine.start(flow, {}, run_id="r")
            result = asyncio.ensure_future(run.result())
            await until(lambda: run.status == "waiting")
            write, count = log.write, []

            def fails_once_let_go(batch):
                count.append(1)
                if len(count) > 1:
                    log.full = True
                return write(batch)

            log.write = fails_once_let_go
            with pytest.raises(StoreFull):
                await engine.resume("r", at=1)
            with pytest.raises(Stopped):
                await result
            log.full, log.write = False, write
            run = await engine.resume("r")
            await engine.signal("r", "go")
            assert await run.result() == {"done": True}

    story(tell())
