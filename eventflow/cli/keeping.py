"""What is kept, and how much more may be: pins, holds, origins, limits, as `show` and `store info` tell them."""

from __future__ import annotations

from typing import Any

from eventflow.cli.policy import quota_of
from eventflow.cli.shell import bytes_text, time_text
from eventflow.log import Head, Log, Query, held_bytes
from eventflow.quota import EARLY, FILLING, Quota
from eventflow.run import since

SHOWN = 20  # runs named for people: more are counted


def kept_document(log: Log, head: Head) -> dict[str, Any]:
    """What of a run's history is there, who says that it must stay, and how many events it may have yet."""
    entry = log.entry(head.run_key)
    limit = (quota_of() or Quota()).run_events
    guards = [
        {"kind": one.kind, "since": time_text(one.time), "by": one.actor, "why": one.why}
        for one in sorted(log.guards(), key=lambda guard: guard.kind)
        if one.run_key == head.run_key
    ]
    return {
        "origin": entry.origin if entry is not None and entry.origin else None, "guards": guards,
        "events": head.version - since(log, head.run_key), "limit": limit,
    }  # fmt: skip


def kept_lines(known: dict[str, Any]) -> list[str]:
    """The same for people: nothing of what there is not, the limit only where it is near."""
    lines = []
    for one in known["guards"]:
        word, why = ("on hold" if one["kind"] == "hold" else "pinned"), f": {one['why']}" if one["why"] else ""
        lines.append(f"{word} since {one['since']} by {one['by']}{why}")
    if known["origin"]:
        lines.append(f"compacted: its history begins at version {known['origin']}")
    if known["limit"] is not None and known["events"] >= known["limit"] // EARLY:
        lines.append(f"its history has {known['events']:,} of the {known['limit']:,} events it may have")
    return lines


def store_kept(log: Log) -> dict[str, Any]:
    """The same of a store: the runs that are guarded, those that begin later than at version 1, its size and its limit."""
    runs = {one.head.run_key: one for one in log.runs(Query())}
    guards = [(runs[one.run_key].head.run_id, one.kind, one.why) for one in log.guards() if one.run_key in runs]
    limit = (quota_of() or Quota()).store_bytes
    return {
        "guards": [{"run": run_id, "kind": kind, "why": why} for run_id, kind, why in sorted(guards)],
        "compacted": [{"run": one.head.run_id, "origin": one.entry.origin} for one in runs.values() if one.entry.origin],
        "held_bytes": held_bytes(log), "limit": limit,
    }  # fmt: skip


def store_lines(known: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = []
    for kind, said in (("pin", "pinned"), ("hold", "on hold")):
        lines += _named(said, [one["run"] for one in known["guards"] if one["kind"] == kind])
    lines += _named("compacted", [f"{one['run']} (from version {one['origin']})" for one in known["compacted"]])
    limit, held = known["limit"], known["held_bytes"]
    if limit is not None:
        near = "; `store prune` makes room" if held * 100 >= limit * FILLING else ""
        lines.append(f"quota: {bytes_text(held)} of {bytes_text(limit)}{near}")
    return lines


def _named(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return [f"{what}: {', '.join(names[:SHOWN])}{more}"] if names else []
