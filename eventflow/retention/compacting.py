"""Compaction: a run's history begins at a later version from then on, with the state it had there."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventflow.address import find_run
from eventflow.checkpoint import Checkpoint
from eventflow.clock import Clock
from eventflow.codec import pack, pack_state
from eventflow.errors import VersionNotFound
from eventflow.event import RunCompacted, Vouch
from eventflow.forking import who
from eventflow.log import Act, Compaction, Log, Upkeep
from eventflow.recovery import recover
from eventflow.retention.sweeping import Freed, Writes, blobs_of, sweep, tidy, writes_to


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction took: versions `since` to `at` - 1 of a run, and what else was given back."""

    run_id: str
    since: int
    at: int
    freed: Freed = field(default_factory=Freed)


def compact_run(
    log: Log, clock: Clock, run: str, at: int, *, actor: str = "", why: str = "", dry_run: bool = False,
    write: Writes | None = None,
) -> Compacted:  # fmt: skip
    """Let a run begin at version `at`, whoever drives it meanwhile; what came before can't be told any more.

    The digests of the events that go stay, so seals and the chain hold. Raises RunNotFound, VersionNotFound,
    VersionCompacted, RunGuarded, HasForks if a run continues from below, Conflict if the run went back to below.
    """
    write = write or writes_to(log)
    head = find_run(log, run, whole=True)
    entry = log.entry(head.run_key)
    since = 1 if entry is None else entry.origin or (entry.parent_at + 1 if entry.parent_id is not None else 1)
    state = recover(log, head, at).state
    if state.run.run_key != head.run_key:  # of a fork's parent
        raise VersionNotFound(head.run_id, at, head.version)
    done = Compacted(head.run_id, since, at)
    if dry_run:
        return done
    mine = blobs_of(log, head)
    packed, now = pack_state(state, anew=True), clock.now()
    mark = Checkpoint(at, ("manual",), now, "", len(packed.root), packed.digest)
    event = RunCompacted(head.run_id, head.run_key, head.incarnation, since, at, actor or who(), why)
    upkeep = Upkeep(head.run_key, packed, (mark,))
    vouch = Vouch(packed.version, packed.digest)
    write(Act(pack(event, vouch=vouch), now, upkeep, compact=Compaction(head.run_key, at)))
    tidy(log, write)
    return Compacted(head.run_id, since, at, sweep(log, mine, write=write))
