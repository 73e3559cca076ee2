"""Writing without a function of the server: the same statements, one by one, for what only speaks PostgreSQL's SQL.

Meant for CockroachDB and YugabyteDB, on which it has not been tested. Turned on by `?dialect=portable`.
"""

from __future__ import annotations

from typing import Any

import psycopg


def write_portably(connection: psycopg.Connection, about: tuple[Any, ...], columns: dict[str, Any]) -> tuple[int, int]:
    """Write a batch's columns."""
    raise NotImplementedError
