"""What an export of format 2 says beside events: encrypted values, what a list said of encrypted runs, origins of compacted ones.

Read from anybody: forms are checked here. What an origin is, the chain of its run tells from there on; what is told of an
encrypted run, only its key could prove.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventflow.codec import LOCKED_BLOB, LockedBlob, decode
from eventflow.errors import Corrupt
from eventflow.log import STORE_RUN
from eventflow.proof import DIGEST_SIZE
from eventflow.state import STATUSES, WAITS

_VALUE = {"blob": bytes, "sealed": bytes}
_TOLD = {"encrypted", "tags", "subject", "status", "waiting"}
_ORIGIN = {"origin": int, "run": bytes, "root": bytes, "by": int, "act": bytes}
_MAX_VERSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Told:
    """What a store's list says of an encrypted run, and only its key could prove."""

    tags: tuple[str, ...]
    subject: str | None
    status: Any
    waiting_for: Any

    def word(self, run_key: bytes) -> dict[str, Any]:
        """As an item of an export."""
        return {
            "encrypted": run_key, "tags": list(self.tags), "subject": self.subject, "status": self.status,
            "waiting": self.waiting_for,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run was compacted to: the version, its snapshot's stored root, and the event that vouches for that.

    `by` is a version of the run's own, or of the store's stream with STORE_VOUCH; then `act` is that event as it is stored.
    """

    at: int
    root: bytes
    by: int
    act: bytes

    def word(self, run_key: bytes) -> dict[str, Any]:
        """As an item of an export."""
        return {"origin": self.at, "run": run_key, "root": self.root, "by": self.by, "act": self.act}


def read_beside(data: bytes) -> tuple[bytes, LockedBlob | Told | Origin] | None:
    """A value with its name, or what is said of a run with its key; None if the item is none of these. Raises Corrupt."""
    value = decode(data, "the export", strict=True)
    if not isinstance(value, dict):
        return None
    form = {name: type(item) for name, item in value.items()}
    if form == _VALUE:
        name, row = value["blob"], value["sealed"]
        if len(name) != DIGEST_SIZE or row[:1] != LOCKED_BLOB:
            raise _odd("an encrypted value")
        return name, LockedBlob(row[1:])
    if form.keys() == _TOLD:
        return _told(value)
    if form == _ORIGIN:
        key, numbers = value["run"], (value["origin"], value["by"])
        if len(key) != len(STORE_RUN) or not all(0 < one <= 2 * _MAX_VERSION for one in numbers):
            raise _odd("an origin")
        return key, Origin(value["origin"], value["root"], value["by"], value["act"])
    return None


def _told(value: dict[str, Any]) -> tuple[bytes, Told]:
    key, tags, subject, status, waiting = (
        value[name] for name in ("encrypted", "tags", "subject", "status", "waiting")
    )
    plain = type(tags) is list and all(type(tag) is str for tag in tags) and type(subject) in (str, type(None))
    if type(key) is not bytes or not plain or status not in STATUSES or waiting not in WAITS:
        raise _odd("a word about an encrypted run")
    return key, Told(tuple(tags), subject, status, waiting)


def _odd(what: str) -> Corrupt:
    return Corrupt("the export", f"has {what} that eventflow does not write")
