"""Text from a log where it is shown: control and direction characters made visible, HTML escaped, tables of both.

What comes from a log is data of strangers. Nothing here makes markup of it, and no page made here holds a script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

from eventflow.shapes import hide_secrets

MAX_CELL = 400  # characters of a value in a notebook: a few lines
MAX_ROWS = 200  # rows of a table in a notebook: more is not read there
_JOINING = frozenset("\u200c\u200d")  # without them Persian, Hindi and many emoji can't be read; they move nothing
# Marks that stand on the character before them: a word of some languages has three at a place, and a pile of hundreds is
# drawn over the lines around it. Those of the alphabets in which piles are made.
PILE = re.compile(
    r"(?<=[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u064b-\u065f\u0e31-\u0e3a\u0e47-\u0e4e\u1ab0-\u1aff\u1dc0-\u1dff"
    r"\u20d0-\u20ff\ufe20-\ufe2f]{5})[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u064b-\u065f\u0e31-\u0e3a\u0e47-\u0e4e"
    r"\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
_TABLE = 'style="border-collapse:collapse;font-size:13px"'
_HEAD = 'style="text-align:left;padding:3px 12px 3px 0;opacity:.6;font-weight:600;border-bottom:1px solid rgba(128,128,128,.4)"'
_CELL = 'style="text-align:left;vertical-align:top;padding:3px 12px 3px 0;white-space:pre-wrap"'


def visible(text: str, *, lines: bool = False) -> str:
    """Text from a log for a terminal: control and direction characters shown as escapes, never obeyed; without secrets."""
    text = hide_secrets(text)
    if not text.isascii():
        text = PILE.sub(_as_escapes, text)
    if text.isprintable():  # false for what controls, directs, hides or separates
        return text
    kept = "\n\t" if lines else ""
    return "".join(one if one in kept or is_shown(one) else one.encode("unicode_escape").decode() for one in text)


def _as_escapes(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def is_shown(one: str) -> bool:
    """Whether a character may stand as it is."""
    return one.isprintable() or one in _JOINING or unicodedata.category(one) == "Zs"  # spaces of other widths too


def cell(value: object, limit: int = MAX_CELL) -> str:
    """A value as text of a page: escaped, its control characters visible, cut where it is long."""
    text = hide_secrets(str(value))  # before it is cut: half a key is a secret too
    more = f"… ({len(text):,} characters)" if len(text) > limit else ""
    return escape(visible(text[:limit], lines=True)) + more


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left_out: int = 0) -> str:
    """Rows as an HTML table; `left_out` is how many more there are."""
    head = "".join(f"<th {_HEAD}>{cell(one)}</th>" for one in columns)
    body = "".join("<tr>" + "".join(f"<td {_CELL}>{cell(one)}</td>" for one in row) + "</tr>" for row in rows)
    more = f"<p>and {left_out:,} more</p>" if left_out else ""
    return f"<table {_TABLE}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def html_block(title: str, *parts: str) -> str:
    """Parts that are HTML already, under a title that is text."""
    return f"<div><p><strong>{cell(title)}</strong></p>{''.join(parts)}</div>"
