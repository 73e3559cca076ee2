"""How users write it: checked by mypy, never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from eventflow import (
    Agent,
    Checkpoint,
    CheckpointPolicy,
    Engine,
    Go,
    ManualClock,
    RetryPolicy,
    Run,
    State,
    Visit,
    Workflow,
    extend,
    open_log,
    recover,
)


class Research(TypedDict):
    """A typed state."""

    topic: str
    notes: Annotated[list[str], extend]
    score: float


@dataclass
class Order:
    """A dataclass as a state."""

    total: int = 0


async def analyze(state: Research) -> dict[str, Any]:
    """An async node."""
    return {"score": float(len(state["notes"]))}


def write(state: Research, run: Visit) -> dict[str, Any] | Go:
    """A plain node with a handle on its run."""
    if run.attempt > 1:
        return Go("researcher", {"notes": ["again"]})
    return {"topic": run.effect_sync("title", str.title, state["topic"], mutating=False)}


def good_enough(state: Research) -> bool:
    """A guard."""
    return state["score"] > 0.5


flow = (
    Workflow("research", state=Research)
    .add_node("researcher", Agent(model="m", instructions="Find facts.", reads="topic", writes="notes"))
    .add_node("analyzer", analyze)
    .add_node("writer", write, retry=RetryPolicy(attempts=5), timeout=60, targets=["researcher"])
    .add_edge("researcher", "analyzer")
    .add_edge("analyzer", "writer", when=good_enough)
    .add_edge("analyzer", "researcher", when=lambda state: state["score"] < 0.5)
    .add_edge("analyzer", "writer", on="failed")
    .set_start("researcher")
)


async def main() -> None:
    """An engine's life."""
    policy = CheckpointPolicy(after_node=True, keep=5, every=100, interval=30.0, max_age=3600)
    async with Engine("runs.eventflow", workflows=[flow], checkpoints=policy, clock=ManualClock()) as engine:
        run: Run = await engine.start(flow, {"topic": "tides"}, run_id="my-run", tags=["demo"])
        result: Any = await run.result()
        print(result)
        run = await engine.resume("my-run", at="c-3", yes=True)
        child = await engine.fork("my-run@17", change={"topic": "moons"})
        state: State = child.state
        print(state.data["topic"], state.version)
        marks: list[Checkpoint] = engine.checkpoints("my-run")
        print(marks[0].id)
        number: int = await engine.signal("my-run", "hurry", {"by": 3})
        print(number)
        await engine.start_many(flow, [{"topic": "a"}, {"topic": "b"}])
    log = open_log("runs.eventflow", readonly=True)
    head = log.head("my-run")
    assert head is not None
    print(recover(log, head, 3).state.data)


print(flow.run_sync({"topic": "tides"}), Workflow("order", state=Order).name)
