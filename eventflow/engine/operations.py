"""Operations by hand: checkpoints made, deleted and pruned, runs deleted and rewound.

Each needs a log and nothing of the user's code. What changes something leaves an event: in the run's own stream where the
run goes another way, in the store's where only what is kept beside it changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from eventflow.address import find_run
from eventflow.checkpoint import Checkpoint, worth_bytes
from eventflow.clock import Clock, id_text
from eventflow.codec import pack, pack_state
from eventflow.errors import (
    CheckpointNotFound,
    NoCheckpointer,
    NoKey,
    RunOwned,
)
from eventflow.event import (
    CheckpointCreated,
    CheckpointsDeleted,
    RunDeleted,
    Vouch,
)
from eventflow.forking import who, write_one
from eventflow.log import Act, Head, Log, Upkeep
from eventflow.plain import FrozenList
from eventflow.recovery import recover
from eventflow.retention.sweeping import Writes, blobs_of, sweep, tidy

# --- checkpoints ---------------------------------------------------------------------------------------------------


def create_checkpoint(
    log: Log, clock: Clock, run: str, *, version: int | None = None, label: str = "", snapshot: bool = False,
    actor: str = "", why: str = "",
) -> Checkpoint:  # fmt: skip
    """Make a checkpoint of a run at a version (its newest if None); `snapshot=True` writes its bytes in any case.

    Its event vouches for the bytes, so that recovery may start from them.

    Raises NoCheckpointer where the log was opened to be read, RunNotFound, VersionNotFound.
    """
    if log.readonly:
        raise NoCheckpointer("a checkpoint by hand")
    head = find_run(log, run, whole=True)
    recovered = recover(log, head, version)
    state, now = recovered.state, clock.now()
    mark = Checkpoint(state.version, ("manual",), now, label)
    # A version before a fork is the parent's: of that the fork has a mark alone.
    own = state.run.run_key == head.run_key
    packed = pack_state(state, anew=True) if own and (snapshot or worth_bytes(recovered.progress)) else None
    vouch = None
    if packed is not None:
        mark = replace(mark, size=len(packed.root), digest=packed.digest)
        vouch = Vouch(packed.version, packed.digest)
    event = CheckpointCreated(head.run_id, head.run_key, state.version, label, actor or who(), why)
    write_one(log, Act(pack(event, vouch=vouch), now, Upkeep(head.run_key, packed, (mark,))))
    return mark


def delete_checkpoints(
    log: Log, clock: Clock, run: str, ids: Iterable[str] | None, *, actor: str = "", why: str = ""
) -> list[Checkpoint]:
    """Delete the named checkpoints of a run, all of them if None; its history is untouched. Returns what was deleted.

    Raises CheckpointNotFound, RunNotFound.
    """
    head = find_run(log, run, whole=True)
    marks = log.checkpoints(head.run_key)
    if ids is None:
        gone = marks
    else:
        by_id = {mark.id: mark for mark in marks}
        wanted = list(dict.fromkeys(ids))
        missing = next((name for name in wanted if name not in by_id), None)
        if missing is not None:
            raise CheckpointNotFound(head.run_id, missing)
        gone = [by_id[name] for name in wanted]
    versions = {mark.version for mark in gone}
    if ids is None:
        versions |= {version for version, _ in log.snapshots(head.run_key, head.version)}
    if versions:
        ordered = sorted(versions)
        event = CheckpointsDeleted(head.run_id, head.run_key, FrozenList(ordered), actor or who(), why)
        write_one(log, Act(pack(event), clock.now(), Upkeep(head.run_key, drop=tuple(ordered))))
    return gone


# --- runs ----------------------------------------------------------------------------------------------------------


def delete_run(log: Log, clock: Clock, run: str, *, actor: str = "", why: str = "") -> Head:
    """Delete a run for good; the digests of its events stay, its id may be used anew, what nobody else needs is given back.

    Raises RunNotFound, RunOwned while a living process drives it, HasForks while others continue its history, RunGuarded.
    """
    head, mine = unlist_run(log, clock, run, actor=actor, why=why)
    give_back(log, mine)
    return head


def give_back(log: Log, names: Iterable[bytes], write: Writes | None = None) -> None:
    """Tidy up after deletions, and give back those of some blobs that nobody refers to any more."""
    tidy(log, write)
    with suppress(NoKey):  # what can't be read without a key may refer to them: they stay until somebody sweeps with it
        sweep(log, names, write=write)


def unlist_run(log: Log, clock: Clock, run: str, *, actor: str = "", why: str = "") -> tuple[Head, set[bytes]]:
    """The first half of deleting a run, after which it is gone: its head, and the blobs to give back. Raises as `delete_run`."""
    head = find_run(log, run, whole=True)
    if not log.owner_gone(head.owner):
        raise RunOwned(head.run_id, log.owner_text(head.owner))
    mine: set[bytes] = set()
    with suppress(NoKey):
        mine = blobs_of(log, head)
    event = RunDeleted(
        head.run_id, head.run_key, head.incarnation, head.version, head.digest, actor or who(), why
    )  # fmt: skip
    write_one(log, Act(pack(event), clock.now(), delete_run=head))
    return head, mine


def fresh_run_id(clock: Clock) -> str:
    """An id for a run whose caller gave none: a uuid7."""
    return id_text(clock.uuid7())
