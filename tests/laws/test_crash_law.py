"""Law: a workflow that dies anywhere, again and again, ends as it would have ended, having made the same calls.

Workflows are drawn as chains of parts; a part is a node or a few. To draw another kind of part, write its class with
`nodes` and add it to `parts`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from eventflow import Child, Map, MemoryLog, Parallel, RetryPolicy, Sleep, Wait, Workflow, extend
from eventflow.log import Query
from eventflow.testing import SkippingClock
from eventflow.testing.crash.boundary import WHENS, BoundaryLog
from eventflow.testing.crash.examination import end_of, lost, repeated, unsound
from eventflow.testing.crash.life import Life, Story, lived_apart
from eventflow.testing.crash.witness import Notes

FULL = os.environ.get("EVENTFLOW_FULL") == "1"
EXAMPLES = 400 if FULL else 12  # a workflow with its crashes takes about 50 ms
LAST_FACT = 40  # most of the workflows drawn make fewer; who is to die later lives


class Data(TypedDict):
    """What the parts write: a trail of what was done, and how often a loop went round."""

    trail: Annotated[list[str], extend]
    rounds: int


class World:
    """The other side: what was called, by key, and which calls failed already."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failed: set[str] = set()

    def call(self, what: str, fails: bool, idempotency_key: str) -> str:  # noqa: FBT001 - an effect's arguments
        """A call that may fail the first time."""
        if fails and idempotency_key not in self.failed:
            self.failed.add(idempotency_key)
            raise OSError("not the first time")
        self.calls.append(idempotency_key)
        return f"{what}!"


@dataclass(frozen=True)
class Step:
    """A node that makes calls, one after the other or at once, that change something or do not."""

    calls: int
    mutating: bool
    at_once: bool
    fails: bool
    plain: bool

    def nodes(self, name: str, world: World) -> list[tuple[str, Any, dict[str, Any]]]:
        """One node."""
        options = {"mutating": self.mutating}

        def effects(call: Any) -> Iterator[Any]:
            return (
                call("call", world.call, f"{name}{n}", self.fails, key=f"k{n}", **options) for n in range(self.calls)
            )

        async def body(state: Any, run: Any) -> dict[str, Any]:
            return {"trail": [name, *[await one for one in effects(run.effect)]]}

        async def at_once(state: Any, run: Any) -> dict[str, Any]:
            made = await asyncio.gather(*effects(run.effect), return_exceptions=True)
            for one in made:
                if isinstance(one, BaseException):
                    raise one
            return {"trail": [name, *made]}

        def plain(state: Any, run: Any) -> dict[str, Any]:
            return {"trail": [name, *effects(run.effect_sync)]}

        chosen = plain if self.plain else at_once if self.at_once else body
        return [(name, chosen, {"retry": RetryPolicy(attempts=self.calls + 2, delay=60)})]


@dataclass(frozen=True)
class Flaky:
    """A node that fails by itself before it goes well."""

    times: int

    def nodes(self, name: str, world: World) -> list[tuple[str, Any, dict[str, Any]]]:
        """One node."""

        def body(state: Any, run: Any) -> dict[str, Any]:
            if run.attempt <= self.times:
                raise ValueError(f"attempt {run.attempt}")
            return {"trail": [f"{name} at {run.attempt}"]}

        return [(name, body, {"retry": RetryPolicy(attempts=self.times + 1, delay=3_600)})]


@dataclass(frozen=True)
class Stands:
    """A node that waits: for a signal that comes or does not, or for a time."""

    kind: str

    def nodes(self, name: str, world: World) -> list[tuple[str, Any, dict[str, Any]]]:
        """The wait, and a node that says what came."""
        made: dict[str, Any] = {
            "signal": Wait(signal="go", writes="rounds"),
            "silence": Wait(signal="nobody", writes="rounds", timeout=60, default=-1),
            "sleep": Sleep(1_800),
        }
        return [(name, made[self.kind], {}), (f"{name}b", lambda state: {"trail": [f"{name}: {state['rounds']}"]}, {})]


@dataclass(frozen=True)
class Splits:
    """A node that splits: into branches by name or by item, each with calls that may fail the first time."""

    count: int
    by_item: bool
    fails: bool
    limit: int | None

    def nodes(self, name: str, world: World) -> list[tuple[str, Any, dict[str, Any]]]:
        """One node."""

        def body_of(what: str) -> Any:
            async def body(_: Any, run: Any) -> dict[str, Any]:
                return {"trail": [what, await run.effect("call", world.call, what, self.fails)]}

            return body

        async def each(item: Any, run: Any) -> dict[str, Any]:
            return {"trail": [await run.effect("call", world.call, f"{name}[{item}]", self.fails)]}

        split: Any = Map(each, over=lambda _: list(range(self.count)), limit=self.limit)
        if not self.by_item:
            split = Parallel({f"b{n}": body_of(f"{name}.b{n}") for n in range(self.count)}, limit=self.limit)
        return [(name, split, {"retry": RetryPolicy(attempts=3, delay=60)})]


@dataclass(frozen=True)
class Begets:
    """A node that is a run of its own, which makes a call."""

    fails: bool

    def nodes(self, name: str, world: World) -> list[tuple[str, Any, dict[str, Any]]]:
        """One node, and one that says what the child said."""

        async def body(_: Any, run: Any) -> dict[str, Any]:
            return {"trail": [await run.effect("call", world.call, name, self.fails, mutating=False)], "rounds": 1}

        child = Workflow(f"child of {name}", state=Data)
        child.add_node("work", body, retry=RetryPolicy(attempts=3, delay=60)).set_start("work")
        node = Child(child, reads=lambda _: {"trail": [], "rounds": 0}, writes={"trail": "trail"})
        return [(name, node, {})]


parts = st.one_of(
    st.builds(Splits, st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([None, 1, 2])),
    st.builds(Begets, st.booleans()),
    st.builds(Step, st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.builds(Flaky, st.integers(1, 2)),
    st.builds(Stands, st.sampled_from(["signal", "silence", "sleep"])),
)
deaths = st.lists(st.tuples(st.integers(1, LAST_FACT), st.sampled_from(WHENS)), min_size=1, max_size=4)


@dataclass(frozen=True)
class Drawn:
    """A chain of parts; `back` is the part that the end leads back to, `rounds` how often; `skips` those passed over."""

    parts: list[Any]
    back: int
    rounds: int
    skips: frozenset[int]

    def flow(self, world: World) -> Workflow:
        """The workflow: every part's nodes in a row, branches over the skipped ones, and a loop."""
        flow = Workflow("drawn", state=Data)
        heads: list[str] = []
        rows: list[list[str]] = []
        for number, part in enumerate(self.parts):
            made = part.nodes(f"n{number}", world)
            heads.append(made[0][0])
            rows.append([name for name, _, _ in made])
            for name, body, options in made:
                flow.add_node(name, body, **options)
        flow.add_node("round", lambda state: {"rounds": state["trail"].count("round") + 1, "trail": ["round"]})
        flow.add_node("end", lambda state: {"trail": ["end"]})
        for number, row in enumerate(rows):
            for name, after in itertools.pairwise(row):
                flow.add_edge(name, after)
            if number + 1 in self.skips and number + 2 < len(heads):
                flow.add_edge(row[-1], heads[number + 2], when=lambda s: len(s["trail"]) % 2 == 0, label="even")
            flow.add_edge(row[-1], heads[number + 1] if number + 1 < len(heads) else "round")
        again = lambda state: state["trail"].count("round") < self.rounds  # noqa: E731 - a guard
        flow.add_edge("round", heads[min(self.back, len(heads) - 1)], when=again, label="again").add_edge(
            "round", "end"
        )
        return flow.set_start(heads[0])


drawn = st.builds(
    Drawn, st.lists(parts, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 2),
    st.frozensets(st.integers(1, 3)),
)  # fmt: skip


class Lives:
    """One run in one store, life after life."""

    def __init__(self, shape: Drawn, path: Path) -> None:
        self.world = World()
        self.log, self.notes = MemoryLog(), path
        self.story = Story(flow=shape.flow(self.world), data={"trail": [], "rounds": 0}, signals={"go": 7})
        self.lives: list[Notes] = []

    def live(self, at: int = 0, when: Any = "before") -> bool:
        """One life; whether it came to the run's end."""
        notes = Notes(self.notes / f"{len(self.lives)}")
        doomed = self.lives[-1].all_doomed() if self.lives else []
        self.lives.append(notes)
        log = BoundaryLog(self.log, notes, at=at, when=when)
        clock = SkippingClock(patience=0.002, seed=len(self.lives))
        return lived_apart(lambda: Life(self.story, log, clock, doomed), log) is not None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn, deaths)
def test_however_often_a_run_dies_it_ends_as_if_it_had_not(shape, dies):
    """State, node and finished calls are the same, nothing acknowledged is lost, no recorded call is made again."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir()
        (Path(folder) / "b").mkdir()
        undisturbed, lives = Lives(shape, Path(folder) / "a"), Lives(shape, Path(folder) / "b")
        assert undisturbed.live()
        whole = end_of(undisturbed.log, "sweep", None)
        assert whole.status == "completed"
        assert whole.data["trail"][-1] == "end"
        for at, when in dies:
            note(f"died {when} fact {at}: {not lives.live(at, when)}")
        assert lives.live()
        told = [one for notes in lives.lives for one in notes.all_told()]
        assert list(end_of(lives.log, "sweep", None).differences(whole)) == []
        assert list(unsound(lives.log, "sweep", [])) == []
        assert lost(lives.log, told) == []
        runs = [one.head.run_id for one in lives.log.runs(Query())]
        assert repeated(lives.log, runs, told, lives.world.calls) == []
