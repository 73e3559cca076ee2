"""eventflow: workflows that survive anything.

A workflow is a state machine; every transition is appended as an event to a log before it counts, and checkpoints keep
recovery short. The public names are listed here and loaded when they are first asked for, so that a program which may
not need them starts at once; `docs/architecture.md` tells how it is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventflow.agents import Agent, Tool, Window
    from eventflow.face import (
        NO_CHECKPOINTS,
        NO_QUOTA,
        Budget,
        Checkpoint,
        CheckpointPolicy,
        CheckpointTaken,
        Child,
        Choice,
        Clock,
        EffectPolicy,
        Engine,
        EventflowError,
        Go,
        Human,
        Keyring,
        LimitNear,
        Log,
        ManualClock,
        Map,
        MemoryLog,
        Parallel,
        Queue,
        Quota,
        RecoveryOutOfReach,
        Redaction,
        RetentionPolicy,
        RetryPolicy,
        Run,
        RunFailed,
        Schedule,
        Sleep,
        State,
        SystemClock,
        Visit,
        Wait,
        Workflow,
        add,
        clean_text,
        extend,
        merge,
        open_log,
        recover,
        run_schedules,
        subscribe,
    )

__version__ = "0.1.0"

__all__ = [
    "NO_CHECKPOINTS",
    "NO_QUOTA",
    "Agent",
    "Budget",
    "Checkpoint",
    "CheckpointPolicy",
    "CheckpointTaken",
    "Child",
    "Choice",
    "Clock",
    "EffectPolicy",
    "Engine",
    "EventflowError",
    "Go",
    "Human",
    "Keyring",
    "LimitNear",
    "Log",
    "ManualClock",
    "Map",
    "MemoryLog",
    "Parallel",
    "Queue",
    "Quota",
    "RecoveryOutOfReach",
    "Redaction",
    "RetentionPolicy",
    "RetryPolicy",
    "Run",
    "RunFailed",
    "Schedule",
    "Sleep",
    "State",
    "SystemClock",
    "Tool",
    "Visit",
    "Wait",
    "Window",
    "Workflow",
    "add",
    "clean_text",
    "extend",
    "merge",
    "open_log",
    "recover",
    "run_schedules",
    "subscribe",
]


def __getattr__(name: str) -> Any:
    if name in ("Agent", "Tool", "Window"):  # imports that the rest does without
        from eventflow import agents  # noqa: PLC0415 - see the docstring

        return getattr(agents, name)
    if name in __all__:
        from eventflow import face  # noqa: PLC0415 - see the docstring

        return getattr(face, name)
    raise AttributeError(f"module 'eventflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
