"""A store that is a copy of another: what it keeps besides the events that are brought to it, and what it becomes.

A copy has the other's id, positions, chains and tombstones, so that the tree over its events is the other's. As long as it
follows, nobody may drive its runs: two drivers of one history would part it. Promoted, it is a store of its own life: each
run's epoch goes into a new generation, above every epoch that the other can reach. Nothing here reads or writes a store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eventflow.log.removal import Compaction, Guard

if TYPE_CHECKING:
    from eventflow.log.heads import Head

# Bits of an epoch below the generation: how often a run's lease is taken in one life of a store; 2^40 is never reached.
EPOCH_BITS = 40


@dataclass(frozen=True, slots=True)
class Mirror:
    """What a copy keeps of the other store, besides events; all of it in one transaction. Answered by Kept.

    `tombstones` are digests of deleted events, at the next positions. `deleted` are runs, as they are here, that were
    deleted there; `gone` heads of those that were never here, whose ids may be used again by a higher incarnation only;
    `compacted` runs that were compacted there, whose snapshot is here. `vouches` are (run key, snapshot's version, version
    that vouches). `guards` are all there are; `inbox` is all messages that wait there, (run key, number, data), in the place of
    those that wait here; new ones get numbers above `messages`. `follows` says whether it is a copy from now on; `generation` lets every run go.
    """

    tombstones: tuple[bytes, ...] = ()
    deleted: tuple[Head, ...] = ()
    gone: tuple[Head, ...] = ()
    compacted: tuple[Compaction, ...] = ()
    vouches: tuple[tuple[bytes, int, int], ...] = ()
    guards: tuple[Guard, ...] | None = None
    inbox: tuple[tuple[bytes, int, bytes], ...] | None = None
    messages: int = 0
    follows: bool | None = None
    generation: int = 0


def of_generation(head: Head, generation: int) -> Head:
    """A head that nobody holds, in a generation of a store's life."""
    epoch = (generation << EPOCH_BITS) + (head.epoch & ((1 << EPOCH_BITS) - 1)) + 1
    return replace(head, owner=bytes(16), epoch=epoch)
