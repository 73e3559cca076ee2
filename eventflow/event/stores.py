"""What can happen to a store: operations by hand, each an event of the store's own stream."""

from __future__ import annotations

from dataclasses import dataclass

from eventflow.plain import FrozenList


@dataclass(frozen=True, slots=True)
class StoreCreated:
    """A store came to be; always version 1 of the store's own stream."""

    store_id: bytes
    actor: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointCreated:
    """Somebody asked for a checkpoint of a run."""

    run_id: str
    run_key: bytes
    at: int
    label: str = ""
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointsDeleted:
    """Somebody deleted checkpoints of a run; its history is untouched."""

    run_id: str
    run_key: bytes
    versions: FrozenList
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunDeleted:
    """Somebody deleted a run; the digests of its events stay."""

    run_id: str
    run_key: bytes
    incarnation: int
    head: int
    head_digest: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunPinned:
    """Somebody said that a run stays, whatever the rules of cleaning up say."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunCompacted:
    """A run's history begins at version `at` from now on, with the snapshot this event vouches for.

    `since` is the first version that went; the digests of all that went stay.
    """

    run_id: str
    run_key: bytes
    incarnation: int
    since: int
    at: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunUnpinned:
    """Somebody took a pin off."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunHeld:
    """Somebody put a legal hold on a run: nobody removes anything of it until it is released."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunReleased:
    """Somebody lifted a legal hold."""

    run_id: str
    run_key: bytes
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class BackupMade:
    """The store was copied up to position `upto`; `number` is 1 for a whole copy, that of the increment for what came since.

    `head_digest` is the digest of the event at that position; `keys` says whether the copy holds the keys too.
    """

    number: int
    upto: int
    head_digest: bytes
    keys: bool = False
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class StoreRestored:
    """This store was made from a backup, as it was at position `upto`; the store it is a copy of may live on.

    `generation` counts the restores that led here and is in the high bits of every run's epoch from then on; `number` is
    that of the backup.
    """

    generation: int
    upto: int
    number: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class RunsImported:
    """Runs of another store were taken in, their events as they were stored there."""

    store_id: bytes
    runs: FrozenList
    events: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class StoreRepaired:
    """This store was made from what proved itself in a damaged one; `lost` says what did not, and why."""

    store_id: bytes
    events: int
    lost: FrozenList
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class KeysRotated:
    """Every key of the store was wrapped with another master key; `count` says how many, `master` by which."""

    master: str
    count: int
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class SubjectShredded:
    """A key was destroyed for good, and with it the values of all runs under it; `kind` is subject or run, `name` whose."""

    key_id: bytes
    kind: str
    name: str
    runs: FrozenList
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class EncryptionBegan:
    """Runs that begin from here on are encrypted; `master` is the id of the master key, no secret."""

    master: str
    actor: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class SubjectReadmitted:
    """Runs of a subject that was shredded may be started again, under a new key; `name` is the subject."""

    name: str
    actor: str = ""
    why: str = ""


StoreEvent = (
    StoreCreated
    | CheckpointCreated
    | CheckpointsDeleted
    | RunDeleted
    | RunPinned
    | RunCompacted
    | RunUnpinned
    | RunHeld
    | RunReleased
    | BackupMade
    | StoreRestored
    | RunsImported
    | StoreRepaired
    | KeysRotated
    | SubjectShredded
    | EncryptionBegan
    | SubjectReadmitted
)
