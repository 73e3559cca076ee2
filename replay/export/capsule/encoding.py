"""Plain data as the JSON that a page reads back without losing anything.

JSON of a browser has no whole numbers above 2^53, no difference between 1 and 1.0, no bytes, no NaN; its objects reorder
keys that look like numbers and know `__proto__`. So a list is `["l", items…]`, a dict `["d", key, value, …]`, a float
`["f", text]`, a whole number beyond 2^53 `["i", text]`, bytes `["b", base64, how many]`; a text that is long stands once in
a table, as `["s", index]`. A text that is too long for a page is cut: `["t", index, length]`.
"""

from __future__ import annotations

import base64
from typing import Any

from eventflow.plain import Rope

SAFE = 2**53 - 1  # the largest whole number that every browser holds exactly
SHARED_FROM = 40  # characters: below, an index is hardly shorter than the text
MAX_TEXT = 40_000  # characters of a text that a page shows: some fifteen pages of print
MAX_BYTES = 3_000  # bytes that a page shows; more than anybody reads


class Texts:
    """Encodes values; texts that come up again are held once. `size` is about how many bytes the table takes."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self.table: list[str] = []
        self.size = 0
        self.cut = 0

    def of(self, value: Any) -> Any:  # noqa: PLR0911 - a table
        """A value as the page reads it."""
        kind = type(value)
        if kind is str:
            return self._text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -SAFE <= value <= SAFE else ["i", str(value)]
        if kind is float:
            return ["f", repr(value)]
        if kind is bytes:
            return ["b", base64.b64encode(value[:MAX_BYTES]).decode(), len(value)]
        if isinstance(value, dict):
            return ["d", *(part for key in value for part in (self._text(key), self.of(value[key])))]
        if kind is Rope:
            value = value.items()
        return ["l", *map(self.of, value)]

    def _text(self, text: str) -> Any:
        if len(text) < SHARED_FROM:
            return text
        shown = text if len(text) <= MAX_TEXT else text[:MAX_TEXT]
        index = self._found.get(shown)
        if index is None:
            index = self._found[shown] = len(self.table)
            self.table.append(shown)
            self.size += len(shown.encode()) + 3
        if shown is text:
            return ["s", index]
        self.cut += 1
        return ["t", index, len(text)]
