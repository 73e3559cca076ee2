"""Limits on what a run may use, held against what it has used: arithmetic on a state, so that a crash forgets nothing.

A limit is part of the run from its start; resuming it may set another one. Who is over it, and when to look, is the
engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from eventflow.clock import NS
from eventflow.errors import DefinitionError
from eventflow.plain import FrozenDict, ordered
from eventflow.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may use at most; None is no limit.

    `tokens` are input and output tokens together, `calls` model calls, `cost` is in whatever unit prices are given,
    `steps` are nodes left, `seconds` wall time since the start, waits included.
    """

    tokens: int | None = None
    calls: int | None = None
    cost: float | None = None
    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None and not limit > 0:
                raise DefinitionError(f"Budget({field.name}=...) must be more than 0")

    def plain(self) -> FrozenDict:
        """The limits that are set, by name."""
        limits = {field.name: getattr(self, field.name) for field in fields(self)}
        return ordered({name: limit for name, limit in limits.items() if limit is not None})


def used(state: State, now: int) -> dict[str, float]:
    """What a run has used of each thing that can be limited."""
    usage = state.usage
    return {
        "tokens": usage.get("input_tokens", 0) + usage.get("output_tokens", 0),
        "calls": usage.get("calls", 0),
        "cost": usage.get("cost", 0),
        "steps": state.steps,
        "seconds": max(now - state.run.started, 0) / NS,
    }


def over_budget(state: State, now: int) -> str:
    """Which limit a run has reached, in words; empty if it may go on."""
    budget = state.run.budget
    if not budget:
        return ""
    have = used(state, now)
    for name, limit in budget.items():
        if have.get(name, 0) >= limit:
            return f"{have.get(name, 0):g} of {limit:g} {name}"
    return ""
