"""Counts and durations as OpenTelemetry metrics, through its API alone: what becomes of them is the program's choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from eventflow.errors import MissingExtra
from eventflow.run import Listener, Notice
from eventflow.state import State
from eventflow.telemetry.measures import INSTRUMENTS, Instrument, Measuring
from eventflow.telemetry.names import SCOPE

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter

_Add = Callable[[float, dict[str, str]], None]


def meters(meter: Meter | None = None) -> Listener:
    """A listener that counts and times through an OpenTelemetry meter, the global provider's if None is given.

    Raises MissingExtra where opentelemetry is not installed.
    """
    try:
        from opentelemetry.metrics import get_meter  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("opentelemetry", "otel") from None
    source = get_meter(SCOPE) if meter is None else meter
    made = {one: _made(source, one) for one in INSTRUMENTS}
    measuring = Measuring()

    def listener(state: State, notice: Notice) -> None:
        for instrument, value, labels in measuring.of(state, notice):
            made[instrument](value, dict(zip(instrument.labels, labels, strict=True)))

    return listener


def _made(source: Meter, one: Instrument) -> _Add:
    if not one.buckets:
        counter: Counter = source.create_counter(one.name, one.unit, one.text)
        return counter.add
    histogram: Histogram = source.create_histogram(
        one.name, one.unit, one.text, explicit_bucket_boundaries_advisory=list(one.buckets)
    )
    return histogram.record
