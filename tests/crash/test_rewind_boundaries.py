"""A process that dies at any write of a rewind that takes calls and messages along: the next one ends it as it would."""

from __future__ import annotations

import asyncio
import os

import pytest

from eventflow import Child, Engine, Wait, Workflow
from eventflow.event import Rewound
from eventflow.recovery import recover
from eventflow.verification import verify_store

MORE_THAN_ALL = 60  # writes; the rewind and what follows take about 15
WHOLE = {"n": 3, "got": [0, 1, 2], "said": "hi", "x": 1}


def never_happened(key):
    """What the other side says of a call that was cut off before it was made."""
    raise LookupError(key)


def story_flow(bank) -> Workflow:
    """A message, three payments, a child."""

    async def pay(state, run):
        def call():
            with bank.open("a") as file:
                file.write(f"{state['n']}\n")
            return state["n"]

        paid = await run.effect("pay", call, reconcile=never_happened)
        return {"n": state["n"] + 1, "got": [*state.get("got", []), paid]}

    kid = Workflow("kid").add_node("only", lambda state: {"x": 1}).set_start("only")
    flow = Workflow("w").add_node("hear", Wait(signal="go", writes="said")).add_node("pay", pay)
    flow.add_node("kid", Child(kid, reads=lambda state: {}, writes={"x": "x"})).add_node("end", lambda state: None)
    flow.add_edge("hear", "pay").add_edge("pay", "pay", when=lambda s: s["n"] < 3, label="more")
    return flow.add_edge("pay", "kid").add_edge("kid", "end").set_start("hear")


async def begin(place):
    """A run that has ended well."""
    flow = story_flow(place / "bank")
    async with Engine(place / "s", workflows=[flow]) as engine:
        run = await engine.start(flow, {"n": 0}, run_id="r")
        await engine.signal("r", "go", "hi")
        assert await run.result() == WHOLE


async def back(place, at: int, *, after: bool):
    """Take it back to its start, and die before or after the write number `at`."""
    flow, count = story_flow(place / "bank"), []
    async with Engine(place / "s", workflows=[flow]) as engine:
        write = engine.log.write

        def dies(batch):
            count.append(1)
            if len(count) == at:
                if after:
                    write(batch)
                os._exit(9)
            return write(batch)

        engine.log.write = dies
        await (await engine.resume("r", at=1, effects="reuse", keep_signals=True)).result()


async def end(place):
    """Whoever comes next: take up what is open, or take it back if that had not begun."""
    flow = story_flow(place / "bank")
    async with Engine(place / "s", workflows=[flow], pick_up=True) as engine:
        run = engine.get("r")
        if not any(isinstance(one.event, Rewound) for one in run.events()):
            run = await engine.resume("r", at=1, effects="reuse", keep_signals=True)
        assert await asyncio.wait_for((await engine.resume("r")).result(), 10) == WHOLE
        assert (place / "bank").read_text() == "0\n1\n2\n"
        head = engine.log.head("r")
        assert recover(engine.log, head).state == recover(engine.log, head, snapshots=False).state
        assert not list(verify_store(engine.log))[-1].findings


@pytest.mark.parametrize("after", [False, True])
def test_a_rewind_that_dies_anywhere_ends_as_it_would(tmp_path, fork, after):
    """Nothing is paid twice, no message is lost or read twice, and the child that counts is the one that is waited for."""
    for at in range(1, MORE_THAN_ALL):
        place = tmp_path / str(at)
        place.mkdir()
        asyncio.run(begin(place))

        def dying():
            return asyncio.run(back(place, at, after=after))  # noqa: B023 - it is forked within the turn

        life = fork(dying)
        assert life.end() == ""
        asyncio.run(end(place))
        if os.waitstatus_to_exitcode(life.status) == 0:
            assert at > 10
            return
    pytest.fail("it wrote more than it should")
