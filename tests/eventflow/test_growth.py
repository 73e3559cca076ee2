"""How a store has grown: found by halving, the same as by reading everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventflow.clock import NS, ManualClock
from eventflow.codec import pack
from eventflow.event import RunDeleted, Transitioned
from eventflow.growth import DAY, HOUR, growth
from eventflow.log import Act, MemoryLog
from eventflow.testing.author import Author

MOVE = Transitioned("a", "a")


def store(gaps: list[int]) -> tuple[MemoryLog, list[int]]:
    """A log with an event after each gap of seconds, and the times of all of its events."""
    clock = ManualClock()
    log = MemoryLog(clock=clock)
    author = Author(log, clock=clock)
    head, times = author.start("r"), []
    for gap in gaps:
        clock.advance(gap)
        head = author.add(head, MOVE)
    times = [read_time(one.data) for one in log.feed(0, 10**6)]
    return log, times


def read_time(data: bytes) -> int:
    """The time of an event, from its bytes."""
    import cbor2  # noqa: PLC0415 - the test's own reading

    return cbor2.loads(data)[6]


gaps_of = st.sampled_from([0, 1, 3_600, 82_800, 86_400]) | st.integers(
    0, 40_000
)  # an hour and a day to the ns among them


@given(st.lists(gaps_of, max_size=40), gaps_of)
def test_the_last_hour_and_day_are_counted_exactly(gaps, later):
    """As if every event's time were compared."""
    log, times = store(gaps)
    now = times[-1] + later * NS
    grown = growth(log, 1_000, now)
    assert grown.events == len(times)
    assert (grown.first, grown.last) == (times[0], times[-1])
    assert grown.last_hour == sum(time >= now - HOUR for time in times)
    assert grown.last_day == sum(time >= now - DAY for time in times)
    assert grown.bytes_of_event == 1_000 / len(times)


def test_deleted_events_are_stepped_over():
    """A run that is gone leaves positions without a time."""
    log, _ = store([10] * 600)
    head = log.head("r")
    assert head is not None
    event = RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest)
    [answer] = log.write([Act(pack(event), head.updated + 5 * NS, delete_run=head)])
    assert not isinstance(answer, Exception)
    grown = growth(log, 1_000, head.updated + 10 * NS)
    assert grown.last == head.updated + 5 * NS
    assert grown.last_day >= 1


def test_a_store_without_runs_has_only_its_own_first_event():
    """Its first time is its last, and a moment long after it finds nothing new."""
    log = MemoryLog(clock=ManualClock())
    first = read_time(log.feed(0, 1)[0].data)
    grown = growth(log, 0, first + 2 * DAY)
    assert (grown.first, grown.last, grown.last_hour, grown.last_day) == (first, first, 0, 0)
    assert grown.bytes_of_event == 0.0
