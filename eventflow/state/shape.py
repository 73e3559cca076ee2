"""What the maps and lists inside a state look like. Whoever takes one from outside asks here first.

A snapshot and a rewind bring such values ready made; what folds them and what drives a run may then rely on their form.
Nothing here knows what an event does to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eventflow.plain import FrozenDict, FrozenList
from eventflow.state.parts import WAITS
from eventflow.state.waits import FAILED, FINISHED, NEVER_OPENED, OPEN, OVER, WAITING, branch, entries

_NONE = type(None)
_NUMBERS = frozenset({int, float})
_ENDINGS = ("failed", "cancelled", "timed_out")
_CALL = {
    "kind": str, "status": str, "attempt": int, "version": int, "mutating": bool, "input_digest": bytes,
    "idempotency_key": str,
}  # fmt: skip
_CALL_STATUSES = ("started", "finished", "failed", "rejected")
_WAIT = {"id": int, "kind": str, "name": str, "opened": int, "restore": str, "spec": FrozenDict, "until": int}
_MESSAGE = {"name": str, "message": int}
_UNDO = {"at": int, "by": str, "key": str, "name": str, "branch": str}
_POLICY = {"deny": FrozenList, "live": FrozenList, "mock": FrozenDict}
_RECORDED = {"run": bytes, "first": int, "last": int}
_SPAN = FrozenDict({"run": b"", "first": 1, "last": 1})
_BRANCHES = frozenset({"of", "left", "items", "names", "standing"})
_FAILURE = [str, str, str, bool]


def _has(value: Any, fields: Mapping[str, type], *optional: str) -> bool:
    """Whether a value is a map of exactly these fields, each of its type; the optional ones may be there too."""
    if type(value) is not FrozenDict or not fields.keys() <= value.keys() <= {*fields, *optional}:
        return False
    return all(type(value[name]) is kind for name, kind in fields.items())


def is_failure(value: Any) -> bool:
    """Whether a value is an error as states hold it: type, sentence, place, whether another try may help."""
    return type(value) is FrozenList and list(map(type, value)) == _FAILURE


def is_call(value: Any) -> bool:
    """Whether a value is an entry of `State.effects`; a finished call has an output, no other has."""
    if not _has(value, _CALL, "output", "undo", "source") or type(value.get("undo", "")) is not str:
        return False
    if type(value.get("source", "")) is not str:
        return False
    return value["status"] in _CALL_STATUSES and ("output" in value) is (value["status"] == "finished")


def is_wait(value: Any) -> bool:
    """Whether a value is a wait, of a kind that can be opened."""
    return _has(value, _WAIT) and value["kind"] in WAITS and value["kind"] not in NEVER_OPENED


def is_message(value: Any) -> bool:
    """Whether a value is a message that waits to be read."""
    return _has(value, _MESSAGE, "payload") and "payload" in value


def are_numbers(values: Mapping[str, Any]) -> bool:
    """Whether a map holds numbers only: usage, a budget."""
    return _NUMBERS.issuperset(map(type, values.values()))


def is_policy(value: Any) -> bool:
    """Whether a value says what a what-if run may call; an empty one is of any other run."""
    if value == FrozenDict():
        return type(value) is FrozenDict
    if not _has(value, _POLICY, "recorded") or not _has(value.get("recorded", _SPAN), _RECORDED):
        return False
    return all(type(name) is str for kind in ("deny", "live") for name in value[kind])


def is_undo(value: Any) -> bool:
    """Whether a value names a call that is to be undone, and what undoes it."""
    return _has(value, _UNDO)


def is_undoing(value: Any) -> bool:
    """Whether a value says how a run ends once it is undone; None is of no run that ends."""
    if value is None:
        return True
    if not _has(value, {"actor": str, "why": str, "ending": str}, "error") or "error" not in value:
        return False
    return value["ending"] in _ENDINGS and (value["error"] is None or is_failure(value["error"]))


def are_answers(reuse: Mapping[str, Any]) -> bool:
    """Whether a map holds the versions of calls that may still answer."""
    return all(type(one) is FrozenList and {int}.issuperset(map(type, one)) for one in reuse.values())


def are_names(names: Iterable[Any]) -> bool:
    """Whether branches have names that tell them apart."""
    told = list(names)
    return all(type(name) is str for name in told) and len({*told}) == len(told)


def are_branches(value: Any) -> bool:
    """Whether a value is the branches of a node that has split, each in its place, counted right; None is of any other."""
    if value is None:
        return True
    if type(value) is not FrozenDict or value.keys() != _BRANCHES:
        return False
    of, names, items = value["of"], value["names"], value["items"]
    listed = type(names) is FrozenList and are_names(names) and type(items) in (FrozenList, _NONE)
    if not listed or type(of) is not FrozenDict or any(type(held) is not FrozenDict for held in of.values()):
        return False
    held = list(entries(value))
    known = {*names} if items is None else {str(place) for place in range(len(items))}
    if not all(name in known and _is_entry(one) and branch(value, name) is one for name, one in held):
        return False
    return _counted(value, len(known), [one["status"] for _, one in held])


def _counted(value: FrozenDict, size: int, statuses: list[str]) -> bool:
    left = size - sum(status in OVER for status in statuses)
    counts = (value["left"], value["standing"])
    return {int}.issuperset(map(type, counts)) and counts == (left, statuses.count(WAITING))


def _is_entry(one: Any) -> bool:
    """Whether a value says how far a branch is."""
    status = one.get("status") if type(one) is FrozenDict else None
    if status == FINISHED:
        return bool(one.keys() == {"status", "result"})
    if status is None:
        return False
    if status == FAILED:
        return bool(one.keys() == {"status", "error"}) and is_failure(one["error"])
    going = _has(one, {"status": str, "attempt": int}, "retry_at", "wait") and type(one.get("retry_at", 0)) is int
    if "wait" in one:
        return going and status == WAITING and is_wait(one["wait"])
    return going and status == OPEN
