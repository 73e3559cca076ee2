"""What the tables' columns hold, and back: heads, entries, checkpoints, numbers that do not fit a signed one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventflow.checkpoint import KINDS, Checkpoint
from eventflow.codec import decode
from eventflow.errors import Corrupt
from eventflow.log.heads import NOBODY, Head
from eventflow.proof import digest
from eventflow.state import STATUSES, WAITS

STATUS_NUMBER = {status: number for number, status in enumerate(STATUSES)}
WAIT_NUMBER = {wait: number for number, wait in enumerate(WAITS)}
_TIME = 6  # the field of an event that says when, docs/format.md
_WRAP = 1 << 64

# A head's columns in `standing h`; then those of the run's newest event, which is newer unless the head changed with it.
HEAD = """h.run_id, h.run_key, h.incarnation, h.version, h.digest, h.epoch, h.owner, h.status, h.waiting, h.updated,
    h.newest, h.data"""
HEAD_FIELDS = 12


def head_from(row: Sequence[Any]) -> Head:
    """A head from its columns and the run's newest event. Raises Corrupt.

    What is left of a deleted run has version 0 and NOBODY's key.
    """
    name, key, incarnation, version, head_digest, epoch, owner, status, waiting, updated, newest, data = row[
        :HEAD_FIELDS
    ]
    try:
        if newest is not None and newest > version:
            version, head_digest, updated = newest, digest(data), decode(data, "the newest event of a run")[_TIME]
        return Head(
            name.decode(), NOBODY if key is None else key, incarnation, version, head_digest, epoch, owner,
            STATUSES[status], WAITS[waiting], updated,
        )  # fmt: skip
    except (IndexError, TypeError, UnicodeDecodeError) as error:
        raise Corrupt(f"the head of run {name!r}", f"can't be read ({error})") from None


def kinds_number(mark: Checkpoint) -> int:
    """The kinds of a checkpoint, one bit each."""
    return sum(1 << KINDS.index(kind) for kind in mark.kinds)


def mark_from(row: Sequence[Any]) -> Checkpoint:
    """A checkpoint from its columns: version, kinds, time, label, size, digest."""
    version, kinds, time, label, size, name = row
    found = tuple(kind for bit, kind in enumerate(KINDS) if kinds >> bit & 1)
    return Checkpoint(version, found, time, label.decode(), size, name)


def signed(number: int) -> int:
    """A number of 64 bits as a bigint holds it."""
    return number - _WRAP if number >> 63 else number


def unsigned(number: int) -> int:
    """The same back."""
    return number + _WRAP if number < 0 else number


def text_bytes(text: str) -> bytes:
    """A text as UTF-8; one that can't be a name, for it is no UTF-8, becomes bytes that no name has."""
    return text.encode("utf-8", "surrogatepass")
