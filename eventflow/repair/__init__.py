"""What can be saved of a damaged store, in a new one: every run as far as it proves itself, and a list of the rest.

The damaged store is only read, byte by byte, without the library that could stumble over it; nothing in it is mended, cut
or written over. What is found is verified like a history from anybody before it is taken in.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from eventflow.backup.staging import Staging
from eventflow.cipher import Keys, ring_from_settings
from eventflow.cipher.files import KeyFolder
from eventflow.cipher.keyring import adopt, adopt_store
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored, pack
from eventflow.errors import EventflowError, StoreNotFound
from eventflow.event import StoreRepaired
from eventflow.exchange import ExportLog, Origin, Sealing, Told, write_items
from eventflow.forking import who, write_all, write_one
from eventflow.ingest import begun_at, bring
from eventflow.log import STORE_RUN, Act, LmdbLog
from eventflow.log.lmdb.files import make_directory
from eventflow.plain import freeze
from eventflow.repair.finding import Found, find
from eventflow.repair.proving import Chain, Lost, Proving
from eventflow.verification import verify_run
from eventflow.verification.report import STUMBLES, said

MAX_LOST = 1_000  # losses that the event lists; all of them are in what `repair` returns
Progress = Callable[[int, int], None]  # runs done, runs in all


@dataclass(frozen=True, slots=True)
class Repaired:
    """A new store with what was saved: where, how many runs and events, and what was lost."""

    path: Path
    runs: int
    events: int
    lost: tuple[Lost, ...]


def repair(
    source: str | os.PathLike[str], dest: str | os.PathLike[str], *, actor: str = "", why: str = "",
    clock: Clock | None = None, progress: Progress | None = None,
) -> Repaired:  # fmt: skip
    """Make a new store of every run and every event of a damaged one that prove themselves; the damaged one is only read.

    Operations by hand, checkpoints, snapshots and waiting messages stay behind; deleted runs stay deleted. Compacted runs begin
    where they began. Encrypted runs come
    as they are stored, with their keys as they are wrapped; that their values are there can only be told where the master
    key is. It can be killed at any moment and repeated. Raises StoreNotFound, Conflict if the place is taken, StoreUnusable.
    """
    clock, root = clock or SystemClock(), Path(source)
    if not any(root.glob("data.*/data.mdb")):
        raise StoreNotFound(str(root))
    found = find(root)
    ring, shelf = ring_from_settings(), KeyFolder(root / "keys")
    old = _store_id(found, shelf)
    found.settle(None if ring is None else Keys(shelf, old, ring, clock.now, came_from=lambda _: True))
    proving = Proving(found)
    proving.prove()
    with Staging(Path(dest)) as staging:
        make_directory(staging.path / "data.1")
        with closing(LmdbLog(staging.path, clock=clock)) as log:
            work = _Saving(found, proving, log, old, clock=clock, actor=actor or who())
            for number, chain in enumerate(proving.chains.values(), 1):
                work.save(chain)
                if progress is not None:
                    progress(number, len(proving.chains))
            _bring_keys(shelf, KeyFolder(staging.path / "keys"), proving)
            for shredded in proving.shredded(actor or who()):
                write_one(log, Act(pack(shredded), clock.now()))
            lost = freeze([one.plain() for one in proving.lost[:MAX_LOST]])
            event = StoreRepaired(old, work.events, lost, actor or who(), why)
            write_one(log, Act(pack(event), clock.now()))
        (staging.path / "data.1" / "lock.mdb").unlink(missing_ok=True)
        staging.publish()
    return Repaired(staging.goal, work.runs, work.events, tuple(proving.lost))


def _store_id(found: Found, shelf: KeyFolder) -> bytes:
    """The damaged store's id, zeros if it was not found."""
    pieces = [piece for _, one in sorted(found.events.get(STORE_RUN, {}).items()) for piece in one.values()]
    told = next((one for piece in pieces if isinstance(one := piece.header.get("store_id"), bytes)), b"")
    if not told:
        with suppress(EventflowError, *STUMBLES):
            told = next(
                (one.key.store_id for one in Keys(shelf, b"", None, int).listed() if one.key.kind == "store"), b""
            )
    return told or bytes(16)


def _bring_keys(source: KeyFolder, target: KeyFolder, proving: Proving) -> None:
    """Bring the keys of runs that were saved; of those that can't be brought the loss is told."""
    wanted = {key_id: chain.run_id for chain in proving.chains.values() if (key_id := chain.key_id)}
    gone = {one.key_id for one in proving.shredded("")}
    try:
        adopt_store(source, target)
    except EventflowError as error:
        proving.lost.append(Lost("keys", 0, said(error)))
    for key_id, run_id in sorted(wanted.items()):
        try:
            held = adopt(source, target, [key_id])
        except EventflowError as error:
            proving.lost.append(Lost(run_id, 0, f"its key can't be read: {said(error)}"))
        else:
            if not held and key_id not in gone:
                proving.lost.append(
                    Lost(run_id, 0, "its key is not in the store's folder keys/: its values can't be read")
                )


class _Saving:
    """Takes chains into a new store, each verified first, and cut shorter where it does not hold."""

    def __init__(
        self, found: Found, proving: Proving, log: LmdbLog, store_id: bytes, *, clock: Clock, actor: str
    ) -> None:  # fmt: skip
        self._found, self._proving, self._log, self._store_id = found, proving, log, store_id
        self._clock, self._actor = clock, actor
        self.runs = self.events = 0

    def save(self, chain: Chain) -> None:
        """Take in a run, as far as it holds."""
        last = chain.last
        while last >= chain.first:
            failed, problem = self._tried(chain, last)
            if not problem:
                return
            self._proving.lost.append(Lost(chain.run_id, failed, problem))
            last = min(failed, last) - 1

    def _tried(self, chain: Chain, last: int) -> tuple[int, str]:
        """Take in a run up to a version; the first version that does not hold, and why, if one does not."""
        try:
            export = self._export(chain, last)
            head = export.head_of(chain.run_key)
            if head is None:
                return chain.first, "is not there once it is written down"
            findings = verify_run(export, head).findings
            if findings:
                return max(findings[0].version, chain.first), findings[0].problem
            write_all(self._log, [bring(export, head), *begun_at(export, head, self._clock, self._actor)])
        except (EventflowError, *STUMBLES) as error:
            return last, said(error)
        self.runs += 1
        self.events += last - chain.first + 1
        return 0, ""

    def _sealing(self, chain: Chain, last: int) -> Sealing:
        """What goes with an encrypted run's events: values under its key, and what was found that a list said of it."""
        told: dict[bytes, Told] = {}
        one: Chain | None = chain
        while one is not None:
            entry = self._found.entries.get(one.run_key)
            head = self._found.ends.get(one.run_key, {}).get(one.pieces[min(last, one.last) - one.first].digest)
            tags, subject = ((), None) if entry is None else (tuple(entry.tags), entry.subject)
            status, waiting = ("running", "") if head is None else (head.status, head.waiting_for)
            told[one.run_key] = Told(tags, subject, status, waiting)
            one = self._proving.chains.get(one.parent)
        return Sealing({chain.key_id: self._found.sealed.get(chain.key_id, {})}, told)

    def _export(self, chain: Chain, last: int) -> ExportLog:
        file = io.BytesIO()
        sealing = self._sealing(chain, last) if chain.key_id else None
        origins: dict[bytes, Origin] = {}
        one: Chain | None = chain
        while one is not None:
            if one.origin is not None:
                origins[one.run_key] = one.origin
            one = self._proving.chains.get(one.parent)
        write_items(file, self._store_id, self._line(chain, last), self._found.blobs, sealing=sealing, origins=origins)
        return ExportLog(file.getvalue())

    def _line(self, chain: Chain, last: int) -> Iterator[Stored]:
        """A run's events up to a version, after those of the runs it continues."""
        if chain.parent:
            yield from self._line(self._proving.chains[chain.parent], chain.first - 1)
        for piece in chain.pieces[: max(last - chain.first + 1, 1)]:
            yield Stored(0, piece.data)
