"""Secrets taken out of values before they are recorded: known shapes, and fields that are declared.

What is taken out is gone for good; in its place stands a keyed hash, so that the same secret is seen to be the same and
nobody can look whether it is a certain one. A shape is a guess that is right for what providers hand out; what looks like
none of them is found by its field's name or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from eventflow.change import Op
from eventflow.codec import Shared, encode
from eventflow.event import Event, Failure
from eventflow.plain import FrozenDict, FrozenList, Rope, ordered, raw_items
from eventflow.shapes import MARK, PROCESS_KEY, hidden, mark


@dataclass(frozen=True, slots=True)
class Redaction:
    """What an engine takes out of values before they are recorded.

    `fields` are names, or names below names ("user.token"), found wherever they stand one below the other, in states,
    inputs, results and messages; `shapes` looks for known kinds of secrets in every text. `key` (32 random bytes) makes
    hashes comparable between processes; without one they are within an encrypted store, or within one process.
    """

    fields: Sequence[str] = ()
    shapes: bool = True
    key: bytes | None = None


class Redactor:
    """A redaction with its key: values in, values without secrets out; the same object where there is nothing to take."""

    def __init__(self, redaction: Redaction, key: bytes | None = None) -> None:
        self._key = redaction.key or key or PROCESS_KEY
        self._shapes = redaction.shapes
        self._fields = tuple(tuple(path.split(".")) for path in redaction.fields)

    def value(self, value: Any, under: tuple[str, ...] = ()) -> Any:  # noqa: PLR0911 - one line a kind
        """Frozen plain data that stands under some keys."""
        if under and self._is_named(under) and value is not None:
            return value if type(value) is str and value.startswith(MARK) else mark(encode(_bare(value)), self._key)
        kind = type(value)
        if kind is str:
            return hidden(value, self._key) if self._shapes else value
        if kind is bytes:
            return self._bytes(value)
        if kind is FrozenDict or kind is dict:
            return self._dict(value, under)
        if kind is FrozenList or kind is list or kind is tuple:
            return self._items(value, under, kind)
        if kind is Rope:
            items = value.items()
            found = self._items(items, under, FrozenList)
            return value if found is items else Rope.of(found)
        if kind is Shared:
            inner = self.value(value.value, under)
            return value if inner is value.value else Shared(inner)
        return value

    def _is_named(self, under: tuple[str, ...]) -> bool:
        return any(under[-len(path) :] == path for path in self._fields)

    def _bytes(self, value: bytes) -> bytes:
        if not self._shapes:
            return value
        text = value.decode("latin-1")
        found = hidden(text, self._key)
        return value if found is text or found == text else found.encode("latin-1")

    def _dict(self, value: dict[str, Any], under: tuple[str, ...]) -> dict[str, Any]:
        changed = {}
        for key, item in raw_items(value):
            found = self.value(item, (*under, key))
            if found is not item and found != item:
                changed[key] = found
        if not changed:
            return value
        return ordered({**dict(raw_items(value)), **changed}) if type(value) is FrozenDict else {**value, **changed}

    def _items(self, value: Sequence[Any], under: tuple[str, ...], kind: Callable[[list[Any]], Any]) -> Any:
        found = [self.value(item, under) for item in value]
        return value if all(map(_same, found, value)) else kind(found)

    def event(self, event: Event) -> Event:
        """A fact, with its values redacted; the same one if there was nothing to take."""
        changed = {}
        for one in fields(event):
            value = getattr(event, one.name)
            found = _READ[one.name](self, value) if one.name in _READ else value
            if found is not value:
                changed[one.name] = found
        return replace(event, **changed) if changed else event

    def change(self, change: tuple[Op, ...]) -> tuple[Op, ...]:
        """A resolved change."""
        found = tuple(self._op(op) for op in change)
        return change if all(map(_same, found, change)) else found

    def _op(self, op: Op) -> Op:
        if op.op in ("extend", "merge") and self._is_named(op.path):  # what is there stays a list, or a dict
            inner = (self.value(item, op.path) for item in (op.value.values() if op.op == "merge" else op.value))
            value = FrozenDict(zip(op.value, inner, strict=True)) if op.op == "merge" else FrozenList(inner)
            return op._replace(value=value)
        value = self.value(op.value, op.path)
        return op if value is op.value else op._replace(op="set" if op.op == "add" else op.op, value=value)

    def failure(self, error: Failure | None) -> Failure | None:
        """A failure, its sentence redacted."""
        if error is None or (message := self.value(error.message)) == error.message:
            return error
        return replace(error, message=message)


# The fields of facts that hold what users wrote, by how they are read; all others are names, numbers and digests.
_READ: Mapping[str, Callable[[Redactor, Any], Any]] = {
    **dict.fromkeys(
        ("data", "input", "output", "payload", "result", "items", "spec", "why", "signals", "label"), Redactor.value
    ),
    "change": Redactor.change,
    "error": Redactor.failure,
}


def _same(one: Any, other: Any) -> bool:
    return one is other


def _bare(value: Any) -> Any:
    """A value as the codec takes it: ropes and shared values as what they hold."""
    if type(value) is Rope:
        return [_bare(item) for item in value.items()]
    if type(value) is Shared:
        return _bare(value.value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in raw_items(value)}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    return value
