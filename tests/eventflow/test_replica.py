"""Copies of a store: the same bytes at the same positions, gone on with, proved, and promoted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventflow import replica
from eventflow.checkpoint import Checkpoint
from eventflow.clock import ManualClock, SystemClock
from eventflow.codec import pack, pack_state, read_events
from eventflow.errors import Conflict, Corrupt, ProofFailed, StoreUnusable, VersionConflict
from eventflow.event import RunCompacted, RunPinned, RunUnpinned, SignalReceived, StoreRestored, Transitioned
from eventflow.log import (
    NOBODY,
    STORE_RUN,
    Act,
    Compaction,
    Guard,
    Head,
    LmdbLog,
    Log,
    MemoryLog,
    Mirror,
    Post,
    Posted,
    Query,
    Upkeep,
    open_copy,
    open_log,
)
from eventflow.log.mirror import EPOCH_BITS
from eventflow.proof import digest
from eventflow.recovery import recover
from eventflow.replica import Replica, birth_clock, promote
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import LONG, MOVE, OWNER, deletion, moved

Make = Callable[[Log], Log]


@pytest.fixture
def source() -> MemoryLog:
    """A store with a life behind it: forks, rewinds, snapshots, messages, a deleted run, one that is driven."""
    log = MemoryLog(clock=ManualClock(seed=3))
    author = Author(log)
    log.new_owner(OWNER)
    head = author.add(author.start("r", {"x": 1}, tags=("red",)), moved("text", LONG))
    head = author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(2, ("manual",), 5, "kept"),))
    author.fork(head, 2, "fork")
    author.rewind(head, 1)
    written(log, deletion(author.start("gone"), author.clock.now()))
    posted = written(log, Post(head.run_key, b"taken"))
    assert isinstance(posted, Posted)
    newest = log.head("r")
    assert newest is not None
    author.add(
        newest, SignalReceived("go", None, posted.message), taken=(posted.message,), claim=OWNER, status="waiting"
    )
    written(log, Post(head.run_key, b"waits"))
    written(log, Act(pack(RunPinned("r", head.run_key)), 9, guard=Guard(head.run_key, "pin", 9, "ann")))
    return log


@pytest.fixture(params=["memory", "lmdb"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes the place of a copy."""
    opened: list[Log] = []

    def make(of: Log) -> Log:
        clock = birth_clock(of)
        place = tmp_path / f"copy-{len(opened)}"
        opened.append(MemoryLog(clock=clock) if request.param == "memory" else LmdbLog(place, clock=clock))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def everything(log: Log) -> dict[str, object]:
    """What must be the same in a copy."""
    runs = log.runs(Query())
    keys = [one.head.run_key for one in runs]
    heads = [(one.head.run_id, one.head.version, one.head.digest, one.head.status, one.head.epoch) for one in runs]
    return {
        "store": log.store_id, "feed": log.feed(0, 999), "heads": heads, "entries": [one.entry for one in runs],
        "checkpoints": [log.checkpoints(key) for key in keys], "bends": [log.bends(key) for key in keys],
        "inbox": [log.inbox(key) for key in keys], "incarnation": log.next_incarnation("gone"),
        "guards": log.guards(), "snapshots": [log.snapshots(key, 99) for key in keys],
        "states": [recover(log, one.head).state for one in runs],
    }  # fmt: skip


def test_a_copy_is_the_same_store(source: MemoryLog, made: Make) -> None:
    """Bytes, positions, heads, entries, checkpoints, snapshots, waiting messages and used ids; nobody owns a run."""
    copy = made(source)
    pair = Replica(source, copy)
    assert pair.catch_up() == source.position() - 1
    assert everything(copy) == everything(source)
    assert {one.head.owner for one in copy.runs(Query())} == {NOBODY}
    assert pair.prove().size == source.position()


def test_a_copy_goes_on_where_it_stands(source: MemoryLog, made: Make) -> None:
    """Opened again it is proved to begin the source, and takes only what is new, deletions among it."""
    copy = made(source)
    Replica(source, copy).catch_up()
    author = Author(source, clock=ManualClock(seed=9))
    head = author.add(author.start("late"), MOVE)
    fork = source.head("fork")
    assert fork is not None
    written(source, deletion(fork, 7))
    pair = Replica(source, copy)
    assert pair.proof.size == pair.proof.of - 3
    assert pair.catch_up() == 3
    assert everything(copy) == everything(source)
    author.add(head, MOVE)
    assert pair.catch_up() == 1
    assert pair.catch_up() == 0
    assert everything(copy) == everything(source)


def test_a_copy_can_stop_after_any_event(source: MemoryLog, made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two pages of one event each, it goes on and ends the same."""
    monkeypatch.setattr(replica, "PAGE", 1)
    copy = made(source)
    for _ in range(source.position()):
        pair = Replica(source, copy)
        page = source.feed(copy.position(), 1)
        if page:
            pair._write(pair._page(page))
    Replica(source, copy).catch_up()
    theirs, ours = everything(source), everything(copy)
    kept = ("store", "feed", "entries", "bends", "inbox", "incarnation", "states")
    assert [ours[name] for name in kept] == [theirs[name] for name in kept]


def test_new_messages_get_numbers_of_their_own(source: MemoryLog, made: Make) -> None:
    """A number that an event of the history names is not given again."""
    copy = made(source)
    Replica(source, copy).catch_up()
    promote(copy, SystemClock())
    head = copy.head("r")
    assert head is not None
    posted = written(copy, Post(head.run_key, b"new"))
    assert isinstance(posted, Posted)
    assert posted.message > max(number for number, _ in source.inbox(head.run_key))


def test_a_compacted_run_is_copied_as_it_is(source: MemoryLog, made: Make) -> None:
    """Whether it was compacted before the copy began or while it followed, it begins with its origin's snapshot."""
    early, late = made(source), made(source)
    pair = Replica(source, late)
    pair.catch_up()
    fork, head = source.head("fork"), source.head("r")
    assert fork is not None
    assert head is not None
    written(source, deletion(fork, 7))
    written(source, Act(pack(RunUnpinned("r", head.run_key)), 8, unguard=Guard(head.run_key, "pin", 9, "ann")))
    state = recover(source, head).state
    packed = pack_state(state, anew=True)
    from eventflow.event import Vouch  # noqa: PLC0415 - one word of one test

    event = RunCompacted("r", head.run_key, head.incarnation, 1, head.version)
    act = Act(
        pack(event, vouch=Vouch(packed.version, packed.digest)), 9, Upkeep(head.run_key, packed),
        compact=Compaction(head.run_key, head.version),
    )  # fmt: skip
    written(source, act)
    Author(source, clock=ManualClock(seed=12)).add(head, MOVE)
    pair.catch_up()
    Replica(source, early).catch_up()
    newest = source.head("r")
    for copy in (early, late):
        assert newest is not None
        assert copy.feed(0, 99) == source.feed(0, 99)
        assert copy.entry(head.run_key) == source.entry(head.run_key)
        assert recover(copy, newest).state == recover(source, newest).state


# --- what is refused


def test_only_a_beginning_of_the_source_is_gone_on_with(source: MemoryLog, made: Make) -> None:
    """Another store, a store with a life of its own, one that is ahead, and one that parted are refused."""
    with pytest.raises(Conflict, match="another store"):
        Replica(source, MemoryLog())
    twin = MemoryLog(clock=ManualClock(seed=3))
    Author(twin).start("r")
    with pytest.raises(Conflict, match="life of its own"):
        Replica(source, twin)
    written(twin, Mirror(follows=True))
    with pytest.raises(Conflict, match="does not begin"):
        Replica(source, twin)
    copy = made(source)
    Replica(source, copy).catch_up()
    with pytest.raises(Conflict, match="ahead"):
        Replica(MemoryLog(clock=ManualClock(seed=3)), copy)
    parted = MemoryLog(clock=ManualClock(seed=3))
    author = Author(parted, clock=ManualClock(seed=4))
    for number in range(source.position()):
        author.start(f"r{number}")
    with pytest.raises(Conflict, match="does not begin"):
        Replica(parted, copy)


def test_a_source_whose_chain_is_broken_is_not_copied(source: MemoryLog, made: Make) -> None:
    """An event that does not follow the one before stops the copy at the page it is in."""
    head = source.head("fork")
    assert head is not None
    places = [one.position for one in source.feed(0, 99) if one.data[:1] != b"\xff"]
    del source._events[places[-3] - 1]
    with pytest.raises((Corrupt, ProofFailed, VersionConflict)):
        Replica(source, made(source)).catch_up()


def test_a_copy_that_holds_something_else_is_found(source: MemoryLog, made: Make) -> None:
    """What was written is read back and compared before it counts."""
    copy = made(source)
    pair = Replica(source, copy)
    pair.catch_up()
    pair._tree.add(bytes(32))
    with pytest.raises(ProofFailed):
        pair.prove()


# --- following, promoted


def test_a_copy_is_not_driven(source: MemoryLog, tmp_path: Path) -> None:
    """It opens to be read, and to be copied into; whoever would write is told to promote it."""
    log = open_copy(tmp_path / "copy", clock=birth_clock(source))
    Replica(source, log).catch_up()
    log.close()
    with pytest.raises(StoreUnusable, match="store promote"):
        open_log(tmp_path / "copy")
    reading = open_log(tmp_path / "copy", readonly=True)
    assert reading.head("r") is not None
    reading.close()


def test_a_promoted_copy_is_a_store_of_its_own_life(source: MemoryLog, made: Make) -> None:
    """Every epoch is above all that the source can reach, its own stream says so, and it follows nobody any more."""
    copy = made(source)
    Replica(source, copy).catch_up()
    assert promote(copy, SystemClock(), actor="ann", why="fire") == 1
    heads: list[Head] = [one.head for one in copy.runs(Query())]
    assert all(head.epoch >> EPOCH_BITS == 1 for head in heads)
    own = copy.head_of(STORE_RUN)
    assert own is not None
    [last] = read_events(copy.read(STORE_RUN, own.version, own.version), copy.blobs)
    assert isinstance(last.event, StoreRestored)
    assert (last.event.generation, last.event.upto, last.event.actor) == (1, source.position(), "ann")
    with pytest.raises(Conflict, match="nothing to promote"):
        promote(copy, SystemClock())
    with pytest.raises(Conflict, match=r"ahead|life of its own"):
        Replica(source, copy)
    author = Author(copy, clock=ManualClock(seed=8))
    author.log.new_owner(OWNER)
    head = author.add(heads[0], Transitioned("a", "a"), claim=OWNER)
    assert head.digest == digest(copy.read(head.run_key, head.version, head.version)[0].data)
