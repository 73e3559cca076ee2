"""The parts a workflow is made of: nodes, edges, and what a node may be or return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from eventflow.retry import NO_RETRY, RetryPolicy

Trigger = Literal["done", "failed", "timed_out", "cancelled"]
TRIGGERS: tuple[Trigger, ...] = ("done", "failed", "timed_out", "cancelled")
AfterCrash = Literal["retry", "ask"]
Guard = Callable[[Any], Any]


@runtime_checkable
class Body(Protocol):
    """Something that can be a node and is not a plain function: an agent, a tool, a wait."""

    kind: str

    async def __call__(self, state: Any, run: Any) -> Any:
        """Do the node's work and return the change."""
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
class Node:
    """A state of the machine and the code that runs in it. `timeout` is in seconds."""

    name: str
    body: Callable[..., Any]
    kind: str
    takes_run: bool
    is_async: bool
    retry: RetryPolicy = NO_RETRY
    timeout: float | None = None
    after_crash: AfterCrash = "retry"
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """A transition: from, to, on which trigger, if which guard holds (None: always)."""

    source: str
    target: str
    trigger: Trigger = "done"
    when: Guard | None = None
    label: str = ""
