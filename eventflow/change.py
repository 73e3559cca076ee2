"""A change of state as data, and how the smallest one is found.

A change is a list of operations, each (op, path, value): `set`, `delete`, `extend` (items at a list's end), `merge` (keys
into a dict), `add` (to a number). A path is the list of dict keys from the top of the state. Operations are *resolved*:
reducers have run, so that applying a change asks no code of the user. What decides to make a change may not be here.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from itertools import starmap
from typing import Any, Literal, NamedTuple

from eventflow.errors import InvalidState, NotPlainData
from eventflow.plain import FrozenDict, Rope, freeze, grown, raw, raw_items, same

OpName = Literal["set", "delete", "extend", "merge", "add"]
COMPARED_BY_VALUE = 1_000  # items of a returned list that are compared one by one; beyond, the list is stored whole
MERGE_FROM = 2  # keys set in one dict from which one merge is shorter than as many sets

Reducer = Callable[[Any, Any], Any]


class Op(NamedTuple):
    """One resolved operation on the state."""

    op: OpName
    path: tuple[str, ...]
    value: Any = None


Change = tuple[Op, ...]
NO_CHANGE: Change = ()


# --- reducers users put into Annotated -----------------------------------------------------------------------------


def extend(old: Any, new: Any) -> list[Any]:
    """Reducer: the returned items go to the list's end."""
    return [*(old or ()), *new]


def add(old: Any, new: Any) -> Any:
    """Reducer: the returned number is added."""
    return new if old is None else old + new


def merge(old: Any, new: Any) -> dict[str, Any]:
    """Reducer: the returned keys go into the dict, one level deep."""
    return {**(old or {}), **new}


# --- finding -------------------------------------------------------------------------------------------------------


def resolve(data: FrozenDict, update: Mapping[str, Any], reducers: Mapping[str, Reducer]) -> Change:
    """The smallest change that a node's update makes to the state.

    `update` holds plain data by top-level key, not yet frozen. Raises NotPlainData with the path of what is not plain.
    """
    found: list[Op] = []
    for key, value in update.items():
        if type(key) is not str:
            raise NotPlainData("the update", f"has the key {key!r}, which is not text; use text keys")
        held = dict.get(data, key, _MISSING)
        reducer = reducers.get(key)
        if reducer is None:
            found.extend(_difference((key,), held, value))
        else:
            found.extend(_reduced((key,), held, value, reducer))
    return tuple(_merged(found))


class _Missing:
    __slots__ = ()


_MISSING = _Missing()


def _reduced(path: tuple[str, ...], held: Any, value: Any, reducer: Reducer) -> list[Op]:
    empty = held is _MISSING or held is None
    if reducer is extend and (empty or isinstance(held, list | Rope)):
        return _extension(path, empty=empty, value=value)
    if reducer is add and type(held) in (int, float) and type(value) in (int, float):
        _frozen(path, held + value)  # the sum must be plain data too
        return [Op("add", path, _frozen(path, value))]
    old = None if empty else held.items() if type(held) is Rope else held
    return _difference(path, held, reducer(old, value))


def _extension(path: tuple[str, ...], *, empty: bool, value: Any) -> list[Op]:
    if not isinstance(value, list | tuple):
        raise InvalidState(_name(path), f"extend needs a list of new items, got {type(value).__name__}; return [item]")
    items = _frozen(path, list(value))
    if empty:
        return [Op("set", path, items)]
    return [Op("extend", path, items)] if items else []


def _difference(path: tuple[str, ...], held: Any, value: Any) -> list[Op]:
    """Operations that turn what is held into the value; none when they are the same."""
    if held is value:
        return []
    if isinstance(value, dict) and isinstance(held, dict):
        return _dict_difference(path, held, value)
    if isinstance(value, list | tuple) and isinstance(held, list | Rope):
        return _list_difference(path, held, value)
    if held is not _MISSING and not isinstance(held, Rope) and same(held, value):
        return []
    return [Op("set", path, _frozen(path, value))]


def _dict_difference(path: tuple[str, ...], held: dict[str, Any], value: dict[Any, Any]) -> list[Op]:
    found: list[Op] = []
    for key in value:
        if type(key) is not str:
            raise NotPlainData(_name(path), f"has the key {key!r}, which is not text; use text keys")
        found.extend(_difference((*path, key), dict.get(held, key, _MISSING), value[key]))
    found.extend(Op("delete", (*path, key)) for key in held if key not in value)
    if len(found) > max(4, len(value)):  # touching every key costs more than saying it once
        return [Op("set", path, _frozen(path, value))]
    return found


def _list_difference(path: tuple[str, ...], held: Any, value: Any) -> list[Op]:
    old = held.items() if type(held) is Rope else held
    if old is value:
        return []
    if len(value) >= len(old) and _grew(path, old, value):
        new = _frozen(path, list(value[len(old) :]))
        return [Op("extend", path, new)] if new else []
    return [Op("set", path, _frozen(path, value))]


def _grew(path: tuple[str, ...], old: Any, value: Any) -> bool:
    """Whether the old items are the first of the new ones: by identity, then up to a thousand by value."""
    if not all(map(operator.is_, old, value)):
        others = [(one, other) for one, other in zip(old, value, strict=False) if one is not other]
        if len(others) > COMPARED_BY_VALUE:
            warnings.warn(
                f"state field {_name(path)}: a node returned a list of {len(value):,} items of which more than "
                f"{COMPARED_BY_VALUE:,} are new objects; it is stored whole. Return only new items, with "
                f"Annotated[list, extend]",
                stacklevel=2,
            )
            return False
        return all(starmap(same, others))
    return True


def _merged(found: list[Op]) -> list[Op]:
    """Sets of several keys of one nested dict become one merge."""
    groups: dict[tuple[str, ...], int] = {}
    for one in found:
        if one.op == "set" and len(one.path) > 1:
            groups[one.path[:-1]] = groups.get(one.path[:-1], 0) + 1
    many = {path for path, count in groups.items() if count >= MERGE_FROM}
    if not many:
        return found
    kept = [one for one in found if not (one.op == "set" and one.path[:-1] in many)]
    for path in groups:
        if path in many:
            values = {one.path[-1]: one.value for one in found if one.op == "set" and one.path[:-1] == path}
            kept.append(Op("merge", path, FrozenDict(values)))
    return kept


def _frozen(path: tuple[str, ...], value: Any) -> Any:
    return freeze(value, _name(path), depth=len(path))


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)


# --- applying ------------------------------------------------------------------------------------------------------


def apply(data: FrozenDict, change: Change) -> FrozenDict:
    """The state after a change; the path to what changed is built anew, the rest is shared.

    Raises InvalidState if an operation does not fit what is held, which only a damaged or foreign log can bring about.
    """
    if not change:
        return data
    top = dict(raw_items(data))
    for op in change:
        _apply_one(top, op, op.path)
    return FrozenDict(top)


def _apply_one(holder: dict[str, Any], op: Op, path: tuple[str, ...]) -> None:
    key = path[0]
    if len(path) > 1:
        inner = holder.get(key)
        if not isinstance(inner, dict):
            raise InvalidState(_name(op.path), f"{op.op} goes through {key!r}, which is not a dict")
        changed = dict(raw_items(inner))
        _apply_one(changed, op, path[1:])
        holder[key] = FrozenDict(changed)
        return
    if op.op == "set":
        holder[key] = op.value
    elif op.op == "delete":
        holder.pop(key, None)
    else:
        holder[key] = _combined(op, holder.get(key))


def _combined(op: Op, held: Any) -> Any:
    if op.op == "extend" and isinstance(held, list | Rope):
        return grown(held, op.value)
    if op.op == "merge" and isinstance(held, dict):
        return FrozenDict({**dict(raw_items(held)), **op.value})
    if op.op == "add" and type(held) in (int, float):
        return held + op.value
    raise InvalidState(_name(op.path), f"{op.op} does not fit a {type(held).__name__}")


def value_at(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What is held at a path. Raises KeyError."""
    held: Any = data
    for key in path:
        held = raw(held, key) if isinstance(held, FrozenDict) else held[key]
    return held
