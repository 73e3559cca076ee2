"""The public names, all but `Agent`, in one import; `eventflow` gives them out when they are first asked for.

Importing the engine also tells workflows who runs them in one line.
"""

from eventflow.budget import Budget
from eventflow.change import add, extend, merge
from eventflow.checkpoint import NO_CHECKPOINTS, Checkpoint, CheckpointPolicy
from eventflow.cipher import Keyring
from eventflow.clock import Clock, ManualClock, SystemClock
from eventflow.engine import Engine, Queue, Run
from eventflow.errors import EventflowError, RunFailed
from eventflow.log import Log, MemoryLog, open_log
from eventflow.plain import clean_text
from eventflow.quota import NO_QUOTA, LimitNear, Quota
from eventflow.recovery import recover
from eventflow.redaction import Redaction
from eventflow.retention import RetentionPolicy
from eventflow.retry import RetryPolicy
from eventflow.run import CheckpointTaken, RecoveryOutOfReach, Visit
from eventflow.schedules import Schedule, run_schedules
from eventflow.state import State
from eventflow.subscription import subscribe
from eventflow.what_if import EffectPolicy
from eventflow.workflow import Child, Choice, Go, Human, Map, Parallel, Sleep, Wait, Workflow

__all__ = [
    "NO_CHECKPOINTS",
    "NO_QUOTA",
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
    "Visit",
    "Wait",
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
