"""What an export of format 2 or 3 says beside events: encrypted values, what a list said of encrypted runs, origins of compacted ones.

Read from anybody: forms are checked here. What an origin is, the chain of its run tells from there on; what is told of an
encrypted run, and what its origin holds, only its key could prove.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from eventflow.codec import LOCKED_BLOB, LOCKED_ROOT, LockedBlob, decode
from eventflow.errors import Corrupt
from eventflow.log import STORE_RUN, Entry
from eventflow.proof import DIGEST_SIZE
from eventflow.state import STATUSES, WAITS

_VALUE = {"blob": bytes, "sealed": bytes}
_TOLD = {"encrypted", "tags", "subject", "status", "waiting"}
_ORIGIN = {"origin": int, "run": bytes, "root": bytes, "by": int, "act": bytes}
_ENTRY = (
    (str,),
    (str,),
    (int,),
    (str, type(None)),
    (bytes,),
    (int,),
)  # id, workflow, start, id of the parent, its key, its version
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
    Of an encrypted one, `run_id` and `entry` are what a list said of the run, which its root tells to who has its key.
    """

    at: int
    root: bytes
    by: int
    act: bytes
    run_id: str = ""
    entry: Entry | None = None

    @property
    def sealed(self) -> bool:
        """Whether its root is encrypted."""
        return self.root[:1] == LOCKED_ROOT

    def word(self, run_key: bytes) -> dict[str, Any]:
        """As an item of an export."""
        word = {"origin": self.at, "run": run_key, "root": self.root, "by": self.by, "act": self.act}
        if self.entry is None:
            return word
        one = self.entry
        return word | {"entry": [self.run_id, one.workflow, one.started, one.parent_id, one.parent_key, one.parent_at]}


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
    if form in (_ORIGIN, _ORIGIN | {"entry": list}):
        return value["run"], _origin(value)
    return None


def _origin(value: dict[str, Any]) -> Origin:
    """An origin as an export says it; that of an encrypted run, and no other, comes with its entry."""
    numbers = value["origin"], value["by"]
    bare = Origin(value["origin"], value["root"], value["by"], value["act"])
    if len(value["run"]) != len(STORE_RUN) or not all(0 < one <= 2 * _MAX_VERSION for one in numbers):
        raise _odd("an origin")
    if bare.sealed != ("entry" in value):
        raise _odd("an origin")
    if not bare.sealed:
        return bare
    fields = value["entry"]
    if len(fields) != len(_ENTRY) or not all(type(one) in kinds for one, kinds in zip(fields, _ENTRY, strict=True)):
        raise _odd("an origin")
    run_id, workflow, started, parent_id, parent_key, parent_at = fields
    fits = abs(started) <= _MAX_VERSION and len(parent_key) == len(STORE_RUN) and 0 <= parent_at < bare.at
    if not fits or (parent_id is None) != (not parent_at):
        raise _odd("an origin")
    entry = Entry(workflow, (), None, started, parent_id, parent_key, parent_at, bare.at)
    return replace(bare, run_id=run_id, entry=entry)


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
