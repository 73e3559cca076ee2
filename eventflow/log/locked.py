"""A log whose values are encrypted: `LockedLog`, around any other.

What is written passes through here once, above every backend: bodies, roots of snapshots, blobs, messages and the digests
that would confirm a guess are sealed, and nothing else of a write is changed. So no caller can forget to encrypt, and a
backend sees only bytes. What is read comes back opened, or with what would open it, or with the reason why it can't be.
New runs are encrypted; a run that began in the open goes on in the open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from eventflow.checkpoint import Checkpoint
from eventflow.cipher.keyring import Keys
from eventflow.cipher.locks import DataKey, RunLock
from eventflow.codec import (
    FLAG_ENCRYPTED,
    KEY,
    LOCKED_ROOT,
    Blob,
    LockedBlob,
    OpenedRoot,
    Packed,
    PackedState,
    Spot,
    Stored,
    decode,
    is_locked_message,
    key_id_of,
    read_events,
)
from eventflow.errors import Corrupt, EventflowError, NoKey, Shredded, SubjectGone
from eventflow.event import SubjectReadmitted, SubjectShredded
from eventflow.log.protocol import (
    STORE_RUN,
    Act,
    Answer,
    Append,
    Bring,
    Log,
    Post,
    Transaction,
    Upkeep,
    Write,
)

_CALLER = "caller_key"  # of the first event's header: the run that started this one as a part of itself
KNOWN_RUNS = 100_000  # runs of which it is remembered whether they are encrypted, and with which key: some 20 MB
_PAGE = 1_000  # store events read in one go


class LockedLog:
    """A log around another: it encrypts what is written and opens what is read, with the keys it is given.

    Without a master key it can be listed and verified; what would need one raises NoKey, or Shredded.
    """

    def __init__(self, log: Log, keys: Keys, *, owns: bool) -> None:
        self.inner, self.keys, self._owns = log, keys, owns
        self._of: dict[bytes, bytes] = {}  # run key -> key id, empty for a run in the open
        self._shredded: set[bytes] = set()
        self.gone: dict[
            str, bytes
        ] = {}  # subjects that were shredded and have not been let in again -> the key they had
        self._seen = 0  # version of the store's own stream up to which it was looked for shredded keys

    def __getattr__(self, name: str) -> Any:
        if name in ("inner", "keys"):  # before __init__ there is nothing to ask
            raise AttributeError(name)
        return getattr(self.inner, name)

    def close(self) -> None:
        """Let go of the log, if nobody else holds it."""
        if self._owns:
            self.inner.close()

    # --- which key

    def unlock(self, key_id: bytes, run_key: bytes) -> RunLock:
        """A key bound to a run. Raises NoKey, WrongKey or Shredded, naming the run."""
        try:
            return self.keys.lock(key_id, run_key, "")
        except NoKey:
            head = self.inner.head_of(run_key)
            what = f"run {head.run_id}" if head is not None and run_key != STORE_RUN else "what is asked for"
            if self.is_shredded(key_id):
                raise Shredded(what) from None
        return self.keys.lock(key_id, run_key, what)

    def is_shredded(self, key_id: bytes) -> bool:
        """Whether the store says that a key was destroyed on purpose."""
        self.look_for_shredded()
        return key_id in self._shredded

    def look_for_shredded(self) -> None:
        """Read what the store's own stream says since the last look: which keys and subjects are gone."""
        head = self.inner.head_of(STORE_RUN)
        while head is not None and self._seen < head.version:
            page = self.inner.read(STORE_RUN, self._seen + 1, self._seen + _PAGE)
            for recorded in read_events(page, self.inner.blobs):
                event = recorded.event
                if isinstance(event, SubjectShredded):
                    self._shredded.add(event.key_id)
                    if event.kind == "subject":
                        self.gone[event.name] = event.key_id
                elif isinstance(event, SubjectReadmitted):
                    self.gone.pop(event.name, None)
            self._seen += len(page)
            if not page:
                break

    def key_id(self, run_key: bytes) -> bytes:
        """The id of the key that a run is encrypted with, empty for a run in the open, or one that is not there."""
        known = self._of.get(run_key)
        if known is not None:
            return known
        entry = self.inner.entry(run_key)
        if entry is None:
            return b""
        head = self.inner.head_of(run_key)
        first = max(entry.parent_at + 1, entry.origin) if head is not None else 1
        stored = self.inner.read(run_key, first, first)
        if not stored:
            return b""
        found = decode(stored[0].data, f"version {first}")[8].get(KEY, b"")
        return self._remember(run_key, found if type(found) is bytes else b"")

    def _remember(self, run_key: bytes, key_id: bytes) -> bytes:
        if len(self._of) >= KNOWN_RUNS:
            self._of.clear()
        self._of[run_key] = key_id
        return key_id

    def _lock(self, run_key: bytes) -> RunLock | None:
        key_id = self.key_id(run_key)
        return self.unlock(key_id, run_key) if key_id else None

    def _new_lock(self, append: Append) -> tuple[RunLock | None, DataKey | None]:
        """The lock of a run that begins, and its key if it was made for it.

        A fork has its parent's key, and a part of another run that run's: what they hold came from there.
        """
        assert append.first is not None  # noqa: S101 - the caller's condition
        entry, made = append.first.entry, None
        caller = append.events[0].header.get(_CALLER, b"") if append.events else b""
        key_id = b""
        if entry.parent_id is not None:
            key_id = self.key_id(entry.parent_key)
        elif entry.subject is None and caller:
            key_id = self.key_id(caller)
        if not key_id:
            named = ("run", append.run_id, append.run_key) if entry.subject is None else ("subject", entry.subject, b"")
            key, fresh = self.keys.made_for(*named)  # type: ignore[arg-type]
            key_id, made = key.key_id, key if fresh else None
            if fresh and entry.subject is not None:
                self._check_readmitted(entry.subject, key)
        return self.unlock(key_id, append.run_key), made

    def _check_readmitted(self, subject: str, key: DataKey) -> None:
        """Take a new key away again where its subject was shredded. Raises SubjectGone."""
        self.look_for_shredded()
        if subject in self.gone:
            self.keys.discard(key)
            raise SubjectGone(subject)

    # --- writing

    def write(self, batch: Sequence[Write]) -> list[Answer | EventflowError]:
        """Seal a batch and have it written; a write that can't be sealed is refused like one that conflicts."""
        self.keys.refresh()
        answers: dict[int, Answer | EventflowError] = {}
        sealed: list[Write] = []
        made: list[DataKey | None] = []
        begun: dict[bytes, bytes] = {}
        for number, one in enumerate(batch):
            try:
                ready, fresh = self._sealed(one, begun)
            except EventflowError as error:
                answers[number] = error
            else:
                sealed.append(ready)
                made.append(fresh)
        rest = iter(self.inner.write(sealed) if sealed or not batch else ())
        freshly = iter(made)
        for number in range(len(batch)):
            if number not in answers:
                answer, fresh = next(rest), next(freshly)
                answers[number] = answer
                if fresh is not None and isinstance(answer, EventflowError):
                    self.keys.discard(fresh)
        for number, one in enumerate(batch):
            if isinstance(one, Append) and one.first is not None and not isinstance(answers[number], EventflowError):
                self._remember(one.run_key, begun[one.run_key])
        return [answers[number] for number in range(len(batch))]

    def transaction(self) -> Transaction:
        """A transaction of the log's database, whose append is sealed."""
        return _LockedTransaction(getattr(self.inner, "transaction")(), self)  # noqa: B009 - not every log has it

    def sealed(self, append: Append) -> Append:
        """An append of a run that has begun, as the log gets it. Raises NoKey, Shredded."""
        self.keys.refresh()
        return self._append(append, {})[0]

    def _sealed(self, one: Write, begun: dict[bytes, bytes]) -> tuple[Write, DataKey | None]:
        """A write as the log gets it, and the key that was made for it. Raises NoKey, Shredded."""
        match one:
            case Append():
                return self._append(one, begun)
            case Upkeep():
                lock = self._lock(one.run_key)
                return (one if lock is None else _upkeep(one, lock)), None
            case Act():
                return self._act(one), None
            case Post():
                return self._post(one, begun), None
            case Bring():  # sealed already, where it was written first
                begun[one.append.run_key] = b""
        return one, None

    def _append(self, append: Append, begun: dict[bytes, bytes]) -> tuple[Append, DataKey | None]:
        made: DataKey | None = None
        if append.first is not None and append.run_key != STORE_RUN:
            lock, made = self._new_lock(append)
            begun[append.run_key] = b"" if lock is None else lock.key_id
        else:
            lock = (
                self.unlock(begun[append.run_key], append.run_key)
                if begun.get(append.run_key)
                else self._lock(append.run_key)
            )
        posts = tuple(self._post(post, begun) for post in append.posts) if append.posts else ()
        if lock is None and posts == append.posts:
            return append, made
        events, marks = append.events, append.marks
        if lock is not None:
            events = tuple(
                _event(packed, lock, append.incarnation, append.expected + number)
                for number, packed in enumerate(events, 1)
            )
            marks = tuple(_mark(mark, lock) for mark in marks) if marks else ()
        return Append(
            append.run_id, append.run_key, append.incarnation, append.expected, append.epoch, events, append.time,
            append.status, append.waiting_for, append.claim, append.release, append.taken, marks, append.first, posts,
        ), made  # fmt: skip

    def _act(self, act: Act) -> Act:
        if act.upkeep is None:
            return act
        if act.upkeep.snapshot is not None and act.upkeep.snapshot.root[:1] == LOCKED_ROOT:
            return act  # sealed where it was written first
        if (lock := self._lock(act.upkeep.run_key)) is None:
            return act
        return replace(act, event=_vouching(act.event, lock), upkeep=_upkeep(act.upkeep, lock))

    def _post(self, post: Post, begun: dict[bytes, bytes]) -> Post:
        key_id = begun.get(post.run_key) or self.key_id(post.run_key)
        if not key_id or is_locked_message(post.data):
            return post
        return Post(post.run_key, self.unlock(key_id, post.run_key).seal_message(post.data))

    # --- reading

    def read(self, run_key: bytes, first: int, last: int) -> list[Stored]:
        """Events of a run, with what opens them."""
        self.keys.refresh()
        return [Stored(one.position, one.data, self.unlock) for one in self.inner.read(run_key, first, last)]

    def feed(self, after: int, limit: int) -> list[Stored]:
        """Events of the whole store, with what opens them."""
        self.keys.refresh()
        return [Stored(one.position, one.data, self.unlock) for one in self.inner.feed(after, limit)]

    def blobs(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The bytes of blobs by name, opened and checked. Raises Corrupt, NoKey, Shredded."""
        found = self.inner.blobs(names)
        for name, data in found.items():
            if type(data) is LockedBlob:
                found[name] = self._opened(key_id_of(data), name, data)
        return found

    def _opened(self, key_id: bytes, name: bytes, row: bytes) -> bytes:
        what = f"blob {name.hex()[:12]}"
        try:
            return self.keys.blob_lock(key_id, what).open(name, row)
        except NoKey:
            if self.is_shredded(key_id):
                raise Shredded(what) from None
            raise

    def kept_by_others(self, names: Iterable[bytes]) -> set[bytes]:
        """Those among some blobs that are under a key which is not here: somebody else may read them. Raises Corrupt."""
        found: set[bytes] = set()
        for name in names:
            row = self.inner.blobs([name])[name]
            if type(row) is not LockedBlob:
                continue
            try:
                self.keys.blob_lock(key_id_of(row), "a blob")
            except NoKey:
                if not self.is_shredded(key_id_of(row)):
                    found.add(name)
        return found

    def snapshot(self, run_key: bytes, version: int) -> bytes | None:
        """A snapshot's stored root, opened. Raises Corrupt, NoKey, Shredded."""
        row = self.inner.snapshot(run_key, version)
        if row is None or row[:1] != LOCKED_ROOT:
            if row is not None and self.key_id(run_key):  # it could be from anybody
                raise Corrupt(f"the snapshot at version {version}", "is not encrypted, and its run is")
            return row
        self.keys.refresh()
        lock = self.unlock(key_id_of(row[1:]), run_key)
        return OpenedRoot.by(lock.open_root(version, row, f"the snapshot at version {version}"), lock)

    def checkpoints(self, run_key: bytes) -> list[Checkpoint]:
        """A run's checkpoints, oldest first; without the key they do not tell the digest of their snapshot."""
        self.keys.refresh()
        found = self.inner.checkpoints(run_key)
        key_id = self.key_id(run_key) if any(mark.digest for mark in found) else b""
        if not key_id:
            return found
        try:
            lock: RunLock | None = self.unlock(key_id, run_key)
        except NoKey:
            lock = None
        return [_opened_mark(mark, lock) if mark.digest else mark for mark in found]

    def inbox(self, run_key: bytes) -> list[tuple[int, bytes]]:
        """A run's waiting messages, opened; without the key as they are stored."""
        self.keys.refresh()
        return [(number, self._message(run_key, number, data)) for number, data in self.inner.inbox(run_key)]

    def _message(self, run_key: bytes, number: int, data: bytes) -> bytes:
        if not is_locked_message(data):
            return data
        try:
            lock = self.unlock(key_id_of(data), run_key)
        except NoKey:
            return data
        return lock.open_message(data, f"message {number}")


class _LockedTransaction:
    """A transaction of the log that a locked one is around."""

    def __init__(self, inner: Transaction, log: LockedLog) -> None:
        self._log = log
        self.call, self.undo, self._finish = inner.call, inner.undo, inner.finish

    def finish(self, append: Append) -> Answer:
        """Commit, with an append that is sealed first."""
        return self._finish(self._log.sealed(append))


def _event(packed: Packed, lock: RunLock, incarnation: int, version: int) -> Packed:
    code, flags, header, body, blobs = packed
    flags |= FLAG_ENCRYPTED
    sealed = lock.seal_event(Spot(incarnation, version, code, flags), body)
    header = _vouching(packed, lock).header if "snapshot" in header else {KEY: lock.key_id, **header}
    return Packed(code, flags, header, sealed, tuple(_blob(blob, lock) for blob in blobs) if blobs else ())


def _vouching(packed: Packed, lock: RunLock) -> Packed:
    """A fact whose header names the key, with the digest it vouches with sealed. The short name comes first in canonical CBOR."""
    header = {KEY: lock.key_id, **packed.header}
    vouch = header.get("snapshot")
    if vouch is not None:
        header["snapshot"] = [vouch[0], lock.seal_digest(*vouch)]
    return packed._replace(header=header)


def _blob(blob: Blob, lock: RunLock) -> Blob:
    name = lock.name(blob.digest)
    return Blob(name, lock.seal_blob(name, blob.stored), blob.size)


def _upkeep(upkeep: Upkeep, lock: RunLock) -> Upkeep:
    snapshot = upkeep.snapshot
    if snapshot is not None:
        snapshot = PackedState(
            snapshot.version, lock.seal_root(snapshot.version, snapshot.root),
            lock.seal_digest(snapshot.version, snapshot.digest), tuple(_blob(blob, lock) for blob in snapshot.blobs),
            snapshot.size, tuple(map(lock.name, snapshot.known)),
        )  # fmt: skip
    marks = tuple(_mark(mark, lock) for mark in upkeep.marks)
    return replace(upkeep, snapshot=snapshot, marks=marks)


def _mark(mark: Checkpoint, lock: RunLock) -> Checkpoint:
    return replace(mark, digest=lock.seal_digest(mark.version, mark.digest)) if mark.digest else mark


def _opened_mark(mark: Checkpoint, lock: RunLock | None) -> Checkpoint:
    where = f"checkpoint {mark.id}"
    return replace(mark, digest=b"" if lock is None else lock.open_digest(mark.version, mark.digest, where))
