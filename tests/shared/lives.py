"""Histories of one run, event by event, without any log: what a fold of them gives, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow.errors import Corrupt
from eventflow.event import (
    EffectStarted,
    Event,
    Failure,
    Recorded,
    RunStarted,
)
from eventflow.plain import FrozenList, freeze
from eventflow.state import (
    State,
    evolve,
    fold,
)

STORE, KEY, OTHER, DEFINITION = b"s" * 16, b"k" * 16, b"o" * 16, b"d" * 32
FAILURE = Failure("ValueError", "it broke", "flow.py:3 in write", retryable=True)
BEGUN = EffectStarted("charge", "1", "call", True, freeze({"amount": 5}), b"i" * 32, "ef-1")


def start(data: dict[str, Any] | None = None, node: str = "first") -> RunStarted:
    """The first event of a run."""
    return RunStarted(
        "run-1", STORE, "flow", DEFINITION, freeze({"nodes": ["first"]}), node, freeze(data or {}), b"i" * 32,
        FrozenList(["tag"]), "person-7",
    )  # fmt: skip


def recorded(event: Event, version: int, *, key: bytes = KEY, epoch: int = 1) -> Recorded:
    """An event with a place; times and digests tell versions apart."""
    return Recorded(
        event, key, 1, version, version + 100, epoch, version * 1_000, bytes([version]) * 32, bytes([version - 1]) * 32
    )


def lived(*events: Event, data: dict[str, Any] | None = None) -> State:
    """The state after a start and these events."""
    state = fold(None, [recorded(event, version) for version, event in enumerate((start(data), *events), 1)])
    assert state is not None
    return state


def after(state: State, *events: Event) -> State:
    """The state after more events."""
    for event in events:
        state = evolve(state, recorded(event, state.version + 1))
    return state


def refused(state: State | None, event: Event, version: int | None = None) -> str:
    """Why an event can't follow a state."""
    with pytest.raises(Corrupt) as caught:
        evolve(state, recorded(event, version or (state.version + 1 if state else 1)))
    return caught.value.problem
