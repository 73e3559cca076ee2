"""Law: what is recovered at any version of any run is the fold of that version's line, with snapshots and without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventflow.change import Op
from eventflow.codec import read_events, state_digest
from eventflow.event import EffectFinished, EffectStarted, Event, Recorded, Rewound, Transitioned, Vouch
from eventflow.log import Head, LmdbLog, Log, MemoryLog, Upkeep
from eventflow.plain import FrozenDict, freeze
from eventflow.recovery import recover
from eventflow.state import Identity, State, evolve
from eventflow.testing.author import Author, written

LONG = "a text that is kept once, since it is long " * 30
values = st.sampled_from([0, "", None, [], {}, LONG, 1.5, b"\0", {"deep": [1, {"x": LONG}]}, list(range(300))])
keys = st.sampled_from(["a", "b", "c"])
ops = st.one_of(
    st.builds(lambda key, value: Op("set", (key,), freeze(value)), keys, values),
    st.builds(lambda key: Op("delete", (key,)), keys),
    st.builds(lambda items: Op("extend", ("list",), freeze(items)), st.lists(values, min_size=1, max_size=3)),
    st.builds(lambda count: Op("extend", ("list",), freeze(["x" * 500] * count)), st.just(120)),
    st.builds(lambda key, value: Op("merge", ("dict",), FrozenDict({key: freeze(value)})), keys, values),
    st.builds(lambda key, value: Op("set", ("dict", key), freeze(value)), keys, values),
    st.builds(lambda number: Op("add", ("number",), number), st.integers(-3, 3)),
)
moves: st.SearchStrategy[Event] = st.builds(
    lambda change: Transitioned("a", "a", change=tuple(change)), st.lists(ops, max_size=3)
)
share = st.floats(0, 1)
steps = st.one_of(
    st.tuples(st.just("add"), share, st.lists(moves, min_size=1, max_size=4)),
    st.tuples(st.just("add"), share, st.lists(moves, min_size=1, max_size=4)),
    st.tuples(st.just("effect"), share, values),
    st.tuples(st.just("snapshot"), share, st.booleans()),
    st.tuples(st.just("rewind"), share, share),
    st.tuples(st.just("fork"), share, share),
)


@dataclass
class Run:
    """What the law knows of a run: its head, the line of each version, what its next event should vouch for."""

    head: Head
    lines: dict[int, list[Recorded]] = field(default_factory=dict)
    identity: Identity | None = None
    vouch: Vouch | None = None


class World:
    """A log, and beside it the lines that everything written to it should lie on."""

    def __init__(self, log: Log) -> None:
        self.author, self.runs = Author(log), list[Run]()
        self._began(self.author.start("r0", {"list": [], "dict": {}, "number": 0}), {}, [])

    def _event(self, head: Head, version: int) -> Recorded:
        log = self.author.log
        return read_events(log.read(head.run_key, version, version), log.blobs)[0]

    def _began(self, head: Head, lines: dict[int, list[Recorded]], before: list[Recorded]) -> None:
        run = Run(head, {**lines, head.version: [*before, self._event(head, head.version)]})
        run.identity = self.expected(run, head.version).run
        self.runs.append(run)

    def step(self, kind: str, which: float, what: Any) -> None:
        """Do one thing to one of the runs."""
        run = self.runs[round(which * (len(self.runs) - 1))]
        if kind == "add":
            self._add(run, *what)
        elif kind == "effect":
            version = run.head.version
            started = EffectStarted("pay", str(version), "tool", True, freeze(what), bytes(32), f"key-{version}")
            self._add(run, started)
            self._add(run, EffectFinished("pay", str(version), freeze(what), FrozenDict({"tokens": 3})))
        elif kind == "snapshot":
            run.vouch = self.author.snapshot(run.head, anew=what)
        else:
            self._bend(kind, run, max(1, round(what * run.head.version)))

    def _add(self, run: Run, *events: Event) -> None:
        line = run.lines[run.head.version]
        run.head = self.author.add(run.head, *events, vouch=run.vouch)
        run.vouch = None
        for version in range(run.head.version - len(events) + 1, run.head.version + 1):
            line = run.lines[version] = [*line, self._event(run.head, version)]

    def _bend(self, kind: str, run: Run, version: int) -> None:
        line = run.lines[version]
        if kind == "rewind":
            run.head = self.author.add(run.head, Rewound(version, "a"), vouch=run.vouch)
            run.vouch = None
            run.lines[run.head.version] = [*line, self._event(run.head, run.head.version)]
        elif len(self.runs) < 6:
            head = self.author.fork(run.head, version, f"r{len(self.runs)}", change=(Op("add", ("number",), 100),))
            self._began(head, {one: kept for one, kept in run.lines.items() if one <= version}, line)

    def expected(self, run: Run, version: int) -> State:
        """The fold of a version's line; a rewind to before a fork goes on under the fork's own name."""
        state: State | None = None
        for recorded in run.lines[version]:
            if isinstance(recorded.event, Rewound) and state is not None and state.run.run_key != recorded.run_key:
                owner = next(one for one in self.runs if one.head.run_key == recorded.run_key)
                assert owner.identity is not None
                state = replace(state, run=owner.identity)
            state = evolve(state, recorded)
        assert state is not None
        return state


def check(world: World, log: Log) -> None:
    """Every version of every run, with snapshots and without."""
    for run in world.runs:
        head = log.head(run.head.run_id)
        assert head == run.head
        for version in sorted(run.lines):
            expected = world.expected(run, version)
            for snapshots in (True, False):
                state = recover(log, head, version, snapshots=snapshots).state
                assert state == expected
                assert state_digest(state) == state_digest(expected)


def story(make: Callable[[Path], Log], reopen: Callable[[Log], Log], told: list[tuple[str, float, Any]]) -> None:
    """Do what is told, check everything, then without any snapshot again, in the log as it is when opened anew."""
    with tempfile.TemporaryDirectory() as directory:
        log = make(Path(directory))
        world = World(log)
        for kind, which, what in told:
            world.step(kind, which, what)
        check(world, log)
        log = reopen(log)
        for run in world.runs:
            versions = tuple(version for version, _ in log.snapshots(run.head.run_key, 1 << 40))
            written(log, Upkeep(run.head.run_key, drop=versions))
        check(world, log)
        log.close()


def reopened(log: Log) -> Log:
    """A durable log, closed and opened again."""
    assert isinstance(log, LmdbLog)
    log.close()
    return LmdbLog(log.path)


LOGS: dict[str, tuple[Callable[[Path], Log], Callable[[Log], Log]]] = {
    "memory": (lambda _: MemoryLog(), lambda log: log),
    "lmdb": (lambda directory: LmdbLog(directory / "store"), reopened),
}


@pytest.mark.parametrize("kind", LOGS)
@given(told=st.lists(steps, max_size=20))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_recovery_is_the_fold_of_the_line(kind: str, told: list[tuple[str, float, Any]]) -> None:
    """Random appends, effects, snapshots, rewinds and forks, in any order."""
    make, reopen = LOGS[kind]
    story(make, reopen, told)
