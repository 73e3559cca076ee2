"""The demos' lines: what happened, as people read it."""

from __future__ import annotations

from eventflow.cli.shell import bytes_text
from eventflow.event import (
    AttemptFailed,
    EffectFinished,
    EffectStarted,
    RunCompleted,
    RunFailed,
    RunResumed,
    RunStarted,
    Transitioned,
)
from eventflow.quota import LimitNear
from eventflow.run import CheckpointTaken, Notice, RecoveryOutOfReach
from eventflow.state import State


def tell(state: State, notice: Notice) -> str:
    """A line about a fact, empty if it is not worth one."""
    if isinstance(notice, CheckpointTaken):
        mark = notice.checkpoint
        how = f"{bytes_text(mark.size)} written" if mark.size else "a mark, reached by folding"
        return f"     checkpoint {mark.id} ({', '.join(mark.kinds)}): {how}"
    if isinstance(notice, RecoveryOutOfReach | LimitNear):
        return ""
    event = notice.event
    match event:
        case RunStarted():
            said = f"run {event.run_id} started in node {event.node}"
        case RunResumed():
            said = f"run resumed in node {event.node}, epoch {notice.epoch}"
        case EffectStarted():
            said = f"{state.node} asks the model"
        case EffectFinished():
            said = f"{state.node} has its answer ({event.usage.get('output_tokens', 0)} tokens)"
        case Transitioned():
            said = f"{event.node} -> {event.to}"
        case RunCompleted():
            said = f"{event.node} is done: run completed"
        case AttemptFailed() | RunFailed():
            said = f"{event.node} failed: {event.error.message}"
        case _:
            return ""
    return f"{notice.version:3}  {said}"
