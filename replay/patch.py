"""What differs between two pieces of plain data, as the operations of a JSON Patch (RFC 6902).

The patch turns the first into the second. It is small, not smallest: of lists the common beginning and end are kept, and
what lies between is compared one by one. Nothing here knows about runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from eventflow.plain import Rope
from replay.path import MISSING, Path, alike, settled, step_into


@dataclass(frozen=True, slots=True)
class Edit:
    """One operation: at a path, what stood there (MISSING for `add`) and what does now (MISSING for `remove`)."""

    op: Literal["add", "remove", "replace"]
    path: Path
    was: Any
    now: Any

    @property
    def pointer(self) -> str:
        """The path as a JSON Pointer (RFC 6901)."""
        return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in self.path)

    def document(self) -> dict[str, Any]:
        """The operation as RFC 6902 writes it."""
        value = {} if self.op == "remove" else {"value": self.now}
        return {"op": self.op, "path": self.pointer, **value}


def by_field(edits: Iterable[Edit]) -> list[Edit]:
    """The operations on a state's data by the names of its fields, as people read them; within a field they stay as they are."""
    return sorted(edits, key=lambda edit: str(edit.path[0]) if edit.path else "")


def differences(one: Any, other: Any, path: Path = ()) -> Iterator[Edit]:
    """The operations that turn one value into the other, in the order in which they apply; none if they are the same."""
    if alike(one, other):
        return
    if isinstance(one, dict) and isinstance(other, dict):
        yield from _of_dicts(one, other, path)
    elif isinstance(one, list | Rope) and isinstance(other, list | Rope):
        yield from _of_lists(settled(one), settled(other), path)
    else:
        yield Edit("replace", path, settled(one), settled(other))


def _of_dicts(one: dict[str, Any], other: dict[str, Any], path: Path) -> Iterator[Edit]:
    for key in (key for key in one if key not in other):
        yield Edit("remove", (*path, key), one[key], MISSING)
    for key in other:
        old, new = step_into(one, key), step_into(other, key)
        if old is MISSING:
            yield Edit("add", (*path, key), MISSING, settled(new))
        else:
            yield from differences(old, new, (*path, key))


def _of_lists(one: list[Any], other: list[Any], path: Path) -> Iterator[Edit]:
    shorter = min(len(one), len(other))
    start = 0
    while start < shorter and alike(one[start], other[start]):
        start += 1
    end = 0
    while end < shorter - start and alike(one[-1 - end], other[-1 - end]):
        end += 1
    old, new = one[start : len(one) - end], other[start : len(other) - end]
    both = min(len(old), len(new))
    for index in range(both):
        yield from differences(old[index], new[index], (*path, start + index))
    for index in range(len(old) - 1, both - 1, -1):  # from the end, so that no index moves before its turn
        yield Edit("remove", (*path, start + index), old[index], MISSING)
    for index in range(both, len(new)):
        yield Edit("add", (*path, start + index), MISSING, new[index])
