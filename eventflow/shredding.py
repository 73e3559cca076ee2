"""What is done with the keys of a store by hand: begun, rotated, destroyed; each leaves an event of the store's own stream.

Each can be killed at any moment and repeated. Nothing of a run's history is touched, so every proof still holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from eventflow.cipher import Kms
from eventflow.cipher.keyring import TAG_SIZE, Wrapped, tag_of
from eventflow.clock import Clock
from eventflow.codec import pack, read_events
from eventflow.errors import KeyNotFound, RunOwned, SettingsError
from eventflow.event import KeysRotated, RunDeleted, SubjectReadmitted, SubjectShredded
from eventflow.forking import who, write_one
from eventflow.log import STORE_RUN, Act, Listed, LockedLog, Log, Query
from eventflow.plain import FrozenList

Owner = Literal["subject", "run"]
_PAGE = 1_000  # store events read in one go


@dataclass(frozen=True, slots=True)
class Shredding:
    """A key that is to be destroyed, and the runs whose values go with it, forks and parts of other runs among them."""

    key_id: bytes
    kind: str
    name: str
    runs: tuple[str, ...]


def locked_log(log: Log) -> LockedLog:
    """The log as one that has keys. Raises SettingsError for a store that is not encrypted."""
    if isinstance(log, LockedLog):
        return log
    raise SettingsError("this store is not encrypted; `eventflow store keys init FILE` has its new runs be")


def runs_under(log: LockedLog, key_id: bytes) -> list[Listed]:
    """The runs that are encrypted with a key, oldest first."""
    found = [one for one in log.inner.runs(Query()) if log.key_id(one.head.run_key) == key_id]
    return found[::-1]


def to_shred(log: LockedLog, name: str, *, kind: Owner | None = None) -> Shredding:
    """What destroying the key of a subject, or of a run, would take with it.

    Raises KeyNotFound, SettingsError if a run has no key of its own, RunOwned while a process drives one of the runs.
    """
    key = _key_of(log, name, kind)
    runs = runs_under(log, key.key.key_id)
    for one in runs:
        if not log.inner.owner_gone(one.head.owner):
            raise RunOwned(one.head.run_id, log.inner.owner_text(one.head.owner))
    return Shredding(key.key.key_id, key.key.kind, key.key.name, tuple(one.head.run_id for one in runs))


def _key_of(log: LockedLog, name: str, kind: Owner | None) -> Wrapped:
    fitting = [one for one in log.keys.listed() if one.key.name == name and one.key.kind != "store"]
    chosen = [one for one in fitting if kind in (None, one.key.kind)]
    if len(chosen) > 1:
        raise SettingsError(
            f"{name!r} is a subject and a run, or a run whose id was used twice; say --subject or --run"
        )
    if chosen:
        return chosen[0]
    head = log.inner.head(name)
    key_id = log.key_id(head.run_key) if head is not None else b""
    shared = next((one for one in log.keys.listed() if one.key.key_id == key_id), None) if key_id else None
    if shared is not None:
        raise SettingsError(
            f"run {name} has the key of {shared.key.kind} {shared.key.name}; "
            f"shred that, and all that is under it: {', '.join(one.head.run_id for one in runs_under(log, key_id))}"
        )
    raise KeyNotFound(name)


def of_deleted_runs(log: LockedLog) -> list[Shredding]:
    """The keys that runs had of their own which were deleted: nothing in the store is under them, a backup's copy may be.

    A key that was made for a run which is about to begin is none of them: the store's own stream says who was deleted.
    """
    deleted: set[bytes] = set()
    version = 0
    while page := log.inner.read(STORE_RUN, version + 1, version + _PAGE):
        events = (recorded.event for recorded in read_events(page, log.inner.blobs))
        deleted |= {event.run_key for event in events if isinstance(event, RunDeleted)}
        version += len(page)
    used = {log.key_id(one.head.run_key) for one in log.inner.runs(Query())} if deleted else set()
    keys = (one.key for one in log.keys.listed())
    return [
        Shredding(key.key_id, key.kind, key.name, ())
        for key in keys
        if key.kind == "run" and key.run_key in deleted and key.key_id not in used
    ]


def shred(log: LockedLog, clock: Clock, what: Shredding, *, actor: str = "", why: str = "") -> None:
    """Destroy a key: taken out of use, overwritten, told in an event, removed. Nobody can take that back.

    If the process ends in the middle, `finish` does the rest.
    """
    log.keys.destroy(what.key_id)
    event = SubjectShredded(what.key_id, what.kind, what.name, FrozenList(what.runs), actor or who(), why)
    write_one(log.inner, Act(pack(event), clock.now()))
    log.keys.forget(what.key_id)


def readmit(log: LockedLog, clock: Clock, subject: str, *, actor: str = "", why: str = "") -> None:
    """Let runs of a subject that was shredded be started again, under a new key; what is gone stays so.

    Raises SettingsError if it was not shredded.
    """
    log.look_for_shredded()
    if subject not in log.gone:
        raise SettingsError(f"subject {subject!r} was not shredded; nothing keeps its runs from being started")
    write_one(log.inner, Act(pack(SubjectReadmitted(subject, actor or who(), why)), clock.now()))


def finish(log: LockedLog, clock: Clock, *, actor: str = "", why: str = "") -> list[str]:
    """Finish what was cut off: destroy keys whose destruction was begun, and tell of it. Returns the runs they took."""
    found: list[str] = []
    shelf = log.keys.shelf
    for name in shelf.half_destroyed():
        shelf.destroy(name)
        under = [one for one in log.inner.runs(Query()) if log.key_id(one.head.run_key)[:TAG_SIZE].hex() == name]
        runs = tuple(one.head.run_id for one in under)
        for key_id in {log.key_id(one.head.run_key) for one in under}:
            if not log.is_shredded(key_id):
                subjects = {one.entry.subject for one in under if one.entry.subject is not None}
                subject = next((one for one in subjects if tag_of("subject", one).hex() == name), None)
                kind, owner = ("subject", subject) if subject is not None else ("run", runs[0])
                event = SubjectShredded(key_id, kind, owner, FrozenList(runs), actor or who(), why)
                write_one(log.inner, Act(pack(event), clock.now()))
        shelf.forget(name)
        found.extend(runs)
    return found


def rotate(log: LockedLog, clock: Clock, fresh: Kms, *, actor: str = "", why: str = "") -> Iterator[int]:
    """Wrap every key with another master key; yields how many are done. The event comes before the store's own key goes over.

    Values are not touched. Raises WrongKey if a key is wrapped with a master key that is not on the ring.
    """
    listed = sum(1 for _ in log.keys.listed())
    count = 0
    for count in log.keys.rotate(fresh):
        if count == listed - 1:
            write_one(log.inner, Act(pack(KeysRotated(fresh.id, listed, actor or who(), why)), clock.now()))
        yield count
    if listed == 1 and count:
        write_one(log.inner, Act(pack(KeysRotated(fresh.id, listed, actor or who(), why)), clock.now()))
