"""Long histories, made quickly: events go through the journal of a run as an engine's do, many in one commit.

The checkpoint policy decides where snapshots are made, and each is vouched for by the event after it; only the
waiting for one commit an event is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from eventflow.change import Op
from eventflow.checkpoint import CheckpointPolicy
from eventflow.clock import SystemClock
from eventflow.engine import Measured, measured_of
from eventflow.event import RunStarted, Transitioned
from eventflow.log import Entry, First, LmdbLog, Writer
from eventflow.plain import FrozenDict, freeze
from eventflow.proof import genesis
from eventflow.recovery import recover
from eventflow.run import Journal, Shop, begin

RUN = "history"
LIST = 20  # events in one commit, and so how exactly the policy is followed: a snapshot may come this many late
DEFAULT = CheckpointPolicy()
_NO_DEFINITION = bytes(32)


def build(
    store: Path, data: dict[str, Any], changes: Iterable[Op], *, policy: CheckpointPolicy = DEFAULT
) -> Measured:  # fmt: skip
    """Make a store with one run that begins with `data` and makes one change an event; what was measured on the way."""
    return asyncio.run(_build(store, freeze(data), iter(changes), policy))


async def _build(store: Path, data: FrozenDict, changes: Iterator[Op], policy: CheckpointPolicy) -> Measured:
    clock = SystemClock()
    log = LmdbLog(store, clock=clock)
    writer, owner = Writer(log), clock.uuid7()
    end = log.new_owner(owner)
    try:
        shop = Shop(log, writer, clock, policy, owner, active=1)
        journal = await _begun(shop, data)
        while several := list(islice(changes, LIST)):
            await journal.record(*(Transitioned("work", "work", change=(one,)) for one in several))
            await journal.settle()
        return measured_of(journal)
    finally:
        writer.close()
        end()
        log.close()


async def _begun(shop: Shop, data: FrozenDict) -> Journal:
    event = RunStarted(
        RUN, shop.log.store_id, "history", _NO_DEFINITION, freeze({}), "work", data, input_digest=bytes(32)
    )
    before = genesis(shop.log.store_id, RUN, 1, _NO_DEFINITION)
    first = First(before, Entry("history", (), None, shop.clock.now()))
    answer = await begin(shop, None, event, run_id=RUN, run_key=shop.clock.uuid7(), incarnation=1, first=first)
    found = recover(shop.log, answer.head)
    return Journal(shop, found.state, answer.head.epoch, found.progress, [])
