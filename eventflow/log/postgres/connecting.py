"""Connections to the server: how one is made and set up, what is refused, and which server it turned out to be.

A session commits with `synchronous_commit = on` or stronger, whatever role or database say. A server that does not sync
(`fsync = off`) is refused, and so is one on an older timeline than this process has seen: it is a primary of the past.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventflow.errors import SettingsError, StoreUnreachable, StoreUnusable
from eventflow.log.postgres.address import Address
from eventflow.log.postgres.failures import translated
from eventflow.log.postgres.wire import register

OLDEST = 150_000  # PostgreSQL 15: what is older gets no fixes soon, and is not tested
LOCK_TIMEOUT = 30  # seconds; a batch holds the lock for one commit, so this is a stuck session
IDLE_TIMEOUT = 10  # seconds between two statements of one transaction: a stopped process must not stop all others
# What libpq is told unless the address says otherwise: a dead peer is noticed within half a minute.
_DEFAULTS = {
    "connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
    "tcp_user_timeout": "30000", "application_name": "eventflow",
}  # fmt: skip
LOOK_TIMEOUT = 2  # seconds for a look at one of several hosts: libpq knows no shorter one, and one of them has answered
_STRONG = ("on", "remote_apply")
_PLACES = ("host", "hostaddr", "port")  # libpq's words that may be lists
_SETTINGS = """set search_path to {schema}; set synchronous_commit to {commit}; set lock_timeout to '{lock}s';
    set idle_in_transaction_session_timeout to '{idle}s'; set statement_timeout to 0; set client_min_messages to warning;
    set default_transaction_isolation to 'read committed'; set default_transaction_read_only to {readonly}"""
_ASKED = """select current_setting('server_version_num')::int, current_setting('fsync'),
    current_setting('synchronous_commit'), pg_is_in_recovery(), (select system_identifier::text from pg_control_system()),
    case when pg_is_in_recovery() then 0
        else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end"""

# What psycopg warns of, a connection that was lost, is told by our errors; without this it would stand on stderr as well.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Server:
    """Which server answered: its version as a number, its settings, its identity and timeline (0 on a standby)."""

    version: int = 0
    fsync: str = "on"
    synchronous_commit: str = "on"
    standby: bool = False
    system_id: str = ""
    timeline: int = 0

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return f"{self.version // 10_000}.{self.version % 10_000}"


def connect(address: Address, *, readonly: bool = False) -> tuple[psycopg.Connection, Server]:
    """A connection that is set up, in autocommit, and its server. Raises StoreUnusable."""
    connection = reach(address)
    try:
        server = _ask(connection, address)
        commit = server.synchronous_commit if server.synchronous_commit in _STRONG else "on"
        settings = _SETTINGS.format(
            schema=address.schema,
            commit=commit,
            lock=LOCK_TIMEOUT,
            idle=IDLE_TIMEOUT,
            readonly="on" if readonly else "off",
        )
        _run(connection, settings if not address.portable else _portable(address, readonly=readonly))
        _refuse(address, server, readonly=readonly)
    except psycopg.Error as error:
        connection.close()
        raise translated(address, error) from None
    except BaseException:
        connection.close()
        raise
    return connection, server


def reach(address: Address) -> psycopg.Connection:
    """A bare connection. Raises StoreUnusable, SettingsError for an address that libpq does not understand."""
    words: dict[str, Any] = {**_DEFAULTS, **_words(address), "client_encoding": "utf8"}
    try:
        connection = psycopg.connect(autocommit=True, **words)
    except psycopg.Error as error:
        raise translated(address, error) from None
    register(connection)
    return connection


def of_writer(address: Address) -> Address:
    """The address for somebody who writes, and so must not read elsewhere: of several hosts one that takes writes.

    Raises SettingsError for an address that libpq does not understand.
    """
    words = _words(address)
    if len(_hosts(words)) < 2:
        return address
    return replace(address, conninfo=make_conninfo("", **{"target_session_attrs": "read-write", **words}))


def apart(address: Address) -> list[Address]:
    """The addresses of several hosts one by one, for a look at each; none where an address names but one.

    Raises SettingsError for an address that libpq does not understand.
    """
    words = _words(address)
    words.setdefault("connect_timeout", str(LOOK_TIMEOUT))
    hosts = _hosts(words)
    if len(hosts) < 2:
        return []
    return [replace(address, conninfo=make_conninfo("", **{**words, **host})) for host in hosts]


def _hosts(words: dict[str, Any]) -> list[dict[str, str]]:
    """The words that name each host; a single port is that of all."""
    lists = {name: str(words[name]).split(",") for name in _PLACES if words.get(name)}
    count = max((len(values) for name, values in lists.items() if name != "port"), default=1)
    return [
        {name: values[0] if len(values) == 1 else values[number] for name, values in lists.items()}
        for number in range(count)
        if all(len(values) in (1, count) for values in lists.values())  # else libpq will say so
    ]


def _words(address: Address) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(address.conninfo))
    except psycopg.Error as error:
        raise SettingsError(f"the store's address can't be read ({address.scrubbed(error)}); mend it") from None


def _run(connection: psycopg.Connection, sql: str) -> None:
    connection.execute(sql.encode())


def _portable(address: Address, *, readonly: bool) -> str:
    return f"set search_path to {address.schema}; set default_transaction_read_only to {'on' if readonly else 'off'}"


def _ask(connection: psycopg.Connection, address: Address) -> Server:
    if address.portable:
        return Server()
    row = connection.execute(_ASKED.encode()).fetchone()
    return Server() if row is None else Server(*row)


def _refuse(address: Address, server: Server, *, readonly: bool) -> None:
    at = address.text
    if address.portable:
        return
    if server.version < OLDEST:
        raise StoreUnusable(f"{at} is PostgreSQL {server.version_text}; version 15 or newer is needed")
    if server.fsync != "on":
        raise StoreUnusable(f"{at} has fsync = {server.fsync}: what it acknowledges may be lost; turn it on")
    if server.standby and not readonly:
        raise StoreUnreachable(f"{at} only reads (a standby?); give the address of the primary")
