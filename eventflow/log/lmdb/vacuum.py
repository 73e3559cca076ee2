"""Giving a file's space back while runs go on: a compact copy, what changed meanwhile, and then the store moves there.

From the moment a copy begins, every writer writes down which keys it changes. They are brought over, the last of them
under the gate, where nobody writes. Then the copy is durable and complete, and in this order: the old file's last
transaction says that the store has *moved*, CURRENT names the new file, the old one goes. Whoever has the old file open
meets the last transaction with its next read or write, and goes on in the new one. A copier may die at any moment:
before the move the next one begins anew, after it whoever opens the store does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eventflow.durable import sync_directory
from eventflow.errors import Conflict, Corrupt, StoreBusy
from eventflow.log.lmdb import files
from eventflow.log.lmdb.environment import Environment, acquire, release
from eventflow.log.lmdb.opening import unusable
from eventflow.log.lmdb.rows import Txn, keys_under
from eventflow.log.lmdb.tables import COPYING, KEY_CHANGE, KEY_VACUUM, MOVED, TABLES, Tables, number
from eventflow.log.lmdb.writing import drop_changes, last_number, put
from eventflow.log.removal import name_of

ROUND = 10_000  # changed rows brought over in one transaction: some MB
FEW = 500  # changed rows that may be left for the last round, which holds all writers up: some ms
ROUNDS = 1_000  # at most, before the last one is made whatever is left: writers that change more than is brought over
Say = Callable[[str], None]


class Opened(Protocol):
    """What is open of a store."""

    @property
    def env(self) -> Environment:
        """Its file."""
        ...


class Movable(Protocol):
    """A log in a file that it can move away from."""

    path: Path

    @property
    def map_size(self) -> int:
        """Bytes of address space of the file."""
        ...

    def exclusive(self) -> AbstractContextManager[Opened]:
        """A block in which nobody else writes."""
        ...

    def reading_env(self) -> AbstractContextManager[Environment]:
        """A block with the file that the store is in."""
        ...

    def owner_gone(self, owner: bytes) -> bool:
        """Whether an owner's process is gone."""
        ...

    def owner_text(self, owner: bytes) -> str:
        """An owner for people."""
        ...


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a vacuum did: bytes of the file before and after."""

    before: int
    after: int


def vacuum(log: Movable, owner: bytes, *, say: Say = lambda _: None) -> Vacuumed:
    """Move a store into a file without free pages, while anybody reads and writes it; `owner` must be alive.

    Raises StoreBusy if somebody else is doing so, StoreFull without room for the copy, Corrupt if the copy is not the same,
    StoreUnusable if the disk fails; after each of them the store is whole, where it was or where it should go.
    """
    try:
        return _vacuumed(log, owner, say)
    except OSError as error:
        raise unusable(log.path, error) from error


def _vacuumed(log: Movable, owner: bytes, say: Say) -> Vacuumed:
    work = _Vacuum(log, owner, say)
    work.begin()
    say("begun")
    try:
        work.copy()
        say("copied")
        work.bring_over()
        say("brought over")
        work.move()
    finally:
        work.close()
    say("moved")
    work.remove_old()
    say("removed")
    return Vacuumed(work.before, work.after)


class _Vacuum:
    """One vacuum: the file that is left, and the one that is being made."""

    def __init__(self, log: Movable, owner: bytes, say: Say) -> None:
        self._log, self._owner, self._say = log, owner, say
        self._root = log.path
        self._old = self._new = Path()
        self._env: Environment | None = None
        self._seen = 0  # the last change that was brought over
        self._moved = False
        self.before = self.after = 0

    def begin(self) -> None:
        """Have every writer write down what it changes from now on; take out what a copier that died has left."""
        done = False
        while not done:
            with self._log.exclusive() as opened:
                table = opened.env.tables.store
                with opened.env.writing() as txn:
                    said = bytes(txn.get(KEY_VACUUM, db=table) or b"")
                    if said and not self._log.owner_gone(said[1:]):
                        raise StoreBusy(
                            f"{self._log.owner_text(said[1:])} is moving {self._root}; wait until it is done"
                        )
                    drop_changes(txn, opened.env.tables)
                    done = next(iter(keys_under(txn, table, KEY_CHANGE)), None) is None
                    if done:
                        put(txn, table, KEY_VACUUM, COPYING + self._owner)
                self._old = opened.env.path
                self.before = opened.env.pages()[1]
        current = int(self._old.name[5:])
        for left in files.numbers(self._root):  # of copiers that died: nobody else makes them
            if left > current:
                files.remove_data(self._root / f"data.{left}")
        self._new = self._root / f"data.{current + 1}"

    def copy(self) -> None:
        """Copy the file as the last commit left it."""
        self._new.mkdir(mode=files.DIRECTORY_MODE)  # there must be none
        files.make_directory(self._new)
        self._say("directory made")
        with self._log.reading_env() as env:
            env.copy(self._new)
        sync_directory(self._new)
        sync_directory(self._root)
        self._env = acquire(self._new, readonly=False, map_size=self._log.map_size)

    def bring_over(self) -> None:
        """Bring over what was changed since, until little is left."""
        for _ in range(ROUNDS):
            if self._round() < FEW:
                return

    def _round(self) -> int:
        """Bring over the next changed rows, as they are now; returns how many changes that were."""
        env = self._env
        assert env is not None  # noqa: S101 - made by `copy`
        with self._log.reading_env() as old, old.reading() as txn:
            t = old.tables
            start = KEY_CHANGE + number(self._seen + 1)
            found = _from(txn, t, start)
            changed = {txn.get(key, db=t.store): None for key in found}
            rows = [(one[0], one[1:], txn.get(one[1:], db=t[one[0]])) for one in changed]
        with env.writing() as out:
            for table, key, value in rows:
                out.delete(key, db=env.tables[table])
                if value is not None:
                    put(out, env.tables[table], key, value)
        if found:
            self._seen = int.from_bytes(found[-1][len(KEY_CHANGE) :], "big")
        return len(found)

    def move(self) -> None:
        """Bring over the rest while nobody writes, and have the store be in the new file from then on."""
        env = self._env
        assert env is not None  # noqa: S101 - made by `copy`
        with self._log.exclusive() as opened:
            with opened.env.reading() as txn:
                if txn.get(KEY_VACUUM, db=opened.env.tables.store) != COPYING + self._owner:
                    raise Conflict(
                        "somebody else has begun to move this store; look whether it is done, then try again"
                    )
            while self._round():
                pass
            self._clean(env)
            self._compare(opened.env, env)
            self._write_mark(env)
            sync_directory(self._new)
            sync_directory(self._root)
            self._say("complete")
            with opened.env.writing() as txn:
                put(txn, opened.env.tables.store, KEY_VACUUM, MOVED + self._new.name.encode())
            self._moved = True
            self._say("said so")
            files.set_current(self._root, self._new.name)
            self.after = env.pages()[1]

    def _clean(self, env: Environment) -> None:
        """Take out of the copy what says that it is being copied."""
        with env.writing() as out:
            for key in list(keys_under(out, env.tables.store, KEY_CHANGE)):
                out.delete(key, db=env.tables.store)
            out.delete(KEY_VACUUM, db=env.tables.store)

    def _compare(self, old: Environment, new: Environment) -> None:
        """The copy has as many rows of each kind. Raises Corrupt."""
        (before, _, _), (after, _, _) = old.pages(), new.pages()
        for name in TABLES:
            table = name.decode()
            if table != "store" and before[table][0] != after[table][0]:
                raise Corrupt(str(self._new), f"is a copy with other rows in {table}; the store stays where it is")

    def _write_mark(self, env: Environment) -> None:
        with env.reading() as txn:
            position = last_number(txn, env.tables.log)
            data = txn.get(number(position), db=env.tables.log)
        mark = files.HighWater(self._new)
        mark.write(position, name_of(data), events=files.MARK_SYNC_EVERY)
        mark.close()

    def close(self) -> None:
        """Let go of the copy; one that the store has not moved to goes. What writers write down is theirs to take out."""
        if self._moved:
            with self._log.reading_env():  # goes on in the new file before that is let go of
                pass
        env, self._env = self._env, None
        if env is not None:
            release(env)
        if not self._moved and self._new != Path():
            files.remove_data(self._new)

    def remove_old(self) -> None:
        """Remove the old file; who still has it open keeps it until then."""
        with self._log.exclusive():
            files.remove_data(self._old)


def _from(txn: Txn, tables: Tables, start: bytes) -> list[bytes]:
    """Keys of changes written down, from one on, at most a round of them."""
    found: list[bytes] = []
    with txn.cursor(db=tables.store) as cursor:
        inside = cursor.set_range(start)
        while inside and cursor.key().startswith(KEY_CHANGE) and len(found) < ROUND:
            found.append(bytes(cursor.key()))
            inside = cursor.next()
    return found
