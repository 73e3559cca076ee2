"""Standing still, and branches: what a run waits for as a whole or in each branch, and how far each branch is.

A branch is open until it is finished or failed; only what differs from a fresh one is held. A finished branch keeps its
result for the join.
"""

from __future__ import annotations

from typing import Any

from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, FrozenDict, FrozenList, ordered
from eventflow.state.parts import WAITS, State, Status, WaitingFor

OPEN, WAITING, FINISHED, FAILED = "open", "waiting", "finished", "failed"  # where a branch stands
FRESH = FrozenDict({"status": OPEN, "attempt": 1})
BranchEvent = AttemptFailed | WaitOpened | WaitClosed | BranchFinished | BranchFailed


def wait_kind(kind: str) -> WaitingFor:
    """The kind of a wait, if it is a known one. Raises Corrupt."""
    for known in WAITS:
        if known == kind:
            return known
    raise Corrupt("a wait", f"is of a kind that is not known ({kind!r})")


def wait_of(event: WaitOpened, version: int, time: int) -> FrozenDict:
    """A wait as a state holds it; its id is the version that opened it."""
    return FrozenDict({
        "id": version, "kind": event.kind, "name": event.name, "spec": event.spec, "until": event.until, "opened": time,
        "restore": event.restore,
    })  # fmt: skip


def restored(wait: FrozenDict, last: int, now: int) -> FrozenDict:
    """A wait after the run was taken up again: its limit stands, or goes on from where it was, or begins anew."""
    until = wait["until"]
    if not until or wait["restore"] == "deadline":
        return wait
    left = until - (last if wait["restore"] == "remaining" else wait["opened"])
    return FrozenDict({**wait, "until": now + max(left, 0), "opened": now})


def without_message(state: State, message: int) -> FrozenList:
    """The messages that wait to be read, without one."""
    return FrozenList([one for one in state.signals if one["message"] != message]) if message else state.signals


# --- branches ------------------------------------------------------------------------------------------------------


def split(event: BranchesOpened) -> FrozenDict:
    """The branches of a node that has just split; `left` counts those that are not over, `standing` those that wait.

    A node that maps over a list names its branches by their places in it, from "0" on.
    """
    left = len(event.names) if event.items is None else len(event.items)
    return FrozenDict({"of": EMPTY, "left": left, "items": event.items, "names": event.names, "standing": 0})


def branch_names(branches: FrozenDict) -> list[str]:
    """The names of a node's branches, in the order in which they are joined."""
    items = branches["items"]
    return list(branches["names"]) if items is None else [str(place) for place in range(len(items))]


def _is_branch(branches: FrozenDict, name: str) -> bool:
    items = branches["items"]
    if items is None:
        return name in branches["names"]
    return name.isdecimal() and int(name) < len(items) and str(int(name)) == name


def branch(branches: FrozenDict, name: str) -> FrozenDict:
    """How far a branch is."""
    entry: FrozenDict = branches["of"].get(name, FRESH)
    return entry


def branches_moved(state: State, event: BranchEvent, version: int, time: int) -> FrozenDict:
    """The branches after an event of one of them. Raises Corrupt if it can't follow."""
    branches, name = state.branches, event.branch
    if branches is None or not _is_branch(branches, name):
        raise Corrupt(f"version {version}", f"is about branch {name!r}, which is not there")
    old = branch(branches, name)
    if old["status"] in (FINISHED, FAILED):
        raise Corrupt(f"version {version}", f"is about branch {name!r}, which is over")
    return _with(branches, name, _entry(old, event, version, time))


def _with(branches: FrozenDict, name: str, entry: FrozenDict) -> FrozenDict:
    of = branches["of"]
    entries = FrozenDict({**of, name: entry}) if name in of else ordered({**of, name: entry})
    was, now = of.get(name, FRESH)["status"], entry["status"]
    standing = branches["standing"] + (now == WAITING) - (was == WAITING)
    left = branches["left"] - (now in (FINISHED, FAILED))
    return FrozenDict({**branches, "of": entries, "left": left, "standing": standing})


def _entry(old: FrozenDict, event: BranchEvent, version: int, time: int) -> FrozenDict:
    match event:
        case BranchFinished():
            return ordered({"status": FINISHED, "result": event.result})
        case BranchFailed():
            one = event.error
            return ordered({"status": FAILED, "error": FrozenList([one.type, one.message, one.where, one.retryable])})
        case AttemptFailed():
            return ordered({"status": OPEN, "attempt": event.attempt + 1, "retry_at": event.retry_at})
        case WaitOpened():
            if old["status"] == WAITING:
                raise Corrupt(f"version {version}", "opens a wait while another is open")
            return ordered({**old, "status": WAITING, "wait": wait_of(event, version, time)})
        case WaitClosed():
            if old["status"] != WAITING:
                raise Corrupt(f"version {version}", "closes a wait that is not open")
            return ordered({**{key: value for key, value in old.items() if key != "wait"}, "status": OPEN})


def section_status(branches: FrozenDict) -> tuple[Status, WaitingFor]:
    """Where a run stands that has split: it waits once every branch does that is not over."""
    if not branches["standing"] or branches["standing"] < branches["left"]:
        return "running", ""
    first = next(entry for entry in branches["of"].values() if entry["status"] == WAITING)
    return "waiting", wait_kind(first["wait"]["kind"])


def again(branches: FrozenDict | None, *, waits: tuple[int, int] | None = None) -> FrozenDict | None:
    """The branches of a node that is taken up again: what finished stays, the rest begins anew.

    With `waits` (the time of the last event, and now) open waits go on too.
    """
    if branches is None:
        return None
    kept: dict[str, Any] = {}
    for name, entry in branches["of"].items():
        if entry["status"] == FINISHED:
            kept[name] = entry
        elif entry["status"] == WAITING and waits is not None:
            kept[name] = ordered({**entry, "wait": restored(entry["wait"], *waits)})
    return _counted(branches, kept)


def _counted(branches: FrozenDict, of: dict[str, Any]) -> FrozenDict:
    over = sum(entry["status"] in (FINISHED, FAILED) for entry in of.values())
    standing = sum(entry["status"] == WAITING for entry in of.values())
    left = len(branch_names(branches)) - over
    return FrozenDict({**branches, "of": FrozenDict(of), "left": left, "standing": standing})


def branches_resumed(branches: FrozenDict | None, last: int, now: int, *, afresh: bool) -> FrozenDict | None:
    """The branches of a run that is taken up: as they were, or, after a failure, those that failed begin anew."""
    if branches is None:
        return None
    if afresh:
        return again(branches, waits=(last, now))
    of = {
        name: ordered({**entry, "wait": restored(entry["wait"], last, now)}) if entry["status"] == WAITING else entry
        for name, entry in branches["of"].items()
    }
    return FrozenDict({**branches, "of": FrozenDict(of)})


def open_waits(state: State) -> list[tuple[str, FrozenDict]]:
    """What a run stands still for: pairs of branch (empty for the whole run) and wait."""
    found = [] if state.wait is None else [("", state.wait)]
    if state.branches is not None:
        of = state.branches["of"]
        found += [(name, of[name]["wait"]) for name in of if of[name]["status"] == WAITING]
    return found
