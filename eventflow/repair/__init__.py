"""What can be saved of a damaged store, in a new one: every run as far as it proves itself, and a list of the rest.

The damaged store is only read, byte by byte, without the library that could stumble over it; nothing in it is mended, cut
or written over. What is found is verified like a history from anybody before it is taken in.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from eventflow.backup.staging import Staging
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored, pack
from eventflow.errors import EventflowError, StoreNotFound
from eventflow.event import StoreRepaired
from eventflow.exchange import ExportLog, write_items
from eventflow.forking import who, write_one
from eventflow.ingest import bring
from eventflow.log import STORE_RUN, Act, LmdbLog
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

    Operations by hand, checkpoints, snapshots and waiting messages stay behind; deleted runs stay deleted. It can be killed
    at any moment and repeated. Raises StoreNotFound, Conflict if the place is taken, StoreUnusable.
    """
    clock, root = clock or SystemClock(), Path(source)
    if not any(root.glob("data.*/data.mdb")):
        raise StoreNotFound(str(root))
    found = find(root)
    proving = Proving(found)
    proving.prove()
    with Staging(Path(dest)) as staging:
        (staging.path / "data.1").mkdir(mode=0o700)
        with closing(LmdbLog(staging.path, clock=clock)) as log:
            work = _Saving(found, proving, log)
            for number, chain in enumerate(proving.chains.values(), 1):
                work.save(chain)
                if progress is not None:
                    progress(number, len(proving.chains))
            lost = freeze([one.plain() for one in proving.lost[:MAX_LOST]])
            event = StoreRepaired(_store_id(found), work.events, lost, actor or who(), why)
            write_one(log, Act(pack(event), clock.now()))
        (staging.path / "data.1" / "lock.mdb").unlink(missing_ok=True)
        staging.publish()
    return Repaired(staging.goal, work.runs, work.events, tuple(proving.lost))


def _store_id(found: Found) -> bytes:
    """The damaged store's id, zeros if it was not found."""
    pieces = [piece for one in found.events.get(STORE_RUN, {}).values() for piece in one.values()]
    return next((one for piece in pieces if isinstance(one := piece.header.get("store_id"), bytes)), bytes(16))


class _Saving:
    """Takes chains into a new store, each verified first, and cut shorter where it does not hold."""

    def __init__(self, found: Found, proving: Proving, log: LmdbLog) -> None:
        self._found, self._proving, self._log = found, proving, log
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
            write_one(self._log, bring(export, head))
        except (EventflowError, *STUMBLES) as error:
            return last, said(error)
        self.runs += 1
        self.events += last - chain.first + 1
        return 0, ""

    def _export(self, chain: Chain, last: int) -> ExportLog:
        file = io.BytesIO()
        write_items(file, _store_id(self._found), self._line(chain, last), self._found.blobs)
        return ExportLog(file.getvalue())

    def _line(self, chain: Chain, last: int) -> Iterator[Stored]:
        """A run's events up to a version, after those of the runs it continues."""
        if chain.parent:
            yield from self._line(self._proving.chains[chain.parent], chain.first - 1)
        for piece in chain.pieces[: max(last - chain.first + 1, 1)]:
            yield Stored(0, piece.data)
