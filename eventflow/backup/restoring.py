"""A store made from a backup: put together, cut back to a point if asked, checked, and told that it is a copy.

The store it comes from may live on. So nobody owns any run in the new one, every run's epoch is raised into a generation
of its own, and its own stream says where it comes from before anything else is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from eventflow.backup.layout import Backup, Point, read_backup
from eventflow.backup.making import KEYS, SEALS, Progress, copy_files, write_mark
from eventflow.backup.staging import Staging, new_file
from eventflow.clock import Clock, SystemClock
from eventflow.codec import Stored, encode, pack, read_events
from eventflow.errors import Corrupt, NoKey, SettingsError, Shredded
from eventflow.event import (
    BackupMade,
    CheckpointCreated,
    CheckpointsDeleted,
    Event,
    Recorded,
    RunDeleted,
    RunsImported,
    SignalReceived,
    StoreRepaired,
    StoreRestored,
)
from eventflow.forking import who, write_all
from eventflow.log import STORE_RUN, Act, Head, LmdbLog, Log, Post, open_log
from eventflow.log.lmdb.cutting import Copied, Cut
from eventflow.log.lmdb.environment import damage
from eventflow.log.lmdb.files import make_directory, missing_bytes, set_current
from eventflow.plain import thaw
from eventflow.recovery import history, recover
from eventflow.state import FINAL
from eventflow.verification.store import NO_DIGEST

MAP_ROOM = 1 << 30  # bytes of address space beyond the file: what cutting it back and recording that may add
_SHOWN = 1 << 20  # bytes between two words about progress
# What a store's own stream says that is not true of one that was cut back to before it.
_UNDONE = (BackupMade, RunsImported, StoreRestored, StoreRepaired, CheckpointsDeleted)
LOST = "nothing of it could be restored: it was compacted since"


@dataclass(frozen=True, slots=True)
class Restored:
    """A store that was made from a backup: where, of which backup, as of which position, its generation, how many runs.

    `lost` are ids of runs that were compacted since the position, so that nothing of them could be brought back.
    """

    path: Path
    point: Point
    position: int
    generation: int
    runs: int
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Up to where a backup shall be restored: a position, a time (ns, UTC), or its end if both are None."""

    position: int | None = None
    time: int | None = None


def restore(
    source: str | os.PathLike[str], dest: str | os.PathLike[str], *, position: int | None = None, time: int | None = None,
    actor: str = "", why: str = "", clock: Clock | None = None, progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> Restored:  # fmt: skip
    """Make a store from a backup as it was at its end, at a position, or at a time (ns, UTC); the backup is only read.

    It can be killed at any moment and repeated. `check` looks at the finished store before it gets its name, and may
    raise. Raises NotFound, Conflict if the place is taken, Corrupt, SettingsError for a point the backup does not reach.
    """
    clock, wanted = clock or SystemClock(), Wanted(position, time)
    backup = read_backup(Path(source))
    point = chosen(backup, wanted)
    with Staging(Path(dest)) as staging:
        root = staging.path
        directory = assembled(backup, point, root, progress)
        upto, cut = _cut(directory, point, wanted)
        set_current(root, "data.1")
        generation, runs = _let_go(root, directory, point)
        _record(root, StoreRestored(generation, upto, point.number, actor or who(), why), cut, clock)
        _revouch(root, directory, point)
        _beside(backup.path, root, upto)
        _stand(root, directory, point, cut)
        _send_again(root, cut)
        if check is not None:
            check(root)
        (directory / "lock.mdb").unlink(missing_ok=True)
        staging.publish()
    return Restored(staging.goal, point, upto, generation, runs, tuple(head.run_id for head in cut.lost))


def chosen(backup: Backup, wanted: Wanted) -> Point:
    """The oldest point of a backup that holds what is wanted, the newest if nothing is said. Raises SettingsError."""
    if wanted.position is not None:
        for point in backup.points:
            if point.position >= wanted.position > 0:
                return point
        raise SettingsError(f"the backup goes from position 1 to {backup.last.position}; give one of these to --at")
    if wanted.time is not None:
        return next((point for point in backup.points if point.time >= wanted.time), backup.last)
    return backup.last


def assembled(backup: Backup, point: Point, root: Path, progress: Progress | None = None) -> Path:
    """The LMDB file as it was at a point, in a directory that is empty; its structure is looked at before it is ever opened."""
    for name in ("data.1", "owners", KEYS):
        make_directory(root / name)
    file = root / "data.1" / "data.mdb"
    done = shown = 0
    with os.fdopen(new_file(file), "wb") as writing:
        for block in backup.image(point.number):
            done += writing.write(block)
            if progress is not None and done - shown >= _SHOWN:
                shown = done
                progress(done, point.size)
    problem = f"it is {missing} bytes short" if (missing := missing_bytes(file)) else damage(file)
    if problem:
        raise Corrupt(str(backup.path), f"holds a file whose structure is broken ({problem})")
    return file.parent


def _cut(directory: Path, point: Point, wanted: Wanted) -> tuple[int, Cut]:
    """Cut a copy back to what is wanted, if that is not its end; the mark says where it ends."""
    with closing(Copied(directory, point.size + MAP_ROOM)) as copy:
        last, _ = copy.end()
        upto = last if wanted.position is None else wanted.position
        if wanted.time is not None:
            upto = copy.not_after(wanted.time)
        if not 1 <= upto <= last:
            raise SettingsError("nothing had been recorded by then; give a later point to --at")
        cut = copy.cut(upto) if upto < last else Cut()
        write_mark(directory, *copy.end())
    return upto, cut


def _let_go(root: Path, directory: Path, point: Point) -> tuple[int, int]:
    """Runs are nobody's, and of a new generation; returns that and how many there are."""
    with closing(LmdbLog(root, readonly=True, map_size=point.size + MAP_ROOM)) as log:
        own = log.head_of(STORE_RUN)
        acts = () if own is None else history(log, STORE_RUN, 1, own.version)
        generation = 1 + max((one.event.generation for one in acts if isinstance(one.event, StoreRestored)), default=0)
    with closing(Copied(directory, point.size + MAP_ROOM)) as copy:
        return generation, copy.let_go(generation)


def _stand(root: Path, directory: Path, point: Point, cut: Cut) -> None:
    """Runs that were cut back stand where their events say; that may take snapshots, so those are vouched for by now."""
    with closing(open_log(root, readonly=True, create=False)) as log:  # with the keys there are
        heads = [head for key in cut.touched if (head := log.head_of(key)) is not None]
        states = {head.run_key: recover(log, head).state for head in heads}
    with closing(Copied(directory, point.size + MAP_ROOM)) as copy:
        copy.set_standing({key: (state.status, state.waiting_for) for key, state in states.items()})


# --- what is said of it in its own stream ---------------------------------------------------------------------------


def _record(root: Path, event: StoreRestored, cut: Cut, clock: Clock) -> None:
    """Where the store comes from; then what was done by hand since and can't be taken back."""
    with closing(LmdbLog(root, create=False)) as log:
        now = clock.now()
        acts = read_events([Stored(0, data) for data in cut.acts], log.blobs)
        said = [
            Act(pack(_kept(one.event, cut), vouch=one.vouch), one.time) for one in acts if _still_true(log, one, cut)
        ]
        lost = [_kept(_lost(head, event.actor), cut) for head in cut.lost]
        write_all(log, [Act(pack(event), now), *said, *(Act(pack(one), now) for one in lost)])


def _lost(head: Head, actor: str) -> RunDeleted:
    return RunDeleted(head.run_id, head.run_key, head.incarnation, head.version, head.digest, actor, LOST)


def _kept(event: Event, cut: Cut) -> Event:
    """An operation by hand as it is said again: the end of a run that was deleted may be cut off."""
    if isinstance(event, RunDeleted) and event.head_digest in cut.gone:
        return replace(event, head_digest=NO_DIGEST)
    return event


def _still_true(log: Log, recorded: Recorded, cut: Cut) -> bool:
    """Whether an operation by hand that came later holds of the store as it is now: it deleted or compacted a run, say."""
    event = recorded.event
    key = getattr(event, "run_key", None)
    if isinstance(event, _UNDONE) or key in cut.unborn:
        return False
    if isinstance(event, CheckpointCreated):
        head = log.head_of(event.run_key)
        return head is not None and event.at <= head.version
    return True


def _send_again(root: Path, cut: Cut) -> None:
    """Signals that had been taken after the point wait again, since nobody will send them a second time."""
    with closing(LmdbLog(root, create=False)) as log:
        taken = [one for one in _readable(log, cut.events) if _waits_again(log, one)]
        write_all(
            log, [Post(one.run_key, _message(one.event)) for one in taken if isinstance(one.event, SignalReceived)]
        )


def _readable(log: Log, events: Iterable[bytes]) -> Iterator[Recorded]:
    """Events that can be read here: those of encrypted runs can't."""
    for data in events:
        with suppress(NoKey, Shredded):
            yield from read_events([Stored(0, data)], log.blobs)


def _waits_again(log: Log, recorded: Recorded) -> bool:
    """Whether a signal is for a run that can still take it. A child says again by itself how it ended."""
    event, head = recorded.event, log.head_of(recorded.run_key)
    return (
        isinstance(event, SignalReceived)
        and not event.name.startswith("child:")
        and head is not None
        and head.status not in FINAL
    )


def _message(event: SignalReceived) -> bytes:
    said = {"actor": event.actor, "kind": "signal", "name": event.name, "payload": thaw(event.payload), "why": ""}
    return encode({**said, "key": event.key} if event.key else said)


def _revouch(root: Path, directory: Path, point: Point) -> None:
    """The own stream's events vouch for snapshots at the versions they have now."""
    with closing(LmdbLog(root, readonly=True)) as log:
        own = log.head_of(STORE_RUN)
        vouched = {}
        for one in () if own is None else history(log, STORE_RUN, 1, own.version):
            key = getattr(one.event, "run_key", None)
            if one.vouch is not None and key is not None:
                vouched[key, one.vouch.version] = one.version
    with closing(Copied(directory, point.size + MAP_ROOM)) as copy:
        copy.vouch(vouched)


def _beside(backup: Path, root: Path, upto: int) -> None:
    """What lies beside the log: keys, and the seals of what the store still holds."""
    copy_files(backup / KEYS, root / KEYS)
    copy_files(backup / SEALS, root / SEALS)
    for path in (root / SEALS).glob("*.note"):
        if not path.stem.isdecimal() or int(path.stem) > upto:
            path.unlink()
