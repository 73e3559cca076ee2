"""Group commit: many callers, one commit, each told of its own write."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventflow.errors import EventflowError, StoreClosed, StoreFull, VersionConflict
from eventflow.event import Transitioned
from eventflow.log import Answer, Append, Appended, LmdbLog, Log, MemoryLog, Post, Write, Writer
from eventflow.testing.author import Author

MOVE = Transitioned("a", "a")


class Counted:
    """A log that counts the batches it is given, and can hold one up."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()

    def write(self, batch: list[Write]) -> list[Answer | EventflowError]:
        self.open.wait(10)
        self.batches.append(len(batch))
        self.threads.add(threading.current_thread().name)
        return self.log.write(batch)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LmdbLog]:
    """A durable log with a small map."""
    made = LmdbLog(tmp_path / "store", map_size=1 << 20)
    yield made
    made.close()


def counted(log: Log) -> tuple[Counted, Writer]:
    """A writer, and what counts its batches."""
    between = Counted(log)
    return between, Writer(between)  # type: ignore[arg-type]


def starts(log: Log, count: int) -> list[Append]:
    """The first appends of so many runs."""
    author = Author(log)
    return [author.first(f"r{number}") for number in range(count)]


def test_what_piles_up_during_a_commit_goes_into_the_next(log: LmdbLog) -> None:
    """Two hundred callers are answered by two commits: the first one's, and one for all who came meanwhile."""
    between, writer = counted(log)

    async def story() -> list[Answer]:
        between.open.clear()
        waiting = [writer.submit(one) for one in starts(log, 200)]
        await asyncio.sleep(0.02)
        assert not any(one.done() for one in waiting)
        between.open.set()
        return await asyncio.gather(*waiting)

    answers = asyncio.run(story())
    writer.close()
    assert sum(between.batches) == 200
    assert len(between.batches) <= 3
    assert between.threads == {"eventflow-writer"}
    assert [answer.head.run_id for answer in answers if isinstance(answer, Appended)] == [f"r{n}" for n in range(200)]
    assert all(log.head(answer.head.run_id) == answer.head for answer in answers if isinstance(answer, Appended))


def test_each_caller_is_answered_when_its_own_write_is_durable(log: LmdbLog) -> None:
    """An answer is never there before its rows are."""
    writer = Writer(log)

    async def one(append: Append) -> None:
        answer = await writer.write(append)
        assert isinstance(answer, Appended)
        assert log.head(append.run_id) == answer.head

    async def story() -> None:
        await asyncio.gather(*(one(append) for append in starts(log, 100)))

    asyncio.run(story())
    writer.close()


def test_a_conflict_fails_only_its_own_caller(log: LmdbLog) -> None:
    """The others in the same batch are answered, the loser gets its own error."""
    between, writer = counted(log)
    appends = starts(log, 5)
    again = Author(log).first("r2")

    async def story() -> list[Answer | BaseException]:
        between.open.clear()
        waiting = [writer.submit(one) for one in (*appends, again)]
        between.open.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    *won, lost = asyncio.run(story())
    writer.close()
    assert all(isinstance(answer, Appended) for answer in won)
    assert isinstance(lost, VersionConflict)
    assert lost.run_id == "r2"


def test_a_full_store_fails_everybody_in_the_batch(log: LmdbLog) -> None:
    """Each of them hears StoreFull, nothing is kept, and the writer goes on with what fits."""
    between, writer = counted(log)
    author = Author(log)
    head = author.start("small")
    huge = author.first("huge", {f"k{number}": os.urandom(900) for number in range(2_000)})
    batch = [author.then(head, MOVE), huge, Post(head.run_key, b"x")]

    async def story() -> list[Answer | BaseException]:
        between.open.clear()
        writer.submit(author.first("before"))
        await asyncio.sleep(0.02)
        waiting = [writer.submit(one) for one in batch]
        between.open.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(await writer.write(batch[0]), Appended)
        return answers

    answers = asyncio.run(story())
    writer.close()
    assert between.batches == [1, 3, 1]
    assert [type(answer) for answer in answers] == [StoreFull] * 3
    assert log.ids("", 9) == ["before", "small"]
    assert log.inbox(head.run_key) == []


def test_a_closed_writer_refuses(log: LmdbLog) -> None:
    """By every way in, with StoreClosed; closing again is no error."""
    writer = Writer(log)
    append = starts(log, 1)[0]
    writer.close()
    writer.close()

    async def story() -> None:
        with pytest.raises(StoreClosed):
            await writer.write(append)
        with pytest.raises(StoreClosed):
            await writer.write(append, alone=True)
        with pytest.raises(StoreClosed):
            await writer.submit(append)
        with pytest.raises(StoreClosed):
            writer.at_once(append)

    asyncio.run(story())
    with pytest.raises(StoreClosed):
        writer.write_now(append)
    assert log.head("r0") is None


def test_closing_writes_what_was_asked_for(log: LmdbLog) -> None:
    """Whoever had asked before the end is answered."""
    between, writer = counted(log)

    async def story() -> list[Answer]:
        between.open.clear()
        waiting = [writer.submit(one) for one in starts(log, 50)]
        closing = threading.Thread(target=writer.close)
        closing.start()
        between.open.set()
        answers = await asyncio.gather(*waiting)
        closing.join()
        return answers

    assert len(asyncio.run(story())) == 50
    assert len(log.ids("", 99)) == 50


def test_nobody_waits_for_ever_when_the_writer_closes_meanwhile() -> None:
    """Each caller that races the end is either answered or refused."""
    for attempt in range(20):
        writer = Writer(MemoryLog())
        seen: list[str] = []
        ready = threading.Barrier(2)

        async def story(writer: Writer = writer, ready: threading.Barrier = ready, seen: list[str] = seen) -> None:
            ready.wait()
            while len(seen) < 1_000:
                try:
                    await asyncio.wait_for(writer.submit(Post(b"?" * 16, b"")), 10)
                except StoreClosed:
                    seen.append("closed")
                    return
                except EventflowError:
                    seen.append("answered")

        thread = threading.Thread(target=asyncio.run, args=(story(),))
        thread.start()
        ready.wait()
        for _ in range(attempt * 50):
            pass
        writer.close()
        thread.join(20)
        assert not thread.is_alive()
        assert seen[-1] == "closed"


def test_a_lone_caller_writes_on_its_own_thread(log: LmdbLog) -> None:
    """With nothing else going on no thread is started at all."""
    between, writer = counted(log)

    async def story() -> None:
        for one in starts(log, 3):
            assert isinstance(await writer.write(one, alone=True), Appended)

    asyncio.run(story())
    assert between.threads == {threading.current_thread().name}
    assert between.batches == [1, 1, 1]
    writer.close()


def test_a_caller_that_is_not_alone_after_all_queues_up(log: LmdbLog) -> None:
    """While others wait or write, `alone` does not overtake them."""
    between, writer = counted(log)

    async def story() -> None:
        between.open.clear()
        first, second = starts(log, 2)
        waiting = writer.submit(first)
        assert writer.at_once(second) is None
        late = asyncio.create_task(writer.write(second, alone=True))
        await asyncio.sleep(0)
        between.open.set()
        one, two = await asyncio.gather(waiting, late)
        assert isinstance(one, Appended)
        assert isinstance(two, Appended)
        assert one.position < two.position

    asyncio.run(story())
    writer.close()
    assert between.threads == {"eventflow-writer"}


def test_the_error_of_a_lone_write_is_raised(log: LmdbLog) -> None:
    """On the caller's thread too, a conflict is raised and not returned."""
    writer = Writer(log)
    append = starts(log, 1)[0]
    assert isinstance(writer.write_now(append), Appended)

    async def story() -> None:
        with pytest.raises(VersionConflict):
            await writer.write(append, alone=True)

    asyncio.run(story())
    with pytest.raises(VersionConflict):
        writer.write_now(append)
    writer.close()


def test_two_event_loops_share_one_writer(log: LmdbLog) -> None:
    """Each loop's callers are answered in their own loop."""
    writer = Writer(log)
    appends = starts(log, 200)
    answered: dict[int, list[str]] = {0: [], 1: []}

    async def one(append: Append, which: int) -> None:
        answer = await writer.write(append)
        assert isinstance(answer, Appended)
        assert asyncio.get_running_loop() is loops[which]
        answered[which].append(answer.head.run_id)

    loops: dict[int, asyncio.AbstractEventLoop] = {}

    async def story(which: int) -> None:
        loops[which] = asyncio.get_running_loop()
        await asyncio.gather(*(one(append, which) for append in appends[which::2]))

    threads = [threading.Thread(target=lambda which=which: asyncio.run(story(which))) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    writer.close()
    assert [len(names) for names in answered.values()] == [100, 100]
    assert len(log.ids("", 999)) == 200


def test_a_cancelled_caller_does_not_undo_its_write(log: LmdbLog) -> None:
    """The write was asked for and is kept; nobody else is disturbed."""
    between, writer = counted(log)

    async def story() -> None:
        between.open.clear()
        one, two = starts(log, 2)
        task = asyncio.create_task(writer.write(one))
        waiting = writer.submit(two)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        between.open.set()
        assert isinstance(await waiting, Appended)

    asyncio.run(story())
    writer.close()
    assert log.ids("", 9) == ["r0", "r1"]


def test_a_loop_that_ended_does_not_stop_the_writer(log: LmdbLog) -> None:
    """What its callers asked for is written, and others go on."""
    between, writer = counted(log)
    one, two = starts(log, 2)

    async def ask() -> None:
        writer.submit(one)

    between.open.clear()
    asyncio.run(ask())
    between.open.set()

    async def story() -> Answer:
        return await asyncio.wait_for(writer.write(two), 10)

    assert isinstance(asyncio.run(story()), Appended)
    writer.close()
    assert log.ids("", 9) == ["r0", "r1"]
