"""Places in a state: `notes[2].title` as keys and numbers, and what stands there.

A path is read as data and followed as data. Nothing here may ask an attribute of an object or run anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from eventflow.errors import SettingsError
from eventflow.plain import FrozenDict, Rope, raw, same

Path = tuple[str | int, ...]
_PLAIN_KEY = re.compile(r'[^.\[\]"]+')
_STEP = re.compile(r'\.?(?P<key>[^.\[\]"]+)|\[(?P<index>-?[0-9]{1,18})\]|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]')


class Missing:
    """What stands where nothing stands: None is a value like any other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


def parse_path(text: str) -> Path:
    """A path from its text: keys with dots between, `[0]` into a list, `["any key"]`. Raises SettingsError."""
    parts: list[str | int] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None or (found["key"] is not None and (text[at] == ".") != bool(parts)):
            break
        parts.append(_part(found))
        at = found.end()
    if not parts or at < len(text) or not isinstance(parts[0], str):
        raise SettingsError(f'{text!r} is not a path into a state; write one as notes[2].title or notes["a.b"]')
    return tuple(parts)


def _part(found: re.Match[str]) -> str | int:
    if found["index"] is not None:
        return int(found["index"])
    if found["quoted"] is None:
        return found["key"]
    try:
        return str(json.loads(found["quoted"]))
    except ValueError:
        raise SettingsError(f"{found['quoted']} is not a key in quotes; write it as JSON has it") from None


def path_text(path: Path) -> str:
    """A path as text that `parse_path` reads back."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text


def step_into(held: Any, part: str | int) -> Any:
    """What stands one step further, as it is held (a long list stays a Rope); MISSING if nothing does."""
    if isinstance(part, str):
        if not isinstance(held, dict) or part not in held:
            return MISSING
        return raw(held, part) if type(held) is FrozenDict else held[part]
    if not isinstance(held, list | Rope):
        return MISSING
    index = part + len(held) if part < 0 else part
    if not 0 <= index < len(held):
        return MISSING
    return held[index] if isinstance(held, list) else held.slice(index, index + 1)[0]


def look(data: Mapping[str, Any], path: Path) -> Any:
    """What stands at a path, as it is held; MISSING if nothing does."""
    held: Any = data
    for part in path:
        held = step_into(held, part)
        if held is MISSING:
            return MISSING
    return held


def settled(held: Any) -> Any:
    """A held value as plain data: a Rope as its list."""
    return held.items() if type(held) is Rope else held


def alike(one: Any, other: Any) -> bool:
    """Whether two held values are the same plain data; long lists of two lengths are told apart at no cost."""
    if one is other:
        return True
    if isinstance(one, list | Rope) and isinstance(other, list | Rope) and len(one) != len(other):
        return False
    return same(settled(one), settled(other))
