"""The log in PostgreSQL: addresses, connections, tables, planning, leases, fail-over. The only folder that imports psycopg.

Names are loaded when they are asked for: an address can be read, and its password hidden, where psycopg is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventflow.log.postgres.examination import Examined, examine
    from eventflow.log.postgres.migrating import migrate, newest
    from eventflow.log.postgres.store import PostgresLog

__all__ = ["Examined", "PostgresLog", "examine", "migrate", "newest"]


def __getattr__(name: str) -> Any:
    if name in ("Examined", "examine"):
        from eventflow.log.postgres import examination as found  # noqa: PLC0415
    elif name in ("migrate", "newest"):
        from eventflow.log.postgres import migrating as found  # type: ignore[no-redef] # noqa: PLC0415
    elif name == "PostgresLog":
        from eventflow.log.postgres import store as found  # type: ignore[no-redef] # noqa: PLC0415
    else:
        raise AttributeError(name)
    return getattr(found, name)
