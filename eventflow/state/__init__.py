"""What the events of a run add up to: the user's data, and where the run stands; one folder, one way in."""

from eventflow.state.effects import TRANSACTION, UNDO, branch_prefix, effect_id, is_doubtful, reuse_key
from eventflow.state.evolve import evolve, fold, standing_after, status_after
from eventflow.state.parts import (
    ENDED,
    FINAL,
    STATUSES,
    WAITS,
    Caller,
    Identity,
    Parent,
    State,
    Status,
    WaitingFor,
)
from eventflow.state.waits import FAILED, FINISHED, OVER, branch, branch_names, open_waits

__all__ = [
    "ENDED",
    "FAILED",
    "FINAL",
    "FINISHED",
    "OVER",
    "STATUSES",
    "TRANSACTION",
    "UNDO",
    "WAITS",
    "Caller",
    "Identity",
    "Parent",
    "State",
    "Status",
    "WaitingFor",
    "branch",
    "branch_names",
    "branch_prefix",
    "effect_id",
    "evolve",
    "fold",
    "is_doubtful",
    "open_waits",
    "reuse_key",
    "standing_after",
    "status_after",
]
