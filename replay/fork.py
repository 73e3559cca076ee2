"""Branching: a new run that continues another's history, its state changed where asked, as one recorded event.

This is the one thing replay writes by itself. What drives the new run is eventflow's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from eventflow.address import Address
from eventflow.clock import Clock, id_text
from eventflow.errors import RunNotFound, SettingsError
from eventflow.forking import fork_run
from eventflow.log import Head, Log
from eventflow.plain import FrozenDict, thaw
from eventflow.recovery import recover
from eventflow.state import State
from eventflow.what_if import EffectPolicy, is_what_if
from replay.path import MISSING, Path, look, path_text

MAX_KIN = 500  # runs of one family that a tree shows: more than anybody reads


@dataclass(frozen=True, slots=True)
class Kin:
    """A run in its family's tree: how deep it stands, and the version of its parent it continues (0 for the root)."""

    run_id: str
    at: int
    depth: int
    what_if: bool = False


def fork(
    log: Log, clock: Clock, place: Address, *, sets: Sequence[tuple[Path, Any]] = (), run_id: str | None = None,
    actor: str = "", why: str = "", effects: EffectPolicy | Literal["real"] | None = None,
) -> Head:  # fmt: skip
    """A new run that continues the history of an address, with values set; returns its head.

    `effects` makes it a what-if run, or one that makes every call; without it, it may call what its parent may. Raises SettingsError for a path that leads nowhere or a field that nobody declared, NotResumable where the run was over, RunExists.
    """
    change = None
    if sets:
        state = recover(log, place.head, place.version).state
        _check_declared(state, sets)
        change = edited(state.data, sets)
    name = id_text(clock.uuid7()) if run_id is None else run_id
    return fork_run(
        log, clock, place.head, place.version, run_id=name, change=change, actor=actor, why=why, effects=effects
    ).head  # fmt: skip


def _check_declared(state: State, sets: Sequence[tuple[Path, Any]]) -> None:
    """Refuse a field that the state has not and its workflow does not declare, where it declares any. Raises SettingsError."""
    declared = state.run.definition.get("fields", ())
    for top in [str(path[0]) for path, _ in sets] if declared else ():
        if top not in declared and top not in state.data:
            near = get_close_matches(top, declared, n=1)
            slip = f" (did you mean {near[0]!r}?)" if near else ""
            raise SettingsError(
                f"workflow {state.run.workflow!r} declares no field {top!r}{slip}; it has {', '.join(declared)}"
            )


def edited(data: FrozenDict, sets: Sequence[tuple[Path, Any]]) -> dict[str, Any]:
    """The top-level fields of a state that come out differently once values are set at paths, in order.

    A path may end in a key that is not there yet; all before it must be. Raises SettingsError.
    """
    update: dict[str, Any] = {}
    for path, value in sets:
        top, last = str(path[0]), path[-1]
        if len(path) == 1:
            update[top] = value
            continue
        if top not in update and top in data:
            update[top] = thaw(data[top])
        holder: Any = look(update, path[:-1])
        new_key = isinstance(holder, dict) and isinstance(last, str)
        if not new_key and look(update, path) is MISSING:
            raise SettingsError(
                f"nothing can be set at {path_text(path)}: the state has no place for it at that version"
            )
        holder[last] = value
    return update


def lineage(log: Log, head: Head) -> list[Kin]:
    """The family of a run as a tree: the run it all began with, and below each run its forks, depth first."""
    root = _root(log, head)
    found: list[Kin] = []
    waiting: list[tuple[Head, int, int]] = [(root, 0, 0)]
    while waiting and len(found) < MAX_KIN:
        one, at, depth = waiting.pop()
        found.append(Kin(one.run_id, at, depth, is_what_if(log, one)))
        waiting += [(child, at, depth + 1) for child, at in reversed(_children(log, one.run_key))]
    return found


def _root(log: Log, head: Head) -> Head:
    while (entry := log.entry(head.run_key)) is not None and entry.parent_id is not None:
        parent = log.head_of(entry.parent_key)
        if parent is None:
            raise RunNotFound(entry.parent_id)
        head = parent
    return head


def _children(log: Log, run_key: bytes) -> list[tuple[Head, int]]:
    """The forks of a run, those of earlier versions first."""
    found = []
    for key in log.children(run_key):
        head, entry = log.head_of(key), log.entry(key)
        if head is not None and entry is not None:
            found.append((head, entry.parent_at))
    return sorted(found, key=lambda one: (one[1], one[0].run_id))
