"""One bit of a store after the other is turned over, and what comes of it is told: for the tests beside this file.

Each flip is judged in a forked child, since a damaged LMDB file may kill who reads it; the child does many of them and says
through a pipe what became of each. Nothing of eventflow is replaced: what a person would see is what is judged.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import struct
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import lmdb

from eventflow.codec import TOMBSTONE, blob_names, state_digest
from eventflow.errors import EventflowError
from eventflow.log import LmdbLog, Log, Query
from eventflow.log.lmdb.tables import TABLES
from eventflow.recovery import recover, walk
from eventflow.sealing import Seal, differences, surveyed
from eventflow.verification import verify_store

REFUSED, REPORTED, SAME, CHANGED, STUMBLED, KILLED = "refused", "reported", "same", "CHANGED", "STUMBLED", "KILLED"
_LINE = struct.Struct(">I10s")
CLOSELY = 20  # of that many flips after which LMDB finds all it found before one is judged as closely as all others
BATCH = 4_000  # flips a child makes; forking costs as much as one of them


@dataclass(frozen=True)
class Flip:
    """A bit of a file, and what became of the store with it turned over."""

    file: str
    byte: int
    bit: int
    outcome: str


def everything(log: Log) -> bytes:
    """A digest of what a store says has happened: events and their values, states, which runs there are, the sealed tree.

    Not of what is upkeep and stands in no event: who holds a lease, when a snapshot was taken, what has not been read yet.
    """
    seen = hashlib.sha256()
    position = 0
    while page := log.feed(position, 1_000):
        living = [one for one in page if one.data[:1] != TOMBSTONE]
        names = blob_names(living)
        seen.update(repr(([(one.position, one.data) for one in page], sorted(log.blobs(names).items()))).encode())
        position += len(page)
    for listed in log.runs(Query()):
        head, entry = listed.head, listed.entry
        seen.update(
            repr((head.run_id, head.run_key, head.incarnation, head.version, head.digest, head.status)).encode()
        )
        seen.update(repr((head.waiting_for, entry.workflow, entry.tags, entry.parent_id, entry.parent_at)).encode())
        seen.update(repr((log.bends(head.run_key), log.children(head.run_key))).encode())
        for _, state in walk(log, head):
            seen.update(state_digest(state))
        for version in {head.version, *(version for version, _ in log.snapshots(head.run_key, head.version))}:
            quick, whole = (recover(log, head, version, snapshots=cached).state for cached in (True, False))
            seen.update(b"" if state_digest(quick) == state_digest(whole) else b"the snapshots say something else")
        for query in (
            Query(status=head.status),
            Query(workflow=entry.workflow),
            *(Query(tag=tag) for tag in entry.tags),
        ):
            seen.update(repr([one.head.run_id for one in log.runs(query)]).encode())
        seen.update(str(log.next_incarnation(head.run_id)).encode())
    return seen.digest()


def judged(root: Path, right: bytes, seals: Sequence[Seal]) -> str:
    """What a store is worth: refused at open, reported by verify, or all of it read as it was (or not)."""
    try:
        log = LmdbLog(root, readonly=True)
    except EventflowError:
        return REFUSED
    try:
        for report in verify_store(log):
            if report.findings:
                return REPORTED
        if seals:
            tree = surveyed(log, log.position(), sizes=[one.head.size for one in seals])
            if any(differences(log.store_id, tree, seals)):
                return REPORTED
        return SAME if everything(log) == right else CHANGED
    except EventflowError:
        return REPORTED
    except Exception:  # noqa: BLE001 - that is what must not be
        return STUMBLED
    finally:
        log.close()


def rows(root: Path) -> bytes | None:
    """A digest of all that LMDB finds in a store, by going through and by looking up; None if it finds damage itself."""
    seen = hashlib.sha256()
    try:
        with lmdb.open(str(root / "data.1"), readonly=True, lock=False, max_dbs=len(TABLES), create=False) as env:
            tables = [env.open_db(name, create=False) for name in TABLES]
            with env.begin() as txn:
                for table in tables:
                    cursor = txn.cursor(db=table)
                    held = list(cursor)
                    seen.update(repr(held).encode())
                    found = all(cursor.set_key(key) and cursor.value() == value for key, value in held)
                    near = all(cursor.set_range(key[:16]) and cursor.key() <= key for key, _ in held)
                    seen.update(b"" if found and near else b"not found by its key")
    except lmdb.Error:
        return None
    return seen.digest()


@dataclass(frozen=True)
class Sweep:
    """What is done to which file of a store: `right` is what the store says, `seals` are of it and kept elsewhere."""

    root: Path
    file: str
    right: bytes
    seals: Sequence[Seal] = ()
    closely: int = CLOSELY

    def flipped(self, bits: Sequence[int]) -> list[Flip]:
        """What became of each of some bits turned over, one at a time; the file is as it was afterwards."""
        path, found = self.root / self.file, list[Flip]()
        whole = path.read_bytes()
        for start in range(0, len(bits), BATCH):
            mine, done = bits[start : start + BATCH], 0
            while done < len(mine):
                for number, outcome in self._batch(mine, done):
                    found.append(Flip(self.file, *divmod(mine[number], 8), outcome))
                    done = number + 1
                if done < len(mine):  # it died: the bit it had turned over is the one after the last it told of
                    path.write_bytes(whole)
                    found.append(Flip(self.file, *divmod(mine[done], 8), KILLED))
                    done += 1
        return found

    def _batch(self, bits: Sequence[int], begin: int) -> Iterator[tuple[int, str]]:
        """What a child says until it is done, or dies."""
        reading, writing = os.pipe()
        with warnings.catch_warnings():  # Python 3.12 warns of forking while threads run; the child starts none
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            os.close(reading)
            self._child(bits, begin, writing)
        os.close(writing)
        try:
            with os.fdopen(reading, "rb") as pipe:
                while line := pipe.read(_LINE.size):
                    number, outcome = _LINE.unpack(line)
                    yield number, outcome.rstrip(b"\0").decode()
        finally:
            status = os.waitpid(pid, 0)[1]
            assert not os.WIFEXITED(status) or not os.WEXITSTATUS(status), "the child failed by its own fault"

    def _child(self, bits: Sequence[int], begin: int, pipe: int) -> NoReturn:
        """Turn bits over from a number on, say what came of each, and end."""
        faulthandler.disable()  # that it is killed is told by the parent
        try:
            intact = rows(self.root)
            with (self.root / self.file).open("r+b", buffering=0) as file:
                for number in range(begin, len(bits)):
                    outcome = self._outcome(file.fileno(), bits[number], None if number % self.closely == 0 else intact)
                    os.write(pipe, _LINE.pack(number, outcome.encode()))
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as if it were the test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _outcome(self, file: int, flipped: int, intact: bytes | None) -> str:
        place, bit = divmod(flipped, 8)
        byte = os.pread(file, 1, place)[0]
        os.pwrite(file, bytes([byte ^ (1 << bit)]), place)
        try:
            same = intact is not None and rows(self.root) == intact
            return SAME if same else judged(self.root, self.right, self.seals)
        finally:
            os.pwrite(file, bytes([byte]), place)
