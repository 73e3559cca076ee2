"""How far a run is, for people and for programs."""

from __future__ import annotations

from typing import Any

from eventflow.progress import Progress

_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))


def progress_text(known: Progress, *, driven: bool = True) -> str:
    """How far a run is, as a line; how long the rest takes can't be told of one that nobody drives."""
    if known.total is None:
        return f"not known: {known.why}"
    share = f"{known.done} of {known.total} nodes ({known.percent:.0f} %)"
    if not driven:
        return share
    if known.left_seconds is None:
        return f"{share}, time left not known: {known.why}"
    return f"{share}, about {seconds_text(known.left_seconds)} left"


def progress_document(known: Progress) -> dict[str, Any]:
    """The same as the stable JSON that `show` prints."""
    return {
        "done": known.done, "total": known.total, "percent": known.percent, "left_seconds": known.left_seconds,
        "why": known.why or None,
    }  # fmt: skip


def seconds_text(seconds: float) -> str:
    """A span of time in the largest unit there are two of; a guess needs no more."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"
