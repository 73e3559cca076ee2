"""A bare group-commit writer: canonical CBOR, a SHA-256 chain, one thread, LMDB. No machine, no state, no recovery.

What many concurrent runs could reach at best in Python, with the division of labour that any such log has: a caller
encodes and compresses its change and waits; the one writer thread gives each event its version and the digest before it, encodes and
hashes it, puts it and its index into one transaction with all that piled up, and answers once that is durable: each
caller by a call of its own, as one writes it down, or all of a commit at once, which takes a third of its time away.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
import time
from importlib import resources
from pathlib import Path

import cbor2
import zstandard

from benchmarks.bare_commit import opened

Asked = tuple[bytes, bytes, asyncio.Future[None]]  # run key, body, who waits
HEADER = {"node": "step", "to": "step"}
DICTIONARY = resources.files("eventflow.codec").joinpath("dictionary.bin").read_bytes()
SMALL = zstandard.ZstdCompressor(level=3, dict_data=zstandard.ZstdCompressionDict(DICTIONARY))


def body_bytes(number: int, note: str) -> bytes:
    """A change of two fields as eventflow stores it: operations and no error, compressed with the dictionary."""
    return SMALL.compress(cbor2.dumps([[[0, ["n"], number], [0, ["note"], note]], None], canonical=True))


def event_bytes(key: bytes, version: int, now: int, body: bytes, before: bytes) -> bytes:
    """An event of the shape that eventflow stores: eleven fields, the body as bytes inside."""
    return cbor2.dumps([1, 1, key, 1, version, 1, now, 2, HEADER, body, before], canonical=True)


class BareWriter:
    """One thread that commits what piled up during the last commit."""

    def __init__(self, directory: Path, *, at_once: bool) -> None:
        directory.mkdir()
        self._at_once = at_once
        self._env, (self._log, self._index, _) = opened(directory)
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._position = 0
        self._heads: dict[bytes, tuple[int, bytes]] = {}
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    async def append(self, key: bytes, body: bytes) -> None:
        """Return once the event is durable."""
        done = self._loop.create_future()
        self._queue.put((key, body, done))
        await done

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while not self._queue.empty() and (more := self._queue.get()) is not None:
                batch.append(more)
            now = time.time_ns()
            with self._env.begin(write=True) as txn:
                for key, body, _ in batch:
                    version, before = self._heads.get(key, (1, bytes(32)))
                    event = event_bytes(key, version + 1, now, body, before)
                    self._heads[key] = version + 1, hashlib.sha256(event).digest()
                    self._position += 1
                    place = self._position.to_bytes(8, "big")
                    txn.put(place, event, db=self._log, append=True)
                    txn.put(key + (version + 1).to_bytes(8, "big"), place, db=self._index)
            if self._at_once:
                self._loop.call_soon_threadsafe(_acknowledge, batch)
                continue
            for _, _, done in batch:
                self._loop.call_soon_threadsafe(done.set_result, None)

    def close(self) -> None:
        """End the thread and close the file."""
        self._queue.put(None)
        self._thread.join()
        self._env.close()


def _acknowledge(batch: list[Asked]) -> None:
    for _, _, done in batch:
        done.set_result(None)


async def run_all(directory: Path, runs: int, steps: int, note: str, *, at_once: bool = False) -> float:
    """Seconds in which that many concurrent runs append that many events each."""
    writer = BareWriter(directory, at_once=at_once)
    try:
        began = time.perf_counter()
        await asyncio.gather(*(_run(writer, number.to_bytes(16, "big"), steps, note) for number in range(runs)))
        return time.perf_counter() - began
    finally:
        writer.close()


async def _run(writer: BareWriter, key: bytes, steps: int, note: str) -> None:
    for number in range(1, steps + 1):
        await writer.append(key, body_bytes(number, note))
