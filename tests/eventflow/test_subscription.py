"""Subscribers: everything that is recorded, from a position on, and again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from eventflow import Engine, ManualClock, Workflow, subscribe
from eventflow.codec import pack
from eventflow.errors import RunNotFound, StoreClosed
from eventflow.event import Recorded, RunDeleted, Transitioned
from eventflow.log import Act, LmdbLog, Log, MemoryLog
from eventflow.subscription import PAGE
from eventflow.testing.author import Author, written

MOVE = Transitioned("a", "a")
PATIENCE = 10.0  # seconds; how long a broken subscription may hang before its test fails


async def take(events: AsyncIterator[Recorded], count: int) -> list[Recorded]:
    """The next so many events."""

    async def collect() -> list[Recorded]:
        return [await anext(events) for _ in range(count)]

    return await asyncio.wait_for(collect(), PATIENCE)


async def places(events: AsyncIterator[Recorded], count: int) -> list[int]:
    """The positions of the next so many events."""
    return [one.position for one in await take(events, count)]


@pytest.fixture(params=["memory", "lmdb"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A log of each kind."""
    made = MemoryLog() if request.param == "memory" else LmdbLog(tmp_path / "store")
    with contextlib.closing(made):
        yield made


def test_a_subscriber_gets_what_is_there_and_then_what_comes(log: Log) -> None:
    """Recorded events in order of position, those of the store's own stream among them, whole as they were recorded."""

    async def story() -> None:
        author = Author(log)
        head = author.start("r", {"long": "x" * 5_000})
        events = subscribe(log, poll=0.001)
        created, started = await take(events, 2)
        assert (type(created.event).__name__, created.position) == ("StoreCreated", 1)
        assert started.event.data == {"long": "x" * 5_000}
        waiting = asyncio.create_task(places(events, 2))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        author.add(head, MOVE, MOVE)
        assert await waiting == [3, 4]

    asyncio.run(story())


def test_a_subscriber_goes_on_after_the_position_it_remembers(tmp_path: Path) -> None:
    """After a restart, with the store opened anew, nothing comes twice and nothing is missed."""
    path = tmp_path / "store"

    async def first() -> int:
        with contextlib.closing(LmdbLog(path)) as log:
            author = Author(log)
            author.add(author.start("r"), MOVE, MOVE)
            return (await take(subscribe(log), 4))[-1].position

    async def second(done: int) -> list[int]:
        with contextlib.closing(LmdbLog(path)) as log:
            Author(log, clock=ManualClock(seed=1)).start("s")
            return await places(subscribe(log, done), 1)

    assert asyncio.run(second(asyncio.run(first()))) == [5]


def test_more_than_a_page_is_read_to_its_end(log: Log) -> None:
    """Page after page, of the store and of a run, without a gap between them."""

    async def story() -> None:
        author = Author(log)
        head = author.add(author.start("r"), *[MOVE] * PAGE)
        author.start("s")
        author.add(head, *[MOVE] * PAGE)
        every = list(range(1, 2 * PAGE + 4))
        assert await places(subscribe(log), len(every)) == every
        own = [one for one in every if one not in (1, PAGE + 3)]
        assert await places(subscribe(log, run="r"), len(own)) == own

    asyncio.run(story())


@pytest.mark.parametrize("after", range(8))
def test_one_run_is_followed_from_any_position_of_the_store(log: Log, after: int) -> None:
    """The same number as for the whole store; what other runs do is left out."""

    async def story() -> None:
        author = Author(log)
        one, other = author.start("r"), author.start("s")  # 2, 3
        one = author.add(one, MOVE)  # 4
        other = author.add(other, MOVE, MOVE)  # 5, 6
        author.add(one, MOVE)  # 7
        events = subscribe(log, after, run="r", poll=0.001)
        own = [place for place in (2, 4, 7) if place > after]
        assert await places(events, len(own)) == own
        waiting = asyncio.create_task(places(events, 1))
        author.add(other, MOVE)  # 8
        await asyncio.sleep(0.01)
        assert not waiting.done()
        author.add(author.log.head("r"), MOVE)  # 9
        assert await waiting == [9]

    asyncio.run(story())


def test_a_fork_is_followed_from_its_own_first_event(log: Log) -> None:
    """What it shares with its parent is the parent's."""

    async def story() -> None:
        author = Author(log)
        parent = author.add(author.start("r"), MOVE, MOVE)
        author.fork(parent, 2, "f")
        (first,) = await take(subscribe(log, run="f"), 1)
        assert (type(first.event).__name__, first.version, first.position) == ("Forked", 3, 5)

    asyncio.run(story())


def test_deleted_runs_are_left_out(log: Log) -> None:
    """Their positions are skipped; the deletion itself is there, and the run is there no more."""

    async def story() -> None:
        author = Author(log)
        head = author.add(author.start("r"), MOVE)
        author.start("s")
        written(log, Act(pack(RunDeleted("r", head.run_key, 1, 2, head.digest)), 1, delete_run=head))
        assert await places(subscribe(log), 3) == [1, 4, 5]
        with pytest.raises(RunNotFound):
            await take(subscribe(log, run="r"), 1)

    asyncio.run(story())


def test_a_run_that_is_deleted_while_it_is_followed_says_no_more(log: Log) -> None:
    """Nor does another one that gets its id."""

    async def story() -> None:
        author = Author(log)
        head = author.start("r")
        events = subscribe(log, run="r", poll=0.001)
        await take(events, 1)
        written(log, Act(pack(RunDeleted("r", head.run_key, 1, 1, head.digest)), 1, delete_run=head))
        author.start("r")
        waiting = asyncio.create_task(take(events, 1))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(story())


def test_a_subscriber_sees_other_processes(tmp_path: Path, child: Callable[[Callable[..., object]], Any]) -> None:
    """What another process writes comes as what this one does."""
    path = tmp_path / "store"
    with contextlib.closing(LmdbLog(path)) as log:
        author = Author(log)
        more = author.then(author.start("r"), MOVE)

        def work() -> str:
            with contextlib.closing(LmdbLog(path)) as other:
                return type(other.write([more])[0]).__name__

        async def story() -> None:
            for run in (None, "r"):
                events = subscribe(log, 1, run=run, poll=0.001)
                assert await places(events, 1) == [2]
                if run is None:
                    assert child(work).answer() == "Appended"
                assert await places(events, 1) == [3]

        asyncio.run(story())


def test_a_closed_store_ends_it_with_a_sentence(log: Log) -> None:
    """Rather than waiting for what can't come."""

    async def story() -> None:
        Author(log).start("r")
        events = subscribe(log, poll=0.001)
        await take(events, 2)
        log.close()
        with pytest.raises(StoreClosed):
            await take(events, 1)

    asyncio.run(story())


def test_an_engine_is_subscribed_to_as_its_log_is() -> None:
    """What its runs record arrives while they run, and it does not end with them."""
    flow = Workflow("w").add_node("a", lambda s: {}).set_start("a")

    async def story() -> None:
        async with Engine(workflows=[flow]) as engine:
            events = subscribe(engine, poll=0.001)
            told = asyncio.create_task(take(events, 5))
            for name in ("r", "s"):
                await (await engine.start(flow, {}, run_id=name)).result()
            assert [type(one.event).__name__ for one in await told] == [
                "StoreCreated", "RunStarted", "RunCompleted", "RunStarted", "RunCompleted",
            ]  # fmt: skip

    asyncio.run(story())


def test_a_waiting_subscriber_holds_nothing_open(tmp_path: Path) -> None:
    """Between its looks no reader's slot is in use, so no old page is kept alive."""
    with contextlib.closing(LmdbLog(tmp_path / "store")) as log:
        Author(log).add(Author(log).start("r"), MOVE, MOVE)

        async def story() -> None:
            assert await places(subscribe(log), 1) == [1]
            slots = log._env._env.readers().split("\n")[1:]
            assert not any(line.strip() and not line.rstrip().endswith("-") for line in slots)

        asyncio.run(story())
