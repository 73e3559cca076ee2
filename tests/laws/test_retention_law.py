"""The law of retention: whatever is pruned, deleted, compacted or swept, each run that is left is what it was."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventflow.change import Op
from eventflow.codec import TOMBSTONE, Stored, pack_state, read_events, state_digest
from eventflow.errors import Conflict, NotFound
from eventflow.event import Transitioned
from eventflow.log import STORE_RUN, Clear, Head, LmdbLog, Log, MemoryLog, Query, Upkeep
from eventflow.plain import freeze
from eventflow.proof import digest
from eventflow.recovery import recover
from eventflow.retention import RetentionPolicy, compact_run, prune, sweep, sweeping
from eventflow.testing.author import Author, written
from eventflow.verification import verify_store

TEXTS = [letter * 1_200 for letter in "abcdef"]  # long enough to be kept once, and few, so that runs share them
steps = st.tuples(
    st.sampled_from(["start", "append", "append", "append", "snapshot", "fork", "rewind", "drop", "delete", "prune",
                     "compact", "clear", "sweep", "copy"]),
    st.integers(0, 7), st.integers(0, 5),
)  # fmt: skip


class World:
    """A log, and what each version of each run was when it was written."""

    def __init__(self, log: Log) -> None:
        self.log, self.author = log, Author(log)
        self.known: dict[bytes, dict[int, bytes]] = {}  # run key -> version -> digest of the state
        self.leaves: list[bytes] = []
        self.count = 0

    def heads(self) -> list[Head]:
        return [one.head for one in self.log.runs(Query())]

    def learn(self, head: Head) -> None:
        states = self.known.setdefault(head.run_key, {})
        entry = self.log.entry(head.run_key)
        assert entry is not None
        first = max(entry.origin, entry.parent_at + 1, max(states, default=0) + 1)
        for version in range(first, head.version + 1):
            states[version] = state_digest(recover(self.log, head, version, snapshots=False).state)

    def step(self, kind: str, which: int, what: int) -> None:
        heads = self.heads()
        if kind == "start" or not heads:
            self.count += 1
            self.learn(self.author.start(f"r{self.count}"))
            return
        head = heads[which % len(heads)]
        with contextlib.suppress(Conflict, NotFound):  # somebody needs it, or it is gone: then nothing was done
            self.act(kind, head, what)
        for one in self.heads():
            self.learn(one)

    def act(self, kind: str, head: Head, what: int) -> None:  # noqa: C901 - a case an act
        log, author = self.log, self.author
        version = max(head.version - what, 1)
        match kind:
            case "append":
                items = (
                    Op("set", ("x",), TEXTS[what]),
                    Op("set", ("list",), freeze([TEXTS[what - 1], "s" * 900] * (3 * what))),
                )
                author.add(head, Transitioned("a", "a", change=items))
            case "snapshot":
                author.add(head, Transitioned("a", "a"), vouch=author.snapshot(head))
            case "drop":
                written(log, Upkeep(head.run_key, drop=tuple(v for v, _ in log.snapshots(head.run_key, head.version))))
            case "copy":  # a snapshot that nothing vouches for yet needs its blobs too
                written(log, Upkeep(head.run_key, pack_state(author.state(head), anew=True)))
            case "fork":
                self.count += 1
                author.fork(head, version, f"r{self.count}")
            case "rewind":
                author.rewind(head, version)
            case "delete":
                self.delete(head)
            case "prune":
                author.clock.advance(1)
                prune(log, RetentionPolicy(keep=what), clock=author.clock)
            case "compact":
                compact_run(log, author.clock, head.run_id, version)
            case "clear":
                written(log, Clear(what + 1))
            case "sweep":
                sweep(log)

    def delete(self, head: Head) -> None:
        from eventflow.testing.contract.maker import deletion  # noqa: PLC0415 - of the contract

        written(self.log, deletion(head, self.author.clock.now()))

    def check(self) -> None:
        """Each run folds to what it was, with snapshots and without; all its events can be read; no digest is lost."""
        for head in self.heads():
            entry = self.log.entry(head.run_key)
            assert entry is not None
            for version, expected in self.known[head.run_key].items():
                if version >= entry.origin:
                    for snapshots in (True, False):
                        assert state_digest(recover(self.log, head, version, snapshots=snapshots).state) == expected
            read_events(self.log.read(head.run_key, 1, head.version), self.log.blobs, strict=True)
            for version, _ in self.log.snapshots(head.run_key, head.version):
                assert version >= entry.origin or self.log.read(head.run_key, version, version) == []
        *_, report = verify_store(self.log)
        assert [one for one in report.findings if "definition" not in one.problem] == []
        leaves = [_leaf(one) for one in self.log.feed(0, 1 << 30)]
        assert leaves[: len(self.leaves)] == self.leaves
        self.leaves = leaves
        assert self.log.head_of(STORE_RUN) is not None


def _leaf(stored: Stored) -> bytes:
    return stored.data[1:] if stored.data[:1] == TOMBSTONE else digest(stored.data)


def story(log: Log, told: list[tuple[str, int, int]]) -> None:
    """Do what is told and check everything now and then, and at the end after a sweep."""
    world = World(log)
    for number, (kind, which, what) in enumerate(told):
        world.step(kind, which, what)
        if number % 8 == 7:
            world.check()
    sweep(log)
    world.check()


LOGS: dict[str, Callable[[Path], Log]] = {"memory": lambda _: MemoryLog(), "lmdb": lambda path: LmdbLog(path / "store")}


@pytest.mark.parametrize("kind", LOGS)
@given(told=st.lists(steps, min_size=4, max_size=40))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_is_left_is_what_it_was(kind: str, told: list[tuple[str, int, int]]) -> None:
    """After any sequence of appends, snapshots, forks, rewinds, prunes, deletions, compactions and sweeps."""
    with tempfile.TemporaryDirectory() as directory:
        log = LOGS[kind](Path(directory))
        story(log, told)
        log.close()


def test_everything_goes_when_everything_was_deleted(tmp_path: Path) -> None:
    """No blob is left of a store without runs."""
    log = LmdbLog(tmp_path / "store")
    world = World(log)
    for one in [("start", 0, 0), ("append", 0, 5), ("snapshot", 0, 0), ("fork", 0, 0), ("append", 0, 3)]:
        world.step(*one)
    assert log.blob_names(b"", 9)
    for _ in range(2):
        for head in world.heads():
            world.step("delete", world.heads().index(head), 0)
    assert world.heads() == []
    sweep(log)
    assert log.blob_names(b"", 9) == []
    log.close()


@pytest.mark.parametrize("blind", ["refers", "piece_names"])
def test_a_sweep_that_overlooks_a_reference_is_found_out(blind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law fails for a sweep that does not look at events, or not at snapshots: one value too many is gone."""
    empty: dict[str, Any] = {"refers": lambda _: False, "piece_names": lambda *_: set()}
    monkeypatch.setattr(sweeping, blind, empty[blind])
    with pytest.raises(Exception, match=r"missing|is not"):
        story(MemoryLog(), [("start", 0, 0), ("append", 0, 5), ("copy", 0, 0), ("append", 0, 4), ("sweep", 0, 0)])
