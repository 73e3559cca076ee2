"""eventflow: workflows that survive anything.

A workflow is a state machine; every transition is appended as an event to a log before it counts, and checkpoints keep
recovery short. The public names are here; `docs/architecture.md` tells how it is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow.change import add, extend, merge
from eventflow.checkpoint import NO_CHECKPOINTS, Checkpoint, CheckpointPolicy
from eventflow.clock import Clock, ManualClock, SystemClock
from eventflow.engine import Engine, Run
from eventflow.errors import EventflowError, RunFailed
from eventflow.log import Log, MemoryLog, open_log
from eventflow.plain import clean_text
from eventflow.recovery import recover
from eventflow.retry import RetryPolicy
from eventflow.run import CheckpointTaken, Visit
from eventflow.state import State
from eventflow.workflow import Go, Workflow

if TYPE_CHECKING:
    from eventflow.agents import Agent

__version__ = "0.1.0"

__all__ = [
    "NO_CHECKPOINTS",
    "Agent",
    "Checkpoint",
    "CheckpointPolicy",
    "CheckpointTaken",
    "Clock",
    "Engine",
    "EventflowError",
    "Go",
    "Log",
    "ManualClock",
    "MemoryLog",
    "RetryPolicy",
    "Run",
    "RunFailed",
    "State",
    "SystemClock",
    "Visit",
    "Workflow",
    "add",
    "clean_text",
    "extend",
    "merge",
    "open_log",
    "recover",
]


def __getattr__(name: str) -> Any:
    """`Agent` brings half a second of imports with it, so it comes when it is asked for."""
    if name == "Agent":
        from eventflow.agents import Agent  # noqa: PLC0415 - see above

        return Agent
    raise AttributeError(f"module 'eventflow' has no attribute {name!r}")
