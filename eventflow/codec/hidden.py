"""What stands in the place of values that are encrypted, for who reads a history without its keys.

Such an event tells its type, its place and its header; it must never be folded into a state that anybody goes on from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING
from typing import Any, Literal

from eventflow.errors import NoKey, Shredded
from eventflow.event import Failure
from eventflow.plain import EMPTY, NOTHING, FrozenDict, FrozenList

Hidden = Literal["", "encrypted", "shredded"]  # why a value is not shown; empty: it is


def why_hidden(error: NoKey) -> Hidden:
    """The word for what can't be read: its key is not here, or is gone for good."""
    return "shredded" if isinstance(error, Shredded) else "encrypted"


def placeholders(kind: type, fields: Iterable[tuple[str, tuple[type, ...]]], why: Hidden) -> dict[str, Any]:
    """Values for the fields of a body that have no default, of their declared types."""
    word = f"«{why}»"
    made: dict[type, Any] = {
        FrozenDict: EMPTY, FrozenList: NOTHING, bytes: bytes(32), int: 0, bool: False, Failure: Failure(word, word),
    }  # fmt: skip
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return {
        name: made.get(types[0], word) if types else word for name, types in fields if known[name].default is MISSING
    }
