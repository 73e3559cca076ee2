"""A bare group-commit writer: canonical CBOR, a SHA-256 chain, one thread, LMDB. No machine, no state, no recovery.

What many concurrent runs could reach at best in Python: each event is encoded and chained, handed to the one writer
thread, put with its index into one transaction with all that piled up, and acknowledged once that is durable.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
import time
from pathlib import Path
from typing import Any

import cbor2

from benchmarks.bare_commit import opened

Asked = tuple[bytes, bytes, asyncio.Future[None]]  # index key, event, who waits


def event_bytes(key: bytes, version: int, now: int, header: dict[str, str], change: list[Any], before: bytes) -> bytes:
    """An event of the shape that eventflow stores: eleven fields, the body as bytes inside."""
    body = cbor2.dumps([change, None], canonical=True)
    return cbor2.dumps([1, 0, key, 1, version, 1, now, 2, header, body, before], canonical=True)


class BareWriter:
    """One thread that commits what piled up during the last commit."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._env, (self._log, self._index, _) = opened(directory)
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._position = 0
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    async def append(self, index: bytes, event: bytes) -> None:
        """Return once the event is durable."""
        done = self._loop.create_future()
        self._queue.put((index, event, done))
        await done

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while not self._queue.empty() and (more := self._queue.get()) is not None:
                batch.append(more)
            with self._env.begin(write=True) as txn:
                for index, event, _ in batch:
                    self._position += 1
                    place = self._position.to_bytes(8, "big")
                    txn.put(place, event, db=self._log, append=True)
                    txn.put(index, place, db=self._index)
            self._loop.call_soon_threadsafe(_acknowledge, batch)

    def close(self) -> None:
        """End the thread and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._env.close()


def _acknowledge(batch: list[Asked]) -> None:
    for _, _, done in batch:
        done.set_result(None)


async def run_all(directory: Path, runs: int, steps: int, note: str) -> float:
    """Seconds in which that many concurrent runs append that many events each."""
    writer = BareWriter(directory)
    try:
        began = time.perf_counter()
        await asyncio.gather(*(_run(writer, number.to_bytes(16, "big"), steps, note) for number in range(runs)))
        return time.perf_counter() - began
    finally:
        writer.close()


async def _run(writer: BareWriter, key: bytes, steps: int, note: str) -> None:
    before = bytes(32)
    for version in range(2, steps + 2):
        change = [[0, ["n"], version - 1], [0, ["note"], note]]
        event = event_bytes(key, version, time.time_ns(), {"node": "step", "to": "step"}, change, before)
        before = hashlib.sha256(event).digest()
        await writer.append(key + version.to_bytes(8, "big"), event)
