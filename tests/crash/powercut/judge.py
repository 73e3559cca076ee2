"""What is left after a cut, opened by the real recovery: whether everything holds that was promised.

States are judged in forked children, since a file without its end kills who reads it; a child that dies is a failure of the
state it was at, and another goes on behind it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from eventflow.clock import ManualClock
from eventflow.codec import state_digest
from eventflow.event import Transitioned
from eventflow.log import LmdbLog
from eventflow.recovery import recover
from eventflow.testing.author import Author
from eventflow.verification import verify_store
from powercut.disk import KINDS, Disk, Known, Tree
from powercut.trace import Call, calls

Digests = dict[tuple[str, int], str]  # by run and version, of every event that was ever acknowledged
MOVE = Transitioned("a", "a")
WORKERS = 2  # processes that judge at once
BIRTH = 8  # one in so many states is of a store that is being made
MEMORY = Path("/dev/shm")  # where a sync costs nothing: what is judged is a state, not the disk it lies on


@dataclass(frozen=True)
class Cut:
    """A crash state: after how many calls the power went, and what the disk made of it."""

    point: int
    kind: str
    seed: int


@dataclass
class Recording:
    """A load that was recorded: its calls, and what became of each run in the end."""

    store: Path
    witness: Path
    calls: list[Call]
    digests: Digests = field(default_factory=dict)

    @staticmethod
    def read(store: Path, witness: Path, record: Path) -> Recording:
        found = Recording(store, witness, list(calls(record)))
        for line in witness.read_text().splitlines():
            for run, version, digest in json.loads(line).get("told", ()):
                found.digests[run, version] = digest
        return found

    def replayed(self) -> Iterator[tuple[int, Disk]]:
        """The disk before each call that changes what a cut leaves, and at the end."""
        disk = Disk(self.store, self.witness)
        changed = True
        for number, call in enumerate(self.calls):
            if disk.changes(call):
                if changed:
                    yield number, disk
                changed = True
            disk.apply(call)
        yield len(self.calls), disk


def planned(recording: Recording, count: int, *, seed: int = 1) -> list[Cut]:
    """Distinct crash states, spread over the whole load; fewer than `count` only if there are not more."""
    chance = random.Random(seed)  # noqa: S311 - a seed that can be repeated
    points = [(point, disk.pending(), bool(disk.known.told)) for point, disk in recording.replayed()]
    rounds = 1 + 2 * count // len(points)
    candidates = [
        Cut(point, kind, chance.randrange(1 << 30))
        for point, many, _ in points
        for kind in [*KINDS, *(["torn", "some", "any"] * rounds)][: 1 if not many else 4 if many == 1 else None]
    ]
    chance.shuffle(candidates)
    born = min(point for point, _, told in points if told)
    early = [cut for cut in candidates if cut.point < born][
        : count // BIRTH
    ]  # more than their share: names are made there
    chosen = set(early)
    candidates = [*early, *(cut for cut in candidates if cut not in chosen)]
    seen: dict[bytes, Cut] = {}
    while candidates and len(seen) < count:
        some, candidates = candidates[: 2 * count], candidates[2 * count :]
        _name_all(recording, sorted(some, key=lambda cut: cut.point), seen)
    kept = chance.sample(list(seen.values()), min(count, len(seen)))
    return sorted(kept, key=lambda cut: cut.point)


def at_risk(recording: Recording, cuts: Sequence[Cut]) -> list[Cut]:
    """Those of some cuts, which are in order, that took something of acknowledged events' files.

    Events had been acknowledged, and not all that was written to the files which hold them has come to the disk. After any
    other cut even a store that never syncs has everything.
    """
    waiting, found = iter(cuts), []
    cut = next(waiting, None)
    for point, disk in recording.replayed():
        while cut is not None and cut.point == point:
            written, left = (_held_in(disk.left(kind, cut.seed)) for kind in ("all", cut.kind))
            if disk.known.told and not written.items() <= left.items():
                found.append(cut)
            cut = next(waiting, None)
    return found


def _held_in(tree: Tree) -> Tree:
    """Of a state the files by which events are found; no mark, no lock."""
    return {path: content for path, content in tree.items() if path.endswith(("data.mdb", "CURRENT"))}


def _name_all(recording: Recording, cuts: list[Cut], seen: dict[bytes, Cut]) -> None:
    """Take out of cuts, which are in order, those that are as one before."""
    waiting = iter(cuts)
    cut = next(waiting, None)
    for point, disk in recording.replayed():
        while cut is not None and cut.point == point:
            seen.setdefault(_name(disk.left(cut.kind, cut.seed), disk.known), cut)
            cut = next(waiting, None)


def _name(tree: Tree, known: Known) -> bytes:
    """A digest of a state, and of what had been acknowledged before it."""
    made = hashlib.blake2b(repr((sorted(known.told.items()), sorted(known.gone))).encode())
    for path, content in tree.items():
        if not path.endswith("lock.mdb"):
            made.update(f"{path} {content and len(content)} ".encode())
            made.update(content or b"")
    return made.digest()


def judged(recording: Recording, cuts: Sequence[Cut]) -> Counter[str]:
    """What became of each state: "" if all was well, else what was wrong, in a few words."""
    outcomes: Counter[str] = Counter()
    share = -(-len(cuts) // WORKERS)
    parts = [cuts[start : start + share] for start in range(0, len(cuts), share)]
    going = [(part, _started(recording, part)) for part in parts]
    while going:
        part, (pid, pipe) = going.pop(0)
        with os.fdopen(pipe, "rb") as told:
            said = told.read().decode().splitlines()
        status = os.waitpid(pid, 0)[1]
        outcomes.update(said)
        if len(said) < len(part):
            ended = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended"
            outcomes[ended] += 1
            rest = part[len(said) + 1 :]
            if rest:
                going.append((rest, _started(recording, rest)))
    return outcomes


def _started(recording: Recording, cuts: Sequence[Cut]) -> tuple[int, int]:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _work(recording, cuts, lambda said: os.write(writing, said.encode() + b"\n"))
        code = 0
    finally:
        os._exit(code)


def _work(recording: Recording, cuts: Sequence[Cut], say: Callable[[str], object]) -> None:
    place = Path(tempfile.mkdtemp(prefix="eventflow-cut-", dir=MEMORY if MEMORY.is_dir() else None))
    waiting, folds = list(cuts), {}
    gc.freeze()  # what was made before the fork would be looked through, and so copied, again and again
    try:
        for point, disk in recording.replayed():
            while waiting and waiting[0].point == point:
                cut = waiting.pop(0)
                tree = disk.left(cut.kind, cut.seed)
                lay(tree, place)
                say(_short(faults(place / "store", disk.known, recording.digests, folds)))
                shutil.rmtree(place / "store", ignore_errors=True)
            if not waiting:
                return
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _short(said: str) -> str:
    return said.replace("\n", " ")[:200]


def lay(tree: Tree, place: Path) -> None:
    """Write a state where it can be opened."""
    for path, content in tree.items():
        if content is None:
            (place / path).mkdir(mode=0o700)
        else:
            fd = os.open(place / path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, content)
            os.close(fd)


def faults(
    store: Path, known: Known, digests: Digests, folds: dict[bytes, bytes], *, whole: bool = True
) -> str:  # fmt: skip
    """What is wrong with what a cut has left, empty if nothing is; `whole` verifies every event too."""
    try:
        with closing(LmdbLog(store)) as log:
            return _held(log, known, digests, folds) or (_verified(log) or _goes_on(log) if whole else "")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure of this state
        return f"{type(error).__name__}: {error}"


def _held(log: LmdbLog, known: Known, digests: Digests, folds: dict[bytes, bytes]) -> str:
    heads = {run: log.head(run) for run in known.begun}
    for run, begun in known.begun.items():
        head, told = heads[run], known.told.get(run, 0)
        version = head.version if head else 0
        if run in known.gone and head is not None:
            return "a run is back that had been deleted"
        if run in known.going and head is None:
            continue
        if version < told:
            return f"lost: a run is at version {version}, acknowledged was {told}"
        if version > begun:
            return f"a run is at version {version}, begun was {begun}"
        if head is not None and head.digest.hex() != digests.get((run, version), head.digest.hex()):
            return "a run holds another history than the one acknowledged"
    for head in filter(None, heads.values()):
        if head.digest not in folds:  # names the whole history, and so what it folds to
            folds[head.digest] = state_digest(recover(log, head, snapshots=False).state)
        if state_digest(recover(log, head).state) != folds[head.digest]:
            return "a recovered state is not what the events fold to"
    return ""


def _verified(log: LmdbLog) -> str:
    *_, report = verify_store(log)
    wrong = [one for one in report.findings if "definition" not in one.problem]  # an author's runs have none
    return f"verify: {wrong[0]}" if wrong else ""


def _goes_on(log: LmdbLog) -> str:
    """A new run can be started, and continued."""
    author = Author(log, clock=ManualClock(time.time_ns(), seed=os.getpid()))
    run_id = f"after-cut-{log.position()}"
    head = author.add(author.start(run_id), MOVE)
    return "" if log.head(run_id) == head and head.version == 2 else "the next append did not work"
