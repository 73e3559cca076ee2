"""The parts a workflow is made of: nodes, edges, and what a node may be or return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from eventflow.retry import NO_RETRY, RetryPolicy

Trigger = Literal["done", "failed", "timed_out", "cancelled"]
TRIGGERS: tuple[Trigger, ...] = ("done", "failed", "timed_out", "cancelled")
AfterCrash = Literal["retry", "ask"]
AFTER_CRASH: tuple[AfterCrash, ...] = ("retry", "ask")
Restore = Literal["deadline", "remaining", "restart"]
Guard = Callable[[Any], Any]


@runtime_checkable
class Body(Protocol):
    """Something that can be a node and is not a plain function: an agent, a tool, a wait."""

    @property
    def kind(self) -> str:
        """What kind of node it is, in a word."""
        ...

    async def __call__(self, state: Any, run: Any) -> Any:
        """Do the node's work and return the change."""
        ...

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The state fields it reads, and those it writes."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What a wait says when it begins: what for, until when (ns since the epoch, UTC; 0: no limit), what people see."""

    kind: Literal["signal", "human", "timer", "child"]
    name: str = ""
    until: int = 0
    restore: Restore = "deadline"
    spec: dict[str, Any] | None = None


@runtime_checkable
class Pause(Protocol):
    """Something that can be a node and runs no code of its own: the run stands still in it until something comes."""

    @property
    def kind(self) -> str:
        """What kind of node it is, in a word."""
        ...

    def opening(self, state: Any, now: int) -> Opening:
        """What is waited for, from the state."""
        ...

    def accepted(self, payload: Any) -> Any:
        """The payload as it goes into the state. Raises InvalidState if it does not fit."""
        ...

    def change(self, payload: Any) -> dict[str, Any]:
        """The change that an accepted payload makes."""
        ...

    def lapsed(self) -> dict[str, Any] | None:
        """The change when time is over; None if that is a matter of the edges."""
        ...

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The state fields it reads, and those it writes."""
        ...


@dataclass(frozen=True, slots=True)
class Go:
    """What a node returns to choose its successor itself, among its declared targets, with its update."""

    target: str
    update: Any = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a Body of ours returns to make its run stand still in its node, and to be called again afterwards.

    What comes is recorded as the result of the call `name` and `key`, so that the body finds it there.
    """

    pause: Pause
    name: str
    key: str


class Splits(Protocol):
    """Something that can be a node and splits into branches."""

    kind: str
    bodies: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """A state of the machine and the code that runs in it. `timeout` and `idle` are in seconds.

    `branches` are the nodes of a split's bodies, by the names it has for them.
    """

    name: str
    body: Callable[..., Any] | Pause | Splits
    kind: str
    takes_run: bool
    is_async: bool
    retry: RetryPolicy = NO_RETRY
    timeout: float | None = None
    after_crash: AfterCrash = "retry"
    targets: tuple[str, ...] = ()
    pause: Pause | None = None  # the body again where it is one: told apart once, not at each step
    idle: float | None = None
    branches: Mapping[str, Node] | None = None
    executor: str | Executor | None = None  # where the body runs, if not here

    def call(self, *args: Any) -> Any:
        """Call the node's code; a wait has none."""
        return self.body(*args)  # type: ignore[operator] # the driver asks a Pause in another way


@dataclass(frozen=True, slots=True)
class Edge:
    """A transition: from, to, on which trigger, if which guard holds (None: always)."""

    source: str
    target: str
    trigger: Trigger = "done"
    when: Guard | None = None
    label: str = ""
