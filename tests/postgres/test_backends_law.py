"""Law: memory, LMDB and PostgreSQL write the same bytes at the same positions, whatever happens to be done."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventflow import CheckpointPolicy, Engine, RetryPolicy, Workflow, extend
from eventflow.log import LmdbLog, Log, MemoryLog, Query
from eventflow.log.postgres import PostgresLog
from eventflow.testing import SkippingClock
from eventflow.testing.postgres import PostgresServer

EXAMPLES = 500 if os.environ.get("EVENTFLOW_FULL") == "1" else 20  # one takes about 100 ms
_numbers = itertools.count(1)


class Data(TypedDict):
    """What the nodes write."""

    trail: Annotated[list[str], extend]
    long: str
    count: int


@dataclass(frozen=True)
class Part:
    """A node: what it changes, the calls it makes, how often it fails first, and whether it goes back once."""

    name: str
    size: int
    calls: int
    fails: int
    back: bool

    def body(self, attempts: dict[str, int]) -> Callable[..., Any]:
        """The node's function; which attempt it is comes from outside the state."""

        async def node(state: Any, run: Any) -> dict[str, Any]:
            for number in range(self.calls):
                await run.effect(f"call-{number}", lambda idempotency_key, n=number: f"answer {n}")
            attempts[self.name] = attempts.get(self.name, 0) + 1
            if attempts[self.name] <= self.fails:
                raise ValueError(f"attempt {attempts[self.name]}")
            return {"trail": [self.name] * (self.size % 7), "long": "x" * self.size, "count": state["count"] + 1}

        return node


parts = st.builds(
    Part, name=st.just(""), size=st.integers(0, 3_000), calls=st.integers(0, 2), fails=st.integers(0, 2),
    back=st.booleans(),
)  # fmt: skip


def workflow(drawn: Iterable[Part], length: int) -> Workflow:
    """A chain of the nodes that were drawn; some go back to the first once."""
    attempts: dict[str, int] = {}
    flow = Workflow("drawn", state=Data)
    named = [Part(f"n{number}", part.size, part.calls, part.fails, part.back) for number, part in enumerate(drawn)]
    for part in named:
        flow = flow.add_node(part.name, part.body(attempts), retry=RetryPolicy(attempts=3, delay=60))
    for part, following in itertools.pairwise(named):
        if part.back:
            flow = flow.add_edge(part.name, "n0", when=lambda state: state["count"] == length)
        flow = flow.add_edge(part.name, following.name)
    return flow.set_start("n0")


async def lived(log: Log, clock: SkippingClock, drawn: list[Part]) -> None:
    """A run of the workflow, a fork of it and a rewind, all on one clock."""
    flow = workflow(drawn, len(drawn) - 1)
    policy = CheckpointPolicy(after_node=True, every=3)
    async with Engine(log, workflows=[flow], clock=clock, checkpoints=policy) as engine:
        run = await engine.start(flow, {"trail": [], "long": "", "count": 0}, run_id="run", tags=["law"])
        await run.wait()
        child = await engine.fork("run@1", run_id="child", change={"long": "changed"})
        await child.wait()
        again = await engine.resume("run", at="1", yes=True)
        await again.wait()
        await engine.delete("child")


def histories(log: Log) -> dict[str, object]:
    """Everything that must be the same bytes."""
    return {
        "feed": log.feed(0, 10_000),
        "runs": [(one.entry, one.head.version, one.head.digest, one.head.epoch, one.head.status) for one in log.runs(Query())],
        "checkpoints": [log.checkpoints(one.head.run_key) for one in log.runs(Query())],
        "snapshots": [
            [(version, log.snapshot(one.head.run_key, version)) for version, _ in log.snapshots(one.head.run_key, 999)]
            for one in log.runs(Query())
        ],
    }  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(parts, min_size=1, max_size=4))
def test_every_backend_writes_the_same_bytes(server: PostgresServer, drawn: list[Part]) -> None:
    """A drawn workflow run, forked, rewound and deleted gives byte-identical stores on the same clock."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        makers: list[Callable[[Any], Log]] = [
            lambda clock: MemoryLog(clock=clock),
            lambda clock: LmdbLog(Path(directory) / "store", clock=clock),
            lambda clock: PostgresLog(server.url(schema=f"law{next(_numbers)}"), clock=clock),
        ]
        for make in makers:
            clock = SkippingClock(seed=1)
            with closing(make(clock)) as log:
                asyncio.run(lived(log, clock, drawn))
                found.append(histories(log))
    assert found[0] == found[1] == found[2]
