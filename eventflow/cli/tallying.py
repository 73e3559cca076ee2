"""A run in numbers, for people and for programs."""

from __future__ import annotations

from typing import Any

from eventflow.cli.shell import bytes_text, time_text
from eventflow.engine import RunStats


def stats_document(stats: RunStats) -> dict[str, Any]:
    """A run's numbers as stable JSON; what a process measured is not among them, for it is not in the store."""
    return {
        "events": stats.events, "bytes": stats.bytes, "began": time_text(stats.began), "updated": time_text(stats.updated),
        "events_per_hour": round(stats.events_per_hour, 3), "bytes_per_day": round(stats.bytes_per_day),
        "checkpoints": stats.checkpoints, "snapshots": stats.snapshots, "snapshot_bytes": stats.snapshot_bytes,
    }  # fmt: skip


def stats_text(stats: RunStats) -> str:
    """The same in two lines."""
    grown = f"{stats.events_per_hour:,.0f} events an hour, {bytes_text(round(stats.bytes_per_day))} a day"
    with_bytes = f"{stats.snapshots} of them with bytes, {bytes_text(stats.snapshot_bytes)}"
    return (
        f"history: {stats.events} events, {bytes_text(stats.bytes)}; {grown}\n"
        f"checkpoints: {stats.checkpoints}, {with_bytes}"
    )
