"""What a `postgresql://` address says: to libpq, and to us. Nothing is connected to here, and no password is shown.

Everything that libpq knows may stand in it (several hosts, sslmode, target_session_attrs, …). Three words are ours and
are taken out before libpq sees the rest: `schema`, `lease` and `dialect`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

from eventflow.errors import SettingsError

SCHEMA = "eventflow"
LEASE = 30.0  # seconds an owner is taken for alive after its last heartbeat: three of these may fail before it is not
MIN_LEASE, MAX_LEASE = 0.5, 86_400.0  # seconds: less than a slow commit fences the living; more than a day helps nobody
_OWN = ("schema", "lease", "dialect")
_SECRET = ("password", "sslpassword", "passfile")
_SHOWN = ("host", "port", "dbname", "user")  # what of libpq's words says where a store is
_ADDRESS = re.compile(r"(postgres(?:ql)?://)(?:([^@/?]*)@)?([^/?]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a store is. `conninfo` may hold a password, `text` never does; `lease` is in seconds.

    `portable` says that the server is no PostgreSQL and only speaks its SQL.
    """

    conninfo: str
    text: str
    secrets: tuple[str, ...]
    schema: str = SCHEMA
    lease: float = LEASE
    portable: bool = False

    def scrubbed(self, message: object) -> str:
        """Somebody else's message on one line, without the password that it may repeat."""
        text = " ".join(str(message).split())
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def parse(url: str) -> Address:
    """An address from its text. Raises SettingsError, which does not repeat it."""
    found = _ADDRESS.fullmatch(url) if url == url.encode("utf-8", "replace").decode() else None
    if found is None:
        raise SettingsError("the store is no postgresql:// address; write postgresql://USER@HOST/DATABASE")
    scheme, login, hosts, path, query = (part or "" for part in found.groups())
    words = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in words if name in _OWN}
    rest = [(name, value) for name, value in words if name not in _OWN]
    user, _, password = login.partition(":")
    kept = urlencode(rest, quote_via=quote)
    conninfo = f"{scheme}{login}{'@' if login else ''}{hosts}{path}{'?' if kept else ''}{kept}"
    shown = [(name, value) for name, value in rest if name in _SHOWN]
    shown += [("schema", own["schema"])] if "schema" in own else []
    text = f"{scheme}{user}{'@' if user else ''}{hosts}{path}{'?' if shown else ''}{urlencode(shown, safe='/')}"
    secrets = {password, unquote(password), *(value for name, value in rest if name in _SECRET)} - {""}
    secrets |= {quote(secret, safe="") for secret in secrets}
    return Address(
        conninfo, text, tuple(sorted(secrets, key=len, reverse=True)), _schema(own.get("schema", SCHEMA)),
        _lease(own.get("lease")), _dialect(own.get("dialect", "postgresql")),
    )  # fmt: skip


def _schema(name: str) -> str:
    if not _SCHEMA.fullmatch(name) or name.startswith("pg_"):
        raise SettingsError(
            f"schema={name!r} will not do; use lower-case letters, digits and _, not beginning with pg_"
        )
    return name


def _lease(text: str | None) -> float:
    try:
        lease = LEASE if text is None else float(text.removesuffix("s"))
    except ValueError:
        lease = 0.0
    if not MIN_LEASE <= lease <= MAX_LEASE:
        raise SettingsError(f"lease={text!r} will not do; give seconds, from {MIN_LEASE} to {MAX_LEASE:.0f}")
    return lease


def _dialect(name: str) -> bool:
    if name not in ("postgresql", "portable"):
        raise SettingsError(f"dialect={name!r} is not known; leave it out, or write dialect=portable")
    return name == "portable"
