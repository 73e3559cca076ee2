"""The workflows that are measured: small ones, so that what is measured is eventflow."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from eventflow import Workflow, extend

NOTE = "The tide comes in twice a day, a little later each time, and nobody has ever had to tell it when to go."


class Counter(TypedDict):
    """A state of a few fields."""

    n: int
    note: str


class Growing(TypedDict):
    """A state that grows by one item a step."""

    n: int
    items: Annotated[list[Any], extend]


class Written(TypedDict):
    """A state of one size: what a step writes, beside ballast that no step touches."""

    n: int
    text: str
    ballast: dict[str, str]


class Laps:
    """The seconds between the end of one node's body and the begin of the next: all that a step is but its own code.

    `rest` is called in each body, where the clock stands still.
    """

    def __init__(self, rest: Callable[[int], None] | None = None) -> None:
        self.seconds: list[float] = []
        self._rest = rest
        self._left = 0.0

    def enter(self) -> None:
        """A body begins."""
        now = time.perf_counter()
        if self._left:
            self.seconds.append(now - self._left)
        if self._rest is not None:
            self._rest(len(self.seconds))

    def leave(self) -> None:
        """A body ends."""
        self._left = time.perf_counter()


def counting(steps: int, *, laps: Laps | None = None, gate: asyncio.Event | None = None) -> Workflow:
    """A workflow of one async node that comes back to itself, `steps` times, and changes two small fields each time.

    Where there is a gate, no run takes its first step before it opens.
    """

    async def step(state: Counter) -> dict[str, Any]:
        if laps is not None:
            laps.enter()
        if gate is not None and not state["n"]:
            await gate.wait()
        update = {"n": state["n"] + 1, "note": NOTE}
        if laps is not None:
            laps.leave()
        return update

    return _looped(Workflow("counting", state=Counter), step, steps)


def payload(size: int) -> Callable[[int], str]:
    """Texts of base64 over random bytes, a few of them again and again: making one must not cost what is measured."""
    texts = [base64.b64encode(random.Random(number).randbytes(size)).decode()[:size] for number in range(251)]
    return lambda number: texts[number % len(texts)]


def writing(steps: int, size: int, *, laps: Laps, node: float = 0.0) -> Workflow:
    """A workflow that writes a text of that many characters in each of `steps` steps; its node sleeps `node` seconds."""
    text = payload(size)

    async def step(state: Written) -> dict[str, Any]:
        laps.enter()
        if node:
            await asyncio.sleep(node)
        update = {"n": state["n"] + 1, "text": text(state["n"])}
        laps.leave()
        return update

    return _looped(Workflow("writing", state=Written), step, steps)


def growing(steps: int, item: Callable[[int], Any]) -> Workflow:
    """A workflow that adds `item(n)` to a list, `steps` times."""

    async def step(state: Growing) -> dict[str, Any]:
        return {"n": state["n"] + 1, "items": [item(state["n"])]}

    return _looped(Workflow("growing", state=Growing), step, steps)


def _looped(flow: Workflow, step: Callable[[Any], Any], steps: int) -> Workflow:
    async def end(_: Any) -> None:
        return None

    def again(state: Any) -> bool:
        return bool(state["n"] < steps)

    flow.add_node("step", step).add_node("end", end)
    return flow.add_edge("step", "step", when=again).add_edge("step", "end").set_start("step")
