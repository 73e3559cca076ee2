"""Standing still, and branches: what a run waits for as a whole or in each branch, and how far each branch is.

A branch is open until it is finished or failed; only what differs from a fresh one is held, so many to a bucket, so that
a step of one among thousands copies one bucket. A finished branch keeps its result for the join.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventflow.errors import Corrupt
from eventflow.event import (
    AttemptFailed,
    BranchesOpened,
    BranchFailed,
    BranchFinished,
    WaitClosed,
    WaitOpened,
)
from eventflow.plain import EMPTY, MAX_INT, FrozenDict, FrozenList, ordered
from eventflow.state.parts import WAITS, State, Status, WaitingFor

OPEN, WAITING, FINISHED, FAILED = "open", "waiting", "finished", "failed"  # where a branch stands
FRESH = FrozenDict({"status": OPEN, "attempt": 1})
OVER = (FINISHED, FAILED)
NEVER_OPENED = ("", "retry")  # a run stands so without a wait that has an id
_BUCKET_DIGITS = 2  # items a bucket: 100, about the square root of the most there may be, so that copies cost the least
BranchEvent = AttemptFailed | WaitOpened | WaitClosed | BranchFinished | BranchFailed


def wait_kind(kind: str) -> WaitingFor:
    """The kind of a wait, if one can be opened for it. Raises Corrupt."""
    for known in WAITS:
        if known == kind and known not in NEVER_OPENED:
            return known
    raise Corrupt("a wait", f"is of a kind that is not known ({kind!r})")


def wait_of(event: WaitOpened, version: int, time: int) -> FrozenDict:
    """A wait as a state holds it; its id is the version that opened it. Raises Corrupt for a kind that is not known."""
    return FrozenDict({
        "id": version, "kind": wait_kind(event.kind), "name": event.name, "spec": event.spec, "until": event.until, "opened": time,
        "restore": event.restore,
    })  # fmt: skip


def restored(wait: FrozenDict, last: int, now: int) -> FrozenDict:
    """A wait after the run was taken up again: its limit stands, or goes on from where it was, or begins anew."""
    until = wait["until"]
    if not until or wait["restore"] == "deadline":
        return wait
    left = until - (last if wait["restore"] == "remaining" else wait["opened"])
    return FrozenDict({**wait, "until": min(now + max(left, 0), MAX_INT), "opened": now})


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
    entry: FrozenDict = branches["of"].get(_bucket(branches, name), EMPTY).get(name, FRESH)
    return entry


def _bucket(branches: FrozenDict, name: str) -> str:
    """Where a branch is held: items by hundreds, declared branches, of which there are few, all in one."""
    return "" if branches["items"] is None else name[:-_BUCKET_DIGITS]


def entries(branches: FrozenDict) -> Iterator[tuple[str, FrozenDict]]:
    """The branches that are not as at first."""
    for bucket in branches["of"].values():
        yield from bucket.items()


def _bucketed(branches: FrozenDict, entries: Iterable[tuple[str, FrozenDict]]) -> FrozenDict:
    of: dict[str, dict[str, FrozenDict]] = {}
    for name, entry in entries:
        of.setdefault(_bucket(branches, name), {})[name] = entry
    return ordered({bucket: ordered(held) for bucket, held in of.items()})


def branches_moved(state: State, event: BranchEvent, version: int, time: int) -> FrozenDict:
    """The branches after an event of one of them. Raises Corrupt if it can't follow."""
    branches, name = state.branches, event.branch
    if branches is None or not _is_branch(branches, name):
        raise Corrupt(f"version {version}", f"is about branch {name!r}, which is not there")
    old = branch(branches, name)
    if old["status"] in OVER:
        raise Corrupt(f"version {version}", f"is about branch {name!r}, which is over")
    return _with(branches, name, _entry(old, event, version, time))


def _with(branches: FrozenDict, name: str, entry: FrozenDict) -> FrozenDict:
    of, place = branches["of"], _bucket(branches, name)
    held = of.get(place, EMPTY)
    was, now = held.get(name, FRESH)["status"], entry["status"]
    bucket = FrozenDict({**held, name: entry}) if name in held else ordered({**held, name: entry})
    entries = FrozenDict({**of, place: bucket}) if place in of else ordered({**of, place: bucket})
    standing = branches["standing"] + (now == WAITING) - (was == WAITING)
    left = branches["left"] - (now in OVER)
    return FrozenDict({**branches, "of": entries, "left": left, "standing": standing})


def _entry(old: FrozenDict, event: BranchEvent, version: int, time: int) -> FrozenDict:
    match event:
        case BranchFinished():
            return ordered({"status": FINISHED, "result": event.result})
        case BranchFailed():
            one = event.error
            return ordered({"status": FAILED, "error": FrozenList(one.plain())})
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
    held = (one for bucket in branches["of"].values() for one in bucket.values())
    first = next(one for one in held if dict.get(one, "status") == WAITING)  # thousands that are over may come before
    return "waiting", wait_kind(first["wait"]["kind"])


def again(
    branches: FrozenDict | None, *, waits: tuple[int, int] | None = None, children: bool = False
) -> FrozenDict | None:  # fmt: skip
    """The branches of a node that is taken up again: what finished stays, the rest begins anew.

    With `waits` (the time of the last event, and now) open waits go on too; with `children` those for a child's end.
    """
    if branches is None:
        return None
    kept: list[tuple[str, FrozenDict]] = []
    for name, entry in entries(branches):
        if entry["status"] == FINISHED:
            kept.append((name, entry))
        elif entry["status"] == WAITING and waits is not None:
            kept.append((name, ordered({**entry, "wait": restored(entry["wait"], *waits)})))
        elif entry["status"] == WAITING and children and entry["wait"]["kind"] == "child":
            kept.append((name, entry))
    over = sum(entry["status"] in OVER for _, entry in kept)
    size = len(branches["names"] if branches["items"] is None else branches["items"])
    of = _bucketed(branches, kept)
    return FrozenDict({**branches, "of": of, "left": size - over, "standing": len(kept) - over})


def gone_back(state: State) -> tuple[FrozenDict | None, FrozenDict | None]:
    """Wait and branches of a run that was taken back to a state: what is waited for begins anew, but for children.

    A child is a run of its own, which is where it is: begun anew, it would do again what it has done.
    """
    wait = state.wait
    kept = wait if wait is not None and wait["kind"] == "child" else None
    return kept, again(state.branches, children=True)


def branches_resumed(branches: FrozenDict | None, last: int, now: int, *, afresh: bool) -> FrozenDict | None:
    """The branches of a run that is taken up: as they were, or, after a failure, those that failed begin anew."""
    if branches is None:
        return None
    if afresh:
        return again(branches, waits=(last, now))
    if not branches["standing"]:
        return branches
    of = [
        (name, ordered({**entry, "wait": restored(entry["wait"], last, now)}) if entry["status"] == WAITING else entry)
        for name, entry in entries(branches)
    ]
    return FrozenDict({**branches, "of": _bucketed(branches, of)})


def open_waits(state: State) -> list[tuple[str, FrozenDict]]:
    """What a run stands still for: pairs of branch (empty for the whole run) and wait."""
    found = [] if state.wait is None else [("", state.wait)]
    if state.branches is not None and state.branches["standing"]:
        found += [(name, one["wait"]) for name, one in entries(state.branches) if one["status"] == WAITING]
    return found
