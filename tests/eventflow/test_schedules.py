"""Workflows started by the clock: each moment once, whatever jumps or dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import Full, story

from eventflow import Engine, ManualClock, MemoryLog, Schedule, Workflow, run_schedules
from eventflow.errors import DefinitionError, StoreClosed
from eventflow.log import Query
from eventflow.schedules import MAX_MISSED, due

NS = 1_000_000_000
MINUTE, HOUR, DAY = 60 * NS, 3_600 * NS, 86_400 * NS
BEGIN = 1_767_225_600 * NS  # 2026-01-01T00:00:00Z, where a manual clock begins


def at(text: str) -> int:
    """A moment from its text, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


def told(moments) -> list[str]:
    """Moments as texts, UTC."""
    return [f"{datetime.fromtimestamp(one // NS, UTC):%m-%d %H:%M}" for one in moments]


def flow(body=lambda state: {"done": True}, name="job") -> Workflow:
    """A workflow of one node."""
    return Workflow(name).add_node("only", body).set_start("only")


def schedule(name="tick", **options) -> Schedule:
    """A schedule of a workflow of one node, every hour if nothing else is said."""
    if "cron" not in options:
        options.setdefault("every", 3600)
    options.setdefault("flow", flow())
    return Schedule(name=name, **options)


@contextlib.asynccontextmanager
async def kept(engine, *schedules, **options):
    """Keep schedules within this block; what they were told of is in the list it gives."""
    fired: list[str] = []
    task = asyncio.ensure_future(run_schedules(engine, schedules, told=fired.append, **options))
    try:
        await settle()
        yield fired
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def settle():
    """Let everybody do what there is to do at this moment."""
    for _ in range(5):
        await asyncio.sleep(0.004)


async def pass_time(clock, *seconds):
    """Move the clock on, and let everybody see each moment."""
    for one in seconds:
        clock.advance(one)
        await settle()


def ids(log, tag="schedule:tick") -> list[str]:
    """The ids of a schedule's runs, oldest first."""
    return [one.head.run_id for one in log.runs(Query(tag=tag))][::-1]


# --- moments -------------------------------------------------------------------------------------------------------


def test_an_interval_counts_from_the_epoch_so_that_all_processes_count_alike():
    """It does not matter when one begins to count."""
    every = schedule(every=7200)
    for after in (BEGIN, BEGIN + 1, BEGIN + HOUR, BEGIN + 2 * HOUR - 1):
        assert next(every.moments(after)) == BEGIN + 2 * HOUR
    assert list(islice(every.moments(BEGIN), 3)) == [BEGIN + 2 * HOUR, BEGIN + 4 * HOUR, BEGIN + 6 * HOUR]


@pytest.mark.parametrize(
    ("cron", "zone", "day", "hours"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),  # 02:30 is left out
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),  # 02:30 comes twice
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 05:30", "11-02 06:30"]),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 07:00", "03-09 06:30"]),
        ("0 9 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 08:00", "10-26 08:00"]),  # nine by the wall
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00", ["04-23 22:00", "04-24 21:00"]),  # midnight is left out
    ],
)
def test_a_time_of_day_comes_once_a_day_also_where_the_clock_is_changed(cron, zone, day, hours):
    """An hour that is left out is met at its end, one that comes twice at its first time."""
    found = schedule(cron=cron, timezone=zone).moments(at(day))
    assert told(islice(found, 2)) == hours


def test_what_comes_every_so_often_goes_on_through_an_hour_that_comes_twice():
    """Each of its moments is another one."""
    found = list(islice(schedule(cron="*/30 * * * *", timezone="Europe/Berlin").moments(at("2026-10-24T23:30")), 6))
    assert {later - sooner for sooner, later in pairwise(found)} == {30 * MINUTE}


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "15 1,2,3 * * *", "0 */3 * * *", "*/20 * * * *", "45 1 * * SUN", "0 0 29 2 *"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC", "Australia/Sydney", "Asia/Kolkata"]),
    st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01", "2026-06-01"]),
    st.integers(-36 * 60, 36 * 60),
)
def test_moments_rise_and_hang_on_nothing_but_the_schedule(cron, zone, day, minutes):
    """Whoever begins to count between two moments comes to the same next one, so processes agree on each."""
    one = schedule(cron=cron, timezone=zone)
    after = at(day) + minutes * MINUTE
    first, second = islice(one.moments(after), 2)
    assert after < first < second
    assert next(one.moments(first)) == second
    for between in (first - 1, (after + first) // 2):
        assert next(one.moments(between)) == first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 60, "cron": "* * * * *"}, "schedule 'tick' needs either cron= or every="),
        ({"every": None}, "schedule 'tick' needs either cron= or every="),
        ({"every": 0.5}, "every= is in whole seconds, 1 to "),
        ({"every": 1.5}, "every= is in whole seconds, 1 to "),
        ({"every": float("inf")}, "every= is in whole seconds, 1 to "),
        ({"every": float("nan")}, "every= is in whole seconds, 1 to "),
        ({"every": 1e12}, "every= is in whole seconds, 1 to "),
        ({"cron": "61 * * * *"}, "schedule 'tick': '61 * * * *' is no cron expression (bad minute)"),
        ({"cron": "* * * *"}, "'* * * *' has 4 fields; a cron expression has five"),
        ({"cron": "* * * * * *"}, "has 6 fields"),
        ({"cron": "@daily"}, "has 1 fields"),
        ({"cron": ""}, "has 0 fields"),
        ({"cron": 5}, "5 is no text"),
        ({"cron": "0 0 31 2 *"}, "'0 0 31 2 *' is no cron expression (bad day-of-month)"),
        ({"cron": "0 0 * 2 MON#6"}, "is no cron expression"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "there is no time zone 'Mars/Olympus' here"),
        ({"cron": "* * * * *", "timezone": ""}, "there is no time zone ''"),
        ({"cron": "* * * * *", "timezone": "../etc"}, "there is no time zone '../etc'"),
        ({"cron": "* * * * *", "timezone": "America"}, "there is no time zone 'America'"),
        ({"catch_up": "some"}, "catch_up is skip, one or all, not 'some'"),
        ({"name": ""}, "a schedule needs a name"),
        ({"name": "x" * 91}, "a schedule needs a name"),
        ({"name": "each day"}, "begins with a letter or a digit"),
        ({"name": "dots."}, "none at the end"),
    ],
)
def test_what_can_not_be_a_schedule_is_said_in_one_sentence(options, sentence):
    """It is said when the schedule is made, not when its first moment comes."""
    with pytest.raises(DefinitionError) as error:
        schedule(**options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_two_schedules_of_one_name_are_refused():
    """Their runs would have the same ids."""

    async def tell():
        async with Engine() as engine:
            with pytest.raises(DefinitionError, match="same name"):
                await run_schedules(engine, [schedule(), schedule(every=60)])

    story(tell())


def test_a_run_is_named_for_its_moment():
    """And the moment can be read from the name."""
    one = schedule(name="tides.north")
    assert one.run_id(BEGIN + 90 * MINUTE) == "tides.north.2026-01-01T01:30:00Z"
    assert one.moment_of(one.run_id(BEGIN)) == BEGIN
    assert one.moment_of("somebody-elses") is None


# --- firing --------------------------------------------------------------------------------------------------------


def test_each_moment_starts_a_run_with_its_input(clock):
    """The input may be a function of the moment."""

    async def tell():
        async with Engine(clock=clock) as engine:
            one = schedule(input=lambda moment: {"hour": moment.hour})
            async with kept(engine, one) as fired:
                assert fired == []
                await pass_time(clock, 3599, 1, 3600)
            assert fired == ["tick.2026-01-01T01:00:00Z", "tick.2026-01-01T02:00:00Z"]
            run = engine.get(fired[1])
            assert await run.result() == {"hour": 2, "done": True}
            assert run.events()[0].event.why == "schedule tick"

    story(tell())


@pytest.mark.parametrize(
    ("catch_up", "made_up"),
    [("skip", []), ("one", ["04:00"]), ("all", ["02:00", "03:00", "04:00"])],
)
def test_what_was_missed_while_nothing_ran_is_made_up_for_as_asked(clock, catch_up, made_up):
    """None, the last one, or all of it, and then it goes on as ever."""

    async def tell():
        log, one = MemoryLog(), schedule(catch_up=catch_up)
        async with Engine(log, clock=clock) as engine, kept(engine, one):
            await pass_time(clock, 3600)
        clock.advance(3.5 * 3600)
        async with Engine(log, clock=clock) as engine, kept(engine, one) as fired:
            assert [name[16:21] for name in fired] == made_up
            await pass_time(clock, 1800)
            assert [name[16:21] for name in fired] == [*made_up, "05:00"]

    story(tell())


@pytest.mark.parametrize(("catch_up", "made_up"), [("skip", 0), ("one", 1), ("all", 5)])
def test_a_clock_that_jumps_forward_is_a_gap_like_any_other(clock, catch_up, made_up):
    """A machine that slept for hours has missed what came meanwhile."""

    async def tell():
        async with Engine(clock=clock) as engine, kept(engine, schedule(catch_up=catch_up)) as fired:
            await pass_time(clock, 5.25 * 3600)
            assert len(fired) == made_up
            await pass_time(clock, 0.75 * 3600)
            assert fired[-1] == "tick.2026-01-01T06:00:00Z"
            assert len(fired) == made_up + 1

    story(tell())


@pytest.mark.parametrize("catch_up", ["skip", "one", "all"])
def test_a_moment_that_is_met_late_by_seconds_is_not_missed(clock, catch_up):
    """A busy loop looks a little later."""

    async def tell():
        async with Engine(clock=clock) as engine, kept(engine, schedule(catch_up=catch_up)) as fired:
            await pass_time(clock, 3640)
            assert fired == ["tick.2026-01-01T01:00:00Z"]

    story(tell())


@pytest.mark.parametrize("catch_up", ["skip", "one", "all"])
def test_a_clock_that_jumps_back_starts_nothing_twice(clock, catch_up):
    """Also over a restart; once it has caught up it goes on."""

    async def tell():
        log, one = MemoryLog(), schedule(catch_up=catch_up)
        async with Engine(log, clock=clock) as engine, kept(engine, one):
            await pass_time(clock, 3600, 3600)
            await pass_time(clock, -1.5 * 3600, 1800, 1800)
        async with Engine(log, clock=clock) as engine, kept(engine, one):
            await pass_time(clock, -1800, 3600, 3600)
            assert [name[16:21] for name in ids(log)] == ["01:00", "02:00", "03:00"]

    story(tell())


def test_one_of_years_of_missed_minutes_is_the_last_of_them():
    """It is found without counting through all of them, and it is one."""
    one = schedule(cron="* * * * *", timezone="Europe/Berlin")
    now = BEGIN + 5 * 366 * DAY + 30 * NS
    assert due(one, BEGIN, now) == [now - 30 * NS]
    seldom = schedule(cron="0 0 29 2 *")
    assert told(due(seldom, at("2024-03-01T00:00"), at("2029-01-01T00:00"))) == ["02-29 00:00"]
    assert due(seldom, at("2028-03-01T00:00"), at("2029-01-01T00:00")) == []


def test_all_of_a_long_gap_is_made_up_for_in_parts():
    """So that other schedules get their turn; nothing is left out."""
    one = schedule(every=1, catch_up="all")
    first = due(one, BEGIN, BEGIN + 1500 * NS)
    assert len(first) == MAX_MISSED
    rest = due(one, first[-1], BEGIN + 1500 * NS)
    assert [*first, *rest] == [BEGIN + second * NS for second in range(1, 1501)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 5_000), st.integers(0, 5_000), st.sampled_from(["skip", "one", "all"]))
def test_what_is_due_lies_after_what_was_fired_and_not_after_now(every, last, gap, catch_up):
    """In its order, and the newest is among it unless it was missed and is to be skipped."""
    one = schedule(every=every, catch_up=catch_up)
    now = last + gap
    found = due(one, last * NS, now * NS)
    expected = [moment * NS for moment in range(last + 1, now + 1) if moment % every == 0]
    if catch_up == "all":
        assert found == expected[:MAX_MISSED]
    elif catch_up == "one":
        assert found == expected[-1:]
    else:
        assert found == [moment for moment in expected[-1:] if now * NS - moment < 60 * NS]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_two_that_fire_at_once_start_one_run_for_each_moment(clock, tmp_path, where):
    """Whoever comes second follows."""

    async def tell():
        log = MemoryLog() if where == "memory" else tmp_path / "store"
        one = schedule(input=lambda moment: {"by": id(asyncio.current_task())})  # no two would give the same input
        async with Engine(log, clock=clock) as first, Engine(log, clock=clock) as second:
            async with kept(first, one), kept(second, one):
                await pass_time(clock, 3600, 3600, 3600)
            assert [name[16:21] for name in ids(first.log)] == ["01:00", "02:00", "03:00"]

    story(tell())


def test_a_crash_while_a_moment_is_fired_loses_it_not_and_doubles_it_not(tmp_path, child):
    """Killed before its start is durable, the next life starts the run; killed after it, there is one already."""

    async def life(where: str, *, die: bool):
        clock = ManualClock()
        async with Engine(tmp_path / where, clock=clock) as engine:
            first = await engine.start(flow(), run_id="tick.2026-01-01T00:00:00Z", tags=["schedule:tick"])
            await first.result()
            clock.advance(3600)
            write = engine._open.log.write

            def dies(batch):
                if where == "after":
                    write(batch)
                os._exit(9)

            if die:
                engine._open.log.write = dies
            async with kept(engine, schedule()):
                await settle()
            return ids(engine.log)

    async def ending():
        return await life(where, die=True)

    for where in ("before", "after"):
        assert child(lambda: story(ending())).answer() == "signal 0"
        assert story(life(where, die=False)) == ["tick.2026-01-01T00:00:00Z", "tick.2026-01-01T01:00:00Z"]


def test_a_run_that_was_deleted_is_not_started_again(clock):
    """The store remembers that its id was used."""

    async def tell():
        log, one = MemoryLog(), schedule()
        async with Engine(log, clock=clock) as engine, kept(engine, one) as fired:
            await pass_time(clock, 3600, 3600)
            await engine.get(fired[-1]).result()
            await engine.delete(fired[-1])
        async with Engine(log, clock=clock) as engine, kept(engine, one) as again:
            assert again == []
            await pass_time(clock, 3600)
            assert again == ["tick.2026-01-01T03:00:00Z"]

    story(tell())


def test_somebody_elses_run_with_the_schedules_tag_hides_nothing(clock):
    """What was fired last is told by the names."""

    async def tell():
        log, one = MemoryLog(), schedule()
        async with Engine(log, clock=clock) as engine, kept(engine, one):
            await pass_time(clock, 3600)
            await engine.start(one.flow, run_id="by-hand", tags=[one.tag])
        clock.advance(3600)
        async with Engine(log, clock=clock) as engine, kept(engine, one) as fired:
            assert fired == ["tick.2026-01-01T02:00:00Z"]

    story(tell())


# --- trouble -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", ["skip", "one", "all"])
def test_a_moment_whose_start_fails_stops_neither_its_schedule_nor_others(clock, catch_up):
    """It is told of, and the next moment is as good as any."""

    async def tell():
        def given(moment):
            return {"n": 60 // (moment.hour - 2)}

        broken: list[str] = []
        async with Engine(clock=clock) as engine:
            both = schedule(input=given, catch_up=catch_up), schedule("other", catch_up=catch_up)
            async with kept(engine, *both, failed=lambda run, error: broken.append(f"{run} {error}")) as fired:
                await pass_time(clock, 3600, 3600, 3600)
            assert broken == ["tick.2026-01-01T02:00:00Z integer division or modulo by zero"]
            assert [name[-9:-4] for name in fired if name.startswith("tick")] == ["01:00", "03:00"]
            assert [name[-9:-4] for name in fired if name.startswith("other")] == ["01:00", "02:00", "03:00"]

    story(tell())


def test_a_store_that_is_full_for_a_while_costs_no_moment(clock):
    """The start is tried again until it can be."""

    async def tell():
        log = Full()
        async with Engine(log, clock=clock) as engine, kept(engine, schedule(catch_up="all")) as fired:
            log.full = True
            await pass_time(clock, 3600, 1, 1)
            assert fired == []
            log.full = False
            await pass_time(clock, 1)
            assert fired == ["tick.2026-01-01T01:00:00Z"]

    story(tell())


def test_schedules_end_with_their_engine():
    """There is nothing any more to start runs on."""

    async def tell():
        clock = ManualClock()
        async with Engine(clock=clock) as engine:
            keeping = asyncio.ensure_future(run_schedules(engine, [schedule(), schedule("other")]))
            await settle()
        clock.advance(3600)
        with pytest.raises(StoreClosed):
            await keeping

    story(tell())
