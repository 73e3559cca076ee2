"""A change of state as data, and how the smallest one is found.

A change is a list of operations, each (op, path, value): `set`, `delete`, `extend` (items at a list's end), `merge` (keys
into a dict), `add` (to a number). A path is the list of dict keys from the top of the state. Operations are *resolved*:
reducers have run, so that applying a change asks no code of the user. What decides to make a change may not be here.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from typing import Any, Literal, NamedTuple

from eventflow.errors import InvalidState, NotPlainData
from eventflow.plain import (
    MAX_INT,
    MIN_INT,
    FrozenDict,
    Rope,
    freeze,
    grown,
    ordered,
    raw,
    raw_items,
    reordered,
    same,
)

OpName = Literal["set", "delete", "extend", "merge", "add"]
COMPARED_BY_VALUE = 1_000  # items of a returned list that are compared one by one; beyond, the list is stored whole
MERGE_FROM = 2  # keys set in one dict from which one merge is shorter than as many sets
_TEXT_UNIT = 16  # characters of text that weigh as much as naming one more key

_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})

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
        if held is _MISSING:
            freeze(key, "a key of the update")
        reducer = reducers.get(key)
        if reducer is None:
            if type(value) in _SCALARS:
                if held is not value and not same(held, new := freeze(value, key, depth=1)):
                    found.append(Op("set", (key,), new))
            else:
                found.extend(_difference((key,), held, value))
        else:
            found.extend(_reduced((key,), held, value, reducer))
    return tuple(_merged(found)) if len(found) > 1 else tuple(found)


class _Missing:
    __slots__ = ()


_MISSING = _Missing()


def _reduced(path: tuple[str, ...], held: Any, value: Any, reducer: Reducer) -> list[Op]:
    empty = held is _MISSING or held is None
    if reducer is extend:
        return _extension(path, held, value, empty=empty)
    if reducer is add and type(held) in (int, float) and type(value) in (int, float):
        added = _frozen(path, value)
        return [] if same(held, _frozen(path, held + added)) else [Op("add", path, added)]
    old = None if empty else held.items() if type(held) is Rope else held
    if reducer is not add and reducer is not merge:
        return _difference(path, held, reducer(old, value))
    try:
        reduced = reducer(old, value)
    except TypeError as error:
        raise InvalidState(_name(path), f"{reducer.__name__} can't combine the two ({error})") from None
    return _difference(path, held, reduced)


def _extension(path: tuple[str, ...], held: Any, value: Any, *, empty: bool) -> list[Op]:
    if not empty and not isinstance(held, list | Rope):
        raise InvalidState(_name(path), f"extend needs a list to add to, the state holds a {type(held).__name__}")
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
    if type(value) not in _SCALARS:
        if isinstance(value, dict) and isinstance(held, dict):
            return _dict_difference(path, held, value)
        if isinstance(value, list | tuple) and isinstance(held, list | Rope):
            return _list_difference(path, held, value)
    new = _frozen(path, value)
    return [] if same(held, new) else [Op("set", path, new)]


def _dict_difference(path: tuple[str, ...], held: dict[str, Any], value: dict[Any, Any]) -> list[Op]:
    found: list[Op] = []
    for key, item in value.items():
        if type(key) is not str:
            raise NotPlainData(_name(path), f"has the key {key!r}, which is not text; use text keys")
        inner = dict.get(held, key, _MISSING)
        if inner is _MISSING:
            freeze(key, f"a key of {_name(path)}")
        found.extend(_difference((*path, key), inner, item))
    found.extend(Op("delete", (*path, key)) for key in held if key not in value)
    if len(found) > 1 and _weight(value, len(found)) < len(found):  # touching so many keys costs more than the whole
        return [Op("set", path, _frozen(path, value))]
    return found


def _weight(value: Any, limit: int) -> int:
    """How many keys' names a value is about as long as; counted no further than the limit."""
    if isinstance(value, str | bytes):
        return 1 + len(value) // _TEXT_UNIT
    if not isinstance(value, dict | list | tuple):
        return 1
    total = 1
    for item in value.values() if isinstance(value, dict) else value:
        total += _weight(item, limit - total)
        if total >= limit:
            break
    return total


def _list_difference(path: tuple[str, ...], held: Any, value: Any) -> list[Op]:
    old = held.items() if type(held) is Rope else held
    if old is value:
        return []
    if len(value) >= len(old) and _grew(path, old, value):
        new = _frozen_after(path, list(value[len(old) :]), len(old))
        return [Op("extend", path, new)] if new else []
    return [Op("set", path, _frozen(path, value))]


def _frozen_after(path: tuple[str, ...], items: list[Any], start: int) -> Any:
    """The frozen items of a list from `start` on; an error names the place in the list that was returned."""
    try:
        return _frozen(path, items)
    except NotPlainData:
        for index, item in enumerate(items, start):
            freeze(item, f"{_name(path)}[{index}]", depth=len(path) + 1)
        raise


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
    if not groups:
        return found
    many = {path for path, count in groups.items() if count >= MERGE_FROM}
    if not many:
        return found
    kept = [one for one in found if not (one.op == "set" and one.path[:-1] in many)]
    sets: dict[tuple[str, ...], dict[str, Any]] = {path: {} for path in groups if path in many}
    for one in found:
        if one.op == "set" and one.path[:-1] in many:
            sets[one.path[:-1]][one.path[-1]] = one.value
    return kept + [Op("merge", path, ordered(values)) for path, values in sets.items()]


def _frozen(path: tuple[str, ...], value: Any) -> Any:
    return freeze(value, _name(path), depth=len(path))


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)


# --- applying ------------------------------------------------------------------------------------------------------


def apply(data: FrozenDict, change: Change) -> FrozenDict:
    """The state after a change; the path to what changed is built anew, the rest is shared.

    Raises InvalidState if an operation does not fit what is held, which only a damaged or foreign log can bring about.
    """
    return _applied(data, change, 0) if change else data


def _applied(held: dict[str, Any], ops: Sequence[Op], depth: int) -> FrozenDict:
    """What is held `depth` keys down, after operations whose paths go there; each dict on the way is copied once."""
    changed = dict(dict.items(held))
    fresh = False  # whether keys came that may stand out of order
    done = 0
    while done < len(ops):
        op = ops[done]
        if not op.path:
            raise InvalidState("the state", f"can't be the target of {op.op}: the path is empty")
        key = op.path[depth]
        if len(op.path) == depth + 1:
            fresh = fresh or key not in changed
            _apply_one(changed, key, op)
            done += 1
            continue
        through = _through(ops, done, depth)
        inner = changed.get(key)
        if not isinstance(inner, dict):
            raise InvalidState(_name(op.path), f"{op.op} goes through {key!r}, which is not a dict")
        changed[key] = _applied(inner, through, depth + 1)
        done += len(through)
    return ordered(changed) if fresh else FrozenDict(changed)


def _through(ops: Sequence[Op], start: int, depth: int) -> Sequence[Op]:
    """The operations from `start` on whose paths go on through the same key."""
    key, end = ops[start].path[depth], start + 1
    while end < len(ops) and len(ops[end].path) > depth + 1 and ops[end].path[depth] == key:
        end += 1
    return ops[start:end]


def _apply_one(holder: dict[str, Any], key: str, op: Op) -> None:
    if op.op == "set":
        holder[key] = op.value
    elif op.op == "delete":
        holder.pop(key, None)
    else:
        holder[key] = _combined(op, holder.get(key))


def _combined(op: Op, held: Any) -> Any:
    value = op.value
    if op.op == "extend" and isinstance(held, list | Rope) and isinstance(value, list):
        return grown(held, value)
    if op.op == "merge" and isinstance(held, dict) and isinstance(value, dict):
        return reordered({**dict(raw_items(held)), **dict(raw_items(value))}, held)
    if op.op == "add" and type(held) in (int, float) and type(value) in (int, float):
        total = held + value
        if type(total) is float or MIN_INT <= total <= MAX_INT:
            return total
    raise InvalidState(_name(op.path), f"{op.op} does not fit a {type(held).__name__}")


def value_at(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What is held at a path. Raises KeyError."""
    held: Any = data
    for key in path:
        held = raw(held, key) if isinstance(held, FrozenDict) else held[key]
    return held
