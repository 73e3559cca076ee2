"""The feed: everything there is, then everything that comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from eventflow.codec import Stored, pack
from eventflow.event import RunDeleted, Transitioned
from eventflow.log import Act, LmdbLog, Log, MemoryLog, follow
from eventflow.log.follow import PAGE
from eventflow.testing.author import Author, written

MOVE = Transitioned("a", "a")
PATIENCE = 10.0  # seconds; how long a broken feed may hang before its test fails


async def take(feed: AsyncIterator[Stored], count: int) -> list[int]:
    """The positions of the next so many events."""

    async def collect() -> list[int]:
        return [(await anext(feed)).position for _ in range(count)]

    return await asyncio.wait_for(collect(), PATIENCE)


@pytest.fixture(params=["memory", "lmdb"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A log of each kind."""
    made = MemoryLog() if request.param == "memory" else LmdbLog(tmp_path / "store")
    with contextlib.closing(made):
        yield made


def test_a_follower_gets_what_is_there_and_then_what_comes(log: Log) -> None:
    """In order of position, without a gap between the two."""

    async def story() -> None:
        author = Author(log)
        head = author.add(author.start("r"), MOVE)
        feed = follow(log, poll=0.001)
        assert await take(feed, 3) == [1, 2, 3]
        waiting = asyncio.create_task(take(feed, 2))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        author.add(head, MOVE, MOVE)
        assert await waiting == [4, 5]
        await feed.aclose()

    asyncio.run(story())


def test_a_follower_goes_on_after_a_position(log: Log) -> None:
    """One that knows position 2 begins with position 3."""

    async def story() -> None:
        author = Author(log)
        author.add(author.start("r"), MOVE, MOVE)
        feed = follow(log, 2, poll=0.001)
        assert await take(feed, 2) == [3, 4]
        await feed.aclose()

    asyncio.run(story())


def test_more_than_a_page_is_followed_to_its_end(log: Log) -> None:
    """The feed reads page after page before it waits."""

    async def story() -> None:
        author = Author(log)
        author.add(author.start("r"), *[MOVE] * (2 * PAGE + 5))
        feed = follow(log, poll=0.001)
        assert await take(feed, 2 * PAGE + 7) == list(range(1, 2 * PAGE + 8))
        await feed.aclose()

    asyncio.run(story())


def test_deleted_events_are_left_out(log: Log) -> None:
    """Their positions are skipped; the deletion itself is there."""

    async def story() -> None:
        author = Author(log)
        head = author.add(author.start("r"), MOVE)
        author.start("s")
        event = RunDeleted("r", head.run_key, 1, 2, head.digest)
        written(log, Act(pack(event), 1, delete_run=head))
        feed = follow(log, poll=0.001)
        assert await take(feed, 3) == [1, 4, 5]
        await feed.aclose()

    asyncio.run(story())


def test_a_follower_sees_other_processes(tmp_path: Path, child: Callable[[Callable[..., object]], Any]) -> None:
    """What another process writes comes through the same look at the last transaction."""
    path = tmp_path / "store"
    with contextlib.closing(LmdbLog(path)) as log:
        author = Author(log)
        head = author.start("r")
        more = author.then(head, MOVE)

        def work() -> str:
            with contextlib.closing(LmdbLog(path)) as other:
                return type(other.write([more])[0]).__name__

        async def story() -> None:
            feed = follow(log, poll=0.001)
            assert await take(feed, 2) == [1, 2]
            writer = child(work)
            assert await take(feed, 1) == [3]
            assert writer.answer() == "Appended"
            await feed.aclose()

        asyncio.run(story())


def test_a_waiting_follower_holds_nothing_open(tmp_path: Path) -> None:
    """Between its looks no reader's slot is in use, so no old page is kept alive."""
    with contextlib.closing(LmdbLog(tmp_path / "store")) as log:
        Author(log).add(Author(log).start("r"), MOVE, MOVE)

        async def story() -> None:
            feed = follow(log)
            assert await take(feed, 1) == [1]  # it stands at a yield, in the middle of a page
            slots = log._env._env.readers().split("\n")[1:]
            assert not any(line.strip() and not line.rstrip().endswith("-") for line in slots)
            await feed.aclose()

        asyncio.run(story())
