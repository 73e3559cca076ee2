"""Law: two branches never leak into each other, whatever is done to one: appended, forked, rewound, deleted.

A model beside the log remembers what each run said after its own last step; after every step all other runs must say it
still: each event's bytes, each version's state, by folding and by snapshots, and every value kept beside the events.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventflow.change import Op
from eventflow.codec import encode, state_digest
from eventflow.engine.operations import delete_run
from eventflow.errors import HasForks
from eventflow.event import EffectFinished, EffectStarted, Event, Transitioned
from eventflow.log import Head, LmdbLog, Log, MemoryLog, Query
from eventflow.plain import FrozenDict, freeze, thaw
from eventflow.proof import digest
from eventflow.recovery import recover, walk
from eventflow.testing.author import Author
from eventflow.verification import Report, verify_run
from eventflow.what_if import EffectPolicy

LONG = ["a value that is long enough to be kept once, and shared " * 30, "another one of those, which is as long " * 30]
share = st.floats(0, 1)
values = st.sampled_from([0, None, *LONG, [1, {"x": LONG[0]}], list(range(300))])
steps = st.one_of(
    st.tuples(st.just("move"), share, values),
    st.tuples(st.just("extend"), share, values),
    st.tuples(st.just("call"), share, values),
    st.tuples(st.just("fork"), share, share, values, st.booleans()),
    st.tuples(st.just("rewind"), share, share),
    st.tuples(st.just("snapshot"), share),
    st.tuples(st.just("delete"), share),
)


class Forest:
    """Runs that are forks of each other, and what each of them last said."""

    def __init__(self, log: Log) -> None:
        self.log, self.author = log, Author(log)
        self.heads: dict[str, Head] = {}
        self.said: dict[str, list[bytes]] = {}
        self.begun, self.calls = 0, 0
        self._is(self.author.start("r0", {"list": [], "n": 0, "text": LONG[0]}))

    def _is(self, head: Head) -> None:
        self.heads[head.run_id] = head
        self.said[head.run_id] = self.says(head)

    def says(self, head: Head) -> list[bytes]:
        """All that can be read of a run: its line's events and states, and the state that recovery gives at each version."""
        found = []
        for recorded, state in walk(self.log, head):
            found.append(recorded.digest + state_digest(state) + digest(encode(thaw(state.data))))
            found.append(digest(repr(recorded.event).encode()))
        found += [state_digest(recover(self.log, head, version).state) for version in range(1, head.version + 1)]
        return found

    def step(self, kind: str, which: float, *what: Any) -> None:
        """Do one thing to one run; all others say what they said."""
        names = list(self.heads)
        head = self.heads[names[round(which * (len(names) - 1))]]
        touched = getattr(self, f"_{kind}")(head, *what)
        for name, other in self.heads.items():
            if name != touched:
                assert self.says(other) == self.said[name], f"{kind} of {head.run_id} shows in {name}"

    def _added(self, head: Head, *events: Event) -> str:
        self._is(self.author.add(head, *events))
        return head.run_id

    def _move(self, head: Head, value: Any) -> str:
        return self._added(
            head, Transitioned("a", "a", change=(Op("set", ("text",), freeze(value)), Op("add", ("n",), 1)))
        )

    def _extend(self, head: Head, value: Any) -> str:
        return self._added(head, Transitioned("a", "a", change=(Op("extend", ("list",), freeze([value, value])),)))

    def _call(self, head: Head, value: Any) -> str:
        self.calls += 1
        begun = EffectStarted("pay", str(self.calls), "call", True, freeze(value), bytes(32), f"ef-{self.calls}")
        return self._added(
            head, begun, EffectFinished("pay", str(self.calls), freeze(value), FrozenDict({"tokens": 1}))
        )

    def _fork(self, head: Head, place: float, value: Any, what_if: bool) -> str:  # noqa: FBT001 - drawn, not called
        self.begun += 1
        at = 1 + round(place * (head.version - 1))
        change = () if value == 0 else (Op("set", ("mine",), freeze(value)),)
        policy = EffectPolicy(mock={"pay": value}).plain(None) if what_if else None
        self._is(self.author.fork(head, at, f"r{self.begun}", change=change, effects=policy))
        return f"r{self.begun}"

    def _rewind(self, head: Head, place: float) -> str:
        entry = self.log.entry(head.run_key)
        first = entry.parent_at + 1 if entry is not None and entry.parent_id is not None else 1
        if head.version > first:
            self._is(self.author.rewind(head, first + round(place * (head.version - 1 - first))))
        return head.run_id

    def _snapshot(self, head: Head) -> str:
        vouch = self.author.snapshot(head, anew=False)
        self._is(self.author.add(head, Transitioned("a", "a"), vouch=vouch))
        return head.run_id

    def _delete(self, head: Head) -> str:
        if len(self.heads) == 1:
            return ""
        try:
            delete_run(self.log, self.author.clock, head.run_id)
        except HasForks:
            return ""
        del self.heads[head.run_id], self.said[head.run_id]
        return ""

    def check(self) -> None:
        """Nothing that is listed is missing, nothing else is there, and the chain of every run holds."""
        assert {one.head.run_id for one in self.log.runs(Query())} == {*self.heads}
        for head in self.heads.values():
            broken = [one for one in verify_run(self.log, head, Report()).findings if "definition" not in one.problem]
            assert not [one for one in broken if "run list" not in one.problem], broken


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
@settings(
    max_examples=60 if "EVENTFLOW_FULL" in os.environ else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(story=st.lists(steps, min_size=5, max_size=16))
def test_branches_never_leak_into_each_other(kind: str, story: list[tuple[Any, ...]]) -> None:
    """Forks of forks with changes, calls, rewinds, snapshots; values that are shared; a branch deleted beside the others."""
    with tempfile.TemporaryDirectory() as place:
        log: Log = MemoryLog() if kind == "memory" else LmdbLog(Path(place) / "store")
        try:
            forest = Forest(log)
            for one in story:
                forest.step(*one)
            forest.check()
        finally:
            log.close()


def test_the_law_would_notice() -> None:
    """The control: a branch that does change is one that says something else."""
    forest = Forest(MemoryLog())
    forest.step("fork", 0, 0.0, LONG[1], False)
    before = forest.said["r1"]
    forest.heads["r1"] = forest.author.add(forest.heads["r1"], Transitioned("a", "a"))
    with pytest.raises(AssertionError, match="shows in r1"):
        forest.step("move", 0, LONG[0])
    assert before == forest.said["r1"]
