"""Laws of folding: a run that was lived through, read from its events or read from a snapshot is the same run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow.change import extend, resolve
from eventflow.codec import Place, Stored, pack, pack_state, read_events, seal, state_digest, unpack_blob, unpack_state
from eventflow.event import (
    AttemptFailed,
    EffectFailed,
    EffectFinished,
    EffectRejected,
    EffectStarted,
    Event,
    Failure,
    Forked,
    Recorded,
    Rewound,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    RunSuspended,
    SignalReceived,
    Transitioned,
)
from eventflow.plain import ROPE_FROM, FrozenList, freeze, same
from eventflow.proof import digest
from eventflow.state import State, evolve, fold, status_after

FAILURE = Failure("ValueError", "it broke", "flow.py:3")
LONG = "a long text " * 100
KEYS = st.sampled_from(["b", "a", "zz", "aa", "é", "€", "topic", "log", "z"])
LEAVES = (
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from([0.0, -0.0, "", "x", LONG, b"", LONG.encode()])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
UPDATES = st.dictionaries(KEYS, VALUES, max_size=4).flatmap(lambda one: st.permutations(list(one.items())).map(dict))
NAMES = st.sampled_from(["llm", "a", "pay#1", "mail"])
STEPS = st.lists(
    st.tuples(st.just("move"), UPDATES) | st.tuples(st.just("grow"), st.integers(1, 400)) | st.tuples(st.just("signal"), VALUES)
    | st.tuples(st.just("effect"), st.tuples(NAMES, VALUES, st.dictionaries(KEYS, st.integers(0, 5), max_size=3)))
    | st.tuples(st.just("begin"), NAMES) | st.tuples(st.just("lose"), NAMES) | st.tuples(st.just("reject"), NAMES)
    | st.tuples(st.sampled_from(["attempt", "pause", "suspend", "fail"]), st.none()),
    max_size=14,
)  # fmt: skip


@dataclass
class Life:
    """A run as an engine lives it: it decides on its state, stores, and only then goes on."""

    state: State
    live: list[Recorded]
    stored: list[Stored]
    rows: dict[bytes, bytes] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)

    @classmethod
    def begun(cls, data: dict[str, Any]) -> Life:
        """A run that has just started."""
        start = RunStarted(
            "r", b"s" * 16, "flow", b"d" * 32, freeze({"n": [1]}), "a", freeze(data), b"i" * 32, FrozenList(["t"])
        )
        life = cls.__new__(cls)
        life.live, life.stored, life.rows, life.states = [], [], {}, []
        life.state = life._recorded(None, start)
        return life

    def record(self, event: Event) -> None:
        """One more event, stored and then folded."""
        assert status_after(self.state, event)
        self.state = self._recorded(self.state, event)

    def _recorded(self, state: State | None, event: Event) -> State:
        version = len(self.live) + 1
        before = self.live[-1].digest if self.live else bytes(32)
        packed = pack(event)
        self.rows |= {blob.digest: blob.stored for blob in packed.blobs}
        data = seal(packed, Place(b"k" * 16, 1, version, 1, version * 10, before))
        recorded = Recorded(event, b"k" * 16, 1, version, version, 1, version * 10, digest(data), before)
        self.live.append(recorded)
        self.stored.append(Stored(version, data))
        self.states.append(evolve(state, recorded))
        return self.states[-1]

    def fetch(self, names: Any) -> dict[bytes, bytes]:
        """The blobs of these names."""
        return {name: unpack_blob(self.rows[name], name) for name in names}

    def read(self) -> list[Recorded]:
        """The events as their bytes say."""
        return read_events(self.stored, self.fetch, strict=True)

    def restored(self, state: State) -> State:
        """The state as a snapshot of it says."""
        packed = pack_state(state)
        self.rows |= {blob.digest: blob.stored for blob in packed.blobs}
        return unpack_state(packed.root, self.fetch, "a test")[0]

    def step(self, kind: str, what: Any) -> None:
        """One thing that happens to a run, if it can happen now."""
        state, node = self.state, self.state.node
        effect = (
            self.state.effects.get(f"{'pay%231' if what == 'pay#1' else what}#1") if isinstance(what, str) else None
        )
        if state.status == "failed":
            self.record(RunResumed(node, b"d" * 32, freeze({"b": 1, "a": 2}), why="mended"))
        elif kind in ("move", "grow"):
            update = what if kind == "move" else {"log": [f"item {number}" for number in range(what)]}
            held = state.data.get("log")
            reducers = {"log": extend} if kind == "grow" and (held is None or isinstance(held, list)) else {}
            self.record(Transitioned(node, "b" if node == "a" else "a", change=resolve(state.data, update, reducers)))
        elif kind == "signal":
            self.record(SignalReceived("go", freeze(what), len(state.signals)))
        elif kind == "effect":
            name, output, usage = what
            self.record(EffectStarted(name, "1", "call", True, freeze(output), b"i" * 32, "ef"))
            self.record(EffectFinished(name, "1", freeze(output), freeze(usage)))
        elif kind == "begin":
            self.record(EffectStarted(what, "1", "call", False, None, b"i" * 32, "ef"))
        elif kind in ("lose", "reject") and effect is not None:
            self.record(EffectFailed(what, "1", FAILURE) if kind == "lose" else EffectRejected(what, "1"))
        else:
            plain = {
                "attempt": AttemptFailed(node, state.attempt, FAILURE, 99),
                "pause": RunPaused(),
                "suspend": RunSuspended(node),
            }
            self.record(plain.get(kind, RunFailed(node, FAILURE)))


def lived(data: dict[str, Any], steps: list[tuple[str, Any]]) -> Life:
    """A run that has lived through steps."""
    life = Life.begun(data)
    for kind, what in steps:
        life.step(kind, what)
    return life


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, type for type, dicts key for key in the order of iteration."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return same(one, other)


def equal(one: State | None, other: State | None) -> bool:
    """Whether two states are the same in every part, and look the same when they are iterated."""
    assert one is not None
    assert other is not None
    return all(alike(getattr(one, part.name), getattr(other, part.name)) for part in fields(State)) and all(
        alike(getattr(one.run, part.name), getattr(other.run, part.name)) for part in fields(one.run)
    )


@given(UPDATES, STEPS)
@settings(max_examples=120, deadline=None)
def test_a_live_state_and_a_recovered_one_are_the_same_key_for_key(
    data: dict[str, Any], steps: list[tuple[str, Any]]
) -> None:
    """From the events' bytes and from each snapshot on the way: equal, in one order of keys, with one digest."""
    life = lived(data, steps)
    read = life.read()
    assert read == life.live
    assert equal(fold(None, read), life.state)
    state: State | None = None
    for recorded, live in zip(read, life.states, strict=True):
        state = evolve(state, recorded)
        restored = life.restored(live)
        assert equal(state, live)
        assert equal(restored, live)
        assert state_digest(state) == state_digest(restored) == state_digest(live)


@given(UPDATES, STEPS, st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_folding_may_begin_at_any_snapshot(data: dict[str, Any], steps: list[tuple[str, Any]], at: int) -> None:
    """A snapshot and the events after it give what all events give; a snapshot is a cache."""
    life = lived(data, steps)
    at %= len(life.live)
    assert equal(fold(life.restored(life.states[at]), life.read()[at + 1 :]), life.state)
    assert equal(fold(life.states[at], life.live[at + 1 :]), life.state)


@given(UPDATES, STEPS, STEPS, st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_rewound_run_goes_on_as_if_it_had_never_gone_further(
    data: dict[str, Any], steps: list[tuple[str, Any]], more: list[tuple[str, Any]], to: int
) -> None:
    """The line is the events up to the version gone back to, and those after the rewind; nothing else shows."""
    life = lived(data, steps)
    to %= len(life.states)
    abandoned = [pack_state(state).digest for state in life.states]
    life.state = life.states[to]
    life.record(Rewound(to + 1, life.state.node))
    cut = len(life.live)
    for kind, what in more:
        life.step(kind, what)
    read = life.read()
    assert equal(fold(None, [*read[: to + 1], *read[cut - 1 :]]), life.state)
    assert [state_digest(state) for state in life.states[: len(abandoned)]] == abandoned


@given(UPDATES, STEPS, UPDATES)
@settings(max_examples=60, deadline=None)
def test_a_fork_folds_from_its_parents_history(
    data: dict[str, Any], steps: list[tuple[str, Any]], change: dict[str, Any]
) -> None:
    """Parent and child share a past and nothing after it."""
    life = lived(data, steps)
    parent = life.state
    before = state_digest(parent)
    forked = Forked("r2", b"s" * 16, "r", b"k" * 16, 1, parent.version, resolve(parent.data, change, {}))
    recorded = Recorded(forked, b"c" * 16, 1, parent.version + 1, 99, 1, 500, b"f" * 32, parent.digest)
    child = evolve(parent, recorded)
    assert equal(evolve(fold(None, life.read()), recorded), child)
    assert equal(life.restored(child), child)
    grown = evolve(
        child,
        Recorded(
            Transitioned(child.node, "x", change=resolve(child.data, {"log": ["new"]}, {})),
            b"c" * 16,
            1,
            child.version + 1,
            100,
            1,
            501,
            b"g" * 32,
            b"f" * 32,
        ),
    )
    assert grown.data["log"] == ["new"]
    assert state_digest(parent) == before
    assert state_digest(child) == state_digest(life.restored(child))


@given(UPDATES, STEPS)
@settings(max_examples=40, deadline=None)
def test_folding_changes_nothing_it_is_given(data: dict[str, Any], steps: list[tuple[str, Any]]) -> None:
    """Old states stay what they were, though they share with new ones."""
    life = lived(data, steps)
    seen = [(state, repr(state)) for state in life.states]
    if not life.state.ended:
        life.record(
            RunCompleted(life.state.node, resolve(life.state.data, {"log": [*range(ROPE_FROM)], "a": None}, {}))
        )
    fold(None, life.live)
    assert all(repr(state) == text for state, text in seen)
