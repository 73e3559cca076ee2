"""Exports read, from anybody: every byte is checked before anything of it is shown. A log that can only be read.

Nothing in a file is believed: items are cut strictly, decoded strictly, compared with their digests; the heads of runs are
what their events fold to. What it takes in memory and time is bounded by the size of the file.
Encrypted events are proved by the chain and can't be opened, for no export has a key; where such a run stands, its tags and
its subject are what the export says, and of what it was compacted to only whose it is can be told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eventflow.address import RUN_ID
from eventflow.checkpoint import Checkpoint
from eventflow.codec import TOMBSTONE, Lock, LockedBlob, Stored, decode, read_events, unpack_state
from eventflow.errors import (
    Corrupt,
    EventflowError,
    NoKey,
    NotFound,
    ProofFailed,
    SettingsError,
    StoreUnusable,
    WrittenByNewer,
)
from eventflow.event import Forked, Recorded, Rewound, RunDeleted, RunStarted, StoreCreated
from eventflow.exchange.beside import Origin, Told, read_beside
from eventflow.exchange.sequence import ARRAY, BYTES, FORMAT, KIND, MAP, SEALED_FORMAT, SEALED_ORIGIN_FORMAT, items
from eventflow.log import (
    NOBODY,
    STORE_NAME,
    STORE_RUN,
    STORE_VOUCH,
    Answer,
    Entry,
    Guard,
    Head,
    Listed,
    Query,
    Queued,
    Usage,
    Write,
    fits,
)
from eventflow.proof import DIGEST_SIZE, digest
from eventflow.recovery import recover
from eventflow.verification import Report, verify_run, verify_store
from eventflow.verification.report import STUMBLES, said

MAX_EXPORT = 1 << 30  # bytes; it is held in memory as a whole, several times over while it is checked
_PAGE = 1_000  # events decoded at a time
_HEADER = {"eventflow": str, "format": int, "store": bytes, "whole": bool, "run": str}
_FOOTER = {"blobs": int, "events": int, "sha256": bytes}


@dataclass(slots=True)
class _Run:
    """What a file holds of one run; versions at or below `above` are its parent's."""

    head: Head
    entry: Entry
    above: int
    positions: list[int] = field(default_factory=list)
    bends: list[int] = field(default_factory=list)


def read_export(path: Path, *, check: bool = True) -> ExportLog:
    """The log that a file holds, verified unless `check` is off. Raises ProofFailed, Corrupt, SettingsError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_EXPORT + 1)
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); give the file of an export") from None
    return export_from(data, check=check)


def export_from(data: bytes, *, check: bool = True) -> ExportLog:
    """The log that an export's bytes hold, verified unless `check` is off. Raises ProofFailed, Corrupt."""
    if len(data) > MAX_EXPORT:
        raise ProofFailed("the export", f"is larger than {MAX_EXPORT:,} bytes")
    try:
        log = ExportLog(data)
        report = verified(log) if check else Report()
    except (NotFound, *STUMBLES) as error:  # it speaks of what it does not hold, or is nothing that anybody writes
        raise Corrupt("the export", said(error)) from None
    if report.findings:
        raise ProofFailed("the export", f"does not hold: {report.findings[0]}")
    return log


def verified(log: ExportLog) -> Report:
    """What a verification of all that a file holds finds."""
    report = Report()
    if log.whole:
        for one in verify_store(log):
            report = one
    else:
        for listed in log.runs(Query()):
            verify_run(log, listed.head, report)
    return report


class ExportLog:
    """A log that is a file: `whole` if it is all of a store, `run` the id if one run was asked for."""

    durable = True
    readonly = True

    def __init__(self, data: bytes) -> None:
        self._events: list[bytes] = []
        self._blobs: dict[bytes, bytes] = {}
        self._runs: dict[bytes, _Run] = {}
        self._names: dict[str, bytes] = {}
        self._told: dict[bytes, Told] = {}  # of encrypted runs, by run key
        self._origins: dict[bytes, Origin] = {}  # of compacted runs, by run key
        self._acts: dict[
            int, bytes
        ] = {}  # events of the store's stream that vouch for them, where that is not exported
        self._gone: dict[str, int] = {}  # the last incarnation of deleted ids
        self._size, self.whole = len(data), False
        header = self._cut(data)
        self.store_id: bytes = header["store"]
        self.run: str = header["run"]
        self._index()
        for run in self._runs.values():
            self._settle(run)

    # --- reading the file

    def _cut(self, data: bytes) -> dict[str, Any]:
        """Take the items apart; returns the header."""
        header: dict[str, Any] | None = None
        footer: dict[str, Any] | None = None
        for at, end, major in items(data):
            if footer is not None:
                raise Corrupt("the export", f"goes on at byte {at} after its end")
            if header is None:
                header = _word(data[at:end], _HEADER)
                _check_header(header)
                self.whole = header["whole"]
            elif major == ARRAY:
                self._events.append(data[at:end])
            elif major == BYTES:
                blob = decode(data[at:end], "a value of the export", strict=True)
                self._blobs[digest(blob)] = blob
            elif major == MAP and (gone := _gone(data[at:end])):
                self._events.append(TOMBSTONE + gone)
            elif major == MAP and header["format"] != FORMAT and self._beside(data[at:end], header["format"]):
                continue
            else:
                footer = _word(data[at:end], _FOOTER)
                told = {
                    "blobs": len(self._blobs),
                    "events": len(self._events),
                    "sha256": hashlib.sha256(data[:at]).digest(),
                }
                if footer != told:
                    raise Corrupt("the export", "is not what its end says it is: something was changed or left out")
        if header is None or footer is None:
            raise Corrupt("the export", "has no beginning or no end: it was cut")
        return header

    def _beside(self, data: bytes, version: int) -> bool:
        """Take in what an export of format 2 or 3 says beside events; False if it is something else."""
        found = read_beside(data)
        match found:
            case (bytes(name), LockedBlob() as row):
                self._blobs[name] = row
            case (bytes(key), Told() as told):
                self._told[key] = told
            case (bytes(), Origin(sealed=True)) if version < SEALED_ORIGIN_FORMAT:
                return False
            case (bytes(key), Origin() as origin):
                self._origins[key] = origin
                if origin.by & STORE_VOUCH and not self.whole:
                    self._acts[origin.by ^ STORE_VOUCH] = origin.act
        return found is not None

    def _index(self) -> None:
        """Find each run's events; each must follow the one before."""
        for start in range(0, len(self._events), _PAGE):
            page = [Stored(number, data) for number, data in enumerate(self._events[start : start + _PAGE], start + 1)]
            kept = [one for one in page if one.data[:1] != TOMBSTONE]
            if len(kept) < len(page) and not self.whole:
                raise Corrupt("the export", "speaks of deleted events, and is not of a whole store")
            for recorded in read_events(kept, self.blobs, hidden=True):  # strictly when it is verified
                self._place(recorded)

    def _place(self, recorded: Recorded) -> None:
        key, version = recorded.run_key, recorded.version
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = self._begun(recorded)
        elif version != run.head.version + 1 or recorded.incarnation != run.head.incarnation:
            raise Corrupt(f"the event at position {recorded.position}", "does not follow the one before it in its run")
        event = recorded.event
        run.positions.append(recorded.position)
        if isinstance(event, Forked | Rewound) and version != run.entry.origin:
            run.bends.append(version)
        if isinstance(event, RunDeleted):
            self._gone[event.run_id] = max(event.incarnation, self._gone.get(event.run_id, 0))
        run.head = replace(
            run.head, version=version, digest=recorded.digest, epoch=recorded.epoch, updated=recorded.time
        )  # fmt: skip

    def _begun(self, recorded: Recorded) -> _Run:
        event, where = recorded.event, f"the event at position {recorded.position}"
        entry = Entry("", (), None, recorded.time)
        name, version = STORE_NAME, 1
        match event:
            case _ if (origin := self._origins.get(recorded.run_key)) is not None and recorded.run_key != STORE_RUN:
                version = origin.at
                name, entry = self._compacted(origin, recorded)
            case StoreCreated() if recorded.run_key == STORE_RUN and self.whole:
                pass
            case RunStarted() if recorded.run_key != STORE_RUN:
                name = event.run_id
                entry = Entry(event.workflow, tuple(event.tags), event.subject, recorded.time)
            case Forked() if recorded.run_key != STORE_RUN and event.parent_key in self._runs:
                name, version = event.run_id, event.at + 1
                entry = Entry("", (), None, recorded.time, event.parent_id, event.parent_key, event.at)
            case _:
                raise Corrupt(where, "begins a run and is not the beginning of one")
        if name != STORE_NAME and (not RUN_ID.fullmatch(name) or ".." in name):
            raise Corrupt(where, f"begins a run with an id that no run has ({name[:140]!r})")
        if recorded.version != version or self._names.setdefault(name, recorded.run_key) != recorded.run_key:
            raise Corrupt(where, "begins a run that is there already, or at another version than its first")
        head = Head(
            name, recorded.run_key, recorded.incarnation, version - 1, bytes(DIGEST_SIZE), 0, NOBODY, "running", "",
            recorded.time,
        )  # fmt: skip
        return _Run(head, entry, version - 1)

    def _compacted(self, origin: Origin, recorded: Recorded) -> tuple[str, Entry]:
        """The id and the entry of a run that begins with a snapshot, which is compared with all that speaks of it later.

        An encrypted run begins with one that is encrypted: one in the open could be from anybody, whatever the run goes on with.
        """
        if origin.sealed != bool(recorded.hidden):
            raise Corrupt(
                f"the event at position {recorded.position}",
                "is encrypted and its run's origin is not, or the other way round",
            )
        if origin.entry is not None:
            return origin.run_id, origin.entry
        state, _ = unpack_state(origin.root, self.blobs, f"the snapshot at version {origin.at}")
        if (state.run.run_key, state.version) != (recorded.run_key, recorded.version):
            raise Corrupt(f"the event at position {recorded.position}", "is not the one that its run was compacted to")
        run, parent = state.run, state.run.parent
        if parent is None:
            return run.run_id, Entry(run.workflow, tuple(run.tags), run.subject, run.started, origin=origin.at)
        return run.run_id, Entry(
            run.workflow, tuple(run.tags), run.subject, run.started, parent.run_id, parent.run_key, parent.at, origin.at
        )

    def _settle(self, run: _Run) -> None:
        """Where a run stands is what its events fold to, whatever anybody says."""
        if run.head.run_key == STORE_RUN:
            return
        try:
            state = recover(self, run.head, snapshots=False).state
        except NoKey:
            self._settle_outside(run)
            return
        run.head = replace(run.head, status=state.status, waiting_for=state.waiting_for)
        if run.entry.parent_id is not None:
            identity = state.run
            run.entry = replace(
                run.entry, workflow=identity.workflow, tags=tuple(identity.tags), subject=identity.subject
            )  # fmt: skip

    def _settle_outside(self, run: _Run) -> None:
        """The same of a run that is encrypted, by what the export says of it; its workflow lies open."""
        told = self._told.get(run.head.run_key)
        parent = self._runs[run.entry.parent_key] if run.entry.folds_through else None
        if told is None:
            raise Corrupt(f"run {run.head.run_id}", "is encrypted, and the export does not say where it stands")
        run.head = replace(run.head, status=told.status, waiting_for=told.waiting_for)
        workflow = run.entry.workflow if parent is None else parent.entry.workflow
        run.entry = replace(run.entry, workflow=workflow, tags=told.tags, subject=told.subject)

    def _unlock(self, key_id: bytes, run_key: bytes) -> Lock:  # noqa: ARG002 - as a log that has keys does
        run = self._runs.get(run_key)
        what = f"run {run.head.run_id}" if run is not None else "what is asked for"
        raise NoKey(what, "an export holds no keys", todo="read it in its own store, or take it into one with its keys")

    # --- what a log is asked

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:  # noqa: ARG002 - as a Log has it
        """An export is never written to."""
        raise StoreUnusable("an export can only be read; use the store it came from")

    def head(self, run_id: str) -> Head | None:
        """Where a run's history ends, by its whole id."""
        key = self._names.get(run_id)
        return None if key is None or key == STORE_RUN else self._runs[key].head

    def head_of(self, run_key: bytes) -> Head | None:
        """The same by run key."""
        return self._runs[run_key].head if run_key in self._runs else None

    def next_incarnation(self, run_id: str) -> int:
        """One more than that of the last run of this id."""
        head = self.head(run_id)
        return max(self._gone.get(run_id, 0), head.incarnation if head else 0) + 1

    def entry(self, run_key: bytes) -> Entry | None:
        """What a list shows of a run."""
        return self._runs[run_key].entry if run_key in self._runs and run_key != STORE_RUN else None

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Run ids that begin with a prefix, in order."""
        names = (one.head.run_id for key, one in self._runs.items() if key != STORE_RUN)
        return sorted(name for name in names if name.startswith(prefix))[:limit]

    def runs(self, query: Query) -> list[Listed]:
        """Runs, newest first."""
        every = [Listed(run.entry, run.head) for key, run in self._runs.items() if key != STORE_RUN]
        every.sort(key=lambda one: one.head.run_key, reverse=True)
        return [one for one in every if fits(one, query)][: query.limit]

    def children(self, run_key: bytes) -> list[bytes]:
        """The keys of runs that were forked from a run."""
        return [key for key, run in self._runs.items() if run.entry.parent_key == run_key != NOBODY]

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run from version `first` to `last`, both included."""
        run = self._runs.get(run_key)
        if run is None:
            acts = self._acts if run_key == STORE_RUN else {}
            return [Stored(0, data) for version, data in sorted(acts.items()) if first <= version <= last]
        places = run.positions[max(first - run.above - 1, 0) : max(last - run.above, 0)]
        return [Stored(place, self._events[place - 1], self._unlock) for place in places]

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events in the order of the file."""
        page = self._events[after : after + limit]
        return [Stored(after + number, data, self._unlock) for number, data in enumerate(page, 1)]

    def position(self) -> int:
        """How many events there are."""
        return len(self._events)

    def bends(self, run_key: bytes) -> list[int]:
        """Versions of a run at which its line bends."""
        return list(self._runs[run_key].bends) if run_key in self._runs else []

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Values by digest. Raises Corrupt if one is missing."""
        found = {name: self._blobs.get(name) for name in names}
        missing = next((name for name, data in found.items() if data is None), None)
        if missing is not None:
            raise Corrupt(f"blob {missing.hex()[:12]}", "is missing")
        return {name: data for name, data in found.items() if data is not None}

    def blob_names(self, after: bytes, limit: int) -> list[bytes]:
        """Digests of values, rising, from the first one after `after` on."""
        return sorted(name for name in self._blobs if name > after)[:limit]

    def guards(self) -> list[Guard]:
        """What is pinned or held in a store is not in an export."""
        return []

    def snapshots(self, run_key: bytes, upto: int, *, limit: int | None = None) -> list[tuple[int, int]]:  # noqa: ARG002
        """A cache is not exported; what a run was compacted to is none."""
        origin = self._origins.get(run_key)
        return [] if origin is None or origin.at > upto else [(origin.at, origin.by)]

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """The same."""
        origin = self._origins.get(run_key)
        return None if origin is None or origin.at != version else origin.root

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:  # noqa: ARG002
        """The same."""
        return []

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:  # noqa: ARG002
        """What has not become an event is not exported."""
        return []

    def queued(self, queue: str, limit: int | None = None) -> list[Queued]:  # noqa: ARG002
        """Nobody takes a run out of a file."""
        return []

    def mail(self) -> list[bytes]:
        """The same."""
        return []

    def owner_gone(self, owner: bytes) -> bool:  # noqa: ARG002
        """Nobody drives what is in a file."""
        return True

    def owner_text(self, owner: bytes) -> str:
        """An owner for people."""
        return f"owner {owner.hex()}"

    def holds(self, owner: bytes) -> bool:  # noqa: ARG002
        """The same."""
        return False

    def new_owner(self, owner: bytes) -> Callable[[], None]:  # noqa: ARG002
        """Nobody can drive what is in a file."""
        raise StoreUnusable("an export can only be read; use the store it came from")

    def change_mark(self) -> int:
        """It never changes."""
        return 0

    def usage(self) -> Usage:
        """What the file holds."""
        rows = {"events": len(self._events), "runs": len(self._runs), "blobs": len(self._blobs)}
        return Usage(rows, {}, self._size, 0, len(self._events))

    def close(self) -> None:
        """Nothing is open."""


def _word(data: bytes, form: dict[str, type]) -> dict[str, Any]:
    """A map of the export with exactly these fields. Raises Corrupt."""
    value = decode(data, "the export", strict=True)
    if not isinstance(value, dict) or {name: type(item) for name, item in value.items()} != form:
        raise Corrupt("the export", "has something in it that is no part of one")
    return value


def _gone(data: bytes) -> bytes:
    """The digest of an event that was deleted, empty if it speaks of something else."""
    value = decode(data, "the export", strict=True)
    found = value.get("gone") if isinstance(value, dict) and len(value) == 1 else None
    return found if isinstance(found, bytes) and len(found) == DIGEST_SIZE else b""


def _check_header(header: dict[str, Any]) -> None:
    if header["eventflow"] != KIND or len(header["store"]) != len(STORE_RUN):
        raise Corrupt("the export", "does not begin as one")
    if header["format"] not in (FORMAT, SEALED_FORMAT, SEALED_ORIGIN_FORMAT):
        raise WrittenByNewer("the export", f"export format {header['format']}")
