"""How a notebook shows what replay answers: histories as a strip of marks and a table, differences as tables.

Plain HTML and inline SVG with nothing from outside and no script; all that comes from a log is escaped text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from eventflow.errors import EventflowError
from eventflow.markup import MAX_ROWS, cell, html_block, html_table
from eventflow.plain import thaw
from replay.patch import by_field
from replay.path import MISSING

_WIDE, _HIGH, _MARKS = 640, 18, 320  # px of a strip, and how many marks it has at most
_COLOURS = (
    ("#b3382c", ("AttemptFailed", "RunFailed", "BranchFailed", "EffectFailed", "RunTimedOut")),
    ("#2e7d4f", ("RunCompleted",)),
    ("#2f6f8f", ("RunStarted", "Forked")),
    ("#9a6a12", ("WaitOpened", "WaitClosed", "SignalReceived", "SignalRefused")),
    ("#6a55a8", ("EffectStarted", "EffectFinished", "EffectRejected")),
)
_PLAIN = "#7a828c"  # seen on light and on dark


def history_html(run_id: str, lines: Sequence[Any]) -> str:
    """A history: a strip with a mark for each event, and the newest lines as a table."""
    shown = lines[-MAX_ROWS:]
    rows = [(one.version, _time(one.time), one.type, one.node, one.tokens or "", one.detail) for one in shown]
    columns = ("version", "time", "type", "node", "tokens", "detail")
    table = html_table(columns, rows, left_out=len(lines) - len(shown))
    return html_block(f"run {run_id}, {len(lines):,} events", strip([one.type for one in lines]), table)


def strip(types: Sequence[str]) -> str:
    """Events as marks on a line, in their colours; of many events each mark is the worst of its stretch."""
    marks: dict[int, int] = {}
    for number, kind in enumerate(types):
        at = number * _MARKS // max(len(types), 1) if len(types) > _MARKS else number
        marks[at] = min(_rank(kind), marks.get(at, len(_COLOURS)))
    step = _WIDE / max(len(marks), 1)
    drawn = "".join(
        f'<rect x="{at * step:.1f}" y="0" width="{max(min(step - 1, 6), 1):.1f}" height="{_HIGH}" rx="1" '
        f'fill="{_COLOURS[rank][0] if rank < len(_COLOURS) else _PLAIN}"></rect>'
        for at, rank in marks.items()
    )
    return f'<svg width="{_WIDE}" height="{_HIGH}" viewBox="0 0 {_WIDE} {_HIGH}" role="img">{drawn}</svg>'


def _rank(kind: str) -> int:
    return next((rank for rank, (_, kinds) in enumerate(_COLOURS) if kind in kinds), len(_COLOURS))


def difference_html(found: Any) -> str:
    """A difference of two addresses: where they part, how they stand, and what differs in their states."""
    title = f"{found.one} and {found.other}"
    if found.same:
        return html_block(title, "<p>nothing differs</p>")
    parts = []
    if found.divergences:
        rows = [
            (one.kind, one.what, one.node, " / ".join(str(each or "-") for each in one.versions), said(one.one), said(one.other))
            for one in found.divergences[:MAX_ROWS]
        ]  # fmt: skip
        left = len(found.divergences) - len(rows)
        told = f"<p>they share their history to version {found.shared}, then part</p>"
        parts += [told, html_table(("what", "where", "node", "versions", "one", "other"), rows, left_out=left)]
    states: list[tuple[object, ...]] = [
        ("stands", name, said(one), said(other)) for name, (one, other) in found.standing.items()
    ]
    states += [(one.op, one.pointer, said(one.was), said(one.now)) for one in by_field(found.patch)[:MAX_ROWS]]
    if states:
        left = len(found.patch[MAX_ROWS:])
        parts += ["<p>the states</p>", html_table(("what", "where", "one", "other"), states, left_out=left)]
    return html_block(title, *parts)


def said(value: Any) -> str:
    """A value as JSON, a dash where there is none."""
    return "-" if value is MISSING else json.dumps(thaw(value), ensure_ascii=False, default=repr)


def safely(show: Any, otherwise: object) -> str:
    """What `show` gives, or a plain text where the store is closed or the run is gone: a notebook's display must not raise."""
    try:
        return str(show())
    except EventflowError:
        return f"<code>{cell(otherwise)}</code>"


def _time(ns: int) -> str:
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
