"""The log in PostgreSQL: addresses, connections, tables, planning, leases, fail-over. The only folder that imports psycopg."""

from eventflow.log.postgres.address import Address, parse
from eventflow.log.postgres.examination import Examined, examine
from eventflow.log.postgres.migrating import migrate, newest
from eventflow.log.postgres.store import PostgresLog

__all__ = ["Address", "Examined", "PostgresLog", "examine", "migrate", "newest", "parse"]
