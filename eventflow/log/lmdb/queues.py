"""Queues in the tables: which runs wait in one, which are taken, and who is given the next ones.

Both lists are facets of the table `index`; a run moves from one to the other with its lease. What is chosen is said in
`eventflow/log/queueing.py`.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

from eventflow.log.heads import Entry, Head
from eventflow.log.lmdb.rows import Rows, Txn, keys_under
from eventflow.log.lmdb.tables import (
    FACET_QUEUED,
    FACET_TAKEN,
    KEY_BUCKET,
    Tables,
    entry_from,
    facet,
    head_from,
    queue_facet,
)
from eventflow.log.queueing import LOOKED_AT, Bucket, Claim, Queued, choose

_BUCKET = struct.Struct(">dq")
_RUN_KEY = 16
OwnerGone = Callable[[bytes], bool]
HeadOf = Callable[[str], Head | None]


def listed(
    txn: Txn, tables: Tables, queue: str, *, owner_gone: OwnerGone, head_of: HeadOf | None = None
) -> tuple[list[Queued], Iterator[Queued]]:
    """The runs of a queue that are taken, and those that wait, in the order in which they will be taken.

    `head_of` gives heads by run id that are newer than their rows, or None.
    """
    living: dict[bytes, bool] = {}

    def lives(owner: bytes) -> bool:
        if owner not in living:
            living[owner] = not owner_gone(owner)
        return living[owner]

    held = list(_under(txn, tables, FACET_TAKEN, queue, head_of))
    taken = [one._replace(taken=True) for one in held if lives(one.head.owner)]
    orphans = [one for one in held if not lives(one.head.owner)]
    return taken, itertools.chain(orphans, _under(txn, tables, FACET_QUEUED, queue, head_of))


def _under(txn: Txn, tables: Tables, kind: bytes, queue: str, head_of: HeadOf | None) -> Iterator[Queued]:
    for key in keys_under(txn, tables.index, facet(kind, queue)):
        row = txn.get(key[-_RUN_KEY:], db=tables.info)
        if row is None:
            continue  # it is being removed
        run_id, entry = entry_from(row)
        name = run_id.encode()
        head = None if head_of is None else head_of(run_id)
        if head is None:
            head = head_from(name, txn.get(name, db=tables.names))
        yield Queued(head, entry.workflow, entry.priority, entry.queue_key, taken=False)


def moved(rows: Rows, entry: Entry, old: Head, head: Head) -> None:
    """Put a run where it belongs in its queue now."""
    before, after = queue_facet(entry, old), queue_facet(entry, head)
    if before == after:
        return
    if before is not None:
        rows.delete(rows.tables.index, before + head.run_key)
    if after is not None:
        rows.put(rows.tables.index, after + head.run_key, b"")


def chosen(rows: Rows, claim: Claim, *, owner_gone: OwnerGone, head_of: HeadOf) -> list[Queued]:
    """The runs that a claim is given; what the queue's rate allows from now on is written down."""
    taken, waiting = listed(rows.txn, rows.tables, claim.queue, owner_gone=owner_gone, head_of=head_of)
    bucket = _bucket(rows, claim)
    found = choose(claim, taken, itertools.islice(waiting, LOOKED_AT), bucket)
    if bucket is not None and found:
        row = _BUCKET.pack(bucket.tokens - len(found), bucket.at)
        rows.put(rows.tables.store, KEY_BUCKET + claim.queue.encode(), row)
    return found


def _bucket(rows: Rows, claim: Claim) -> Bucket | None:
    rate = claim.limits.rate
    if rate is None:
        return None
    row: Any = rows.get(rows.tables.store, KEY_BUCKET + claim.queue.encode())
    held = Bucket(float(rate[0]), claim.now) if row is None else Bucket(*_BUCKET.unpack(row))
    return held.filled(rate, claim.now)
