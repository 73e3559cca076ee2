"""How values from a history are printed: as text for people, as JSON for programs. Prints nothing itself."""

from __future__ import annotations

import json
from typing import Any

from eventflow.cli.shell import cut, plain_json
from eventflow.shapes import hide_secrets
from replay.path import MISSING

MAX_CELL = 120  # characters of a value in a row: a line or two of a terminal
_as_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: a table may have many rows


def value_text(value: Any, limit: int = MAX_CELL) -> str:
    """A value as JSON in a table, cut where it is long; a dash where there is none."""
    if value is MISSING:
        return "-"
    return cut(hide_secrets(_as_json(plain_json(value))), limit, value)


def value_document(value: Any) -> dict[str, Any]:
    """A value as a part of a JSON document: no `value` at all where there is none, since null is one."""
    return {} if value is MISSING else {"value": value}
