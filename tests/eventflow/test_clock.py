"""Clocks: time that stands still until it is moved, waiters that wake, ids that rise."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from datetime import UTC, datetime

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import clock as clocks
from eventflow.clock import NS, Clock, IdSource, ManualClock, SystemClock, id_text

PATIENCE = 10.0  # real seconds; how long a broken clock may hang before its test fails


async def waiting(clock: Clock, *moments: int) -> list[asyncio.Task[None]]:
    """Tasks that wait for moments, begun."""
    tasks = [asyncio.ensure_future(clock.wait_until(moment)) for moment in moments]
    await settled()
    return tasks


async def settled() -> None:
    """All that is ready has run."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- ManualClock ---------------------------------------------------------------------------------------------------


def test_manual_time_stands_still_until_it_is_advanced(clock: ManualClock) -> None:
    """Both times move by exactly what they are told."""
    start = clock.now()
    assert (clock.now(), clock.monotonic()) == (start, 0.0)
    clock.advance(1.5)
    clock.advance(0)
    assert (clock.now(), clock.monotonic()) == (start + 1_500_000_000, 1.5)


def test_manual_time_begins_where_it_is_told() -> None:
    """The default is a round date, so that examples read well."""
    assert ManualClock(5).now() == 5
    assert datetime.fromtimestamp(ManualClock().now() / NS, UTC) == datetime(2026, 1, 1, tzinfo=UTC)


def test_setting_the_wall_clock_back_leaves_monotonic_time_alone(clock: ManualClock) -> None:
    """What an operator does to a wall clock, monotonic time never shows."""
    clock.advance(10)
    start = clock.now()
    clock.advance(-3)
    assert clock.now() == start - 3 * NS
    assert clock.monotonic() == 10


async def _waiters_wake_in_time(clock: ManualClock) -> None:
    start = clock.now()
    soon, late, past, now = await waiting(clock, start + NS, start + 2 * NS, start - 1, start)
    assert [task.done() for task in (soon, late, past, now)] == [False, False, True, True]
    clock.advance(0.999_999_999)
    await settled()
    assert not soon.done()
    clock.advance(0.000_000_001)
    await settled()
    assert [soon.done(), late.done()] == [True, False]
    clock.advance(1_000)
    await asyncio.wait_for(late, PATIENCE)


def test_waiters_wake_when_their_moment_is_reached(clock: ManualClock) -> None:
    """Not a nanosecond before, and at once if it has passed."""
    asyncio.run(_waiters_wake_in_time(clock))


async def _sleepers_wake(clock: ManualClock) -> None:
    sleeper = asyncio.ensure_future(clock.sleep(2))
    await settled()
    clock.advance(1)
    await settled()
    assert not sleeper.done()
    clock.advance(1)
    await asyncio.wait_for(sleeper, PATIENCE)
    await asyncio.wait_for(clock.sleep(0), PATIENCE)


def test_sleepers_wake_after_their_time(clock: ManualClock) -> None:
    """Sleeping counts from now."""
    asyncio.run(_sleepers_wake(clock))


async def _woken_in_order(clock: ManualClock) -> list[int]:
    woken: list[int] = []

    async def wait(number: int, moment: int) -> None:
        await clock.wait_until(moment)
        woken.append(number)

    start = clock.now()
    seconds = (3, 1, 2, 1)
    tasks = [asyncio.ensure_future(wait(number, start + after * NS)) for number, after in enumerate(seconds)]
    await settled()
    clock.advance(5)
    await asyncio.gather(*tasks)
    return woken


def test_one_step_wakes_all_whose_moment_it_passes_in_order(clock: ManualClock) -> None:
    """Earlier moments first; of one moment, who waited first."""
    assert asyncio.run(_woken_in_order(clock)) == [1, 3, 2, 0]


async def _next_wakes(clock: ManualClock) -> list[int | None]:
    start, seen = clock.now(), [clock.next_wake()]
    late, soon = await waiting(clock, start + 9, start + 5)
    seen.append(clock.next_wake())
    soon.cancel()
    await settled()
    seen.append(clock.next_wake())
    clock.advance(1)
    await asyncio.wait_for(late, PATIENCE)
    return [*seen, clock.next_wake()]


def test_the_next_wake_is_the_earliest_that_somebody_still_waits_for(clock: ManualClock) -> None:
    """A waiter that was cancelled does not count, nor does it break a later step."""
    start = clock.now()
    assert asyncio.run(_next_wakes(clock)) == [None, start + 5, start + 9, None]


async def _woken_from_thread(clock: ManualClock) -> None:
    (task,) = await waiting(clock, clock.now() + NS)
    threading.Thread(target=clock.advance, args=(1,)).start()
    await asyncio.wait_for(task, PATIENCE)


def test_another_thread_may_move_the_clock(clock: ManualClock) -> None:
    """The waiter's loop is woken where it sleeps."""
    asyncio.run(_woken_from_thread(clock))


def test_a_waiter_of_a_loop_that_is_gone_does_not_break_the_clock(clock: ManualClock) -> None:
    """A clock outlives the loops of the tests that use it."""
    moment = clock.now() + NS

    async def give_up() -> None:
        await waiting(clock, moment)

    asyncio.run(give_up())
    clock.advance(2)
    asyncio.run(clock.wait_until(moment))


# --- SystemClock ---------------------------------------------------------------------------------------------------


def test_system_time_is_the_machines() -> None:
    """Wall time is in ns since the epoch, monotonic time does not go back."""
    clock = SystemClock()
    before = time.time_ns()
    assert before <= clock.now() <= time.time_ns()
    assert clock.monotonic() <= clock.monotonic()


async def _system_waits(clock: SystemClock) -> None:
    moment = clock.now() + 3_000_000
    await asyncio.wait_for(clock.wait_until(moment), PATIENCE)
    assert clock.now() >= moment
    await asyncio.wait_for(clock.wait_until(moment), PATIENCE)
    await asyncio.wait_for(clock.sleep(0.001), PATIENCE)


def test_the_system_clock_waits_until_the_moment_has_come() -> None:
    """It never returns early, and at once for a moment that has passed."""
    asyncio.run(_system_waits(SystemClock()))


async def _frozen(ticks: list[float]) -> None:
    with freeze_time("2026-01-01", real_asyncio=True) as frozen:
        clock = SystemClock(frozen=True)
        start = clock.now()
        assert start == 1_767_225_600 * NS
        (task,) = await waiting(clock, start + 3_600 * NS)
        for tick in ticks:
            await asyncio.sleep(2 * clocks.FROZEN_POLL)
            assert not task.done()
            frozen.tick(tick)
        await asyncio.wait_for(task, PATIENCE)
        assert clock.now() == start + 3_600 * NS


@pytest.mark.parametrize("ticks", [[3_600.0], [1_800.0, -900.0, 2_700.0]])
def test_under_freezegun_a_waiter_follows_the_frozen_time(ticks: list[float]) -> None:
    """An hour passes when the test says so, in a few real milliseconds, backwards in between if it likes."""
    asyncio.run(_frozen(ticks))


def test_a_jump_of_the_wall_clock_is_noticed_without_freezing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter looks again at least every so often, however far its moment seems."""
    monkeypatch.setattr(clocks, "LONGEST_SLEEP", 0.005)

    async def jump() -> None:
        with freeze_time("2026-01-01", real_asyncio=True) as frozen:
            clock = SystemClock()
            (task,) = await waiting(clock, clock.now() + 86_400 * NS)
            frozen.tick(86_400)
            await asyncio.wait_for(task, PATIENCE)

    asyncio.run(jump())


# --- ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
def test_ids_are_version_7_uuids_of_their_time(clock: Clock) -> None:
    """Python's own reader agrees on version, variant and text; the first 48 bits are the time in ms."""
    before = clock.now() // 1_000_000
    key = clock.uuid7()
    read = uuid.UUID(bytes=key)
    assert (read.version, read.variant) == (7, uuid.RFC_4122)
    assert before <= int.from_bytes(key[:6], "big") <= clock.now() // 1_000_000
    assert id_text(key) == str(read)


def test_ids_of_one_moment_rise(clock: ManualClock) -> None:
    """More ids than a millisecond has places for still sort by creation."""
    keys = [clock.uuid7() for _ in range(10_000)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert all(uuid.UUID(bytes=key).version == 7 for key in keys)


def test_ids_rise_when_the_clock_is_set_back(clock: ManualClock) -> None:
    """Order by id is order of creation within one source, whatever the wall clock does."""
    first = clock.uuid7()
    clock.advance(-1_000)
    assert clock.uuid7() > first


def test_ids_of_one_seed_repeat_and_of_two_differ() -> None:
    """A test's run repeats to the byte."""
    assert [ManualClock(seed=1).uuid7() for _ in range(2)] == [ManualClock(seed=1).uuid7() for _ in range(2)]
    assert ManualClock(seed=1).uuid7() != ManualClock(seed=2).uuid7()
    assert SystemClock().uuid7() != SystemClock().uuid7()


@given(st.lists(st.integers(-(10**18), 2**63 - 1), min_size=1, max_size=30))
@settings(max_examples=50)
def test_whatever_the_times_ids_are_valid_and_rise(times: list[int]) -> None:
    """Times before the epoch and jumps in any direction give ids all the same."""
    source = IdSource(lambda size: b"\xff" * size)
    keys = [source.uuid7(now) for now in times]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert {uuid.UUID(bytes=key).version for key in keys} == {7}
