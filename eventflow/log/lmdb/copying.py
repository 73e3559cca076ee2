"""A store's file read as a whole while others write to it, and what copies need to know of it.

LMDB's own copy takes the file as one commit left it. It starts under the gate, so that its last event is known; the gate
is let go as soon as the first bytes have come, and writers go on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eventflow.errors import Corrupt, StoreUnusable
from eventflow.log.lmdb.environment import Environment
from eventflow.log.lmdb.tables import number
from eventflow.log.lmdb.writing import last_number
from eventflow.log.removal import name_of

CHUNK = 1 << 20  # bytes read at a time: several of a disk's own, and little memory


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads in a store's file: (process id, thread, transaction or -1 between two reads), the last transaction there is.

    `cleared` is how many readers were found dead; `writer` the process id of who holds the write gate, empty if nobody.
    """

    readers: tuple[tuple[int, int, int], ...]
    last: int
    cleared: int
    writer: str

    @property
    def lag(self) -> int:
        """How many transactions have been committed since the oldest reader began: their pages are kept for it."""
        return max((self.last - since for _, _, since in self.readers if since >= 0), default=0)


class Copying:
    """The file as one commit left it; `position` and `digest` are those of the last event in it."""

    def __init__(self, env: Environment) -> None:
        reading, writing = os.pipe()
        self._file = os.fdopen(reading, "rb")
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._pour, args=(env.pour, writing), name="copy", daemon=True)
        with env.reading() as txn:
            self.position = last_number(txn, env.tables.log)
            data = txn.get(number(self.position), db=env.tables.log)
            if data is None:
                raise Corrupt(str(env.path), "holds no event")
            self.digest = name_of(data)
        self.size = env.whole()
        self._thread.start()
        # Once there is any, the copy has begun; what is committed from now on is not in it.
        self._first = self._file.read(CHUNK)

    def _pour(self, pour: Callable[[int], None], pipe: int) -> None:
        try:
            pour(pipe)
        except BaseException as error:  # noqa: BLE001 - told to who reads
            self._failed.append(error)
        finally:
            os.close(pipe)

    def chunks(self) -> Iterator[bytes]:
        """All bytes, each piece of the same length but the last. Raises what went wrong, StoreUnusable."""
        data = self._first
        while data:
            yield data
            data = self._file.read(CHUNK)
        self._thread.join()
        if self._failed:
            raise StoreUnusable(f"the store could not be copied: {self._failed[0]}") from self._failed[0]

    def close(self) -> None:
        """Stop reading; what is left to copy is not."""
        self._file.close()
        self._thread.join()
