"""A whole store verified: its own stream, every run, the lists runs are found by, inboxes, positions, deletions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventflow.codec import TOMBSTONE, Stored, decode, is_locked_message, read_events
from eventflow.errors import Corrupt, EventflowError
from eventflow.event import (
    CheckpointCreated,
    Recorded,
    RunCompacted,
    RunDeleted,
    RunHeld,
    RunPinned,
    RunReleased,
    RunUnpinned,
    StoreCreated,
    StoreEvent,
    StoreRestored,
)
from eventflow.log import STORE_RUN, Guard, GuardKind, Head, Listed, Log, Query, store_genesis
from eventflow.verification.one_run import verify_run
from eventflow.verification.report import STUMBLES, Report, said

_PAGE = 1_000  # events a look at the whole log takes at a time
_STREAM = "the store's own stream"
NO_DIGEST = bytes(32)  # of a deleted run's last event, where a restore has cut that off


def verify_store(log: Log) -> Iterator[Report]:
    """Verify the whole store; yields the growing report after each run, so that progress can be shown."""
    report = Report()
    acts = _Acts(log)
    try:
        report.events += acts.read()
    except (EventflowError, *STUMBLES) as error:
        report.add(_STREAM, acts.version + 1, said(error))
    yield report
    listed: list[Listed] = []
    try:
        listed = log.runs(Query())
    except (EventflowError, *STUMBLES) as error:
        report.add("the run list", 0, said(error))
    for one in listed:
        verify_run(log, one.head, report)
        _compare_acts(log, one.head, acts, report)
        yield report
    _compare_guards(log, acts, report)
    _compare_lists(log, listed, report)
    _compare_inboxes(log, report)
    _compare_positions(log, acts, report)
    yield report


class _Acts:
    """The store's own stream, operations by hand: what it says was made and deleted; `version` is the last that holds."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._before = store_genesis(log.store_id)
        self.version = 0
        self.labels: dict[tuple[bytes, int], set[str]] = {}  # of checkpoints, by run key and version
        self.deleted = 0  # events of deleted runs, at most
        self.keys: set[bytes] = set()  # of deleted runs
        self.guards: dict[tuple[bytes, GuardKind], Guard] = {}
        self.origins: dict[bytes, int] = {}  # of runs that were compacted
        self.ends: set[bytes] = set()  # digests of the last events of deleted runs
        self.restored = False  # whether the store was made from a backup, so that ends of deleted runs may be cut off
        self.incarnations: dict[str, int] = {}  # the last of each deleted run's id

    def read(self) -> int:
        """Read on from where the last look ended; returns how many events there were. Raises Corrupt."""
        began = self.version
        while True:
            while stored := self._log.read(STORE_RUN, self.version + 1, self.version + _PAGE):
                for recorded in read_events(stored, self._log.blobs, strict=True):
                    self._take(recorded)
            head = self._log.head_of(STORE_RUN)
            if head is None or not self.version:
                raise Corrupt("version 1", "is missing")
            if head.version <= self.version or not self._log.read(STORE_RUN, self.version + 1, self.version + 1):
                break
        if (head.run_key, head.incarnation, head.version, head.digest) != (STORE_RUN, 0, self.version, self._before):
            raise Corrupt("its head", f"says something else than the history, which ends at version {self.version}")
        return self.version - began

    def _take(self, recorded: Recorded) -> None:
        event, version = recorded.event, self.version + 1
        place = (recorded.run_key, recorded.incarnation, recorded.version, recorded.before)
        if place != (STORE_RUN, 0, version, self._before):
            raise Corrupt(f"version {version}", "does not follow the event before it: the chain is broken")
        if isinstance(event, StoreCreated) != (version == 1) or not isinstance(event, StoreEvent):
            raise Corrupt(f"version {version}", "is not what a store's own stream has there")
        if isinstance(event, StoreCreated) and event.store_id != self._log.store_id:
            raise Corrupt("version 1", "creates another store than this one")
        if isinstance(event, CheckpointCreated):
            self.labels.setdefault((event.run_key, event.at), {""}).add(event.label)
        if isinstance(event, RunPinned | RunHeld):
            kind: GuardKind = "pin" if isinstance(event, RunPinned) else "hold"
            guard = Guard(event.run_key, kind, recorded.time, event.actor, event.why)
            self.guards.setdefault((event.run_key, kind), guard)
        if isinstance(event, RunUnpinned | RunReleased):
            self.guards.pop((event.run_key, "pin" if isinstance(event, RunUnpinned) else "hold"), None)
        if isinstance(event, RunCompacted):
            self.origins[event.run_key] = event.at
            self.labels.setdefault((event.run_key, event.at), {""})
            self.deleted += event.at - event.since
        if isinstance(event, RunDeleted):
            self.deleted += event.head
            self.keys.add(event.run_key)
            if event.head_digest != NO_DIGEST or not self.restored:
                self.ends.add(event.head_digest)
            self.incarnations[event.run_id] = max(event.incarnation, self.incarnations.get(event.run_id, 0))
        self.restored = self.restored or isinstance(event, StoreRestored)
        self._before, self.version = recorded.digest, version


def _compare_acts(log: Log, head: Head, acts: _Acts, report: Report) -> None:
    """A checkpoint made by hand, and its label, are in the store's own stream."""
    try:
        marks = [mark for mark in log.checkpoints(head.run_key) if mark.label or "manual" in mark.kinds]
        if any(mark.label not in acts.labels.get((head.run_key, mark.version), ()) for mark in marks):
            report.events += acts.read()  # it may have been made meanwhile
    except (EventflowError, *STUMBLES):
        return  # told already
    for mark in marks:
        if mark.label not in acts.labels.get((head.run_key, mark.version), ()):
            report.add(head.run_id, mark.version, f"checkpoint {mark.id} says it was made by hand; nobody made it so")


def _compare_guards(log: Log, acts: _Acts, report: Report) -> None:
    """Runs that are pinned or held, and where runs begin that were compacted, are what the store's own stream says."""
    for look in range(2):  # somebody may have said something meanwhile
        try:
            report.events += acts.read() if look else 0
            held = {(one.run_key, one.kind): one for one in log.guards()}
            begun = {one.head.run_key: one.entry.origin for one in log.runs(Query()) if one.entry.origin}
        except (EventflowError, *STUMBLES) as error:
            report.add("the guards of runs", 0, said(error))
            return
        living = {key: at for key, at in acts.origins.items() if key not in acts.keys}
        if (held, begun) == (acts.guards, living):
            return
    if held != acts.guards:
        report.add("the guards of runs", 0, "are not those that were set by hand")
    if begun != living:
        report.add("the run list", 0, "lets a run begin where nobody compacted it to")


def _compare_lists(log: Log, listed: Iterable[Listed], report: Report) -> None:
    """Each run is found by its status, workflow, tags, parent and id."""
    found: dict[Query, set[bytes]] = {}

    def lacks(query: Query, key: bytes) -> bool:
        if query not in found:
            found[query] = {one.head.run_key for one in log.runs(query)}
        return key not in found[query]

    for one in listed:
        head, entry = log.head_of(one.head.run_key), one.entry
        if head is None:
            continue
        key = head.run_key
        queries = [Query(status=head.status), Query(workflow=entry.workflow), *(Query(tag=tag) for tag in entry.tags)]
        try:
            missing = [query for query in queries if lacks(query, key)]
            orphan = entry.parent_id is not None and key not in log.children(entry.parent_key)
        except (EventflowError, *STUMBLES) as error:
            report.add(head.run_id, head.version, said(error))
            continue
        if orphan or (missing and log.head_of(key) == head):  # a run that moves is between two lists
            report.add(head.run_id, head.version, "is not found by its status, workflow, tags or parent")


def _compare_inboxes(log: Log, report: Report) -> None:
    """Each message can be read and is for a run that is there."""
    for key in log.mail():
        for message, data in log.inbox(key):
            head, where = log.head_of(key), f"message {message}"
            try:
                if not is_locked_message(data) and not isinstance(decode(data, where, strict=True), dict):
                    raise Corrupt(where, "is not a message")
                if head is None and log.inbox(key):  # else its run was deleted meanwhile
                    raise Corrupt(where, "is for no run of this store")
            except EventflowError as error:
                report.add(head.run_id if head else key.hex(), head.version if head else 0, said(error))


def _compare_positions(log: Log, acts: _Acts, report: Report) -> None:
    """Positions are dense, every event is the one its run has at that version, every deletion is accounted for."""
    position = 0
    heads: dict[bytes, int] = {}
    gone: set[bytes] = set()
    ends = set(acts.ends)  # of runs that were deleted before this look began
    while page := log.feed(position, _PAGE):
        for stored in page:
            position += 1
            if stored.position != position:
                report.add("position", position, "is missing")
                return
            if stored.data[:1] == TOMBSTONE:
                gone.add(stored.data[1:])
            elif (problem := _misplaced(log, stored, heads)) and not _is_deleted(log, position):
                _stray(log, acts, stored, problem, report)
    report.deleted = len(gone)
    try:
        report.events += acts.read()  # a run may have been deleted meanwhile
    except (EventflowError, *STUMBLES):
        return  # told already
    if len(gone) > acts.deleted or not ends <= gone:
        report.add("position", position, "the events of deleted runs are not those that were deleted by hand")
    for run_id, incarnation in acts.incarnations.items():
        if log.next_incarnation(run_id) <= incarnation:
            report.add(run_id, 0, f"incarnation {incarnation} was deleted, and is not remembered")


def _misplaced(log: Log, stored: Stored, heads: dict[bytes, int]) -> str:
    """What is wrong with where an event stands, empty if nothing is."""
    try:
        event = decode(stored.data, f"the event at position {stored.position}")
        key, version = event[2], event[4]
        if version > heads.get(key, 0):
            head = log.head_of(key)
            heads[key] = head.version if head else 0
        found = log.read(key, version, version)
    except (EventflowError, *STUMBLES) as error:
        return said(error)
    if not found or found[0].position != stored.position:
        return "holds an event that its run does not know"
    return "holds an event of a run that is in no list" if version > heads[key] else ""


def _stray(log: Log, acts: _Acts, stored: Stored, problem: str, report: Report) -> None:
    """An event that no run has: of a deleted run it is still to be tidied up, of any other it should not be."""
    key = _key_of(stored)
    if key in acts.keys and log.head_of(key) is None:
        report.tidied += 1
    else:
        report.add("position", stored.position, problem)


def _key_of(stored: Stored) -> bytes:
    """The run key that an event says, empty if it says none."""
    try:
        key = decode(stored.data, "an event")[2]
    except (EventflowError, *STUMBLES):
        return b""
    return key if isinstance(key, bytes) else b""


def _is_deleted(log: Log, position: int) -> bool:
    now = log.feed(position - 1, 1)
    return bool(now) and now[0].data[:1] == TOMBSTONE
