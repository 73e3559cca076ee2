"""Values taken out of what is exported, by the names they stand under.

A path of keys fits wherever its keys stand one below the other, in states, changes, inputs, outputs and messages alike,
whatever lists lie between. What is written in other words somewhere else is not found; that is said where this is offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventflow.errors import SettingsError
from replay.path import parse_path

REDACTED = {"redacted": True}


class Redaction:
    """What is taken out, and how often it was."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [_keys(path) for path in paths]
        self.paths = tuple(paths)
        self.count = 0

    def of(self, value: Any, under: tuple[str, ...] = ()) -> Any:
        """A value that stands under some keys, without what is to be taken out of it."""
        if any(under[-len(path) :] == path for path in self._paths):
            self.count += 1
            return REDACTED
        if isinstance(value, dict):
            return {key: self.of(item, (*under, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item, under) for item in value]
        return value


def _keys(text: str) -> tuple[str, ...]:
    path = parse_path(text)
    if not all(isinstance(one, str) for one in path):
        raise SettingsError(f"{text!r} has a number in it; a redaction goes by keys, through all items of a list")
    return tuple(map(str, path))
