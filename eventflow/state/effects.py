"""Calls to the outside as a state knows them: begun, finished, failed; what would undo them, what may answer again."""

from __future__ import annotations

from typing import Any

from eventflow.errors import Corrupt
from eventflow.event import EffectFailed, EffectFinished, EffectRejected, EffectStarted, Recorded
from eventflow.plain import EMPTY, MAX_INT, MIN_INT, FrozenDict, FrozenList, ordered
from eventflow.state.parts import State

UNDO = "undo"  # the kind of a call that takes another one back; its key is that one's place in `State.undo`, from 1


TRANSACTION = "transaction"  # the kind of a call whose finish is recorded with all that it does: it is never in doubt


def is_doubtful(entry: FrozenDict) -> bool:
    """Whether nothing says if a call, as a state knows it, has happened: it began and has no end."""
    return bool(entry["status"] == "started" and entry["kind"] != TRANSACTION)


def effect_id(name: str, key: str, branch: str = "") -> str:
    """How a call is named in `State.effects`: no other branch, name and key of a visit give the same."""
    if "#" in name or "%" in name:
        name = name.replace("%", "%25").replace("#", "%23")
    return f"{branch_prefix(branch)}{name}#{key}" if branch else f"{name}#{key}"


def branch_prefix(branch: str) -> str:
    """What the names of a branch's calls begin with, or of a node's."""
    return branch.replace("%", "%25").replace("/", "%2f") + "/"


def reuse_key(node: str, effect: str, asked: bytes) -> str:
    """What a call of another line must be to answer: the same call of the same node with the same input."""
    return f"{branch_prefix(node)}{effect}/{asked.hex()[:32]}"


def with_begun(state: State, event: EffectStarted, version: int) -> FrozenDict:
    """The calls with one more that has begun."""
    entry: dict[str, Any] = {
        "kind": event.kind,
        "status": "started",
        "attempt": event.attempt,
        "version": version,
        "mutating": event.mutating,
        "input_digest": event.input_digest,
        "idempotency_key": event.idempotency_key,
    }
    if event.undo:
        entry["undo"] = event.undo
    return ordered({**state.effects, effect_id(event.name, event.key, event.branch): ordered(entry)})


def call_finished(state: State, recorded: Recorded, event: EffectFinished) -> dict[str, Any]:
    """What changes in a state when a call finishes."""
    name = effect_id(event.name, event.key, event.branch)
    begun = _open(state, recorded, name)
    closed = {**begun, "output": event.output, "status": "finished"}
    if event.source:
        closed["source"] = event.source
    changes: dict[str, Any] = {"effects": ordered({**state.effects, name: ordered(closed)})}
    if event.usage:
        changes["usage"] = _summed(state.usage, event.usage)
    if "undo" in begun and not event.source:  # what was not made is not taken back
        one = {
            "name": event.name,
            "key": event.key,
            "branch": event.branch,
            "by": begun["undo"],
            "at": recorded.version,
        }
        changes["undo"] = FrozenList([*state.undo, ordered(one)])
    if begun["kind"] == UNDO and state.undoing is not None:  # the newest that was left, as they are taken back
        changes["undo"] = FrozenList(state.undo[:-1])
    if event.reused:
        changes["reuse"] = _without(state.reuse, event.reused)
    return changes


def call_closed(state: State, recorded: Recorded, event: EffectFailed | EffectRejected) -> dict[str, Any]:
    """What changes in a state when a call fails, or its result is refused."""
    name = effect_id(event.name, event.key, event.branch)
    status = "failed" if isinstance(event, EffectFailed) else "rejected"
    entry = {**_open(state, recorded, name), "status": status}
    entry.pop("output", None)
    entry.pop("source", None)
    changes: dict[str, Any] = {"effects": ordered({**state.effects, name: ordered(entry)})}
    if state.undo and status == "rejected":
        mine = (event.name, event.key, event.branch)
        changes["undo"] = FrozenList([one for one in state.undo if not _is_of(one, mine, state.visit)])
    return changes


def _is_of(one: FrozenDict, call: tuple[str, str, str], visit: int) -> bool:
    """Whether what is to be undone is this call of the visit: another visit may have made one of the same name and key."""
    return one["at"] > visit and (one["name"], one["key"], one["branch"]) == call


def _open(state: State, recorded: Recorded, name: str) -> FrozenDict:
    entry = state.effects.get(name)
    if entry is None:
        raise Corrupt(f"version {recorded.version}", f"closes effect {name}, which was never started")
    return entry  # type: ignore[no-any-return]


def _summed(usage: FrozenDict, more: FrozenDict) -> FrozenDict:
    """Counts added up, within 64 bits; what is not a number is left to the event that reported it."""
    total: dict[str, Any] = {**usage}
    for key, value in more.items():
        if type(value) in (int, float):
            total[key] = min(max(total.get(key, 0) + value, MIN_INT), MAX_INT)
    return ordered(total)


def _without(reuse: FrozenDict, version: int) -> FrozenDict:
    left = {key: FrozenList([one for one in versions if one != version]) for key, versions in reuse.items()}
    return ordered({key: versions for key, versions in left.items() if versions})


def only_finished(effects: FrozenDict) -> FrozenDict:
    """The calls that have a result: what a rewind and a fork take along."""
    return FrozenDict({name: entry for name, entry in effects.items() if entry["status"] == "finished"})


def without_branch(effects: FrozenDict, branch: str) -> FrozenDict:
    """The calls without those of a branch."""
    if not effects:
        return EMPTY
    prefix = branch_prefix(branch)
    return FrozenDict({name: entry for name, entry in effects.items() if not name.startswith(prefix)})
