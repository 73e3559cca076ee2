"""An encrypted log passes the contract of every log: what is sealed and opened on the way is nobody else's business."""

from __future__ import annotations

from pathlib import Path

from eventflow.cipher import Keyring, Keys, MasterKey
from eventflow.cipher.files import KeyFolder
from eventflow.clock import ManualClock
from eventflow.log import LmdbLog, Log, MemoryLog
from eventflow.log.locking import locked
from eventflow.testing.contract import LogContract
from eventflow.testing.contract.maker import LONG, moved

RING = Keyring(MasterKey(b"m" * 32))


def encrypted(log: Log) -> Log:
    """A log that was encrypted from the start, before its first event could tell of it."""
    path = getattr(log, "path", None)
    shelf = RING.shelf(log.store_id) if path is None else KeyFolder(path / "keys")
    Keys(shelf, log.store_id, RING, lambda: 0).begin()
    return locked(log, RING, ManualClock(), owns=True)


class LockedContract(LogContract):
    """The contract; but a value is shared between runs only where they have the same key."""

    # They name blobs by their digests, which is not how an encrypted log knows them; test_cipher_store.py sweeps one.
    test_a_sweep_forgets_what_was_not_kept_anew = None  # type: ignore[assignment]
    test_a_snapshot_takes_no_piece_for_known_that_a_sweep_may_take = None  # type: ignore[assignment]

    def test_a_long_value_is_kept_once(self, tmp_path: Path) -> None:
        """Twice in one run it takes one row; in two runs with keys of their own it takes two, of other names and bytes."""
        with self.author(tmp_path) as author:
            first = author.add(author.start("r"), moved("text", LONG), moved("more", LONG))
            assert author.log.usage().rows["blobs"] == 1
            second = author.add(author.start("s"), moved("text", LONG))
            assert author.log.usage().rows["blobs"] == 2
            assert [author.state(head).data["text"] for head in (first, second)] == [LONG, LONG]


class TestLockedMemoryLog(LockedContract):
    """The contract, for a log in memory with keys."""

    def make_log(self, tmp_path: Path) -> Log:
        return encrypted(MemoryLog())


class TestLockedLmdbLog(LockedContract):
    """The contract, for a log on disk with keys."""

    def make_log(self, tmp_path: Path) -> Log:
        return encrypted(LmdbLog(tmp_path / "store"))

    def reopen(self, log: Log) -> Log:
        log.close()
        return encrypted(LmdbLog(log.path))  # type: ignore[attr-defined]
