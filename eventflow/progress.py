"""How far a run is, and how long the rest may take: from what is recorded, with none of the user's code.

The rest of a run is known where its definition has no loop ahead: then the longest way to an end is so many nodes. What
each of them takes is the median of earlier runs of the same workflow. Where that can't be known, it says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from eventflow.address import find_run
from eventflow.clock import NS
from eventflow.event import Forked, Recorded, Rewound, RunCompleted, RunParked, RunResumed, RunStarted, Transitioned
from eventflow.log import Head, Log, Query
from eventflow.recovery import history, line, recover
from eventflow.state import State

EARLIER = 20  # runs that durations are taken from: the newest completed ones
MAX_EVENTS = 20_000  # of a run, to count the nodes behind it: half a second of reading
LOOKED_BACK = 1_000  # events after the one that parked a run, at most: messages that came since
MAX_EARLIER = 500  # events of an earlier run; longer ones are left out, so that all of them take a quarter of a second


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `done` of `total` visits of nodes, if it takes the longest way from here.

    `percent` and `total` are None where the rest is not known, `left_seconds` where nothing tells how long it takes;
    `why` says so then, and is empty otherwise. `node` is the one it stands on.
    """

    node: str
    done: int
    total: int | None = None
    percent: float | None = None
    left_seconds: float | None = None
    why: str = ""


def progress(log: Log, run: str, *, now: int | None = None) -> Progress:
    """How far a run is, by its id or a unique beginning of it.

    `now`, in ns since the epoch, says what of the node's own time is over; without it that is up to its last event.
    Raises RunNotFound, AmbiguousRun, Corrupt, WrittenByNewer.
    """
    head = find_run(log, run)
    return progress_at(log, head, recover(log, head).state, now=now)


def parked_why(log: Log, state: State) -> str:
    """Why a run is parked, empty if it is not, or if that is too long ago."""
    if state.status != "parked":
        return ""
    first = max(state.version - LOOKED_BACK + 1, 1 if state.run.parent is None else state.run.parent.at + 1)
    events = list(history(log, state.run.run_key, first, state.version, hidden=True))
    return next((one.event.why for one in reversed(events) if isinstance(one.event, RunParked)), "")


def progress_at(log: Log, head: Head, state: State, *, now: int | None = None) -> Progress:
    """How far a run was at the version of a state. Raises Corrupt, WrittenByNewer."""
    segments = line(log, head.run_key, state.version)
    if sum(one.last - one.first + 1 for one in segments) > MAX_EVENTS:
        over = 100.0 if state.status == "completed" else None
        why = f"its history has more than {MAX_EVENTS:,} events, which are not counted"
        return Progress(state.node, 0, percent=over, why=why)
    events = [one for part in segments for one in history(log, part.run_key, part.first, part.last)]
    known = share(state, events)
    if known.total is None or state.ended:
        return known
    way = longest_way(state.run.definition, state.node)
    assert not isinstance(way, str)  # noqa: S101 - else the total would not be known
    seconds = medians(_earlier(log, head, state))
    spent = max((state.time if now is None else now) - entered(events), 0) / NS
    missing = [node for node in way if node not in seconds]
    if missing:
        return replace(known, why=f"no earlier run tells how long node {missing[0]!r} takes")
    left = max(seconds[way[0]] - spent, 0.0) + sum(seconds[node] for node in way[1:])
    return replace(known, left_seconds=left)


# --- the parts, which read nothing ---------------------------------------------------------------------------------


def share(state: State, events: Iterable[Recorded]) -> Progress:
    """How many visits are behind a run, and how many there will be; `events` are those of its line."""
    done = sum(isinstance(one.event, Transitioned | RunCompleted) for one in events)
    if state.status == "completed":
        return Progress(state.node, done, done, 100.0, 0.0)
    way = longest_way(state.run.definition, state.node)
    if isinstance(way, str):
        return Progress(state.node, done, why=way)
    total = done + len(way)
    why = f"it has ended ({state.status.replace('_', ' ')})" if state.ended else ""
    return Progress(state.node, done, total, round(100 * done / total, 1), None, why)


def longest_way(definition: Mapping[str, Any], node: str) -> tuple[str, ...] | str:
    """The nodes from this one to an end along the most edges that a node's success takes; else why that is not known."""
    after: dict[str, list[str]] = {}
    for source, target, trigger, *_ in _edges(definition):
        if trigger == "done":
            after.setdefault(source, []).append(target)
    terminals = definition.get("terminals", ())
    lengths: dict[str, int] = {}
    trail: dict[str, Iterator[str]] = {node: iter(after.get(node, ()))}  # a stack: a definition may be a long chain
    while trail:
        here = next(reversed(trail))
        following = next(trail[here], None)
        if following is None:
            if here not in after and here not in terminals:
                return f"node {here!r} itself says where it leads"
            lengths[here] = 1 + max((lengths[one] for one in after.get(here, ())), default=0)
            del trail[here]
        elif following in trail:
            return f"a loop through node {following!r} lies ahead, and nobody knows how often it is taken"
        elif following not in lengths:
            trail[following] = iter(after.get(following, ()))
    way = [node]
    while targets := after.get(way[-1]):
        way.append(max(targets, key=lengths.__getitem__))
    return tuple(way)


def _edges(definition: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    found: Sequence[Sequence[str]] = definition.get("edges", ())
    return found


def medians(runs: Iterable[Iterable[Recorded]]) -> dict[str, float]:
    """The median of the seconds that each node took, over all its visits in these runs."""
    taken: dict[str, list[float]] = {}
    for events in runs:
        since: int | None = None
        for one in events:
            if isinstance(one.event, Transitioned | RunCompleted) and since is not None:
                taken.setdefault(one.event.node, []).append(max(one.time - since, 0) / NS)
            if isinstance(one.event, Transitioned | RunStarted | RunResumed | Rewound | Forked):
                since = one.time
    return {node: median(seconds) for node, seconds in taken.items()}


def entered(events: Sequence[Recorded]) -> int:
    """When the node that a run stands on was begun, or taken up again; ns since the epoch, UTC."""
    begins = (Transitioned, RunStarted, RunResumed, Rewound, Forked)
    return next((one.time for one in reversed(events) if isinstance(one.event, begins)), 0)


def _earlier(log: Log, head: Head, state: State) -> Iterator[Iterator[Recorded]]:
    """The histories of the newest completed runs of the same workflow."""
    query = Query(status="completed", workflow=state.run.workflow, limit=EARLIER)
    for listed in log.runs(query):
        one = listed.head
        first = listed.entry.parent_at + 1
        if one.run_key != head.run_key and one.version - first < MAX_EARLIER:
            yield history(log, one.run_key, first, one.version)
