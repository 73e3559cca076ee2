"""How long something lasts, as people write it: the one reader of spans such as "50 ms", "2h", "30d".

What a span is for, and what is said where it is none, is for whoever asks.
"""

from __future__ import annotations

import math
import re
import sys

UNITS = {
    "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0,
}  # fmt: skip
_SPAN = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|µs|ms|s|min|m|h|d|w)\s*")  # 9 digits of weeks: enough
_BARE = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*")
_LARGEST = sys.float_info.max  # an int beyond it is no float
_KNOWN = "us, ms, s, m or min, h, d, w"


def seconds_in(text: str) -> float | None:
    """The seconds of a span such as "50 ms", "2 s", "1.5h" or "30d"; None where a text is none."""
    match = _SPAN.fullmatch(text)
    return None if match is None else float(match[1]) * UNITS[match[2]]


def span_in(given: object) -> float | str:
    """Seconds, from a span as text or from a number, which may be endless but not NaN; else what to give, in words."""
    if isinstance(given, str):
        seconds = seconds_in(given)
        if seconds is not None:
            return seconds
        if _BARE.fullmatch(given):
            return f'give a unit: "{given.strip()} ms", "{given.strip()} s"; the units are {_KNOWN}'
        return f'give "50 ms", "2 s", "1h", "30d", or seconds; the units are {_KNOWN}'
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or not (abs(given) <= _LARGEST or given == math.inf)
    ):
        return 'give "50 ms", "2 s", "1h", "30d", or seconds as a number'
    return float(given)
