"""Workflows drawn from a seed: nodes that call, fail, wait, split and start others, in chains with loops; and their world.

The world is what the calls change. It knows who called, with which key and when, so that a call which was recorded as
finished and is made again does not go unnoticed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from eventflow.change import extend
from eventflow.retry import RetryPolicy
from eventflow.workflow import Child, Map, Parallel, Sleep, Wait, Workflow

SIGNAL, ANSWER = "go", 7
_ROUNDS = 2  # times a loop goes round
_PARTS = (1, 4)  # parts of a chain, from and to


class Data(TypedDict):
    """What the parts write: a trail of what was done, and a number."""

    trail: Annotated[list[str], extend]
    number: int


@dataclass(slots=True)
class World:
    """The outside: what was called, where in the log that was, and what has happened by which key."""

    position: Callable[[], int]
    alive: ContextVar[Callable[[], bool]]
    calls: list[tuple[str, int]] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    async def call(self, what: str, seconds: float, fails: bool, idempotency_key: str) -> str:  # noqa: FBT001 - an effect's
        """Change something, which takes its time, and may fail the first time."""
        self._check()
        self.calls.append((idempotency_key, self.position()))
        if fails and idempotency_key not in self.failed:
            self.failed.add(idempotency_key)
            raise OSError("not the first time")
        await asyncio.sleep(seconds)
        self._check()
        self.done[idempotency_key] = f"{what}!"
        await asyncio.sleep(seconds)
        return self.done[idempotency_key]

    async def find(self, idempotency_key: str) -> str:
        """What a call came to. Raises LookupError if it never happened."""
        if idempotency_key not in self.done:
            raise LookupError(idempotency_key)
        return self.done[idempotency_key]

    def _check(self) -> None:
        if not self.alive.get()():
            raise asyncio.CancelledError  # its process is gone: this never happens


def drawn_flow(seed: int, world: World) -> Workflow:
    """A workflow; the same for the same seed."""
    source = random.Random(seed)  # noqa: S311 - repeatable on purpose
    flow = Workflow(f"drawn {seed}", state=Data)
    names: list[str] = []
    for number in range(source.randint(*_PARTS)):
        names += _part(flow, f"n{number}", source, world)

    async def again(_: Any) -> dict[str, Any]:
        return {"trail": ["round"]}

    async def end(_: Any) -> dict[str, Any]:
        return {"trail": ["end"]}

    flow.add_node("again", again).add_node("end", end)
    for one, following in zip(names, [*names[1:], "again"], strict=True):
        flow.add_edge(one, following)
    rounds = source.randint(1, _ROUNDS)
    flow.add_edge("again", names[source.randrange(len(names))], when=lambda s: s["trail"].count("round") < rounds)
    return flow.add_edge("again", "end").set_start(names[0])


def _part(flow: Workflow, name: str, source: random.Random, world: World) -> list[str]:
    """Add one part; the names of its nodes in a row."""
    make = source.choice([_calls, _calls, _calls, _flaky, _waits, _splits, _begets])
    make(flow, name, source, world)
    return [name]


_AGAIN = RetryPolicy(attempts=5, delay=0.5)


def _calls(flow: Workflow, name: str, source: random.Random, world: World) -> None:
    count, fails, at_once = source.randint(1, 3), source.random() < 0.3, source.random() < 0.3
    mutating, finds, seconds = source.random() < 0.7, source.random() < 0.5, source.choice([0.0, 0.003, 0.5])

    def made(run: Any) -> Iterator[Any]:
        return (
            run.effect(
                "call", world.call, f"{name}.{n}", seconds, fails, key=f"k{n}", mutating=mutating,
                reconcile=world.find if finds else None,
            )
            for n in range(count)
        )  # fmt: skip

    async def in_turn(_: Any, run: Any) -> dict[str, Any]:
        return {"trail": [await one for one in made(run)]}

    async def together(_: Any, run: Any) -> dict[str, Any]:
        found = await asyncio.gather(*made(run), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return {"trail": found}

    flow.add_node(name, together if at_once else in_turn, retry=_AGAIN)


def _flaky(flow: Workflow, name: str, source: random.Random, world: World) -> None:  # noqa: ARG001 - as its siblings
    times = source.randint(1, 2)

    async def body(_: Any, run: Any) -> dict[str, Any]:
        if run.attempt <= times:
            raise ValueError(f"attempt {run.attempt}")
        return {"trail": [f"{name} at {run.attempt}"]}

    flow.add_node(name, body, retry=RetryPolicy(attempts=times + 1, delay=1))


def _waits(flow: Workflow, name: str, source: random.Random, world: World) -> None:  # noqa: ARG001 - as its siblings
    kind = source.choice(["signal", "late", "sleep"])
    if kind == "sleep":
        flow.add_node(name, Sleep(source.choice([0.01, 1.0, 5.0])))
    else:
        limits: dict[str, Any] = {} if kind == "signal" else {"timeout": source.choice([0.2, 3]), "default": -1}
        flow.add_node(name, Wait(signal=SIGNAL, writes="number", **limits))


def _splits(flow: Workflow, name: str, source: random.Random, world: World) -> None:
    count, fails, limit = source.randint(1, 4), source.random() < 0.3, source.choice([None, 1, 2])

    def body_of(what: str) -> Any:
        async def body(_: Any, run: Any) -> dict[str, Any]:
            return {"trail": [await run.effect("call", world.call, what, 0.002, fails, reconcile=world.find)]}

        return body

    async def each(item: Any, run: Any) -> dict[str, Any]:
        called = run.effect("call", world.call, f"{name}[{item}]", 0.002, fails, reconcile=world.find)
        return {"trail": [await called]}

    split: Any = Map(each, over=lambda _: list(range(count)), limit=limit)
    if source.random() < 0.5:
        split = Parallel({f"b{n}": body_of(f"{name}.b{n}") for n in range(count)}, limit=limit)
    flow.add_node(name, split, retry=_AGAIN)


def _begets(flow: Workflow, name: str, source: random.Random, world: World) -> None:
    fails = source.random() < 0.3

    async def body(_: Any, run: Any) -> dict[str, Any]:
        return {"trail": [await run.effect("call", world.call, name, 0.002, fails, mutating=False)], "number": 1}

    child = Workflow(f"child of {flow.name}, {name}", state=Data)
    child.add_node("work", body, retry=_AGAIN).set_start("work")
    flow.add_node(name, Child(child, reads=lambda _: {"trail": [], "number": 0}, writes={"trail": "trail"}))
