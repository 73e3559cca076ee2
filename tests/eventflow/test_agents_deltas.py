"""Deltas: what models say while they say it, told to whoever listens, and to nobody who does not."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
from stories import story

from eventflow import Agent, Engine, Workflow
from eventflow.agents import Deltas
from eventflow.agents import deltas as module
from eventflow.testing import ModelServer

BOTH = pytest.mark.parametrize("api", ["chat", "responses"])


def speaking(server: ModelServer, deltas: Deltas, **options: Any) -> Workflow:
    """Two agents who speak one after the other."""
    same: dict[str, Any] = {"model": "m", "stream": True, "on_delta": deltas, "base_url": server.base_url, **options}
    return (
        Workflow("w")
        .add_node("first", Agent(reads="q", writes="a", **same))
        .add_node("second", Agent(reads="a", writes="b", **same))
        .add_edge("first", "second")
        .set_start("first")
    )


async def heard(listener: Any) -> list[tuple[str, str, str]]:
    """All that comes until it ends."""
    return [tuple(one) async for one in listener]


@BOTH
def test_whoever_follows_hears_every_piece_in_order(api):
    """Pieces come with their run and node, to each listener; one that names a run hears that one alone."""
    deltas = Deltas()

    async def tell(server: ModelServer) -> Any:
        everything, one = deltas.follow(), deltas.follow("r2")
        listening = [asyncio.ensure_future(heard(each)) for each in (everything, one)]
        async with Engine() as engine:
            for name in ("r1", "r2"):
                run = await engine.start(speaking(server, deltas, api=api), {"q": "?"}, run_id=name)
                await run.result()
        deltas.close()
        return await asyncio.gather(*listening)

    with ModelServer(["a b", "c d"] * 2) as server:
        everything, one = story(tell(server))
    said = [("first", "a "), ("first", "b"), ("second", "c "), ("second", "d")]
    assert everything == [(run, *piece) for run in ("r1", "r2") for piece in said]
    assert one == [("r2", *piece) for piece in said]


def test_a_listener_hears_what_is_said_from_its_beginning_on_though_it_looks_later():
    """Nothing is lost between the call and the first look, nor after the end."""

    async def tell() -> Any:
        deltas = Deltas()
        deltas("r", "n", "before")
        listener = deltas.follow()
        deltas("r", "n", "after")
        deltas.close()
        return await heard(listener), await heard(deltas.follow())

    assert story(tell()) == ([("r", "n", "after")], [])


def test_pieces_come_from_other_threads():
    """A run in one loop may be listened to in another."""

    async def tell(server: ModelServer) -> Any:
        deltas = Deltas()
        listener = deltas.follow()
        runner = threading.Thread(target=lambda: speaking(server, deltas).run_sync({"q": "?"}))
        runner.start()
        pieces = [await anext(listener) for _ in range(4)]
        runner.join()
        return [piece.text for piece in pieces]

    with ModelServer(["a b", "c d"]) as server:
        assert story(tell(server)) == ["a ", "b", "c ", "d"]


def test_a_piece_from_another_thread_wakes_who_waits_for_it():
    """The loop that listens sleeps until then; in asyncio's debug mode, which refuses what is not safe."""

    async def tell() -> str:
        deltas = Deltas()
        listener = deltas.follow()
        waiting = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        speaker = threading.Timer(0.05, deltas, ("r", "n", "now"))
        speaker.start()
        try:
            return (await asyncio.wait_for(waiting, 10)).text
        finally:
            speaker.join()

    assert asyncio.run(tell(), debug=True) == "now"


def test_a_listener_that_is_gone_is_forgotten_and_one_whose_loop_is_over_harms_nobody():
    """An abandoned listener costs nothing, and what is said to it is said to nobody."""
    deltas = Deltas()

    async def begin() -> Any:
        return deltas.follow()

    old = story(begin())  # its loop is closed now

    async def tell() -> list[Any]:
        listener = deltas.follow()
        deltas("r", "n", "a")
        deltas.close()
        return await heard(listener)

    assert story(tell()) == [("r", "n", "a")]
    gone = weakref.ref(old)
    del old
    gc.collect()
    assert gone() is None


def test_one_who_does_not_come_loses_the_oldest_and_can_tell(monkeypatch):
    """What is kept for a listener is bounded; the newest stay, and it knows how many it has missed."""
    monkeypatch.setattr(module, "LIMIT", 3)

    async def tell() -> Any:
        deltas = Deltas()
        listener = deltas.follow()
        for number in range(5):
            deltas("r", "n", str(number))
        deltas.close()
        return [text for _, _, text in await heard(listener)], listener.lost

    assert story(tell()) == (["2", "3", "4"], 2)
